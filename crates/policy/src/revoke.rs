//! Connections that go on although nothing permits them any more.
//!
//! A data plane asks about the first packet of a connection alone, so what is tracked lives on when policies change. What has to be looked at
//! follows from what has changed ([`Changes`]): a pod whose lead is another, and an address of which a table says something else. Of
//! those connections the tables are asked again ([`Policies::denies`]), by the looks that their first packet would make now.
//!
//! Not here: how connections are read and ended. Their addresses are those of both directions, as connection tracking has them: the
//! source before a node put its own address in its place, and the destination behind a Service.
//!
//! Invariants: a connection that is permitted is never named; one that neither end's tables have changed for is not looked at.

use std::collections::HashSet;
use std::net::IpAddr;

use ripstop_objects::service::Protocol;
use serde::{Deserialize, Serialize};

use crate::explain::Question;
use crate::policies::{Changes, Policies};

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

/// Whose connections are to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affected {
    addresses: HashSet<IpAddr>,
}

impl Affected {
    /// Where what is said of connections may have changed.
    #[must_use]
    pub fn by(changes: &Changes) -> Self {
        let others = changes.exceptions.iter().map(|(_, ip)| *ip);
        Self { addresses: changes.subjects.iter().copied().chain(others).collect() }
    }

    /// Adds what else has changed since.
    pub fn add(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Whether a connection is to be looked at.
    #[must_use]
    pub fn has(&self, connection: &Tracked) -> bool {
        self.addresses.contains(&connection.source) || self.addresses.contains(&connection.destination)
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
    /// Whether a connection would not come about any more.
    #[must_use]
    pub fn denies(&self, connection: &Tracked) -> bool {
        !self.allows(&connection.question())
    }

    /// Of tracked connections those that are over, in their order. The numbers are their places.
    #[must_use]
    pub fn revoked(&self, affected: &Affected, tracked: &[Tracked]) -> Vec<usize> {
        let places = tracked.iter().enumerate().filter(|(_, connection)| affected.has(connection));
        places.filter(|(_, connection)| self.denies(connection)).map(|(place, _)| place).collect()
    }
}
