//! Several agents' cores with one store, one clock and kernels that do what they are told: no process, no socket.
//!
//! What an agent's core asks for is carried out one piece at a time, and what comes of it is heard one message at a time; a
//! kill loses whatever is under way on either side, and the next start finds the files, the kernel and the last snapshot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_agent::core::{Core, Output};
use ripstop_cni_spec::wire::{PROTOCOL, Request};
use ripstop_netmodel::{Entry, HostFacts, HostLink, Key, Kind, Ns, Object, Record, RecordGuard, RecordScope, Resource};
use ripstop_objects::{AgentConfig, Network, NodeIdentity};
use ripstop_plan::{Action, Plan, Step};
use ripstop_tables::{Input, Moment, PodRow, PodState, Snapshot, Start, StoreInput, StoreKind, StoreResult};
use ripstop_types::{Family, Mac, Millis, Revision};
use serde_json::{Value, json};

/// A pod that somebody wants, or wants no more.
#[derive(Debug, Clone)]
pub struct Wish {
    pub node: usize,
    pub container: String,
    /// More of `runtimeConfig`, with capabilities.
    pub runtime: Value,
    /// Labels, as the conventions pass them.
    pub labels: Vec<(&'static str, &'static str)>,
    pub namespace: &'static str,
}

/// One node.
pub struct Node {
    pub core: Option<Core>,
    boot: u32,
    run: u64,
    kernel: BTreeMap<Key, Arc<Entry>>,
    files: BTreeMap<Arc<str>, Value>,
    disk: Option<Snapshot>,
    /// How much of the store's log was heard.
    heard: Option<usize>,
    work: VecDeque<Output>,
    inputs: VecDeque<Input>,
    /// Calls that wait for their answer, by number: container and verb.
    calls: BTreeMap<u64, (String, &'static str)>,
    next_call: u64,
    /// The last lines of its log.
    said: VecDeque<String>,
}

impl Node {
    /// The agent hears that the store does not answer.
    pub fn tell_away(&mut self) {
        self.inputs.push_back(Input::Store(StoreInput::Away { reason: "it was cut off".into() }));
    }
}

/// All of them.
pub struct World {
    pub nodes: Vec<Node>,
    pub now: u64,
    network: Network,
    records: BTreeMap<(StoreKind, Arc<str>), (Value, u64)>,
    log: Vec<StoreInput>,
    pub store_away: bool,
    /// Pods that answered, with their addresses.
    pub answers: BTreeMap<String, Result<Vec<IpAddr>, (u32, String)>>,
    pub deleted: BTreeSet<String>,
    /// What became of addresses, for a test that fails.
    history: Vec<String>,
}

impl World {
    /// Nodes that are not started yet, whose configuration names this network.
    pub fn new(nodes: usize, spec: &str) -> Self {
        let text = format!("apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {{name: default}}\nspec: {spec}");
        let network = Network::decode(&text).unwrap();
        let node = || Node {
            core: None,
            boot: 1,
            run: 0,
            kernel: BTreeMap::new(),
            files: BTreeMap::new(),
            disk: None,
            heard: None,
            work: VecDeque::new(),
            inputs: VecDeque::new(),
            calls: BTreeMap::new(),
            next_call: 1,
            said: VecDeque::new(),
        };
        Self {
            nodes: (0..nodes).map(|_| node()).collect(),
            now: 1_000,
            network,
            records: BTreeMap::new(),
            log: Vec::new(),
            store_away: false,
            answers: BTreeMap::new(),
            deleted: BTreeSet::new(),
            history: Vec::new(),
        }
    }

    fn at(&self) -> Moment {
        Moment { now: Millis(self.now), wall: Millis(1_700_000_000_000 + self.now) }
    }

    /// Starts an agent with what an earlier one left.
    pub fn start(&mut self, n: usize) {
        let at = self.at();
        let network = self.network.clone();
        let node = &mut self.nodes[n];
        node.run += 1;
        let link = HostLink {
            ports: 0,
            taken: false,
            running: true,
            mtu: 1500,
            mac: Some(Mac::local([0, 0, 0, 9, n as u8])),
            addresses: vec![(format!("172.30.1.{}", 10 + n).parse().unwrap(), 24)],
            accept_ra: None,
            kind: None,
        };
        let facts = HostFacts {
            links: BTreeMap::from([("eth0".parse().unwrap(), link)]),
            default_links: BTreeMap::from([(Family::V4, "eth0".parse().unwrap())]),
            bridge_netfilter: Some(true),
            ipv6: true,
            ..HostFacts::default()
        };
        let pods = node.files.values().map(|value| serde_json::from_value::<PodRow>(value.clone()).unwrap());
        let start = Start {
            config: AgentConfig { networks: vec![network], ..AgentConfig::default() },
            node: format!("n{}", n + 1).parse().unwrap(),
            identity: NodeIdentity { machine_id: format!("m{n}"), boot_id: format!("b{}", node.boot) },
            run: node.run,
            version: "1.0.0".into(),
            facts,
            observed: node.kernel.values().filter(|entry| is_host(entry)).map(|entry| (**entry).clone()).collect(),
            pods: pods.collect(),
            lost: Vec::new(),
            preferred: Vec::new(),
            snapshot: node.disk.clone(),
            held: false,
        };
        let (core, outputs) = Core::start(at, start);
        (node.core, node.heard) = (Some(core), None);
        node.work.extend(outputs);
    }

    /// Kills an agent: what it asked for and was not done is not done, what was done is not heard of.
    pub fn kill(&mut self, n: usize) {
        self.history.push(format!("{} node {n} dies", self.now));
        let node = &mut self.nodes[n];
        node.core = None;
        node.work.clear();
        node.inputs.clear();
        node.calls.clear();
    }

    /// Switches a machine off and on: its pods are gone.
    pub fn reboot(&mut self, n: usize) {
        self.kill(n);
        self.history.push(format!("{} node {n} is switched off", self.now));
        let node = &mut self.nodes[n];
        node.boot += 1;
        node.kernel.clear();
        node.files.clear();
        self.start(n);
    }

    /// An ADD. Its answer is in `answers` once it came.
    pub fn add(&mut self, wish: &Wish) {
        self.answers.remove(&wish.container);
        let labels: Vec<Value> = wish.labels.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        let config = json!({
            "cniVersion": "1.1.0", "name": "lab", "type": "ripstop-cni", "network": "default",
            "capabilities": {"ips": true}, "runtimeConfig": wish.runtime, "args": {"cni": {"labels": labels}},
        });
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}", wish.namespace, wish.container);
        self.call(wish.node, &wish.container, "ADD", &config, &args);
    }

    /// A DEL.
    pub fn del(&mut self, node: usize, container: &str) {
        self.deleted.remove(container);
        let config = json!({"cniVersion": "1.1.0", "name": "lab", "type": "ripstop-cni", "network": "default"});
        self.call(node, container, "DEL", &config, "");
    }

    fn call(&mut self, n: usize, container: &str, verb: &'static str, config: &Value, args: &str) {
        let request: Request = serde_json::from_value(json!({
            "protocol": PROTOCOL, "id": format!("{container}-{verb}-{}", self.now), "attempt": 1, "timeoutMs": 30_000,
            "env": {"command": verb, "containerId": container, "netns": format!("/run/netns/{container}"),
                    "ifname": "eth0", "args": args, "path": "/opt/cni/bin"},
            "config": config,
        }))
        .unwrap();
        let node = &mut self.nodes[n];
        let call = node.next_call;
        node.next_call += 1;
        node.calls.insert(call, (container.to_owned(), verb));
        node.inputs.push_back(Input::Cni { call, request });
    }

    /// The watch begins anew, with a list.
    pub fn forget_watch(&mut self, n: usize) {
        self.nodes[n].heard = None;
    }

    /// Whether a call for this container is under way.
    pub fn is_busy(&self, n: usize, container: &str) -> bool {
        self.nodes[n].calls.values().any(|(other, _)| other == container)
    }

    /// One thing happens at a node: something it asked for, or something it hears. `false`: nothing is to happen.
    pub fn step(&mut self, n: usize) -> bool {
        let at = self.at();
        if self.nodes[n].core.is_none() {
            return false;
        }
        if let Some(output) = self.nodes[n].work.pop_front() {
            self.carry_out(n, output);
            return true;
        }
        let input = match self.nodes[n].inputs.pop_front() {
            Some(input) => Some(input),
            None => self.next_of_store(n),
        };
        let node = &mut self.nodes[n];
        let core = node.core.as_mut().unwrap();
        let input = match input {
            Some(input) => input,
            None if core.next_tick() <= at.now => Input::Tick,
            None => return false,
        };
        let outputs = core.handle(at, input);
        node.work.extend(outputs);
        true
    }

    fn next_of_store(&mut self, n: usize) -> Option<Input> {
        let node = &mut self.nodes[n];
        let heard = match node.heard {
            _ if self.store_away => return None,
            Some(heard) => heard,
            None => {
                node.heard = Some(self.log.len());
                let revision = Revision(self.log.len() as u64);
                node.inputs.push_back(Input::Store(StoreInput::Back));
                for kind in StoreKind::ALL.into_iter().chain(StoreKind::OBJECTS) {
                    node.inputs.push_back(Input::Store(StoreInput::Reset { kind }));
                    for ((_, key), (value, revision)) in self.records.iter().filter(|((of, _), _)| *of == kind) {
                        let (key, value, revision) = (key.clone(), value.clone().into(), Revision(*revision));
                        node.inputs.push_back(Input::Store(StoreInput::Put { kind, key, value, revision }));
                    }
                    node.inputs.push_back(Input::Store(StoreInput::Synced { kind, revision }));
                }
                return node.inputs.pop_front();
            }
        };
        let event = self.log.get(heard)?.clone();
        node.heard = Some(heard + 1);
        Some(Input::Store(event))
    }

    fn carry_out(&mut self, n: usize, output: Output) {
        match output {
            Output::Apply { plan, steps, .. } => {
                let results = steps.steps.iter().map(|step| Some(self.apply(n, step))).collect();
                self.nodes[n].inputs.push_back(Input::Applied { plan, results });
            }
            Output::Store { plan, steps } => {
                let results = self.store(&steps);
                self.nodes[n].inputs.push_back(Input::Stored { plan, results });
            }
            Output::Observe { kinds } => {
                let entries = self.observe(n, &kinds);
                self.nodes[n].inputs.push_back(Input::Observed { kinds, entries });
            }
            Output::Save { generation } => {
                let node = &mut self.nodes[n];
                let written = serde_json::to_vec(&node.core.as_ref().unwrap().snapshot()).unwrap();
                node.disk = Some(serde_json::from_slice(&written).unwrap());
                node.inputs.push_back(Input::Saved { generation });
            }
            Output::Reply { call, response } => {
                let node = &mut self.nodes[n];
                let Some((container, verb)) = node.calls.remove(&call) else { return };
                match (verb, response.error) {
                    ("DEL", None) => drop(self.deleted.insert(container)),
                    ("DEL", Some(_)) => {}
                    (_, Some(error)) => {
                        drop(self.answers.insert(container, Err((error.code.number(), error.to_string()))));
                    }
                    (_, None) => {
                        let result: Value = serde_json::from_str(response.result.unwrap().get()).unwrap();
                        let ips = result["ips"].as_array().unwrap().iter();
                        let ip =
                            |row: &Value| row["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
                        self.answers.insert(container, Ok(ips.map(ip).collect()));
                    }
                }
            }
            Output::Log { text, .. } => {
                let now = self.now;
                let said = &mut self.nodes[n].said;
                said.push_back(format!("{now}: {text}"));
                if said.len() > 40 {
                    said.pop_front();
                }
            }
            Output::Inspect { .. }
            | Output::Track { .. }
            | Output::Answer { .. }
            | Output::Probe(_)
            | Output::Bgp(_)
            | Output::Health(_)
            | Output::Readiness(_)
            | Output::Forget
            | Output::Announce(_)
            | Output::Assign(_)
            | Output::Notices(_) => {}
        }
    }

    fn apply(&mut self, n: usize, step: &Step) -> Result<(), ripstop_tables::StepFault> {
        let node = &mut self.nodes[n];
        if let Key::Record { scope: RecordScope::Boot(_), key } = &step.key {
            match step.after.as_deref().map(|entry| &entry.object) {
                Some(Object::Record(record)) => {
                    let row: Value = serde_json::from_str(&record.value).unwrap();
                    self.history.push(format!("{} file of {n}: {key} {} {}", self.now, row["ips"], row["state"]));
                    node.files.insert(key.clone(), row);
                }
                _ => {
                    self.history.push(format!("{} file of {n}: {key} gone", self.now));
                    node.files.remove(key);
                }
            }
            return Ok(());
        }
        match &step.after {
            Some(entry) => drop(node.kernel.insert(step.key.clone(), entry.clone())),
            None => {
                node.kernel.remove(&step.key);
                if let Key::Link { name, .. } = &step.key {
                    node.kernel.retain(|_, entry| !hangs_on(&entry.object, name));
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, steps: &Plan) -> Vec<StoreResult> {
        steps.steps.iter().map(|step| self.write(step)).collect()
    }

    fn write(&mut self, step: &Step) -> StoreResult {
        if self.store_away {
            return StoreResult::Failed("the store is away".into());
        }
        let Key::Record { scope: RecordScope::Cluster(kind), key } = &step.key else { panic!("{}", step.key) };
        let entry = if step.action == Action::Delete { &step.before } else { &step.after };
        let Object::Record(Record { value, guard, .. }) = &entry.as_ref().unwrap().object else { panic!() };
        let kind = StoreKind::parse(kind).unwrap();
        let place = (kind, key.clone());
        let current = self.records.get(&place).cloned();
        let fits = match guard {
            RecordGuard::Any => true,
            RecordGuard::Absent => current.is_none(),
            RecordGuard::Revision(revision) => current.as_ref().is_some_and(|(_, at)| at == revision),
        };
        if !fits {
            return StoreResult::Conflict(current.map(|(value, at)| (value, Revision(at))));
        }
        let at = self.log.len() as u64 + 1;
        let revision = Revision(at);
        if kind == StoreKind::Claims {
            let end = if step.action == Action::Delete { "deleted" } else { value };
            self.history.push(format!("{} store {at}: {key} {end}", self.now));
        }
        if step.action == Action::Delete {
            if self.records.remove(&place).is_some() {
                self.log.push(StoreInput::Delete { kind, key: key.clone(), revision });
            }
        } else {
            let value: Value = serde_json::from_str(value).unwrap();
            self.records.insert(place, (value.clone(), at));
            self.log.push(StoreInput::Put { kind, key: key.clone(), value: value.into(), revision });
        }
        StoreResult::Done(revision)
    }

    fn observe(&self, n: usize, kinds: &BTreeSet<Kind>) -> Vec<Entry> {
        let kernel = self.nodes[n].kernel.values();
        let wanted = kernel.filter(|entry| is_host(entry) && kinds.contains(&entry.object.key().kind()));
        wanted.map(|entry| (**entry).clone()).collect()
    }

    /// Lets everything go on until `done`, or for so many milliseconds.
    pub fn run(&mut self, most: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let until = self.now + most;
        while self.now < until {
            let mut moved = false;
            for n in 0..self.nodes.len() {
                for _ in 0..8 {
                    moved |= self.step(n);
                }
            }
            self.now += if moved { 1 } else { 50 };
            if done(self) {
                return true;
            }
        }
        false
    }

    /// The addresses of every pod that a node's files say was answered for or is being added, with its node and container.
    pub fn held(&self) -> Vec<(IpAddr, usize, String)> {
        let rows = self.nodes.iter().enumerate().flat_map(|(n, node)| node.files.values().map(move |value| (n, value)));
        let rows = rows.map(|(n, value)| (n, serde_json::from_value::<PodRow>(value.clone()).unwrap()));
        let rows = rows.filter(|(_, row)| row.state != PodState::Gone);
        rows.flat_map(|(n, row)| {
            row.ips.clone().into_iter().map(move |ip| (ip, n, row.attachment.container.to_string()))
        })
        .collect()
    }

    /// Panics if two pods have one address.
    pub fn check(&self) {
        let mut seen: BTreeMap<IpAddr, (usize, String)> = BTreeMap::new();
        for (ip, n, container) in self.held() {
            if let Some((m, other)) = seen.insert(ip, (n, container.clone())) {
                let claims: Vec<_> =
                    self.claims().into_iter().filter(|(range, _)| range.starts_with("10.9.")).collect();
                let all = [
                    format!("{ip}_32"),
                    format!("\"{ip}\""),
                    format!(" {container}."),
                    format!(" {other}."),
                    "dies".into(),
                    "off".into(),
                ];
                let lines: Vec<&String> =
                    self.history.iter().filter(|line| all.iter().any(|word| line.contains(word))).collect();
                lines.iter().skip(lines.len().saturating_sub(80)).for_each(|line| println!("{line}"));
                panic!(
                    "{ip} is {container}'s of node {n} and {other}'s of node {m}: {claims:?}\n{}\n{}",
                    self.told(n),
                    self.told(m)
                );
            }
        }
    }

    /// What became of a container, for a test that fails.
    pub fn story(&self, container: &str) -> String {
        let of_it = [format!(" {container}."), "dies".into(), "off".into()];
        let lines = self.history.iter().filter(|line| of_it.iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// What an agent knows of its addresses, and what it said last, for a test that fails.
    pub fn told(&self, n: usize) -> String {
        let Some(core) = &self.nodes[n].core else { return format!("node {n} is dead") };
        let ipam = serde_json::to_string(&core.ipam()).unwrap();
        let status = serde_json::to_string(&core.status()).unwrap();
        let journal: Vec<_> = core.journal().map(|row| serde_json::to_string(&row).unwrap()).collect();
        let journal = journal[journal.len().saturating_sub(30)..].join("\n");
        format!(
            "node {n}: {ipam}\n{status}\n{journal}\n{}",
            self.nodes[n].said.iter().cloned().collect::<Vec<_>>().join("\n")
        )
    }

    /// Claims in the store, by range: state and node.
    pub fn claims(&self) -> BTreeMap<String, (String, String)> {
        let claims = self.records.iter().filter(|((kind, _), _)| *kind == StoreKind::Claims);
        let text = |value: &Value, field: &str| value[field].as_str().unwrap().to_owned();
        claims.map(|(_, (value, _))| (text(value, "range"), (text(value, "state"), text(value, "node")))).collect()
    }

    /// Changes the network in the store.
    pub fn put_network(&mut self, spec: &str) {
        let text = format!("apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {{name: default}}\nspec: {spec}");
        let network = Network::decode(&text).unwrap();
        let value = serde_json::to_value(&network).unwrap();
        let at = self.log.len() as u64 + 1;
        self.records.insert((StoreKind::Networks, "default".into()), (value.clone(), at));
        self.log.push(StoreInput::Put {
            kind: StoreKind::Networks,
            key: "default".into(),
            value: value.into(),
            revision: Revision(at),
        });
    }
}

fn is_host(entry: &Entry) -> bool {
    let key = entry.object.key();
    !matches!(key.ns(), Some(Ns::Path(_)))
}

/// Whether an object goes with a link.
fn hangs_on(object: &Object, link: &ripstop_types::IfName) -> bool {
    match object.key() {
        Key::Address { link: on, .. } | Key::Neighbour { link: on, .. } | Key::Qdisc { link: on, .. } => on == *link,
        Key::LinkSysctl { link: on, .. } => on == *link,
        Key::Route { .. } => matches!(object, Object::Route(route)
            if matches!(&route.target, ripstop_netmodel::RouteTarget::Link(on) if on == link)),
        _ => false,
    }
}
