//! The agent's HTTP socket: shapes of rows, health, metrics, manifests, ranges.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::soon;
use crate::support::web;
use crate::support::world::{Families, Plan, StoreAt, World};

fn fields(row: &Value, names: &[&str]) {
    for name in names {
        assert!(row.get(*name).is_some(), "no {name}: {row:#}");
    }
    let flat = |value: &Value| match value {
        Value::Object(_) => false,
        Value::Array(items) => items.iter().all(|item| !item.is_object() && !item.is_array()),
        _ => true,
    };
    assert!(row.as_object().unwrap().values().all(flat), "not flat: {row:#}");
}

#[test]
fn rows_have_their_fields() {
    if !is_root() {
        return;
    }
    let plan = Plan { families: Families::Dual, backend: "vxlan", store: StoreAt::Here, ..Plan::default() };
    let world = World::start(plan);
    world.add_peer();
    let pod = world.pod("web");
    assert!(soon(|| world.rows("/v1/paths").len() == 2));
    world.settle();
    let wanted: [(&str, &[&str]); 8] = [
        ("pods", &["namespace", "name", "node", "ips", "mac", "mtu", "interface", "netns", "network"]),
        ("nodes", &["name", "addresses", "ranges", "receives", "ready", "reason"]),
        ("paths", &["node", "peer", "family", "backend", "device", "mtu", "state"]),
        ("leases", &["range", "node", "holder", "alive"]),
        ("networks", &["name", "ranges", "wiring", "backend"]),
        ("routes", &["node", "dst", "via", "dev", "owner"]),
        ("journal", &["step", "action", "object", "owner", "reason", "inverse", "state", "error"]),
        ("plan", &["step", "action", "object", "owner", "reason", "inverse", "state"]),
    ];
    for (kind, names) in wanted {
        let rows = world.rows(&format!("/v1/{kind}"));
        assert_eq!(rows.is_empty(), kind == "plan", "{kind}: {rows:#?}");
        rows.iter().for_each(|row| fields(row, names));
    }
    let row = &world.rows("/v1/pods")[0];
    assert_eq!((&row["namespace"], &row["name"], &row["ips"]), (&json!("default"), &json!("web"), &json!(pod.ips())));
    let paths = world.rows("/v1/paths");
    assert_eq!(paths[0]["peer"], "n2");
    assert_eq!(paths.iter().map(|path| &path["family"]).collect::<Vec<_>>(), ["4", "6"]);
    assert_eq!(
        (&paths[0]["backend"], &paths[0]["device"], &paths[0]["mtu"]),
        (&json!("vxlan"), &json!("ript1"), &json!(1450))
    );
    let routes = world.rows("/v1/routes");
    let peer = routes.iter().find(|route| route["dst"] == "10.244.200.0/24").unwrap();
    assert_eq!((&peer["owner"], &peer["dev"]), (&json!("node/n2"), &json!("ript1")));
    let leases = world.rows("/v1/leases");
    assert!(leases.iter().any(|lease| lease["node"] == "n1" && lease["alive"] == true));
    let ipam = world.get("/v1/ipam");
    assert_eq!(ipam["ranges"][0]["leased"], 1);
    assert_eq!(ipam["ranges"].as_array().unwrap().len(), 2);
    assert!(soon(|| world.get("/v1/ipam/check")["problems"].to_string().contains("node n2 shows no sign of life")));
    for (path, part) in [
        ("node/n1", "Addresses"),
        ("node/n2", "vxlan by ript1"),
        ("pod/default/web", "realised"),
        ("network/default", "10.244.0.0/16"),
    ] {
        let text = world.get(&format!("/v1/describe/{path}"))["text"].as_str().unwrap().to_owned();
        assert!(text.contains(part) && !text.contains("pending"), "{path}: {text}");
    }
    refuses(&world);
}

/// What is not known is refused with a sentence.
fn refuses(world: &World) {
    for (method, path, status) in [
        ("GET", "/v1/describe/pod/default/none", 404),
        ("GET", "/v1/nonsense", 404),
        ("GET", "/v1/describe/x", 404),
        ("POST", "/v1/nonsense", 404),
        ("DELETE", "/v1/pods", 405),
        ("POST", "/v1/ipam/release", 400),
        ("POST", "/v1/apply", 422),
    ] {
        // A server that does not read what is sent may end the connection before its answer is read.
        let answer = (0..5).find_map(|_| world.ask(method, path, "{")).unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(answer.content_type, "application/json");
        assert!(answer.json()["error"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

/// The text format of OpenMetrics: names and values of every sample. Each family has its help and type before it.
fn parse(text: &str) -> Vec<(String, f64)> {
    let (mut helped, mut types) = (std::collections::BTreeSet::new(), std::collections::BTreeMap::new());
    let mut samples = Vec::new();
    let text = text.strip_suffix("# EOF\n").expect("the end of the text");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert!(helped.contains(name), "{line} has no help");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            helped.insert(rest.split_once(' ').unwrap().0.to_owned());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let word = name.split('{').next().unwrap();
            let (family, kind) = word.strip_suffix("_total").map_or((word, "gauge"), |family| (family, "counter"));
            assert_eq!(types.get(family).map(String::as_str), Some(kind), "{line}");
            assert!(family.starts_with("ripstop_"));
            samples.push((name.to_owned(), value.parse().unwrap()));
        }
    }
    samples
}

#[test]
fn metrics_and_health_also_by_tcp() {
    if !is_root() {
        return;
    }
    let config = vec!["metricsListen: 127.0.0.1:9464".to_owned()];
    let world = World::start(Plan { config, ..Plan::default() });
    let pod = world.pod("web");
    world.call("ADD", &pod.container, &pod.ns.path).refused();
    let tcp = |path: &str| {
        let mut stream = world.node.inside(|| TcpStream::connect("127.0.0.1:9464")).unwrap();
        web::exchange(&mut stream, "GET", path, "").unwrap()
    };
    let answer = tcp("/metrics");
    assert_eq!(
        (answer.status, answer.content_type.as_str()),
        (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let samples = parse(&answer.body);
    let value = |name: &str| samples.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("{name}")).1;
    assert!((value("ripstop_pods") - 1.0).abs() < 0.1);
    assert!((value("ripstop_ready") - 1.0).abs() < 0.1);
    assert!((value("ripstop_cni_replies_total{result=\"error\"}") - 1.0).abs() < 0.1);
    assert!(value("ripstop_inputs_total{kind=\"cni\"}") >= 2.0);
    assert!(value("ripstop_plan_steps_total{lane=\"kernel\",action=\"create\"}") > 10.0);
    assert_eq!(parse(&world.ask("GET", "/metrics", "").unwrap().body).len(), samples.len());
    assert_eq!((tcp("/healthz").status, tcp("/readyz").status), (200, 200));
    assert_eq!(tcp("/v1/pods").status, 404, "nothing else is said to the network");
}

fn manifest(name: &str, range: &str, wiring: &str) -> String {
    json!({
        "apiVersion": "ripstop.io/v1alpha1", "kind": "Network", "metadata": {"name": name},
        "spec": {"ranges": [range], "wiring": wiring, "backend": "host-gw"},
    })
    .to_string()
}

#[test]
fn networks_come_change_and_go() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let post = |path: &str, body: &str| world.ask("POST", path, body).unwrap();
    let apply = |body: &str| {
        let answer = post("/v1/apply", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["results"][0]["action"].as_str().unwrap().to_owned()
    };
    let blue = manifest("blue", "10.99.0.0/16", "routed");
    assert_eq!(apply(&blue), "created");
    assert_eq!(apply(&blue), "unchanged");
    assert!(soon(|| world.call("STATUS", "", "").with("network", "blue".into()).make().is_ok()));
    world.settle();
    let pod = world.pod_with("web", |call| call.with("network", "blue".into()));
    assert!(pod.ip().starts_with("10.99."));
    let plain = world.pod("plain");
    let echo = Echo::start(&pod.ns, &pod.at(7000));
    assert_eq!(ask(&plain.ns, None, echo.at), Some(plain.ip()), "pods see each other across networks");
    // What pods use does not change under them.
    let bridged = manifest("blue", "10.99.0.0/16", "bridge");
    let refused = |path: &str, body: &str, words: &[&str]| {
        let answer = post(path, body);
        assert_eq!(answer.status, 422, "{}", answer.body);
        let text = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refused("/v1/apply", &bridged, &["network/blue", "spec.wiring", "bridge"]);
    refused("/v1/apply", &manifest("blue", "10.98.0.0/16", "routed"), &["network/blue", "spec.ranges"]);
    refused("/v1/apply", &manifest("green", "10.99.128.0/17", "routed"), &["network/green", "10.99.128.0/17", "blue"]);
    refused("/v1/apply", &manifest("green", "172.30.0.0/16", "routed"), &["network/green", "172.30.1.0/24"]);
    refused("/v1/delete", &blue, &["network/blue", "n1"]);
    assert_eq!(world.rows("/v1/networks").len(), 2);
    world.check(&pod).done();
    // What may change does.
    let changed = blue.replace("\"backend\":\"host-gw\"", "\"backend\":\"host-gw\",\"masquerade\":false");
    assert_eq!(apply(&changed), "configured");
    assert!(soon(|| world.rows("/v1/networks").iter().any(|n| n["name"] == "blue" && n["masquerade"] == false)));
    // Given back, it goes.
    let range =
        world.get("/v1/ipam")["ranges"].as_array().unwrap().iter().find(|r| r["network"] == "blue").unwrap()["range"]
            .clone();
    let release = |range: &Value| post("/v1/ipam/release", &json!({"range": range}).to_string());
    let answer = release(&range);
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("1 leases") && answer.body.contains("default/web"), "{}", answer.body);
    world.del(&pod);
    assert_eq!(release(&range).status, 200);
    assert!(soon(|| world.rows("/v1/leases").len() == 1), "{:#}", world.get("/v1/leases"));
    let answer = post("/v1/delete", &blue);
    assert_eq!(answer.json()["results"], json!([{"object": "network/blue", "action": "deleted"}]), "{}", answer.body);
    assert!(soon(|| world.rows("/v1/networks").len() == 1));
    assert_eq!(post("/v1/delete", &blue).json()["results"][0]["action"], "not found");
    assert!(soon(|| !world.node.ip("-o addr show").contains("10.99.")));
    world.settle();
    let answer = release(&json!("10.1.2.0/24"));
    assert!(answer.status == 409 && answer.body.contains("claimed by nobody"), "{}", answer.body);
    let answer = release(&json!("10.1.2.3/24"));
    assert!(answer.status == 409 && answer.body.contains("10.1.2.3/24"), "{}", answer.body);
}

#[test]
fn ranges_of_others_are_freed_only_when_they_are_dead() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { store: StoreAt::Here, ..Plan::default() });
    world.add_peer();
    let store = world.store.as_ref().unwrap();
    let alive = |n: u64| {
        store.put(ripstop_store::Kind::Alive, "n2", &json!({"node": "n2", "sequence": n, "bootId": "boot-1"}));
    };
    let release = || world.ask("POST", "/v1/ipam/release", "{\"range\": \"10.244.200.0/24\"}").unwrap();
    alive(1);
    let mut beats = 1;
    let refused = soon(|| {
        beats += 1;
        alive(beats);
        let answer = release();
        assert_eq!(answer.status, 409, "{}", answer.body);
        answer.body.contains("n2 is fresh")
    });
    assert!(refused);
    assert!(world.rows("/v1/leases").iter().any(|lease| lease["node"] == "n2" && lease["alive"] == true));
    // Silent for longer than staleAfter.
    assert!(soon(|| world.rows("/v1/leases").iter().any(|lease| lease["node"] == "n2" && lease["alive"] == false)));
    assert!(world.node.ip("route show 10.244.200.0/24").contains("via"), "stale is not gone");
    assert_eq!(release().status, 200);
    assert!(soon(|| world.node.ip("route show 10.244.200.0/24").is_empty()));
    assert_eq!(store.list(ripstop_store::Kind::Claims).len(), 1);
}

#[test]
fn an_agent_without_a_store_refuses_manifests() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::Nowhere, ..Plan::default() });
    world.start_agent();
    world.wait_up();
    for path in ["/v1/apply", "/v1/delete"] {
        let answer = world.ask("POST", path, &manifest("blue", "10.99.0.0/16", "routed")).unwrap();
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
        assert!(answer.body.contains("store"), "{}", answer.body);
    }
    let ns = Ns::new();
    assert_eq!(world.call("ADD", "c1", &ns.path).timeout(600).refused().0, 11);
}
