//! What policies come to, asked of files.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use ripstop_agent::core::PolicyObjects;
use ripstop_objects::policy::NetworkPolicy;
use ripstop_objects::{ClusterObject, KubePod, ObjectKind};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::{Ended, Fake, ripstop, run};

/// A shop as somebody writes it down: workloads without addresses, and policies.
const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: shop}
spec:
  template:
    metadata: {labels: {app: front-end}}
    spec: {containers: [{name: c, image: x}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: x, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nothing, namespace: shop}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{port: http}]
";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.put("shop.yaml", SHOP);
        folder
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> Ended {
        let args: Vec<String> = args.iter().map(|word| word.replace('@', self.0.path().to_str().unwrap())).collect();
        run(&[&["policy".to_owned()], &args[..]].concat())
    }
}

#[test]
fn a_denied_connection_is_explained() {
    let folder = Folder::new();
    let ended = folder.run(&["check", "shop/front", "shop/web", "8080/TCP", "-f", "@/shop.yaml"]);
    assert_eq!(
        ended.stdout,
        "denied: shop/front -> shop/web 8080/TCP\n\
         egress of shop/front: allowed because no policy is about it\n\
         ingress of shop/web: denied by default: shop/web is isolated for ingress by networkpolicy/shop/web\n  \
         closest rule: networkpolicy/shop/web ingress[0].from[0]\n    \
         pod labels: the rule wants app=frontend, found app=front-end\n"
    );
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("shop/front has no address in the files"), "{ended:?}");
    let own = folder.run(&["check", "front", "front", "80", "-n", "shop", "-f", "@/shop.yaml", "-o", "json"]);
    let value: Value = serde_json::from_str(&own.stdout).unwrap();
    assert_eq!(
        (own.code, &value["allowed"], &value["paths"][0]["egress"]["by"]),
        (Some(0), &json!(true), &json!("nobody"))
    );
    let yaml = folder.run(&["check", "shop/front", "192.0.2.1", "icmp", "-f", "@/shop.yaml", "-o", "yaml"]);
    assert_eq!((yaml.code, yaml.stdout.lines().next()), (Some(0), Some("allowed: true")), "{yaml:?}");
}

#[test]
fn what_kubectl_prints_is_read() {
    let folder = Folder::new();
    let pod = |name: &str, host: bool, phase: &str| {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "shop", "labels": {"app": "frontend"}},
            "spec": {"nodeName": "n1", "hostNetwork": host, "containers": []},
            "status": {"phase": phase, "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}, {"ip": "2001:db8::9"}]}})
    };
    let node = json!({"kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    let list = json!({"kind": "List", "items": [pod("good", false, "Running"), pod("host", true, "Running"), pod("done", false, "Failed"), node]});
    folder.put("list.json", &list.to_string());
    let ask =
        |from: &str| folder.run(&["check", from, "shop/web", "8080/TCP", "-f", "@/shop.yaml", "-f", "@/list.json"]);
    assert_eq!(ask("shop/good").code, Some(0), "{:?}", ask("shop/good"));
    for who in ["shop/host", "node/n1", "192.0.2.1"] {
        let ended = ask(who);
        assert!(
            ended.code == Some(1) && ended.stdout.contains("other end: the rule wants a pod, found 192.0.2.1"),
            "{ended:?}"
        );
    }
    let done = ask("shop/done");
    assert_eq!(
        (done.code, done.stderr.ends_with("has finished: its addresses are no longer its own\n")),
        (Some(1), true),
        "{done:?}"
    );
    assert!(ask("shop/nobody").stderr.ends_with("error: pod \"shop/nobody\" not found\n"));
    assert!(ask("node/n2").stderr.ends_with("error: node \"n2\" not found\n"));
    assert!(ask("2001:db8::1").stderr.contains("have no family of addresses in common"));
}

#[test]
fn what_is_wrong_is_named() {
    let folder = Folder::new();
    for (args, code) in [
        (&["check", "shop/front", "shop/web", "80/ICMP", "-f", "@/shop.yaml"][..], 2),
        (&["check", "shop/front", "shop/web", "-f", "@/shop.yaml"], 2),
        (&["check", "shop/front/x", "shop/web", "80", "-f", "@/shop.yaml"], 2),
        (&["check", "shop/front", "../web", "80", "-f", "@/shop.yaml"], 2),
        (&["check", "shop/front", "shop/web", "80", "-f", "@/nothing.yaml"], 1),
        (&["graph", "-o", "svg", "-f", "@/shop.yaml"], 2),
    ] {
        let ended = folder.run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
    folder.put("other.yaml", "kind: ConfigMap\nmetadata: {name: x}\n");
    let other = folder.run(&["unused", "-f", "@/other.yaml"]);
    assert!(other.code == Some(1) && other.stderr.contains("found no object that policies hang on"), "{other:?}");
    folder.put("broken.yaml", "kind: [\n");
    let broken = folder.run(&["unused", "-f", "@/broken.yaml"]);
    assert!(broken.code == Some(1) && broken.stderr.contains("found text that is neither JSON nor YAML"), "{broken:?}");
    folder.put(
        "nameless.yaml",
        "kind: NetworkPolicy\nmetadata: {namespace: shop}\n---\nkind: Pod\nmetadata: {name: 'a/b'}\n---\nkind: Pod\nmetadata: x\n",
    );
    let nameless = folder.run(&["unused", "-f", "@/nameless.yaml"]);
    let told: Vec<&str> = nameless.stderr.lines().collect();
    assert!(told[0].contains("nameless.yaml: document 1: a NetworkPolicy without a name"), "{nameless:?}");
    assert!(told[1].contains("nameless.yaml: document 2: "), "{nameless:?}");
    assert!(told[2].contains("nameless.yaml: document 3: a Pod that cannot be read"), "{nameless:?}");
    folder.put(
        "fault.yaml",
        "kind: NetworkPolicy\nmetadata: {name: bad, namespace: shop}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: x}}]}]}\n",
    );
    let fault = folder.run(&["check", "shop/front", "shop/web", "80", "-f", "@/shop.yaml", "-f", "@/fault.yaml"]);
    assert!(
        fault.stderr.contains("warning: networkpolicy/shop/bad: spec.ingress[0].from[0].ipBlock.cidr: "),
        "{fault:?}"
    );
    assert!(fault.stdout.contains("networkpolicy/shop/bad, networkpolicy/shop/web"), "{fault:?}");
}

#[test]
fn a_change_is_tried_on_connections() {
    let folder = Folder::new();
    folder.put("flows.txt", "# who talks\nshop/front shop/web 8080/TCP\nshop/front 198.51.100.7 443 # out\n\n");
    let fixed = SHOP.split("---").last().unwrap().replace("frontend", "front-end");
    folder.put("new.yaml", &fixed);
    let quiet = "kind: NetworkPolicy\nmetadata: {name: quiet, namespace: shop, annotations: {ripstop.io/staged: 'true'}}\n\
                 spec: {podSelector: {matchLabels: {app: front-end}}, policyTypes: [Egress]}\n";
    folder.put("staged.yaml", quiet);
    let what_if = |more: &[&str]| {
        folder.run(&[&["what-if", "--objects", "@/shop.yaml", "--connections", "@/flows.txt"], more].concat())
    };
    let ended = what_if(&["-f", "@/new.yaml", "-o", "json"]);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(value[0]["from"], "shop/front");
    assert_eq!((&value[0]["now"], &value[0]["then"]), (&json!("denied"), &json!("allowed")));
    assert!(
        value[0]["by"].as_str().unwrap().contains("ingress of shop/web: allowed by networkpolicy/shop/web ingress[0]")
    );
    assert_eq!(value.as_array().unwrap().len(), 1);
    // What is staged changes nothing until it is enforced.
    let staged = what_if(&["-f", "@/staged.yaml"]);
    assert_eq!((staged.code, staged.stdout.as_str()), (Some(0), ""), "{staged:?}");
    assert!(staged.stderr.contains("of 2 connections none would change\n"), "{staged:?}");
    let enforced = what_if(&["-f", "@/staged.yaml", "--enforce-staged"]);
    assert!(enforced.stdout.contains("shop/front   198.51.100.7   443/TCP"), "{enforced:?}");
    assert!(enforced.stdout.contains("allowed   denied"), "{enforced:?}");
    let deleted = what_if(&["--delete", "networkpolicy/shop/web"]);
    assert!(deleted.stdout.contains("8080/TCP   denied   allowed"), "{deleted:?}");
    assert!(what_if(&["--delete", "networkpolicy/shop/x"]).stderr.contains("not found"));
    folder.put("flows.txt", "shop/front shop/web\n");
    let wrong = what_if(&["-f", "@/new.yaml"]);
    assert!(
        wrong.code == Some(1) && wrong.stderr.contains("flows.txt: line 1: found \"shop/front shop/web\""),
        "{wrong:?}"
    );
}

#[test]
fn policies_are_drawn_and_what_is_unused_is_listed() {
    let folder = Folder::new();
    let graph = folder.run(&["graph", "-f", "@/shop.yaml"]);
    assert_eq!(
        graph.stdout,
        "FROM         TO           FAMILY   PORTS\n\
         outside      shop/front   all      all\n\
         shop/front   outside      all      all\n\
         shop/web     outside      all      all\n\
         shop/web     shop/front   all      all\n"
    );
    let dot = folder.run(&["graph", "-f", "@/shop.yaml", "-n", "shop", "-o", "dot"]);
    assert!(
        dot.stdout.starts_with("digraph policies {\n") && dot.stdout.contains("\"shop/web\" -> \"shop/front\""),
        "{dot:?}"
    );
    let unused = folder.run(&["unused", "-f", "@/shop.yaml"]);
    assert!(unused.stdout.contains("no-peer   no pod of namespace shop with app=frontend\n"), "{unused:?}");
    let rows: Value = serde_json::from_str(&folder.run(&["unused", "-f", "@/shop.yaml", "-o", "json"]).stdout).unwrap();
    assert_eq!(
        (&rows[0]["kind"], &rows[0]["finding"], &rows[0]["rule"]),
        (&json!("NetworkPolicy"), &json!("no-peer"), &json!(0))
    );
}

#[test]
fn standard_input_is_a_file() {
    let mut command = ripstop();
    command.args(["policy", "unused", "-f", "-", "-o", "json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(SHOP.as_bytes()).unwrap();
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// An agent that has two pods and a policy in these pages.
fn agent(annotations: &Value) -> Fake {
    let fake = Fake::new();
    let pod = |name: &str, ip: &str| {
        let value = json!({"metadata": {"name": name, "namespace": "shop", "uid": "", "labels": {"app": name}},
            "spec": {"nodeName": "n1", "containers": []}, "status": {"podIPs": [{"ip": ip}], "podIP": ip}});
        match ClusterObject::from_value(ObjectKind::Pod, &value).unwrap().0 {
            ClusterObject::Pod(pod) => *pod,
            other => panic!("{other:?}"),
        }
    };
    let pods = [pod("front", "10.0.0.1"), pod("web", "10.0.0.2")];
    let policy = json!({"metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}});
    let (policy, _) = NetworkPolicy::from_value(&policy).unwrap();
    let on = |path: &str, page: &PolicyObjects| {
        fake.on(&format!("GET /v1/policy/{path}"), 200, &serde_json::to_string(page).unwrap());
    };
    for kind in ["nodes", "namespaces", "clusternetworkpolicies"] {
        on(&format!("objects/{kind}/"), &PolicyObjects::default());
    }
    let of = |pods: &[KubePod], next: Option<&str>| PolicyObjects {
        pods: pods.to_vec(),
        next: next.map(str::to_owned),
        ..PolicyObjects::default()
    };
    on("objects/pods/", &of(&pods[..1], Some("shop/front")));
    on("objects/pods/shop/front", &of(&pods[1..], None));
    on("objects/networkpolicies/", &PolicyObjects { networkpolicies: vec![policy], ..PolicyObjects::default() });
    on("pod/shop/front", &of(&pods[..1], None));
    on("pod/shop/web", &of(&pods[1..], None));
    let flow =
        json!({"protocol": 6, "source": "10.0.0.1", "sent_to": "10.0.0.2", "destination": "10.0.0.2", "port": 80});
    let own =
        json!({"protocol": 6, "source": "10.0.0.254", "sent_to": "10.0.0.2", "destination": "10.0.0.2", "port": 80});
    let connections = json!({"node": "n1", "own": ["10.0.0.254"], "connections": [flow, flow, own]});
    fake.on("GET /v1/policy/connections", 200, &connections.to_string());
    fake.on("POST /v1/policy/answer", 200, "null");
    fake
}

#[test]
fn a_running_agent_is_asked() {
    let fake = agent(&json!({"ripstop.io/staged": "true"}));
    // Nothing is enforced: what it would be is worked out here.
    let ended = fake.run(&["policy", "check", "shop/front", "shop/web", "80", "-o", "json"]);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!((ended.code, &value["allowed"], &value["allowed_staged"]), (Some(0), &json!(true), &json!(false)));
    let (request, body) = fake.requests().into_iter().find(|(request, _)| request.starts_with("POST")).unwrap();
    assert_eq!(request, "POST /v1/policy/answer");
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap(),
        json!({"from": {"name": "shop/front", "ips": ["10.0.0.1"]}, "to": {"name": "shop/web", "ips": ["10.0.0.2"]}, "port": "80/TCP"})
    );
    // What it has decided is its answer.
    let mut denied = value;
    denied["allowed"] = false.into();
    fake.on("POST /v1/policy/answer", 200, &denied.to_string());
    assert_eq!(fake.run(&["policy", "check", "shop/front", "shop/web", "80"]).code, Some(1));
    fake.on("POST /v1/policy/answer", 503, "{\"error\": \"policies have not been read yet\"}");
    let early = fake.run(&["policy", "check", "shop/front", "shop/web", "80"]);
    assert_eq!((early.code, &*early.stderr), (Some(3), "error: policies have not been read yet\n"));

    let what_if = fake.run(&["policy", "what-if", "--enforce-staged", "-o", "json"]);
    let rows: Value = serde_json::from_str(&what_if.stdout).unwrap_or_else(|_| panic!("{what_if:?}"));
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    let row = &rows[0];
    assert_eq!(
        (&row["from"], &row["to"], &row["port"], &row["now"], &row["then"], &row["connections"]),
        (&json!("shop/front"), &json!("shop/web"), &json!("80/TCP"), &json!("allowed"), &json!("denied"), &json!(2))
    );
    assert!(row["by"].as_str().unwrap().contains("isolated for ingress by networkpolicy/shop/web"), "{row}");

    let fake = agent(&json!({}));
    let graph = fake.run(&["policy", "graph", "-o", "json"]);
    let graph: Value = serde_json::from_str(&graph.stdout).unwrap_or_else(|_| panic!("{graph:?}"));
    let to_web = |edge: &&Value| edge["to"] == "shop/web";
    assert_eq!(graph["edges"].as_array().unwrap().iter().filter(to_web).count(), 0, "{graph}");
    assert_eq!(fake.run(&["policy", "unused"]).code, Some(0));
}

#[test]
fn one_is_asked_files_or_an_agent() {
    let folder = Folder::new();
    let ask = ["policy", "check", "shop/front", "shop/web", "80"];
    for args in [
        [&ask[..], &["-f", "x.yaml", "--socket", "y"]].concat(),
        [&["--socket", "y"], &ask[..], &["-f", "x.yaml"]].concat(),
        ["policy", "what-if", "-f", "x.yaml", "--objects", "y.yaml"].to_vec(),
        ["--socket", "y", "policy", "what-if", "-f", "x.yaml", "--objects", "y.yaml", "--connections", "z"].to_vec(),
    ] {
        let ended = run(&args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
    }
    let nowhere = folder.put("no.sock", "");
    for args in [&ask[..], &["policy", "graph"], &["policy", "unused"], &["policy", "what-if", "--enforce-staged"]] {
        let ended = run(&[args, &["--socket", &nowhere]].concat());
        assert_eq!((ended.code, ended.stdout.is_empty()), (Some(3), true), "{args:?}: {ended:?}");
    }
}
