//! What is asked for a group's packets at a gate, in order, and the table of ports that follows from it.

use std::collections::BTreeSet;

use ripstop_objects::policy::{Action, Direction, PortMatch, Tier};
use ripstop_objects::service::Protocol;

use crate::atoms::{AtomKey, Atoms, Who};
use crate::members::{AtomId, GroupId, Members};
use crate::rules::{ClusterPolicy, Rule, Rules, place};
use crate::tables::{Gate, Ladder, PortTable, Rung, Stage, Step, Way, place_of};

/// What is asked, the first stage first.
pub struct Course<'r> {
    /// Rules of tier Admin; then those of NetworkPolicies, or of tier Baseline.
    stages: [Vec<&'r Rule>; 2],
    /// What becomes of packets that none of them is about.
    otherwise: bool,
}

/// A rule for packets to some ports.
struct Clause {
    stage: usize,
    step: Step,
    /// `None`: anybody.
    peers: Option<Vec<AtomId>>,
}

/// Where clauses begin and end.
#[derive(Default)]
struct Clauses {
    all: Vec<Clause>,
    /// Those for all packets.
    always: BTreeSet<usize>,
    /// By protocol: from where, whether a clause begins there or has ended, and which one.
    edges: [Vec<(u32, bool, usize)>; 3],
    /// What was interned for them alone.
    held: Vec<AtomId>,
}

impl<'r> Course<'r> {
    /// Of a group, at every gate.
    pub fn all_of(rules: &'r Rules, members: &Members, group: GroupId) -> [Self; 4] {
        let key = &*members.groups[group].key;
        let namespace = members.namespaces.get(&key.namespace).and_then(|namespace| namespace.labels.as_ref());
        let [admin, baseline] = [Tier::Admin, Tier::Baseline].map(|tier| rules.cluster_about(tier, namespace, key));
        let isolating = rules.about(key);
        Gate::ALL.map(|gate| {
            if key.is_closed {
                return Self { stages: [Vec::new(), Vec::new()], otherwise: gate.is_near() };
            }
            let direction = place(gate.direction());
            let of_tier = |tier: &[(_, &'r ClusterPolicy)]| {
                tier.iter().flat_map(|(_, policy)| &policy.rules[direction]).collect()
            };
            let isolating = isolating.iter().filter_map(|policy| policy.rules[direction].as_deref());
            let is_isolated = isolating.clone().next().is_some();
            let (second, otherwise) = match (is_isolated, gate.is_near()) {
                (false, _) => (of_tier(&baseline), true),
                (true, true) => (Vec::new(), true),
                (true, false) => (isolating.flatten().collect(), false),
            };
            Self { stages: [of_tier(&admin), second], otherwise }
        })
    }

    /// What becomes of all packets, where no rule is asked.
    pub fn only(&self) -> Option<Way> {
        self.stages.iter().all(Vec::is_empty).then(|| Way::of(self.otherwise))
    }

    /// The table of ports. `way` makes a way of a ladder.
    pub fn compile(
        &self,
        members: &Members,
        atoms: &mut Atoms,
        group: GroupId,
        direction: Direction,
        mut way: impl FnMut(&mut Atoms, Ladder) -> Way,
    ) -> PortTable {
        let clauses = self.clauses(members, atoms, group, direction);
        let mut of =
            |atoms: &mut Atoms, active: &BTreeSet<usize>| way(atoms, clauses.ladder(active, direction, self.otherwise));
        let others = of(atoms, &clauses.always);
        let mut ranges: [Box<[(u16, Way)]>; 3] = Default::default();
        for protocol in Protocol::ALL {
            let mut edges = clauses.edges[place_of(protocol)].clone();
            if edges.is_empty() {
                ranges[place_of(protocol)] = [(u16::MAX, others)].into();
                continue;
            }
            edges.sort_unstable();
            let mut active = clauses.always.clone();
            let (mut found, mut next): (Vec<(u16, Way)>, _) = (Vec::new(), 0);
            let mut from = 0;
            loop {
                while let Some((_, begins, clause)) = edges.get(next).filter(|(at, ..)| *at <= from) {
                    if *begins {
                        active.insert(*clause)
                    } else {
                        active.remove(clause)
                    };
                    next += 1;
                }
                let end = edges.get(next).map_or(1 << 16, |(at, ..)| *at);
                let last = u16::try_from(end - 1).unwrap_or(u16::MAX);
                let way = if active == clauses.always { others } else { of(atoms, &active) };
                match found.last_mut() {
                    Some(before) if before.1 == way => before.0 = last,
                    _ => found.push((last, way)),
                }
                if last == u16::MAX {
                    break;
                }
                from = end;
            }
            ranges[place_of(protocol)] = found.into();
        }
        for atom in clauses.held {
            atoms.release(atom);
        }
        PortTable { ranges, others }
    }

    fn clauses(&self, members: &Members, atoms: &mut Atoms, group: GroupId, direction: Direction) -> Clauses {
        let mut clauses = Clauses::default();
        for (stage, rules) in self.stages.iter().enumerate() {
            for rule in rules {
                let step = match rule.action {
                    Action::Accept => Step::Accept,
                    Action::Deny => Step::Deny,
                    // Behind the last stage nobody is asked: what passes there is as if nobody had been.
                    Action::Pass if stage == 0 => Step::Next,
                    Action::Pass => Step::of(self.otherwise),
                };
                let clause = |peers| Clause { stage, step, peers };
                let peers = rule.peers.as_deref();
                let Some(ports) = &rule.ports else {
                    let place = clauses.add(clause(peers.map(Into::into)));
                    clauses.always.insert(place);
                    continue;
                };
                let (plain, named) = resolve(ports, members, group, direction);
                if !plain.is_empty() {
                    let place = clauses.add(clause(peers.map(Into::into)));
                    clauses.limit(place, plain);
                }
                for (name, protocol, number) in named {
                    let port = (name, protocol, number);
                    let peers = with_port(peers, &port, atoms, &mut clauses.held);
                    let place = clauses.add(clause(Some(peers)));
                    clauses.limit(place, vec![(protocol, number, number)]);
                }
            }
        }
        clauses
    }
}

type Ranges = Vec<(Protocol, u16, u16)>;

/// Ports by number, and those that depend on who is at the other end. For what comes to the group itself its own names count.
fn resolve(
    ports: &[PortMatch],
    members: &Members,
    group: GroupId,
    direction: Direction,
) -> (Ranges, BTreeSet<crate::members::NamedPort>) {
    let (mut plain, mut named) = (Vec::new(), BTreeSet::new());
    for port in ports {
        match port {
            PortMatch::All(protocol) => plain.push((*protocol, 0, u16::MAX)),
            PortMatch::Range { protocol, first, last } => plain.push((*protocol, *first, *last)),
            PortMatch::Named { protocol: wanted, name } => {
                let is_wanted = |protocol: &Protocol| wanted.is_none_or(|wanted| wanted == *protocol);
                if direction == Direction::Ingress {
                    let own = members.groups[group].key.ports.iter().filter(|(own, ..)| own == name);
                    plain.extend(own.filter(|(_, own, _)| is_wanted(own)).map(|(_, own, port)| (*own, *port, *port)));
                } else {
                    let numbers = members.numbers(name).filter(|(protocol, _)| is_wanted(protocol));
                    named.extend(numbers.map(|(protocol, number)| (name.clone(), protocol, number)));
                }
            }
        }
    }
    (plain, named)
}

/// Those of peers that have a port of that name. Nodes have none.
fn with_port(
    peers: Option<&[AtomId]>,
    port: &crate::members::NamedPort,
    atoms: &mut Atoms,
    held: &mut Vec<AtomId>,
) -> Vec<AtomId> {
    let who: Vec<Who> = match peers {
        None => vec![Who::All],
        Some(peers) => peers.iter().map(|peer| atoms.get(*peer).key.who.clone()).collect(),
    };
    let who = who.into_iter().filter(|who| !matches!(who, Who::Nodes(_)));
    let found: Vec<AtomId> = who.map(|who| atoms.intern(AtomKey { who, port: Some(port.clone()) })).collect();
    held.extend(&found);
    found
}

impl Clauses {
    fn add(&mut self, clause: Clause) -> usize {
        self.all.push(clause);
        self.all.len() - 1
    }

    /// A clause is for these ports alone. Where they overlap it does not begin twice.
    fn limit(&mut self, clause: usize, mut ranges: Ranges) {
        ranges.sort_unstable();
        let mut merged: Ranges = Vec::with_capacity(ranges.len());
        for (protocol, first, last) in ranges {
            match merged.last_mut() {
                Some((own, _, end)) if *own == protocol && first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((protocol, first, last)),
            }
        }
        for (protocol, first, last) in merged {
            let edges = &mut self.edges[place_of(protocol)];
            edges.push((first.into(), true, clause));
            edges.push((u32::from(last) + 1, false, clause));
        }
    }

    /// What is asked about a packet that these clauses are for.
    fn ladder(&self, active: &BTreeSet<usize>, direction: Direction, otherwise: bool) -> Ladder {
        let stage = |otherwise| Stage { rungs: Vec::new(), otherwise };
        let mut stages = [stage(Step::Next), stage(Step::of(otherwise))];
        let mut seen: [BTreeSet<AtomId>; 2] = Default::default();
        let mut is_over = [false; 2];
        for clause in active.iter().map(|place| &self.all[*place]) {
            let (stage, seen) = (&mut stages[clause.stage], &mut seen[clause.stage]);
            match &clause.peers {
                _ if is_over[clause.stage] => {}
                None => {
                    stage.otherwise = clause.step;
                    is_over[clause.stage] = true;
                }
                Some(peers) => {
                    let atoms = peers.iter().copied().filter(|atom| seen.insert(*atom)).collect();
                    stage.rungs.push(Rung { step: clause.step, atoms });
                }
            }
        }
        let mut ladder = Ladder { direction, stages };
        ladder.simplify();
        ladder
    }
}
