//! Flannel's `net-conf.json` as a network (flannel, Documentation/configuration.md and pkg/subnet/config.go).

use ripstop_types::{Family, Labels, Prefix};

use super::rules::{self, Field};
use super::tree::Tree;
use super::{Decoder, Fields, Node};
use crate::{Backend, BackendKind, Bounds, Network, NetworkName, NetworkSpec, NodeRangeLen, Ranges};

/// Whether a document is a `net-conf.json`: no kind of ours has these keys.
pub(crate) fn is_net_conf(tree: &Tree) -> bool {
    tree.get("Network").is_some() || tree.get("IPv6Network").is_some()
}

const FIELDS: &[&str] = &[
    "Network",
    "IPv6Network",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Backend",
];

/// Flannel's names of the fields of one family.
struct Names {
    network: &'static str,
    enable: &'static str,
    len: &'static str,
    min: &'static str,
    max: &'static str,
}

fn names(family: Family) -> Names {
    match family {
        Family::V4 => {
            Names { network: "Network", enable: "EnableIPv4", len: "SubnetLen", min: "SubnetMin", max: "SubnetMax" }
        }
        Family::V6 => Names {
            network: "IPv6Network",
            enable: "EnableIPv6",
            len: "IPv6SubnetLen",
            min: "IPv6SubnetMin",
            max: "IPv6SubnetMax",
        },
    }
}

/// The network a `net-conf.json` describes.
pub(crate) fn net_conf(d: &mut Decoder, node: &Node<'_>, name: NetworkName) -> Option<Network> {
    let fields = d.map(node, FIELDS)?;
    if let Some(node) = fields.get("EnableNFTables")
        && d.bool(&node).is_some()
    {
        d.note(&node.path, "has no effect: rules are always written as nftables");
    }
    let ranges = Ranges { v4: range(d, &fields, Family::V4), v6: range(d, &fields, Family::V6) };
    if d.is_clean() && ranges.iter().next().is_none() {
        d.fault(fields.path("EnableIPv4"), "no family that is enabled", "EnableIPv4 or EnableIPv6 true");
    }
    let default = rules::default_node_range_len(ranges);
    let mut len = |family| {
        let longest = u64::from(rules::longest_node_range(family));
        // Flannel takes zero for "not given".
        let given = fields.get(names(family).len).filter(|node| *node.tree != Tree::Int(0));
        given.and_then(|node| d.number(&node, 1..=longest)).unwrap_or(default.get(family))
    };
    let node_range_len = NodeRangeLen { v4: len(Family::V4), v6: len(Family::V6) };
    // Without one Flannel means udp.
    let backend = match fields.get("Backend") {
        Some(node) => backend(d, &node, ranges),
        None => Backend { kind: BackendKind::Udp, ..Backend::default() },
    };
    let mut spec = NetworkSpec { node_range_len, backend, ..NetworkSpec::of(ranges) };
    spec.range_min = Bounds { v4: address(d, &fields, "SubnetMin"), v6: address(d, &fields, "IPv6SubnetMin") };
    spec.range_max = Bounds { v4: address(d, &fields, "SubnetMax"), v6: address(d, &fields, "IPv6SubnetMax") };
    drop_bounds_without_range(d, &fields, &mut spec);
    rules::check_spec(d, &spec, |field| match field {
        Field::Range(family) => fields.path(names(family).network),
        Field::NodeRangeLen(family) => fields.path(names(family).len),
        Field::RangeMin(family) => fields.path(names(family).min),
        Field::RangeMax(family) => fields.path(names(family).max),
        Field::Exclude(_) => String::new(),
    });
    skip_first_range(&mut spec);
    Some(Network { name, labels: Labels::new(), spec, migration: None })
}

/// The range of a family, if it is enabled. IPv4 is unless it says no, IPv6 only if it says yes.
fn range(d: &mut Decoder, fields: &Fields<'_>, family: Family) -> Option<Prefix> {
    let names = names(family);
    let enabled = match fields.get(names.enable) {
        Some(node) => d.bool(&node)?,
        None => family == Family::V4,
    };
    let accepted = match family {
        Family::V4 => "an IPv4 range, as in 10.244.0.0/16",
        Family::V6 => "an IPv6 range, as in fd00:10:244::/48",
    };
    if !enabled {
        if let Some(node) = fields.get(names.network) {
            d.note(&node.path, format!("has no effect: {} is not true", names.enable));
        }
        return None;
    }
    let node = d.required(fields, names.network, accepted)?;
    let range: Prefix = d.parse(&node, accepted)?;
    if range.family() != family {
        d.fault(&node.path, range, accepted);
        return None;
    }
    Some(range)
}

fn address<T: std::str::FromStr>(d: &mut Decoder, fields: &Fields<'_>, key: &str) -> Option<T> {
    let node = fields.get(key)?;
    d.parse_std(&node, if key.starts_with("IPv6") { "an IPv6 address" } else { "an IPv4 address" })
}

/// Bounds of a family that is off mean nothing to Flannel.
fn drop_bounds_without_range(d: &mut Decoder, fields: &Fields<'_>, spec: &mut NetworkSpec) {
    for family in Family::BOTH.into_iter().filter(|family| spec.ranges.get(*family).is_none()) {
        let names = names(family);
        for key in [names.min, names.max] {
            if let Some(node) = fields.get(key) {
                d.note(&node.path, format!("has no effect: the network has no {family}"));
            }
        }
        match family {
            Family::V4 => (spec.range_min.v4, spec.range_max.v4) = (None, None),
            Family::V6 => (spec.range_min.v6, spec.range_max.v6) = (None, None),
        }
    }
}

/// Flannel never gives the first range to a node unless SubnetMin says so.
fn skip_first_range(spec: &mut NetworkSpec) {
    for family in spec.families().collect::<Vec<_>>() {
        let len = spec.node_range_len.get(family);
        let second = spec.ranges.get(family).and_then(|range| range.subnet(len, 1)).map(|range| range.addr());
        match second {
            Some(std::net::IpAddr::V4(second)) => _ = spec.range_min.v4.get_or_insert(second),
            Some(std::net::IpAddr::V6(second)) => _ = spec.range_min.v6.get_or_insert(second),
            None => {}
        }
    }
}

const TYPES: [(&str, BackendKind); 3] =
    [("vxlan", BackendKind::Vxlan), ("host-gw", BackendKind::HostGw), ("udp", BackendKind::Udp)];
const OTHER_TYPES: &[&str] =
    &["ipip", "wireguard", "ipsec", "alloc", "extension", "tencent-vpc", "ali-vpc", "aws-vpc", "gce"];
const UDP_FIELDS: &[&str] = &["Type", "Port"];
const VXLAN_FIELDS: &[&str] = &["Type", "VNI", "Port", "DirectRouting", "Learning", "GBP", "MTU", "MacPrefix", "Name"];

fn backend(d: &mut Decoder, node: &Node<'_>, ranges: Ranges) -> Backend {
    let mut backend = Backend::default();
    // Fields differ by type; a refused type has none worth judging.
    let kind = node.tree.get("Type").filter(|tree| **tree != Tree::Null);
    let kind = match kind {
        Some(tree) => d.choice(&node.field("Type", tree), &TYPES, OTHER_TYPES),
        None => {
            d.fault(super::join(&node.path, "Type"), "nothing", "vxlan, host-gw, udp");
            None
        }
    };
    let Some(kind) = kind else { return backend };
    backend.kind = kind;
    let known = match kind {
        BackendKind::HostGw | BackendKind::Bgp => &VXLAN_FIELDS[..1],
        BackendKind::Udp => UDP_FIELDS,
        BackendKind::Vxlan | BackendKind::Auto | BackendKind::Ipip | BackendKind::IpipCrossSubnet => VXLAN_FIELDS,
    };
    let Some(fields) = d.map(node, known) else { return backend };
    if let Some(vni) = fields.get("VNI").and_then(|node| d.number(&node, rules::VNI)) {
        backend.vni = vni;
    }
    // Flannel takes zero for "the kernel's own", which is the default here too.
    let port = fields.get("Port").filter(|node| *node.tree != Tree::Int(0));
    if let Some(port) = port.and_then(|node| d.number(&node, 1..=65535)) {
        let place = if kind == BackendKind::Udp { &mut backend.udp_port } else { &mut backend.port };
        *place = port;
    }
    if fields.get("DirectRouting").and_then(|node| d.bool(&node)) == Some(true) {
        backend.kind = BackendKind::Auto;
    }
    backend.mtu = fields
        .get("MTU")
        .filter(|node| *node.tree != Tree::Int(0))
        .and_then(|node| d.number(&node, rules::mtu(ranges)));
    for (key, why) in [
        ("Learning", "false: forwarding entries come from the nodes' records alone"),
        ("GBP", "false: the group policy extension is not available"),
    ] {
        if let Some(node) = fields.get(key)
            && d.bool(&node) == Some(true)
        {
            d.fault(&node.path, "true", why);
        }
    }
    for key in ["MacPrefix", "Name"] {
        if let Some(node) = fields.get(key) {
            d.note(&node.path, "has no effect: it is for Windows");
        }
    }
    backend
}
