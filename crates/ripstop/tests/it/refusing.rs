//! What is wrong, what is said about it, and the exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::fake::{Ended, Fake, as_nobody, ripstop, run};

#[test]
fn a_wrong_command_line_is_2() {
    let cases: [&[&str]; 16] = [
        &[],
        &["--nonsense"],
        &["nonsense"],
        &["get"],
        &["get", "nonsense"],
        &["get", "pods", "-o", "xml"],
        &["get", "nodes", "-n", "default"],
        &["get", "pods", "--watch", "-o", "yaml"],
        &["describe", "lease", "x"],
        &["describe", "pod", "../x"],
        &["--lab", "x", "get", "pods"],
        &["--node", "1", "get", "pods"],
        &["--lab", "x", "--node", "0", "get", "pods"],
        &["--lab", "../x", "--node", "1", "get", "pods"],
        &["--socket", "/a", "--lab", "x", "--node", "1", "get", "pods"],
        &["status", "--wait", "--timeout", "5"],
    ];
    for args in cases {
        let ended = run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn an_unknown_kind_is_told_the_known_ones() {
    let ended = run(&["get", "gateways"]);
    let known = "[possible values: nodes, pods, networks, leases, paths, routes, services, endpoints, namespaces, networkpolicies, \
                 clusternetworkpolicies, drops, addresspools, loadbalancers, bgppeers, bgpconfigurations, bgpfilters]";
    assert!(ended.stderr.contains(known), "{ended:?}");
}

#[test]
fn an_agent_picked_for_nothing_is_refused() {
    for args in [vec!["man"], vec!["completion", "bash"], vec!["install"]] {
        let ended = run(&[vec!["--socket", "/x"], args].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("asks no running agent"), "{ended:?}");
    }
}

#[test]
fn a_cluster_that_is_away_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    file("ca.pem", &rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem());
    let config = file(
        "config",
        "apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
\
         clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1', certificate-authority: ca.pem}}]
\
         users: [{name: a, user: {token: t}}]
",
    );
    for command in ["install", "uninstall", "status"] {
        let ended = run(&[command, "--cluster", "--kubeconfig", &config]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
        assert!(
            ended.stderr.contains("https://127.0.0.1:1") && ended.stderr.contains("is kube-apiserver running"),
            "{ended:?}"
        );
        let ended = run(&[command, "--cluster", "--kubeconfig", "/none"]);
        assert_eq!(ended.code, Some(3), "{ended:?}");
        assert!(ended.stderr.contains("cannot read the kubeconfig /none"), "{ended:?}");
        assert_eq!(run(&[command, "--kubeconfig", &config]).code, Some(2));
    }
}

#[test]
fn an_agent_that_is_away_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let asked = || -> Ended { ripstop().arg("--socket").arg(&socket).args(["get", "pods"]).output().unwrap().into() };
    let ended = asked();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    let text = format!("error: cannot reach the agent at {}: no such file; ", socket.display());
    assert!(ended.stderr.starts_with(&text), "{ended:?}");
    // A socket that outlived its agent.
    drop(UnixListener::bind(&socket).unwrap());
    let ended = asked();
    assert_eq!(ended.code, Some(3));
    assert!(ended.stderr.contains("nobody listens there"), "{ended:?}");
    let lab = run(&["--lab", "no-such-lab", "--node", "7", "status"]);
    assert_eq!(lab.code, Some(3));
    assert!(lab.stderr.contains("/run/ripstop-lab/no-such-lab/n7/run/agent.sock"), "{lab:?}");
    assert!(lab.stderr.contains("ripstop lab status --name no-such-lab"), "{lab:?}");
}

#[test]
fn an_agent_that_dies_while_it_answers_is_3() {
    let agent = Fake::new();
    agent.on_bytes("GET /v1/pods", "");
    agent.on_bytes("GET /v1/nodes", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[{\"name\"");
    for kind in ["pods", "nodes"] {
        let ended = agent.run(&["get", kind]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{ended:?}");
        assert!(ended.stderr.contains("ended the connection before it answered"), "{ended:?}");
    }
}

#[test]
fn a_store_that_is_away_is_3() {
    let agent = Fake::new();
    agent.on("POST /v1/ipam/release", 503, r#"{"error":"the store does not answer: embedded /x"}"#);
    let ended = agent.run(&["ipam", "release", "10.0.0.0/24"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), "error: the store does not answer: embedded /x\n"));
}

#[test]
fn what_is_no_agent_is_1() {
    let agent = Fake::new();
    agent.on_bytes("GET /v1/pods", "SSH-2.0-x\r\n\r\n");
    agent.on("GET /v1/nodes", 200, r#"{"not":"a list"}"#);
    agent.on("GET /v1/paths", 200, "[1]");
    agent.on("GET /v1/routes", 500, "oops");
    for (kind, text) in [
        ("pods", "is no agent"),
        ("nodes", "something else than expected"),
        ("paths", "a row is not an object"),
        ("routes", "answered /v1/routes with status 500 and no reason"),
        ("leases", "no such path"),
    ] {
        let ended = agent.run(&["get", kind]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{kind}: {ended:?}");
        assert!(ended.stderr.contains(text) && ended.stderr.lines().count() == 1, "{kind}: {ended:?}");
    }
}

#[test]
fn a_path_too_long_for_a_socket_is_2() {
    let ended = run(&["get", "pods", "--socket", &format!("/{}", "x".repeat(200))]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("at most 107 bytes"), "{ended:?}");
}

#[test]
fn a_socket_that_is_not_ours_is_4() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: changing the user needs root");
        return;
    }
    let agent = Fake::answering("/v1/pods", "[]");
    fs::set_permissions(agent.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    let ended = as_nobody(agent.dir(), &["--socket", agent.socket().to_str().unwrap(), "get", "pods"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("permission denied; only root may ask it"), "{ended:?}");
}

#[test]
fn a_full_disk_is_a_failure() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = ripstop().args(["completion", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write to standard output: no space left"));
    // And a closed standard error stops nobody.
    let mut child = ripstop().arg("nonsense").stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}
