//! What holds packets to policies in a cluster that a kubeconfig names.
//!
//! A case's pods, namespaces and policies are made there as [`manifests`] writes them, and pods tell in their logs whom they reach
//! ([`Round`]). The log goes by the API and the kubelet, so no policy keeps a pod from telling. Pods that a case leaves stay for the next one.
//!
//! Invariants: nothing is touched but namespaces with the suite's label and what is in them, which go with the plane; a pod is asked about by
//! policies only after it has heard all that it asks without them, so that silence means something.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ripstop_conformance::policy::manifests::{self, Addresses, LABEL, Template};
use ripstop_conformance::policy::pod::{Asks, Heard, Port, Round};
use ripstop_conformance::policy::{Change, DataPlane, Fate, Packet, Traffic, World};
use ripstop_conformance::services::Stop;
use ripstop_objects::KubePod;
use ripstop_objects::service::Protocol;
use ripstop_types::PodName;
use serde_json::Value;

use crate::commands::install::remote::Remote;
use crate::failure::Failure;
use crate::print::talk;

/// The longest time in which pods, or namespaces, come and go.
const COME: Duration = Duration::from_secs(180);
/// The longest time in which pods learn what they shall ask: a kubelet without a cause looks after them once a minute.
const LEARN: Duration = Duration::from_secs(150);
/// The longest time in which policies come to hold.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// A cluster as a data plane.
pub struct Cluster {
    remote: Remote,
    template: Template,
    /// Nodes that take pods, for those of the case in their order.
    nodes: Vec<String>,
    world: World,
    /// What is there, by path.
    there: BTreeMap<String, Value>,
    addresses: Addresses,
    asks: BTreeMap<PodName, Asks>,
    edition: u64,
    /// Whether all that is asked was heard without policies.
    is_heard: bool,
}

/// What became of what a pod asked last, and the round.
type Last = BTreeMap<(IpAddr, Port), Heard>;

impl Cluster {
    /// Looks for nodes, and removes what a run that was killed left.
    ///
    /// # Errors
    /// Where the cluster cannot be asked, or has no node for pods.
    pub fn open(kubeconfig: Option<PathBuf>, template: Template) -> Result<Self, Failure> {
        let remote = Remote::open(kubeconfig)?;
        let list = remote.get("/api/v1/nodes")?.unwrap_or_default();
        let mut nodes: Vec<String> = items(&list).filter(|node| takes_pods(node)).map(named).collect();
        nodes.sort();
        if nodes.is_empty() {
            return Err(Failure::Failed("no node of the cluster is ready and takes any pod".into()));
        }
        let cluster = Self {
            remote,
            template,
            nodes,
            world: World::default(),
            there: BTreeMap::new(),
            addresses: Addresses::new(),
            asks: BTreeMap::new(),
            edition: 0,
            is_heard: false,
        };
        cluster.clean()?;
        Ok(cluster)
    }

    /// Removes all namespaces of the suite, and waits until they are gone.
    fn clean(&self) -> Result<(), Failure> {
        let path = format!("/api/v1/namespaces?labelSelector={}%3Dpolicy", LABEL.replace('/', "%2F"));
        let deadline = Instant::now() + COME;
        loop {
            let list = self.remote.get(&path)?.unwrap_or_default();
            let left: Vec<String> = items(&list).map(named).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::Failed(format!("still there after {COME:?}: namespaces {}", left.join(", "))));
            }
            let lasting = items(&list).filter(|one| one["metadata"]["deletionTimestamp"].is_null());
            for name in lasting.map(named) {
                self.remote.delete(&namespace_path(&name))?;
            }
            thread::sleep(LOOK);
        }
    }

    /// Makes what is wanted there of what is there: namespaces, then pods.
    fn place(&mut self) -> Result<(), Stop> {
        for namespace in &self.world.namespaces {
            let object = manifests::namespace(namespace);
            put(&self.remote, &mut self.there, namespace_path(&named(&object)), object)?;
        }
        let wanted: BTreeSet<String> = self.pods().map(|pod| pod_path(&pod.name)).collect();
        let gone: Vec<String> =
            self.there.keys().filter(|path| path.contains("/pods/") && !wanted.contains(*path)).cloned().collect();
        for path in &gone {
            self.there.remove(path);
            self.remote.delete(path).map_err(broken)?;
        }
        for path in gone {
            until(COME, || Ok(self.remote.get(&path).map_err(broken)?.is_none().then_some(())))?
                .ok_or_else(|| Stop::Fail(format!("{path} is still there after {COME:?}")))?;
        }
        let names: BTreeSet<PodName> = self.pods().map(|pod| pod.name.clone()).collect();
        self.asks.retain(|name, _| names.contains(name));
        for pod in self.world.pods.clone().iter().filter(|pod| !pod.host_network) {
            self.write(pod)?;
        }
        self.await_pods()
    }

    /// Writes a pod with what it shall ask.
    fn write(&mut self, pod: &KubePod) -> Result<(), Stop> {
        let number = pod.node.as_ref().and_then(|node| node.as_str().trim_start_matches('n').parse().ok());
        let node = &self.nodes[number.unwrap_or(1usize).saturating_sub(1) % self.nodes.len()];
        let asks = self.asks.entry(pod.name.clone()).or_default().to_string();
        put(&self.remote, &mut self.there, pod_path(&pod.name), manifests::pod(pod, node, &self.template, &asks))
    }

    /// Waits until all pods run, and notes their addresses.
    fn await_pods(&mut self) -> Result<(), Stop> {
        self.addresses.clear();
        for pod in self.world.pods.iter().filter(|pod| !pod.host_network) {
            let (path, mut last) = (pod_path(&pod.name), Value::Null);
            let ips = until(COME, || {
                last = self.remote.get(&path).map_err(broken)?.unwrap_or_default();
                let ips = last["status"]["podIPs"].as_array().into_iter().flatten();
                let ips: Vec<IpAddr> = ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
                let runs = last["status"]["containerStatuses"][0]["state"]["running"].is_object();
                Ok((runs && !ips.is_empty()).then_some(ips))
            })?;
            let Some(ips) = ips else {
                let state = &last["status"]["containerStatuses"][0]["state"];
                return Err(Stop::Fail(format!("pod {} does not run after {COME:?}: {state}", pod.name)));
            };
            for case in &pod.ips {
                let real = ips.iter().find(|ip| ip.is_ipv4() == case.is_ipv4());
                self.addresses.extend(real.map(|real| (*case, *real)));
            }
        }
        Ok(())
    }

    /// Makes what is wanted of policies, or takes all of them away.
    fn restrict(&mut self, by_policies: bool) -> Result<(), Stop> {
        let mut wanted = BTreeMap::new();
        for policy in self.world.policies.iter().filter(|_| by_policies) {
            let object = manifests::policy(policy, &self.addresses).map_err(Stop::Skip)?;
            let folder = format!("/apis/networking.k8s.io/v1/namespaces/{}", manifests::named(&policy.name.namespace));
            wanted.insert(format!("{folder}/networkpolicies/{}", policy.name.name), object);
        }
        let is_over = |path: &&String| path.contains("/networkpolicies/") && !wanted.contains_key(*path);
        for path in self.there.keys().filter(is_over).cloned().collect::<Vec<_>>() {
            self.remote.delete(&path).map_err(broken)?;
            self.there.remove(&path);
        }
        wanted.into_iter().try_for_each(|(path, object)| put(&self.remote, &mut self.there, path, object))
    }

    fn pods(&self) -> impl Iterator<Item = &KubePod> {
        self.world.pods.iter().filter(|pod| !pod.host_network)
    }

    fn ends(&self, packet: &Packet) -> Option<(&KubePod, &KubePod, (IpAddr, Port))> {
        let Traffic::Port(protocol @ (Protocol::Tcp | Protocol::Udp), port) = packet.traffic else { return None };
        let (from, to) = (self.world.pod_at(packet.source)?, self.world.pod_at(packet.destination)?);
        self.addresses.get(&packet.source)?;
        Some((from, to, (*self.addresses.get(&packet.destination)?, (protocol, port))))
    }

    /// Has pods ask what packets are, beside what they ask already. What is new is heard before policies come back.
    fn learn(&mut self, packets: &[Packet]) -> Result<(), Stop> {
        let mut asks = self.asks.clone();
        for (from, to, at) in packets.iter().filter_map(|packet| self.ends(packet)) {
            asks.entry(from.name.clone()).or_default().ask.insert(at);
            asks.entry(to.name.clone()).or_default().listen.insert(at.1);
        }
        // A pod that came anew has other addresses.
        let known: BTreeSet<IpAddr> = self.addresses.values().copied().collect();
        asks.values_mut().for_each(|asks| asks.ask.retain(|(ip, _)| known.contains(ip)));
        if asks == self.asks && self.is_heard {
            return Ok(());
        }
        self.is_heard = false;
        self.restrict(false)?;
        self.edition += 1;
        for pod in self.world.pods.clone() {
            let Some(new) = asks.remove(&pod.name).filter(|new| self.asks.get(&pod.name) != Some(new)) else {
                continue;
            };
            self.asks.insert(pod.name.clone(), Asks { edition: self.edition, ..new });
            self.write(&pod)?;
        }
        let all = |name: &PodName| self.asks[name].ask.iter().map(|at| (*at, Heard::Answer)).collect();
        let wanted: BTreeMap<PodName, Last> = self.asks.keys().map(|name| (name.clone(), all(name))).collect();
        let heard = self.hear(&wanted, LEARN)?;
        for (name, wanted) in &wanted {
            let is_deaf = |at: &&(IpAddr, Port)| heard[name].get(*at) != Some(&Heard::Answer);
            if let Some((ip, (protocol, port))) = wanted.keys().find(is_deaf) {
                return Err(Stop::Fail(format!(
                    "without any policy pod {name} does not reach {ip} at {port}/{protocol} within {LEARN:?}"
                )));
            }
        }
        self.is_heard = true;
        self.restrict(true)
    }

    /// What pods hear in rounds that begin from now on: what is wanted, twice one after the other, or what it is when time is over.
    fn hear(&self, wanted: &BTreeMap<PodName, Last>, limit: Duration) -> Result<BTreeMap<PodName, Last>, Stop> {
        let mut floors = BTreeMap::new();
        let mut heard: BTreeMap<PodName, Last> = wanted.keys().map(|name| (name.clone(), Last::new())).collect();
        let mut open: BTreeSet<&PodName> = wanted.keys().collect();
        until(limit, || {
            for name in open.clone() {
                let asks = &self.asks[name];
                let rounds = self.rounds(name);
                let Some(last) = rounds.last() else { continue };
                // The one that is under way may have begun before.
                let floor = *floors.entry(name).or_insert(last.number + 2);
                let counts = |round: &&Round| round.number >= floor && round.edition == asks.edition;
                let read = |round: &Round| asks.ask.iter().copied().zip(round.heard.iter().copied()).collect::<Last>();
                let said: Vec<Last> = rounds.iter().filter(counts).map(read).collect();
                let is_it = |said: &Last| wanted[name].iter().all(|(at, wanted)| said.get(at) == Some(wanted));
                if said.len() >= 2 && said.iter().all(is_it) {
                    open.remove(name);
                }
                heard.extend(said.into_iter().last().map(|last| (name.clone(), last)));
            }
            Ok(open.is_empty().then_some(()))
        })?;
        match heard.iter().find(|(name, last)| last.is_empty() && !wanted[*name].is_empty()) {
            Some((name, _)) => {
                let said = self.remote.text(&log_path(name, 3)).unwrap_or_default();
                Err(Stop::Fail(format!("pod {name} told of no round within {limit:?}; its log ends: {}", said.trim())))
            }
            None => Ok(heard),
        }
    }

    /// The last two rounds of a pod; none where its log cannot be had just now.
    fn rounds(&self, name: &PodName) -> Vec<Round> {
        let text = self.remote.text(&log_path(name, 2)).unwrap_or_default();
        text.lines().filter_map(Round::read).collect()
    }
}

impl DataPlane for Cluster {
    fn begin(&mut self) -> Result<(), Stop> {
        self.world = World::default();
        self.restrict(false)
    }

    fn follow(&mut self, changes: &[Change]) -> Result<(), Stop> {
        changes.iter().for_each(|change| change.apply(&mut self.world));
        if !self.world.cluster_policies.is_empty() {
            return Err(Stop::Skip(
                "a ClusterNetworkPolicy is about all namespaces, and the cluster has others".into(),
            ));
        }
        self.place()?;
        self.restrict(true)
    }

    fn shows(&self, packet: &Packet) -> bool {
        !packet.by_service && self.ends(packet).is_some()
    }

    fn send(&mut self, packets: &[Packet]) -> Result<Vec<Fate>, Stop> {
        self.send_until(packets, &vec![Fate::Arrived; packets.len()])
    }

    fn send_until(&mut self, packets: &[Packet], expected: &[Fate]) -> Result<Vec<Fate>, Stop> {
        self.learn(packets)?;
        let mut wanted: BTreeMap<PodName, Last> = BTreeMap::new();
        for (packet, fate) in packets.iter().zip(expected) {
            if let Some((from, _, at)) = self.ends(packet) {
                let heard = if *fate == Fate::Arrived { Heard::Answer } else { Heard::Nothing };
                wanted.entry(from.name.clone()).or_default().insert(at, heard);
            }
        }
        let heard = self.hear(&wanted, SETTLE)?;
        let fate = |packet| {
            let (from, _, at) = self.ends(packet)?;
            Some(match heard.get(&from.name)?.get(&at)? {
                Heard::Answer => Fate::Arrived,
                Heard::Refusal => Fate::Refused,
                Heard::Nothing => Fate::Nothing,
            })
        };
        let fates: Option<Vec<Fate>> = packets.iter().map(fate).collect();
        fates.ok_or_else(|| Stop::Fail("a pod told of less than it was asked for".into()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(why) = self.clean() {
            talk(&format!("what the suite made is left in namespaces {}*: {why}", manifests::NAMESPACES));
        }
    }
}

/// Applies an object where it is not there as it is. A namespace that is new takes no pods until it has its service account.
fn put(remote: &Remote, there: &mut BTreeMap<String, Value>, path: String, object: Value) -> Result<(), Stop> {
    if there.get(&path) == Some(&object) {
        return Ok(());
    }
    let mut refused = None;
    let done = until(LEARN / 5, || match remote.change(&path, &object) {
        Ok(()) => Ok(Some(())),
        Err(Failure::Failed(why)) if path.contains("/pods/") && !there.contains_key(&path) => {
            refused = Some(why);
            Ok(None)
        }
        Err(other) => Err(broken(other)),
    })?;
    done.ok_or_else(|| Stop::Fail(refused.unwrap_or_default()))?;
    there.insert(path, object);
    Ok(())
}

/// Looks until there is something, or time is over.
fn until<T>(limit: Duration, mut look: impl FnMut() -> Result<Option<T>, Stop>) -> Result<Option<T>, Stop> {
    let deadline = Instant::now() + limit;
    loop {
        if ripstop_conformance::interrupted() {
            return Err(Stop::Interrupted);
        }
        let found = look()?;
        if found.is_some() || Instant::now() >= deadline {
            return Ok(found);
        }
        thread::sleep(LOOK);
    }
}

fn broken(failure: Failure) -> Stop {
    Stop::Fail(failure.to_string())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn named(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Whether a node is ready, and keeps no pod away.
fn takes_pods(node: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let keeps_away = |taint: &Value| taint["effect"] != "PreferNoSchedule";
    let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    list(&node["status"]["conditions"]).iter().any(is_ready)
        && node["spec"]["unschedulable"] != true
        && !list(&node["spec"]["taints"]).iter().any(keeps_away)
}

fn namespace_path(name: &str) -> String {
    format!("/api/v1/namespaces/{name}")
}

fn pod_path(name: &PodName) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", manifests::named(&name.namespace), name.name)
}

fn log_path(name: &PodName, lines: u8) -> String {
    format!("{}/log?tailLines={lines}", pod_path(name))
}
