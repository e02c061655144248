//! Addresses of pools for Services of type LoadBalancer: given, kept, given back, and never twice.

use std::collections::BTreeSet;

use ripstop_store::Kind;
use serde_json::Value;

use crate::support::soon;
use crate::support::world::{Plan, StoreAt, World};

fn pool(name: &str, addresses: &str) -> String {
    format!(
        "---\n{{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: [{addresses}]}}}}\n"
    )
}

fn service(name: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]{more}}}}}\n"
    )
}

struct Scene {
    world: World,
}

impl Scene {
    fn start() -> Self {
        let config = vec!["services: {proxy: nftables, serviceCIDRs: [10.96.0.0/16]}".into()];
        Self { world: World::start(Plan { store: StoreAt::Here, config, ..Plan::default() }) }
    }

    fn record(&self, name: &str) -> Option<Value> {
        self.world.store.as_ref().unwrap().get(Kind::Services, &format!("default/{name}"))
    }

    /// The addresses that a Service shows.
    fn shown(&self, name: &str) -> Vec<String> {
        let record = self.record(name).unwrap_or_default();
        let rows = record["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row["ip"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn expect(&self, name: &str, addresses: &[&str]) {
        let came = soon(|| self.shown(name) == addresses);
        assert!(came, "{name}: {:?}\n{}", self.shown(name), self.world.agent().log_text());
    }

    fn claims(&self) -> BTreeSet<String> {
        let records = self.world.store.as_ref().unwrap().list(Kind::AddressClaims);
        records.into_iter().map(|(key, ..)| key).collect()
    }

    fn delete(&self, manifest: &str) {
        assert_eq!(self.world.ask("POST", "/v1/delete", manifest).unwrap().status, 200);
    }
}

#[test]
fn services_get_addresses_of_pools_and_give_them_back() {
    let mut scene = Scene::start();
    scene
        .world
        .apply(&[service("a", ""), service("b", ""), service("other", ", loadBalancerClass: other.io/lb")].concat());
    scene.world.apply(&pool("public", "198.51.100.0/30"));
    scene.expect("a", &["198.51.100.0"]);
    scene.expect("b", &["198.51.100.1"]);
    assert_eq!(scene.record("a").unwrap()["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    let row = scene.world.rows("/v1/addresspools").remove(0);
    assert_eq!((row["used"].clone(), row["free"].clone()), (2.into(), 2.into()), "{row}");

    // Said again, and by an agent that starts anew, nothing changes.
    let before = ["a", "b"].map(|name| scene.record(name));
    assert_eq!(scene.world.apply(&service("a", ""))[0]["action"], "unchanged");
    scene.world.restart();
    assert!(soon(|| scene.world.rows("/v1/addresspools").len() == 1));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(["a", "b"].map(|name| scene.record(name)), before);

    // What is given back another gets; a named address goes before.
    scene.delete(&service("a", ""));
    assert!(soon(|| !scene.claims().contains("198.51.100.0")), "{:?}", scene.claims());
    scene.world.apply(&[service("c", ""), service("d", ", loadBalancerIP: 198.51.100.3")].concat());
    scene.expect("c", &["198.51.100.0"]);
    scene.expect("d", &["198.51.100.3"]);
    scene.world.apply(&service("d", ", loadBalancerIP: 198.51.100.2"));
    scene.expect("d", &["198.51.100.2"]);
    scene.world.apply(&service("e", ", loadBalancerIP: 198.51.100.2"));

    // A pool that shrinks takes back what is not in it any more, and none that is.
    scene.world.apply(&pool("public", "198.51.100.1-198.51.100.2, 198.51.100.8"));
    scene.expect("c", &["198.51.100.8"]);
    scene.expect("b", &["198.51.100.1"]);
    assert_eq!((scene.shown("e"), scene.shown("other")), (vec![], vec![]));
    assert!(soon(|| scene.claims() == ["198.51.100.1", "198.51.100.2", "198.51.100.8"].map(String::from).into()));

    // One that is no LoadBalancer any more needs none.
    scene.world.apply(&service("b", "").replace("LoadBalancer", "ClusterIP"));
    scene.expect("b", &[]);
    scene.delete(&pool("public", "198.51.100.8"));
    scene.expect("c", &[]);
    assert!(soon(|| scene.claims().is_empty()), "{:?}", scene.claims());
}

#[test]
fn pools_that_overlap_something_are_refused() {
    let scene = Scene::start();
    scene.world.apply(&pool("public", "198.51.100.0/28"));
    assert!(soon(|| scene.world.rows("/v1/addresspools").len() == 1));
    let accepted = "accepted: addresses that nothing else of the cluster and no other pool has";
    for (addresses, found) in [
        ("10.244.7.0/24", "10.244.7.0/24 shares addresses with 10.244.0.0/16, of network default"),
        ("10.96.1.0/24", "10.96.1.0/24 shares addresses with 10.96.0.0/16, of the range 10.96.0.0/16 of ClusterIPs"),
        ("172.30.1.9-172.30.1.15", "172.30.1.9-172.30.1.15 has 172.30.1.11, an address of node n1"),
        (
            "198.51.100.9-198.51.100.20",
            "198.51.100.9-198.51.100.20 shares addresses with 198.51.100.0/28 of the pool public",
        ),
    ] {
        let answer = scene.world.ask("POST", "/v1/apply", &pool("more", addresses)).unwrap();
        let said = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (answer.status, said),
            (422, format!("addresspool/more: spec.addresses: found that {found}, {accepted}"))
        );
    }
    let twice = [pool("b", "203.0.113.0/24"), pool("c", "203.0.113.7")].concat();
    assert_eq!(scene.world.ask("POST", "/v1/apply", &twice).unwrap().status, 422);
    assert_eq!(scene.world.rows("/v1/addresspools").len(), 1);
}
