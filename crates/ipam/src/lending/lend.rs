//! The lender's side.

use std::sync::Arc;

use ripstop_types::Revision;

use super::{Lending, LendingAction, LendingEngine, Lent, Op};
use crate::ranges::{Answer, Claim, ClaimKey, ClaimState, Stored};

impl LendingEngine {
    pub(super) fn offer(&mut self, key: &ClaimKey) {
        let new = || Lent { phase: Lending::Writing, op: Op::Idle, back: false, to: None };
        self.lent.entry(key.clone()).or_insert_with(new);
    }

    pub(super) fn take_back(&mut self, key: &ClaimKey) {
        if let Some(lent) = self.lent.get_mut(key).filter(|lent| !matches!(lent.phase, Lending::Out(_))) {
            lent.back = true;
        }
    }

    /// A node's request becomes an offer to it, if it still stands.
    pub(super) fn grant(&mut self, key: &ClaimKey, out: &mut Vec<LendingAction>) {
        if self.lent.contains_key(key) {
            return;
        }
        match self.view.get(key).filter(|stored| self.is_request(stored)) {
            Some(stored) => {
                let to = Some(stored.claim.claimant.node.clone());
                let phase = Lending::Saving(stored.revision, 0);
                self.lent.insert(key.clone(), Lent { phase, op: Op::Idle, back: false, to });
            }
            None => out.push(LendingAction::Reopen(key.clone())),
        }
    }

    pub(super) fn refuse(&mut self, key: &ClaimKey, holder: &Arc<str>, out: &mut Vec<LendingAction>) {
        let Some(expect) = self.view.get(key).filter(|stored| self.is_request(stored)).map(|stored| stored.revision)
        else {
            return;
        };
        let claim = Claim { holder: Some(holder.clone()), ..self.claim(ClaimState::Refused) };
        // Should it be lost, the request is judged again.
        let op = self.number();
        out.push(LendingAction::Put { op, key: key.clone(), claim, expect: Some(expect) });
    }

    /// Own blocks of which all records are in the view are open from now on, with everything lent closed.
    pub(super) fn open_blocks(&mut self, out: &mut Vec<LendingAction>) {
        let Some(seen) = self.view.seen() else { return };
        let ready = |(block, revision): &(&ClaimKey, &Revision)| **revision <= seen && !self.open.contains(*block);
        let ready: Vec<ClaimKey> = self.own.iter().filter(ready).map(|(block, _)| block.clone()).collect();
        for block in ready {
            self.open.insert(block.clone());
            let inside = |key: &ClaimKey| key.network == block.network && block.range.covers(&key.range);
            let keys: Vec<ClaimKey> =
                self.view.claims().map(|(key, _)| key).filter(|key| inside(key)).cloned().collect();
            keys.iter().for_each(|key| self.follow_lent(key, out));
        }
    }

    /// Brings one own address in line with the view.
    pub(super) fn follow_lent(&mut self, key: &ClaimKey, out: &mut Vec<LendingAction>) {
        let current = self.view.get(key).cloned();
        let Some(lent) = self.lent.get(key) else { return self.meet(key, current.as_ref(), out) };
        let Some(at) = lent.phase.revision() else { return };
        let out_of_sight = matches!(lent.phase, Lending::Out(_));
        match &current {
            Some(stored) if stored.revision > at || (out_of_sight && stored.revision == at) => {
                self.adopt(key, current.as_ref(), out);
            }
            None if self.view.seen() >= Some(at) => self.adopt(key, None, out),
            _ => {}
        }
    }

    /// A record of an address that nothing is known of.
    fn meet(&mut self, key: &ClaimKey, current: Option<&Stored>, out: &mut Vec<LendingAction>) {
        let Some(stored) = current.filter(|_| self.block_of(key).is_some_and(|block| self.open.contains(block))) else {
            return;
        };
        let ours = stored.claim.claimant.same_machine(&self.me);
        let phase = match stored.claim.state {
            ClaimState::Offered | ClaimState::Borrowed if !ours => Lending::Out(stored.revision),
            // Of an earlier run: a write on this revision may still come through.
            ClaimState::Offering | ClaimState::Offered if stored.claim.claimant != self.me => {
                Lending::Back(stored.revision)
            }
            ClaimState::Asked if !ours => return out.push(LendingAction::Judge(key.clone())),
            _ => return,
        };
        self.lent.insert(key.clone(), Lent { phase, op: Op::Idle, back: matches!(phase, Lending::Back(_)), to: None });
        out.push(LendingAction::Close(key.clone()));
    }

    /// The record of a closed address is this now, and no write on an earlier revision can come through.
    fn adopt(&mut self, key: &ClaimKey, current: Option<&Stored>, out: &mut Vec<LendingAction>) {
        let me = self.me.clone();
        let Some(lent) = self.lent.get_mut(key) else { return };
        let known = lent.phase.revision();
        let phase = current.and_then(|stored| {
            let (revision, ours) = (stored.revision, stored.claim.claimant.same_machine(&me));
            match stored.claim.state {
                ClaimState::Offered if ours => Some(Lending::Offered(revision)),
                // The write that made it was this entry's own, or has just been answered: the address is closed since before.
                ClaimState::Offering if ours && known.is_none_or(|known| known == revision) => {
                    Some(Lending::Saving(revision, 0))
                }
                ClaimState::Asked if !ours && known == Some(revision) => Some(Lending::Saving(revision, 0)),
                // An old answer stands in the way of an offer.
                ClaimState::Refused if ours && known.is_none() => Some(Lending::Back(revision)),
                // What means nothing yet keeps nothing closed.
                ClaimState::Offering | ClaimState::Refused | ClaimState::Asked => None,
                _ => Some(Lending::Out(revision)),
            }
        });
        let Some(phase) = phase else {
            self.lent.remove(key);
            out.push(LendingAction::Reopen(key.clone()));
            if current.is_some_and(|stored| self.is_request(stored)) {
                out.push(LendingAction::Judge(key.clone()));
            }
            return;
        };
        (lent.phase, lent.op) = (phase, Op::Idle);
        if let Some(stored) = current {
            lent.to = match stored.claim.state {
                ClaimState::Asked => Some(stored.claim.claimant.node.clone()),
                _ => stored.claim.to.clone(),
            };
        }
        lent.back = match phase {
            Lending::Out(_) => false,
            Lending::Back(_) => true,
            _ => lent.back,
        };
    }

    pub(super) fn answered_lent(
        &mut self,
        key: &ClaimKey,
        phase: Lending,
        answer: &Answer,
        out: &mut Vec<LendingAction>,
    ) {
        match (phase, answer) {
            (_, Answer::Failed) => {}
            (Lending::Writing, Answer::Done(revision)) => self.enter(key, Lending::Saving(*revision, 0)),
            (Lending::Offering(_), Answer::Done(revision)) => self.enter(key, Lending::Offered(*revision)),
            (Lending::Back(_), Answer::Done(_)) => {
                self.view.learn(key, None, phase.revision());
                self.adopt(key, None, out);
            }
            (Lending::Writing, Answer::Conflict(None)) => {}
            (_, Answer::Conflict(current)) => self.adopt(key, current.as_ref(), out),
            _ => {}
        }
    }

    fn enter(&mut self, key: &ClaimKey, phase: Lending) {
        if let Some(lent) = self.lent.get_mut(key) {
            (lent.phase, lent.op) = (phase, Op::Idle);
        }
    }

    /// Requests that were not answered yet, or whose answer was lost.
    pub(super) fn judge_all(&mut self, out: &mut Vec<LendingAction>) {
        let asked = |(key, stored): &(&ClaimKey, &Stored)| {
            let open = || self.block_of(key).is_some_and(|block| self.open.contains(block));
            self.is_request(stored) && !self.lent.contains_key(*key) && open()
        };
        out.extend(self.view.claims().filter(asked).map(|(key, _)| LendingAction::Judge(key.clone())));
    }

    fn is_request(&self, stored: &Stored) -> bool {
        stored.claim.state == ClaimState::Asked && !stored.claim.claimant.same_machine(&self.me)
    }

    /// Sends what is due and not under way.
    pub(super) fn send_lent(&mut self, out: &mut Vec<LendingAction>) {
        let keys: Vec<ClaimKey> = self.lent.keys().cloned().collect();
        for key in keys {
            let Some(lent) = self.lent.get_mut(&key) else { continue };
            if lent.back {
                match lent.phase {
                    // What was sent may come through, and means nothing.
                    Lending::Writing => {
                        self.lent.remove(&key);
                        out.push(LendingAction::Reopen(key));
                        continue;
                    }
                    Lending::Saving(revision, _) | Lending::Offering(revision) | Lending::Offered(revision) => {
                        (lent.phase, lent.op) = (Lending::Back(revision), Op::Idle);
                    }
                    Lending::Out(_) | Lending::Back(_) => {}
                }
            }
            if lent.op != Op::Idle {
                continue;
            }
            let to = lent.to.clone();
            let phase = lent.phase;
            let (claim, expect) = match phase {
                Lending::Offered(_) | Lending::Out(_) => continue,
                Lending::Saving(revision, known) => {
                    let generation = if known == 0 { self.next_generation() } else { known };
                    self.sent(&key, Lending::Saving(revision, generation), 0);
                    out.push(LendingAction::Save { generation });
                    continue;
                }
                Lending::Back(expect) => {
                    let op = self.number();
                    self.sent(&key, phase, op);
                    out.push(LendingAction::Delete { op, key, expect });
                    continue;
                }
                Lending::Writing => (self.claim(ClaimState::Offering), None),
                Lending::Offering(revision) => (Claim { to, ..self.claim(ClaimState::Offered) }, Some(revision)),
            };
            let op = self.number();
            self.sent(&key, phase, op);
            out.push(LendingAction::Put { op, key, claim, expect });
        }
    }

    fn sent(&mut self, key: &ClaimKey, phase: Lending, op: u64) {
        if let Some(lent) = self.lent.get_mut(key) {
            (lent.phase, lent.op) = (phase, Op::Sent(op));
        }
    }
}
