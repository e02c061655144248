//! Commands that let the agent change something.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::fake::Fake;

const NETWORK: &str = "apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {name: default}\n";

#[test]
fn a_file_is_sent_as_it_is() {
    let agent = Fake::new();
    agent.on("POST /v1/apply", 200, r#"{"results":[{"object":"network/default","action":"created"}]}"#);
    let file = agent.dir().join("network.yaml");
    fs::write(&file, NETWORK).unwrap();
    let ended = agent.run(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "network/default created\n"));
    assert_eq!(agent.requests(), [("POST /v1/apply".to_owned(), NETWORK.to_owned())]);
    let json = agent.run(&["apply", "-o", "json", "--filename", file.to_str().unwrap()]).stdout;
    let words: String = json.split_whitespace().collect();
    assert_eq!(words, r#"[{"action":"created","object":"network/default"}]"#);
}

#[test]
fn standard_input_is_a_file() {
    let agent = Fake::new();
    agent.on("POST /v1/delete", 200, r#"{"results":[{"object":"network/default","action":"deleted"}]}"#);
    let mut child = agent.command(&["delete", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(NETWORK.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"network/default deleted\n");
    assert_eq!(agent.requests(), [("POST /v1/delete".to_owned(), NETWORK.to_owned())]);
}

#[test]
fn a_node_and_a_network_are_deleted_by_name() {
    let agent = Fake::new();
    agent.on("POST /v1/delete/node/n3", 200, r#"{"results":[{"object":"node/n3","action":"deleted"}]}"#);
    agent.on("POST /v1/delete/network/blue", 409, r#"{"error":"network/blue: node n2 owns range 10.9.1.0/24 of it"}"#);
    let ended = agent.run(&["delete", "node", "n3"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "node/n3 deleted\n"), "{ended:?}");
    assert_eq!(agent.run(&["delete", "node/n3"]).stdout, "node/n3 deleted\n");
    agent.on("POST /v1/delete/pod/shop/web", 200, r#"{"results":[{"object":"pod/shop/web","action":"deleted"}]}"#);
    assert_eq!(agent.run(&["delete", "pod", "web", "-n", "shop"]).stdout, "pod/shop/web deleted\n");
    assert_eq!(agent.run(&["delete", "pod/shop/web"]).stdout, "pod/shop/web deleted\n");
    let refused = agent.run(&["delete", "network", "blue"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert_eq!(refused.stderr, "error: network/blue: node n2 owns range 10.9.1.0/24 of it\n");
    let asked = agent.requests().len();
    // What cannot be a name, a kind, or both a name and a file is not sent.
    for wrong in [
        &["delete"][..],
        &["delete", "node"],
        &["delete", "node/n3", "n4"],
        &["delete", "route", "web"],
        &["delete", "pod", "web/"],
        &["delete", "namespace", "a/b"],
        &["delete", "node", "n3", "-n", "default"],
        &["delete", "node", "../n3"],
        &["delete", "node", "N 3"],
        &["delete", "network", "a/b"],
        &["delete", "node", "n3", "-f", "-"],
    ] {
        let ended = agent.run(wrong);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{wrong:?}: {ended:?}");
    }
    assert_eq!(agent.requests().len(), asked);
}

#[test]
fn what_is_not_there_fails_unless_that_is_fine() {
    let agent = Fake::new();
    let gone = r#"{"results":[{"object":"service/default/web","action":"not found"}]}"#;
    agent.on("POST /v1/delete/service/default/web", 200, gone);
    agent.on("POST /v1/delete/node/n9", 200, r#"{"results":[{"object":"node/n9","action":"not found"}]}"#);
    agent.on(
        "POST /v1/delete",
        200,
        r#"{"results":[{"object":"network/a","action":"deleted"},{"object":"network/b","action":"not found"},
                       {"object":"pod/default/c","action":"not found"}]}"#,
    );
    let file = agent.dir().join("all.yaml");
    fs::write(&file, NETWORK).unwrap();
    let file = ["delete", "-f", file.to_str().unwrap()];
    for (args, done, missing) in [
        (&["delete", "service", "default/web"][..], "", "error: service/default/web not found\n"),
        (&["delete", "node", "n9"][..], "", "error: node/n9 not found\n"),
        (&file[..], "network/a deleted\n", "error: network/b not found\npod/default/c not found\n"),
    ] {
        let ended = agent.run(args);
        assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(1), done, missing), "{args:?}");
        let ended = agent.run(&[args, &["--ignore-not-found"]].concat());
        assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(0), done, ""), "{args:?}");
        // Who reads data is told all of it.
        let ended = agent.run(&[args, &["-o", "json"]].concat());
        assert_eq!((ended.code, &*ended.stderr), (Some(1), missing), "{args:?}");
        assert!(ended.stdout.contains("not found"), "{ended:?}");
    }
}

#[test]
fn every_fault_of_a_file_is_told() {
    let agent = Fake::new();
    agent.on("POST /v1/apply", 422, r#"{"error":"network/a: spec.ranges: found 3\nnetwork/b: spec.wiring: found x"}"#);
    let file = agent.dir().join("network.yaml");
    fs::write(&file, NETWORK).unwrap();
    let ended = agent.run(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(ended.stderr, "error: network/a: spec.ranges: found 3\nnetwork/b: spec.wiring: found x\n");
}

#[test]
fn a_file_that_cannot_be_read_is_not_sent() {
    let agent = Fake::new();
    let missing = agent.run(&["apply", "-f", "/nonexistent/x.yaml"]);
    assert_eq!(missing.code, Some(1));
    assert_eq!(missing.stderr, "error: cannot read /nonexistent/x.yaml: no such file or directory\n");
    let binary = agent.dir().join("binary");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let ended = agent.run(&["apply", "-f", binary.to_str().unwrap()]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.ends_with("is not UTF-8 text; YAML or JSON is accepted\n"), "{ended:?}");
    let endless = agent.run(&["apply", "-f", "/dev/zero"]);
    assert!(endless.stderr.ends_with("is longer than 4 MiB, which is the most that is read\n"), "{endless:?}");
    assert_eq!(agent.requests(), []);
}

#[test]
fn ranges_are_shown_checked_and_released() {
    let agent = Fake::answering(
        "/v1/ipam",
        r#"{"ranges":[{"network":"default","range":"10.244.0.0/24","used":3,"phase":"held","leased":3,"usable":253,"free":250}],
            "claims":[{"range":"10.244.0.0/24","node":"n1","alive":null}],"faults":["lease of 10.244.0.9 has no pod"]}"#,
    );
    let shown = agent.run(&["ipam", "show"]);
    assert_eq!(
        shown.stdout,
        "Ranges of this node:\n\
         NETWORK   RANGE           USED   PHASE   LEASED   USABLE   FREE\n\
         default   10.244.0.0/24   3      held    3        253      250\n\
         \nClaims in the cluster:\n\
         RANGE           NODE   ALIVE\n10.244.0.0/24   n1     <none>\n"
    );
    assert_eq!(shown.stderr, "fault: lease of 10.244.0.9 has no pod\n");

    agent.on("GET /v1/ipam/check", 200, r#"{"problems":[]}"#);
    let sound = agent.run(&["ipam", "check", "-o", "json"]);
    assert_eq!((sound.code, sound.stdout.as_str()), (Some(0), "[]\n"));
    agent.on("GET /v1/ipam/check", 200, r#"{"problems":[{"severity":"error","object":"lease/x","text":"no pod"}]}"#);
    let faulty = agent.run(&["ipam", "check"]);
    assert_eq!(faulty.code, Some(1));
    assert_eq!(faulty.stdout, "SEVERITY   OBJECT    TEXT\nerror      lease/x   no pod\n");

    agent.on("POST /v1/ipam/release", 200, "{}");
    let released = agent.run(&["ipam", "release", "10.244.3.0/24"]);
    assert_eq!((released.code, released.stdout.as_str()), (Some(0), "range/10.244.3.0/24 released\n"));
    let body = r#"{"range":"10.244.3.0/24"}"#;
    assert_eq!(agent.requests().last().unwrap(), &("POST /v1/ipam/release".to_owned(), body.to_owned()));
    agent.on("POST /v1/ipam/release", 409, r#"{"error":"node n2 is alive"}"#);
    let refused = agent.run(&["ipam", "release", "10.244.3.0/24"]);
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(1), "error: node n2 is alive\n"));
}

#[test]
fn a_range_that_is_none_is_not_sent() {
    let agent = Fake::new();
    for range in ["10.244.3.1/24", "10.244.3.0", "all", "10.244.3.0/33"] {
        let ended = agent.run(&["ipam", "release", range]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.starts_with("error: RANGE: "), "{ended:?}");
    }
    assert_eq!(agent.requests(), []);
}

#[test]
fn a_held_agent_goes_on() {
    let agent = Fake::new();
    agent.on("POST /v1/resume", 200, "");
    assert_eq!(agent.run(&["resume"]).code, Some(0));
    assert_eq!(agent.requests(), [("POST /v1/resume".to_owned(), String::new())]);
}
