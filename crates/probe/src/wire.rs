//! Probes and answers as bytes: 32 bytes, in a probe filled up with zeros to the length that is tried.
//!
//! | bytes | what |
//! |---|---|
//! | 0–3 | `rips` |
//! | 4 | version, 1 |
//! | 5 | 1 probe, 2 answer |
//! | 6–7 | of an answer: length of the probe's payload as it came, big endian |
//! | 8–15 | token of the one who asks |
//! | 16–23 | number of the probe |
//! | 24–31 | zero |
//!
//! An answer is never longer than a probe, so that nobody can be flooded with answers.

/// Length of an answer and of the shortest probe.
pub const LENGTH: usize = 32;

/// Longest payload of a probe.
pub const LONGEST: usize = 65_507;

const MAGIC: [u8; 4] = *b"rips";
const VERSION: u8 = 1;
const PROBE: u8 = 1;
const ANSWER: u8 = 2;

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The token of the one who asked.
    pub token: u64,
    /// The probe's number.
    pub id: u64,
    /// Bytes of the probe's payload as it came.
    pub length: u16,
}

/// The first bytes of a probe; the rest is zeros.
#[must_use]
pub fn probe(token: u64, id: u64) -> [u8; LENGTH] {
    message(PROBE, 0, token, id)
}

/// The answer to a probe; `None` for what is none.
#[must_use]
pub fn answer_to(payload: &[u8]) -> Option<[u8; LENGTH]> {
    let (token, id) = read(payload, PROBE)?;
    Some(message(ANSWER, u16::try_from(payload.len()).ok()?, token, id))
}

/// Reads an answer; `None` for what is none.
#[must_use]
pub fn read_answer(payload: &[u8]) -> Option<Answer> {
    let (token, id) = read(payload, ANSWER).filter(|_| payload.len() == LENGTH)?;
    Some(Answer { token, id, length: u16::from_be_bytes(*payload.get(6..)?.first_chunk()?) })
}

fn message(kind: u8, length: u16, token: u64, id: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[5] = kind;
    bytes[6..8].copy_from_slice(&length.to_be_bytes());
    bytes[8..16].copy_from_slice(&token.to_be_bytes());
    bytes[16..24].copy_from_slice(&id.to_be_bytes());
    bytes
}

fn read(payload: &[u8], kind: u8) -> Option<(u64, u64)> {
    let head: &[u8; LENGTH] = payload.first_chunk()?;
    if head[..4] != MAGIC || head[4] != VERSION || head[5] != kind {
        return None;
    }
    let number = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    Some((number(8)?, number(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_long_the_probe_was_and_is_as_long_as_the_shortest() {
        let mut payload = probe(7, 9).to_vec();
        payload.resize(1472, 0);
        let answer = answer_to(&payload).unwrap();
        assert_eq!(read_answer(&answer), Some(Answer { token: 7, id: 9, length: 1472 }));
        assert!(answer.len() <= probe(7, 9).len());
    }

    #[test]
    fn what_is_no_probe_has_no_answer() {
        let good = probe(1, 2);
        for (at, byte) in [(0, b'R'), (4, 2), (5, ANSWER), (5, 0)] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(answer_to(&bad), None, "{bad:?}");
        }
        assert_eq!(answer_to(&good[..LENGTH - 1]), None);
        assert_eq!(answer_to(&[]), None);
        assert_eq!(read_answer(&good), None, "a probe is no answer");
        let mut long = answer_to(&good).unwrap().to_vec();
        long.push(0);
        assert_eq!(read_answer(&long), None);
    }
}
