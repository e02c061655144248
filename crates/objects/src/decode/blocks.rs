//! The map `blocks` of a network: how its nodes claim addresses on demand.

use ripstop_types::{Family, Labels, Prefix};

use super::network::{RANGE, list_of_ranges};
use super::rules::RESERVED;
use super::{Decoder, Fields, Node};
use crate::{Blocks, NetworkSpec, NodeRangeLen, Pool, RangeMode, Ranges, Wiring};

/// Lengths of blocks, as Calico has them: with longer ones a node would hold few addresses for many records, with shorter
/// ones most addresses would lie idle.
const LENGTHS_V4: (u8, u8) = (20, 32);
const LENGTHS_V6: (u8, u8) = (116, 128);

/// The map, complete with defaults in mode `blocks`; none in every other mode.
pub(super) fn blocks(d: &mut Decoder, spec: &Fields<'_>, mode: RangeMode, ranges: Ranges) -> Option<Blocks> {
    let node = spec.get("blocks");
    if mode != RangeMode::Blocks {
        if let Some(node) = node {
            d.fault(&node.path, "a map", "nothing: only rangeMode blocks has blocks");
        }
        return None;
    }
    let mut blocks = Blocks {
        len: NodeRangeLen { v4: 26, v6: 122 },
        max_per_node: 20,
        strict_affinity: false,
        node_ranges: Ranges::default(),
        pools: Vec::new(),
    };
    if let Some(fields) =
        node.and_then(|node| d.map(&node, &["len", "maxPerNode", "strictAffinity", "nodeRanges", "pools"]))
    {
        if let Some(len) = fields.get("len") {
            blocks.len = lengths(d, &len, blocks.len);
        }
        if let Some(most) = fields.get("maxPerNode").and_then(|node| d.number(&node, 1..=1_000_000)) {
            blocks.max_per_node = most;
        }
        if let Some(strict) = fields.get("strictAffinity").and_then(|node| d.bool(&node)) {
            blocks.strict_affinity = strict;
        }
        if let Some(list) = fields.get("nodeRanges") {
            blocks.node_ranges = list_of_ranges(d, &list);
        }
        if let Some(list) = fields.get("pools") {
            let items = d.list(&list, "a list of pools, each with a range");
            blocks.pools = items.iter().filter_map(|item| pool(d, item)).collect();
        }
    }
    let of =
        |family| blocks.node_ranges.get(family).or_else(|| default_nodes(ranges.get(family)?, blocks.len.get(family)));
    blocks.node_ranges = Ranges { v4: of(Family::V4), v6: of(Family::V6) };
    Some(blocks)
}

/// Where nothing is said, the nodes' own addresses are the last 64th of the range, at least a block.
fn default_nodes(range: Prefix, block: u8) -> Option<Prefix> {
    let len = range.len().saturating_add(6).min(block).max(range.len() + 1);
    range.subnet(len, range.count_of(len).checked_sub(1)?)
}

fn lengths(d: &mut Decoder, node: &Node<'_>, default: NodeRangeLen) -> NodeRangeLen {
    let Some(fields) = d.map(node, &["v4", "v6"]) else { return default };
    let mut length = |key, (shortest, longest): (u8, u8), otherwise| {
        let bounds = u64::from(shortest)..=u64::from(longest);
        fields.get(key).and_then(|node| d.number(&node, bounds)).unwrap_or(otherwise)
    };
    NodeRangeLen { v4: length("v4", LENGTHS_V4, default.v4), v6: length("v6", LENGTHS_V6, default.v6) }
}

fn pool(d: &mut Decoder, node: &Node<'_>) -> Option<Pool> {
    const NAMESPACES: &str = "names of namespaces";
    let fields = d.map(node, &["range", "namespaces", "labels"])?;
    let range = d.required(&fields, "range", RANGE).and_then(|node| d.parse::<Prefix>(&node, RANGE));
    let mut namespaces = Vec::new();
    if let Some(list) = fields.get("namespaces") {
        for item in d.list(&list, NAMESPACES) {
            let Some(name) = d.text(&item, NAMESPACES) else { continue };
            if name.contains('.') || ripstop_types::validate_dns_name("a namespace", name).is_err() {
                let accepted = "lower-case letters, digits and '-', at most 63, first and last a letter or digit";
                d.fault(&item.path, super::tree::shown(name), accepted);
            }
            namespaces.push(name.to_owned());
        }
    }
    namespaces.sort();
    namespaces.dedup();
    let labels: Labels = fields.get("labels").map(|node| d.labels(&node)).unwrap_or_default();
    Some(Pool { range: range?, namespaces, labels })
}

/// Checks the map against the rest of the network. `spec` is where the author wrote it.
pub(super) fn check(d: &mut Decoder, fields: &Fields<'_>, spec: &NetworkSpec) {
    let Some(blocks) = &spec.blocks else { return };
    let at = |field: &str| super::join(fields.path("blocks"), field);
    if spec.wiring != Wiring::Routed {
        let accepted = "routed: the addresses of a node in rangeMode blocks are no subnet for a bridge";
        d.fault(fields.path("wiring"), spec.wiring.as_str(), accepted);
    }
    for (n, pool) in blocks.pools.iter().enumerate() {
        check_pool(d, spec, n, pool, &at(&format!("pools[{n}].range")));
    }
    for family in spec.families() {
        let key = if family == Family::V4 { "v4" } else { "v6" };
        let len = blocks.len.get(family);
        let least = spec.pools(family).map(|pool| pool.range).max_by_key(Prefix::len);
        if let Some(pool) = least.filter(|pool| len < pool.len()) {
            let longest = family.bits();
            d.fault(
                at(&format!("len.{key}")),
                len,
                format!("{} to {longest}, so that a block fits into {pool}", pool.len()),
            );
        }
    }
    check_nodes(d, spec, blocks, &at("nodeRanges"));
}

fn check_pool(d: &mut Decoder, spec: &NetworkSpec, n: usize, pool: &Pool, path: &str) {
    let family = pool.range.family();
    if spec.ranges.get(family).is_none() {
        d.fault(path, pool.range, format!("a range in a family of the network, which has no {family}"));
    }
    // The network's own range comes before the further pools.
    let mut before = spec
        .ranges
        .get(family)
        .into_iter()
        .chain(spec.blocks.iter().flat_map(|blocks| &blocks.pools).take(n).map(|other| other.range));
    if let Some(other) = before.find(|other| other.overlaps(&pool.range)) {
        d.fault(path, pool.range, format!("a range that shares no address with {other}"));
    }
    check_reserved(d, pool.range, path);
}

fn check_nodes(d: &mut Decoder, spec: &NetworkSpec, blocks: &Blocks, path: &str) {
    for family in Family::BOTH {
        match (spec.ranges.get(family), blocks.node_ranges.get(family)) {
            (Some(range), None) => {
                d.fault(
                    path,
                    "nothing",
                    format!("a {family} range for the nodes' own addresses: {range} has no room for them"),
                );
            }
            (None, Some(nodes)) => {
                d.fault(path, nodes, format!("a range in a family of the network, which has no {family}"));
            }
            (Some(_), Some(nodes)) => {
                if let Some(pool) = spec.pools(family).map(|pool| pool.range).find(|pool| nodes.covers(pool)) {
                    d.fault(path, nodes, format!("a range that leaves addresses of {pool} to pods"));
                }
                check_reserved(d, nodes, path);
            }
            (None, None) => {}
        }
    }
}

fn check_reserved(d: &mut Decoder, range: Prefix, path: &str) {
    for (reserved, purpose) in RESERVED {
        let Ok(reserved) = reserved.parse::<Prefix>() else { continue };
        if reserved.overlaps(&range) {
            d.fault(path, range, format!("a range that does not overlap {reserved}, {purpose}"));
        }
    }
}
