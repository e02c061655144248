//! Ten thousand peers. Times are printed, not judged.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ripstop_netmodel::*;
use ripstop_types::{Mac, Prefix};

use crate::support::*;

const PEERS: u32 = 10_000;

fn peers() -> Vec<Object> {
    let mut objects = Vec::new();
    for i in 0..PEERS {
        let [_, b, c, d] = (i + 1).to_be_bytes();
        let gateway = IpAddr::V4(Ipv4Addr::new(10, b, c, d));
        let mac = Mac([0x0a, 0x59, 0, b, c, d]);
        let id = NEXTHOP_IDS.start() + i;
        let dst = Prefix::containing(IpAddr::V4(Ipv4Addr::from_bits(0x6440_0000 + (i << 8))), 24).unwrap();
        objects.push(Neighbour { ns: Ns::Host, link: name("ripvx"), ip: gateway, mac }.into());
        objects.push(Fdb { link: name("ripvx"), mac, dst: IpAddr::V4(Ipv4Addr::new(192, 168, c, d)) }.into());
        objects.push(Nexthop { id, link: name("ripvx"), gateway, onlink: true }.into());
        objects.push(
            Route { table: 254, metric: 0, ns: Ns::Host, dst, target: RouteTarget::Nexthop(id), src: None, mtu: None }
                .into(),
        );
    }
    objects
}

#[test]
fn ten_thousand_peers_are_made_read_and_removed() {
    on_a_node(|mut node| {
        uplink();
        node.make(&[vxlan("ripvx", 7, "192.0.2.1", 3).into()]);
        let objects = peers();
        for kind in [Kind::Neighbour, Kind::Fdb, Kind::Nexthop, Kind::Route] {
            let part: Vec<Object> = objects.iter().filter(|object| object.key().kind() == kind).cloned().collect();
            let start = Instant::now();
            node.make(&part);
            println!("{PEERS} of kind {kind:?}: made in {:?}", start.elapsed());
        }
        let start = Instant::now();
        node.make(&objects);
        println!("{PEERS} peers written once more: {:?}", start.elapsed());
        let start = Instant::now();
        let model = node.observer.host(&Model::new()).unwrap();
        println!("{} objects read in {:?}", model.len(), start.elapsed());
        for object in &objects {
            let found = model.get(&object.key()).unwrap_or_else(|| panic!("{} is not there", object.key()));
            assert!(object.satisfied_by(&found.object), "{} differs", object.key());
        }
        let start = Instant::now();
        node.remove(&objects);
        println!("{PEERS} peers removed in {:?}", start.elapsed());
        node.assert_gone(&objects);
    });
}

#[test]
fn what_is_read_is_whole_also_while_others_write() {
    on_a_node(|mut node| {
        uplink();
        let bridge = Object::from(link("rip0", LinkKind::Bridge, 1));
        let mut objects = vec![bridge];
        objects.extend(
            (1..=250).map(|i| Object::from(route(Ns::Host, &format!("10.244.{i}.0/24"), RouteTarget::Unreachable))),
        );
        objects.extend((1..=100).map(|i| address(Ns::Host, "rip0", &format!("10.1.1.{i}"), 32, Scope::Global)));
        node.make(&objects);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                // In the node's namespace too: a thread begins where its parent is.
                let file = tempfile::NamedTempFile::new().unwrap();
                let lines = (0..200).flat_map(|i| {
                    let route = format!("100.64.{i}.0/24 dev up0 proto static");
                    let address = format!("198.51.100.{i}/32 dev up0");
                    [
                        format!("route add {route}"),
                        format!("addr add {address}"),
                        format!("route del {route}"),
                        format!("addr del {address}"),
                    ]
                });
                std::fs::write(file.path(), lines.collect::<Vec<_>>().join("\n")).unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    run("ip", &["-batch", file.path().to_str().unwrap()]);
                }
            });
            let desired = model(&objects);
            for _ in 0..100 {
                let found = node.observer.host(&desired).unwrap();
                let missing: Vec<_> = desired.keys().filter(|key| found.get(key).is_none()).collect();
                stop.fetch_or(!missing.is_empty(), std::sync::atomic::Ordering::Relaxed);
                assert!(missing.is_empty(), "{missing:?}");
                assert_eq!(found.len(), desired.len());
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}
