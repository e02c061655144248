//! The bytes of a probe and its echo: 64, and as many more as make it long.

/// Length of a short probe.
pub(super) const SIZE: usize = 64;
/// What stands where nothing is said.
pub(super) const PADDING: u8 = 0x52;
const MAGIC: [u8; 4] = *b"ripp";

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Probe = 1,
    Echo = 2,
}

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    /// Which prober: packets of another, or of an earlier one, are not ours.
    pub(super) run: u32,
    /// Which flow of the prober.
    pub(super) flow: u32,
    /// Which probe of the flow, from 0.
    pub(super) seq: u64,
}

impl Packet {
    pub(super) fn encode(self) -> [u8; SIZE] {
        let mut bytes = [PADDING; SIZE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[8..12].copy_from_slice(&self.run.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.flow.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.seq.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, more) = bytes.split_at_checked(SIZE)?;
        if bytes[..4] != MAGIC || more.iter().any(|byte| *byte != PADDING) {
            return None;
        }
        let kind = match bytes[4] {
            1 => Kind::Probe,
            2 => Kind::Echo,
            _ => return None,
        };
        let word = |at: usize| bytes[at..at + 4].try_into().ok().map(u32::from_be_bytes);
        let seq = bytes[16..24].try_into().ok().map(u64::from_be_bytes)?;
        let packet = Self { kind, run: word(8)?, flow: word(12)?, seq };
        // The rest is known as well, so a packet that was damaged is not counted.
        (packet.encode() == *bytes).then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_reads_as_it_was_written_and_a_damaged_one_does_not() {
        let packet = Packet { kind: Kind::Probe, run: 7, flow: 3, seq: u64::MAX - 1 };
        let bytes = packet.encode();
        assert_eq!(Packet::decode(&bytes), Some(packet));
        for at in [0, 4, 5, 63] {
            let mut damaged = bytes;
            damaged[at] ^= 0x80;
            assert_eq!(Packet::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(Packet::decode(&bytes[..63]), None);
        let mut long = [bytes.as_slice(), &[PADDING; 1000]].concat();
        assert_eq!(Packet::decode(&long), Some(packet));
        long[1000] = 0;
        assert_eq!(Packet::decode(&long), None);
    }
}
