//! What the codec writes, read by decoders of others: ExaBGP's and tcpdump's, which share nothing with ours nor with each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use ripstop_bgp::wire::{
    AddPathMode, AfiSafi, AsPath, Attributes, Capability, Cease, Context, Families, NextHop, Nlri, Notification, Open,
    Refresh, RefreshKind, RestartFamily, announce, end_of_rib, keepalive, withdraw,
};
use ripstop_types::{Family, Prefix};

use super::foreign::route::{Route, community, large, target};
use super::foreign::{Kind, exabgp};
use super::programs::{Folder, is_there};

/// All there is, over four bytes.
fn context() -> Context {
    Context { four_byte_as: true, families: Families::BOTH, extended_next_hop: true, ..Context::default() }
}

/// An UPDATE for each set of attributes with each kind of next hop, and the routes that it tells, a default route among them.
fn updates(context: &Context, default: bool) -> Vec<(Vec<u8>, BTreeSet<Route>)> {
    let hops = [
        (Family::V4, NextHop::V4([192, 0, 2, 1].into())),
        (Family::V6, NextHop::V6("2001:db8::1".parse().unwrap(), None)),
        (Family::V4, NextHop::V6("2001:db8::1".parse().unwrap(), None)),
    ];
    let each = (0..256u32).flat_map(|set| hops.map(|hop| (set, hop)));
    each.map(|(set, (family, hop))| {
        let attributes = attributes(set, hop);
        let prefixes: &[&str] = match family {
            Family::V4 => &["0.0.0.0/0", "10.0.0.0/8", "10.130.0.0/17", "10.2.3.0/24", "10.2.3.4/32"],
            Family::V6 => &["::/0", "2001:db8::/33", "2001:db8:1:2::/64", "2001:db8::7/128"],
        };
        let prefixes = prefixes.iter().skip(usize::from(!default)).map(|text| text.parse::<Prefix>().unwrap());
        let nlri: Vec<Nlri> = prefixes.enumerate().map(|(path, prefix)| numbered(prefix, path, context)).collect();
        let mut bytes = Vec::new();
        assert!(announce(&mut bytes, context, &attributes, &nlri));
        (bytes, nlri.iter().map(|one| Route::of(one.prefix, &attributes)).collect())
    })
    .collect()
}

/// With an identifier where several paths go.
fn numbered(prefix: Prefix, path: usize, context: &Context) -> Nlri {
    let path = if context.add_path_out.has(prefix.family()) { u32::try_from(path).unwrap() + 1 } else { 0 };
    Nlri { prefix, path }
}

/// Each bit of `set` is something that a route has.
fn attributes(set: u32, next_hop: NextHop) -> Attributes {
    let has = |bit: u32| set >> bit & 1 == 1;
    let mut all = Attributes::new(next_hop);
    if has(0) {
        all.as_path = AsPath::sequence(&[64_513, 4_200_000_001, 7]);
    }
    all.med = has(1).then_some(4_294_967_295);
    all.local_pref = has(2).then_some(150);
    if has(3) {
        all.communities = [community("1:2"), community("64512:77")].into();
    }
    if has(4) {
        all.extended_communities = [target("64512:5"), target("64513:4294967295")].into();
    }
    if has(5) {
        all.large_communities = [large("1:2:3"), large("4294967295:0:70000")].into();
    }
    all.originator_id = has(6).then_some(Ipv4Addr::new(192, 0, 2, 7));
    if has(7) {
        all.cluster_list = [Ipv4Addr::new(192, 0, 2, 8), Ipv4Addr::new(192, 0, 2, 9)].into();
    }
    all
}

#[test]
fn exabgp_reads_updates_as_they_were_meant() {
    if !Kind::Exabgp.installed() {
        return;
    }
    for context in [context(), Context { add_path_out: Families::BOTH, ..context() }] {
        let all = updates(&context, true);
        let messages: Vec<&[u8]> = all.iter().map(|(bytes, _)| &bytes[..]).collect();
        let found = exabgp::decode(&messages, context.add_path_out == Families::BOTH);
        assert_eq!(found.len(), all.len());
        for ((bytes, expected), found) in all.iter().zip(found) {
            assert_eq!(&found, expected, "{bytes:02x?}");
        }
    }
}

#[test]
fn tcpdump_reads_updates_as_they_were_meant() {
    if !is_there("/usr/bin/tcpdump", "tcpdump", "tcpdump") {
        return;
    }
    // It guesses whether identifiers of paths stand before prefixes, and takes a default route for one.
    let all = updates(&context(), false);
    let found = dumped(&all.iter().map(|(bytes, _)| &bytes[..]).collect::<Vec<_>>());
    assert_eq!(found.len(), all.len());
    for ((bytes, expected), found) in all.iter().zip(&found) {
        assert_eq!(&parse(found), expected, "{bytes:02x?}\n{found}");
    }
}

#[test]
fn tcpdump_reads_the_other_messages_as_they_were_meant() {
    if !is_there("/usr/bin/tcpdump", "tcpdump", "tcpdump") {
        return;
    }
    let v4 = AfiSafi::unicast(Family::V4);
    let capabilities = vec![
        Capability::Multiprotocol(v4),
        Capability::RouteRefresh,
        Capability::FourByteAs(4_200_000_001),
        Capability::AddPath(vec![(v4, AddPathMode::Both)]),
        Capability::EnhancedRefresh,
        Capability::GracefulRestart {
            restarted: true,
            notification: false,
            seconds: 120,
            families: vec![RestartFamily { family: v4, forwarding: true }],
        },
    ];
    let open = Open { asn: 4_200_000_001, hold_time: 90, router_id: [192, 0, 2, 1].into(), capabilities };
    let nlri = |text: &str| [Nlri::of(text.parse().unwrap())];
    let mut withdrawn = [Vec::new(), Vec::new()];
    withdraw(&mut withdrawn[0], &context(), &nlri("10.2.0.0/24"));
    withdraw(&mut withdrawn[1], &context(), &nlri("2001:db8:2::/48"));
    let [first, second] = withdrawn;
    let refresh = Refresh { family: Family::V6, kind: RefreshKind::Request }.encode();
    let cases: [(Vec<u8>, &[&str]); 8] = [
        (
            open.encode(),
            &[
                "Open Message (1)",
                "my AS 23456",
                "Holdtime 90s",
                "ID 192.0.2.1",
                "4200000001",
                "Graceful Restart",
                "Restart Time 120s",
                "Multiple Paths",
                "Enhanced Route Refresh",
            ],
        ),
        (keepalive(), &["Keepalive Message (4), length: 19"]),
        (
            Notification::cease(Cease::AdministrativeShutdown, "cables change").encode(),
            &["Notification Message (3)", "Cease (6)", "Administrative Shutdown (2)", "cables change"],
        ),
        (refresh, &["Route Refresh Message (5)", "AFI IPv6 (2), SAFI Unicast (1)"]),
        (first, &["Withdrawn routes:", "10.2.0.0/24"]),
        (second, &["Multi-Protocol Unreach NLRI (15)", "2001:db8:2::/48"]),
        (end_of_rib(Family::V4), &["length: 23", "End-of-Rib Marker"]),
        (end_of_rib(Family::V6), &["AFI: IPv6 (2), SAFI: Unicast (1)", "End-of-Rib Marker"]),
    ];
    let found = dumped(&cases.iter().map(|(bytes, _)| &bytes[..]).collect::<Vec<_>>());
    for ((_, words), found) in cases.iter().zip(&found) {
        words.iter().for_each(|words| assert!(found.contains(words), "{words}: {found}"));
    }
}

/// What tcpdump prints of each message.
fn dumped(messages: &[&[u8]]) -> Vec<String> {
    let folder = Folder::new();
    let path = folder.file("pcap");
    std::fs::write(&path, capture(messages)).unwrap();
    let output = Command::new("tcpdump").args(["-nn", "-v", "-r", &path]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // What is indented belongs to the packet before; the packet's own second line does, too.
    let mut all: Vec<String> = Vec::new();
    for line in text.lines() {
        match all.last_mut().filter(|_| line.starts_with(char::is_whitespace)) {
            Some(last) => *last += &format!("{line}\n"),
            None => all.push(String::new()),
        }
    }
    all
}

/// A file of captured packets, a message each, of IPv4 and TCP without checksums.
fn capture(messages: &[&[u8]]) -> Vec<u8> {
    let mut file = [0xa1b2_c3d4u32, 2 << 16 | 4, 0, 0, 65_535, 101].map(u32::to_be_bytes).concat();
    for message in messages {
        let length = u16::try_from(40 + message.len()).unwrap();
        let ip =
            [&[0x45, 0][..], &length.to_be_bytes(), &[0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]].concat();
        let tcp = [0, 179, 200, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 16, 0, 0, 0, 0, 0];
        file.extend([1u32, 0, length.into(), length.into()].map(u32::to_be_bytes).concat());
        file.extend([&ip[..], &tcp, message].concat());
    }
    file
}

/// The routes of an UPDATE as tcpdump prints it: `Name (type), length: N, Flags [F]: value`, and lines below that belong to it.
fn parse(text: &str) -> BTreeSet<Route> {
    let mut route = Route::to("0.0.0.0/0", "0.0.0.0");
    let mut prefixes: Vec<Prefix> = Vec::new();
    let mut name = String::new();
    for line in text.lines().map(str::trim) {
        let value = match line.split_once("]: ").or_else(|| line.strip_suffix("]:").map(|head| (head, ""))) {
            Some((head, value)) if head.contains(", Flags [") && head.contains("), length: ") => {
                name = head.split(" (").next().unwrap().to_owned();
                value.trim()
            }
            _ if line.starts_with("Updated routes:") => {
                name = "Updated".to_owned();
                continue;
            }
            _ => line,
        };
        let list = || value.split(", ").map(str::trim).filter(|one| !one.is_empty());
        match name.as_str() {
            "AS Path" => route.as_path = value.split_whitespace().filter_map(|asn| asn.parse().ok()).collect(),
            "Next Hop" => route.next_hop = value.parse().unwrap(),
            "Multi Exit Discriminator" => route.med = Some(value.parse().unwrap()),
            "Local Preference" => route.local_pref = Some(value.parse().unwrap()),
            "Community" => route.communities = list().map(community).collect(),
            "Large Community" => route.large.extend(list().map(large)),
            "Extended Community" => {
                let number =
                    value.strip_prefix("target (0x0002), Flags [none]: ").and_then(|all| all.split(' ').next());
                route.extended.extend(number.map(target));
            }
            "Originator ID" => route.originator = Some(value.parse().unwrap()),
            "Cluster List" => route.clusters = list().map(|id| id.parse().unwrap()).collect(),
            "Multi-Protocol Reach NLRI" => match value.strip_prefix("nexthop: ") {
                Some(hop) => route.next_hop = next_hop(hop.split(", nh-length").next().unwrap()),
                None => prefixes.extend(value.parse::<Prefix>().ok()),
            },
            "Updated" => prefixes.push(value.parse().unwrap()),
            _ => {}
        }
    }
    prefixes.into_iter().map(|prefix| Route { prefix, ..route.clone() }).collect()
}

/// An address; tcpdump prints an IPv6 one of IPv4 routes as four of IPv4.
fn next_hop(text: &str) -> IpAddr {
    let parts: Vec<&str> = text.split(", ").collect();
    let [_, _, _, _] = parts[..] else { return text.parse().unwrap() };
    let bytes = parts.iter().flat_map(|part| part.parse::<Ipv4Addr>().unwrap().octets());
    let number = bytes.fold(0u128, |number, byte| number << 8 | u128::from(byte));
    Ipv6Addr::from_bits(number).into()
}
