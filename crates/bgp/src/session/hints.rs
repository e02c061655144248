//! What is probably wrong where a session does not come about, in words for who configured it.

use super::{Config, PeerAs};
use crate::wire::{Cease, Families, Notification, code};

/// The peer is of another AS than is configured.
pub fn wrong_as(config: &Config, found: u32) -> String {
    let configured = match config.peer_as {
        PeerAs::Is(wanted) => format!("configured is {wanted}"),
        PeerAs::External => format!("configured is any but this node's {}", config.local_as),
        PeerAs::Internal => format!("configured is this node's own, {}", config.local_as),
    };
    format!("the peer says it is AS {found}, {configured}")
}

/// The peer and this end have no family in common.
pub fn no_family(own: Families, found: Families) -> String {
    format!("the peer offers {}, configured are {}: nothing is common", names(found), names(own))
}

fn names(families: Families) -> String {
    let all: Vec<String> = families.iter().map(|family| format!("{family} unicast")).collect();
    if all.is_empty() { "no family that is known here".to_owned() } else { all.join(" and ") }
}

/// The peer ended the session with a notification.
pub fn told(config: &Config, notification: &Notification) -> String {
    let notification = &notification.meant();
    let probable = match (notification.code, notification.subcode) {
        (code::OPEN, 2) => format!("it expects another AS than {}, as which this node comes", config.local_as),
        (code::OPEN, 3) => format!("it does not take the router id {}: it may have the same", config.router_id),
        (code::OPEN, 6) => format!("it does not take a hold time of {} s", config.hold_time),
        (code::OPEN, 7) => format!("it wants more than this end offers ({})", names(config.families)),
        (code::HOLD_TIMER, _) => {
            "it heard nothing from here for the hold time: packets to it are lost, or this node was busy".to_owned()
        }
        (code::SEND_HOLD_TIMER, _) => "it could send nothing to this node, which did not read".to_owned(),
        (code::CEASE, sub) if sub == Cease::MaximumPrefixes as u8 => {
            "it got more prefixes than it takes from here".to_owned()
        }
        (code::CEASE, sub) if sub == Cease::PeerDeconfigured as u8 => "this node is no longer its peer".to_owned(),
        (code::CEASE, sub) if sub == Cease::ConnectionRejected as u8 => {
            format!(
                "it does not take connections from here now: it may not know this node as a peer of AS {}",
                config.local_as
            )
        }
        _ => return format!("the peer says: {notification}"),
    };
    format!("the peer says: {notification}: {probable}")
}

/// No connection came about.
pub fn unconnected(config: &Config, why: &str) -> String {
    let mut text = format!("no connection to {} port {}: {why}", config.address, config.port);
    let silent = why.contains("timed out");
    if silent && config.socket.password.is_some() {
        text += ": the password may differ, or the peer has none";
    } else if silent {
        text += ": the peer may want a password, or packets are dropped on the way";
    }
    if silent && config.socket.security_hops.is_some() {
        text += "; or the peer is further away than the hops configured";
    }
    text
}

/// The connection ended without a word.
pub fn closed(config: &Config, before_open: bool, why: &str) -> String {
    if before_open {
        format!(
            "the peer closed the connection before it said who it is ({why}): it may not know {} as its peer",
            config.local_as
        )
    } else {
        format!("the connection ended: {why}")
    }
}
