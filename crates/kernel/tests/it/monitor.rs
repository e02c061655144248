//! What others do is seen; what we do is not.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ripstop_kernel::{Changed, Monitor};
use ripstop_netmodel::*;
use ripstop_nft::model::{
    Chain, ElementBody, ElementKey, Hook, Key as ElementValue, Set, Table, TableFamily, Type, priority,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::*;

/// What the monitor says until it has been silent for a while.
fn heard(monitor: &mut Monitor) -> Changed {
    let mut changed = Changed::default();
    loop {
        let silence = Timespec { tv_sec: 0, tv_nsec: 150_000_000 };
        let mut fds = [PollFd::from_borrowed_fd(monitor.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&silence)).unwrap() == 0 {
            return changed;
        }
        changed.merge(monitor.read().unwrap());
    }
}

/// The carrier of a link that was just made comes a moment later.
fn settle(monitor: &mut Monitor) {
    heard(monitor);
}

fn table() -> Object {
    NftTable {
        table: Table::new(TableFamily::Inet, NFT_TABLE).chain(
            "forward",
            Chain::filter(Hook::Forward, priority::FILTER)
                .rule(ripstop_nft::model::Rule::new([ripstop_nft::model::build::counter()])),
        ),
    }
    .into()
}

fn objects(pod: &Pod) -> Vec<Object> {
    let mut objects = vec![
        table(),
        vxlan("ripvx", 7, "192.0.2.1", 3).into(),
        link("rip0", LinkKind::Bridge, 1).into(),
        address(Ns::Host, "rip0", "10.244.1.1", 32, Scope::Global),
        address(Ns::Host, "rip0", "fd00:1::1", 128, Scope::Global),
        neighbour(Ns::Host, "ripvx", "10.244.2.0", 20),
        Fdb { link: name("ripvx"), mac: mac(20), dst: addr("192.0.2.2") }.into(),
        nexthop(1, "ripvx", "10.244.2.0", true),
        route(Ns::Host, "10.244.2.0/24", RouteTarget::Nexthop(NEXTHOP_IDS.start() + 1)).into(),
        route(Ns::Host, "fd00:2::/64", RouteTarget::Unreachable).into(),
        route(Ns::Host, "fd00:1::5/128", to_link("ripab12")).into(),
        address(Ns::Host, "ripab12", "fe80::1", 64, Scope::Link),
        neighbour(Ns::Host, "ripab12", "fd00:1::5", 102),
        address(pod.ns(), "eth0", "fd00:1::5", 128, Scope::Global),
        Qdisc { ns: Ns::Host, link: name("ripab12"), rate: 10_000_000, burst: 16_000, limit: 48_000 }.into(),
    ];
    objects.extend(pair(pod, "ripab12", 2));
    objects
}

#[test]
fn own_writes_are_not_heard() {
    on_a_node(|mut node| {
        uplink();
        let pod = Pod::new();
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        let objects = objects(&pod);
        node.make(&objects);
        assert_eq!(heard(&mut monitor), Changed::default());
        node.make(&objects);
        assert_eq!(heard(&mut monitor), Changed::default());
        // Removal of a pod: what the kernel removes with the link is ours too.
        let of_pod: Vec<Object> = objects.iter().filter(|o| o.key().to_string().contains("ripab12")).cloned().collect();
        node.remove(&of_pod);
        node.applier.flush();
        assert_eq!(heard(&mut monitor), Changed::default());
    });
}

/// The kernel counts no transaction that changed nothing.
#[test]
fn own_writes_of_what_is_there_are_not_heard() {
    on_a_node(|mut node| {
        let table = Table::new(TableFamily::Inet, NFT_TABLE).set("pods", Set::of([Type::Ipv4Addr]));
        let key = ElementKey {
            family: TableFamily::Inet,
            table: NFT_TABLE.into(),
            set: "pods".into(),
            key: ElementValue::new(false, [addr("10.244.1.5")]),
        };
        let element = Object::from(NftElement { key, body: ElementBody::default() });
        node.make(&[NftTable { table }.into(), element.clone()]);
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        for _ in 0..3 {
            node.make(std::slice::from_ref(&element));
            assert_eq!(heard(&mut monitor), Changed::default());
        }
        run("nft", &["add", "element", "inet", NFT_TABLE, "pods", "{ 10.244.1.6 }"]);
        assert!(heard(&mut monitor).kinds.contains(&Kind::NftElement));
    });
}

/// A link passes through states that are not what it is left as: with no alternative name, down, without its bridge.
#[test]
fn own_writes_are_not_heard_while_they_are_made() {
    on_a_node(|mut node| {
        uplink();
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        node.make(&[table(), link("rip0", LinkKind::Bridge, 1).into()]);
        settle(&mut monitor);
        let pods: Vec<Pod> = (0..8).map(|_| Pod::new()).collect();
        let made = AtomicBool::new(false);
        let changed = thread::scope(|s| {
            let listener = s.spawn(|| {
                let (begun, mut changed) = (Instant::now(), Changed::default());
                while !made.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(20) {
                    changed.merge(monitor.read().unwrap());
                }
                changed.merge(heard(&mut monitor));
                changed
            });
            for (n, pod) in (2..).zip(&pods) {
                node.make(&pair(pod, &format!("ripab{n}"), n));
            }
            made.store(true, Ordering::Relaxed);
            listener.join().unwrap()
        });
        assert_eq!(changed, Changed::default());
    });
}

#[test]
fn what_others_remove_is_heard() {
    on_a_node(|mut node| {
        uplink();
        let pod = Pod::new();
        node.make(&objects(&pod));
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        let mut hear = |program: &str, line: &str, kind: Kind| {
            run(program, &line.split_whitespace().collect::<Vec<_>>());
            let changed = heard(&mut monitor);
            assert!(changed.kinds.contains(&kind), "{program} {line}: {changed:?}");
            assert!(!changed.facts, "{program} {line}: {changed:?}");
            changed.kinds
        };
        assert_eq!(hear("bridge", "fdb del 0a:58:00:00:00:14 dev ripvx dst 192.0.2.2", Kind::Fdb).len(), 1);
        assert_eq!(hear("ip", "neigh del 10.244.2.0 dev ripvx", Kind::Neighbour).len(), 1);
        assert_eq!(hear("ip", "route del 10.244.2.0/24", Kind::Route).len(), 1);
        assert_eq!(hear("ip", "-6 route del unreachable fd00:2::/64", Kind::Route).len(), 1);
        hear("ip", "nexthop flush", Kind::Nexthop);
        hear("ip", "addr del 10.244.1.1/32 dev rip0", Kind::Address);
        hear("ip", "addr del fd00:1::1/128 dev rip0", Kind::Address);
        hear("tc", "qdisc del dev ripab12 root", Kind::Qdisc);
        hear("nft", "flush chain inet ripstop forward", Kind::NftTable);
        hear("nft", "delete table inet ripstop", Kind::NftTable);
        hear("ip", "link set rip0 mtu 1280", Kind::Link);
        let down = hear("ip", "link set ripab12 down", Kind::Link);
        assert!(down.is_superset(&BTreeSet::from([Kind::Route, Kind::Neighbour, Kind::Address])), "{down:?}");
        hear("ip", "link del ripvx", Kind::Fdb);
        hear("ip", "link add ripnew type ifb", Kind::Link);
    });
}

/// Though no look saw it, and though a link of its index was removed by us before.
#[test]
fn the_end_of_a_link_that_was_just_made_is_heard() {
    on_a_node(|mut node| {
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        let made = Object::from(link("ripsab12", LinkKind::Ifb { index: 0x4000_0001 }, 5));
        for round in 0..2 {
            node.make(std::slice::from_ref(&made));
            ip("link del ripsab12");
            assert!(heard(&mut monitor).kinds.contains(&Kind::Link), "round {round}, not seen");
            node.make(std::slice::from_ref(&made));
            assert_eq!(heard(&mut monitor), Changed::default());
            ip("link del ripsab12");
            assert!(heard(&mut monitor).kinds.contains(&Kind::Link), "round {round}, seen");
            node.make(std::slice::from_ref(&made));
            node.remove(std::slice::from_ref(&made));
            node.applier.flush();
            assert_eq!(heard(&mut monitor), Changed::default());
        }
    });
}

#[test]
fn a_route_that_replaces_ours_and_a_change_of_a_bridge_port_are_heard() {
    on_a_node(|mut node| {
        uplink();
        let pod = Pod::new();
        let [outer, ..] = pair(&pod, "ripab12", 2);
        let Object::Link(mut outer) = outer else { panic!() };
        outer.master = Some(name("rip0"));
        outer.port = Some(BridgePort { hairpin: true, learning: true });
        let route = Object::from(route(Ns::Host, "10.244.2.0/24", RouteTarget::Unreachable));
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        node.make(&[link("rip0", LinkKind::Bridge, 1).into(), outer.into(), route]);
        assert_eq!(heard(&mut monitor), Changed::default());
        ip("route replace 10.244.2.0/24 via 192.0.2.7 proto static");
        assert_eq!(heard(&mut monitor).kinds, BTreeSet::from([Kind::Route]));
        run("bridge", &["link", "set", "dev", "ripab12", "hairpin", "off"]);
        assert_eq!(heard(&mut monitor).kinds, BTreeSet::from([Kind::Link]));
    });
}

/// The kernel drops what goes by a link that falls, and says nothing of it.
#[test]
fn a_link_that_fell_took_its_nexthops_along_though_it_runs_again() {
    on_a_node(|node| {
        uplink();
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        let gone = BTreeSet::from([Kind::Nexthop, Kind::NexthopGroup, Kind::Route]);
        // Its carrier, by the other end; being asked for makes the kernel look at once.
        for lines in [
            &["link set up1 down", "link show up0"][..],
            &[
                "link set up1 up",
                "link show up0",
                "link set up1 down",
                "link show up0",
                "link set up1 up",
                "link show up0",
            ],
            &["link set up0 down", "link set up0 up"],
        ] {
            ip(&format!("nexthop replace id {} via 192.0.2.7 dev up0 onlink", NEXTHOP_IDS.start()));
            settle(&mut monitor);
            for line in lines {
                ip(line);
            }
            assert_eq!(ip("nexthop show dev up0"), "", "{lines:?}");
            let changed = heard(&mut monitor);
            assert!(changed.kinds.is_superset(&gone), "{lines:?}: {changed:?}");
            ip("link set up1 up");
            ip("link show up0");
        }
    });
}

#[test]
fn changes_of_the_host_are_facts() {
    on_a_node(|node| {
        uplink();
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        let mut facts = |program: &str, line: &str, expected: bool| {
            run(program, &line.split_whitespace().collect::<Vec<_>>());
            let changed = heard(&mut monitor);
            assert_eq!(changed.facts, expected, "{program} {line}: {changed:?}");
        };
        facts("ip", "addr add 192.0.2.20/24 dev up0", true);
        facts("ip", "addr del 192.0.2.20/24 dev up0", true);
        facts("ip", "route add default via 192.0.2.7", true);
        facts("ip", "route add 198.51.100.0/24 via 192.0.2.7", false);
        facts("ip", "link set up0 mtu 1400", true);
        facts("ip", "link set up1 down", true);
        facts("ip", "link add other type bridge", true);
        facts("nft", "add table inet other", false);
        facts("nft", "add chain inet other input { type filter hook input priority 0 ; }", false);
        facts("nft", "add rule inet other input drop", false);
        facts("nft", "add chain inet other forward { type filter hook forward priority 0 ; }", true);
        facts("nft", "add rule inet other forward drop", true);
        facts("nft", "delete table inet other", true);
    });
}

#[test]
fn after_an_overrun_everything_may_have_changed() {
    on_a_node(|node| {
        uplink();
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        // More events than the kernel keeps for a socket.
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut batch = String::new();
        for i in 0..40_000u32 {
            let [_, _, c, d] = i.to_be_bytes();
            batch += &format!("route add 100.64.{c}.{d}/32 dev up0\n");
        }
        std::fs::write(file.path(), batch).unwrap();
        run("ip", &["-batch", file.path().to_str().unwrap()]);
        assert_eq!(monitor.read().unwrap(), Changed::everything());
        assert!(heard(&mut monitor).is_empty());
    });
}

/// While elements are written nobody listens: what another writes between two transactions must be heard of all the same.
#[test]
fn what_others_write_among_many_elements_of_ours_is_heard() {
    let hosts = |first: u8, count: u16| -> Vec<Object> {
        let of = |n: u16| {
            let [high, low] = n.to_be_bytes();
            let key = ElementKey {
                family: TableFamily::Inet,
                table: NFT_TABLE.into(),
                set: "hosts".into(),
                key: ElementValue::new(false, [std::net::IpAddr::from([10, first, high, low])]),
            };
            NftElement { key, body: ElementBody::comment(&ripstop_types::Owner::agent()) }.into()
        };
        (0..count).map(of).collect()
    };
    on_a_node(move |mut node| {
        let set = Set::of([Type::Ipv4Addr]);
        node.make(&[NftTable { table: Table::new(TableFamily::Inet, NFT_TABLE).set("hosts", set) }.into()]);
        let mut other = Node::new();
        let mut monitor = Monitor::open(node.applier.own()).unwrap();
        settle(&mut monitor);
        node.make(&hosts(0, 500));
        assert_eq!(heard(&mut monitor), Changed::default());
        for round in 1..20 {
            thread::scope(|s| {
                s.spawn(|| other.make(&hosts(100 + round, 1)));
                node.make(&hosts(round, 500));
            });
            let changed = heard(&mut monitor);
            assert!(changed.kinds.contains(&Kind::NftElement), "round {round}: {changed:?}");
        }
        node.make(&hosts(50, 500));
        assert_eq!(heard(&mut monitor), Changed::default());
    });
}
