//! Which nftables steps go out together, as one transaction.
//!
//! As many as follow on one another, but for three reasons to send what waits first: packets must see one change before the next, they must
//! not find what the kernel is still filling, and a transaction of very many elements costs the kernel very much memory.
//!
//! Not here: how a transaction is sent (`nft`).

use ripstop_netmodel::{Key, Kind, Object};
use ripstop_nft::model::part_of;
use ripstop_plan::Action;

use super::flows::is_of_an_endpoint;
use super::run::{Run, object};
use crate::error::Fault;

/// What nftables steps that wait write.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Begun {
    /// Parts, or what belongs into parts that nothing leads to yet.
    parts: bool,
    tables: bool,
    /// Some of it packets may meet at once.
    met: bool,
    /// How many steps these are, with what parts are filled with.
    weight: usize,
}

/// So many nftables steps, or elements that parts are filled with, are one transaction at most where no packet meets anything before all is
/// there: for those who listen to what changes, in any namespace, the kernel holds 8 KiB for each element and each end of a range until the
/// transaction ends.
pub(super) const UNMET_AT_ONCE: usize = 32_768;

impl Run<'_> {
    /// Puts a step with those that wait, which go out before it where it must not be in one transaction with them.
    pub(super) fn queue_nft(&mut self, i: usize) {
        if self.takes_away(i) || self.leads_on(i) {
            self.flush_nft();
        }
        if let Some(fault) = self.leads_astray(i) {
            return self.settle(i, Err(fault));
        }
        if self.steps[i].filling() <= UNMET_AT_ONCE {
            return self.put_nft(i);
        }
        self.flush_nft();
        if !self.stopped() {
            self.fresh.insert(self.steps[i].key.clone());
            self.write_long_part(i);
        }
    }

    fn put_nft(&mut self, i: usize) {
        let step = &self.steps[i];
        self.begun.tables |= step.key.kind() == Kind::NftTable;
        let is_unmet = step.action == Action::Create
            && match step.key.kind() {
                Kind::NftTable => true,
                Kind::NftPart => self.fresh.insert(step.key.clone()),
                _ => step.key.part().is_some_and(|part| self.fresh.contains(&part)),
            };
        self.begun.parts |= is_unmet || step.key.kind() == Kind::NftPart && step.action != Action::Delete;
        self.begun.met |= !is_unmet;
        self.nft.push(i);
        self.begun.weight += 1 + step.filling();
        if self.begun.weight >= UNMET_AT_ONCE && !self.begun.met {
            self.flush_nft();
        }
    }

    /// Whether this removes an endpoint of a Service behind changes that are not sent yet. A packet that has drawn its slot's
    /// number looks it up a moment later: that nobody draws the number any more must have happened before, and connections
    /// that lead there are forgotten in between.
    fn takes_away(&self, i: usize) -> bool {
        let is_removal = |i: usize| {
            let Some(step) = self.steps.get(i).filter(|step| step.action == Action::Delete) else { return false };
            // One that is made anew is removed and made by neighbours.
            is_of_an_endpoint(step) && self.steps.get(i + 1).is_none_or(|next| next.key != step.key)
        };
        // Kernels before 6.2 keep a chain in the transaction in which the last element that leads there goes.
        let is_part = |i: usize| {
            self.steps.get(i).is_some_and(|step| step.action == Action::Delete && step.key.kind() == Kind::NftPart)
        };
        self.nft.last().is_some_and(|last| is_removal(i) && !is_removal(*last) || is_part(i) && !is_part(*last))
    }

    /// Whether this may lead into a part that is not sent yet. The kernel begins a new generation of all objects before it fills sets of some
    /// kinds (pipapo; `nft_set_commit_update` behind `gencursor` in nf_tables_commit): for microseconds a packet finds such a set of the same
    /// transaction empty. Where a table is written anew that has to be: without what leads on, everything would pass.
    fn leads_on(&self, i: usize) -> bool {
        let is_lead = matches!(&self.steps[i].key, Key::NftElement(key) if part_of(&key.set).is_none());
        is_lead && self.begun.parts && !self.begun.tables
    }

    /// Why nothing of policies may lead where this would: what is written there is not whole, and what is missing may be what denies.
    pub(super) fn leads_astray(&self, i: usize) -> Option<Fault> {
        let Some(Object::NftElement(element)) = object(&self.steps[i]).filter(|_| !self.short.is_empty()) else {
            return None;
        };
        let (part, _) = element.destination()?;
        let fault = || Fault::Unsupported(format!("{part}, to which it leads, could not be written whole").into());
        self.short.contains(&part).then(fault)
    }
}
