//! Tables as kubectl prints them: a header in capitals, columns aligned to the left, three spaces between them.

use std::fmt::Write;

use serde_json::Value;

use super::text::{NONE, field};

const GAP: usize = 3;

/// A table in the making.
#[derive(Debug, Clone, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new<S: AsRef<str>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(|name| title(name.as_ref())).collect(), rows: Vec::new() }
    }

    /// A table of these fields of each object.
    pub fn of<'a>(fields: &[&str], objects: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut table = Self::new(fields);
        for object in objects {
            table.push(fields.iter().map(|name| field(object, name)).collect());
        }
        table
    }

    /// Adds a row; a cell a column.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The table as text, with the header or without, in colours or not.
    pub fn render(&self, header: bool, colour: bool) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|name| if header { name.len() } else { 0 }).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        if header {
            line(&mut text, &self.header, &widths, |_| None);
        }
        for row in &self.rows {
            line(&mut text, row, &widths, |at| if colour { tone(&self.header[at], &row[at]) } else { None });
        }
        text
    }
}

/// A field's name as a column's: `max_gap_ms` is MAX GAP MS.
fn title(name: &str) -> String {
    name.replace('_', " ").to_uppercase()
}

fn line(text: &mut String, cells: &[String], widths: &[usize], tone: impl Fn(usize) -> Option<&'static str>) {
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let last = at + 1 == cells.len();
        let pad = if last { 0 } else { width.saturating_sub(cell.chars().count()) + GAP };
        let _ = match tone(at) {
            Some(code) => write!(text, "\x1b[{code}m{cell}\x1b[0m{:pad$}", ""),
            None => write!(text, "{cell}{:pad$}", ""),
        };
    }
    text.push('\n');
}

/// The colour (ECMA-48, section 8.3.117) of what says by itself whether it is good.
fn tone(header: &str, cell: &str) -> Option<&'static str> {
    const GREEN: &str = "32";
    const YELLOW: &str = "33";
    const RED: &str = "31";
    match (header, cell) {
        ("READY" | "ALIVE", "true") | ("ACTION", "create") | ("STATE", "done") => Some(GREEN),
        ("READY" | "ALIVE", "false") | ("ACTION", "delete") | ("STATE", "failed") => Some(RED),
        ("SEVERITY", "error") => Some(RED),
        ("ACTION", "refuse") | ("SEVERITY", _) => Some(YELLOW),
        ("REASON" | "ERROR", text) if text != NONE => None,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Table {
        let rows = [
            json!({"name": "n1", "ready": true, "ranges": ["10.244.0.0/24"]}),
            json!({"name": "node-2", "ready": false}),
        ];
        Table::of(&["name", "ready", "ranges"], &rows)
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let text = "NAME     READY   RANGES\nn1       true    10.244.0.0/24\nnode-2   false   <none>\n";
        assert_eq!(table().render(true, false), text);
        assert_eq!(table().render(false, false), "n1       true    10.244.0.0/24\nnode-2   false   <none>\n");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = table().render(true, true);
        assert!(text.contains("n1       \x1b[32mtrue\x1b[0m    10.244.0.0/24\n"), "{text:?}");
        assert!(text.contains("node-2   \x1b[31mfalse\x1b[0m   <none>\n"), "{text:?}");
    }
}
