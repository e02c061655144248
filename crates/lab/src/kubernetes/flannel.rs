//! Real flanneld between the nodes, as its own manifest has it (flannel, `Documentation/kube-flannel.yml`): a DaemonSet that
//! keeps its subnets in Kubernetes.
//!
//! The program and the iptables that it runs come from the host. Not here: each node's list of plugins, which the lab
//! writes as flannel's plugin would make of it, since that plugin is not built.

use std::path::Path;

use serde_json::{Value, json};

use super::network::Network;
use crate::images;
use crate::options::Options;

/// Where its objects are.
const NAMESPACE: &str = "kube-flannel";

/// All objects as one list.
pub fn list(options: &Options, flanneld: &Path) -> Value {
    let meta = |name: &str| json!({ "name": name, "namespace": NAMESPACE, "labels": { "k8s-app": "flannel" } });
    let config = json!({ "Network": Network(options.families).pods(), "Backend": { "Type": "vxlan" } });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } },
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("flannel") },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "flannel" },
            "rules": [
                { "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] },
                { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] },
                { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "flannel" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "flannel" },
            "subjects": [{ "kind": "ServiceAccount", "name": "flannel", "namespace": NAMESPACE }],
        },
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("kube-flannel-cfg"),
            "data": { "net-conf.json": config.to_string() },
        },
        daemon_set(&meta("kube-flannel-ds"), flanneld),
    ] })
}

fn daemon_set(meta: &Value, flanneld: &Path) -> Value {
    let labels = json!({ "app": "flannel" });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let host = |name: &str, path: &str, kind: &str| json!({ "name": name, "hostPath": { "path": path, "type": kind } });
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path });
    let linux = json!({ "key": "kubernetes.io/os", "operator": "In", "values": ["linux"] });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta,
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{ "matchExpressions": [linux] }],
                    } } },
                    "hostNetwork": true, "priorityClassName": "system-node-critical", "serviceAccountName": "flannel",
                    "tolerations": [{ "operator": "Exists", "effect": "NoSchedule" }],
                    "containers": [{
                        "name": "kube-flannel", "image": images::NETWORK_TOOLS,
                        "command": ["/opt/bin/flanneld"],
                        "args": ["--ip-masq", "--kube-subnet-mgr", "--iface=eth0"],
                        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
                        "securityContext": { "privileged": false, "capabilities": { "add": ["NET_ADMIN", "NET_RAW"] } },
                        "volumeMounts": [
                            mount("flanneld", "/opt/bin/flanneld"), mount("run", "/run/flannel"),
                            mount("config", "/etc/kube-flannel/"), mount("lock", "/run/xtables.lock"),
                            mount("programs", "/usr"), mount("alternatives", "/etc/alternatives"),
                        ],
                    }],
                    "volumes": [
                        host("flanneld", &flanneld.display().to_string(), "File"),
                        host("run", "/run/flannel", "DirectoryOrCreate"),
                        host("programs", "/usr", "Directory"),
                        host("alternatives", "/etc/alternatives", "Directory"),
                        { "name": "config", "configMap": { "name": "kube-flannel-cfg" } },
                        host("lock", "/run/xtables.lock", "FileOrCreate"),
                    ],
                },
            },
        },
    })
}
