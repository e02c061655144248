//! Tracked connections, as objects that nobody wants: a plan removes those that policies do not permit any more.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::resource::Resource;

/// A connection that connection tracking has, of a protocol with ports. Removing it makes its next packet the first of a connection, and
/// ends the sockets of pods that are its ends, so that programs learn of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// IANA's number.
    pub protocol: u8,
    /// Who began it,
    pub source: SocketAddr,
    /// and where its first packet was sent to.
    pub sent_to: SocketAddr,
    /// Who answers: behind a Service its endpoint,
    pub destination: SocketAddr,
    /// and to whom: the node where it put its own address in the source's place.
    pub answers_to: SocketAddr,
    /// The zone of connection tracking.
    pub zone: Option<u16>,
    /// What the kernel calls it: another one of the same ends has another.
    pub id: u32,
    /// The network namespace of the pod of this node that began it,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Arc<str>>,
    /// and that of the one that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<Arc<str>>,
}

impl Resource for Connection {
    fn key(&self) -> Key {
        let Self { protocol, source, sent_to, zone, .. } = *self;
        Key::Connection { protocol, source, sent_to, zone }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self.id == observed.id
    }
}
