//! Questions to the API, by kubectl on the control plane's machine.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::network::folder;
use crate::error::{Attempt, LabError, Result};
use crate::lab::Lab;
use crate::layout::Layout;
use crate::target::Target;

/// The administrator's kubeconfig of a lab.
pub fn admin(layout: &Layout) -> PathBuf {
    folder(layout).join("admin.conf")
}

/// kubectl, whose it is, and where it keeps what it learned of the API.
pub fn argv(lab: &Lab) -> Result<Vec<OsString>> {
    let cluster = lab.state()?.options.kubernetes;
    let cluster = cluster.ok_or_else(|| LabError::usage("this lab has no Kubernetes"))?;
    let program = cluster.programs.join("kubectl");
    let cache = folder(lab.layout()).join("cache");
    Ok([program, "--kubeconfig".into(), admin(lab.layout()), "--cache-dir".into(), cache].map(Into::into).into())
}

/// Runs kubectl with this input and returns what it printed.
pub fn kubectl(lab: &Lab, args: &[&str], input: &str) -> Result<String> {
    let argv = argv(lab)?;
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = lab.spawn(&Target::Control, &mut command)?;
    if let Some(mut pipe) = running.child().and_then(|child| child.stdin.take()) {
        // If it ended early, its own message is the better one.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = running.output().attempt(|| "wait for kubectl".into())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(LabError::failed(format!("kubectl {}: {}", args.join(" "), said.trim())))
}

/// The same, for an answer in JSON.
pub fn json(lab: &Lab, args: &[&str]) -> Result<Value> {
    let text = kubectl(lab, &[args, &["-o", "json"]].concat(), "")?;
    serde_json::from_str(&text).map_err(|error| LabError::failed(format!("kubectl {}: {error}", args.join(" "))))
}
