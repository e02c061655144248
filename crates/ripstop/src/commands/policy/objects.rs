//! What policies hang on, out of files as people write them and as `kubectl get -o yaml` or `-o json` prints them.
//!
//! A file of manifests seldom says all: pods have no addresses yet, workloads are there instead of pods, and namespaces are only named.
//! What is missing is made up so that every policy can be asked, and said on standard error where it makes a difference.
//!
//! Objects of other kinds are passed over: nothing of a policy depends on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::{
    ClusterObject, Faults, KubeNamespace, KubeNode, KubePod, NAMESPACE_NAME_LABEL, ObjectKind, ObjectLabels,
};
use ripstop_policy::Policies;
use ripstop_types::{NamespacedName, NodeName, PodName};
use serde_json::{Value, json};

use crate::commands::manifest;
use crate::failure::Failure;
use crate::print::talk;
use crate::print::text::escaped;

/// The longest file of objects; a large cluster's pods are some hundred megabytes.
const MAX_FILE: u64 = 512 << 20;

/// Where addresses begin of pods that have none in the files. The block is reserved (RFC 1112, section 4), so that no block of a policy
/// means it.
const MADE_UP: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 0);

/// Files of objects.
#[derive(Debug, Clone)]
pub struct Files {
    /// Their names; - is standard input.
    pub files: Vec<String>,
}

/// Everything that policies hang on.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    pub nodes: BTreeMap<NodeName, KubeNode>,
    pub namespaces: BTreeMap<Arc<str>, KubeNamespace>,
    pub pods: BTreeMap<PodName, KubePod>,
    /// Addresses of pods whose labels are not known.
    pub closed: BTreeMap<PodName, Vec<IpAddr>>,
    pub policies: BTreeMap<NamespacedName, NetworkPolicy>,
    pub cluster_policies: BTreeMap<Arc<str>, ClusterNetworkPolicy>,
}

impl Files {
    /// What the files say, complete.
    ///
    /// # Errors
    /// A file that cannot be read, and all objects in any of them that cannot be.
    pub fn read(&self) -> Result<Objects, Failure> {
        let mut objects = Objects::read(&self.files)?;
        objects.complete();
        Ok(objects)
    }
}

impl Objects {
    /// What files say and no more. Of an object that comes twice the last counts, as if they were applied one after the other.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub fn read(files: &[String]) -> Result<Self, Failure> {
        let (mut objects, mut wrong) = (Self::default(), Vec::new());
        for file in files {
            let text = manifest::read(file, MAX_FILE)?;
            let name = if file == "-" { "standard input".to_owned() } else { escaped(file, false) };
            for (place, value) in
                documents(&text).map_err(|why| Failure::Failed(format!("{name}: {why}")))?.iter().enumerate()
            {
                objects.take(value, &format!("{name}: document {}", place + 1), &mut wrong);
            }
        }
        match wrong.is_empty() {
            true if objects.is_empty() => Err(Failure::Failed(format!(
                "{}: found no object that policies hang on, accepted: NetworkPolicy, ClusterNetworkPolicy, Namespace, Pod, Node, and \
                 workloads with a pod's template",
                files.join(", ")
            ))),
            true => Ok(objects),
            false => Err(Failure::Failed(wrong.join("\n"))),
        }
    }

    fn is_empty(&self) -> bool {
        let policies = self.policies.is_empty() && self.cluster_policies.is_empty();
        policies && self.nodes.is_empty() && self.namespaces.is_empty() && self.pods.is_empty()
    }

    /// The same with objects of another, which replace those of their names.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.nodes.extend(others.nodes);
        self.namespaces.extend(others.namespaces);
        self.pods.extend(others.pods);
        self.policies.extend(others.policies);
        self.cluster_policies.extend(others.cluster_policies);
        self
    }

    /// The tables of a node; without one, of all nodes.
    #[must_use]
    pub fn policies(&self, of: Option<NodeName>) -> Policies {
        let mut policies = Policies::new(of);
        self.nodes.values().for_each(|node| policies.put_node(node));
        self.namespaces.values().for_each(|namespace| policies.put_namespace(namespace));
        self.pods.values().for_each(|pod| policies.put_pod(pod));
        self.closed.iter().for_each(|(name, ips)| policies.put_closed(name, ips));
        self.policies.values().for_each(|policy| policies.put_policy(policy));
        self.cluster_policies.values().for_each(|policy| policies.put_cluster_policy(policy));
        policies.decide();
        policies
    }

    /// The pods that have addresses of their own, by these.
    #[must_use]
    pub fn names(&self) -> BTreeMap<IpAddr, &PodName> {
        let pods = self.pods.values().filter(|pod| !pod.host_network && !pod.has_finished());
        let pods = pods.flat_map(|pod| pod.ips.iter().map(move |ip| (*ip, &pod.name)));
        pods.chain(self.closed.iter().flat_map(|(name, ips)| ips.iter().map(move |ip| (*ip, name)))).collect()
    }

    fn take(&mut self, value: &Value, place: &str, wrong: &mut Vec<String>) {
        let kind = value["kind"].as_str().unwrap_or_default();
        if kind == "List" || kind.ends_with("List") && value["items"].is_array() {
            for (item, value) in value["items"].as_array().into_iter().flatten().enumerate() {
                // Items of a list of one kind need not say it.
                let mut value = value.clone();
                if value["kind"].is_null() && value.is_object() {
                    value["kind"] = kind.trim_end_matches("List").into();
                }
                self.take(&value, &format!("{place}: items[{item}]"), wrong);
            }
            return;
        }
        if let Err(why) = self.take_one(kind, value) {
            wrong.push(format!("{place}: {}", escaped(&why, false)));
        }
    }

    fn take_one(&mut self, kind: &str, value: &Value) -> Result<(), String> {
        match kind {
            "NetworkPolicy" => {
                let (policy, faults) = NetworkPolicy::from_value(value)?;
                warn(&faults);
                self.policies.insert(policy.name.clone(), policy);
            }
            "ClusterNetworkPolicy" => {
                let (policy, faults) = ClusterNetworkPolicy::from_value(value)?;
                warn(&faults);
                self.cluster_policies.insert(policy.name.clone(), policy);
            }
            "Namespace" => self.take_object(ObjectKind::Namespace, value)?,
            "Node" => self.take_object(ObjectKind::Node, value)?,
            "Pod" => self.take_object(ObjectKind::Pod, &with_defaults(value.clone()))?,
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
                self.take_object(ObjectKind::Pod, &pod_of(value, &value["spec"]["template"]))?;
            }
            "CronJob" => {
                self.take_object(ObjectKind::Pod, &pod_of(value, &value["spec"]["jobTemplate"]["spec"]["template"]))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn take_object(&mut self, kind: ObjectKind, value: &Value) -> Result<(), String> {
        let (object, faults) = ClusterObject::from_value(kind, value)?;
        warn(&faults);
        match object {
            ClusterObject::Namespace(namespace) => drop(self.namespaces.insert(namespace.name.clone(), namespace)),
            ClusterObject::Node(node) => drop(self.nodes.insert(node.name.clone(), node)),
            ClusterObject::Pod(pod) => drop(self.pods.insert(pod.name.clone(), *pod)),
            _ => {}
        }
        Ok(())
    }

    /// Gives pods that have none an address, and namespaces that are only named their name.
    pub fn complete(&mut self) {
        let of_pods = self.pods.keys().map(|name| &name.namespace);
        let named: BTreeSet<&Arc<str>> = of_pods.chain(self.policies.keys().map(|name| &name.namespace)).collect();
        let missing = named.into_iter().filter(|name| !self.namespaces.contains_key(*name));
        let missing: Vec<Arc<str>> = missing.cloned().collect();
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|name| escaped(name, false)).collect();
            talk(&format!("no Namespace object for {}: taken to have no labels but the name", names.join(", ")));
        }
        self.namespaces.extend(missing.into_iter().map(|name| {
            let labels = ObjectLabels::from([(NAMESPACE_NAME_LABEL.into(), name.clone())]);
            (name.clone(), KubeNamespace { name, labels })
        }));
        let taken: BTreeSet<IpAddr> = self.pods.values().flat_map(|pod| pod.ips.iter().copied()).collect();
        let mut free = (1..).map(|place| IpAddr::from(Ipv4Addr::from_bits(MADE_UP.to_bits() + place)));
        let without =
            self.pods.values_mut().filter(|pod| pod.ips.is_empty() && !pod.host_network && !pod.has_finished());
        for pod in without {
            pod.ips.extend(free.by_ref().find(|ip| !taken.contains(ip)));
        }
    }

    /// Whether a pod's address was made up.
    #[must_use]
    pub fn is_made_up(ip: &IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if ip.to_bits() >= MADE_UP.to_bits())
    }
}

/// The documents of a text: JSON, one or several behind each other, or YAML.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    if text.trim_start().starts_with('{') {
        let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(json) = json {
            return Ok(json);
        }
    }
    let yaml: Result<Vec<Value>, _> = serde_saphyr::from_multiple(text);
    yaml.map(|all| all.into_iter().filter(|one| !one.is_null()).collect()).map_err(|error| {
        format!(
            "found text that is neither JSON nor YAML ({}), accepted: manifests",
            escaped(&error.to_string(), false)
        )
    })
}

fn warn(faults: &Faults) {
    faults.iter().for_each(|fault| {
        talk(&format!("warning: {}; what cannot be read permits nothing", escaped(&fault.to_string(), false)))
    });
}

/// A pod as it is written has no UID, no phase, and perhaps no namespace.
fn with_defaults(mut pod: Value) -> Value {
    // What has no metadata has no name, which reading it tells.
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        if metadata.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty) {
            metadata.insert("namespace".into(), "default".into());
        }
        metadata.entry("uid").or_insert_with(|| "".into());
    }
    pod
}

/// A pod as a workload makes them, under the workload's name.
fn pod_of(workload: &Value, template: &Value) -> Value {
    let (namespace, name) = (&workload["metadata"]["namespace"], &workload["metadata"]["name"]);
    let labels = &template["metadata"]["labels"];
    with_defaults(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": if labels.is_null() { json!({}) } else { labels.clone() }},
        "spec": template["spec"],
    }))
}
