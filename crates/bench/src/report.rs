//! Tables: printed for people, and written between marks of BENCHMARKS.md.
//!
//! Invariant: only what lies between a pair of marks is rewritten, and nothing is written unless every mark is there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A table of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A figure with the value that is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub what: String,
    pub reach: String,
    pub ours: String,
    pub rival: String,
    pub ratio: String,
    pub met: &'static str,
}

/// What one group of measurements gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub id: &'static str,
    pub title: &'static str,
    pub goals: Vec<Goal>,
    pub tables: Vec<Table>,
}

/// The word for a goal that was reached, or was not.
#[must_use]
pub fn verdict(good: bool) -> &'static str {
    if good { "yes" } else { "**no**" }
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    /// The table in Markdown, its columns aligned.
    #[must_use]
    pub fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells = widths.iter().zip(cells).map(|(width, cell)| format!(" {cell:<width$} |"));
            format!("|{}\n", cells.collect::<String>())
        };
        let rule: String = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}|{rule}\n{rows}", line(&self.head))
    }
}

/// The table of all goals.
#[must_use]
pub fn goals(sections: &[Section]) -> Table {
    let mut table = Table::new(&[
        "what",
        "reach",
        "ours",
        "rival, same run",
        "ratio inside a round: min / median / max",
        "reached",
    ]);
    for goal in sections.iter().flat_map(|section| &section.goals) {
        let cells = [&goal.what, &goal.reach, &goal.ours, &goal.rival, &goal.ratio].map(String::clone);
        table.row(&[cells.as_slice(), &[goal.met.to_owned()]].concat());
    }
    table
}

/// A section's tables under its title.
#[must_use]
pub fn details(section: &Section) -> String {
    let tables: Vec<String> = section.tables.iter().map(Table::text).collect();
    format!("### {}\n\n{}", section.title, tables.join("\n"))
}

/// The machine in words.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map_or("?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = read("/proc/loadavg").split(' ').next().unwrap_or("?").to_owned();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{cpus} × {}, {} memory, Linux {}, load {load} at the start",
        field(&cpuinfo, "model name"),
        field(&meminfo, "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
    );
    text
}

/// Puts texts between the marks of a file: `<!-- begin ID -->` and `<!-- end ID -->`.
pub fn record(file: &Path, parts: &[(&str, String)]) -> Result<()> {
    let mut text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    for (id, part) in parts {
        text = replaced(&text, id, part).with_context(|| format!("{}: no marks for {id}", file.display()))?;
    }
    write(file, &text)
}

/// Writes a file whole or not at all.
pub fn write(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("md.new");
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("write {}", file.display()))
}

fn replaced(text: &str, id: &str, part: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {id} -->\n"), format!("<!-- end {id} -->\n"));
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{}\n{end}{after}", part.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_markdown() {
        let mut table = Table::new(&["what", "µs"]);
        table.row(&["a long one".into(), "1".into()]);
        assert_eq!(table.text(), "| what       | µs |\n|------------|----|\n| a long one | 1  |\n");
    }

    #[test]
    fn only_what_lies_between_marks_is_replaced() {
        let text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
        let new = replaced(text, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n");
        assert_eq!(replaced(&new, "x", "new").unwrap(), new);
        assert_eq!(replaced(text, "y", "new"), None);
    }

    #[test]
    fn the_file_of_figures_has_every_mark() {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../BENCHMARKS.md"));
        let text = fs::read_to_string(file).unwrap();
        for id in crate::MARKS {
            assert!(replaced(&text, id, "").is_some(), "no marks for {id}");
        }
    }
}
