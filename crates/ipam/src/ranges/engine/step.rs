//! The transitions of the range engine.

use std::collections::BTreeMap;

use ripstop_types::Revision;

use super::super::choose::{Choice, RangeFault, RangeRequest, choose_another};
use super::super::claim::{Claim, ClaimKey, ClaimState, Stored};
use super::{Answer, Mine, Op, Phase, RangeAction, RangeEngine, RangeEvent, Slot, SlotState, StopReason};

impl Mine {
    fn new(phase: Phase, maybe_used: bool) -> Self {
        Self { phase, op: Op::Idle, leave: false, maybe_used }
    }

    fn enter(&mut self, phase: Phase) {
        (self.phase, self.op) = (phase, Op::Idle);
    }

    fn used(&self) -> bool {
        matches!(self.phase, Phase::Held { used: true, .. })
    }
}

impl SlotState {
    /// How many ranges the slot wants.
    fn wanted(&self) -> usize {
        self.request.blocks.map_or(1, |blocks| usize::try_from(blocks).unwrap_or(usize::MAX))
    }
}

impl RangeEngine {
    /// One event; what has to be done because of it, in this order.
    pub fn on(&mut self, event: &RangeEvent) -> Vec<RangeAction> {
        let mut out = Vec::new();
        match event {
            RangeEvent::Want(request) => self.want(request),
            RangeEvent::Unwant(slot) => drop(self.slots.remove(slot)),
            RangeEvent::Release(key) => self.release(key, &mut out),
            RangeEvent::Listed { revision, claims } => self.listed(*revision, claims, &mut out),
            RangeEvent::Changed { key, revision, claim } => self.changed(key, *revision, claim.as_ref(), &mut out),
            RangeEvent::Answer { op, answer } => self.answered(*op, answer, &mut out),
            RangeEvent::Saved { generation } => self.saved(*generation),
            RangeEvent::Tick => self.tick(),
        }
        self.check();
        self.use_or_stop(&mut out);
        self.fill_slots();
        self.send(&mut out);
        out
    }

    fn want(&mut self, request: &RangeRequest) {
        let slot = Slot::of(request);
        match self.slots.get_mut(&slot) {
            Some(state) if state.latched => state.request = request.clone(),
            Some(state) => {
                let fault = None;
                *state = SlotState { request: request.clone(), fault, paused: false, latched: false };
            }
            None => {
                let state = SlotState { request: request.clone(), fault: None, paused: false, latched: false };
                self.slots.insert(slot, state);
            }
        }
    }

    fn release(&mut self, key: &ClaimKey, out: &mut Vec<RangeAction>) {
        let Some(mine) = self.mine.get_mut(key) else {
            let stored = self.view.get(key).filter(|stored| stored.claim.claimant.same_machine(&self.me));
            if let Some(revision) = stored.map(|stored| stored.revision) {
                self.mine.insert(key.clone(), Mine::new(Phase::Saving(revision, 0), true));
            }
            return;
        };
        let unused = matches!(mine.phase, Phase::Held { used: false, .. } | Phase::Saving(..) | Phase::Deleting(_));
        if mine.used() {
            out.push(RangeAction::StopRange { key: key.clone(), reason: StopReason::Released });
        }
        match mine.phase {
            Phase::Held { revision, .. } | Phase::Checking(revision) => mine.enter(Phase::Saving(revision, 0)),
            Phase::Claiming | Phase::Confirming(_) | Phase::Renewing(..) => mine.leave = true,
            Phase::Saving(..) | Phase::Deleting(_) => {}
        }
        if !unused {
            // Of several ranges the others go on; how many are wanted says the next request.
            let alone = self.slots.iter_mut().filter(|(slot, _)| slot.has(key) && slot.pool.is_none());
            alone.for_each(|(_, state)| state.paused = true);
        }
    }

    fn listed(&mut self, as_of: Revision, claims: &BTreeMap<ClaimKey, Stored>, out: &mut Vec<RangeAction>) {
        self.view.list(as_of, claims.clone());
        self.clear_faults();
        let keys: Vec<ClaimKey> = self.mine.keys().cloned().collect();
        for key in keys {
            let current = claims.get(&key);
            let Some(mine) = self.mine.get_mut(&key) else { continue };
            match mine.phase {
                Phase::Held { revision, .. } if current.is_some_and(|stored| stored.revision == revision) => {}
                Phase::Held { revision, .. } if as_of >= revision && current.is_none_or(|c| c.revision > revision) => {
                    self.contradicted(&key, current, out);
                }
                // Older than the claim: a stale list, or another store. Ask.
                Phase::Held { revision, used, .. } => mine.phase = Phase::Held { revision, used, doubt: true },
                Phase::Checking(revision) if current.is_none_or(|stored| stored.revision != revision) => {
                    mine.enter(Phase::Claiming);
                }
                _ => {}
            }
        }
        for (key, stored) in claims {
            self.withdraw_stray(key, stored);
        }
    }

    fn changed(&mut self, key: &ClaimKey, revision: Revision, claim: Option<&Claim>, out: &mut Vec<RangeAction>) {
        if !self.view.change(key, revision, claim) {
            return;
        }
        if claim.is_none() {
            self.clear_faults();
        }
        let stored = claim.map(|claim| Stored { revision, claim: claim.clone() });
        match self.mine.get_mut(key) {
            None => stored.iter().for_each(|stored| self.withdraw_stray(key, stored)),
            Some(Mine { phase: Phase::Held { revision: held, .. }, .. }) if revision > *held => {
                self.contradicted(key, stored.as_ref(), out);
            }
            Some(mine) => {
                if matches!(mine.phase, Phase::Checking(written) if revision > written) {
                    mine.enter(Phase::Claiming);
                }
            }
        }
    }

    /// A claim written by this very run that it does not want: a delayed write that came through after all. No address was
    /// ever given from it.
    fn withdraw_stray(&mut self, key: &ClaimKey, stored: &Stored) {
        if stored.claim.claimant == self.me && !stored.claim.state.is_lending() && !self.mine.contains_key(key) {
            self.mine.insert(key.clone(), Mine::new(Phase::Saving(stored.revision, 0), false));
        }
    }

    /// The store shows something later than the claim this engine holds.
    fn contradicted(&mut self, key: &ClaimKey, current: Option<&Stored>, out: &mut Vec<RangeAction>) {
        let Some(mine) = self.mine.get_mut(key) else { return };
        let (used, leave) = (mine.used(), mine.leave);
        let reason = match current {
            None => StopReason::ClaimGone,
            Some(stored) if !stored.claim.claimant.same_machine(&self.me) => {
                StopReason::ClaimTaken(stored.claim.claimant.clone())
            }
            Some(stored) if stored.claim.claimant.same_boot(&self.me) => {
                mine.enter(if stored.claim.claimant != self.me {
                    Phase::Renewing(stored.revision, stored.claim.state)
                } else if stored.claim.state == ClaimState::Held {
                    Phase::Held { revision: stored.revision, used: false, doubt: false }
                } else {
                    Phase::Checking(stored.revision)
                });
                mine.leave = leave;
                StopReason::ClaimRewritten
            }
            Some(_) => StopReason::Copied,
        };
        if reason != StopReason::ClaimRewritten {
            self.mine.remove(key);
        }
        if reason == StopReason::Copied {
            let (node, machine) = (self.me.node.clone(), self.me.machine.clone());
            let fault = RangeFault::Copied { node, range: key.range, machine };
            for (_, state) in self.slots.iter_mut().filter(|(slot, _)| slot.has(key)) {
                (state.latched, state.fault) = (true, Some(fault.clone()));
            }
        }
        if used {
            out.push(RangeAction::StopRange { key: key.clone(), reason });
        }
    }

    fn answered(&mut self, op: u64, answer: &Answer, out: &mut Vec<RangeAction>) {
        // A late answer to an action that was given up says nothing about the present.
        let Some(key) = self.mine.iter().find(|(_, mine)| mine.op == Op::Sent(op)).map(|(key, _)| key.clone()) else {
            return;
        };
        let Some(mine) = self.mine.get_mut(&key) else { return };
        mine.op = Op::Idle;
        let expected = match mine.phase {
            Phase::Confirming(revision) | Phase::Renewing(revision, _) | Phase::Deleting(revision) => Some(revision),
            _ => None,
        };
        if let Answer::Conflict(current) = answer {
            self.view.learn(&key, current.as_ref(), expected);
        }
        match (mine.phase, answer) {
            (_, Answer::Failed) => mine.op = Op::Failed,
            (Phase::Claiming, Answer::Done(revision)) => self.arrived(&key, *revision, ClaimState::Tentative),
            (Phase::Confirming(_), Answer::Done(revision)) => self.arrived(&key, *revision, ClaimState::Held),
            (Phase::Renewing(_, state), Answer::Done(revision)) => self.arrived(&key, *revision, state),
            (Phase::Claiming | Phase::Confirming(_) | Phase::Renewing(..), Answer::Conflict(current)) => {
                self.met(&key, current.as_ref());
            }
            (Phase::Held { .. }, Answer::Done(revision)) => {
                if mine.used() {
                    out.push(RangeAction::StopRange { key: key.clone(), reason: StopReason::ClaimGone });
                }
                self.arrived(&key, *revision, ClaimState::Tentative);
            }
            (Phase::Held { revision, used, .. }, Answer::Conflict(Some(current))) if current.revision == revision => {
                mine.phase = Phase::Held { revision, used, doubt: false };
            }
            (Phase::Held { .. }, Answer::Conflict(current)) => self.contradicted(&key, current.as_ref(), out),
            (Phase::Deleting(_), Answer::Conflict(Some(current))) if current.claim.claimant == self.me => {
                mine.phase = Phase::Deleting(current.revision);
            }
            (Phase::Deleting(_), Answer::Conflict(Some(_))) => drop(self.mine.remove(&key)),
            (Phase::Deleting(_), Answer::Done(_) | Answer::Conflict(None)) => {
                self.mine.remove(&key);
                self.view.learn(&key, None, expected);
                self.clear_faults();
            }
            (Phase::Checking(_) | Phase::Saving(..), _) => {}
        }
    }

    /// Our own claim stands at this revision in this state, by the store's own answer.
    fn arrived(&mut self, key: &ClaimKey, revision: Revision, state: ClaimState) {
        let Some(mine) = self.mine.get_mut(key) else { return };
        mine.enter(match state {
            _ if mine.leave => Phase::Saving(revision, 0),
            ClaimState::Held => Phase::Held { revision, used: false, doubt: false },
            _ => Phase::Checking(revision),
        });
    }

    /// A write did not find what it expected.
    fn met(&mut self, key: &ClaimKey, current: Option<&Stored>) {
        let Some(mine) = self.mine.get_mut(key) else { return };
        match current {
            None if mine.phase == Phase::Claiming && !mine.leave => {}
            Some(stored) if stored.claim.claimant == self.me => {
                self.arrived(key, stored.revision, stored.claim.state);
            }
            Some(stored) if stored.claim.claimant.same_machine(&self.me) => {
                mine.enter(Phase::Renewing(stored.revision, stored.claim.state));
                mine.maybe_used = true;
            }
            _ => drop(self.mine.remove(key)),
        }
    }

    fn saved(&mut self, generation: u64) {
        for mine in self.mine.values_mut() {
            if let Phase::Saving(revision, of) = mine.phase
                && mine.op != Op::Idle
                && of <= generation
            {
                mine.enter(Phase::Deleting(revision));
            }
        }
    }

    fn tick(&mut self) {
        for mine in self.mine.values_mut() {
            if mine.op == Op::Failed || matches!(mine.phase, Phase::Saving(..)) {
                mine.op = Op::Idle;
            }
        }
        self.clear_faults();
        self.withdraw_tentative();
    }

    /// Tentative claims of earlier runs, where the slot has a range or there is none: a range is used only when held, so
    /// nobody has an address of them.
    fn withdraw_tentative(&mut self) {
        let filled = |key: &ClaimKey| {
            let mut slots = self.slots.iter().filter(|(slot, _)| slot.has(key)).peekable();
            let used = |slot: &Slot| self.mine.iter().filter(|(key, mine)| slot.has(key) && mine.used()).count();
            slots.peek().is_none() || slots.any(|(slot, state)| used(slot) >= state.wanted())
        };
        let done: Vec<(ClaimKey, Revision)> = self
            .view
            .claims()
            .filter(|(key, stored)| {
                stored.claim.state == ClaimState::Tentative
                    && stored.claim.claimant.same_machine(&self.me)
                    && !self.mine.contains_key(*key)
                    && filled(key)
            })
            .map(|(key, stored)| (key.clone(), stored.revision))
            .collect();
        for (key, revision) in done {
            self.mine.insert(key, Mine::new(Phase::Saving(revision, 0), false));
        }
    }

    fn clear_faults(&mut self) {
        self.slots.values_mut().filter(|state| !state.latched).for_each(|state| state.fault = None);
    }

    /// Tentative claims whose turn it is: made held, or withdrawn before an older or held one that overlaps.
    fn check(&mut self) {
        let Some(seen) = self.view.seen() else { return };
        let (view, me) = (&self.view, &self.me);
        for (key, mine) in &mut self.mine {
            let Phase::Checking(revision) = mine.phase else { continue };
            if seen < revision {
                continue;
            }
            let before_us = view.claims().any(|(other, stored)| {
                other.range.overlaps(&key.range)
                    && !stored.claim.claimant.same_machine(me)
                    && (stored.claim.state.is_firm()
                        || (stored.claim.state == ClaimState::Tentative && stored.revision < revision))
            });
            mine.enter(if before_us { Phase::Saving(revision, 0) } else { Phase::Confirming(revision) });
        }
    }

    fn use_or_stop(&mut self, out: &mut Vec<RangeAction>) {
        for (key, mine) in &mut self.mine {
            let Phase::Held { revision, used, doubt } = mine.phase else { continue };
            let slot = self.slots.iter().find(|(slot, _)| slot.has(key));
            let wanted =
                slot.is_some_and(|(_, state)| !state.paused && !state.latched && state.request.admits(&key.range));
            match (wanted, used) {
                (true, false) => {
                    mine.maybe_used = true;
                    if let Some((slot, _)) = slot.filter(|(slot, _)| slot.pool.is_none()) {
                        self.last.insert(slot.clone(), key.range);
                    }
                    out.push(RangeAction::UseRange(key.clone()));
                }
                (false, true) => {
                    out.push(RangeAction::StopRange { key: key.clone(), reason: StopReason::NotOfNetwork });
                }
                // Claimed for a wish that is over: nobody has an address of it.
                (false, false) if !mine.maybe_used => {
                    mine.enter(Phase::Saving(revision, 0));
                    continue;
                }
                _ => {}
            }
            mine.phase = Phase::Held { revision, used: wanted, doubt };
        }
    }

    /// Chooses a range for each slot that has none.
    fn fill_slots(&mut self) {
        if self.view.seen().is_none() {
            return;
        }
        for (slot, state) in &mut self.slots {
            let busy = |(key, mine): &(&ClaimKey, &Mine)| {
                let going = mine.leave || matches!(mine.phase, Phase::Saving(..) | Phase::Deleting(_));
                !going && slot.has(key) && state.request.admits(&key.range)
            };
            if state.paused || state.latched || state.fault.is_some() {
                continue;
            }
            let missing = state.wanted().saturating_sub(self.mine.iter().filter(busy).count());
            for _ in 0..missing {
                let mut request = state.request.clone();
                request.preferred = request.preferred.or_else(|| self.last.get(slot).copied());
                let own = Claim::new(self.me.clone(), ClaimState::Tentative);
                let unseen = self.mine.keys().filter(|key| self.view.get(key).is_none()).map(|key| (key, &own));
                let claims = self.view.claims().map(|(key, stored)| (key, &stored.claim)).chain(unseen);
                let has = |key: &ClaimKey| slot.pool.is_some() && self.mine.contains_key(key);
                let choice = match choose_another(&request, &self.me, claims, has) {
                    Ok(choice) => choice,
                    Err(fault) => {
                        state.fault = Some(fault);
                        break;
                    }
                };
                let (Choice::Held(range) | Choice::Claim(range)) = choice;
                let key = ClaimKey { network: slot.network.clone(), range };
                if self.mine.contains_key(&key) {
                    break;
                }
                let mine = match self.view.get(&key) {
                    Some(stored) => Mine::new(Phase::Renewing(stored.revision, stored.claim.state), true),
                    None => Mine::new(Phase::Claiming, false),
                };
                self.mine.insert(key, mine);
            }
        }
    }

    /// Sends what is due and not under way.
    fn send(&mut self, out: &mut Vec<RangeAction>) {
        for (key, mine) in self.mine.iter_mut().filter(|(_, mine)| mine.op == Op::Idle) {
            let (state, expect) = match mine.phase {
                Phase::Checking(_) | Phase::Held { doubt: false, .. } => continue,
                Phase::Saving(revision, known) => {
                    if known == 0 {
                        self.generation += 1;
                    }
                    let generation = if known == 0 { self.generation } else { known };
                    (mine.phase, mine.op) = (Phase::Saving(revision, generation), Op::Sent(0));
                    out.push(RangeAction::Save { generation });
                    continue;
                }
                Phase::Deleting(revision) => {
                    out.push(RangeAction::ClaimDelete { op: self.next_op, key: key.clone(), expect: revision });
                    mine.op = Op::Sent(self.next_op);
                    self.next_op += 1;
                    continue;
                }
                Phase::Claiming | Phase::Held { .. } => (ClaimState::Tentative, None),
                Phase::Confirming(revision) => (ClaimState::Held, Some(revision)),
                Phase::Renewing(revision, state) => (state, Some(revision)),
            };
            let claim = Claim::new(self.me.clone(), state);
            out.push(RangeAction::ClaimPut { op: self.next_op, key: key.clone(), claim, expect });
            mine.op = Op::Sent(self.next_op);
            self.next_op += 1;
        }
    }
}
