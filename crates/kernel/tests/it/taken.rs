//! What another network left on the node and ours takes over: its tunnel device in place, its bridge until that is empty.

use ripstop_kernel::Fault;
use ripstop_netmodel::*;

use crate::support::*;

/// What flanneld leaves: its device with a route, a neighbour and a forwarding entry on it.
fn flannels_device() {
    ip("link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev up0 nolearning");
    ip(&format!("link set flannel.1 address {} up", mac(1)));
    ip("addr add 10.244.1.0/32 dev flannel.1");
    ip("route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");
    run("ip", &["neigh", "add", "10.244.2.0", "lladdr", "02:00:00:00:00:02", "dev", "flannel.1", "nud", "permanent"]);
    run("bridge", &["fdb", "append", "02:00:00:00:00:02", "dev", "flannel.1", "dst", "192.0.2.8"]);
}

fn index(link: &str) -> String {
    ip(&format!("-o link show {link}")).split(':').next().unwrap().to_owned()
}

#[test]
fn a_tunnel_device_of_the_wanted_address_is_taken_over_as_it_is() {
    on_a_node(|mut node| {
        uplink();
        flannels_device();
        let before = index("flannel.1");
        let tunnel = Object::from(vxlan("ript1", 1, "192.0.2.1", 1));
        let hop = nexthop(1, "ript1", "10.244.2.0", true);
        let wanted =
            [tunnel, hop, route(Ns::Host, "10.244.2.0/24", RouteTarget::Nexthop(NEXTHOP_IDS.start() + 1)).into()];
        node.make(&wanted);
        assert_eq!(index("ript1"), before, "it is the same device");
        assert!(ip("route show 10.244.2.0/24").contains("nhid"), "what was left on it is replaced");
        assert!(run("bridge", &["fdb", "show", "dev", "ript1"]).contains("192.0.2.8"));
        node.assert_there(&wanted);
        node.remove(&wanted);
        node.assert_gone(&wanted);
    });
}

#[test]
fn a_tunnel_device_of_another_address_stays() {
    on_a_node(|mut node| {
        uplink();
        flannels_device();
        let fault = node.fault(vxlan("ript1", 1, "192.0.2.1", 9));
        assert!(matches!(fault, Fault::Refused { .. }), "{fault:?}");
        assert!(ip("-o link show flannel.1").contains("flannel.1"));
    });
}

#[test]
fn a_bridge_is_marked_and_goes_when_it_is_empty() {
    on_a_node(|mut node| {
        ip(&format!("link add cni0 address {} type bridge", mac(7)));
        ip("link set cni0 up");
        ip("addr add 10.244.1.1/24 dev cni0");
        ip("link add port0 type veth peer name port1");
        ip("link set port0 master cni0");
        let facts = node.observer.facts().unwrap().links[&name("cni0")].clone();
        assert_eq!((facts.ports, facts.taken), (1, false));
        let altname = Some(format!("{TAKEN_MARK}default").into());
        let taken = Link { altname, mtu: None, no_link_local: false, ..link("cni0", LinkKind::Bridge, 7) };
        let other = Link { mac: Some(mac(8)), ..taken.clone() };
        assert!(matches!(node.fault(other), Fault::Foreign { .. }), "one of another address is another");
        let taken = Object::from(taken);
        node.make(std::slice::from_ref(&taken));
        assert!(node.observer.facts().unwrap().links[&name("cni0")].taken);
        // It is ours, and what is on it is not.
        let found = node.observer.host(&Model::new()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&taken.key()]);

        let outcome = node.run(&removals(std::slice::from_ref(&taken))).remove(0);
        let fault = outcome.result.unwrap_err().fault;
        assert!(fault.to_string().contains("cni0 is kept while 1 links are its ports"), "{fault}");
        assert!(ip("addr show cni0").contains("10.244.1.1/24"));
        ip("link del port0");
        node.remove(std::slice::from_ref(&taken));
        node.assert_gone(std::slice::from_ref(&taken));
        // A bridge that is not there is not made.
        assert!(matches!(node.fault(taken), Fault::NoLink { .. }));
    });
}
