//! Thousands of peers through the core alone: what they cost grows with their count and not faster, and each is written
//! once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ripstop_agent::core::{Core, Output};
use ripstop_netmodel::{Entry, Key, Object, RouteTarget};
use ripstop_objects::{BackendKind, ClaimState, Network, Receive, Record};
use ripstop_plan::{Action, Step};
use ripstop_tables::{Input, Moment, Recording, Stamped, Start, StoreInput, StoreKind, StoreResult, Withdrawn};
use ripstop_types::{Mac, Millis, Revision};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::scenario::{alive, claim, facts, host_link, name, network, node_record, start};

/// So many records are taken in before it is decided what follows.
const BATCH: usize = 256;

/// A core with a kernel and a store that do at once what they are told.
struct World {
    core: Core,
    at: Moment,
    revision: u64,
    /// What the watch has not told yet.
    news: VecDeque<StoreInput>,
    /// Steps for the kernel, by plan.
    plans: Vec<Vec<Step>>,
    /// Whether an operator got an answer.
    answered: bool,
    /// What was taken in, where that is recorded.
    recording: Option<Vec<u8>>,
    /// Every plan, as a replay shows it.
    shown: Vec<Value>,
}

impl World {
    fn new() -> Self {
        Self::with(Vec::new())
    }

    /// One in whose kernel there is something already.
    fn with(observed: Vec<Entry>) -> Self {
        Self::started(observed, None)
    }

    /// One that records what it takes in.
    fn recorded() -> Self {
        Self::started(Vec::new(), Some(Vec::new()))
    }

    fn started(observed: Vec<Entry>, mut recording: Option<Vec<u8>>) -> Self {
        let at = Moment { now: Millis(1_000_000), wall: Millis(1_000_000) };
        let mut facts = facts();
        facts.links.insert(name("eth0"), host_link(1500, &["172.30.1.11/16"]));
        let start = Start { observed, ..start(facts) };
        if let Some(out) = &mut recording {
            let input = Input::Start(Box::new(start.clone()));
            Recording::write(out, &Stamped { at, input, more: false }).unwrap();
        }
        let (core, outputs) = Core::start(at, start);
        let (news, plans, shown) = (VecDeque::new(), Vec::new(), Vec::new());
        let mut world = Self { core, at, revision: 1, news, plans, answered: false, recording, shown };
        world.carry_out(outputs);
        world
    }

    fn show(&mut self, record: &impl Record, kind: StoreKind) {
        self.revision += 1;
        let revision = Revision(self.revision);
        self.news.push_back(StoreInput::Put {
            kind,
            key: record.key().into(),
            value: record.encode().into(),
            revision,
        });
    }

    fn sync(&mut self, kind: StoreKind) {
        self.news.push_back(StoreInput::Synced { kind, revision: Revision(self.revision) });
    }

    /// The store's lists, as a watch begins with them.
    fn list(&mut self, network: &Network, peers: u32) {
        let named = |peer: u32| format!("peer{peer:05}");
        self.show(network, StoreKind::Networks);
        self.sync(StoreKind::Networks);
        for peer in 0..peers {
            let address = format!("172.30.{}.{}/16", 100 + (peer >> 8), peer & 255);
            let mut record = node_record(&named(peer), &[&address]);
            for receive in &mut record.receives {
                if let Receive::Vxlan(vxlan) = receive {
                    let [.., high, low] = peer.to_be_bytes();
                    vxlan.mac = Mac::local([0, 0, 1, high, low]);
                }
            }
            self.show(&record, StoreKind::Nodes);
        }
        self.sync(StoreKind::Nodes);
        for peer in 0..peers {
            let range = format!("10.{}.{}.0/24", peer >> 8, peer & 255);
            self.show(&claim(&named(peer), "default", &range, ClaimState::Held), StoreKind::Claims);
        }
        self.sync(StoreKind::Claims);
        self.sync(StoreKind::Alive);
    }

    /// Tells everything there is to tell, and what follows from it.
    fn settle(&mut self) {
        while !self.news.is_empty() || self.core.next_tick() <= self.at.now {
            if self.core.next_tick() <= self.at.now {
                self.feed(Input::Tick);
            }
            let batch: Vec<StoreInput> = self.news.drain(..BATCH.min(self.news.len())).collect();
            self.take_in(batch.into_iter().map(Input::Store).collect());
        }
    }

    fn feed(&mut self, input: Input) {
        self.take_in(vec![input]);
    }

    /// Takes several inputs in and does what follows from all of them.
    fn take_in(&mut self, inputs: Vec<Input>) {
        let mut left = inputs.len();
        for input in inputs {
            left -= 1;
            if let Some(out) = &mut self.recording {
                Recording::write(out, &Stamped { at: self.at, input: input.clone(), more: left > 0 }).unwrap();
            }
            self.core.take_in(self.at, input);
        }
        let outputs = self.core.conclude();
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in &outputs {
            let (plan, lane, steps) = match output {
                Output::Apply { plan, steps, .. } if self.recording.is_some() => (plan, "kernel", steps),
                Output::Store { plan, steps } if self.recording.is_some() => (plan, "store", steps),
                _ => continue,
            };
            self.shown.push(json!({ "plan": plan, "lane": lane, "steps": steps.view() }));
        }
        for output in outputs {
            match output {
                Output::Apply { plan, steps, .. } => {
                    let results = vec![Some(Ok(())); steps.steps.len()];
                    self.plans.push(steps.steps.clone());
                    self.feed(Input::Applied { plan, results });
                }
                Output::Store { plan, steps } => {
                    let results = steps.steps.iter().map(|step| self.write(step)).collect();
                    self.feed(Input::Stored { plan, results });
                }
                Output::Save { generation } => self.feed(Input::Saved { generation }),
                Output::Answer { result, .. } => {
                    result.unwrap();
                    assert_eq!(self.peers().count(), 0, "the answer came before everything was gone");
                    self.answered = true;
                }
                _ => {}
            }
        }
    }

    fn write(&mut self, step: &Step) -> StoreResult {
        let Key::Record { scope: ripstop_netmodel::RecordScope::Cluster(kind), key } = &step.key else { panic!() };
        let Some(Object::Record(record)) = step.after.as_ref().map(|entry| &entry.object) else { panic!() };
        self.revision += 1;
        let (kind, revision) = (StoreKind::parse(kind).unwrap(), Revision(self.revision));
        let value = serde_json::from_str(&record.value).unwrap();
        self.news.push_back(StoreInput::Put { kind, key: key.clone(), value, revision });
        StoreResult::Done(revision)
    }

    /// What is in the kernel because of peers.
    fn peers(&self) -> impl Iterator<Item = &Entry> {
        let of_peer = |entry: &&Entry| entry.owner.as_ref().is_some_and(|o| o.to_string().starts_with("node/peer"));
        self.core.applied().iter().map(|(_, entry)| &**entry).filter(of_peer)
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.plans.iter().flatten()
    }
}

fn joined(backend: BackendKind, peers: u32) -> World {
    join(World::new(), backend, peers)
}

fn join(mut world: World, backend: BackendKind, peers: u32) -> World {
    world.list(&network("default", &["10.0.0.0/8"], |spec| spec.backend.kind = backend), peers);
    world.settle();
    world
}

#[test]
fn a_node_that_joins_thousands_writes_each_object_once() {
    const PEERS: usize = 2_000;
    for (backend, objects) in [(BackendKind::HostGw, 2), (BackendKind::Vxlan, 4)] {
        let world = joined(backend, PEERS as u32);
        let mut written: BTreeMap<&Key, usize> = BTreeMap::new();
        for step in world.steps().filter(|step| step.owner.to_string().starts_with("node/peer")) {
            assert_eq!(step.action, Action::Create, "{}", step.key);
            *written.entry(&step.key).or_default() += 1;
        }
        assert!(written.len() >= objects * PEERS, "{backend:?}: {} objects", written.len());
        let twice: Vec<String> = written.iter().filter(|(_, n)| **n > 1).map(|(key, _)| key.to_string()).collect();
        assert!(twice.is_empty(), "{backend:?}: written more than once: {twice:?}");
        let routes = world.steps().filter_map(|step| match &step.after.as_ref()?.object {
            Object::Route(route) if matches!(route.target, RouteTarget::Nexthop(_)) => Some(route.src.is_some()),
            _ => None,
        });
        let routes: Vec<bool> = routes.collect();
        assert_eq!(routes.len(), PEERS, "{backend:?}");
        assert!(routes.iter().all(|src| *src), "{backend:?}: every route has this node's address as its source");
        // The node's own, and one for as many peers as are made at once; not one a peer.
        let most = 6 + PEERS.div_ceil(ripstop_desired::AT_ONCE);
        assert!(world.plans.len() <= most, "{backend:?}: {} plans", world.plans.len());
    }
}

/// What an earlier run left of thousands of peers is not taken for unwanted before all of them were looked at.
#[test]
fn what_is_there_of_many_peers_stays() {
    const PEERS: u32 = 3 * ripstop_desired::AT_ONCE as u32;
    let before = joined(BackendKind::Vxlan, PEERS);
    let there: Vec<Entry> = before.peers().cloned().collect();
    assert!(there.len() >= 4 * PEERS as usize);
    let world = join(World::with(there), BackendKind::Vxlan, PEERS);
    let removed: Vec<String> =
        world.steps().filter(|step| step.action == Action::Delete).map(|step| step.key.to_string()).collect();
    assert!(removed.is_empty(), "{} removed: {:?} …", removed.len(), removed.first());
    assert!(world.core.desired().keys().all(|key| world.core.applied().get(key).is_some()));
}

#[test]
fn everything_of_many_peers_goes_before_that_is_answered() {
    let mut world = joined(BackendKind::Vxlan, 2 * ripstop_desired::AT_ONCE as u32 + 1);
    assert!(world.peers().count() > 0);
    world.feed(Input::Withdraw { call: 1, what: Withdrawn::Everything, release: false });
    world.settle();
    assert!(world.answered && world.peers().count() == 0);
}

#[test]
fn a_sign_of_life_leads_to_nothing() {
    let mut world = joined(BackendKind::Vxlan, 500);
    let before = world.plans.len();
    for sequence in 1..3 {
        for peer in 0..500 {
            world.show(&alive(&format!("peer{peer:05}"), sequence), StoreKind::Alive);
        }
        world.settle();
    }
    assert_eq!(world.plans.len(), before);
}

/// What a recording gives when it runs again.
fn replayed(recording: &[u8]) -> Vec<Value> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), recording).unwrap();
    let mut lines = Vec::new();
    ripstop_agent::replay(file.path(), &mut lines).unwrap();
    let lines = serde_json::Deserializer::from_slice(&lines).into_iter::<Value>().map(Result::unwrap);
    lines.map(|line| json!({ "plan": line["plan"], "lane": line["lane"], "steps": line["steps"] })).collect()
}

/// Records that were taken in together are acted upon once, and so they are when a recording of them runs again.
#[test]
fn a_recording_of_records_taken_in_together_gives_the_same_plans() {
    const PEERS: u32 = 40;
    let mut world = join(World::recorded(), BackendKind::HostGw, PEERS);
    let before = world.plans.len();
    for peer in 0..5 {
        let (name, range) = (format!("peer{peer:05}"), format!("10.200.{peer}.0/24"));
        world.show(&claim(&name, "default", &range, ClaimState::Held), StoreKind::Claims);
    }
    world.settle();
    assert_eq!(world.plans.len(), before + 1, "the five were acted upon together");
    let recording = world.recording.take().unwrap();
    assert_eq!(replayed(&recording), world.shown);
    // It is the recording that says which came together.
    let apart = String::from_utf8(recording).unwrap().replace(r#","more":true"#, "");
    assert_ne!(replayed(apart.as_bytes()), world.shown);
}

/// The work for eight times the peers is about eight times the work: 64 times would be one walk over all for each.
#[test]
fn the_work_grows_with_the_count_of_peers_and_not_with_its_square() {
    let cost = |peers| {
        let once = || {
            let begun = spent();
            let world = joined(BackendKind::Vxlan, peers);
            let took = spent() - begun;
            assert!(world.steps().count() > 4 * peers as usize);
            took
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    let (few, many) = (cost(500), cost(4_000));
    assert!(many < few * 24, "500 peers take {few:?} of a CPU, 4,000 take {many:?}");
}

/// CPU time of this thread: what else the machine does is not in it.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}
