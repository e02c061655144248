//! Objects of Kubernetes' kinds that a store of Ripstop's own keeps: they enter as those of an API server do.
//!
//! Not here: that an API server tells an agent of its own node's pods only. Here each hears of all, and passes over those of
//! other nodes; one that names no node is taken in everywhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_types::{Revision, ServiceName};

use crate::{Change, ObjectInput, Row, StoreInput, StoreKind, StoreValue, Tables};

impl Tables {
    /// Takes in what the store said of an object; `None` where it is of none.
    pub(crate) fn apply_applied(&mut self, input: &StoreInput) -> Option<BTreeSet<Change>> {
        let of = |kind: &StoreKind| match kind {
            StoreKind::Namespaces => Some(ObjectKind::Namespace),
            StoreKind::Pods => Some(ObjectKind::Pod),
            StoreKind::Services => Some(ObjectKind::Service),
            StoreKind::EndpointSlices => Some(ObjectKind::EndpointSlice),
            StoreKind::Networks
            | StoreKind::Nodes
            | StoreKind::Claims
            | StoreKind::Alive
            | StoreKind::ServiceClaims => None,
        };
        let input = match input {
            StoreInput::Put { kind, key, value, revision } => self.read_object(of(kind)?, key, value, *revision),
            StoreInput::Delete { kind, key, revision } => self.object_gone(of(kind)?, key, *revision),
            StoreInput::Reset { kind } => ObjectInput::Reset { kind: of(kind)? },
            StoreInput::Synced { kind, revision } => ObjectInput::Synced { kind: of(kind)?, revision: *revision },
            StoreInput::Away { .. } | StoreInput::Back => return None,
        };
        let mut changes = self.cluster.apply(&input, &self.node);
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
    /// program's record is not ours to mend.
    fn read_object(&mut self, kind: ObjectKind, key: &Arc<str>, value: &StoreValue, revision: Revision) -> ObjectInput {
        let StoreValue::Raw(value) = value else { return self.object_gone(kind, key, revision) };
        let read = ClusterObject::from_value(kind, value).ok().map(|(object, _)| object);
        let Some(object) = read.filter(|object| object.name() == *key) else {
            return self.object_gone(kind, key, revision);
        };
        match &object {
            ClusterObject::Pod(pod) if pod.node.as_ref().is_some_and(|node| *node != self.node) => {
                return self.object_gone(kind, key, revision);
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

    fn object_gone(&mut self, kind: ObjectKind, key: &Arc<str>, revision: Revision) -> ObjectInput {
        if kind == ObjectKind::EndpointSlice
            && let Ok(name) = key.parse()
        {
            self.published.remove::<ServiceName>(&name);
        }
        ObjectInput::Delete { kind, name: key.clone(), revision }
    }
}
