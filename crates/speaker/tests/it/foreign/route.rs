//! A route in one form, whoever has it: what tables are compared by.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ripstop_bgp::rib::policy::Set;
use ripstop_bgp::wire::{Attributes, LargeCommunity};
use ripstop_types::Prefix;

/// One path to a prefix with what speakers tell each other of it. Identifiers of paths are each speaker's own affair.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub prefix: Prefix,
    pub next_hop: IpAddr,
    pub as_path: Vec<u32>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: BTreeSet<u32>,
    pub extended: BTreeSet<u64>,
    pub large: BTreeSet<LargeCommunity>,
    pub originator: Option<Ipv4Addr>,
    pub clusters: Vec<Ipv4Addr>,
}

impl Route {
    /// Without anything else.
    pub fn to(prefix: &str, next_hop: &str) -> Self {
        Self {
            prefix: prefix.parse().unwrap(),
            next_hop: next_hop.parse().unwrap(),
            as_path: Vec::new(),
            med: None,
            local_pref: None,
            communities: BTreeSet::new(),
            extended: BTreeSet::new(),
            large: BTreeSet::new(),
            originator: None,
            clusters: Vec::new(),
        }
    }

    /// As this speaker has it.
    pub fn of(prefix: Prefix, attributes: &Attributes) -> Self {
        Self {
            prefix,
            next_hop: attributes.next_hop.address(),
            as_path: attributes.as_path.numbers().collect(),
            med: attributes.med,
            local_pref: attributes.local_pref,
            communities: attributes.communities.iter().copied().collect(),
            extended: attributes.extended_communities.iter().copied().collect(),
            large: attributes.large_communities.iter().copied().collect(),
            originator: attributes.originator_id,
            clusters: attributes.cluster_list.to_vec(),
        }
    }

    /// What makes a route that begins here this one, but for the next hop.
    pub fn sets(&self) -> Vec<Set> {
        let path = self.as_path.iter().rev().map(|asn| Set::Prepend(*asn, 1));
        let values = self.med.map(|med| Set::Med(Some(med))).into_iter().chain(self.local_pref.map(Set::LocalPref));
        let lists = self.communities.iter().map(|one| Set::AddCommunity(*one));
        let lists = lists.chain(self.extended.iter().map(|one| Set::AddExtended(*one)));
        path.chain(values).chain(lists).chain(self.large.iter().map(|one| Set::AddLarge(*one))).collect()
    }

    /// As one of the AS `from`, where it began, tells it to one of the AS `to`.
    pub fn told(&self, from: u32, to: u32) -> Self {
        let mut told = self.clone();
        if from == to {
            told.local_pref = Some(self.local_pref.unwrap_or(100));
        } else {
            told.as_path.insert(0, from);
            told.local_pref = None;
        }
        told
    }

    /// As a reflector with this cluster passes it on, which had it from the router of that number.
    pub fn reflected(&self, from: u8, cluster: u8) -> Self {
        let mut told = self.clone();
        told.originator = Some(id(from));
        told.clusters.insert(0, id(cluster));
        told
    }
}

impl fmt::Debug for Route {
    /// One line, with what it has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {} path {:?}", self.prefix, self.next_hop, self.as_path)?;
        let numbers = [("med", self.med), ("preference", self.local_pref)];
        numbers
            .iter()
            .filter_map(|(name, one)| Some((name, (*one)?)))
            .try_for_each(|one| write!(f, " {} {}", one.0, one.1))?;
        write!(f, " communities {:x?} {:x?} {:?}", self.communities, self.extended, self.large)?;
        write!(f, " originator {:?} clusters {:?}", self.originator, self.clusters)
    }
}

/// The router id of a number.
pub fn id(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// The community `ASN:NUMBER`.
pub fn community(text: &str) -> u32 {
    let (asn, number) = text.split_once(':').unwrap_or_else(|| panic!("no community: {text}"));
    asn.parse::<u32>().unwrap() << 16 | number.parse::<u32>().unwrap()
}

/// The route target `ASN:NUMBER` of a two-byte AS.
pub fn target(text: &str) -> u64 {
    let (asn, number) = text.split_once(':').unwrap_or_else(|| panic!("no route target: {text}"));
    2 << 48 | asn.parse::<u64>().unwrap() << 32 | number.parse::<u64>().unwrap()
}

/// A route target as `ASN:NUMBER`.
pub fn target_words(target: u64) -> String {
    assert_eq!(target >> 48, 2, "{target:x} is no route target of a two-byte AS");
    format!("{}:{}", target >> 32 & 0xffff, target & 0xffff_ffff)
}

/// A community as `ASN:NUMBER`.
pub fn community_words(community: u32) -> String {
    format!("{}:{}", community >> 16, community & 0xffff)
}

/// The large community `AS:NUMBER:NUMBER`.
pub fn large(text: &str) -> LargeCommunity {
    let parts: Vec<u32> = text.split(':').map(|part| part.parse().unwrap()).collect();
    let [one, two, three] = parts[..] else { panic!("no large community: {text}") };
    LargeCommunity(one, two, three)
}
