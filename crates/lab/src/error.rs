//! What can go wrong in the lab, and the exit code each kind stands for.

use std::io;

/// A result of the lab.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Why the lab did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The request itself is wrong, or asks for what does not exist yet.
    #[error("{0}")]
    Usage(String),
    /// The request was right, and failed.
    #[error("{0}")]
    Failed(String),
    /// An agent or the store does not answer.
    #[error("{0}")]
    Away(String),
    /// The caller lacks a privilege.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The system refused a step.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, with its object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl LabError {
    /// The exit code of a command that ends with this error: 1 failed, 2 usage, 3 agent or store away, 4 not permitted,
    /// 130 interrupted.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 4,
            Self::Io { .. } => 1,
            Self::Usage(_) => 2,
            Self::Away(_) => 3,
            Self::NotPermitted(_) => 4,
            Self::Interrupted => 130,
        }
    }

    /// A failure with a sentence.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// A wrong request with a sentence.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }
}

/// Adds to a system error what was attempted.
pub(crate) trait Attempt<T> {
    /// Names the attempt, with its object.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| LabError::Io { what: what(), source: error.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let codes: Vec<u8> = [
            LabError::failed("x"),
            LabError::usage("x"),
            LabError::Away("x".into()),
            LabError::NotPermitted("x".into()),
            LabError::Interrupted,
            LabError::Io { what: "mount /proc".into(), source: denied },
        ]
        .iter()
        .map(LabError::exit_code)
        .collect();
        assert_eq!(codes, [1, 2, 3, 4, 130, 4]);
    }

    #[test]
    fn a_system_error_names_the_attempt() {
        let error = Err::<(), _>(rustix::io::Errno::BUSY).attempt(|| "unmount /run/netns/rip-x-n1".into());
        assert!(error.unwrap_err().to_string().starts_with("unmount /run/netns/rip-x-n1: "));
    }
}
