//! Names, paths and addresses of a lab: pure arithmetic, the same on every call.
//!
//! Invariants: whatever a lab makes is named `rip-LAB-…` or lies under `/run/ripstop-lab/LAB`, so it can be found without
//! a record. Labs use the same addresses; their namespaces keep them apart.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Where labs keep their files.
pub const ROOT: &str = "/run/ripstop-lab";
/// Where `ip netns` looks for namespaces.
pub const NETNS_DIR: &str = "/run/netns";
/// The environment variable that every process of a lab carries, with the lab's name.
pub const MEMBER: &str = "RIPSTOP_LAB_MEMBER";
/// The name of the namespace that joins the subnets.
pub const ROUTER: &str = "router";
/// The name of the client outside the cluster.
pub const OUTSIDE: &str = "outside";
/// The name of the machine of a Kubernetes' control plane, in the first subnet.
pub const CONTROL: &str = "control";
/// Where labs that run containers keep what is too large for memory.
pub const DISK: &str = "/var/lib/ripstop-lab";

/// Names and paths of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    lab: String,
    dir: PathBuf,
}

impl Layout {
    /// The layout of a lab whose name was checked.
    #[must_use]
    pub fn new(lab: &str) -> Self {
        Self { lab: lab.into(), dir: Path::new(ROOT).join(lab) }
    }

    /// The lab's name.
    #[must_use]
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// The lab's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder for what is too large for memory. It is there only where containers run.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        Path::new(DISK).join(&self.lab)
    }

    /// The record of what was made.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    /// The lock of one lab name. It lies beside the folder, so that it outlives it.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        Path::new(ROOT).join(format!("{}.lock", self.lab))
    }

    /// The store's socket.
    #[must_use]
    pub fn store_socket(&self) -> PathBuf {
        self.dir.join("store.sock")
    }

    /// The store's file.
    #[must_use]
    pub fn store_file(&self) -> PathBuf {
        self.dir.join("store.redb")
    }

    /// The data of a lab's etcd.
    #[must_use]
    pub fn etcd_dir(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    /// What the store said.
    #[must_use]
    pub fn store_log(&self) -> PathBuf {
        self.dir.join("store.log")
    }

    /// The folder of a machine (`n1`, `outside`).
    #[must_use]
    pub fn machine_dir(&self, machine: &str) -> PathBuf {
        self.dir.join(machine)
    }

    /// The agent's socket of a node, as seen from the host.
    #[must_use]
    pub fn agent_socket(&self, node: u32) -> PathBuf {
        self.machine_dir(&node_name(node)).join("run/agent.sock")
    }

    /// The agent's log of a node.
    #[must_use]
    pub fn agent_log(&self, node: u32) -> PathBuf {
        self.machine_dir(&node_name(node)).join("agent.log")
    }

    /// The socket on which a machine's init takes orders.
    #[must_use]
    pub fn init_socket(&self, machine: &str) -> PathBuf {
        self.machine_dir(machine).join("init.sock")
    }

    /// The namespace name of a machine or pod.
    #[must_use]
    pub fn netns(&self, part: &str) -> String {
        format!("{}{part}", self.prefix())
    }

    /// The path of a namespace of this lab.
    #[must_use]
    pub fn netns_path(&self, part: &str) -> PathBuf {
        Path::new(NETNS_DIR).join(self.netns(part))
    }

    /// What every name of this lab begins with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("rip-{}-", self.lab)
    }
}

/// The name of a node.
#[must_use]
pub fn node_name(node: u32) -> String {
    format!("n{node}")
}

/// Whether a pod may not be called so, because a machine is.
#[must_use]
pub fn reserved(name: &str) -> bool {
    let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    [ROUTER, OUTSIDE, CONTROL].contains(&name) || name.strip_prefix('n').is_some_and(numbered)
}

/// The subnet of a node, counted from 1, round robin.
#[must_use]
pub fn subnet_of(node: u32, subnets: u32) -> u32 {
    (node - 1) % subnets + 1
}

/// A node's IPv4 address: 172.30.SUBNET.(10 + NODE), of a /24.
#[must_use]
pub fn node_v4(node: u32, subnet: u32) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, byte(subnet), byte(10 + node))
}

/// A node's IPv6 address, of a /64. The last group reads as the IPv4 address's last byte.
#[must_use]
pub fn node_v6(node: u32, subnet: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x30, digits(subnet), 0, 0, 0, 0, digits(10 + node))
}

/// The control plane's addresses, in the first subnet.
#[must_use]
pub fn control_addresses() -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(172, 30, 1, 5), Ipv6Addr::new(0xfd00, 0x30, 1, 0, 0, 0, 0, 5))
}

/// The router's addresses in a subnet.
#[must_use]
pub fn router_addresses(subnet: u32) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(172, 30, byte(subnet), 1), Ipv6Addr::new(0xfd00, 0x30, digits(subnet), 0, 0, 0, 0, 1))
}

/// The port on which a member of a lab's etcd, counted from 0, takes clients. The next one is its peers'.
#[must_use]
pub fn etcd_port(member: u16) -> u16 {
    2379 + 10 * member
}

/// The port on the router's loopback on which a member says how it is: `/health`, `/metrics`.
#[must_use]
pub fn etcd_metrics_port(member: u16) -> u16 {
    etcd_port(member) + 2
}

/// Where a member of a lab's etcd is, as seen from a subnet: at the router. IPv4 unless there is none.
#[must_use]
pub fn etcd_endpoint(scheme: &str, member: u16, subnet: u32, v4: bool) -> String {
    let port = etcd_port(member);
    match router_addresses(subnet) {
        (ip, _) if v4 => format!("{scheme}://{ip}:{port}"),
        (_, ip) => format!("{scheme}://[{ip}]:{port}"),
    }
}

/// The router's addresses towards the outside client, of a /24 and a /64.
#[must_use]
pub fn outside_gateway() -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(172, 31, 0, 1), Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 1))
}

/// The outside client's addresses.
#[must_use]
pub fn outside_addresses() -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(172, 31, 0, 10), Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 0x10))
}

/// The MAC of a cable's end: its kind (`0` subnet bridge, `1` machine side, `2` router side) and number.
#[must_use]
pub fn mac(kind: u8, number: u32) -> String {
    let [.., high, low] = number.to_be_bytes();
    format!("02:52:49:{kind:02x}:{high:02x}:{low:02x}")
}

/// The pod ranges of a node in range mode `pod-cidr`: IPv4, IPv6.
#[must_use]
pub fn pod_cidrs(node: u32) -> (String, String) {
    (format!("10.244.{node}.0/24"), format!("fd00:244:0:{node}::/64"))
}

/// Options keep the number below 256.
fn byte(number: u32) -> u8 {
    number.to_be_bytes()[3]
}

/// A number written in decimal, read as hexadecimal: 12 becomes `::12`.
fn digits(number: u32) -> u16 {
    let tens = u16::from(byte(number / 10 % 10));
    let hundreds = u16::from(byte(number / 100 % 10));
    hundreds << 8 | tens << 4 | u16::from(byte(number % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_spread_over_subnets_and_addressed_by_number() {
        assert_eq!((1..=5).map(|k| subnet_of(k, 2)).collect::<Vec<_>>(), [1, 2, 1, 2, 1]);
        assert_eq!(node_v4(1, 1).to_string(), "172.30.1.11");
        assert_eq!(node_v4(200, 2).to_string(), "172.30.2.210");
        assert_eq!(node_v6(3, 12).to_string(), "fd00:30:12::13");
        assert_eq!(node_v6(190, 200).to_string(), "fd00:30:200::200");
        assert_eq!(etcd_endpoint("http", 0, 2, true), "http://172.30.2.1:2379");
        assert_eq!(etcd_endpoint("https", 1, 2, false), "https://[fd00:30:2::1]:2389");
        assert_eq!(pod_cidrs(7), ("10.244.7.0/24".into(), "fd00:244:0:7::/64".into()));
    }

    #[test]
    fn names_of_machines_are_reserved() {
        for name in ["n1", "n12", "router", "outside", "control"] {
            assert!(reserved(name), "{name}");
        }
        for name in ["n", "nginx", "n1x", "web", "node"] {
            assert!(!reserved(name), "{name}");
        }
    }

    #[test]
    fn every_name_carries_the_lab() {
        let layout = Layout::new("chk");
        assert_eq!(layout.netns(&node_name(2)), "rip-chk-n2");
        assert_eq!(layout.agent_socket(2), Path::new("/run/ripstop-lab/chk/n2/run/agent.sock"));
        assert_eq!(mac(1, 259), "02:52:49:01:01:03");
    }
}
