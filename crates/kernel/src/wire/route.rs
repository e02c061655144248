//! Routes: `RTM_*ROUTE` (linux/rtnetlink.h).

use std::net::IpAddr;

use ripstop_netmodel::{Key, Ns, ROUTE_PROTOCOL, Route, RouteTarget};
use ripstop_types::{Family, Prefix};

use super::{AF_INET, AF_INET6, Names, address_family};
use crate::netlink::uapi::*;
use crate::netlink::{Message, Reply, ip_bytes, read_ip};

const RTMSG: usize = 12;

/// A route as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRoute {
    pub(crate) dst: Prefix,
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    pub(crate) kind: u8,
    /// As the model counts: 0 is the family's default.
    pub(crate) metric: u32,
    pub(crate) nexthop: Option<u32>,
    pub(crate) index: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) onlink: bool,
    pub(crate) multipath: bool,
    pub(crate) src: Option<IpAddr>,
    pub(crate) mtu: Option<u32>,
}

impl RawRoute {
    /// Reads a route; `None` for a copy the kernel keeps in its cache, and for what is not IPv4 or IPv6.
    pub(crate) fn read(reply: Reply<'_>) -> Option<Self> {
        let (header, attrs) = reply.split::<RTMSG>()?;
        let flags = u32::from_ne_bytes(*header[8..].first_chunk()?);
        let family = match header[0] {
            AF_INET => Family::V4,
            AF_INET6 => Family::V6,
            _ => return None,
        };
        if flags & RTM_F_CLONED != 0 {
            return None;
        }
        let everything = Prefix::default_route(family).addr();
        let dst = Prefix::containing(attrs.get(RTA_DST).and_then(read_ip).unwrap_or(everything), header[1])?;
        let metric = match (family, attrs.u32(RTA_PRIORITY)) {
            (_, None) | (Family::V6, Some(IP6_RT_PRIO_USER)) => 0,
            (_, Some(metric)) => metric,
        };
        // RTA_VIA: an address family in host order, then the gateway of that family.
        let via = attrs.get(RTA_VIA).and_then(|data| data.get(2..)).and_then(read_ip);
        Some(Self {
            dst,
            table: attrs.u32(RTA_TABLE).unwrap_or(u32::from(header[4])),
            protocol: header[5],
            kind: header[7],
            metric,
            nexthop: attrs.u32(RTA_NH_ID),
            index: attrs.u32(RTA_OIF),
            gateway: attrs.get(RTA_GATEWAY).and_then(read_ip).or(via),
            onlink: flags & RTNH_F_ONLINK != 0,
            // A group's route is shown with the ways of its members, too.
            multipath: attrs.get(RTA_MULTIPATH).is_some() && attrs.get(RTA_NH_ID).is_none(),
            src: attrs.get(RTA_PREFSRC).and_then(read_ip),
            mtu: attrs.nested(RTA_METRICS).u32(RTAX_MTU),
        })
    }

    pub(crate) fn key(&self, ns: &Ns) -> Key {
        Key::Route { ns: ns.clone(), table: self.table, dst: self.dst, metric: self.metric }
    }

    pub(crate) fn to_route(&self, ns: &Ns, names: &Names) -> Option<Route> {
        let target = match (self.kind, self.nexthop, self.gateway) {
            (RTN_UNREACHABLE, ..) => RouteTarget::Unreachable,
            (RTN_LOCAL, ..) => RouteTarget::Local,
            (RTN_UNICAST, Some(id), _) => RouteTarget::Nexthop(id),
            (RTN_UNICAST, None, Some(gateway)) => {
                RouteTarget::Via { link: names.get(&self.index?)?.clone(), gateway, onlink: self.onlink }
            }
            (RTN_UNICAST, None, None) => RouteTarget::Link(names.get(&self.index?)?.clone()),
            _ => return None,
        };
        Some(Route {
            ns: ns.clone(),
            table: self.table,
            dst: self.dst,
            metric: self.metric,
            target,
            src: self.src,
            mtu: self.mtu,
        })
    }
}

fn header(dst: Prefix, protocol: u8, scope: u8, kind: u8, flags: u32) -> [u8; RTMSG] {
    let mut header = [0; RTMSG];
    header[0] = address_family(dst.family());
    header[1] = dst.len();
    header[5] = protocol;
    header[6] = scope;
    header[7] = kind;
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// IPv6 takes "no metric" for its default, and shows the default as 1024.
fn metric_number(family: Family, metric: u32) -> u32 {
    if family == Family::V6 && metric == 0 { IP6_RT_PRIO_USER } else { metric }
}

/// Makes it; `flags` say what happens where destination, table and metric are taken (`NLM_F_EXCL` or `NLM_F_REPLACE`).
/// `index` is the outgoing link's, where the target has one.
pub(crate) fn create(route: &Route, index: Option<u32>, flags: u16) -> Message {
    let family = route.dst.family();
    let (kind, scope, onlink) = match &route.target {
        RouteTarget::Unreachable => (RTN_UNREACHABLE, RT_SCOPE_UNIVERSE, false),
        RouteTarget::Local => (RTN_LOCAL, RT_SCOPE_HOST, false),
        RouteTarget::Link(_) if family == Family::V4 => (RTN_UNICAST, RT_SCOPE_LINK, false),
        RouteTarget::Via { onlink, .. } => (RTN_UNICAST, RT_SCOPE_UNIVERSE, *onlink),
        RouteTarget::Link(_) | RouteTarget::Nexthop(_) => (RTN_UNICAST, RT_SCOPE_UNIVERSE, false),
    };
    let header = header(route.dst, ROUTE_PROTOCOL, scope, kind, if onlink { RTNH_F_ONLINK } else { 0 });
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | flags, &header)
        .ip(RTA_DST, route.dst.addr())
        .u32(RTA_TABLE, route.table)
        .u32(RTA_PRIORITY, metric_number(family, route.metric));
    match &route.target {
        RouteTarget::Nexthop(id) => message = message.u32(RTA_NH_ID, *id),
        RouteTarget::Via { gateway, .. } if Family::of(*gateway) == family => {
            message = message.ip(RTA_GATEWAY, *gateway)
        }
        RouteTarget::Via { gateway, .. } => {
            let (bytes, len) = ip_bytes(*gateway);
            let mut via = u16::from(address_family(Family::of(*gateway))).to_ne_bytes().to_vec();
            via.extend_from_slice(&bytes[..len]);
            message = message.bytes(RTA_VIA, &via);
        }
        RouteTarget::Link(_) | RouteTarget::Unreachable | RouteTarget::Local => {}
    }
    if let Some(index) = index {
        message = message.u32(RTA_OIF, index);
    }
    if let Some(src) = route.src {
        message = message.ip(RTA_PREFSRC, src);
    }
    // What a node passes on by IPv6 heeds a route's MTU only where it is locked (`ip6_dst_mtu_maybe_forward`); by IPv4
    // always, and a lock would let the node's own packets be fragmented (`ip_mtu_locked`). Routes of pods pass nothing on.
    let by_nexthop = matches!(route.target, RouteTarget::Nexthop(_));
    let lock = family == Family::V6 && by_nexthop;
    match route.mtu {
        Some(mtu) if lock => message.nest(RTA_METRICS, |m| m.u32(RTAX_LOCK, 1 << RTAX_MTU).u32(RTAX_MTU, mtu)),
        Some(mtu) => message.nest(RTA_METRICS, |m| m.u32(RTAX_MTU, mtu)),
        // Without any metric the kernel would take those of another route by the same nexthop object, the one that is replaced
        // among them (`fib_find_info_nh`, net/ipv4/fib_semantics.c); one of 0 is none.
        None if family == Family::V4 && by_nexthop => message.nest(RTA_METRICS, |m| m.u32(RTAX_MTU, 0)),
        None => message,
    }
}

/// Removes a route of ours: the protocol is part of what must match, so a foreign route of the same destination stays.
pub(crate) fn delete(table: u32, dst: Prefix, metric: u32) -> Message {
    /// Any scope (`RT_SCOPE_NOWHERE`).
    const ANY_SCOPE: u8 = 255;
    Message::new(RTM_DELROUTE, 0, &header(dst, ROUTE_PROTOCOL, ANY_SCOPE, 0, 0))
        .ip(RTA_DST, dst.addr())
        .u32(RTA_TABLE, table)
        .u32(RTA_PRIORITY, metric_number(dst.family(), metric))
}

/// Asks for the routes of one family: of a protocol and a table, where given. The kernel filters.
pub(crate) fn dump(family: Family, protocol: Option<u8>, table: Option<u32>) -> Message {
    let mut header = [0; RTMSG];
    header[0] = address_family(family);
    header[5] = protocol.unwrap_or(0);
    let message = Message::new(RTM_GETROUTE, 0, &header);
    match table {
        Some(table) => message.u32(RTA_TABLE, table),
        None => message,
    }
}

/// Asks for the route by which one address is reached, as it stands in its table.
pub(crate) fn get(ip: IpAddr) -> Message {
    /// Show the entry, not what becomes of it (`RTM_F_FIB_MATCH`).
    const FIB_MATCH: u32 = 0x2000;
    Message::new(RTM_GETROUTE, 0, &header(Prefix::host(ip), 0, 0, 0, FIB_MATCH)).ip(RTA_DST, ip)
}

/// The name `ip route` shows for a protocol (iproute2, rt_protos), for sentences.
pub(crate) fn protocol_name(protocol: u8) -> String {
    let name = match protocol {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        186 => "bgp",
        188 => "ospf",
        other => return format!("{other}"),
    };
    format!("{name} ({protocol})")
}
