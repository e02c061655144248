//! Many calls at once, and the plugin's program: versions, and its death in the middle of a call.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::support::cni::{receive, versions};
use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::soon;
use crate::support::world::{Families, Plan, Pod, World, at};

#[test]
fn a_hundred_adds_at_once() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let world = World::start(Plan { wiring, ..Plan::default() });
        let spaces: Vec<Ns> = (0..100).map(|_| Ns::new()).collect();
        let begin = std::time::Instant::now();
        let calls: Vec<_> =
            spaces.iter().enumerate().map(|(n, ns)| world.call("ADD", &format!("c{n}"), &ns.path).send()).collect();
        let results = calls.into_iter().map(|stream| receive(stream).unwrap().unwrap().unwrap());
        let pods: Vec<Pod> = results
            .zip(spaces)
            .enumerate()
            .map(|(n, (result, ns))| Pod { ns, container: format!("c{n}"), result })
            .collect();
        println!("100 ADDs at once, {wiring}: {:?}", begin.elapsed());
        let ips: BTreeSet<String> = pods.iter().map(Pod::ip).collect();
        assert_eq!(ips.len(), 100);
        let (first, last) = (&pods[0], &pods[99]);
        let echo = Echo::start(&last.ns, &at(&last.ip(), 7000));
        assert_eq!(ask(&first.ns, None, echo.at), Some(first.ip()));
        world.settle();
        let begin = std::time::Instant::now();
        let calls: Vec<_> = pods.iter().map(|pod| world.call("DEL", &pod.container, &pod.ns.path).send()).collect();
        for (stream, pod) in calls.into_iter().zip(&pods) {
            receive(stream).unwrap().unwrap();
            assert!(!pod.ns.has_link("eth0"));
        }
        println!("100 DELs at once, {wiring}: {:?}", begin.elapsed());
        assert_eq!(world.rows("/v1/pods").len(), 0);
        assert_eq!(world.get("/v1/ipam")["ranges"][0]["leased"], 0);
        world.settle();
    }
}

#[test]
fn the_plugins_program_in_every_version() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    for version in versions().map(|version| version.to_string()) {
        let (ns, container) = (Ns::new(), world.fresh("web"));
        let call = |verb| world.call(verb, &container, &ns.path).with("cniVersion", version.clone().into());
        let (done, result) = call("ADD").run();
        assert!(done, "{version}: {result}");
        assert_eq!(result["cniVersion"], version);
        let (done, again) = call("ADD").run();
        assert!(!done && again["code"] == 102 && again["cniVersion"] == version, "{version}: {again}");
        let checked = call("CHECK").with("prevResult", result.clone()).run();
        match version.as_str() {
            // CHECK came with 0.4.0.
            "0.3.0" | "0.3.1" => assert!(!checked.0 && checked.1["code"] == 1, "{version}: {checked:?}"),
            _ => assert_eq!(checked, (true, json!(null)), "{version}"),
        }
        for verb in ["GC", "STATUS"] {
            let call = world.call(verb, "", "").with("cniVersion", version.clone().into());
            let call = call.with("cni.dev/valid-attachments", json!([{"containerID": container, "ifname": "eth0"}]));
            let (done, answer) = call.run();
            assert_eq!(done, version == "1.1.0", "{version} {verb}: {answer}");
        }
        assert_eq!(call("DEL").with("prevResult", result).run(), (true, json!(null)));
        assert!(!ns.has_link("eth0"));
        assert_eq!(call("DEL").run(), (true, json!(null)));
    }
    let (done, answer) = world.call("VERSION", "", "").run();
    assert!(done);
    assert_eq!(answer["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn a_plugin_that_dies_in_the_middle_leaves_nothing_behind() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    for round in 0..15 {
        let (ns, container) = (Ns::new(), world.fresh("web"));
        let mut child = world.call("ADD", &container, &ns.path).start();
        std::thread::sleep(Duration::from_micros(400 * round));
        let _ = child.kill();
        child.wait().unwrap();
        world.call("DEL", &container, &ns.path).done();
        // Nothing of the killed call comes behind the DEL.
        assert!(!ns.has_link("eth0"));
        let result = world.call("ADD", &container, &ns.path).done();
        let pod = Pod { ns, container, result };
        assert_eq!(world.rows("/v1/pods").len(), 1);
        world.del(&pod);
        assert!(!pod.ns.has_link("eth0"));
    }
    assert!(soon(|| world.rows("/v1/pods").is_empty()));
    assert_eq!(world.get("/v1/ipam")["ranges"][0]["leased"], 0);
    world.settle();
}

#[test]
fn the_plugin_waits_for_an_agent_that_is_away_and_then_says_so() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan::default());
    world.kill_agent();
    let ns = Ns::new();
    let call = world.call("ADD", "c1", &ns.path).with("agentTimeout", "300ms".into());
    let (done, answer) = call.run();
    assert!(!done && answer["code"] == 11, "{answer}");
    let mut child = world.call("ADD", "c1", &ns.path).start();
    world.start_agent();
    let status = child.wait().unwrap();
    assert!(status.success());
    assert!(ns.has_link("eth0"));
}
