//! MetalLB's objects on a cluster that it served before: pools by them, without a word from anybody, and nothing changes for Services.

use serde_json::Value;

use crate::balancers::{claims, expect, pool, service, shown, writes};
use crate::kubernetes::{asks_only_what_is_allowed, become_user, is_possible, pod_object, setup, wait_for};
use crate::server::{AGENT, ApiServer};
use crate::support::soon;
use crate::support::world::{Plan, StoreAt, World};

/// Its kinds, without their schemas.
fn definitions() -> String {
    let kinds = ["IPAddressPool", "L2Advertisement", "BGPAdvertisement", "Community"];
    let plural = |kind: &str| kind.to_lowercase().replace("community", "communitie") + "s";
    let definition = |kind: &str| {
        let plural = plural(kind);
        format!(
            "---\n{{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: {plural}.metallb.io}}, spec: {{\
             group: metallb.io, scope: Namespaced, names: {{kind: {kind}, plural: {plural}}}, versions: [{{name: v1beta1, served: true, \
             storage: true, schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}]}}}}\n"
        )
    };
    kinds.map(definition).concat()
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: metallb.io/v1beta1, kind: {kind}, metadata: {{name: {name}, namespace: metallb-system}}, spec: {spec}}}\n"
    )
}

fn row(world: &World, pool: &str) -> Value {
    world.rows("/v1/addresspools").into_iter().find(|row| row["name"] == pool).unwrap_or_default()
}

fn balancer(world: &World, service: &str) -> Value {
    world.rows("/v1/loadbalancers").into_iter().find(|row| row["name"] == service).unwrap_or_default()
}

#[test]
fn its_pools_are_used_once_it_has_left_the_node_and_services_keep_their_addresses() {
    if !is_possible("MetalLB's objects on Kubernetes") {
        return;
    }
    let config = vec!["services: {proxy: nftables, serviceCIDRs: [10.96.0.0/16]}".into()];
    let mut world = World::make(Plan { store: StoreAt::Kubernetes, config, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    become_user(&world, &server, AGENT);
    server.apply(&(definitions() + "---\n{apiVersion: v1, kind: Namespace, metadata: {name: metallb-system}}\n"));
    let waits = ["wait", "--for=condition=established", "crd", "--all", "--timeout=30s"];
    server.kubectl(&waits);
    server.apply(
        &[
            object("IPAddressPool", "segment", "{addresses: [172.30.1.200-172.30.1.210]}"),
            object("IPAddressPool", "both", "{addresses: [203.0.113.0/24]}"),
            object("L2Advertisement", "all", "{ipAddressPools: [segment]}"),
            object("BGPAdvertisement", "bad", "{ipAddressPools: [segment], localPref: 200}"),
            pool("both", "198.51.100.0/31"),
            service("named", ", allocateLoadBalancerNodePorts: true"),
            service("shown", ""),
        ]
        .concat(),
    );
    // As MetalLB gave it.
    let status = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "172.30.1.207", "ipMode": "VIP"}]}}}"#;
    server.kubectl(&["patch", "service", "shown", "--subresource=status", "--type=merge", "-p", status]);
    server.kubectl(&["annotate", "service", "named", "metallb.io/address-pool=segment"]);
    // Its speaker is on the node still.
    server.apply(&pod_object("speaker-x", "{app: metallb, component: speaker}"));
    world.start_agent();
    world.wait_ready();
    let why = "it is left to MetalLB, of which pod default/speaker-x runs on this node";
    assert!(soon(|| row(&world, "segment")["reason"] == why), "{:?}", world.rows("/v1/addresspools"));
    wait_for(&world, "warnings", &["both of MetalLB is not used: there is an AddressPool of its name", "localPref"]);
    assert_eq!(row(&world, "both")["addresses"][0], "198.51.100.0/31");

    server.kubectl(&["delete", "pod", "speaker-x", "--grace-period=0", "--force"]);
    expect(&server, &world, "named", "172.30.1.200");
    let row = row(&world, "segment");
    assert_eq!((&row["metallb"], &row["used"]), (&true.into(), &2.into()), "{row}");
    assert!(soon(|| balancer(&world, "shown")["owner"] == "n1"), "{}", balancer(&world, "shown"));
    assert_eq!(
        (shown(&server, "shown"), balancer(&world, "shown")["pool"].clone()),
        ("172.30.1.207 VIP".into(), "segment".into())
    );
    let log = world.agent().log_text();
    assert!(log.contains("address pools segment: used here as MetalLB's objects say"), "{log}");

    // Without an advertisement nobody answers; without the pool the addresses go back.
    server.kubectl(&["delete", "l2advertisements.metallb.io", "-n", "metallb-system", "all"]);
    assert!(soon(|| balancer(&world, "shown")["owner"].is_null()), "{}", balancer(&world, "shown"));
    server.kubectl(&["delete", "ipaddresspools.metallb.io", "-n", "metallb-system", "segment"]);
    expect(&server, &world, "named", "");
    assert!(soon(|| claims(&server) == ["198.51.100.0"]), "{:?}, {:?}", claims(&server), writes(&server));
    asks_only_what_is_allowed(&server);
}
