//! What is missing, wrong or foreign: each said in a sentence, and none of it stops anything else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ripstop_objects::{Network, NodeRecord, RangeClaim, Record};
use ripstop_store::{Event, Expect, Kind, Kubernetes, KubernetesOptions, Store, StoreError};
use serde_json::{Value, json};

use super::options;
use super::server::{AGENT, ApiServer, NOBODY, OPERATOR, Setup, is_here, token_of};
use crate::etcd::gate::{Gate, Passing};

#[track_caller]
fn says(fault: &StoreError, words: &[&str]) {
    let text = fault.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
    assert!(text.len() < 1_000 && !text.contains('\n'), "{text:?} is no sentence");
}

async fn soon(mut done: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if done().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn store(kubeconfig: PathBuf) -> Kubernetes {
    Kubernetes::lazy(options(kubeconfig))
}

async fn fault_of(kubeconfig: &Path) -> StoreError {
    store(kubeconfig.to_owned()).list(Kind::Networks).await.unwrap_err()
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_a_sentence() {
    if !is_here("faults of the store kubernetes") {
        return;
    }
    let server = ApiServer::bare(Setup::default());
    // Without our kinds.
    let operator = store(server.kubeconfig(OPERATOR));
    says(&operator.list(Kind::Claims).await.unwrap_err(), &["list rangeclaims.ripstop.io", "deploy/ripstop.yaml"]);
    let lease = json!({"node": "n1"});
    let put = operator.put_if(Kind::Alive, "n1", &lease, Expect::Absent).await;
    says(&put.unwrap_err(), &["create leases", "namespaces \"ripstop\" not found", "deploy/ripstop.yaml"]);
    let mut watch = operator.watch(&[Kind::Networks]);
    let Some(Event::Away { reason }) = watch.recv().await else { panic!("not away") };
    assert!(reason.contains("list networks.ripstop.io") && reason.contains("deploy/ripstop.yaml"), "{reason}");
    server.apply_ours();
    let mut next = watch.recv().await;
    while matches!(next, Some(Event::Away { .. })) {
        next = watch.recv().await;
    }
    assert_eq!(next, Some(Event::Back), "once they are there it goes on by itself");
    assert!(matches!(watch.recv().await, Some(Event::Synced { .. })));

    wrong_kubeconfigs(&server).await;
    secrets(&server).await;
    rights(&server).await;
}

async fn wrong_kubeconfigs(server: &ApiServer) {
    let path = server.file("wrong.kubeconfig");
    says(&fault_of(&path).await, &["cannot read the kubeconfig", "wrong.kubeconfig", "No such file"]);
    let right = std::fs::read_to_string(server.kubeconfig(OPERATOR)).unwrap();
    let port = server.address().port();
    for (from, to, words) in [
        ("current-context: c", "current-context: other", &["contexts", "other"][..]),
        ("token: token-of-operator", "exec: {command: sh}", &["exec", "runs no process"]),
        ("token: token-of-operator", "token: wrong", &["does not know who asks"]),
        ("token: token-of-operator", "tokenFile: none", &["cannot read the token", "/none"]),
        ("ca.pem", "none.pem", &["certificate-authority", "none.pem"]),
        ("ca.pem", "server.pem", &["not signed by"]),
        ("tls-server-name: 127", "tls-server-name: 9", &["another name", "tls-server-name"]),
        (&format!(":{port}"), ":1", &["refused", "is kube-apiserver running there?"]),
        (&format!(":{port}"), &format!(":{}", port + 1), &["list networks.ripstop.io"]),
    ] {
        assert!(right.contains(from), "{from}");
        std::fs::write(&path, right.replace(from, to)).unwrap();
        says(&fault_of(&path).await, words);
    }
    // A token that is replaced is read again, where the old one is not taken any more.
    let token = server.file("token");
    std::fs::write(&token, "old").unwrap();
    std::fs::write(&path, right.replace("token: token-of-operator", "tokenFile: token")).unwrap();
    let store = store(path);
    assert!(store.list(Kind::Networks).await.is_err());
    std::fs::write(&token, format!("{}\n", token_of(OPERATOR))).unwrap();
    assert!(store.list(Kind::Networks).await.is_ok());
}

/// One value is read with the rights of the manifest, in the product's namespace alone, and told in no error.
async fn secrets(server: &ApiServer) {
    server.kubectl(&["create", "secret", "generic", "bgp", "-n", "ripstop", "--from-literal=tor=knock-knock"]);
    let agent = store(server.kubeconfig(AGENT));
    assert_eq!(agent.secret("bgp", "tor").await.unwrap().as_deref(), Some("knock-knock"));
    assert_eq!(agent.secret("bgp", "other").await.unwrap(), None);
    assert_eq!(agent.secret("none", "tor").await.unwrap(), None);
    set_verbs(server, "role", 1, &["list"]);
    let mut last = None;
    let refused = soon(async || {
        last = agent.secret("bgp", "tor").await.err();
        last.is_some()
    });
    assert!(refused.await, "it goes without the right");
    says(&last.unwrap(), &["cannot get resource", "secrets", "deploy/ripstop.yaml"]);
    set_verbs(server, "role", 1, &["get"]);
    assert!(soon(async || agent.secret("bgp", "tor").await.is_ok()).await);
    server.kubectl(&["delete", "secret", "bgp", "-n", "ripstop"]);
}

/// Every right of the manifest, taken away alone.
async fn rights(server: &ApiServer) {
    says(&fault_of(&server.kubeconfig(NOBODY)).await, &["cannot list", "networks", "deploy/ripstop.yaml"]);
    let agent = store(server.kubeconfig(AGENT));
    let value = |kind: Kind| match kind {
        Kind::Networks => network("n", "10.1.0.0/16"),
        Kind::Nodes => node("n", "10.0.0.1"),
        Kind::Claims => claim("n", "10.1.0.0/24"),
        Kind::Alive => json!({"node": "n", "sequence": 1, "bootId": "b"}),
        other => panic!("{other} are Kubernetes' own"),
    };
    for kind in Kind::ALL {
        let key = if kind == Kind::Claims { "n/10.1.0.0_24" } else { "n" };
        let (role, rule, resource) = match kind {
            Kind::Networks => ("clusterrole", 0, "networks"),
            Kind::Nodes => ("clusterrole", 0, "nodestates"),
            Kind::Claims => ("clusterrole", 0, "rangeclaims"),
            Kind::Alive => ("role", 0, "leases"),
            other => panic!("{other} are Kubernetes' own"),
        };
        for verb in ["get", "list", "watch", "create", "update", "delete"] {
            agent.put_if(kind, key, &value(kind), Expect::Any).await.unwrap();
            let without: Vec<&str> =
                ["get", "list", "watch", "create", "update", "delete"].into_iter().filter(|v| *v != verb).collect();
            set_verbs(server, role, rule, &without);
            let agent = &agent;
            let attempt = async || match verb {
                "get" => agent.get(kind, key).await.map(drop),
                "list" => agent.list(kind).await.map(drop),
                "watch" => match agent.watch(&[kind]).recv().await {
                    Some(Event::Away { reason }) => Err(StoreError::Refused { peer: String::new(), cause: reason }),
                    _ => Ok(()),
                },
                "create" => match agent.put_if(kind, key, &value(kind), Expect::Absent).await {
                    Err(StoreError::Conflict { .. }) => Ok(()),
                    other => other.map(drop),
                },
                "update" => agent.put_if(kind, key, &value(kind), Expect::Any).await.map(drop),
                _ => {
                    let gone = agent.delete_if(kind, key, Expect::Any).await;
                    let _ = agent.put_if(kind, key, &value(kind), Expect::Any).await;
                    gone.map(drop)
                }
            };
            let mut last = None;
            let refused = soon(async || {
                last = attempt().await.err();
                last.is_some()
            });
            assert!(refused.await, "{verb} {resource} goes without the right");
            says(&last.unwrap(), &[&format!("cannot {verb} resource"), resource, "deploy/ripstop.yaml"]);
            set_verbs(server, role, rule, &["get", "list", "watch", "create", "update", "delete"]);
            assert!(soon(async || attempt().await.is_ok()).await, "{verb} {resource} does not go with the right");
        }
    }
}

fn set_verbs(server: &ApiServer, role: &str, rule: usize, verbs: &[&str]) {
    let patch = json!([{"op": "replace", "path": format!("/rules/{rule}/verbs"), "value": verbs}]).to_string();
    server.kubectl(&["patch", "-n", "ripstop", role, "ripstop-agent", "--type=json", "-p", &patch]);
}

fn network(name: &str, range: &str) -> Value {
    let text = format!(
        "{{apiVersion: ripstop.io/v1alpha1, kind: Network, metadata: {{name: {name}}}, spec: {{ranges: [{range}]}}}}"
    );
    Network::decode(&text).unwrap().encode()
}

fn node(name: &str, ip: &str) -> Value {
    json!({"name": name, "identity": {"machineId": "m", "bootId": "b"},
        "addresses": [{"ip": ip, "prefix": "10.0.0.0/8"}], "receives": [{"type": "plain"}], "networks": {"n": 7}})
}

fn claim(network: &str, range: &str) -> Value {
    json!({"network": network, "range": range, "node": "n", "machine": "m", "boot": "b", "run": 1, "state": "held"})
}

fn judge(kind: Kind, key: &str, value: &Value) -> Result<(), String> {
    let judged = match kind {
        Kind::Networks => <Network as Record>::decode(key, value).map(drop),
        Kind::Nodes => NodeRecord::decode(key, value).map(drop),
        Kind::Claims => RangeClaim::decode(key, value).map(drop),
        _ => Ok(()),
    };
    judged.map_err(|faults| faults.to_string())
}

#[tokio::test]
async fn foreign_objects_are_refused_by_schema_or_by_status() {
    if !is_here("foreign objects in the store kubernetes") {
        return;
    }
    let server = ApiServer::start(Setup::default());
    let kubeconfig = server.kubeconfig(AGENT);
    let judging = KubernetesOptions { judge: Some(judge), ..options(kubeconfig) };
    let store = Kubernetes::connect(judging).await.unwrap();
    let object = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: ripstop.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name:?}}}\nspec: {spec}\n")
    };
    // By schema.
    let claim_of = |name: &str, range: &str| object("RangeClaim", name, &claim("default", range).to_string());
    for (text, words) in [
        (object("Network", "a", "{}"), &["spec.ranges", "Required"][..]),
        (object("Network", "a", "{ranges: [10.0.0.1/8]}"), &["without host bits"]),
        (object("Network", "a", "{ranges: [10.0.0.0/8, 11.0.0.0/8]}"), &["at most one range a family"]),
        (object("Network", "a.b", "{ranges: [10.0.0.0/8]}"), &["one DNS label"]),
        (object("Network", "a", "{ranges: [10.0.0.0/8], wiring: magic}"), &["spec.wiring", "magic"]),
        (object("Network", "a", "{ranges: [10.0.0.0/8], color: red}"), &["spec.color"]),
        (object("NodeState", "other", &node("n1", "10.0.0.1").to_string()), &["spec.name is the object's name"]),
        (claim_of("default.10.1.0.0-24", "10.2.0.0/24"), &["the object's name says its network and range"]),
        (claim_of("default.10.1.0.0-24", "10.1.0.0/24;reboot"), &["spec.range"]),
    ] {
        let output = server.kubectl_with(&["apply", "--server-side", "-f", "-"], &text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text} was taken");
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
    }
    // By status: what only who knows the meaning can tell.
    server.apply(&object("NodeState", "lo", &node("lo", "127.0.0.1").to_string()));
    server.apply(&claim_of("default.fd00-0-0-0-0-0-0-0-64", "fd00:1::/64"));
    server.apply(&object("Network", "huge", "{ranges: [224.0.0.0/8]}"));
    server.apply(&object("Network", "good", "{ranges: [10.0.0.0/8]}"));
    let mut events = store.watch(&Kind::ALL);
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(Event::Synced { kind: Kind::Alive, .. })) {
        seen.push(events.recv().await.unwrap());
    }
    let put = |key: &str| seen.iter().any(|event| matches!(event, Event::Put(record) if record.key == key));
    assert!(put("good") && put("lo"), "{seen:?}");
    let message = |kind: &str, name: &str| {
        server.kubectl(&["get", kind, name, "-o", "jsonpath={.status.conditions[?(@.type==\"Accepted\")].message}"])
    };
    for (kind, name, words) in [
        ("nodestates", "lo", &["addresses[0].ip", "127.0.0.1"][..]),
        ("rangeclaims", "default.fd00-0-0-0-0-0-0-0-64", &["found the record of default/fd00:1::_64"]),
        ("networks", "huge", &["spec.ranges", "multicast"]),
    ] {
        let told = soon(async || words.iter().all(|word| message(kind, name).contains(word)));
        assert!(told.await, "{kind} {name}: {:?}", message(kind, name));
    }
    assert_eq!(message("networks", "good"), "", "what is as it should be is left alone");
    // Mended, the word goes.
    server.apply(&object("Network", "huge", "{ranges: [11.0.0.0/8]}"));
    assert!(soon(async || message("networks", "huge").is_empty()).await, "{:?}", message("networks", "huge"));

    columns_and_text(&server, &store).await;
}

/// What people see, and text that is never more than text.
async fn columns_and_text(server: &ApiServer, store: &Kubernetes) {
    let wicked = "'\"; $(touch /tmp/pwned) `id`\n&& rm -rf /\u{7}\\";
    let annotations = json!({"metadata": {"annotations": {"note": wicked, "large": "x".repeat(100_000)}}}).to_string();
    server.kubectl(&["patch", "network", "good", "--type=merge", "-p", &annotations]);
    let record = store.get(Kind::Networks, "good").await.unwrap().unwrap();
    assert_eq!(record.value["spec"]["ranges"][0], "10.0.0.0/8");
    // Of a claim the holder is free text: it is carried as it is.
    let mut held = claim("default", "10.9.0.0/24");
    held["holder"] = wicked.into();
    store.put_if(Kind::Claims, "default/10.9.0.0_24", &held, Expect::Absent).await.unwrap();
    let back = store.get(Kind::Claims, "default/10.9.0.0_24").await.unwrap().unwrap();
    assert_eq!(back.value["holder"], wicked);
    held["holder"] = "x".repeat(401).into();
    let long = store.put_if(Kind::Claims, "default/10.9.0.0_24", &held, Expect::Revision(back.revision)).await;
    says(&long.unwrap_err(), &["spec.holder", "400"]);
    // A field that the definition does not know is refused, not dropped.
    let mut newer = claim("default", "10.8.0.0/24");
    newer["newer"] = 1.into();
    let unknown = store.put_if(Kind::Claims, "default/10.8.0.0_24", &newer, Expect::Absent).await;
    says(&unknown.unwrap_err(), &["unknown field", "spec.newer", "older than this agent"]);
    let large = json!({"x": "y".repeat(900_000)});
    assert!(matches!(store.put_if(Kind::Nodes, "n9", &large, Expect::Absent).await, Err(StoreError::Refused { .. })));

    let table = server.kubectl(&["get", "rangeclaims", "default.10.9.0.0-24"]);
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "NETWORK", "RANGE", "NODE", "STATE", "HOLDER", "REFUSED", "AGE"], "{table}");
    assert!(table.contains("10.9.0.0/24"), "{table}");
    for (kind, words) in [("networks", ["RANGES", "WIRING", "BACKEND"]), ("nodestates", ["ADDRESS", "RECEIVES", "MTU"])]
    {
        let table = server.kubectl(&["get", kind]);
        assert!(words.iter().all(|word| table.contains(word)), "{table}");
    }
}

/// How often the agent has asked for a whole list, and for changes behind a revision.
fn lists_and_watches(server: &ApiServer) -> (usize, usize) {
    let log = std::fs::read_to_string(server.file("audit.log")).unwrap();
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_agent = |event: &&Value| event["user"]["username"] == AGENT && event["stage"] != "ResponseComplete";
    let count = |verb: &str| events.iter().filter(|event| event["verb"] == verb).count();
    let opened = events.iter().filter(of_agent).filter(|event| event["verb"] == "watch").count();
    (count("list"), opened)
}

#[tokio::test]
async fn a_lost_connection_is_no_new_list() {
    if !is_here("lists of the store kubernetes") {
        return;
    }
    let mut server = ApiServer::start(Setup::default());
    let gate = Gate::start(server.address()).await;
    let kubeconfig = server.file("gate.kubeconfig");
    server.write_kubeconfig(AGENT, &kubeconfig, gate.address);
    let store = Kubernetes::connect(options(kubeconfig)).await.unwrap();
    let mut events = store.watch(&Kind::ALL);
    let mut next = async || events.recv().await.unwrap();
    while !matches!(next().await, Event::Synced { kind: Kind::Alive, .. }) {}
    assert!(soon(async || lists_and_watches(&server).1 >= 4).await, "{:?}", lists_and_watches(&server));
    let before = lists_and_watches(&server);
    for round in 0..3 {
        gate.pass(Passing::None);
        assert!(matches!(next().await, Event::Away { .. }), "round {round}");
        gate.pass(Passing::All);
        let mut event = next().await;
        while matches!(event, Event::Away { .. }) {
            event = next().await;
        }
        assert_eq!(event, Event::Back, "round {round}");
        let range = format!("10.9.{round}.0/24");
        let key = format!("default/10.9.{round}.0_24");
        store.put_if(Kind::Claims, &key, &claim("default", &range), Expect::Absent).await.unwrap();
        assert!(matches!(next().await, Event::Put(record) if record.key == key), "round {round}");
    }
    assert!(soon(async || lists_and_watches(&server).1 >= before.1 + 12).await, "{:?}", lists_and_watches(&server));
    assert_eq!(lists_and_watches(&server).0, before.0, "what was known was asked for again");
    // A server that was away has forgotten: each kind is listed once, and nothing is lost or comes twice.
    server.kill();
    assert!(matches!(next().await, Event::Away { .. }));
    server.restart();
    let mut all = Vec::new();
    while all.len() < 100 && all.iter().filter(|event| matches!(event, Event::Put(_))).count() < 3 {
        all.push(next().await);
    }
    let resets = all.iter().filter(|event| matches!(event, Event::Reset { kind: Kind::Claims })).count();
    assert_eq!(resets, 1, "{all:?}");
}
