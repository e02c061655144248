//! Nothing is left after `down`, whatever happened before.

use std::process::{Command, Stdio};
use std::time::Duration;

use ripstop_lab::{Lab, Options, PodSpec, Target};

use super::{bare, left_of, program, run, text, up};

#[test]
fn up_killed_at_any_moment_leaves_what_down_finds() {
    let Some(options) = bare("crash") else { return };
    let name = options.name.as_str();
    run(&["--name", name, "down"]);
    for delay in [0, 2, 5, 10, 20, 30, 45, 60, 80, 100, 130, 170, 220] {
        let mut child = Command::new(program().unwrap())
            .args(["--name", name, "up", "--no-agents", "--nodes", "3"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        child.wait().unwrap();
        let down = run(&["--name", name, "down"]);
        assert!(down.status.success(), "{}", text(&down.stderr));
        assert_eq!(left_of(name), Vec::<String>::new(), "killed after {delay} ms");
    }
}

#[test]
fn an_interrupted_up_cleans_up_after_itself() {
    let Some(options) = bare("stop") else { return };
    let name = options.name.as_str();
    run(&["--name", name, "down"]);
    for delay in [5, 30, 60, 90] {
        let mut child = Command::new(program().unwrap())
            .args(["--name", name, "up", "--no-agents", "--nodes", "9"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        match child.wait().unwrap().code() {
            Some(130) => {}
            // It was too late, or too early to be noted.
            Some(0) | None => assert!(run(&["--name", name, "down"]).status.success()),
            other => panic!("{other:?} after {delay} ms"),
        }
        assert_eq!(left_of(name), Vec::<String>::new(), "interrupted after {delay} ms");
    }
}

#[test]
fn down_finds_things_without_a_record() {
    let Some(options) = bare("lost") else { return };
    let lab = up(&options).keep();
    lab.pod_add(&PodSpec::new("web", 1)).unwrap();
    lab.exec(&Target::Outside, &["sh", "-c", "setsid sleep 1005 >/dev/null 2>&1 & echo"]).unwrap();
    // A program that a user put into a namespace of the lab by other means.
    let mut foreign = Command::new("ip").args(["netns", "exec", "rip-it-lost-n1", "sleep", "1006"]).spawn().unwrap();
    std::fs::write(lab.layout().state_file(), "not a record").unwrap();
    assert!(Lab::open("it-lost").unwrap_err().to_string().contains("is not a lab's record"));
    let down = run(&["--name", "it-lost", "down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert!(!foreign.wait().unwrap().success());
    assert_eq!(left_of("it-lost"), Vec::<String>::new());
    assert!(run(&["--name", "it-lost", "down"]).status.success(), "and again");
}

#[test]
fn a_crashed_lab_is_replaced_when_asked() {
    let Some(options) = bare("again") else { return };
    let first = up(&options).keep();
    let refused = Lab::up(&Options { replace: false, ..options.clone() }).unwrap_err();
    assert!(refused.to_string().contains("ripstop lab down --name it-again"), "{refused}");
    assert_eq!(refused.exit_code(), 1);
    let init = first.node(1).record().unwrap().init.unwrap();
    let second = up(&options);
    assert!(!init.alive());
    drop(second);
    assert_eq!(left_of("it-again"), Vec::<String>::new(), "a lab goes with its value");
}

#[test]
fn a_lab_that_does_not_come_up_is_removed_and_says_why() {
    let Some(options) = bare("fail") else { return };
    // This program is no store.
    let refused = Lab::up(&Options { agents: true, ..options }).unwrap_err();
    assert!(refused.to_string().contains("the store did not start"), "{refused}");
    assert_eq!(refused.exit_code(), 3);
    assert_eq!(left_of("it-fail"), Vec::<String>::new());
}
