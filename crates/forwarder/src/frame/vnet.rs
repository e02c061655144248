//! The header before each packet of a TUN device with `IFF_VNET_HDR`: `struct virtio_net_hdr` of the kernel's
//! `linux/virtio_net.h`, in the machine's byte order.

/// Length in bytes.
pub const LEN: usize = 10;

/// The checksum field holds the pseudo-header's sum only and is to be completed.
pub const NEEDS_CSUM: u8 = 1;

/// How a packet is to be cut, without the flag [`GSO_ECN`].
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP: datagrams of one size.
pub const GSO_UDP_L4: u8 = 5;
/// The TCP packet has CWR set, which belongs to its first segment.
pub const GSO_ECN: u8 = 0x80;

/// One header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vnet {
    /// [`NEEDS_CSUM`] or nothing.
    pub flags: u8,
    /// One of the `GSO_` numbers.
    pub gso_type: u8,
    /// Length of all headers; only a hint.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where its field lies, counted from there.
    pub csum_offset: u16,
}

impl Vnet {
    /// Reads one; `None` where there are too few bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.first_chunk()?;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let header = Vnet { flags: 1, gso_type: 0x81, hdr_len: 40, gso_size: 1432, csum_start: 20, csum_offset: 16 };
        assert_eq!(Vnet::read(&header.bytes()), Some(header));
        assert_eq!(Vnet::read(&[0; 9]), None);
    }
}
