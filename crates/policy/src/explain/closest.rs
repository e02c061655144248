//! Of rules that do not permit a packet the one that came closest, and what of it failed.
//!
//! Each condition that a packet does not meet has a price: little where it is likely to be a mistake (a label's value with a letter too
//! much, the right port of another protocol, an exception), much where the rule means something else altogether. The cheapest rule is the
//! closest, of equals the first. What failed is told in the order in which it is asked, so the first is what to look at.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::policy::{Operator, PortMatch, Requirement, Selector};
use ripstop_types::{Family, Prefix};

use super::packet::Packet;
use super::words::{ports_text, selector_text};
use super::{Closest, Condition, Failed, RuleRef};
use crate::atoms::{Atoms, Who};
use crate::rules::Rule;
use crate::select::Labels;
use crate::tables::number;

/// What the rule wants is there, written a little differently.
const TYPO: u32 = 2;
/// One thing is other than wanted.
const OTHER: u32 = 4;
/// It is not there.
const MISSING: u32 = 5;
/// The rule means something else altogether.
const ALIEN: u32 = 20;

/// The closest rule.
pub fn closest<'r, N: Copy>(
    packet: &Packet<'_>,
    atoms: &'r Atoms,
    rules: impl Iterator<Item = (N, &'r Rule)>,
    name: impl FnOnce(N) -> RuleRef,
) -> Option<Closest> {
    let mut best: Option<(u32, N, &Rule, Option<usize>)> = None;
    for (place, rule) in rules {
        let (by_peer, peer) = peer_price(packet, atoms, rule);
        let price = by_peer + port_price(packet, rule.ports.as_deref());
        if best.as_ref().is_none_or(|(least, ..)| price < *least) {
            best = Some((price, place, rule, peer));
        }
    }
    let (_, place, rule, peer) = best?;
    let mut failed = Vec::new();
    match (rule.peers.as_deref(), peer) {
        (Some(peers), Some(peer)) => {
            if let Some(atom) = peers.get(peer) {
                explain_peer(packet, &atoms.get(*atom).key.who, &mut failed);
            }
        }
        (Some(_), None) => failed.push(empty("one of its peers, of which it has none that can be read", packet)),
        (None, _) => {}
    }
    explain_port(packet, rule.ports.as_deref(), &mut failed);
    Some(Closest { rule: name(place), peer, failed })
}

fn empty(wanted: &str, packet: &Packet<'_>) -> Failed {
    Failed { condition: Condition::Empty, wanted: wanted.into(), found: packet.ip.to_string() }
}

/// The cheapest of a rule's peers.
fn peer_price(packet: &Packet<'_>, atoms: &Atoms, rule: &Rule) -> (u32, Option<usize>) {
    let Some(peers) = &rule.peers else { return (0, None) };
    let priced = peers.iter().enumerate().map(|(place, atom)| (who_price(packet, &atoms.get(*atom).key.who), place));
    priced.min().map_or((2 * ALIEN, None), |(price, place)| (price, Some(place)))
}

fn who_price(packet: &Packet<'_>, who: &Who) -> u32 {
    match who {
        Who::All => 0,
        Who::Own(own, pods) => packet.pod.map_or(ALIEN, |pod| {
            let namespace = if pod.namespace == *own { 0 } else { OTHER };
            namespace + selector_price(&pod.labels, pods)
        }),
        Who::Any(namespaces, pods) => packet.pod.map_or(ALIEN, |pod| {
            let namespace = packet.namespace.map_or(MISSING, |labels| selector_price(labels, namespaces));
            namespace + selector_price(&pod.labels, pods)
        }),
        Who::Nodes(nodes) => packet.nodes.iter().map(|labels| selector_price(labels, nodes)).min().unwrap_or(ALIEN),
        Who::Block(block, except) => match (block.contains(packet.ip), except.iter().any(|e| e.contains(packet.ip))) {
            (true, false) => 0,
            (true, true) => TYPO,
            (false, _) => MISSING + missing_bits(block, packet.ip),
        },
    }
}

/// How many of a prefix's bits an address has not, in steps of four.
fn missing_bits(block: &Prefix, ip: IpAddr) -> u32 {
    if block.family() != Family::of(ip) {
        return ALIEN;
    }
    let width = if block.family() == Family::V4 { 32 } else { 128 };
    let differing = number(block.addr()) ^ number(ip);
    let same = differing.leading_zeros().saturating_sub(128 - width);
    (u32::from(block.len()).saturating_sub(same) / 4).min(ALIEN - MISSING - 1)
}

fn selector_price(labels: &Labels, selector: &Selector) -> u32 {
    selector.requirements().iter().map(|wanted| requirement_price(labels, wanted)).sum()
}

fn requirement_price(labels: &Labels, wanted: &Requirement) -> u32 {
    if labels.meet_one(wanted) {
        return 0;
    }
    match (&wanted.operator, labels.get(&wanted.key)) {
        (Operator::In(values), Some(value)) if values.iter().any(|other| is_like(value, other)) => TYPO,
        (Operator::In(_) | Operator::Exists, None) if labels.iter().any(|(key, _)| is_like(key, &wanted.key)) => TYPO,
        (Operator::In(_) | Operator::Exists, None) => MISSING,
        _ => OTHER,
    }
}

fn port_price(packet: &Packet<'_>, ports: Option<&[PortMatch]>) -> u32 {
    let Some(ports) = ports else { return 0 };
    ports.iter().map(|port| one_port_price(packet, port)).min().unwrap_or(ALIEN)
}

fn one_port_price(packet: &Packet<'_>, wanted: &PortMatch) -> u32 {
    let Some((protocol, number)) = packet.port else { return MISSING + OTHER };
    if packet.goes_to(wanted) {
        return 0;
    }
    match wanted {
        PortMatch::All(_) => OTHER,
        PortMatch::Range { protocol: other, first, last } => match (*other == protocol, *first..=*last) {
            (false, range) if range.contains(&number) => TYPO,
            (false, _) => OTHER + TYPO,
            (true, _) => OTHER,
        },
        PortMatch::Named { name, .. } => {
            let here = packet.names.iter().filter(|(_, other, port)| (*other, *port) == (protocol, number));
            let mut like = here.filter(|(own, ..)| is_like(own, name));
            match (like.next().is_some(), packet.names.iter().any(|(own, ..)| own == name)) {
                (true, _) => TYPO,
                (false, true) => OTHER,
                (false, false) => MISSING,
            }
        }
    }
}

fn explain_peer(packet: &Packet<'_>, who: &Who, failed: &mut Vec<Failed>) {
    let ip = packet.ip;
    let mut fail = |condition, wanted: String, found: String| failed.push(Failed { condition, wanted, found });
    match who {
        Who::All => {}
        Who::Own(..) | Who::Any(..) if packet.pod.is_none() => {
            let found = if packet.nodes.is_empty() { "which no pod has" } else { "which a node has" };
            fail(Condition::Peer, "a pod".into(), format!("{ip}, {found}"));
        }
        Who::Own(namespace, pods) => {
            let Some(pod) = packet.pod else { return };
            if pod.namespace != *namespace {
                let wanted = format!("the policy's own namespace {namespace}, as the peer has no namespaceSelector");
                fail(Condition::Namespace, wanted, format!("namespace {}", pod.namespace));
            }
            explain_labels(&pod.labels, pods, Condition::PodLabels, failed);
        }
        Who::Any(namespaces, pods) => {
            let Some(pod) = packet.pod else { return };
            match packet.namespace {
                Some(labels) => explain_labels(labels, namespaces, Condition::Namespace, failed),
                None => {
                    let found = format!("namespace {}, which is not there", pod.namespace);
                    fail(Condition::Namespace, format!("a namespace with {}", selector_text(namespaces)), found);
                }
            }
            explain_labels(&pod.labels, pods, Condition::PodLabels, failed);
        }
        Who::Nodes(nodes) => match packet.nodes.iter().min_by_key(|labels| selector_price(labels, nodes)) {
            Some(labels) => explain_labels(labels, nodes, Condition::NodeLabels, failed),
            None => fail(Condition::Peer, "a node".into(), format!("{ip}, which no node has")),
        },
        Who::Block(block, except) => match except.iter().find(|hole| hole.contains(ip)) {
            _ if !block.contains(ip) => {
                let pod = packet.pod.map(|pod| format!(", which a pod of namespace {} has", pod.namespace));
                let pod = pod.unwrap_or_default();
                fail(Condition::Block, format!("an address within {block}"), format!("{ip}{pod}"));
            }
            Some(hole) => fail(Condition::Except, format!("an address within {block} without {hole}"), ip.to_string()),
            None => {}
        },
    }
}

/// What of a selector labels do not meet.
fn explain_labels(labels: &Labels, selector: &Selector, condition: Condition, failed: &mut Vec<Failed>) {
    for wanted in selector.requirements().iter().filter(|wanted| !labels.meet_one(wanted)) {
        let mut found = match labels.get(&wanted.key) {
            Some(value) => format!("{}={value}", wanted.key),
            None => format!("no label {}", wanted.key),
        };
        let like = labels.iter().find(|(key, _)| *key != wanted.key && is_like(key, &wanted.key));
        if let (None, Some((key, value))) = (labels.get(&wanted.key), like) {
            let _ = write!(found, " (but {key}={value})");
        }
        let wanted = selector_text(&Selector::new([wanted.clone()]));
        failed.push(Failed { condition, wanted, found });
    }
}

fn explain_port(packet: &Packet<'_>, ports: Option<&[PortMatch]>, failed: &mut Vec<Failed>) {
    let Some(ports) = ports else { return };
    if ports.iter().any(|port| packet.goes_to(port)) {
        return;
    }
    let Some(nearest) = ports.iter().min_by_key(|port| one_port_price(packet, port)) else {
        failed.push(empty("one of its ports, of which it has none that can be read", packet));
        return;
    };
    let wanted = ports_text(ports);
    let Some((protocol, number)) = packet.port else {
        let found = "a protocol without ports".into();
        failed.push(Failed { condition: Condition::Protocol, wanted, found });
        return;
    };
    let (condition, found) = match nearest {
        PortMatch::All(_) => (Condition::Protocol, protocol.to_string()),
        PortMatch::Range { protocol: other, .. } if *other != protocol => {
            (Condition::Protocol, format!("{number}/{protocol}"))
        }
        PortMatch::Range { .. } => (Condition::Port, format!("{number}/{protocol}")),
        PortMatch::Named { name, .. } => (Condition::PortName, name_text(packet, name)),
    };
    failed.push(Failed { condition, wanted, found });
}

/// What a name of a port is where the packet goes.
fn name_text(packet: &Packet<'_>, name: &Arc<str>) -> String {
    let Some((protocol, number)) = packet.port else { return String::new() };
    let meant = packet.names.iter().filter(|(own, ..)| own == name);
    let meant: Vec<String> = meant.map(|(_, protocol, port)| format!("{port}/{protocol}")).collect();
    let here = packet.names.iter().find(|(_, other, port)| (*other, *port) == (protocol, number));
    let called = here.map(|(own, ..)| format!(", which is called {own} there")).unwrap_or_default();
    match meant.is_empty() {
        true => format!("{number}/{protocol}{called}, at a destination without a port of that name"),
        false => format!("{number}/{protocol}{called}, at a destination where {name} is {}", meant.join(", ")),
    }
}

/// Whether two words are the same but for a slip: case, separators, or at most two letters; of short words one.
fn is_like(one: &str, other: &str) -> bool {
    let ((length, letters), (other_length, other_letters)) = (shape(one), shape(other));
    let most = match length.min(other_length) {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    };
    // Each letter that only one has is put in, left out or changed: so words that are far from each other need no second look.
    let only = |some: u64, others: u64| (some & !others).count_ones() as usize > most;
    if length.abs_diff(other_length) > most || only(letters, other_letters) || only(other_letters, letters) {
        return false;
    }
    let plain = |word: &str| plain(word).collect::<Vec<char>>();
    distance(&plain(one), &plain(other)) <= most
}

/// How many letters a word has, and which, as bits.
fn shape(word: &str) -> (usize, u64) {
    plain(word).fold((0, 0), |(count, letters), letter| (count + 1, letters | 1 << (u32::from(letter) % 64)))
}

/// A word without what makes no difference.
fn plain(word: &str) -> impl Iterator<Item = char> {
    let letters = word.chars().filter(|c| !matches!(c, '-' | '_' | '.' | '/'));
    letters.map(|c| c.to_ascii_lowercase()).take(MAX_WORD)
}

/// Longer words are compared as far as this.
const MAX_WORD: usize = 64;

/// How many letters must be put in, left out or changed, or changed in order with their neighbour (optimal string alignment).
fn distance(one: &[char], other: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, against) in other.iter().enumerate() {
            let mut least = (above[j + 1] + 1).min(row[j] + 1).min(above[j] + usize::from(letter != against));
            if i > 0 && j > 0 && *letter == other[j - 1] && one[i - 1] == *against {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_other_words() {
        for (one, other) in [("frontend", "front-end"), ("web", "wbe"), ("App", "app"), ("postgres", "postgers")] {
            assert!(is_like(one, other), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("web", "api"), ("frontend", "backend"), ("", "x"), ("dev", "prod")] {
            assert!(!is_like(one, other), "{one} {other}");
        }
    }

    #[test]
    fn bits_that_miss_are_counted() {
        let block: Prefix = "10.9.0.0/16".parse().unwrap();
        let far = |ip: &str| missing_bits(&block, ip.parse().unwrap());
        assert_eq!((far("10.8.0.1"), far("192.0.2.1"), far("fd00::1")), (0, 4, ALIEN));
    }
}
