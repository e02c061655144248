//! Control packets as bytes (RFC 5880, section 4.1).
//!
//! ```text
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! ```
//!
//! Intervals are in microseconds. Reading makes the checks of section 6.8.6 that need no session.

use std::fmt;

use crate::Discard;

/// Length of a packet without authentication.
pub const LENGTH: usize = 24;

/// Shortest packet with an authentication section.
const LENGTH_WITH_AUTHENTICATION: usize = 26;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Held down by an administrator.
    AdminDown,
    /// Down, or just made.
    Down,
    /// The peer is heard; whether it hears this system is not known.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// The name in the standard.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["AdminDown", "Down", "Init", "Up"][usize::from(self.number())]
    }

    fn number(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// Of two bits.
    fn of(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a session last changed its state, as a number of five bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The peer said that the session is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// The way is known to be down by other means.
    pub const PATH_DOWN: Self = Self(5);
    /// An administrator holds the session down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// The name in the standard.
    #[must_use]
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 9] = [
            "No Diagnostic",
            "Control Detection Time Expired",
            "Echo Function Failed",
            "Neighbor Signaled Session Down",
            "Forwarding Plane Reset",
            "Path Down",
            "Concatenated Path Down",
            "Administratively Down",
            "Reverse Concatenated Path Down",
        ];
        NAMES.get(usize::from(self.0)).copied().unwrap_or("Reserved")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last changed its state.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// The sender wants an answer at once.
    pub poll: bool,
    /// This is that answer.
    pub last: bool,
    /// The sender's sessions outlive its control plane.
    pub independent: bool,
    /// An authentication section follows, which is not read.
    pub authentication: bool,
    /// The sender wants to be sent nothing while the session is up.
    pub demand: bool,
    /// How many intervals may pass without a packet.
    pub multiplier: u8,
    /// The sender's discriminator.
    pub mine: u32,
    /// The receiver's discriminator; zero if the sender does not know it.
    pub yours: u32,
    /// The interval at which the sender would like to send.
    pub desired_min_tx: u32,
    /// The interval at which the sender can receive; zero for never.
    pub required_min_rx: u32,
    /// The interval at which the sender can receive echoes; zero for never.
    pub required_min_echo_rx: u32,
}

impl Packet {
    /// Reads one.
    ///
    /// # Errors
    /// Why it must be discarded, by the rules in their order.
    pub fn read(payload: &[u8]) -> Result<Self, Discard> {
        let head: &[u8; LENGTH] = payload.first_chunk().ok_or(Discard::Short)?;
        let [first, flags, multiplier, length, ..] = *head;
        if first >> 5 != VERSION {
            return Err(Discard::Version);
        }
        let flag = |bit: u8| flags & bit != 0;
        let least = if flag(AUTHENTICATION) { LENGTH_WITH_AUTHENTICATION } else { LENGTH };
        if usize::from(length) < least {
            return Err(Discard::LengthTooSmall);
        }
        if usize::from(length) > payload.len() {
            return Err(Discard::LengthTooLarge);
        }
        if multiplier == 0 {
            return Err(Discard::ZeroMultiplier);
        }
        if flag(MULTIPOINT) {
            return Err(Discard::Multipoint);
        }
        let word = |index: usize| {
            let bytes = head.get(4 * index..).and_then(<[u8]>::first_chunk).copied();
            u32::from_be_bytes(bytes.unwrap_or_default())
        };
        let mine = word(1);
        if mine == 0 {
            return Err(Discard::ZeroDiscriminator);
        }
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state: State::of(flags >> 6),
            poll: flag(POLL),
            last: flag(FINAL),
            independent: flag(INDEPENDENT),
            authentication: flag(AUTHENTICATION),
            demand: flag(DEMAND),
            multiplier,
            mine,
            yours: word(2),
            desired_min_tx: word(3),
            required_min_rx: word(4),
            required_min_echo_rx: word(5),
        })
    }

    /// Its bytes, without an authentication section.
    #[must_use]
    pub fn bytes(&self) -> [u8; LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = self.state.number() << 6
            | flag(self.poll, POLL)
            | flag(self.last, FINAL)
            | flag(self.independent, INDEPENDENT)
            | flag(self.demand, DEMAND);
        bytes[2] = self.multiplier;
        bytes[3] = 24;
        let words = [self.mine, self.yours, self.desired_min_tx, self.required_min_rx, self.required_min_echo_rx];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}
