//! Addresses of Services of type LoadBalancer where another proxy serves them: given and answered for as ever.

use ripstop_lab::{Options, Target};
use serde_json::json;

use super::balancers::{Scene, pod};
use super::{apply, ip, patiently};

#[test]
fn beside_another_proxy_addresses_are_given_and_answered_for() {
    let agent_config = json!({"services": {"proxy": "none"}});
    let Some(scene) = Scene::of(Options { agent_config, ..Options::named("t-balancers-beside") }) else { return };
    // What another proxy has in its place.
    let to = ip(&scene.lab, "web");
    let rules = format!(
        "table ip other {{
            chain prerouting {{ type nat hook prerouting priority dstnat; ip daddr 172.30.1.200-172.30.1.220 dnat to {to}; }}
            chain postrouting {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
        }}"
    );
    for node in scene.nodes() {
        scene.lab.exec(&Target::Node(node), &["nft", &rules]).unwrap();
    }
    assert_eq!(scene.owners(&[1, 2, 3]).iter().find(|of| of.0 == "local").unwrap().1, "n3", "where its endpoint is");
    scene.hands_over();
    // Once it is back.
    scene.owners(&[1, 2, 3]);
    apply(&scene.lab, 1, &pod("other"));
    patiently("nobody owns what has no endpoint here", || scene.row(1, "local")["owner"].is_null());
}
