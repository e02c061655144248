//! ADD and DEL.

use crate::support::ns::is_root;
use crate::support::packets::{Echo, ask};
use crate::support::world::{NODE, Plan, World, at};

#[test]
fn a_pod_and_its_node_talk() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = world.pod("web");
    let echo = Echo::start(&pod.ns, &pod.at(7000));
    assert_eq!(ask(&world.node, None, echo.at).as_deref(), Some(world.own_ip(false).as_str()));
    let node = world.node_echo(&at(NODE[0], 7001));
    assert_eq!(ask(&pod.ns, None, node.at), Some(pod.ip()));
    world.settle();
}
