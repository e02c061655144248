//! What has to hold without running anything of the product. Each check judges what it is given, so that each has a test
//! with a planted fault that shows it fail.

mod deps;
mod effects;
mod features;
mod purity;
mod size;
mod tools;
mod words;

use std::time::Instant;

use anyhow::{Result, bail};

pub use deps::is_pure;

use crate::workspace::{Sources, Workspace};

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// What is wrong, one line a fault.
    Failed(Vec<String>),
    /// Why it could not be made here.
    Skipped(String),
}

impl Outcome {
    /// Ok without faults.
    #[must_use]
    pub fn of(faults: Vec<String>) -> Self {
        if faults.is_empty() { Self::Ok } else { Self::Failed(faults) }
    }
}

/// What the checks look at.
pub struct Context<'a> {
    pub workspace: &'a Workspace,
    pub sources: Sources,
}

type Check = (&'static str, &'static str, fn(&Context) -> Result<Outcome>);

/// Name, what it demands, and the check; quick ones first.
const CHECKS: &[Check] = &[
    ("size", "no source file over 600 lines without a stated reason", |cx| Ok(size::check(&cx.sources))),
    ("words", "no registry host and no path of one machine in any file", |cx| Ok(words::check(&cx.sources))),
    ("purity", "no clock, thread, process, file or socket in a pure crate", |cx| Ok(purity::check(&cx.sources))),
    ("processes", "programs are run by lab, conformance, xtask, a build script and tests only", |cx| {
        Ok(effects::processes(&cx.sources))
    }),
    ("netlink", "the kernel is changed from kernel::apply only", |cx| Ok(effects::netlink(&cx.sources))),
    ("deps", "each crate depends on what its row of the table allows", |cx| deps::check(cx.workspace)),
    ("features", "tests and programs take every crate with the same features, so that it is built once", |cx| {
        features::check(cx.workspace)
    }),
    ("fmt", "cargo fmt changes nothing", |cx| tools::fmt(cx.workspace)),
    ("deny", "licences, banned crates and sources by cargo-deny", |cx| tools::deny(cx.workspace)),
    ("advisories", "no known vulnerability in a dependency", |cx| tools::advisories(cx.workspace)),
    ("clippy", "no warning of compiler or clippy in any target", |cx| tools::clippy(cx.workspace)),
    ("doc", "documentation without a warning: links lead somewhere", |cx| tools::doc(cx.workspace)),
];

/// How many checks ended in which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

/// `cargo xtask check [NAME...] [--list]`; true where nothing failed.
///
/// # Errors
/// If a name is none of the checks, or the files cannot be listed.
pub fn command(workspace: &Workspace, args: &[String]) -> Result<bool> {
    if args.iter().any(|arg| arg == "--list") {
        CHECKS.iter().for_each(|(name, demand, _)| println!("{name:11} {demand}"));
        return Ok(true);
    }
    let known: Vec<&str> = CHECKS.iter().map(|(name, ..)| *name).collect();
    if let Some(other) = args.iter().find(|arg| !known.contains(&arg.as_str())) {
        bail!("{other}: no such check, known are {}", known.join(", "));
    }
    Ok(all(workspace, args)?.failed == 0)
}

/// Runs the checks named in `only`, or all where it is empty, and prints how each ended.
///
/// # Errors
/// If the files of the workspace cannot be listed.
pub fn all(workspace: &Workspace, only: &[String]) -> Result<Tally> {
    let context = Context { workspace, sources: workspace.sources()? };
    let mut tally = Tally::default();
    for (name, demand, check) in CHECKS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let start = Instant::now();
        // A check that cannot be made for a reason it does not know itself has not shown anything.
        let outcome = check(&context).unwrap_or_else(|error| Outcome::Failed(vec![format!("{error:#}")]));
        let took = start.elapsed().as_secs_f64();
        match outcome {
            Outcome::Ok => {
                tally.passed += 1;
                println!("check {name:11} OK {took:.1} s");
            }
            Outcome::Skipped(why) => {
                tally.skipped += 1;
                println!("check {name:11} SKIPPED: {why} {took:.1} s");
            }
            Outcome::Failed(faults) => {
                tally.failed += 1;
                println!("check {name:11} FAILED {took:.1} s: {demand}");
                faults.iter().for_each(|fault| println!("    {fault}"));
            }
        }
    }
    Ok(tally)
}

/// Sources out of path and text, for the tests with a planted fault.
#[cfg(test)]
pub fn planted(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_check_is_refused_by_name() {
        let workspace = Workspace { root: ".".into(), target: "target".into() };
        let error = command(&workspace, &["colour".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("colour: no such check, known are size, "), "{error}");
    }
}
