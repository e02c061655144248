//! What a lab is asked to be.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use ripstop_types::{Family, Prefix};
use serde::{Deserialize, Serialize};

use crate::error::{LabError, Result};

/// The most nodes of one lab: their last address byte is 10 and their number.
pub const MAX_NODES: u32 = 200;
/// The most subnets of one lab: their number is a byte of their prefix.
pub const MAX_SUBNETS: u32 = 200;

/// Lengths that blocks may have, IPv4 first: no length is of both families.
const BLOCKS: [RangeInclusive<u8>; 2] = [20..=32, 116..=128];

fn place(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// How packets between nodes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Kernel VTEP.
    Vxlan,
    /// Plain routes between nodes of one subnet.
    HostGw,
    /// Flannel's user-space tunnel.
    Udp,
    /// IPv4 in IPv4; IPv6 plain.
    Ipip,
    /// Plain within a subnet, IPv4 in IPv4 between subnets.
    IpipCrossSubnet,
    /// Routes learned by BGP.
    Bgp,
    /// Plain within a subnet, VXLAN between subnets.
    Auto,
}

/// How pods are attached to their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Wiring {
    /// A veth pair and a host route a pod.
    Routed,
    /// A veth pair and a bridge.
    Bridge,
}

/// The address families of nodes and pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Families {
    /// IPv4 only.
    #[value(name = "4")]
    #[serde(rename = "4")]
    V4,
    /// IPv6 only.
    #[value(name = "6")]
    #[serde(rename = "6")]
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// Whether IPv4 is among them.
    #[must_use]
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is among them.
    #[must_use]
    pub fn v6(self) -> bool {
        self != Self::V4
    }
}

/// Where the cluster's records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// A file served on a unix socket.
    Embedded,
    /// An etcd server at the router.
    Etcd,
}

/// Where a node's pod range comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RangeMode {
    /// The node claims a free range in the store.
    Lease,
    /// The node's configuration names it.
    PodCidr,
    /// Blocks claimed on demand.
    Blocks,
}

/// What connects the pods of a lab's Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Cni {
    /// The product, installed by its manifest.
    Ripstop,
    /// The CNI project's plugins bridge, host-local and portmap, with static routes: what the product is compared with.
    Reference,
    /// The same plugins, with flanneld's VXLAN between the nodes. IPv4 only.
    Flannel,
}

/// What serves Services in a lab's Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Proxy {
    /// kube-proxy, on each node.
    #[default]
    KubeProxy,
    /// The product's agents, by nftables. There is no kube-proxy.
    Nftables,
    /// The same, by iptables.
    Iptables,
}

impl Proxy {
    /// The word for it in the product's configuration; none where the product serves no Services.
    pub fn of_product(self) -> Option<&'static str> {
        match self {
            Self::KubeProxy => None,
            Self::Nftables => Some("nftables"),
            Self::Iptables => Some("iptables"),
        }
    }
}

/// A real Kubernetes on the machines of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// What connects the pods.
    pub cni: Cni,
    /// What serves Services.
    #[serde(default)]
    pub proxy: Proxy,
    /// The folder of Kubernetes' programs.
    pub programs: PathBuf,
    /// CoreDNS.
    pub coredns: PathBuf,
    /// flanneld, where it connects the nodes.
    pub flanneld: Option<PathBuf>,
    /// The archive of the images that nodes have.
    pub images: PathBuf,
}

/// A further pool of addresses in range mode `blocks`; the product knows it in the same words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its addresses.
    pub range: Prefix,
    /// Namespaces whose pods get their address there; none: of every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Labels that such a pod must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl FromStr for Pool {
    type Err = String;

    /// `RANGE[,namespace=NS|,label=K=V]…`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let range = parts.next().unwrap_or_default();
        let range = range.parse().map_err(|error| format!("{range:?} is no range: {error}"))?;
        let mut pool = Self { range, namespaces: Vec::new(), labels: BTreeMap::new() };
        for part in parts {
            match part.split_once('=') {
                Some(("namespace", name)) if !name.is_empty() => pool.namespaces.push(name.to_owned()),
                Some(("label", pair)) => match pair.split_once('=').filter(|(key, _)| !key.is_empty()) {
                    Some((key, value)) => drop(pool.labels.insert(key.to_owned(), value.to_owned())),
                    None => return Err(format!("{part:?}: a label is KEY=VALUE")),
                },
                _ => return Err(format!("{part:?}; accepted behind the range: namespace=NS, label=KEY=VALUE")),
            }
        }
        Ok(pool)
    }
}

/// What a lab is asked to be. `Options::default()` is three nodes in one subnet, VXLAN, routed wiring, IPv4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// The lab's name: lower-case letters, digits and '-', at most 40.
    pub name: String,
    /// How many nodes.
    pub nodes: u32,
    /// How many subnets the nodes are spread over, round robin.
    pub subnets: u32,
    /// How packets between nodes travel.
    pub backend: Backend,
    /// How pods are attached.
    pub wiring: Wiring,
    /// Address families of nodes and pods.
    pub families: Families,
    /// Where records are kept.
    pub store: StoreKind,
    /// How many members etcd has, 1 to 9, where it is the store; they are on ports of the router ten apart.
    pub etcd_members: u16,
    /// More arguments of each member of etcd; with `--cert-file` among them clients speak TLS.
    pub etcd_args: Vec<String>,
    /// Where a node's range comes from.
    pub range_mode: RangeMode,
    /// The Kubernetes on top, if there is one.
    pub kubernetes: Option<Kubernetes>,
    /// Lengths of the prefixes that nodes claim in range mode `blocks`, at most one a family; none: as the product has it.
    pub block_lengths: Vec<u8>,
    /// Further pools in range mode `blocks`.
    pub pools: Vec<Pool>,
    /// Whether nodes run an agent and the lab a store; without them a lab is bare machines.
    pub agents: bool,
    /// The `ripstop` program; none: `RIPSTOP_BIN`, this very program, or a neighbour of it.
    pub ripstop: Option<PathBuf>,
    /// The CNI plugin; none: `RIPSTOP_CNI`, or the neighbour `ripstop-cni` of the program.
    pub plugin: Option<PathBuf>,
    /// How long nodes may take to become ready.
    pub ready_timeout: Duration,
    /// Remove a lab of this name first, should there be one.
    pub replace: bool,
    /// Leave a lab that failed to come up as it is, for a look.
    pub keep_failed: bool,
    /// Say on standard error how far a Kubernetes has come.
    pub progress: bool,
    /// More arguments of every agent, after `agent --config FILE`.
    pub agent_args: Vec<String>,
    /// Environment variables of every agent.
    pub agent_env: BTreeMap<String, String>,
    /// Laid over each agent's configuration: objects merge, anything else replaces.
    pub agent_config: serde_json::Value,
    /// Laid over the `spec` of the network `default`.
    pub network_spec: serde_json::Value,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "default".into(),
            nodes: 3,
            subnets: 1,
            backend: Backend::Vxlan,
            wiring: Wiring::Routed,
            families: Families::V4,
            store: StoreKind::Embedded,
            etcd_members: 1,
            etcd_args: Vec::new(),
            range_mode: RangeMode::Lease,
            kubernetes: None,
            block_lengths: Vec::new(),
            pools: Vec::new(),
            agents: true,
            ripstop: None,
            plugin: None,
            ready_timeout: Duration::from_secs(30),
            replace: false,
            keep_failed: false,
            progress: false,
            agent_args: Vec::new(),
            agent_env: BTreeMap::new(),
            agent_config: serde_json::Value::Null,
            network_spec: serde_json::Value::Null,
        }
    }
}

impl Options {
    /// The defaults under a name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// What an endpoint of etcd begins with.
    #[must_use]
    pub fn etcd_scheme(&self) -> &'static str {
        let tls = self.etcd_args.iter().any(|arg| arg.starts_with("--cert-file"));
        if tls { "https" } else { "http" }
    }

    /// The length of blocks of a family, where one was chosen.
    #[must_use]
    pub fn block_length(&self, family: Family) -> Option<u8> {
        self.block_lengths.iter().copied().find(|length| BLOCKS[place(family)].contains(length))
    }

    /// Lengths and pools of blocks: in their mode only, and of the lab's families. The agents judge the rest.
    fn validate_blocks(&self) -> Result<()> {
        let has = |family| if family == Family::V4 { self.families.v4() } else { self.families.v6() };
        if self.range_mode != RangeMode::Blocks && !(self.block_lengths.is_empty() && self.pools.is_empty()) {
            return Err(LabError::usage("--block-length and --pool need --range-mode blocks"));
        }
        for (number, length) in self.block_lengths.iter().enumerate() {
            let family = Family::BOTH.into_iter().find(|family| BLOCKS[place(*family)].contains(length));
            let Some(family) = family.filter(|family| has(*family)) else {
                return Err(LabError::usage(format!(
                    "--block-length {length} is out of range: 20 to 32 for IPv4, 116 to 128 for IPv6, of a family the lab has"
                )));
            };
            if self.block_lengths[..number].iter().any(|other| BLOCKS[place(family)].contains(other)) {
                return Err(LabError::usage(format!("--block-length {length}: {family} has one already")));
            }
        }
        match self.pools.iter().find(|pool| !has(pool.range.family())) {
            Some(pool) => {
                Err(LabError::usage(format!("--pool {}: the lab has no {}", pool.range, pool.range.family())))
            }
            None => Ok(()),
        }
    }

    /// Refuses what is out of range, and what does not go together.
    pub fn validate(&self) -> Result<()> {
        validate_lab_name(&self.name)?;
        within("--nodes", self.nodes, MAX_NODES)?;
        within("--subnets", self.subnets, MAX_SUBNETS)?;
        within("members of etcd", self.etcd_members.into(), 9)?;
        if self.subnets > self.nodes {
            return Err(LabError::usage(format!(
                "--subnets {} is more than --nodes {}: a subnet would have no node",
                self.subnets, self.nodes
            )));
        }
        if self.range_mode == RangeMode::Blocks && self.wiring == Wiring::Bridge {
            return Err(LabError::usage(
                "--range-mode blocks needs --wiring routed: blocks are no subnet for a bridge",
            ));
        }
        self.validate_blocks()
    }
}

/// Checks a lab's name. It becomes part of file names, namespace names and process arguments.
pub fn validate_lab_name(name: &str) -> Result<()> {
    let fits = !name.contains('.') && name.len() <= 40;
    if fits && ripstop_types::validate_dns_name("a lab name", name).is_ok() {
        return Ok(());
    }
    Err(LabError::usage(format!(
        "--name {name:?} is not a lab name: lower-case letters, digits and '-', at most 40, first and last a letter or digit"
    )))
}

fn within(what: &str, found: u32, most: u32) -> Result<()> {
    if (1..=most).contains(&found) {
        return Ok(());
    }
    Err(LabError::usage(format!("{what} {found} is out of range: 1 to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_need_routed_wiring() {
        let options = Options { range_mode: RangeMode::Blocks, ..Options::default() };
        assert!(options.validate().is_ok());
        let error = Options { wiring: Wiring::Bridge, ..options }.validate().unwrap_err();
        assert!(error.to_string().contains("--wiring routed"), "{error}");
    }

    #[test]
    fn lengths_and_pools_are_of_blocks_and_of_the_labs_families() {
        let blocks = Options { range_mode: RangeMode::Blocks, families: Families::Dual, ..Options::default() };
        let pool: Pool = "10.60.0.0/20,namespace=team-a,namespace=team-b,label=tier=db".parse().unwrap();
        assert_eq!((pool.namespaces.len(), pool.labels["tier"].as_str()), (2, "db"));
        let full = Options { block_lengths: vec![124, 28], pools: vec![pool], ..blocks.clone() };
        assert!(full.validate().is_ok());
        assert_eq!((full.block_length(Family::V4), full.block_length(Family::V6)), (Some(28), Some(124)));
        for (options, says) in [
            (Options { range_mode: RangeMode::Lease, ..full.clone() }, "need --range-mode blocks"),
            (
                Options { families: Families::V6, block_lengths: vec![124], ..full.clone() },
                "--pool 10.60.0.0/20: the lab has no IPv4",
            ),
            (
                Options { families: Families::V4, ..full.clone() },
                "--block-length 124 is out of range: 20 to 32 for IPv4",
            ),
            (Options { block_lengths: vec![64], ..blocks.clone() }, "--block-length 64 is out of range"),
            (Options { block_lengths: vec![28, 29], ..blocks }, "--block-length 29: IPv4 has one already"),
        ] {
            let error = options.validate().unwrap_err();
            assert!(error.to_string().contains(says) && error.exit_code() == 2, "{error}");
        }
        for text in ["", "10.60.0.1/20", "10.60.0.0/20,team-a", "10.60.0.0/20,namespace=", "10.60.0.0/20,label=tier"] {
            assert!(text.parse::<Pool>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (nodes, subnets) in [(0, 1), (201, 1), (1, 0), (2, 3)] {
            assert!(Options { nodes, subnets, ..Options::default() }.validate().is_err(), "{nodes} {subnets}");
        }
        assert!(Options { nodes: 200, subnets: 200, ..Options::default() }.validate().is_ok());
    }

    #[test]
    fn a_lab_name_is_safe_in_file_names() {
        for name in ["default", "a", "chk-1", "0"] {
            assert!(validate_lab_name(name).is_ok(), "{name}");
        }
        let long = "x".repeat(41);
        for name in ["", "..", "a/b", "A", "-a", "a-", "a b", "a.b", "é", &long] {
            assert!(validate_lab_name(name).is_err(), "{name}");
        }
    }
}
