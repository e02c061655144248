//! A netlink message written attribute by attribute, and read the same way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::uapi::{NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_REQUEST};

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// A message to the kernel. Length and sequence number are filled in by the socket.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(super) bytes: Vec<u8>,
}

impl Message {
    /// A message of a type (`RTM_*`) with flags (`NLM_F_*`; REQUEST is implied) and a fixed family header.
    pub(crate) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(family_header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// An attribute of raw bytes.
    pub(crate) fn bytes(mut self, kind: u16, data: &[u8]) -> Self {
        self.put(kind, data);
        self
    }

    /// An attribute of one byte.
    pub(crate) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// An attribute of 16 bits in host order.
    pub(crate) fn u16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// An attribute of 16 bits in network order.
    pub(crate) fn be16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute of 32 bits in network order.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute of 32 bits in host order.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// An attribute of 64 bits in host order.
    pub(crate) fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// An attribute of text with a terminating zero.
    pub(crate) fn str(mut self, kind: u16, text: &str) -> Self {
        let at = self.open(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.close(at);
        self
    }

    /// An attribute of an address in network order.
    pub(crate) fn ip(self, kind: u16, ip: IpAddr) -> Self {
        let (bytes, len) = ip_bytes(ip);
        self.bytes(kind, &bytes[..len])
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let at = self.open(kind | NLA_F_NESTED);
        let mut filled = fill(self);
        filled.close(at);
        filled
    }

    /// Raw bytes inside an attribute, before the attributes that follow in it (`struct ifinfomsg` of a veth's peer).
    pub(crate) fn raw(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self.pad();
        self
    }

    fn put(&mut self, kind: u16, data: &[u8]) {
        let at = self.open(kind);
        self.bytes.extend_from_slice(data);
        self.close(at);
    }

    fn open(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    fn close(&mut self, at: usize) {
        // An attribute is at most 64 KiB; nothing of ours comes near.
        let len = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Fills in length, sequence number and further flags.
    pub(super) fn seal(&mut self, seq: u32, more_flags: u16) {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | more_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&seq.to_ne_bytes());
    }
}

/// The bytes of an address, in network order.
pub(crate) fn ip_bytes(ip: IpAddr) -> ([u8; 16], usize) {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            (bytes, 4)
        }
        IpAddr::V6(ip) => (ip.octets(), 16),
    }
}

/// An address of 4 or 16 bytes; `None` for any other length.
pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(four)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| IpAddr::V6(Ipv6Addr::from(sixteen)))
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply<'a> {
    /// `RTM_*`.
    pub(crate) kind: u16,
    /// `NLM_F_*`.
    pub(crate) flags: u16,
    /// Port id of the socket whose request this answers or reports; 0 is the kernel itself.
    pub(crate) port: u32,
    /// Everything behind the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The fixed family header and the attributes behind it; `None` if the message is too short.
    pub(crate) fn split<const N: usize>(&self) -> Option<(&'a [u8; N], Attrs<'a>)> {
        let header = self.body.first_chunk::<N>()?;
        Some((header, Attrs(self.body.get(N.next_multiple_of(4)..).unwrap_or_default())))
    }
}

/// Attributes, in the order in which they came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    /// The first attribute of a type.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(k, _)| *k == kind).map(|(_, data)| data)
    }

    pub(crate) fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind).and_then(|data| data.first().copied())
    }

    pub(crate) fn u16(self, kind: u16) -> Option<u16> {
        self.get(kind).and_then(|data| data.first_chunk().copied()).map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(|data| data.first_chunk().copied()).map(u32::from_ne_bytes)
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(|data| data.first_chunk().copied()).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind).and_then(|data| data.first_chunk().copied()).map(u64::from_ne_bytes)
    }

    pub(crate) fn be16(self, kind: u16) -> Option<u16> {
        self.get(kind).and_then(|data| data.first_chunk().copied()).map(u16::from_be_bytes)
    }

    /// Text up to its terminating zero; `None` if it is not UTF-8.
    pub(crate) fn str(self, kind: u16) -> Option<&'a str> {
        self.get(kind).and_then(text)
    }

    /// The attributes inside an attribute; none if it is absent.
    pub(crate) fn nested(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }
}

/// Text up to its terminating zero.
pub(crate) fn text(data: &[u8]) -> Option<&str> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    std::str::from_utf8(&data[..end]).ok()
}

impl<'a> IntoIterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);
    type IntoIter = AttrIter<'a>;

    fn into_iter(self) -> AttrIter<'a> {
        AttrIter(self.0)
    }
}

/// Iterator over attributes: type without its flag bits, and data. Ends at the first malformed one.
#[derive(Debug)]
pub(crate) struct AttrIter<'a>(&'a [u8]);

impl<'a> Iterator for AttrIter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK;
        let data = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    }
}

/// The messages of one dump, in one piece of memory.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    bytes: Vec<u8>,
    at: Vec<(u16, u16, u32, std::ops::Range<usize>)>,
}

impl Replies {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.at.clear();
    }

    pub(super) fn push(&mut self, reply: Reply<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(reply.body);
        self.at.push((reply.kind, reply.flags, reply.port, start..self.bytes.len()));
    }

    /// Every message, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Reply<'_>> {
        self.at.iter().map(|(kind, flags, port, range)| Reply {
            kind: *kind,
            flags: *flags,
            port: *port,
            body: &self.bytes[range.clone()],
        })
    }

    /// The first message.
    pub(crate) fn first(&self) -> Option<Reply<'_>> {
        self.iter().next()
    }
}

/// A message's type, and what stands behind its header.
#[cfg(test)]
pub(crate) fn message_bytes(message: &Message) -> (u16, Vec<u8>) {
    (u16::from_ne_bytes([message.bytes[4], message.bytes[5]]), message.bytes[HEADER..].to_vec())
}

/// What a kernel might answer.
#[cfg(test)]
pub(crate) fn reply_to(kind: u16, body: &[u8]) -> Reply<'_> {
    Reply { kind, flags: 0, port: 0, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let message = Message::new(24, 0, &[2, 0, 0, 0])
            .u8(1, 7)
            .str(3, "eth0")
            .nest(18, |m| m.u32(1, 99).nest(2, |m| m.raw(&[1; 16]).ip(4, "fd00::1".parse().unwrap())))
            .be16(15, 4789)
            .u64(4, 1 << 40);
        let reply = Reply { kind: 24, flags: 0, port: 0, body: &message.bytes[HEADER..] };
        let (family, attrs) = reply.split::<4>().unwrap();
        assert_eq!(family, &[2, 0, 0, 0]);
        assert_eq!(attrs.u8(1), Some(7));
        assert_eq!(attrs.str(3), Some("eth0"));
        assert_eq!(attrs.nested(18).u32(1), Some(99));
        let peer = attrs.nested(18).get(2).unwrap();
        assert_eq!(Attrs(&peer[16..]).get(4).and_then(read_ip), Some("fd00::1".parse().unwrap()));
        assert_eq!(attrs.be16(15), Some(4789));
        assert_eq!(attrs.u64(4), Some(1 << 40));
        assert_eq!(message.bytes.len() % 4, 0);
    }

    #[test]
    fn malformed_attributes_end_the_reading() {
        for bytes in [&[3, 0, 1, 0][..], &[0, 0, 0, 0], &[200, 0, 1, 0, 1], &[8, 0]] {
            assert_eq!(Attrs(bytes).into_iter().count(), 0, "{bytes:?}");
        }
    }
}
