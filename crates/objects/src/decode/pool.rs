//! Pools of addresses as they are written.
//!
//! Read strictly: a field that is not known may be one that narrows. A pool with a fault gives no address.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_types::{Prefix, validate_dns_name};

use super::bgp::communities;
use super::policy::selector;
use super::tree::{Tree, shown};
use super::{Decoder, Fields, Node, Unknown};
use crate::Faults;
use crate::policy::Selector;
use crate::pool::{
    AddressPool, AddressRange, AnnouncedBy, Announcement, DEFAULT_PRIORITY, LeaveOut, RANGE, first_overlap,
};

/// Ranges of addresses that no host on a network has.
const SPECIAL: [&str; 8] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"];

impl AddressPool {
    /// Reads a pool of JSON text; the faults name what is wrong with it.
    ///
    /// # Errors
    /// A sentence, where it is no pool at all.
    pub fn decode(text: &str) -> Result<(Self, Faults), String> {
        Self::read(&serde_json::from_str(text).map_err(|fault| format!("an AddressPool that cannot be read: {fault}"))?)
    }

    fn read(tree: &Tree<'_>) -> Result<(Self, Faults), String> {
        let text = |field| tree.text_at(&["metadata", field]).unwrap_or_default();
        let name = text("name");
        validate_dns_name("a name", name).map_err(|fault| format!("an AddressPool without a name: {fault}"))?;
        let mut decoder = Decoder::new(format!("addresspool/{name}"), Unknown::Refuse);
        let mut pool = Self::empty(name.into(), text("uid").into());
        let root = Node::root(tree);
        match tree.get("spec") {
            Some(spec) => read_spec(&mut decoder, &root.field("spec", spec), &mut pool),
            None => decoder.fault("spec", "nothing", "a map with addresses"),
        }
        let faults = decoder.into_faults();
        pool.refused = faults.iter().map(|fault| fault.to_string().into()).collect();
        Ok((pool, faults))
    }

    fn empty(name: Arc<str>, uid: Arc<str>) -> Self {
        Self {
            name,
            uid,
            addresses: Vec::new(),
            leave_out: LeaveOut::default(),
            auto_assign: true,
            priority: DEFAULT_PRIORITY,
            namespaces: BTreeSet::new(),
            namespace_selectors: Vec::new(),
            service_selectors: Vec::new(),
            is_proxied: false,
            announce: vec![Announcement::l2()],
            of_metallb: false,
            refused: Vec::new(),
        }
    }
}

impl Announcement {
    /// By every node, on every interface of the segment.
    #[must_use]
    pub fn l2() -> Self {
        Self {
            by: AnnouncedBy::L2,
            nodes: Vec::new(),
            interfaces: BTreeSet::new(),
            length_v4: None,
            length_v6: None,
            communities: Vec::new(),
            peers: BTreeSet::new(),
        }
    }
}

const SPEC: &[&str] = &[
    "addresses",
    "leaveOut",
    "autoAssign",
    "priority",
    "namespaces",
    "namespaceSelectors",
    "serviceSelectors",
    "ipMode",
    "announce",
];

fn read_spec(d: &mut Decoder, node: &Node<'_>, pool: &mut AddressPool) {
    let Some(fields) = d.map(node, SPEC) else { return };
    pool.addresses = addresses(d, &fields);
    let words = [
        ("nothing", LeaveOut::Nothing),
        ("first-and-last", LeaveOut::FirstAndLast),
        ("zero-and-255", LeaveOut::ZeroAnd255),
    ];
    pool.leave_out = fields.get("leaveOut").and_then(|node| d.choice(&node, &words, &[])).unwrap_or_default();
    pool.auto_assign = fields.get("autoAssign").and_then(|node| d.bool(&node)).unwrap_or(true);
    let priority = fields.get("priority").and_then(|node| d.number(&node, 0..=u64::from(u16::MAX)));
    pool.priority = priority.unwrap_or(DEFAULT_PRIORITY);
    pool.namespaces = names(d, &fields, "namespaces", "names of namespaces");
    pool.namespace_selectors = selectors(d, &fields, "namespaceSelectors");
    pool.service_selectors = selectors(d, &fields, "serviceSelectors");
    let modes = [("VIP", false), ("Proxy", true)];
    pool.is_proxied = fields.get("ipMode").and_then(|node| d.choice(&node, &modes, &[])).unwrap_or_default();
    if let Some(node) = fields.get("announce") {
        pool.announce = d.list(&node, "ways to announce").iter().filter_map(|item| announcement(d, item)).collect();
    }
}

fn addresses(d: &mut Decoder, fields: &Fields<'_>) -> Vec<AddressRange> {
    let Some(node) = d.required(fields, "addresses", RANGE) else { return Vec::new() };
    let items = d.list(&node, RANGE);
    if items.is_empty() && matches!(node.tree, Tree::List(_)) {
        d.fault(&node.path, "an empty list", format!("one range or more, as {RANGE}"));
    }
    let special = SPECIAL.iter().filter_map(|prefix| Some((prefix, prefix.parse::<Prefix>().ok()?.into())));
    let special: Vec<(_, AddressRange)> = special.collect();
    let mut ranges = Vec::new();
    for item in &items {
        let Some(range) = d.parse::<AddressRange>(item, RANGE) else { continue };
        match special.iter().find(|(_, other)| other.overlaps(&range)) {
            Some((name, _)) => d.fault(&item.path, range, format!("addresses of hosts, and none of {name}")),
            None => ranges.push(range),
        }
    }
    ranges.sort();
    if let Some((range, other)) = first_overlap(&ranges) {
        d.fault(&node.path, format!("{range}, which shares addresses with {other}"), "each address once");
    }
    ranges
}

fn names(d: &mut Decoder, fields: &Fields<'_>, key: &'static str, what: &str) -> BTreeSet<Arc<str>> {
    let Some(node) = fields.get(key) else { return BTreeSet::new() };
    let items = d.list(&node, what);
    items.iter().filter_map(|item| d.text(item, what).map(Arc::from)).collect()
}

fn selectors(d: &mut Decoder, fields: &Fields<'_>, key: &'static str) -> Vec<Selector> {
    let Some(node) = fields.get(key) else { return Vec::new() };
    let items = d.list(&node, "selectors of labels");
    items.iter().filter_map(|item| selector(d, item)).collect()
}

/// Fields of what is announced by ARP and neighbour discovery, and of what is by BGP.
const BY_L2: [&str; 3] = ["by", "nodeSelectors", "interfaces"];
const BY_BGP: [&str; 6] = ["by", "nodeSelectors", "aggregationLength", "aggregationLengthV6", "communities", "peers"];

fn announcement(d: &mut Decoder, node: &Node<'_>) -> Option<Announcement> {
    let by_bgp = node.tree.text_at(&["by"]) == Some("bgp");
    let fields = d.map(node, if by_bgp { &BY_BGP } else { &BY_L2 })?;
    let by = d.required(&fields, "by", "l2, bgp")?;
    let by = d.choice(&by, &[("l2", AnnouncedBy::L2), ("bgp", AnnouncedBy::Bgp)], &[])?;
    let interfaces = names(d, &fields, "interfaces", "names of interfaces");
    for name in interfaces.iter().filter(|name| name.parse::<ripstop_types::IfName>().is_err()) {
        let accepted = "names of interfaces: at most 15 characters, no blank and no '/'";
        d.fault(fields.path("interfaces"), shown(name), accepted);
    }
    let length = |d: &mut Decoder, key, most| fields.get(key).and_then(|node| d.number(&node, 1..=most));
    let (length_v4, length_v6) = (length(d, "aggregationLength", 32), length(d, "aggregationLengthV6", 128));
    let communities = fields.get("communities").map(|node| communities(d, &node, &[])).unwrap_or_default();
    let peers = names(d, &fields, "peers", "names of BgpPeers");
    let nodes = selectors(d, &fields, "nodeSelectors");
    Some(Announcement { by, nodes, interfaces, length_v4, length_v6, communities, peers })
}
