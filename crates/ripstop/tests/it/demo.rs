//! `ripstop lab demo`, as a new user runs it.

use std::path::Path;

use crate::fake::run;

#[test]
fn every_act_holds_and_nothing_is_left() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: a lab needs root");
    }
    let ended = run(&["lab", "demo"]);
    if ended.stderr.contains("the demo needs ") {
        return println!("SKIPPED: {}", ended.stderr);
    }
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stderr, ended.stdout);
    let rows: Vec<&str> = ended.stdout.lines().filter(|line| line.contains(" held ")).collect();
    assert!(rows.len() > 30, "{}", ended.stdout);
    for act in 1..=6 {
        assert!(rows.iter().any(|row| row.starts_with(&format!("{act} "))), "act {act}: {}", ended.stdout);
    }
    let download = rows.iter().find(|row| row.contains("a download from outside")).unwrap();
    assert!(download.contains("20971520 bytes, whole, "), "{download}");
    let count = format!("{0} of {0} checks held", rows.len());
    assert!(ended.stdout.contains(&count), "{}", ended.stdout);
    let left = Path::new("/run/ripstop-lab").read_dir().into_iter().flatten().flatten();
    let left: Vec<_> =
        left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("demo")).collect();
    assert!(left.is_empty(), "{left:?}");
}
