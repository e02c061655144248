//! What an event means.

use ripstop_netmodel::{Kind, LINK_PREFIX, ROUTE_PROTOCOL, is_own_nexthop, is_own_table};
use ripstop_nft::model::TableFamily;

use super::{Changed, HANGS_ON_LINK, Known, Touched};
use crate::netlink::Reply;
use crate::netlink::uapi::*;
use crate::observe::{facts, iptables, jump};
use crate::own::{LinkState, OwnTraffic};
use crate::wire::AF_BRIDGE;
use crate::wire::address::RawAddress;
use crate::wire::link::{RawLink, bridge_port};
use crate::wire::neighbour::RawNeighbour;
use crate::wire::nexthop::RawNexthop;
use crate::wire::qdisc::RawQdisc;
use crate::wire::route::RawRoute;

/// Bytes of `struct nfgenmsg`.
const NFGEN: usize = 4;
/// Bytes of `struct netconfmsg`, padded as attributes are.
const NETCONF: usize = 4;
/// The family of tables at the ingress of devices (linux/netfilter.h).
const NFPROTO_NETDEV: u8 = 5;

impl Known {
    /// Takes one event in.
    pub(crate) fn hear(&mut self, event: Reply<'_>, own: &OwnTraffic, changed: &mut Changed) {
        match event.kind {
            RTM_NEWLINK | RTM_DELLINK => self.link(event, own),
            _ if own.is_ours(event.port) => {}
            RTM_NEWADDR | RTM_DELADDR => self.address(event, own, changed),
            RTM_NEWROUTE | RTM_DELROUTE => route(event, own, changed),
            RTM_NEWNEIGH | RTM_DELNEIGH => self.neighbour(event, own, changed),
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => nexthop(event, own, changed),
            RTM_NEWQDISC | RTM_DELQDISC => self.qdisc(event, changed),
            RTM_NEWNETCONF => netconf(event, changed),
            kind if kind >> 8 == NFNL_SUBSYS_NFTABLES => self.nft(event, changed),
            _ => {}
        }
    }

    /// Judges the links that had events, by what they were and what they became: of the steps between only
    /// a fall matters. A link that a run of ours is at is judged at the next look: what it became is not known yet.
    pub(crate) fn settle(&mut self, own: &OwnTraffic, changed: &mut Changed) {
        for (index, touched) in std::mem::take(&mut self.touched) {
            let after = self.links.get(&index);
            if after.is_some_and(|after| own.is_in_work(&after.name)) {
                self.touched.insert(index, touched);
                continue;
            }
            let runs = self.running.contains(&index);
            let before = touched.before.as_ref();
            let is_same =
                (before == after && touched.ran == runs) || after.is_some_and(|after| own.left_link_so(index, after));
            if !touched.by_others || own.departed(index) || (is_same && !touched.fell) {
                continue;
            }
            let fell = touched.fell;
            if touched.was_ours {
                changed.kinds.insert(Kind::Link);
                if fell {
                    changed.kinds.extend(HANGS_ON_LINK);
                }
            } else {
                changed.facts = true;
            }
            // What went through it is gone without an event of its own. A nexthop goes with the carrier already
            // (`nh_netdev_event`, net/ipv4/nexthop.c).
            if fell || (touched.ran && !runs) {
                changed.kinds.extend([Kind::Nexthop, Kind::NexthopGroup, Kind::Route]);
            }
        }
    }

    pub(super) fn set_link(&mut self, link: &RawLink) {
        self.links.insert(link.index, LinkState::of(link));
        if facts::is_foreign(link) && facts::is_running(link) {
            self.running.insert(link.index);
        } else {
            self.running.remove(&link.index);
        }
    }

    fn link(&mut self, event: Reply<'_>, own: &OwnTraffic) {
        if event.body.first() == Some(&AF_BRIDGE) {
            return self.port(event, own);
        }
        let Some(link) = RawLink::read(event).filter(|link| link.flags & IFF_LOOPBACK == 0) else { return };
        let by_others = !own.is_ours(event.port);
        self.touch(link.index, by_others);
        let ran = self.running.contains(&link.index);
        let was_up = self.links.get(&link.index).is_some_and(|known| known.up);
        if event.kind == RTM_DELLINK {
            self.links.remove(&link.index);
            self.running.remove(&link.index);
        } else {
            self.set_link(&link);
        }
        let after = self.links.get(&link.index);
        let (is_up, is_ours) = (after.is_some_and(|known| known.up), after.is_some_and(is_ours));
        let fell = after.is_none() || (was_up && !is_up) || (ran && !self.running.contains(&link.index));
        if let Some(touched) = self.touched.get_mut(&link.index) {
            touched.fell |= fell && by_others;
            touched.was_ours |= is_ours;
        }
    }

    /// A bridge's own event about a port: its settings may have changed. That it left the bridge comes as a link's event.
    fn port(&mut self, event: Reply<'_>, own: &OwnTraffic) {
        let Some((index, port)) = bridge_port(event).filter(|_| event.kind == RTM_NEWLINK) else { return };
        if self.links.get(&index).is_some_and(|link| link.port.is_some_and(|known| known != port)) {
            self.touch(index, !own.is_ours(event.port));
            if let Some(link) = self.links.get_mut(&index) {
                link.port = Some(port);
            }
        }
    }

    fn touch(&mut self, index: u32, by_others: bool) {
        let before = self.links.get(&index);
        let touched = self.touched.entry(index).or_insert_with(|| Touched {
            before: before.cloned(),
            ran: self.running.contains(&index),
            by_others: false,
            fell: false,
            was_ours: before.is_some_and(is_ours),
        });
        touched.by_others |= by_others;
    }

    /// Whether a link is one of ours that we did not remove.
    fn is_our_link(&self, index: u32, own: &OwnTraffic) -> bool {
        !own.departed(index) && self.links.get(&index).is_some_and(is_ours)
    }

    fn address(&self, event: Reply<'_>, own: &OwnTraffic, changed: &mut Changed) {
        let Some(address) = RawAddress::read(event) else { return };
        let added = event.kind == RTM_NEWADDR;
        if own.departed(address.index) {
            return;
        }
        if self.links.get(&address.index).is_some_and(is_ours) {
            // Ours is who made it with our number: the kernel does not say who wrote an IPv6 address.
            let made_by_us = added && address.protocol == ROUTE_PROTOCOL;
            if !address.is_kernels() && !made_by_us {
                changed.kinds.insert(Kind::Address);
            }
        } else if facts::is_usable(&address) && self.links.contains_key(&address.index) {
            changed.facts = true;
            if !added {
                // Routes with it as their source are gone without an event.
                changed.kinds.insert(Kind::Route);
            }
        }
    }

    fn neighbour(&self, event: Reply<'_>, own: &OwnTraffic, changed: &mut Changed) {
        let Some(entry) = RawNeighbour::read(event).filter(|entry| self.is_our_link(entry.index, own)) else { return };
        if entry.family == AF_BRIDGE {
            let (Some(mac), true) = (entry.mac, entry.flags & NTF_SELF != 0) else { return };
            // Up to Linux 6.1 the core repeats the device's event without the destination.
            let added = event.kind == RTM_NEWNEIGH;
            let repeated = added && entry.dst.is_none();
            if !repeated && !own.left_fdb_so(entry.index, mac, entry.dst.filter(|_| added)) {
                changed.kinds.insert(Kind::Fdb);
            }
            return;
        }
        // The kernel fails neighbours it learned all the time; one that a socket failed was removed by somebody.
        if entry.state & NUD_PERMANENT != 0 || (entry.state & NUD_FAILED != 0 && event.port != 0) {
            changed.kinds.insert(Kind::Neighbour);
        }
    }

    fn qdisc(&self, event: Reply<'_>, changed: &mut Changed) {
        if let Some(qdisc) = RawQdisc::read(event)
            && qdisc.root
            && self.links.get(&qdisc.index).is_some_and(is_ours)
        {
            changed.kinds.insert(Kind::Qdisc);
        }
    }

    fn nft(&mut self, event: Reply<'_>, changed: &mut Changed) {
        // Every message but the generation's begins with its table's name.
        let Some((header, attrs)) = event.split::<NFGEN>() else { return };
        let kind = event.kind & 0xff;
        if kind == NFT_MSG_NEWGEN {
            return;
        }
        let Some(table) = attrs.str(NFTA_RULE_TABLE) else { return };
        let family = match header[0] {
            NFPROTO_NETDEV => TableFamily::Netdev,
            NFPROTO_IPV4 => TableFamily::Ip,
            NFPROTO_IPV6 => TableFamily::Ip6,
            _ => TableFamily::Inet,
        };
        if is_own_table(family, table) {
            // An element may be one that a part is filled with.
            changed.kinds.extend([Kind::NftElement, Kind::NftPart]);
            if !matches!(kind, NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM) {
                changed.kinds.extend([Kind::NftTable, Kind::NftValues]);
            }
            return;
        }
        if iptables::concerns(header[0], kind, attrs) {
            changed.kinds.insert(Kind::Iptables);
        }
        if jump::concerns(header[0], kind, attrs) {
            changed.kinds.insert(Kind::ForwardJump);
            changed.facts = true;
        }
        match kind {
            NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => {
                let Some(chain) = facts::forward_chain(event) else { return };
                let key = (chain.family, chain.table.into(), chain.name.into());
                changed.facts = true;
                if kind == NFT_MSG_NEWCHAIN {
                    self.forward.insert(key);
                } else {
                    self.forward.remove(&key);
                }
            }
            NFT_MSG_NEWRULE | NFT_MSG_DELRULE => {
                let chain = attrs.str(NFTA_RULE_CHAIN).unwrap_or_default();
                changed.facts |= self.forward.contains(&(header[0], table.into(), chain.into()));
            }
            NFT_MSG_DELTABLE => changed.facts |= self.forward.iter().any(|(_, name, _)| **name == *table),
            _ => {}
        }
    }
}

fn is_ours(link: &LinkState) -> bool {
    link.name.as_str().starts_with(LINK_PREFIX)
}

fn route(event: Reply<'_>, own: &OwnTraffic, changed: &mut Changed) {
    let Some(route) = RawRoute::read(event) else { return };
    if route.index.is_some_and(|index| own.departed(index)) {
        return;
    }
    // A route that replaces one of ours is announced alone.
    if route.protocol == ROUTE_PROTOCOL || (event.kind == RTM_NEWROUTE && event.flags & NLM_F_REPLACE != 0) {
        changed.kinds.insert(Kind::Route);
    }
    if route.dst.len() == 0 && route.table == RT_TABLE_MAIN && route.protocol != ROUTE_PROTOCOL {
        changed.facts = true;
    }
}

fn nexthop(event: Reply<'_>, own: &OwnTraffic, changed: &mut Changed) {
    let Some(nexthop) = RawNexthop::read(event) else { return };
    let departed = nexthop.index.is_some_and(|index| own.departed(index));
    if is_own_nexthop(nexthop.id) && !departed {
        changed.kinds.extend([Kind::Nexthop, Kind::NexthopGroup]);
        if event.kind == RTM_DELNEXTHOP {
            changed.kinds.insert(Kind::Route);
        }
    }
}

/// Every link that comes or goes has such an event too; what is wanted is about all links.
fn netconf(event: Reply<'_>, changed: &mut Changed) {
    let Some((_, attrs)) = event.split::<NETCONF>() else { return };
    if attrs.u32(NETCONFA_IFINDEX).map(u32::cast_signed) == Some(NETCONFA_IFINDEX_ALL) {
        changed.kinds.insert(Kind::Sysctl);
    }
}
