//! The self-test of checksums in a tunnel: two packets, one as pods' packets leave, whose checksum is left to be filled in on
//! the way, and one whose checksum is complete. Where only the second arrives, something on the way does not fill in. As long
//! as the first arrives, the second is not sent.

use std::net::IpAddr;

use ripstop_types::Millis;

use crate::together;

/// How long answers are waited for, in milliseconds.
const WAIT_MS: u64 = 250;

/// Pause before a test that failed is repeated.
const AGAIN_MS: u64 = 100;

/// Tests with both packets that must fail in a row, after the one that gave rise to them: on a way that loses packets of any
/// kind, some do.
const TRIES: u32 = 4;

/// The test of one peer's end of a tunnel.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) due: Millis,
    /// Numbers of the packets under way: left to be filled in, complete. Zero is none's.
    sent: Option<[u64; 2]>,
    heard: [bool; 2],
    /// The last packet to be filled in did not arrive: the complete one goes along.
    doubt: bool,
    misses: u32,
}

/// What comes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Packets are to be sent: the one to be filled in, and the complete one too where that is in doubt.
    Send { both: bool },
    /// Checksums come right.
    Fine,
    /// They do not.
    Broken,
    /// Nothing new.
    Nothing,
}

impl Check {
    pub(crate) fn new(address: IpAddr, port: u16, due: Millis) -> Self {
        Self { address, port, due, sent: None, heard: [false; 2], doubt: false, misses: 0 }
    }

    /// The packets of a test got these numbers.
    pub(crate) fn note_sent(&mut self, ids: [u64; 2], now: Millis) {
        self.sent = Some(ids);
        self.heard = [false; 2];
        self.due = now.plus(WAIT_MS);
    }

    /// An answer came.
    pub(crate) fn take(&mut self, id: u64, now: Millis) {
        let Some(place) = self.sent.and_then(|ids| ids.iter().position(|sent| *sent == id)) else { return };
        self.heard[place] = true;
        if self.heard[0] && (self.heard[1] || !self.doubt) {
            self.due = now;
        }
    }

    /// It is due.
    pub(crate) fn step(&mut self, now: Millis, interval: u64) -> Step {
        if self.sent.take().is_none() {
            return Step::Send { both: self.doubt };
        }
        match self.heard {
            [true, _] => {
                (self.doubt, self.misses) = (false, 0);
                self.due = together(now, interval);
                Step::Fine
            }
            _ if !self.doubt => {
                self.doubt = true;
                self.due = now;
                Step::Nothing
            }
            [false, true] => {
                self.misses += 1;
                self.due = now.plus(AGAIN_MS);
                if self.misses < TRIES { Step::Nothing } else { Step::Broken }
            }
            // The peer is away: that says nothing of checksums.
            [false, false] => {
                (self.doubt, self.misses) = (false, 0);
                self.due = together(now, interval);
                Step::Nothing
            }
        }
    }
}
