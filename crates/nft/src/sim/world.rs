//! What a ruleset asks of the kernel around it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_types::Family;

use super::{Link, Packet};
use crate::model::build::FibAddrType;
use crate::model::{Limit, NumGen};

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this host.
    Local,
    /// Out by this link.
    Via(Link),
    /// Nowhere: there is no route, or one that refuses.
    Unreachable,
}

/// Answers from outside the ruleset. What is not answered (`None`) cannot be simulated, and a packet that depends on
/// it is an error. Everything is unanswered unless implemented.
pub trait World {
    /// Where a packet goes.
    fn route(&self, _packet: &Packet) -> Option<Route> {
        None
    }

    /// The kind of an address by the routing tables; with a link, as that link sees it.
    fn address_type(&self, _address: IpAddr, _on: Option<&Link>) -> Option<FibAddrType> {
        None
    }

    /// The index of the link by which packets to an address leave; zero if there is no route. With a link: zero also
    /// if they leave by another.
    fn exit(&self, _address: IpAddr, _on: Option<&Link>) -> Option<u32> {
        None
    }

    /// The address packets get that are masqueraded out of a link, or redirected to this host when they came in by it.
    fn primary_address(&self, _link: &Link, _family: Family) -> Option<IpAddr> {
        None
    }

    /// The link by which packets of this host to itself leave; `None` if not known.
    fn loopback(&self) -> Option<Link> {
        None
    }

    /// Whether the rate is below the limit.
    fn is_below(&self, _limit: &Limit) -> Option<bool> {
        None
    }

    /// The number that is generated.
    fn number(&self, _number: &NumGen) -> Option<u32> {
        None
    }
}

/// A world that answers nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl World for Nothing {}

/// A host with addresses and routes, enough for most rulesets.
///
/// Addresses that are not its own are unicast, multicast or the limited broadcast; there are no other broadcast
/// addresses. Limits are not reached, and generated numbers are the least.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Its links with their addresses, the primary one of each family first.
    pub links: Vec<(Link, Vec<IpAddr>)>,
    /// Its routes: the longest prefix counts.
    pub routes: BTreeMap<ripstop_types::Prefix, Link>,
}

impl Host {
    fn owner(&self, address: IpAddr) -> Option<&Link> {
        self.links.iter().find(|(_, addresses)| addresses.contains(&address)).map(|(link, _)| link)
    }

    fn lookup(&self, address: IpAddr) -> Option<&Link> {
        let covering = self.routes.iter().filter(|(prefix, _)| prefix.contains(address));
        covering.max_by_key(|(prefix, _)| prefix.len()).map(|(_, link)| link)
    }
}

impl World for Host {
    fn route(&self, packet: &Packet) -> Option<Route> {
        let destination = packet.destination()?;
        Some(match (self.owner(destination), self.lookup(destination)) {
            (Some(_), _) => Route::Local,
            (None, Some(link)) => Route::Via(link.clone()),
            (None, None) => Route::Unreachable,
        })
    }

    fn address_type(&self, address: IpAddr, on: Option<&Link>) -> Option<FibAddrType> {
        let multicast = match address {
            IpAddr::V4(ip) if ip.is_broadcast() => return Some(FibAddrType::BROADCAST),
            IpAddr::V4(ip) => ip.is_multicast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        Some(match self.owner(address) {
            _ if multicast => FibAddrType::MULTICAST,
            Some(link) if on.is_none_or(|on| on == link) => FibAddrType::LOCAL,
            _ => FibAddrType::UNICAST,
        })
    }

    fn exit(&self, address: IpAddr, on: Option<&Link>) -> Option<u32> {
        let link = self.lookup(address).filter(|link| on.is_none_or(|on| on == *link));
        Some(link.map_or(0, |link| link.index))
    }

    fn primary_address(&self, link: &Link, family: Family) -> Option<IpAddr> {
        let (_, addresses) = self.links.iter().find(|(own, _)| own == link)?;
        addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    fn loopback(&self) -> Option<Link> {
        self.links.iter().map(|(link, _)| link).find(|link| link.name.as_str() == "lo").cloned()
    }

    fn is_below(&self, _limit: &Limit) -> Option<bool> {
        Some(true)
    }

    fn number(&self, number: &NumGen) -> Option<u32> {
        Some(number.offset)
    }
}
