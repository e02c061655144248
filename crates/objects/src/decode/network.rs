//! The document of a network.

use ripstop_types::{Family, Labels, NodeName, Prefix};

use super::blocks;
use super::rules::{self, Field};
use super::tree::Tree;
use super::{Decoder, Fields, Node};
use crate::{
    API_VERSION, Backend, BackendKind, Bounds, Masquerade, Migration, Network, NetworkName, NetworkSpec, NodeRangeLen,
    RangeMode, Ranges, ToNodes, Wiring,
};

pub(super) const RANGE: &str = "an address range, as in 10.244.0.0/16 or fd00:10:244::/48";

/// How a network calls itself before it is decoded, for faults: `network/default`, else `otherwise`.
pub(crate) fn object_name(tree: &Tree, otherwise: &str) -> String {
    match tree.text_at(&["metadata", "name"]).and_then(|name| name.parse::<NetworkName>().ok()) {
        Some(name) => format!("network/{name}"),
        None => otherwise.into(),
    }
}

/// A whole network, with apiVersion, kind, metadata and spec.
pub(crate) fn network(d: &mut Decoder, node: &Node<'_>) -> Option<Network> {
    let fields = d.map(node, NETWORK_FIELDS)?;
    d.required(&fields, "apiVersion", API_VERSION);
    d.required(&fields, "kind", "Network");
    body(d, &fields)
}

/// A network where nothing else can stand: apiVersion and kind may be left out.
pub(crate) fn inline_network(d: &mut Decoder, node: &Node<'_>) -> Option<Network> {
    let fields = d.map(node, NETWORK_FIELDS)?;
    body(d, &fields)
}

const NETWORK_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

fn body(d: &mut Decoder, fields: &Fields<'_>) -> Option<Network> {
    header(d, fields, "Network");
    let metadata = d.required(fields, "metadata", "a map with name").and_then(|node| metadata(d, &node));
    let spec = d.required(fields, "spec", "a map with ranges").and_then(|node| spec(d, &node));
    let migration = fields.get("status").and_then(|node| status(d, &node));
    let ((name, labels), spec) = (metadata?, spec?);
    Some(Network { name, labels, spec, migration })
}

/// What the nodes keep beside what is wanted.
fn status(d: &mut Decoder, node: &Node<'_>) -> Option<Migration> {
    const NAMES: &str = "names of nodes";
    let fields = d.map(node, &["migration"])?;
    let node = fields.get("migration")?;
    let fields = d.map(&node, &["from", "paused", "skip"])?;
    let from = d.required(&fields, "from", "the backend that is left")?;
    let skip = match fields.get("skip") {
        Some(node) => d.list(&node, NAMES).iter().filter_map(|item| d.parse::<NodeName>(item, NAMES)).collect(),
        None => std::collections::BTreeSet::new(),
    };
    Some(Migration {
        from: d.choice(&from, &BACKENDS, LATER_BACKENDS)?,
        paused: fields.get("paused").and_then(|node| d.bool(&node)).unwrap_or_default(),
        skip,
    })
}

/// Checks apiVersion and kind where they are given.
pub(crate) fn header(d: &mut Decoder, fields: &Fields<'_>, kind: &'static str) {
    if let Some(version) = fields.get("apiVersion") {
        d.choice(&version, &[(API_VERSION, ())], &[]);
    }
    if let Some(node) = fields.get("kind") {
        d.choice(&node, &[(kind, ())], &[]);
    }
}

fn metadata(d: &mut Decoder, node: &Node<'_>) -> Option<(NetworkName, Labels)> {
    let fields = d.map(node, &["name", "labels"])?;
    let labels = fields.get("labels").map(|node| d.labels(&node)).unwrap_or_default();
    let name = d.required(&fields, "name", "the network's name")?;
    Some((d.parse(&name, "the network's name")?, labels))
}

const SPEC_FIELDS: &[&str] = &[
    "ranges",
    "rangeMode",
    "nodeRangeLen",
    "rangeMin",
    "rangeMax",
    "exclude",
    "blocks",
    "cooldownSeconds",
    "wiring",
    "backend",
    "masquerade",
];

fn spec(d: &mut Decoder, node: &Node<'_>) -> Option<NetworkSpec> {
    let fields = d.map(node, SPEC_FIELDS)?;
    let ranges = ranges(d, &fields);
    let modes = [("lease", RangeMode::Lease), ("pod-cidr", RangeMode::PodCidr), ("blocks", RangeMode::Blocks)];
    let range_mode = fields.get("rangeMode").and_then(|n| d.choice(&n, &modes, &[])).unwrap_or_default();
    let wirings = [("routed", Wiring::Routed), ("bridge", Wiring::Bridge)];
    let mut exclude: Vec<Prefix> = match fields.get("exclude") {
        Some(node) => d.list(&node, RANGE).iter().filter_map(|item| d.parse(item, RANGE)).collect(),
        None => Vec::new(),
    };
    exclude.sort();
    exclude.dedup();
    let spec = NetworkSpec {
        ranges,
        range_mode,
        node_range_len: fields
            .get("nodeRangeLen")
            .map_or_else(|| rules::default_node_range_len(ranges), |n| node_range_len(d, &n, ranges)),
        range_min: fields.get("rangeMin").map(|n| bounds(d, &n)).unwrap_or_default(),
        range_max: fields.get("rangeMax").map(|n| bounds(d, &n)).unwrap_or_default(),
        exclude,
        blocks: blocks::blocks(d, &fields, range_mode, ranges),
        cooldown: fields
            .get("cooldownSeconds")
            .and_then(|n| d.number(&n, 0..=86_400))
            .unwrap_or(crate::DEFAULT_COOLDOWN),
        wiring: fields.get("wiring").and_then(|n| d.choice(&n, &wirings, &["underlay"])).unwrap_or_default(),
        backend: fields.get("backend").and_then(|n| backend(d, &n, ranges)).unwrap_or_default(),
        masquerade: fields.get("masquerade").and_then(|n| masquerade(d, &n)).unwrap_or_default(),
    };
    rules::check_spec(d, &spec, |field| field_path(&fields, field));
    blocks::check(d, &fields, &spec);
    Some(spec)
}

/// Where the author of the document wrote a field.
fn field_path(fields: &Fields<'_>, field: Field) -> String {
    let family = |name, family| super::join(fields.path(name), if family == Family::V4 { "v4" } else { "v6" });
    let item = |name, wanted: &dyn Fn(Prefix) -> bool| {
        let is_wanted = |tree: &Tree| matches!(tree, Tree::Text(text) if text.parse().is_ok_and(wanted));
        let index = match fields.get(name).map(|node| node.tree) {
            Some(Tree::List(items)) => items.iter().position(is_wanted),
            _ => None,
        };
        index.map_or_else(|| fields.path(name), |index| format!("{}[{index}]", fields.path(name)))
    };
    match field {
        Field::Range(family) => item("ranges", &|range| range.family() == family),
        Field::Exclude(exclude) => item("exclude", &|range| range == exclude),
        Field::NodeRangeLen(f) => family("nodeRangeLen", f),
        Field::RangeMin(f) => family("rangeMin", f),
        Field::RangeMax(f) => family("rangeMax", f),
    }
}

fn ranges(d: &mut Decoder, fields: &Fields<'_>) -> Ranges {
    let Some(list) = d.required(fields, "ranges", "a list of at most one range a family, as in [10.244.0.0/16]") else {
        return Ranges::default();
    };
    list_of_ranges(d, &list)
}

/// At least one range, at most one a family.
pub(super) fn list_of_ranges(d: &mut Decoder, list: &Node<'_>) -> Ranges {
    let mut ranges = Ranges::default();
    let items = d.list(list, "at most one range a family, as in [10.244.0.0/16]");
    if items.is_empty() && *list.tree == Tree::List(Vec::new()) {
        d.fault(&list.path, "an empty list", "a range in at least one family, as in [10.244.0.0/16]");
    }
    for item in items {
        let Some(range) = d.parse::<Prefix>(&item, RANGE) else { continue };
        let place = match range.family() {
            Family::V4 => &mut ranges.v4,
            Family::V6 => &mut ranges.v6,
        };
        match *place {
            None => *place = Some(range),
            Some(first) => {
                let accepted = format!("at most one {} range; {first} stands before", range.family());
                d.fault(&item.path, range, accepted);
            }
        }
    }
    ranges
}

fn node_range_len(d: &mut Decoder, node: &Node<'_>, ranges: Ranges) -> NodeRangeLen {
    let default = rules::default_node_range_len(ranges);
    let Some(fields) = d.map(node, &["v4", "v6"]) else { return default };
    let mut length =
        |key, longest, otherwise| fields.get(key).and_then(|node| d.number(&node, 1..=longest)).unwrap_or(otherwise);
    NodeRangeLen { v4: length("v4", 30, default.v4), v6: length("v6", 126, default.v6) }
}

fn bounds(d: &mut Decoder, node: &Node<'_>) -> Bounds {
    let Some(fields) = d.map(node, &["v4", "v6"]) else { return Bounds::default() };
    Bounds {
        v4: fields.get("v4").and_then(|node| d.parse_std(&node, "an IPv4 address")),
        v6: fields.get("v6").and_then(|node| d.parse_std(&node, "an IPv6 address")),
    }
}

const BACKENDS: [(&str, BackendKind); 7] = [
    ("auto", BackendKind::Auto),
    ("host-gw", BackendKind::HostGw),
    ("vxlan", BackendKind::Vxlan),
    ("udp", BackendKind::Udp),
    ("ipip", BackendKind::Ipip),
    ("ipip-cross-subnet", BackendKind::IpipCrossSubnet),
    ("bgp", BackendKind::Bgp),
];
const LATER_BACKENDS: &[&str] = &["wireguard"];

/// A map, or the backend's name alone.
fn backend(d: &mut Decoder, node: &Node<'_>, ranges: Ranges) -> Option<Backend> {
    let mut backend = Backend::default();
    if let Tree::Text(_) = node.tree {
        backend.kind = d.choice(node, &BACKENDS, LATER_BACKENDS)?;
        return Some(backend);
    }
    let fields = d.map(node, &["type", "vni", "port", "udpPort", "learning", "mtu"])?;
    if let Some(kind) = fields.get("type").and_then(|node| d.choice(&node, &BACKENDS, LATER_BACKENDS)) {
        backend.kind = kind;
    }
    if let Some(vni) = fields.get("vni").and_then(|node| d.number(&node, rules::VNI)) {
        backend.vni = vni;
    }
    let mut port = |key| fields.get(key).and_then(|node| d.number(&node, 1..=65535));
    match (port("port"), port("udpPort")) {
        // Of the type udp it is the port that is meant, unless the other is named too.
        (Some(port), None) if backend.kind == BackendKind::Udp => backend.udp_port = port,
        (port, udp_port) => {
            backend.port = port.unwrap_or(backend.port);
            backend.udp_port = udp_port.unwrap_or(backend.udp_port);
        }
    }
    if let Some(node) = fields.get("learning")
        && d.bool(&node) == Some(true)
    {
        d.fault(&node.path, "true", "false: forwarding entries come from the nodes' records alone");
    }
    backend.mtu = fields.get("mtu").and_then(|node| d.number(&node, rules::mtu(ranges)));
    Some(backend)
}

/// A map, or true or false alone.
fn masquerade(d: &mut Decoder, node: &Node<'_>) -> Option<Masquerade> {
    let mut masquerade = Masquerade::default();
    if let Tree::Bool(enabled) = node.tree {
        masquerade.enabled = *enabled;
        return Some(masquerade);
    }
    let fields = d.map(node, &["enabled", "toNodes"])?;
    if let Some(enabled) = fields.get("enabled").and_then(|node| d.bool(&node)) {
        masquerade.enabled = enabled;
    }
    let words = [("auto", ToNodes::Auto), ("always", ToNodes::Always), ("never", ToNodes::Never)];
    if let Some(to_nodes) = fields.get("toNodes").and_then(|node| d.choice(&node, &words, &[])) {
        masquerade.to_nodes = to_nodes;
    }
    Some(masquerade)
}
