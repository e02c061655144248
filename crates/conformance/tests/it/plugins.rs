//! The whole suite on `ripstop-cni` and on Debian's bridge: what fails is known, by name and reason.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ripstop_conformance::{Options, Outcome};
use serde_json::json;

use crate::{Bench, DEBIAN, built, conf, failed, possible, rows};

/// A second interface of one network in one container gets an address and no route of its own, so answers to it leave by
/// the first interface, where they are not allowed.
const RIPSTOP: &[&str] = &["multi.second-answers-too"];

/// Version 1.1.1 of the plugins. VERSION prints the newest version whatever was asked, and reads no input; without a
/// command a greeting is printed; two messages lack the variable's name, and errors lack their version; an earlier
/// plugin's result is dropped; an ordinary file for a namespace stops DEL; CHECK does not look at a route's gateway, nor
/// at the host's end; the delegate's failed ADD is not followed by a DEL.
const BRIDGE: &[&str] = &[
    "chain.address-is-passed-on",
    "chain.check-with-the-final-result",
    "chain.earlier-address-keeps-its-interface",
    "chain.interface-is-passed-on",
    "chain.previous-result-with-bad-address",
    "chain.resolvers-are-passed-on",
    "chain.route-is-passed-on",
    "check.default-route-leads-elsewhere",
    "check.host-interface-down",
    "del.of-a-netns-that-is-no-netns",
    "delegate.add-that-fails-is-undone",
    "environment.command-empty",
    "environment.command-missing",
    "environment.container-invalid-named",
    "environment.interface-invalid-named",
    "errors.version-in-use",
    "version.echoes-an-unknown-protocol",
    "version.echoes-the-input",
    "version.refuses-what-is-no-json",
];

/// Its bridge has the least address of its ports until it has one of its own, so that an ADD beside others may answer with one that
/// CHECK does not find.
const BRIDGE_BY_CHANCE: &[&str] = &["concurrent.added-containers-pass-check"];

#[test]
fn ripstop_cni_passes_all_but_what_is_known() {
    if !possible() {
        return;
    }
    let (Some(ripstop), Some(plugin)) = (built("ripstop"), built("ripstop-cni")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let config = format!(
        "node: n1\nrunDir: {at}/run\nstateDir: {at}/state\nstore: {{embedded: {{path: {at}/store.redb}}}}\nnetworks:\n\
         - metadata: {{name: default}}\n  spec: {{ranges: [10.244.0.0/16, \"fd00:244::/48\"], nodeRangeLen: {{v4: 27}}, backend: host-gw}}\n"
    );
    fs::write(dir.path().join("config.yaml"), config).unwrap();
    let capabilities = json!({ "ips": true, "mac": true, "dns": true, "bandwidth": true, "ipRanges": true });
    let conf = json!({
        "cniVersion": "1.1.0",
        "name": "conformance",
        "type": "ripstop-cni",
        "socket": format!("{at}/run/cni.sock"),
        "capabilities": capabilities,
    });
    let bench = Bench::with(&plugin, &conf);
    let ripstop = ripstop.display();
    let options = Options {
        timeout: Duration::from_secs(30),
        setup: Some(format!(
            "{ripstop} agent --config {at}/config.yaml 2> {at}/log & \
             {ripstop} --socket {at}/run/agent.sock status --wait --timeout 30s"
        )),
        ..bench.options(&[])
    };
    let rows = rows(&options);
    let failures = failed(&rows);
    let unknown: Vec<_> = failures.iter().filter(|(id, _)| !RIPSTOP.contains(id)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    // Everything is claimed, and what was skipped is what it does not have.
    assert!(rows.values().all(|row| row.outcome != Outcome::Unclaimed));
    let skipped = rows.values().filter(|row| row.outcome == Outcome::Skip && !row.id.starts_with("delegate."));
    assert!(skipped.count() <= 14);
}

#[test]
fn the_bridge_of_debian_fails_where_it_is_known_to() {
    if !possible() {
        return;
    }
    let mut options = Bench::with(&Path::new(DEBIAN).join("bridge"), &conf("bridge"));
    let rows = rows(&options.patient());
    let failures = failed(&rows);
    let unknown: Vec<_> =
        failures.iter().filter(|(id, _)| !BRIDGE.contains(id) && !BRIDGE_BY_CHANCE.contains(id)).collect();
    let ids: Vec<&str> = failures.iter().map(|(id, _)| *id).collect();
    let cured: Vec<_> = BRIDGE.iter().filter(|id| !ids.contains(id)).collect();
    assert!(unknown.is_empty() && cured.is_empty(), "unknown {unknown:#?}, no longer {cured:?}");
}

impl Bench {
    /// All cases, on a machine that does other things too.
    fn patient(&mut self) -> Options {
        Options { timeout: Duration::from_secs(30), ..self.options(&[]) }
    }
}
