//! Frames on their way out, gathered into messages: frames of one size for one peer leave by one system call and, until
//! the last device, as one packet.
//!
//! Invariant: frames for one peer leave in the order in which they came.

use crate::routes::PeerId;
use crate::sys::Piece;
use crate::sys::udp::{MOST_BYTES, MOST_SEGMENTS};

/// Frames of one size, the last perhaps shorter, for one peer.
#[derive(Debug, Default)]
pub struct Letter {
    /// To whom.
    pub peer: PeerId,
    /// Type of service of the outer header.
    pub tos: u8,
    /// Bytes of each frame but the last.
    pub size: usize,
    /// How many.
    pub frames: usize,
    /// Bytes of all.
    pub bytes: usize,
    /// The bytes, in order.
    pub pieces: Vec<Piece>,
    closed: bool,
}

impl Letter {
    /// The segment size to tell the kernel; nothing for one frame.
    #[must_use]
    pub fn segment(&self) -> Option<u16> {
        if self.frames > 1 { u16::try_from(self.size).ok() } else { None }
    }

    /// The frames one by one, each as its pieces.
    pub fn each(&self) -> impl Iterator<Item = &[Piece]> {
        let mut left = self.pieces.as_slice();
        std::iter::from_fn(move || {
            let mut length = 0;
            let end = left.iter().position(|piece| {
                length += piece.length;
                length >= self.size
            });
            let (frame, rest) = left.split_at(end.map_or(left.len(), |end| end + 1));
            left = rest;
            (!frame.is_empty()).then_some(frame)
        })
    }
}

/// A batch of letters. Its memory is used again by the next.
#[derive(Debug, Default)]
pub struct Outbox {
    letters: Vec<Letter>,
    used: usize,
}

impl Outbox {
    /// Begins a batch.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// The letters, in the order in which they are to leave.
    #[must_use]
    pub fn letters(&self) -> &[Letter] {
        &self.letters[..self.used]
    }

    /// Adds a frame.
    pub fn add(&mut self, peer: PeerId, tos: u8, pieces: &[Piece]) {
        let length = pieces.iter().map(|piece| piece.length).sum();
        // Only the peer's last letter may grow: an earlier one would let this frame overtake.
        let last = self.letters[..self.used].iter_mut().rev().find(|letter| letter.peer == peer);
        if let Some(letter) = last.filter(|letter| letter.takes(tos, length)) {
            letter.put(length, pieces);
            return;
        }
        if self.used == self.letters.len() {
            self.letters.push(Letter::default());
        }
        let letter = &mut self.letters[self.used];
        self.used += 1;
        letter.pieces.clear();
        (letter.peer, letter.tos, letter.size, letter.frames, letter.bytes) = (peer, tos, length, 0, 0);
        letter.put(length, pieces);
        letter.closed = false;
    }
}

impl Letter {
    fn takes(&self, tos: u8, length: usize) -> bool {
        !self.closed
            && self.tos == tos
            && length <= self.size
            && self.frames < MOST_SEGMENTS
            && self.bytes + length <= MOST_BYTES
    }

    fn put(&mut self, length: usize, pieces: &[Piece]) {
        self.pieces.extend_from_slice(pieces);
        self.frames += 1;
        self.bytes += length;
        self.closed = length < self.size;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(start: usize, length: usize) -> Piece {
        Piece { buffer: 0, start, length }
    }

    #[test]
    fn frames_of_one_size_share_a_letter_until_a_shorter_one() {
        let mut outbox = Outbox::default();
        for length in [100, 100, 60, 60, 100, 120] {
            outbox.add(1, 0, &[piece(0, 40), piece(0, length - 40)]);
        }
        outbox.add(1, 2, &[piece(0, 120)]);
        let shape: Vec<_> =
            outbox.letters().iter().map(|letter| (letter.frames, letter.bytes, letter.segment())).collect();
        assert_eq!(shape, [(3, 260, Some(100)), (1, 60, None), (1, 100, None), (1, 120, None), (1, 120, None)]);
    }

    #[test]
    fn a_letter_is_never_more_than_the_kernel_takes() {
        let mut outbox = Outbox::default();
        (0..70).for_each(|_| outbox.add(1, 0, &[piece(0, 50)]));
        (0..50).for_each(|_| outbox.add(2, 0, &[piece(0, 1472)]));
        let frames: Vec<usize> = outbox.letters().iter().map(|letter| letter.frames).collect();
        assert_eq!(frames, [64, 6, 44, 6]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_overtaken(frames in proptest::collection::vec((0u32..3, 1usize..5, 0u8..2), 0..200)) {
            let mut outbox = Outbox::default();
            for (number, (peer, size, tos)) in frames.iter().enumerate() {
                outbox.add(*peer, *tos, &[piece(number, 7), piece(0, size * 10)]);
            }
            for peer in 0..3 {
                let left: Vec<usize> = outbox.letters().iter().filter(|letter| letter.peer == peer)
                    .flat_map(|letter| letter.each().map(|frame| frame[0].start)).collect();
                let came: Vec<usize> = (0..frames.len()).filter(|number| frames[*number].0 == peer).collect();
                prop_assert_eq!(left, came);
            }
        }
    }
}
