//! The forwarder of the backend `udp`, told as steps.

use ripstop_netmodel::{Forwarder, ForwarderPeer, Key, LinkKind, Model, Nexthop, Ns, RouteTarget};
use ripstop_plan::diff_all;

use crate::cases::{allow, assert_runs, assert_told, told};
use crate::world::{ip, link, model, name, route};

/// The device of the forwarder, what it goes by, and the way to a peer through it.
fn forwarded(listen: &str) -> Model {
    let dev = name("ripudp0");
    let to = "192.0.2.2:8285".parse().unwrap();
    model([
        link(&Ns::Host, "ripudp0", LinkKind::Tun).into(),
        Forwarder { link: dev.clone(), listen: vec![listen.parse().unwrap()] }.into(),
        ForwarderPeer { link: dev.clone(), peer: "a/n2".into(), to, also_from: Vec::new(), ranges: Vec::new() }.into(),
        Nexthop { id: 0x5200_0001, link: dev, gateway: ip("10.1.2.1"), onlink: true }.into(),
        route(&Ns::Host, "10.1.2.0/24", RouteTarget::Nexthop(0x5200_0001)).into(),
    ])
}

#[test]
fn the_forwarder_is_set_up_before_packets_are_led_to_it_and_cleared_behind_them() {
    let (nothing, there) = (Model::new(), forwarded("192.0.2.1:8285"));
    let plan = diff_all(&nothing, &there, &allow);
    assert_told(
        &plan,
        "1 create link ripudp0 (missing; undo: delete link ripudp0)
         2 create forwarder dev ripudp0 (missing; undo: delete forwarder dev ripudp0)
         3 create peer a/n2 of the forwarder dev ripudp0 (missing; undo: delete peer a/n2 of the forwarder dev ripudp0)
         4 create nexthop id 1375731713 (missing; undo: delete nexthop id 1375731713)
         5 create route 10.1.2.0/24 (missing; undo: delete route 10.1.2.0/24)",
    );
    assert_runs(&nothing, &there, &plan);
    let back = diff_all(&there, &nothing, &allow);
    let removed: Vec<String> = back.steps.iter().map(|step| step.key.to_string()).collect();
    assert_eq!(
        removed,
        [
            "route 10.1.2.0/24",
            "nexthop id 1375731713",
            "peer a/n2 of the forwarder dev ripudp0",
            "forwarder dev ripudp0",
            "link ripudp0"
        ]
    );
    // One that lost its device is told anew, with its peers.
    let mut lost = there.clone();
    lost.remove(&Key::Link { ns: Ns::Host, name: name("ripudp0") });
    let again: Vec<String> = diff_all(&lost, &there, &allow).steps.iter().map(|step| step.key.to_string()).collect();
    assert_eq!(again[..3], ["link ripudp0", "forwarder dev ripudp0", "peer a/n2 of the forwarder dev ripudp0"]);
    // Another address is news for the forwarder alone.
    let moved = diff_all(&there, &forwarded("192.0.2.9:8285"), &allow);
    assert_eq!(moved.steps.len(), 1, "{}", told(&moved));
}
