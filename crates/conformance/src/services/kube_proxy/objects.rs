//! What is told to the API server and to kube-proxy: a case's objects as they are accepted there, the node, the settings.
//!
//! A case leaves out what says nothing about it; here it is put in. Nothing that a case says is changed.

use std::net::IpAddr;

use ripstop_oracle::services::health::HEALTHZ_PORT;
use ripstop_oracle::services::{DetectLocal, NodePortAddresses, World};
use ripstop_types::{Family, Prefix};
use serde_json::{Map, Value, json};

use super::Mode;

/// The Service by which it is seen that all before it is in the rules: its port and its endpoints' change together.
pub const CANARY: &str = "canary";
/// Its namespace, which no case has.
pub const NAMESPACE: &str = "conformance";
/// Its addresses, and its endpoints'.
pub const CANARY_IPS: [&str; 2] = ["10.96.255.254", "fd00:96::fffe"];
pub const CANARY_ENDPOINTS: [&str; 2] = ["10.244.9.9", "fd00:244:9::9"];
/// The taint of a node that is about to go (KEP-3836).
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// One object, ready for the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its collection's path.
    pub collection: String,
    /// Its name.
    pub name: String,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// All but its status.
    pub body: Value,
    /// Its status, which is told apart.
    pub status: Option<Value>,
}

impl Object {
    pub fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    /// An object as a case has it.
    pub fn of(case: &Value) -> Option<Self> {
        let mut body = case.clone();
        let is_service = case["kind"] == "Service";
        let (group, kind) =
            if is_service { ("api/v1", "services") } else { ("apis/discovery.k8s.io/v1", "endpointslices") };
        let metadata = body["metadata"].as_object_mut()?;
        // The API server gives it.
        metadata.remove("uid");
        let name = metadata.get("name")?.as_str()?.to_owned();
        let namespace = metadata.entry("namespace").or_insert("default".into()).as_str()?.to_owned();
        body["apiVersion"] = if is_service { "v1" } else { "discovery.k8s.io/v1" }.into();
        let status = body.as_object_mut()?.remove("status");
        if is_service {
            complete(body["spec"].as_object_mut()?);
        }
        let collection = format!("{group}/namespaces/{namespace}/{kind}");
        let status = is_service.then(|| status.filter(|status| !status.is_null()).unwrap_or_else(|| json!({})));
        Some(Self { collection, name, namespace: Some(namespace), body, status })
    }

    /// The Service of a slice.
    pub fn owner(&self) -> &Value {
        &self.body["metadata"]["labels"]["kubernetes.io/service-name"]
    }

    pub fn namespace(name: &str) -> Self {
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        Self { collection: "api/v1/namespaces".into(), name: name.into(), namespace: None, body, status: None }
    }
}

/// Whether some of a Service's ports have node ports and some have none.
pub fn has_some_node_ports(service: &Value) -> bool {
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let count = ports.iter().filter(|port| port["nodePort"].is_u64()).count();
    count != 0 && count != ports.len()
}

/// What goes without saying in a case.
fn complete(spec: &mut Map<String, Value>) {
    let given = |key: &str| spec.get(key).and_then(Value::as_str).map(str::to_owned);
    let all = spec.get("clusterIPs").and_then(Value::as_array);
    let ips: Vec<String> = match all {
        Some(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => given("clusterIP").into_iter().collect(),
    };
    if let Some(first) = ips.first().cloned() {
        spec.entry("clusterIP").or_insert(first.into());
    }
    let family = |ip: &String| ip.parse().map(|ip: IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).ok();
    let families: Vec<&str> = ips.iter().filter_map(family).collect();
    if !families.is_empty() {
        let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        spec.entry("ipFamilyPolicy").or_insert(policy.into());
        spec.entry("ipFamilies").or_insert(families.into());
    }
    let ports = spec.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let has_node_ports = ports.iter().any(|port| port["nodePort"].is_u64());
    // Without this it gets ports that no case knows of.
    if spec.get("type").is_some_and(|kind| kind == "LoadBalancer") && !has_node_ports {
        spec.entry("allocateLoadBalancerNodePorts").or_insert(false.into());
    }
}

/// The canary's objects with a port.
pub fn canary(port: u16) -> Vec<Object> {
    let service = json!({
        "kind": "Service",
        "metadata": { "name": CANARY, "namespace": NAMESPACE },
        "spec": { "clusterIPs": CANARY_IPS, "ports": [{ "name": "c", "protocol": "UDP", "port": port }] },
    });
    let slice = |number: usize| {
        let family = ["IPv4", "IPv6"][number];
        json!({
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{CANARY}-{number}"),
                "namespace": NAMESPACE,
                "labels": { "kubernetes.io/service-name": CANARY },
            },
            "addressType": family,
            "ports": [{ "name": "c", "protocol": "UDP", "port": port }],
            "endpoints": [{ "addresses": [CANARY_ENDPOINTS[number]], "nodeName": "elsewhere" }],
        })
    };
    [service, slice(0), slice(1)].iter().filter_map(Object::of).collect()
}

/// The node as the API knows it.
pub fn node(world: &World) -> Object {
    let primaries = Family::BOTH.into_iter().filter_map(|family| world.primary(family));
    // The family of the first is the node's.
    let mut addresses: Vec<IpAddr> = primaries.collect();
    addresses.sort_by_key(|ip| world.addresses.first() != Some(ip));
    let addresses: Vec<Value> =
        addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip.to_string() })).collect();
    let zone = world.zone.as_ref().map(|zone| ("topology.kubernetes.io/zone".to_owned(), Value::from(&**zone)));
    let labels: Map<String, Value> =
        [("kubernetes.io/hostname".to_owned(), Value::from(world.node.as_str()))].into_iter().chain(zone).collect();
    let taints = if world.proxy.leaving { json!([{ "key": LEAVING, "effect": "NoSchedule" }]) } else { json!([]) };
    let body = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": world.node.as_str(), "labels": labels },
        "spec": { "taints": taints },
    });
    let status = Some(json!({ "addresses": addresses }));
    Object { collection: "api/v1/nodes".into(), name: world.node.as_str().into(), namespace: None, body, status }
}

/// Further ranges of ClusterIPs than those that the API server is started with.
pub fn ranges(world: &World, first: &[Prefix]) -> Vec<Object> {
    let more = world.service_cidrs.iter().filter(|range| !first.contains(range));
    more.enumerate()
        .map(|(number, range)| {
            let name = format!("more-{number}");
            let body = json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": { "name": name },
                "spec": { "cidrs": [range.to_string()] },
            });
            let collection = "apis/networking.k8s.io/v1/servicecidrs".into();
            Object { collection, name, namespace: None, body, status: None }
        })
        .collect()
}

/// The ranges by which it tells local pods.
pub fn local(world: &World) -> &[Prefix] {
    match &world.detect_local {
        DetectLocal::ClusterCidr(ranges) => ranges,
        _ => &world.pod_ranges,
    }
}

/// Where node ports are served: its `nodePortAddresses`. Loopback addresses are served only where they are in one of these ranges, too,
/// and the word for primary addresses stands alone or not at all.
fn node_ports(world: &World) -> Vec<String> {
    let primaries = || Family::BOTH.into_iter().filter_map(|family| world.primary(family)).map(Prefix::host);
    let mut ranges: Vec<String> = match &world.node_port_addresses {
        NodePortAddresses::Primary if !world.localhost_node_ports => return vec!["primary".into()],
        NodePortAddresses::Primary => primaries().map(|range| range.to_string()).collect(),
        NodePortAddresses::All => return vec!["0.0.0.0/0".into(), "::/0".into()],
        NodePortAddresses::Ranges(ranges) => ranges.iter().map(ToString::to_string).collect(),
    };
    if world.localhost_node_ports {
        ranges.push("127.0.0.1/32".into());
    }
    ranges
}

/// kube-proxy's settings.
pub fn settings(world: &World, mode: Mode, kubeconfig: &str) -> Value {
    let node_ports = node_ports(world);
    let mut settings = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.word(),
        "hostnameOverride": world.node.as_str(),
        "clientConnection": { "kubeconfig": kubeconfig },
        "healthzBindAddress": format!("[::]:{HEALTHZ_PORT}"),
        "nodePortAddresses": node_ports,
        "featureGates": { "AllowServiceExternalIPs": world.external_ips },
        // The size of the table is the whole machine's.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpBeLiberal": world.conntrack.tcp_be_liberal },
    });
    match &world.detect_local {
        DetectLocal::Bridge(name) => {
            settings["detectLocalMode"] = "BridgeInterface".into();
            settings["detectLocal"] = json!({ "bridgeInterface": name });
        }
        DetectLocal::InterfacePrefix(prefix) => {
            settings["detectLocalMode"] = "InterfaceNamePrefix".into();
            settings["detectLocal"] = json!({ "interfaceNamePrefix": prefix });
        }
        DetectLocal::NodeRanges | DetectLocal::ClusterCidr(_) => {
            let ranges: Vec<String> = local(world).iter().map(ToString::to_string).collect();
            settings["detectLocalMode"] = "ClusterCIDR".into();
            settings["clusterCIDR"] = ranges.join(",").into();
        }
    }
    settings[mode.word()] = json!({
        "masqueradeAll": world.masquerade_all,
        "minSyncPeriod": "1ms",
        "syncPeriod": format!("{}s", world.proxy.sync_period),
    });
    if mode == Mode::Iptables {
        settings[mode.word()]["localhostNodePorts"] = world.localhost_node_ports.into();
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_get_what_the_api_asks_for_and_keep_what_they_say() {
        let case = json!({
            "kind": "Service",
            "metadata": { "name": "web", "uid": "one" },
            "spec": { "type": "LoadBalancer", "clusterIPs": ["10.96.0.10", "fd00:96::10"], "ports": [{ "port": 80 }] },
            "status": { "loadBalancer": {} },
        });
        let object = Object::of(&case).unwrap();
        assert_eq!(object.path(), "api/v1/namespaces/default/services/web");
        assert_eq!(object.status, Some(json!({ "loadBalancer": {} })));
        let spec = &object.body["spec"];
        assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&json!("10.96.0.10"), &case["spec"]["clusterIPs"]));
        assert_eq!((&spec["ipFamilyPolicy"], &spec["ipFamilies"][1]), (&json!("RequireDualStack"), &json!("IPv6")));
        assert_eq!((&spec["allocateLoadBalancerNodePorts"], &object.body["status"]), (&json!(false), &Value::Null));
        assert_eq!(object.body["metadata"], json!({ "name": "web", "namespace": "default" }));
        assert_eq!(Object::of(&json!({ "kind": "Service" })), None);
    }

    #[test]
    fn loopback_node_ports_are_in_its_ranges_of_node_ports() {
        let ports = |localhost: bool, at: &Value| {
            let world = json!({
                "node": "n1",
                "addresses": ["172.18.0.1", "172.18.1.1", "fd00:18::1"],
                "localhostNodePorts": localhost,
                "nodePortAddresses": at,
            });
            node_ports(&serde_json::from_value(world).unwrap())
        };
        let (all, range) = (json!("all"), json!({ "ranges": ["172.18.1.0/24"] }));
        assert_eq!(ports(false, &json!("primary")), ["primary"]);
        assert_eq!(ports(true, &json!("primary")), ["172.18.0.1/32", "fd00:18::1/128", "127.0.0.1/32"]);
        assert_eq!(ports(true, &all), ["0.0.0.0/0", "::/0"]);
        assert_eq!(
            (ports(false, &range), ports(true, &range)),
            (vec!["172.18.1.0/24".into()], vec!["172.18.1.0/24".into(), "127.0.0.1/32".into()])
        );
    }

    #[test]
    fn the_canary_has_both_families() {
        let canary = canary(7);
        assert_eq!(canary.len(), 3);
        assert_eq!(canary[0].body["spec"]["ports"][0]["port"], 7);
        assert!(canary[2].path().ends_with("/endpointslices/canary-1"));
    }
}
