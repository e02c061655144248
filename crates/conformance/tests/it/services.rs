//! The suite for proxies of Services: on the oracle, on data planes with planted faults, and as a program.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use ripstop_conformance::services::{
    Case, DataPlane, Difference, Fate, Knowledge, Oracle, Seen, Stop, cases, compare, run,
};
use ripstop_conformance::{Error, Outcome, Row};
use ripstop_objects::service::TrafficPolicy;
use ripstop_oracle::services::flows::Flow;
use ripstop_oracle::services::health::Answer;
use ripstop_oracle::services::{Listed, NodePortAddresses, Outcome as Fit, Packet, Source, World};
use ripstop_types::Family;
use serde_json::Value;

use crate::built;

/// Scenarios that a fault has to show in, or that two models have to agree in.
const SCENARIOS: u32 = 2_000;

fn rows(plane: &mut dyn DataPlane, only: &[&str]) -> Vec<Row> {
    let only: Vec<String> = only.iter().map(|word| (*word).to_owned()).collect();
    run(plane, &only, &|_| ()).unwrap()
}

#[test]
fn the_oracle_agrees_with_every_expectation() {
    let rows = rows(&mut Oracle::default(), &[]);
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| row.outcome != Outcome::Pass)
        .map(|row| format!("{} {}: {}", row.outcome, row.id, row.reason.as_deref().unwrap_or_default()))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert_eq!(rows.len(), cases().unwrap().len());
}

#[test]
fn what_a_data_plane_cannot_show_is_skipped_with_its_reason() {
    let rows = rows(&mut Bare(Oracle::default()), &[]);
    let count =
        |group: &str, outcome| rows.iter().filter(|row| row.id.starts_with(group) && row.outcome == outcome).count();
    assert!(rows.iter().all(|row| row.outcome != Outcome::Fail));
    assert_eq!((count("sysctls/", Outcome::Pass), count("cluster-ip/", Outcome::Skip)), (0, 0));
    for group in ["sysctls/", "conntrack/", "start/restart", "health/healthz"] {
        assert!(count(group, Outcome::Skip) > 0, "{group}");
    }
    assert!(rows.iter().filter(|row| row.outcome == Outcome::Skip).all(|row| row.reason.is_some()));
}

#[test]
fn a_difference_is_explained_or_a_failure_and_an_explanation_must_be_true() {
    let outcome = |case, known| {
        let mut plane = Known(Bare(Oracle::default()), known);
        rows(&mut plane, &[case])[0].outcome
    };
    // Bare sees one packet at a time; it serves external IPs as if it had been told to.
    let always = Difference::Always("because".into());
    let sometimes = Difference::Sometimes { sometimes: "by chance".into() };
    let (wrong, right) = ("external-ip/off/is-not-served", "cluster-ip/tcp/pod-over-ipv6");
    assert_eq!(outcome(wrong, None), Outcome::Fail);
    assert_eq!(outcome(wrong, Some(always.clone())), Outcome::Differs);
    assert_eq!(outcome(wrong, Some(sometimes.clone())), Outcome::Differs);
    assert_eq!(outcome(right, None), Outcome::Pass);
    assert_eq!(outcome(right, Some(always)), Outcome::Fail);
    assert_eq!(outcome(right, Some(sometimes)), Outcome::Pass);
}

#[test]
fn a_word_that_names_no_case_is_refused() {
    assert!(matches!(run(&mut Oracle::default(), &["cluster".into()], &|_| ()), Err(Error::Usage(_))));
    assert_eq!(rows(&mut Oracle::default(), &["cluster-ip/tcp/pod-over-ipv6"]).len(), 1);
    assert!(rows(&mut Oracle::default(), &["hairpin", "names"]).len() > 20);
}

/// A group of cases, and a fault that it must find.
type Fault = (&'static str, fn(&mut World));

/// Faults that a proxy might have.
const FAULTS: &[Fault] = &[
    ("cluster-ip/families", |world| world.services.iter_mut().for_each(|at| at.cluster_ips.truncate(1))),
    ("headless/label", |world| world.services.iter_mut().for_each(|at| at.headless = false)),
    ("node-port/addresses", |world| world.node_port_addresses = NodePortAddresses::All),
    ("load-balancer/ip-mode", |world| {
        world.services.iter_mut().flat_map(|at| &mut at.ingress).for_each(|at| at.is_proxied = false);
    }),
    ("external-ip/off", |world| world.external_ips = true),
    ("source-ranges", |world| world.services.iter_mut().for_each(|at| at.source_ranges = None)),
    ("source-ranges/families", |world| {
        // Ranges of one family leave the other open.
        for service in &mut world.services {
            let Some(ranges) = &mut service.source_ranges else { continue };
            for family in Family::BOTH {
                if ranges.iter().all(|range| range.family() != family) {
                    ranges.push(ripstop_types::Prefix::default_route(family));
                }
            }
        }
    }),
    ("external-policy", |world| world.services.iter_mut().for_each(|at| at.external_policy = TrafficPolicy::Cluster)),
    ("internal-policy", |world| world.services.iter_mut().for_each(|at| at.internal_policy = TrafficPolicy::Cluster)),
    ("conditions", |world| endpoints(world).for_each(|at| at.ready = true)),
    ("conditions/ending-where-none-is-ready", |world| endpoints(world).for_each(|at| at.terminating = false)),
    ("topology/zone", |world| endpoints(world).for_each(|at| at.for_zones.clear())),
    ("topology/node", |world| endpoints(world).for_each(|at| at.for_nodes.clear())),
    ("affinity", |world| world.services.iter_mut().for_each(|at| at.affinity = None)),
    ("slices", |world| world.slices.truncate(1)),
    ("reject/unallocated", |world| world.service_cidrs.clear()),
    ("masquerade/all", |world| world.masquerade_all = false),
    ("masquerade/detect", |world| world.detect_local = Default::default()),
    ("node-port/loopback", |world| world.localhost_node_ports = false),
    ("masquerade/ranges", |world| world.pod_ranges.truncate(1)),
    ("health/node-port", |world| world.services.iter_mut().for_each(|at| at.health_check_node_port = None)),
    ("health/healthz", |world| world.proxy.leaving = false),
    ("conntrack/endpoint-changed", |world| endpoints(world).for_each(|at| at.ready = true)),
    ("sysctls/max", |world| world.conntrack.min = 0),
    ("invalid", |world| world.conntrack.tcp_be_liberal = true),
    ("proxy-name", |world| world.services.iter_mut().for_each(|at| at.proxy_name = None)),
    ("start", |world| world.listed = Listed::default()),
    ("names", |world| {
        world.services.iter_mut().for_each(|at| at.name.namespace = "default".into());
        world.slices.iter_mut().for_each(|at| at.name.namespace = "default".into());
    }),
];

fn endpoints(world: &mut World) -> impl Iterator<Item = &mut ripstop_objects::service::Endpoint> {
    world.slices.iter_mut().flat_map(|slice| &mut slice.endpoints)
}

#[test]
fn every_fault_is_found_by_its_group() {
    for (group, fault) in FAULTS {
        let rows = rows(&mut Bent { oracle: Oracle::default(), fault: *fault, twist: |outcome| outcome }, &[group]);
        let failed = rows.iter().filter(|row| row.outcome == Outcome::Fail).count();
        assert!(failed > 0, "{group}: all {} passed", rows.len());
    }
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let turn = |world: &mut World| {
        world.services.reverse();
        world.slices.reverse();
        world.slices.iter_mut().for_each(|slice| slice.endpoints.reverse());
    };
    let mut plane = Bent { oracle: Oracle::default(), fault: turn, twist: |outcome| outcome };
    assert!(rows(&mut plane, &[]).iter().all(|row| row.outcome == Outcome::Pass));
    compare(&mut Oracle::default(), &mut plane, 3, SCENARIOS).unwrap();
}

#[test]
fn a_wrong_source_is_found() {
    let kept = |outcome| match outcome {
        Fit::To(endpoints) => Fit::To(endpoints.into_keys().map(|at| (at, Source::Kept)).collect()),
        other => other,
    };
    let mut plane = Bent { oracle: Oracle::default(), fault: |_| (), twist: kept };
    for group in ["hairpin", "masquerade/cluster-ip", "node-port", "external-policy/short-cut"] {
        assert!(rows(&mut plane, &[group]).iter().any(|row| row.outcome == Outcome::Fail), "{group}");
    }
}

#[test]
fn two_models_agree_and_each_fault_makes_them_differ() {
    compare(&mut Oracle::default(), &mut Oracle::default(), 1, SCENARIOS).unwrap();
    // What packets of one state of the objects cannot show.
    let unseen = [
        "health",
        "conntrack",
        "sysctls",
        "invalid",
        "start",
        "names",
        "masquerade/ranges",
        "masquerade/detect",
        "node-port/loopback",
    ];
    for (group, fault) in FAULTS.iter().filter(|(group, _)| !unseen.iter().any(|word| group.starts_with(word))) {
        let mut plane = Bent { oracle: Oracle::default(), fault: *fault, twist: |outcome| outcome };
        let found = compare(&mut Oracle::default(), &mut plane, 7, SCENARIOS);
        let found = found.err().unwrap_or_else(|| panic!("{group}: {SCENARIOS} scenarios do not show it"));
        let world = &found.scenario.world;
        assert!(found.scenario.packets.len() <= 3 && world.services.len() <= 3, "{group} is not shrunk:\n{found}");
    }
}

#[test]
fn the_program_lists_and_reports() {
    let Some(ripstop) = built("ripstop") else { return };
    let run = |args: &[&str]| Command::new(&ripstop).args(["conformance", "services"]).args(args).output().unwrap();
    let list = run(&["--list"]);
    let ids: Vec<&str> = cases().unwrap().iter().map(|case| case.id.as_str()).collect();
    assert_eq!(String::from_utf8(list.stdout).unwrap().lines().collect::<Vec<_>>(), ids);
    let report = run(&["--data-plane", "oracle", "--only", "hairpin/udp", "-o", "json"]);
    assert_eq!(report.status.code(), Some(0));
    let rows: Value = serde_json::from_slice(&report.stdout).unwrap();
    let keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["cite", "id", "ms", "reason", "result"]);
    assert_eq!((&rows[0]["id"], &rows[0]["result"]), (&"hairpin/udp".into(), &"pass".into()));
    for wrong in [&["--only", "no-such-case"][..], &["--data-plane", "moon"]] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// A data plane that carries packets and can show nothing else.
struct Bare(Oracle);

impl DataPlane for Bare {
    fn install(&mut self, world: &World) -> Result<(), Stop> {
        self.0.install(world)
    }

    fn change(&mut self, world: &World) -> Result<(), Stop> {
        self.0.change(world)
    }

    /// Sees one packet at a time.
    fn send(&mut self, packet: &Packet) -> Result<Seen, Stop> {
        Ok(Seen { outcome: None, ..self.0.send(packet)? })
    }
}

/// One that serves external IPs whatever it is told, and is known to differ from every case.
struct Known(Bare, Option<Difference>);

impl DataPlane for Known {
    fn explained<'c>(&self, _: &'c Case) -> Option<&'c Difference> {
        // The cases live as long as the program, and so may what is said of them here.
        self.1.clone().map(|known| &*Box::leak(Box::new(known)))
    }

    fn install(&mut self, world: &World) -> Result<(), Stop> {
        self.0.install(&World { external_ips: true, ..world.clone() })
    }

    fn change(&mut self, world: &World) -> Result<(), Stop> {
        self.0.change(world)
    }

    fn send(&mut self, packet: &Packet) -> Result<Seen, Stop> {
        self.0.send(packet)
    }
}

/// A correct data plane with a fault.
struct Bent {
    oracle: Oracle,
    /// What it makes of the world.
    fault: fn(&mut World),
    /// What it makes of an outcome.
    twist: fn(Fit) -> Fit,
}

impl Bent {
    fn bent(&self, world: &World) -> World {
        let mut world = world.clone();
        (self.fault)(&mut world);
        world
    }
}

impl DataPlane for Bent {
    fn install(&mut self, world: &World) -> Result<(), Stop> {
        self.oracle.install(&self.bent(world))
    }

    fn change(&mut self, world: &World) -> Result<(), Stop> {
        self.oracle.change(&self.bent(world))
    }

    fn send(&mut self, packet: &Packet) -> Result<Seen, Stop> {
        let Seen { fate, outcome } = self.oracle.send(packet)?;
        let outcome = outcome.map(self.twist);
        let fate = match (fate, &outcome) {
            (Fate::Arrived { endpoint, .. }, Some(Fit::To(endpoints)))
                if endpoints.get(&endpoint) == Some(&Source::Kept) =>
            {
                Fate::Arrived { endpoint, source: packet.source }
            }
            (fate, _) => fate,
        };
        Ok(Seen { fate, outcome })
    }

    fn follow(&mut self, packet: &Packet, endpoint: SocketAddr) {
        self.oracle.follow(packet, endpoint);
    }

    fn wait(&mut self, time: Duration) -> Result<(), Stop> {
        self.oracle.wait(time)
    }

    fn restart(&mut self) -> Result<(), Stop> {
        self.oracle.restart()
    }

    fn store(&mut self, back: bool) -> Result<(), Stop> {
        self.oracle.store(back)
    }

    fn knowledge(&mut self) -> Result<Knowledge, Stop> {
        self.oracle.knowledge()
    }

    fn health(&mut self, port: u16, path: &str, family: Family) -> Result<Option<Answer>, Stop> {
        self.oracle.health(port, path, family)
    }

    fn track(&mut self, flows: &[Flow]) -> Result<(), Stop> {
        self.oracle.track(flows)
    }

    fn tracked(&mut self) -> Result<BTreeSet<Flow>, Stop> {
        self.oracle.tracked()
    }

    fn sysctls(&mut self, cores: u64, present: &BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>, Stop> {
        self.oracle.sysctls(cores, present)
    }
}
