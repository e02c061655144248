//! How bad an error in an UPDATE is (RFC 7606 section 2), and what was wrong.

use std::fmt;

/// What becomes of an UPDATE with an error, from the mildest. "AFI/SAFI disable" is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// The attribute is left out, the routes stand.
    AttributeDiscard,
    /// The routes that the message announces are gone as if it withdrew them.
    TreatAsWithdraw,
    /// The session ends.
    SessionReset,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AttributeDiscard => "attribute discarded",
            Self::TreatAsWithdraw => "treated as withdrawn",
            Self::SessionReset => "session reset",
        })
    }
}

/// One error that an UPDATE was taken in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What became of it.
    pub grade: Grade,
    /// The attribute's type; `None` where it is not about one.
    pub attribute: Option<u8>,
    /// What was found and what is accepted.
    pub reason: String,
}

impl Fault {
    pub(super) fn new(grade: Grade, attribute: u8, reason: impl Into<String>) -> Self {
        Self { grade, attribute: Some(attribute), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attribute {
            Some(kind) => {
                write!(f, "{}: attribute {kind} ({}): {}", self.grade, super::attributes::name(kind), self.reason)
            }
            None => write!(f, "{}: {}", self.grade, self.reason),
        }
    }
}
