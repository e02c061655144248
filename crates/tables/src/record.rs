//! A recording: every input of an agent as JSON lines.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::{Input, Moment};

/// An input with the moment at which it was taken in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamped {
    /// When.
    pub at: Moment,
    /// What.
    pub input: Input,
    /// What follows from it was decided together with what follows from the next.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Why a recording cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordingFault {
    /// The file failed.
    #[error("the recording cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// A line is not an input.
    #[error("line {line} of the recording is not an input of this version: {cause}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What the decoder said.
        cause: serde_json::Error,
    },
}

/// Reads and writes recordings.
#[derive(Debug)]
pub struct Recording;

impl Recording {
    /// Writes one input as a line.
    ///
    /// # Errors
    /// Where the writer fails.
    pub fn write(out: &mut impl Write, stamped: &Stamped) -> Result<(), RecordingFault> {
        let mut redacted = stamped.clone();
        redact(&mut redacted.input);
        let line = serde_json::to_string(&redacted).map_err(|cause| RecordingFault::Line { line: 0, cause })?;
        writeln!(out, "{line}")?;
        Ok(())
    }

    /// Reads a recording line by line; empty lines are passed over.
    pub fn read(from: impl BufRead) -> impl Iterator<Item = Result<Stamped, RecordingFault>> {
        from.lines().enumerate().filter_map(|(number, line)| match line {
            Err(cause) => Some(Err(cause.into())),
            Ok(line) if line.trim().is_empty() => None,
            Ok(line) => {
                Some(serde_json::from_str(&line).map_err(|cause| RecordingFault::Line { line: number + 1, cause }))
            }
        })
    }
}

/// What the names have in them, in lower case and without '-' and '_', under which a configuration may carry a secret.
const SECRET_WORDS: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "privatekey", "apikey", "credential", "authorization"];

/// Takes secrets out of what a runtime sent.
fn redact(input: &mut Input) {
    if let Input::Cni { request, .. } = input {
        // A configuration that cannot be read is of no use to a reader, and may hold anything.
        let mut config = serde_json::from_str(request.config.get()).unwrap_or(serde_json::Value::Null);
        redact_value(&mut config);
        if let Ok(config) = serde_json::value::to_raw_value(&config) {
            request.config = config;
        }
    }
}

fn redact_value(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let name: String = name.to_lowercase().chars().filter(|c| !matches!(c, '-' | '_')).collect();
                if SECRET_WORDS.iter().any(|word| name.contains(word)) {
                    *value = "redacted".into();
                } else {
                    redact_value(value);
                }
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(redact_value),
        _ => {}
    }
}
