//! Kubernetes' own kube-proxy as a data plane: the real program, at a real API server, in the node of a scene.
//!
//! A case's objects are written to the API server as a user would write them, and what it refuses is no case for anybody. When a change
//! is in the rules is seen by a Service beside them, the canary: it is written last, and packets to it come through in both families.
//! Where the program differs from the documents, the case says so, which is right, and by which of them.
//!
//! Not here: what a correct proxy does.
//!
//! Invariants: all programs run in the scene's node and end with it; the connection tracking table's size, which is the whole machine's,
//! is left alone.

pub mod control;
pub mod http;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ripstop_objects::service::Protocol;
use ripstop_oracle::services::flows::Flow;
use ripstop_oracle::services::health::Answer;
use ripstop_oracle::services::{Origin, Packet, State, World};
use ripstop_types::{Family, Prefix};
use serde_json::Value;

use self::control::{Control, Daemon, Programs};
use self::http::Reply;
use self::objects::{CANARY_ENDPOINTS, CANARY_IPS, Object};
use super::case::{Case, Difference};
use super::plane::{DataPlane, Fate, Knowledge, Seen};
use super::scene::Scene;
use crate::case::{Stop, Verdict, fail, skip};
use crate::interrupt;
use crate::process::tool;

/// The ranges of ClusterIPs that the API server is started with: those of the cases' world.
const RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// How long kube-proxy may need for a change, on a machine that has other things to do.
const SYNC: Duration = Duration::from_secs(60);
/// The status of HTTP for an object that is there already.
const CONFLICT: u16 = 409;
/// The canary's ports.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
/// Longer than this no time passes here.
const PATIENCE: Duration = Duration::from_secs(3);

/// How kube-proxy writes its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In tables of nftables.
    Nftables,
    /// In those of iptables.
    Iptables,
}

impl Mode {
    /// As its settings have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// kube-proxy in one of its modes.
pub struct KubeProxy {
    mode: Mode,
    programs: Programs,
    // Ended in this order: it is the control plane that it asks.
    proxy: Option<Daemon>,
    control: Control,
    scene: Scene<'static>,
    folder: Folder,
    /// What its settings were made of.
    settings: Option<Settings>,
    /// The objects of the case.
    told: Vec<Value>,
    /// Those that are there.
    present: Vec<Object>,
    namespaces: BTreeSet<String>,
    /// What changed while the API server was away.
    is_away: bool,
    untold: Option<World>,
    canary: u16,
    knowledge: Option<Knowledge>,
    flows: BTreeMap<Flow, u16>,
    /// Whether something of the case before may be in the rules beside its objects.
    is_used: bool,
    /// Whether a slice went to another Service: where it was, it stays for as long as the program runs.
    is_confused: bool,
    /// Whether an object of the case was refused.
    is_refused: bool,
}

/// What kube-proxy is started anew for.
#[derive(Debug, PartialEq)]
struct Settings {
    settings: Value,
    node: Object,
    ranges: Vec<Object>,
}

impl KubeProxy {
    /// Starts a control plane in a scene. Needs root, and the programs in the folder.
    ///
    /// # Errors
    /// A skip where the machine cannot do it, or a program is not there.
    pub fn new(mode: Mode, kubernetes: &Path) -> Verdict<Self> {
        let programs = Programs::find(kubernetes)?;
        let scene = Scene::new(Box::new(|_, _| Ok(())))?;
        let folder = Folder::new()?;
        let control = Control::start(&programs, &scene.place()?, &folder.0, &RANGES.join(","))?;
        Ok(Self {
            mode,
            programs,
            proxy: None,
            control,
            scene,
            folder,
            settings: None,
            told: Vec::new(),
            present: Vec::new(),
            namespaces: BTreeSet::from(["default".to_owned()]),
            is_away: false,
            untold: None,
            canary: PORTS.start,
            knowledge: None,
            flows: BTreeMap::new(),
            is_used: false,
            is_confused: false,
            is_refused: false,
        })
    }

    /// What of a world it cannot be told.
    fn possible(&self, world: &World) -> Verdict {
        if world.proxy_name.is_some() {
            return skip("kube-proxy cannot be given a service-proxy-name of its own");
        }
        if self.mode == Mode::Nftables && world.localhost_node_ports {
            return skip("the nftables mode has no node ports at loopback addresses");
        }
        for family in Family::BOTH {
            if objects::local(world).iter().filter(|range| range.family() == family).count() > 1 {
                return skip("kube-proxy can be told one range of pods a family");
            }
        }
        if !first_ranges().iter().all(|range| world.service_cidrs.contains(range)) {
            return skip("the API server always has its ranges of ClusterIPs, and kube-proxy is told them");
        }
        if world.proxy.pending_for.is_some() {
            return skip("kube-proxy cannot be kept from its rules for so long");
        }
        let services = self.told.iter().filter(|object| object["kind"] == "Service");
        if services.into_iter().any(objects::has_some_node_ports) {
            return skip("the API server gives each port a node port where one has it");
        }
        if world.listed.services != world.listed.slices {
            return skip("the API server answers for both kinds or for none");
        }
        Ok(())
    }

    /// Makes the objects those of the case, and waits until they are in the rules.
    fn follow(&mut self, world: &World) -> Verdict {
        self.scene.change(world)?;
        let wanted: Vec<Object> = self.told.iter().filter_map(Object::of).collect();
        // Addresses are given up before others take them.
        self.keep(|object| wanted.iter().any(|wanted| wanted.path() == object.path()))?;
        self.configure(world)?;
        for object in wanted {
            let before = self.present.iter().position(|before| before.path() == object.path());
            if before.is_none_or(|place| self.present[place] != object) {
                let before = before.map(|place| self.present.remove(place));
                self.is_confused |= before.as_ref().is_some_and(|before| before.owner() != object.owner());
                self.write(object, before.is_some())?;
            }
        }
        self.sync()
    }

    /// Deletes the other objects.
    fn keep(&mut self, wanted: impl Fn(&Object) -> bool) -> Verdict {
        while let Some(place) = self.present.iter().position(|object| !wanted(object)) {
            self.delete(&self.present[place])?;
            self.present.remove(place);
        }
        Ok(())
    }

    /// Starts it if it does not run, anew if it is to have other settings.
    fn configure(&mut self, world: &World) -> Verdict {
        let kubeconfig = self.control.kubeconfig().display().to_string();
        let wanted = Settings {
            settings: objects::settings(world, self.mode, &kubeconfig),
            node: objects::node(world),
            ranges: objects::ranges(world, &first_ranges()),
        };
        if self.settings.as_ref() == Some(&wanted) && self.proxy.as_mut().is_some_and(|proxy| !proxy.has_ended()) {
            return Ok(());
        }
        let before = self.settings.take();
        for range in before.iter().flat_map(|before| &before.ranges).filter(|range| !wanted.ranges.contains(range)) {
            self.delete(range)?;
        }
        for object in wanted.ranges.iter().chain([&wanted.node]) {
            self.put(object, false)?;
        }
        self.start(&wanted.settings)?;
        self.settings = Some(wanted);
        Ok(())
    }

    fn start(&mut self, settings: &Value) -> Verdict {
        self.proxy = None;
        let path = self.folder.0.join("kube-proxy.yaml");
        fs::write(&path, format!("{settings:#}\n")).map_err(|error| Stop::Skip(error.to_string()))?;
        let place = self.scene.place()?;
        // It sets these, and never back. A kernel without connection tracking lacks the first.
        for name in ["netfilter/nf_conntrack_tcp_be_liberal", "ipv4/conf/all/route_localnet"] {
            let _ = place.run(|| fs::write(format!("/proc/sys/net/{name}"), "0"));
        }
        let mut command = self.programs.command("kube-proxy");
        command.arg(format!("--config={}", path.display()));
        self.proxy = Some(Daemon::start(&place, &mut command, &self.folder.0, "kube-proxy.log")?);
        Ok(())
    }

    /// Writes an object of a case and remembers it.
    fn write(&mut self, object: Object, is_there: bool) -> Verdict {
        if let Some(namespace) = &object.namespace
            && !self.namespaces.contains(namespace)
        {
            self.put(&Object::namespace(namespace), false)?;
            self.namespaces.insert(namespace.clone());
        }
        let said = match self.put(&object, is_there) {
            // What cannot be changed is made anew, as its owner would have to.
            Err(Stop::Skip(_)) if is_there => self.delete(&object).and_then(|()| self.put(&object, false)),
            other => other,
        };
        self.is_refused |= said.is_err();
        self.present.push(object);
        said
    }

    /// Makes an object, or makes it what it is to be. A Service that is not there is never made by a PUT, which the API server would
    /// take, but forgets to give its addresses back where it refuses it; one that is there would ask for its own addresses by a POST.
    fn put(&self, object: &Object, is_there: bool) -> Verdict {
        let mut status = CONFLICT;
        if !is_there {
            let reply = self.control.ask("POST", &format!("/{}", object.collection), Some(&object.body))?;
            status = reply.status;
            if status != CONFLICT {
                said(object, &reply)?;
            }
        }
        if status == CONFLICT {
            said(object, &self.control.ask("PUT", &format!("/{}", object.path()), Some(&object.body))?)?;
        }
        let Some(status) = &object.status else { return Ok(()) };
        // One that says nothing is a wish only where there was another.
        if !is_there && status.as_object().is_some_and(|status| status.is_empty()) {
            return Ok(());
        }
        let mut body = object.body.clone();
        body["status"] = status.clone();
        said(object, &self.control.ask("PUT", &format!("/{}/status", object.path()), Some(&body))?)
    }

    fn delete(&self, object: &Object) -> Verdict {
        let reply = self.control.ask("DELETE", &format!("/{}", object.path()), None)?;
        match reply.status {
            200..=299 | 404 => Ok(()),
            status => fail(format!("the API server answers {status} to the removal of {}", object.path())),
        }
    }

    /// Takes away what an API server may forget to give back that refused a Service: addresses of Services that are not there.
    fn free_addresses(&self) -> Verdict {
        const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
        let list: Value = serde_json::from_slice(&self.control.ask("GET", ADDRESSES, None)?.body).unwrap_or_default();
        for item in list["items"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let (name, parent) = (&item["metadata"]["name"], &item["spec"]["parentRef"]["name"]);
            if parent != "kubernetes" && parent != objects::CANARY {
                self.control.ask("DELETE", &format!("{ADDRESSES}/{}", name.as_str().unwrap_or_default()), None)?;
            }
        }
        Ok(())
    }

    /// Waits until all that was written before is in the rules.
    fn sync(&mut self) -> Verdict {
        let is_there = !self.namespaces.insert(objects::NAMESPACE.to_owned());
        if !is_there {
            self.put(&Object::namespace(objects::NAMESPACE), false)?;
        }
        self.canary = if self.canary + 1 < PORTS.end { self.canary + 1 } else { PORTS.start };
        for object in objects::canary(self.canary) {
            self.put(&object, is_there).map_err(|stop| match stop {
                Stop::Skip(why) => Stop::Fail(why),
                other => other,
            })?;
        }
        let begun = Instant::now();
        for family in Family::BOTH {
            while !self.sings(family)? {
                if interrupt::happened() {
                    return Err(Stop::Interrupted);
                }
                let Some(proxy) = &mut self.proxy else { return fail("kube-proxy does not run") };
                if proxy.has_ended() || begun.elapsed() > SYNC {
                    return fail(format!("kube-proxy does not follow: {}", proxy.last_words()));
                }
            }
        }
        self.knowledge = Some(Knowledge::Replaced);
        Ok(())
    }

    /// Whether packets to the canary come through.
    fn sings(&mut self, family: Family) -> Verdict<bool> {
        let address = |texts: [&str; 2]| {
            let text = texts[usize::from(family == Family::V6)];
            text.parse::<IpAddr>().map_err(|_| Stop::Fail(format!("{text} is no address")))
        };
        let packet = Packet {
            origin: Origin::Pod,
            source: address(["10.244.1.200", "fd00:244:1::200"])?,
            destination: address(CANARY_IPS)?,
            port: self.canary,
            protocol: Protocol::Udp,
            state: State::New,
        };
        let expected = SocketAddr::new(address(CANARY_ENDPOINTS)?, self.canary);
        let seen = self.scene.send(&packet)?;
        Ok(matches!(seen.fate, Fate::Arrived { endpoint, .. } if endpoint == expected))
    }

    /// The API server stops where it is, or goes on.
    fn set_away(&mut self, away: bool) {
        if self.is_away != away {
            self.control.freeze(away);
            self.is_away = away;
        }
    }
}

impl DataPlane for KubeProxy {
    fn explained<'c>(&self, case: &'c Case) -> Option<&'c Difference> {
        case.kube_proxy.of(self.mode)
    }

    fn told(&mut self, objects: &[Value]) {
        self.told = objects.to_vec();
    }

    fn install(&mut self, world: &World) -> Verdict {
        self.set_away(false);
        self.untold = None;
        self.possible(world)?;
        if !world.listed.is_whole() {
            return skip("kube-proxy has listed both kinds before the case begins");
        }
        // What the case before left beside its objects goes with them.
        self.keep(|_| false)?;
        if std::mem::take(&mut self.is_refused) {
            self.free_addresses()?;
        }
        if std::mem::take(&mut self.is_confused) {
            self.proxy = None;
        }
        if std::mem::take(&mut self.is_used) && self.proxy.is_some() {
            self.sync()?;
        }
        if !self.flows.is_empty() {
            self.flows.clear();
            tool(&self.scene.place()?, "conntrack", &["-F"], "")?;
        }
        self.is_used = world.services.iter().any(|service| service.affinity.is_some());
        self.follow(world)
    }

    fn change(&mut self, world: &World) -> Verdict {
        self.possible(world)?;
        self.is_used |= world.services.iter().any(|service| service.affinity.is_some());
        if !world.listed.is_whole() {
            self.set_away(true);
        } else if self.untold.as_ref().is_some_and(|before| !before.listed.is_whole()) {
            self.set_away(false);
        }
        if self.is_away {
            self.untold = Some(world.clone());
            self.knowledge = Some(Knowledge::Kept);
            if self.proxy.is_none()
                && let Some(settings) = self.settings.as_ref().map(|settings| settings.settings.clone())
            {
                self.start(&settings)?;
            }
            return Ok(());
        }
        self.untold = None;
        self.follow(world)
    }

    fn send(&mut self, packet: &Packet) -> Verdict<Seen> {
        self.scene.send(packet)
    }

    fn wait(&mut self, time: Duration) -> Verdict {
        if time > PATIENCE {
            return self.scene.wait(time);
        }
        std::thread::sleep(time);
        Ok(())
    }

    fn restart(&mut self) -> Verdict {
        self.proxy = None;
        Ok(())
    }

    fn store(&mut self, back: bool) -> Verdict {
        self.set_away(!back);
        Ok(())
    }

    /// Kept: the canary of before is the one that is served.
    fn knowledge(&mut self) -> Verdict<Knowledge> {
        let Some(knowledge) = self.knowledge else { return fail("nothing was told yet") };
        let is_kept = knowledge == Knowledge::Kept && self.sings(Family::V4)?;
        Ok(if is_kept { Knowledge::Kept } else { Knowledge::Replaced })
    }

    fn health(&mut self, port: u16, path: &str, family: Family) -> Verdict<Option<Answer>> {
        let Some(ip) = self.settings.as_ref().and_then(|settings| primary(&settings.node, family)) else {
            return skip("the node has no address of this family");
        };
        // What is answered follows the rules: it is behind another change of theirs.
        self.sync()?;
        let ask = || match TcpStream::connect_timeout(&SocketAddr::new(ip, port), PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                http::ask(stream, "GET", path, b"").map(Some)
            }
            Err(_) => Ok(None),
        };
        let reply = self.scene.place()?.run(ask).map_err(|error| Stop::Fail(format!("{ip}:{port}{path}: {error}")))?;
        Ok(reply.map(|reply| {
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let local = body["localEndpoints"].as_u64().and_then(|count| usize::try_from(count).ok());
            Answer { status: reply.status, local }
        }))
    }

    fn track(&mut self, flows: &[Flow]) -> Verdict {
        let place = self.scene.place()?;
        for (flow, number) in flows.iter().zip(1_u16..) {
            let port = 1_000 + number;
            let texts = [
                client(flow.destination.ip()).to_owned(),
                flow.destination.ip().to_string(),
                flow.destination.port().to_string(),
                port.to_string(),
                flow.replier.ip().to_string(),
                flow.replier.port().to_string(),
            ];
            let [source, destination, to, from, replier, by] = texts.each_ref().map(String::as_str);
            let protocol = flow.protocol.as_str().to_lowercase();
            let mut args = vec!["-I", "-p", &protocol, "-s", source, "-d", destination, "--sport", from, "--dport", to];
            args.extend(["-r", replier, "-q", source, "--reply-port-src", by, "--reply-port-dst", from, "-t", "600"]);
            if flow.protocol == Protocol::Tcp {
                args.extend(["--state", "ESTABLISHED"]);
            }
            tool(&place, "conntrack", &args, "")?;
            self.flows.insert(*flow, port);
        }
        Ok(())
    }

    fn tracked(&mut self) -> Verdict<BTreeSet<Flow>> {
        // Entries are looked at behind the rules.
        self.sync()?;
        let place = self.scene.place()?;
        let mut lines = String::new();
        for family in ["ipv4", "ipv6"] {
            lines.push_str(&tool(&place, "conntrack", &["-L", "-f", family], "")?);
        }
        let is_there = |flow: &Flow, port: u16| {
            let words = [format!("dst={}", flow.destination.ip()), format!("sport={port}")];
            lines.lines().any(|line| words.iter().all(|word| line.split(' ').any(|found| found == word)))
        };
        Ok(self.flows.iter().filter(|(flow, port)| is_there(flow, **port)).map(|(flow, _)| *flow).collect())
    }

    fn sysctls(&mut self, _: u64, _: &BTreeMap<String, u64>) -> Verdict<BTreeMap<String, u64>> {
        skip("kube-proxy counts this machine's own cores, and the table's size is the whole machine's")
    }
}

/// What the API server made of an object.
fn said(object: &Object, reply: &Reply) -> Verdict {
    if (200..300).contains(&reply.status) {
        return Ok(());
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let why = body["message"].as_str().unwrap_or("it does not say why");
    skip(format!("the API server refuses {}: {why}", object.name))
}

/// Whose connections are tracked.
fn client(destination: IpAddr) -> &'static str {
    if destination.is_ipv4() { "10.244.1.77" } else { "fd00:244:1::77" }
}

fn first_ranges() -> Vec<Prefix> {
    RANGES.iter().filter_map(|range| range.parse().ok()).collect()
}

fn primary(node: &Object, family: Family) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?["addresses"].as_array()?;
    let mut addresses = addresses.iter().filter_map(|address| address["address"].as_str()?.parse().ok());
    addresses.find(|ip| Family::of(*ip) == family)
}

/// A folder in memory, where there is some; removed with the value.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Verdict<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("conformance-{}", std::process::id()));
        // Left by one of this number that was killed.
        let _ = fs::remove_dir_all(&path);
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => skip(format!("{} cannot be made: {error}", path.display())),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
