//! Calls mixed with killed agents, lost calls and simulated reboots: no address leaks, none is given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use crate::support::cni::{Call, Outcome};
use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::world::{Plan, Pod, World};
use crate::support::{Numbers, within};

struct Runtime {
    world: World,
    /// What runs, as the runtime knows.
    pods: BTreeMap<String, Pod>,
    numbers: Numbers,
    count: u64,
    restarts: u32,
    reboots: u32,
}

impl Runtime {
    fn add_call(&mut self) -> (Call, String, Ns) {
        self.count += 1;
        let (ns, container) = (Ns::new(), format!("c{}", self.count));
        let mut call = self.world.call("ADD", &container, &ns.path);
        call.id = Some(format!("request-{}", self.count));
        (call, container, ns)
    }

    fn keep(&mut self, container: String, ns: Ns, outcome: Outcome) {
        let result = outcome.unwrap_or_else(|error| panic!("ADD {container}: {error}")).unwrap();
        let pod = Pod { ns, container: container.clone(), result };
        let ip = pod.ip();
        let twice = self.pods.values().find(|other| other.ip() == ip);
        assert!(twice.is_none(), "{ip} is {container}'s and {}'s", twice.unwrap().container);
        assert!(pod.ns.has_link("eth0"));
        self.pods.insert(container, pod);
    }

    fn some_pod(&mut self) -> Option<String> {
        let at = usize::try_from(self.numbers.below(self.pods.len().max(1) as u64)).unwrap();
        self.pods.keys().nth(at).cloned()
    }

    fn add(&mut self) {
        let (call, container, ns) = self.add_call();
        let outcome = call.make();
        self.keep(container, ns, outcome);
    }

    fn del(&mut self) {
        let Some(container) = self.some_pod() else { return };
        let pod = self.pods.remove(&container).unwrap();
        self.world.del(&pod);
        assert!(!pod.ns.has_link("eth0"));
    }

    /// The pod ends and its DEL is lost.
    fn lose(&mut self) {
        if let Some(container) = self.some_pod() {
            self.pods.remove(&container);
        }
    }

    fn restart(&mut self) {
        self.restarts += 1;
        self.world.start_agent();
        self.world.wait_ready();
    }

    /// Calls are under way when the agent is killed.
    fn kill_in_the_middle(&mut self) {
        let mut adds = Vec::new();
        for _ in 0..1 + self.numbers.below(3) {
            let (call, container, ns) = self.add_call();
            adds.push((call.send(), call, container, ns));
        }
        let mut dels = Vec::new();
        if let Some(container) = self.some_pod() {
            let pod = self.pods.remove(&container).unwrap();
            dels.push((self.world.call("DEL", &container, &pod.ns.path).send(), pod));
        }
        std::thread::sleep(Duration::from_micros(self.numbers.below(12_000)));
        self.world.kill_agent();
        self.restart();
        for (stream, call, container, ns) in adds {
            let outcome = match crate::support::cni::receive(stream) {
                // The answer was given before the end: it holds.
                Some(outcome) => Some(outcome),
                // The plugin sends it again, or died too; then the runtime deletes, or forgets.
                None => match self.numbers.below(3) {
                    0 => Some(call.make()),
                    1 => {
                        self.world.call("DEL", &container, &ns.path).done();
                        assert!(!ns.has_link("eth0"));
                        continue;
                    }
                    _ => continue,
                },
            };
            if let Some(outcome) = outcome {
                self.keep(container, ns, outcome);
            }
        }
        for (stream, pod) in dels {
            drop(stream);
            self.world.del(&pod);
            assert!(!pod.ns.has_link("eth0"));
        }
    }

    /// Everything that a reboot takes goes.
    fn reboot(&mut self) {
        self.reboots += 1;
        self.world.kill_agent();
        self.pods.clear();
        std::fs::remove_dir_all(self.world.run_dir()).unwrap();
        for line in self.world.node.ip("-o link show").lines() {
            let name = line.split(": ").nth(1).unwrap_or_default().split('@').next().unwrap_or_default();
            if name.starts_with("rip") {
                let _ = self.world.node.tried("ip", &["link", "del", name]);
            }
        }
        self.world.node.run("nft", &["flush", "ruleset"]);
        self.restart();
    }

    fn step(&mut self) {
        match self.numbers.below(100) {
            0..45 => self.add(),
            45..72 => self.del(),
            72..82 => self.lose(),
            82..92 => self.kill_in_the_middle(),
            92..94 => {
                self.world.kill_agent();
                self.restart();
            }
            94..96 => self.reboot(),
            _ => {
                // A runtime that lists what it has.
                let list: Vec<_> = self.pods.keys().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
                self.world.call("GC", "", "").with("cni.dev/valid-attachments", json!(list)).done();
            }
        }
        if self.pods.len() > 40 {
            self.del();
            self.lose();
        }
    }

    /// After the orphans' time everything is what the runtime has, no more and no less.
    fn account(&self) {
        let world = &self.world;
        let wanted: BTreeSet<String> = self.pods.keys().map(|id| format!("{id}.eth0.json")).collect();
        let files = || -> BTreeSet<String> {
            let entries = std::fs::read_dir(world.run_dir().join("leases")).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert!(
            within(Duration::from_secs(60), || files() == wanted),
            "leaked: {:?}, lost: {:?}",
            files().difference(&wanted).collect::<Vec<_>>(),
            wanted.difference(&files()).collect::<Vec<_>>()
        );
        world.settle();
        assert_eq!(world.get("/v1/ipam")["ranges"][0]["leased"], self.pods.len());
        assert_eq!(world.get("/v1/ipam/check")["problems"], json!([]));
        let links = world.node.ip("-o link show").lines().filter(|line| line.contains(": ripp")).count();
        assert_eq!(links, self.pods.len());
        let routes = world.node.ip("route show proto 82");
        assert_eq!(routes.lines().filter(|line| line.contains("dev ripp")).count(), self.pods.len());
        for pod in self.pods.values() {
            world.check(pod).done();
        }
        if let Some(pod) = self.pods.values().next() {
            let echo = Echo::start(&pod.ns, &pod.at(7000));
            assert!(ask(&world.node, None, echo.at).is_some());
        }
    }
}

#[test]
fn nothing_leaks_and_nothing_is_given_twice() {
    if !is_root() {
        return;
    }
    let (steps, rounds) = if std::env::var_os("RIPSTOP_LONG").is_some() { (1_000, 10) } else { (300, 1) };
    let timings = "timings: {aliveInterval: 1s, staleAfter: 3s, orphanInterval: 2s}".to_owned();
    let plan = Plan { config: vec![timings], spec: vec!["nodeRangeLen: {v4: 24}".into()], ..Plan::default() };
    let world = World::start(plan);
    let mut runtime = Runtime { world, pods: BTreeMap::new(), numbers: Numbers(7), count: 0, restarts: 0, reboots: 0 };
    for round in 0..rounds {
        for _ in 0..steps {
            runtime.step();
        }
        runtime.account();
        let Runtime { count, restarts, reboots, pods, .. } = &runtime;
        println!("round {round}: {count} ADDs, {restarts} restarts, {reboots} reboots, {} pods", pods.len());
    }
}
