//! The watch of Kubernetes' own objects: this node, or all, this node's pods, or all, the namespaces, policies, and Services with their
//! endpoints.

use std::sync::Arc;

use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_types::{NodeName, Revision};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::feed::{self, Reader, Topic};
use super::{CHANNEL, Kubernetes};

/// What a watch of objects hands over, as [`crate::Event`] does of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectEvent {
    /// The object is so now.
    Put(ClusterObject, Revision),
    /// The object of this name is gone.
    Delete(ObjectKind, Arc<str>, Revision),
    /// A new list of the kind follows.
    Reset(ObjectKind),
    /// All objects that the kind had at this revision were handed over.
    Synced(ObjectKind, Revision),
    /// The server is lost.
    Away(String),
    /// It is found again.
    Back,
}

/// What is asked for beside this node, its pods, namespaces and policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// Services and their endpoints: they are served.
    pub services: bool,
    /// The pods of other nodes: there are policies.
    pub peer_pods: bool,
    /// Every other node.
    pub nodes: bool,
}

impl Kubernetes {
    /// What is always asked for and what is wanted beside: what there is, then every change.
    pub fn objects(&self, node: &NodeName, wants: Wants) -> mpsc::Receiver<ObjectEvent> {
        let (events, receiver) = mpsc::channel(CHANNEL);
        let is_wanted = |kind: &ObjectKind| match kind {
            // Nobody gives addresses of pools there.
            ObjectKind::AddressPool => false,
            kind if kind.is_of_services() => wants.services,
            ObjectKind::PeerPod => wants.peer_pods,
            _ => true,
        };
        let kinds: Vec<_> = ObjectKind::ALL.into_iter().filter(is_wanted).collect();
        let topics = kinds.iter().map(|kind| topic(*kind, node, wants.nodes)).collect();
        tokio::spawn(feed::pump(self.shared.clone(), Objects { kinds, topics }, events));
        receiver
    }
}

fn topic(kind: ObjectKind, node: &NodeName, nodes: bool) -> Topic {
    let (plural, selector) = match kind {
        ObjectKind::Node if nodes => ("nodes", String::new()),
        ObjectKind::Node => ("nodes", format!("&fieldSelector=metadata.name%3D{node}")),
        ObjectKind::Namespace => ("namespaces", String::new()),
        ObjectKind::Pod => ("pods", format!("&fieldSelector=spec.nodeName%3D{node}")),
        ObjectKind::PeerPod => ("pods", format!("&fieldSelector=spec.nodeName!%3D{node}")),
        ObjectKind::Service => ("services", String::new()),
        ObjectKind::EndpointSlice => ("endpointslices", String::new()),
        ObjectKind::NetworkPolicy => ("networkpolicies", String::new()),
        ObjectKind::ClusterNetworkPolicy => ("clusternetworkpolicies", String::new()),
        ObjectKind::AddressPool => ("addresspools", String::new()),
        ObjectKind::BgpConfiguration => ("bgpconfigurations", String::new()),
        ObjectKind::BgpFilter => ("bgpfilters", String::new()),
        ObjectKind::BgpPeer => ("bgppeers", String::new()),
    };
    let version = kind.api_version();
    let group = if version.contains('/') { "apis" } else { "api" };
    // Only their definitions make the server know some kinds.
    let optional = kind.is_defined();
    let path = format!("/{group}/{version}/{plural}");
    Topic { path, selector, name: plural.to_owned(), streaming: !optional, optional }
}

struct Objects {
    kinds: Vec<ObjectKind>,
    topics: Vec<Topic>,
}

/// The revision and what is read of an object; none where it is not as its kind.
fn read(kind: ObjectKind, text: &RawValue) -> Result<Option<(ClusterObject, Revision)>, String> {
    let revision = Revision(feed::revision_of(text)?);
    match ClusterObject::decode(kind, text.get()) {
        Ok((mut object, faults)) => {
            for fault in faults.iter() {
                tracing::warn!("{fault}; that is {}", if kind.is_policy() { "closed" } else { "left out" });
            }
            // Here Kubernetes makes the slices. Kept by the ten thousand they are a good part of what an agent needs.
            if let ClusterObject::Service(service) = &mut object {
                service.selector = Default::default();
            }
            Ok(Some((object, revision)))
        }
        Err(fault) => {
            tracing::warn!("the API server has {fault}; it is passed over");
            Ok(None)
        }
    }
}

impl Reader for Objects {
    type Event = ObjectEvent;

    fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn reset(&self, topic: usize) -> ObjectEvent {
        ObjectEvent::Reset(self.kinds[topic])
    }

    /// By name, of which there are no two in a list.
    fn order(&self, events: &mut Vec<ObjectEvent>) {
        events.sort_by_cached_key(|event| match event {
            ObjectEvent::Put(object, _) => Some(object.name()),
            _ => None,
        });
    }

    fn synced(&self, topic: usize, revision: u64) -> ObjectEvent {
        ObjectEvent::Synced(self.kinds[topic], Revision(revision))
    }

    fn put(&self, topic: usize, object: &RawValue) -> Result<Option<ObjectEvent>, String> {
        Ok(read(self.kinds[topic], object)?.map(|(object, revision)| ObjectEvent::Put(object, revision)))
    }

    fn delete(&self, topic: usize, object: &RawValue) -> Result<Option<ObjectEvent>, String> {
        let kind = self.kinds[topic];
        Ok(read(kind, object)?.map(|(object, revision)| ObjectEvent::Delete(kind, object.name(), revision)))
    }

    fn away(&self, reason: String) -> ObjectEvent {
        ObjectEvent::Away(reason)
    }

    fn back(&self) -> ObjectEvent {
        ObjectEvent::Back
    }
}
