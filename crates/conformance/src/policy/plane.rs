//! What a suite of packets runs on, and the model that others are compared with.

use ripstop_oracle::policy::{Packet, World, judge};

use super::Change;
use crate::case::Verdict;

/// Something that holds packets to policies: rules in a kernel, a simulation, a model.
///
/// What one cannot show it says by [`super::Stop::Skip`], with the reason.
pub trait DataPlane {
    /// Begins anew: there are no nodes, no pods and no policies.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn begin(&mut self) -> Verdict;

    /// Follows what happens to the cluster.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn follow(&mut self, changes: &[Change]) -> Verdict;

    /// Whether this packet can be sent.
    fn shows(&self, _packet: &Packet) -> bool {
        true
    }

    /// Sends packets that can be shown, all at once, and gives what became of each.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn send(&mut self, packets: &[Packet]) -> Verdict<Vec<Fate>>;

    /// The same, by one that takes its time to follow changes: it may send again until each fares as expected.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn send_until(&mut self, packets: &[Packet], _expected: &[Fate]) -> Verdict<Vec<Fate>> {
        self.send(packets)
    }
}

/// What became of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It came to where it was sent, and an answer came back.
    Arrived,
    /// It came there, and no answer came back.
    Unanswered,
    /// It came elsewhere, or with other addresses or ports.
    Strayed,
    /// Its sender was told that it is not taken.
    Refused,
    /// Nothing was heard of it.
    Nothing,
}

impl Fate {
    /// For a person.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "it arrived",
            Self::Unanswered => "it arrived, and its answer did not come back",
            Self::Strayed => "it arrived elsewhere or was changed",
            Self::Refused => "it was refused",
            Self::Nothing => "nothing was heard of it",
        }
    }
}

/// The model: whoever judges as it does is right.
#[derive(Debug, Default)]
pub struct Oracle {
    world: World,
}

impl DataPlane for Oracle {
    fn begin(&mut self) -> Verdict {
        self.world = World::default();
        Ok(())
    }

    fn follow(&mut self, changes: &[Change]) -> Verdict {
        changes.iter().for_each(|change| change.apply(&mut self.world));
        Ok(())
    }

    fn send(&mut self, packets: &[Packet]) -> Verdict<Vec<Fate>> {
        let fate = |packet| if judge(&self.world, packet).is_accepted() { Fate::Arrived } else { Fate::Nothing };
        Ok(packets.iter().map(fate).collect())
    }
}
