//! Whether labels meet a selector, and a packet a rule.

use std::net::IpAddr;

use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy, Operator, Peer, PolicyRule, PortMatch, Selector};
use ripstop_objects::{KubePod, ObjectLabels};

use super::world::{Packet, Traffic, World};

/// Whether labels are what a selector asks for.
pub(super) fn meets(selector: &Selector, labels: &ObjectLabels) -> bool {
    selector.requirements().iter().all(|wanted| {
        let value = labels.get(&wanted.key);
        match &wanted.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    })
}

/// Whether a NetworkPolicy is about a pod.
pub(super) fn is_subject(policy: &NetworkPolicy, pod: &KubePod) -> bool {
    policy.name.namespace == pod.name.namespace && meets(&policy.subject, &pod.labels)
}

/// Whether a ClusterNetworkPolicy is about a pod.
pub(super) fn is_cluster_subject(world: &World, policy: &ClusterNetworkPolicy, pod: &KubePod) -> bool {
    is_in(world, &policy.namespaces, pod) && meets(&policy.pods, &pod.labels)
}

fn is_in(world: &World, namespaces: &Selector, pod: &KubePod) -> bool {
    world.namespace(&pod.name.namespace).is_some_and(|namespace| meets(namespaces, &namespace.labels))
}

/// Whether a rule is about a packet whose other end is there. `namespace` is the policy's own.
pub(super) fn matches(
    world: &World,
    rule: &PolicyRule,
    namespace: Option<&str>,
    other: IpAddr,
    packet: &Packet,
) -> bool {
    let is_peer = |peer: &Peer| is_peer(world, peer, namespace, other);
    let goes_to = |port: &PortMatch| goes_to(world, port, packet);
    rule.peers.as_ref().is_none_or(|peers| peers.iter().any(is_peer))
        && rule.ports.as_ref().is_none_or(|ports| ports.iter().any(goes_to))
}

fn is_peer(world: &World, peer: &Peer, own: Option<&str>, ip: IpAddr) -> bool {
    match peer {
        Peer::Pods { namespaces, pods } => world.pod_at(ip).is_some_and(|pod| {
            let there = match namespaces {
                Some(namespaces) => is_in(world, namespaces, pod),
                None => own == Some(&*pod.name.namespace),
            };
            there && meets(pods, &pod.labels)
        }),
        Peer::Nodes(nodes) => world.nodes.iter().any(|node| node.addresses.contains(&ip) && meets(nodes, &node.labels)),
        Peer::Block { block, except } => block.contains(ip) && !except.iter().any(|hole| hole.contains(ip)),
    }
}

/// A name of a port is looked up at the packet's destination, whichever way the rule is for: so one name may be different numbers at
/// different pods, and nothing at all where there is no pod.
fn goes_to(world: &World, wanted: &PortMatch, packet: &Packet) -> bool {
    let Traffic::Port(protocol, number) = packet.traffic else { return false };
    match wanted {
        PortMatch::All(wanted) => *wanted == protocol,
        PortMatch::Range { protocol: wanted, first, last } => *wanted == protocol && (*first..=*last).contains(&number),
        PortMatch::Named { protocol: wanted, name } => {
            let is_it = |port: &ripstop_objects::PodPort| {
                port.name == *name && port.protocol == protocol && port.port == number
            };
            wanted.is_none_or(|wanted| wanted == protocol)
                && world.pod_at(packet.destination).is_some_and(|pod| pod.ports.iter().any(is_it))
        }
    }
}
