//! A small world for the range engine: machines, agents, one store with conditional writes, and everything that may go
//! wrong between them. Each fault is a step; a budget bounds how often it happens in one history.
//!
//! A machine *occupies* a range from the moment its agent was told to use it until the agent gave it back or the machine was
//! switched off; a dead agent's pods keep their addresses. The law: no two machines occupy ranges that overlap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use ripstop_ipam::{
    Answer, Claim, ClaimKey, ClaimState, Claimant, RangeAction, RangeEngine, RangeEvent, RangeSnapshot, Slot,
    StopReason, Stored,
};
use ripstop_types::Revision;

use super::ranges_words::{Budget, Mutant, Part, Setting, Step};
use super::search;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Call {
    Put { key: ClaimKey, claim: Claim, expect: Option<Revision> },
    Delete { key: ClaimKey, expect: Revision },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Agent {
    engine: RangeEngine,
    /// Changes delivered up to this revision.
    watch: Option<u64>,
    calls: VecDeque<(u64, Call)>,
    answers: VecDeque<(u64, Answer)>,
    saving: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Machine {
    off: bool,
    boot: u8,
    run: u64,
    agent: Option<Agent>,
    disk: Option<RangeSnapshot>,
    occupied: BTreeSet<ClaimKey>,
    /// Gave its range back and was not asked to join again.
    left: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Change {
    key: ClaimKey,
    claim: Option<Claim>,
}

/// One state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    machines: Vec<Rc<Machine>>,
    claims: Rc<BTreeMap<ClaimKey, Stored>>,
    /// Change number n is `log[n - 1]`.
    log: Rc<Vec<Change>>,
    /// Calls without a caller, which may come through at any time or never.
    adrift: Vec<Rc<Call>>,
    budget: Budget,
}

impl World {
    /// All machines on, no agent started, an empty store.
    pub fn new(setting: &Setting, budget: Budget) -> Self {
        Self {
            machines: setting.parts.iter().map(|_| Rc::default()).collect(),
            claims: Rc::default(),
            log: Rc::default(),
            adrift: Vec::new(),
            budget,
        }
    }

    /// Agents and machines come and go.
    fn power(&mut self, setting: &Setting, step: Step) {
        match step {
            Step::StartWithout(n) => {
                self.budget.amnesia -= 1;
                self.machine(n).disk = None;
                self.start(setting, n);
            }
            Step::Kill(n) => {
                self.budget.kill -= 1;
                self.kill(n);
            }
            Step::Off(n) => {
                self.budget.off -= 1;
                self.kill(n);
                let machine = self.machine(n);
                machine.off = true;
                machine.occupied.clear();
            }
            Step::On(n) => {
                let machine = self.machine(n);
                machine.off = false;
                machine.boot += 1;
            }
            Step::Start(n) => self.start(setting, n),
            _ => {}
        }
    }

    /// A call or its answer moves on, or is lost.
    fn wire(&mut self, setting: &Setting, step: Step) {
        match step {
            Step::Land(n) => {
                let (op, call) = self.agent(n).calls.pop_front().unwrap();
                let answer = self.execute(setting, &call);
                self.agent(n).answers.push_back((op, answer));
            }
            Step::Lose(n) => {
                self.budget.lost -= 1;
                let (op, _) = self.agent(n).calls.pop_front().unwrap();
                self.feed(setting, n, &RangeEvent::Answer { op, answer: Answer::Failed });
            }
            Step::Delay(n) => {
                self.budget.delayed -= 1;
                let (op, call) = self.agent(n).calls.pop_front().unwrap();
                self.drift(call);
                self.feed(setting, n, &RangeEvent::Answer { op, answer: Answer::Failed });
            }
            Step::Hear(n) => {
                let (op, answer) = self.agent(n).answers.pop_front().unwrap();
                self.feed(setting, n, &RangeEvent::Answer { op, answer });
            }
            Step::HearNothing(n) => {
                self.budget.lost -= 1;
                let (op, _) = self.agent(n).answers.pop_front().unwrap();
                self.feed(setting, n, &RangeEvent::Answer { op, answer: Answer::Failed });
            }
            _ => {}
        }
    }

    fn machine(&mut self, n: usize) -> &mut Machine {
        Rc::make_mut(&mut self.machines[n])
    }

    fn agent(&mut self, n: usize) -> &mut Agent {
        self.machine(n).agent.as_mut().unwrap()
    }

    fn claim_of(&self, setting: &Setting, n: usize) -> Option<(&ClaimKey, &Stored)> {
        self.claims.iter().find(|(_, stored)| *stored.claim.claimant.machine == *setting.parts[n].node)
    }

    fn start(&mut self, setting: &Setting, n: usize) {
        let part = &setting.parts[n];
        let machine = self.machine(n);
        machine.run += 1;
        let me = Claimant {
            node: if setting.namesakes { "twin" } else { &part.node }.parse().unwrap(),
            machine: part.node.as_str().into(),
            boot: machine.boot.to_string().into(),
            run: machine.run,
        };
        if let Some(disk) = &mut machine.disk
            && setting.mutant == Some(Mutant::TrustsOldBoot)
        {
            disk.claimant.boot = me.boot.clone();
        }
        let engine = RangeEngine::new(me, machine.disk.as_ref());
        machine.agent =
            Some(Agent { engine, watch: None, calls: VecDeque::new(), answers: VecDeque::new(), saving: None });
        if !machine.left {
            self.feed(setting, n, &RangeEvent::Want(part.request.clone()));
        }
    }

    fn kill(&mut self, n: usize) {
        if let Some(agent) = self.machine(n).agent.take() {
            agent.calls.into_iter().for_each(|(_, call)| self.drift(call));
        }
    }

    fn drift(&mut self, call: Call) {
        self.adrift.push(Rc::new(call));
        self.adrift.sort_unstable();
    }

    fn list(&mut self, setting: &Setting, n: usize, revision: u64) {
        if self.agent(n).watch.is_some() {
            self.budget.relist -= 1;
        }
        if revision < self.log.len() as u64 {
            self.budget.stale -= 1;
        }
        let mut claims = BTreeMap::new();
        for (at, change) in self.log.iter().enumerate().take(revision as usize) {
            match &change.claim {
                Some(claim) => {
                    let stored = Stored { revision: Revision(at as u64 + 1), claim: claim.clone() };
                    claims.insert(change.key.clone(), stored);
                }
                None => drop(claims.remove(&change.key)),
            }
        }
        self.agent(n).watch = Some(revision);
        claims.retain(|key, stored| !self.hidden(setting, n, key, &stored.claim));
        if setting.mutant == Some(Mutant::TrustsLists) {
            self.forge_snapshot(setting, n, &claims);
        }
        self.feed(setting, n, &RangeEvent::Listed { revision: Revision(revision), claims });
    }

    /// Makes the engine believe that it holds whatever the list says is its machine's.
    fn forge_snapshot(&mut self, setting: &Setting, n: usize, claims: &BTreeMap<ClaimKey, Stored>) {
        let mut snapshot = self.agent(n).engine.snapshot();
        let mine = claims.iter().filter(|(_, stored)| stored.claim.claimant.same_machine(&snapshot.claimant));
        snapshot.held = mine.map(|(key, stored)| (key.clone(), stored.revision)).collect();
        self.agent(n).engine = RangeEngine::new(snapshot.claimant.clone(), Some(&snapshot));
        self.feed(setting, n, &RangeEvent::Want(setting.parts[n].request.clone()));
    }

    fn show(&mut self, setting: &Setting, n: usize, revision: u64) {
        let Change { key, claim } = self.log[revision as usize - 1].clone();
        let claim = claim.filter(|claim| !self.hidden(setting, n, &key, claim));
        self.feed(setting, n, &RangeEvent::Changed { key, revision: Revision(revision), claim });
    }

    /// Whether a mutant looks past a claim.
    fn hidden(&self, setting: &Setting, n: usize, key: &ClaimKey, claim: &Claim) -> bool {
        let other = *claim.claimant.machine != *setting.parts[n].node;
        match setting.mutant {
            Some(Mutant::TrustsExpiry) => {
                let silent = |(part, machine): (&Part, &Rc<Machine>)| {
                    *part.node == *claim.claimant.machine && machine.agent.is_none()
                };
                other && setting.parts.iter().zip(&self.machines).any(silent)
            }
            Some(Mutant::IgnoresOverlap) => other && key.range.len() != setting.parts[n].request.len,
            _ => false,
        }
    }

    /// Gives an agent an event and carries out what its engine answers.
    fn feed(&mut self, setting: &Setting, n: usize, event: &RangeEvent) {
        let actions = self.agent(n).engine.on(event);
        for action in actions {
            match action {
                RangeAction::UseRange(key) => drop(self.machine(n).occupied.insert(key)),
                RangeAction::StopRange { key, reason } => {
                    if reason == StopReason::Released {
                        self.machine(n).occupied.remove(&key);
                    }
                }
                RangeAction::Save { generation } if setting.mutant == Some(Mutant::DeletesBeforeSaving) => {
                    self.feed(setting, n, &RangeEvent::Saved { generation });
                }
                RangeAction::Save { generation } => self.agent(n).saving = Some(generation),
                RangeAction::ClaimDelete { op, key, expect } => {
                    self.agent(n).calls.push_back((op, Call::Delete { key, expect }));
                }
                RangeAction::ClaimPut { op, key, claim, expect } => {
                    let call = Call::Put { key, claim, expect };
                    if setting.mutant == Some(Mutant::TrustsItsRequest) {
                        self.drift(call);
                        let guess = Revision(self.log.len() as u64);
                        self.feed(setting, n, &RangeEvent::Answer { op, answer: Answer::Done(guess) });
                    } else {
                        self.agent(n).calls.push_back((op, call));
                    }
                }
            }
        }
    }

    /// The store: conditional, one call at a time.
    fn execute(&mut self, setting: &Setting, call: &Call) -> Answer {
        let (key, expect) = match call {
            Call::Put { key, expect, .. } => (key, *expect),
            Call::Delete { key, expect } => (key, Some(*expect)),
        };
        let current = self.claims.get(key);
        let blind = match call {
            Call::Put { claim, .. } => match setting.mutant {
                Some(Mutant::WritesBlindly) => true,
                Some(Mutant::TrustsExpiry) => current.is_some_and(|stored| {
                    self.silent(setting, &stored.claim) && !stored.claim.claimant.same_machine(&claim.claimant)
                }),
                _ => false,
            },
            Call::Delete { .. } => setting.mutant == Some(Mutant::DeletesBlindly) && current.is_some(),
        };
        if current.map(|stored| stored.revision) != expect && !blind {
            return Answer::Conflict(current.cloned());
        }
        let claim = match call {
            Call::Put { claim, .. } => Some(claim.clone()),
            Call::Delete { .. } => None,
        };
        Rc::make_mut(&mut self.log).push(Change { key: key.clone(), claim: claim.clone() });
        let revision = Revision(self.log.len() as u64);
        let claims = Rc::make_mut(&mut self.claims);
        match claim {
            Some(claim) => drop(claims.insert(key.clone(), Stored { revision, claim })),
            None => drop(claims.remove(key)),
        }
        Answer::Done(revision)
    }

    fn silent(&self, setting: &Setting, claim: &Claim) -> bool {
        let parts = setting.parts.iter().zip(&self.machines);
        parts.into_iter().any(|(part, machine)| *part.node == *claim.claimant.machine && machine.agent.is_none())
    }
}

impl search::World for World {
    type Setting = Setting;
    type Step = Step;

    /// A number for this state; equal states have equal ones.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The law. `Err` names the two machines and their ranges.
    fn check(&self) -> Result<(), String> {
        for (n, one) in self.machines.iter().enumerate() {
            for (m, other) in self.machines.iter().enumerate().skip(n + 1) {
                for (a, b) in one.occupied.iter().flat_map(|a| other.occupied.iter().map(move |b| (a, b))) {
                    if a.range.overlaps(&b.range) {
                        return Err(format!("machine {n} occupies {a} and machine {m} occupies {b}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Steps that can happen now, within the budget.
    fn steps(&self, setting: &Setting) -> Vec<Step> {
        let (mut steps, b) = (Vec::new(), &self.budget);
        let now = self.log.len() as u64;
        for (n, machine) in self.machines.iter().enumerate() {
            let doomed = n == 0 || !setting.spare_others;
            if machine.off {
                steps.push(Step::On(n));
            } else {
                push_if(&mut steps, b.off > 0 && doomed, Step::Off(n));
            }
            let may_operate = machine.off || setting.mutant == Some(Mutant::OperatorGuesses);
            push_if(
                &mut steps,
                b.operator > 0 && may_operate && self.claim_of(setting, n).is_some(),
                Step::Operator(n),
            );
            let Some(agent) = &machine.agent else {
                push_if(&mut steps, !machine.off, Step::Start(n));
                push_if(&mut steps, !machine.off && b.amnesia > 0 && machine.disk.is_some(), Step::StartWithout(n));
                continue;
            };
            if !agent.calls.is_empty() {
                steps.push(Step::Land(n));
                push_if(&mut steps, b.lost > 0, Step::Lose(n));
                push_if(&mut steps, b.delayed > 0, Step::Delay(n));
            }
            if !agent.answers.is_empty() {
                steps.push(Step::Hear(n));
                push_if(&mut steps, b.lost > 0, Step::HearNothing(n));
            }
            if agent.watch.is_none() || b.relist > 0 {
                steps.push(Step::List(n, now));
                for back in 1..=3.min(now) {
                    push_if(&mut steps, b.stale > 0, Step::List(n, now - back));
                }
            }
            if let Some(at) = agent.watch {
                push_if(&mut steps, at < now, Step::Watch(n));
                for old in at.saturating_sub(1).max(1)..=at {
                    push_if(&mut steps, b.repeat > 0, Step::Repeat(n, old));
                }
            }
            push_if(&mut steps, agent.saving.is_some(), Step::Save(n));
            // Without a kill to come, what is on disk makes no difference.
            let counts = b.kill > 0 && doomed && machine.disk.as_ref() != Some(&agent.engine.snapshot());
            push_if(&mut steps, counts && agent.saving.is_none(), Step::Save(n));
            steps.push(Step::Tick(n));
            push_if(&mut steps, b.kill > 0 && doomed, Step::Kill(n));
            push_if(&mut steps, b.release > 0 && agent.engine.used().next().is_some(), Step::Release(n));
            push_if(&mut steps, machine.left, Step::Rejoin(n));
        }
        steps.extend((0..self.adrift.len()).map(Step::Drift));
        steps
    }

    /// Does a step.
    fn take(&mut self, setting: &Setting, step: Step) {
        match step {
            Step::Start(_) | Step::StartWithout(_) | Step::Kill(_) | Step::Off(_) | Step::On(_) => {
                self.power(setting, step)
            }
            Step::Land(_) | Step::Lose(_) | Step::Delay(_) | Step::Hear(_) | Step::HearNothing(_) => {
                self.wire(setting, step);
            }
            Step::List(n, revision) => self.list(setting, n, revision),
            Step::Watch(n) => {
                let next = self.agent(n).watch.unwrap() + 1;
                self.agent(n).watch = Some(next);
                self.show(setting, n, next);
            }
            Step::Repeat(n, revision) => {
                self.budget.repeat -= 1;
                self.show(setting, n, revision);
            }
            Step::Save(n) => {
                let snapshot = self.agent(n).engine.snapshot();
                self.machine(n).disk = Some(snapshot);
                if let Some(generation) = self.agent(n).saving.take() {
                    self.feed(setting, n, &RangeEvent::Saved { generation });
                }
            }
            Step::Tick(n) => self.feed(setting, n, &RangeEvent::Tick),
            Step::Release(n) => {
                self.budget.release -= 1;
                let key = self.agent(n).engine.used().next().unwrap().clone();
                self.machine(n).left = true;
                self.feed(setting, n, &RangeEvent::Release(key));
            }
            Step::Rejoin(n) => {
                self.machine(n).left = false;
                self.feed(setting, n, &RangeEvent::Want(setting.parts[n].request.clone()));
            }
            Step::Operator(n) => {
                self.budget.operator -= 1;
                let (key, stored) = self.claim_of(setting, n).unwrap();
                let call = Call::Delete { key: key.clone(), expect: stored.revision };
                self.drift(call);
            }
            Step::Drift(n) => {
                let call = self.adrift.remove(n);
                self.execute(setting, &call);
            }
        }
    }

    /// Lets everything come to rest without further faults: machines on, agents started and asked to join.
    fn settle(&mut self, setting: &Setting) {
        for n in 0..self.machines.len() {
            if self.machines[n].off {
                self.take(setting, Step::On(n));
            }
            if self.machines[n].agent.is_none() {
                self.take(setting, Step::Start(n));
            }
            if self.machines[n].left {
                self.take(setting, Step::Rejoin(n));
            }
        }
        while !self.adrift.is_empty() {
            self.take(setting, Step::Drift(0));
        }
        for _ in 0..60 {
            for n in 0..self.machines.len() {
                while !self.agent(n).calls.is_empty() {
                    self.take(setting, Step::Land(n));
                }
                while !self.agent(n).answers.is_empty() {
                    self.take(setting, Step::Hear(n));
                }
                if self.agent(n).watch.is_none() {
                    self.take(setting, Step::List(n, self.log.len() as u64));
                }
                while self.agent(n).watch.unwrap() < self.log.len() as u64 {
                    self.take(setting, Step::Watch(n));
                }
                self.take(setting, Step::Save(n));
                self.take(setting, Step::Tick(n));
            }
        }
    }

    /// After [`Self::settle`]: every machine has a range, or names why not; nothing is half done.
    fn check_settled(&self, setting: &Setting) -> Result<(), String> {
        self.check()?;
        for (n, (machine, part)) in self.machines.iter().zip(&setting.parts).enumerate() {
            let agent = machine.agent.as_ref().unwrap();
            let fault = agent.engine.fault(&Slot::of(&part.request));
            if agent.engine.used().next().is_none() && fault.is_none() {
                return Err(format!("machine {n} has neither a range nor a fault: {:?}", agent.engine));
            }
            if let Some(key) = agent.engine.used().find(|key| !machine.occupied.contains(*key)) {
                return Err(format!("machine {n} uses {key} and was not told to"));
            }
            for key in agent.engine.used() {
                let held = self.claims.get(key).is_some_and(|stored| {
                    *stored.claim.claimant.machine == *part.node && stored.claim.state == ClaimState::Held
                });
                if !held {
                    return Err(format!("machine {n} uses {key}, and the store says {:?}", self.claims.get(key)));
                }
            }
        }
        match self.claims.iter().find(|(_, stored)| stored.claim.state == ClaimState::Tentative) {
            Some((key, stored)) => Err(format!("{key} stays tentative: {stored:?}")),
            None => Ok(()),
        }
    }

    fn is_fault(step: &Step) -> bool {
        step.is_fault()
    }
}

fn push_if(steps: &mut Vec<Step>, condition: bool, step: Step) {
    if condition {
        steps.push(step);
    }
}
