//! Objects of Kubernetes' kinds that a store of Ripstop's own keeps: they enter as those of an API server do.
//!
//! Not here: that an API server tells an agent of its own node's pods and of others' apart. Here each hears of all; one that names no node
//! is taken for this node's everywhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_types::{Revision, ServiceName};

use crate::{Change, ObjectInput, Row, StoreInput, StoreKind, StoreValue, Tables};

impl Tables {
    /// Takes in what the store said of an object; `None` where it is of none.
    pub(crate) fn apply_applied(&mut self, input: &StoreInput) -> Option<BTreeSet<Change>> {
        let of = |kind: &StoreKind| match kind {
            StoreKind::NodeLabels => Some(ObjectKind::Node),
            StoreKind::Namespaces => Some(ObjectKind::Namespace),
            StoreKind::Pods => Some(ObjectKind::Pod),
            StoreKind::Services => Some(ObjectKind::Service),
            StoreKind::EndpointSlices => Some(ObjectKind::EndpointSlice),
            StoreKind::NetworkPolicies => Some(ObjectKind::NetworkPolicy),
            StoreKind::ClusterNetworkPolicies => Some(ObjectKind::ClusterNetworkPolicy),
            StoreKind::AddressPools => Some(ObjectKind::AddressPool),
            StoreKind::BgpConfigurations => Some(ObjectKind::BgpConfiguration),
            StoreKind::BgpFilters => Some(ObjectKind::BgpFilter),
            StoreKind::BgpPeers => Some(ObjectKind::BgpPeer),
            StoreKind::Networks
            | StoreKind::Nodes
            | StoreKind::Claims
            | StoreKind::Alive
            | StoreKind::PodAddresses
            | StoreKind::ServiceClaims
            | StoreKind::AddressClaims => None,
        };
        let input = match input {
            StoreInput::Put { kind, key, value, revision } => self.read_object(of(kind)?, key, value, *revision),
            StoreInput::Delete { kind, key, revision } => self.object_gone(of(kind)?, key, *revision),
            StoreInput::Reset { kind } => ObjectInput::Reset { kind: of(kind)? },
            StoreInput::Synced { kind, revision } => ObjectInput::Synced { kind: of(kind)?, revision: *revision },
            StoreInput::Away { .. } | StoreInput::Back => return None,
        };
        let of_others = of_other_nodes(&input).map(|input| self.cluster.apply(&input, &self.node));
        let mut changes = of_others.unwrap_or_default();
        changes.append(&mut self.cluster.apply(&input, &self.node));
        if let ObjectInput::Synced { kind: ObjectKind::EndpointSlice, .. } = input {
            // What a list did not name is gone.
            let there: BTreeSet<&ServiceName> = self.cluster.services.slices().map(|slice| &slice.name).collect();
            self.published.retain(|name, _| there.contains(name));
        }
        if matches!(input, ObjectInput::Synced { .. }) {
            self.here(&mut changes);
        }
        Some(changes)
    }

    /// An object as the store has it. One that cannot be read is as good as gone: whoever applied it was told so, and another
    /// program's record is not ours to mend. But a policy stays what it was: gone, it would open what it keeps closed. So does what
    /// is of BGP, on which sessions hang.
    fn read_object(&mut self, kind: ObjectKind, key: &Arc<str>, value: &StoreValue, revision: Revision) -> ObjectInput {
        let StoreValue::Raw(value) = value else { return self.object_gone(kind, key, revision) };
        let read = ClusterObject::from_value(kind, value).and_then(|(object, _)| match object.name() {
            name if name == *key => Ok(object),
            name => Err(format!("{kind} {name} under the key of {key}")),
        });
        let object = match read {
            Ok(object) => object,
            Err(fault) if kind.is_policy() || kind.is_of_bgp() => {
                return ObjectInput::Faulty { kind, name: key.clone(), fault };
            }
            Err(_) => return self.object_gone(kind, key, revision),
        };
        match &object {
            ClusterObject::Pod(pod) if pod.node.as_ref().is_some_and(|node| *node != self.node) => {
                return ObjectInput::Put { object: ClusterObject::of_pod((**pod).clone(), true), revision };
            }
            ClusterObject::EndpointSlice(slice) if slice.publisher.as_ref() == Some(&self.node) => {
                let row = Row { value: Arc::new(value.clone()), revision };
                self.published.insert(slice.name.clone(), row);
            }
            ClusterObject::EndpointSlice(slice) => drop(self.published.remove(&slice.name)),
            _ => {}
        }
        ObjectInput::Put { object, revision }
    }

    /// That an object is not there, or not any more.
    fn object_gone(&mut self, kind: ObjectKind, key: &Arc<str>, revision: Revision) -> ObjectInput {
        if kind == ObjectKind::EndpointSlice
            && let Ok(name) = key.parse()
        {
            self.published.remove::<ServiceName>(&name);
        }
        ObjectInput::Delete { kind, name: key.clone(), revision }
    }
}

/// What an input about pods says of other nodes' or, where it is about one of these, of this node's: a pod is one or the other.
fn of_other_nodes(input: &ObjectInput) -> Option<ObjectInput> {
    let other = |kind: ObjectKind| match kind {
        ObjectKind::Pod => Some(ObjectKind::PeerPod),
        ObjectKind::PeerPod => Some(ObjectKind::Pod),
        _ => None,
    };
    Some(match input {
        ObjectInput::Put { object, revision } => {
            ObjectInput::Delete { kind: other(object.kind())?, name: object.name(), revision: *revision }
        }
        ObjectInput::Delete { kind, name, revision } => {
            ObjectInput::Delete { kind: other(*kind)?, name: name.clone(), revision: *revision }
        }
        ObjectInput::Faulty { .. } | ObjectInput::Away { .. } | ObjectInput::Back => return None,
        ObjectInput::Reset { kind } => ObjectInput::Reset { kind: other(*kind)? },
        ObjectInput::Synced { kind, revision } => ObjectInput::Synced { kind: other(*kind)?, revision: *revision },
    })
}
