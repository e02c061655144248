//! Calls mixed with killed agents and plugins, lost calls and simulated reboots: no address leaks, none is given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cni::{Call, Outcome, receive};
use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::world::{Plan, Pod, World};
use crate::support::{Numbers, within};

struct Runtime {
    world: World,
    /// What runs, as the runtime knows.
    pods: BTreeMap<String, Pod>,
    numbers: Numbers,
    count: Count,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Count {
    adds: u64,
    dels: u64,
    lost: u64,
    killed_agents: u64,
    killed_plugins: u64,
    reboots: u64,
}

/// What the runtime hears of an ADD that was under way when something was killed.
enum Heard {
    Outcome(Outcome),
    /// No answer: the plugin died, or would ask the next agent.
    Nothing,
}

impl Runtime {
    fn add_call(&mut self) -> (Call, String, Ns) {
        self.count.adds += 1;
        let (ns, container) = (Ns::new(), format!("c{}", self.count.adds));
        let mut call = self.world.call("ADD", &container, &ns.path);
        call.id = Some(format!("request-{}", self.count.adds));
        (call, container, ns)
    }

    fn keep(&mut self, container: String, ns: Ns, outcome: Outcome) {
        let result = outcome.unwrap_or_else(|error| panic!("ADD {container}: {error}")).unwrap();
        self.keep_result(container, ns, result);
    }

    fn keep_result(&mut self, container: String, ns: Ns, result: Value) {
        let pod = Pod { ns, container: container.clone(), result };
        let ip = pod.ip();
        let twice = self.pods.values().find(|other| other.ip() == ip);
        assert!(twice.is_none(), "{ip} is {container}'s and {}'s", twice.unwrap().container);
        assert!(pod.ns.has_link("eth0"));
        self.pods.insert(container, pod);
    }

    fn take_some_pod(&mut self) -> Option<Pod> {
        let at = usize::try_from(self.numbers.below(self.pods.len().max(1) as u64)).unwrap();
        let container = self.pods.keys().nth(at).cloned()?;
        self.pods.remove(&container)
    }

    fn add(&mut self) {
        let (call, container, ns) = self.add_call();
        let outcome = call.make();
        self.keep(container, ns, outcome);
    }

    fn del(&mut self) {
        if let Some(pod) = self.take_some_pod() {
            self.delete(&pod.container, &pod.ns);
        }
    }

    fn delete(&mut self, container: &str, ns: &Ns) {
        self.count.dels += 1;
        self.world.call("DEL", container, &ns.path).done();
        assert!(!ns.has_link("eth0"));
    }

    /// The pod ends and its DEL is lost.
    fn lose(&mut self) {
        self.count.lost += u64::from(self.take_some_pod().is_some());
    }

    fn kill_agent(&mut self) {
        self.count.killed_agents += 1;
        self.world.kill_agent();
    }

    fn restart(&mut self) {
        self.world.start_agent();
        self.world.wait_ready();
    }

    fn pause(&mut self) {
        std::thread::sleep(Duration::from_micros(self.numbers.below(12_000)));
    }

    /// What a runtime does with an ADD under way at a kill: it takes the answer; without one it asks again, deletes, or
    /// forgets.
    fn conclude(&mut self, call: &Call, container: String, ns: Ns, heard: Heard) {
        match heard {
            // The answer was given before the end: it holds.
            Heard::Outcome(outcome) => self.keep(container, ns, outcome),
            Heard::Nothing => match self.numbers.below(3) {
                0 => {
                    let outcome = call.make();
                    self.keep(container, ns, outcome);
                }
                1 => self.delete(&container, &ns),
                _ => self.count.lost += 1,
            },
        }
    }

    /// Calls are under way when the agent is killed.
    fn kill_in_the_middle(&mut self) {
        let mut adds = Vec::new();
        for _ in 0..1 + self.numbers.below(3) {
            let (call, container, ns) = self.add_call();
            adds.push((call.send(), call, container, ns));
        }
        let del = self.take_some_pod().map(|pod| (self.world.call("DEL", &pod.container, &pod.ns.path).send(), pod));
        self.pause();
        self.kill_agent();
        self.restart();
        for (stream, call, container, ns) in adds {
            let heard = receive(stream).map_or(Heard::Nothing, Heard::Outcome);
            self.conclude(&call, container, ns, heard);
        }
        if let Some((stream, pod)) = del {
            drop(stream);
            self.delete(&pod.container, &pod.ns);
        }
    }

    /// Plugins are under way when some of them are killed, and sometimes the agent too: those that live ask the next one.
    fn kill_plugins(&mut self) {
        let mut adds = Vec::new();
        for _ in 0..1 + self.numbers.below(3) {
            let (call, container, ns) = self.add_call();
            adds.push((call.start(), container, ns));
        }
        let del = self.take_some_pod().map(|pod| (self.world.call("DEL", &pod.container, &pod.ns.path).start(), pod));
        self.pause();
        let with_agent = self.numbers.below(3) == 0;
        if with_agent {
            self.kill_agent();
        }
        let killed: Vec<bool> = adds.iter_mut().map(|(child, ..)| self.numbers.below(2) == 0 && kill(child)).collect();
        self.count.killed_plugins += killed.iter().filter(|killed| **killed).count() as u64;
        if with_agent {
            self.restart();
        }
        for ((child, container, ns), killed) in adds.into_iter().zip(killed) {
            let output = child.wait_with_output().unwrap();
            if killed {
                // What it asked for may be done or under way; what comes next is another call of the runtime. A second ADD
                // would be one for an interface that is there.
                if self.numbers.below(2) == 0 {
                    self.delete(&container, &ns);
                } else {
                    self.count.lost += 1;
                }
                continue;
            }
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "ADD {container}: {text}");
            self.keep_result(container, ns, serde_json::from_str(&text).unwrap());
        }
        if let Some((mut child, pod)) = del {
            self.count.killed_plugins += u64::from(kill(&mut child));
            child.wait().unwrap();
            self.delete(&pod.container, &pod.ns);
        }
    }

    /// Everything that a reboot takes goes.
    fn reboot(&mut self) {
        self.count.reboots += 1;
        self.kill_agent();
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
            82..88 => self.kill_in_the_middle(),
            88..92 => self.kill_plugins(),
            92..94 => {
                self.kill_agent();
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

/// `kill -9`; whether it was still running.
fn kill(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none() && child.kill().is_ok()
}

#[test]
fn nothing_leaks_and_nothing_is_given_twice() {
    if !is_root() {
        return;
    }
    let long = std::env::var_os("RIPSTOP_LONG").is_some();
    let (steps, wanted) = if long { (1_000, 10_000) } else { (300, 0) };
    let timings = "timings: {aliveInterval: 1s, staleAfter: 3s, orphanInterval: 2s}".to_owned();
    let plan = Plan { config: vec![timings], spec: vec!["nodeRangeLen: {v4: 24}".into()], ..Plan::default() };
    let world = World::start(plan);
    let mut runtime = Runtime { world, pods: BTreeMap::new(), numbers: Numbers(7), count: Count::default() };
    let begin = Instant::now();
    loop {
        for _ in 0..steps {
            runtime.step();
        }
        runtime.account();
        println!("{:?} with {} pods after {:.0?}", runtime.count, runtime.pods.len(), begin.elapsed());
        if runtime.count.adds + runtime.count.dels >= wanted {
            break;
        }
    }
}
