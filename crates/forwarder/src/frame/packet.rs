//! What an IP header says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::word;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Bytes that are no IP packet, or a packet whose parts contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// An IP header (RFC 791, RFC 8200) whose lengths fit the bytes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// True for IPv4.
    pub v4: bool,
    /// Length of the IP header: of IPv6 the fixed 40 bytes.
    pub header: usize,
    /// Length of the packet as it says; not more than there are bytes.
    pub total: usize,
    /// Protocol of what follows the header; of IPv6 the first next header.
    pub protocol: u8,
    /// Type of service or traffic class; the low two bits are ECN.
    pub tos: u8,
    /// Part of a fragmented packet (IPv4 only; of IPv6 an extension header).
    pub fragment: bool,
    /// Routers must not fragment it: the bit of IPv4, always for IPv6.
    pub dont_fragment: bool,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
}

impl Ip {
    /// Reads the header of a packet. Bytes behind the packet's own length are allowed.
    ///
    /// # Errors
    /// Where it is no IP packet, or is cut short.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::read_v4(bytes),
            Some(6) => Self::read_v6(bytes),
            Some(_) => Err(Malformed("the version is neither 4 nor 6")),
            None => Err(Malformed("empty")),
        }
    }

    fn read_v4(bytes: &[u8]) -> Result<Self, Malformed> {
        let Some(fixed) = bytes.first_chunk::<20>() else { return Err(Malformed("shorter than an IPv4 header")) };
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(word(fixed, 2));
        if header < 20 || header > total {
            return Err(Malformed("the IPv4 header's length does not fit"));
        }
        if total > bytes.len() {
            return Err(Malformed("shorter than its IPv4 header says"));
        }
        let flags = word(fixed, 6);
        Ok(Self {
            v4: true,
            header,
            total,
            protocol: fixed[9],
            tos: fixed[1],
            fragment: flags & 0x3fff != 0,
            dont_fragment: flags & 0x4000 != 0,
            source: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
            destination: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
        })
    }

    fn read_v6(bytes: &[u8]) -> Result<Self, Malformed> {
        let Some(fixed) = bytes.first_chunk::<40>() else { return Err(Malformed("shorter than an IPv6 header")) };
        let total = 40 + usize::from(word(fixed, 4));
        if total > bytes.len() {
            return Err(Malformed("shorter than its IPv6 header says"));
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fixed[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Ok(Self {
            v4: false,
            header: 40,
            total,
            protocol: fixed[6],
            tos: (fixed[0] << 4) | (fixed[1] >> 4),
            fragment: false,
            dont_fragment: true,
            source: address(8),
            destination: address(24),
        })
    }

    /// Reads the header of a packet whose first bytes only are at hand.
    #[must_use]
    pub fn read_head(bytes: &[u8]) -> Option<Self> {
        let mut room = [0; 60];
        let length = bytes.len().min(60);
        room[..length].copy_from_slice(&bytes[..length]);
        // The lengths are not of interest: they are made to fit.
        match room[0] >> 4 {
            4 => {
                let header = u16::from(room[0] & 0x0f) * 4;
                super::checksum::put(&mut room, 2, header);
            }
            _ => super::checksum::put(&mut room, 4, 0),
        }
        Self::read(&room).ok()
    }

    /// Where the two addresses stand, one behind the other.
    #[must_use]
    pub fn addresses(&self) -> std::ops::Range<usize> {
        if self.v4 { 12..20 } else { 8..40 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let mut packet = [0u8; 40];
        packet[0] = 0x45;
        packet[3] = 40;
        assert!(Ip::read(&packet).is_ok());
        assert_eq!(Ip::read(&packet[..39]), Err(Malformed("shorter than its IPv4 header says")));
        packet[0] = 0x44;
        assert!(Ip::read(&packet).is_err());
        packet[0] = 0x4f;
        assert!(Ip::read(&packet).is_err(), "a header of 60 bytes in a packet of 40");
        packet[0] = 0x60;
        packet[5] = 1;
        assert_eq!(Ip::read(&packet), Err(Malformed("shorter than its IPv6 header says")));
        packet[0] = 0x50;
        assert!(Ip::read(&packet).is_err());
        assert!(Ip::read(&[]).is_err());
    }

    #[test]
    fn the_traffic_class_lies_across_two_bytes() {
        let mut packet = [0u8; 40];
        packet[0] = 0x6a;
        packet[1] = 0xb0;
        assert_eq!(Ip::read(&packet).map(|ip| ip.tos), Ok(0xab));
    }
}
