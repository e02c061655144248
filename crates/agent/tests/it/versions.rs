//! Results in every version of the specification.

use serde_json::{Value, json};

use crate::support::cni::versions;
use crate::support::ns::is_root;
use crate::support::world::{Families, Plan, World};

#[test]
fn every_version_gets_its_own_form_of_the_result() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    for version in versions() {
        let name = version.to_string();
        let pod = world.pod_with("web", |call| call.with("cniVersion", name.clone().into()));
        let result = &pod.result;
        assert_eq!(result["cniVersion"], name);
        let ips = result["ips"].as_array().unwrap();
        assert_eq!(ips.len(), 2);
        let families: Vec<&Value> = ips.iter().map(|ip| &ip["version"]).collect();
        if name.starts_with('0') {
            assert_eq!(families, [&json!("4"), &json!("6")], "{name} names the family");
        } else {
            assert_eq!(families, [&Value::Null, &Value::Null], "{name} has no such field");
        }
        let inside = &result["interfaces"][1];
        assert_eq!(inside["name"], "eth0");
        assert_eq!(inside["sandbox"], json!(pod.ns.path));
        assert_eq!(inside["mtu"].is_u64(), name == "1.1.0", "{name}: {inside}");
        assert!(ips.iter().all(|ip| ip["interface"] == 1), "{result}");
        assert_eq!(ips[0]["gateway"], "169.254.1.1");
        assert_eq!(ips[1]["gateway"], "fe80::1");
        assert_eq!(result["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}));
        assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fe80::1"}));
        world.del(&pod);
    }
}
