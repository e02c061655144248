//! Capabilities of an OPEN (RFC 5492). One that is not known is kept as it came; one that is damaged is an error of the OPEN.

use ripstop_types::Family;

use super::Reader;

/// An address family with its subsequent identifier, as numbers: a peer may name any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AfiSafi {
    /// Address family: 1 IPv4, 2 IPv6.
    pub afi: u16,
    /// Subsequent identifier: 1 unicast.
    pub safi: u8,
}

impl AfiSafi {
    /// Unicast of a family.
    #[must_use]
    pub fn unicast(family: Family) -> Self {
        Self { afi: if family == Family::V4 { 1 } else { 2 }, safi: 1 }
    }

    /// The family, if it is unicast of one that is known.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        match (self.afi, self.safi) {
            (1, 1) => Some(Family::V4),
            (2, 1) => Some(Family::V6),
            _ => None,
        }
    }
}

/// Who may send several paths to a prefix, from the speaker's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddPathMode {
    /// It takes them.
    Receive,
    /// It sends them.
    Send,
    /// Both.
    Both,
}

impl AddPathMode {
    /// Whether the speaker sends several paths.
    #[must_use]
    pub fn sends(self) -> bool {
        self != Self::Receive
    }

    /// Whether the speaker takes several paths.
    #[must_use]
    pub fn receives(self) -> bool {
        self != Self::Send
    }
}

/// A family for which a speaker restarts gracefully.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartFamily {
    /// The family.
    pub family: AfiSafi,
    /// Whether forwarding went on while the speaker was away.
    pub forwarding: bool,
}

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// Routes of a family (RFC 4760).
    Multiprotocol(AfiSafi),
    /// It sends its routes again when asked (RFC 2918).
    RouteRefresh,
    /// Next hops of another family: family, and the next hop's address family (RFC 8950).
    ExtendedNextHop(Vec<(AfiSafi, u16)>),
    /// Messages up to 65,535 bytes (RFC 8654).
    ExtendedMessage,
    /// Graceful restart (RFC 4724), with the bit of notifications (RFC 8538).
    GracefulRestart {
        /// The speaker has restarted.
        restarted: bool,
        /// Routes are kept when a notification ends the session, unless that is a hard reset.
        notification: bool,
        /// Seconds within which it will be back, 12 bits.
        seconds: u16,
        /// The families.
        families: Vec<RestartFamily>,
    },
    /// AS numbers of four bytes, and the speaker's (RFC 6793).
    FourByteAs(u32),
    /// Several paths to a prefix (RFC 7911). A mode that does not exist is left out, as the RFC says.
    AddPath(Vec<(AfiSafi, AddPathMode)>),
    /// Marks of begin and end when routes are sent again (RFC 7313).
    EnhancedRefresh,
    /// Any other.
    Unknown {
        /// Its code.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

mod code {
    pub const MULTIPROTOCOL: u8 = 1;
    pub const ROUTE_REFRESH: u8 = 2;
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    pub const EXTENDED_MESSAGE: u8 = 6;
    pub const GRACEFUL_RESTART: u8 = 64;
    pub const FOUR_BYTE_AS: u8 = 65;
    pub const ADD_PATH: u8 = 69;
    pub const ENHANCED_REFRESH: u8 = 70;
}

impl Capability {
    /// Appends code, length and value.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[self.code(), 0]);
        match self {
            Self::Multiprotocol(family) => {
                out.extend_from_slice(&family.afi.to_be_bytes());
                out.extend_from_slice(&[0, family.safi]);
            }
            Self::RouteRefresh | Self::ExtendedMessage | Self::EnhancedRefresh => {}
            Self::ExtendedNextHop(all) => {
                for (family, next_hop) in all.iter().take(42) {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[0, family.safi]);
                    out.extend_from_slice(&next_hop.to_be_bytes());
                }
            }
            Self::GracefulRestart { restarted, notification, seconds, families } => {
                let flags = u16::from(*restarted) << 15 | u16::from(*notification) << 14;
                out.extend_from_slice(&(flags | (*seconds).min(0xfff)).to_be_bytes());
                for RestartFamily { family, forwarding } in families.iter().take(63) {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, u8::from(*forwarding) << 7]);
                }
            }
            Self::FourByteAs(number) => out.extend_from_slice(&number.to_be_bytes()),
            Self::AddPath(all) => {
                for (family, mode) in all.iter().take(63) {
                    let mode = match mode {
                        AddPathMode::Receive => 1,
                        AddPathMode::Send => 2,
                        AddPathMode::Both => 3,
                    };
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, mode]);
                }
            }
            Self::Unknown { value, .. } => out.extend_from_slice(&value[..value.len().min(255)]),
        }
        out[start + 1] = u8::try_from(out.len() - start - 2).unwrap_or(u8::MAX);
    }

    fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => code::MULTIPROTOCOL,
            Self::RouteRefresh => code::ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => code::EXTENDED_NEXT_HOP,
            Self::ExtendedMessage => code::EXTENDED_MESSAGE,
            Self::GracefulRestart { .. } => code::GRACEFUL_RESTART,
            Self::FourByteAs(_) => code::FOUR_BYTE_AS,
            Self::AddPath(_) => code::ADD_PATH,
            Self::EnhancedRefresh => code::ENHANCED_REFRESH,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// The capability of that code; `None` where its length is not one that it can have.
    pub(super) fn decode(code: u8, value: &[u8]) -> Option<Self> {
        let mut read = Reader::new(value);
        let found = match code {
            code::MULTIPROTOCOL => {
                let (afi, _, safi) = (read.u16()?, read.u8()?, read.u8()?);
                Self::Multiprotocol(AfiSafi { afi, safi })
            }
            code::ROUTE_REFRESH => Self::RouteRefresh,
            code::EXTENDED_MESSAGE => Self::ExtendedMessage,
            code::ENHANCED_REFRESH => Self::EnhancedRefresh,
            code::EXTENDED_NEXT_HOP => {
                let mut all = Vec::new();
                while !read.is_empty() {
                    let (afi, safi, next_hop) = (read.u16()?, read.u16()?, read.u16()?);
                    // A wider number than any that exists is none of ours.
                    all.extend(u8::try_from(safi).ok().map(|safi| (AfiSafi { afi, safi }, next_hop)));
                }
                Self::ExtendedNextHop(all)
            }
            code::GRACEFUL_RESTART => {
                let head = read.u16()?;
                let mut families = Vec::new();
                while !read.is_empty() {
                    let (afi, safi, flags) = (read.u16()?, read.u8()?, read.u8()?);
                    families.push(RestartFamily { family: AfiSafi { afi, safi }, forwarding: flags & 0x80 != 0 });
                }
                let (restarted, notification) = (head & 0x8000 != 0, head & 0x4000 != 0);
                Self::GracefulRestart { restarted, notification, seconds: head & 0xfff, families }
            }
            code::FOUR_BYTE_AS => Self::FourByteAs(read.u32()?),
            code::ADD_PATH => {
                let mut all = Vec::new();
                while !read.is_empty() {
                    let (afi, safi, mode) = (read.u16()?, read.u8()?, read.u8()?);
                    let mode = match mode {
                        1 => AddPathMode::Receive,
                        2 => AddPathMode::Send,
                        3 => AddPathMode::Both,
                        _ => continue,
                    };
                    all.push((AfiSafi { afi, safi }, mode));
                }
                Self::AddPath(all)
            }
            _ => return Some(Self::Unknown { code, value: value.to_vec() }),
        };
        read.is_empty().then_some(found)
    }
}
