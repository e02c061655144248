//! Words every other crate speaks.
//!
//! Each type is valid by construction: what came from outside was parsed once, and behind the parse nothing
//! needs a second look. Not here: anything with behaviour of its own (decisions, state, wire formats).
//!
//! Invariants: a [`Prefix`] has no host bits; an [`IfName`] fits the kernel's 15 bytes; a [`NodeName`] and the two
//! halves of a [`NamespacedName`] are DNS-1123 names, so they are safe in file names, keys and kernel comments.

mod fnv;
mod kind;
mod link;
mod name;
mod prefix;
mod scoped;
mod sha256;

pub use fnv::Fnv1a;
pub use kind::StoreKind;
pub use link::{IfName, Mac};
pub use name::{ContainerId, Labels, NamespacedName, NodeName, Owner, PodName, ServiceName, validate_dns_name};
pub use prefix::{Family, Prefix};
pub use scoped::ScopedAddr;
pub use sha256::sha256;

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value from outside that does not fit its type: what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {what}: {accepted}")]
pub struct Invalid {
    /// The kind of value, with its article: "a MAC address".
    pub what: &'static str,
    /// The text as it came.
    pub found: String,
    /// What would have been accepted.
    pub accepted: String,
}

impl Invalid {
    /// A fault with all three parts.
    pub fn new(what: &'static str, found: impl Into<String>, accepted: impl Into<String>) -> Self {
        Self { what, found: found.into(), accepted: accepted.into() }
    }
}

/// The store's position at which an object had its present value. Greater is later; zero is "never stored".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment, in milliseconds since the Unix epoch. Pure code receives it as an argument and never reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment and `ms` milliseconds.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment; zero if the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
