//! A segment of nodes with one engine each: messages that are lost and late, links that fail one way or both, nodes that die,
//! freeze and start again, clocks that run at different rates. Time passes by the millisecond.
//!
//! The law: no two nodes speak for an address, but in a hand-over, and then no longer than a detection time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ripstop_types::{Mac, NodeName};

use crate::{Action, Claim, Engine, Message, Table, Timing};

pub const MS: Duration = Duration::from_millis(1);

/// Something that happens to the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Links work or not: a bit for each ordered pair of nodes, in the order of [`pairs`].
    Links(u32),
    /// The program is gone; a later [`Event::Start`] brings it back.
    Kill(usize),
    /// It does not run for so many milliseconds; what comes meanwhile waits.
    Freeze(usize, u64),
    Start(usize),
    /// It is drained, or serves again.
    Leaves(usize, bool),
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A successor does not wait.
    NoWait,
    /// One vote fewer is a majority.
    MajorityLess,
    /// Grants count from when a vote came, not from what its sender had heard.
    EchoOfNow,
    /// Everybody is taken for one that electors do not hear.
    AllSilent,
    /// Answers are given without asking whether they still may.
    Unasked,
}

/// What holds for a whole run.
#[derive(Debug, Clone)]
pub struct Setting {
    pub nodes: usize,
    pub addresses: u8,
    pub timing: Timing,
    /// Clock rates in thousandths.
    pub rates: Vec<u64>,
    /// A message takes between these, in milliseconds; of a thousand so many are lost.
    pub delay: (u64, u64),
    pub lost: u64,
    pub seed: u64,
    pub planted: Option<Planted>,
}

impl Setting {
    pub fn of(nodes: usize) -> Self {
        let timing = Timing::of(90 * MS);
        Self { nodes, addresses: 1, timing, rates: vec![1000; nodes], delay: (1, 1), lost: 0, seed: 1, planted: None }
    }

    /// How long the addresses of nodes that are gone have no owner, at most, once nothing else happens: whoever was away lately.
    pub fn back_within(&self) -> u64 {
        let Timing { interval, detection, margin, probe, .. } = self.timing;
        let all = 2 * detection + margin + probe + 4 * interval;
        u64::try_from(all.as_millis()).unwrap() * 11 / 10 + 8 * self.delay.1
    }
}

/// Ordered pairs of nodes.
pub fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |a| (0..nodes).filter(move |b| *b != a).map(move |b| (a, b)))
}

pub fn node(n: usize) -> NodeName {
    format!("n{n}").parse().unwrap()
}

pub fn mac(n: usize) -> Mac {
    Mac::local([0, 0, 0, 0, n as u8])
}

pub fn address(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

pub fn table(nodes: usize, addresses: u8) -> Table {
    Table {
        candidates: (0..nodes).map(|n| (node(n), mac(n))).collect(),
        addresses: (0..addresses).map(|n| (address(n), None)).collect(),
    }
}

enum Parcel {
    Message(Message),
    /// Somebody has this address.
    Arp(IpAddr, Mac),
    /// Who asks whether somebody has it.
    Question(usize, IpAddr),
}

pub struct World {
    pub setting: Setting,
    /// Real time in milliseconds.
    pub now: u64,
    pub engines: Vec<Option<Engine>>,
    runs: Vec<u64>,
    frozen_until: Vec<u64>,
    links: Vec<Vec<bool>>,
    /// A machine that is no candidate and has an address.
    pub foreign: Option<(IpAddr, Mac)>,
    under_way: BTreeMap<(u64, u64), (usize, Parcel)>,
    waiting: Vec<VecDeque<Parcel>>,
    count: u64,
    random: u64,
    /// Since when more than one speaks.
    doubled: BTreeMap<IpAddr, u64>,
    /// The longest time for which two spoke.
    pub longest_double: u64,
    pub log: Vec<(u64, usize, Action)>,
}

impl World {
    pub fn new(setting: Setting) -> Self {
        let nodes = setting.nodes;
        let mut world = Self {
            now: 1_000,
            engines: (0..nodes).map(|_| None).collect(),
            runs: vec![0; nodes],
            frozen_until: vec![0; nodes],
            links: vec![vec![true; nodes]; nodes],
            foreign: None,
            under_way: BTreeMap::new(),
            waiting: (0..nodes).map(|_| VecDeque::new()).collect(),
            count: 0,
            random: setting.seed,
            doubled: BTreeMap::new(),
            longest_double: 0,
            log: Vec::new(),
            setting,
        };
        (0..nodes).for_each(|n| world.start(n));
        world
    }

    /// The time on a node's clock.
    pub fn clock(&self, n: usize) -> Duration {
        Duration::from_micros(self.now * self.setting.rates[n]) + Duration::from_secs(n as u64 * 1000)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound.max(1)
    }

    fn runs(&self, n: usize) -> bool {
        self.engines[n].is_some() && self.now >= self.frozen_until[n]
    }

    fn start(&mut self, n: usize) {
        if self.engines[n].is_some() {
            return;
        }
        self.runs[n] += 1;
        let now = self.clock(n);
        let mut engine = Engine::new(now, node(n), self.runs[n], self.setting.timing);
        let actions = engine.set(now, table(self.setting.nodes, self.setting.addresses));
        match self.setting.planted {
            Some(Planted::NoWait) => engine.wait = Duration::ZERO,
            Some(Planted::MajorityLess) => engine.need -= 1,
            _ => {}
        }
        self.engines[n] = Some(engine);
        self.frozen_until[n] = 0;
        self.waiting[n].clear();
        self.carry(n, actions);
    }

    pub fn happen(&mut self, event: &Event) {
        match *event {
            Event::Links(bits) => {
                for (bit, (a, b)) in pairs(self.setting.nodes).enumerate() {
                    self.links[a][b] = bits >> (bit % 32) & 1 == 1;
                }
            }
            Event::Kill(n) => {
                self.engines[n] = None;
                self.waiting[n].clear();
            }
            Event::Freeze(n, time) => self.frozen_until[n] = self.now + time,
            Event::Start(n) => self.start(n),
            Event::Leaves(n, leaves) if self.runs(n) => {
                let now = self.clock(n);
                let actions = self.engines[n].as_mut().map(|engine| engine.set_leaving(now, leaves));
                self.carry(n, actions.unwrap_or_default());
            }
            Event::Leaves(..) => {}
        }
    }

    /// A node gets to know of other candidates, addresses or endpoints.
    pub fn learn(&mut self, n: usize, table: Table) {
        let now = self.clock(n);
        let actions = self.engines[n].as_mut().map(|engine| engine.set(now, table));
        self.carry(n, actions.unwrap_or_default());
    }

    /// Nothing reaches a node, nor comes from it.
    pub fn cut_off(&mut self, n: usize) {
        for (a, b) in pairs(self.setting.nodes).filter(|(a, b)| *a == n || *b == n) {
            self.links[a][b] = false;
        }
    }

    fn post(&mut self, delay: u64, to: usize, parcel: Parcel) {
        self.count += 1;
        self.under_way.insert((self.now + delay, self.count), (to, parcel));
    }

    /// Over the wire, if it works.
    fn send(&mut self, from: usize, to: usize, parcel: Parcel) {
        let (least, most) = self.setting.delay;
        let delay = least + self.below(most - least + 1);
        if self.links[from][to] && self.below(1000) >= self.setting.lost {
            self.post(delay, to, parcel);
        }
    }

    fn carry(&mut self, n: usize, actions: Vec<Action>) {
        for action in actions {
            let others: Vec<usize> = (0..self.setting.nodes).filter(|other| *other != n).collect();
            match &action {
                Action::Send(to, message) => {
                    // A candidate may have no machine yet.
                    if let Some(to) = others.iter().copied().find(|other| node(*other) == *to) {
                        self.send(n, to, Parcel::Message(message.clone()));
                    }
                    continue;
                }
                Action::Probe(address) => {
                    others.iter().for_each(|other| self.send(n, *other, Parcel::Question(n, *address)));
                    if let Some((taken, mac)) = self.foreign.filter(|(taken, _)| taken == address) {
                        self.post(2, n, Parcel::Arp(taken, mac));
                    }
                }
                Action::Announce(address) => {
                    others.iter().for_each(|other| self.send(n, *other, Parcel::Arp(*address, mac(n))));
                }
                Action::Speak(_) | Action::Silence(_) | Action::Conflict(..) => {}
            }
            self.log.push((self.now, n, action));
        }
    }

    /// A millisecond passes, and all do what they have to.
    pub fn pass(&mut self) -> Result<(), String> {
        self.now += 1;
        // Who wakes may be asked something before it has looked at anything.
        self.check()?;
        self.work();
        self.check()
    }

    fn work(&mut self) {
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, parcel) = entry.remove();
            if self.engines[to].is_some() {
                self.waiting[to].push_back(parcel);
            }
        }
        for n in 0..self.setting.nodes {
            while self.runs(n)
                && let Some(parcel) = self.waiting[n].pop_front()
            {
                self.open(n, parcel);
            }
            let now = self.clock(n);
            if self.runs(n)
                && let Some(engine) = self.engines[n].as_mut()
                && engine.due() <= now
            {
                let actions = engine.tick(now);
                assert!(engine.due() > now, "a timer stands still: {engine:?}");
                self.carry(n, actions);
            }
        }
    }

    fn open(&mut self, n: usize, parcel: Parcel) {
        let now = self.clock(n);
        let speaks = |world: &Self, address| world.speaks(n, address);
        let (planted, nodes) = (self.setting.planted, self.setting.nodes);
        let latest = (self.setting.planted == Some(Planted::EchoOfNow)).then_some(self.runs[n]);
        let actions = match parcel {
            Parcel::Question(who, address) => {
                if speaks(self, address) {
                    self.send(n, who, Parcel::Arp(address, mac(n)));
                }
                return;
            }
            Parcel::Message(mut message) => {
                let engine = self.engines[n].as_mut().unwrap();
                if let Some(run) = latest {
                    message.echo = (run, engine.last_seq());
                }
                if planted == Some(Planted::AllSilent) {
                    message.silent = (0..nodes).map(node).collect();
                }
                engine.received(now, &message)
            }
            Parcel::Arp(address, mac) => self.engines[n].as_mut().unwrap().heard(now, address, mac),
        };
        self.carry(n, actions);
    }

    /// Whether a node answers for an address now.
    pub fn speaks(&self, n: usize, address: IpAddr) -> bool {
        let Some(engine) = self.engines[n].as_ref().filter(|_| self.runs(n)) else { return false };
        match self.setting.planted {
            Some(Planted::Unasked) => {
                matches!(engine.claim(address), Some(Claim::Owner { .. } | Claim::Yielding { .. }))
            }
            _ => engine.may_speak(self.clock(n), address),
        }
    }

    pub fn speakers(&self, address: IpAddr) -> Vec<usize> {
        (0..self.setting.nodes).filter(|n| self.speaks(*n, address)).collect()
    }

    /// The law, and for how long two may speak in a hand-over.
    pub fn check(&mut self) -> Result<(), String> {
        let most = u64::try_from(self.setting.timing.detection.as_millis()).unwrap() * 11 / 10 + 2;
        for address in (0..self.setting.addresses).map(address) {
            let speakers = self.speakers(address);
            if speakers.len() < 2 {
                self.doubled.remove(&address);
                continue;
            }
            let since = *self.doubled.entry(address).or_insert(self.now);
            let lasts = self.now - since + 1;
            self.longest_double = self.longest_double.max(lasts);
            let claim = |n: &usize| self.engines[*n].as_ref().and_then(|engine| engine.claim(address));
            let yields = speakers.iter().filter(|n| matches!(claim(n), Some(Claim::Yielding { .. }))).count();
            let pair = self.setting.nodes == 2;
            if !pair && (speakers.len() > 2 || yields == 0 || lasts > most) {
                let claims: Vec<_> = speakers.iter().map(|n| (*n, claim(n))).collect();
                return Err(format!("at {} for {lasts} ms {address} has {claims:?}", self.now));
            }
        }
        Ok(())
    }

    /// Lets so many milliseconds pass, and checks each.
    pub fn run(&mut self, time: u64) -> Result<(), String> {
        for _ in 0..time {
            self.pass()?;
        }
        Ok(())
    }

    /// Nodes that run, are not drained and reach each other.
    pub fn reached(&self, among: &BTreeSet<usize>) -> bool {
        pairs(self.setting.nodes).all(|(a, b)| !among.contains(&a) || !among.contains(&b) || self.links[a][b])
            && among.iter().all(|n| self.runs(*n))
    }

    /// Whether a node and a majority, itself among them, hear each other.
    pub fn reaches_majority(&self, n: usize) -> bool {
        let hears = |other: &usize| *other == n || self.links[n][*other] && self.links[*other][n];
        2 * (0..self.setting.nodes).filter(hears).count() > self.setting.nodes
    }

    /// Whether one of these is not drained, and no other node that runs hears any or is heard by any.
    pub fn serves_alone(&self, among: &BTreeSet<usize>) -> bool {
        let others = (0..self.setting.nodes).filter(|n| !among.contains(n) && self.runs(*n));
        among.iter().any(|n| self.engines[*n].as_ref().is_some_and(|engine| !engine.is_leaving()))
            && others.into_iter().all(|n| among.iter().all(|of| !self.links[n][*of] && !self.links[*of][n]))
    }

    /// Each address has one owner, the same for all.
    pub fn owned(&self) -> Result<Vec<usize>, String> {
        let owner = |address| match self.speakers(address)[..] {
            [one] => Ok(one),
            ref other => {
                let claims: Vec<_> = self.engines.iter().flatten().map(|engine| engine.claim(address)).collect();
                Err(format!("at {} {address} has {other:?}: {claims:?}", self.now))
            }
        };
        (0..self.setting.addresses).map(address).map(owner).collect()
    }
}
