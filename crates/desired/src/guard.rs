//! What a plan may remove: nothing whose owner's kind has not been read.

use std::sync::Arc;

use ripstop_fabric::wiring;
use ripstop_netmodel::{
    Entry, GROUP_IDS, HOP_IDS, Key, NFT_POOLS_TABLE, NFT_TABLE, Ns, Object, RecordScope, Route, RouteTarget,
    TAKEN_MARK, link_of_table,
};
use ripstop_objects::ObjectKind;
use ripstop_tables::{Knowledge, PodRow, PodState, StoreKind, Tables, Withdrawn};

use crate::{host_ports, policy};

/// Whether an object that no part of the model wants may go.
///
/// # Errors
/// The sentence of the refusal: which kind of record is not known yet.
pub fn may_delete(tables: &Tables, key: &Key, entry: &Entry) -> Result<(), String> {
    if let Key::Record { scope: RecordScope::Cluster(kind), .. } = key {
        // A record of the store goes by a decision of its own, never because it is not wanted.
        return Err(format!("a record of kind {kind} is removed by name only"));
    }
    if tables.withdrawn == Withdrawn::Everything {
        return Ok(());
    }
    if key.is_of_services() {
        return may_delete_of_services(tables, key);
    }
    if key.is_of_policies() {
        let unread = |missing| format!("kept: {missing}, so nobody knows whether it is still wanted");
        return policy::unread(tables).map_or(Ok(()), |missing| Err(unread(missing)));
    }
    if let Some(Ns::Path(path)) = key.ns() {
        return may_delete_inside(tables, path, key, entry);
    }
    if is_of_a_pod(key, entry) {
        // Their files are the truth of this boot.
        return Ok(());
    }
    if let Some(why) = has_ports_of_another(tables, entry) {
        return Err(why);
    }
    if is_unknown_of_bgp(tables, key, entry) {
        return Err(
            "kept: peers of BGP have not sent what they know, so nobody knows whether it is still wanted".into()
        );
    }
    if matches!(key, Key::NftTable { name, .. } if name.as_str() == NFT_POOLS_TABLE) && !tables.knows_pools() {
        return Err("kept: AddressPools have not been read yet, so nobody knows whether it is still wanted".into());
    }
    let needed = needed_for(key);
    // Flannel's nodes are known by Kubernetes' own objects.
    let follows = needed.contains(&StoreKind::Nodes) && tables.taken_network().is_some();
    if follows && tables.cluster.knowledge(ObjectKind::Node) == Knowledge::Unknown {
        return Err("kept: Kubernetes' Nodes have not been read yet, so nobody knows whether it is still wanted".into());
    }
    match needed.iter().find(|kind| tables.knowledge(**kind) == Knowledge::Unknown) {
        None => Ok(()),
        Some(kind) => {
            Err(format!("kept: {} have not been read yet, so nobody knows whether it is still wanted", kind.as_str()))
        }
    }
}

/// The kinds of records that must have been read before an object that is no pod's, no Service's and no policy's may go.
fn needed_for(key: &Key) -> &'static [StoreKind] {
    match key {
        Key::Record { .. } | Key::Qdisc { .. } | Key::Sysctl { .. } | Key::LinkSysctl { .. } => &[],
        Key::Connection { .. } => &[],
        Key::Link { .. }
        | Key::NftTable { .. }
        | Key::ForwardJump { .. }
        | Key::Forwarder { .. }
        | Key::IpipProgram { .. } => &[StoreKind::Networks],
        Key::Address { .. } => &[StoreKind::Networks, StoreKind::Claims],
        Key::IpvsService { .. }
        | Key::IpvsDestination { .. }
        | Key::NftPart { .. }
        | Key::NftElement(_)
        | Key::NftValues { .. }
        | Key::ServiceFlows
        | Key::Iptables(_)
        | Key::FrontendFlows { .. }
        | Key::Neighbour { .. }
        | Key::Fdb { .. }
        | Key::ForwarderPeer { .. }
        | Key::IpipPeer { .. }
        | Key::Nexthop { .. }
        | Key::NexthopGroup { .. }
        | Key::Route { .. } => &[StoreKind::Networks, StoreKind::Nodes, StoreKind::Claims],
    }
}

/// Why a bridge that another network left stays.
fn has_ports_of_another(tables: &Tables, entry: &Entry) -> Option<String> {
    let Object::Link(link) = &entry.object else { return None };
    link.altname.as_deref().filter(|name| name.starts_with(TAKEN_MARK))?;
    let there = tables.facts.links.get(&link.name).filter(|there| there.ports > 0)?;
    Some(format!("kept: {} links are ports of {}, which another network left", there.ports, link.name))
}

/// Whether BGP brought it, and has still to say whether it does.
fn is_unknown_of_bgp(tables: &Tables, key: &Key, entry: &Entry) -> bool {
    let id = match (key, &entry.object) {
        (Key::Nexthop { id } | Key::NexthopGroup { id }, _) => *id,
        (_, Object::Route(Route { target: RouteTarget::Nexthop(id), .. })) => *id,
        _ => return false,
    };
    !tables.cluster.bgp.known && (HOP_IDS.contains(&id) || GROUP_IDS.contains(&id))
}

/// What lies in a pod's namespace is the pod's, from ADD to DEL, whatever becomes of its network meanwhile.
fn may_delete_inside(tables: &Tables, path: &Arc<str>, key: &Key, entry: &Entry) -> Result<(), String> {
    let stands = |row: &&Arc<PodRow>| row.netns == *path && row.state != PodState::Gone && is_on(row, key, entry);
    match tables.pods.values().find(stands) {
        Some(row) if !goes_with_a_migration(tables, row, entry) => {
            Err(format!("kept: {} stands, though its network is not known", row.owner()))
        }
        _ => Ok(()),
    }
}

/// Parts, elements and rules of iptables go once Services and endpoints are known, or none are served; tables whenever they may.
fn may_delete_of_services(tables: &Tables, key: &Key) -> Result<(), String> {
    if let Some(missing) = crate::services::missing(tables) {
        return Err(format!("kept: {missing}"));
    }
    let served = tables.serves();
    let kinds = [ObjectKind::Service, ObjectKind::EndpointSlice];
    let unknown = kinds.into_iter().find(|kind| tables.cluster.knowledge(*kind) == Knowledge::Unknown);
    match (unknown, key) {
        (
            Some(kind),
            Key::NftPart { .. }
            | Key::NftElement(_)
            | Key::Iptables(_)
            | Key::IpvsService { .. }
            | Key::IpvsDestination { .. }
            | Key::Route { .. },
        ) if served => Err(format!("kept: {kind}s have not been read yet, so nobody knows whether it is still wanted")),
        _ => Ok(()),
    }
}

/// Whether an object of a pod's namespace is, hangs on or leads to this interface of the pod.
fn is_on(row: &PodRow, key: &Key, entry: &Entry) -> bool {
    match (key.parent().as_ref().unwrap_or(key), &entry.object) {
        (Key::Link { name, .. }, _) => *name == row.attachment.ifname,
        (_, Object::Route(route)) => match &route.target {
            RouteTarget::Via { link, .. } | RouteTarget::Link(link) => *link == row.attachment.ifname,
            RouteTarget::Nexthop(_) | RouteTarget::Unreachable | RouteTarget::Local => false,
        },
        _ => false,
    }
}

/// Whether this is a route that only holds what a pod sends short, and its network is there to say that it need not be.
fn goes_with_a_migration(tables: &Tables, row: &PodRow, entry: &Entry) -> bool {
    let holds_short = matches!(&entry.object, Object::Route(Route { target: RouteTarget::Link(_), mtu: Some(_), .. }));
    holds_short && tables.networks.contains_key(&row.network)
}

/// Whether an object of the agent's own namespace is a pod's: it is, hangs on or leads to the host's end of a pod's
/// pair, or shapes what comes from there.
fn is_of_a_pod(key: &Key, entry: &Entry) -> bool {
    let is_pods = |link: &str| link.starts_with(wiring::POD_LINK_PREFIX) || link.starts_with(wiring::SHAPER_PREFIX);
    let of_link = match key.parent().as_ref().unwrap_or(key) {
        Key::Link { name, .. } => is_pods(name.as_str()),
        _ => false,
    };
    let by_object = match (key, &entry.object) {
        (_, Object::Route(route)) => matches!(&route.target, RouteTarget::Link(link) if is_pods(link.as_str())),
        (Key::NftElement(element), _) => {
            element.table.as_str() == NFT_TABLE && host_ports::is_one_of(element.set.as_str())
        }
        (Key::NftTable { family, name }, _) => {
            link_of_table(*family, name.as_str()).is_some_and(|link| is_pods(link.as_str()))
        }
        _ => false,
    };
    of_link || by_object
}
