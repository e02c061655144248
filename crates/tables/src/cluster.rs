//! What Kubernetes says of this node, its pods and the namespaces.
//!
//! Without Kubernetes nothing enters here, and every kind stays unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_objects::{ClusterObject, KubeNamespace, KubeNode, KubePod, ObjectKind};
use ripstop_types::{NodeName, PodName, Revision, ServiceName};
use serde::{Deserialize, Serialize};

use crate::{Change, Knowledge, ServiceTables};

/// What the API of Kubernetes says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectInput {
    /// The object is so now.
    Put {
        /// The object.
        object: ClusterObject,
        /// Its revision.
        revision: Revision,
    },
    /// An object is gone.
    Delete {
        /// Its kind.
        kind: ObjectKind,
        /// Its name; of a pod with the namespace before it.
        name: Arc<str>,
        /// The revision of the removal.
        revision: Revision,
    },
    /// A full list of this kind begins: what it does not name is gone.
    Reset {
        /// The kind.
        kind: ObjectKind,
    },
    /// The list of this kind is complete.
    Synced {
        /// The kind.
        kind: ObjectKind,
        /// The revision as of which it is.
        revision: Revision,
    },
    /// The API cannot be reached, or does not let these objects be read.
    Away {
        /// Why.
        reason: String,
    },
    /// It is back.
    Back,
}

/// The rows.
#[derive(Debug, Clone, Default)]
pub struct ClusterTables {
    /// This node.
    pub node: Option<KubeNode>,
    /// Other nodes that flanneld said something of, where they are asked for.
    pub peers: BTreeMap<NodeName, KubeNode>,
    /// Namespaces.
    pub namespaces: BTreeMap<Arc<str>, KubeNamespace>,
    /// Pods of this node.
    pub pods: BTreeMap<PodName, KubePod>,
    /// Services and their endpoints, where they are served.
    pub services: ServiceTables,
    /// Why the API is not read now.
    pub away: Option<String>,
    known: BTreeMap<ObjectKind, Knowledge>,
    /// Names in a list that is not complete.
    listing: BTreeMap<ObjectKind, BTreeSet<Arc<str>>>,
}

/// The rows as a snapshot keeps them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterSnapshot {
    /// Kinds that were complete.
    pub known: Vec<ObjectKind>,
    /// The objects.
    pub objects: Vec<ClusterObject>,
}

impl ClusterSnapshot {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ClusterTables {
    /// How far a kind is known.
    pub fn knowledge(&self, kind: ObjectKind) -> Knowledge {
        self.known.get(&kind).copied().unwrap_or(Knowledge::Unknown)
    }

    pub(crate) fn from_snapshot(snapshot: ClusterSnapshot, own: &NodeName) -> Self {
        let mut tables = Self::default();
        for object in snapshot.objects {
            tables.put(object, Revision::default(), own);
        }
        tables.known = snapshot.known.into_iter().map(|kind| (kind, Knowledge::Snapshot)).collect();
        tables
    }

    pub(crate) fn snapshot(&self) -> ClusterSnapshot {
        let node = self.node.iter().chain(self.peers.values()).cloned().map(ClusterObject::Node);
        let namespaces = self.namespaces.values().cloned().map(ClusterObject::Namespace);
        let pods = self.pods.values().cloned().map(|pod| ClusterObject::Pod(Box::new(pod)));
        ClusterSnapshot {
            // Services are not kept: until they are read anew, the kernel has them as they were.
            known: self.known.keys().copied().filter(|kind| !kind.is_of_services()).collect(),
            objects: node.chain(namespaces).chain(pods).collect(),
        }
    }

    pub(crate) fn apply(&mut self, input: &ObjectInput, own: &NodeName) -> BTreeSet<Change> {
        match input {
            ObjectInput::Put { object, revision } => {
                if let Some(named) = self.listing.get_mut(&object.kind()) {
                    named.insert(object.name());
                }
                self.put(object.clone(), *revision, own)
            }
            ObjectInput::Delete { kind, name, .. } => {
                if let Some(named) = self.listing.get_mut(kind) {
                    named.remove(name);
                }
                self.remove(*kind, name)
            }
            ObjectInput::Reset { kind } => {
                self.listing.insert(*kind, BTreeSet::new());
                BTreeSet::new()
            }
            ObjectInput::Synced { kind, .. } => {
                // The first list of a run is whole, too.
                let first = self.knowledge(*kind) != Knowledge::Synced;
                let named = self.listing.remove(kind).unwrap_or_default();
                let gone: Vec<Arc<str>> = self.names(*kind).into_iter().filter(|name| !named.contains(name)).collect();
                let mut changes: BTreeSet<Change> = gone.iter().flat_map(|name| self.remove(*kind, name)).collect();
                self.known.insert(*kind, Knowledge::Synced);
                changes.extend(first.then_some(Change::Object(*kind)));
                changes
            }
            ObjectInput::Away { reason } => {
                self.away = Some(reason.clone());
                BTreeSet::from([Change::Store])
            }
            ObjectInput::Back => {
                self.away = None;
                BTreeSet::from([Change::Store])
            }
        }
    }

    /// Lists of a run begin without a word.
    pub(crate) fn begin_lists(&mut self) {
        self.listing = ObjectKind::ALL.into_iter().map(|kind| (kind, BTreeSet::new())).collect();
    }

    fn names(&self, kind: ObjectKind) -> Vec<Arc<str>> {
        match kind {
            ObjectKind::Node => {
                self.node.iter().chain(self.peers.values()).map(|node| node.name.as_str().into()).collect()
            }
            ObjectKind::Namespace => self.namespaces.keys().cloned().collect(),
            ObjectKind::Pod => self.pods.keys().map(|name| name.to_string().into()).collect(),
            ObjectKind::Service => self.services.services().map(|service| service.name.to_string().into()).collect(),
            ObjectKind::EndpointSlice => self.services.slices().map(|slice| slice.name.to_string().into()).collect(),
        }
    }

    /// Puts a row; what that changed.
    fn put(&mut self, object: ClusterObject, revision: Revision, own: &NodeName) -> BTreeSet<Change> {
        let kind = object.kind();
        let changed = match object {
            ClusterObject::Node(node) if node.name != *own => match node.flannel {
                Some(_) => self.peers.insert(node.name.clone(), node.clone()).as_ref() != Some(&node),
                None => self.peers.remove(&node.name).is_some(),
            },
            ClusterObject::Node(node) => {
                let changed = self.node.as_ref() != Some(&node);
                self.node = Some(node);
                changed
            }
            ClusterObject::Namespace(row) => {
                let before = self.namespaces.insert(row.name.clone(), row.clone());
                before.as_ref() != Some(&row)
            }
            ClusterObject::Pod(row) => {
                let before = self.pods.insert(row.name.clone(), (*row).clone());
                before.as_ref() != Some(&*row)
            }
            ClusterObject::Service(service) => return of_services(self.services.put_service(*service, revision)),
            ClusterObject::EndpointSlice(slice) => return of_services(self.services.put_slice(*slice)),
        };
        changed.then_some(Change::Object(kind)).into_iter().collect()
    }

    fn remove(&mut self, kind: ObjectKind, name: &str) -> BTreeSet<Change> {
        let removed = match kind {
            ObjectKind::Node => {
                let own = self.node.take_if(|node| node.name.as_str() == name).is_some();
                own || name.parse::<NodeName>().is_ok_and(|name| self.peers.remove(&name).is_some())
            }
            ObjectKind::Namespace => self.namespaces.remove(name).is_some(),
            ObjectKind::Pod => name.parse().ok().and_then(|name| self.pods.remove(&name)).is_some(),
            ObjectKind::Service => {
                return name
                    .parse()
                    .map_or_else(|_| BTreeSet::new(), |name| of_services(self.services.remove_service(&name)));
            }
            ObjectKind::EndpointSlice => {
                return name
                    .parse()
                    .map_or_else(|_| BTreeSet::new(), |name| of_services(self.services.remove_slice(&name)));
            }
        };
        removed.then_some(Change::Object(kind)).into_iter().collect()
    }
}

fn of_services(names: BTreeSet<ServiceName>) -> BTreeSet<Change> {
    names.into_iter().map(Change::Service).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> ClusterObject {
        ClusterObject::Namespace(KubeNamespace { name: name.into(), labels: BTreeMap::new() })
    }

    fn put(object: ClusterObject) -> ObjectInput {
        ObjectInput::Put { object, revision: Revision(1) }
    }

    #[test]
    fn what_a_list_does_not_name_is_gone() {
        let (kind, own) = (ObjectKind::Namespace, "n1".parse().unwrap());
        let before = ClusterSnapshot { known: vec![kind], objects: vec![namespace("old"), namespace("kept")] };
        let mut tables = ClusterTables::from_snapshot(before, &own);
        tables.begin_lists();
        assert_eq!(tables.knowledge(kind), Knowledge::Snapshot);
        assert!(tables.apply(&put(namespace("kept")), &own).is_empty(), "nothing changed");
        assert_eq!(tables.apply(&put(namespace("new")), &own), BTreeSet::from([Change::Object(kind)]));
        assert_eq!(tables.namespaces.len(), 3, "until the list is complete nothing goes");
        tables.apply(&ObjectInput::Synced { kind, revision: Revision(2) }, &own);
        assert_eq!(tables.namespaces.keys().map(|name| &**name).collect::<Vec<_>>(), ["kept", "new"]);
        assert_eq!(tables.knowledge(kind), Knowledge::Synced);
        assert_eq!(tables.snapshot().objects.len(), 2);
        tables.apply(&ObjectInput::Delete { kind, name: "kept".into(), revision: Revision(3) }, &own);
        tables.apply(&ObjectInput::Reset { kind }, &own);
        tables.apply(&ObjectInput::Synced { kind, revision: Revision(4) }, &own);
        assert!(tables.namespaces.is_empty());
    }
}
