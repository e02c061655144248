//! A real Kubernetes on the machines of a lab: Kubernetes' own programs, containerd, CoreDNS, and the product or the CNI
//! project's plugins between the pods.
//!
//! A [`Cluster`] says what each machine needs; machines, cables, the store (etcd) and everything that takes them away are
//! the lab's as ever. What needs a running API comes in [`complete`](Cluster::complete).
//!
//! Invariants: all of it lies in the lab's folders and its machines' namespaces; no setting of the host is changed, since
//! the files that kubelet would write show what it wants.

mod addons;
mod bringup;
mod certificates;
mod client;
mod connect;
mod control;
mod flannel;
mod network;
mod node;
mod product;
mod programs;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use certificates::{Authority, Subject};

pub(crate) use network::Network;
use node::Furniture;
pub use node::RUNTIME_METRICS;
pub use programs::kubernetes as kubernetes_programs;

use crate::error::{Attempt, LabError, Result};
use crate::init::{AgentCommand, ContainerHost, Program};
use crate::lab::Lab;
use crate::layout::{CONTROL, Layout};
use crate::options::{Cni, Families, Kubernetes, Options, Proxy, StoreKind};
use crate::state::{Machine, State};

/// A lab's cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cluster<'a> {
    layout: &'a Layout,
    options: &'a Options,
    kubernetes: &'a Kubernetes,
}

impl<'a> Cluster<'a> {
    /// The cluster of a lab, if it has one.
    pub fn of(layout: &'a Layout, state: &'a State) -> Option<Self> {
        let options = &state.options;
        options.kubernetes.as_ref().map(|kubernetes| Self { layout, options, kubernetes })
    }

    /// Makes the folders, the authority and what it signs for the control plane.
    pub fn prepare(&self) -> Result<()> {
        let (dir, server) = (self.dir(), Network(self.options.families).server());
        // What a lab of this name left before the host was started anew.
        let _ = fs::remove_dir_all(self.layout.disk());
        fs::create_dir_all(self.layout.disk()).attempt(|| format!("make {}", self.layout.disk().display()))?;
        let authority = Authority::create(&dir)?;
        let names = control::names(self.options);
        authority.sign(&Subject { file: "kube-apiserver", user: "kube-apiserver", group: None, names: &names })?;
        let clients = [
            ("admin", "admin", Some("system:masters")),
            ("kube-controller-manager", "system:kube-controller-manager", None),
            ("kube-scheduler", "system:kube-scheduler", None),
            ("kube-proxy", "system:kube-proxy", None),
        ];
        for (file, user, group) in clients {
            authority.client(&Subject { file, user, group, names: &[] }, &server)?;
        }
        Ok(())
    }

    /// Writes what a machine needs before it boots.
    pub fn furnish(&self, name: &str, machine: &Machine) -> Result<()> {
        if machine.node.is_none() {
            return Ok(());
        }
        let names: Vec<String> =
            [name.to_owned()].into_iter().chain(machine.addresses().map(|ip| ip.to_string())).collect();
        let user = format!("system:node:{name}");
        let subject = Subject { file: name, user: &user, group: Some("system:nodes"), names: &names };
        Authority::open(&self.dir())?.client(&subject, &Network(self.options.families).server())?;
        let dir = self.layout.machine_dir(name);
        self.furniture(name, machine, &dir, &self.dir()).write()
    }

    /// What a machine has of its own where containers run on it.
    pub fn host(&self, name: &str, machine: &Machine) -> Option<ContainerHost> {
        machine.node.map(|_| ContainerHost {
            group: self.layout.netns(name),
            disk: self.layout.disk().join(name),
            sysctls: node::sysctls(),
        })
    }

    /// What a machine runs from its start. The controllers are not among it: they end where the API is not ready.
    pub fn programs(&self, name: &str, machine: &Machine) -> BTreeMap<Program, AgentCommand> {
        let command = |program, args| (program, control::command(self.kubernetes, program, args));
        let mut programs = BTreeMap::new();
        if name == CONTROL {
            programs.extend([command(Program::KubeApiserver, control::apiserver(self.options, &self.dir()))]);
        }
        if machine.node.is_none() {
            return programs;
        }
        let (dir, cluster) = (self.layout.machine_dir(name), self.dir());
        let node = self.furniture(name, machine, &dir, &cluster);
        let containerd = AgentCommand {
            argv: ["containerd".to_owned()].into_iter().chain(node.containerd_args()).collect(),
            env: control::environment(),
        };
        programs.extend([(Program::Containerd, containerd), command(Program::Kubelet, node.kubelet_args())]);
        if self.kubernetes.proxy == Proxy::KubeProxy {
            programs.extend([command(Program::KubeProxy, node.proxy_args())]);
        }
        programs
    }

    /// What follows once the API is ready.
    fn controllers(&self) -> [(Program, AgentCommand); 2] {
        let dir = self.dir();
        let command = |program, args| (program, control::command(self.kubernetes, program, args));
        [
            command(Program::KubeControllerManager, control::controllers(self.options, self.kubernetes, &dir)),
            command(Program::KubeScheduler, control::scheduler(&dir)),
        ]
    }

    fn furniture<'b>(&self, name: &'b str, machine: &'b Machine, dir: &'b Path, cluster: &'b Path) -> Furniture<'b> {
        Furniture { dir, cluster, name, machine, families: self.options.families }
    }

    fn dir(&self) -> PathBuf {
        network::folder(self.layout)
    }
}

impl Options {
    /// The same lab with a Kubernetes on it: etcd is its store, and agents run in its pods, not on the machines. The
    /// programs are found, and the images made where they are not in the cache yet.
    pub fn with_kubernetes(self, cni: Cni) -> Result<Self> {
        if cni == Cni::Flannel && self.families != Families::V4 {
            return Err(LabError::usage("--cni flannel is for --family 4"));
        }
        let kubernetes = programs::find(cni)?;
        Ok(Self { store: StoreKind::Etcd, agents: false, kubernetes: Some(kubernetes), ..self })
    }

    /// The same with this proxy.
    pub fn served_by(mut self, proxy: Proxy) -> Result<Self> {
        if let Some(kubernetes) = &mut self.kubernetes {
            if proxy != Proxy::KubeProxy && kubernetes.cni != Cni::Ripstop {
                return Err(LabError::usage("a --proxy of the product's is for --cni ripstop"));
            }
            kubernetes.proxy = proxy;
        }
        Ok(self)
    }
}

impl Lab {
    /// The file by which clients speak to the API as its administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        client::admin(self.layout())
    }

    /// kubectl with the arguments that make it the administrator's.
    pub fn kubectl(&self) -> Result<Vec<OsString>> {
        client::argv(self)
    }
}
