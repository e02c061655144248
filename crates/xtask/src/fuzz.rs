//! The parsers of outside input under libFuzzer, one after the other. What is found is kept and shown; what is to stay
//! goes into `fuzz/seeds`, which ordinary tests run again.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{FUZZ_MANIFEST, Workspace};

/// Time for one target, unless `--seconds` says another.
const SECONDS: u64 = 60;

/// Longest input tried, in bytes, and longest time for one, in seconds.
const LONGEST: u64 = 16 << 10;
const TIMEOUT: u64 = 10;

/// Which targets to run, and for how long each.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    targets: Vec<String>,
    seconds: u64,
}

/// `cargo xtask fuzz [TARGET...] [--seconds N]`; true where nothing was found.
///
/// # Errors
/// If an argument is unknown, or cargo-fuzz cannot be started.
pub fn command(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let choice = parse(args, &targets(workspace)?)?;
    let start = Instant::now();
    // Fuzzed is what is shipped: the same versions of everything.
    let lock = workspace.root.join(FUZZ_MANIFEST).with_extension("lock");
    std::fs::copy(workspace.root.join("Cargo.lock"), &lock).with_context(|| format!("write {}", lock.display()))?;
    cargo_fuzz(workspace, "build", &[])?;
    println!("fuzz build OK {:.0} s", start.elapsed().as_secs_f64());
    let mut found = Vec::new();
    for target in &choice.targets {
        let start = Instant::now();
        let good = run(workspace, target, choice.seconds)?;
        println!("fuzz {target} {} {:.0} s", if good { "OK" } else { "FAILED" }, start.elapsed().as_secs_f64());
        if !good {
            found.push(target.clone());
        }
    }
    if !found.is_empty() {
        println!("found by {}: mend it, and put the input from fuzz/artifacts into fuzz/seeds", found.join(", "));
    }
    Ok(found.is_empty())
}

/// The targets: folders of seeds.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root.join("fuzz/seeds");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn parse(args: &[String], known: &[String]) -> Result<Choice> {
    let mut choice = Choice { targets: Vec::new(), seconds: SECONDS };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => {
                let seconds = args.next().context("--seconds: how many?")?;
                choice.seconds = seconds.parse().with_context(|| format!("--seconds {seconds}: not a number"))?;
            }
            target if known.iter().any(|name| name == target) => choice.targets.push(target.to_owned()),
            other => bail!("{other}: no such target, known are {}", known.join(", ")),
        }
    }
    if choice.targets.is_empty() {
        choice.targets = known.to_vec();
    }
    Ok(choice)
}

/// Runs one target. New inputs of interest are kept below the target folder, beside the committed seeds.
fn run(workspace: &Workspace, target: &str, seconds: u64) -> Result<bool> {
    let corpus = workspace.target.join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
    let seeds = workspace.root.join("fuzz/seeds").join(target);
    let args = [
        target.to_owned(),
        corpus.display().to_string(),
        seeds.display().to_string(),
        "--".into(),
        format!("-max_total_time={seconds}"),
        format!("-max_len={LONGEST}"),
        format!("-timeout={TIMEOUT}"),
        "-print_final_stats=1".into(),
    ];
    cargo_fuzz(workspace, "run", &args)
}

/// cargo-fuzz without a sanitizer, which is all that a stable compiler can do; true where it ended well.
fn cargo_fuzz(workspace: &Workspace, verb: &str, args: &[String]) -> Result<bool> {
    let fuzz: PathBuf = workspace.root.join(FUZZ_MANIFEST).parent().context("fuzz/")?.into();
    let mut cargo = workspace.cargo();
    cargo.args(["fuzz", verb, "--sanitizer", "none", "--fuzz-dir"]).arg(&fuzz);
    cargo.arg("--target-dir").arg(workspace.target.join("fuzz")).args(args).stdin(Stdio::null());
    let status = cargo.status().context("cargo fuzz")?;
    ensure!(status.code() != Some(101), "cargo-fuzz is missing: `make fuzz` installs it");
    if verb == "build" {
        ensure!(status.success(), "the targets do not build; is there a C++ compiler? `make fuzz` installs one");
    }
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_time_are_read() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let known = words("a b");
        let read = |line: &str| parse(&words(line), &known);
        assert_eq!(read("").unwrap(), Choice { targets: words("a b"), seconds: SECONDS });
        assert_eq!(read("b --seconds 5").unwrap(), Choice { targets: words("b"), seconds: 5 });
        assert!(read("--seconds").is_err() && read("--seconds soon").is_err());
        assert_eq!(read("c").unwrap_err().to_string(), "c: no such target, known are a, b");
    }
}
