//! The short form of packets and flows in cases.
//!
//! ```text
//! ORIGIN [SOURCE] > ADDRESS:PORT[/PROTOCOL] [invalid] -> OUTCOME
//! ORIGIN   pod | node | outside
//! OUTCOME  rejected | dropped | untouched | (kept | node) ENDPOINT… … | same N (kept | node)
//! PROTOCOL ADDRESS:PORT by ADDRESS:PORT -> gone | stays
//! ```
//!
//! `kept` and `node` say which source the endpoints behind the word see: the packet's, or an address of the node. `same N` is the endpoint
//! of the case's Nth packet. Without a source, a packet has the usual one of its origin; without a protocol it is TCP.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ripstop_objects::service::Protocol;
use ripstop_oracle::services::flows::Flow;
use ripstop_oracle::services::{Origin, Outcome, Packet, Source, State, World};
use ripstop_types::Family;

/// The usual pod of this node, which is no endpoint.
const POD: [&str; 2] = ["10.244.1.9", "fd00:244:1::9"];
/// The usual machine outside of the cluster.
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8:113::9"];

/// A packet, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// As it is written.
    pub text: String,
    /// The packet.
    pub packet: Packet,
    /// What becomes of it.
    pub then: Then,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// This.
    Is(Outcome),
    /// It goes where the packet of this number went, counted from 0, and the endpoint sees such a source.
    Same(usize, Source),
}

/// Reads a packet and its outcome; or of so many clients, from a first address on: `pod 10.244.1.100+32 > …`. What they do the same as a
/// packet, the next does the same as the next packet.
pub fn all_expected(text: &str, world: &World) -> Result<Vec<Expected>, String> {
    let source = text.split('>').next().and_then(|from| from.split_whitespace().nth(1));
    let Some((first, count)) = source.and_then(|source| source.split_once('+')) else {
        return Ok(vec![expected(text, world)?]);
    };
    let whole = format!("{first}+{count}");
    let first: IpAddr = first.parse().map_err(|_| format!("{text:?}: {first:?} is no address"))?;
    let count: u8 = count.parse().map_err(|_| format!("{text:?}: {count:?} is no number of clients"))?;
    let each = (0..count).map(|place| {
        let mut one = expected(&text.replacen(&whole, &beyond(first, place).to_string(), 1), world)?;
        if let Then::Same(number, _) = &mut one.then {
            *number += usize::from(place);
        }
        Ok(one)
    });
    each.collect()
}

/// So many addresses further.
fn beyond(ip: IpAddr, count: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(count.into())).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(count.into())).into(),
    }
}

/// Reads a packet and its outcome.
pub fn expected(text: &str, world: &World) -> Result<Expected, String> {
    let halves = text.split_once("->").ok_or_else(|| format!("{text:?}: no \"->\""))?;
    let named = |why: String| format!("{text:?}: {why}");
    let packet = packet(halves.0, world).map_err(named)?;
    let then = then(halves.1.trim()).map_err(named)?;
    Ok(Expected { text: text.to_owned(), packet, then })
}

/// Reads a flow, and whether it must be gone.
pub fn flow(text: &str) -> Result<(Flow, bool), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [protocol, destination, "by", replier, "->", then] = words[..] else {
        return Err(format!("{text:?}: accepted is PROTOCOL ADDRESS:PORT by ADDRESS:PORT -> gone | stays"));
    };
    let protocol = protocol.parse().map_err(|error| format!("{text:?}: {error}"))?;
    let gone = match then {
        "gone" => true,
        "stays" => false,
        _ => return Err(format!("{text:?}: accepted is gone or stays")),
    };
    Ok((Flow { protocol, destination: socket(destination)?, replier: socket(replier)? }, gone))
}

/// A packet as it is written.
pub fn shown(packet: &Packet) -> String {
    let origin = match packet.origin {
        Origin::Pod => "pod",
        Origin::Node => "node",
        Origin::Outside => "outside",
    };
    let to = SocketAddr::new(packet.destination, packet.port);
    let state = if packet.state == State::Invalid { " invalid" } else { "" };
    format!("{origin} {} > {to}/{}{state}", packet.source, packet.protocol)
}

fn packet(text: &str, world: &World) -> Result<Packet, String> {
    let (from, to) = text.split_once('>').ok_or("no \">\"")?;
    let mut to = to.split_whitespace();
    let target = to.next().ok_or("no destination")?;
    let state = match to.next() {
        None => State::New,
        Some("invalid") => State::Invalid,
        Some(word) => return Err(format!("found {word:?} behind the destination")),
    };
    let (address, protocol) = match target.split_once('/') {
        Some((address, protocol)) => (address, protocol.parse().map_err(|error| format!("{error}"))?),
        None => (target, Protocol::Tcp),
    };
    let address = socket(address)?;
    let mut from = from.split_whitespace();
    let origin = match from.next() {
        Some("pod") => Origin::Pod,
        Some("node") => Origin::Node,
        Some("outside") => Origin::Outside,
        _ => return Err("accepted as origin: pod, node, outside".into()),
    };
    let source = match from.next() {
        Some(source) => source.parse().map_err(|_| format!("{source:?} is no address"))?,
        None => usual(origin, Family::of(address.ip()), world)?,
    };
    if Family::of(source) != Family::of(address.ip()) {
        return Err("source and destination are of different families".into());
    }
    Ok(Packet { origin, source, destination: address.ip(), port: address.port(), protocol, state })
}

fn usual(origin: Origin, family: Family, world: &World) -> Result<IpAddr, String> {
    let place = usize::from(family == Family::V6);
    let text = match origin {
        Origin::Pod => POD[place],
        Origin::Outside => OUTSIDE[place],
        Origin::Node => return world.primary(family).ok_or_else(|| format!("the node has no address of {family}")),
    };
    text.parse().map_err(|_| format!("{text} is no address"))
}

fn then(text: &str) -> Result<Then, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["rejected"] => return Ok(Then::Is(Outcome::Rejected)),
        ["dropped"] => return Ok(Then::Is(Outcome::Dropped)),
        ["untouched"] => return Ok(Then::Is(Outcome::Untouched)),
        ["same", number, source] => {
            let number = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let source = seen(source).ok_or("accepted behind \"same N\": kept, node")?;
            return Ok(Then::Same(number.ok_or("packets are counted from 1")?, source));
        }
        _ => {}
    }
    let mut source = None;
    let mut endpoints = BTreeMap::new();
    for word in words {
        match (seen(word), source) {
            (Some(said), _) => source = Some(said),
            (None, Some(source)) => {
                if endpoints.insert(socket(word)?, source).is_some() {
                    return Err(format!("{word} is named twice"));
                }
            }
            (None, None) => return Err(format!("found {word:?}, accepted: kept or node before endpoints")),
        }
    }
    if endpoints.is_empty() {
        return Err("no outcome".into());
    }
    Ok(Then::Is(Outcome::To(endpoints)))
}

fn seen(word: &str) -> Option<Source> {
    match word {
        "kept" => Some(Source::Kept),
        "node" => Some(Source::Node),
        _ => None,
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address with a port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        serde_json::from_value(serde_json::json!({"node": "n1", "addresses": ["172.18.0.1"]})).unwrap()
    }

    #[test]
    fn packets_and_outcomes_are_read_as_they_are_shown() {
        for text in [
            "pod 10.244.1.2 > 10.96.0.10:80/TCP -> kept 10.244.2.2:8080 node 10.244.1.2:8080",
            "outside 2001:db8::1 > [fd00:96::10]:53/UDP -> rejected",
            "node 172.18.0.1 > 10.96.0.10:80/SCTP invalid -> untouched",
        ] {
            let read = expected(text, &world()).unwrap();
            let Then::Is(outcome) = &read.then else { panic!("{text}") };
            let again = expected(&format!("{} -> {outcome}", shown(&read.packet)), &world()).unwrap();
            assert_eq!((again.packet, &again.then), (read.packet, &read.then), "{text}");
        }
        assert_eq!(
            expected("node > 10.96.0.10:80 -> dropped", &world()).unwrap().packet.source.to_string(),
            "172.18.0.1"
        );
        assert!(matches!(
            expected("pod > 10.96.0.10:80 -> same 2 kept", &world()).unwrap().then,
            Then::Same(1, Source::Kept)
        ));
    }

    #[test]
    fn clients_are_counted_from_an_address_on() {
        let read = all_expected("pod 10.244.1.254+3 > 10.96.0.10:80 -> same 5 kept", &world()).unwrap();
        let sources: Vec<String> = read.iter().map(|one| one.packet.source.to_string()).collect();
        assert_eq!(sources, ["10.244.1.254", "10.244.1.255", "10.244.2.0"]);
        assert!(matches!(read[2].then, Then::Same(6, Source::Kept)));
        assert_eq!(all_expected("pod fd00::1+2 > [fd00::9]:80 -> dropped", &world()).unwrap().len(), 2);
        assert_eq!(all_expected("pod > 10.96.0.10:80 -> dropped", &world()).unwrap().len(), 1);
        assert!(all_expected("pod 10.244.1.9+x > 10.96.0.10:80 -> dropped", &world()).is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "pod > 10.96.0.10:80",
            "pod > 10.96.0.10 -> dropped",
            "moon > 10.96.0.10:80 -> dropped",
            "pod fd00::1 > 10.96.0.10:80 -> dropped",
            "pod > 10.96.0.10:80/ICMP -> dropped",
            "pod > 10.96.0.10:80 -> 10.244.1.2:80",
            "pod > 10.96.0.10:80 -> kept",
            "pod > 10.96.0.10:80 -> same 0 kept",
            "node > [fd00::1]:80 -> dropped",
        ] {
            assert!(expected(text, &world()).is_err(), "{text}");
        }
        assert!(flow("UDP 10.96.0.10:53 by 10.244.1.2:53 -> lost").is_err());
        assert!(flow("UDP 10.96.0.10:53 by 10.244.1.2:53 -> gone").unwrap().1);
    }
}
