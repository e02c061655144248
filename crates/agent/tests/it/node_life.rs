//! What becomes of a node whose object in Kubernetes goes, comes back or has another name, whose range is full, or whose
//! container runtime takes another network; and what people are told of it in Events.

use std::time::Duration;

use serde_json::Value;

use crate::kubernetes::{
    asked, become_user, is_possible, node_object, pod_object, reaches, setup, status, wait_for, with_server,
};
use crate::server::{AGENT, ApiServer};
use crate::support::ns::Ns;
use crate::support::world::{Plan, StoreAt, World};
use crate::support::{soon, within};

/// The agent's words on a busy machine: what stands for five seconds, and a look every five.
const WORDS: Duration = Duration::from_secs(60);

fn with_cidr(name: &str, cidr: &str) -> String {
    node_object(&format!("{{podCIDR: {cidr}, podCIDRs: [{cidr}]}}")).replace("name: n1", &format!("name: {name}"))
}

fn claims(server: &ApiServer) -> String {
    server.kubectl(&["get", "rangeclaims", "-o", "custom-columns=R:.spec.range,N:.spec.node,S:.spec.state"])
}

/// Events of ours about an object.
fn events(server: &ApiServer, kind: &str, name: &str) -> Vec<Value> {
    let all = server.kubectl(&["get", "events.events.k8s.io", "-A", "-o", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    let of = |event: &&Value| {
        event["reportingController"] == "ripstop.io/agent"
            && event["regarding"]["kind"] == kind
            && event["regarding"]["name"] == name
    };
    all["items"].as_array().unwrap().iter().filter(of).cloned().collect()
}

/// The only event of ours about an object with this reason, once it is as wanted.
#[track_caller]
pub fn event(server: &ApiServer, of: [&str; 3], wanted: impl Fn(&Value) -> bool) -> Value {
    let [kind, name, reason] = of;
    let mut seen = Vec::new();
    let told = within(WORDS, || {
        seen = events(server, kind, name);
        seen.retain(|event| event["reason"] == reason);
        matches!(&seen[..], [one] if wanted(one))
    });
    assert!(told, "{kind} {name} {reason}: {seen:#?}");
    seen.remove(0)
}

pub fn is_over(event: &Value) -> bool {
    event["metadata"]["annotations"]["ripstop.io/over"].is_string()
}

pub fn says(event: &Value, words: &[&str]) -> bool {
    let note = event["note"].as_str().unwrap();
    words.iter().all(|word| note.contains(word))
}

fn add(world: &World, name: &str, ns: &Ns) -> crate::support::cni::Call {
    let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}");
    world.call("ADD", &world.fresh(name), &ns.path).env("CNI_ARGS", args)
}

#[test]
fn a_node_that_is_deleted_and_made_again_keeps_its_pods() {
    if !is_possible("a Node that is deleted") {
        return;
    }
    let (mut world, server) = with_server(&["rangeMode: pod-cidr"]);
    server.apply(&with_cidr("n1", "10.244.7.0/24"));
    world.start_agent();
    world.wait_ready();
    let first = world.pod("first");
    assert!(first.ip().starts_with("10.244.7.") && reaches(&world, &first));

    server.kubectl(&["delete", "node", "n1"]);
    wait_for(&world, "reasons", &["Kubernetes has no Node n1"]);
    assert!(reaches(&world, &first), "a Node that is gone stops no pod");
    // The same range again: as if nothing had been.
    server.apply(&with_cidr("n1", "10.244.7.0/24"));
    world.wait_ready();
    let second = world.pod("second");
    assert!(second.ip().starts_with("10.244.7.") && reaches(&world, &second) && reaches(&world, &first));
    world.del(&second);

    // Another range: pods keep what they have, new ones are of the new range, and the old one goes with its last pod.
    server.kubectl(&["delete", "node", "n1"]);
    server.apply(&with_cidr("n1", "10.244.8.0/24"));
    let gives = |range: &str| {
        world.get("/v1/ipam")["ranges"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["range"] == range && row["used"] == true)
    };
    assert!(soon(|| gives("10.244.8.0/24")), "{}", world.get("/v1/ipam"));
    assert!(claims(&server).contains("10.244.8.0/24"), "{}", claims(&server));
    world.wait_ready();
    let third = world.pod("third");
    assert!(third.ip().starts_with("10.244.8.") && reaches(&world, &third) && reaches(&world, &first));
    assert!(claims(&server).contains("10.244.7.0/24"), "{}", claims(&server));
    world.del(&first);
    assert!(soon(|| !claims(&server).contains("10.244.7.0/24")), "{}", claims(&server));
    assert!(reaches(&world, &third));
    let fourth = world.pod("fourth");
    assert!(fourth.ip().starts_with("10.244.8.") && reaches(&world, &fourth), "{}", status(&world));
}

#[test]
fn a_machine_with_another_name_is_another_node() {
    if !is_possible("a Node that is renamed") {
        return;
    }
    let (mut world, server) = with_server(&["rangeMode: pod-cidr"]);
    server.apply(&with_cidr("n1", "10.244.7.0/24"));
    world.start_agent();
    world.wait_ready();
    let first = world.pod("first");
    world.agent.as_mut().unwrap().stop();
    server.kubectl(&["delete", "node", "n1"]);
    server.apply(&with_cidr("n2", "10.244.8.0/24"));
    let config = std::fs::read_to_string(world.config()).unwrap().replace("node: n1", "node: n2");
    std::fs::write(world.config(), config).unwrap();
    world.start_agent();
    world.wait_ready();
    let second = world.pod("second");
    assert!(second.ip().starts_with("10.244.8.") && reaches(&world, &second));
    wait_for(&world, "warnings", &["node n1 is this machine under an earlier name", "10.244.7.0/24"]);
    event(&server, ["Node", "n2", "NodeRenamed"], |event| says(event, &["`ripstop delete node n1`"]));

    let delete = || world.ask("POST", "/v1/delete/node/n1", "").unwrap();
    let refused = delete();
    assert!(
        refused.status == 409 && refused.body.contains("default/first here has an address of its range"),
        "{refused:?}"
    );
    world.del(&first);
    let done = delete();
    assert_eq!(done.status, 200, "{done:?}");
    assert!(soon(|| !claims(&server).contains("n1")), "{}", claims(&server));
    assert!(soon(|| !status(&world)["warnings"].to_string().contains("earlier name")), "{}", status(&world));
    assert!(reaches(&world, &second));
    event(&server, ["Node", "n2", "NodeRenamed"], is_over);
}

#[test]
fn a_full_range_is_told_to_runtime_status_pod_and_node() {
    if !is_possible("a podCIDR that is full") {
        return;
    }
    let (mut world, server) = with_server(&["rangeMode: pod-cidr"]);
    server.apply(&with_cidr("n1", "10.244.7.0/30"));
    server.apply(&pod_object("late", "{app: web}"));
    world.start_agent();
    world.wait_ready();
    let mut pods = Vec::new();
    while world.call("STATUS", "", "").make().is_ok() {
        assert!(pods.len() < 4, "more pods than addresses");
        pods.push(world.pod(&format!("early-{}", pods.len())));
    }
    let late = Ns::new();
    for _ in 0..3 {
        let (_, text) = add(&world, "late", &late).refused();
        assert!(text.contains("default/late") && text.contains("10.244.7.0/30"), "{text}");
    }
    wait_for(&world, "warnings", &["network default: no address is left on this node", "10.244.7.0/30: 3 of 3"]);
    let of_pod = ["Pod", "late", "NoFreeAddress"];
    let told = event(&server, of_pod, |event| event["series"]["count"].as_u64().is_some_and(|count| count >= 2));
    let uid = server.kubectl(&["get", "pod", "late", "-o", "jsonpath={.metadata.uid}"]);
    assert!(says(&told, &["10.244.7.0/30"]) && told["regarding"]["uid"] == uid && !is_over(&told), "{told:#}");
    let of_node = ["Node", "n1", "NoFreeAddress"];
    assert!(says(&event(&server, of_node, |_| true), &["no address is left on this node", "larger range"]));

    world.del(&pods[0]);
    add(&world, "late", &late).done();
    event(&server, of_pod, is_over);
    world.del(&pods[1]);
    event(&server, of_node, is_over);
    assert!(!status(&world)["warnings"].to_string().contains("no address is left"), "{}", status(&world));
    assert!(
        asked(&server).contains("create events.k8s.io/events") && asked(&server).contains("patch events.k8s.io/events")
    );
}

#[test]
fn another_network_before_ours_is_told() {
    if !is_possible("another CNI plugin") {
        return;
    }
    let (mut world, server) = with_server(&[]);
    server.apply(&with_cidr("n1", "10.244.7.0/24"));
    let dir = world.dir.path().join("net.d");
    std::fs::create_dir(&dir).unwrap();
    let put = |name: &str, plugin: &str| {
        std::fs::write(dir.join(name), format!("{{\"plugins\": [{{\"type\": \"{plugin}\"}}]}}")).unwrap();
    };
    put("10-ripstop.conflist", "ripstop-cni");
    put("87-podman.conflist", "bridge");
    world.start_agent();
    world.wait_ready();
    put("05-other.conflist", "bridge");
    let words = ["/net.d/05-other.conflist, which comes before 10-ripstop.conflist", "remove or rename it"];
    wait_for(&world, "warnings", &words);
    assert_eq!(status(&world)["ready"], true, "pods that are there go on");
    let told = event(&server, ["Node", "n1", "OtherNetworkFirst"], |event| says(event, &words));
    assert!(!told["note"].as_str().unwrap().contains("podman"), "what comes behind ours is nobody's trouble: {told:#}");
    std::fs::remove_file(dir.join("05-other.conflist")).unwrap();
    event(&server, ["Node", "n1", "OtherNetworkFirst"], is_over);
    assert!(!status(&world)["warnings"].to_string().contains("net.d"), "{}", status(&world));
    // Another installer puts ours aside.
    std::fs::rename(dir.join("10-ripstop.conflist"), dir.join("10-ripstop.conflist.other_bak")).unwrap();
    wait_for(&world, "warnings", &["87-podman.conflist, and no network configuration there names ripstop-cni"]);
}

#[test]
fn a_pod_is_told_which_address_it_lacks_and_a_missing_right_costs_a_line() {
    if !is_possible("Events on pods") {
        return;
    }
    let pools = "blocks: {len: {v4: 30}, pools: [{range: 10.99.0.0/30, labels: {tier: db}}]}";
    let (mut world, server) = with_server(&["rangeMode: blocks", pools]);
    let rules = server.kubectl(&["get", "clusterrole", "ripstop-agent", "-o", "jsonpath={.rules[*].apiGroups}"]);
    let place = rules.split_whitespace().position(|groups| groups.contains("events.k8s.io")).unwrap();
    let without = format!("[{{\"op\": \"remove\", \"path\": \"/rules/{place}\"}}]");
    server.kubectl(&["patch", "clusterrole", "ripstop-agent", "--type=json", "-p", &without]);
    for (name, tier) in
        [("fixed", "web"), ("db-0", "db"), ("db-1", "db"), ("db-2", "db"), ("db-3", "db"), ("db-4", "db")]
    {
        server.apply(&pod_object(name, &format!("{{tier: {tier}}}")));
    }
    world.start_agent();
    world.wait_ready();
    // Its label is read, so it gets an address of the pool; then four others have them all.
    let first = world.pod("db-0");
    assert!(first.ip().starts_with("10.99.0."), "{}", first.ip());
    let pods: Vec<_> = (1..4).map(|n| world.pod(&format!("db-{n}"))).collect();
    let (code, text) = add(&world, "db-4", &Ns::new()).timeout(700).refused();
    assert!(text.contains("10.99.0.0/30"), "{code} {text}");
    let fixed = Ns::new();
    let asked_for =
        |call: crate::support::cni::Call| call.with("runtimeConfig", serde_json::json!({"ips": [first.ip()]}));
    let (code, text) = asked_for(add(&world, "fixed", &fixed)).timeout(700).refused();
    assert!(text.contains("is held by pod default/db-0"), "{code} {text}");

    // Without the right: a line, and nothing else.
    let warned = |world: &World| status(world)["warnings"].to_string().contains("cannot be told in Events");
    assert!(within(WORDS, || warned(&world)), "{}", status(&world));
    wait_for(&world, "warnings", &["cannot create resource", "events", "deploy/ripstop.yaml"]);
    assert_eq!(status(&world)["ready"], true);
    assert!(reaches(&world, &pods[0]));
    server.apply_ours();
    assert!(within(WORDS * 2, || !warned(&world)), "{}", status(&world));
    let taken = event(&server, ["Pod", "fixed", "AddressRefused"], |_| true);
    assert!(says(&taken, &[&first.ip(), "pod default/fixed: address", "is held by pod default/db-0"]), "{taken:#}");
    let full = event(&server, ["Pod", "db-4", "NoFreeAddress"], |_| true);
    assert!(
        says(&full, &["default/db-4", "10.99.0.0/30 of network default", "remove pods, or add a pool"]),
        "{full:#}"
    );
    // A pod that goes is not spoken of any more.
    server.kubectl(&["delete", "pod", "db-4", "--force", "--grace-period=0"]);
    event(&server, ["Pod", "db-4", "NoFreeAddress"], is_over);
}

#[test]
fn a_name_that_another_machine_has_is_told_on_the_node() {
    if !is_possible("a Node name of two machines") {
        return;
    }
    let config = vec!["timings: {aliveInterval: 300ms, staleAfter: 60s, orphanInterval: 1s}".to_owned()];
    let mut world = World::make(Plan { store: StoreAt::Kubernetes, config, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    become_user(&world, &server, AGENT);
    server.apply(&with_cidr("n1", "10.244.7.0/24"));
    server.apply(
        "{apiVersion: ripstop.io/v1alpha1, kind: NodeState, metadata: {name: n1}, spec: {name: n1, identity: {machineId: other, \
         bootId: b}, addresses: [{ip: 172.30.9.9, prefix: 172.30.9.0/24}], receives: [{type: plain}]}}",
    );
    world.start_agent();
    world.wait_up();
    wait_for(&world, "reasons", &["found the name of another machine, other at 172.30.9.9"]);
    event(&server, ["Node", "n1", "NodeNameTaken"], |event| says(event, &["another machine, other at 172.30.9.9"]));
    server.kubectl(&["delete", "nodestate", "n1"]);
    world.wait_ready();
    event(&server, ["Node", "n1", "NodeNameTaken"], is_over);
}
