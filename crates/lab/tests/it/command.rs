//! The command line as a user meets it.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{bare, program, run, text, until, up};

#[test]
fn exec_is_the_command_itself() {
    let Some(options) = bare("exec") else { return };
    let _lab = up(&options);
    let name = "it-exec";
    let answer = run(&["--name", name, "exec", "node/1", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (answer.status.code(), text(&answer.stdout), text(&answer.stderr)),
        (Some(7), "out".into(), "err".into())
    );
    assert_eq!(run(&["--name", name, "exec", "outside", "--", "no-such-program"]).status.code(), Some(127));
    assert_eq!(run(&["--name", name, "exec", "node/1", "--", "/etc/passwd"]).status.code(), Some(126));
    assert_eq!(run(&["--name", name, "exec", "node/1", "--", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(run(&["--name", name, "exec", "node/9", "--", "true"]).status.code(), Some(2));
    assert_eq!(run(&["--name", name, "exec", "nobody", "--", "true"]).status.code(), Some(2));
    assert_eq!(run(&["--name", "it-none", "exec", "node/1", "--", "true"]).status.code(), Some(1));

    let mut cat = Command::new(program().unwrap())
        .args(["--name", name, "exec", "node/2", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin.take().unwrap().write_all(b"hello").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"hello");
}

#[test]
fn signals_pass_through_exec() {
    let Some(options) = bare("signal") else { return };
    let _lab = up(&options);
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script =
        format!("trap 'exit 5' TERM; trap 'exit 6' INT; echo > {}; while :; do sleep 0.02; done", mark.display());
    for (signal, code) in [(rustix::process::Signal::TERM, 5), (rustix::process::Signal::INT, 6)] {
        let mut child = Command::new(program().unwrap())
            .args(["--name", "it-signal", "exec", "node/1", "--", "sh", "-c", &script])
            .spawn()
            .unwrap();
        until("the start of the script", || mark.exists());
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        std::fs::remove_file(&mark).unwrap();
    }
}

#[test]
fn what_is_killed_outside_dies_inside() {
    let Some(options) = bare("orphan") else { return };
    let lab = up(&options);
    let mut child = Command::new(program().unwrap())
        .args(["--name", "it-orphan", "exec", "node/1", "--", "sleep", "1007"])
        .spawn()
        .unwrap();
    let seen = || lab.exec(&ripstop_lab::Target::Node(1), &["ps", "-e", "-o", "args"]).unwrap().contains("sleep 1007");
    until("the program", seen);
    child.kill().unwrap();
    child.wait().unwrap();
    until("its end", || !seen());
}

#[test]
fn commands_print_data_and_exit_as_documented() {
    let Some(options) = bare("print") else { return };
    let name = options.name.clone();
    let up_args = ["--name", &name, "up", "--no-agents", "--nodes", "2", "--subnets", "2", "--family", "dual"];
    run(&["down", "--name", &name]);
    let made = run(&up_args);
    assert!(made.status.success() && made.stdout.is_empty(), "{}", text(&made.stderr));
    assert_eq!(run(&up_args).status.code(), Some(1));
    assert_eq!(run(&["up", "--name", "it-x", "--range-mode", "blocks", "--wiring", "bridge"]).status.code(), Some(2));
    assert_eq!(run(&["up", "--name", "No"]).status.code(), Some(2));
    assert_eq!(run(&["nonsense"]).status.code(), Some(2));

    let added =
        run(&["--name", &name, "pod", "add", "web", "--node", "2", "--namespace", "shop", "--label", "app=web"]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    let pods: serde_json::Value =
        serde_json::from_slice(&run(&["--name", &name, "pod", "list", "-o", "json"]).stdout).unwrap();
    assert_eq!(pods[0]["name"], "web");
    assert_eq!((&pods[0]["namespace"], &pods[0]["node"]), (&"shop".into(), &"n2".into()));
    assert_eq!(pods[0]["netns"], format!("/run/netns/rip-{name}-web"));
    assert_eq!(pods[0]["labels"]["app"], "web");

    let status: serde_json::Value =
        serde_json::from_slice(&run(&["--name", &name, "status", "-o", "json"]).stdout).unwrap();
    assert_eq!(status["nodes"][1]["addresses"], serde_json::json!(["172.30.2.12", "fd00:30:2::12"]));
    assert_eq!((&status["nodes"][1]["ready"], &status["nodes"][1]["plugged"]), (&true.into(), &true.into()));

    assert!(run(&["--name", &name, "fault", "cut", "node/1"]).status.success());
    let table = text(&run(&["--name", &name, "status"]).stdout);
    assert!(table.lines().any(|line| line.starts_with("n1") && line.contains("cut")), "{table}");
    assert!(run(&["--name", &name, "fault", "heal", "node/1"]).status.success());
    assert_eq!(run(&["--name", &name, "fault", "cut", "web"]).status.code(), Some(2));
    assert!(run(&["--name", &name, "pod", "del", "web"]).status.success());
    assert!(run(&["--name", &name, "down"]).status.success());
    assert!(run(&["--name", &name, "down"]).status.success());
}
