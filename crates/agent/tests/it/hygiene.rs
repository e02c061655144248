//! What a node that forwards needs of its host: its router's advertisements, room for neighbours.

use crate::support::ns::{Ns, is_root, link_index};
use crate::support::soon;
use crate::support::world::{Families, Plan, World};

/// Sends a router advertisement (RFC 4861, section 4.2) from a router's `eth0` to all nodes, good for half an hour.
fn advertise(router: &Ns) {
    router.inside(|| {
        let index = link_index("eth0").unwrap();
        // SAFETY: plain system calls; the address is whole, and lives as long as the call.
        unsafe {
            let socket = libc::socket(libc::AF_INET6, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMPV6);
            assert!(socket >= 0);
            let hops: i32 = 255;
            let set = libc::setsockopt(
                socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_MULTICAST_HOPS,
                (&raw const hops).cast(),
                size_of::<i32>() as u32,
            );
            assert_eq!(set, 0);
            let mut to: libc::sockaddr_in6 = std::mem::zeroed();
            to.sin6_family = libc::AF_INET6 as u16;
            to.sin6_addr.s6_addr = "ff02::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
            to.sin6_scope_id = index as u32;
            // Type 134, hop limit 64, lifetime 1800 s. The kernel fills the checksum in.
            let message = [134u8, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
            let sent = libc::sendto(
                socket,
                message.as_ptr().cast(),
                message.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_in6>() as u32,
            );
            assert_eq!(sent, message.len() as isize, "{}", std::io::Error::last_os_error());
            libc::close(socket);
        }
    });
}

fn setting(ns: &Ns, path: &str) -> Option<String> {
    ns.inside(|| std::fs::read_to_string(format!("/proc/sys/{path}")).ok().map(|text| text.trim().to_owned()))
}

fn set(ns: &Ns, path: &str, value: &str) {
    ns.inside(|| std::fs::write(format!("/proc/sys/{path}"), value)).unwrap();
}

const ACCEPT: &str = "net/ipv6/conf/eth0/accept_ra";

/// A default route that was advertised.
fn advertised(world: &World) -> bool {
    world.node.ip("-6 route show default").contains("proto ra")
}

#[test]
fn the_routers_advertisements_are_taken_though_the_node_forwards() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { families: Families::Dual, ..Plan::default() });
    world.node.ip("-6 route del default");
    set(&world.node, ACCEPT, "1");
    world.node.ip("link add eth1 type veth peer name eth2");
    world.node.ip("link set eth1 up");
    set(&world.node, "net/ipv6/conf/eth1/accept_ra", "1");
    assert!(soon(|| {
        advertise(&world.router);
        advertised(&world)
    }));
    world.start_agent();
    world.wait_ready();
    world.settle();
    assert_eq!(setting(&world.node, "net/ipv6/conf/all/forwarding").as_deref(), Some("1"));
    assert_eq!(setting(&world.node, ACCEPT).as_deref(), Some("2"));
    assert!(advertised(&world), "turning forwarding on cost the route: {}", world.node.ip("-6 route"));
    // Another comes in as well.
    world.node.ip("-6 route del default");
    assert!(soon(|| {
        advertise(&world.router);
        advertised(&world)
    }));
    // A link that does not carry the node's traffic stays as it is.
    assert_eq!(setting(&world.node, "net/ipv6/conf/eth1/accept_ra").as_deref(), Some("1"));
    // Put back by hand, it is written again; switched off by hand, it stays off.
    set(&world.node, ACCEPT, "1");
    assert!(soon(|| setting(&world.node, ACCEPT).as_deref() == Some("2")));
    set(&world.node, ACCEPT, "0");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(setting(&world.node, ACCEPT).as_deref(), Some("0"));
    assert_eq!(world.get("/v1/plan"), serde_json::json!([]));
}

#[test]
fn a_link_that_takes_no_advertisements_is_not_made_to() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { families: Families::Dual, ..Plan::default() });
    set(&world.node, ACCEPT, "0");
    world.start_agent();
    world.wait_ready();
    world.settle();
    assert_eq!(setting(&world.node, ACCEPT).as_deref(), Some("0"));
}

/// The limits of neighbour tables are the machine's: a namespace has none, and there nothing is tried or failed.
#[test]
fn limits_that_are_not_there_are_not_asked_for() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    world.settle();
    let limits = setting(&world.node, "net/ipv4/neigh/default/gc_thresh3");
    let asked = world.rows("/v1/journal").iter().any(|row| row["object"].to_string().contains("gc_thresh"));
    assert_eq!(asked, limits.is_some());
    assert_eq!(world.get("/v1/status")["failed"], serde_json::json!([]));
}
