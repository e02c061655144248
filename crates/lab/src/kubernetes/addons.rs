//! What a cluster gets besides its own programs: rights for the proxy, and CoreDNS.

use serde_json::{Value, json};

use super::network::Network;
use crate::images;
use crate::options::Options;

const CORE_FILE: &str = "\
.:53 {
  errors
  health
  ready
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    pods insecure
    fallthrough in-addr.arpa ip6.arpa
    ttl 30
  }
  cache 30
  loadbalance
}
";

/// All objects as one list.
pub fn list(options: &Options) -> Value {
    let binding = |name: &str, role: &str, subject: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [subject],
        })
    };
    let proxy = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy" });
    let dns = json!({ "kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system" });
    let watch = ["list", "watch"];
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        binding("lab:kube-proxy", "system:node-proxier", proxy),
        binding("lab:coredns", "lab:coredns", dns),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "lab:coredns" },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": watch },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch },
            ],
        },
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": dns_meta("coredns") },
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": dns_meta("coredns"), "data": { "Corefile": CORE_FILE } },
        service(options),
        deployment(options),
    ] })
}

fn dns_meta(name: &str) -> Value {
    json!({ "name": name, "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } })
}

/// The Service bears the name that the cluster's tests look for.
fn service(options: &Options) -> Value {
    let addresses = Network(options.families).dns();
    let port = |name: &str, protocol: &str, port: u16| json!({ "name": name, "protocol": protocol, "port": port });
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": dns_meta("kube-dns"),
        "spec": {
            "selector": { "k8s-app": "kube-dns" }, "clusterIP": addresses[0], "clusterIPs": addresses,
            "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", 9153)],
        },
    })
}

fn deployment(options: &Options) -> Value {
    let labels = json!({ "k8s-app": "kube-dns" });
    let probe = |path: &str, port: u16, period: u32| json!({ "httpGet": { "path": path, "port": port }, "periodSeconds": period, "timeoutSeconds": 5 });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": dns_meta("coredns"),
        "spec": {
            "replicas": options.nodes.min(2), "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "serviceAccountName": "coredns", "dnsPolicy": "Default", "priorityClassName": "system-cluster-critical",
                    "tolerations": [{ "operator": "Exists" }],
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": { "matchLabels": labels },
                    }],
                    "containers": [{
                        "name": "coredns", "image": images::COREDNS, "args": ["-conf", "/etc/coredns/Corefile"],
                        "ports": [{ "containerPort": 53, "protocol": "UDP" }, { "containerPort": 53, "protocol": "TCP" }],
                        "readinessProbe": probe("/ready", 8181, 1), "livenessProbe": probe("/health", 8080, 10),
                        "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns" }],
                    }],
                    "volumes": [{ "name": "config", "configMap": { "name": "coredns" } }],
                },
            },
        },
    })
}
