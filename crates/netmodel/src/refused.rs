//! Packets that policies refused, as the tables of policies count them: sets that packets fill, which nobody wants anything of.
//!
//! Verdicts of many rules are one, so there is no counter of a rule. What is refused is counted by its ends, and who refuses it is found out
//! behind. Each set has a bound, for who sends decides what stands in it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_nft::model::{Set, Type, Value};
use ripstop_types::Family;
use serde::{Deserialize, Serialize};

/// Elements of each such set at most.
const MOST: u32 = 4_096;

/// Seconds after which an element is gone to which no packet came.
pub const REFUSED_TIMEOUT: u32 = 60;

/// What one packet is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RefusedPacket {
    /// Who sent it,
    pub source: IpAddr,
    /// and to whom: behind a Service its endpoint.
    pub destination: IpAddr,
    /// IANA's number.
    pub protocol: u8,
    /// The port that it was for, of a protocol that has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A set in which packets are counted. The name is the same in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusedSet {
    /// Those of protocols with ports.
    Ports,
    /// Others.
    Portless,
    /// By protocol alone: those for which another set has no room.
    Unnamed,
}

/// How many packets were refused, by what is known of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Refused {
    /// Those that are known by their ends.
    #[serde(with = "pairs")]
    pub named: BTreeMap<RefusedPacket, u64>,
    /// Others.
    pub unnamed: u64,
}

impl RefusedSet {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ports, Self::Portless, Self::Unnamed];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ports => "refused-ports",
            Self::Portless => "refused-portless",
            Self::Unnamed => "refused-unnamed",
        }
    }

    /// The fields of its key.
    pub fn key(self, family: Family) -> Vec<Type> {
        let ip = Type::address(family);
        match self {
            Self::Ports => vec![ip, ip, Type::InetProto, Type::InetService],
            Self::Portless => vec![ip, ip, Type::InetProto],
            Self::Unnamed => vec![Type::InetProto],
        }
    }

    /// Its declaration.
    pub fn declaration(self, family: Family) -> Set {
        let set = Set::of(self.key(family)).dynamic();
        match self {
            Self::Ports | Self::Portless => set.default_timeout(REFUSED_TIMEOUT).size(MOST),
            // As many as there are protocols: it is never full.
            Self::Unnamed => set.size(256),
        }
    }
}

impl Refused {
    /// Takes in what an element of a set has counted; what is no key of such a set is passed over.
    pub fn take(&mut self, key: &[Value], packets: u64) {
        let ip = |value: &Value| match value {
            Value::Ipv4(ip) => Some(IpAddr::V4(*ip)),
            Value::Ipv6(ip) => Some(IpAddr::V6(*ip)),
            _ => None,
        };
        let (ends, protocol, port) = match key {
            [Value::Proto(_)] => {
                self.unnamed = self.unnamed.saturating_add(packets);
                return;
            }
            [source, destination, Value::Proto(protocol)] => ((source, destination), *protocol, None),
            [source, destination, Value::Proto(protocol), Value::Service(port)] => {
                ((source, destination), *protocol, Some(*port))
            }
            _ => return,
        };
        if let (Some(source), Some(destination)) = (ip(ends.0), ip(ends.1)) {
            self.named.insert(RefusedPacket { source, destination, protocol, port }, packets);
        }
    }

    /// What has come since an earlier reading. An element that counts less than before is another one.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let more = |now: u64, before: u64| if now < before { now } else { now - before };
        let named = self.named.iter().map(|(packet, now)| {
            let before = before.named.get(packet).copied().unwrap_or(0);
            (*packet, more(*now, before))
        });
        Self { named: named.filter(|(_, more)| *more > 0).collect(), unnamed: more(self.unnamed, before.unnamed) }
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed == 0
    }
}

/// Maps in JSON have texts as keys: this one is a list.
mod pairs {
    use super::{BTreeMap, Deserialize, RefusedPacket};

    pub(super) fn serialize<S: serde::Serializer>(
        named: &BTreeMap<RefusedPacket, u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(named)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<RefusedPacket, u64>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(port: u16) -> RefusedPacket {
        let [source, destination] = ["10.244.0.2", "10.244.1.3"].map(|ip| ip.parse().unwrap());
        RefusedPacket { source, destination, protocol: 6, port: Some(port) }
    }

    fn reading(counts: &[(u16, u64)], unnamed: u64) -> Refused {
        Refused { named: counts.iter().map(|(port, count)| (packet(*port), *count)).collect(), unnamed }
    }

    #[test]
    fn an_element_is_read_by_the_form_of_its_key() {
        let mut refused = Refused::default();
        let ip = |text: &str| Value::from(text.parse::<IpAddr>().unwrap());
        let [source, destination] = [ip("10.244.0.2"), ip("10.244.1.3")];
        refused.take(&[source.clone(), destination.clone(), Value::Proto(6), Value::Service(80)], 3);
        refused.take(&[source.clone(), destination, Value::Proto(1)], 2);
        refused.take(&[Value::Proto(6)], 7);
        refused.take(&[Value::Proto(17)], 1);
        refused.take(&[source], 9);
        let icmp = RefusedPacket { protocol: 1, port: None, ..packet(80) };
        assert_eq!(refused, Refused { named: [(packet(80), 3), (icmp, 2)].into(), unnamed: 8 });
    }

    #[test]
    fn a_recording_keeps_it() {
        let refused = reading(&[(80, 5), (81, 5)], 4);
        let text = serde_json::to_string(&refused).unwrap();
        assert_eq!(serde_json::from_str::<Refused>(&text).unwrap(), refused);
    }

    #[test]
    fn what_has_come_is_told_by_two_readings() {
        let before = reading(&[(80, 5), (81, 5), (82, 5), (83, 5)], 4);
        let now = reading(&[(80, 5), (81, 7), (82, 2), (84, 1)], 9);
        assert_eq!(now.since(&before), reading(&[(81, 2), (82, 2), (84, 1)], 5));
        assert_eq!(now.since(&Refused::default()), now);
        assert!(now.since(&now).is_empty());
        assert_eq!(reading(&[], 2).since(&before), reading(&[], 2), "the table was made anew");
    }
}
