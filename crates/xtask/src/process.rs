//! Running a program with its output in a file and a limit on its time.
//!
//! The output goes to a file rather than to a pipe: a program that leaves children behind would hold a pipe open, and
//! the file is there to be read afterwards.

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How a program ended.
pub struct Ran {
    /// None where the time limit ended it.
    pub status: Option<ExitStatus>,
    /// stdout and stderr, in the order they were written.
    pub output: String,
    pub took: Duration,
}

impl Ran {
    /// True where the program ended by itself with status 0.
    #[must_use]
    pub fn good(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The end in words, for a message.
    #[must_use]
    pub fn end(&self) -> String {
        match self.status {
            Some(status) => status.to_string(),
            None => format!("killed after {:.0} s", self.took.as_secs_f64()),
        }
    }

    /// The last `lines` lines that are not empty.
    #[must_use]
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let all: Vec<&str> = self.output.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].iter().map(ToString::to_string).collect()
    }
}

/// Runs `command` with an empty stdin and its output in `log`, for at most `limit`.
///
/// # Errors
/// If the log cannot be written or the program cannot be started.
pub fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<Ran> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("write {}", log.display()))?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    Ok(Ran { status, output, took: start.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Ran {
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("sh").args(["-c", script]), &dir.path().join("log"), limit).unwrap()
    }

    #[test]
    fn output_and_status_are_the_programs() {
        let ran = sh("echo out; echo err >&2; exit 3", Duration::from_secs(60));
        assert_eq!((ran.output.as_str(), ran.status.and_then(|s| s.code())), ("out\nerr\n", Some(3)));
        assert!(!ran.good());
    }

    #[test]
    fn a_program_over_its_time_is_ended() {
        let ran = sh("echo begun; exec sleep 600", Duration::from_millis(300));
        assert!(ran.status.is_none() && !ran.good());
        assert_eq!(ran.output, "begun\n");
    }
}
