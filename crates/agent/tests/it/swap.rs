//! Two networks that swap their tunnels, under an agent that looks on and under one that comes later.

use ripstop_objects::{Network, Record};
use ripstop_store::Kind;
use serde_json::Value;

use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::world::{Plan, StoreAt, World};

fn network(name: &str, range: &str, vni: u32) -> Value {
    let text = format!(
        "apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {{name: {name}}}\n\
         spec: {{ranges: [{range}], backend: {{type: vxlan, vni: {vni}}}}}\n"
    );
    Network::decode(&text).unwrap().encode()
}

/// Both networks with these identifiers.
fn put(world: &World, default: u32, storage: u32) {
    let store = world.store.as_ref().unwrap();
    store.put(Kind::Networks, "default", &network("default", "10.244.0.0/16", default));
    store.put(Kind::Networks, "storage", &network("storage", "10.9.0.0/16", storage));
}

/// Whose tunnel a device is.
fn is_of(world: &World, device: &str, network: &str) -> bool {
    let text = world.node.tried("ip", &["-d", "link", "show", device]).1;
    text.contains(&format!("altname ripstop.tunnel.{network}")) && text.contains(&format!("id {}", &device[4..]))
}

fn index(world: &World, device: &str) -> String {
    world.node.ip(&format!("-o link show {device}")).split(':').next().unwrap().to_owned()
}

#[test]
fn networks_swap_their_tunnels() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan { store: StoreAt::Here, backend: "vxlan", ..Plan::default() });
    put(&world, 1, 2);
    assert!(soon(|| is_of(&world, "ript1", "default") && is_of(&world, "ript2", "storage")));
    world.settle();
    // One record after the other: for a moment both want one device.
    put(&world, 2, 1);
    assert!(soon(|| is_of(&world, "ript1", "storage") && is_of(&world, "ript2", "default")));
    world.settle();
    // An agent that knows nothing finds the devices of others' names: they change hands, and none is made anew.
    world.kill_agent();
    // It may not have been written yet.
    let _ = std::fs::remove_file(world.dir.path().join("state/snapshot.json"));
    put(&world, 1, 2);
    let before = [index(&world, "ript1"), index(&world, "ript2")];
    world.start_agent();
    world.wait_up();
    assert!(soon(|| is_of(&world, "ript1", "default") && is_of(&world, "ript2", "storage")));
    assert_eq!([index(&world, "ript1"), index(&world, "ript2")], before);
    world.wait_ready();
    world.settle();
}
