//! Pods: a namespace held by a sandbox process, attached by the real plugin.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::clean::LOCK_LIMIT;
use crate::error::{LabError, Result};
use crate::init::{Role, Spec};
use crate::lab::Lab;
use crate::layout::{self, Layout, reserved};
use crate::lock::{Hold, Lock};
use crate::machine::{END_LIMIT, POD_SPACES, start_init};
use crate::places;
use crate::process::{self, ProcessId};
use crate::runtime;
use crate::space::{self, Place};
use crate::state::{Pod, State};

/// What a pod is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodSpec {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its Kubernetes namespace; empty: `default`.
    pub namespace: String,
    /// Its node's number.
    pub node: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Arguments for the plugin's capabilities (`ips`, `mac`, `bandwidth`, …).
    pub capability_args: BTreeMap<String, serde_json::Value>,
}

impl PodSpec {
    /// A pod on a node, in the namespace `default`, without labels.
    #[must_use]
    pub fn new(name: &str, node: u32) -> Self {
        Self { name: name.into(), node, ..Self::default() }
    }
}

impl Pod {
    /// Its addresses; none before it is attached.
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        self.attachment.as_ref().map_or(&[], |attachment| &attachment.ips)
    }
}

impl Lab {
    /// Makes a pod: namespace, sandbox process, CNI ADD. A pod that fails is removed again. In a lab without agents the
    /// pod is left without an interface.
    pub fn pod_add(&self, spec: &PodSpec) -> Result<Pod> {
        let _lock = self.share()?;
        if self.state()?.options.kubernetes.is_some() {
            return Err(LabError::usage("pods of this lab are made by its Kubernetes: ripstop lab k8s kubectl"));
        }
        let pod = self.record_pod(spec)?;
        let made = self.make_pod(&pod);
        if made.is_err() {
            // What failed first is what the caller hears of.
            let _ = self.unmake_pod(&pod);
        }
        made
    }

    /// Detaches and removes a pod. If the plugin refuses, the pod stays, so that it can be tried again.
    pub fn pod_del(&self, name: &str) -> Result<()> {
        let _lock = self.share()?;
        let state = self.state()?;
        let pod = state.pod(name)?.clone();
        self.kill_in_pod(&pod, pod.sandbox);
        if state.options.agents && state.node(pod.node).is_ok_and(|node| node.init.is_some()) {
            runtime::del(self, &pod)?;
        }
        self.forget_pod(&pod)
    }

    /// Removes a pod without telling anyone: a runtime that lost its DEL.
    pub fn pod_lose(&self, name: &str) -> Result<()> {
        let _lock = self.share()?;
        let pod = self.state()?.pod(name)?.clone();
        self.forget_pod(&pod)
    }

    /// Asks the plugin whether a pod is attached as its result says: CNI CHECK.
    pub fn pod_check(&self, name: &str) -> Result<()> {
        runtime::check(self, &self.pod(name)?)
    }

    /// The pods by name.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        Ok(self.state()?.pods.into_values().collect())
    }

    /// One pod.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.state()?.pod(name).cloned()
    }

    /// Ends all pods of a node and forgets them, as a power cut does.
    pub(crate) fn drop_pods_of(&self, node: u32) -> Result<()> {
        for pod in self.pods()?.iter().filter(|pod| pod.node == node) {
            self.forget_pod(pod)?;
        }
        Ok(())
    }

    fn share(&self) -> Result<Lock> {
        if !self.layout.dir().exists() {
            // Without this, the lock would leave a file of a lab that is not there.
            self.state()?;
        }
        Lock::take(&self.layout.lock_file(), Hold::Shared, LOCK_LIMIT)
    }

    fn record_pod(&self, spec: &PodSpec) -> Result<Pod> {
        check_name(&self.layout, spec)?;
        let namespace = if spec.namespace.is_empty() { "default" } else { &spec.namespace };
        ripstop_types::validate_dns_name("a namespace", namespace)
            .map_err(|error| LabError::usage(error.to_string()))?;
        State::update(&self.layout, |state| {
            if let Some(there) = state.pods.get(&spec.name) {
                let (namespace, name, node) = (&there.namespace, &there.name, there.node);
                return Err(LabError::failed(format!("pod {name} exists: {namespace}/{name} on n{node}")));
            }
            if state.node(spec.node)?.init.is_none() {
                return Err(LabError::failed(format!("n{} is switched off", spec.node)));
            }
            state.containers += 1;
            let pod = Pod {
                namespace: namespace.to_owned(),
                name: spec.name.clone(),
                node: spec.node,
                labels: spec.labels.clone(),
                netns: self.layout.netns_path(&spec.name).display().to_string(),
                container: format!("{}-{}-{}", state.lab, spec.name, state.containers),
                sandbox: None,
                capability_args: spec.capability_args.clone(),
                result: None,
                attachment: None,
            };
            state.pods.insert(pod.name.clone(), pod.clone());
            Ok(pod)
        })
    }

    fn make_pod(&self, pod: &Pod) -> Result<Pod> {
        space::netns_add(&self.layout.netns(&pod.name))?;
        let sandbox = self.start_sandbox(pod)?;
        let agents = State::update(&self.layout, |state| {
            if let Some(pod) = state.pods.get_mut(&pod.name) {
                pod.sandbox = Some(sandbox);
            }
            Ok(state.options.agents)
        })?;
        let answer = if agents { Some(runtime::add(self, pod)?) } else { None };
        State::update(&self.layout, |state| {
            let pod = state.pods.get_mut(&pod.name).ok_or_else(|| LabError::failed(format!("{} is gone", pod.name)))?;
            (pod.result, pod.attachment) = answer.unzip();
            Ok(pod.clone())
        })
    }

    fn start_sandbox(&self, pod: &Pod) -> Result<ProcessId> {
        let node = layout::node_name(pod.node);
        let place = Place::beside(self.init_of(&node)?)?;
        let place = place.in_netns(&self.layout.netns_path(&pod.name))?.with_new(POD_SPACES);
        let spec = Spec {
            lab: self.layout.lab().into(),
            name: pod.name.clone(),
            role: Role::Pod,
            dir: self.layout.dir().into(),
            programs: BTreeMap::new(),
            host: None,
        };
        start_init(&self.programs.ripstop, &place, &spec, &self.layout.machine_dir(&node).join("pods.log"))
    }

    fn unmake_pod(&self, pod: &Pod) -> Result<()> {
        let agents = self.state()?.options.agents;
        let detached = if agents { runtime::del(self, pod) } else { Ok(()) };
        self.forget_pod(pod).and(detached)
    }

    /// Kills what runs in a pod, gives up its namespace, and strikes it off the record.
    fn forget_pod(&self, pod: &Pod) -> Result<()> {
        self.kill_in_pod(pod, None);
        if let Some(sandbox) = pod.sandbox {
            process::reap(sandbox.pid);
        }
        space::netns_del(&self.layout.netns(&pod.name))?;
        State::update(&self.layout, |state| {
            state.pods.remove(&pod.name);
            Ok(())
        })
    }

    /// Kills every process in a pod's namespace but one.
    fn kill_in_pod(&self, pod: &Pod, spared: Option<ProcessId>) {
        let inode = space::netns_inode(&self.layout.netns(&pod.name));
        let mut found = process::in_namespaces(&inode.into_iter().collect());
        if let Some(spared) = spared {
            found.remove(&spared);
        }
        process::kill_all(&found, END_LIMIT);
    }
}

fn check_name(layout: &Layout, spec: &PodSpec) -> Result<()> {
    let name = &spec.name;
    ripstop_types::validate_dns_name("a pod name", name).map_err(|error| LabError::usage(error.to_string()))?;
    if reserved(name) {
        return Err(LabError::usage(format!("{name:?} is the name of a machine of the lab, so no pod can have it")));
    }
    if name.len() > 63 {
        return Err(LabError::usage(format!(
            "{name:?} has more than 63 characters, which is what a host name may have"
        )));
    }
    let full = layout.netns(name);
    let known = places::known_labs();
    let other = known.iter().find(|lab| *lab != layout.lab() && full.starts_with(&Layout::new(lab).prefix()));
    let longer = other.filter(|lab| lab.len() > layout.lab().len());
    match longer {
        Some(lab) => {
            Err(LabError::usage(format!("the name {full} would belong to lab {lab:?}; choose another pod name")))
        }
        None => Ok(()),
    }
}
