//! The commands that run until they are told to stop, and the libraries behind them, as far as they need no kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::fake::{Ended, as_nobody, ripstop, run};

/// A store's server, once it listens. Killed when dropped.
struct Serving(Option<Child>);

impl Serving {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("store.sock");
        let child = ripstop()
            .args(["store", "serve", "--file"])
            .arg(dir.join("store.redb"))
            .arg("--socket")
            .arg(&socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut serving = Self(Some(child));
        while UnixStream::connect(&socket).is_err() {
            let ended = serving.0.as_mut().and_then(|child| child.try_wait().unwrap());
            assert_eq!(ended, None, "the server ended");
            std::thread::yield_now();
        }
        serving
    }

    fn end(mut self, signal: Signal) -> Ended {
        let child = self.0.take().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait_with_output().unwrap().into()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_store_is_served_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| dir.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    for (signal, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let serving = Serving::start(dir.path());
        assert_eq!(mode("store.sock"), 0o600);
        let ended = serving.end(signal);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{ended:?}");
        assert!(!dir.path().join("store.sock").exists(), "the socket is gone");
    }
}

#[test]
fn a_file_that_is_served_is_not_served_twice() {
    let dir = tempfile::tempdir().unwrap();
    let _serving = Serving::start(dir.path());
    let (file, other) = (dir.path().join("store.redb"), dir.path().join("other.sock"));
    // The file by its other name, as units have it.
    let ended = run(&["store", "serve", "--file", file.to_str().unwrap(), "--socket", other.to_str().unwrap()]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("is open in another process"), "{ended:?}");
    assert!(!other.exists());
}

#[test]
fn a_store_that_cannot_be_served_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let serve = |file: &str, socket: &str| run(&["store", "serve", "--file", file, "--socket", socket]);
    fs::write(at("text"), "not a store, but long enough to be looked at closely").unwrap();
    assert_eq!(serve(&at("text"), &at("a.sock")).code, Some(1));
    assert_eq!(fs::read_to_string(at("text")).unwrap(), "not a store, but long enough to be looked at closely");
    let missing = serve(&at("no/such/folder"), &at("a.sock"));
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("no/such/folder"), "{missing:?}");
    let long = serve(&at("store.redb"), &at(&"x".repeat(120)));
    assert_eq!(long.code, Some(2), "{long:?}");
    for args in [&["store"][..], &["store", "serve"], &["store", "serve", "--file", "x"], &["store", "drop"]] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn without_a_right_it_is_4() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: changing the user needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yaml");
    fs::write(&config, "").unwrap();
    let file = dir.path().join("store.redb");
    let root = dir.path().join("root");
    let plugin = dir.path().join("ripstop");
    for args in [
        &["agent", "--config", config.to_str().unwrap()][..],
        &["agent", "--config", "/no/such/file"],
        &["store", "serve", "--file", file.to_str().unwrap(), "--socket", "/run/ripstop-test.sock"],
        &["install", "--root", root.to_str().unwrap(), "--plugin", plugin.to_str().unwrap()],
        &["man", "--dir", root.to_str().unwrap()],
    ] {
        let ended = as_nobody(dir.path(), args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    }
}

#[test]
fn an_agent_with_a_wrong_configuration_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yaml");
    let agent = || run(&["agent", "--config", config.to_str().unwrap()]);
    assert_eq!(run(&["agent", "--node-name", "no name"]).code, Some(2));
    let missing = agent();
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("cannot read the configuration"), "{missing:?}");
    fs::write(&config, "nodes: 3\npodCidrs: [10.0.0.1/24]\n").unwrap();
    let wrong = agent();
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(1), ""), "{wrong:?}");
    for field in ["nodes", "podCidrs"] {
        assert!(wrong.stderr.contains(field), "{wrong:?}");
    }
    let elsewhere = run(&["--socket", "/x", "agent", "--config", config.to_str().unwrap()]);
    assert_eq!(elsewhere.code, Some(2), "{elsewhere:?}");
}

#[test]
fn only_a_recording_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recording");
    for text in ["", "not a recording\n", "{\"at\":1}\n"] {
        fs::write(&file, text).unwrap();
        let ended = run(&["replay", file.to_str().unwrap()]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{text:?}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    }
    assert_eq!(run(&["replay", "/nonexistent"]).code, Some(1));
    assert_eq!(run(&["replay"]).code, Some(2));
}

#[test]
fn the_lab_is_mounted() {
    for args in
        [&["lab"][..], &["lab", "nonsense"], &["lab", "up", "--name", "../x"], &["--socket", "/x", "lab", "status"]]
    {
        let ended = run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}: {ended:?}");
    }
    assert!(run(&["lab", "--help"]).stdout.contains("Usage: ripstop lab "));
    // The first process of a lab's machine is not for people, and not in the help.
    let init = run(&["lab-node-init"]);
    assert_eq!(init.code, Some(2), "{init:?}");
    assert!(init.stdout.contains("it wants a spec"), "{init:?}");
    assert!(!run(&["--help"]).stdout.contains("lab-node-init"));
}
