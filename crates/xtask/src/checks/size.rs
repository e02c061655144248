//! Files stay short enough to be read in one go.

use super::Outcome;
use crate::workspace::Sources;

/// The most lines a source file has without a reason.
const LIMIT: usize = 600;

/// A longer file says why with this comment, in its first [`REASON_WITHIN`] lines.
const REASON: &str = "// Over 600 lines because: ";
const REASON_WITHIN: usize = 40;

/// Every Rust file with more than [`LIMIT`] lines and no reason.
#[must_use]
pub fn check(sources: &Sources) -> Outcome {
    let too_long = |text: &str| text.lines().count() > LIMIT;
    let reason = |line: &str| line.strip_prefix(REASON).is_some_and(|why| !why.trim().is_empty());
    let faults = sources
        .iter()
        .filter(|(path, text)| path.ends_with(".rs") && too_long(text))
        .filter(|(_, text)| !text.lines().take(REASON_WITHIN).any(reason))
        .map(|(path, text)| {
            let lines = text.lines().count();
            format!("{path}: {lines} lines: split it, or say why not in its head: `{REASON}...`")
        });
    Outcome::of(faults.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::planted;

    #[test]
    fn a_long_file_needs_a_reason() {
        let fits = "\n".repeat(LIMIT);
        let long = "\n".repeat(LIMIT + 1);
        let stated = format!("//! Tables.\n{REASON}one row a case\n{long}");
        let empty = format!("{REASON}\n{long}");
        let files = planted(&[("a.rs", &fits), ("b.rs", &long), ("c.rs", &stated), ("d.rs", &empty), ("e.md", &long)]);
        let Outcome::Failed(faults) = check(&files) else { panic!("not found") };
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("b.rs: 601 lines") && faults[1].starts_with("d.rs: 602 lines"), "{faults:?}");
    }
}
