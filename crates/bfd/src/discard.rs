//! Why a packet is not heeded.

use std::fmt;

/// A reason to discard a packet: the rules of RFC 5880, section 6.8.6, in their order, and those of RFC 5881 and 5883.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discard {
    /// It came over more hops than the session allows.
    Ttl,
    /// Fewer bytes than a packet has.
    Short,
    /// Another version than 1.
    Version,
    /// Its length field is less than a packet has.
    LengthTooSmall,
    /// Its length field is more than came.
    LengthTooLarge,
    /// Its multiplier is zero.
    ZeroMultiplier,
    /// It has the multipoint bit.
    Multipoint,
    /// Its own discriminator is zero.
    ZeroDiscriminator,
    /// No session has the discriminator that it names.
    UnknownDiscriminator,
    /// It names no discriminator, which only a sender that is down may.
    StateWithoutDiscriminator,
    /// It names no discriminator, and there is no session with its sender.
    NoSession,
    /// The session that it names is with another sender, or over another interface.
    WrongPath,
    /// It has an authentication section, and no session uses one.
    Authentication,
    /// The session is held down by an administrator: only the peer's timers were taken from it.
    AdminDown,
}

impl Discard {
    /// All of them, in order.
    pub const ALL: [Self; 14] = [
        Self::Ttl,
        Self::Short,
        Self::Version,
        Self::LengthTooSmall,
        Self::LengthTooLarge,
        Self::ZeroMultiplier,
        Self::Multipoint,
        Self::ZeroDiscriminator,
        Self::UnknownDiscriminator,
        Self::StateWithoutDiscriminator,
        Self::NoSession,
        Self::WrongPath,
        Self::Authentication,
        Self::AdminDown,
    ];

    /// Its name in counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Short => "short",
            Self::Version => "version",
            Self::LengthTooSmall => "length-too-small",
            Self::LengthTooLarge => "length-too-large",
            Self::ZeroMultiplier => "zero-multiplier",
            Self::Multipoint => "multipoint",
            Self::ZeroDiscriminator => "zero-discriminator",
            Self::UnknownDiscriminator => "unknown-discriminator",
            Self::StateWithoutDiscriminator => "state-without-discriminator",
            Self::NoSession => "no-session",
            Self::WrongPath => "wrong-path",
            Self::Authentication => "authentication",
            Self::AdminDown => "admin-down",
        }
    }
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How many packets were discarded, by reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discards([u64; Discard::ALL.len()]);

impl Discards {
    /// How many for this reason.
    #[must_use]
    pub fn of(&self, reason: Discard) -> u64 {
        self.0[reason as usize]
    }

    /// How many for whatever reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Reasons and how many, in the order of the rules.
    pub fn iter(&self) -> impl Iterator<Item = (Discard, u64)> {
        Discard::ALL.into_iter().zip(self.0)
    }

    pub(crate) fn count(&mut self, reason: Discard) {
        self.0[reason as usize] += 1;
    }
}
