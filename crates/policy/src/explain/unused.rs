//! What of policies has no effect: policies about nobody, rules that can never match, names of ports that no pod has, and rules that
//! others say already.
//!
//! What is said holds for the pods, nodes and namespaces that there are. That a rule is covered by another is told by what both say, never
//! by who happens to be there, and only where it is certain: a rule that is not named here may still be one too many.

use std::fmt;

use ripstop_objects::policy::{Direction, Operator, PortMatch, Selector};
use serde::{Deserialize, Serialize};

use super::court::{cluster_ref, policy_ref};
use super::words::selector_text;
use super::{PolicyRef, RuleRef};
use crate::atoms::{AtomKey, Who};
use crate::members::GroupId;
use crate::policies::Policies;
use crate::rules::{ClusterKey, ClusterPolicy, Policy, Rule, Rules, place};

/// Something without effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyRef,
    /// The list that the rule is in; `None`: it is about the policy as a whole.
    pub direction: Option<Direction>,
    /// The rule's place there, from 0.
    pub rule: Option<usize>,
    /// What it is.
    pub finding: Kind,
    /// More of it.
    pub detail: String,
}

/// What has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The policy is about no pod that there is.
    SelectsNothing,
    /// No packet can meet the rule, whoever is there.
    NeverMatches,
    /// A peer is nobody that there is.
    NoPeer,
    /// A name that no pod in question has for a port.
    UnknownPortName,
    /// Another rule says the same, and more.
    Covered,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SelectsNothing => "selects-nothing",
            Self::NeverMatches => "never-matches",
            Self::NoPeer => "no-peer",
            Self::UnknownPortName => "unknown-port-name",
            Self::Covered => "covered",
        })
    }
}

/// A policy of either kind.
struct Subject<'p> {
    name: PolicyRef,
    /// When it is asked among ClusterNetworkPolicies.
    rank: Option<&'p ClusterKey>,
    namespaces: Option<&'p Selector>,
    pods: &'p Selector,
    rules: [&'p [Rule]; 2],
    /// The pods that it is about.
    groups: Vec<GroupId>,
}

impl Policies {
    /// What has no effect, in order of policies: ClusterNetworkPolicies as they are asked, then NetworkPolicies by name. What is staged is
    /// looked at, too.
    #[must_use]
    pub fn unused(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for (rules, staged) in [(&self.rules, false), (&self.staged, true)] {
            let subjects = self.subjects_of(rules, staged);
            for subject in &subjects {
                self.look(subject, &mut found);
            }
            self.covered(&subjects, &mut found);
        }
        found.sort_by_key(|one| {
            let policy = &one.policy;
            let rank = (policy.kind, policy.tier, policy.priority, policy.namespace.clone(), policy.name.clone());
            (std::cmp::Reverse(rank.0), rank.1, rank.2, rank.3, rank.4, one.direction, one.rule, one.finding)
        });
        found
    }

    fn subjects_of<'p>(&'p self, rules: &'p Rules, staged: bool) -> Vec<Subject<'p>> {
        let cluster = rules.each_cluster().map(|(key, policy): (&ClusterKey, &ClusterPolicy)| Subject {
            name: cluster_ref(key, staged),
            rank: Some(key),
            namespaces: Some(&policy.namespaces),
            pods: &policy.pods,
            rules: [&policy.rules[0], &policy.rules[1]],
            groups: self.members.select_any(&policy.namespaces, &policy.pods),
        });
        let network = rules.each().map(|policy: &Policy| Subject {
            name: policy_ref(policy, staged),
            rank: None,
            namespaces: None,
            pods: &policy.subject,
            rules: [0, 1].map(|direction: usize| policy.rules[direction].as_deref().unwrap_or_default()),
            groups: self.members.select_own(&policy.name.namespace, &policy.subject),
        });
        let mut all: Vec<Subject<'_>> = cluster.chain(network).collect();
        all.sort_by(|one, other| {
            let key = |subject: &Subject<'_>| (subject.name.namespace.clone(), subject.name.name.clone());
            one.rank
                .is_none()
                .cmp(&other.rank.is_none())
                .then(one.rank.cmp(&other.rank))
                .then(key(one).cmp(&key(other)))
        });
        all
    }

    fn look(&self, subject: &Subject<'_>, found: &mut Vec<Finding>) {
        if subject.groups.is_empty() {
            let why = match (subject.namespaces, &subject.name.namespace) {
                (Some(namespaces), _) => format!(
                    "no pod with {} in a namespace with {}",
                    selector_text(subject.pods),
                    selector_text(namespaces)
                ),
                (None, Some(namespace)) => {
                    format!("no pod of namespace {namespace} with {}", selector_text(subject.pods))
                }
                (None, None) => String::new(),
            };
            found.push(subject.finding(None, Kind::SelectsNothing, why));
        }
        for direction in Direction::BOTH {
            for (index, rule) in subject.rules[place(direction)].iter().enumerate() {
                let at = Some((direction, index));
                if let Some(why) = self.never(rule) {
                    found.push(subject.finding(at, Kind::NeverMatches, why));
                    continue;
                }
                for why in self.nobody(rule) {
                    found.push(subject.finding(at, Kind::NoPeer, why));
                }
                for why in self.unknown_names(subject, direction, rule) {
                    found.push(subject.finding(at, Kind::UnknownPortName, why));
                }
            }
        }
    }

    /// Why no packet can meet a rule.
    fn never(&self, rule: &Rule) -> Option<String> {
        if rule.ports.as_ref().is_some_and(|ports| ports.is_empty()) {
            return Some("none of its ports can be read".into());
        }
        let peers = rule.peers.as_ref()?;
        if peers.is_empty() {
            return Some("none of its peers can be read".into());
        }
        let why = |key: &AtomKey| match &key.who {
            Who::Own(_, pods) => contradiction(pods),
            Who::Any(namespaces, pods) => contradiction(namespaces).or_else(|| contradiction(pods)),
            Who::Nodes(nodes) => contradiction(nodes),
            Who::Block(block, except) => {
                let hole = except.iter().find(|hole| hole.covers(block))?;
                Some(format!("its exception {hole} is all of {block}"))
            }
            Who::All => None,
        };
        let all: Option<Vec<String>> = peers.iter().map(|atom| why(&self.atoms.get(*atom).key)).collect();
        all.and_then(|all| all.into_iter().next())
    }

    /// Peers of a rule that are nobody. Of blocks nothing is said: who is in them need not be known here.
    fn nobody(&self, rule: &Rule) -> Vec<String> {
        let keys = rule.peers.iter().flatten().map(|atom| &self.atoms.get(*atom).key);
        keys.filter_map(|key| match &key.who {
            Who::Own(namespace, pods) if self.members.select_own(namespace, pods).is_empty() => {
                Some(format!("no pod of namespace {namespace} with {}", selector_text(pods)))
            }
            Who::Any(namespaces, pods) if self.members.select_any(namespaces, pods).is_empty() => {
                Some(format!("no pod with {} in a namespace with {}", selector_text(pods), selector_text(namespaces)))
            }
            Who::Nodes(nodes) if !self.members.nodes.values().any(|node| node.labels.meet(nodes)) => {
                Some(format!("no node with {}", selector_text(nodes)))
            }
            _ => None,
        })
        .collect()
    }

    /// Names of ports that no pod has at which packets of a rule arrive.
    fn unknown_names(&self, subject: &Subject<'_>, direction: Direction, rule: &Rule) -> Vec<String> {
        let has = |groups: &[GroupId], wanted: &PortMatch| {
            let PortMatch::Named { protocol, name } = wanted else { return true };
            groups.iter().any(|group| {
                let ports = &self.members.groups[*group].key.ports;
                ports.iter().any(|(own, own_protocol, _)| own == name && protocol.is_none_or(|p| p == *own_protocol))
            })
        };
        let groups: Vec<GroupId> = match direction {
            Direction::Ingress => subject.groups.clone(),
            Direction::Egress => self.groups_of(rule),
        };
        // Where there is no pod at all that has been said already.
        let unknown = rule.ports.iter().flatten().filter(|port| !groups.is_empty() && !has(&groups, port));
        let whose = if direction == Direction::Ingress { "the policy is about" } else { "the rule leads to" };
        let text = |port: &PortMatch| match port {
            PortMatch::Named { protocol: Some(protocol), name } => {
                format!("no pod that {whose} has a port {name} of {protocol}")
            }
            PortMatch::Named { protocol: None, name } => format!("no pod that {whose} has a port {name}"),
            PortMatch::All(_) | PortMatch::Range { .. } => String::new(),
        };
        unknown.map(text).collect()
    }

    /// The pods that a rule's peers are.
    fn groups_of(&self, rule: &Rule) -> Vec<GroupId> {
        let everybody = || self.members.groups.iter().map(|(id, _)| id).collect();
        let Some(peers) = &rule.peers else { return everybody() };
        let mut groups = Vec::new();
        for atom in peers {
            match &self.atoms.get(*atom).key.who {
                Who::Own(namespace, pods) => groups.extend(self.members.select_own(namespace, pods)),
                Who::Any(namespaces, pods) => groups.extend(self.members.select_any(namespaces, pods)),
                Who::All | Who::Block(..) => return everybody(),
                Who::Nodes(_) => {}
            }
        }
        groups
    }

    /// Rules that an earlier one covers; of NetworkPolicies, whose order means nothing, any other.
    fn covered(&self, subjects: &[Subject<'_>], found: &mut Vec<Finding>) {
        for (here, subject) in subjects.iter().enumerate() {
            let all = subjects.iter().enumerate();
            let kin: Vec<(usize, &Subject<'_>)> = all.filter(|(_, other)| covers_subject(other, subject)).collect();
            for direction in Direction::BOTH {
                let rules = subject.rules[place(direction)];
                for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| self.never(rule).is_none()) {
                    let by = kin.iter().find_map(|(there, kin)| {
                        let rules = kin.rules[place(direction)];
                        let is_before = |other: usize| (*there, other) < (here, index);
                        let covering = rules.iter().enumerate().find(|(other, by)| {
                            let is_other = (*there, *other) != (here, index);
                            let counts = match subject.rank {
                                Some(_) => is_before(*other),
                                // Of two that cover each other the later is one too many.
                                None => is_before(*other) || !(self.covers(rule, by) && covers_subject(subject, kin)),
                            };
                            is_other && counts && self.covers(by, rule)
                        })?;
                        let action = covering.1.action;
                        let policy = kin.name.clone();
                        Some(RuleRef { policy, direction, rule: covering.0, action })
                    });
                    if let Some(by) = by {
                        found.push(subject.finding(Some((direction, index)), Kind::Covered, format!("by {by}")));
                    }
                }
            }
        }
    }

    /// Whether every packet that meets a rule meets another.
    fn covers(&self, wide: &Rule, narrow: &Rule) -> bool {
        let who = |atom: &u32| &self.atoms.get(*atom).key.who;
        let peers = match (&wide.peers, &narrow.peers) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => {
                narrow.iter().all(|narrow| wide.iter().any(|wide| covers_who(who(wide), who(narrow))))
            }
        };
        let ports = match (&wide.ports, &narrow.ports) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => narrow.iter().all(|narrow| wide.iter().any(|wide| covers_port(wide, narrow))),
        };
        peers && ports
    }
}

impl Subject<'_> {
    fn finding(&self, at: Option<(Direction, usize)>, finding: Kind, detail: String) -> Finding {
        let (direction, rule) = (at.map(|(direction, _)| direction), at.map(|(_, rule)| rule));
        Finding { policy: self.name.clone(), direction, rule, finding, detail }
    }
}

/// Why no labels meet a selector: two of its requirements exclude each other.
fn contradiction(selector: &Selector) -> Option<String> {
    let all = selector.requirements();
    let pairs = all.iter().flat_map(|one| all.iter().map(move |other| (one, other)));
    let excludes = |one: &Operator, other: &Operator| match (one, other) {
        (Operator::In(some), Operator::In(others)) => some.iter().all(|value| !others.contains(value)),
        (Operator::In(some), Operator::NotIn(others)) => some.iter().all(|value| others.contains(value)),
        (Operator::In(_) | Operator::Exists, Operator::DoesNotExist) => true,
        _ => false,
    };
    let is_one = |(one, other): &(&ripstop_objects::policy::Requirement, &ripstop_objects::policy::Requirement)| {
        one.key == other.key && excludes(&one.operator, &other.operator)
    };
    let found = pairs.into_iter().find(is_one)?;
    Some(format!("no labels meet {}", selector_text(&Selector::new([found.0.clone(), found.1.clone()]))))
}

/// Whether a policy is of the kind, and asked where the other is, about all the pods that the other is about.
fn covers_subject(wide: &Subject<'_>, narrow: &Subject<'_>) -> bool {
    let is_of_kind = match (wide.rank, narrow.rank) {
        (Some((one, ..)), Some((other, ..))) => one == other,
        (None, None) => wide.name.namespace == narrow.name.namespace,
        _ => false,
    };
    let namespaces = match (wide.namespaces, narrow.namespaces) {
        (Some(wide), Some(narrow)) => is_weaker(wide, narrow),
        _ => true,
    };
    is_of_kind && namespaces && is_weaker(wide.pods, narrow.pods)
}

/// Whether what meets one selector meets another: that asks for nothing else.
fn is_weaker(wide: &Selector, narrow: &Selector) -> bool {
    wide.requirements().iter().all(|wanted| {
        narrow.requirements().iter().any(|own| {
            own.key == wanted.key
                && match (&wanted.operator, &own.operator) {
                    (Operator::In(wide), Operator::In(narrow)) => narrow.iter().all(|value| wide.contains(value)),
                    (Operator::NotIn(wide), Operator::NotIn(narrow)) => wide.iter().all(|value| narrow.contains(value)),
                    (Operator::NotIn(wide), Operator::In(narrow)) => narrow.iter().all(|value| !wide.contains(value)),
                    (Operator::Exists, Operator::In(_)) | (Operator::NotIn(_), Operator::DoesNotExist) => true,
                    (wide, narrow) => wide == narrow,
                }
        })
    })
}

fn covers_who(wide: &Who, narrow: &Who) -> bool {
    match (wide, narrow) {
        (Who::All, _) => true,
        (Who::Own(one, wide), Who::Own(other, narrow)) => one == other && is_weaker(wide, narrow),
        (Who::Any(one, wide), Who::Any(other, narrow)) => is_weaker(one, other) && is_weaker(wide, narrow),
        (Who::Nodes(wide), Who::Nodes(narrow)) => is_weaker(wide, narrow),
        (Who::Block(wide, holes), Who::Block(narrow, own)) => {
            let is_closed = |hole| own.iter().any(|own| own.covers(hole));
            wide.covers(narrow)
                && holes.iter().all(|hole| is_closed(hole) || !(hole.covers(narrow) || narrow.covers(hole)))
        }
        _ => false,
    }
}

fn covers_port(wide: &PortMatch, narrow: &PortMatch) -> bool {
    match (wide, narrow) {
        (PortMatch::All(one), PortMatch::All(other) | PortMatch::Range { protocol: other, .. }) => one == other,
        (PortMatch::All(one), PortMatch::Named { protocol: Some(other), .. }) => one == other,
        (
            PortMatch::Range { protocol: one, first, last },
            PortMatch::Range { protocol: other, first: from, last: to },
        ) => one == other && first <= from && to <= last,
        (PortMatch::Named { protocol: one, name }, PortMatch::Named { protocol: other, name: own }) => {
            name == own && (one.is_none() || one == other)
        }
        _ => false,
    }
}
