//! The document of an agent's configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ripstop_types::{Family, IfName, Prefix};

use super::tree::{Tree, shown};
use super::{Decoder, Fields, Node, etcd, flannel, kubernetes, network};
use crate::{
    AgentConfig, ConntrackConfig, DetectLocal, IptablesChoice, IpvsConfig, IpvsScheduler, LogConfig, LogFormat,
    LogLevel, Network, NetworkName, NodePortAddresses, ProbingConfig, Proxy, ServicesConfig, StoreConfig, Timings,
    UplinkConfig, check_networks,
};

const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "node",
    "labels",
    "store",
    "uplink",
    "podCIDRs",
    "networks",
    "metricsListen",
    "log",
    "timings",
    "probing",
    "services",
    "runDir",
    "stateDir",
    "cniConfDir",
];

/// Longest path of a unix socket: `sun_path` less the terminating zero (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// The longest name of a socket in the run directory, with its slash.
const LONGEST_SOCKET_NAME: usize = "/agent.sock".len();

/// A whole configuration. An empty document is one.
pub(crate) fn agent_config(d: &mut Decoder, node: &Node<'_>) -> Option<AgentConfig> {
    let default = AgentConfig::default();
    if *node.tree == Tree::Null {
        return Some(default);
    }
    let fields = d.map(node, FIELDS)?;
    network::header(d, &fields, "AgentConfig");
    let state_dir = fields.get("stateDir").and_then(|node| path(d, &node)).unwrap_or(default.state_dir);
    let store = match fields.get("store") {
        Some(node) => store(d, &node).unwrap_or_default(),
        None => StoreConfig::Embedded { path: state_dir.join("store.redb") },
    };
    let default_timings = store.timings();
    Some(AgentConfig {
        node: fields.get("node").and_then(|node| d.parse(&node, "the node's name")),
        labels: fields.get("labels").map(|node| d.labels(&node)).unwrap_or_default(),
        store,
        uplink: fields.get("uplink").and_then(|node| uplink(d, &node)).unwrap_or_default(),
        pod_cidrs: fields.get("podCIDRs").map(|node| pod_cidrs(d, &node)).unwrap_or_default(),
        networks: fields.get("networks").map(|node| networks(d, &node)).unwrap_or_default(),
        metrics_listen: fields.get("metricsListen").and_then(|node| {
            d.parse_std(&node, "an address and a port, as in 127.0.0.1:9467, 0.0.0.0:9467 or [::]:9467")
        }),
        log: fields.get("log").and_then(|node| log(d, &node)).unwrap_or_default(),
        timings: fields.get("timings").and_then(|node| timings(d, &node, default_timings)).unwrap_or(default_timings),
        probing: fields.get("probing").and_then(|node| probing(d, &node)).unwrap_or_default(),
        services: fields.get("services").and_then(|node| services(d, &node)).unwrap_or_default(),
        run_dir: run_dir(d, &fields).unwrap_or(default.run_dir),
        state_dir,
        cni_conf_dir: fields.get("cniConfDir").and_then(|node| path(d, &node)).unwrap_or(default.cni_conf_dir),
    })
}

pub(super) fn path(d: &mut Decoder, node: &Node<'_>) -> Option<PathBuf> {
    const ACCEPTED: &str = "an absolute path without '..' and control characters";
    let text = d.text(node, ACCEPTED)?;
    let ok = text.starts_with('/') && !text.chars().any(char::is_control) && text.split('/').all(|part| part != "..");
    if !ok {
        d.fault(&node.path, shown(text), ACCEPTED);
    }
    ok.then(|| PathBuf::from(text))
}

fn run_dir(d: &mut Decoder, fields: &Fields<'_>) -> Option<PathBuf> {
    let node = fields.get("runDir")?;
    let dir = path(d, &node)?;
    let longest = LONGEST_SOCKET - LONGEST_SOCKET_NAME;
    if dir.as_os_str().len() > longest {
        let found = format!("a path of {} bytes", dir.as_os_str().len());
        d.fault(&node.path, found, format!("at most {longest} bytes: sockets are in it"));
    }
    Some(dir)
}

fn store(d: &mut Decoder, node: &Node<'_>) -> Option<StoreConfig> {
    const ACCEPTED: &str = "{embedded: {path: FILE}}, {embedded: {socket: SOCKET}}, {etcd: {endpoints: [URL, …]}} or {kubernetes: {kubeconfig: FILE}}";
    let Tree::Map(_) = node.tree else {
        d.fault(&node.path, node.tree, ACCEPTED);
        return None;
    };
    let fields = d.map(node, &["embedded", "etcd", "kubernetes"])?;
    let named: Vec<&str> =
        ["embedded", "etcd", "kubernetes"].into_iter().filter(|name| node.tree.get(name).is_some()).collect();
    if named.len() > 1 {
        let found = if named.len() == 2 { format!("both {}", named.join(" and ")) } else { named.join(", ") };
        d.fault(&node.path, found, ACCEPTED);
        return None;
    }
    if let Some(etcd) = fields.get("etcd") {
        return etcd::etcd(d, &etcd).map(|etcd| StoreConfig::Etcd(Box::new(etcd)));
    }
    // Without a further word it is the service account of the agent's pod.
    if let Some(tree) = node.tree.get("kubernetes") {
        let kubernetes = kubernetes::kubernetes(d, &node.field("kubernetes", tree))?;
        return Some(StoreConfig::Kubernetes(Box::new(kubernetes)));
    }
    let embedded = d.required(&fields, "embedded", ACCEPTED)?;
    let fields = d.map(&embedded, &["path", "socket"])?;
    match (fields.get("path"), fields.get("socket")) {
        (Some(node), None) => Some(StoreConfig::Embedded { path: path(d, &node)? }),
        (None, Some(node)) => {
            let socket = path(d, &node)?;
            if socket.as_os_str().len() > LONGEST_SOCKET {
                let found = format!("a path of {} bytes", socket.as_os_str().len());
                d.fault(&node.path, found, format!("at most {LONGEST_SOCKET} bytes, as for every socket"));
            }
            Some(StoreConfig::EmbeddedSocket { socket })
        }
        (Some(_), Some(_)) => {
            d.fault(&embedded.path, "both path and socket", ACCEPTED);
            None
        }
        (None, None) => {
            d.fault(&embedded.path, "neither path nor socket", ACCEPTED);
            None
        }
    }
}

fn uplink(d: &mut Decoder, node: &Node<'_>) -> Option<UplinkConfig> {
    let fields = d.map(node, &["interface", "addresses"])?;
    let interface: Option<IfName> = fields.get("interface").and_then(|node| d.parse(&node, "an interface's name"));
    let mut addresses: Vec<IpAddr> = Vec::new();
    let items = fields.get("addresses").map(|node| d.list(&node, "addresses, at most one a family"));
    for item in items.unwrap_or_default() {
        let Some(address) = d.parse_std::<IpAddr>(&item, "an IPv4 or IPv6 address") else { continue };
        if let Some(why) = unfit_for_peers(address) {
            d.fault(&item.path, format!("{address}, {why}"), "an address at which other nodes reach this one");
        }
        match addresses.iter().find(|other| Family::of(**other) == Family::of(address)) {
            Some(first) => {
                let accepted = format!("at most one {} address; {first} stands before", Family::of(address));
                d.fault(&item.path, address, accepted);
            }
            None => addresses.push(address),
        }
    }
    Some(UplinkConfig { interface, addresses })
}

/// Why peers cannot reach a node at an address.
pub(crate) fn unfit_for_peers(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ if link_local => Some("a link-local address"),
        _ => None,
    }
}

fn pod_cidrs(d: &mut Decoder, node: &Node<'_>) -> Vec<Prefix> {
    let mut cidrs: Vec<Prefix> = Vec::new();
    for item in d.list(node, "address ranges of this node") {
        let Some(cidr) = d.parse::<Prefix>(&item, "an address range, as in 10.244.1.0/24") else { continue };
        let longest = super::rules::longest_node_range(cidr.family());
        if cidr.len() > longest {
            d.fault(&item.path, cidr, format!("a range of at most /{longest}"));
        }
        if let Some(first) = cidrs.iter().find(|other| other.overlaps(&cidr)) {
            d.fault(&item.path, cidr, format!("a range that does not overlap {first}, which stands before"));
        }
        cidrs.push(cidr);
    }
    cidrs
}

/// Networks, each a document of its own or Flannel's.
fn networks(d: &mut Decoder, node: &Node<'_>) -> Vec<Network> {
    let mut networks = Vec::new();
    for item in d.list(node, "networks") {
        networks.extend(if flannel::is_net_conf(item.tree) {
            flannel::net_conf(d, &item, NetworkName::first())
        } else {
            network::inline_network(d, &item)
        });
    }
    if let Err(faults) = check_networks(&networks) {
        d.append(faults);
    }
    networks
}

fn log(d: &mut Decoder, node: &Node<'_>) -> Option<LogConfig> {
    let fields = d.map(node, &["format", "level"])?;
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let levels = levels.map(|level| (level.as_str(), level));
    Some(LogConfig {
        format: fields.get("format").and_then(|node| d.choice(&node, &formats, &[])).unwrap_or_default(),
        level: fields.get("level").and_then(|node| d.choice(&node, &levels, &[])).unwrap_or_default(),
    })
}

fn timings(d: &mut Decoder, node: &Node<'_>, default: Timings) -> Option<Timings> {
    let fields = d.map(node, &["aliveInterval", "staleAfter", "orphanInterval", "sweepInterval"])?;
    let mut read = |key: &str, otherwise: u64, least: u64, most: u64| {
        fields.get(key).and_then(|node| duration(d, &node, least, most)).unwrap_or(otherwise)
    };
    let timings = Timings {
        alive_interval: read("aliveInterval", default.alive_interval, 100, 60_000),
        stale_after: read("staleAfter", default.stale_after, 300, 3_600_000),
        orphan_interval: read("orphanInterval", default.orphan_interval, 100, 600_000),
        sweep_interval: read("sweepInterval", default.sweep_interval, 1_000, 86_400_000),
    };
    let least = timings.alive_interval.saturating_mul(3);
    if timings.stale_after < least {
        let accepted = format!("at least three times aliveInterval: {}", duration_text(least));
        d.fault(fields.path("staleAfter"), duration_text(timings.stale_after), accepted);
    }
    Some(timings)
}

fn probing(d: &mut Decoder, node: &Node<'_>) -> Option<ProbingConfig> {
    let fields = d.map(node, &["mtu", "checksum", "interval", "port"])?;
    let default = ProbingConfig::default();
    Some(ProbingConfig {
        mtu: fields.get("mtu").and_then(|node| d.bool(&node)).unwrap_or(default.mtu),
        checksum: fields.get("checksum").and_then(|node| d.bool(&node)).unwrap_or(default.checksum),
        interval: fields.get("interval").and_then(|node| duration(d, &node, 100, 60_000)).unwrap_or(default.interval),
        port: fields.get("port").and_then(|node| d.number(&node, 1..=65_535)).unwrap_or(default.port),
    })
}

fn services(d: &mut Decoder, node: &Node<'_>) -> Option<ServicesConfig> {
    const FIELDS: &[&str] = &[
        "proxy",
        "iptablesBackend",
        "nodePortAddresses",
        "externalIPs",
        "masqueradeAll",
        "serviceCIDRs",
        "conntrack",
        "detectLocal",
        "healthzListen",
        "statusListen",
        "proxyName",
        "ipvs",
    ];
    let fields = d.map(node, FIELDS)?;
    let default = ServicesConfig::default();
    let proxies =
        [("none", Proxy::None), ("nftables", Proxy::Nftables), ("iptables", Proxy::Iptables), ("ipvs", Proxy::Ipvs)];
    let backends = [("auto", IptablesChoice::Auto), ("legacy", IptablesChoice::Legacy), ("nft", IptablesChoice::Nft)];
    let config = ServicesConfig {
        proxy: fields.get("proxy").and_then(|node| d.choice(&node, &proxies, &[])).unwrap_or_default(),
        iptables_backend: fields
            .get("iptablesBackend")
            .and_then(|node| d.choice(&node, &backends, &[]))
            .unwrap_or_default(),
        node_port_addresses: fields
            .get("nodePortAddresses")
            .map(|node| node_port_addresses(d, &node))
            .unwrap_or_default(),
        external_ips: fields.get("externalIPs").and_then(|node| d.bool(&node)).unwrap_or_default(),
        masquerade_all: fields.get("masqueradeAll").and_then(|node| d.bool(&node)).unwrap_or_default(),
        service_cidrs: fields.get("serviceCIDRs").map(|node| prefixes(d, &node)).unwrap_or_default(),
        conntrack: fields.get("conntrack").and_then(|node| conntrack(d, &node)).unwrap_or_default(),
        detect_local: fields.get("detectLocal").and_then(|node| detect_local(d, &node)).unwrap_or_default(),
        healthz_listen: fields.get("healthzListen").map_or(default.healthz_listen, |node| listen(d, &node)),
        status_listen: fields.get("statusListen").map_or(default.status_listen, |node| listen(d, &node)),
        proxy_name: fields.get("proxyName").and_then(|node| {
            const ACCEPTED: &str = "a label's value: letters, digits, '-', '_' and '.', at most 63";
            let text = d.text(&node, ACCEPTED)?;
            let ok = (1..=63).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            if !ok {
                d.fault(&node.path, shown(text), ACCEPTED);
            }
            ok.then(|| text.to_owned())
        }),
        ipvs: fields.get("ipvs").and_then(|node| ipvs(d, &node)).unwrap_or_default(),
    };
    if let Some(addresses) = fields.get("nodePortAddresses").filter(|_| config.proxy == Proxy::Ipvs)
        && config.node_port_addresses.localhost
    {
        d.fault(
            &addresses.path,
            "localhost",
            "with ipvs, which sends nothing on from loopback addresses: primary, all, or ranges",
        );
    }
    Some(config)
}

fn ipvs(d: &mut Decoder, node: &Node<'_>) -> Option<IpvsConfig> {
    use IpvsScheduler::{Lc, Mh, Rr, Sh, Wrr};
    let fields = d.map(node, &["scheduler", "strictARP"])?;
    let schedulers = [Rr, Wrr, Lc, Sh, Mh].map(|scheduler| (scheduler.as_str(), scheduler));
    Some(IpvsConfig {
        scheduler: fields.get("scheduler").and_then(|node| d.choice(&node, &schedulers, &[])).unwrap_or_default(),
        strict_arp: fields.get("strictARP").and_then(|node| d.bool(&node)).unwrap_or_default(),
    })
}

/// A word, or a list of words and ranges.
fn node_port_addresses(d: &mut Decoder, node: &Node<'_>) -> NodePortAddresses {
    const ACCEPTED: &str = "primary, all, localhost, or an address range as in 192.0.2.0/24";
    let mut addresses = NodePortAddresses { primary: false, ..NodePortAddresses::default() };
    let mut take = |d: &mut Decoder, item: &Node<'_>| match d.text(item, ACCEPTED) {
        Some("primary") => addresses.primary = true,
        Some("all") => addresses.all = true,
        Some("localhost") => addresses.localhost = true,
        Some(text) => match text.parse() {
            Ok(range) => addresses.ranges.push(range),
            Err(_) => d.fault(&item.path, shown(text), ACCEPTED),
        },
        None => {}
    };
    match node.tree {
        Tree::List(_) => d.list(node, ACCEPTED).iter().for_each(|item| take(d, item)),
        _ => take(d, node),
    }
    addresses
}

fn conntrack(d: &mut Decoder, node: &Node<'_>) -> Option<ConntrackConfig> {
    const FIELDS: &[&str] = &[
        "maxPerCore",
        "min",
        "tcpEstablishedTimeout",
        "tcpCloseWaitTimeout",
        "tcpBeLiberal",
        "udpTimeout",
        "udpStreamTimeout",
    ];
    /// A month: who wants more wants no end.
    const LONGEST: u64 = 30 * 86_400_000;
    let fields = d.map(node, FIELDS)?;
    let default = ConntrackConfig::default();
    let mut time = |key: &str, otherwise: u64| {
        fields.get(key).and_then(|node| duration(d, &node, 0, LONGEST)).unwrap_or(otherwise)
    };
    let times = [
        time("tcpEstablishedTimeout", default.tcp_established_timeout),
        time("tcpCloseWaitTimeout", default.tcp_close_wait_timeout),
        time("udpTimeout", default.udp_timeout),
        time("udpStreamTimeout", default.udp_stream_timeout),
    ];
    let mut count =
        |key: &str, otherwise: u32| fields.get(key).and_then(|node| d.number(&node, 0..=1 << 30)).unwrap_or(otherwise);
    Some(ConntrackConfig {
        max_per_core: count("maxPerCore", default.max_per_core),
        min: count("min", default.min),
        tcp_established_timeout: times[0],
        tcp_close_wait_timeout: times[1],
        tcp_be_liberal: fields.get("tcpBeLiberal").and_then(|node| d.bool(&node)).unwrap_or(default.tcp_be_liberal),
        udp_timeout: times[2],
        udp_stream_timeout: times[3],
    })
}

/// A word, or one of several maps.
fn detect_local(d: &mut Decoder, node: &Node<'_>) -> Option<DetectLocal> {
    const ACCEPTED: &str = "nodeRanges, {clusterCIDR: [RANGE, …]}, {bridge: LINK} or {interfacePrefix: TEXT}";
    let Tree::Map(_) = node.tree else {
        if d.text(node, ACCEPTED)? == "nodeRanges" {
            return Some(DetectLocal::NodeRanges);
        }
        d.fault(&node.path, node.tree, ACCEPTED);
        return None;
    };
    let fields = d.map(node, &["clusterCIDR", "bridge", "interfacePrefix"])?;
    match (fields.get("clusterCIDR"), fields.get("bridge"), fields.get("interfacePrefix")) {
        (Some(node), None, None) => Some(DetectLocal::ClusterCidr(prefixes(d, &node))),
        (None, Some(node), None) => d.parse(&node, "a link's name").map(DetectLocal::Bridge),
        (None, None, Some(node)) => d.parse(&node, "what links' names begin with").map(DetectLocal::InterfacePrefix),
        _ => {
            d.fault(&node.path, node.tree, ACCEPTED);
            None
        }
    }
}

/// One address with its port, or several.
fn listen(d: &mut Decoder, node: &Node<'_>) -> Vec<SocketAddr> {
    const ACCEPTED: &str = "an address and a port, as in 0.0.0.0:10256 or [::]:10256, or a list of them";
    match node.tree {
        Tree::List(_) => d.list(node, ACCEPTED).iter().filter_map(|item| d.parse_std(item, ACCEPTED)).collect(),
        _ => d.parse_std(node, ACCEPTED).into_iter().collect(),
    }
}

fn prefixes(d: &mut Decoder, node: &Node<'_>) -> Vec<Prefix> {
    let items = d.list(node, "address ranges");
    items.iter().filter_map(|item| d.parse(item, "an address range, as in 10.96.0.0/16")).collect()
}

/// Milliseconds as the largest unit that is exact.
pub(crate) fn duration_text(ms: u64) -> String {
    match ms {
        ms if ms > 0 && ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        ms if ms > 0 && ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

pub(super) fn duration(d: &mut Decoder, node: &Node<'_>, least: u64, most: u64) -> Option<u64> {
    let accepted = format!("a number with ms, s, m or h, from {} to {}", duration_text(least), duration_text(most));
    let text = d.text(node, &accepted)?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let count = digits.parse::<u64>().ok().filter(|_| plain);
    let ms = unit.zip(count).and_then(|(unit, count)| count.checked_mul(unit)).filter(|ms| (least..=most).contains(ms));
    if ms.is_none() {
        d.fault(&node.path, shown(text), accepted);
    }
    ms
}
