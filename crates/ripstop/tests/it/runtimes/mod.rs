//! Real container runtimes, Debian's, run containers on the installed plugin and a real agent.
//!
//! Each test makes a lab and starts the runtime inside its nodes, in their namespaces. What a runtime keeps lies in the
//! lab's folder, and its control groups below one of the test's own, so that nothing outlives a test.

mod built;
mod containerd;
mod cri;
mod image;
mod machine;
mod podman;

use std::process::{Command, Stdio};

use crate::cluster::{PATIENCE, lab, patiently, rows};

/// Whether these programs are here, and what the image is made of; if not, says what is missing.
fn installed(programs: &[&str]) -> bool {
    let is_missing = |program: &&&str| {
        let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_err()
    };
    let missing = programs.iter().find(is_missing).map(|program| format!("{program} is not installed"));
    match missing.or(image::missing().map(str::to_owned)) {
        Some(why) => println!("SKIPPED: {why}"),
        None => return true,
    }
    false
}
