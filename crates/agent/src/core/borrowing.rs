//! Driving the lending engine: single addresses that other nodes use of this one's blocks, and this one of theirs.

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_ipam::ranges::{ClaimKey, ClaimState, Claimant, Stored};
use ripstop_ipam::{Lease, LendingAction, LendingEvent};
use ripstop_objects::{Blocks as Rules, Network, NetworkName};
use ripstop_types::{Millis, Prefix};

use super::{Core, Level, Output};

/// Numbers of the lending engine's operations, and of the snapshots it asks for, begin here.
pub(super) const NUMBERS: u64 = 1 << 60;

/// An address that a waiting pod must have and another node's block contains.
#[derive(Debug)]
pub(super) struct Ask {
    /// The lender's refusal: who has it.
    pub denied: Option<Arc<str>>,
    /// When the request may be made, after one that met something in its place.
    pub not_before: Millis,
    /// A call waits for it now.
    pub wanted: bool,
}

impl Core {
    /// Gives the engine an event and carries out what it answers.
    pub(super) fn lending_event(&mut self, event: &LendingEvent) {
        for action in self.lending.on(event) {
            match action {
                LendingAction::Put { op, key, claim, expect } => self.put_claim(NUMBERS + op, &key, claim, expect),
                LendingAction::Delete { op, key, expect } => self.delete_claim(NUMBERS + op, &key, expect),
                LendingAction::Use(key) => {
                    self.log(Level::Info, format!("this node borrowed {key}"));
                    self.snapshot_due = true;
                }
                LendingAction::Stop(key) => {
                    self.log(Level::Info, format!("this node no longer borrows {key}"));
                    self.snapshot_due = true;
                }
                LendingAction::Close(key) => self.book.note_closed(key.range.addr()),
                LendingAction::Reopen(key) => self.book.reopen(key.range.addr(), self.at.wall),
                LendingAction::Judge(key) => self.judge_request(key),
                LendingAction::Denied { key, holder } => {
                    if let Some(ask) = self.blocks.asks.get_mut(&key) {
                        ask.denied = Some(holder);
                    }
                }
                LendingAction::Missed(key) => {
                    let not_before = self.at.now.plus(500);
                    if let Some(ask) = self.blocks.asks.get_mut(&key) {
                        ask.not_before = not_before;
                    }
                }
                LendingAction::Save { generation } => {
                    self.outputs.push(Output::Save { generation: NUMBERS + generation });
                }
            }
        }
    }

    /// Another node asks for an address of one of this node's blocks.
    fn judge_request(&mut self, key: ClaimKey) {
        let ip = key.range.addr();
        let spec = self.network_named(&key.network).map(|network| network.spec.clone());
        let refusal: Option<Arc<str>> = match (&spec, self.book.holder_of(ip).map(Lease::holder)) {
            (_, Some(holder)) => Some(holder.into()),
            (Some(spec), None) if spec.excludes(ip) => Some("nobody: it is excluded".into()),
            (Some(spec), None) if spec.blocks.as_ref().is_some_and(|rules| !rules.strict_affinity) => None,
            _ => Some("this node's own pods: strictAffinity".into()),
        };
        match refusal {
            None if self.book.close(ip) => self.lending_event(&LendingEvent::Grant(key)),
            None => {}
            Some(holder) => self.lending_event(&LendingEvent::Refuse { key, holder }),
        }
    }

    /// At the start: what was lent is no pod's of this node.
    pub(super) fn close_lent(&mut self) {
        let lent: Vec<IpAddr> = self.lending.closed().map(|key| key.range.addr()).collect();
        lent.into_iter().for_each(|ip| self.book.note_closed(ip));
    }

    /// Tells the lending engine which blocks are this node's.
    pub(super) fn tell_blocks(&mut self) {
        let in_blocks = |key: &ClaimKey| {
            let rules = self.network_named(&key.network).filter(|network| network.spec.blocks.is_some());
            rules.is_some_and(|network| !network.spec.is_for_nodes(&key.range))
        };
        let held: Vec<_> =
            self.engine.held().filter(|(key, _)| in_blocks(key)).map(|(key, at)| (key.clone(), at)).collect();
        if held != self.blocks.told {
            self.blocks.told.clone_from(&held);
            self.lending_event(&LendingEvent::Own(held));
            self.snapshot_due = true;
        }
    }

    /// Whether pods may get addresses of a block: what is lent of it is known, and it is not on its way back.
    pub(super) fn may_give_from(&self, block: &ClaimKey) -> bool {
        self.lending.is_open(block) && !self.blocks.retiring.contains(block)
    }

    /// Why a range cannot be given back: another node uses addresses of it.
    pub(super) fn lent_refusal(&self, block: &ClaimKey) -> Option<String> {
        let lent: Vec<&ClaimKey> = self.lending.closed().filter(|key| inside(key, block) && *key != block).collect();
        let first = lent.first()?;
        let count = lent.len();
        Some(format!(
            "range {}: {count} addresses of it are lent or offered to other nodes, {} for one",
            block.range, first.range
        ))
    }

    /// Offers of a dead node in a block that is freed go with it.
    pub(super) fn delete_offers_in(&mut self, block: &ClaimKey, owner: &Claimant) {
        let offered = |(key, stored): &(&ClaimKey, &Stored)| {
            let idle = matches!(stored.claim.state, ClaimState::Offering | ClaimState::Offered | ClaimState::Refused);
            idle && stored.claim.claimant.same_machine(owner) && inside(key, block)
        };
        let claims = self.engine.claims().filter(offered);
        let offers: Vec<_> = claims.map(|(key, stored)| (key.clone(), stored.revision)).collect();
        for (key, revision) in offers {
            // Whether it succeeds shows in the watch; a node that borrowed it meanwhile keeps it.
            self.delete_claim(NUMBERS - 1, &key, revision);
        }
    }

    /// Addresses that an earlier run borrowed, and those that no pod has any more.
    pub(super) fn tend_borrowed(&mut self) {
        let forgotten: Vec<ClaimKey> = self.lending.forgotten().cloned().collect();
        for key in forgotten {
            let leased = self.book.holder_of(key.range.addr()).is_some();
            self.lending_event(&if leased { LendingEvent::Keep(key) } else { LendingEvent::Return(key) });
        }
        let borrowed: Vec<ClaimKey> = self.lending.borrowed().cloned().collect();
        for key in borrowed {
            let used = self.book.holder_of(key.range.addr()).is_some();
            if self.rests(&key, used, super::blocks::BORROWED_REST_MS) {
                self.lending_event(&LendingEvent::Return(key));
            }
        }
    }

    /// The node in whose block an address is, besides this one.
    pub(super) fn lender_of(&self, network: &str, ip: IpAddr) -> Option<&Stored> {
        let host = Prefix::host(ip);
        let covers = |(key, stored): &(&ClaimKey, &Stored)| {
            *key.network == *network && stored.claim.state == ClaimState::Held && key.range.covers(&host)
        };
        self.engine.claims().find(covers).map(|(_, stored)| stored)
    }

    /// A network by its name in claims.
    pub(super) fn network_named(&self, name: &str) -> Option<&Network> {
        let name = name.parse::<NetworkName>().ok()?;
        self.tables.networks.get(&name).map(|row| &*row.value)
    }
}

/// Whether addresses of a network's blocks are lent and borrowed: there is more than one in a block, and nobody forbade it.
pub(super) fn lends(rules: &Rules, family: ripstop_types::Family) -> bool {
    !rules.strict_affinity && rules.len.get(family) < family.bits()
}

pub(super) fn inside(key: &ClaimKey, block: &ClaimKey) -> bool {
    key.network == block.network && block.range.covers(&key.range)
}
