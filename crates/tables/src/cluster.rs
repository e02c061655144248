//! What Kubernetes says of this node, its pods and the namespaces.
//!
//! Without Kubernetes nothing enters here, and every kind stays unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_objects::pool::AddressPool;
use ripstop_objects::{ClusterObject, KubeNamespace, KubeNode, KubePod, ObjectKind};
use ripstop_types::{NodeName, PodName, Prefix, Revision, ScopedAddr, ServiceName};
use serde::{Deserialize, Serialize};

use crate::metallb::{MetallbTables, Pools};
use crate::{BgpTables, Change, Concern, Knowledge, PolicyTables, Row, ServiceTables};

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
    /// The object is there, and is not as its kind: what it was before stays.
    Faulty {
        /// Its kind.
        kind: ObjectKind,
        /// Its name; with the namespace before it, if it has one.
        name: Arc<str>,
        /// What is wrong, in a sentence.
        fault: String,
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
    /// Other nodes, where they are asked for.
    pub nodes: BTreeMap<NodeName, KubeNode>,
    /// Those that flanneld said something of.
    pub peers: BTreeMap<NodeName, KubeNode>,
    /// Namespaces.
    pub namespaces: BTreeMap<Arc<str>, KubeNamespace>,
    /// Pods of this node.
    pub pods: BTreeMap<PodName, KubePod>,
    /// Services and their endpoints, where they are served.
    pub services: ServiceTables,
    /// Pools of addresses for Services of type LoadBalancer that are in force.
    pub pools: Pools,
    /// What MetalLB was told of pools.
    pub metallb: MetallbTables,
    /// The AddressPools among them.
    own_pools: Pools,
    /// Policies, and the pods of other nodes that they may be about.
    pub policies: PolicyTables,
    /// What is configured of BGP, and what it brought.
    pub bgp: BgpTables,
    /// Why the API is not read now.
    pub away: Option<String>,
    /// What is wrong with objects of which the last good state stays.
    pub faults: BTreeMap<(ObjectKind, Arc<str>), String>,
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
    /// Next hops of prefixes that BGP brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<(Prefix, Vec<ScopedAddr>)>,
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

    /// Whether a kind was read in this run.
    pub fn knows(&self, kind: ObjectKind) -> bool {
        self.knowledge(kind) == Knowledge::Synced
    }

    /// Whether all objects of a kind are here that there were when it was listed last.
    pub fn is_whole(&self, kind: ObjectKind) -> bool {
        self.knows(kind) && !self.listing.contains_key(&kind)
    }

    pub(crate) fn from_snapshot(snapshot: ClusterSnapshot, own: &NodeName) -> Self {
        let mut tables = Self::default();
        for object in snapshot.objects {
            tables.put(object, Revision::default(), own);
        }
        tables.bgp.begin(snapshot.routes);
        tables.known = snapshot.known.into_iter().map(|kind| (kind, Knowledge::Snapshot)).collect();
        tables
    }

    pub(crate) fn snapshot(&self) -> ClusterSnapshot {
        let node = self.node.iter().chain(self.peers.values()).cloned().map(ClusterObject::Node);
        let namespaces = self.namespaces.values().cloned().map(ClusterObject::Namespace);
        let pods = self.pods.values().cloned().map(|pod| ClusterObject::Pod(Box::new(pod)));
        ClusterSnapshot {
            // Services and policies are not kept: until they are read anew, the kernel has them as they were. But that there was no
            // policy is: an agent that starts while nobody tells it of any can add pods.
            known: self.known.keys().copied().filter(|kind| self.is_kept(*kind)).collect(),
            objects: node.chain(namespaces).chain(pods).chain(self.bgp.objects()).collect(),
            routes: self.bgp.routes.iter().map(|(prefix, hops)| (*prefix, hops.clone())).collect(),
        }
    }

    /// Whether what is known of a kind outlives the process.
    fn is_kept(&self, kind: ObjectKind) -> bool {
        match kind {
            ObjectKind::Node | ObjectKind::Namespace | ObjectKind::Pod => true,
            ObjectKind::NetworkPolicy => self.policies.network.is_empty(),
            ObjectKind::ClusterNetworkPolicy => self.policies.cluster.is_empty(),
            ObjectKind::Service | ObjectKind::EndpointSlice | ObjectKind::PeerPod => false,
            ObjectKind::AddressPool | ObjectKind::Metallb(_) => false,
            // With them sessions stand at once, and nothing is announced that was not before.
            ObjectKind::BgpConfiguration | ObjectKind::BgpFilter | ObjectKind::BgpPeer => true,
        }
    }

    pub(crate) fn apply(&mut self, input: &ObjectInput, own: &NodeName) -> BTreeSet<Change> {
        match input {
            ObjectInput::Put { object, revision } => {
                if let Some(named) = self.listing.get_mut(&object.kind()) {
                    named.insert(object.name());
                }
                self.faults.remove(&(object.kind(), object.name()));
                self.put(object.clone(), *revision, own)
            }
            ObjectInput::Faulty { kind, name, fault } => {
                if let Some(named) = self.listing.get_mut(kind) {
                    named.insert(name.clone());
                }
                self.faults.insert((*kind, name.clone()), fault.clone());
                BTreeSet::new()
            }
            ObjectInput::Delete { kind, name, .. } => {
                if let Some(named) = self.listing.get_mut(kind) {
                    named.remove(name);
                }
                self.faults.remove(&(*kind, name.clone()));
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
                self.faults.retain(|(of, name), _| of != kind || named.contains(name));
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
                let nodes = self.node.iter().chain(self.peers.values()).chain(self.nodes.values());
                nodes.map(|node| node.name.as_str().into()).collect::<BTreeSet<_>>().into_iter().collect()
            }
            ObjectKind::NetworkPolicy => self.policies.network.keys().map(|name| name.to_string().into()).collect(),
            ObjectKind::ClusterNetworkPolicy => self.policies.cluster.keys().cloned().collect(),
            ObjectKind::AddressPool => self.own_pools.keys().cloned().collect(),
            ObjectKind::Metallb(kind) => self.metallb.names(kind),
            ObjectKind::BgpConfiguration | ObjectKind::BgpFilter | ObjectKind::BgpPeer => self.bgp.names(kind),
            ObjectKind::PeerPod => self.policies.peer_pods.keys().map(|name| name.to_string().into()).collect(),
            ObjectKind::Namespace => self.namespaces.keys().cloned().collect(),
            ObjectKind::Pod => self.pods.keys().map(|name| name.to_string().into()).collect(),
            ObjectKind::Service => self.services.services().map(|service| service.name.to_string().into()).collect(),
            ObjectKind::EndpointSlice => self.services.slices().map(|slice| slice.name.to_string().into()).collect(),
        }
    }

    /// Puts a row; what that changed.
    fn put(&mut self, object: ClusterObject, revision: Revision, own: &NodeName) -> BTreeSet<Change> {
        let kind = object.kind();
        let concern = match object {
            ClusterObject::Node(node) => {
                let name = node.name.clone();
                self.put_node(node, own).then_some(Concern::Node(name))
            }
            ClusterObject::Namespace(row) => {
                let before = self.namespaces.insert(row.name.clone(), row.clone());
                (before.as_ref() != Some(&row)).then_some(Concern::Namespace(row.name))
            }
            ClusterObject::Pod(row) => {
                let before = self.pods.insert(row.name.clone(), (*row).clone());
                let changed = before.as_ref() != Some(&*row);
                let of_pools = changed && before.iter().chain([&*row]).any(|pod| self.metallb.hangs_on(pod));
                let mut changes = of_object(kind, changed.then_some(Concern::Pod(row.name)));
                changes.extend(of_pools.then(|| self.merge_pools()).flatten());
                return changes;
            }
            ClusterObject::Service(service) => return of_services(self.services.put_service(*service, revision)),
            ClusterObject::EndpointSlice(slice) => return of_services(self.services.put_slice(*slice)),
            ClusterObject::NetworkPolicy(policy) => return self.policies.put(policy, revision).into_iter().collect(),
            ClusterObject::ClusterNetworkPolicy(policy) => {
                return self.policies.put_cluster(policy, revision).into_iter().collect();
            }
            ClusterObject::AddressPool(pool) => return self.put_pool(pool, revision).into_iter().collect(),
            ClusterObject::Metallb(object) => {
                return self.metallb.put(object).then(|| self.merge_pools()).flatten().into_iter().collect();
            }
            ClusterObject::PeerPod(pod) => return self.policies.put_peer(*pod).into_iter().collect(),
            object @ (ClusterObject::BgpConfiguration(_) | ClusterObject::BgpFilter(_) | ClusterObject::BgpPeer(_)) => {
                return self.bgp.put(object, revision).then_some(Change::Object(kind)).into_iter().collect();
            }
        };
        of_object(kind, concern)
    }

    /// Whether a node is another than it was.
    fn put_node(&mut self, node: KubeNode, own: &NodeName) -> bool {
        if node.name == *own {
            return self.node.replace(node.clone()) != Some(node);
        }
        match node.flannel {
            Some(_) => drop(self.peers.insert(node.name.clone(), node.clone())),
            None => drop(self.peers.remove(&node.name)),
        }
        self.nodes.insert(node.name.clone(), node.clone()) != Some(node)
    }

    /// A pool that cannot be read keeps what it said before, and says what is wrong with it.
    fn put_pool(&mut self, mut pool: Arc<AddressPool>, revision: Revision) -> Option<Change> {
        let before = self.own_pools.get(&pool.name).map(|row| &row.value);
        if let Some(before) = before.filter(|_| !pool.refused.is_empty()) {
            pool = Arc::new(AddressPool { refused: pool.refused.clone(), ..AddressPool::clone(before) });
        }
        self.own_pools.insert(pool.name.clone(), Row { value: pool, revision });
        self.merge_pools()
    }

    /// Puts together which pools are in force; what that changed.
    fn merge_pools(&mut self) -> Option<Change> {
        let (pools, is_news) = self.metallb.beside(&self.own_pools, &self.pools, self.pods.values());
        let values = |pools: &Pools| pools.values().map(|row| row.value.clone()).collect::<Vec<_>>();
        let changed = values(&pools) != values(&self.pools) || is_news;
        self.pools = pools;
        changed.then_some(Change::Object(ObjectKind::AddressPool))
    }

    fn remove(&mut self, kind: ObjectKind, name: &str) -> BTreeSet<Change> {
        let concern = match kind {
            ObjectKind::Node => {
                let own = self.node.take_if(|node| node.name.as_str() == name).is_some();
                name.parse::<NodeName>().ok().and_then(|name| {
                    let other = self.nodes.remove(&name).is_some() | self.peers.remove(&name).is_some();
                    (own || other).then_some(Concern::Node(name))
                })
            }
            ObjectKind::Namespace => self.namespaces.remove(name).map(|row| Concern::Namespace(row.name)),
            ObjectKind::Pod => {
                let gone = name.parse().ok().and_then(|name| self.pods.remove(&name));
                let of_pools = gone.as_ref().is_some_and(|pod| self.metallb.hangs_on(pod));
                let mut changes = of_object(kind, gone.map(|row| Concern::Pod(row.name)));
                changes.extend(of_pools.then(|| self.merge_pools()).flatten());
                return changes;
            }
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
            ObjectKind::NetworkPolicy => {
                return name.parse().ok().and_then(|name| self.policies.remove(&name)).into_iter().collect();
            }
            ObjectKind::ClusterNetworkPolicy => return self.policies.remove_cluster(name).into_iter().collect(),
            ObjectKind::AddressPool => {
                self.own_pools.remove(name);
                return self.merge_pools().into_iter().collect();
            }
            ObjectKind::Metallb(of) => {
                return self.metallb.remove(of, name).then(|| self.merge_pools()).flatten().into_iter().collect();
            }
            ObjectKind::BgpConfiguration | ObjectKind::BgpFilter | ObjectKind::BgpPeer => {
                return self.bgp.remove(kind, name).then_some(Change::Object(kind)).into_iter().collect();
            }
            ObjectKind::PeerPod => {
                return name.parse().ok().and_then(|name| self.policies.remove_peer(&name)).into_iter().collect();
            }
        };
        of_object(kind, concern)
    }
}

/// What an object's change touches.
fn of_object(kind: ObjectKind, concern: Option<Concern>) -> BTreeSet<Change> {
    concern.into_iter().flat_map(|concern| [Change::Object(kind), Change::Policies(concern)]).collect()
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
        let before = ClusterSnapshot {
            known: vec![kind],
            objects: vec![namespace("old"), namespace("kept")],
            routes: Vec::new(),
        };
        let mut tables = ClusterTables::from_snapshot(before, &own);
        tables.begin_lists();
        assert_eq!(tables.knowledge(kind), Knowledge::Snapshot);
        assert!(tables.apply(&put(namespace("kept")), &own).is_empty(), "nothing changed");
        let both = BTreeSet::from([Change::Object(kind), Change::Policies(Concern::Namespace("new".into()))]);
        assert_eq!(tables.apply(&put(namespace("new")), &own), both);
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
