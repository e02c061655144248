//! What is decided: for each pod of this node a way for its packets, in tables that all share who are treated alike.
//!
//! A packet is asked about at a gate. There its pod has a [`Lead`]: straight to a verdict, to a table of peers, or first to one of ports,
//! each range of which leads to a table of peers. So one packet costs two looks of this kind a gate, whatever the policies.
//!
//! Tables are named by what they say, so that the same policies have tables of the same names, today and after a restart.

use std::fmt;
use std::net::IpAddr;

use ripstop_objects::policy::Direction;
use ripstop_objects::service::Protocol;
use ripstop_types::{Family, sha256};

use crate::members::AtomId;

/// The name of a table: a hash of what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName([u8; 16]);

impl TableName {
    /// What says the same has the same name, and nobody finds two things with one (SHA-256).
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut name = [0; 16];
        name.copy_from_slice(&sha256(text)[..16]);
        Self(name)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where packets of a pod are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gate {
    /// They leave it, for another pod or something beyond this node.
    Egress,
    /// They come to it, from there.
    Ingress,
    /// They leave it for its own node or, by a Service, for itself: NetworkPolicies do not keep it from those.
    EgressNear,
    /// They come to it from itself, by a Service.
    IngressNear,
}

impl Gate {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Egress, Self::Ingress, Self::EgressNear, Self::IngressNear];

    /// Which way packets go.
    #[must_use]
    pub fn direction(self) -> Direction {
        match self {
            Self::Egress | Self::EgressNear => Direction::Egress,
            Self::Ingress | Self::IngressNear => Direction::Ingress,
        }
    }

    /// Whether NetworkPolicies are left out.
    #[must_use]
    pub fn is_near(self) -> bool {
        matches!(self, Self::EgressNear | Self::IngressNear)
    }
}

/// What becomes of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Way {
    /// They go on.
    #[default]
    Accept,
    /// They vanish.
    Deny,
    /// That depends on who is at the other end.
    Peers(TableName),
}

impl Way {
    pub(crate) fn of(is_accepted: bool) -> Self {
        if is_accepted { Self::Accept } else { Self::Deny }
    }

    pub(crate) fn encode(self, text: &mut Vec<u8>) {
        match self {
            Self::Accept => text.push(1),
            Self::Deny => text.push(2),
            Self::Peers(name) => {
                text.push(3);
                text.extend(name.bytes());
            }
        }
    }
}

/// What becomes of a pod's packets at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lead {
    /// The same whatever their port.
    Way(Way),
    /// That depends on their port.
    Ports(TableName),
}

impl Default for Lead {
    fn default() -> Self {
        Self::Way(Way::Accept)
    }
}

/// Ways of packets by where they go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTable {
    /// For each protocol of [`Protocol::ALL`] its ranges from port 0 to 65,535, by their last port.
    pub ranges: [Box<[(u16, Way)]>; 3],
    /// The way of packets without ports.
    pub others: Way,
}

impl PortTable {
    /// The way of a packet.
    #[must_use]
    pub fn way(&self, port: Option<(Protocol, u16)>) -> Way {
        let Some((protocol, number)) = port else { return self.others };
        let ranges = self.of(protocol);
        let place = ranges.partition_point(|(last, _)| *last < number);
        ranges.get(place).map_or(self.others, |(_, way)| *way)
    }

    /// The ranges of a protocol.
    #[must_use]
    pub fn of(&self, protocol: Protocol) -> &[(u16, Way)] {
        &self.ranges[place_of(protocol)]
    }

    /// Every way, in order and once.
    #[must_use]
    pub fn ways(&self) -> std::collections::BTreeSet<Way> {
        let ranges = self.ranges.iter().flat_map(|ranges| ranges.iter().map(|(_, way)| *way));
        ranges.chain([self.others]).collect()
    }

    /// Where one way is for all.
    pub(crate) fn only(&self) -> Option<Way> {
        let is_it = |ranges: &[(u16, Way)]| ranges.iter().all(|(_, way)| *way == self.others);
        self.ranges.iter().all(|ranges| is_it(ranges)).then_some(self.others)
    }

    pub(crate) fn name(&self) -> TableName {
        let mut text = vec![b'p'];
        for ranges in &self.ranges {
            text.extend((ranges.len() as u64).to_be_bytes());
            for (last, way) in ranges {
                text.extend(last.to_be_bytes());
                way.encode(&mut text);
            }
        }
        self.others.encode(&mut text);
        TableName::of(&text)
    }
}

/// The place of a protocol in [`Protocol::ALL`].
pub(crate) fn place_of(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

/// Who is asked about in which order: the frame of a table of peers.
///
/// Two stages: tier Admin, then NetworkPolicies or, where none isolates the pod, tier Baseline. In each the first rung with the other end
/// among its peers decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ladder {
    pub direction: Direction,
    pub stages: [Stage; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    pub rungs: Vec<Rung>,
    /// What is said of whom no rung names.
    pub otherwise: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rung {
    pub step: Step,
    /// In order, each once, and none that a rung before names.
    pub atoms: Vec<AtomId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Accept,
    Deny,
    /// The next stage is asked.
    Next,
}

impl Step {
    pub fn of(is_accepted: bool) -> Self {
        if is_accepted { Self::Accept } else { Self::Deny }
    }
}

impl Stage {
    /// Neighbours that say the same become one, and what only says what is said otherwise goes.
    fn simplify(&mut self) {
        let mut rungs: Vec<Rung> = Vec::with_capacity(self.rungs.len());
        for rung in self.rungs.drain(..).filter(|rung| !rung.atoms.is_empty()) {
            match rungs.last_mut() {
                Some(last) if last.step == rung.step => last.atoms.extend(rung.atoms),
                _ => rungs.push(rung),
            }
        }
        while rungs.last().is_some_and(|last| last.step == self.otherwise) {
            rungs.pop();
        }
        rungs.iter_mut().for_each(|rung| rung.atoms.sort_unstable());
        self.rungs = rungs;
    }

    fn may_go_on(&self) -> bool {
        self.otherwise == Step::Next || self.rungs.iter().any(|rung| rung.step == Step::Next)
    }

    /// What goes on finds only this.
    fn settle(&mut self, step: Step) {
        for own in self.rungs.iter_mut().map(|rung| &mut rung.step).chain([&mut self.otherwise]) {
            if *own == Step::Next {
                *own = step;
            }
        }
    }
}

impl Ladder {
    /// The same meaning in its one form.
    pub fn simplify(&mut self) {
        let [first, second] = &mut self.stages;
        second.simplify();
        first.simplify();
        if !first.may_go_on() {
            second.rungs.clear();
            second.otherwise = Step::Deny;
        } else if second.rungs.is_empty() {
            first.settle(second.otherwise);
            first.simplify();
            second.otherwise = Step::Deny;
        }
    }

    /// The verdict, where it is the same for all.
    pub fn only(&self) -> Option<bool> {
        let rungless = self.stages.iter().all(|stage| stage.rungs.is_empty());
        rungless.then(|| self.resolve([None, None]))
    }

    /// The verdict on whom these rungs name, the first of each stage.
    pub fn resolve(&self, ranks: [Option<usize>; 2]) -> bool {
        for (stage, rank) in self.stages.iter().zip(ranks) {
            let rung = rank.and_then(|rank| stage.rungs.get(rank));
            match rung.map_or(stage.otherwise, |rung| rung.step) {
                Step::Accept => return true,
                Step::Deny => return false,
                Step::Next => {}
            }
        }
        // The second stage has no next.
        false
    }

    /// Its name, by those of its peers.
    pub fn name(&self, name_of: impl Fn(AtomId) -> TableName) -> TableName {
        let mut text = vec![if self.direction == Direction::Ingress { b'i' } else { b'e' }];
        let step = |step: Step| match step {
            Step::Accept => 1,
            Step::Deny => 2,
            Step::Next => 3,
        };
        for stage in &self.stages {
            text.extend((stage.rungs.len() as u64).to_be_bytes());
            for rung in &stage.rungs {
                text.push(step(rung.step));
                text.extend((rung.atoms.len() as u64).to_be_bytes());
                let mut names: Vec<TableName> = rung.atoms.iter().map(|atom| name_of(*atom)).collect();
                names.sort_unstable();
                names.iter().for_each(|name| text.extend(name.bytes()));
            }
            text.push(step(stage.otherwise));
        }
        TableName::of(&text)
    }
}

/// An address as a number, by which ranges are compared.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address of a number.
pub(crate) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}
