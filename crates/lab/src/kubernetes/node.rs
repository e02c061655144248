//! A node: what containerd, kubelet and kube-proxy are told, and the CNI plugins it has.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, setxattr};
use serde_json::{Value, json};

use super::network::{Network, addresses};
use crate::error::{Attempt, Result};
use crate::images;
use crate::options::Families;
use crate::state::Machine;

/// The runtime's socket in every node.
pub const RUNTIME: &str = "/run/containerd/containerd.sock";
/// Where the runtime tells its own metrics, below `/v1/metrics`, in every node.
pub const RUNTIME_METRICS: &str = "127.0.0.1:1338";
/// Where a node's list of plugins lies.
pub const LISTS: &str = "etc/cni/net.d";
/// The name of the list.
pub const LIST: &str = "10-lab.conflist";
/// Where Debian has the CNI project's plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// Global settings of the host that kubelet would write, and the values it wants (`setupKernelTunables`).
pub fn sysctls() -> BTreeMap<String, String> {
    let wanted = [
        ("vm/overcommit_memory", "1"),
        ("vm/panic_on_oom", "0"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
        ("kernel/keys/root_maxkeys", "1000000"),
        ("kernel/keys/root_maxbytes", "25000000"),
    ];
    wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// What lies in a node's folders before it boots.
pub struct Furniture<'a> {
    /// The machine's folder.
    pub dir: &'a Path,
    /// The cluster's folder.
    pub cluster: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// Its addresses.
    pub machine: &'a Machine,
    /// The families of pods.
    pub families: Families,
}

impl Furniture<'_> {
    /// Writes all of it.
    pub fn write(&self) -> Result<()> {
        let upper = self.dir.join("upper");
        for folder in [LISTS, "etc", "opt/cni/bin", "var/lib"] {
            let folder = upper.join(folder);
            fs::create_dir_all(&folder).attempt(|| format!("make {}", folder.display()))?;
        }
        // The host's own lists are no node's: an overlay hides what lies below an opaque folder.
        let lists = upper.join(LISTS);
        setxattr(&lists, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .attempt(|| format!("hide the host's {LISTS}"))?;
        // Nothing beyond the cluster answers, so nobody shall be asked.
        put(&upper.join("etc/resolv.conf"), "")?;
        put(&self.path("containerd.toml"), &containerd())?;
        put(&self.path("kubelet.yaml"), &format!("{:#}\n", self.kubelet()))?;
        put(&self.path("kube-proxy.yaml"), &format!("{:#}\n", self.proxy()))?;
        plugins(&upper.join("opt/cni/bin"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Arguments of kubelet.
    pub fn kubelet_args(&self) -> Vec<String> {
        let node = self.machine.number();
        vec![
            format!("--config={}", self.path("kubelet.yaml").display()),
            format!("--kubeconfig={}", self.cluster.join(format!("{}.conf", self.name)).display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", addresses(self.machine)),
            "--root-dir=/var/lib/kubelet".into(),
            "--cert-dir=/var/lib/kubelet/pki".into(),
            format!("--node-labels=topology.kubernetes.io/zone=zone-{}", (node - 1) % 3 + 1),
        ]
    }

    /// Arguments of containerd.
    pub fn containerd_args(&self) -> Vec<String> {
        vec!["--config".into(), self.path("containerd.toml").display().to_string(), "--log-level".into(), "warn".into()]
    }

    /// Arguments of kube-proxy.
    pub fn proxy_args(&self) -> Vec<String> {
        vec![format!("--config={}", self.path("kube-proxy.yaml").display())]
    }

    fn kubelet(&self) -> Value {
        let file = |end: &str| self.cluster.join(format!("{}.{end}", self.name));
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.cluster.join("ca.pem") },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": file("pem"),
            "tlsPrivateKeyFile": file("key"),
            "clusterDomain": "cluster.local",
            "clusterDNS": Network(self.families).dns(),
            "resolvConf": "/etc/resolv.conf",
            "containerRuntimeEndpoint": format!("unix://{RUNTIME}"),
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            // Root of a machine may lack the right to make it less.
            "oomScoreAdj": 0,
            "serializeImagePulls": false,
            // There is nowhere to get an image again.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "1%", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
            },
        })
    }

    fn proxy(&self) -> Value {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": { "kubeconfig": self.cluster.join("kube-proxy.conf") },
            "hostnameOverride": self.name,
            "clusterCIDR": Network(self.families).pods(),
            // Not writable outside the host's own network namespace.
            "conntrack": { "maxPerCore": 0, "min": 0 },
        })
    }
}

/// The CNI project's plugins, as a distribution's packages bring them to a node.
fn plugins(folder: &Path) -> Result<()> {
    for name in ["bridge", "host-local", "loopback", "portmap"] {
        let link = folder.join(name);
        match symlink(Path::new(PLUGINS).join(name), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).attempt(|| format!("make {}", link.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The list of the CNI project's plugins, for a node with these ranges.
pub fn reference_list(name: &str, ranges: &[String], mtu: Option<u32>) -> Value {
    let ranges: Vec<Value> = ranges.iter().map(|range| json!([{ "subnet": range }])).collect();
    let mut bridge = json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
        "ipMasq": false, "ipam": { "type": "host-local", "ranges": ranges },
    });
    if let Some(mtu) = mtu {
        bridge["mtu"] = mtu.into();
    }
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
    json!({ "cniVersion": "0.4.0", "name": name, "plugins": [bridge, portmap] })
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{RUNTIME}"
[metrics]
address = "{RUNTIME_METRICS}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# A host's root user may lack the right to lower a process's chance of being killed.
restrict_oom_score_adj = true
# It would load a profile into the host's kernel, where that stayed.
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/{LISTS}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
        pause = images::PAUSE,
    )
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).attempt(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_carry_what_the_node_owns() {
        let list = reference_list("reference", &["10.244.1.0/24".into(), "fd00:244:0:1::/64".into()], Some(1450));
        assert_eq!(list["plugins"][0]["mtu"], 1450);
        assert_eq!(list["plugins"][0]["ipam"]["ranges"][1], json!([{ "subnet": "fd00:244:0:1::/64" }]));
    }
}
