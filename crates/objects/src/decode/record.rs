//! Records of the store. They may come from a newer version: unknown fields and encapsulations are passed over.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_types::{Mac, Prefix, Revision};

use super::config::unfit_for_peers;
use super::tree::{Tree, shown};
use super::{Decoder, Fields, Node, rules};
use crate::{
    AliveRecord, ClaimState, Encapsulation, IpipReceive, NetworkName, NodeAddress, NodeIdentity, NodeRecord,
    RangeClaim, Receive, UdpReceive, VxlanReceive,
};

const NODE_FIELDS: &[&str] = &[
    "name",
    "identity",
    "addresses",
    "receives",
    "prefers",
    "forwarder",
    "podMtu",
    "probePort",
    "networks",
    "migrated",
    "version",
    "labels",
];

pub(crate) fn node_record(d: &mut Decoder, node: &Node<'_>) -> Option<NodeRecord> {
    let fields = d.map(node, NODE_FIELDS)?;
    let name = d.required(&fields, "name", "the node's name").and_then(|node| d.parse(&node, "the node's name"));
    let identity = d.required(&fields, "identity", "machineId and bootId").and_then(|node| identity(d, &node));
    let addresses = d.required(&fields, "addresses", "a list of addresses").map(|node| addresses(d, &node));
    let receives = d.required(&fields, "receives", "a list of what the node receives").map(|node| receives(d, &node));
    let prefers = fields.get("prefers").map(|node| prefers(d, &node)).unwrap_or_default();
    let networks = fields.get("networks").map(|node| revisions(d, &node)).unwrap_or_default();
    Some(NodeRecord {
        name: name?,
        identity: identity?,
        addresses: addresses?,
        receives: receives?,
        prefers,
        forwarder: fields.get("forwarder").and_then(|node| d.bool(&node)).unwrap_or_default(),
        pod_mtu: fields.get("podMtu").and_then(|node| d.number(&node, 576..=65535)),
        probe_port: fields.get("probePort").and_then(|node| d.number(&node, 1..=65_535)),
        networks,
        migrated: fields.get("migrated").map(|node| revisions(d, &node)).unwrap_or_default(),
        version: fields.get("version").and_then(|node| d.text(&node, "a version")).unwrap_or_default().into(),
        labels: fields.get("labels").map(|node| d.labels(&node)).unwrap_or_default(),
    })
}

pub(crate) fn range_claim(d: &mut Decoder, node: &Node<'_>) -> Option<RangeClaim> {
    let fields = d.map(node, &["network", "range", "node", "machine", "boot", "run", "state", "to", "holder"])?;
    let network = d.required(&fields, "network", "a network's name").and_then(|n| d.parse(&n, "a network's name"));
    let range = d.required(&fields, "range", "an address range").and_then(|n| d.parse(&n, "an address range"));
    let node = d.required(&fields, "node", "a node's name").and_then(|n| d.parse(&n, "a node's name"));
    let (machine, boot) = (id(d, &fields, "machine"), id(d, &fields, "boot"));
    let run = d.required(&fields, "run", "a number").and_then(|n| d.uint(&n, 0..=u64::MAX));
    let state = claim_state(d, &fields);
    Some(RangeClaim {
        network: network?,
        range: range?,
        node: node?,
        machine: machine?,
        boot: boot?,
        run: run?,
        state: state?,
        to: fields.get("to").and_then(|node| d.parse(&node, "a node's name")),
        holder: fields
            .get("holder")
            .and_then(|node| d.text(&node, "a pod"))
            .filter(|text| is_printable(text))
            .map(Into::into),
    })
}

fn claim_state(d: &mut Decoder, fields: &Fields<'_>) -> Option<ClaimState> {
    let accepted = ClaimState::ALL.map(|(word, _)| word).join(", ");
    let node = d.required(fields, "state", &accepted)?;
    let text = d.text(&node, &accepted)?;
    let found = ClaimState::ALL.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        d.fault(&node.path, shown(text), accepted);
    }
    found.map(|(_, state)| *state)
}

pub(crate) fn alive_record(d: &mut Decoder, node: &Node<'_>) -> Option<AliveRecord> {
    let fields = d.map(node, &["node", "sequence", "bootId"])?;
    let node = d.required(&fields, "node", "a node's name").and_then(|n| d.parse(&n, "a node's name"));
    let sequence = d.required(&fields, "sequence", "a number").and_then(|n| d.uint(&n, 0..=u64::MAX));
    let boot_id = id(d, &fields, "bootId");
    Some(AliveRecord { node: node?, sequence: sequence?, boot_id: boot_id? })
}

fn identity(d: &mut Decoder, node: &Node<'_>) -> Option<NodeIdentity> {
    let fields = d.map(node, &["machineId", "bootId"])?;
    let (machine_id, boot_id) = (id(d, &fields, "machineId"), id(d, &fields, "bootId"));
    Some(NodeIdentity { machine_id: machine_id?, boot_id: boot_id? })
}

/// Whether a text of another node may be shown: it is for people only.
fn is_printable(text: &str) -> bool {
    text.len() <= 400 && !text.chars().any(char::is_control)
}

/// A machine's or boot's id: it is compared, and may be printed and logged.
fn id(d: &mut Decoder, fields: &Fields<'_>, key: &str) -> Option<String> {
    const ACCEPTED: &str = "1 to 128 letters, digits, '-', '_' and '.'";
    let node = d.required(fields, key, ACCEPTED)?;
    let text = d.text(&node, ACCEPTED)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 128 || !text.chars().all(fits) {
        d.fault(&node.path, shown(text), ACCEPTED);
    }
    Some(text.into())
}

fn addresses(d: &mut Decoder, node: &Node<'_>) -> Vec<NodeAddress> {
    let mut addresses = Vec::new();
    for item in d.list(node, "addresses") {
        let Some(fields) = d.map(&item, &["ip", "prefix"]) else { continue };
        let ip = d.required(&fields, "ip", "an address").and_then(|n| d.parse_std::<IpAddr>(&n, "an address"));
        let prefix = d.required(&fields, "prefix", "its subnet").and_then(|n| d.parse::<Prefix>(&n, "its subnet"));
        let (Some(ip), Some(prefix)) = (ip, prefix) else { continue };
        if let Some(why) = unfit_for_peers(ip) {
            d.fault(fields.path("ip"), format!("{ip}, {why}"), "an address at which other nodes reach this one");
        }
        if !prefix.contains(ip) {
            d.fault(fields.path("prefix"), prefix, format!("a subnet that contains {ip}"));
        }
        addresses.push(NodeAddress { ip, prefix });
    }
    addresses
}

fn receives(d: &mut Decoder, node: &Node<'_>) -> Vec<Receive> {
    let mut receives = Vec::new();
    for item in d.list(node, "what the node receives") {
        match item.tree.text_at(&["type"]) {
            Some("plain") => receives.push(Receive::Plain),
            Some("vxlan") => receives.extend(vxlan(d, &item).map(Receive::Vxlan)),
            Some("udp") => receives.extend(udp(d, &item).map(Receive::Udp)),
            Some("ipip") => receives.extend(ipip(d, &item).map(Receive::Ipip)),
            Some(_) => {}
            None => {
                d.fault(
                    super::join(&item.path, "type"),
                    item.tree,
                    "a map with type, which is plain, vxlan, udp or ipip",
                );
            }
        }
    }
    receives
}

fn vxlan(d: &mut Decoder, node: &Node<'_>) -> Option<VxlanReceive> {
    let fields = d.map(node, &["type", "vni", "port", "mac", "outerV4", "outerV6", "innerV4", "innerV6"])?;
    let vni = d.required(&fields, "vni", "a number").and_then(|node| d.number(&node, rules::VNI));
    let port = d.required(&fields, "port", "a UDP port").and_then(|node| d.number(&node, 1..=65535));
    let mac = d.required(&fields, "mac", "a MAC address").and_then(|node| {
        let mac: Mac = d.parse(&node, "a MAC address")?;
        if !mac.is_unicast() {
            d.fault(&node.path, mac, "the MAC address of one station");
        }
        Some(mac)
    });
    let mut v4 = |key| fields.get(key).and_then(|node| d.parse_std::<Ipv4Addr>(&node, "an IPv4 address"));
    let (outer_v4, inner_v4) = (v4("outerV4"), v4("innerV4"));
    let mut v6 = |key| fields.get(key).and_then(|node| d.parse_std::<Ipv6Addr>(&node, "an IPv6 address"));
    let (outer_v6, inner_v6) = (v6("outerV6"), v6("innerV6"));
    Some(VxlanReceive { vni: vni?, port: port?, mac: mac?, outer_v4, outer_v6, inner_v4, inner_v6 })
}

fn udp(d: &mut Decoder, node: &Node<'_>) -> Option<UdpReceive> {
    let fields = d.map(node, &["type", "port", "outerV4", "outerV6"])?;
    let port = d.required(&fields, "port", "a UDP port").and_then(|node| d.number(&node, 1..=65535));
    let outer_v4 = fields.get("outerV4").and_then(|node| d.parse_std::<Ipv4Addr>(&node, "an IPv4 address"));
    let outer_v6 = fields.get("outerV6").and_then(|node| d.parse_std::<Ipv6Addr>(&node, "an IPv6 address"));
    Some(UdpReceive { port: port?, outer_v4, outer_v6 })
}

fn ipip(d: &mut Decoder, node: &Node<'_>) -> Option<IpipReceive> {
    let fields = d.map(node, &["type", "outerV4"])?;
    let outer = d.required(&fields, "outerV4", "an IPv4 address");
    Some(IpipReceive { outer_v4: outer.and_then(|node| d.parse_std::<Ipv4Addr>(&node, "an IPv4 address"))? })
}

fn prefers(d: &mut Decoder, node: &Node<'_>) -> Vec<Encapsulation> {
    let mut prefers = Vec::new();
    for item in d.list(node, "encapsulations") {
        match d.text(&item, "an encapsulation") {
            Some("host-gw") => prefers.push(Encapsulation::None),
            Some("vxlan") => prefers.push(Encapsulation::Vxlan),
            Some("udp") => prefers.push(Encapsulation::Udp),
            Some("ipip") => prefers.push(Encapsulation::Ipip),
            _ => {}
        }
    }
    prefers
}

fn revisions(d: &mut Decoder, node: &Node<'_>) -> BTreeMap<NetworkName, Revision> {
    let Tree::Map(entries) = node.tree else {
        d.fault(&node.path, node.tree, "a map of networks' names to revisions");
        return BTreeMap::new();
    };
    let mut networks = BTreeMap::new();
    for (key, value) in entries {
        let at = node.field(key, value);
        match key.parse::<NetworkName>() {
            Ok(name) => {
                let revision = d.uint(&at, 0..=u64::MAX).unwrap_or_default();
                networks.insert(name, Revision(revision));
            }
            Err(invalid) => d.fault(&at.path, shown(key), invalid.accepted),
        }
    }
    networks
}
