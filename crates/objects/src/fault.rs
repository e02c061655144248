//! Faults: what is wrong with an input, as sentences a person can act on.

use std::collections::BTreeSet;
use std::fmt;

/// One thing wrong with one input.
///
/// Printed as `network/default: spec.ranges[0]: found 10.244.0.1/16, accepted: no bits behind the prefix: 10.244.0.0/16`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    /// The object: `network/default`, `config`, `document 2`.
    pub object: String,
    /// The field's path in the object: `spec.ranges[0]`; empty for the object as a whole.
    pub path: String,
    /// What was found there, or the rule that is broken: `found "x"`, `missing`.
    pub found: String,
    /// What would have been accepted.
    pub accepted: String,
}

impl Fault {
    /// A fault with all four parts.
    pub fn new(
        object: impl Into<String>,
        path: impl Into<String>,
        found: impl Into<String>,
        accepted: impl Into<String>,
    ) -> Self {
        Self { object: object.into(), path: path.into(), found: found.into(), accepted: accepted.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}, accepted: {}", self.found, self.accepted)
    }
}

/// All that is wrong with an input: never empty where it is an error, in order of object and path, without repeats.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(BTreeSet<Fault>);

impl Faults {
    /// No fault yet.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        self.0.insert(fault);
    }

    /// Adds all of another.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each fault, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// `Ok` when nothing is wrong.
    ///
    /// # Errors
    /// The faults themselves, when there is one.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(BTreeSet::from([fault]))
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self(faults.into_iter().collect())
    }
}

impl fmt::Display for Faults {
    /// One line each, no line break behind the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Something in an accepted input that has no effect, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Note {
    /// The object: `network/default`.
    pub object: String,
    /// The field's path in the object.
    pub path: String,
    /// What happens with it.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.path, self.text)
    }
}
