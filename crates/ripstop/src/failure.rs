//! How a command fails, and the exit code each way stands for.

use std::io;

/// The code of a wrong command line; clap's own as well.
pub const USAGE: u8 = 2;

/// The code of a command that was interrupted: 128 and the number of SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked. Each text is one sentence, or one a line where there are several faults:
/// what was tried, the likely cause, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was done and failed, or what was asked about is not true.
    #[error("{0}")]
    Failed(String),
    /// As [`Failure::Failed`], where everything there is to say was printed already.
    #[error("")]
    Untrue,
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The agent or the store does not answer.
    #[error("{0}")]
    Away(String),
    /// The caller lacks a privilege.
    #[error("{0}")]
    NotPermitted(String),
}

impl Failure {
    /// The exit code: 1 failed or not true, 2 usage, 3 agent or store away, 4 not permitted.
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Untrue => 1,
            Self::Usage(_) => USAGE,
            Self::Away(_) => 3,
            Self::NotPermitted(_) => 4,
        }
    }

    /// The failure of a system call; `what` says what was tried and on what: `cannot write /etc/x`.
    pub fn system(what: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(libc::EPERM) {
            return Self::NotPermitted(format!("{what}: {}; run it as root", plain(error)));
        }
        Self::Failed(format!("{what}: {}", plain(error)))
    }

    /// The failure of a library that tells its story as a chain of causes.
    pub fn of_chain(error: &anyhow::Error) -> Self {
        let denied = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| cause.kind() == io::ErrorKind::PermissionDenied || cause.raw_os_error() == Some(libc::EPERM));
        let text = without_numbers(&format!("{error:#}"));
        if denied { Self::NotPermitted(text) } else { Self::Failed(text) }
    }
}

/// A text without Rust's ` (os error 2)`, wherever it stands.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(')'))
}

/// The system's sentence without Rust's ` (os error 2)`, beginning with a small letter as part of a longer one.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_code() {
        let text = String::new;
        assert_eq!(Failure::Failed(text()).code(), 1);
        assert_eq!(Failure::Untrue.code(), 1);
        assert_eq!(Failure::Usage(text()).code(), 2);
        assert_eq!(Failure::Away(text()).code(), 3);
        assert_eq!(Failure::NotPermitted(text()).code(), 4);
    }

    #[test]
    fn a_missing_privilege_is_told_from_other_faults() {
        for (raw, code) in [(libc::EPERM, 4), (libc::EACCES, 4), (libc::ENOENT, 1), (libc::ENOSPC, 1)] {
            let error = io::Error::from_raw_os_error(raw);
            assert_eq!(Failure::system("cannot write /x", &error).code(), code);
            assert_eq!(Failure::of_chain(&anyhow::Error::from(error).context("open /x")).code(), code);
        }
        let chain = anyhow::Error::from(io::Error::from_raw_os_error(libc::ENOENT)).context("open /x").context("start");
        assert_eq!(Failure::of_chain(&chain).to_string(), "start: open /x: No such file or directory");
        let missing = Failure::system("cannot read /x", &io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(missing.to_string(), "cannot read /x: no such file or directory");
    }
}
