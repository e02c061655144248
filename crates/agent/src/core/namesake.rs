//! Another machine with this node's name: alive it is refused nothing, dead it loses the name to this one.
//!
//! A machine that was installed anew has the name of the one it was, and another identity. It takes the name over when the
//! other shows no sign of life. It takes nothing else: **the other's ranges stay the other's** until `ripstop ipam release`
//! or `ripstop delete node`, because silence does not prove that its pods do not send. Should it come back, it finds its
//! name taken, says so, shows no sign of life and gives no address; its ranges are still its own, so no address is two
//! machines'.

use std::collections::BTreeSet;

use ripstop_ipam::ranges::Life;
use ripstop_tables::Change;

use super::{Core, Level};

/// So much longer must a machine be silent that is not known to be the one this was: none of its addresses is this one's.
const STRANGERS_PATIENCE: u64 = 6;

impl Core {
    /// Whether the other machine's silence lasted long enough. A change of that is a change of this node's record.
    pub(super) fn judge_namesake(&mut self) -> BTreeSet<Change> {
        let conflict = self.name_conflict();
        let gone = conflict.is_some()
            && matches!(self.liveness.life(&self.tables.node), Life::Stale(age) if age >= self.namesake_patience());
        if gone == self.tables.namesake_gone {
            return BTreeSet::new();
        }
        self.tables.namesake_gone = gone;
        if let Some(other) = self.tables.nodes.get(&self.tables.node).filter(|_| gone) {
            let text = format!(
                "this machine takes the name {} over from machine {}, which is {}; that one's ranges stay its own until \
                 `ripstop ipam release`",
                self.tables.node,
                other.value.identity.machine_id,
                self.liveness.life(&self.tables.node)
            );
            self.log(Level::Warn, text);
        }
        BTreeSet::from([Change::Node(self.tables.node.clone())])
    }

    /// What becomes of a conflict by itself.
    pub(super) fn namesake_sentence(&self) -> String {
        let (life, patience) = (self.liveness.life(&self.tables.node), self.namesake_patience() / 1000);
        format!("it is {life}, and loses the name to this machine after {patience} s of silence")
    }

    /// Milliseconds of silence after which the name is this machine's.
    fn namesake_patience(&self) -> u64 {
        let stale = self.tables.config.timings.stale_after;
        let Some(other) = self.tables.nodes.get(&self.tables.node) else { return stale };
        let own = ripstop_fabric::host::addresses(&self.tables);
        let shared = other.value.addresses.iter().any(|address| own.iter().any(|mine| mine.ip == address.ip));
        if shared { stale } else { stale.saturating_mul(STRANGERS_PATIENCE) }
    }
}
