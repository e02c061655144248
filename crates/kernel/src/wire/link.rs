//! Links: `RTM_*LINK` (rtnetlink(7), linux/if_link.h).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ripstop_netmodel::{BridgePort, LINK_PREFIX, Link, LinkKind, Ns, TAKEN_MARK, Veth};
use ripstop_types::{Family, IfName, Mac, Owner, Prefix};

use super::{AF_INET6, Names};
use crate::netlink::uapi::*;
use crate::netlink::{Attrs, Message, Reply, read_ip};

/// First letters of the alternative name that marks a link as ours.
pub(crate) const MARK: &str = "ripstop.";
/// Group of every link of ours (`IFLA_GROUP`): a mark it is born with, while its alternative name comes a moment later.
pub(crate) const MARK_GROUP: u32 = 82;

/// Bytes of `struct ifinfomsg`.
pub(crate) const IFINFO: usize = 16;

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawLink {
    pub(crate) index: u32,
    pub(crate) name: IfName,
    pub(crate) flags: u32,
    pub(crate) mtu: u32,
    pub(crate) mac: Option<Mac>,
    pub(crate) master: Option<u32>,
    /// `IFLA_LINK`: of a veth, the index of the other end in its own namespace.
    pub(crate) peer_index: Option<u32>,
    /// Driver's name: `veth`, `bridge`; a physical device has none.
    pub(crate) kind: Option<Box<str>>,
    pub(crate) altnames: Vec<Box<str>>,
    group: u32,
    pub(crate) vxlan: Option<(u32, u16, IpAddr)>,
    /// An IPIP device without another end: its address.
    pub(crate) ipip: Option<Ipv4Addr>,
    /// A TUN device as the forwarder needs it: it stays, and has several queues with headers.
    pub(crate) tun: bool,
    pub(crate) port: Option<BridgePort>,
    /// The kernel makes no link-local address: told so, or there is no IPv6 on the link.
    pub(crate) no_link_local: bool,
}

impl RawLink {
    /// Reads an `RTM_NEWLINK` or `RTM_DELLINK` message.
    pub(crate) fn read(reply: Reply<'_>) -> Option<Self> {
        let (header, attrs) = reply.split::<IFINFO>()?;
        let info = attrs.nested(IFLA_LINKINFO);
        let kind = info.str(IFLA_INFO_KIND);
        let data = info.nested(IFLA_INFO_DATA);
        let inet6 = attrs.nested(IFLA_AF_SPEC).nested(u16::from(AF_INET6));
        Some(Self {
            index: u32::from_ne_bytes(*header[4..].first_chunk()?),
            name: attrs.str(IFLA_IFNAME)?.parse().ok()?,
            flags: u32::from_ne_bytes(*header[8..].first_chunk()?),
            mtu: attrs.u32(IFLA_MTU).unwrap_or(0),
            mac: attrs.get(IFLA_ADDRESS).and_then(|b| <[u8; 6]>::try_from(b).ok()).map(Mac),
            master: attrs.u32(IFLA_MASTER),
            peer_index: attrs.u32(IFLA_LINK),
            kind: kind.map(Into::into),
            altnames: alt_names(attrs.nested(IFLA_PROP_LIST)),
            group: attrs.u32(IFLA_GROUP).unwrap_or(0),
            vxlan: (kind == Some("vxlan")).then(|| read_vxlan(data)).flatten(),
            ipip: (kind == Some("ipip")).then(|| read_ipip(data)).flatten(),
            tun: kind == Some("tun") && read_tun(data),
            port: (info.str(IFLA_INFO_SLAVE_KIND) == Some("bridge"))
                .then(|| read_port(info.nested(IFLA_INFO_SLAVE_DATA))),
            no_link_local: inet6.u8(IFLA_INET6_ADDR_GEN_MODE).is_none_or(|mode| mode == IN6_ADDR_GEN_MODE_NONE),
        })
    }

    /// The alternative name that is our mark.
    pub(crate) fn mark(&self) -> Option<&str> {
        self.altnames.iter().find(|name| name.starts_with(MARK)).map(AsRef::as_ref)
    }

    /// Whether the link is ours: name and mark.
    pub(crate) fn is_ours(&self) -> bool {
        self.name.as_str().starts_with(LINK_PREFIX) && (self.mark().is_some() || self.group == MARK_GROUP)
    }

    /// Whether the link is another network's bridge that was taken over: only it itself is ours, and nothing on it.
    pub(crate) fn is_taken(&self) -> bool {
        self.mark().is_some_and(|mark| mark.starts_with(TAKEN_MARK))
    }

    /// The mark; failing that the first alternative name.
    fn altname(&self) -> Option<&str> {
        self.mark().or(self.altnames.first().map(AsRef::as_ref))
    }

    /// The owner that the mark names: `ripstop.pod.NAMESPACE.NAME.INTERFACE.LINK`, `ripstop.network.NAME`.
    pub(crate) fn owner(&self) -> Option<Owner> {
        let mark = self.mark()?;
        let (kind, name) = mark.strip_prefix(MARK)?.split_once('.')?;
        // The last two parts make a pod's mark unique.
        let one_interface = || {
            let name = name.strip_suffix(self.name.as_str())?.strip_suffix('.')?;
            name.rsplit_once('.').map(|(name, _)| name)
        };
        let text = match kind {
            "network" | "tunnel" | "udp" | "ipip" | "taken" => format!("network/{name}"),
            "container" => format!("container/{}", one_interface().unwrap_or(name)),
            "pod" => format!("pod/{}", one_interface().unwrap_or(name).replacen('.', "/", 1)),
            _ => mark.to_owned(),
        };
        Some(Owner::from_mark(&text))
    }

    /// The model's link. In the agent's namespace a veth is an end that we made; elsewhere it is the other end. Where the
    /// far end lies is not shown by the kernel, so the far end of an observed veth is a placeholder.
    pub(crate) fn to_link(&self, ns: &Ns, names: &Names) -> Link {
        Link {
            ns: ns.clone(),
            name: self.name.clone(),
            kind: self.to_kind(ns),
            mtu: Some(self.mtu),
            mac: self.mac,
            up: self.flags & IFF_UP != 0,
            master: self.master.and_then(|index| names.get(&index)).cloned(),
            altname: self.altname().map(Arc::from),
            port: self.port,
            no_link_local: self.no_link_local,
            tx_checksum: None,
        }
    }

    fn to_kind(&self, ns: &Ns) -> LinkKind {
        if let Some(local) = self.ipip {
            return LinkKind::Ipip { local };
        }
        match (self.kind.as_deref(), &self.vxlan) {
            (Some("veth"), _) if *ns == Ns::Host => LinkKind::Veth(Veth {
                ns: Ns::Path(Arc::from(UNKNOWN_NAMESPACE)),
                name: self.name.clone(),
                mac: Mac([0; 6]),
            }),
            (Some("veth"), _) => LinkKind::VethPeer,
            (Some("bridge"), _) => LinkKind::Bridge,
            (Some("vxlan"), Some((vni, port, local))) => LinkKind::Vxlan { vni: *vni, port: *port, local: *local },
            (Some("tun"), _) if self.tun => LinkKind::Tun,
            (Some("ifb"), _) => LinkKind::Ifb { index: self.index },
            (None, _) if self.flags & IFF_LOOPBACK != 0 => LinkKind::Loopback,
            (kind, _) => LinkKind::Other(kind.unwrap_or("device").into()),
        }
    }
}

/// Stands for the namespace of the far end of an observed veth, which the kernel does not show.
pub(crate) const UNKNOWN_NAMESPACE: &str = "?";

fn alt_names(list: Attrs<'_>) -> Vec<Box<str>> {
    let names = list.into_iter().filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
    names.filter_map(|(_, data)| std::str::from_utf8(data).ok()).map(|t| t.trim_end_matches('\0').into()).collect()
}

fn read_vxlan(data: Attrs<'_>) -> Option<(u32, u16, IpAddr)> {
    let local = data.get(IFLA_VXLAN_LOCAL).or_else(|| data.get(IFLA_VXLAN_LOCAL6)).and_then(read_ip);
    // The kernel shows no unspecified address; ours tell its family by the checksum, see `vxlan`.
    let family = if data.u8(IFLA_VXLAN_UDP_CSUM) == Some(0) { Family::V6 } else { Family::V4 };
    let local = local.unwrap_or(Prefix::default_route(family).addr());
    Some((data.u32(IFLA_VXLAN_ID)?, data.be16(IFLA_VXLAN_PORT)?, local))
}

/// The kernel shows no unspecified address.
fn read_ipip(data: Attrs<'_>) -> Option<Ipv4Addr> {
    let address = |kind| match data.get(kind).and_then(read_ip) {
        Some(IpAddr::V4(ip)) if !ip.is_unspecified() => Some(ip),
        _ => None,
    };
    address(IFLA_IPTUN_LOCAL).filter(|_| address(IFLA_IPTUN_REMOTE).is_none())
}

fn read_tun(data: Attrs<'_>) -> bool {
    let is_set = |kind| data.u8(kind).is_some_and(|value| value != 0);
    data.u8(IFLA_TUN_TYPE).is_some_and(|kind| i32::from(kind) == libc::IFF_TUN)
        && [IFLA_TUN_VNET_HDR, IFLA_TUN_PERSIST, IFLA_TUN_MULTI_QUEUE].into_iter().all(is_set)
}

/// The settings of a bridge port in a message of the bridge's own family; `None` if it is another message.
pub(crate) fn bridge_port(reply: Reply<'_>) -> Option<(u32, BridgePort)> {
    let (header, attrs) = reply.split::<IFINFO>()?;
    let index = u32::from_ne_bytes(*header[4..].first_chunk()?);
    let settings = attrs.nested(IFLA_PROTINFO);
    settings.get(IFLA_BRPORT_MODE).map(|_| (index, read_port(settings)))
}

fn read_port(data: Attrs<'_>) -> BridgePort {
    BridgePort {
        hairpin: data.u8(IFLA_BRPORT_MODE).is_some_and(|v| v != 0),
        learning: data.u8(IFLA_BRPORT_LEARNING).is_some_and(|v| v != 0),
    }
}

/// Asks whether the kernel can make links of a kind: it makes none of no queue, and says so (`EINVAL`) if it knows the
/// kind, which it looks at first.
pub(crate) fn get_kind(kind: &str) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0))
        .u32(IFLA_NUM_TX_QUEUES, 0)
        .nest(IFLA_LINKINFO, |m| m.str(IFLA_INFO_KIND, kind))
}

/// `struct ifinfomsg`.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut header = [0; IFINFO];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Asks for one link by name.
pub(crate) fn get(name: &IfName) -> Message {
    with_mask(Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0))).str(IFLA_IFNAME, name.as_str())
}

/// Asks for one link by alternative name.
pub(crate) fn get_by_altname(name: &str) -> Message {
    with_mask(Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0))).str(IFLA_ALT_IFNAME, name)
}

/// Asks for one link by index.
pub(crate) fn get_by_index(index: u32) -> Message {
    with_mask(Message::new(RTM_GETLINK, 0, &ifinfo(index, 0, 0)))
}

/// Asks for every link.
pub(crate) fn dump() -> Message {
    with_mask(Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0)))
}

/// Counters are half of a link's message and of no use here.
fn with_mask(message: Message) -> Message {
    message.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// Makes the link, fails if the name is taken. It is down: a veth comes up by [`up`] when what guards it stands, any other
/// kind by [`settings`], when its address generation is set.
pub(crate) fn create(link: &Link, master: Option<u32>, peer_ns: Option<i32>) -> Option<Message> {
    let index = if let LinkKind::Ifb { index } = link.kind { index } else { 0 };
    let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(index, 0, 0))
        .str(IFLA_IFNAME, link.name.as_str())
        .u32(IFLA_GROUP, MARK_GROUP);
    if let Some(mtu) = link.mtu {
        message = message.u32(IFLA_MTU, mtu);
    }
    if let Some(mac) = link.mac {
        message = message.bytes(IFLA_ADDRESS, &mac.0);
    }
    if let Some(master) = master {
        message = message.u32(IFLA_MASTER, master);
    }
    let kind = match &link.kind {
        LinkKind::Veth(_) => "veth",
        LinkKind::Bridge => "bridge",
        LinkKind::Vxlan { .. } => "vxlan",
        LinkKind::Ifb { .. } => "ifb",
        LinkKind::Ipip { .. } => "ipip",
        // A TUN device is made by its driver's own call.
        LinkKind::VethPeer | LinkKind::Tun | LinkKind::Loopback | LinkKind::Other(_) => return None,
    };
    if matches!(link.kind, LinkKind::Veth(_)) {
        message = one_queue(message);
    }
    Some(message.nest(IFLA_LINKINFO, |m| {
        let m = m.str(IFLA_INFO_KIND, kind);
        match &link.kind {
            LinkKind::Veth(veth) => {
                m.nest(IFLA_INFO_DATA, |m| m.nest(VETH_INFO_PEER, |m| peer(m, veth, link.mtu, peer_ns)))
            }
            LinkKind::Bridge => m.nest(IFLA_INFO_DATA, |m| m.u32(IFLA_BR_STP_STATE, 0)),
            LinkKind::Vxlan { vni, port, local } => m.nest(IFLA_INFO_DATA, |m| vxlan(m, *vni, *port, *local)),
            LinkKind::Ipip { local } => m.nest(IFLA_INFO_DATA, |m| ipip(m, *local)),
            _ => m,
        }
    }))
}

/// An end of a pair uses one queue each way. Not told so, the kernel makes one for each CPU and takes the others away again
/// (`veth_init_queues`, drivers/net/veth.c): while it holds the lock that every change of a link waits for, it then waits for
/// every CPU, once for each end.
fn one_queue(message: Message) -> Message {
    message.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1)
}

/// The other end, born in its namespace. It cannot be born up (`ENOTCONN`).
fn peer(message: Message, veth: &Veth, mtu: Option<u32>, ns: Option<i32>) -> Message {
    let mut message =
        message.raw(&ifinfo(0, 0, 0)).str(IFLA_IFNAME, veth.name.as_str()).bytes(IFLA_ADDRESS, &veth.mac.0);
    message = one_queue(message);
    if let Some(mtu) = mtu {
        message = message.u32(IFLA_MTU, mtu);
    }
    match ns {
        Some(fd) => message.bytes(IFLA_NET_NS_FD, &fd.to_ne_bytes()),
        None => message,
    }
}

/// Learning off: who is where is known, and a learned entry would outlive the truth. Outer UDP checksums on: they let the
/// receiver use its checksum hardware, and IPv6 needs them (RFC 8200, 8.1). IPv4's own setting says nothing of IPv6 packets;
/// that it is off is the mark by which a device of IPv6 is known where it has no source address.
fn vxlan(message: Message, vni: u32, port: u16, local: IpAddr) -> Message {
    let message = message.u32(IFLA_VXLAN_ID, vni).be16(IFLA_VXLAN_PORT, port).u8(IFLA_VXLAN_LEARNING, 0);
    match local {
        IpAddr::V4(_) => message.ip(IFLA_VXLAN_LOCAL, local).u8(IFLA_VXLAN_UDP_CSUM, 1),
        IpAddr::V6(_) => message
            .ip(IFLA_VXLAN_LOCAL6, local)
            .u8(IFLA_VXLAN_UDP_CSUM, 0)
            .u8(IFLA_VXLAN_UDP_ZERO_CSUM6_TX, 0)
            .u8(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, 0),
    }
}

/// Hops that an outer header of IPIP may make: as those of other tunnels. Taken from the packet inside (0), one that has few
/// left would die on its way between nodes.
const TTL: u8 = 64;

fn ipip(message: Message, local: Ipv4Addr) -> Message {
    message.ip(IFLA_IPTUN_LOCAL, local.into()).u8(IFLA_IPTUN_TTL, TTL).u8(IFLA_IPTUN_PMTUDISC, 1)
}

/// Gives an IPIP device another address. What is not said would be the kernel's default.
pub(crate) fn set_ipip_source(index: u32, local: Ipv4Addr) -> Message {
    Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
        .nest(IFLA_LINKINFO, |m| m.str(IFLA_INFO_KIND, "ipip").nest(IFLA_INFO_DATA, |m| ipip(m, local)))
}

/// Gives a VXLAN device another source address of the same family, while it carries packets (Linux 5.0).
pub(crate) fn set_vxlan_source(index: u32, local: IpAddr) -> Message {
    let kind = if local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
    Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
        .nest(IFLA_LINKINFO, |m| m.str(IFLA_INFO_KIND, "vxlan").nest(IFLA_INFO_DATA, |m| m.ip(kind, local)))
}

/// What is set on a link that is there: on one just made by [`create`] (`fresh`) only what that left out. `master` is
/// `Some(0)` to take it out of its bridge.
pub(crate) fn settings(link: &Link, index: u32, fresh: bool, master: Option<u32>) -> Vec<Message> {
    let mut messages = Vec::new();
    // Before it comes up, because coming up makes the link-local address.
    if link.no_link_local {
        messages.push(generation(index, IN6_ADDR_GEN_MODE_NONE));
    }
    let mut change = IFF_UP;
    let mut message = Attributes::default();
    if fresh {
        let stays_down = matches!(link.kind, LinkKind::Veth(_)) || !link.up;
        change = if stays_down { 0 } else { IFF_UP };
    } else {
        if let Some(mtu) = link.mtu {
            message.0.push((IFLA_MTU, mtu.to_ne_bytes().to_vec()));
        }
        if let Some(mac) = link.mac {
            message.0.push((IFLA_ADDRESS, mac.0.to_vec()));
        }
        if let Some(master) = master {
            message.0.push((IFLA_MASTER, master.to_ne_bytes().to_vec()));
        }
    }
    if change != 0 || !message.0.is_empty() {
        let flags = if link.up { IFF_UP } else { 0 };
        messages
            .push(message.0.iter().fold(set(index, flags & change, change), |m, (kind, data)| m.bytes(*kind, data)));
    }
    if let Some(port) = link.port.filter(|_| link.master.is_some()) {
        messages.push(port_settings(index, port));
    }
    messages
}

/// Attributes that are put together before it is known whether a message is needed.
#[derive(Default)]
struct Attributes(Vec<(u16, Vec<u8>)>);

/// How the kernel makes the link-local address (`IFLA_INET6_ADDR_GEN_MODE`).
fn generation(index: u32, mode: u8) -> Message {
    set(index, 0, 0).nest(IFLA_AF_SPEC, |m| m.nest(u16::from(AF_INET6), |m| m.u8(IFLA_INET6_ADDR_GEN_MODE, mode)))
}

fn set(index: u32, flags: u32, change: u32) -> Message {
    Message::new(RTM_SETLINK, 0, &ifinfo(index, flags, change))
}

/// Brings a link up.
pub(crate) fn up(index: u32) -> Message {
    set(index, IFF_UP, IFF_UP)
}

/// Takes a link down.
pub(crate) fn down(index: u32) -> Message {
    set(index, 0, IFF_UP)
}

fn port_settings(index: u32, port: BridgePort) -> Message {
    Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |m| {
            m.u8(IFLA_BRPORT_MODE, u8::from(port.hairpin)).u8(IFLA_BRPORT_LEARNING, u8::from(port.learning))
        })
    })
}

/// Gives the link a further name. Alternative names are unique in a namespace.
pub(crate) fn add_altname(index: u32, altname: &str) -> Message {
    altname_message(RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL, index, altname)
}

/// Takes a further name away.
pub(crate) fn remove_altname(index: u32, altname: &str) -> Message {
    altname_message(RTM_DELLINKPROP, 0, index, altname)
}

fn altname_message(kind: u16, flags: u16, index: u32, altname: &str) -> Message {
    Message::new(kind, flags, &ifinfo(index, 0, 0)).nest(IFLA_PROP_LIST, |m| m.str(IFLA_ALT_IFNAME, altname))
}

/// Removes one link.
pub(crate) fn delete(index: u32) -> Message {
    Message::new(RTM_DELLINK, 0, &ifinfo(index, 0, 0))
}

/// Gives a link another name and the mark of ours, while it carries packets (Linux 6.2).
pub(crate) fn rename(index: u32, name: &IfName) -> Message {
    set(index, 0, 0).str(IFLA_IFNAME, name.as_str()).u32(IFLA_GROUP, MARK_GROUP)
}

/// Puts a link into a group.
pub(crate) fn set_group(index: u32, group: u32) -> Message {
    Message::new(RTM_SETLINK, 0, &ifinfo(index, 0, 0)).u32(IFLA_GROUP, group)
}

/// Removes every link of a group.
pub(crate) fn delete_group(group: u32) -> Message {
    Message::new(RTM_DELLINK, 0, &ifinfo(0, 0, 0)).u32(IFLA_GROUP, group)
}
