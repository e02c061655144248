//! Beside Flannel in its own layout, and after it.
//!
//! A host that ran flanneld is set up by hand as flanneld sets it up (flannel, `pkg/backend/vxlan`): the device
//! `flannel.1`, and for each other subnet a route, a permanent neighbour and a forwarding entry.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Lab, Options, PodSpec, Target};
use serde_json::{Value, json};

use super::{PATIENCE, ctl, ip, lab, patiently, reaches, rows};

const SUBNETS: &str = "/coreos.com/network/subnets";
/// The node that runs flanneld first, its address and its device's.
const HOST: u32 = 3;
const HOST_IP: &str = "172.30.1.13";
const MAC: &str = "0a:00:00:00:00:03";
/// The subnet of a host set up by hand.
const SUBNET: &str = "10.244.133.0";

#[test]
fn a_host_of_flannel_is_a_peer_and_keeps_its_subnet_when_it_is_taken_over() {
    let Some(lab) = beside("t-flannel") else { return };
    set_up_by_hand(&lab);
    let data = json!({"VNI": 1, "VtepMAC": MAC});
    let record = json!({"PublicIP": HOST_IP, "PublicIPv6": null, "BackendType": "vxlan", "BackendData": data});
    ctl(&lab, &["put", &format!("{SUBNETS}/{SUBNET}-24"), &record.to_string()]);
    both_ways(&lab, SUBNET);
    taken_over(&lab, SUBNET);
    lab.down().unwrap();
}

#[test]
fn a_host_of_real_flanneld_is_a_peer_and_keeps_its_subnet_when_it_is_taken_over() {
    let Some(flanneld) = flanneld() else { return };
    let Some(lab) = beside("t-flanneld") else { return };
    let mut command = Command::new(flanneld);
    command.args(["--etcd-endpoints=http://172.30.1.1:2379", "--iface=eth0", "--ip-masq=false"]);
    command.args(["--iptables-forward-rules=false", "--subnet-file=/run/flannel/subnet.env"]);
    let log = lab.layout().machine_dir("n3").join("flanneld.log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let running = lab.spawn(&Target::Node(HOST), &mut command).unwrap();
    let mut subnet = None;
    patiently("flanneld has a subnet", || {
        subnet = subnet_of(&lab, HOST_IP);
        subnet.is_some()
    });
    let subnet = subnet.unwrap();
    both_ways(&lab, &subnet);
    drop(running);
    taken_over(&lab, &subnet);
    lab.down().unwrap();
}

/// Two nodes of ours with a pod each, Flannel's configuration, and a host on which nothing of ours runs.
fn beside(name: &str) -> Option<Lab> {
    let options = Options {
        nodes: 3,
        backend: Backend::Vxlan,
        agent_config: json!({"store": {"etcd": {"flannel": {}}}}),
        ..Options::named(name)
    };
    let lab = lab(options)?;
    let network = json!({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}});
    ctl(&lab, &["put", "/coreos.com/network/config", &network.to_string()]);
    clear_host(&lab);
    for node in [1, 2] {
        lab.pod_add(&PodSpec::new(&format!("p{node}"), node)).unwrap();
    }
    Some(lab)
}

/// The flanneld to test with: the one that `FLANNELD` names, or `scripts/programs` built.
fn flanneld() -> Option<PathBuf> {
    let named = std::env::var_os("FLANNELD").filter(|value| !value.is_empty()).map(PathBuf::from);
    let built = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/programs");
        let output = Command::new(script).args(["--where", "flannel"]).output().ok()?;
        let path = Path::new(String::from_utf8(output.stdout).ok()?.trim()).join("flanneld");
        path.is_file().then_some(path)
    };
    let found = named.or_else(built);
    if found.is_none() {
        println!("SKIPPED: there is no flanneld: scripts/programs flannel builds it, FLANNELD names it");
    }
    found
}

/// Makes the third node a host on which nothing of ours ever ran, its agent stopped.
fn clear_host(lab: &Lab) {
    let (ripstop, host) = (env!("CARGO_BIN_EXE_ripstop"), Target::Node(HOST));
    // An image's folder: no file is removed, only what the agent made.
    lab.exec(&host, &[ripstop, "uninstall", "--purge", "--release", "--root", "/run/image"]).unwrap();
    lab.node(HOST).kill_agent(true).unwrap();
    ctl(lab, &["del", "/ripstop/alive/n3"]);
    let state = lab.layout().machine_dir("n3").join("var");
    for entry in std::fs::read_dir(state).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let left = ctl(lab, &["get", "--prefix", "/ripstop/", "--keys-only"]);
    assert!(!left.contains("n3"), "{left}");
    patiently("the others forget it", || [1, 2].iter().all(|node| rows(lab, *node, "/v1/paths").len() == 1));
}

/// Flannel's records: the subnet, with its mask behind a hyphen, and what is said of it.
fn records(lab: &Lab) -> Vec<(String, Value)> {
    let text = ctl(lab, &["get", "--prefix", &format!("{SUBNETS}/")]);
    let lines: Vec<&str> = text.lines().collect();
    let (pairs, _) = lines.as_chunks::<2>();
    let subnet = |key: &str| key.rsplit('/').next().unwrap().to_owned();
    pairs.iter().map(|[key, value]| (subnet(key), serde_json::from_str(value).unwrap())).collect()
}

/// The subnet of the host with this address, without its mask.
fn subnet_of(lab: &Lab, ip: &str) -> Option<String> {
    let (subnet, _) = records(lab).into_iter().find(|(_, record)| record["PublicIP"] == ip)?;
    subnet.strip_suffix("-24").map(str::to_owned)
}

fn host(lab: &Lab, command: &str) {
    lab.exec(&Target::Node(HOST), &command.split_whitespace().collect::<Vec<_>>()).unwrap();
}

/// What flanneld does with the records that it finds.
fn set_up_by_hand(lab: &Lab) {
    host(lab, &format!("ip link add flannel.1 type vxlan id 1 dev eth0 local {HOST_IP} dstport 8472 nolearning"));
    host(lab, &format!("ip link set flannel.1 address {MAC} mtu 1450 up"));
    host(lab, &format!("ip addr add {SUBNET}/32 dev flannel.1"));
    let found = records(lab);
    assert_eq!(found.len(), 2, "each of our nodes has a record of Flannel's: {found:?}");
    for (subnet, record) in found {
        let (subnet, mac) = (subnet.strip_suffix("-24").unwrap(), record["BackendData"]["VtepMAC"].as_str().unwrap());
        let outer = record["PublicIP"].as_str().unwrap();
        host(lab, &format!("ip route add {subnet}/24 via {subnet} dev flannel.1 onlink"));
        host(lab, &format!("ip neigh add {subnet} lladdr {mac} dev flannel.1 nud permanent"));
        host(lab, &format!("bridge fdb append {mac} dev flannel.1 dst {outer}"));
    }
}

/// Gives the host an address that stands for a pod's, and demands packets from and to each of our pods.
fn both_ways(lab: &Lab, subnet: &str) {
    let pod = subnet.strip_suffix(".0").unwrap().to_owned() + ".7";
    host(lab, "ip link add cni0 type bridge");
    host(lab, "ip link set cni0 up");
    host(lab, &format!("ip addr add {pod}/24 dev cni0"));
    for ours in ["p1", "p2"] {
        reaches(lab, ours, &pod);
        let longest = ["ping", "-c", "3", "-i", "0.2", "-W", "5", "-s", "1422", "-M", "do"];
        lab.exec(&Target::Pod(ours.into()), &[&longest[..], &[&pod]].concat()).unwrap();
        let to = ip(lab, ours);
        lab.exec(&Target::Node(HOST), &[&longest[..], &["-I", &pod, &to]].concat()).unwrap();
    }
}

/// Turns the host over as README says, and demands that it keeps its subnet.
fn taken_over(lab: &Lab, subnet: &str) {
    host(lab, "ip link del cni0");
    host(lab, "ip link del flannel.1");
    lab.node(HOST).release_agent().unwrap();
    lab.wait_ready(&[HOST], PATIENCE).unwrap();
    let claims = rows(lab, 1, "/v1/leases");
    let range = format!("{subnet}/24");
    patiently("its agent holds the subnet that flanneld had", || {
        rows(lab, HOST, "/v1/leases").iter().any(|row| row["range"] == range.as_str() && row["node"] == "n3")
    });
    lab.pod_add(&PodSpec::new("p3", HOST)).unwrap();
    let address = ip(lab, "p3");
    assert!(address.starts_with(subnet.strip_suffix('0').unwrap()), "{address} is not of {range}; {claims:#?}");
    for (from, to) in [("p1", "p3"), ("p2", "p3"), ("p3", "p1"), ("p3", "p2")] {
        reaches(lab, from, &ip(lab, to));
    }
    let prober = lab.probe(200, &Pairs::All).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let report = prober.stop().unwrap();
    assert!(report.received > 100 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{report:?}");
    // The record is ours now and has no lease that runs out.
    let key = format!("{SUBNETS}/{subnet}-24");
    let stored: Value = serde_json::from_str(&ctl(lab, &["get", &key, "-w", "json"])).unwrap();
    assert!(stored["kvs"][0]["lease"].is_null(), "{stored}");
    let (_, record) = records(lab).into_iter().find(|(found, _)| *found == format!("{subnet}-24")).unwrap();
    assert_eq!((record["PublicIP"].as_str(), record["Ripstop"].as_str()), (Some(HOST_IP), Some("n3")));
}
