//! Who may talk to whom: for each pair of pods the ports that both ends permit, by the tables.
//!
//! Pods of which the same is said stand together. Who is beyond the cluster and in no block that a policy names is one more party,
//! [`OUTSIDE`]. Of a pod and itself nothing is said.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use ripstop_objects::service::Protocol;
use ripstop_types::{Family, PodName};
use serde::{Deserialize, Serialize};

use crate::members::{GroupId, Pod};
use crate::policies::Policies;
use crate::tables::{Gate, Lead, Way};

/// Whoever has an address that neither a pod nor a node has, and no policy names.
pub const OUTSIDE: &str = "outside";

/// Pods that are looked at most: of each pair of them something is to be said.
pub const MAX_PODS: usize = 1_000;

/// Who may talk to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Pods that are treated alike, by the name of the first.
    pub members: BTreeMap<String, Vec<PodName>>,
    /// What is permitted, in order of names. What is not here is denied.
    pub edges: Vec<Edge>,
}

/// What one may do to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    /// Who begins: the first of pods that are treated alike, or [`OUTSIDE`].
    pub from: String,
    /// With whom.
    pub to: String,
    /// The family, where the other is not permitted the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// `80/TCP`, `8000-8080/UDP`, `TCP` for all of its ports, `other` for protocols without ports; `all`.
    pub ports: Vec<String>,
}

/// The ports that are permitted: ranges in order and apart for each protocol, and whether protocols without ports are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ports {
    ranges: [Vec<(u16, u16)>; 3],
    others: bool,
}

/// Of one pair, by family; `None`: they share none.
type Pair = [Option<u32>; 2];

/// Who is seen from one end.
#[derive(Clone, Copy)]
enum Other {
    Ip(IpAddr),
    Outside,
}

impl Policies {
    /// Who may talk to whom among pods that `is_meant` takes, and beyond.
    ///
    /// # Errors
    /// A sentence, where these are too many.
    pub fn graph(&self, is_meant: impl Fn(&PodName) -> bool) -> Result<Graph, String> {
        let pods = self.members.pods.iter().filter(|(name, pod)| pod.is_local && is_meant(name));
        let pods: BTreeMap<&PodName, &Pod> = pods.collect();
        if pods.len() > MAX_PODS {
            return Err(format!("found {} pods, accepted: at most {MAX_PODS}; choose a namespace", pods.len()));
        }
        let pods: Vec<(&PodName, &Pod)> = pods.into_iter().collect();
        let mut drawn = Drawn { policies: self, sets: Vec::new(), ids: HashMap::new() };
        let matrix = drawn.matrix(&pods);
        let (classes, members) = classes(&pods, &matrix);
        Ok(Graph { edges: drawn.edges(&pods, &matrix, &classes), members })
    }
}

/// A graph in the making: sets of ports, each once.
struct Drawn<'p> {
    policies: &'p Policies,
    sets: Vec<Ports>,
    ids: HashMap<Ports, u32>,
}

impl Drawn<'_> {
    /// From each of the pods, and the outside behind them, to each of them.
    fn matrix(&mut self, pods: &[(&PodName, &Pod)]) -> Vec<Vec<Pair>> {
        let ends = || pods.iter().map(|(_, pod)| Some(*pod)).chain([None]);
        ends().map(|from| ends().map(|to| self.pair(from, to)).collect()).collect()
    }

    fn pair(&mut self, from: Option<&Pod>, to: Option<&Pod>) -> Pair {
        Family::BOTH.map(|family| {
            let ip = |pod: &Pod| pod.ips.iter().copied().find(|ip| Family::of(*ip) == family);
            let ports = match (from, to) {
                (None, None) => return None,
                (Some(from), Some(to)) => {
                    let (source, destination) = (ip(from)?, ip(to)?);
                    self.policies.ports(Gate::Egress, source, Other::Ip(destination)).and(&self.policies.ports(
                        Gate::Ingress,
                        destination,
                        Other::Ip(source),
                    ))
                }
                (Some(from), None) => self.policies.ports(Gate::Egress, ip(from)?, Other::Outside),
                (None, Some(to)) => self.policies.ports(Gate::Ingress, ip(to)?, Other::Outside),
            };
            Some(self.intern(ports))
        })
    }

    fn intern(&mut self, ports: Ports) -> u32 {
        if let Some(id) = self.ids.get(&ports) {
            return *id;
        }
        let id = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        self.sets.push(ports.clone());
        self.ids.insert(ports, id);
        id
    }

    fn edges(&self, pods: &[(&PodName, &Pod)], matrix: &[Vec<Pair>], classes: &[usize]) -> Vec<Edge> {
        let name = |place: usize| pods.get(place).map_or_else(|| OUTSIDE.to_owned(), |(name, _)| name.to_string());
        let is_first = |place: usize| classes.get(place).is_none_or(|first| *first == place);
        let mut edges = Vec::new();
        for (from, row) in matrix.iter().enumerate().filter(|(from, _)| is_first(*from)) {
            for to in (0..row.len()).filter(|to| is_first(*to)) {
                // Of pods that are treated alike what one may do to another is what the first may to the second.
                let to_seen = match from == to {
                    false => Some(to),
                    true => (0..classes.len()).find(|place| *place != from && classes[*place] == from),
                };
                let Some(pair) = to_seen.map(|to| row[to]) else { continue };
                edges.extend(self.edges_of(&name(from), &name(to), pair));
            }
        }
        edges.sort();
        edges
    }

    fn edges_of(&self, from: &str, to: &str, pair: Pair) -> Vec<Edge> {
        let edge = |family, id: u32| {
            let ports = self.sets[id as usize].words();
            let (from, to) = (from.to_owned(), to.to_owned());
            (!ports.is_empty()).then_some(Edge { from, to, family, ports })
        };
        let edges = match pair {
            [Some(four), Some(six)] if four != six => [edge(Some(Family::V4), four), edge(Some(Family::V6), six)],
            [Some(one), _] | [None, Some(one)] => [edge(None, one), None],
            [None, None] => [None, None],
        };
        edges.into_iter().flatten().collect()
    }
}

/// For each pod the first that is treated alike, and those by its name. Alike are pods of one group that may do the same to all others, and
/// have the same done by them.
fn classes(pods: &[(&PodName, &Pod)], matrix: &[Vec<Pair>]) -> (Vec<usize>, BTreeMap<String, Vec<PodName>>) {
    let mut groups: HashMap<GroupId, Vec<usize>> = HashMap::new();
    for (place, (_, pod)) in pods.iter().enumerate() {
        groups.entry(pod.group).or_default().push(place);
    }
    let mut firsts: HashMap<(GroupId, Vec<Pair>), usize> = HashMap::new();
    let mut classes = Vec::with_capacity(pods.len());
    let mut members: BTreeMap<String, Vec<PodName>> = BTreeMap::new();
    for (place, (name, pod)) in pods.iter().enumerate() {
        let own = &groups[&pod.group];
        let is_other = |other: &usize| own.binary_search(other).is_err();
        let mut said: Vec<Pair> = Vec::new();
        for other in (0..matrix.len()).filter(is_other) {
            said.extend([matrix[place][other], matrix[other][place]]);
        }
        let mut among: Vec<Pair> =
            own.iter().filter(|other| **other != place).map(|other| matrix[place][*other]).collect();
        among.sort_unstable();
        among.dedup();
        said.append(&mut among);
        let first = *firsts.entry((pod.group, said)).or_insert(place);
        classes.push(first);
        members.entry(pods[first].0.to_string()).or_default().push((*name).clone());
    }
    (classes, members)
}

impl Policies {
    /// The ports that a gate permits between a pod and another.
    fn ports(&self, gate: Gate, own: IpAddr, other: Other) -> Ports {
        let passes = |way: Way| match way {
            Way::Accept => true,
            Way::Deny => false,
            Way::Peers(name) => self.peer_table(&name).is_some_and(|table| match other {
                Other::Ip(ip) => table.verdict(ip),
                Other::Outside => table.otherwise(),
            }),
        };
        let all = |is_permitted: bool| {
            let range: &[(u16, u16)] = if is_permitted { &[(0, u16::MAX)] } else { &[] };
            Ports { ranges: [range.into(), range.into(), range.into()], others: is_permitted }
        };
        let table = match self.lead(gate, own) {
            Lead::Way(way) => return all(passes(way)),
            Lead::Ports(name) => self.port_table(&name),
        };
        let Some(table) = table else { return all(false) };
        let ranges = Protocol::ALL.map(|protocol| {
            let (mut ranges, mut first): (Vec<(u16, u16)>, u32) = (Vec::new(), 0);
            for (last, way) in table.of(protocol) {
                if passes(*way) {
                    let from = u16::try_from(first).unwrap_or(u16::MAX);
                    match ranges.last_mut() {
                        Some(before) if u32::from(before.1) + 1 == first => before.1 = *last,
                        _ => ranges.push((from, *last)),
                    }
                }
                first = u32::from(*last) + 1;
            }
            ranges
        });
        Ports { ranges, others: passes(table.others) }
    }
}

impl Ports {
    /// What both permit.
    fn and(&self, other: &Self) -> Self {
        let mut ranges: [Vec<(u16, u16)>; 3] = Default::default();
        for (both, (one, two)) in ranges.iter_mut().zip(self.ranges.iter().zip(&other.ranges)) {
            let pairs = one.iter().flat_map(|a| two.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
            both.extend(pairs.filter(|(first, last)| first <= last));
        }
        Self { ranges, others: self.others && other.others }
    }

    fn words(&self) -> Vec<String> {
        let is_whole = |ranges: &Vec<(u16, u16)>| ranges[..] == [(0, u16::MAX)];
        if self.others && self.ranges.iter().all(is_whole) {
            return vec!["all".into()];
        }
        let mut words = Vec::new();
        for (protocol, ranges) in Protocol::ALL.iter().zip(&self.ranges) {
            if is_whole(ranges) {
                words.push(protocol.to_string());
                continue;
            }
            words.extend(ranges.iter().map(|(first, last)| match first == last {
                true => format!("{first}/{protocol}"),
                false => format!("{first}-{last}/{protocol}"),
            }));
        }
        words.extend(self.others.then(|| "other".to_owned()));
        words
    }
}

/// In the language of Graphviz.
impl Graph {
    /// The graph as text that `dot` draws.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut text = "digraph policies {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
        for (name, members) in &self.members {
            let more = members.len() - 1;
            let label = if more == 0 { name.clone() } else { format!("{name} and {more} like it") };
            text.push_str(&format!("  {} [label={}];\n", Quoted(name), Quoted(&label)));
        }
        for edge in &self.edges {
            let family = edge.family.map(|family| format!("{family}: ")).unwrap_or_default();
            let label = format!("{family}{}", edge.ports.join(" "));
            text.push_str(&format!("  {} -> {} [label={}];\n", Quoted(&edge.from), Quoted(&edge.to), Quoted(&label)));
        }
        text.push_str("}\n");
        text
    }
}

struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}
