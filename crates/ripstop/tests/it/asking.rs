//! Questions and what is printed for the answers.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::fake::{Fake, ripstop, run};

const PODS: &str = concat!(
    r#"[{"namespace":"default","name":"web","node":"n1","ips":["10.244.0.2","fd00::2"],"mac":"0a:00:00:00:00:01","#,
    r#""mtu":1450,"interface":"rip0123456789a","netns":"/run/netns/web","network":"default","extra":1.50},"#,
    r#"{"namespace":"kube-system","name":"dns","node":"n1","ips":[],"mac":null,"mtu":1450,"interface":null,"#,
    r#""netns":null,"network":"default","extra":null}]"#
);

#[test]
fn a_table_of_pods() {
    let agent = Fake::answering("/v1/pods", PODS);
    let ended = agent.run(&["get", "pods"]);
    assert_eq!(
        ended.stdout,
        "NAMESPACE     NAME   NODE   IPS                  NETWORK\n\
         default       web    n1     10.244.0.2,fd00::2   default\n\
         kube-system   dns    n1     <none>               default\n"
    );
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let wide = agent.run(&["get", "po", "-o", "wide", "--no-headers", "web"]);
    assert_eq!(
        wide.stdout,
        "default   web   n1   10.244.0.2,fd00::2   default   0a:00:00:00:00:01   1450   rip0123456789a   \
         /run/netns/web   1.5\n"
    );
}

#[test]
fn json_is_the_agents_own() {
    let agent = Fake::answering("/v1/pods", PODS);
    let ended = agent.run(&["get", "pods", "-o", "json"]);
    let rows: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!((rows[0], rows[3], rows.len()), ("[", "]", 4));
    // Field order, numbers and nulls as they came.
    let joined: String = ended.stdout.lines().map(str::trim_start).collect();
    assert_eq!(joined, PODS);
}

#[test]
fn other_forms_of_a_list() {
    let agent = Fake::answering("/v1/pods", PODS);
    assert_eq!(agent.run(&["get", "pod", "-o", "name"]).stdout, "pod/default/web\npod/kube-system/dns\n");
    let yaml = agent.run(&["get", "pods", "-o", "yaml", "dns"]).stdout;
    assert!(yaml.starts_with("- extra: null\n  interface: null\n  ips: []\n"), "{yaml}");
}

#[test]
fn a_list_is_narrowed_by_name_and_namespace() {
    let agent = Fake::answering("/v1/pods", PODS);
    let names = |args: &[&str]| agent.run(&[&["get", "pods", "-o", "name"], args].concat()).stdout;
    assert_eq!(names(&["web"]), "pod/default/web\n");
    assert_eq!(names(&["kube-system/dns"]), "pod/kube-system/dns\n");
    assert_eq!(names(&["-n", "default"]), "pod/default/web\n");
    let ended = agent.run(&["get", "pods", "-n", "default", "dns", "web", "-o", "name"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "pod/default/web\n"));
    assert_eq!(ended.stderr, "error: pod \"dns\" not found\n");
}

/// What `-o name` prints can be asked for, as with kubectl.
#[test]
fn a_kind_and_a_name_may_be_one_word() {
    let rows =
        r#"[{"namespace":"default","name":"web"},{"namespace":"kube","name":"dns"},{"namespace":"kube","name":"web"}]"#;
    let agent = Fake::answering("/v1/pods", rows);
    for (line, found) in [
        ("pod/web", "pod/default/web pod/kube/web"),
        ("po/kube/web", "pod/kube/web"),
        ("pods/web -n kube", "pod/kube/web"),
        ("pod web -n kube", "pod/kube/web"),
        ("pod/dns pods/default/web", "pod/default/web pod/kube/dns"),
        ("pods -A", "pod/default/web pod/kube/dns pod/kube/web"),
    ] {
        let args: Vec<&str> = ["get"].into_iter().chain(line.split(' ')).chain(["-o", "name"]).collect();
        let ended = agent.run(&args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{line}");
        assert_eq!(ended.stdout.split_whitespace().collect::<Vec<_>>().join(" "), found, "{line}");
    }
    agent.on("GET /v1/nodes", 200, r#"[{"name":"n1"},{"name":"n2"}]"#);
    assert_eq!(agent.run(&["get", "node/n2", "-o", "name"]).stdout, "node/n2\n");
    let missing = agent.run(&["get", "node/n3"]);
    assert_eq!((missing.code, missing.stderr.as_str()), (Some(1), "error: node \"n3\" not found\n"));
    for wrong in ["pod/web node/n1", "pod/web web", "pod/", "bean/web", "pods -A -n kube", "nodes -n kube"] {
        let args: Vec<&str> = ["get"].into_iter().chain(wrong.split(' ')).collect();
        assert_eq!(agent.run(&args).code, Some(2), "{wrong}");
    }
}

#[test]
fn every_kind_has_its_path_and_columns() {
    let cases = [
        ("nodes", "NAME   READY   ADDRESSES   RANGES   REASON", r#"[{"name":"n1"}]"#),
        ("networks", "NAME   RANGES   WIRING   BACKEND", r#"[{"name":"n"}]"#),
        ("leases", "RANGE   NODE   HOLDER   ALIVE", r#"[{"node":"n"}]"#),
        ("paths", "PEER   FAMILY   BACKEND   DEVICE   MTU   STATE", r#"[{"peer":"n"}]"#),
        ("routes", "DST   VIA   DEV   OWNER", r#"[{"dst":"d"}]"#),
    ];
    for (kind, header, body) in cases {
        let agent = Fake::answering(&format!("/v1/{kind}"), body);
        let ended = agent.run(&["get", kind]);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(ended.stdout.lines().next().unwrap()), words(header), "{ended:?}");
        assert_eq!(agent.requests(), [(format!("GET /v1/{kind}"), String::new())]);
    }
}

#[test]
fn nothing_is_an_empty_list() {
    let agent = Fake::answering("/v1/pods", "[]");
    let json = agent.run(&["get", "pods", "-o", "json"]);
    assert_eq!((json.code, json.stdout.as_str(), json.stderr.as_str()), (Some(0), "[]\n", "no pods found\n"));
    let table = agent.run(&["get", "pods"]);
    assert_eq!((table.code, table.stdout.as_str(), table.stderr.as_str()), (Some(0), "", "no pods found\n"));
}

#[test]
fn a_chunked_answer_is_read() {
    let agent = Fake::new();
    agent
        .on_bytes("GET /v1/pods", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n");
    assert_eq!(agent.run(&["get", "pods", "-o", "json"]).stdout, "[]\n");
}

#[test]
fn the_agent_is_picked_before_or_behind_the_command() {
    let agent = Fake::answering("/v1/pods", "[]");
    let socket = agent.socket();
    let socket = socket.to_str().unwrap();
    assert_eq!(run(&["--socket", socket, "get", "pods", "-o", "json"]).code, Some(0));
    assert_eq!(run(&["get", "pods", "-o", "json", "--socket", socket]).code, Some(0));
    let twice = run(&["--socket", socket, "get", "pods", "--socket", socket]);
    assert_eq!(twice.code, Some(2), "{twice:?}");
}

#[test]
fn a_description_is_printed_as_it_is_but_harmless() {
    let agent = Fake::answering("/v1/describe/pod/kube/web", r#"{"text":"Name:\tweb\nNote:\t\u001b[2J\n"}"#);
    let ended = agent.run(&["describe", "pod", "web", "-n", "kube"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "Name:\tweb\nNote:\t\\u{1b}[2J\n"));
    assert_eq!(agent.run(&["describe", "po", "kube/web"]).code, Some(0));
    assert_eq!(agent.run(&["describe", "pod/kube/web"]).code, Some(0));
    assert_eq!(agent.run(&["describe", "pod/web", "-n", "kube"]).code, Some(0));
    assert_eq!(agent.run(&["describe", "pod"]).code, Some(2));
    assert_eq!(agent.run(&["describe", "pod/web", "web"]).code, Some(2));
    agent.on("GET /v1/describe/node/n9", 404, r#"{"error":"node n9 is not known; known are n1, n2"}"#);
    let missing = agent.run(&["describe", "no", "n9"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(1), ""));
    assert_eq!(missing.stderr, "error: node n9 is not known; known are n1, n2\n");
}

#[test]
fn a_plan_is_a_table_of_steps() {
    let step = r#"{"step":1,"action":"create","object":"route 10.244.1.0/24","owner":"node/n2","reason":"it is a peer","inverse":null,"state":"planned"}"#;
    let agent = Fake::answering("/v1/plan", &format!("[{step}]"));
    let ended = agent.run(&["plan"]);
    assert_eq!(
        ended.stdout,
        "STEP   ACTION   OBJECT                OWNER     REASON         INVERSE\n\
         1      create   route 10.244.1.0/24   node/n2   it is a peer   <none>\n"
    );
    assert_eq!(agent.run(&["plan", "-o", "json"]).stdout, format!("[\n  {step}\n]\n"));
    agent.on("GET /v1/plan", 200, "[]");
    let empty = agent.run(&["plan"]);
    assert_eq!((empty.code, empty.stdout.as_str(), empty.stderr.as_str()), (Some(0), "", "nothing to do\n"));
    assert_eq!(agent.run(&["plan", "-o", "json"]).stdout, "[]\n");
    agent.on("GET /v1/journal", 200, r#"[{"step":1,"action":"delete","state":"failed","error":"busy"}]"#);
    let journal = agent.run(&["plan", "--journal"]).stdout;
    assert!(journal.contains("STATE    ERROR") && journal.contains("failed   busy"), "{journal}");
}

#[test]
fn status_is_also_an_exit_code() {
    let agent = Fake::answering("/v1/status", r#"{"node":"n1","version":"9.9.9","ready":true,"reasons":[]}"#);
    let ready = agent.run(&["status"]);
    assert_eq!(ready.code, Some(0));
    assert!(ready.stdout.contains("Ready:     yes\n"), "{ready:?}");
    agent.on("GET /v1/status", 200, r#"{"node":"n1","ready":false,"reasons":["the store is away"]}"#);
    let away = agent.run(&["status"]);
    assert_eq!((away.code, away.stderr.as_str()), (Some(1), ""));
    assert!(away.stdout.contains("Ready:     no\n           the store is away\n"), "{away:?}");
    let waited = agent.run(&["status", "--wait", "--timeout", "150ms", "-o", "json"]);
    assert_eq!(waited.code, Some(1));
    assert!(waited.stdout.contains("\"ready\": false"), "{waited:?}");
    assert_eq!(waited.stderr, "error: node n1 did not become ready within 150ms\n");
}

#[test]
fn status_waits_for_an_agent_that_is_not_there_yet() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let child = ripstop()
        .args(["status", "--wait", "--timeout", "60s", "--socket"])
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let agent = Fake::answering("/v1/status", r#"{"node":"n1","ready":false}"#);
    std::os::unix::fs::symlink(agent.socket(), &socket).unwrap();
    // Asked at least once while it is not ready.
    while agent.requests().is_empty() {
        std::thread::yield_now();
    }
    agent.on("GET /v1/status", 200, r#"{"node":"n1","ready":true}"#);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("Ready:     yes"));
}

#[test]
fn both_versions_are_told() {
    let own = env!("CARGO_PKG_VERSION");
    let agent = Fake::answering("/v1/status", r#"{"version":"9.9.9","ready":true}"#);
    assert_eq!(agent.run(&["version"]).stdout, format!("ripstop {own}\nagent 9.9.9\n"));
    let alone = run(&["version", "-o", "json", "--socket", "/nonexistent/agent.sock"]);
    assert_eq!(alone.code, Some(0));
    let words: String = alone.stdout.split_whitespace().collect();
    assert_eq!(words, format!("{{\"agent\":null,\"version\":\"{own}\"}}"));
    assert_eq!(run(&["--version"]).stdout, format!("ripstop {own}\n"));
}

#[test]
fn a_watch_prints_what_changes_until_it_is_interrupted() {
    let agent = Fake::answering("/v1/nodes", r#"[{"name":"n1","ready":false}]"#);
    let mut command = agent.command(&["get", "nodes", "--watch", "-o", "json"]);
    // A background job of a shell ignores the signal, and so would what it starts.
    let heed = || {
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: as above.
    let mut child = unsafe { command.pre_exec(heed) }.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = || {
        let (mut text, mut byte) = (String::new(), [0]);
        while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            text.push(char::from(byte[0]));
        }
        text
    };
    assert_eq!(line(), r#"{"event":"added","object":{"name":"n1","ready":false}}"#);
    agent.on("GET /v1/nodes", 200, r#"[{"name":"n1","ready":true}]"#);
    assert_eq!(line(), r#"{"event":"changed","object":{"name":"n1","ready":true}}"#);
    agent.on("GET /v1/nodes", 200, "[]");
    assert_eq!(line(), r#"{"event":"removed","object":{"name":"n1","ready":true}}"#);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// A reader that goes away is no failure, and nothing to talk about.
#[test]
fn nobody_reads_and_nobody_complains() {
    let rows: Vec<String> = (0..20_000).map(|n| format!(r#"{{"namespace":"default","name":"pod-{n}"}}"#)).collect();
    let agent = Fake::answering("/v1/pods", &format!("[{}]", rows.join(",")));
    for format in ["table", "wide", "json", "yaml", "name"] {
        let mut child = agent
            .command(&["get", "pods", "-o", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{format}");
    }
}
