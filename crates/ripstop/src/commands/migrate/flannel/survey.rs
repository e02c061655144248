//! What a cluster of Flannel's is like: its set, what its nodes agree on, how far each node is, and what is refused.
//!
//! Pure but for the questions: what is decided is decided on the answers.

use ripstop_objects::FLANNEL_PORT;
use ripstop_types::{Family, Prefix};
use serde_json::{Value, json};

use crate::commands::install::remote::{Remote, is_ready};
use crate::failure::Failure;

/// The label that says how far a node is.
pub const LABEL: &str = "ripstop.io/from-flannel";
/// Its value where our agent is or comes, beside flanneld.
pub const JOINED: &str = "joined";
/// Its value where flanneld shall be no more.
pub const LEFT: &str = "left";
/// The field of an affinity that says where pods may be.
pub const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

const ANNOTATIONS: &str = "flannel.alpha.coreos.com";

/// Flannel's DaemonSet, and what it was told.
#[derive(Debug)]
pub struct Flannel {
    pub namespace: String,
    name: String,
    set: Value,
    /// What its pods are found by.
    pub selector: String,
    /// The range of all pods.
    pub network: Prefix,
    /// Network identifier of its devices.
    pub vni: u64,
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// flanneld's alone.
    Flannel,
    /// Our agent comes.
    Joining,
    /// Our agent is ready, and flanneld is there.
    Joined,
    /// Our agent's alone.
    Moved,
}

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub state: State,
    /// Whether it bears our label.
    pub labelled: bool,
    range: Option<String>,
    fault: Option<String>,
}

impl Node {
    /// As it is listed.
    pub fn row(&self) -> Value {
        let state = match self.state {
            State::Flannel => "flannel",
            State::Joining => "joining",
            State::Joined => "joined",
            State::Moved => "moved",
        };
        json!({"node": self.name, "state": state, "range": self.range, "reason": self.fault})
    }
}

impl Flannel {
    /// The set of this name and what its nodes agree on; nothing where there is none.
    ///
    /// # Errors
    /// Where it is of a kind that cannot be moved; the sentence names object, field, what was found and what is accepted.
    pub fn read(remote: &Remote, daemonset: &str) -> Result<Option<Self>, Failure> {
        let (namespace, name) = daemonset
            .split_once('/')
            .filter(|(namespace, name)| is_name(namespace) && is_name(name))
            .ok_or_else(|| Failure::Usage(format!("--daemonset: found {daemonset}, accepted is NAMESPACE/NAME")))?;
        let Some(set) = remote.get(&set_path(namespace, name))? else { return Ok(None) };
        let spec = &set["spec"]["template"]["spec"];
        check_arguments(daemonset, spec)?;
        let maps = spec["volumes"].as_array().into_iter().flatten().filter_map(|v| v["configMap"]["name"].as_str());
        let mut configuration = None;
        for map in maps {
            let map = remote.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{map}"))?.unwrap_or_default();
            configuration = configuration.or_else(|| map["data"]["net-conf.json"].as_str().map(str::to_owned));
        }
        let text = configuration.ok_or_else(|| {
            refusal(&format!("daemonset {daemonset}"), "volumes", "no ConfigMap with net-conf.json", "Flannel's own")
        })?;
        let (network, vni) = check_network(&text)?;
        let labels = set["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
        let selector: Vec<String> =
            labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        let (namespace, name, selector) = (namespace.to_owned(), name.to_owned(), selector.join(","));
        Ok(Some(Self { namespace, name, selector, network, vni, set }))
    }

    /// Where its set is.
    pub fn path(&self) -> String {
        set_path(&self.namespace, &self.name)
    }

    /// The configuration of our agents.
    pub fn configuration(&self) -> String {
        format!(
            "store: {{kubernetes: {{flannel: {{}}}}}}\nmetricsListen: 127.0.0.1:9467\nnetworks:\n  - apiVersion: \
             ripstop.io/v1alpha1\n    kind: Network\n    metadata: {{name: default}}\n    spec:\n      ranges: [{}]\n      \
             rangeMode: pod-cidr\n      wiring: routed\n      backend: {{type: vxlan, vni: {}, port: {FLANNEL_PORT}}}\n",
            self.network, self.vni
        )
    }

    /// Its set, leaving nodes of the last value of our label. Nothing else about it is new, and its pods on other nodes are
    /// not started anew.
    pub fn yielding(&self) -> Value {
        let old = &self.set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
        let ours = json!({"key": LABEL, "operator": "NotIn", "values": [LEFT]});
        let mut terms = old.as_array().cloned().filter(|terms| !terms.is_empty()).unwrap_or_else(|| vec![json!({})]);
        for term in &mut terms {
            let mut all = term["matchExpressions"].as_array().cloned().unwrap_or_default();
            all.retain(|expression| expression["key"] != LABEL);
            all.push(ours.clone());
            term["matchExpressions"] = all.into();
        }
        let affinity = json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}});
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"updateStrategy": {"type": "OnDelete"}, "template": {"spec": {"affinity": affinity}}},
        })
    }

    /// All nodes, and how far they are.
    ///
    /// # Errors
    /// Where the API gives no answer.
    pub fn nodes(&self, remote: &Remote) -> Result<Vec<Node>, Failure> {
        let flanneld = remote.pods(&self.namespace, &self.selector, "")?;
        survey(remote, &flanneld, |node| node_fault(node, &self.network, self.vni))
    }

    /// The same, where all of them can be moved.
    ///
    /// # Errors
    /// Where one cannot: all that is wrong, a node a line.
    pub fn check(&self, remote: &Remote) -> Result<Vec<Node>, Failure> {
        let sets = remote.get(&set_path("ripstop", "ripstop-agent"))?;
        let selects = |set: &Value| set["spec"]["template"]["spec"]["affinity"].to_string().contains(LABEL);
        if sets.is_some_and(|set| !selects(&set)) && !self.nodes(remote)?.iter().all(|node| node.state == State::Moved)
        {
            let accepted = "that of `ripstop migrate from flannel`, which takes nodes one by one";
            return Err(refusal("daemonset ripstop/ripstop-agent", "affinity", "one for all nodes", accepted));
        }
        let nodes = self.nodes(remote)?;
        let faults: Vec<&str> = nodes.iter().filter_map(|node| node.fault.as_deref()).collect();
        if faults.is_empty() { Ok(nodes) } else { Err(Failure::Failed(faults.join("\n"))) }
    }
}

/// All nodes of a cluster from which Flannel's set is gone.
///
/// # Errors
/// Where the API gives no answer.
pub fn nodes_without_flannel(remote: &Remote) -> Result<Vec<Node>, Failure> {
    survey(remote, &[], |_| None)
}

fn survey(remote: &Remote, flanneld: &[Value], fault: impl Fn(&Value) -> Option<String>) -> Result<Vec<Node>, Failure> {
    let agents = remote.pods("ripstop", "app.kubernetes.io/name=ripstop-agent", "")?;
    let list = remote.get("/api/v1/nodes")?.unwrap_or_default();
    let on = |pods: &[Value], node: &str| pods.iter().any(|pod| pod["spec"]["nodeName"] == node);
    let ready = |node: &str| agents.iter().any(|pod| pod["spec"]["nodeName"] == node && is_ready(pod));
    let mut nodes: Vec<Node> = Vec::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let labelled = item["metadata"]["labels"][LABEL].is_string();
        let state = match (ready(&name), on(flanneld, &name)) {
            (true, true) => State::Joined,
            (true, false) => State::Moved,
            (false, _) if labelled || on(&agents, &name) => State::Joining,
            (false, _) => State::Flannel,
        };
        let range = item["spec"]["podCIDR"].as_str().map(str::to_owned);
        nodes.push(Node { state, labelled, range, fault: fault(item), name });
    }
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(nodes)
}

/// Why a node cannot be moved.
fn node_fault(node: &Value, network: &Prefix, vni: u64) -> Option<String> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let object = format!("node {name}");
    let annotation = |key: &str| node["metadata"]["annotations"][format!("{ANNOTATIONS}/{key}")].as_str();
    let kind = annotation("backend-type").unwrap_or("none");
    if kind != "vxlan" {
        return Some(sentence(&object, &format!("annotation {ANNOTATIONS}/backend-type"), kind, "vxlan"));
    }
    let data: Value = serde_json::from_str(annotation("backend-data").unwrap_or("null")).unwrap_or_default();
    if data["VNI"].as_u64() != Some(vni) {
        let found = annotation("backend-data").unwrap_or("none");
        let accepted = format!("VNI {vni} with a VtepMAC");
        return Some(sentence(&object, &format!("annotation {ANNOTATIONS}/backend-data"), found, &accepted));
    }
    let ranges: Vec<&str> =
        node["spec"]["podCIDRs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_inside = |text: &&str| text.parse::<Prefix>().is_ok_and(|range| network.covers(&range));
    match ranges[..] {
        [one] if is_inside(&one) => None,
        _ => Some(sentence(&object, "spec.podCIDRs", &ranges.join(", "), &format!("one range inside {network}"))),
    }
}

fn check_arguments(daemonset: &str, spec: &Value) -> Result<(), Failure> {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let words = containers.flat_map(|c| ["command", "args"].map(|field| c[field].as_array().into_iter().flatten()));
    let words: Vec<&str> = words.flatten().filter_map(Value::as_str).collect();
    let has = |name: &str| words.iter().any(|word| word.trim_start_matches('-').split('=').next() == Some(name));
    let object = format!("daemonset {daemonset}");
    if !has("kube-subnet-mgr") {
        return Err(refusal(&object, "args", &words.join(" "), "--kube-subnet-mgr: subnets kept by Kubernetes"));
    }
    match words.iter().find(|word| word.contains("kube-annotation-prefix")) {
        Some(word) => Err(refusal(&object, "args", word, "annotations of the prefix flannel.alpha.coreos.com")),
        None => Ok(()),
    }
}

/// The range and network identifier that a `net-conf.json` of the backend vxlan names.
fn check_network(text: &str) -> Result<(Prefix, u64), Failure> {
    const OBJECT: &str = "net-conf.json";
    let conf: Value = serde_json::from_str(text)
        .map_err(|error| refusal(OBJECT, "text", &error.to_string(), "a JSON object of Flannel's"))?;
    let backend = &conf["Backend"];
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if backend["Type"].as_str() != Some("vxlan") {
        return Err(refusal(OBJECT, "Backend.Type", &shown(&backend["Type"]), "vxlan"));
    }
    let off = [
        (&conf["EnableIPv6"], "EnableIPv6"),
        (&conf["EnableNFTables"], "EnableNFTables"),
        (&backend["DirectRouting"], "Backend.DirectRouting"),
        (&backend["GBP"], "Backend.GBP"),
    ];
    if let Some((value, field)) = off.into_iter().find(|(value, _)| !value.is_null() && **value != Value::Bool(false)) {
        return Err(refusal(OBJECT, field, &shown(value), "false"));
    }
    let port = &backend["Port"];
    if !port.is_null() && port.as_u64() != Some(FLANNEL_PORT.into()) && port.as_u64() != Some(0) {
        return Err(refusal(OBJECT, "Backend.Port", &shown(port), &FLANNEL_PORT.to_string()));
    }
    let vni = &backend["VNI"];
    let number = if vni.is_null() { Some(1) } else { vni.as_u64().filter(|vni| (1..1 << 24).contains(vni)) };
    let number = number.ok_or_else(|| refusal(OBJECT, "Backend.VNI", &shown(vni), "1 to 16777215"))?;
    let network = conf["Network"].as_str().and_then(|text| text.parse::<Prefix>().ok());
    let network = network.filter(|network| network.family() == Family::V4);
    let network = network.ok_or_else(|| refusal(OBJECT, "Network", &shown(&conf["Network"]), "a range of IPv4"))?;
    Ok((network, number))
}

fn set_path(namespace: &str, name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
}

fn is_name(text: &str) -> bool {
    ripstop_types::validate_dns_name("a name", text).is_ok()
}

fn sentence(object: &str, field: &str, found: &str, accepted: &str) -> String {
    format!("{object}: {field}: found {found}, accepted is {accepted}")
}

fn refusal(object: &str, field: &str, found: &str, accepted: &str) -> Failure {
    Failure::Failed(sentence(object, field, found, accepted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(change: impl FnOnce(&mut Value)) -> Result<(Prefix, u64), String> {
        let mut conf = json!({"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}});
        change(&mut conf);
        check_network(&conf.to_string()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_cannot_be_moved_is_refused_with_field_found_and_accepted() {
        assert_eq!(network(|_| {}), Ok(("10.244.0.0/16".parse().unwrap(), 1)));
        assert_eq!(network(|conf| conf["Backend"]["VNI"] = 7.into()).unwrap().1, 7);
        let refused = |change: fn(&mut Value)| network(change).unwrap_err();
        let said = refused(|conf| conf["Backend"]["Type"] = "wireguard".into());
        assert_eq!(said, "net-conf.json: Backend.Type: found wireguard, accepted is vxlan");
        assert!(refused(|conf| conf["EnableIPv6"] = true.into()).contains("EnableIPv6: found true, accepted is false"));
        assert!(refused(|conf| conf["Backend"]["DirectRouting"] = true.into()).contains("DirectRouting"));
        assert!(refused(|conf| conf["Backend"]["Port"] = 4789.into()).contains("found 4789, accepted is 8472"));
        assert!(refused(|conf| conf["Network"] = "fd00::/48".into()).contains("a range of IPv4"));
        assert!(check_network("{").is_err());
        let spec =
            |word: &str| json!({"containers": [{"command": ["/opt/bin/flanneld"], "args": ["--ip-masq", word]}]});
        assert!(check_arguments("a/b", &spec("--kube-subnet-mgr")).is_ok());
        let said = check_arguments("a/b", &spec("--etcd-endpoints=http://x")).unwrap_err().to_string();
        assert!(said.starts_with("daemonset a/b: args: found /opt/bin/flanneld --ip-masq"), "{said}");
    }

    #[test]
    fn a_node_that_is_not_like_the_others_is_named() {
        let node = |kind: &str, vni: u32, range: &str| {
            let annotations = json!({
                "flannel.alpha.coreos.com/backend-type": kind,
                "flannel.alpha.coreos.com/backend-data": json!({"VNI": vni, "VtepMAC": "02:00:00:00:00:01"}).to_string(),
            });
            json!({"metadata": {"name": "n1", "annotations": annotations}, "spec": {"podCIDRs": [range]}})
        };
        let fault = |node: Value| node_fault(&node, &"10.244.0.0/16".parse().unwrap(), 1);
        assert_eq!(fault(node("vxlan", 1, "10.244.1.0/24")), None);
        assert!(fault(node("host-gw", 1, "10.244.1.0/24")).unwrap().contains("found host-gw, accepted is vxlan"));
        assert!(fault(node("vxlan", 2, "10.244.1.0/24")).unwrap().starts_with("node n1: annotation"));
        assert!(fault(node("vxlan", 1, "10.9.1.0/24")).unwrap().contains("accepted is one range inside 10.244.0.0/16"));
    }

    #[test]
    fn flannels_set_leaves_the_nodes_that_are_moved_and_keeps_its_own_terms() {
        let affinity = json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]},
        ]}}});
        let set = |affinity: Value| Flannel {
            namespace: "kube-flannel".into(),
            name: "kube-flannel-ds".into(),
            set: json!({"spec": {"template": {"spec": {"affinity": affinity}}}}),
            selector: "app=flannel".into(),
            network: "10.244.0.0/16".parse().unwrap(),
            vni: 1,
        };
        let yielding = set(affinity).yielding();
        let terms = |set: &Value| {
            set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].clone()
        };
        let expressions = terms(&yielding)[0]["matchExpressions"].clone();
        assert_eq!(expressions.as_array().map(Vec::len), Some(2));
        assert_eq!(expressions[1], json!({"key": LABEL, "operator": "NotIn", "values": [LEFT]}));
        let again = set(yielding["spec"]["template"]["spec"]["affinity"].clone()).yielding();
        assert_eq!(terms(&again), terms(&yielding), "asked again it is the same");
        assert_eq!(terms(&set(Value::Null).yielding()).as_array().map(Vec::len), Some(1));
        let agents = ripstop_objects::AgentConfig::decode(&set(Value::Null).configuration()).unwrap().0;
        assert!(agents.store.taken_from_flannel().is_some());
    }
}
