//! Configuration and the project's own kinds: raw text in, typed, valid and complete values out.
//!
//! Everything is decoded once and every fault is collected: a caller gets either a value it need not look at twice,
//! or [`Faults`] that name each object, field, what was found and what is accepted.
//!
//! Not here: where text comes from (files, store, network), and what a value leads to (decisions).
//!
//! Invariants: a decoded [`Network`] has at least one range, its bounds and exclusions lie inside its ranges, and its
//! node ranges fit; [`Network`] and [`AgentConfig`] serialise to the document form that decodes to the same value.

pub mod bgp;
mod check;
mod config;
mod decode;
mod documents;
mod fault;
mod kubernetes;
pub mod metallb;
mod migration;
mod network;
mod notice;
pub mod policy;
pub mod pool;
mod record;
pub mod service;

pub use check::{check_change, check_network_against_host, check_networks, check_node_name, check_pod_cidrs};
pub use config::{
    AgentConfig, ConntrackConfig, DetectLocal, EtcdConfig, EtcdTlsConfig, FlannelConfig, FlannelNodesConfig,
    IptablesChoice, IpvsConfig, IpvsScheduler, KubernetesConfig, LogConfig, LogFormat, LogLevel, NodePortAddresses,
    ProbingConfig, Proxy, ServicesConfig, StoreConfig, Timings, UplinkConfig,
};
pub use decode::applied::{Applied, MAX_PORTS};
pub use decode::kubeconfig::{Kubeconfig, Pem, Token};
pub use documents::Manifest;
pub use fault::{Fault, Faults, Note};
pub use kubernetes::{
    ClusterObject, FlannelNode, KubeNamespace, KubeNode, KubePod, NAMESPACE_NAME_LABEL, ObjectKind, ObjectLabels,
    PodPort, ProbeCheck, ReadinessProbe,
};
pub use migration::Migration;
pub use network::{
    API_VERSION, Backend, BackendKind, Blocks, Bounds, DEFAULT_COOLDOWN, Masquerade, Network, NetworkName, NetworkSpec,
    NodeRangeLen, Pool, RangeMode, Ranges, ToNodes, UDP_PORT, Wiring,
};
pub use notice::{About, Notice};
pub use record::{
    AliveRecord, ClaimState, Encapsulation, FLANNEL_MACHINE, FLANNEL_PORT, IpipReceive, NodeAddress, NodeIdentity,
    NodeRecord, RangeClaim, Receive, Record, UdpReceive, VxlanReceive, alive_key, claim_key, network_key, node_key,
    parse_claim_key, value_of_text,
};
