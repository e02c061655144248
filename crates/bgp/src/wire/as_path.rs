//! AS_PATH: the ASes that a route came through, nearest first.
//!
//! Segments of confederations are not representable: nobody here is in one, so a path with them is an error (RFC 5065).
//! Neighbouring sequences are one; how they were cut on the wire means nothing.

use std::fmt;

use super::Reader;

/// Stands for an AS number that does not fit two bytes (RFC 6793).
pub const AS_TRANS: u16 = 23_456;

const SET: u8 = 1;
const SEQUENCE: u8 = 2;

/// Part of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// ASes in order, never empty.
    Sequence(Box<[u32]>),
    /// ASes without order, made by aggregation, never empty; deprecated (RFC 9774).
    Set(Box<[u32]>),
}

/// A whole path; empty where a route begins in the own AS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AsPath(Box<[Segment]>);

impl AsPath {
    /// One sequence.
    #[must_use]
    pub fn sequence(numbers: &[u32]) -> Self {
        Self::of(vec![Segment::Sequence(numbers.into())])
    }

    /// Of segments: empty ones vanish, neighbouring sequences become one.
    #[must_use]
    pub fn of(segments: Vec<Segment>) -> Self {
        let mut all: Vec<Segment> = Vec::with_capacity(segments.len());
        for segment in segments.into_iter().filter(|segment| !segment.numbers().is_empty()) {
            match (all.last_mut(), segment) {
                (Some(Segment::Sequence(before)), Segment::Sequence(more)) => {
                    *before = [&**before, &*more].concat().into()
                }
                (_, segment) => all.push(segment),
            }
        }
        Self(all.into())
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Length as paths are compared by: a set counts one (RFC 4271 section 9.1.2.2).
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.iter().map(Segment::length).sum()
    }

    /// The nearest AS, if the path begins with a sequence.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        match self.0.first()? {
            Segment::Sequence(numbers) => numbers.first().copied(),
            Segment::Set(_) => None,
        }
    }

    /// The AS where the route begins, if the path ends with a sequence.
    #[must_use]
    pub fn origin(&self) -> Option<u32> {
        match self.0.last()? {
            Segment::Sequence(numbers) => numbers.last().copied(),
            Segment::Set(_) => None,
        }
    }

    /// Every AS, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|segment| segment.numbers().iter().copied())
    }

    /// The path with `asn` put before it `times` times.
    #[must_use]
    pub fn prepended(&self, asn: u32, times: usize) -> Self {
        let mut all = vec![Segment::Sequence(vec![asn; times].into())];
        all.extend_from_slice(&self.0);
        Self::of(all)
    }

    /// Whether it has a set.
    #[must_use]
    pub fn has_set(&self) -> bool {
        self.0.iter().any(|segment| matches!(segment, Segment::Set(_)))
    }

    /// Whether some number does not fit two bytes.
    pub(super) fn needs_four_bytes(&self) -> bool {
        self.numbers().any(|number| u16::try_from(number).is_err())
    }

    /// The path of a speaker with two-byte numbers, made whole by AS4_PATH (RFC 6793 section 4.2.3).
    pub(super) fn completed(&self, four: &Self) -> Self {
        let Some(mut lead) = self.length().checked_sub(four.length()) else { return self.clone() };
        let mut all = Vec::new();
        for segment in &self.0 {
            if lead == 0 {
                break;
            }
            match segment {
                Segment::Sequence(numbers) => {
                    let taken = numbers.len().min(lead);
                    all.push(Segment::Sequence(numbers[..taken].into()));
                    lead -= taken;
                }
                Segment::Set(_) => {
                    all.push(segment.clone());
                    lead -= 1;
                }
            }
        }
        all.extend_from_slice(&four.0);
        Self::of(all)
    }

    /// Appends the path's bytes; numbers that do not fit two bytes become [`AS_TRANS`] there.
    pub(super) fn encode(&self, out: &mut Vec<u8>, four_bytes: bool) {
        for segment in &self.0 {
            let kind = if matches!(segment, Segment::Set(_)) { SET } else { SEQUENCE };
            for part in segment.numbers().chunks(255) {
                out.extend_from_slice(&[kind, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                for number in part {
                    if four_bytes {
                        out.extend_from_slice(&number.to_be_bytes());
                    } else {
                        out.extend_from_slice(&u16::try_from(*number).unwrap_or(AS_TRANS).to_be_bytes());
                    }
                }
            }
        }
    }

    /// Reads an attribute's value; what is wrong with it otherwise (RFC 7606 section 7.2, 7607, 5065).
    pub(super) fn decode(value: &[u8], four_bytes: bool) -> Result<Self, String> {
        let mut read = Reader::new(value);
        let mut all = Vec::new();
        while !read.is_empty() {
            let (Some(kind), Some(count)) = (read.u8(), read.u8()) else {
                return Err("a segment is cut off".to_owned());
            };
            let width = if four_bytes { 4 } else { 2 };
            let Some(bytes) = read.bytes(usize::from(count) * width).filter(|bytes| !bytes.is_empty()) else {
                return Err(format!("a segment of {count} ASes with {} bytes behind it", read.rest().len()));
            };
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            let numbers: Box<[u32]> = bytes.chunks_exact(width).map(number).collect();
            if numbers.contains(&0) {
                return Err("AS 0, which nobody may be (RFC 7607)".to_owned());
            }
            all.push(match kind {
                SET => Segment::Set(numbers),
                SEQUENCE => Segment::Sequence(numbers),
                3 | 4 => return Err("a segment of a confederation from outside of one".to_owned()),
                _ => return Err(format!("a segment of type {kind}, accepted are 1 and 2")),
            });
        }
        Ok(Self::of(all))
    }
}

impl Segment {
    /// The ASes.
    #[must_use]
    pub fn numbers(&self) -> &[u32] {
        match self {
            Self::Sequence(numbers) | Self::Set(numbers) => numbers,
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Sequence(numbers) => numbers.len(),
            Self::Set(_) => 1,
        }
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, segment) in self.0.iter().enumerate() {
            let texts: Vec<String> = segment.numbers().iter().map(u32::to_string).collect();
            f.write_str(if place == 0 { "" } else { " " })?;
            match segment {
                Segment::Sequence(_) => f.write_str(&texts.join(" "))?,
                Segment::Set(_) => write!(f, "{{{}}}", texts.join(","))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_two_bytes_is_completed() {
        let short = AsPath::sequence(&[100, 23_456, 23_456, 200]);
        let four = AsPath::sequence(&[70_000, 80_000, 200]);
        assert_eq!(short.completed(&four).to_string(), "100 70000 80000 200");
        assert_eq!(AsPath::sequence(&[1]).completed(&four).to_string(), "1", "a longer AS4_PATH is not believed");
        let with_set = AsPath::of(vec![Segment::Set([1, 2].into()), Segment::Sequence([23_456].into())]);
        assert_eq!(with_set.completed(&AsPath::sequence(&[70_000])).to_string(), "{1,2} 70000");
        assert_eq!(short.completed(&AsPath::default()), short);
    }

    #[test]
    fn long_paths_are_cut_on_the_wire_only() {
        let path = AsPath::sequence(&[7]).prepended(70_000, 300);
        let mut bytes = Vec::new();
        path.encode(&mut bytes, true);
        assert_eq!(bytes.len(), 2 * 2 + 301 * 4);
        assert_eq!(AsPath::decode(&bytes, true), Ok(path.clone()));
        assert_eq!((path.length(), path.first(), path.origin()), (301, Some(70_000), Some(7)));
    }
}
