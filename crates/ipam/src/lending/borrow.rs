//! The borrower's side.

use std::sync::Arc;

use ripstop_types::Revision;

use super::{Borrowing, LendingAction, LendingEngine, Mine, Op};
use crate::ranges::{Answer, Claim, ClaimKey, ClaimState, Stored};

impl Borrowing {
    /// The last known revision of the record; `None`: there may be none.
    pub(super) fn revision(self) -> Option<Revision> {
        match self {
            Self::Asking => None,
            Self::Asked(revision)
            | Self::Taking(revision)
            | Self::Renewing(revision)
            | Self::Held(revision)
            | Self::Saving(revision, _)
            | Self::Deleting(revision) => Some(revision),
        }
    }
}

impl LendingEngine {
    pub(super) fn borrow(&mut self, key: &ClaimKey, holder: &Arc<str>, out: &mut Vec<LendingAction>) {
        if self.mine.contains_key(key) {
            return;
        }
        match self.view.get(key).filter(|stored| self.may_take(stored)) {
            Some(stored) => self.begin(key, Borrowing::Taking(stored.revision), Some(holder.clone())),
            None => out.push(LendingAction::Missed(key.clone())),
        }
    }

    pub(super) fn ask(&mut self, key: &ClaimKey, holder: &Arc<str>) {
        if !self.mine.contains_key(key) {
            let offer = self.view.get(key).filter(|stored| self.may_take(stored));
            let phase = offer.map_or(Borrowing::Asking, |stored| Borrowing::Taking(stored.revision));
            self.begin(key, phase, Some(holder.clone()));
        }
    }

    pub(super) fn cancel(&mut self, key: &ClaimKey) {
        let Some(mine) = self.mine.get_mut(key) else { return };
        match mine.phase {
            Borrowing::Asked(revision) => (mine.phase, mine.op) = (Borrowing::Deleting(revision), Op::Idle),
            Borrowing::Asking | Borrowing::Taking(_) => mine.leave = true,
            _ => {}
        }
    }

    pub(super) fn keep(&mut self, key: &ClaimKey) {
        let revision =
            self.forgotten().find(|other| *other == key).and(self.view.get(key)).map(|stored| stored.revision);
        if let Some(revision) = revision {
            let holder = self.view.get(key).and_then(|stored| stored.claim.holder.clone());
            self.begin(key, Borrowing::Renewing(revision), holder);
        }
    }

    pub(super) fn give_back(&mut self, key: &ClaimKey, out: &mut Vec<LendingAction>) {
        match self.mine.get_mut(key) {
            Some(mine) => match mine.phase {
                Borrowing::Held(revision) => {
                    (mine.phase, mine.op) = (Borrowing::Saving(revision, 0), Op::Idle);
                    out.push(LendingAction::Stop(key.clone()));
                }
                Borrowing::Renewing(_) => mine.leave = true,
                _ => {}
            },
            None => {
                let own = self.forgotten().find(|other| *other == key);
                if let Some(revision) = own.and(self.view.get(key)).map(|stored| stored.revision) {
                    self.begin(key, Borrowing::Saving(revision, 0), None);
                }
            }
        }
    }

    fn begin(&mut self, key: &ClaimKey, phase: Borrowing, holder: Option<Arc<str>>) {
        self.mine.insert(key.clone(), Mine { phase, op: Op::Idle, leave: false, holder });
    }

    /// Brings one address that is borrowed or to be in line with the view.
    pub(super) fn follow_mine(&mut self, key: &ClaimKey, out: &mut Vec<LendingAction>) {
        let Some(mine) = self.mine.get(key) else { return };
        let Some(at) = mine.phase.revision() else { return };
        let phase = mine.phase;
        match self.view.get(key).cloned() {
            Some(stored) if stored.revision > at => self.moved(key, phase, Some(&stored), out),
            None if self.view.seen() >= Some(at) => self.moved(key, phase, None, out),
            _ => {}
        }
    }

    pub(super) fn answered_mine(
        &mut self,
        key: &ClaimKey,
        phase: Borrowing,
        answer: &Answer,
        out: &mut Vec<LendingAction>,
    ) {
        match (phase, answer) {
            (_, Answer::Failed) => {}
            (Borrowing::Asking, Answer::Done(revision)) => self.turn(key, Borrowing::Asked(*revision)),
            (Borrowing::Asking, Answer::Conflict(None)) => {}
            (Borrowing::Asking, Answer::Conflict(Some(stored))) => self.met(key, stored, out),
            (Borrowing::Taking(_) | Borrowing::Renewing(_), Answer::Done(revision)) => {
                self.arrived(key, *revision, out)
            }
            (Borrowing::Deleting(at), Answer::Done(_)) => {
                self.view.learn(key, None, Some(at));
                self.mine.remove(key);
            }
            (_, Answer::Conflict(current)) => self.moved(key, phase, current.as_ref(), out),
            _ => {}
        }
    }

    /// A request found a record in its place.
    fn met(&mut self, key: &ClaimKey, stored: &Stored, out: &mut Vec<LendingAction>) {
        let (claim, revision) = (&stored.claim, stored.revision);
        if claim.claimant == self.me && claim.state == ClaimState::Asked {
            // An earlier try of this request came through.
            return self.turn(key, Borrowing::Asked(revision));
        }
        if self.may_take(stored) {
            return self.turn(key, Borrowing::Taking(revision));
        }
        self.mine.remove(key);
        let ours = claim.claimant.same_machine(&self.me);
        out.push(match claim.state {
            ClaimState::Borrowed | ClaimState::Offered | ClaimState::Asked if !ours => {
                LendingAction::Denied { key: key.clone(), holder: holder_of(claim) }
            }
            _ => LendingAction::Missed(key.clone()),
        });
    }

    /// The record is another than it was, or gone: no write on the earlier revision can come through.
    fn moved(&mut self, key: &ClaimKey, phase: Borrowing, current: Option<&Stored>, out: &mut Vec<LendingAction>) {
        let mine = |stored: &&Stored| {
            stored.claim.claimant.same_machine(&self.me) && stored.claim.state == ClaimState::Borrowed
        };
        if let Some(stored) = current.filter(mine) {
            let (revision, this_run) = (stored.revision, stored.claim.claimant == self.me);
            return match phase {
                // Borrowed again since this was saved, and a pod may have it: see `forgotten`.
                Borrowing::Saving(..) | Borrowing::Deleting(_) => drop(self.mine.remove(key)),
                _ if this_run => self.arrived(key, revision, out),
                Borrowing::Held(_) | Borrowing::Renewing(_) if stored.claim.claimant.same_boot(&self.me) => {
                    self.turn(key, Borrowing::Renewing(revision));
                }
                _ => self.lost(key, phase, current, out),
            };
        }
        match (phase, current) {
            (Borrowing::Asked(_), Some(stored)) if self.may_take(stored) => {
                self.turn(key, Borrowing::Taking(stored.revision));
            }
            (Borrowing::Asked(_), Some(stored)) if stored.claim.state == ClaimState::Refused => {
                out.push(LendingAction::Denied { key: key.clone(), holder: holder_of(&stored.claim) });
                self.turn(key, Borrowing::Deleting(stored.revision));
            }
            _ => self.lost(key, phase, current, out),
        }
    }

    fn lost(&mut self, key: &ClaimKey, phase: Borrowing, current: Option<&Stored>, out: &mut Vec<LendingAction>) {
        self.mine.remove(key);
        match phase {
            Borrowing::Held(_) => out.push(LendingAction::Stop(key.clone())),
            Borrowing::Asking | Borrowing::Asked(_) => out.push(match current {
                Some(stored) => LendingAction::Denied { key: key.clone(), holder: holder_of(&stored.claim) },
                None => LendingAction::Missed(key.clone()),
            }),
            Borrowing::Taking(_) => out.push(LendingAction::Missed(key.clone())),
            _ => {}
        }
    }

    fn arrived(&mut self, key: &ClaimKey, revision: Revision, out: &mut Vec<LendingAction>) {
        let Some(mine) = self.mine.get_mut(key) else { return };
        let was_held = matches!(mine.phase, Borrowing::Held(_));
        let leave = mine.leave;
        self.turn(key, if leave { Borrowing::Saving(revision, 0) } else { Borrowing::Held(revision) });
        if !leave && !was_held {
            out.push(LendingAction::Use(key.clone()));
        }
    }

    fn turn(&mut self, key: &ClaimKey, phase: Borrowing) {
        if let Some(mine) = self.mine.get_mut(key) {
            (mine.phase, mine.op) = (phase, Op::Idle);
        }
    }

    /// Sends what is due and not under way.
    pub(super) fn send_mine(&mut self, out: &mut Vec<LendingAction>) {
        let idle: Vec<ClaimKey> =
            self.mine.iter().filter(|(_, mine)| mine.op == Op::Idle).map(|(key, _)| key.clone()).collect();
        for key in idle {
            let Some(mine) = self.mine.get_mut(&key) else { continue };
            if mine.leave {
                match mine.phase {
                    // What was sent may come through, and is taken away as a stray.
                    Borrowing::Asking => {
                        self.mine.remove(&key);
                        continue;
                    }
                    Borrowing::Asked(revision) => mine.phase = Borrowing::Deleting(revision),
                    _ => {}
                }
            }
            let (phase, holder) = (mine.phase, mine.holder.clone());
            let (state, expect) = match phase {
                Borrowing::Asked(_) | Borrowing::Held(_) => continue,
                Borrowing::Saving(revision, known) => {
                    let generation = if known == 0 { self.next_generation() } else { known };
                    self.under_way(&key, Borrowing::Saving(revision, generation), 0);
                    out.push(LendingAction::Save { generation });
                    continue;
                }
                Borrowing::Deleting(expect) => {
                    let op = self.number();
                    self.under_way(&key, phase, op);
                    out.push(LendingAction::Delete { op, key, expect });
                    continue;
                }
                Borrowing::Asking => (ClaimState::Asked, None),
                Borrowing::Taking(revision) | Borrowing::Renewing(revision) => (ClaimState::Borrowed, Some(revision)),
            };
            let claim = Claim { holder, ..self.claim(state) };
            let op = self.number();
            self.under_way(&key, phase, op);
            out.push(LendingAction::Put { op, key, claim, expect });
        }
    }

    fn under_way(&mut self, key: &ClaimKey, phase: Borrowing, op: u64) {
        if let Some(mine) = self.mine.get_mut(key) {
            (mine.phase, mine.op) = (phase, Op::Sent(op));
        }
    }
}

/// Who has an address, as its record says.
fn holder_of(claim: &Claim) -> Arc<str> {
    let node = &claim.claimant.node;
    match (&claim.holder, claim.state) {
        (Some(holder), _) => format!("{holder} of node {node}").into(),
        (None, ClaimState::Asked) => format!("a pod of node {node} that asks for it").into(),
        (None, _) => format!("node {node}").into(),
    }
}
