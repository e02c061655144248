//! What usually is behind the kernel's refusals.

use ripstop_netmodel::{Entry, LinkKind, Object, RouteTarget};

/// The likely cause, in a few words; `None` where the kernel's own words say enough.
pub(super) fn cause(entry: Option<&Entry>, errno: i32) -> Option<String> {
    match errno {
        libc::EPERM | libc::EACCES => {
            return Some("the agent needs CAP_NET_ADMIN, and CAP_SYS_ADMIN to enter pods' namespaces".into());
        }
        libc::ENOMEM | libc::ENOBUFS => return Some("the kernel is out of memory for it".into()),
        _ => {}
    }
    match (&entry?.object, errno) {
        (Object::Link(link), libc::EOPNOTSUPP) => {
            Some(format!("this kernel cannot make a {} device", word(&link.kind)))
        }
        (Object::Link(link), libc::EEXIST | libc::EADDRINUSE) if matches!(link.kind, LinkKind::Vxlan { .. }) => {
            Some("another VXLAN device has this network identifier and port".into())
        }
        (Object::Link(_), libc::EINVAL | libc::ERANGE) => Some("the kernel does not accept the name or the MTU".into()),
        (Object::Route(_), libc::ENETDOWN) => Some("the outgoing link is down".into()),
        (Object::Route(route), libc::EINVAL) if matches!(route.target, RouteTarget::Nexthop(_)) => {
            Some("the nexthop is not there".into())
        }
        (Object::Route(route), libc::EINVAL) if route.src.is_some() => {
            Some("the source address is not on this node, or the gateway is on no link".into())
        }
        (Object::Route(_) | Object::Nexthop(_), libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL) => {
            Some("the gateway is on no link that is up".into())
        }
        (Object::NexthopGroup(_), libc::EINVAL) => Some("a nexthop of the group is not there".into()),
        (Object::Nexthop(_), libc::ENETDOWN) => Some("the outgoing link is down".into()),
        (Object::Address(_), libc::EACCES | libc::EADDRNOTAVAIL) => {
            Some("IPv6 is turned off on the link (disable_ipv6)".into())
        }
        (Object::Fdb(_), libc::EOPNOTSUPP) => Some("the device is not a VXLAN device".into()),
        (Object::Qdisc(_), libc::ENOENT) => Some("this kernel has no token bucket filter (sch_tbf)".into()),
        _ => None,
    }
}

fn word(kind: &LinkKind) -> &str {
    match kind {
        LinkKind::Veth(_) | LinkKind::VethPeer => "veth",
        LinkKind::Bridge => "bridge",
        LinkKind::Vxlan { .. } => "vxlan",
        LinkKind::Ipip { .. } => "ipip",
        LinkKind::Tun => "TUN",
        LinkKind::Ifb { .. } => "ifb",
        LinkKind::Loopback => "loopback",
        LinkKind::Other(kind) => kind,
    }
}
