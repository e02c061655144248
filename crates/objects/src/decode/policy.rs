//! NetworkPolicy and ClusterNetworkPolicy as they are written, in JSON or YAML.
//!
//! Unlike other objects of Kubernetes they are read strictly: a field that is not known may be one that narrows, and what it stands in
//! would be wider without it. What has a fault matches nothing, or denies; [`crate::policy`] says which. Without a tier, a priority or a
//! subject a ClusterNetworkPolicy is none: whoever has an older one keeps it.

use std::sync::Arc;

use ripstop_types::{NamespacedName, Prefix, validate_dns_name};

use super::tree::{Tree, shown};
use super::{Decoder, Fields, Node, Unknown, label_key_ok, label_word_ok};
use crate::Faults;
use crate::policy::{
    Action, ClusterNetworkPolicy, Direction, MAX_ENTRIES, MAX_PRIORITY, NetworkPolicy, Operator, Peer, PolicyName,
    PolicyRule, PortMatch, Requirement, STAGED_ANNOTATION, Selector, Tier,
};
use crate::service::Protocol;

impl NetworkPolicy {
    /// Reads a NetworkPolicy of JSON text; the faults name what of it matches nothing.
    ///
    /// # Errors
    /// A sentence, where it is no NetworkPolicy at all.
    pub fn decode(text: &str) -> Result<(Self, Faults), String> {
        Self::read(
            &serde_json::from_str(text).map_err(|fault| format!("a NetworkPolicy that cannot be read: {fault}"))?,
        )
    }

    /// The same of a value, as YAML gives it.
    ///
    /// # Errors
    /// A sentence, where it is no NetworkPolicy at all.
    pub fn from_value(value: &serde_json::Value) -> Result<(Self, Faults), String> {
        Self::read(&Tree::from(value))
    }

    fn read(tree: &Tree<'_>) -> Result<(Self, Faults), String> {
        let text = |field| tree.text_at(&["metadata", field]).unwrap_or_default();
        let namespace = Some(text("namespace")).filter(|name| !name.is_empty()).unwrap_or("default");
        let name = NamespacedName::new(namespace, text("name"))
            .map_err(|fault| format!("a NetworkPolicy without a name: {fault}"))?;
        let mut decoder = Decoder::new(PolicyName::Network(name.clone()).to_string(), Unknown::Refuse);
        let staged = staged(&mut decoder, tree);
        let spec = tree.get("spec").filter(|spec| **spec != Tree::Null);
        let root = Node::root(tree);
        let spec = spec.map_or_else(NetworkSpec::bare, |spec| network_spec(&mut decoder, &root.field("spec", spec)));
        let NetworkSpec { subject, ingress, egress } = spec;
        Ok((Self { name, uid: text("uid").into(), subject, ingress, egress, staged }, decoder.into_faults()))
    }
}

impl ClusterNetworkPolicy {
    /// Reads a ClusterNetworkPolicy of JSON text; the faults name which of its rules match nothing or deny everything instead.
    ///
    /// # Errors
    /// Sentences, where it is no ClusterNetworkPolicy at all, or does not say when it is asked and whom it is about.
    pub fn decode(text: &str) -> Result<(Self, Faults), String> {
        Self::read(
            &serde_json::from_str(text)
                .map_err(|fault| format!("a ClusterNetworkPolicy that cannot be read: {fault}"))?,
        )
    }

    /// The same of a value, as YAML gives it.
    ///
    /// # Errors
    /// As above.
    pub fn from_value(value: &serde_json::Value) -> Result<(Self, Faults), String> {
        Self::read(&Tree::from(value))
    }

    fn read(tree: &Tree<'_>) -> Result<(Self, Faults), String> {
        let text = |field| tree.text_at(&["metadata", field]).unwrap_or_default();
        validate_dns_name("a name", text("name"))
            .map_err(|fault| format!("a ClusterNetworkPolicy without a name: {fault}"))?;
        let name: Arc<str> = text("name").into();
        let mut decoder = Decoder::new(PolicyName::Cluster(name.clone()).to_string(), Unknown::Refuse);
        let read = cluster_head(&mut decoder, tree);
        let Some((fields, tier, priority, (namespaces, pods))) = read else {
            return Err(decoder.into_faults().to_string());
        };
        let is_whole = decoder.is_clean();
        let staged = staged(&mut decoder, tree);
        let mut rules = |direction| {
            let rules = cluster_rules(&mut decoder, &fields, direction);
            if is_whole { rules } else { rules.iter().map(|rule| PolicyRule::closed(rule.action)).collect() }
        };
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        let uid = text("uid").into();
        let policy = Self { name, uid, tier, priority, namespaces, pods, ingress, egress, staged };
        Ok((policy, decoder.into_faults()))
    }
}

/// Enforced is what is not said to be staged.
fn staged(decoder: &mut Decoder, tree: &Tree<'_>) -> bool {
    let value = tree.get("metadata").and_then(|metadata| metadata.get("annotations")?.get(STAGED_ANNOTATION));
    match value {
        None | Some(Tree::Null) => false,
        Some(Tree::Text(text)) if matches!(&**text, "" | "false") => false,
        Some(Tree::Text(text)) if text == "true" => true,
        Some(other) => {
            decoder.fault(format!("metadata.annotations[{STAGED_ANNOTATION}]"), other, "\"true\" or \"false\"");
            false
        }
    }
}

/// What of a NetworkPolicy stands in its `spec`.
struct NetworkSpec {
    subject: Selector,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
}

impl NetworkSpec {
    /// Of a policy without: it is about all pods of its namespace, and lets nothing in.
    fn bare() -> Self {
        Self { subject: Selector::default(), ingress: Some(Vec::new()), egress: None }
    }

    /// Of one that cannot be read: nor does it let anything out.
    fn closed() -> Self {
        Self { egress: Some(Vec::new()), ..Self::bare() }
    }
}

fn network_spec(decoder: &mut Decoder, node: &Node<'_>) -> NetworkSpec {
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    let before = decoder.count();
    let Some(fields) = decoder.map(node, &known) else { return NetworkSpec::closed() };
    let subject = fields.get("podSelector").map_or_else(|| Some(Selector::default()), |node| selector(decoder, &node));
    // Whom a rule is for is not known then, and for nobody is it safe.
    let is_sound = decoder.count() == before;
    let mut rules = |direction, field| {
        let rules = fields.get(field).map(|node| network_rules(decoder, &node, direction)).unwrap_or_default();
        if is_sound { rules } else { rules.iter().map(|rule| PolicyRule::nothing(rule.action)).collect() }
    };
    let ingress = rules(Direction::Ingress, "ingress");
    let egress = rules(Direction::Egress, "egress");
    let has_egress = fields.get("egress").is_some_and(|node| *node.tree != Tree::List(Vec::new()));
    let isolates = policy_types(decoder, &fields, has_egress);
    NetworkSpec {
        subject: subject.unwrap_or_default(),
        ingress: isolates.contains(&Direction::Ingress).then_some(ingress),
        egress: isolates.contains(&Direction::Egress).then_some(egress),
    }
}

/// In which directions a policy isolates: unsaid, where pods receive, and where it has rules for what they send. With a word that is not
/// known, in both.
fn policy_types(decoder: &mut Decoder, fields: &Fields<'_>, has_egress: bool) -> Vec<Direction> {
    let before = decoder.count();
    let listed = fields.get("policyTypes").map(|node| decoder.list(&node, "Ingress, Egress")).unwrap_or_default();
    let words = [("Ingress", Direction::Ingress), ("Egress", Direction::Egress)];
    let said: Vec<Direction> = listed.iter().filter_map(|node| decoder.choice(node, &words, &[])).collect();
    match said.is_empty() {
        _ if decoder.count() > before => Direction::BOTH.into(),
        true if has_egress => Direction::BOTH.into(),
        true => vec![Direction::Ingress],
        false => said,
    }
}

/// The field that names a rule's peers.
fn peers_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

fn network_rules(decoder: &mut Decoder, node: &Node<'_>, direction: Direction) -> Vec<PolicyRule> {
    let nodes = decoder.list(node, "rules");
    let mut read = |node: &Node<'_>| {
        let fields = sound(decoder, |decoder| decoder.map(node, &[peers_field(direction), "ports"]))?;
        let peers = match fields.get(peers_field(direction)) {
            Some(node) => members(decoder, &node, "peers", peer)?,
            None => None,
        };
        let ports = match fields.get("ports") {
            Some(node) => members(decoder, &node, "ports", port)?,
            None => None,
        };
        Some(PolicyRule { name: "".into(), action: Action::Accept, peers, ports })
    };
    nodes.iter().map(|node| read(node).unwrap_or_else(|| PolicyRule::nothing(Action::Accept))).collect()
}

/// The members of a list without those that have a fault. The outer value is `None` where there is no list, the inner one where it is
/// empty: that is everything.
fn members<T>(
    decoder: &mut Decoder,
    node: &Node<'_>,
    what: &str,
    read: impl Fn(&mut Decoder, &Node<'_>) -> Option<T>,
) -> Option<Option<Vec<T>>> {
    let before = decoder.count();
    let nodes = decoder.list(node, what);
    if decoder.count() > before {
        return None;
    }
    let sound: Vec<T> = nodes.iter().filter_map(|node| sound(decoder, |decoder| read(decoder, node))).collect();
    Some((!nodes.is_empty()).then_some(sound))
}

/// What was read, if nothing of it had a fault.
fn sound<T>(decoder: &mut Decoder, read: impl FnOnce(&mut Decoder) -> Option<T>) -> Option<T> {
    let before = decoder.count();
    read(decoder).filter(|_| decoder.count() == before)
}

fn peer(decoder: &mut Decoder, node: &Node<'_>) -> Option<Peer> {
    const KINDS: [&str; 3] = ["podSelector", "namespaceSelector", "ipBlock"];
    let fields = sound(decoder, |decoder| decoder.map(node, &KINDS))?;
    let (pods, namespaces) = (fields.get("podSelector"), fields.get("namespaceSelector"));
    if let Some(block) = fields.get("ipBlock") {
        if pods.is_some() || namespaces.is_some() {
            decoder.fault(&node.path, "ipBlock beside a selector", "one of them");
            return None;
        }
        return ip_block(decoder, &block);
    }
    if pods.is_none() && namespaces.is_none() {
        decoder.fault(&node.path, "no kind of peer that is known", KINDS.join(", "));
        return None;
    }
    let namespaces = match namespaces {
        Some(node) => Some(selector(decoder, &node)?),
        None => None,
    };
    let pods = match pods {
        Some(node) => selector(decoder, &node)?,
        None => Selector::default(),
    };
    Some(Peer::Pods { namespaces, pods })
}

fn ip_block(decoder: &mut Decoder, node: &Node<'_>) -> Option<Peer> {
    let fields = decoder.map(node, &["cidr", "except"])?;
    let block = decoder.required(&fields, "cidr", CIDR).and_then(|node| cidr(decoder, &node));
    let nodes = fields.get("except").map(|node| decoder.list(&node, CIDR)).unwrap_or_default();
    let mut except = Vec::new();
    for node in &nodes {
        let Some(hole) = cidr(decoder, node) else { continue };
        match block {
            Some(block) if block == hole || !block.covers(&hole) => {
                decoder.fault(&node.path, hole, format!("a prefix within {block}"));
            }
            _ => except.push(hole),
        }
    }
    Some(Peer::Block { block: block?, except })
}

/// What is accepted for a prefix.
const CIDR: &str = "a prefix: 192.0.2.0/24 or 2001:db8::/32";

/// A prefix. Kubernetes takes bits behind it for nothing. IPv4 in the form of IPv6 is neither.
fn cidr(decoder: &mut Decoder, node: &Node<'_>) -> Option<Prefix> {
    let text = decoder.text(node, CIDR)?;
    let read = || {
        let (ip, len) = text.split_once('/')?;
        let ip: std::net::IpAddr = ip.parse().ok()?;
        let len = len.parse().ok().filter(|_| len.bytes().all(|byte| byte.is_ascii_digit()))?;
        let is_mapped = matches!(ip, std::net::IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        Prefix::containing(ip, len).filter(|_| !is_mapped)
    };
    let prefix = read();
    if prefix.is_none() {
        decoder.fault(&node.path, shown(text), CIDR);
    }
    prefix
}

fn port(decoder: &mut Decoder, node: &Node<'_>) -> Option<PortMatch> {
    let fields = decoder.map(node, &["protocol", "port", "endPort"])?;
    let protocol = match fields.get("protocol") {
        Some(node) => decoder.parse(&node, "TCP, UDP or SCTP")?,
        None => Protocol::Tcp,
    };
    let (number, end) = (fields.get("port"), fields.get("endPort"));
    let Some(number) = number else {
        if let Some(end) = end {
            decoder.fault(&end.path, end.tree, "nothing, or a port before it");
            return None;
        }
        return Some(PortMatch::All(protocol));
    };
    if let Tree::Text(name) = number.tree {
        if let Some(end) = end {
            decoder.fault(&end.path, end.tree, "nothing, as the port has a name");
            return None;
        }
        return port_name(decoder, &number, name).map(|name| PortMatch::Named { protocol: Some(protocol), name });
    }
    let first: u16 = decoder.number(&number, 1..=u64::from(u16::MAX))?;
    let last = match end {
        Some(node) => decoder.number(&node, u64::from(first)..=u64::from(u16::MAX))?,
        None => first,
    };
    Some(PortMatch::Range { protocol, first, last })
}

/// A name by the rule for container ports (RFC 6335, section 5.1).
fn port_name(decoder: &mut Decoder, node: &Node<'_>, name: &str) -> Option<Arc<str>> {
    let is_name = (1..=15).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if !is_name {
        let accepted =
            "1 to 65535 without quotes, or a name: at most 15 lower-case letters, digits and single '-', with a letter";
        decoder.fault(&node.path, shown(name), accepted);
    }
    is_name.then(|| name.into())
}

/// Which labels something must have: Kubernetes' `matchLabels` and `matchExpressions`.
pub(super) fn selector(decoder: &mut Decoder, node: &Node<'_>) -> Option<Selector> {
    let before = decoder.count();
    let fields = decoder.map(node, &["matchLabels", "matchExpressions"])?;
    let labels = fields.get("matchLabels").map(|node| decoder.labels(&node)).unwrap_or_default();
    let mut all: Vec<Requirement> =
        labels.into_iter().map(|(key, value)| Requirement { key, operator: Operator::In(vec![value]) }).collect();
    let nodes = fields.get("matchExpressions").map(|node| decoder.list(&node, "expressions")).unwrap_or_default();
    all.extend(nodes.iter().filter_map(|node| expression(decoder, node)));
    Some(Selector::new(all)).filter(|_| decoder.count() == before)
}

fn expression(decoder: &mut Decoder, node: &Node<'_>) -> Option<Requirement> {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        In,
        NotIn,
        Exists,
        DoesNotExist,
    }
    let words =
        [("In", Word::In), ("NotIn", Word::NotIn), ("Exists", Word::Exists), ("DoesNotExist", Word::DoesNotExist)];
    let fields = decoder.map(node, &["key", "operator", "values"])?;
    let accepted = "a label's key";
    let node = decoder.required(&fields, "key", accepted)?;
    let key = decoder.text(&node, accepted)?;
    if !label_key_ok(key) {
        decoder.fault(&node.path, shown(key), accepted);
    }
    let word = decoder.required(&fields, "operator", "In, NotIn, Exists, DoesNotExist")?;
    let word = decoder.choice(&word, &words, &[])?;
    let nodes = fields.get("values").map(|node| decoder.list(&node, "values")).unwrap_or_default();
    let accepted = "letters, digits, '-', '_' and '.', at most 63, first and last a letter or digit";
    let mut values: Vec<Arc<str>> = Vec::new();
    for node in &nodes {
        let Some(text) = decoder.text(node, accepted) else { continue };
        if !text.is_empty() && !label_word_ok(text) {
            decoder.fault(&node.path, shown(text), accepted);
        }
        values.push(text.into());
    }
    let wants_values = matches!(word, Word::In | Word::NotIn);
    if wants_values == nodes.is_empty() {
        let found = format!("{} values", nodes.len());
        decoder.fault(fields.path("values"), found, if wants_values { "one or more" } else { "none" });
    }
    values.sort();
    values.dedup();
    let operator = match word {
        Word::In => Operator::In(values),
        Word::NotIn => Operator::NotIn(values),
        Word::Exists => Operator::Exists,
        Word::DoesNotExist => Operator::DoesNotExist,
    };
    Some(Requirement { key: key.into(), operator })
}

/// What a ClusterNetworkPolicy cannot be without, beside the fields of its `spec`. Fields that are not known are named as faults, too.
#[allow(clippy::type_complexity)]
fn cluster_head<'t>(
    decoder: &mut Decoder,
    tree: &'t Tree<'t>,
) -> Option<(Fields<'t>, Tier, u16, (Selector, Selector))> {
    let root = Node::root(tree);
    let Some(spec) = tree.get("spec") else {
        decoder.fault("spec", "nothing", "tier, priority and subject");
        return None;
    };
    let fields = decoder.map(&root.field("spec", spec), &["tier", "priority", "subject", "ingress", "egress"])?;
    let tiers = [("Admin", Tier::Admin), ("Baseline", Tier::Baseline)];
    let tier = decoder.required(&fields, "tier", "Admin, Baseline");
    let tier = tier.and_then(|node| decoder.choice(&node, &tiers, &[]));
    let bounds = 0..=u64::from(MAX_PRIORITY);
    let priority = decoder.required(&fields, "priority", "a number from 0 to 1000");
    let priority = priority.and_then(|node| decoder.number(&node, bounds));
    let subject = decoder.required(&fields, "subject", "namespaces or pods");
    let subject = subject.and_then(|node| sound(decoder, |decoder| pods_peer(decoder, &node, &["namespaces", "pods"])));
    Some((fields, tier?, priority?, subject?))
}

/// Selectors of namespaces and of pods, from a map with one of several kinds of which these are two.
fn pods_peer(decoder: &mut Decoder, node: &Node<'_>, kinds: &[&str]) -> Option<(Selector, Selector)> {
    let fields = one_of(decoder, node, kinds)?;
    if let Some(node) = fields.get("namespaces") {
        return Some((selector(decoder, &node)?, Selector::default()));
    }
    let node = fields.get("pods")?;
    let fields = decoder.map(&node, &["namespaceSelector", "podSelector"])?;
    let namespaces = match fields.get("namespaceSelector") {
        Some(node) => selector(decoder, &node)?,
        None => Selector::default(),
    };
    let pods = decoder.required(&fields, "podSelector", "a selector; {} takes all")?;
    Some((namespaces, selector(decoder, &pods)?))
}

/// A map with exactly one of these fields.
fn one_of<'t>(decoder: &mut Decoder, node: &Node<'t>, kinds: &[&str]) -> Option<Fields<'t>> {
    let fields = sound(decoder, |decoder| decoder.map(node, kinds))?;
    let there = kinds.iter().filter(|kind| fields.get(kind).is_some()).count();
    if there != 1 {
        let found = if there == 0 { "none that is known".into() } else { format!("{there} kinds") };
        decoder.fault(&node.path, found, format!("one of {}", kinds.join(", ")));
        return None;
    }
    Some(fields)
}

fn cluster_rules(decoder: &mut Decoder, fields: &Fields<'_>, direction: Direction) -> Vec<PolicyRule> {
    let Some(node) = fields.get(&direction.to_string()) else { return Vec::new() };
    let before = decoder.count();
    let nodes = decoder.list(&node, "rules");
    if decoder.count() > before {
        return vec![PolicyRule::closed(Action::Deny)];
    }
    if nodes.len() > MAX_ENTRIES {
        decoder.fault(&node.path, format!("{} rules", nodes.len()), format!("at most {MAX_ENTRIES}"));
    }
    let mut rules = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        let actions = [("Accept", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)];
        let rule = sound(decoder, |decoder| {
            let fields = decoder.map(node, &["name", "action", peers_field(direction), "protocols"])?;
            let action = decoder.required(&fields, "action", "Accept, Deny, Pass")?;
            let action = decoder.choice(&action, &actions, &[])?;
            Some((action, cluster_rule(decoder, &fields, action, direction)))
        });
        rules.push(match rule {
            Some((_, Some(rule))) if place < MAX_ENTRIES => rule,
            // The action may be readable where the rest is not.
            _ => {
                let said = node.tree.text_at(&["action"]);
                let action = actions.iter().find(|(word, _)| Some(*word) == said).map(|(_, action)| *action);
                PolicyRule::closed(action.unwrap_or(Action::Deny))
            }
        });
    }
    rules
}

fn cluster_rule(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    action: Action,
    direction: Direction,
) -> Option<PolicyRule> {
    let name = match fields.get("name") {
        Some(node) => decoder.text(&node, "a name")?.chars().take(MAX_NAME).collect::<String>(),
        None => String::new(),
    };
    let node = decoder.required(fields, peers_field(direction), "one peer or more")?;
    let mut peers = Vec::new();
    for node in entries(decoder, &node, "peers")? {
        peers.append(&mut cluster_peer(decoder, &node, direction)?);
    }
    let ports = match fields.get("protocols") {
        Some(node) => {
            let nodes = entries(decoder, &node, "protocols")?;
            Some(nodes.iter().map(|node| protocol(decoder, node)).collect::<Option<Vec<PortMatch>>>()?)
        }
        None => None,
    };
    let named = ports.iter().flatten().any(|port| matches!(port, PortMatch::Named { .. }));
    if named && peers.iter().any(|peer| !matches!(peer, Peer::Pods { .. })) {
        let accepted = "destinationNamedPort with pods or namespaces alone: nobody else has names for ports";
        decoder.fault(fields.path("protocols"), "a name of a port beside networks or nodes", accepted);
        return None;
    }
    Some(PolicyRule { name: name.into(), action, peers: Some(peers), ports })
}

/// Most characters of a rule's name; more are cut, as nothing depends on them.
const MAX_NAME: usize = 100;

/// The members of a list of 1 to 25.
fn entries<'t>(decoder: &mut Decoder, node: &Node<'t>, what: &str) -> Option<Vec<Node<'t>>> {
    let nodes = decoder.list(node, what);
    if nodes.is_empty() || nodes.len() > MAX_ENTRIES {
        decoder.fault(&node.path, format!("{} {what}", nodes.len()), format!("1 to {MAX_ENTRIES}"));
        return None;
    }
    Some(nodes)
}

fn cluster_peer(decoder: &mut Decoder, node: &Node<'_>, direction: Direction) -> Option<Vec<Peer>> {
    let kinds: &[&str] = match direction {
        Direction::Ingress => &["namespaces", "pods"],
        Direction::Egress => &["namespaces", "pods", "nodes", "networks"],
    };
    if node.tree.get("domainNames").is_some() {
        decoder.fault(&node.path, "domainNames, which are not available yet", format!("one of {}", kinds.join(", ")));
        return None;
    }
    let fields = one_of(decoder, node, kinds)?;
    if let Some(node) = fields.get("nodes") {
        return Some(vec![Peer::Nodes(selector(decoder, &node)?)]);
    }
    if let Some(node) = fields.get("networks") {
        let networks = entries(decoder, &node, "networks")?;
        let block = |node| cidr(decoder, node).map(|block| Peer::Block { block, except: Vec::new() });
        return networks.iter().map(block).collect();
    }
    let (namespaces, pods) = pods_peer(decoder, node, kinds)?;
    Some(vec![Peer::Pods { namespaces: Some(namespaces), pods }])
}

fn protocol(decoder: &mut Decoder, node: &Node<'_>) -> Option<PortMatch> {
    let kinds = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
    let fields = one_of(decoder, node, &["tcp", "udp", "sctp", "destinationNamedPort"])?;
    if let Some(node) = fields.get("destinationNamedPort") {
        let text = decoder.text(&node, "the name of a container's port")?;
        return port_name(decoder, &node, text).map(|name| PortMatch::Named { protocol: None, name });
    }
    let (node, protocol) = kinds.iter().find_map(|(field, protocol)| Some((fields.get(field)?, *protocol)))?;
    let fields = decoder.map(&node, &["destinationPort"])?;
    let port = decoder.required(&fields, "destinationPort", "number or range")?;
    let fields = one_of(decoder, &port, &["number", "range"])?;
    let ports = 1..=u64::from(u16::MAX);
    if let Some(node) = fields.get("number") {
        let number = decoder.number(&node, ports)?;
        return Some(PortMatch::Range { protocol, first: number, last: number });
    }
    let range = fields.get("range")?;
    let fields = decoder.map(&range, &["start", "end"])?;
    let start = decoder.required(&fields, "start", "1 to 65535")?;
    let first: u16 = decoder.number(&start, ports)?;
    let end = decoder.required(&fields, "end", "a port behind start")?;
    let last = decoder.number(&end, u64::from(first) + 1..=u64::from(u16::MAX))?;
    Some(PortMatch::Range { protocol, first, last })
}
