//! BgpConfiguration, BgpPeer and BgpFilter as they are written, in JSON or YAML.
//!
//! A field that is not known, or means nothing here, is a fault: it would be believed to do something.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_types::{Family, IfName, NodeName, Prefix, validate_dns_name};

use super::policy::selector;
use super::tree::{Tree, shown};
use super::{Decoder, Fields, Node, Unknown};
use crate::Faults;
use crate::bgp::{
    Advertisement, Bfd, BgpConfiguration, BgpFilter, BgpPeer, CONFIGURATION, Community, DEFAULT_PORT, FilterRule,
    Operation, PasswordSource, PeerAs, PeerNodes, PeerPlace, Reflectors,
};
use crate::policy::Selector;

const AS_NUMBERS: std::ops::RangeInclusive<u64> = 1..=4_294_967_294;
const RANGE: &str = "an address range, as in 10.244.0.0/16 or fd00:10:244::/48";
const COMMUNITY: &str = "a community, as in 64512:100, 64512:1:2 or no-export";
const ADDRESS: &str = "an address with or without a port, as in 192.0.2.1, 192.0.2.1:1179 or [2001:db8::1]:179";
/// Paths that a peer may send unless it says otherwise.
const MAX_PREFIXES: u32 = 1_000_000;
/// Most rules of a list, and elements of one.
const MOST: usize = 1_000;

impl BgpConfiguration {
    /// Reads one of JSON text.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn decode(text: &str) -> Result<Self, String> {
        read("BgpConfiguration", CONFIGURATION_FIELDS, text, configuration)
    }
}

impl BgpPeer {
    /// Reads one of JSON text.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn decode(text: &str) -> Result<Self, String> {
        read("BgpPeer", PEER_FIELDS, text, peer)
    }
}

impl BgpFilter {
    /// Reads one of JSON text.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn decode(text: &str) -> Result<Self, String> {
        read("BgpFilter", FILTER_FIELDS, text, filter)
    }
}

/// Reads an object of a kind; what is wrong with it is a sentence for all of it.
fn read<T>(
    kind: &str,
    known: &[&str],
    text: &str,
    of: impl FnOnce(&mut Decoder, Arc<str>, &Fields<'_>) -> Option<T>,
) -> Result<T, String> {
    let tree: Tree<'_> =
        serde_json::from_str(text).map_err(|fault| format!("a {kind} that cannot be read: {fault}"))?;
    let name = tree.text_at(&["metadata", "name"]).unwrap_or_default();
    validate_dns_name("a name", name).map_err(|fault| format!("a {kind} without a name: {fault}"))?;
    let mut decoder = Decoder::new(format!("{}/{name}", kind.to_lowercase()), Unknown::Refuse);
    let value = spec(&mut decoder, known, &tree).and_then(|fields| of(&mut decoder, name.into(), &fields));
    let (value, _) = decoder.finish(value).map_err(|faults: Faults| faults.to_string())?;
    Ok(value)
}

/// The fields of `spec`, which are checked by who knows them. What else there is, is the store's.
fn spec<'t>(d: &mut Decoder, known: &[&str], tree: &'t Tree<'t>) -> Option<Fields<'t>> {
    let root = Node::root(tree);
    match tree.get("spec") {
        Some(spec @ Tree::Map(_)) => d.map(&root.field("spec", spec), known),
        found => {
            let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            d.fault("spec", found, "a map");
            None
        }
    }
}

const CONFIGURATION_FIELDS: &[&str] = &[
    "asNumber",
    "listenPort",
    "nodeToNodeMeshEnabled",
    "routeReflectors",
    "holdTimeSeconds",
    "gracefulRestartSeconds",
    "bfd",
    "nodeMeshPassword",
    "communities",
    "prefixAdvertisements",
];

fn configuration(d: &mut Decoder, name: Arc<str>, fields: &Fields<'_>) -> Option<BgpConfiguration> {
    if &*name != CONFIGURATION {
        d.fault("metadata.name", shown(&name), format!("{CONFIGURATION}: there is one for all nodes"));
    }
    let default = BgpConfiguration::default();
    let names = names_of_communities(d, fields);
    let advertisements = match fields.get("prefixAdvertisements") {
        Some(node) => d.list(&node, "maps").iter().filter_map(|node| advertisement(d, node, &names)).collect(),
        None => Vec::new(),
    };
    Some(BgpConfiguration {
        name,
        as_number: as_number(d, fields, "asNumber").unwrap_or(default.as_number),
        listen_port: number(d, fields, "listenPort", 1..=65_535).unwrap_or(default.listen_port),
        mesh: flag(d, fields, "nodeToNodeMeshEnabled").unwrap_or(default.mesh),
        reflectors: fields.get("routeReflectors").and_then(|node| reflectors(d, &node)),
        hold_time: hold_time(d, fields).unwrap_or(default.hold_time),
        graceful_restart: number(d, fields, "gracefulRestartSeconds", 1..=4_095).unwrap_or(default.graceful_restart),
        bfd: fields.get("bfd").and_then(|node| bfd(d, &node)),
        password: fields.get("nodeMeshPassword").and_then(|node| password(d, &node)),
        advertisements,
    })
}

fn reflectors(d: &mut Decoder, node: &Node<'_>) -> Option<Reflectors> {
    let fields = d.map(node, &["nodeSelector", "clusterID"])?;
    let nodes = d.required(&fields, "nodeSelector", "labels of the nodes that are reflectors")?;
    let nodes = selector(d, &nodes)?;
    if nodes.requirements().is_empty() {
        d.fault(fields.path("nodeSelector"), "a selector of all nodes", "labels of some nodes");
    }
    let cluster_id = fields.get("clusterID").and_then(|node| d.parse_std(&node, "four bytes, as in 10.0.0.1"));
    Some(Reflectors { nodes, cluster_id })
}

/// `communities`: names that `prefixAdvertisements` may use.
fn names_of_communities(d: &mut Decoder, fields: &Fields<'_>) -> Vec<(Arc<str>, Community)> {
    let Some(node) = fields.get("communities") else { return Vec::new() };
    let nodes = d.list(&node, "maps of name and value");
    let mut names = Vec::new();
    for node in &nodes {
        let Some(fields) = d.map(node, &["name", "value"]) else { continue };
        let name = d.required(&fields, "name", "a name").and_then(|node| d.text(&node, "a name"));
        let value = d.required(&fields, "value", COMMUNITY).and_then(|node| community(d, &node, &[]));
        names.extend(name.zip(value).map(|(name, value)| (Arc::from(name), value)));
    }
    names
}

fn advertisement(d: &mut Decoder, node: &Node<'_>, names: &[(Arc<str>, Community)]) -> Option<Advertisement> {
    let fields = d.map(node, &["cidr", "communities"])?;
    let cidr = d.required(&fields, "cidr", RANGE).and_then(|node| d.parse::<Prefix>(&node, RANGE));
    let list = d.required(&fields, "communities", "a list of communities")?;
    let communities = communities(d, &list, names);
    Some(Advertisement { cidr: cidr?, communities })
}

/// A list of them; names that are known beside the registered ones.
pub(super) fn communities(d: &mut Decoder, node: &Node<'_>, names: &[(Arc<str>, Community)]) -> Vec<Community> {
    let mut all: Vec<Community> = d.list(node, COMMUNITY).iter().filter_map(|node| community(d, node, names)).collect();
    all.sort();
    all.dedup();
    all
}

fn community(d: &mut Decoder, node: &Node<'_>, names: &[(Arc<str>, Community)]) -> Option<Community> {
    let text = d.text(node, COMMUNITY)?;
    if let Some((_, value)) = names.iter().find(|(name, _)| **name == *text) {
        return Some(*value);
    }
    let known = match text {
        "graceful-shutdown" => Some(0xffff_0000),
        "no-export" => Some(0xffff_ff01),
        "no-advertise" => Some(0xffff_ff02),
        "no-export-subconfed" => Some(0xffff_ff03),
        _ => None,
    };
    if let Some(known) = known {
        return Some(Community::Standard(known));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let read = match parts[..] {
        [high, low] => high
            .parse::<u16>()
            .ok()
            .zip(low.parse::<u16>().ok())
            .map(|(high, low)| Community::Standard(u32::from(high) << 16 | u32::from(low))),
        [one, two, three] => match (one.parse(), two.parse(), three.parse()) {
            (Ok(one), Ok(two), Ok(three)) => Some(Community::Large(one, two, three)),
            _ => None,
        },
        _ => None,
    };
    if read.is_none() {
        d.fault(&node.path, shown(text), COMMUNITY);
    }
    read
}

const PEER_FIELDS: &[&str] = &[
    "node",
    "nodeSelector",
    "peerIP",
    "peerRange",
    "peerLimit",
    "interface",
    "asNumber",
    "localASNumber",
    "password",
    "sourceAddress",
    "numAllowedLocalASNumbers",
    "ttlSecurity",
    "multihop",
    "holdTimeSeconds",
    "maxPrefixes",
    "filters",
    "bfd",
    "passive",
    "reflectorClient",
    "nextHopMode",
    "shutdown",
];

fn peer(d: &mut Decoder, name: Arc<str>, fields: &Fields<'_>) -> Option<BgpPeer> {
    let nodes = peer_nodes(d, fields);
    let place = peer_place(d, fields);
    let peer_as = peer_as(d, fields);
    let source = fields.get("sourceAddress").and_then(|node| d.parse_std::<IpAddr>(&node, "an address of the node"));
    let at = match &place {
        Some(PeerPlace::At(at, _)) => Some(at.ip()),
        Some(PeerPlace::Range(range, _)) => Some(range.addr()),
        Some(PeerPlace::OnLink(_)) | None => None,
    };
    if let (Some(source), Some(at)) = (source, at)
        && source.is_ipv4() != at.is_ipv4()
    {
        d.fault(fields.path("sourceAddress"), source, "an address of the peer's family");
    }
    let (security_hops, multihop) = (number(d, fields, "ttlSecurity", 1..=254), number(d, fields, "multihop", 1..=255));
    if security_hops.is_some() && multihop.is_some() {
        d.fault(
            fields.path("multihop"),
            "it beside ttlSecurity",
            "one of them: ttlSecurity says how many hops there are",
        );
    }
    if matches!(place, Some(PeerPlace::OnLink(_))) {
        for key in ["sourceAddress", "multihop"] {
            if fields.get(key).is_some() {
                d.fault(
                    fields.path(key),
                    "it beside an interface alone",
                    "nothing: the peer is a neighbour on the link",
                );
            }
        }
    }
    let modes = [("Auto", false), ("Self", true)];
    Some(BgpPeer {
        name,
        local_as: as_number(d, fields, "localASNumber"),
        password: fields.get("password").and_then(|node| password(d, &node)),
        source,
        allowed_local_as: number(d, fields, "numAllowedLocalASNumbers", 0..=10).unwrap_or(0),
        security_hops,
        multihop,
        hold_time: hold_time(d, fields).unwrap_or(90),
        max_prefixes: number(d, fields, "maxPrefixes", 1..=10_000_000).unwrap_or(MAX_PREFIXES),
        filters: filters(d, fields),
        bfd: fields.get("bfd").and_then(|node| bfd(d, &node)),
        passive: flag(d, fields, "passive").unwrap_or(false),
        reflector_client: flag(d, fields, "reflectorClient").unwrap_or(false),
        next_hop_self: fields.get("nextHopMode").and_then(|node| d.choice(&node, &modes, &["Keep"])).unwrap_or(false),
        shutdown: fields.get("shutdown").and_then(|node| d.text(&node, "why there is to be no session")).map(Arc::from),
        nodes: nodes?,
        place: place?,
        as_number: peer_as?,
    })
}

fn peer_nodes(d: &mut Decoder, fields: &Fields<'_>) -> Option<PeerNodes> {
    match (fields.get("node"), fields.get("nodeSelector")) {
        (Some(node), Some(_)) => {
            d.fault(&node.path, "it beside nodeSelector", "one of them");
            None
        }
        (Some(node), None) => d.parse::<NodeName>(&node, "the name of a node").map(PeerNodes::One),
        (None, Some(node)) => selector(d, &node).map(PeerNodes::Matching),
        (None, None) => Some(PeerNodes::Matching(Selector::default())),
    }
}

fn peer_place(d: &mut Decoder, fields: &Fields<'_>) -> Option<PeerPlace> {
    let interface = fields.get("interface").and_then(|node| d.parse::<IfName>(&node, "the name of a link"));
    let limit = number(d, fields, "peerLimit", 1..=10_000);
    if limit.is_some() && fields.get("peerRange").is_none() {
        d.fault(fields.path("peerLimit"), "it without peerRange", "it beside peerRange only");
    }
    match (fields.get("peerIP"), fields.get("peerRange")) {
        (Some(node), None) => {
            let at = address(d, &node)?;
            let scoped = matches!(at.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
            if scoped != interface.is_some() {
                let found =
                    if scoped { "nothing beside a link-local peerIP" } else { "it beside a peerIP of all links" };
                d.fault(fields.path("interface"), found, "the link of a link-local peerIP, and of no other");
            }
            Some(PeerPlace::At(at, interface))
        }
        (None, Some(node)) => {
            let range = d.parse::<Prefix>(&node, RANGE)?;
            if interface.is_some() {
                d.fault(fields.path("interface"), "it beside peerRange", "it alone, or beside a link-local peerIP");
            }
            Some(PeerPlace::Range(range, limit.unwrap_or(100)))
        }
        (None, None) if fields.get("interface").is_some() => interface.map(PeerPlace::OnLink),
        (found, _) => {
            let found =
                if found.is_some() { "peerIP and peerRange" } else { "none of peerIP, peerRange and interface" };
            d.fault(fields.path("peerIP"), found, "one of them; interface alone is whoever is found on that link");
            None
        }
    }
}

fn address(d: &mut Decoder, node: &Node<'_>) -> Option<SocketAddr> {
    let text = d.text(node, ADDRESS)?;
    let alone = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
    let found = alone.or_else(|| text.parse().ok());
    let good = found.filter(|at| at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast());
    if good.is_none() {
        d.fault(&node.path, shown(text), ADDRESS);
    }
    good
}

fn peer_as(d: &mut Decoder, fields: &Fields<'_>) -> Option<PeerAs> {
    let accepted = "a number from 1 to 4294967294, external or internal";
    let node = d.required(fields, "asNumber", accepted)?;
    match node.tree {
        Tree::Text(_) => d.choice(&node, &[("external", PeerAs::External), ("internal", PeerAs::Internal)], &[]),
        _ => d.number(&node, AS_NUMBERS).map(PeerAs::Is),
    }
}

fn filters(d: &mut Decoder, fields: &Fields<'_>) -> Vec<Arc<str>> {
    const NAMES: &str = "names of BgpFilters";
    let Some(node) = fields.get("filters") else { return Vec::new() };
    let nodes = d.list(&node, NAMES);
    nodes.iter().filter_map(|node| d.text(node, NAMES)).map(Arc::from).collect()
}

const FILTER_FIELDS: &[&str] = &["importV4", "importV6", "exportV4", "exportV6"];

fn filter(d: &mut Decoder, name: Arc<str>, fields: &Fields<'_>) -> Option<BgpFilter> {
    let mut rules = |keys: [&str; 2]| {
        let mut all = Vec::new();
        for (key, family) in keys.into_iter().zip(Family::BOTH) {
            let Some(node) = fields.get(key) else { continue };
            let nodes = d.list(&node, "rules");
            if nodes.len() > MOST {
                d.fault(&node.path, format!("{} rules", nodes.len()), format!("at most {MOST}"));
            }
            all.extend(nodes.iter().filter_map(|node| rule(d, node, family)));
        }
        all
    };
    let (import, export) = (rules(["importV4", "importV6"]), rules(["exportV4", "exportV6"]));
    Some(BgpFilter { name, import, export })
}

fn rule(d: &mut Decoder, node: &Node<'_>, family: Family) -> Option<FilterRule> {
    let known = ["action", "cidr", "matchOperator", "prefixLength", "communities", "asPath", "operations"];
    let fields = d.map(node, &known)?;
    let accept = d.required(&fields, "action", "Accept, Reject");
    let accept = accept.and_then(|node| d.choice(&node, &[("Accept", true), ("Reject", false)], &[]));
    let (within, least, most, others) = prefixes(d, &fields, family)?;
    let communities = fields.get("communities").map(|node| communities(d, &node, &[])).unwrap_or_default();
    let through = fields.get("asPath").map(|node| as_numbers(d, &node)).unwrap_or_default();
    let operations = match fields.get("operations") {
        Some(node) => d.list(&node, "operations").iter().filter_map(|node| operation(d, node)).collect(),
        None => Vec::new(),
    };
    if accept == Some(false) && !operations.is_empty() {
        d.fault(fields.path("operations"), "operations on what is rejected", "none");
    }
    Some(FilterRule { accept: accept?, within, least, most, others, communities, through, operations })
}

/// Which prefixes a rule is about: inside of which, of which lengths, and whether it is about all others.
fn prefixes(d: &mut Decoder, fields: &Fields<'_>, family: Family) -> Option<(Prefix, u8, u8, bool)> {
    let operators =
        [("Equal", (true, false)), ("NotEqual", (true, true)), ("In", (false, false)), ("NotIn", (false, true))];
    let operator = fields.get("matchOperator").and_then(|node| d.choice(&node, &operators, &[]));
    let cidr = match fields.get("cidr") {
        Some(node) => {
            let cidr = d.parse::<Prefix>(&node, RANGE)?;
            if cidr.family() != family {
                d.fault(&node.path, cidr, format!("a range of {family}"));
            }
            if operator.is_none() {
                d.fault(fields.path("matchOperator"), "nothing beside cidr", "Equal, NotEqual, In, NotIn");
            }
            Some(cidr)
        }
        None => {
            for key in ["matchOperator", "prefixLength"] {
                if fields.get(key).is_some() {
                    d.fault(fields.path(key), "it without cidr", "it beside cidr");
                }
            }
            None
        }
    };
    let everything =
        || Prefix::containing(if family == Family::V4 { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) }, 0);
    let within = cidr.or_else(everything)?;
    let (exact, others) = operator.unwrap_or_default();
    let (mut least, mut most) = if exact { (within.len(), within.len()) } else { (within.len(), family.bits()) };
    if let Some(node) = fields.get("prefixLength") {
        let lengths = d.map(&node, &["min", "max"])?;
        let bounds = u64::from(within.len())..=u64::from(family.bits());
        least = number(d, &lengths, "min", bounds.clone()).unwrap_or(least);
        most = number(d, &lengths, "max", bounds).unwrap_or(family.bits());
        if exact || least > most {
            let found =
                if exact { "it beside an operator of one length".to_owned() } else { format!("{least} to {most}") };
            d.fault(&node.path, found, "min not above max, beside In or NotIn");
        }
    }
    Some((within, least, most, others))
}

fn operation(d: &mut Decoder, node: &Node<'_>) -> Option<Operation> {
    let kinds = ["setLocalPreference", "setMED", "prependASPath", "addCommunity", "removeCommunity"];
    let fields = d.map(node, &kinds)?;
    let there: Vec<&str> = kinds.into_iter().filter(|kind| fields.get(kind).is_some()).collect();
    let [kind] = there[..] else {
        d.fault(&node.path, format!("{} kinds", there.len()), format!("one of {}", kinds.join(", ")));
        return None;
    };
    let node = fields.get(kind)?;
    let any = 0..=u64::from(u32::MAX);
    Some(match kind {
        "setLocalPreference" => Operation::LocalPreference(d.number(&node, any)?),
        "setMED" => Operation::Med(d.number(&node, any)?),
        "prependASPath" => Operation::PrependAsPath(as_numbers(d, &node)),
        "addCommunity" => Operation::AddCommunity(community(d, &node, &[])?),
        _ => Operation::RemoveCommunity(community(d, &node, &[])?),
    })
}

fn as_numbers(d: &mut Decoder, node: &Node<'_>) -> Vec<u32> {
    let nodes = d.list(node, "AS numbers");
    if nodes.is_empty() || nodes.len() > 32 {
        d.fault(&node.path, format!("{} numbers", nodes.len()), "1 to 32 AS numbers");
    }
    nodes.iter().filter_map(|node| d.number(node, AS_NUMBERS)).collect()
}

fn bfd(d: &mut Decoder, node: &Node<'_>) -> Option<Bfd> {
    let fields = d.map(node, &["transmitIntervalMs", "receiveIntervalMs", "multiplier"])?;
    Some(Bfd {
        transmit: number(d, &fields, "transmitIntervalMs", 10..=60_000).unwrap_or(300),
        receive: number(d, &fields, "receiveIntervalMs", 10..=60_000).unwrap_or(300),
        multiplier: number(d, &fields, "multiplier", 1..=255).unwrap_or(3),
    })
}

fn password(d: &mut Decoder, node: &Node<'_>) -> Option<PasswordSource> {
    const FILE: &str = "the path of a file, which begins with /";
    const NAME: &str = "the name of a Secret: lower-case letters, digits, '-' and '.', at most 253";
    const KEY: &str = "a key of a Secret: letters, digits, '-', '_' and '.', at most 253";
    let fields = d.map(node, &["file", "secretKeyRef"])?;
    let Some(reference) = fields.get("secretKeyRef") else {
        let file = d.required(&fields, "file", FILE)?;
        let path = d.text(&file, FILE)?;
        if !path.starts_with('/') || path.contains('\0') {
            d.fault(&file.path, shown(path), FILE);
        }
        return Some(PasswordSource::File(path.into()));
    };
    if fields.get("file").is_some() {
        d.fault(&node.path, "file and secretKeyRef", "one of them");
    }
    let fields = d.map(&reference, &["name", "key"])?;
    let name = d.required(&fields, "name", NAME).and_then(|node| Some((d.text(&node, NAME)?, node)));
    let key = d.required(&fields, "key", KEY).and_then(|node| Some((d.text(&node, KEY)?, node)));
    let (name, key) = name.zip(key).map(|((name, at), (key, place))| {
        if ripstop_types::validate_dns_name("the name of a Secret", name).is_err() {
            d.fault(&at.path, shown(name), NAME);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if key.is_empty() || key.len() > 253 || key.starts_with("..") || key == "." || !key.bytes().all(plain) {
            d.fault(&place.path, shown(key), KEY);
        }
        (name, key)
    })?;
    Some(PasswordSource::Secret { name: name.into(), key: key.into() })
}

/// 0 for never, or what the protocol has.
fn hold_time(d: &mut Decoder, fields: &Fields<'_>) -> Option<u16> {
    let node = fields.get("holdTimeSeconds")?;
    let value: u16 = d.number(&node, 0..=65_535)?;
    if (1..3).contains(&value) {
        d.fault(&node.path, value, "0, or 3 to 65535");
    }
    Some(value)
}

fn as_number(d: &mut Decoder, fields: &Fields<'_>, key: &str) -> Option<u32> {
    number(d, fields, key, AS_NUMBERS)
}

fn number<T: TryFrom<u64>>(
    d: &mut Decoder,
    fields: &Fields<'_>,
    key: &str,
    bounds: std::ops::RangeInclusive<u64>,
) -> Option<T> {
    fields.get(key).and_then(|node| d.number(&node, bounds))
}

fn flag(d: &mut Decoder, fields: &Fields<'_>, key: &str) -> Option<bool> {
    fields.get(key).and_then(|node| d.bool(&node))
}
