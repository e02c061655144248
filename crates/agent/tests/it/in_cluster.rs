//! An agent in a pod: it finds the API by its service account, whose token is replaced while it runs; and objects that
//! are larger or wilder than any that people write.

use std::path::Path;

use serde_json::{Value, json};

use crate::kubernetes::{asked, is_possible, node_object, pod_object, reaches, setup, status, wait_for, with_server};
use crate::server::{AGENT, ApiServer};
use crate::support::agent::How;
use crate::support::ns::Ns;
use crate::support::soon;
use crate::support::world::{Plan, StoreAt, World};

/// A token of the agent's service account that ends with a Secret.
fn token(server: &ApiServer, secret: &str) -> String {
    server.kubectl(&["-n", "ripstop", "create", "secret", "generic", secret]);
    let bound = ["--bound-object-kind", "Secret", "--bound-object-name", secret, "--duration", "1h"];
    server.kubectl(&[&["-n", "ripstop", "create", "token", "ripstop-agent"], &bound[..]].concat()).trim().to_owned()
}

/// As kubelet replaces it: whole, by a rename.
fn put(folder: &Path, token: &str) {
    std::fs::write(folder.join(".token.new"), token).unwrap();
    std::fs::rename(folder.join(".token.new"), folder.join("token")).unwrap();
}

#[test]
fn a_token_is_replaced_while_the_agent_runs() {
    if !is_possible("an agent in a pod") {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::InCluster, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    let folder = world.dir.path().join("account");
    std::fs::create_dir(&folder).unwrap();
    let how = How { account: Some((folder.clone(), server.address())), ..How::default() };
    world.start_agent_as(&how);
    world.wait_up();
    wait_for(&world, "store", &["serviceaccount/ca.crt", "No such file"]);
    std::fs::copy(server.file("ca.pem"), folder.join("ca.crt")).unwrap();
    wait_for(&world, "store", &["cannot read the token", "serviceaccount/token"]);
    let (first, second) = (token(&server, "first"), token(&server, "second"));
    put(&folder, &first);
    world.wait_ready();
    let web = world.pod("web");
    assert!(reaches(&world, &web));
    assert!(asked(&server).contains("create ripstop.io/nodestates"), "it asks as {AGENT}");

    // The first ends, as a token does after its hour.
    put(&folder, &second);
    server.kubectl(&["-n", "ripstop", "delete", "secret", "first"]);
    let change = |range: &str| {
        let spec = json!({"spec": {"exclude": [range]}}).to_string();
        server.kubectl(&["patch", "network", "default", "--type=merge", "-p", &spec]);
        let revision = server.kubectl(&["get", "network", "default", "-o", "jsonpath={.metadata.resourceVersion}"]);
        soon(|| server.kubectl(&["get", "nodestate", "n1", "-o", "jsonpath={.spec.networks.default}"]) == revision)
    };
    let is_dead = |token: &str| !server.try_kubectl(&["--token", token, "get", "networks"]).status.success();
    assert!(soon(|| is_dead(&first)), "a token outlives what it is bound to");
    assert!(change("10.244.255.1/32") && change("10.244.255.2/32"), "{}", status(&world));
    assert_eq!(status(&world)["warnings"], json!([]));
    // Without a successor it is said what is wrong; pods go on, and the next token is taken. Watches that are open stay so.
    server.kubectl(&["-n", "ripstop", "delete", "secret", "second"]);
    assert!(soon(|| is_dead(&second)), "a token outlives what it is bound to");
    server.kubectl(&["patch", "network", "default", "--type=merge", "-p", r#"{"spec": {"exclude": []}}"#]);
    wait_for(&world, "failed", &["does not know who asks"]);
    assert!(reaches(&world, &web) && reaches(&world, &world.pod("more")));
    put(&folder, &token(&server, "third"));
    wait_for(&world, "store", &["here"]);
    assert!(change("10.244.255.3/32"), "{}", status(&world));
}

#[test]
fn huge_and_wicked_objects_harm_nothing() {
    if !is_possible("huge objects") {
        return;
    }
    let pools = "blocks: {pools: [{range: 10.99.0.0/24, labels: {tier: db}}]}";
    let (mut world, server) = with_server(&["rangeMode: blocks", pools]);
    world.start_agent();
    world.wait_ready();
    server.apply(&node_object("{}"));
    let images: Vec<Value> = (0..4_000)
        .map(|n| json!({"names": [format!("images.invalid/{}/{n}", "a".repeat(150))], "sizeBytes": 1_000_000 + n}))
        .collect();
    let file = world.dir.path().join("patch.json");
    std::fs::write(&file, json!({"status": {"images": images}}).to_string()).unwrap();
    let file = file.to_str().unwrap();
    server.kubectl(&["patch", "node", "n1", "--subresource=status", "--type=merge", "--patch-file", file]);

    // As large as etcd takes an object; annotations as large as Kubernetes does. No text of them is more than text.
    let wicked = "'\"; $(touch /tmp/ripstop-pwned) `id`\n\r\u{7}&& reboot\\";
    let env: Vec<Value> = (0..1_000).map(|n| json!({"name": format!("E{n}"), "value": "x".repeat(1_000)})).collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "db", "namespace": "default", "labels": {"tier": "db"},
            "annotations": {"large": "y".repeat(250_000), "wicked": wicked},
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "env": env}]},
    });
    server.apply(&pod.to_string());
    let db = world.pod("db");
    assert!(db.ip().starts_with("10.99.0."), "its label is read: {}", db.ip());
    assert!(reaches(&world, &db));
    let bad = json!({"metadata": {"labels": {"tier": wicked}}}).to_string();
    let refused = server.try_kubectl(&["patch", "pod", "db", "--type=merge", "-p", &bad]);
    assert!(!refused.status.success(), "Kubernetes takes no such label");
    // What a runtime hands over is judged here: a name that no pod can have is no pod's, an address that is none is refused.
    let ns = Ns::new();
    let text = wicked.replace(';', ",");
    let call = |verb| world.call(verb, "wicked-1", &ns.path);
    let (_, refusal) = call("ADD").env("CNI_ARGS", format!("IP={text}")).refused();
    assert!(refusal.len() < 1_000 && !refusal.contains(char::is_control), "{refusal:?}");
    call("ADD").env("CNI_ARGS", format!("K8S_POD_NAMESPACE=a/../b;K8S_POD_NAME={text}")).done();
    call("DEL").done();
    assert!(!Path::new("/tmp/ripstop-pwned").exists());

    // Objects of ours that the schema cannot judge are named, by status and on the Node.
    let network =
        "apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {name: huge}\nspec: {ranges: [224.0.0.0/8]}\n";
    server.apply(network);
    wait_for(&world, "warnings", &["record networks/huge is not taken", "multicast"]);
    assert_eq!(status(&world)["ready"], true);
    let told = || server.kubectl(&["get", "events.events.k8s.io", "-n", "default", "-o", "jsonpath={.items[*].note}"]);
    assert!(soon(|| told().contains("network huge is not taken")), "{}", told());
    server.kubectl(&["delete", "network", "huge"]);
    assert!(soon(|| !status(&world)["warnings"].to_string().contains("huge")), "{}", status(&world));
    server.apply(&pod_object("web", "{tier: web}"));
    assert!(reaches(&world, &db) && reaches(&world, &world.pod("web")));
}
