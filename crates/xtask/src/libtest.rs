//! What a test program of Rust prints, read back: which test ended how, and which said that it could not run here.
//!
//! Read is the output under `--show-output`: a line a test, then, in a section per test, what the test printed. A test
//! that cannot run where it is prints `SKIPPED: why` and returns; it has passed nothing.

use std::collections::BTreeMap;

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    /// With the reason it gave.
    Skipped(String),
    /// Marked `#[ignore]` with a reason that begins with "long": it belongs to a longer run than this one.
    Later,
}

/// Verdicts by the test's name.
pub type Verdicts = BTreeMap<String, Verdict>;

const SKIPPED: &str = "SKIPPED:";

/// The names that `--list --format terse` prints.
#[must_use]
pub fn listed(output: &str) -> Vec<String> {
    output.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Reads what a test program printed. A test in `expected` without a line of its own failed: the program ended first.
#[must_use]
pub fn read(output: &str, expected: &[String]) -> Verdicts {
    let mut verdicts: Verdicts = expected.iter().map(|name| (name.clone(), Verdict::Failed)).collect();
    let mut section = None;
    // Behind the first heading comes what the tests printed, which may look like results.
    let mut printed = false;
    for line in output.lines() {
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if matches!(line, "successes:" | "failures:") {
            printed = true;
            section = None;
        } else if let Some(name) = heading.filter(|name| verdicts.contains_key(*name)) {
            section = Some(name.to_owned());
        } else if let Some(why) = line.trim_start().strip_prefix(SKIPPED) {
            // Printed by a child process, it comes without a section; then the program's name has to do.
            let name = section.clone().unwrap_or_else(|| format!("(a child process) {}", why.trim()));
            let verdict = verdicts.entry(name).or_insert(Verdict::Passed);
            if *verdict == Verdict::Passed {
                *verdict = Verdict::Skipped(why.trim().to_owned());
            }
        } else if let Some((name, verdict)) = result(line).filter(|_| !printed) {
            verdicts.insert(name, verdict);
        }
    }
    verdicts
}

/// What tests that failed printed, of a program that came to its end: the sections under the first `failures:`. Where it
/// did not, all there is.
#[must_use]
pub fn failures(output: &str) -> &str {
    output.find("\nfailures:\n").and_then(|at| output.get(at..)).unwrap_or(output).trim()
}

/// What a test that failed died of, in a few lines: the message of its panic, cut where it is long.
#[must_use]
pub fn reason(output: &str, test: &str) -> Vec<String> {
    let heading = format!("---- {test} stdout ----");
    let section = failures(output).lines().skip_while(|line| *line != heading).skip(1);
    let section = section.take_while(|line| !(line.starts_with("---- ") && line.ends_with(" stdout ----")));
    let message = section.skip_while(|line| !line.contains("panicked at ")).skip(1);
    let message = message.take_while(|line| *line != "stack backtrace:" && !line.starts_with("note: run with"));
    let mut lines: Vec<String> = message.map(|line| line.chars().take(MOST_OF_A_LINE).collect()).collect();
    if lines.len() > MOST_LINES {
        let more = format!("[{} more lines, above]", lines.len() - MOST_LINES);
        lines.truncate(MOST_LINES);
        lines.push(more);
    }
    lines
}

/// Lines of a reason, and characters of each.
const MOST_LINES: usize = 8;
const MOST_OF_A_LINE: usize = 300;

/// `test NAME ... ok`, perhaps behind what a child process left on the line.
fn result(line: &str) -> Option<(String, Verdict)> {
    let (head, end) = line.rsplit_once(" ... ")?;
    let verdict = match end {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed,
        "ignored" => Verdict::Skipped("ignored without a reason".into()),
        _ => match end.strip_prefix("ignored, ")? {
            why if why.starts_with("long") => Verdict::Later,
            why => Verdict::Skipped(why.to_owned()),
        },
    };
    let name = match head.strip_prefix("test ") {
        Some(name) => name,
        None => head.rsplit_once("test ")?.1,
    };
    Some((name.trim_end_matches(" - should panic").to_owned(), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_ending_is_read() {
        let output = "
running 6 tests
test a::passes ... ok
test a::panics - should panic ... ok
test b::breaks ... FAILED
test c::waits ... ignored, long: an hour
test c::off ... ignored
leftover of a child test d::skips ... ok
test e::skips_and_breaks ... FAILED

successes:

---- a::passes stdout ----
all of it: not SKIPPED: at all
test a::panics ... FAILED
---- nobody stdout ----
---- d::skips stdout ----
  SKIPPED: no IPv6 here


successes:
    a::passes

failures:

---- e::skips_and_breaks stdout ----
SKIPPED: half
";
        let verdicts = read(output, &names(&["a::passes", "f::never_reported"]));
        let expected = [
            ("a::panics", Verdict::Passed),
            ("a::passes", Verdict::Passed),
            ("b::breaks", Verdict::Failed),
            ("c::off", Verdict::Skipped("ignored without a reason".into())),
            ("c::waits", Verdict::Later),
            ("d::skips", Verdict::Skipped("no IPv6 here".into())),
            ("e::skips_and_breaks", Verdict::Failed),
            ("f::never_reported", Verdict::Failed),
        ];
        assert_eq!(verdicts, expected.map(|(name, verdict)| (name.to_owned(), verdict)).into());
    }

    #[test]
    fn what_failed_tests_printed_is_found() {
        let ended = "test a ... ok\nsuccesses:\n\n---- a stdout ----\nlong\n\nfailures:\n\n---- b stdout ----\nwhy\n\nfailures:\n    b\n";
        assert_eq!(failures(ended), "failures:\n\n---- b stdout ----\nwhy\n\nfailures:\n    b");
        assert_eq!(reason(ended, "b"), [""; 0]);
        let long = "x\n".repeat(20);
        let ended = format!(
            "\nfailures:\n\n---- b stdout ----\nwords\nthread 'b' (1) panicked at a.rs:1:1:\nwhy\n{long}stack backtrace:\n 0: y\n\n---- c stdout ----\nthread 'c' (2) panicked at b.rs:1:1:\nanother\nnote: run with it\n"
        );
        let why = reason(&ended, "b");
        assert_eq!((why.len(), &*why[0], &*why[8]), (9, "why", "[13 more lines, above]"));
        assert_eq!(reason(&ended, "c"), ["another"]);
        assert_eq!(reason(&ended, "d"), [""; 0]);
        assert_eq!(failures("test a ... ok\nkilled"), "test a ... ok\nkilled");
    }

    #[test]
    fn documentation_tests_have_names_with_spaces() {
        let verdicts = read("test crates/a/src/lib.rs - f (line 3) ... ok\n", &[]);
        assert_eq!(verdicts.keys().collect::<Vec<_>>(), ["crates/a/src/lib.rs - f (line 3)"]);
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(listed("a::b: test\nc: benchmark\n\n1 test, 1 benchmark\n"), ["a::b"]);
    }
}
