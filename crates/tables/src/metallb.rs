//! What MetalLB was told of pools, on a cluster that it served before: its objects, and the pools that they are here.
//!
//! An AddressPool goes before one of MetalLB's with its name. While a pod of MetalLB's runs on this node its pools are left to it, or both
//! would answer for the same addresses.
//!
//! Not here: what its objects say (`ripstop_objects::metallb`).

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_objects::metallb::{MetallbKind, MetallbObject, is_its_pod, pools};
use ripstop_objects::pool::AddressPool;
use ripstop_objects::{KubePod, ObjectKind, StoreConfig};
use ripstop_types::{PodName, Revision};

use crate::{Row, Tables};

/// Pools by their names.
pub(crate) type Pools = BTreeMap<Arc<str>, Row<AddressPool>>;

/// Its objects, and what they are taken for.
#[derive(Debug, Clone, Default)]
pub struct MetallbTables {
    objects: BTreeMap<(MetallbKind, Arc<str>), Arc<MetallbObject>>,
    /// Its pod on this node to which its pools are left.
    pub runs: Option<PodName>,
    /// What of them is left out, in sentences.
    pub faults: Vec<String>,
}

impl MetallbTables {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(crate) fn put(&mut self, object: Arc<MetallbObject>) -> bool {
        let key = (object.kind, object.name.clone());
        self.objects.insert(key, object.clone()) != Some(object)
    }

    pub(crate) fn remove(&mut self, kind: MetallbKind, name: &str) -> bool {
        self.objects.remove(&(kind, name.into())).is_some()
    }

    pub(crate) fn names(&self, kind: MetallbKind) -> Vec<Arc<str>> {
        self.objects.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }

    /// Whether it may hang on a pod which pools are in force.
    pub(crate) fn hangs_on(&self, pod: &KubePod) -> bool {
        !self.is_empty() && is_its_pod(&pod.labels)
    }

    /// The pools that are in force, our own and beside them MetalLB's, and whether anything of that is news. `before` are those that
    /// were.
    pub(crate) fn beside<'p>(
        &mut self,
        own: &Pools,
        before: &Pools,
        pods: impl Iterator<Item = &'p KubePod>,
    ) -> (Pools, bool) {
        let was = (self.runs.take(), std::mem::take(&mut self.faults));
        let mut all = own.clone();
        if !self.is_empty() {
            let runs =
                pods.filter(|pod| is_its_pod(&pod.labels) && !pod.has_finished()).map(|pod| pod.name.clone()).next();
            let kept = |pool: &AddressPool| {
                let row =
                    before.get(&pool.name).filter(|row| row.value.of_metallb && was.0.is_none() && runs.is_none());
                row.map(|row| row.value.clone())
            };
            self.runs.clone_from(&runs);
            all.extend(self.pools_beside(own, kept));
        }
        let is_news = (&self.runs, &self.faults) != (&was.0, &was.1);
        (all, is_news)
    }

    /// MetalLB's pools. One that cannot be read keeps what was `kept` of it, as one of ours does.
    fn pools_beside(&mut self, own: &Pools, kept: impl Fn(&AddressPool) -> Option<Arc<AddressPool>>) -> Pools {
        let (pools, faults) = pools(self.objects.values().map(AsRef::as_ref));
        self.faults = faults;
        let mut all = Pools::new();
        for mut pool in pools {
            if own.contains_key(&pool.name) {
                let text = format!("{} of MetalLB is not used: there is an AddressPool of its name", pool.name);
                self.faults.push(text);
                continue;
            }
            if let Some(why) = pool.refused.first() {
                self.faults.push(format!("{} of MetalLB gives no address: {why}", pool.name));
                let before = kept(&pool)
                    .map_or_else(|| AddressPool { announce: Vec::new(), ..pool.clone() }, |kept| (*kept).clone());
                pool = AddressPool { refused: pool.refused, ..before };
            }
            if let Some(pod) = &self.runs {
                let why = format!("it is left to MetalLB, of which pod {pod} runs on this node");
                pool = AddressPool { announce: Vec::new(), refused: vec![why.into()], ..pool };
            }
            all.insert(pool.name.clone(), Row { value: Arc::new(pool), revision: Revision::default() });
        }
        all
    }
}

impl Tables {
    /// Whether all was read that pools come from: on Kubernetes MetalLB's objects are some of it.
    pub fn knows_pools(&self) -> bool {
        let beside = matches!(self.config.store, StoreConfig::Kubernetes(_));
        let mut others = MetallbKind::ALL.map(ObjectKind::Metallb).into_iter();
        self.cluster.knows(ObjectKind::AddressPool) && (!beside || others.all(|kind| self.cluster.knows(kind)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ripstop_objects::ClusterObject;

    use super::*;
    use crate::{Change, ClusterTables, ObjectInput};

    fn put(tables: &mut ClusterTables, kind: ObjectKind, text: &str) -> BTreeSet<Change> {
        let (object, _) = ClusterObject::decode(kind, text).unwrap();
        tables.apply(&ObjectInput::Put { object, revision: Revision(1) }, &"n1".parse().unwrap())
    }

    fn named(name: &str, spec: &str) -> String {
        format!(r#"{{"metadata": {{"namespace": "metallb-system", "name": "{name}"}}, "spec": {spec}}}"#)
    }

    fn shown(tables: &ClusterTables) -> Vec<(&str, bool, usize)> {
        let row = |row: &'_ Row<AddressPool>| (row.value.refused.is_empty(), row.value.announce.len());
        tables.pools.iter().map(|(name, pool)| (&**name, row(pool).0, row(pool).1)).collect()
    }

    #[test]
    fn its_pools_are_in_force_beside_ours_unless_it_runs_here() {
        let (pool, l2) = (ObjectKind::Metallb(MetallbKind::Pool), ObjectKind::Metallb(MetallbKind::L2));
        let is_news = BTreeSet::from([Change::Object(ObjectKind::AddressPool)]);
        let mut tables = ClusterTables::default();
        assert_eq!(put(&mut tables, pool, &named("a", r#"{"addresses": ["192.0.2.0/28"]}"#)), is_news);
        assert_eq!(put(&mut tables, l2, &named("all", "{}")), is_news);
        assert_eq!(put(&mut tables, l2, &named("all", "{}")), BTreeSet::new());
        assert_eq!(shown(&tables), [("a", true, 1)]);

        // One of ours goes before it.
        put(
            &mut tables,
            ObjectKind::AddressPool,
            r#"{"metadata": {"name": "a"}, "spec": {"addresses": ["198.51.100.0/28"]}}"#,
        );
        assert!(
            !tables.pools["a"].value.of_metallb && tables.metallb.faults[0].starts_with("a of MetalLB is not used")
        );
        let (own, revision) = (ObjectKind::AddressPool, Revision(2));
        tables.apply(&ObjectInput::Delete { kind: own, name: "a".into(), revision }, &"n1".parse().unwrap());
        assert!(tables.pools["a"].value.of_metallb && tables.metallb.faults.is_empty());

        // What is wrong with it leaves it as it was, and gives no more.
        put(
            &mut tables,
            pool,
            &named("a", r#"{"addresses": ["192.0.2.0/28"], "serviceAllocation": {"namespaces": ["No"]}}"#),
        );
        let before = tables.pools["a"].value.clone();
        assert_eq!(before.announce.len(), 1, "{before:?}");
        put(&mut tables, pool, &named("a", r#"{"addresses": ["192.0.2.0/28"]}"#));

        // Its speaker on this node has them.
        let speaker =
            r#"{"metadata": {"namespace": "metallb-system", "name": "speaker-x", "labels": {"app": "metallb"}}}"#;
        assert!(put(&mut tables, ObjectKind::Pod, speaker).is_superset(&is_news));
        assert_eq!(shown(&tables), [("a", false, 0)]);
        let kind = ObjectKind::Pod;
        let gone = ObjectInput::Delete { kind, name: "metallb-system/speaker-x".into(), revision };
        assert!(tables.apply(&gone, &"n1".parse().unwrap()).is_superset(&is_news));
        assert_eq!(shown(&tables), [("a", true, 1)]);
        let gone = ObjectInput::Delete { kind: pool, name: "metallb-system/a".into(), revision };
        assert_eq!(tables.apply(&gone, &"n1".parse().unwrap()), is_news);
        assert!(tables.pools.is_empty());
    }
}
