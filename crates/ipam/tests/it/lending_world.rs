//! A small world for the lending engine: machine 0 owns a block, the others have none and borrow from it; one store with
//! conditional writes, and everything that may go wrong between them. A budget bounds how often each fault happens.
//!
//! A machine *has* an address from the moment a pod got it until that pod went or the machine was switched off; a dead agent's
//! pods keep theirs. The law: no two machines have one address.
//!
//! How a block comes to be owned is the range engine's: here a start without a snapshot of this boot renews its claim at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use ripstop_ipam::{
    Answer, Claim, ClaimKey, ClaimState, Claimant, LendingAction, LendingEngine, LendingEvent, LendingSnapshot, Stored,
};
use ripstop_types::Revision;

use super::lending_words::{Budget, Mutant, Setting, Step};
use super::search;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Call {
    Put { key: ClaimKey, claim: Claim, expect: Option<Revision> },
    Delete { key: ClaimKey, expect: Revision },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Agent {
    engine: LendingEngine,
    watch: Option<u64>,
    calls: VecDeque<(u64, Call)>,
    answers: VecDeque<(u64, Answer)>,
    saving: Option<u64>,
    /// The lease book's closed addresses.
    closed: BTreeSet<ClaimKey>,
    /// The revision of the block's claim.
    block: Option<Revision>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Machine {
    off: bool,
    boot: u8,
    run: u64,
    agent: Option<Agent>,
    disk: Option<(LendingSnapshot, Option<Revision>)>,
    pods: BTreeSet<ClaimKey>,
}

/// One state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    machines: Vec<Rc<Machine>>,
    claims: Rc<BTreeMap<ClaimKey, Stored>>,
    log: Rc<Vec<(ClaimKey, Option<Claim>)>>,
    adrift: Vec<Rc<Call>>,
    budget: Budget,
}

fn block() -> ClaimKey {
    ClaimKey::new("default", "10.0.0.0/30".parse().unwrap())
}

fn single(n: u8) -> ClaimKey {
    ClaimKey::new("default", format!("10.0.0.{n}/32").parse().unwrap())
}

impl World {
    /// All machines on, no agent started, an empty store.
    pub fn new(setting: &Setting, budget: Budget) -> Self {
        let machines = (0..setting.machines).map(|_| Rc::default()).collect();
        Self { machines, claims: Rc::default(), log: Rc::default(), adrift: Vec::new(), budget }
    }

    /// The same, with everyone up, and with what everyone needs to know.
    pub fn started(setting: &Setting, budget: Budget) -> Self {
        let mut world = Self::new(setting, budget);
        (0..setting.machines).for_each(|n| search::World::take(&mut world, setting, Step::Start(n)));
        for n in 0..setting.machines {
            let now = world.log.len() as u64;
            search::World::take(&mut world, setting, Step::List(n, now));
            search::World::take(&mut world, setting, Step::Save(n));
        }
        world
    }

    fn machine(&mut self, n: usize) -> &mut Machine {
        Rc::make_mut(&mut self.machines[n])
    }

    fn agent(&mut self, n: usize) -> &mut Agent {
        self.machine(n).agent.as_mut().unwrap()
    }

    fn claimant(&self, n: usize) -> Claimant {
        let machine = &self.machines[n];
        Claimant {
            node: format!("n{n}").parse().unwrap(),
            machine: format!("n{n}").into(),
            boot: machine.boot.to_string().into(),
            run: machine.run,
        }
    }

    fn start(&mut self, setting: &Setting, n: usize) {
        self.machine(n).run += 1;
        let me = self.claimant(n);
        let disk = self.machines[n].disk.clone();
        let engine = LendingEngine::new(me.clone(), disk.as_ref().map(|(saved, _)| saved));
        let closed = engine.closed().cloned().collect();
        let agent = Agent {
            engine,
            watch: None,
            calls: VecDeque::new(),
            answers: VecDeque::new(),
            saving: None,
            closed,
            block: None,
        };
        self.machine(n).agent = Some(agent);
        if n != 0 {
            return;
        }
        let saved = disk.filter(|(saved, _)| saved.claimant.same_boot(&me)).and_then(|(_, block)| block);
        let revision = saved.unwrap_or_else(|| self.write(&block(), Some(Claim::new(me, ClaimState::Held))));
        self.agent(0).block = Some(revision);
        let known = if setting.mutant == Some(Mutant::OpensAtOnce) { Revision(0) } else { revision };
        self.feed(setting, 0, &LendingEvent::Own(vec![(block(), known)]));
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

    fn write(&mut self, key: &ClaimKey, claim: Option<Claim>) -> Revision {
        Rc::make_mut(&mut self.log).push((key.clone(), claim.clone()));
        let revision = Revision(self.log.len() as u64);
        let claims = Rc::make_mut(&mut self.claims);
        match claim {
            Some(claim) => drop(claims.insert(key.clone(), Stored { revision, claim })),
            None => drop(claims.remove(key)),
        }
        revision
    }

    fn execute(&mut self, setting: &Setting, call: &Call) -> Answer {
        let (key, expect, claim) = match call {
            Call::Put { key, claim, expect } => (key, *expect, Some(claim.clone())),
            Call::Delete { key, expect } => (key, Some(*expect), None),
        };
        let current = self.claims.get(key);
        let blind = setting.mutant == Some(Mutant::WritesBlindly) && (claim.is_some() || current.is_some());
        if current.map(|stored| stored.revision) != expect && !blind {
            return Answer::Conflict(current.cloned());
        }
        Answer::Done(self.write(key, claim))
    }

    fn list(&mut self, setting: &Setting, n: usize, revision: u64) {
        let mut claims = BTreeMap::new();
        for (at, (key, claim)) in self.log.iter().enumerate().take(revision as usize) {
            match claim {
                Some(claim) => {
                    let stored = Stored { revision: Revision(at as u64 + 1), claim: claim.clone() };
                    claims.insert(key.clone(), stored);
                }
                None => drop(claims.remove(key)),
            }
        }
        self.agent(n).watch = Some(revision);
        self.feed(setting, n, &LendingEvent::Listed { revision: Revision(revision), claims });
    }

    /// Gives an agent an event and carries out what its engine answers.
    fn feed(&mut self, setting: &Setting, n: usize, event: &LendingEvent) {
        let actions = self.agent(n).engine.on(event);
        for action in actions {
            match action {
                LendingAction::Put { op, key, claim, expect } => {
                    let claim_state = claim.state;
                    let call = Call::Put { key, claim, expect };
                    if setting.mutant == Some(Mutant::TrustsItsRequest) && claim_state == ClaimState::Borrowed {
                        self.drift(call);
                        let guess = Revision(self.log.len() as u64);
                        self.feed(setting, n, &LendingEvent::Answer { op, answer: Answer::Done(guess) });
                    } else {
                        self.agent(n).calls.push_back((op, call));
                    }
                }
                LendingAction::Delete { op, key, expect } => {
                    self.agent(n).calls.push_back((op, Call::Delete { key, expect }));
                }
                LendingAction::Save { generation } if setting.mutant == Some(Mutant::DoesNotSave) => {
                    self.feed(setting, n, &LendingEvent::Saved { generation });
                }
                LendingAction::Save { generation } => self.agent(n).saving = Some(generation),
                LendingAction::Close(key) => drop(self.agent(n).closed.insert(key)),
                LendingAction::Reopen(key) => drop(self.agent(n).closed.remove(&key)),
                LendingAction::Judge(key) => {
                    if self.machines[n].pods.contains(&key) && setting.mutant != Some(Mutant::GrantsAnything) {
                        self.feed(setting, n, &LendingEvent::Refuse { key, holder: "a pod".into() });
                    } else {
                        self.agent(n).closed.insert(key.clone());
                        self.feed(setting, n, &LendingEvent::Grant(key));
                    }
                }
                LendingAction::Use(_)
                | LendingAction::Stop(_)
                | LendingAction::Denied { .. }
                | LendingAction::Missed(_) => {}
            }
        }
    }

    /// Addresses that a machine's agent may give to a pod now.
    fn free(&self, setting: &Setting, n: usize) -> Vec<u8> {
        let machine = &self.machines[n];
        let Some(agent) = &machine.agent else { return Vec::new() };
        let free = |at: &u8| {
            let key = single(*at);
            let own = n == 0 && agent.engine.is_open(&block()) && !agent.closed.contains(&key);
            (own || agent.engine.borrowed().any(|borrowed| *borrowed == key)) && !machine.pods.contains(&key)
        };
        (0..setting.addresses).filter(free).collect()
    }

    fn sweep(&mut self, setting: &Setting, n: usize) {
        let forgotten: Vec<ClaimKey> = self.agent(n).engine.forgotten().cloned().collect();
        for key in forgotten {
            let kept = self.machines[n].pods.contains(&key);
            self.feed(setting, n, &if kept { LendingEvent::Keep(key) } else { LendingEvent::Return(key) });
        }
        let borrowed: Vec<ClaimKey> = self.agent(n).engine.borrowed().cloned().collect();
        for key in borrowed.into_iter().filter(|key| !self.machines[n].pods.contains(key)).collect::<Vec<_>>() {
            self.feed(setting, n, &LendingEvent::Return(key));
        }
    }

    /// Whether a sweep would find anything.
    fn has_dust(&self, n: usize) -> bool {
        let machine = &self.machines[n];
        let Some(agent) = &machine.agent else { return false };
        agent.engine.forgotten().next().is_some() || agent.engine.borrowed().any(|key| !machine.pods.contains(key))
    }

    fn wire_steps(&self, n: usize, agent: &Agent, steps: &mut Vec<Step>) {
        let (b, now) = (&self.budget, self.log.len() as u64);
        if !agent.calls.is_empty() {
            steps.push(Step::Land(n));
            push_if(steps, b.lost > 0, Step::Lose(n));
            push_if(steps, b.delayed > 0, Step::Delay(n));
        }
        if !agent.answers.is_empty() {
            steps.push(Step::Hear(n));
            push_if(steps, b.lost > 0, Step::HearNothing(n));
        }
        if agent.watch.is_none() || b.relist > 0 {
            steps.push(Step::List(n, now));
            for back in 1..=2.min(now) {
                push_if(steps, b.stale > 0, Step::List(n, now - back));
            }
        }
        push_if(steps, agent.watch.is_some_and(|at| at < now), Step::Watch(n));
        push_if(steps, agent.saving.is_some(), Step::Save(n));
        let disk = self.machines[n].disk.as_ref().map(|(saved, _)| saved);
        let counts = b.kill > 0 && disk != Some(&agent.engine.snapshot());
        push_if(steps, counts && agent.saving.is_none(), Step::Save(n));
        push_if(steps, b.ticks > 0, Step::Tick(n));
    }

    fn wire(&mut self, setting: &Setting, step: Step) {
        match step {
            Step::Land(n) => {
                let (op, call) = self.agent(n).calls.pop_front().unwrap();
                let answer = self.execute(setting, &call);
                self.agent(n).answers.push_back((op, answer));
            }
            Step::Lose(n) | Step::Delay(n) => {
                let (op, call) = self.agent(n).calls.pop_front().unwrap();
                if let Step::Delay(_) = step {
                    self.budget.delayed -= 1;
                    self.drift(call);
                } else {
                    self.budget.lost -= 1;
                }
                self.feed(setting, n, &LendingEvent::Answer { op, answer: Answer::Failed });
            }
            Step::Hear(n) => {
                let (op, answer) = self.agent(n).answers.pop_front().unwrap();
                self.feed(setting, n, &LendingEvent::Answer { op, answer });
            }
            Step::HearNothing(n) => {
                self.budget.lost -= 1;
                let (op, _) = self.agent(n).answers.pop_front().unwrap();
                self.feed(setting, n, &LendingEvent::Answer { op, answer: Answer::Failed });
            }
            Step::List(n, revision) => {
                if self.agent(n).watch.is_some() {
                    self.budget.relist -= 1;
                }
                if revision < self.log.len() as u64 {
                    self.budget.stale -= 1;
                }
                self.list(setting, n, revision);
            }
            Step::Watch(n) => {
                let next = self.agent(n).watch.unwrap() + 1;
                self.agent(n).watch = Some(next);
                let (key, claim) = self.log[next as usize - 1].clone();
                self.feed(setting, n, &LendingEvent::Changed { key, revision: Revision(next), claim });
            }
            Step::Save(n) => {
                let saved = (self.agent(n).engine.snapshot(), self.agent(n).block);
                self.machine(n).disk = Some(saved);
                if let Some(generation) = self.agent(n).saving.take() {
                    self.feed(setting, n, &LendingEvent::Saved { generation });
                }
            }
            _ => {}
        }
    }

    fn power(&mut self, setting: &Setting, step: Step) {
        match step {
            Step::Start(n) => self.start(setting, n),
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
                machine.pods.clear();
            }
            Step::On(n) => {
                let machine = self.machine(n);
                machine.off = false;
                machine.boot += 1;
            }
            _ => {}
        }
    }

    fn deed(&mut self, setting: &Setting, step: Step) {
        match step {
            Step::Add(n, at) => {
                self.budget.pods -= u8::from(n == 0);
                self.machine(n).pods.insert(single(at));
            }
            Step::Del(n, at) => drop(self.machine(n).pods.remove(&single(at))),
            Step::Offer(at) => {
                self.budget.offers -= 1;
                if setting.mutant != Some(Mutant::OffersWhatIsOpen) {
                    self.agent(0).closed.insert(single(at));
                }
                self.feed(setting, 0, &LendingEvent::Offer(single(at)));
            }
            Step::Back(at) => {
                self.budget.backs -= 1;
                self.feed(setting, 0, &LendingEvent::TakeBack(single(at)));
            }
            Step::Borrow(n, at) => {
                self.budget.borrows -= 1;
                self.feed(setting, n, &LendingEvent::Borrow { key: single(at), holder: "a pod".into() });
            }
            Step::Ask(n, at) => {
                self.budget.asks -= 1;
                self.feed(setting, n, &LendingEvent::Ask { key: single(at), holder: "a pod".into() });
            }
            Step::Sweep(n) => self.sweep(setting, n),
            _ => {}
        }
    }
}

impl search::World for World {
    type Setting = Setting;
    type Step = Step;

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn check(&self) -> Result<(), String> {
        for (n, one) in self.machines.iter().enumerate() {
            for (m, other) in self.machines.iter().enumerate().skip(n + 1) {
                if let Some(key) = one.pods.intersection(&other.pods).next() {
                    return Err(format!("machines {n} and {m} both have {}", key.range));
                }
            }
        }
        Ok(())
    }

    fn steps(&self, setting: &Setting) -> Vec<Step> {
        let (mut steps, b) = (Vec::new(), &self.budget);
        for (n, machine) in self.machines.iter().enumerate() {
            push_if(&mut steps, machine.off, Step::On(n));
            push_if(&mut steps, !machine.off && b.off > 0, Step::Off(n));
            let Some(agent) = &machine.agent else {
                push_if(&mut steps, !machine.off, Step::Start(n));
                push_if(&mut steps, !machine.off && b.amnesia > 0 && machine.disk.is_some(), Step::StartWithout(n));
                continue;
            };
            push_if(&mut steps, b.kill > 0, Step::Kill(n));
            self.wire_steps(n, agent, &mut steps);
            let may_add = n > 0 || b.pods > 0;
            steps.extend(self.free(setting, n).into_iter().filter(|_| may_add).map(|at| Step::Add(n, at)));
            steps.extend(
                (0..setting.addresses).filter(|at| machine.pods.contains(&single(*at))).map(|at| Step::Del(n, at)),
            );
            push_if(&mut steps, self.has_dust(n), Step::Sweep(n));
            let (engine, known) =
                (&agent.engine, |at: &u8| !agent.engine.rows().iter().any(|row| row.key == single(*at)));
            if n == 0 {
                let free = self.free(setting, 0);
                steps.extend(free.into_iter().filter(|at| b.offers > 0 && known(at)).map(Step::Offer));
                let offered = (0..setting.addresses).filter(|at| engine.offering().any(|key| *key == single(*at)));
                steps.extend(offered.filter(|_| b.backs > 0).map(Step::Back));
            } else {
                let offers = (0..setting.addresses).filter(|at| engine.offers().any(|key| *key == single(*at)));
                steps.extend(offers.filter(|_| b.borrows > 0).map(|at| Step::Borrow(n, at)));
                steps.extend((0..setting.addresses).filter(|at| b.asks > 0 && known(at)).map(|at| Step::Ask(n, at)));
            }
        }
        steps.extend((0..self.adrift.len()).map(Step::Drift));
        steps
    }

    fn take(&mut self, setting: &Setting, step: Step) {
        match step {
            Step::Drift(n) => {
                let call = self.adrift.remove(n);
                self.execute(setting, &call);
            }
            Step::Tick(n) => {
                self.budget.ticks = self.budget.ticks.saturating_sub(1);
                self.feed(setting, n, &LendingEvent::Tick);
            }
            _ => {
                self.power(setting, step);
                self.wire(setting, step);
                self.deed(setting, step);
            }
        }
    }

    fn is_fault(step: &Step) -> bool {
        matches!(
            step,
            Step::StartWithout(_)
                | Step::Lose(_)
                | Step::Delay(_)
                | Step::HearNothing(_)
                | Step::Kill(_)
                | Step::Off(_)
                | Step::Drift(_)
        )
    }

    /// Everyone comes up, offers are taken back, what no pod has is returned.
    fn settle(&mut self, setting: &Setting) {
        for n in 0..self.machines.len() {
            if self.machines[n].off {
                self.take(setting, Step::On(n));
            }
            if self.machines[n].agent.is_none() {
                self.take(setting, Step::Start(n));
            }
        }
        while !self.adrift.is_empty() {
            self.take(setting, Step::Drift(0));
        }
        for round in 0..120 {
            for n in 0..self.machines.len() {
                while !self.agent(n).calls.is_empty() {
                    self.take(setting, Step::Land(n));
                }
                while !self.agent(n).answers.is_empty() {
                    self.take(setting, Step::Hear(n));
                }
                if self.agent(n).watch.is_none() {
                    self.list(setting, n, self.log.len() as u64);
                }
                while self.agent(n).watch.unwrap() < self.log.len() as u64 {
                    self.take(setting, Step::Watch(n));
                }
                self.take(setting, Step::Save(n));
                self.take(setting, Step::Tick(n));
                self.sweep(setting, n);
                let offering: Vec<ClaimKey> = self.agent(n).engine.offering().cloned().collect();
                for key in offering.into_iter().filter(|_| round > 60) {
                    self.feed(setting, n, &LendingEvent::TakeBack(key));
                }
            }
        }
    }

    /// The store, both sides and the pods say the same of every address, and nothing is half done.
    fn check_settled(&self, setting: &Setting) -> Result<(), String> {
        self.check()?;
        let closed = &self.machines[0].agent.as_ref().unwrap().closed;
        for key in (0..setting.addresses).map(single) {
            let borrower = self.machines.iter().skip(1).find(|machine| machine.pods.contains(&key));
            let stored = self.claims.get(&key).map(|stored| stored.claim.state);
            let wanted = borrower.map(|_| ClaimState::Borrowed);
            if stored != wanted || closed.contains(&key) != wanted.is_some() {
                let is_closed = closed.contains(&key);
                return Err(format!("{} is {stored:?}, closed: {is_closed}, and should be {wanted:?}", key.range));
            }
        }
        for (n, machine) in self.machines.iter().enumerate() {
            let engine = &machine.agent.as_ref().unwrap().engine;
            if let Some(row) = engine.rows().iter().find(|row| !matches!(row.phase, "lent" | "borrowed")) {
                return Err(format!("machine {n}: {} stays {}", row.key.range, row.phase));
            }
            if n == 0 && !engine.is_open(&block()) {
                return Err("the block is not open".into());
            }
        }
        Ok(())
    }
}

fn push_if(steps: &mut Vec<Step>, condition: bool, step: Step) {
    if condition {
        steps.push(step);
    }
}
