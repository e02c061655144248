//! The pcapng file format: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>. Little-endian, one section,
//! nanoseconds.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const OPT_IF_NAME: u16 = 2;
const OPT_IF_TSRESOL: u16 = 9;
const OPT_PACKET_FLAGS: u16 = 2;

/// Writes a capture file.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
}

/// Which way a packet went through its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It was received.
    In,
    /// It was sent.
    Out,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out };
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        // Length of the section: not known.
        body.extend(u64::MAX.to_le_bytes());
        writer.block(SECTION, &body)?;
        Ok(writer)
    }

    /// Describes the next interface; they count from 0.
    pub fn interface(&mut self, name: &str, link_type: u16) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(link_type.to_le_bytes());
        body.extend([0; 2]);
        // Packets are whole.
        body.extend(0_u32.to_le_bytes());
        option(&mut body, OPT_IF_NAME, name.as_bytes());
        option(&mut body, OPT_IF_TSRESOL, &[9]);
        option(&mut body, 0, &[]);
        self.block(INTERFACE, &body)
    }

    /// Writes a packet; `at` is nanoseconds since 1970, `length` what it had on the wire.
    pub fn packet(&mut self, interface: u32, at: u64, data: &[u8], length: u32, way: Direction) -> io::Result<()> {
        let [low, high] = [at & u64::from(u32::MAX), at >> 32].map(|half| u32::try_from(half).unwrap_or_default());
        let captured = u32::try_from(data.len()).map_err(io::Error::other)?;
        let mut body = Vec::with_capacity(data.len() + 40);
        for word in [interface, high, low, captured, length] {
            body.extend(word.to_le_bytes());
        }
        padded(&mut body, data);
        let flags: u32 = if way == Direction::In { 1 } else { 2 };
        option(&mut body, OPT_PACKET_FLAGS, &flags.to_le_bytes());
        option(&mut body, 0, &[]);
        self.block(PACKET, &body)
    }

    /// Writes out what is buffered.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length)?;
        self.out.write_all(body)?;
        self.out.write_all(&length)
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    // Values are the names of devices and small numbers.
    body.extend(u16::try_from(value.len()).unwrap_or_default().to_le_bytes());
    padded(body, value);
}

fn padded(body: &mut Vec<u8>, value: &[u8]) {
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_words_with_their_length_at_both_ends() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        writer.interface("eth0", 1).unwrap();
        writer.packet(0, 0x1_0000_0002, &[1, 2, 3, 4, 5], 1500, Direction::Out).unwrap();
        writer.finish().unwrap();
        let mut kinds = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let length = word(4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(length - 4) as usize, length);
            kinds.push(word(0));
            if word(0) == PACKET {
                assert_eq!([word(8), word(12), word(16), word(20), word(24)], [0, 1, 2, 5, 1500]);
                assert_eq!(rest[28..36], [1, 2, 3, 4, 5, 0, 0, 0]);
            }
            rest = &rest[length..];
        }
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET]);
    }
}
