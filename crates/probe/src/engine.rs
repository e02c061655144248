//! Which probe goes when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ripstop_types::{IfName, Millis};
use serde::{Deserialize, Serialize};

use crate::checks::{Check, Step};
use crate::search::{SHORT, Way};
use crate::wire::{self, Answer};
use crate::{Checksums, Reach};

/// Probes a second, at most and on average, whatever the number of peers.
const RATE: i64 = 100;

/// Probes that may go at once after a quiet time.
const BURST: i64 = 200;

/// Bytes of the headers before a probe's payload: IPv4 20, IPv6 40, UDP 8.
fn headers(address: IpAddr) -> u32 {
    if address.is_ipv4() { 28 } else { 48 }
}

/// An address of a peer's on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// The UDP port on which the peer answers.
    pub port: u16,
    /// The longest packet that this node's link towards it takes, in bytes.
    pub most: u32,
}

/// A peer's end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// This node's tunnel device.
    pub link: IfName,
    /// The peer's address inside the tunnel.
    pub address: IpAddr,
    /// The UDP port on which the peer answers.
    pub port: u16,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a datagram that may not be fragmented.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Its first bytes; zeros follow.
        head: [u8; wire::LENGTH],
        /// Length of its payload.
        length: usize,
        /// With a complete checksum, whatever the device could fill in.
        complete: bool,
    },
    /// Something became known.
    Report(Report),
}

/// What became known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// The way to an address.
    Reach(IpAddr, Reach),
    /// Checksums of what this tunnel device sends.
    Checksums(IfName, Checksums),
}

/// What probes are sent for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Way(IpAddr),
    Check(IfName, IpAddr),
}

/// The prober of a node.
#[derive(Debug)]
pub struct Engine {
    seed: u64,
    interval: u64,
    next_id: u64,
    ports: BTreeMap<IpAddr, u16>,
    ways: BTreeMap<IpAddr, Way>,
    told: BTreeMap<IpAddr, Reach>,
    checks: BTreeMap<(IfName, IpAddr), Check>,
    checksums: BTreeMap<IfName, Checksums>,
    /// What is due when, of all that is to be done.
    queue: BTreeSet<(Millis, Place)>,
    /// The same by place.
    queued: BTreeMap<Place, Millis>,
    links: u64,
    /// Probes that may go now, in thousandths; less than nothing after many at once.
    allowance: i64,
    counted_at: Millis,
}

impl Engine {
    /// One without targets. `seed` must be unknown to others: tokens are made of it. `interval` is the time between two
    /// confirmations of a way, in milliseconds.
    #[must_use]
    pub fn new(seed: u64, interval: u64, now: Millis) -> Self {
        Self {
            seed,
            interval,
            next_id: 1,
            ports: BTreeMap::new(),
            ways: BTreeMap::new(),
            told: BTreeMap::new(),
            checks: BTreeMap::new(),
            checksums: BTreeMap::new(),
            queue: BTreeSet::new(),
            queued: BTreeMap::new(),
            links: 0,
            allowance: BURST * 1000,
            counted_at: now,
        }
    }

    /// What there is to probe. `broken` are devices that are known not to get checksums right, `links` a number that differs
    /// when the links below have changed: those are tested anew.
    pub fn set(
        &mut self,
        now: Millis,
        targets: &BTreeSet<Target>,
        tunnels: &BTreeSet<Tunnel>,
        broken: &BTreeSet<IfName>,
        links: u64,
    ) -> Vec<Action> {
        let addresses: BTreeSet<IpAddr> = targets.iter().map(|target| target.address).collect();
        self.ways.retain(|address, _| addresses.contains(address));
        self.told.retain(|address, _| addresses.contains(address));
        self.ports = targets.iter().map(|target| (target.address, target.port)).collect();
        let mut begun = 0;
        for target in targets {
            match self.ways.get_mut(&target.address) {
                Some(way) => way.set_most(target.most, now),
                None => {
                    // Many at once are begun one after the other.
                    let due = now.plus(begun * 1000 / RATE.unsigned_abs());
                    begun += 2;
                    self.ways.insert(target.address, Way::new(target.most, target.address.is_ipv6(), now, due));
                }
            }
        }
        self.set_tunnels(now, tunnels, broken);
        let anew = if self.links == links { Vec::new() } else { self.test_anew(now) };
        self.links = links;
        self.plan_all();
        anew
    }

    /// Checksums are tested as if nothing were known of them.
    fn test_anew(&mut self, now: Millis) -> Vec<Action> {
        self.checks.values_mut().for_each(|check| *check = Check::new(check.address, check.port, now.plus(200)));
        let broken = self.checksums.iter_mut().filter(|(_, state)| **state == Checksums::Broken);
        let anew = broken.map(|(link, state)| {
            *state = Checksums::Untold;
            Action::Report(Report::Checksums(link.clone(), *state))
        });
        anew.collect()
    }

    /// Puts everything that is to be done into the queue.
    fn plan_all(&mut self) {
        let ways = self.ways.iter().map(|(address, way)| (Place::Way(*address), way.due));
        let tested = self.checks.iter().filter(|((link, _), _)| self.is_tested(link));
        let checks = tested.map(|((link, address), check)| (Place::Check(link.clone(), *address), check.due));
        let queued: BTreeMap<Place, Millis> = ways.chain(checks).collect();
        self.queue = queued.iter().map(|(place, due)| (*due, place.clone())).collect();
        self.queued = queued;
    }

    /// Puts a place where its time has changed to.
    fn plan(&mut self, place: Place) {
        let due = match &place {
            Place::Way(address) => self.ways.get(address).map(|way| way.due),
            Place::Check(link, address) => {
                let check = self.checks.get(&(link.clone(), *address)).filter(|_| self.is_tested(link));
                check.map(|check| check.due)
            }
        };
        let Some(due) = due else { return };
        if let Some(was) = self.queued.insert(place.clone(), due) {
            self.queue.remove(&(was, place.clone()));
        }
        self.queue.insert((due, place));
    }

    fn set_tunnels(&mut self, now: Millis, tunnels: &BTreeSet<Tunnel>, broken: &BTreeSet<IfName>) {
        let wanted: BTreeMap<(IfName, IpAddr), u16> =
            tunnels.iter().map(|tunnel| ((tunnel.link.clone(), tunnel.address), tunnel.port)).collect();
        self.checks.retain(|place, check| wanted.get(place) == Some(&check.port));
        let mut begun = 0;
        for ((link, address), port) in wanted {
            let state = if broken.contains(&link) { Checksums::Broken } else { Checksums::Fine };
            self.checksums.entry(link.clone()).or_insert(state);
            self.checks.entry((link, address)).or_insert_with(|| {
                begun += 2;
                Check::new(address, port, now.plus(begun * 1000 / RATE.unsigned_abs()))
            });
        }
        let links: BTreeSet<&IfName> = self.checks.keys().map(|(link, _)| link).collect();
        self.checksums.retain(|link, _| links.contains(link));
    }

    /// When [`Self::tick`] should come.
    pub fn due(&self) -> Option<Millis> {
        let (first, _) = self.queue.first()?;
        // Nothing goes before it may.
        let pause = (1000 - self.allowance).max(0).unsigned_abs().div_ceil(RATE.unsigned_abs());
        Some((*first).max(self.counted_at.plus(pause)))
    }

    fn is_tested(&self, link: &IfName) -> bool {
        self.checksums.get(link) != Some(&Checksums::Broken)
    }

    /// The time between two confirmations of one way: longer where there are many.
    fn pace(&self) -> u64 {
        let each = self.ways.len() + 2 * self.checks.len();
        self.interval.max(u64::try_from(each).unwrap_or(u64::MAX).saturating_mul(1000) / RATE.unsigned_abs())
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) -> Vec<Action> {
        let passed = i64::try_from(now.since(self.counted_at)).unwrap_or(i64::MAX);
        self.counted_at = now;
        self.allowance = self.allowance.saturating_add(passed.saturating_mul(RATE)).min(BURST * 1000);
        let mut actions = Vec::new();
        // No more than may go: there can be thousands.
        let most = usize::try_from(self.allowance / 1000).unwrap_or(0);
        let due = self.queue.iter().take_while(|(due, _)| *due <= now).take(most).map(|(_, place)| place.clone());
        for place in due.collect::<Vec<_>>() {
            if self.allowance < 1000 {
                return actions;
            }
            if !self.queued.contains_key(&place) {
                continue;
            }
            match &place {
                Place::Way(address) => self.probe(*address, now, &mut actions),
                Place::Check(link, address) => self.check(&(link.clone(), *address), now, &mut actions),
            }
            self.plan(place);
        }
        actions
    }

    /// An answer came from an address.
    pub fn answered(&mut self, now: Millis, from: IpAddr, answer: &Answer) -> Vec<Action> {
        let mut actions = Vec::new();
        if answer.token != self.token(from) {
            return actions;
        }
        let pace = self.pace();
        if let Some(way) = self.ways.get_mut(&from)
            && way.take(answer.id, now, pace)
        {
            self.report(from, &mut actions);
        }
        self.plan(Place::Way(from));
        for link in self.checksums.keys().cloned().collect::<Vec<_>>() {
            if let Some(check) = self.checks.get_mut(&(link.clone(), from)) {
                check.take(answer.id, now);
                self.plan(Place::Check(link, from));
            }
        }
        actions
    }

    fn probe(&mut self, address: IpAddr, now: Millis, actions: &mut Vec<Action>) {
        let (pace, token) = (self.pace(), self.token(address));
        let Some(port) = self.ports.get(&address).copied() else { return };
        let Some(way) = self.ways.get_mut(&address) else { return };
        for length in way.step(now, pace) {
            let id = self.next_id;
            self.next_id += 1;
            self.allowance -= 1000;
            way.note_sent(id, length);
            let payload = if length == SHORT { wire::LENGTH } else { payload(length, address) };
            actions.push(send(address, port, token, id, payload, false));
        }
        self.report(address, actions);
    }

    fn check(&mut self, place: &(IfName, IpAddr), now: Millis, actions: &mut Vec<Action>) {
        let (pace, token) = (self.pace(), self.token(place.1));
        let Some(check) = self.checks.get_mut(place) else { return };
        let state = match check.step(now, pace) {
            Step::Send { both } => {
                let ids = [self.next_id, if both { self.next_id + 1 } else { 0 }];
                self.next_id += 2;
                check.note_sent(ids, now);
                for (id, complete) in ids.into_iter().zip([false, true]).filter(|(id, _)| *id != 0) {
                    self.allowance -= 1000;
                    actions.push(send(check.address, check.port, token, id, wire::LENGTH, complete));
                }
                return;
            }
            Step::Nothing => return,
            Step::Fine => Checksums::Fine,
            Step::Broken => Checksums::Broken,
        };
        if self.checksums.insert(place.0.clone(), state) != Some(state) {
            actions.push(Action::Report(Report::Checksums(place.0.clone(), state)));
            self.plan_all();
        }
    }

    fn report(&mut self, address: IpAddr, actions: &mut Vec<Action>) {
        if let Some(reach) = self.ways.get(&address).and_then(Way::reach)
            && self.told.insert(address, reach) != Some(reach)
        {
            actions.push(Action::Report(Report::Reach(address, reach)));
        }
    }

    /// What an answer from an address must carry (the finaliser of SplitMix64; Steele, Lea, Flood 2014).
    fn token(&self, address: IpAddr) -> u64 {
        let number = match address {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let [high, low] = [number >> 64, number & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
        let mix = |h: u64| {
            let h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            h ^ (h >> 31)
        };
        mix(mix(self.seed ^ high).wrapping_add(self.seed) ^ low)
    }
}

/// Bytes of payload of a packet of this length.
fn payload(length: u32, address: IpAddr) -> usize {
    let bytes = usize::try_from(length.saturating_sub(headers(address))).unwrap_or(usize::MAX);
    bytes.clamp(wire::LENGTH, wire::LONGEST)
}

fn send(address: IpAddr, port: u16, token: u64, id: u64, length: usize, complete: bool) -> Action {
    Action::Send { to: SocketAddr::new(address, port), head: wire::probe(token, id), length, complete }
}
