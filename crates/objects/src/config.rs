//! The agent's configuration, `/etc/ripstop/config.yaml`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ripstop_types::{IfName, Labels, NodeName, Prefix};
use serde::{Deserialize, Serialize, Serializer};

use crate::decode::config::duration_text;
use crate::{Network, NetworkName};

/// What one agent is told. An empty file is a complete configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentConfig {
    /// This node's name; none: the host name, in lower case.
    pub node: Option<NodeName>,
    /// Labels of this node.
    pub labels: Labels,
    /// Where the cluster's records are.
    pub store: StoreConfig,
    /// How this node is reached.
    pub uplink: UplinkConfig,
    /// Ranges of this node, for networks with range mode `pod-cidr`.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<Prefix>,
    /// Networks this agent writes to the store where they are not there yet.
    pub networks: Vec<Network>,
    /// Where metrics and health are served over TCP; none: only on the agent's socket.
    pub metrics_listen: Option<SocketAddr>,
    /// How the agent logs.
    pub log: LogConfig,
    /// Intervals.
    pub timings: Timings,
    /// Whether ways to peers are probed.
    pub probing: ProbingConfig,
    /// Whether and how Services are served on this node.
    pub services: ServicesConfig,
    /// Sockets and leases; a tmpfs, emptied by a reboot. Default `/run/ripstop`.
    pub run_dir: PathBuf,
    /// Snapshot and store file. Default `/var/lib/ripstop`.
    pub state_dir: PathBuf,
    /// Where the container runtime looks for network configurations; the agent only reads their names and types. Default
    /// `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            node: None,
            labels: Labels::new(),
            store: StoreConfig::default(),
            uplink: UplinkConfig::default(),
            pod_cidrs: Vec::new(),
            networks: Vec::new(),
            metrics_listen: None,
            log: LogConfig::default(),
            timings: Timings::default(),
            probing: ProbingConfig::default(),
            services: ServicesConfig::default(),
            run_dir: PathBuf::from("/run/ripstop"),
            state_dir: PathBuf::from("/var/lib/ripstop"),
            cni_conf_dir: PathBuf::from("/etc/cni/net.d"),
        }
    }
}

/// Where the cluster's records are. In documents `{embedded: {path: …}}`, `{embedded: {socket: …}}`, `{etcd: {…}}` or
/// `{kubernetes: {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "StoreDocument")]
pub enum StoreConfig {
    /// A file that this agent alone opens.
    Embedded {
        /// The file.
        path: PathBuf,
    },
    /// A unix socket served by `ripstop store serve`.
    EmbeddedSocket {
        /// The socket.
        socket: PathBuf,
    },
    /// A cluster of etcd.
    Etcd(Box<EtcdConfig>),
    /// The API of Kubernetes.
    Kubernetes(Box<KubernetesConfig>),
}

impl StoreConfig {
    /// The network that is taken over from Flannel in Kubernetes.
    pub fn taken_from_flannel(&self) -> Option<&NetworkName> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.flannel.as_ref().map(|flannel| &flannel.network),
            _ => None,
        }
    }

    /// The intervals that are kept where the configuration names none. Every agent watches every node's sign of life: an
    /// API server with a thousand of them would do little else at the pace of the other stores.
    pub(crate) fn timings(&self) -> Timings {
        match self {
            Self::Kubernetes(_) => Timings { alive_interval: 30_000, stale_after: 120_000, ..Timings::default() },
            _ => Timings::default(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::Embedded { path: PathBuf::from("/var/lib/ripstop/store.redb") }
    }
}

/// How a cluster of etcd is reached. Secrets are in files, never in the configuration itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdConfig {
    /// Members, as `http://10.0.0.1:2379` or `https://…`; at least one. The first that can be reached is used.
    pub endpoints: Vec<String>,
    /// What every key begins with. Begins and ends with '/'. Default `/ripstop/`.
    pub prefix: String,
    /// Certificates, for members with `https`.
    pub tls: EtcdTlsConfig,
    /// The user to sign in as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file with the user's password; there is one if there is a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Longest wait for an answer in milliseconds. Default 5 s.
    #[serde(serialize_with = "duration")]
    pub timeout: u64,
    /// Flannel's records in the same cluster; none: they are not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flannel: Option<FlannelConfig>,
}

/// PEM files for etcd.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdTlsConfig {
    /// Authorities that may have signed the members' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// This node's certificate; there is a key if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The name in the members' certificates, where it is not that of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// How the API of Kubernetes is reached. Secrets are in files, never in the configuration itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesConfig {
    /// A kubeconfig; none: the service account of the pod in which the agent runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the nodes' signs of life, which are leases. Default `ripstop`.
    pub namespace: String,
    /// Longest wait for an answer in milliseconds. Default 10 s.
    #[serde(serialize_with = "duration")]
    pub timeout: u64,
    /// Nodes of Flannel's in the same cluster; none: they are not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flannel: Option<FlannelNodesConfig>,
}

/// Nodes that flanneld runs (`--kube-subnet-mgr`, backend vxlan) are peers, and what it left on this node is taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlannelNodesConfig {
    /// The network of ours that is Flannel's. Default `default`.
    pub network: NetworkName,
}

/// Where Flannel keeps its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlannelConfig {
    /// What its keys begin with, without a '/' at the end: flanneld's `-etcd-prefix`. Default `/coreos.com/network`.
    pub prefix: String,
    /// The network of ours that is Flannel's. Default `default`.
    pub network: NetworkName,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum StoreDocument {
    Embedded(EmbeddedDocument),
    Etcd(Box<EtcdConfig>),
    Kubernetes(Box<KubernetesConfig>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum EmbeddedDocument {
    Path(PathBuf),
    Socket(PathBuf),
}

impl From<StoreConfig> for StoreDocument {
    fn from(store: StoreConfig) -> Self {
        match store {
            StoreConfig::Embedded { path } => Self::Embedded(EmbeddedDocument::Path(path)),
            StoreConfig::EmbeddedSocket { socket } => Self::Embedded(EmbeddedDocument::Socket(socket)),
            StoreConfig::Etcd(etcd) => Self::Etcd(etcd),
            StoreConfig::Kubernetes(kubernetes) => Self::Kubernetes(kubernetes),
        }
    }
}

/// How this node is reached by its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkConfig {
    /// The interface; none: the one of the default route.
    pub interface: Option<IfName>,
    /// The addresses peers use, at most one a family; none: the interface's own first address in each family.
    pub addresses: Vec<IpAddr>,
}

/// How the agent logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// The least grave line that is written.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How grave a log line is, gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What the agent did.
    #[default]
    Info,
    /// Why the agent did it.
    Debug,
    /// Every message.
    Trace,
}

impl LogLevel {
    /// The word used in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Intervals in milliseconds. In documents text with a unit: `500ms`, `2s`, `1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Between two signs of life. Default 2 s, with the store kubernetes 30 s.
    #[serde(serialize_with = "duration")]
    pub alive_interval: u64,
    /// Without a new sign of life, a node counts as stale after this. Default 10 s, with the store kubernetes 2 min.
    #[serde(serialize_with = "duration")]
    pub stale_after: u64,
    /// Between two looks at a host-side link before its pod counts as an orphan. Default 10 s.
    #[serde(serialize_with = "duration")]
    pub orphan_interval: u64,
    /// Between two full comparisons of desired and observed state. Default 5 min.
    #[serde(serialize_with = "duration")]
    pub sweep_interval: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self { alive_interval: 2_000, stale_after: 10_000, orphan_interval: 10_000, sweep_interval: 300_000 }
    }
}

/// How ways to peers are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbingConfig {
    /// Whether the longest packet is looked for that comes through to each peer. Default true.
    pub mtu: bool,
    /// Whether it is looked at that checksums left to hardware come right in tunnels. Default true.
    pub checksum: bool,
    /// Between two confirmations of one way; longer where there are more than 200 peers. Default 3 s.
    #[serde(serialize_with = "duration")]
    pub interval: u64,
    /// The UDP port on which this node answers its peers' probes. Default 9468.
    pub port: u16,
}

impl Default for ProbingConfig {
    fn default() -> Self {
        Self { mtu: true, checksum: true, interval: 3_000, port: 9468 }
    }
}

/// How Services are served on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesConfig {
    /// By what. Default `none`.
    pub proxy: Proxy,
    /// At which of the node's addresses node ports are served. Default `primary`.
    pub node_port_addresses: NodePortAddresses,
    /// Whether `spec.externalIPs` are served. Default false: whoever may make a Service can take anybody's address by them
    /// (CVE-2020-8554).
    #[serde(rename = "externalIPs")]
    pub external_ips: bool,
    /// Whether everything that goes to a ClusterIP gets the node's source, what its own pods send included. Default false.
    pub masquerade_all: bool,
    /// The ranges of ClusterIPs, as the API server has them (`--service-cluster-ip-range`): packets to addresses in them that no Service
    /// has are dropped. Default none: they go where routes lead them.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<Prefix>,
    /// With iptables: where its rules are written.
    pub iptables_backend: IptablesChoice,
    /// How far settings of connection tracking are raised.
    pub conntrack: ConntrackConfig,
    /// By what packets of this node's pods are told from others.
    pub detect_local: DetectLocal,
    /// Where `/healthz` and `/livez` are answered. Default port 10256 at all addresses of both families; none: nowhere.
    pub healthz_listen: Vec<SocketAddr>,
    /// Where `/proxyMode` is answered, the proxy by its name. Default port 10249 of 127.0.0.1, as kube-proxy's; none: nowhere.
    pub status_listen: Vec<SocketAddr>,
    /// Only Services whose label `service.kubernetes.io/service-proxy-name` is this are served; none: those without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_name: Option<String>,
    /// How IPVS serves them, where `proxy` is `ipvs`.
    pub ipvs: IpvsConfig,
}

/// How IPVS serves Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IpvsConfig {
    /// By which an endpoint is chosen. Default `rr`.
    pub scheduler: IpvsScheduler,
    /// Whether links of the node answer for their own addresses alone (`net.ipv4.conf.all.arp_ignore` 1, `arp_announce` 2). Default
    /// false. Only ClusterIPs are addresses of the node, so that announcers of load balancers' addresses do without.
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
}

/// The schedulers of IPVS that choose among endpoints of equal weight as someone may want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvsScheduler {
    /// One after the other.
    #[default]
    Rr,
    /// The same, by weight: all have the same.
    Wrr,
    /// The one with the fewest connections from this node.
    Lc,
    /// By the client's address.
    Sh,
    /// By the client's address, so that few clients move when an endpoint comes or goes (Maglev).
    Mh,
}

impl IpvsScheduler {
    /// The kernel's name for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Sh => "sh",
            Self::Mh => "mh",
        }
    }
}

impl Default for ServicesConfig {
    fn default() -> Self {
        Self {
            iptables_backend: IptablesChoice::default(),
            ipvs: IpvsConfig::default(),
            proxy: Proxy::default(),
            node_port_addresses: NodePortAddresses::default(),
            external_ips: false,
            masquerade_all: false,
            service_cidrs: Vec::new(),
            conntrack: ConntrackConfig::default(),
            detect_local: DetectLocal::default(),
            healthz_listen: [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
                .map(|ip| SocketAddr::new(ip, HEALTHZ_PORT))
                .into(),
            status_listen: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), STATUS_PORT)],
            proxy_name: None,
        }
    }
}

/// The port of `/proxyMode`, that of kube-proxy.
pub const STATUS_PORT: u16 = 10_249;

/// The port of `/healthz` and `/livez`, that of kube-proxy.
const HEALTHZ_PORT: u16 = 10_256;

/// How far settings of connection tracking are raised where Services are served, as kube-proxy's `conntrack` says it. Zero leaves a
/// setting alone; none is ever lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConntrackConfig {
    /// Entries for each CPU. Default 32768.
    pub max_per_core: u32,
    /// Entries at least, unless `max_per_core` is zero. Default 131072.
    pub min: u32,
    /// How long an idle established connection is kept, in milliseconds. Default 24 h.
    #[serde(serialize_with = "duration")]
    pub tcp_established_timeout: u64,
    /// How long a half-closed one is kept. Default 1 h.
    #[serde(serialize_with = "duration")]
    pub tcp_close_wait_timeout: u64,
    /// Whether packets outside of their connection's window pass. Default false: they are dropped, or they would reset it.
    pub tcp_be_liberal: bool,
    /// How long a flow of UDP with packets in one direction is kept. Default zero.
    #[serde(serialize_with = "duration")]
    pub udp_timeout: u64,
    /// How long one with packets in both directions is kept. Default zero.
    #[serde(serialize_with = "duration")]
    pub udp_stream_timeout: u64,
}

impl Default for ConntrackConfig {
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established_timeout: 86_400_000,
            tcp_close_wait_timeout: 3_600_000,
            tcp_be_liberal: false,
            udp_timeout: 0,
            udp_stream_timeout: 0,
        }
    }
}

/// What serves Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proxy {
    /// Something else, or nothing.
    #[default]
    None,
    /// Tables of nftables.
    Nftables,
    /// Chains of iptables.
    Iptables,
    /// The kernel's load balancer (IPVS), with tables of nftables for what it cannot do.
    Ipvs,
}

impl Proxy {
    /// The word used in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
        }
    }
}

/// Which of the kernel's two machineries iptables writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IptablesChoice {
    /// The one that kubelet and others use on this node.
    #[default]
    Auto,
    /// `x_tables`.
    Legacy,
    /// Tables of nftables.
    Nft,
}

/// At which of a node's addresses node ports are served. In documents a word, or a list of words and ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// The first of each family at which peers reach the node. Alone the default.
    pub primary: bool,
    /// Every one but loopback addresses.
    pub all: bool,
    /// `127.0.0.1` and, TCP alone, `::1`.
    pub localhost: bool,
    /// Those in these ranges.
    pub ranges: Vec<Prefix>,
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self { primary: true, all: false, localhost: false, ranges: Vec::new() }
    }
}

impl Serialize for NodePortAddresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words = [("primary", self.primary), ("all", self.all), ("localhost", self.localhost)];
        let words = words.into_iter().filter(|(_, is)| *is).map(|(word, _)| word.to_owned());
        serializer.collect_seq(words.chain(self.ranges.iter().map(ToString::to_string)))
    }
}

/// By what packets of this node's pods are told from others (kube-proxy's `detectLocalMode`): they keep their source on the way to a
/// ClusterIP, and reach all endpoints of a Service whose external policy is Local.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DetectLocal {
    /// Their source is in a range of this node.
    #[default]
    NodeRanges,
    /// Their source is in one of these ranges, of whichever node's pods.
    #[serde(rename = "clusterCIDR")]
    ClusterCidr(Vec<Prefix>),
    /// They come in by this bridge.
    Bridge(IfName),
    /// They come in by a link whose name begins so.
    InterfacePrefix(IfName),
}

/// Writes milliseconds as a document has them.
// serde's `serialize_with` passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn duration<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*ms))
}
