//! `ripstop conformance cni` as a program: exit codes, forms of output, and what an interrupted run leaves.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Bench, DEBIAN, built, conf, possible};

fn run(args: &[&str]) -> Option<Output> {
    Some(Command::new(built("ripstop")?).args(["conformance", "cni"]).args(args).output().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_list_is_ids_and_nothing_else() {
    let Some(output) = run(&["--list"]) else { return };
    let ids: Vec<&str> = ripstop_conformance::cases().map(|(id, _)| id).collect();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((text(&output.stdout).lines().collect::<Vec<_>>(), text(&output.stderr)), (ids, String::new()));
}

#[test]
fn codes_and_forms() {
    if !possible() {
        return;
    }
    let bench = Bench::with(&Path::new(DEBIAN).join("bridge"), &conf("bridge"));
    let (plugin, file) = (format!("{DEBIAN}/bridge"), bench.conf().display().to_string());
    let with = |more: &[&str]| run(&[&["--plugin", &plugin, "--conf", &file][..], more].concat());
    let Some(good) = with(&["--only", "version.succeeds", "-o", "json"]) else { return };
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    let rows: Value = serde_json::from_slice(&good.stdout).unwrap();
    let keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["cite", "id", "ms", "reason", "result"]);
    assert_eq!(
        (&rows[0]["id"], &rows[0]["result"], &rows[0]["reason"]),
        (&"version.succeeds".into(), &"pass".into(), &Value::Null)
    );
    assert!(rows[0]["cite"].as_str().unwrap().starts_with("2 parameters: \"`CNI_COMMAND`"), "{rows}");
    let bad = with(&["--only", "version.echoes-the-input"]).unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stdout).lines().nth(1).unwrap().starts_with("fail"), "{}", text(&bad.stdout));
    for wrong in [&["--only", "no-such-case"][..], &["--env", "x"], &["--cap-args", "[]"], &["--timeout", "5"]] {
        assert_eq!(with(wrong).unwrap().status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(run(&["--plugin", "/no/such/plugin", "--conf", &file]).unwrap().status.code(), Some(2));
    assert_eq!(run(&["--plugin", &plugin]).unwrap().status.code(), Some(2));
    assert_eq!(with(&["--only", "version.succeeds", "--setup", "false"]).unwrap().status.code(), Some(1));
}

/// Names of namespaces that a run made.
fn names(child: &Child) -> Vec<String> {
    let prefix = format!("conformance-{}-", child.id());
    let entries = fs::read_dir("/run/netns").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
}

fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn begin(bench: &Bench) -> Option<Child> {
    let mut command = Command::new(built("ripstop")?);
    command.args(["conformance", "cni", "--only", "result", "--plugin"]).arg(&bench.plugin);
    command.arg("--conf").arg(bench.conf()).args(["--setup", "sleep 4713 &"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the run has namespaces", || names(&child).len() > 2);
    Some(child)
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn an_interrupted_run_cleans_up_and_a_killed_one_is_cleaned_up_by_the_next() {
    if !possible() {
        return;
    }
    let bench = Bench::with(&Path::new(DEBIAN).join("bridge"), &conf("bridge"));
    let Some(mut child) = begin(&bench) else { return };
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(&child), Vec::<String>::new());
    let mut child = begin(&bench).unwrap();
    signal(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    assert!(!names(&child).is_empty());
    bench.run(&["version.succeeds"]);
    assert_eq!(names(&child), Vec::<String>::new());
    let sleeps = Command::new("pgrep").args(["-fx", "sleep 4713"]).output().unwrap().stdout;
    assert!(sleeps.is_empty(), "what the set-up command left in the background outlives the run");
}
