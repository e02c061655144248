//! MetalLB's pools and advertisements (metallb.io/v1beta1, api/v1beta1 of metallb) as AddressPools.
//!
//! An advertisement names pools, or takes them by their labels, or is for all; here each pool says how it is announced. Whatever
//! cannot be said here is a fault, as a pool that is announced to more than before would be worse than one that is not read.
//!
//! As documents that somebody applies they are read all or none. As objects of a cluster whose balancer is taken over each is read by
//! itself: what is wrong with one leaves that one out, and its sentence says so.
//!
//! Not here: its peers of BGP, and whether MetalLB runs.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_types::validate_dns_name;
use serde_json::{Map, Value, json};

use super::applied::value_of;
use super::policy::selector;
use super::tree::{Tree, shown};
use super::{Decoder, Fields, Node, Unknown};
use crate::metallb::{MetallbKind, MetallbObject};
use crate::policy::Selector;
use crate::pool::{AddressPool, AddressRange, RANGE};
use crate::{API_VERSION, Faults, Note, ObjectLabels};

/// Where its kinds are from.
const GROUP: &str = "metallb.io/";
const VERSION: &str = MetallbKind::API_VERSION;

/// MetalLB asks pools with an allocation before those without, and those without a priority behind those with one.
const BEHIND_PRIORITIES: u64 = 999;

const ROOT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const POOL: &[&str] = &["addresses", "autoAssign", "avoidBuggyIPs", "serviceAllocation"];
const ALLOCATION: &[&str] = &["priority", "namespaces", "namespaceSelectors", "serviceSelectors"];
const BY_L2: &[&str] = &["ipAddressPools", "ipAddressPoolSelectors", "nodeSelectors", "interfaces"];
const BY_BGP: &[&str] = &[
    "ipAddressPools",
    "ipAddressPoolSelectors",
    "nodeSelectors",
    "aggregationLength",
    "aggregationLengthV6",
    "localPref",
    "communities",
    "peers",
];

/// Whether a document is of a kind of MetalLB's.
pub(crate) fn is_of(tree: &Tree<'_>) -> bool {
    tree.text_at(&["apiVersion"]).is_some_and(|version| version.starts_with(GROUP))
}

/// A pool of its.
struct Pool {
    name: String,
    labels: ObjectLabels,
    spec: Map<String, Value>,
}

impl Pool {
    /// It as an AddressPool with what is said of it.
    fn manifest(mut self, advertisements: &[Advertisement]) -> Value {
        let ways: Vec<Value> =
            advertisements.iter().filter(|one| one.is_for(&self)).map(|one| one.announce.clone()).collect();
        self.spec.insert("announce".into(), ways.into());
        let mut metadata = json!({"name": self.name});
        if !self.labels.is_empty() {
            metadata["labels"] = json!(self.labels);
        }
        json!({"apiVersion": API_VERSION, "kind": "AddressPool", "metadata": metadata, "spec": self.spec})
    }
}

/// An advertisement, as pools say it here.
struct Advertisement {
    object: String,
    pools: BTreeSet<String>,
    selectors: Vec<Selector>,
    announce: Value,
}

impl Advertisement {
    fn is_for(&self, pool: &Pool) -> bool {
        let all = self.pools.is_empty() && self.selectors.is_empty();
        all || self.pools.contains(&pool.name) || self.selectors.iter().any(|selector| selector.takes(&pool.labels))
    }
}

/// The AddressPools that these documents are, in their order, and what has no effect.
///
/// # Errors
/// Everything in them that is wrong, or that no AddressPool can say.
pub(crate) fn address_pools(documents: &[&Tree<'_>]) -> Result<(Vec<Value>, Vec<Note>), Faults> {
    let mut all = Reader::default();
    let is_community = |tree: &&&Tree<'_>| tree.text_at(&["kind"]) == Some("Community");
    // What has a name is read before what says it.
    let (first, then): (Vec<_>, Vec<_>) = documents.iter().partition(is_community);
    first.into_iter().chain(then).for_each(|tree| all.document(tree));
    let Reader { pools, advertisements, mut notes, faults, .. } = all;
    faults.into_result()?;
    for advertisement in &advertisements {
        for name in advertisement.pools.iter().filter(|name| pools.iter().all(|pool| pool.name != **name)) {
            let text = format!("has no effect for {name}: there is no such IPAddressPool here");
            notes.push(Note { object: advertisement.object.clone(), path: "spec.ipAddressPools".into(), text });
        }
    }
    Ok((pools.into_iter().map(|pool| pool.manifest(&advertisements)).collect(), notes))
}

/// The pools that a cluster's objects are, in the order of their names, and what of them is left out, in sentences.
pub(crate) fn live<'o>(objects: impl Iterator<Item = &'o MetallbObject>) -> (Vec<AddressPool>, Vec<String>) {
    let mut all = Reader::default();
    let mut said = Vec::new();
    let (first, then): (Vec<_>, Vec<_>) = objects.partition(|object| object.kind == MetallbKind::Community);
    for object in first.into_iter().chain(then) {
        // It was written from such a tree.
        let Ok(tree) = serde_json::from_str::<Tree<'_>>(&object.document) else { continue };
        let (pools, advertisements) = (all.pools.len(), all.advertisements.len());
        all.document(&tree);
        if !all.faults.is_empty() {
            all.pools.truncate(pools);
            all.advertisements.truncate(advertisements);
        }
        said.extend(std::mem::replace(&mut all.faults, Faults::none()).iter().map(ToString::to_string));
    }
    let Reader { pools, advertisements, .. } = all;
    let mut read: BTreeMap<String, AddressPool> = BTreeMap::new();
    for pool in pools {
        let name = pool.name.clone();
        if read.contains_key(&name) {
            said.push(format!("ipaddresspool/{name}: found it in two namespaces, accepted: each name once"));
            continue;
        }
        match AddressPool::decode(&pool.manifest(&advertisements).to_string()) {
            Ok((pool, _)) => drop(read.insert(name, AddressPool { of_metallb: true, ..pool })),
            Err(why) => said.push(format!("ipaddresspool/{name}: found {why}, accepted: a pool")),
        }
    }
    (read.into_values().collect(), said)
}

#[derive(Default)]
struct Reader {
    pools: Vec<Pool>,
    advertisements: Vec<Advertisement>,
    /// Names of communities.
    communities: BTreeMap<String, String>,
    notes: Vec<Note>,
    faults: Faults,
}

impl Reader {
    fn document(&mut self, tree: &Tree<'_>) {
        let kind = tree.text_at(&["kind"]).unwrap_or_default();
        let name = tree.text_at(&["metadata", "name"]).unwrap_or_default();
        let object = format!("{}/{}", shown(&kind.to_lowercase()), shown(name));
        let mut d = Decoder::new(object.clone(), Unknown::Refuse);
        let root = Node::root(tree);
        if validate_dns_name("a name", name).is_err() {
            d.fault("metadata.name", shown(name), "a name by the rules of DNS");
        }
        if !["IPAddressPool", "L2Advertisement", "BGPAdvertisement", "Community"].contains(&kind) {
            let accepted = "IPAddressPool, L2Advertisement, BGPAdvertisement and Community; a peer is a BgpPeer here";
            d.fault("kind", format!("{} of MetalLB", shown(kind)), accepted);
        } else if tree.text_at(&["apiVersion"]) != Some(VERSION) {
            d.fault("apiVersion", shown(tree.text_at(&["apiVersion"]).unwrap_or_default()), VERSION);
        } else if let Some(fields) = d.map(&root, ROOT) {
            let nothing = Tree::Map(Vec::new());
            let spec = fields.get("spec").unwrap_or_else(|| root.field("spec", &nothing));
            match kind {
                "IPAddressPool" => {
                    let labels = fields.get("metadata").and_then(|metadata| {
                        let labels = metadata.tree.get("labels")?;
                        Some(d.labels(&metadata.field("labels", labels)))
                    });
                    let labels = labels.unwrap_or_default().into_iter().collect();
                    let spec = pool(&mut d, &spec);
                    self.pools.extend(spec.map(|spec| Pool { name: name.to_owned(), labels, spec }));
                }
                "Community" => self.community(&mut d, &spec),
                by => {
                    let read = self.advertisement(&mut d, &spec, by == "BGPAdvertisement", object);
                    self.advertisements.extend(read);
                }
            }
        }
        self.faults.append(d.into_faults());
    }

    fn community(&mut self, d: &mut Decoder, spec: &Node<'_>) {
        let Some(fields) = d.map(spec, &["communities"]) else { return };
        let Some(list) = fields.get("communities") else { return };
        for item in d.list(&list, "names of communities") {
            let Some(fields) = d.map(&item, &["name", "value"]) else { continue };
            let mut word = |key| {
                let node = d.required(&fields, key, "text")?;
                d.text(&node, "text").map(str::to_owned)
            };
            if let (Some(name), Some(value)) = (word("name"), word("value")) {
                self.communities.insert(name, value);
            }
        }
    }

    fn advertisement(&self, d: &mut Decoder, spec: &Node<'_>, by_bgp: bool, object: String) -> Option<Advertisement> {
        let fields = d.map(spec, if by_bgp { BY_BGP } else { BY_L2 })?;
        let pools = texts(d, &fields, "ipAddressPools", "names of IPAddressPools");
        let nodes = fields.get("ipAddressPoolSelectors").map(|node| d.list(&node, "selectors")).unwrap_or_default();
        let selectors = nodes.iter().filter_map(|node| selector(d, node)).collect();
        let mut announce = json!({"by": if by_bgp { "bgp" } else { "l2" }});
        let mut say = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                announce[key] = value;
            }
        };
        say("nodeSelectors", selectors_of(d, &fields, "nodeSelectors"));
        if by_bgp {
            for (key, most) in [("aggregationLength", 32), ("aggregationLengthV6", 128)] {
                say(key, fields.get(key).and_then(|node| d.uint(&node, 1..=most)).map(Value::from));
            }
            let communities = texts(d, &fields, "communities", "communities, or names of them");
            let communities = communities.iter().map(|text| self.communities.get(text).unwrap_or(text));
            let communities: Vec<&str> = communities.map(|text| text.trim_start_matches("large:")).collect();
            say("communities", Some(json!(communities)).filter(|_| !communities.is_empty()));
            let preference = fields.get("localPref").filter(|node| *node.tree != Tree::Int(0));
            if let Some(node) = preference {
                d.fault(&node.path, node.tree, "none: a BgpFilter with setLocalPreference says it to its peers");
            }
        }
        let (key, what) = if by_bgp { ("peers", "names of peers") } else { ("interfaces", "names of interfaces") };
        let names = texts(d, &fields, key, what);
        say(key, Some(json!(names)).filter(|_| !names.is_empty()));
        Some(Advertisement { object, pools, selectors, announce })
    }
}

/// The fields of a pool as they are written here.
fn pool(d: &mut Decoder, spec: &Node<'_>) -> Option<Map<String, Value>> {
    let fields = d.map(spec, POOL)?;
    let mut said = Map::new();
    let addresses = d.required(&fields, "addresses", RANGE)?;
    for item in d.list(&addresses, RANGE) {
        d.parse::<AddressRange>(&item, RANGE);
    }
    said.insert("addresses".into(), value_of(addresses.tree));
    if let Some(auto) = fields.get("autoAssign").and_then(|node| d.bool(&node)) {
        said.insert("autoAssign".into(), auto.into());
    }
    if fields.get("avoidBuggyIPs").and_then(|node| d.bool(&node)) == Some(true) {
        said.insert("leaveOut".into(), "zero-and-255".into());
    }
    if let Some(node) = fields.get("serviceAllocation") {
        let fields = d.map(&node, ALLOCATION)?;
        let priority = fields.get("priority").and_then(|node| d.uint(&node, 0..=BEHIND_PRIORITIES - 1));
        let priority = priority.filter(|priority| *priority > 0).unwrap_or(BEHIND_PRIORITIES);
        said.insert("priority".into(), priority.into());
        let namespaces = texts(d, &fields, "namespaces", "names of namespaces");
        let namespaces = Some(json!(namespaces)).filter(|_| !namespaces.is_empty());
        said.extend(namespaces.map(|names| ("namespaces".to_owned(), names)));
        for key in ["namespaceSelectors", "serviceSelectors"] {
            said.extend(selectors_of(d, &fields, key).map(|all| (key.to_owned(), all)));
        }
    }
    Some(said)
}

/// Selectors as they are written, if there are any; they read here as there.
fn selectors_of(d: &mut Decoder, fields: &Fields<'_>, key: &str) -> Option<Value> {
    let node = fields.get(key)?;
    let items = d.list(&node, "selectors of labels");
    for item in &items {
        selector(d, item);
    }
    (!items.is_empty()).then(|| value_of(node.tree))
}

fn texts(d: &mut Decoder, fields: &Fields<'_>, key: &str, what: &str) -> BTreeSet<String> {
    let Some(node) = fields.get(key) else { return BTreeSet::new() };
    let items = d.list(&node, what);
    items.iter().filter_map(|item| d.text(item, what).map(str::to_owned)).collect()
}
