//! The rows that `ripstop get` prints, and the result of an ADD.

use std::net::IpAddr;

use ripstop_cni_spec::result::{Interface, IpConfig, Route as ResultRoute};
use ripstop_cni_spec::wire::Response;
use ripstop_cni_spec::{Cidr, TypedCall};
use ripstop_fabric::paths::{NoPath, Path};
use ripstop_fabric::{forwarder, host, paths, wiring};
use ripstop_ipam::RangeUsage;
use ripstop_ipam::ranges::{ClaimKey, Life};
use ripstop_netmodel::{Key, Ns, Object, Resource, RouteTarget};
use ripstop_objects::{BackendKind, Encapsulation, FLANNEL_MACHINE, Network, Receive, Wiring};
use ripstop_tables::{PodRow, PodState};
use ripstop_types::{Family, Prefix};
use serde::Serialize;

use super::Core;

/// A node.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct NodeView {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub ranges: Vec<Prefix>,
    pub receives: Vec<String>,
    /// Whether a forwarder of the backend `udp` runs on it.
    pub forwarder: bool,
    pub ready: bool,
    pub reason: Option<String>,
    pub version: String,
}

/// A pod of this node.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PodView {
    pub namespace: Option<String>,
    pub name: String,
    pub node: String,
    pub ips: Vec<IpAddr>,
    pub mac: String,
    pub mtu: u32,
    pub interface: String,
    pub netns: String,
    pub network: String,
    pub container: String,
    #[serde(rename = "hostInterface")]
    pub host_interface: String,
    pub state: String,
}

/// A network.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct NetworkView {
    pub name: String,
    pub ranges: Vec<Prefix>,
    pub wiring: String,
    pub backend: String,
    #[serde(rename = "rangeMode")]
    pub range_mode: String,
    pub mtu: Option<u32>,
    pub masquerade: bool,
    pub revision: u64,
}

/// A node's claim on a range.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct LeaseView {
    pub range: Prefix,
    pub network: String,
    pub node: String,
    pub holder: String,
    /// `null` while it is not known.
    pub alive: Option<bool>,
    /// tentative, held; borrowed: one address of another node's block.
    pub state: &'static str,
    /// For whom an address was borrowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// The way to a peer.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PathView {
    pub node: String,
    pub peer: String,
    pub network: String,
    pub family: String,
    pub backend: Option<String>,
    pub device: Option<String>,
    pub gateway: Option<IpAddr>,
    /// The longest packet of a pod that it carries, in bytes.
    pub mtu: Option<u32>,
    /// realised, pending, `pending: why`, `failed: why`, or `refused: why`.
    pub state: String,
}

/// A route of ours.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct RouteView {
    pub node: String,
    pub dst: Prefix,
    pub via: Option<IpAddr>,
    pub dev: Option<String>,
    pub owner: Option<String>,
    pub kind: String,
}

/// A range of this node.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct IpamView {
    pub network: String,
    pub range: Prefix,
    pub used: bool,
    pub phase: String,
    pub leased: u64,
    pub usable: u64,
    /// Addresses of a block that other nodes use or may take.
    pub lent: u64,
    pub free: u64,
}

impl Core {
    /// Every node, this one too.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        let status = self.status();
        self.tables
            .nodes
            .values()
            .map(|row| {
                let node = &row.value;
                let own = node.name == self.tables.node;
                let life = self.liveness.life(&node.name);
                let (ready, reason) = match life {
                    _ if own => (status.ready, status.reasons.first().cloned()),
                    Life::Stale(_) if node.identity.machine_id == FLANNEL_MACHINE => (true, None),
                    Life::Stale(_) => (false, Some(life.to_string())),
                    Life::Fresh(_) | Life::Unknown => (true, None),
                };
                NodeView {
                    name: node.name.to_string(),
                    addresses: node.addresses.iter().map(|address| address.ip).collect(),
                    ranges: self
                        .tables
                        .ranges_of
                        .get(&node.name)
                        .into_iter()
                        .flatten()
                        .map(|(_, range)| *range)
                        .collect(),
                    receives: node.receives.iter().map(receive).collect(),
                    forwarder: node.forwarder,
                    ready,
                    reason,
                    version: node.version.clone(),
                }
            })
            .collect()
    }

    /// The pods of this node.
    #[must_use]
    pub fn pods(&self) -> Vec<PodView> {
        self.tables
            .pods
            .values()
            .map(|row| PodView {
                namespace: row.pod.as_ref().map(|pod| pod.namespace.to_string()),
                name: row.pod.as_ref().map_or_else(|| row.attachment.container.to_string(), |pod| pod.name.to_string()),
                node: self.tables.node.to_string(),
                ips: row.ips.clone(),
                mac: row.mac.to_string(),
                mtu: self.mtu_of(row),
                interface: row.attachment.ifname.to_string(),
                netns: row.netns.to_string(),
                network: row.network.to_string(),
                container: row.attachment.container.to_string(),
                host_interface: row.host_link.to_string(),
                state: match row.state {
                    PodState::Adding => "adding",
                    PodState::Ready => "ready",
                    PodState::Gone => "gone",
                }
                .into(),
            })
            .collect()
    }

    /// The longest packet that a pod sends, in bytes.
    fn mtu_of(&self, row: &PodRow) -> u32 {
        let network = self.tables.networks.get(&row.network).filter(|_| !row.fixed_mtu);
        network.and_then(|network| host::pod_mtu(&self.tables, &network.value)).unwrap_or(row.mtu)
    }

    /// The networks.
    #[must_use]
    pub fn networks(&self) -> Vec<NetworkView> {
        self.tables
            .networks
            .values()
            .map(|row| NetworkView {
                name: row.value.name.to_string(),
                ranges: Family::BOTH.into_iter().flat_map(|family| row.value.spec.whole(family)).collect(),
                wiring: row.value.spec.wiring.as_str().into(),
                backend: row.value.spec.backend.kind.as_str().into(),
                range_mode: row.value.spec.range_mode.as_str().into(),
                mtu: host::pod_mtu(&self.tables, &row.value),
                masquerade: row.value.spec.masquerade.enabled,
                revision: row.revision.0,
            })
            .collect()
    }

    /// How this node reaches its peers.
    #[must_use]
    pub fn paths(&self) -> Vec<PathView> {
        let mut views = Vec::new();
        for network in self.tables.networks.values().map(|row| &row.value) {
            for peer in self.tables.peers().map(|row| &row.value) {
                for family in network.spec.families() {
                    let path = paths::path(&self.tables, network, peer, family);
                    let state = match &path {
                        Ok(path) => self.path_state(network, path),
                        Err(NoPath::Pending(why)) => format!("pending: {why}"),
                        Err(NoPath::Refused(why)) => format!("refused: {why}"),
                    };
                    let path = path.ok();
                    let shorter = path.as_ref().and_then(|path| paths::mtu(&self.tables, network, path));
                    let whole = host::pod_mtu(&self.tables, network);
                    views.push(PathView {
                        node: self.tables.node.to_string(),
                        peer: peer.name.to_string(),
                        network: network.name.to_string(),
                        family: family.digit().to_owned(),
                        backend: path.as_ref().map(|path| match path.by_bgp {
                            true => BackendKind::Bgp.as_str().to_owned(),
                            false => path.encapsulation.to_string(),
                        }),
                        device: path.as_ref().map(|path| path.link.to_string()),
                        gateway: path.as_ref().map(|path| path.gateway),
                        mtu: whole.map(|whole| shorter.map_or(whole, |shorter| shorter.min(whole))),
                        state,
                    });
                }
            }
        }
        views
    }

    fn path_state(&self, network: &Network, path: &Path) -> String {
        let ranges: Vec<Prefix> = self.tables.ranges(&path.peer, &network.name, path.family).collect();
        if ranges.is_empty() {
            return "pending: the peer owns no range yet".into();
        }
        let mut keys = Vec::new();
        if path.encapsulation == Encapsulation::Udp {
            if !self.tables.facts.forwarder {
                return format!("pending: {}", no_forwarder());
            }
            let link = path.link.clone();
            keys.push(Key::Link { ns: Ns::Host, name: link.clone() });
            keys.push(Key::Forwarder { link: link.clone() });
            let known = self.tables.nodes.get(&path.peer);
            let known = known.and_then(|row| forwarder::peer(&self.tables, network, &row.value));
            keys.extend(known.map(|known| Key::ForwarderPeer { link, peer: known.name.into() }));
        }
        keys.extend(ranges.into_iter().map(|range| Key::main_route(Ns::Host, range)));
        for key in keys {
            if let Some(failure) = self.failed.get(&key) {
                return format!("failed: {}", failure.why);
            }
            let is_there = match (self.desired.model().get(&key), self.applied.get(&key)) {
                (Some(wanted), Some(is)) => wanted.object.satisfied_by(&is.object),
                _ => false,
            };
            if !is_there {
                return "pending".into();
            }
        }
        "realised".into()
    }

    /// Where a nexthop object leads; of a group its first member.
    fn gateway_of(&self, id: u32) -> Option<(IpAddr, String)> {
        match &self.applied.get(&Key::of_nexthop(id))?.object {
            Object::Nexthop(nexthop) => Some((nexthop.gateway, nexthop.link.to_string())),
            Object::NexthopGroup(group) => group.members.iter().find_map(|id| self.gateway_of(*id)),
            _ => None,
        }
    }

    /// The routes of ours in the kernel.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteView> {
        let routes = self.applied.iter().filter_map(|(key, entry)| match &entry.object {
            Object::Route(route) if route.ns == Ns::Host => Some((key, entry, route)),
            _ => None,
        });
        routes
            .map(|(key, entry, route)| {
                let (via, dev) = match &route.target {
                    RouteTarget::Nexthop(id) => self.gateway_of(*id).unzip(),
                    RouteTarget::Via { link, gateway, .. } => (Some(*gateway), Some(link.to_string())),
                    RouteTarget::Link(link) => (None, Some(link.to_string())),
                    RouteTarget::Unreachable | RouteTarget::Local => (None, None),
                };
                let owner = entry.owner.clone().or_else(|| self.desired.model().get(key)?.owner.clone());
                RouteView {
                    node: self.tables.node.to_string(),
                    dst: route.dst,
                    via,
                    dev,
                    owner: owner.map(|owner| owner.to_string()),
                    kind: match route.target {
                        RouteTarget::Unreachable => "unreachable",
                        RouteTarget::Local => "local",
                        _ => "unicast",
                    }
                    .into(),
                }
            })
            .collect()
    }

    /// The ranges of this node and how full they are.
    #[must_use]
    pub fn ipam(&self) -> Vec<IpamView> {
        let narrow = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        let row = |key: &ClaimKey, used: bool, phase: &str| {
            let usage = self.book.usage().find(|usage| usage.range == key.range);
            let count = |of: fn(&RangeUsage) -> u128| usage.as_ref().map_or(0, |usage| narrow(of(usage)));
            let (leased, usable, lent) =
                (count(|usage| usage.leased), count(|usage| usage.usable), count(|usage| usage.lent));
            IpamView {
                network: key.network.to_string(),
                range: key.range,
                used,
                phase: phase.into(),
                leased,
                usable,
                lent,
                free: usable.saturating_sub(leased).saturating_sub(lent),
            }
        };
        let owned = self.engine.owned().into_iter().map(|owned| row(&owned.key, owned.used, owned.phase));
        let borrowed = self.lending.borrowed().map(|key| row(key, true, "borrowed"));
        owned.chain(borrowed).collect()
    }

    /// Whether a route in a pod's namespace leaves by this interface, and not by one that was there before.
    fn has_route(&self, row: &PodRow, dst: Prefix) -> bool {
        let entry = self.desired.model().get(&Key::main_route(row.ns(), dst));
        matches!(entry.map(|entry| &entry.object), Some(Object::Route(route))
            if matches!(&route.target, RouteTarget::Via { link, .. } if *link == row.attachment.ifname))
    }

    /// The answer to an ADD: what earlier plugins made, then this interface.
    pub(super) fn add_result(&self, typed: &TypedCall, row: &PodRow) -> Response {
        let mut result = typed.conf.prev_result.clone().unwrap_or_default();
        result.interfaces.push(Interface::on_host(&row.host_link, row.host_mac, row.mtu));
        let index = u32::try_from(result.interfaces.len()).unwrap_or(u32::MAX);
        result.interfaces.push(Interface::in_pod(&row.attachment.ifname, row.mac, row.mtu, &row.netns));
        let ranges = self.tables.own_ranges.get(&row.network);
        for ip in &row.ips {
            let range = ranges.and_then(|ranges| ranges.iter().find(|range| range.contains(*ip)));
            let (len, gateway) = match row.wiring {
                Wiring::Routed => (Family::of(*ip).bits(), Some(wiring::router(Family::of(*ip)))),
                Wiring::Bridge => (range.map_or(Family::of(*ip).bits(), Prefix::len), range.and_then(wiring::node_ip)),
            };
            if let Some(address) = Cidr::new(*ip, len) {
                result.ips.push(IpConfig { address, gateway, interface: Some(index) });
            }
            let family = Family::of(*ip);
            let networks = self.tables.networks.values().flat_map(|network| network.value.spec.whole(family));
            for to in [Prefix::default_route(family)].into_iter().chain(networks).filter(|to| self.has_route(row, *to))
            {
                result.routes.extend(Cidr::new(to.addr(), to.len()).map(|dst| ResultRoute::new(dst, gateway)));
            }
        }
        let dns = typed.conf.dns();
        if !dns.is_empty() {
            result.dns = dns;
        }
        Response::with_result(result.to_raw(typed.conf.version))
    }
}

/// What a node says whose network uses the backend `udp`, and that has no forwarder.
pub(super) fn no_forwarder() -> String {
    format!("no forwarder runs on this node, so nothing passes by udp: {}", forwarder::REMEDY)
}

fn receive(receive: &Receive) -> String {
    match receive {
        Receive::Plain => "host-gw".into(),
        Receive::Vxlan(vxlan) => format!("vxlan/{}/{}", vxlan.vni, vxlan.port),
        Receive::Udp(udp) => format!("udp/{}", udp.port),
        Receive::Ipip(_) => "ipip".into(),
    }
}
