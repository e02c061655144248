//! What was checked and what came of it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use crate::error::LabError;

/// The rows of the demo's table.
#[derive(Debug, Default)]
pub struct Ledger {
    rows: Vec<Row>,
    act: usize,
    colours: bool,
}

#[derive(Debug)]
struct Row {
    act: usize,
    what: String,
    held: bool,
    figure: String,
}

impl Ledger {
    /// An empty ledger.
    #[must_use]
    pub fn new() -> Self {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, ..Self::default() }
    }

    /// An act begins.
    pub fn act(&mut self, number: usize, of: usize, title: &str) {
        self.act = number;
        let (bold, plain) = if self.colours { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        say(&format!("\n{bold}Act {number} of {of}: {title}{plain}"));
    }

    /// Something to read, which is not a check.
    pub fn tell(&self, text: &str) {
        for line in text.lines() {
            say(&format!("  {line}"));
        }
    }

    /// A check and what was measured.
    pub fn check(&mut self, what: &str, held: bool, figure: impl Into<String>) {
        let figure = figure.into();
        say(&format!("  {} {what}: {figure}", self.mark(held)));
        self.rows.push(Row { act: self.act, what: what.into(), held, figure });
    }

    /// The act could not go on.
    pub fn broken(&mut self, error: &LabError) {
        self.check("the act ran to its end", false, error.to_string());
    }

    /// Whether there were checks, and all of them held.
    #[must_use]
    pub fn all_held(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.held)
    }

    /// The table, on standard output.
    pub fn print(&self, took: Duration) {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        let mut out = format!("\nACT  RESULT  {:width$}  FIGURE\n", "CHECK");
        for row in &self.rows {
            let result = if row.held { "held" } else { "FAILED" };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{:<4} {result:<7} {:width$}  {}", row.act, row.what, row.figure);
        }
        let held = self.rows.iter().filter(|row| row.held).count();
        let _ = writeln!(out, "{held} of {} checks held, {:.0} s", self.rows.len(), took.as_secs_f64());
        // Nobody reads where this fails.
        let _ = std::io::stdout().write_all(out.as_bytes());
    }

    fn mark(&self, held: bool) -> &'static str {
        match (held, self.colours) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (true, false) => "ok",
            (false, true) => "\x1b[31m✗\x1b[0m",
            (false, false) => "FAILED",
        }
    }
}

fn say(line: &str) {
    // Talk is lost where nobody listens.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_without_checks_or_with_a_failed_one_does_not_hold() {
        let mut ledger = Ledger::new();
        assert!(!ledger.all_held());
        ledger.check("one", true, "1");
        assert!(ledger.all_held());
        ledger.check("two", false, "0");
        assert!(!ledger.all_held());
    }
}
