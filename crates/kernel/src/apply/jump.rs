//! The one write to a table of another owner: a jump in iptables' table `filter`, see [`ForwardJump`].
//!
//! Each step is a transaction of its own and leaves no half: our chain with its rules, and one jump at the head of the
//! chain it is asked for. The chain goes with the last jump to it.

use ripstop_netmodel::{ForwardJump, Key, Object};
use ripstop_plan::{Action, Step};
use ripstop_types::Family;

use super::run::{Run, mismatch};
use crate::error::Fault;
use crate::netlink::Message;
use crate::netlink::uapi::{NFT_META_IIFNAME, NFT_META_OIFNAME};
use crate::observe::jump::jumps;
use crate::wire::jump as wire;

impl Run<'_> {
    /// Makes or removes a jump.
    pub(super) fn jump(&mut self, step: &Step) -> Result<(), Fault> {
        let Key::ForwardJump { family, chain } = &step.key else { return Err(mismatch()) };
        match (step.action, step.after.as_ref().map(|entry| &entry.object)) {
            (Action::Delete, _) => self.remove_jump(*family, chain),
            (_, Some(Object::ForwardJump(ForwardJump { whole: true, .. }))) => self.make_jump(*family, chain),
            _ => Err(mismatch()),
        }
    }

    fn make_jump(&mut self, family: Family, chain: &str) -> Result<(), Fault> {
        let there = jumps(&mut self.applier.nft, family)?;
        let mut messages = vec![
            wire::create_chain(family),
            wire::delete_rule(family, ripstop_netmodel::FORWARD_CHAIN, None),
            wire::create_accept(family, NFT_META_IIFNAME),
            wire::create_accept(family, NFT_META_OIFNAME),
        ];
        let handles = there.handles.get(chain).into_iter().flatten();
        messages.extend(handles.map(|handle| wire::delete_rule(family, chain, Some(*handle))));
        messages.push(wire::create_jump(family, chain));
        self.send_jump(messages)?;
        // It stands at the head now, where Services' jump may have been, which refuses some of what this one lets pass.
        self.applier.own.ears().iter().for_each(|ear| ear.missed());
        Ok(())
    }

    fn remove_jump(&mut self, family: Family, chain: &str) -> Result<(), Fault> {
        let there = jumps(&mut self.applier.nft, family)?;
        let handles = there.handles.get(chain).into_iter().flatten();
        let mut messages: Vec<Message> =
            handles.map(|handle| wire::delete_rule(family, chain, Some(*handle))).collect();
        if there.chain && !there.handles.keys().any(|other| **other != *chain) {
            messages.push(wire::delete_rule(family, ripstop_netmodel::FORWARD_CHAIN, None));
            messages.push(wire::delete_chain(family));
        }
        self.send_jump(messages)
    }

    fn send_jump(&mut self, messages: Vec<Message>) -> Result<(), Fault> {
        if messages.is_empty() {
            return Ok(());
        }
        self.applier.nft.transact_all(messages).map_err(|error| Fault::refused(&error, None))
    }
}
