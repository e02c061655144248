//! What is not ours is neither changed nor removed, and the error says whose it is.

use ripstop_kernel::Fault;
use ripstop_netmodel::*;
use ripstop_plan::Action;

use crate::support::*;

fn holder(fault: Fault) -> String {
    match fault {
        Fault::Foreign { holder } => holder.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn routes_of_other_protocols_stay() {
    on_a_node(|mut node| {
        uplink();
        ip("route add 10.244.2.0/24 via 192.0.2.7 proto static");
        ip("route add fd00:2::/64 via 2001:db8::7 proto bird");
        let before = (ip("route show"), ip("-6 route show"));
        for (dst, protocol) in [("10.244.2.0/24", "static (4)"), ("fd00:2::/64", "bird (12)")] {
            let ours = Object::from(route(Ns::Host, dst, RouteTarget::Unreachable));
            let found = holder(node.fault(ours.clone()));
            assert!(found.contains(protocol) && found.contains(dst), "{found}");
            // Also where the plan believes that there is one of ours to change.
            let outcome = node.run(&[step(Action::Update, Some(&ours), Some(&ours))]).remove(0);
            assert!(holder(outcome.result.unwrap_err().fault).contains(protocol));
            node.remove(std::slice::from_ref(&ours));
            assert!(node.observe(&[ours]).is_empty());
        }
        assert_eq!((ip("route show"), ip("-6 route show")), before);
        assert!(node.observer.host(&Model::new()).unwrap().is_empty());
    });
}

#[test]
fn a_route_of_another_metric_is_no_obstacle() {
    on_a_node(|mut node| {
        uplink();
        ip("route add 10.244.2.0/24 via 192.0.2.7 proto static metric 50");
        let ours = Object::from(route(Ns::Host, "10.244.2.0/24", RouteTarget::Unreachable));
        node.make(std::slice::from_ref(&ours));
        node.remove(&[ours]);
        assert!(ip("route show").contains("proto static metric 50"));
    });
}

#[test]
fn nexthops_of_others_in_our_range_stay() {
    on_a_node(|mut node| {
        uplink();
        let id = NEXTHOP_IDS.start() + 1;
        ip(&format!("nexthop add id {id} via 192.0.2.7 dev up0 proto static"));
        let before = ip("nexthop show");
        let ours = nexthop(1, "up0", "192.0.2.9", false);
        assert!(holder(node.fault(ours.clone())).contains(&id.to_string()));
        let outcome = node.run(&removals(&[ours])).remove(0);
        assert!(holder(outcome.result.unwrap_err().fault).contains(&id.to_string()));
        assert_eq!(ip("nexthop show"), before);
    });
}

#[test]
fn links_of_another_kind_or_owner_stay() {
    on_a_node(|mut node| {
        ip("link add rip0 type ifb");
        ip("link add ripx type bridge");
        ip("link property add dev ripx altname ripstop.network.other");
        ip("link add ripbare type veth peer name elsewhere");
        let before = ip("-o link show");
        let kind = holder(node.fault(link("rip0", LinkKind::Bridge, 1)));
        assert!(kind.contains("rip0 of kind ifb"), "{kind}");
        let owner = holder(node.fault(link("ripx", LinkKind::Bridge, 1)));
        assert!(owner.contains("ripstop.network.other"), "{owner}");
        let pod = Pod::new();
        let bare = holder(node.fault(pair(&pod, "ripbare", 2)[0].clone()));
        assert!(bare.contains("without a mark"), "{bare}");
        let foreign = Object::from(link("ripx", LinkKind::Bridge, 1));
        let outcome = node.run(&removals(&[foreign])).remove(0);
        assert!(holder(outcome.result.unwrap_err().fault).contains("ripstop.network.other"));
        assert_eq!(ip("-o link show"), before);
        ip("link add up0 type bridge");
        let uplink = Object::from(Link { altname: None, ..link("up0", LinkKind::Bridge, 1) });
        let outcome = node.run(&removals(std::slice::from_ref(&uplink))).remove(0);
        assert!(holder(outcome.result.unwrap_err().fault).contains("up0"));
        assert!(node.try_make(uplink).unwrap_err().to_string().contains("rip"));
    });
}

#[test]
fn an_alternative_name_that_is_taken_is_named_with_its_holder() {
    on_a_node(|mut node| {
        ip("link add ifbx type ifb");
        ip("link property add dev ifbx altname ripstop.network.rip0");
        let found = holder(node.fault(link("rip0", LinkKind::Bridge, 1)));
        assert!(found.contains("ripstop.network.rip0") && found.contains("ifbx"), "{found}");
    });
}

#[test]
fn queueing_disciplines_of_others_stay() {
    on_a_node(|mut node| {
        node.make(&[link("rip0", LinkKind::Bridge, 1).into()]);
        run(
            "tc",
            &[
                "qdisc", "add", "dev", "rip0", "root", "handle", "7:", "tbf", "rate", "1gbit", "burst", "64k", "limit",
                "64k",
            ],
        );
        let ours =
            Object::from(Qdisc { ns: Ns::Host, link: name("rip0"), rate: 1_000_000, burst: 16_000, limit: 16_000 });
        assert!(holder(node.fault(ours.clone())).contains("tbf with the handle 7:"));
        node.run(&removals(std::slice::from_ref(&ours)));
        assert!(run("tc", &["qdisc", "show", "dev", "rip0"]).contains("tbf 7:"));
        assert!(node.observe(&[ours]).is_empty());
    });
}

#[test]
fn what_others_put_on_the_host_is_not_taken_for_ours() {
    on_a_node(|mut node| {
        uplink();
        run("ip", &["neigh", "add", "192.0.2.7", "lladdr", "02:00:00:00:00:01", "dev", "up0", "nud", "permanent"]);
        ip("route add default via 192.0.2.7");
        ip("link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1");
        run("bridge", &["fdb", "add", "02:00:00:00:00:02", "dev", "flannel.1", "dst", "192.0.2.8"]);
        run("nft", &["add", "table", "inet", "other"]);
        ip("link add ripthing type bridge");
        assert!(node.observer.host(&Model::new()).unwrap().is_empty());
        // Also what they put on a link of ours.
        let bridge = Object::from(link("rip0", LinkKind::Bridge, 1));
        node.make(std::slice::from_ref(&bridge));
        ip("addr add 10.9.9.9/24 dev rip0");
        run("ip", &["neigh", "add", "10.9.9.8", "lladdr", "02:00:00:00:00:01", "dev", "rip0", "nud", "permanent"]);
        let found = node.observer.host(&Model::new()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&bridge.key()]);
    });
}
