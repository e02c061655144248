//! Faults planted into the tables that policies are compiled to: packets must see each of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use ripstop_conformance::policy::{Scenario, differ, drawn};

use crate::policies::Cluster;
use crate::policies::faults::{Fault, faults, rare};

/// Whether packets of a scenario see a fault.
fn is_seen(fault: &Fault, scenario: &Scenario) -> bool {
    differ(&mut Cluster::new(Some(fault.spoil.clone())), scenario).is_err()
}

#[test]
fn each_planted_fault_is_found() {
    let (faults, mut drawn) = (faults(), (0..1_500).map(drawn).collect::<Vec<_>>());
    drawn.extend(rare());
    let next = AtomicUsize::new(0);
    let look = || {
        let (mut missed, mut scenarios) = (Vec::new(), drawn.iter().collect::<Vec<_>>());
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            match scenarios.iter().position(|scenario| is_seen(fault, scenario)) {
                // What sees one fault may see the next.
                Some(by) => scenarios[..=by].rotate_right(1),
                None => missed.push(&fault.name),
            }
        }
        missed
    };
    let missed: Vec<&String> = std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| scope.spawn(look));
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{} of {} faults found", faults.len() - missed.len(), faults.len());
    assert!(missed.is_empty(), "no packet sees:\n{missed:#?}");
    assert!(faults.len() >= 50);
}
