//! Errors name the object and the likely cause, and stop what they are told to stop.

use ripstop_kernel::{Fault, OnError};
use ripstop_netmodel::*;
use ripstop_plan::Action;

use crate::support::*;

/// Every link of a pod with its address; its state may still settle.
fn links_of(pod: &Pod) -> Vec<String> {
    let text = pod.run("ip", &["-o", "link"]);
    let names = text.lines().filter_map(|line| Some((line.split(':').nth(1)?, line.split("link/").nth(1)?)));
    names.map(|(name, address)| format!("{name} {address}")).collect()
}

#[test]
fn a_second_interface_of_the_same_name_is_refused_and_changes_nothing() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        node.make(&pair(&pod, "ripab12", 2));
        let before = links_of(&pod);
        let fault = node.try_make(pair(&pod, "ripcd34", 3)[0].clone()).unwrap_err();
        assert!(fault.to_string().starts_with("link ripcd34: cannot make it: "), "{fault}");
        assert!(fault.to_string().contains(&format!("there is an interface eth0 in {} already", pod.path)), "{fault}");
        assert!(matches!(fault.fault, Fault::Refused { errno: libc::EEXIST, .. }));
        assert_eq!(links_of(&pod), before);
        assert!(!ip("link").contains("ripcd34"));
    });
}

#[test]
fn a_namespace_that_is_gone_is_an_error_for_what_is_made_and_none_for_what_is_removed() {
    on_a_node(|mut node| {
        let mut pod = Pod::new();
        // That of a thread that has ended. The number of a closed descriptor would soon be another test's.
        let thread = std::thread::spawn(|| std::fs::read_link("/proc/thread-self").unwrap()).join().unwrap();
        pod.path = format!("/proc/{}/ns/net", thread.display());
        let objects = [
            address(pod.ns(), "eth0", "10.244.1.5", 32, Scope::Global),
            route(pod.ns(), "0.0.0.0/0", to_link("eth0")).into(),
            sysctl(pod.ns(), Some("eth0"), "net/ipv4/conf/eth0/rp_filter", "1"),
        ];
        let pair = pair(&pod, "ripab12", 2);
        for object in objects.iter().chain(&pair) {
            let fault = node.try_make(object.clone()).unwrap_err();
            assert!(fault.fault.is_namespace_gone(), "{fault}");
        }
        node.remove(&objects);
        node.remove(&pair);
        node.assert_gone(&objects);
        let ns = Ns::Path("/etc/hostname".into());
        let fault = node.try_make(address(ns.clone(), "eth0", "10.0.0.1", 32, Scope::Global)).unwrap_err();
        assert!(fault.to_string().ends_with("/etc/hostname is not a network namespace"), "{fault}");
        let ns = Ns::Path("/proc/thread-self/ns/net".into());
        let fault = node.try_make(address(ns, "lo", "10.0.0.1", 32, Scope::Global)).unwrap_err();
        assert!(fault.to_string().contains("the node's own network namespace"), "{fault}");
    });
}

#[test]
fn likely_causes_are_named() {
    on_a_node(|mut node| {
        uplink();
        let text = |node: &mut Node, object: Object| node.try_make(object).unwrap_err().to_string();
        let missing = text(&mut node, neighbour(Ns::Host, "ripno", "10.0.0.1", 1));
        assert!(missing.contains("neighbour 10.0.0.1 dev ripno") && missing.contains("no link ripno"), "{missing}");
        let unreachable = text(&mut node, route(Ns::Host, "10.9.0.0/16", via("up0", "203.0.113.1", false)).into());
        assert!(unreachable.contains("the gateway is on no link that is up"), "{unreachable}");
        let source = Route { src: Some(addr("10.1.1.1")), ..route(Ns::Host, "10.9.0.0/16", to_link("up0")) };
        assert!(text(&mut node, source.into()).contains("source address is not on this node"));
        let no_nexthop = text(&mut node, route(Ns::Host, "10.9.0.0/16", RouteTarget::Nexthop(0x5200_0009)).into());
        assert!(no_nexthop.contains("nexthop"), "{no_nexthop}");
        node.make(&[vxlan("ripvx", 7, "192.0.2.1", 3).into()]);
        let twice = text(&mut node, vxlan("ripvy", 7, "192.0.2.1", 4).into());
        assert!(twice.contains("another VXLAN device"), "{twice}");
        let setting = text(&mut node, sysctl(Ns::Host, None, "net/ipv4/no_such_thing", "1"));
        assert!(setting.contains("no such setting"), "{setting}");
        let value = text(&mut node, sysctl(Ns::Host, None, "net/ipv4/ip_forward", "x"));
        assert!(value.contains("does not accept this value"), "{value}");
        let odd = Link { kind: LinkKind::Other("dummy".into()), ..link("ripd", LinkKind::Bridge, 1) };
        assert!(text(&mut node, odd.into()).contains("not made by us"));
    });
}

#[test]
fn a_failure_stops_what_comes_behind_or_does_not() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        let good = Object::from(link("rip0", LinkKind::Bridge, 1));
        let bad = address(Ns::Host, "ripno", "10.0.0.1", 32, Scope::Global);
        let inside = sysctl(pod.ns(), None, "net/ipv4/ip_forward", "1");
        let late = Object::from(route(Ns::Host, "10.9.0.0/16", RouteTarget::Unreachable));
        let steps: Vec<_> = [&good, &bad, &inside, &late].map(|o| step(Action::Create, None, Some(o))).into();
        let outcomes = node.applier.run(&steps, OnError::Stop, &mut node.files);
        assert_eq!(outcomes.iter().map(|o| o.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(outcomes[0].result.is_ok());
        assert!(matches!(outcomes[1].result.as_ref().unwrap_err().fault, Fault::NoLink { .. }));
        assert_eq!(outcomes[2].result.as_ref().unwrap_err().fault, Fault::NotRun);
        assert_eq!(outcomes[3].result.as_ref().unwrap_err().fault, Fault::NotRun);
        assert!(node.observe(std::slice::from_ref(&late)).is_empty());
        let outcomes = node.run(&steps);
        assert!(outcomes[1].result.is_err() && outcomes[2].result.is_ok() && outcomes[3].result.is_ok());
        node.assert_there(&[good, inside, late]);
    });
}

#[test]
fn records_go_to_files_when_all_before_them_is_done() {
    on_a_node(|mut node| {
        let record = |value: &str| {
            Object::from(Record {
                scope: RecordScope::Boot("leases".into()),
                key: "default/a/eth0".into(),
                value: value.into(),
                guard: RecordGuard::Any,
            })
        };
        node.make(&[record("{}")]);
        assert_eq!(&*node.files.get("leases", "default/a/eth0").unwrap().unwrap().value, "{}");
        let bad = address(Ns::Host, "ripno", "10.0.0.1", 32, Scope::Global);
        let steps = [step(Action::Create, None, Some(&bad)), step(Action::Update, None, Some(&record("{\"n\":2}")))];
        let outcomes = node.applier.run(&steps, OnError::Stop, &mut node.files);
        assert_eq!(outcomes[1].result.as_ref().unwrap_err().fault, Fault::NotRun);
        assert_eq!(&*node.files.get("leases", "default/a/eth0").unwrap().unwrap().value, "{}");
        node.remove(&[record("{}")]);
        assert_eq!(node.files.list("leases"), (vec![], vec![]));
        let cluster = Record {
            scope: RecordScope::Cluster("claims".into()),
            key: "x".into(),
            value: "{}".into(),
            guard: RecordGuard::Absent,
        };
        assert!(node.try_make(cluster).unwrap_err().to_string().contains("cluster's store"));
    });
}

#[test]
fn a_refusal_does_nothing_and_succeeds() {
    on_a_node(|mut node| {
        let bridge = Object::from(link("rip0", LinkKind::Bridge, 1));
        let outcome = node.run(&[step(Action::Refuse, Some(&bridge), None)]).remove(0);
        assert_eq!(outcome.result, Ok(()));
        node.assert_gone(&[bridge]);
    });
}

#[test]
fn a_step_that_contradicts_itself_is_refused() {
    on_a_node(|mut node| {
        let bridge = Object::from(link("rip0", LinkKind::Bridge, 1));
        let route = Object::from(route(Ns::Host, "10.9.0.0/16", RouteTarget::Unreachable));
        let mut odd = step(Action::Create, None, Some(&bridge));
        odd.after = step(Action::Create, None, Some(&route)).after;
        let mut empty = step(Action::Create, None, Some(&route));
        empty.after = None;
        for outcome in node.run(&[odd, empty]) {
            assert!(matches!(outcome.result.unwrap_err().fault, Fault::Unsupported(_)));
        }
        node.assert_gone(&[bridge, route]);
    });
}
