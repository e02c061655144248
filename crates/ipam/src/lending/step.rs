//! One event after the other: what both sides share.

use std::collections::BTreeSet;

use ripstop_types::Revision;

use super::{Borrowing, Lending, LendingAction, LendingEngine, LendingEvent, Op};
use crate::ranges::{Answer, Claim, ClaimKey, ClaimState};

/// Ticks after which what waits for another node waits no longer.
const PATIENCE: u32 = 30;

impl LendingEngine {
    /// One event; what has to be done because of it, in this order.
    pub fn on(&mut self, event: &LendingEvent) -> Vec<LendingAction> {
        let mut out = Vec::new();
        match event {
            LendingEvent::Own(blocks) => self.own(blocks),
            LendingEvent::Offer(key) => self.offer(key),
            LendingEvent::TakeBack(key) => self.take_back(key),
            LendingEvent::Grant(key) => self.grant(key, &mut out),
            LendingEvent::Refuse { key, holder } => self.refuse(key, holder, &mut out),
            LendingEvent::Borrow { key, holder } => self.borrow(key, holder, &mut out),
            LendingEvent::Ask { key, holder } => self.ask(key, holder),
            LendingEvent::Cancel(key) => self.cancel(key),
            LendingEvent::Keep(key) => self.keep(key),
            LendingEvent::Return(key) => self.give_back(key, &mut out),
            LendingEvent::Listed { revision, claims } => {
                self.view.list(*revision, claims.clone());
                let keys: BTreeSet<ClaimKey> =
                    self.lent.keys().chain(self.mine.keys()).chain(claims.keys()).cloned().collect();
                keys.iter().for_each(|key| self.follow(key, &mut out));
            }
            LendingEvent::Changed { key, revision, claim } => {
                if self.view.change(key, *revision, claim.as_ref()) {
                    self.follow(key, &mut out);
                }
            }
            LendingEvent::Answer { op, answer } => self.answered(*op, answer, &mut out),
            LendingEvent::Saved { generation } => self.saved(*generation),
            LendingEvent::Tick => self.tick(&mut out),
        }
        self.open_blocks(&mut out);
        self.send_lent(&mut out);
        self.send_mine(&mut out);
        out
    }

    /// The blocks that are ours now.
    fn own(&mut self, blocks: &[(ClaimKey, Revision)]) {
        self.own = blocks.iter().cloned().collect();
        let own = &self.own;
        self.open.retain(|block| own.contains_key(block));
        let vouched: Vec<ClaimKey> = self.trusted.iter().filter(|block| own.contains_key(*block)).cloned().collect();
        for block in vouched {
            self.trusted.remove(&block);
            self.open.insert(block);
        }
    }

    /// Brings what is known of one address in line with the view.
    fn follow(&mut self, key: &ClaimKey, out: &mut Vec<LendingAction>) {
        self.follow_lent(key, out);
        self.follow_mine(key, out);
    }

    fn answered(&mut self, op: u64, answer: &Answer, out: &mut Vec<LendingAction>) {
        let of = |sent: &Op| *sent == Op::Sent(op);
        if let Some((key, lent)) = self.lent.iter_mut().find(|(_, lent)| of(&lent.op)) {
            lent.op = if *answer == Answer::Failed { Op::Failed } else { Op::Idle };
            let (key, phase) = (key.clone(), lent.phase);
            self.learn(&key, answer, phase.revision());
            self.answered_lent(&key, phase, answer, out);
            self.follow_lent(&key, out);
        } else if let Some((key, mine)) = self.mine.iter_mut().find(|(_, mine)| of(&mine.op)) {
            mine.op = if *answer == Answer::Failed { Op::Failed } else { Op::Idle };
            let (key, phase) = (key.clone(), mine.phase);
            self.learn(&key, answer, phase.revision());
            self.answered_mine(&key, phase, answer, out);
            self.follow_mine(&key, out);
        }
    }

    fn learn(&mut self, key: &ClaimKey, answer: &Answer, expected: Option<Revision>) {
        if let Answer::Conflict(current) = answer {
            self.view.learn(key, current.as_ref(), expected);
        }
    }

    fn saved(&mut self, generation: u64) {
        for lent in self.lent.values_mut() {
            if let Lending::Saving(revision, of) = lent.phase
                && of != 0
                && of <= generation
            {
                (lent.phase, lent.op) = (Lending::Offering(revision), Op::Idle);
            }
        }
        for mine in self.mine.values_mut() {
            if let Borrowing::Saving(revision, of) = mine.phase
                && of != 0
                && of <= generation
            {
                (mine.phase, mine.op) = (Borrowing::Deleting(revision), Op::Idle);
            }
        }
    }

    fn tick(&mut self, out: &mut Vec<LendingAction>) {
        for lent in
            self.lent.values_mut().filter(|lent| lent.op == Op::Failed || matches!(lent.phase, Lending::Saving(..)))
        {
            lent.op = Op::Idle;
        }
        for mine in
            self.mine.values_mut().filter(|mine| mine.op == Op::Failed || matches!(mine.phase, Borrowing::Saving(..)))
        {
            mine.op = Op::Idle;
        }
        self.tidy(out);
        self.judge_all(out);
    }

    /// Records of ours that nothing is behind any more, and those that waited for another node long enough.
    fn tidy(&mut self, out: &mut Vec<LendingAction>) {
        let mut ages = std::mem::take(&mut self.ages);
        let mut stray = Vec::new();
        let mut waiting = BTreeSet::new();
        for (key, stored) in self.view.claims().filter(|(_, stored)| stored.claim.claimant.same_machine(&self.me)) {
            let may_be_opened = self.block_of(key).is_some_and(|block| !self.open.contains(block));
            match stored.claim.state {
                ClaimState::Offering | ClaimState::Offered if !self.lent.contains_key(key) && !may_be_opened => {
                    stray.push((key.clone(), stored.revision));
                }
                ClaimState::Asked if !self.mine.contains_key(key) => stray.push((key.clone(), stored.revision)),
                ClaimState::Refused => {
                    waiting.insert((key.clone(), stored.revision));
                }
                ClaimState::Offered if stored.claim.to.is_some() => {
                    waiting.insert((key.clone(), stored.revision));
                }
                _ => {}
            }
        }
        for (key, revision) in waiting {
            let age = ages.remove(&key).filter(|(of, _)| *of == revision).map_or(0, |(_, age)| age + 1);
            self.ages.insert(key.clone(), (revision, age));
            if age < PATIENCE {
                continue;
            }
            match self.lent.get_mut(&key) {
                Some(lent) => lent.back = true,
                None => stray.push((key, revision)),
            }
        }
        for (key, expect) in stray {
            let op = self.number();
            out.push(LendingAction::Delete { op, key, expect });
        }
    }

    /// The own block that an address is of.
    pub(super) fn block_of(&self, key: &ClaimKey) -> Option<&ClaimKey> {
        self.own.keys().find(|block| block.network == key.network && block.range.covers(&key.range))
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_op += 1;
        self.next_op - 1
    }

    pub(super) fn claim(&self, state: ClaimState) -> Claim {
        Claim::new(self.me.clone(), state)
    }

    /// A number for a writing of the snapshot.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}
