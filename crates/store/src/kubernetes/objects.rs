//! The watch of Kubernetes' own objects: this node, or all, this node's pods, or all, the namespaces, policies, pools of addresses, and
//! Services with their endpoints.

use std::sync::Arc;

use ripstop_objects::metallb::MetallbKind;
use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_types::{NodeName, Revision};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::feed::{self, Reader, Topic};
use super::{CHANNEL, Kubernetes};

/// What a watch of objects hands over, as [`crate::Event`] does of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectEvent {
    /// The object is so now.
    Put(ClusterObject, Revision),
    /// The object of this name is not as its kind: so says the sentence.
    Faulty(ObjectKind, Arc<str>, String),
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

/// What is asked for beside this node, its pods, namespaces, policies and pools of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// Services and their endpoints: they are served, or pools have addresses for them.
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
        ObjectKind::Metallb(MetallbKind::Pool) => ("ipaddresspools", String::new()),
        ObjectKind::Metallb(MetallbKind::L2) => ("l2advertisements", String::new()),
        ObjectKind::Metallb(MetallbKind::Bgp) => ("bgpadvertisements", String::new()),
        ObjectKind::Metallb(MetallbKind::Community) => ("communities", String::new()),
    };
    let version = kind.api_version();
    let group = if version.contains('/') { "apis" } else { "api" };
    // Only their definitions make the server know some kinds.
    let optional = kind.is_defined();
    let path = format!("/{group}/{version}/{plural}");
    let rare = matches!(kind, ObjectKind::Metallb(_));
    Topic { path, selector, name: plural.to_owned(), streaming: !optional, optional, rare }
}

struct Objects {
    kinds: Vec<ObjectKind>,
    topics: Vec<Topic>,
}

/// Its name, with the namespace before it, if it has one, and its revision.
fn named(text: &RawValue) -> Result<(Arc<str>, Revision), String> {
    #[derive(Deserialize)]
    struct Head {
        metadata: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
        #[serde(default)]
        namespace: String,
    }
    let revision = Revision(feed::revision_of(text)?);
    let Named { name, namespace } =
        serde_json::from_str::<Head>(text.get()).map_err(|fault| fault.to_string())?.metadata;
    Ok((if namespace.is_empty() { name } else { format!("{namespace}/{name}") }.into(), revision))
}

/// What is said by an object of the API server.
fn read(kind: ObjectKind, text: &RawValue) -> Result<ObjectEvent, String> {
    let (name, revision) = named(text)?;
    let (mut object, faults) = match ClusterObject::decode(kind, text.get()) {
        Ok(read) => read,
        Err(fault) => {
            tracing::warn!("the API server has {fault}; what it was before stays");
            return Ok(ObjectEvent::Faulty(kind, name, fault));
        }
    };
    for fault in faults.iter() {
        tracing::warn!("{fault}; that is {}", if kind.is_policy() { "closed" } else { "left out" });
    }
    // Here Kubernetes makes the slices. Kept by the ten thousand they are a good part of what an agent needs.
    if let ClusterObject::Service(service) = &mut object {
        service.selector = Default::default();
    }
    Ok(ObjectEvent::Put(object, revision))
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
            ObjectEvent::Faulty(_, name, _) => Some(name.clone()),
            _ => None,
        });
    }

    fn synced(&self, topic: usize, revision: u64) -> ObjectEvent {
        ObjectEvent::Synced(self.kinds[topic], Revision(revision))
    }

    fn put(&self, topic: usize, object: &RawValue) -> Result<Option<ObjectEvent>, String> {
        read(self.kinds[topic], object).map(Some)
    }

    fn delete(&self, topic: usize, object: &RawValue) -> Result<Option<ObjectEvent>, String> {
        let (name, revision) = named(object)?;
        Ok(Some(ObjectEvent::Delete(self.kinds[topic], name, revision)))
    }

    fn away(&self, reason: String) -> ObjectEvent {
        ObjectEvent::Away(reason)
    }

    fn back(&self) -> ObjectEvent {
        ObjectEvent::Back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_none_of_its_kind_is_named_and_goes_by_its_name() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let peer =
            |spec: &str| raw(&format!(r#"{{"metadata": {{"name": "tor", "resourceVersion": "7"}}, "spec": {spec}}}"#));
        let (good, bad) = (
            peer(r#"{"peerIP": "192.0.2.1", "asNumber": 65000}"#),
            peer(r#"{"peerIP": "nowhere", "asNumber": 65000}"#),
        );
        let objects = Objects { kinds: vec![ObjectKind::BgpPeer], topics: Vec::new() };
        assert!(matches!(objects.put(0, &good), Ok(Some(ObjectEvent::Put(_, Revision(7))))));
        match objects.put(0, &bad) {
            Ok(Some(ObjectEvent::Faulty(ObjectKind::BgpPeer, name, fault))) => {
                assert!(&*name == "tor" && fault.contains("tor") && fault.contains("nowhere"), "{name}: {fault}");
            }
            other => panic!("{other:?}"),
        }
        let gone = ObjectEvent::Delete(ObjectKind::BgpPeer, "tor".into(), Revision(7));
        assert_eq!(objects.delete(0, &bad), Ok(Some(gone)));
        let pod = raw(r#"{"metadata": {"name": "a", "namespace": "b", "resourceVersion": "8"}}"#);
        let pods = Objects { kinds: vec![ObjectKind::Pod], topics: Vec::new() };
        assert_eq!(pods.delete(0, &pod), Ok(Some(ObjectEvent::Delete(ObjectKind::Pod, "b/a".into(), Revision(8)))));
    }
}
