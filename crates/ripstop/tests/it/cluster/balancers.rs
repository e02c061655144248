//! Addresses of Services of type LoadBalancer in a cluster: who answers for them on the nodes' segment, seen from a client behind a router.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_lab::{Families, Lab, Options, PodSpec};
use serde_json::{Value, json};

use super::routers::Router;
use super::{apply, inside, lab, patiently};
use crate::fake::run;

const MS: Duration = Duration::from_millis(1);
/// Services whose policy is Cluster.
pub const SERVICES: usize = 6;

/// The pod that the Services' endpoint is, with this label.
pub fn pod(app: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: web, labels: {{app: {app}}}}}, spec: {{nodeName: n3, containers: [{{name: c, image: none}}]}}}}\n"
    )
}

pub struct Scene {
    pub lab: Lab,
    ends: Arc<AtomicBool>,
    _echo: JoinHandle<()>,
}

impl Scene {
    /// Nodes on one segment, an echo on the third, some Services for it in all families, and one whose policy is Local.
    pub fn of(options: Options) -> Option<Self> {
        let dual = options.families == Families::Dual;
        let (ranges, both): (&[&str], _) = if dual {
            (&["10.96.0.0/16", "fd00:96::/112"], ", ipFamilyPolicy: RequireDualStack")
        } else {
            (&["10.96.0.0/16"], "")
        };
        let proxy = options.agent_config["services"]["proxy"].as_str().unwrap_or("nftables");
        let agent_config = json!({"services": {"proxy": proxy, "serviceCIDRs": ranges}});
        let lab = lab(Options { subnets: 1, agent_config, ..options })?;
        lab.pod_add(&PodSpec::new("web", 3)).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let over = ends.clone();
        let echo = inside(&lab.layout().netns_path("web"), move || {
            let socket = UdpSocket::bind(if dual { "[::]:7007" } else { "0.0.0.0:7007" }).unwrap();
            socket.set_read_timeout(Some(100 * MS)).unwrap();
            let mut buffer = [0; 64];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        let scene = Self { lab, ends, _echo: echo };
        let more = if dual { ", \"fd00:30:1::a00-fd00:30:1::aff\"" } else { "" };
        let pool = format!(
            "{{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {{name: segment}}, spec: {{addresses: [172.30.1.200-172.30.1.220{more}]}}}}\n"
        );
        let service = |name: &str, policy: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, externalTrafficPolicy: {policy}{both}, \
                 selector: {{app: web}}, ports: [{{port: 7007, protocol: UDP}}]}}}}\n"
            )
        };
        let services = (0..SERVICES).map(|n| service(&format!("s{n}"), "Cluster"));
        let manifest: String = [pool, pod("web"), service("local", "Local")].into_iter().chain(services).collect();
        apply(&scene.lab, 1, &manifest);
        Some(scene)
    }

    pub fn rows(&self, node: u32) -> Vec<Value> {
        // An agent that begins does not answer yet.
        let rows = self.lab.agent_json(node, "/v1/loadbalancers").ok();
        rows.and_then(|rows| rows.as_array().cloned()).unwrap_or_default()
    }

    pub fn row(&self, node: u32, name: &str) -> Value {
        self.rows(node).into_iter().find(|row| row["name"] == name).unwrap_or_default()
    }

    /// Every node.
    pub fn nodes(&self) -> Vec<u32> {
        self.lab.state().unwrap().nodes().map(|(number, _)| number).collect()
    }

    /// Waits until other nodes than this one own all.
    #[track_caller]
    pub fn succeeded(&self, node: u32) {
        let others: Vec<u32> = self.nodes().into_iter().filter(|other| *other != node).collect();
        patiently("another owns it", || self.owners(&others).iter().all(|(_, of, _)| *of != format!("n{node}")));
    }

    /// The address and owner of each Service, once all nodes that are asked agree on them.
    #[track_caller]
    pub fn owners(&self, nodes: &[u32]) -> Vec<(String, String, SocketAddr)> {
        let mut found = Vec::new();
        let families = if self.lab.state().unwrap().options.families == Families::Dual { 2 } else { 1 };
        patiently(&format!("nodes {nodes:?} agree on owners"), || {
            let seen: Vec<Vec<Value>> = nodes.iter().map(|node| self.rows(*node)).collect();
            let pairs = |rows: &Vec<Value>| {
                rows.iter().map(|row| (row["ip"].clone(), row["owner"].clone())).collect::<Vec<_>>()
            };
            let all = seen[0].len() == (SERVICES + 1) * families && seen[0].iter().all(|row| row["owner"].is_string());
            if !all || seen.iter().any(|rows| pairs(rows) != pairs(&seen[0])) {
                return false;
            }
            let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
            let row = |row: &Value| {
                (text(row, "name"), text(row, "owner"), SocketAddr::new(text(row, "ip").parse().unwrap(), 7007))
            };
            found = seen[0].iter().map(row).collect();
            true
        });
        found
    }

    /// An address of each family that a node without endpoints owns, with that node.
    pub fn elsewhere(&self, nodes: &[u32]) -> (Vec<SocketAddr>, u32) {
        let mut found = None;
        // Who was away has to be there for a while before it is trusted again.
        patiently("another node owns some of each family", || {
            let owners = self.owners(nodes);
            found = nodes.iter().filter(|node| **node != 3).find_map(|node| {
                let of = |v6: bool| {
                    let mut of = owners.iter().filter(|(_, owner, _)| *owner == format!("n{node}"));
                    of.find(|(_, _, at)| at.is_ipv6() == v6).map(|(_, _, at)| *at)
                };
                let all = if owners.iter().any(|(_, _, at)| at.is_ipv6()) {
                    vec![of(false)?, of(true)?]
                } else {
                    vec![of(false)?]
                };
                Some((all, *node))
            });
            found.is_some()
        });
        found.unwrap()
    }

    /// An agent that ends hands over first, and begins anew then.
    pub fn hands_over(&self) {
        let (addresses, owner) = self.elsewhere(&[1, 2, 3]);
        let flows = self.flows(&addresses);
        std::thread::sleep(500 * MS);
        self.lab.node(owner).stop_agent(true).unwrap();
        self.succeeded(owner);
        std::thread::sleep(500 * MS);
        judge("an agent that ends", flows, |ran| ran.lost() <= 1);
        self.lab.node(owner).release_agent().unwrap();
    }

    /// Datagrams of a client outside to each of these, to and fro.
    pub fn flows(&self, to: &[SocketAddr]) -> Vec<Flow> {
        to.iter().map(|to| self.flow(*to)).collect()
    }

    fn flow(&self, to: SocketAddr) -> Flow {
        let ends = Arc::new(AtomicBool::new(false));
        let over = ends.clone();
        let thread = inside(&self.lab.layout().netns_path("outside"), move || {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.set_nonblocking(true).unwrap();
            let (mut sent, mut heard, mut buffer) = (0u32, Vec::new(), [0; 64]);
            let mut next = Instant::now();
            let mut end = None;
            loop {
                let now = Instant::now();
                if over.load(Ordering::Relaxed) && end.is_none() {
                    end = Some(now + 500 * MS);
                }
                if end.is_some_and(|end| now >= end) {
                    return Ran { to, sent, heard };
                }
                if now >= next && end.is_none() {
                    next = now + 5 * MS;
                    // Unreachable for a moment is as good as lost.
                    let _ = socket.send_to(&sent.to_be_bytes(), to);
                    sent += 1;
                }
                while let Ok(length) = socket.recv(&mut buffer) {
                    assert_eq!(length, 4);
                    heard.push(Instant::now());
                }
                std::thread::sleep(MS);
            }
        });
        Flow { ends, thread }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

pub struct Flow {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Ran>,
}

pub struct Ran {
    to: SocketAddr,
    sent: u32,
    heard: Vec<Instant>,
}

impl Flow {
    fn stop(self) -> Ran {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Ran {
    /// The longest time without an answer.
    fn gap(&self) -> Duration {
        self.heard.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
    }

    pub fn lost(&self) -> usize {
        usize::try_from(self.sent).unwrap() - self.heard.len()
    }
}

/// What a machine that runs other tests at the same time may take beside the quarter of a second that is meant.
const SLACK: Duration = Duration::from_millis(1_500);

/// Ends flows, says what became of them, and judges each.
#[track_caller]
pub fn judge(what: &str, flows: Vec<Flow>, is_well: impl Fn(&Ran) -> bool) {
    for ran in flows.into_iter().map(Flow::stop) {
        let said = format!("{what}: {} of {} to {} lost, {:?}", ran.lost(), ran.sent, ran.to, ran.gap());
        println!("{said}");
        assert!(is_well(&ran), "{said}");
    }
}

fn owner_of(owners: &[(String, String, SocketAddr)], name: &str) -> String {
    owners.iter().find(|of| of.0 == name).unwrap().1.clone()
}

/// In both families.
pub fn dual(name: &str) -> Options {
    Options { families: Families::Dual, ..Options::named(name) }
}

#[test]
fn an_address_moves_when_its_owner_is_gone_and_loses_nothing_when_its_agent_ends() {
    let Some(scene) = Scene::of(dual("t-balancers")) else { return };
    let owners = scene.owners(&[1, 2, 3]);
    assert_eq!(owner_of(&owners, "local"), "n3", "where its endpoint is");
    let row = scene.row(1, "local");
    assert_eq!((&row["pool"], &row["interface"]), (&json!("segment"), &json!("eth0")), "{row}");
    assert_eq!(row["reason"], "the first by hash of 1 nodes that may have it and are seen alive");

    scene.hands_over();

    // A killed one is succeeded; so is a frozen one, which is silent when it wakes.
    let soon = |ran: &Ran| ran.gap() < 250 * MS + SLACK;
    for frozen in [false, true] {
        let (addresses, owner) = scene.elsewhere(&[1, 2, 3]);
        let flows = scene.flows(&addresses);
        std::thread::sleep(300 * MS);
        let node = scene.lab.node(owner);
        if frozen {
            node.pause_agent().unwrap()
        } else {
            node.kill_agent(true).unwrap()
        }
        scene.succeeded(owner);
        if frozen {
            node.resume_agent().unwrap()
        }
        std::thread::sleep(300 * MS);
        judge(if frozen { "an agent that is frozen" } else { "an agent that is killed" }, flows, soon);
        if !frozen {
            node.release_agent().unwrap()
        }
    }

    // One whose cable is pulled is succeeded, and the client hears from another.
    let (addresses, owner) = scene.elsewhere(&[1, 2, 3]);
    let flows = scene.flows(&addresses);
    std::thread::sleep(300 * MS);
    scene.lab.node(owner).cut().unwrap();
    scene.succeeded(owner);
    std::thread::sleep(700 * MS);
    judge("a cut cable", flows, soon);
    scene.lab.node(owner).mend().unwrap();
    assert_eq!(owner_of(&scene.owners(&[1, 2, 3]), "local"), "n3");
}

#[test]
fn nobody_answers_without_an_endpoint_or_beside_a_machine_that_is_no_node() {
    let Some(scene) = Scene::of(dual("t-balancers-no")) else { return };
    let owners = scene.owners(&[1, 2, 3]);
    let name = scene.lab.layout().lab().to_owned();
    let described = run(&["describe", "service", "local", "--lab", &name, "--node", "2"]);
    let answered = described.stdout.lines().find(|line| line.contains("Answered by:")).unwrap_or_default();
    assert!(answered.contains("n3 on eth0, for "), "{}{}", described.stdout, described.stderr);

    // The only endpoint of a Service whose policy is Local is one no more.
    apply(&scene.lab, 1, &pod("other"));
    patiently("nobody owns it", || scene.row(1, "local")["owner"].is_null());
    let reason = scene.row(1, "local")["reason"].clone();
    assert_eq!(reason, "no node of the segment may have it: none has an endpoint that is ready");
    apply(&scene.lab, 1, &pod("web"));
    assert_eq!(owner_of(&scene.owners(&[1, 2, 3]), "local"), "n3");

    // A machine beside them has addresses: they leave these alone, say so, and take them when that one is gone.
    let taken: Vec<(String, SocketAddr)> =
        owners.into_iter().filter(|(name, ..)| name == "s0").map(|(_, owner, at)| (owner, at)).collect();
    assert_eq!(taken.len(), 2, "one of each family");
    let foreign = Router::beside(&scene.lab, "foreign", "172.30.1.2");
    foreign.ip("addr add fd00:30:1::2/64 dev eth0 nodad");
    for (_, at) in &taken {
        let (ip, router) = (at.ip().to_string(), if at.is_ipv4() { "172.30.1.1" } else { "fd00:30:1::1" });
        foreign.ip(&if at.is_ipv4() {
            format!("addr add {ip}/32 dev eth0")
        } else {
            format!("addr add {ip}/128 dev eth0 nodad")
        });
        // Its question for the router's hardware address tells its own.
        foreign.run("ping", &["-c", "1", "-W", "1", "-I", &ip, router]);
    }
    let row = |owner: &str, at: &SocketAddr| {
        let rows = scene.rows(owner[1..].parse().unwrap());
        rows.into_iter().find(|row| row["ip"] == at.ip().to_string()).unwrap_or_default()
    };
    for (owner, at) in &taken {
        patiently(&format!("the owner of {at} names it"), || {
            let row = row(owner, at);
            row["owner"].is_null()
                && row["reason"].as_str().is_some_and(|why| why.contains("a machine that is no node"))
        });
    }
    for (_, at) in &taken {
        foreign.ip(&format!("addr del {}/{} dev eth0", at.ip(), if at.is_ipv4() { 32 } else { 128 }));
    }
    for (owner, at) in &taken {
        patiently(&format!("{at} is owned again"), || row(owner, at)["owner"].is_string());
    }
}
