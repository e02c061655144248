//! What goes to standard output and standard error.

pub mod rows;
pub mod table;
pub mod text;
pub mod yaml;

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use crate::failure::Failure;

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ListFormat {
    /// Aligned columns for people
    #[default]
    Table,
    /// As table, with every field the agent gives
    Wide,
    /// An array of flat objects, one a line; absent is null
    Json,
    /// The same as YAML
    Yaml,
    /// KIND/NAME, one a line
    Name,
}

/// The form of an answer that is not a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// As the agent gives it
    Json,
    /// The same as YAML
    Yaml,
}

/// Standard output. A reader that went away (`ripstop get pods | head -1`) has what it wanted: what is written after
/// that is dropped, and is no failure.
#[derive(Debug)]
pub struct Out {
    gone: bool,
    colour: bool,
}

impl Out {
    /// Standard output, with colours where it is a terminal that has them and `NO_COLOR` is not set.
    pub fn new() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self { gone: false, colour: io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb }
    }

    /// Whether colours are wanted.
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// Whether the reader went away.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// Where the text cannot be written although somebody wants it: a full disk.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.write_all(text.as_bytes()).and_then(|()| self.flush()).map_err(|error| failed(&error))
    }

    /// Writes text and ends the line.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.text(&format!("{text}\n"))
    }

    /// Writes a value as indented JSON.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&format!("{value:#}"))
    }

    /// Writes a value in a format that is not for people; false for the one that is.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn data(&mut self, format: Format, value: &Value) -> Result<bool, Failure> {
        match format {
            Format::Table => return Ok(false),
            Format::Json => self.json(value)?,
            Format::Yaml => self.text(&yaml::document(value))?,
        }
        Ok(true)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gone {
            return Ok(bytes.len());
        }
        match io::stdout().write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(bytes.len())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match io::stdout().flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            other => other,
        }
    }
}

/// The failure to write to standard output.
fn failed(error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write to standard output: {}", crate::failure::plain(error)))
}

/// Says something on standard error; where that is closed there is nobody to tell.
pub fn talk(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
