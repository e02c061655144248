//! Flows of UDP that ended because policies do not permit them any more, as the tables of policies remember them.
//!
//! An answer that is on its way when its flow ends is the first packet of another one, the other way round, which policies may permit; by that
//! one all would go on. Such packets are refused for a while. Not so of TCP, whose sockets are ended as well.

use std::net::{IpAddr, SocketAddr};

use ripstop_nft::model::{ElementKey, Key as ElementValue, Name, Set, TableFamily, Type, Value};
use ripstop_types::Family;

use crate::NFT_POLICY_TABLE;
use crate::connection::Connection;

/// The set, of the same name in both families: source, its port, destination, its port.
pub const ENDED_SET: &str = "ended";

/// IANA's number of UDP.
pub const UDP: u8 = 17;

/// Seconds for which an ended flow is remembered: as long as connection tracking remembers one with answers (`udp_timeout_stream`), and more.
const TIMEOUT: u32 = 180;

/// Flows at most.
const MOST: u32 = 65_536;

/// Its declaration. Who fills it is not asked what it has.
#[must_use]
pub fn ended_set(family: Family) -> Set {
    let ip = Type::address(family);
    Set::of([ip, Type::InetService, ip, Type::InetService]).dynamic().default_timeout(TIMEOUT).size(MOST)
}

/// What the set has of a connection that ends; `None` where nothing is needed.
#[must_use]
pub fn ended_element(connection: &Connection) -> Option<ElementKey> {
    let Connection { protocol, destination, answers_to, .. } = *connection;
    if protocol != UDP {
        return None;
    }
    let family = TableFamily::of(Family::of(destination.ip()));
    let end = |end: SocketAddr| -> [Value; 2] { [IpAddr::into(end.ip()), Value::Service(end.port())] };
    let key = ElementValue::new(false, [end(destination), end(answers_to)].concat());
    Some(ElementKey { family, table: Name::from(NFT_POLICY_TABLE), set: Name::from(ENDED_SET), key })
}
