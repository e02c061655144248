//! Packets that policies refused: whose they were, which policy and rule refused them, how many.
//!
//! The kernel counts refused packets by their ends, since many rules are one verdict there. Who refuses them is asked of the policies as they
//! are now (`ripstop_policy::explain`), some at a time: an explanation costs more than a packet, and who sends decides how many there are. A
//! packet counts once: for the rule that denies it, or where nothing permits it for the rule that came closest, or the first policy that
//! isolates the pod and has no rule. One that nothing refuses any more was refused by a policy, or for a pod, that is no more.
//!
//! The log has a line for each two ends and port, again after a minute where it goes on, and never more than a bounded number a second.
//!
//! Invariants: rows, pairs that wait and pairs that were told are bounded; what there is no room for is counted without a name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use ripstop_netmodel::{Refused, RefusedPacket};
use ripstop_objects::policy::{Direction, PolicyName};
use ripstop_objects::service::Protocol;
use ripstop_policy::explain::{By, End, Explanation, Question};
use ripstop_store::utc;
use ripstop_tables::Change;
use ripstop_types::{Millis, PodName};
use serde::Serialize;

use super::{Core, Level};

/// Rows at most. The one whose last packet is the longest ago makes room.
const MOST_ROWS: usize = 4_096;

/// Pairs of ends at most that wait to be explained, and that were told.
const MOST_PAIRS: usize = 16_384;

/// Pairs at most of which is kept what was found out.
const MOST_KNOWN: usize = 4_096;

/// Pairs that are explained at once, where there are few policies,
const MOST_AT_ONCE: usize = 512;

/// and times how many policies there are.
const LOOKS_AT_ONCE: usize = 20_000;

/// Lines of the log in a second,
const LINES_A_SECOND: u64 = 10;

/// and at once, where there were fewer before.
const BURST: u64 = 50;

/// A pair that goes on is told again so many milliseconds later.
const TOLD_AGAIN_MS: u64 = 60_000;

/// An explanation in the log is no longer than this.
const MOST_CHARACTERS: usize = 1_000;

/// Packets that a rule, or what stands in its place, refused.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct DropView {
    /// NetworkPolicy or ClusterNetworkPolicy.
    pub kind: Option<&'static str>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub direction: Option<String>,
    /// The rule's place in its list: the one that denies, or the one that came closest.
    pub rule: Option<usize>,
    /// What refuses.
    pub why: &'static str,
    pub packets: u64,
    /// When the first and the last of them were read.
    pub since: String,
    pub last: String,
    /// The last pair.
    pub source: Option<String>,
    pub destination: Option<String>,
    pub port: Option<String>,
}

/// What is known of refused packets.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// Packets of which nobody has asked who refuses them,
    waiting: BTreeMap<RefusedPacket, u64>,
    /// and the last of which somebody has: they have their turn one after another.
    last: Option<RefusedPacket>,
    /// What was found out, until something changes that it may hang on.
    known: BTreeMap<RefusedPacket, Arc<Found>>,
    totals: BTreeMap<Refuser, Total>,
    told: BTreeMap<RefusedPacket, Told>,
    pace: Pace,
}

/// What refuses packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Refuser {
    /// A rule that denies.
    Rule(PolicyName, Direction, usize),
    /// Nothing permits it; the policy and its rule came closest.
    Isolation(PolicyName, Direction, Option<usize>),
    /// It was not known which policies are about the pod.
    Unknown(Direction),
    /// Nothing, by now.
    Gone,
    /// There was no room to tell them apart.
    Unnamed,
}

#[derive(Debug)]
struct Total {
    packets: u64,
    since: Millis,
    last: Millis,
    pair: Option<Pair>,
}

/// What was found out of a packet.
#[derive(Debug)]
struct Found {
    refuser: Refuser,
    pair: Pair,
    why: String,
}

/// Two ends in words.
#[derive(Debug, Clone)]
struct Pair {
    source: String,
    destination: String,
    port: String,
}

#[derive(Debug)]
struct Told {
    at: Millis,
    /// Packets since.
    more: u64,
}

/// How much the log may be told.
#[derive(Debug)]
struct Pace {
    /// Thousandths of lines.
    left: u64,
    at: Millis,
    /// Packets that no line speaks of.
    silent: u64,
    /// When it was last said how many these are.
    said: Millis,
}

impl Core {
    /// Takes in what the kernel has refused since it was last asked.
    pub(super) fn take_refused(&mut self, refused: Refused) -> BTreeSet<Change> {
        let drops = &mut self.drops;
        let mut unnamed = refused.unnamed;
        for (packet, packets) in refused.named {
            let has_room = drops.waiting.len() < MOST_PAIRS || drops.waiting.contains_key(&packet);
            let count = if has_room { drops.waiting.entry(packet).or_default() } else { &mut unnamed };
            *count = count.saturating_add(packets);
        }
        if unnamed > 0 {
            drops.count(&Refuser::Unnamed, unnamed, None, self.at.wall);
            drops.pace.silent = drops.pace.silent.saturating_add(unnamed);
        }
        self.attribute_drops();
        BTreeSet::new()
    }

    /// What was found out may be so no more.
    pub(super) fn note_for_drops(&mut self, changes: &BTreeSet<Change>) {
        let is_about = |change: &Change| matches!(change, Change::Pod(_) | Change::Node(_) | Change::Policies(_));
        if changes.iter().any(is_about) {
            self.drops.known.clear();
        }
    }

    /// Finds out who refuses some of what waits.
    pub(super) fn attribute_drops(&mut self) {
        // Before all is read nobody can say who refused what the last run of the agent has left.
        let mut left = if self.undecided().is_none() { self.explained_at_once() } else { 0 };
        while let Some(packet) = self.drops.next() {
            let found = match self.drops.known.get(&packet) {
                Some(found) => found.clone(),
                None if left == 0 => break,
                None => {
                    left -= 1;
                    self.find_out(packet)
                }
            };
            let packets = self.drops.take(packet);
            if let Some(told) = self.drops.may_tell(packet, packets, self.at.now) {
                self.log(Level::Info, sentence(told, &found.pair, &found.why));
            }
            self.drops.count(&found.refuser, packets, Some(&found.pair), self.at.wall);
        }
        self.drops.forget_told(self.at.now);
        if let Some(silent) = self.drops.pace.unsaid(self.at.now) {
            self.log(Level::Info, format!("{silent} more packets were refused by policies"));
        }
    }

    /// How many explanations have their time now: one may have to look at each policy.
    fn explained_at_once(&self) -> usize {
        let policies = &self.tables.cluster.policies;
        (LOOKS_AT_ONCE / (1 + policies.network.len() + policies.cluster.len())).clamp(1, MOST_AT_ONCE)
    }

    fn find_out(&mut self, packet: RefusedPacket) -> Arc<Found> {
        let explanation = self.desired.policies().map(|policies| policies.explain(&question(&packet)));
        let end = explanation.as_ref().and_then(refusing);
        let found = Arc::new(Found {
            refuser: end.and_then(Refuser::of).unwrap_or(Refuser::Gone),
            pair: Pair::of(&packet, explanation.as_ref()),
            why: end.map_or_else(|| GONE.to_owned(), |end| one_line(&end.to_string())),
        });
        if self.drops.known.len() >= MOST_KNOWN {
            self.drops.known.clear();
        }
        self.drops.known.insert(packet, found.clone());
        found
    }

    /// What policies have refused since this agent runs, by policy and rule.
    #[must_use]
    pub fn drops(&self) -> Vec<DropView> {
        self.drops.totals.iter().map(|(refuser, total)| view(refuser, total)).collect()
    }

    /// The same by policy.
    pub(super) fn drops_by_policy(&self) -> BTreeMap<&PolicyName, u64> {
        let mut drops: BTreeMap<&PolicyName, u64> = BTreeMap::new();
        for (refuser, total) in &self.drops.totals {
            if let Refuser::Rule(name, ..) | Refuser::Isolation(name, ..) = refuser {
                let packets = drops.entry(name).or_default();
                *packets = packets.saturating_add(total.packets);
            }
        }
        drops
    }
}

impl Drops {
    /// The next that waits, behind the one that had its turn.
    fn next(&self) -> Option<RefusedPacket> {
        let behind = self.last.map(|last| (Bound::Excluded(last), Bound::Unbounded));
        let next = behind.and_then(|behind| self.waiting.range(behind).next());
        next.or_else(|| self.waiting.first_key_value()).map(|(packet, _)| *packet)
    }

    /// Has it wait no more; answers with how many packets these are.
    fn take(&mut self, packet: RefusedPacket) -> u64 {
        self.last = Some(packet);
        self.waiting.remove(&packet).unwrap_or_default()
    }

    fn count(&mut self, refuser: &Refuser, packets: u64, pair: Option<&Pair>, now: Millis) {
        // There is always room for the row of those that have none.
        if self.totals.len() + 1 >= MOST_ROWS && !self.totals.contains_key(refuser) {
            self.make_room();
        }
        let none = || Total { packets: 0, since: now, last: now, pair: None };
        let total = self.totals.entry(refuser.clone()).or_insert_with(none);
        total.packets = total.packets.saturating_add(packets);
        total.last = now;
        total.pair = pair.cloned().or(total.pair.take());
    }

    /// Gives up the row whose last packet is the longest ago.
    fn make_room(&mut self) {
        let named = self.totals.iter().filter(|(refuser, _)| **refuser != Refuser::Unnamed);
        let oldest = named.min_by_key(|(_, total)| total.last).map(|(refuser, _)| refuser.clone());
        let Some(given_up) = oldest.and_then(|oldest| self.totals.remove(&oldest)) else { return };
        let none = Total { packets: 0, since: given_up.since, last: given_up.last, pair: None };
        let unnamed = self.totals.entry(Refuser::Unnamed).or_insert(none);
        unnamed.packets = unnamed.packets.saturating_add(given_up.packets);
        unnamed.since = unnamed.since.min(given_up.since);
        unnamed.last = unnamed.last.max(given_up.last);
    }

    /// What has come of a pair since it was told, and is followed by nothing, is told of all such pairs together.
    fn forget_told(&mut self, now: Millis) {
        let Self { told, pace, .. } = self;
        told.retain(|_, told| {
            let is_recent = now.since(told.at) < 2 * TOLD_AGAIN_MS;
            pace.silent = pace.silent.saturating_add(if is_recent { 0 } else { told.more });
            is_recent
        });
    }

    /// Whether the log is told of a pair now, and of how many packets.
    fn may_tell(&mut self, packet: RefusedPacket, packets: u64, now: Millis) -> Option<u64> {
        if let Some(told) = self.told.get_mut(&packet).filter(|told| now.since(told.at) < TOLD_AGAIN_MS) {
            told.more = told.more.saturating_add(packets);
            return None;
        }
        if self.told.len() >= MOST_PAIRS || !self.pace.may_tell(now) {
            self.pace.silent = self.pace.silent.saturating_add(packets);
            return None;
        }
        let before = self.told.insert(packet, Told { at: now, more: 0 });
        Some(packets.saturating_add(before.map_or(0, |told| told.more)))
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { left: BURST * 1_000, at: Millis(0), silent: 0, said: Millis(0) }
    }
}

impl Pace {
    fn may_tell(&mut self, now: Millis) -> bool {
        let since = now.since(self.at).saturating_mul(LINES_A_SECOND);
        self.left = self.left.saturating_add(since).min(BURST * 1_000);
        self.at = now;
        let may = self.left >= 1_000;
        self.left -= if may { 1_000 } else { 0 };
        may
    }

    /// How many packets the log has not been told of, where it is time to say so.
    fn unsaid(&mut self, now: Millis) -> Option<u64> {
        if self.silent == 0 || now.since(self.said) < 1_000 {
            return None;
        }
        self.said = now;
        Some(std::mem::take(&mut self.silent))
    }
}

impl Refuser {
    fn of(end: &End) -> Option<Self> {
        match &end.by {
            By::Rule(rule) => Some(Self::Rule(rule.policy.policy_name(), rule.direction, rule.rule)),
            By::Isolation { closest: Some(closest), .. } => {
                let rule = &closest.rule;
                Some(Self::Isolation(rule.policy.policy_name(), rule.direction, Some(rule.rule)))
            }
            By::Isolation { policies, closest: None } => {
                policies.first().map(|policy| Self::Isolation(policy.policy_name(), end.direction, None))
            }
            By::Unknown => Some(Self::Unknown(end.direction)),
            By::Itself | By::OwnNode | By::Nobody | By::Permitted(_) => None,
        }
    }

    fn why(&self) -> &'static str {
        match self {
            Self::Rule(..) => "the rule denies it",
            Self::Isolation(_, _, Some(_)) => "nothing permits it; this rule comes closest",
            Self::Isolation(_, _, None) => "nothing permits it; there is no rule",
            Self::Unknown(_) => "it was not known which policies are about the pod",
            Self::Gone => GONE,
            Self::Unnamed => "there were too many to tell them apart",
        }
    }
}

/// Of packets that nothing refuses by now.
const GONE: &str = "by a policy, or for a pod, that is no more";

fn question(packet: &RefusedPacket) -> Question {
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == packet.protocol);
    // A packet from a pod to itself comes by where it is refused if a Service sent it back.
    let RefusedPacket { source, destination, port, .. } = *packet;
    Question { source, destination, port: protocol.zip(port), by_service: true }
}

/// The end of this node at which a packet is refused.
fn refusing(explanation: &Explanation) -> Option<&End> {
    explanation.ends().find(|end| end.enforced_here && !end.by.allows())
}

impl Pair {
    fn of(packet: &RefusedPacket, explanation: Option<&Explanation>) -> Self {
        let name = |end: Option<&End>, ip: std::net::IpAddr| match end {
            Some(End { pod: PodName { namespace, name }, .. }) => format!("{namespace}/{name} ({ip})"),
            None => ip.to_string(),
        };
        let source = explanation.and_then(|explanation| explanation.egress.as_ref());
        let destination = explanation.and_then(|explanation| explanation.ingress.as_ref());
        Self {
            source: name(source, packet.source),
            destination: name(destination, packet.destination),
            port: port_text(packet),
        }
    }
}

fn port_text(packet: &RefusedPacket) -> String {
    let known = Protocol::ALL.into_iter().find(|protocol| protocol.number() == packet.protocol);
    let protocol = match (known, packet.protocol) {
        (Some(protocol), _) => protocol.to_string(),
        (None, 1) => "ICMP".into(),
        (None, 58) => "ICMPv6".into(),
        (None, number) => format!("protocol {number}"),
    };
    match packet.port {
        Some(port) => format!("{port}/{protocol}"),
        None => protocol,
    }
}

/// What the log is told.
fn sentence(packets: u64, pair: &Pair, why: &str) -> String {
    let Pair { source, destination, port } = pair;
    let many = if packets == 1 { "packet" } else { "packets" };
    format!("refused {packets} {many} {source} -> {destination} {port}: {why}")
}

/// An explanation as one line that is not too long.
fn one_line(text: &str) -> String {
    let line = text.replace("\n  ", "; ").replace('\n', "; ");
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_CHARACTERS).collect()
}

fn view(refuser: &Refuser, total: &Total) -> DropView {
    let (policy, direction, rule) = match refuser {
        Refuser::Rule(policy, direction, rule) => (Some(policy), Some(*direction), Some(*rule)),
        Refuser::Isolation(policy, direction, rule) => (Some(policy), Some(*direction), *rule),
        Refuser::Unknown(direction) => (None, Some(*direction), None),
        Refuser::Gone | Refuser::Unnamed => (None, None, None),
    };
    let (kind, namespace, name) = match policy {
        Some(PolicyName::Network(name)) => {
            (Some("NetworkPolicy"), Some(name.namespace.to_string()), Some(name.name.to_string()))
        }
        Some(PolicyName::Cluster(name)) => (Some("ClusterNetworkPolicy"), None, Some(name.to_string())),
        None => (None, None, None),
    };
    let moment = |at: Millis| utc(std::time::Duration::from_millis(at.0));
    let pair = total.pair.as_ref();
    DropView {
        kind,
        namespace,
        name,
        direction: direction.map(|direction| direction.to_string()),
        rule,
        why: refuser.why(),
        packets: total.packets,
        since: moment(total.since),
        last: moment(total.last),
        source: pair.map(|pair| pair.source.clone()),
        destination: pair.map(|pair| pair.destination.clone()),
        port: pair.map(|pair| pair.port.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(port: u16) -> RefusedPacket {
        let [source, destination] = ["10.244.0.2", "10.244.1.3"].map(|ip| ip.parse().unwrap());
        RefusedPacket { source, destination, protocol: 6, port: Some(port) }
    }

    #[test]
    fn the_log_gets_a_burst_and_then_so_many_lines_a_second() {
        let mut drops = Drops::default();
        let mut lines = |range: std::ops::Range<u16>, now: u64| {
            range.filter(|port| drops.may_tell(packet(*port), 2, Millis(now)).is_some()).count()
        };
        assert_eq!(lines(0..200, 1_000_000), 50);
        assert_eq!(lines(200..400, 1_000_500), 5);
        assert_eq!(lines(400..600, 1_001_000), 5);
        assert_eq!(lines(600..700, 1_100_000), 50);
        assert_eq!(drops.pace.unsaid(Millis(1_100_000)), Some(2 * (150 + 195 + 195 + 50)));
        assert_eq!(drops.pace.unsaid(Millis(1_102_000)), None);
    }

    #[test]
    fn a_pair_that_goes_on_is_told_again_after_a_minute_with_what_came_meanwhile() {
        let mut drops = Drops::default();
        let mut tell = |packets, now| drops.may_tell(packet(80), packets, Millis(now));
        assert_eq!(tell(1, 1_000_000), Some(1));
        assert_eq!(tell(5, 1_002_000), None);
        assert_eq!(tell(7, 1_059_999), None);
        assert_eq!(tell(1, 1_060_000), Some(13));
        assert_eq!(tell(3, 1_061_000), None);
        drops.forget_told(Millis(1_130_000));
        assert_eq!((drops.pace.silent, drops.told.len()), (0, 1));
        drops.forget_told(Millis(1_180_000));
        assert_eq!((drops.pace.silent, drops.told.len()), (3, 0));
    }

    #[test]
    fn rows_are_bounded_and_none_of_their_packets_is_lost() {
        let mut drops = Drops::default();
        for n in 0..MOST_ROWS + 100 {
            let refuser = Refuser::Rule(PolicyName::Cluster(format!("p{n}").into()), Direction::Ingress, 0);
            drops.count(&refuser, 3, None, Millis(1_000 + n as u64));
        }
        assert!(drops.totals.len() <= MOST_ROWS, "{}", drops.totals.len());
        let all: u64 = drops.totals.values().map(|total| total.packets).sum();
        assert_eq!(all, 3 * (MOST_ROWS as u64 + 100));
        let oldest = Refuser::Rule(PolicyName::Cluster("p0".into()), Direction::Ingress, 0);
        assert!(!drops.totals.contains_key(&oldest));
        assert_eq!(drops.totals[&Refuser::Unnamed].since, Millis(1_000));
    }

    #[test]
    fn an_explanation_is_one_line_and_not_long() {
        assert_eq!(
            one_line("denied by default\nclosest rule: a\n  port: b\u{1b}"),
            "denied by default; closest rule: a; port: b "
        );
        assert_eq!(one_line(&"c".repeat(5_000)).len(), MOST_CHARACTERS);
    }

    #[test]
    fn all_that_waits_has_its_turn() {
        let mut drops = Drops::default();
        let mut seen = Vec::new();
        for _ in 0..4 {
            // The first of them come again and again.
            drops.waiting.extend((0..4).map(|port| (packet(port), 1)));
            for _ in 0..2 {
                let next = drops.next().unwrap();
                assert_eq!(drops.take(next), 1);
                seen.extend(next.port);
            }
        }
        assert_eq!(seen, [0, 1, 2, 3, 0, 1, 2, 3]);
    }
}
