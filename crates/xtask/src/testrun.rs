//! Builds the tests, runs each test program and adds up: a skipped test counts as skipped, a test that a dead program
//! did not get to counts as failed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::altkernel;
use crate::checks::{self, Tally};
use crate::libtest::{self, Verdict, Verdicts};
use crate::process;
use crate::workspace::Workspace;

/// How much of the tests to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    /// Unit tests of every crate, and the integration tests of the pure ones.
    Quick,
    /// All tests but those marked as long.
    Normal,
    /// Those too.
    Long,
}

impl Tier {
    /// As tests read it in `RIPSTOP_TEST_TIER`, to choose how often to repeat.
    fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Normal => "normal",
            Self::Long => "long",
        }
    }

    /// The most time one test program may take before it is ended.
    fn limit(self) -> Duration {
        Duration::from_secs(60 * if self == Self::Long { 24 * 60 } else { 20 })
    }
}

/// What to run.
struct Choice {
    tier: Tier,
    /// All where empty.
    packages: Vec<String>,
    /// Only tests whose names hold this, those marked as long among them.
    filter: Option<&'static str>,
}

impl Choice {
    /// The most time one test program may take before it is ended. What is chosen by a filter runs one by one.
    fn limit(&self) -> Duration {
        if self.filter.is_some() { 3 * self.tier.limit() } else { self.tier.limit() }
    }
}

/// One built test program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    package: String,
    /// Folder of the package's manifest, where cargo runs tests.
    folder: PathBuf,
    /// `lib`, `bin` or `test`.
    kind: String,
    target: String,
    executable: PathBuf,
}

/// `cargo xtask test [--quick|--long] [-p CRATE]...`; true where nothing failed.
///
/// # Errors
/// If an argument is unknown, or cargo cannot be started.
pub fn command(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let choice = parse(args)?;
    let start = Instant::now();
    let mut tally = Tally::default();
    if choice.packages.is_empty() && choice.tier != Tier::Quick {
        tally = checks::all(workspace, &[])?;
    }
    let programs = build(workspace, &choice)?;
    add(&mut tally, tests(workspace, &choice, programs.as_deref())?);
    if choice.packages.is_empty() && choice.tier != Tier::Quick {
        // The tests of what this kernel may lack.
        let theirs = |program: &&Program| program.kind == "test" && altkernel::PACKAGES.contains(&&*program.package);
        let tests: Vec<&Path> =
            programs.iter().flatten().filter(theirs).map(|program| program.executable.as_path()).collect();
        add(&mut tally, altkernel::stage(workspace, &tests, choice.tier.name())?);
        let judges = programs.iter().flatten().filter(theirs).find(|program| &*program.package == altkernel::RULES);
        for suite in altkernel::NEWER.into_iter().filter(|_| choice.tier == Tier::Long) {
            if let Some(judge) = judges {
                add(&mut tally, altkernel::rules(workspace, suite, &judge.executable)?);
            }
            add(&mut tally, altkernel::mixed(workspace, suite)?);
        }
    }
    println!("test: {} tier, {:.0} s", choice.tier.name(), start.elapsed().as_secs_f64());
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    Ok(tally.failed == 0)
}

/// Builds all tests and runs those of integration whose names hold `filter`, also where they are marked as long.
///
/// # Errors
/// If cargo cannot be started.
pub fn filtered(workspace: &Workspace, filter: &'static str) -> Result<Tally> {
    let choice = Choice { tier: Tier::Normal, packages: Vec::new(), filter: Some(filter) };
    let Some(programs) = build(workspace, &choice)? else {
        return Ok(Tally { failed: 1, ..Tally::default() });
    };
    let mut tally = Tally::default();
    for program in programs.iter().filter(|program| program.kind == "test") {
        add(&mut tally, run(workspace, &choice, program)?);
    }
    Ok(tally)
}

/// Runs the tests that were built. What does not build counts as one failure.
fn tests(workspace: &Workspace, choice: &Choice, programs: Option<&[Program]>) -> Result<Tally> {
    let Some(programs) = programs else {
        return Ok(Tally { failed: 1, ..Tally::default() });
    };
    let mut tally = Tally::default();
    for program in programs {
        add(&mut tally, run(workspace, choice, program)?);
    }
    add(&mut tally, documentation(workspace, choice)?);
    Ok(tally)
}

fn parse(args: &[String]) -> Result<Choice> {
    let mut choice = Choice { tier: Tier::Normal, packages: Vec::new(), filter: None };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => choice.tier = Tier::Quick,
            "--long" => choice.tier = Tier::Long,
            "-p" | "--package" => choice.packages.push(args.next().context("-p: which crate?")?.clone()),
            other => bail!("{other}: unknown argument, known are --quick, --long and -p CRATE"),
        }
    }
    Ok(choice)
}

fn add(tally: &mut Tally, more: Tally) {
    tally.passed += more.passed;
    tally.failed += more.failed;
    tally.skipped += more.skipped;
}

/// The arguments that choose packages for cargo.
fn package_args(choice: &Choice) -> Vec<String> {
    if choice.packages.is_empty() {
        return vec!["--workspace".into()];
    }
    choice.packages.iter().flat_map(|package| ["--package".to_owned(), package.clone()]).collect()
}

/// Builds the programs, which tests start, and the tests; None where that fails.
fn build(workspace: &Workspace, choice: &Choice) -> Result<Option<Vec<Program>>> {
    let start = Instant::now();
    let cargo = |args: &[&str]| -> Result<Option<String>> {
        let mut cargo = workspace.cargo();
        cargo.args(args).args(package_args(choice)).args(["--locked", "--message-format=json-render-diagnostics"]);
        let output = cargo.stderr(Stdio::inherit()).output().context("cargo")?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let messages = match cargo(&["build", "--bins", "--examples"])? {
        Some(_) => cargo(&["test", "--no-run", "--tests"])?,
        None => None,
    };
    let seconds = start.elapsed().as_secs_f64();
    let Some(messages) = messages else {
        println!("test build FAILED {seconds:.1} s");
        return Ok(None);
    };
    println!("test build OK {seconds:.1} s");
    let mut programs = programs(&messages);
    let wanted = |program: &Program| program.kind != "test" || checks::is_pure(&program.package);
    programs.retain(|program| choice.tier != Tier::Quick || wanted(program));
    Ok(Some(programs))
}

/// The test programs among cargo's messages, in the order of their names.
fn programs(messages: &str) -> Vec<Program> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut programs: Vec<Program> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true && message["executable"].is_string())
        .map(|message| {
            let manifest = PathBuf::from(text(&message["manifest_path"]));
            Program {
                package: package_name(&text(&message["package_id"])),
                folder: manifest.parent().map(Path::to_path_buf).unwrap_or_default(),
                kind: text(&message["target"]["kind"][0]),
                target: text(&message["target"]["name"]),
                executable: text(&message["executable"]).into(),
            }
        })
        .collect();
    programs.sort_by_key(|program| (program.kind == "test", program.package.clone(), program.target.clone()));
    programs
}

/// The name in a package id: `path+file:///w/crates/types#ripstop-types@0.1.0`, or `…/crates/xtask#0.1.0` where the
/// folder has the package's name.
fn package_name(id: &str) -> String {
    let (url, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => url.rsplit('/').next().unwrap_or(url).to_owned(),
    }
}

/// Runs one test program and prints how it ended.
fn run(workspace: &Workspace, choice: &Choice, program: &Program) -> Result<Tally> {
    let name = match program.kind.as_str() {
        "test" => format!("{}::{}", program.package, program.target),
        _ => program.package.clone(),
    };
    let start = || {
        // A shell's background job ignores SIGINT, and all that it starts does: tests send it.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT,QUIT")
            .arg(&program.executable)
            .current_dir(&program.folder)
            .env("CARGO_MANIFEST_DIR", &program.folder)
            .env("CARGO_PKG_NAME", &program.package)
            .env("RIPSTOP_TEST_TIER", choice.tier.name())
            .env("RUST_BACKTRACE", "1");
        command
    };
    let log = workspace.log(&format!("test-{}-{}", program.package, program.target));
    let mut list = start();
    list.args(["--list", "--format", "terse"]).args(choice.filter);
    let list = process::run(&mut list, &log, Duration::from_secs(60))?;
    let expected = libtest::listed(&list.output);
    if list.good() && expected.is_empty() {
        return Ok(Tally::default());
    }
    let mut command = start();
    command.arg("--show-output").args(choice.filter);
    if choice.filter.is_some() {
        // Each has a cluster of its own, and two cores make one at a time.
        command.args(["--include-ignored", "--test-threads=1"]);
    }
    if choice.tier == Tier::Long {
        command.arg("--include-ignored");
    }
    let ran = process::run(&mut command, &log, choice.limit())?;
    let mut verdicts = libtest::read(&ran.output, &expected);
    if !ran.good() && !verdicts.values().any(|verdict| *verdict == Verdict::Failed) {
        verdicts.insert("(the test program)".into(), Verdict::Failed);
    }
    Ok(report(&name, &verdicts, &ran))
}

/// Runs the examples in the documentation of the libraries.
fn documentation(workspace: &Workspace, choice: &Choice) -> Result<Tally> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--doc", "--locked", "--quiet", "--no-fail-fast"]).args(package_args(choice));
    cargo.args(["--", "--show-output", "--format", "pretty"]);
    let ran = process::run(&mut cargo, &workspace.log("test-doc"), choice.tier.limit())?;
    let mut verdicts = libtest::read(&ran.output, &[]);
    if !ran.good() && !verdicts.values().any(|verdict| *verdict == Verdict::Failed) {
        // A package that is only a program has no documentation tests, and cargo says so with an error.
        if ran.output.contains("no library targets found") {
            return Ok(Tally::default());
        }
        verdicts.insert("(cargo test --doc)".into(), Verdict::Failed);
    }
    Ok(report("documentation", &verdicts, &ran))
}

/// Prints the line of one program, its skips, and what the tests that failed said.
fn report(name: &str, verdicts: &Verdicts, ran: &process::Ran) -> Tally {
    let mut tally = Tally::default();
    let mut later = 0;
    let mut lines = Vec::new();
    for (test, verdict) in verdicts {
        match verdict {
            Verdict::Passed => tally.passed += 1,
            Verdict::Later => later += 1,
            Verdict::Failed => {
                tally.failed += 1;
                lines.push(format!("    FAILED {test}"));
                lines.extend(libtest::reason(&ran.output, test).into_iter().map(|line| format!("        {line}")));
            }
            Verdict::Skipped(why) => {
                tally.skipped += 1;
                lines.push(format!("    SKIPPED {test}: {why}"));
            }
        }
    }
    let result = if tally.failed == 0 { "OK" } else { "FAILED" };
    let Tally { passed, failed, skipped } = tally;
    let later = if later == 0 { String::new() } else { format!(", {later} left to test-long") };
    let seconds = ran.took.as_secs_f64();
    if failed > 0 {
        println!("---- {name}: {}\n{}----", ran.end(), libtest::failures(&ran.output));
    }
    println!("test {name} {result}: {passed} passed, {failed} failed, {skipped} skipped{later} {seconds:.1} s");
    lines.iter().for_each(|line| println!("{line}"));
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_the_messages() {
        let messages = r#"
{"reason":"compiler-artifact","package_id":"path+file:///w/crates/types#ripstop-types@0.1.0","manifest_path":"/w/crates/types/Cargo.toml","target":{"kind":["lib"],"name":"ripstop_types"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","package_id":"path+file:///w/crates/types#ripstop-types@0.1.0","manifest_path":"/w/crates/types/Cargo.toml","target":{"kind":["test"],"name":"it"},"profile":{"test":true},"executable":"/t/it-1"}
{"reason":"compiler-artifact","package_id":"path+file:///w/crates/xtask#0.1.0","manifest_path":"/w/crates/xtask/Cargo.toml","target":{"kind":["bin"],"name":"xtask"},"profile":{"test":true},"executable":"/t/xtask-1"}
{"reason":"compiler-artifact","package_id":"path+file:///w/crates/ripstop#0.1.0","manifest_path":"/w/crates/ripstop/Cargo.toml","target":{"kind":["bin"],"name":"ripstop"},"profile":{"test":false},"executable":"/t/ripstop"}
{"reason":"build-finished","success":true}"#;
        let found: Vec<(String, String)> =
            programs(messages).into_iter().map(|program| (program.package, program.target)).collect();
        assert_eq!(found, [("xtask".into(), "xtask".into()), ("ripstop-types".into(), "it".into())]);
    }

    #[test]
    fn arguments_are_read() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let choice = parse(&words("--long -p ripstop-types")).unwrap();
        assert_eq!((choice.tier, choice.packages), (Tier::Long, vec!["ripstop-types".to_owned()]));
        assert!(parse(&words("--fast")).is_err() && parse(&words("-p")).is_err());
    }

    fn tally(source: &str, integration: &str) -> Tally {
        let (_dir, workspace) =
            crate::workspace::planted("MIT", &[("src/lib.rs", source), ("tests/it.rs", integration)]);
        all(&workspace)
    }

    fn all(workspace: &Workspace) -> Tally {
        let choice = parse(&[]).unwrap();
        let programs = build(workspace, &choice).unwrap();
        tests(workspace, &choice, programs.as_deref()).unwrap()
    }

    #[test]
    fn each_ending_of_a_test_is_counted() {
        let source = r#"
            /// ```
            /// assert!(planted::yes());
            /// ```
            pub fn yes() -> bool { true }
            #[test] fn passes() {}
            #[test] fn skips() { println!("SKIPPED: no moon"); }
            #[test] #[should_panic] fn panics() { panic!("as expected"); }
            #[test] #[ignore = "long: an hour"] fn waits() { panic!("too early"); }
        "#;
        let dies = "#[test] fn first() { std::process::abort(); } #[test] fn second() { std::process::abort(); }";
        assert_eq!(tally(source, ""), Tally { passed: 3, failed: 0, skipped: 1 });
        assert_eq!(tally(source, "#[test] fn fails() { panic!(); }"), Tally { passed: 3, failed: 1, skipped: 1 });
        assert_eq!(tally(source, dies), Tally { passed: 3, failed: 2, skipped: 1 });
    }

    #[test]
    fn what_does_not_build_is_a_failure() {
        assert_eq!(tally("pub fn f() { nothing() }", ""), Tally { passed: 0, failed: 1, skipped: 0 });
    }
}
