//! Policies whose plan is long, through the core alone: what is said while it runs is decided once, behind it.

use std::sync::Arc;

use ripstop_agent::core::{Core, Output};
use ripstop_netmodel::Object;
use ripstop_objects::Wiring;
use ripstop_plan::Plan;
use ripstop_tables::{Input, Moment, StoreInput, StoreKind};
use ripstop_types::{Millis, Revision};
use serde_json::json;

use crate::scenario::{Scenario, facts, pod_row, start};

/// Blocks of one policy: its plan is a long one.
const BLOCKS: u32 = 20_000;

struct World {
    core: Core,
    at: Moment,
    revision: u64,
    /// Plans of policies that run.
    running: Vec<(u64, Arc<Plan>)>,
}

impl World {
    /// A node with a pod that policies may be about.
    fn new() -> Self {
        let at = Moment { now: Millis(1_000_000), wall: Millis(1_000_000) };
        let row = pod_row("web", "default", &["10.244.1.5"], Wiring::Routed);
        let tables = Scenario::synced().pod(row.clone()).tables;
        let observed = ripstop_desired::pod_objects(&tables, &row);
        let (core, outputs) = Core::start(at, ripstop_tables::Start { observed, pods: vec![row], ..start(facts()) });
        let mut world = Self { core, at, revision: 1, running: Vec::new() };
        world.carry_out(outputs);
        for kind in StoreKind::every() {
            world.say(StoreInput::Synced { kind, revision: Revision(1) });
        }
        // Past all that an agent waits for at its start.
        world.at.now = world.at.now.plus(10_000);
        world.feed(Input::Tick);
        world
    }

    fn say(&mut self, input: StoreInput) {
        self.core.take_in(self.at, Input::Store(input));
        let outputs = self.core.conclude();
        self.carry_out(outputs);
    }

    /// Plans of policies run until [`Self::end`]; all else is done at once.
    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Apply { plan, steps, .. } if steps.steps.iter().any(|step| step.key.is_of_policies()) => {
                    self.running.push((plan, steps));
                }
                Output::Apply { plan, steps, .. } => {
                    let results = vec![Some(Ok(())); steps.steps.len()];
                    self.feed(Input::Applied { plan, results });
                }
                Output::Save { generation } => self.feed(Input::Saved { generation }),
                _ => {}
            }
        }
    }

    fn feed(&mut self, input: Input) {
        self.core.take_in(self.at, input);
        let outputs = self.core.conclude();
        self.carry_out(outputs);
    }

    /// A policy that lets so many addresses talk to the pods.
    fn put(&mut self, name: &str, first: u32, blocks: u32) {
        self.revision += 1;
        let block = |number: u32| {
            let address = std::net::Ipv4Addr::from_bits(0x2000_0000 + 2 * number);
            json!({ "ipBlock": { "cidr": format!("{address}/32") } })
        };
        let from: Vec<_> = (first..first + blocks).map(block).collect();
        let value = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": from }] },
        });
        self.say(StoreInput::Put {
            kind: StoreKind::NetworkPolicies,
            key: format!("default/{name}").into(),
            value: value.into(),
            revision: Revision(self.revision),
        });
    }

    /// The plan that runs ends well; answers with how many elements it wrote.
    fn end(&mut self) -> usize {
        let (plan, steps) = self.running.remove(0);
        self.feed(Input::Applied { plan, results: vec![Some(Ok(())); steps.steps.len()] });
        steps.steps.iter().map(ripstop_plan::Step::filling).sum()
    }

    fn realised(&self) -> Vec<bool> {
        self.core.network_policies().iter().map(|policy| policy.realised).collect()
    }
}

#[test]
fn what_is_said_while_a_long_plan_runs_is_decided_once() {
    let mut world = World::new();
    world.put("list-0", 0, BLOCKS);
    assert_eq!(world.running.len(), 1);
    let decided = world.core.desired().len();
    for number in 1..6 {
        world.put(&format!("list-{number}"), number * BLOCKS, BLOCKS);
        assert_eq!(world.core.desired().len(), decided);
        assert!(world.running.len() == 1 && world.realised().iter().all(|realised| !realised));
    }
    assert!(world.end() >= BLOCKS as usize);
    // All five at once, and nothing is said to be in force before they are.
    assert_eq!(world.running.len(), 1);
    assert!(world.realised().iter().all(|realised| !realised));
    assert!(world.end() >= 6 * BLOCKS as usize);
    assert!(world.running.is_empty());
    assert_eq!(world.realised(), [true; 6]);
}

#[test]
fn what_is_said_while_a_short_plan_runs_is_decided_at_once() {
    let mut world = World::new();
    world.put("first", 0, 1);
    assert_eq!(world.running.len(), 1);
    world.put("second", 10, 1);
    let address = std::net::IpAddr::from([32, 0, 0, 20]);
    let has_it = |object: &Object| match object {
        Object::NftPart(part) => part.part.filled.values().any(|filling| filling.ranges.contains(&(address, address))),
        _ => false,
    };
    assert!(world.core.desired().iter().any(|(_, entry)| has_it(&entry.object)));
    world.end();
    world.end();
    assert_eq!(world.realised(), [true; 2]);
}
