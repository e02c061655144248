//! The Helm chart makes the same objects as the manifest. Helm is built by `scripts/programs helm`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fake::run;

/// Helm, where it was built.
fn helm() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/programs");
    let output = Command::new(script).args(["--where", "helm"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let program = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("helm");
    if program.is_file() {
        return Some(program);
    }
    println!("SKIPPED: there is no {}: scripts/programs helm builds it", program.display());
    None
}

fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").map(|text| text.trim_start_matches("---\n"));
    let mut objects: Vec<Value> = documents.map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    objects.retain(|object| !object.is_null());
    // Helm has an order of its own.
    objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
    objects
}

#[test]
fn the_chart_makes_the_objects_of_the_manifest() {
    let Some(helm) = helm() else { return };
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart");
    let render = |set: &[&str]| {
        let output = Command::new(&helm)
            .args(["template", "ripstop", "--kube-version", "1.36.2"])
            .arg(&chart)
            .args(set)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        objects(&String::from_utf8(output.stdout).unwrap())
    };
    let manifest = |more: &[&str]| objects(&run(&[&["install", "--cluster", "--dry-run"], more].concat()).stdout);
    let rendered = render(&[]);
    assert!(rendered.len() > 10);
    assert_eq!(rendered, manifest(&[]));
    let image =
        |objects: Vec<Value>| objects.into_iter().filter(|object| object["kind"] != "ConfigMap").collect::<Vec<_>>();
    let changed = render(&["--set", "image=registry.invalid/r:2"]);
    assert_eq!(image(changed), image(manifest(&["--image", "registry.invalid/r:2"])));
    let changed = render(&["--set", "backend=udp,wiring=bridge,ranges={10.9.0.0/16,fd00:9::/48},rangeMode=pod-cidr"]);
    let map = changed.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let config: Value = serde_saphyr::from_str(map["data"]["config.yaml"].as_str().unwrap()).unwrap();
    let serving = ["--proxy", "nftables", "--api-server", "192.0.2.1:6443"];
    let changed = render(&["--set", "proxy=nftables,apiServer.host=192.0.2.1,apiServer.port=6443"]);
    let agent = |objects: &[Value]| {
        let agent = objects
            .iter()
            .find(|object| object["metadata"]["name"] == "ripstop-agent" && object["kind"] == "DaemonSet");
        agent.unwrap()["spec"]["template"]["spec"].clone()
    };
    assert_eq!(agent(&changed), agent(&manifest(&serving)));
    assert_eq!(agent(&changed)["containers"][0]["env"].as_array().unwrap().len(), 3);
    let services = |objects: Vec<Value>| {
        let map = objects.into_iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        serde_saphyr::from_str::<Value>(map["data"]["config.yaml"].as_str().unwrap()).unwrap()["services"].clone()
    };
    let by_iptables = ["--proxy", "iptables", "--api-server", "192.0.2.1:6443"];
    assert_eq!(services(render(&["--set", "proxy=iptables"])), services(manifest(&by_iptables)));
    let spec = serde_json::json!({
        "ranges": ["10.9.0.0/16", "fd00:9::/48"], "rangeMode": "pod-cidr", "wiring": "bridge", "backend": {"type": "udp"},
    });
    assert_eq!(config["networks"][0]["spec"], spec);
}
