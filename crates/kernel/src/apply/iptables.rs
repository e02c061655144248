//! Steps for rules of iptables: all of a run that concern one backend and family are one input of its program, which has each table changed
//! whole or not at all.
//!
//! What is there is known from the last reading or writing, so only chains that differ are written. Where that fails, somebody may have
//! been there meanwhile: it is read, and tried once more.

use std::collections::BTreeMap;

use ripstop_netmodel::{Entry, IptablesBackend, IptablesKey, Key, Object};
use ripstop_plan::Action;

use super::nft::unheard;
use super::run::{Run, mismatch};
use crate::error::Fault;
use crate::iptables::state::Touched;
use crate::iptables::{At, Known, Refusal, text, write};

impl Run<'_> {
    /// Sends the steps for rules of iptables that wait.
    pub(super) fn flush_iptables(&mut self) {
        let waiting = std::mem::take(&mut self.iptables);
        let mut by_place: BTreeMap<At, Vec<usize>> = BTreeMap::new();
        for step in waiting {
            match &self.steps[step].key {
                Key::Iptables(IptablesKey { backend, family, .. }) => {
                    by_place.entry((*backend, *family)).or_default().push(step);
                }
                _ => self.settle(step, Err(mismatch())),
            }
        }
        for (at, steps) in by_place {
            if self.stopped() {
                return;
            }
            let result = self.write_iptables(at, &steps);
            steps.into_iter().for_each(|step| self.settle(step, result.clone()));
        }
    }

    fn write_iptables(&mut self, at: At, steps: &[usize]) -> Result<(), Fault> {
        let shared = self.applier.iptables.clone();
        let mut known = shared.known();
        let was_known = known.is_known(at);
        match self.try_iptables(&mut known, at, steps) {
            // What was known may not be so any more.
            Err(Refusal { is_of_rules: true, .. }) if was_known => self.try_iptables(&mut known, at, steps),
            result => result,
        }
        .map_err(|refusal| refusal.fault)
    }

    /// Changes what is known, and the kernel with it; after a failure nothing is known.
    fn try_iptables(&mut self, known: &mut Known, at: At, steps: &[usize]) -> Result<(), Refusal> {
        let mut state = known.take(&mut self.applier.nft, at)?;
        let mut touched = Touched::default();
        for step in steps.iter().map(|step| &self.steps[*step]) {
            match (&step.key, step.action, step.after.as_deref()) {
                (Key::Iptables(key), Action::Delete, _) => state.remove(key, &mut touched),
                (Key::Iptables(_), _, Some(Entry { object: Object::IptablesRules(rules), owner })) => {
                    state.put(rules, owner.as_ref(), &mut touched);
                }
                _ => return Err(mismatch().into()),
            }
        }
        // Legacy iptables writes a table whole whatever changes.
        let parts = if at.0 == IptablesBackend::Nft { text::parts(&state, &mut touched) } else { Vec::new() };
        for part in parts {
            self.send_iptables(at, &part, 1)?;
        }
        let (input, tables) = text::input(&state, &touched);
        if tables > 0 {
            self.send_iptables(at, &input, tables)?;
        }
        known.set(at, state);
        Ok(())
    }

    /// Has the program write so many tables.
    fn send_iptables(&mut self, at: At, input: &str, tables: u32) -> Result<(), Refusal> {
        if at.0 == IptablesBackend::Legacy {
            return write(at, input);
        }
        let mut done = Ok(());
        let ears = self.applier.own.ears();
        let heard = unheard(&mut self.applier.nft, &ears, |_| {
            done = write(at, input);
            Ok(if done.is_ok() { tables } else { 0 })
        });
        heard.map_err(Fault::from)?;
        done
    }
}
