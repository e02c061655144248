//! A packet as rules see it, and whether one is about it.

use std::net::IpAddr;

use ripstop_objects::policy::PortMatch;
use ripstop_objects::service::Protocol;

use crate::atoms::{Atoms, Who};
use crate::members::{GroupKey, Members, NamedPort};
use crate::rules::Rule;
use crate::select::Labels;

/// What rules of one end ask of a packet.
pub struct Packet<'p> {
    /// Who is at the other end.
    pub ip: IpAddr,
    /// What that is, if it is a pod.
    pub pod: Option<&'p GroupKey>,
    /// The labels of its namespace.
    pub namespace: Option<&'p Labels>,
    /// The labels of nodes that have the address.
    pub nodes: Vec<&'p Labels>,
    /// Where it goes to.
    pub port: Option<(Protocol, u16)>,
    /// Names of ports there.
    pub names: &'p [NamedPort],
}

impl<'p> Packet<'p> {
    pub fn new(members: &'p Members, other: IpAddr, destination: IpAddr, port: Option<(Protocol, u16)>) -> Self {
        let pod = |ip| members.owner(ip).map(|group| &*members.groups[group].key);
        let other_pod = pod(other);
        let namespace = other_pod.and_then(|key| members.namespaces.get(&key.namespace)?.labels.as_ref());
        let nodes = members.nodes.values().filter(|node| node.addresses.contains(&other));
        Self {
            ip: other,
            pod: other_pod,
            namespace,
            nodes: nodes.map(|node| &node.labels).collect(),
            port,
            names: pod(destination).map_or(&[], |key| &key.ports),
        }
    }

    /// Whether a rule is about it.
    pub fn meets(&self, rule: &Rule, atoms: &Atoms) -> bool {
        let is_one = |atom: &u32| self.is_from(&atoms.get(*atom).key.who);
        rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|port| self.goes_to(port)))
            && rule.peers.as_ref().is_none_or(|peers| peers.iter().any(is_one))
    }

    /// Whether who is at the other end is meant.
    pub fn is_from(&self, who: &Who) -> bool {
        match who {
            Who::All => true,
            Who::Own(own, pods) => self.pod.is_some_and(|pod| pod.namespace == *own && pod.labels.meet(pods)),
            Who::Any(namespaces, pods) => {
                self.namespace.is_some_and(|labels| labels.meet(namespaces))
                    && self.pod.is_some_and(|pod| pod.labels.meet(pods))
            }
            Who::Nodes(nodes) => self.nodes.iter().any(|labels| labels.meet(nodes)),
            Who::Block(block, except) => block.contains(self.ip) && !except.iter().any(|hole| hole.contains(self.ip)),
        }
    }

    /// Whether it goes to such a port. A name is what it is at the destination.
    pub fn goes_to(&self, wanted: &PortMatch) -> bool {
        let Some((protocol, number)) = self.port else { return false };
        match wanted {
            PortMatch::All(wanted) => *wanted == protocol,
            PortMatch::Range { protocol: wanted, first, last } => {
                *wanted == protocol && (*first..=*last).contains(&number)
            }
            PortMatch::Named { protocol: wanted, name } => {
                wanted.is_none_or(|wanted| wanted == protocol)
                    && self.names.iter().any(|(own, other, port)| (own, *other, *port) == (name, protocol, number))
            }
        }
    }
}
