//! A node with a runtime, a kernel, lease files and an agent that may die between any two of its steps, against the laws: no
//! address twice, nothing leaked, the same attachment the same address, every address usable.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use ripstop_ipam::{
    Attachment, HostLink, Lease, LeaseBook, LeaseFault, LeaseRequest, LeaseState, OwnRange, Sight, Usable,
};
use ripstop_types::{Family, Millis, Prefix};

use super::leases::{attachment, prefix, request};

/// What may happen. A number of steps is where the agent dies: beyond the last, it does not.
#[derive(Debug, Clone)]
enum Event {
    Add {
        pod: u8,
        fixed: Option<u8>,
        dies_after: u8,
    },
    Del {
        pod: u8,
        dies_after: u8,
    },
    /// The pod goes and nobody says so.
    Vanish {
        pod: u8,
    },
    Gc {
        dies_after: u8,
    },
    Look {
        blind: bool,
        after_s: u64,
    },
    Kill,
    /// On tmpfs the files go too; elsewhere they stay.
    Reboot {
        tmpfs: bool,
    },
}

struct Node {
    boot: u32,
    now: u64,
    agent: Option<LeaseBook>,
    files: BTreeMap<Attachment, Lease>,
    /// The kernel: host-side links, with the addresses behind them.
    links: BTreeMap<Attachment, Vec<IpAddr>>,
    /// What the runtime believes to run.
    runtime: BTreeSet<Attachment>,
    /// A planted fault: links are made before the file is written.
    careless: bool,
}

const POOLS: [&str; 2] = ["10.244.1.0/29", "fd00::/125"];

fn pod(n: u8) -> Attachment {
    attachment(&format!("c{n}"))
}

fn ask(n: u8, fixed: Option<u8>) -> LeaseRequest {
    let mut request = request(&format!("c{n}"), &Family::BOTH);
    request.fixed = fixed.and_then(|n| prefix(POOLS[0]).nth(u128::from(n))).into_iter().collect();
    request
}

impl Node {
    fn new() -> Self {
        Self {
            boot: 1,
            now: 0,
            agent: None,
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            runtime: BTreeSet::new(),
            careless: false,
        }
    }

    /// The agent, started from the files if it is not running.
    fn book(&mut self) -> &mut LeaseBook {
        let (boot, files) = (self.boot.to_string(), &mut self.files);
        self.agent.get_or_insert_with(|| {
            let (mut book, _) = LeaseBook::import(&boot, 30_000, files.values().cloned());
            // Files of leases that are void are removed.
            files.retain(|attachment, _| book.get(attachment).is_some());
            book.set_ranges(POOLS.map(|pool| OwnRange::new("default", prefix(pool), Usable::Routed))).unwrap();
            book
        })
    }

    fn die(&mut self) {
        self.agent = None;
    }

    fn run(&mut self, event: &Event) -> Result<(), TestCaseError> {
        self.now += 700;
        match event {
            Event::Add { pod: n, fixed, dies_after } => self.add(*n, *fixed, *dies_after)?,
            Event::Del { pod: n, dies_after } => {
                // The runtime forgets it whatever the answer: the worst case.
                self.runtime.remove(&pod(*n));
                self.end(&pod(*n), *dies_after);
                prop_assert!(*dies_after < 3 || !self.links.contains_key(&pod(*n)));
            }
            Event::Vanish { pod: n } => {
                self.links.remove(&pod(*n));
                self.runtime.remove(&pod(*n));
            }
            Event::Gc { dies_after } => {
                let valid = self.runtime.clone();
                for attachment in self.book().unlisted("default", &valid) {
                    self.end(&attachment, *dies_after);
                    if self.agent.is_none() {
                        return Ok(());
                    }
                }
                prop_assert!(self.files.keys().all(|attachment| self.runtime.contains(attachment)));
            }
            Event::Look { blind, after_s } => {
                self.now += after_s * 1000;
                self.look(*blind);
            }
            Event::Kill => self.die(),
            Event::Reboot { tmpfs } => {
                self.die();
                self.boot += 1;
                self.links.clear();
                self.runtime.clear();
                if *tmpfs {
                    self.files.clear();
                }
            }
        }
        self.laws()
    }

    fn add(&mut self, n: u8, fixed: Option<u8>, dies_after: u8) -> Result<(), TestCaseError> {
        if self.links.contains_key(&pod(n)) {
            return Ok(());
        }
        let now = Millis(self.now);
        let before = self.files.get(&pod(n)).filter(|lease| *lease.boot == *self.boot.to_string()).cloned();
        let taken: BTreeSet<IpAddr> = self.links.values().flatten().copied().collect();
        let lease = match self.book().allocate(&ask(n, fixed), now) {
            Ok(lease) => lease,
            Err(LeaseFault::Full { ranges, .. }) => {
                let leased = self.files.values().flat_map(|lease| &lease.ips);
                let count = leased.filter(|ip| ranges.iter().any(|range| range.contains(**ip))).count();
                prop_assert!(count >= 7, "full with {} leases", count);
                return Ok(());
            }
            Err(fault) => {
                prop_assert!(fixed.is_some(), "{}", fault);
                return Ok(());
            }
        };
        prop_assert!(lease.ips.iter().all(|ip| !taken.contains(ip)), "{:?} are in use", lease.ips);
        if let Some(before) = before.filter(|before| fixed.is_none() || before.ips == lease.ips) {
            prop_assert_eq!(&before.ips, &lease.ips, "another address for the same attachment");
        }
        let steps: [&dyn Fn(&mut Self); 4] = [
            &|node| drop(node.files.insert(pod(n), lease.clone())),
            &|node| drop(node.links.insert(pod(n), lease.ips.clone())),
            &|node| {
                let link = HostLink { index: u32::from(n), altname: format!("rip/{n}").into() };
                let held = node.book().hold(&pod(n), Some(link)).unwrap();
                node.files.insert(pod(n), held);
            },
            &|node| {
                node.runtime.insert(pod(n));
            },
        ];
        let [file, link, hold, answer] = steps;
        let steps = if self.careless { [link, file, hold, answer] } else { steps };
        self.step_by_step(&steps, dies_after);
        Ok(())
    }

    fn end(&mut self, attachment: &Attachment, dies_after: u8) {
        let now = Millis(self.now);
        let steps: [&dyn Fn(&mut Self); 3] = [
            &|node| drop(node.links.remove(attachment)),
            &|node| drop(node.book().release(attachment, now)),
            &|node| drop(node.files.remove(attachment)),
        ];
        self.step_by_step(&steps, dies_after);
    }

    fn step_by_step(&mut self, steps: &[&dyn Fn(&mut Self)], dies_after: u8) {
        for (n, step) in steps.iter().enumerate() {
            if n == usize::from(dies_after) {
                return self.die();
            }
            step(self);
        }
    }

    fn look(&mut self, blind: bool) {
        let (now, links) = (Millis(self.now), self.links.clone());
        let orphans = self.book().look(now, |lease| match (blind, links.contains_key(&lease.attachment)) {
            (true, _) => Sight::Unknown,
            (false, true) => Sight::Present,
            (false, false) => Sight::Gone,
        });
        for orphan in orphans {
            assert!(!self.runtime.contains(&orphan), "{orphan} runs");
            self.end(&orphan, u8::MAX);
        }
    }

    fn laws(&mut self) -> Result<(), TestCaseError> {
        let mut seen = BTreeMap::new();
        for (attachment, ips) in &self.links {
            for ip in ips {
                if let Some(other) = seen.insert(*ip, attachment) {
                    return Err(TestCaseError::fail(format!("{ip} has {attachment} and {other}")));
                }
            }
        }
        // Whatever the kernel has is leased, also after a restart.
        let boot = self.boot.to_string();
        for (attachment, ips) in &self.links {
            let file = self.files.get(attachment).filter(|lease| *lease.boot == *boot);
            prop_assert_eq!(file.map(|lease| &lease.ips), Some(ips), "{}", attachment);
        }
        Ok(())
    }

    /// Sixty quiet seconds: the runtime's failed sandboxes are gone, the agent lives and looks every ten.
    fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
        let runtime = self.runtime.clone();
        self.links.retain(|attachment, _| runtime.contains(attachment));
        for _ in 0..6 {
            self.now += 10_000;
            self.look(false);
        }
        let running: Vec<&Attachment> = self.runtime.iter().collect();
        prop_assert_eq!(self.files.keys().collect::<Vec<_>>(), running.clone(), "leaked or lost files");
        let now = Millis(self.now);
        let held = running.len();
        let book = self.book();
        prop_assert_eq!(book.leases().count(), held);
        prop_assert!(book.leases().all(|lease| lease.state == LeaseState::Held));
        // Every address that is not held can be had.
        for n in 0..7 - held {
            let fill = request(&format!("fill{n}"), &Family::BOTH);
            prop_assert!(book.allocate(&fill, now).is_ok(), "{} of 7 after {} held", n, held);
        }
        prop_assert!(book.allocate(&request("over", &Family::BOTH), now).is_err());
        let all: BTreeSet<IpAddr> = book.leases().flat_map(|lease| lease.ips.clone()).collect();
        prop_assert_eq!(all.len(), 14);
        let inside = |ip: &IpAddr| POOLS.iter().any(|pool| prefix(pool).contains(*ip));
        prop_assert!(all.iter().all(inside));
        prop_assert!(POOLS.iter().all(|pool| !all.contains(&pool.parse::<Prefix>().unwrap().nth(1).unwrap())));
        Ok(())
    }
}

fn event() -> impl Strategy<Value = Event> {
    let dies = || prop_oneof![3 => Just(u8::MAX), 1 => 0u8..4];
    prop_oneof![
        8 => (0u8..9, prop::option::weighted(0.1, 0u8..10), dies())
            .prop_map(|(pod, fixed, dies_after)| Event::Add { pod, fixed, dies_after }),
        5 => (0u8..9, dies()).prop_map(|(pod, dies_after)| Event::Del { pod, dies_after }),
        2 => (0u8..9).prop_map(|pod| Event::Vanish { pod }),
        1 => dies().prop_map(|dies_after| Event::Gc { dies_after }),
        3 => (any::<bool>(), 0u64..15).prop_map(|(blind, after_s)| Event::Look { blind, after_s }),
        1 => Just(Event::Kill),
        1 => any::<bool>().prop_map(|tmpfs| Event::Reboot { tmpfs }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]
    #[test]
    fn no_history_gives_an_address_twice_or_leaks_one(events in prop::collection::vec(event(), 1..80)) {
        live(&events, false)?;
    }
}

fn live(events: &[Event], careless: bool) -> Result<(), TestCaseError> {
    let mut node = Node { careless, ..Node::new() };
    for event in events {
        node.run(event)?;
    }
    node.come_to_rest()
}

#[test]
fn an_agent_that_writes_its_file_too_late_is_found() {
    let config = ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let found = runner.run(&prop::collection::vec(event(), 1..80), |events| live(&events, true));
    let TestError::Fail(why, events) = found.unwrap_err() else { panic!("no history found") };
    println!("{why}: {events:?}");
    assert!(events.len() <= 3, "{events:?}");
}
