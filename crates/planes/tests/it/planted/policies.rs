//! Faults in the tables that policies are compiled to, with real packets.
//!
//! Which clusters and packets could see a fault is asked of the simulator, which waits for nothing. Then nodes that are new, so that nothing is
//! left there of another fault, do what the oracle says without the fault, and something else with it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ripstop_conformance::policy::scene::{Nodes, Scene, Subject};
use ripstop_conformance::policy::{Change, DataPlane, Fate, Scenario, Step, Stop, differ, drawn};
use ripstop_oracle::policy::{Packet, State};
use ripstop_planes::{Policed, Spoil, policy_scene};

use super::spread;
use crate::policies::Cluster;
use crate::policies::faults::{Fault, faults, rare};

/// Scenarios drawn, in which a fault is looked for.
const DRAWN: u64 = 1_500;
/// How many of them, which see a fault in the simulator, are tried with real packets.
const TRIES: usize = 6;
/// How many of them are passed over, where the kernel takes no such table.
const REFUSED: usize = 40;
/// Scenes at once: most of a try is waiting for packets that do not come.
const JOBS: usize = 6;
/// In the normal tier.
const SOME: usize = 30;

/// Nodes in the simulator that see what a scene sees: packets that it can send, and whether they are answered.
struct Simulated(Cluster);

impl DataPlane for Simulated {
    fn begin(&mut self) -> Result<(), Stop> {
        self.0.begin()
    }

    fn follow(&mut self, changes: &[Change]) -> Result<(), Stop> {
        self.0.follow(changes)
    }

    fn shows(&self, packet: &Packet) -> bool {
        Scene::can_send(packet)
    }

    fn send(&mut self, packets: &[Packet]) -> Result<Vec<Fate>, Stop> {
        let answer = |packet: &Packet| Packet {
            source: packet.destination,
            destination: packet.source,
            state: State::Known,
            ..*packet
        };
        let (fates, answers) = (self.0.send(packets)?, packets.iter().map(answer).collect::<Vec<_>>());
        let both = fates.into_iter().zip(self.0.send(&answers)?);
        Ok(both
            .map(|(fate, back)| if (fate, back) == (Fate::Arrived, Fate::Nothing) { Fate::Unanswered } else { fate })
            .collect())
    }
}

/// The product with a fault. What it cannot write no packet says anything about.
struct Spoilt(Policed);

impl Subject for Spoilt {
    fn begin(&mut self) -> Result<(), Stop> {
        self.0.begin()
    }

    fn follow(&mut self, changes: &[Change], nodes: &Nodes<'_>) -> Result<(), Stop> {
        self.0.follow(changes, nodes).map_err(|stop| match stop {
            Stop::Fail(why) => Stop::Skip(why),
            other => other,
        })
    }
}

/// What becomes of packets on nodes that are new.
fn told(scenario: &Scenario, fault: Option<Spoil>) -> Result<usize, Stop> {
    differ(&mut Scene::new(Box::new(Spoilt(Policed::with(fault))))?, scenario)
}

/// The beginning of a scenario whose last packets see a fault in the simulator. Those before are not sent.
fn beginning(fault: &Fault, scenario: &Scenario) -> Option<Scenario> {
    let silent = |step: &Step| Step { changes: step.changes.clone(), packets: Vec::new() };
    (0..scenario.steps.len()).find_map(|last| {
        let before = scenario.steps[..last].iter().map(silent);
        let steps = before.chain([scenario.steps[last].clone()]).collect();
        let scenario = Scenario { world: scenario.world.clone(), steps };
        differ(&mut Simulated(Cluster::new(Some(fault.spoil.clone()))), &scenario).is_err().then_some(scenario)
    })
}

/// Whether real packets see a fault: how, or why not.
fn seen(fault: &Fault, scenarios: &mut [&Scenario]) -> Result<String, String> {
    let (mut tries, mut refused) = (0, Vec::new());
    for place in 0..scenarios.len() {
        if tries == TRIES || refused.len() == REFUSED {
            break;
        }
        let Some(scenario) = beginning(fault, scenarios[place]) else { continue };
        match told(&scenario, Some(fault.spoil.clone())) {
            Err(Stop::Fail(how)) => {
                told(&scenario, None).map_err(|stop| format!("without a fault as well: {stop:?}"))?;
                // What sees one fault may see the next.
                scenarios[..=place].rotate_right(1);
                return Ok(how);
            }
            Err(stop) => refused.push(format!("{stop:?}")),
            Ok(_) => tries += 1,
        }
    }
    Err(format!("not seen in {tries} scenarios, not written in {}, at last: {:?}", refused.len(), refused.last()))
}

#[test]
fn each_fault_of_policies_is_found_by_packets() {
    if crate::made(policy_scene()).is_none() {
        return;
    }
    let mut drawn: Vec<Scenario> = (0..DRAWN).map(drawn).collect();
    drawn.extend(rare());
    let all = faults();
    assert!(all.len() >= 50);
    let faults = spread(all, SOME);
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let look = || {
        let mut scenarios: Vec<&Scenario> = drawn.iter().collect();
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = std::time::Instant::now();
            let found = seen(fault, &mut scenarios);
            println!("{}: {found:?} {:.1?}", fault.name, begun.elapsed());
            if let Err(why) = found {
                missed.lock().unwrap().push(format!("{}: {why}", fault.name));
            }
        }
    };
    std::thread::scope(|scope| (0..JOBS).for_each(|_| drop(scope.spawn(look))));
    let missed = missed.into_inner().unwrap();
    println!("{} of {} faults found", faults.len() - missed.len(), faults.len());
    assert!(missed.is_empty(), "no packet sees:\n{missed:#?}");
}
