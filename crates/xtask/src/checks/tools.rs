//! Checks that other programs make: rustfmt, clippy, rustdoc, cargo-deny. Of the package under libFuzzer, which is a
//! workspace of its own, the format alone is judged: its programs are a line each, and compiled by `make fuzz`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Outcome;
use crate::process::{self, Ran};
use crate::workspace::Workspace;

/// Longer than any of them takes on a slow machine with nothing built yet.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// An advisory database that has not come within this time does not come.
const FETCH_LIMIT: Duration = Duration::from_secs(90);

/// `cargo fmt --check` for every package.
///
/// # Errors
/// If cargo cannot be started.
pub fn fmt(workspace: &Workspace) -> Result<Outcome> {
    for manifest in workspace.manifests() {
        let args = ["fmt", "--all", "--manifest-path", manifest, "--check", "--", "-l"];
        let outcome = judge(&run(workspace, "fmt", &args, LIMIT)?, &workspace.root);
        if outcome != Outcome::Ok {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Ok)
}

/// `cargo clippy` for every target of every package, warnings being errors.
///
/// # Errors
/// If cargo cannot be started.
pub fn clippy(workspace: &Workspace) -> Result<Outcome> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    let ran = run(workspace, "clippy", &args, LIMIT)?;
    Ok(if ran.good() { Outcome::Ok } else { Outcome::Failed(ran.tail(400)) })
}

/// `cargo doc` for every library, warnings being errors.
///
/// # Errors
/// If cargo cannot be started.
pub fn doc(workspace: &Workspace) -> Result<Outcome> {
    let mut cargo = workspace.cargo();
    cargo.args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    let ran = process::run(&mut cargo, &workspace.log("check-doc"), LIMIT)?;
    Ok(if ran.good() { Outcome::Ok } else { Outcome::Failed(ran.tail(100)) })
}

/// Licences, banned crates and sources, by deny.toml.
///
/// # Errors
/// If cargo cannot be started.
pub fn deny(workspace: &Workspace) -> Result<Outcome> {
    if let Some(fault) = no_deny(workspace)? {
        return Ok(fault);
    }
    let ran = run(workspace, "deny", &["deny", "check", "licenses", "bans", "sources"], LIMIT)?;
    Ok(if ran.good() { Outcome::Ok } else { Outcome::Failed(ran.tail(100)) })
}

/// Known vulnerabilities, where the database can be had.
///
/// # Errors
/// If cargo cannot be started.
pub fn advisories(workspace: &Workspace) -> Result<Outcome> {
    if let Some(fault) = no_deny(workspace)? {
        return Ok(fault);
    }
    let fetched = run(workspace, "advisories-fetch", &["deny", "fetch", "db"], FETCH_LIMIT)?;
    if !fetched.good() {
        let why = fetched.tail(1).pop().unwrap_or_else(|| fetched.end());
        return Ok(Outcome::Skipped(format!("the advisory database cannot be had here: {why}")));
    }
    let ran = run(workspace, "advisories", &["deny", "check", "--disable-fetch", "advisories"], LIMIT)?;
    Ok(if ran.good() { Outcome::Ok } else { Outcome::Failed(ran.tail(100)) })
}

/// The fault to report where cargo-deny is not installed.
fn no_deny(workspace: &Workspace) -> Result<Option<Outcome>> {
    let ran = run(workspace, "deny-version", &["deny", "--version"], LIMIT)?;
    Ok((!ran.good()).then(|| Outcome::Failed(vec!["cargo-deny is missing: `make setup` installs it".into()])))
}

fn run(workspace: &Workspace, name: &str, args: &[&str], limit: Duration) -> Result<Ran> {
    process::run(workspace.cargo().args(args), &workspace.log(&format!("check-{name}")), limit)
}

/// The files rustfmt listed, relative to `root`, each with what is wrong; its other lines as they are.
fn judge(ran: &Ran, root: &Path) -> Outcome {
    if ran.good() {
        return Outcome::Ok;
    }
    let listed = |line: &String| match Path::new(line).strip_prefix(root) {
        Ok(file) => format!("{}: cargo fmt would change this file", file.display()),
        Err(_) => line.clone(),
    };
    let lines: Vec<String> = ran.tail(100).iter().map(listed).collect();
    Outcome::Failed(if lines.is_empty() { vec![ran.end()] } else { lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    /// A workspace of one crate with this source and licence, judged by the project's own deny.toml.
    fn planted(source: &str, licence: &str) -> (tempfile::TempDir, Workspace) {
        let deny = include_str!("../../../../deny.toml");
        workspace::planted(licence, &[("deny.toml", deny), ("src/lib.rs", source)])
    }

    fn failed(outcome: Outcome) -> String {
        let Outcome::Failed(faults) = outcome else { panic!("not found: {outcome:?}") };
        faults.join("\n")
    }

    #[test]
    fn a_badly_formatted_file_is_found() {
        let (_dir, bad) = planted("pub  fn f( ) {}\n", "MIT");
        assert_eq!(failed(fmt(&bad).unwrap()), "src/lib.rs: cargo fmt would change this file");
        let (_dir, good) = planted("pub fn f() {}\n", "MIT");
        assert_eq!(fmt(&good).unwrap(), Outcome::Ok);
    }

    #[test]
    fn a_warning_is_found() {
        let (_dir, bad) = planted("pub fn f(x: &Vec<u8>) -> bool {\n    x.len() == 0\n}\n", "MIT");
        let faults = failed(clippy(&bad).unwrap());
        assert!(faults.contains("len_zero") && faults.contains("ptr_arg"), "{faults}");
        let (_dir, good) = planted("//! Good.\n", "MIT");
        assert_eq!(clippy(&good).unwrap(), Outcome::Ok);
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let (_dir, bad) = planted("//! See [`nothing`].\n", "MIT");
        let faults = failed(doc(&bad).unwrap());
        assert!(faults.contains("unresolved link to `nothing`"), "{faults}");
        let (_dir, good) = planted("//! See [`f`].\n\n/// Nothing.\npub fn f() {}\n", "MIT");
        assert_eq!(doc(&good).unwrap(), Outcome::Ok);
    }

    #[test]
    fn a_licence_that_is_not_allowed_is_found() {
        let (_dir, bad) = planted("", "GPL-3.0-only");
        if no_deny(&bad).unwrap().is_some() {
            println!("SKIPPED: cargo-deny is not installed");
            return;
        }
        let faults = failed(deny(&bad).unwrap());
        assert!(faults.contains("GPL-3.0-only"), "{faults}");
        let (_dir, good) = planted("", "Apache-2.0 OR GPL-3.0-only");
        assert_eq!(deny(&good).unwrap(), Outcome::Ok);
    }
}
