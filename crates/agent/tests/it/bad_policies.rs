//! Policies that are not as they should be, and objects that change faster than anybody looks: each has an outcome that is told, and nothing
//! is opened by it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ripstop_store::Kind;
use serde_json::{Value, json};

use crate::kubernetes::{is_possible, node_object, wait_for, with_server};
use crate::node_life::{event, is_over, says};
use crate::policies::{Traffic, pod_object, policy, scene};
use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::world::Plan;

const WEB: &str = "{matchLabels: {role: web}}";

fn network(name: &str, ingress: Value) -> Value {
    let spec = json!({"podSelector": {"matchLabels": {"role": "web"}}, "ingress": ingress});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "default", "name": name}, "spec": spec})
}

/// What stands in a store although `apply` refuses it: another program, or a later version, wrote it.
#[test]
fn what_cannot_be_read_of_a_policy_is_closed_and_said() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let store = scene.world.store.as_ref().unwrap();
    let friend = json!({"podSelector": {"matchLabels": {"role": "friend"}}});
    let long: Value = (0..1_000).map(|n| (format!("label-{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    for (ingress, who, said) in [
        (json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]), "", "from[0].ipBlock.cidr: found 10.0.0.0/33"),
        (
            json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]),
            "",
            "accepted: a prefix within 10.0.0.0/8",
        ),
        (
            json!([{"from": [friend], "ports": [{"port": 8080, "endPort": 80}]}]),
            "",
            "endPort: found 80, accepted: a number from 8080",
        ),
        (json!([{"ports": [{"protocol": "ICMP"}]}]), "", "protocol: found ICMP, accepted: TCP, UDP or SCTP"),
        (json!([{"from": [{"domainNames": ["example.org"]}]}]), "", "from[0].domainNames: found an unknown field"),
        (
            json!([{"from": [{"serviceAccountSelector": {}}, friend]}]),
            "friend",
            "from[0].serviceAccountSelector: found an unknown field",
        ),
        (json!([{"from": [{"podSelector": {"matchLabels": long}}]}]), "", ""),
    ] {
        let bad = network("bad", ingress.clone());
        if !said.is_empty() {
            let refused = scene.world.ask("POST", "/v1/apply", &bad.to_string()).unwrap();
            assert!(refused.status == 422 && refused.body.contains(said), "{ingress}: {}", refused.body);
        }
        store.put(Kind::NetworkPolicies, "default/bad", &bad);
        scene.expect(8080, who);
        let row = || scene.row("bad");
        let is_told =
            |reason: &Value| if said.is_empty() { reason.is_null() } else { reason.to_string().contains(said) };
        assert!(soon(|| row()["realised"] == true && is_told(&row()["reason"])), "{said}: {}", row());
        let status = || scene.world.get("/v1/status");
        assert!(
            said.is_empty() || soon(|| status()["warnings"].to_string().contains(said)),
            "{said}: {}",
            status()["warnings"]
        );
        scene.delete(&policy("bad", "{podSelector: {}}"));
        scene.expect(8080, "friend stranger peer outside");
    }
}

#[test]
fn policies_without_pods_and_of_one_place_have_an_outcome() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let store = scene.world.store.as_ref().unwrap();
    // Of a namespace that is not there, and of one that selects nobody.
    let mut elsewhere = network("elsewhere", json!([]));
    elsewhere["metadata"]["namespace"] = json!("gone");
    store.put(Kind::NetworkPolicies, "gone/elsewhere", &elsewhere);
    assert!(soon(|| scene.row("elsewhere")["reason"] == "it selects no pod"), "{}", scene.row("elsewhere"));
    assert_eq!(scene.reach(8080), "friend stranger peer outside");
    // Two that are asked at the same place go by their names.
    let guard = |name: &str, action: &str| {
        format!(
            "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: {{\n\
             tier: Admin, priority: 5, subject: {{pods: {{namespaceSelector: {{}}, podSelector: {WEB}}}}},\n\
             ingress: [{{action: {action}, from: [{{pods: {{namespaceSelector: {{}}, podSelector: {{}}}}}}]}}]}}}}\n"
        )
    };
    scene.world.apply(&[guard("b", "Accept"), guard("a", "Deny")].concat());
    scene.expect(8080, "peer outside");
    scene.delete(&guard("a", "Deny"));
    scene.expect(8080, "friend stranger peer outside");
}

/// Labels change as fast as the store takes them, of a pod that is never meant and of one that always is.
#[test]
fn labels_that_never_rest_open_nothing_and_close_nothing() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let ingress = "[{from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [friend, ally]}]}}]}]";
    scene.world.apply(&policy("open", &format!("{{podSelector: {WEB}, ingress: {ingress}}}")));
    scene.expect(8080, "friend");
    let store = scene.world.store.as_ref().unwrap();
    let pod = |name: &str, role: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name, "labels": {"role": role}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
    };
    let traffic = Traffic::start(&scene);
    let begun = Instant::now();
    let mut changes = 0_u32;
    while begun.elapsed() < Duration::from_secs(3) {
        let (own, other) = if changes.is_multiple_of(4) { ("friend", "stranger") } else { ("ally", "nobody") };
        store.put(Kind::Pods, "default/friend", &pod("friend", own));
        store.put(Kind::Pods, "default/stranger", &pod("stranger", other));
        changes += 2;
    }
    println!("{changes} changes of labels in {:.1?}", begun.elapsed());
    scene.world.settle();
    let open = policy("open", "{podSelector: {}}");
    let [made, lost, leaked] = traffic.end(|| scene.delete(&open));
    assert!(
        changes > 100 && made > 100 && (lost, leaked) == (0, 0),
        "{changes} changes: {made} made, {lost} lost, {leaked} leaked"
    );
}

/// A pod's labels go to and fro between meant and not meant: in the end it is as the last of them says.
#[test]
fn the_last_of_many_changes_counts() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}]}]";
    scene.world.apply(&policy("open", &format!("{{podSelector: {WEB}, ingress: {ingress}}}")));
    scene.expect(8080, "friend");
    let (is_over, turns) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|s| {
        s.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let role = if turns.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { "friend" } else { "other" };
                scene.world.apply(&pod_object("stranger", role));
            }
        });
        assert!(soon(|| turns.load(Ordering::Relaxed) > 300));
        is_over.store(true, Ordering::Relaxed);
    });
    for (role, who) in [("friend", "friend stranger"), ("other", "friend")] {
        scene.world.apply(&pod_object("stranger", role));
        scene.expect(8080, who);
    }
    scene.world.settle();
}

/// Policies change all the time, so that tables of ports and peers come and go, while pods come and go: each ADD is answered soon, and nothing
/// fails that is tried again.
#[test]
fn pods_come_and_go_while_policies_change() {
    if !is_root() {
        return;
    }
    const PODS: usize = 60;
    let scene = scene(Plan::default());
    let world = &scene.world;
    let from = "[{from: [{podSelector: {matchLabels: {role: friend}}}]}]";
    world.apply(&policy("open", &format!("{{podSelector: {{matchLabels: {{role: new}}}}, ingress: {from}}}")));
    let objects: Vec<String> = (0..PODS).map(|n| pod_object(&format!("new-{n}"), "new")).collect();
    world.apply(&objects.concat());
    let is_over = AtomicBool::new(false);
    let (changes, slowest) = std::thread::scope(|s| {
        let changer = s.spawn(|| {
            let mut changes = 0_u16;
            while !is_over.load(Ordering::Relaxed) {
                let ports = format!("[{{ports: [{{port: {}}}, {{port: {}}}]}}]", 10_000 + changes, 20_000 + changes);
                let spec = format!("{{podSelector: {{matchLabels: {{role: new}}}}, ingress: {ports}}}");
                world.apply(&policy(&format!("beside-{}", changes % 10), &spec));
                changes += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            changes
        });
        let mut slowest = Duration::ZERO;
        let mut there = VecDeque::new();
        for n in 0..PODS {
            let begun = Instant::now();
            let pod = world.pod(&format!("new-{n}"));
            slowest = slowest.max(begun.elapsed());
            there.push_back(pod);
            if there.len() > 5 {
                world.del(&there.pop_front().unwrap());
            }
        }
        is_over.store(true, Ordering::Relaxed);
        there.iter().for_each(|pod| world.del(pod));
        (changer.join().unwrap(), slowest)
    });
    println!("{PODS} pods beside {changes} changes of policies, the slowest ADD {slowest:.0?}");
    let log = world.agent().log_text();
    assert!(!log.contains("trying again"), "{log}");
    world.settle();
}

/// What is closed is told beside the policy, once, and told to be over.
#[test]
fn an_event_tells_of_a_policy_that_is_closed() {
    if !is_possible("Events of policies") {
        return;
    }
    let (mut world, server) = with_server(&["rangeMode: pod-cidr"]);
    server.apply(&node_object("{podCIDR: 10.244.7.0/24, podCIDRs: [10.244.7.0/24]}"));
    server.apply(
        "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition,\n\
         metadata: {name: clusternetworkpolicies.policy.networking.k8s.io, annotations: {api-approved.kubernetes.io: \"unapproved, for a test\"}},\n\
         spec: {group: policy.networking.k8s.io, scope: Cluster, names: {kind: ClusterNetworkPolicy, plural: clusternetworkpolicies},\n\
         versions: [{name: v1alpha2, served: true, storage: true,\n\
         schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}",
    );
    let guard = |to: &str| {
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: guard}}, spec: {{\n\
             tier: Admin, priority: 5, subject: {{namespaces: {{}}}}, egress: [{{action: Accept, to: [{to}]}}]}}}}"
        )
    };
    assert!(soon(|| server.try_kubectl(&["get", "clusternetworkpolicies"]).status.success()));
    world.start_agent();
    world.wait_ready();
    server.apply(&guard("{domainNames: [example.org]}"));
    let of = ["ClusterNetworkPolicy", "guard", "PolicyClosed"];
    let words = ["spec.egress[0].to[0]", "domainNames", "matches nothing, or denies"];
    event(&server, of, |event| says(event, &words) && !is_over(event));
    wait_for(&world, "warnings", &words);
    server.apply(&guard("{namespaces: {}}"));
    event(&server, of, is_over);
    assert!(soon(|| !world.get("/v1/status")["warnings"].to_string().contains("guard")));
}
