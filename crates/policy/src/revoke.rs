//! Connections that go on although nothing permits them any more.
//!
//! A data plane asks about the first packet of a connection alone, so what is tracked lives on when policies change. What has to be looked at
//! follows from what has changed ([`Changes`]): a pod whose lead is another, and an address of which a table says something else, as far
//! as something is denied there now. Of those connections the tables are asked again ([`Policies::denies`]), by the looks that their first
//! packet would make now.
//!
//! Not here: how connections are read and ended. Their addresses are those of both directions, as connection tracking has them: the
//! source before a node put its own address in its place, and the destination behind a Service.
//!
//! Invariants: a connection that is permitted is never named, nor one that the node itself began; one that neither end's tables have
//! changed for is not looked at.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ripstop_objects::policy::Direction;
use ripstop_objects::service::Protocol;
use serde::{Deserialize, Serialize};

use crate::explain::Question;
use crate::policies::{Changes, Policies};
use crate::tables::{Gate, Lead, Way};

/// A tracked connection, as far as policies are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tracked {
    /// IANA's number.
    pub protocol: u8,
    /// Who began it.
    pub source: IpAddr,
    /// To whom its first packet was sent: a Service, or the destination itself.
    pub sent_to: IpAddr,
    /// Who answers,
    pub destination: IpAddr,
    /// and from which port; of a protocol without ports it means nothing.
    pub port: u16,
}

/// Which connections are to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affected {
    /// Those that one of these began,
    sources: HashSet<IpAddr>,
    /// and those that one of these answers.
    destinations: HashSet<IpAddr>,
}

impl Affected {
    /// Where something may have been permitted that is denied now.
    #[must_use]
    pub fn by(policies: &Policies, changes: &Changes) -> Self {
        let mut this = Self::default();
        changes.subjects.iter().for_each(|ip| this.add_subject(policies, *ip));
        for (name, ip) in &changes.exceptions {
            let Some(table) = policies.peer_table(name).filter(|table| !table.verdict(*ip)) else { continue };
            match table.direction() {
                Direction::Ingress => this.sources.insert(*ip),
                Direction::Egress => this.destinations.insert(*ip),
            };
        }
        this
    }

    /// Wherever something is denied: nothing is known of what was permitted before.
    #[must_use]
    pub fn all(policies: &Policies) -> Self {
        let mut this = Self::default();
        policies.subjects().for_each(|ip| this.add_subject(policies, ip));
        this
    }

    /// A pod of this node, as far as something is asked about its packets.
    fn add_subject(&mut self, policies: &Policies, ip: IpAddr) {
        for gate in Gate::ALL.into_iter().filter(|gate| policies.lead(*gate, ip) != Lead::Way(Way::Accept)) {
            match gate.direction() {
                Direction::Egress => self.sources.insert(ip),
                Direction::Ingress => self.destinations.insert(ip),
            };
        }
    }

    /// The addresses that began connections to be looked at, and those that answer such, in order.
    #[must_use]
    pub fn addresses(&self) -> [BTreeSet<IpAddr>; 2] {
        [&self.sources, &self.destinations].map(|ips| ips.iter().copied().collect())
    }

    /// Adds what else has changed since.
    pub fn add(&mut self, other: Self) {
        self.sources.extend(other.sources);
        self.destinations.extend(other.destinations);
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.destinations.is_empty()
    }

    /// Whether a connection is to be looked at.
    #[must_use]
    pub fn has(&self, connection: &Tracked) -> bool {
        self.sources.contains(&connection.source) || self.destinations.contains(&connection.destination)
    }
}

impl Tracked {
    /// What its first packet would ask now.
    #[must_use]
    pub fn question(&self) -> Question {
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == self.protocol);
        Question {
            source: self.source,
            destination: self.destination,
            port: protocol.map(|protocol| (protocol, self.port)),
            by_service: self.sent_to != self.destination,
        }
    }
}

impl Policies {
    /// Whether a connection would not come about any more. `is_own` tells this node's own addresses: nobody is asked about what it begins
    /// itself, and NetworkPolicies are not about what comes to it.
    #[must_use]
    pub fn denies(&self, connection: &Tracked, is_own: impl Fn(IpAddr) -> bool) -> bool {
        let question = connection.question();
        let Question { source, destination, port, .. } = question;
        match () {
            () if is_own(source) => false,
            () if is_own(destination) => !self.passes(Gate::EgressNear, source, destination, port),
            () => !self.allows(&question),
        }
    }

    /// Of tracked connections those that are over, in their order. The numbers are their places.
    #[must_use]
    pub fn revoked(&self, affected: &Affected, tracked: &[Tracked], is_own: impl Fn(IpAddr) -> bool) -> Vec<usize> {
        // Most connections are like others but for the port that they began at.
        let mut told: HashMap<Question, bool> = HashMap::new();
        let mut denies = |connection: &Tracked| {
            *told.entry(connection.question()).or_insert_with(|| self.denies(connection, &is_own))
        };
        let places = tracked.iter().enumerate().filter(|(_, connection)| affected.has(connection));
        places.filter(|(_, connection)| denies(connection)).map(|(place, _)| place).collect()
    }
}
