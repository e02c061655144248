//! Answers to the messages of a batch.

use super::attr::Attrs;
use super::{DecodeError, Message, messages, word};
use crate::encode::{Encoded, Failure};
use crate::uapi::*;

/// The kernel refuses a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The message's number.
    pub seq: u32,
    /// The error number, positive.
    pub errno: i32,
    /// Where in the message it stumbled, counted from its header; with `NETLINK_EXT_ACK` only, and not always.
    pub offset: Option<u32>,
    /// The kernel's own words; with `NETLINK_EXT_ACK` only, and seldom.
    pub message: Option<String>,
}

/// Reads an `NLMSG_ERROR` behind its header.
pub(super) fn error(seq: u32, flags: u16, body: &[u8]) -> Message {
    let errno = word(body, 0).map_or(0, u32::cast_signed);
    if errno == 0 {
        return Message::Ack;
    }
    // Behind the number comes the refused message: its header, or with all its attributes unless it was capped.
    let original = match flags & NLM_F_CAPPED {
        0 => word(body, 4).and_then(|len| usize::try_from(len).ok()).unwrap_or(16),
        _ => 16,
    };
    let extended = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| body.get(original.checked_add(4)?.checked_next_multiple_of(4)?..))
        .flatten()
        .unwrap_or(&[]);
    // A malformed addition does not make the refusal less of one.
    let attrs = Attrs::parse(extended).unwrap_or_default();
    Message::Refused(Refusal {
        seq,
        errno: i32::try_from(errno.unsigned_abs()).unwrap_or(i32::MAX),
        offset: attrs.ne32(NLMSGERR_ATTR_OFFS),
        message: attrs.text(NLMSGERR_ATTR_MSG),
    })
}

/// Collects the answers to one batch.
///
/// The kernel answers when it has gone through the whole batch: first refusals in the order of the messages, at last
/// the consent or refusal of the last message. If it refuses the batch as a whole (the generation has changed, the
/// commit failed), the refusal carries the number of the batch's beginning, and nothing else need come.
#[derive(Debug)]
pub struct Answers {
    first: u32,
    count: u32,
    complete: bool,
    refusals: Vec<Refusal>,
}

impl Answers {
    /// Waits for the answers to this batch. Nothing is answered to an empty one.
    pub fn to(batch: &Encoded) -> Self {
        let count = batch.last_seq().wrapping_sub(batch.first_seq());
        Self { first: batch.first_seq(), count, complete: count == 0, refusals: Vec::new() }
    }

    /// Takes what one `recv` gave and says whether the answers are complete. Messages of other numbers are passed
    /// over: they answer something earlier.
    ///
    /// # Errors
    /// The bytes are no netlink.
    pub fn take(&mut self, bytes: &[u8]) -> Result<bool, DecodeError> {
        for one in messages(bytes)? {
            let index = one.seq.wrapping_sub(self.first);
            if index > self.count {
                continue;
            }
            match one.message {
                Message::Refused(refusal) => {
                    self.complete |= index == 0 || index == self.count;
                    self.refusals.push(refusal);
                }
                Message::Ack => self.complete |= index == self.count,
                _ => {}
            }
        }
        Ok(self.complete)
    }

    /// Whether the kernel took the batch; call it when [`Answers::take`] said they are complete.
    ///
    /// # Errors
    /// The first refusal, as a sentence. What follows the first is often its consequence.
    pub fn result(&self, batch: &Encoded) -> Result<(), Failure> {
        match self.refusals.first() {
            None => Ok(()),
            Some(refusal) => Err(batch.explain(refusal)),
        }
    }

    /// All refusals, in the kernel's order.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }
}
