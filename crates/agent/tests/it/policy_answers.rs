//! What an agent answers about policies: the same as the objects that it shows come to, and as packets fare.

use std::net::TcpStream;

use ripstop_agent::core::{POLICY_KINDS, PolicyObjects};
use ripstop_policy::Policies;
use ripstop_policy::explain::{Answer, End, Party};
use serde_json::{Value, json};

use crate::policies::{Scene, connects, policy, scene};
use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::world::{Plan, World};
use crate::support::world::{Pod, StoreAt};

/// All objects of a kind, and in how many pieces they came.
fn pages(world: &World, kind: &str) -> (Vec<PolicyObjects>, usize) {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/v1/policy/objects/{kind}/{after}"));
        let page: PolicyObjects = serde_json::from_value(page).unwrap();
        let next = page.next.clone();
        all.push(page);
        match next {
            Some(next) => after = next,
            None => return (all.clone(), all.len()),
        }
    }
}

/// The tables of all nodes that the objects come to.
fn of_objects(world: &World) -> Policies {
    let mut policies = Policies::new(None);
    for page in POLICY_KINDS.iter().flat_map(|kind| pages(world, kind).0) {
        page.nodes.iter().for_each(|node| policies.put_node(node));
        page.namespaces.iter().for_each(|namespace| policies.put_namespace(namespace));
        page.pods.iter().for_each(|pod| policies.put_pod(pod));
        page.networkpolicies.iter().for_each(|policy| policies.put_policy(policy));
        page.clusternetworkpolicies.iter().for_each(|policy| policies.put_cluster_policy(policy));
        assert!(page.closed.is_empty());
    }
    policies.decide();
    policies
}

fn party(name: &str, pod: &Pod) -> Party {
    Party { name: format!("default/{name}"), ips: vec![pod.ip().parse().unwrap()] }
}

fn asked(world: &World, from: &Party, to: &Party, port: &str) -> Option<Answer> {
    let answer = world.ask("POST", "/v1/policy/answer", &json!({"from": from, "to": to, "port": port}).to_string());
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_value(answer.json()).unwrap()
}

/// Who decides at each end.
fn reasons(answer: &Answer) -> Vec<(bool, String)> {
    let ends = answer.paths.iter().flat_map(|path| path.explanation.ends());
    ends.map(|end: &End| (end.allowed, end.to_string())).collect()
}

/// Asks about every pair; answers are those of the objects, and packets fare so.
fn compare(scene: &Scene, has_answer: bool) {
    let pods = [("web", &scene.web), ("friend", &scene.friend), ("stranger", &scene.stranger)];
    let policies = of_objects(&scene.world);
    for (name, from) in pods {
        for (other, to) in pods.into_iter().filter(|(other, _)| *other != name) {
            let (source, destination) = (party(name, from), party(other, to));
            for port in ["8080/TCP", "9090/TCP"] {
                let right = policies.answer(&source, &destination, port.parse().unwrap()).unwrap();
                let answer = asked(&scene.world, &source, &destination, port);
                assert_eq!(answer.is_some(), has_answer);
                if let Some(answer) = answer {
                    assert_eq!(reasons(&answer), reasons(&right), "{name} {other} {port}");
                    assert_eq!(answer.allowed_staged, right.allowed_staged, "{name} {other} {port}");
                }
                let number = port.split('/').next().unwrap().parse().unwrap();
                assert_eq!(connects(&from.ns, &to.at(number)), right.allowed, "{name} {other} {port}");
            }
        }
    }
}

#[test]
fn answers_are_those_of_the_objects_and_of_packets() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan { store: StoreAt::Here, ..Plan::default() });
    let world = &scene.world;
    let pods = || pages(world, "pods").0.iter().flat_map(|page| page.pods.clone()).collect::<Vec<_>>();
    assert!(soon(|| pods().iter().filter(|pod| !pod.labels.is_empty()).count() == 3), "{:?}", pods());
    compare(&scene, false);

    let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]";
    let open = policy("open", &format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}"));
    let staged = open.replace("{name: open}", "{name: open, annotations: {ripstop.io/staged: \"true\"}}");
    world.apply(&staged);
    assert!(soon(|| !scene.row("open").is_null()));
    compare(&scene, false);
    let told = |from, port: &str| {
        of_objects(world)
            .answer(&party(from, &scene.stranger), &party("web", &scene.web), port.parse().unwrap())
            .unwrap()
    };
    assert!(told("stranger", "8080").allowed && !told("stranger", "8080").allowed_staged);

    world.apply(&open);
    assert!(soon(|| scene.row("open")["realised"] == true), "{}", scene.row("open"));
    compare(&scene, true);
}

#[test]
fn objects_are_shown_a_piece_at_a_time_and_connections_as_they_are() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    let manifest: String = (0..600)
        .map(|n| format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: space-{n}}}}}\n"))
        .collect();
    world.apply(&manifest);
    let names = || {
        let (all, count) = pages(world, "namespaces");
        (all.iter().flat_map(|page| page.namespaces.iter().map(|one| one.name.to_string())).collect::<Vec<_>>(), count)
    };
    assert!(soon(|| names().0.len() == 601), "{:?}", names());
    let (shown, count) = names();
    assert!(count == 3 && shown.is_sorted(), "{count} {shown:?}");

    let to = scene.web.at(8080);
    let stream = scene.friend.ns.inside(|| TcpStream::connect(&to)).unwrap();
    let found = world.get("/v1/policy/connections");
    let own = stream.local_addr().unwrap().ip().to_string();
    let connections = found["connections"].as_array().unwrap();
    let is_it = |one: &&Value| one["source"] == json!(own) && one["destination"] == json!(scene.web.ip());
    let one = connections.iter().find(is_it).unwrap_or_else(|| panic!("{found}"));
    assert_eq!((&one["port"], &found["node"]), (&json!(8080), &json!("n1")));
    assert!(found["own"].as_array().unwrap().contains(&json!(world.own_ip(false))), "{found}");

    for (method, path, body, status) in [
        ("GET", "/v1/policy/objects/cows/", "", 422),
        ("GET", "/v1/policy/cows/a", "", 404),
        ("GET", "/v1/policy/cows", "", 404),
        ("GET", "/v1/policy/pod/A/c", "", 422),
        ("POST", "/v1/policy/answer", "{}", 400),
        (
            "POST",
            "/v1/policy/answer",
            "{\"from\": {\"name\": \"a\", \"ips\": []}, \"to\": {\"name\": \"b\", \"ips\": []}, \"port\": \"x\"}",
            422,
        ),
    ] {
        let answer = world.ask(method, path, body).unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
}
