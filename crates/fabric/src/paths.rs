//! How this node reaches a peer. Flannel's DirectRouting and Calico's CrossSubnet are the backend `auto`, which in addition has routers that
//! know where pods are do without a tunnel.

use std::net::{IpAddr, Ipv6Addr};

use ripstop_objects::{BackendKind, Encapsulation, Network, NodeRecord};
use ripstop_tables::Tables;
use ripstop_types::{Family, IfName, Mac, NodeName, Prefix};

use crate::host::{self, Uplink};
use crate::{forwarder, hops, ipip, migration, probing, wiring};

/// What every link of IPv6 carries at least, in bytes (RFC 8200, section 5).
const SHORTEST_V6: u32 = 1280;

/// The way to a peer's pods of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The peer.
    pub peer: NodeName,
    /// Family of the pods' addresses.
    pub family: Family,
    /// What is put around a packet.
    pub encapsulation: Encapsulation,
    /// The link by which it leaves.
    pub link: IfName,
    /// The next hop on that link.
    pub gateway: IpAddr,
    /// The tunnel's other end, where there is a tunnel.
    pub tunnel: Option<TunnelEnd>,
    /// BGP brought it: there may be more next hops than this one, and others for each range ([`hops::to`]).
    pub by_bgp: bool,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Its outer address.
    pub outer: IpAddr,
    /// Hardware address of its inner frames, where there are frames.
    pub mac: Option<Mac>,
}

impl Path {
    /// The peer's address on the underlay.
    pub fn underlay(&self) -> IpAddr {
        self.tunnel.map_or(self.gateway, |end| end.outer)
    }
}

/// Why there is no path: a sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// The peer has still to say something. One that joins says it within moments.
    #[error("{0}")]
    Pending(String),
    /// It cannot be reached as things are; the sentence says what to do.
    #[error("{0}")]
    Refused(String),
}

/// The path to a peer's pods of a network and family.
///
/// # Errors
/// Where both ends know no common way, or none yet; a refusal names the peer and the remedy.
pub fn path(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Result<Path, NoPath> {
    let by = |kind| by_backend(tables, network, kind, peer, family);
    let wanted = by(network.spec.backend.kind);
    let Some(migration) = &network.migration else { return wanted };
    if migration::may_move(tables, network, peer, family) {
        return wanted.or_else(|refusal| by(migration.from).map_err(|_| refusal));
    }
    let before = by(migration.from);
    let now = migration::sent_by(tables, network, &peer.name, family);
    let stays = |path: &Result<Path, NoPath>| path.as_ref().is_ok_and(|path| Some(path.encapsulation) == now);
    if stays(&wanted) && !stays(&before) { wanted } else { before.or(wanted) }
}

/// The path that a backend gives, whatever the network's migration says.
pub(crate) fn by_backend(
    tables: &Tables,
    network: &Network,
    kind: BackendKind,
    peer: &NodeRecord,
    family: Family,
) -> Result<Path, NoPath> {
    match kind {
        BackendKind::HostGw => plain(tables, peer, family),
        BackendKind::Vxlan => vxlan(tables, network, peer, family),
        BackendKind::Udp => udp(tables, network, peer, family),
        BackendKind::Ipip => by_ipip(tables, network, peer, family),
        BackendKind::Bgp => routed(tables, network, peer, family),
        BackendKind::Auto if is_told_of(tables, network, peer, family) => {
            routed(tables, network, peer, family).or_else(|_| vxlan(tables, network, peer, family))
        }
        BackendKind::Auto => plain_or(tables, peer, family, vxlan(tables, network, peer, family)),
        BackendKind::IpipCrossSubnet => plain_or(tables, peer, family, by_ipip(tables, network, peer, family)),
    }
}

/// The plain path where there is one that is not doubted more than the tunnel.
fn plain_or(tables: &Tables, peer: &NodeRecord, family: Family, tunnel: Result<Path, NoPath>) -> Result<Path, NoPath> {
    match (plain(tables, peer, family), tunnel) {
        (Ok(plain), Ok(tunnel)) if is_doubted_more(tables, peer, &plain, &tunnel) => Ok(tunnel),
        (Ok(plain), _) => Ok(plain),
        (Err(_), tunnel) => tunnel,
    }
}

/// Whether it is less certain of one path than of another that packets arrive.
fn is_doubted_more(tables: &Tables, peer: &NodeRecord, one: &Path, other: &Path) -> bool {
    doubt(tables, peer, one.underlay()) > doubt(tables, peer, other.underlay())
}

/// The longest packet of a pod that this path carries, in bytes, where that is less than its device takes: what its link, or
/// the way behind it, leaves after the encapsulation.
pub fn mtu(tables: &Tables, network: &Network, path: &Path) -> Option<u32> {
    let to = path.underlay();
    let link = probing::link_mtu(tables, to)?;
    let whole = tables.reaches.get(&to).and_then(|reach| reach.mtu).map_or(link, |found| found.min(link));
    let inner = whole.saturating_sub(path.encapsulation.overhead(Family::of(to)));
    let device = match path.encapsulation {
        Encapsulation::None => link,
        Encapsulation::Vxlan | Encapsulation::Udp | Encapsulation::Ipip => {
            host::tunnel_mtu(tables, network, path.encapsulation)?
        }
    };
    let least = if path.family == Family::V6 { SHORTEST_V6 } else { 0 };
    Some(inner.max(least)).filter(|inner| *inner < device)
}

/// Whether a path carries every packet that its family demands.
pub fn carries_its_family(tables: &Tables, path: &Path) -> bool {
    let to = path.underlay();
    let overhead = path.encapsulation.overhead(Family::of(to));
    let found = tables.reaches.get(&to).and_then(|reach| reach.mtu);
    path.family == Family::V4 || found.is_none_or(|found| found >= SHORTEST_V6 + overhead)
}

/// The encapsulation that a backend uses at most.
pub(crate) fn most_by(kind: BackendKind) -> Encapsulation {
    match kind {
        BackendKind::HostGw | BackendKind::Bgp => Encapsulation::None,
        BackendKind::Vxlan | BackendKind::Auto => Encapsulation::Vxlan,
        BackendKind::Udp => Encapsulation::Udp,
        BackendKind::Ipip | BackendKind::IpipCrossSubnet => Encapsulation::Ipip,
    }
}

/// The VXLAN device of a network, where one of its backends may use one.
pub fn vxlan_link(network: &Network) -> Option<IfName> {
    // "ript" and at most eight digits fit a name.
    let link = || format!("ript{}", network.spec.backend.vni).parse().ok();
    network.backends().any(BackendKind::may_vxlan).then(link)?
}

/// The tunnel devices of a network, with what packets that leave by them have around them. In a migration there may be two.
pub fn tunnel_links(network: &Network) -> impl Iterator<Item = (Encapsulation, IfName)> {
    let vxlan = vxlan_link(network).map(|link| (Encapsulation::Vxlan, link));
    let udp = forwarder::device(network).map(|link| (Encapsulation::Udp, link));
    let ipip = ipip::device(network).map(|link| (Encapsulation::Ipip, link));
    vxlan.into_iter().chain(udp).chain(ipip)
}

/// The hardware address of this node's tunnel device of a network: of its name, so the same after a restart.
pub fn tunnel_mac(node: &NodeName, network: &Network) -> Mac {
    crate::hash::mac(&["vtep", node.as_str(), &network.spec.backend.vni.to_string()])
}

/// The hardware address of this node's tunnel device: that by which Flannel's nodes know it, where its network was theirs.
pub fn own_tunnel_mac(tables: &Tables, network: &Network) -> Mac {
    let known = tables.own_flannel().filter(|flannel| flannel.vni == network.spec.backend.vni);
    let known = known.filter(|_| tables.taken_network() == Some(&network.name));
    known.map_or_else(|| tunnel_mac(&tables.node, network), |flannel| flannel.mac)
}

fn plain(tables: &Tables, peer: &NodeRecord, family: Family) -> Result<Path, NoPath> {
    let own = host::address(tables, family).ok_or_else(|| {
        NoPath::Refused(format!("this node has no {family} address on its uplink, which host-gw needs"))
    })?;
    let theirs = peer.address(family).ok_or_else(|| {
        NoPath::Refused(format!("{} has published no {family} address, which host-gw needs", peer.name))
    })?;
    if !peer.receives_plain() {
        return Err(NoPath::Refused(format!("{} does not take packets without encapsulation", peer.name)));
    }
    let Some((uplink, gateway)) = shared_subnet(tables, peer, family) else {
        return Err(NoPath::Refused(format!(
            "{} at {} is not in this node's subnet {}, so a router that does not know the pods is between: use the backend auto or vxlan",
            peer.name, theirs.ip, own.prefix
        )));
    };
    Ok(Path {
        peer: peer.name.clone(),
        family,
        encapsulation: Encapsulation::None,
        link: uplink.link.clone(),
        gateway,
        tunnel: None,
        by_bgp: false,
    })
}

/// Whether BGP leads to each range of a peer that shares no subnet with this node and takes packets as they are. A route around more than
/// ranges of nodes, such as the default one, says nothing of pods.
fn is_told_of(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> bool {
    let leads_there = |range: Prefix| {
        let whole = network.spec.whole(family).find(|whole| whole.covers(&range));
        let told = tables.cluster.bgp.longest(range).map(|(prefix, _)| prefix);
        whole.zip(told).is_some_and(|(whole, told)| whole.covers(&told) && whole != told)
            && !hops::to(tables, range).is_empty()
    };
    let mut ranges = tables.ranges(&peer.name, &network.name, family).peekable();
    let is_far = || peer.receives_plain() && shared_subnet(tables, peer, family).is_none();
    ranges.peek().is_some() && is_far() && ranges.all(leads_there)
}

/// By the ways that BGP brought: of each of the peer's ranges its own, of which status shows one.
fn routed(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Result<Path, NoPath> {
    let bgp = &tables.cluster.bgp;
    let told = |range: &Prefix| bgp.next_hops(*range).first().map(|told| (*range, told));
    let Some((range, told)) = tables.ranges(&peer.name, &network.name, family).find_map(|range| told(&range)) else {
        let why =
            format!("BGP has brought no {family} route to {} yet; `ripstop bgp peers` shows its sessions", peer.name);
        return Err(NoPath::Pending(why));
    };
    let Some(hop) = hops::to(tables, range).into_iter().next() else {
        return Err(NoPath::Refused(format!(
            "BGP leads to {} by {told}, which is in no subnet of this node's uplinks, nor does BGP lead there: whoever tells the route must name itself as its next hop (`nextHopMode: Self`)",
            peer.name
        )));
    };
    let (link, gateway) = (hop.link, hop.gateway);
    let encapsulation = Encapsulation::None;
    Ok(Path { peer: peer.name.clone(), family, encapsulation, link, gateway, tunnel: None, by_bgp: true })
}

/// This node's uplink and the peer's address in a subnet that both are in. Of several what both nodes prefer most, so that
/// both choose the same one, among those that answer.
fn shared_subnet<'a>(tables: &'a Tables, peer: &NodeRecord, family: Family) -> Option<(Uplink<'a>, IpAddr)> {
    let theirs = peer.addresses.iter().map(|address| address.ip).filter(|ip| Family::of(*ip) == family);
    let uplinks = host::uplinks(tables, family);
    let pairs = theirs.enumerate().flat_map(|(n, ip)| {
        let own = uplinks.iter().enumerate().find(|(_, uplink)| uplink.has_neighbour(ip));
        own.map(|(m, uplink)| ((doubt(tables, peer, ip), n + m, uplink.address.prefix), *uplink, ip))
    });
    pairs.min_by(|one, other| one.0.cmp(&other.0)).map(|(_, uplink, ip)| (uplink, ip))
}

/// The address to which tunnel packets for a peer go, among those that answer: one in a subnet of this node's, otherwise the
/// one it names first.
fn outer_address(tables: &Tables, peer: &NodeRecord, first: IpAddr) -> IpAddr {
    let family = Family::of(first);
    let further = peer.addresses.iter().map(|address| address.ip).filter(|ip| Family::of(*ip) == family);
    let all = [first].into_iter().chain(further);
    all.min_by_key(|ip| (doubt(tables, peer, *ip), host::uplink_to(tables, *ip).is_none())).unwrap_or(first)
}

/// How doubtful it is that packets to a peer's address arrive. A peer answers probes of addresses only that it knows to be a
/// node's, so that tunnel packets from there are taken: an address beside its first one must have answered.
fn doubt(tables: &Tables, peer: &NodeRecord, ip: IpAddr) -> u8 {
    let is_first = peer.address(Family::of(ip)).is_none_or(|first| first.ip == ip);
    let is_asked = tables.config.probing.mtu && peer.probe_port.is_some();
    match tables.reaches.get(&ip) {
        Some(reach) if reach.answers => 0,
        None if is_first || !is_asked => 1,
        None => 2,
        Some(_) => 3,
    }
}

/// The link-local address that goes with a hardware address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

fn vxlan(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Result<Path, NoPath> {
    let backend = &network.spec.backend;
    let outer_family = host::outer_family(tables)
        .ok_or_else(|| NoPath::Refused("this node has no address on its uplink, which vxlan needs".into()))?;
    let theirs = peer.vxlan(backend.vni).ok_or_else(|| {
        NoPath::Pending(format!("{} has not published that it receives vxlan with VNI {} yet", peer.name, backend.vni))
    })?;
    if theirs.port != backend.port {
        return Err(NoPath::Refused(format!(
            "{} receives vxlan on port {}, this node sends to {}: the network's backend.port differs",
            peer.name, theirs.port, backend.port
        )));
    }
    let outer = theirs.outer(outer_family).ok_or_else(|| {
        NoPath::Refused(format!("{} has no {outer_family} address for outer packets, which this node sends", peer.name))
    })?;
    let inner = theirs
        .inner(family)
        .or_else(|| wiring::own_ip(network, family, tables.ranges(&peer.name, &network.name, family)))
        .ok_or_else(|| {
            NoPath::Pending(format!("{} owns no {family} range of network {} yet", peer.name, network.name))
        })?;
    let gateway = match family {
        Family::V4 => inner,
        // The kernel takes no IPv6 gateway on a link while the route to it leads by another one, as it does where a peer
        // is moved (`ip6_route_check_nh_onlink`).
        Family::V6 => IpAddr::V6(link_local(theirs.mac)),
    };
    let link = vxlan_link(network).ok_or_else(|| NoPath::Refused("the network has no tunnel".into()))?;
    Ok(Path {
        peer: peer.name.clone(),
        family,
        encapsulation: Encapsulation::Vxlan,
        link,
        gateway,
        tunnel: Some(TunnelEnd { outer: outer_address(tables, peer, outer), mac: Some(theirs.mac) }),
        by_bgp: false,
    })
}

fn udp(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Result<Path, NoPath> {
    let port = network.spec.backend.udp_port;
    let outer_family = host::outer_family(tables)
        .ok_or_else(|| NoPath::Refused("this node has no address on its uplink, which udp needs".into()))?;
    let theirs = peer.udp().ok_or_else(|| {
        NoPath::Pending(if peer.forwarder {
            format!("{} has not published that it receives udp yet", peer.name)
        } else {
            format!("no forwarder runs on {}, so it does not receive udp: {}", peer.name, forwarder::REMEDY)
        })
    })?;
    if theirs.port != port {
        return Err(NoPath::Refused(format!(
            "{} receives udp on port {}, this node sends to {port}: the network's backend.udpPort differs",
            peer.name, theirs.port
        )));
    }
    let outer = theirs.outer(outer_family).ok_or_else(|| {
        NoPath::Refused(format!("{} has no {outer_family} address for outer packets, which this node sends", peer.name))
    })?;
    // The device carries packets without frames, so a gateway only names the peer; it is of the same kind as in a tunnel
    // with frames, which it may take the place of.
    let gateway = match family {
        Family::V4 => {
            wiring::own_ip(network, family, tables.ranges(&peer.name, &network.name, family)).ok_or_else(|| {
                NoPath::Pending(format!("{} owns no {family} range of network {} yet", peer.name, network.name))
            })?
        }
        Family::V6 => IpAddr::V6(link_local(crate::hash::mac(&["udp", peer.name.as_str()]))),
    };
    let link = forwarder::device(network).ok_or_else(|| NoPath::Refused("the network has no tunnel".into()))?;
    Ok(Path {
        peer: peer.name.clone(),
        family,
        encapsulation: Encapsulation::Udp,
        link,
        gateway,
        tunnel: Some(TunnelEnd { outer, mac: None }),
        by_bgp: false,
    })
}

fn by_ipip(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Result<Path, NoPath> {
    if family == Family::V6 {
        return plain(tables, peer, family).map_err(|why| match why {
            NoPath::Refused(why) => {
                NoPath::Refused(format!("ipip carries IPv4 alone, and IPv6 goes as by host-gw: {why}"))
            }
            pending => pending,
        });
    }
    if ipip::local(tables).is_none() {
        return Err(NoPath::Refused("this node has no IPv4 address on its uplink, which ipip needs".into()));
    }
    let outer = peer
        .ipip()
        .ok_or_else(|| NoPath::Pending(format!("{} has not published that it receives ipip yet", peer.name)))?;
    let mac = (ipip::carrier(tables) == ipip::Carrier::Programs).then(|| ipip::peer_mac(outer));
    let link = ipip::device(network).ok_or_else(|| NoPath::Refused("the network has no tunnel".into()))?;
    Ok(Path {
        peer: peer.name.clone(),
        family,
        encapsulation: Encapsulation::Ipip,
        link,
        gateway: outer.into(),
        tunnel: Some(TunnelEnd { outer: outer.into(), mac }),
        by_bgp: false,
    })
}
