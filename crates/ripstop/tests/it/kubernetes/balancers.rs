//! A Service of type LoadBalancer in a real Kubernetes: a pool gives it an address, and the outside reaches it there, also when the
//! agent that answers for it is killed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_lab::options::Proxy;
use ripstop_lab::{Cni, Families, Lab, Options};
use serde_json::{Value, json};

use super::super::cluster::{inside, patiently};
use super::{create, kubectl, planned, takes_down, texts, turn, web};

const NODES: u32 = 3;
const MS: Duration = Duration::from_millis(1);

/// What the outside hears from an address, asked anew all the time.
struct Client {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Duration)>,
}

impl Client {
    fn start(lab: &Lab, to: SocketAddr) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let over = ends.clone();
        let thread = inside(&lab.layout().netns_path("outside"), move || {
            let (mut answers, mut last, mut gap) = (0, Instant::now(), Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                if asks(to).is_some_and(|name| name.starts_with("web-")) {
                    answers += 1;
                    gap = gap.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(10 * MS);
            }
            (answers, gap.max(last.elapsed()))
        });
        Self { ends, thread }
    }

    /// How many answers it got, and the longest time without one.
    fn stop(self) -> (usize, Duration) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The name of the pod that answers a new connection.
fn asks(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, 200 * MS).ok()?;
    stream.set_read_timeout(Some(500 * MS)).ok()?;
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// What a node's agent knows of the address.
fn row(lab: &Lab, node: u32) -> Value {
    // One that begins does not answer yet.
    let rows = lab.agent_json(node, "/v1/loadbalancers").ok();
    rows.and_then(|rows| rows.as_array().and_then(|rows| rows.first().cloned())).unwrap_or_default()
}

/// The node that all of these take for the owner.
fn owner(lab: &Lab, nodes: &[u32]) -> u32 {
    let mut found = String::new();
    patiently("nodes agree on an owner", || {
        let owners: Vec<Value> = nodes.iter().map(|node| row(lab, *node)["owner"].clone()).collect();
        found = owners[0].as_str().unwrap_or_default().to_owned();
        !found.is_empty() && owners.iter().all(|owner| owner == found.as_str())
    });
    found[1..].parse().unwrap()
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn the_outside_reaches_an_address_of_a_pool_also_when_its_owner_is_killed() {
    reaches_by("t-k8s-lb", Proxy::Nftables);
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn beside_kube_proxy_the_outside_reaches_an_address_of_a_pool_too() {
    reaches_by("t-k8s-lb-kp", Proxy::KubeProxy);
}

fn reaches_by(name: &str, proxy: Proxy) {
    let _turn = turn();
    let Some(options) = planned(Options { nodes: NODES, ..Options::named(name) }, Cni::Ripstop) else { return };
    let lab = Lab::up(&options.served_by(proxy).unwrap()).unwrap();
    web(&lab, NODES, Families::V4);
    create(
        &lab,
        &json!({"apiVersion": "ripstop.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": "segment"},
            "spec": {"addresses": ["172.30.1.200-172.30.1.201"]}}),
    );
    kubectl(&lab, &["patch", "service", "web", "-p", r#"{"spec": {"type": "LoadBalancer"}}"#]).unwrap();
    let shown = || texts(&lab, &["service", "web"], ".status.loadBalancer.ingress[*]['ip','ipMode']");
    patiently("the Service shows an address", || shown() == ["172.30.1.200", "VIP"]);
    let all: Vec<u32> = (1..=NODES).collect();
    let first = owner(&lab, &all);
    let pools = kubectl(&lab, &["get", "rippool", "--no-headers"]).unwrap();
    let words = ["segment", "172.30.1.200-172.30.1.201", "true", "1000"];
    assert!(words.iter().all(|word| pools.contains(word)), "{pools}");

    let client = Client::start(&lab, "172.30.1.200:80".parse().unwrap());
    std::thread::sleep(1_000 * MS);
    // Kubelet starts it again, sooner or later.
    let kill = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q '^ripstop agent' && kill -9 ${p#/proc/}; done; true";
    lab.exec(&lab.node(first).target(), &["sh", "-c", kill]).unwrap();
    let others: Vec<u32> = all.iter().copied().filter(|node| *node != first).collect();
    patiently("another node owns it", || {
        others.iter().all(|node| row(&lab, *node)["owner"].as_str().is_some_and(|name| name != format!("n{first}")))
    });
    std::thread::sleep(1_000 * MS);
    let (answers, gap) = client.stop();
    println!("the agent of the owner killed: {answers} answers, {gap:?} without one at most");
    // A quarter of a second is meant; the rest is what a busy machine may take.
    assert!(answers > 20 && gap < 1_750 * MS, "{answers} {gap:?}");

    // An address that no pool has is told on the Service, as kubectl shows it.
    let other = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other"},
        "spec": {"type": "LoadBalancer", "loadBalancerIP": "203.0.113.1", "ports": [{"port": 80}]}});
    create(&lab, &other);
    patiently("the Service's description says why it has none", || {
        let text = kubectl(&lab, &["describe", "service", "other"]).unwrap();
        text.contains("AddressNotInPool") && text.contains("it asks for 203.0.113.1, which is in no address pool")
    });
    kubectl(&lab, &["delete", "service", "web", "other"]).unwrap();
    let claims = || kubectl(&lab, &["get", "addressclaims", "-o", "name"]).unwrap();
    patiently("what was claimed is given back", || claims().is_empty());
    takes_down(lab);
}
