//! The prober against simulated ways: some too narrow, some lossy, some that change.
#![allow(clippy::unwrap_used)] // These are tests, helpers included.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_probe::wire::{answer_to, read_answer};
use ripstop_probe::{Action, Checksums, Engine, Reach, Report, Target, Tunnel};
use ripstop_types::{IfName, Millis};

/// A way: the longest packet it carries, whether the peer answers, whether what is left to be filled in gets there.
#[derive(Clone, Copy)]
struct Line {
    mtu: u32,
    up: bool,
    fills_in: bool,
}

struct World {
    engine: Engine,
    now: Millis,
    lines: BTreeMap<IpAddr, Line>,
    reaches: BTreeMap<IpAddr, Reach>,
    /// Reports of a reach.
    told: usize,
    checksums: Vec<Checksums>,
    /// Of a thousand datagrams and of a thousand answers so many are lost, whatever their length.
    lost: u64,
    chance: u64,
    sent: u64,
    bytes: usize,
}

impl World {
    fn new() -> Self {
        Self {
            engine: Engine::new(42, 2_000, Millis(1_000)),
            now: Millis(1_000),
            lines: BTreeMap::new(),
            reaches: BTreeMap::new(),
            told: 0,
            checksums: Vec::new(),
            lost: 0,
            chance: 1,
            sent: 0,
            bytes: 0,
        }
    }

    fn with(ways: &[(&str, u32, u32)]) -> Self {
        let mut world = Self::new();
        let targets = ways.iter().map(|(address, most, mtu)| {
            let address: IpAddr = address.parse().unwrap();
            world.lines.insert(address, Line { mtu: *mtu, up: true, fills_in: true });
            Target { address, port: 9468, most: *most }
        });
        let targets: BTreeSet<Target> = targets.collect();
        let actions = world.engine.set(world.now, &targets, &BTreeSet::new(), &BTreeSet::new(), 0);
        world.carry_out(actions);
        world
    }

    fn line(&mut self, address: &str) -> &mut Line {
        self.lines.get_mut(&address.parse::<IpAddr>().unwrap()).unwrap()
    }

    fn mtu(&self, address: &str) -> Option<u32> {
        self.reaches.get(&address.parse::<IpAddr>().unwrap()).and_then(|reach| reach.mtu)
    }

    fn answers(&self, address: &str) -> Option<bool> {
        self.reaches.get(&address.parse::<IpAddr>().unwrap()).map(|reach| reach.answers)
    }

    /// Whether chance, which is the same in every run (Knuth's MMIX generator), loses this one.
    fn loses(&mut self) -> bool {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % 1_000 < self.lost
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to, head, length, complete } => {
                    self.sent += 1;
                    self.bytes += length;
                    let line = self.lines[&to.ip()];
                    let headers = if to.is_ipv4() { 28 } else { 48 };
                    let fits = u32::try_from(length).unwrap() + headers <= line.mtu;
                    let lost = self.loses() || self.loses();
                    if line.up && fits && !lost && (complete || line.fills_in) {
                        let mut payload = head.to_vec();
                        payload.resize(length, 0);
                        let answer = read_answer(&answer_to(&payload).unwrap()).unwrap();
                        let actions = self.engine.answered(self.now, to.ip(), &answer);
                        self.carry_out(actions);
                    }
                }
                Action::Report(Report::Reach(address, reach)) => {
                    self.told += 1;
                    self.reaches.insert(address, reach);
                }
                Action::Report(Report::Checksums(_, state)) => self.checksums.push(state),
            }
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while let Some(due) = self.engine.due().filter(|due| *due <= end) {
            self.now = Millis(due.0.max(self.now.0 + 1));
            let actions = self.engine.tick(self.now);
            self.carry_out(actions);
        }
        self.now = end;
    }
}

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

#[test]
fn every_length_is_found_to_the_byte() {
    let v4 = (576..=1500).step_by(7).chain([1280, 1330, 1400, 1410, 1450, 1480, 1492, 1499, 1500]);
    for (address, most, mtu) in v4
        .map(|mtu| (V4, 1500, mtu))
        .chain([1280, 1281, 1400, 1450, 1500, 1501, 4000, 8949, 8950, 8999, 9000].map(|mtu| (V6, 9000, mtu)))
    {
        let mut world = World::with(&[(address, most, mtu)]);
        world.run(5_000);
        assert_eq!(world.mtu(address), Some(mtu), "{mtu} of {most}");
        assert_eq!(world.answers(address), Some(true));
    }
}

#[test]
fn a_way_without_a_hole_is_told_at_once() {
    let mut world = World::with(&[(V4, 1500, 1500)]);
    world.run(10);
    assert_eq!(world.mtu(V4), Some(1500));
}

#[test]
fn a_hole_that_appears_is_found_and_one_that_goes_is_forgotten() {
    for hole in [1400, 1280, 1333] {
        let mut world = World::with(&[(V4, 1500, 1500)]);
        world.run(7_777);
        world.line(V4).mtu = hole;
        world.run(5_500);
        assert_eq!(world.mtu(V4), Some(hole), "found before TCP gives its sixth try");
        world.line(V4).mtu = 1450;
        world.run(12_000);
        assert_eq!(world.mtu(V4), Some(1450));
        world.line(V4).mtu = 1500;
        world.run(12_000);
        assert_eq!(world.mtu(V4), Some(1500));
    }
}

#[test]
fn a_way_that_loses_packets_of_any_length_is_no_shorter_for_it() {
    let (_, tunnels) = tunnel();
    let mut world = World::with(&[(V4, 1500, 1500), (V6, 1500, 1400)]);
    world.lines.insert("10.244.2.1".parse().unwrap(), Line { mtu: 1500, up: true, fills_in: true });
    let targets =
        [(V4, 1500), (V6, 1500)].map(|(address, most)| Target { address: address.parse().unwrap(), port: 9468, most });
    world.engine.set(world.now, &targets.into(), &tunnels, &BTreeSet::new(), 1);
    world.run(10_000);
    assert_eq!((world.mtu(V4), world.mtu(V6)), (Some(1500), Some(1400)));
    let before = world.told;
    world.lost = 30;
    world.run(6 * 3_600_000);
    assert_eq!((world.told, world.checksums.as_slice()), (before, &[][..]), "nothing to tell in six hours");
}

#[test]
fn who_does_not_answer_is_silent_and_what_was_found_stays() {
    let mut world = World::with(&[(V4, 1500, 1400), (V6, 1500, 1500)]);
    world.line(V6).up = false;
    world.run(6_000);
    assert_eq!((world.answers(V6), world.mtu(V6)), (Some(false), None));
    world.line(V4).up = false;
    world.run(8_000);
    assert_eq!((world.answers(V4), world.mtu(V4)), (Some(false), Some(1400)));
    let before = world.sent;
    world.run(100_000);
    assert!(world.sent - before <= 2 * 2 * 12, "{} probes to those who are away", world.sent - before);
    world.line(V4).up = true;
    world.line(V4).mtu = 1500;
    world.run(15_000);
    assert_eq!((world.answers(V4), world.mtu(V4)), (Some(true), Some(1500)));
}

#[test]
fn a_link_that_takes_more_or_less_is_searched_anew() {
    let mut world = World::with(&[(V4, 1500, 9000)]);
    world.run(3_000);
    for most in [9000, 1400, 1500] {
        let targets = BTreeSet::from([Target { address: V4.parse().unwrap(), port: 9468, most }]);
        let actions = world.engine.set(world.now, &targets, &BTreeSet::new(), &BTreeSet::new(), 0);
        world.carry_out(actions);
        world.run(3_000);
        assert_eq!(world.mtu(V4), Some(most));
    }
}

#[test]
fn the_rate_is_bounded_however_many_peers_there_are() {
    let addresses: Vec<String> = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    let ways: Vec<(&str, u32, u32)> = addresses.iter().map(|address| (address.as_str(), 1500, 1400)).collect();
    let mut world = World::with(&ways);
    for second in 0..120 {
        let before = world.sent;
        world.run(1_000);
        let most = if second < 2 { 350 } else { 150 };
        assert!(world.sent - before <= most, "{} probes in second {second}", world.sent - before);
    }
    world.run(600_000);
    assert!(addresses.iter().all(|address| world.mtu(address) == Some(1400)), "all are found in the end");
    // Ten nodes: one probe a peer every two seconds.
    let mut few = World::with(&ways[..9]);
    few.lines.values_mut().for_each(|line| line.mtu = 1500);
    few.run(10_000);
    let before = few.sent;
    few.run(20_000);
    assert!(few.sent - before <= 9 * 11, "{}", few.sent - before);
}

#[test]
fn only_answers_to_probes_under_way_count() {
    let mut engine = Engine::new(42, 2_000, Millis(0));
    let address: IpAddr = V4.parse().unwrap();
    let targets = BTreeSet::from([Target { address, port: 9468, most: 1500 }]);
    engine.set(Millis(0), &targets, &BTreeSet::new(), &BTreeSet::new(), 0);
    let sent = engine.tick(Millis(1));
    let Action::Send { head, .. } = sent[0] else { panic!("{sent:?}") };
    let answer = read_answer(&answer_to(&head).unwrap()).unwrap();
    let forged = ripstop_probe::wire::Answer { token: answer.token ^ 1, ..answer };
    let unasked = ripstop_probe::wire::Answer { id: 99, ..answer };
    assert!(engine.answered(Millis(2), address, &forged).is_empty());
    assert!(engine.answered(Millis(2), address, &unasked).is_empty());
    assert!(engine.answered(Millis(2), V6.parse().unwrap(), &answer).is_empty(), "from another address");
    assert!(!engine.answered(Millis(2), address, &answer).is_empty());
    assert!(engine.answered(Millis(3), address, &answer).is_empty(), "once");
}

fn tunnel() -> (IfName, BTreeSet<Tunnel>) {
    let link: IfName = "ript1".parse().unwrap();
    let address = "10.244.2.1".parse().unwrap();
    (link.clone(), BTreeSet::from([Tunnel { link, address, port: 9468 }]))
}

#[test]
fn checksums_that_nobody_fills_in_are_found_within_five_seconds_and_tried_again_when_links_change() {
    let (link, tunnels) = tunnel();
    let mut world = World::new();
    world.lines.insert("10.244.2.1".parse().unwrap(), Line { mtu: 1500, up: true, fills_in: true });
    let set = |world: &mut World, broken: &[IfName], links| {
        let broken = broken.iter().cloned().collect();
        let actions = world.engine.set(world.now, &BTreeSet::new(), &tunnels, &broken, links);
        world.carry_out(actions);
    };
    set(&mut world, &[], 1);
    world.run(20_000);
    assert_eq!(world.checksums, [], "nothing to tell");
    world.line("10.244.2.1").fills_in = false;
    world.run(4_000);
    assert_eq!(world.checksums, [Checksums::Broken]);
    let before = world.sent;
    set(&mut world, std::slice::from_ref(&link), 1);
    world.run(60_000);
    assert_eq!(world.sent, before, "no test while it is switched off");
    set(&mut world, std::slice::from_ref(&link), 2);
    world.run(5_000);
    assert_eq!(world.checksums, [Checksums::Broken, Checksums::Untold, Checksums::Broken]);
    world.line("10.244.2.1").fills_in = true;
    set(&mut world, std::slice::from_ref(&link), 3);
    world.run(5_000);
    assert_eq!(world.checksums[3..], [Checksums::Untold, Checksums::Fine]);
}

#[test]
fn a_peer_that_is_away_says_nothing_of_checksums() {
    let (_, tunnels) = tunnel();
    let mut world = World::new();
    world.lines.insert("10.244.2.1".parse().unwrap(), Line { mtu: 1500, up: false, fills_in: false });
    world.engine.set(world.now, &BTreeSet::new(), &tunnels, &BTreeSet::new(), 1);
    world.run(60_000);
    assert_eq!(world.checksums, []);
}
