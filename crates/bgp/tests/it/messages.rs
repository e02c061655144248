//! Messages byte by byte, written by hand from the documents.

use std::net::{Ipv4Addr, Ipv6Addr};

use ripstop_bgp::wire::*;
use ripstop_types::Family;

use crate::{attribute, external, hex, internal, message, update};

fn read(bytes: &[u8], context: &Context) -> Update {
    match decode(bytes, context) {
        Ok(Message::Update(update)) => update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_is_the_bytes_of_the_documents() {
    let open = Open {
        asn: 4_200_000_001,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: vec![
            Capability::Multiprotocol(AfiSafi::unicast(Family::V6)),
            Capability::RouteRefresh,
            Capability::ExtendedNextHop(vec![(AfiSafi::unicast(Family::V4), 2)]),
            Capability::GracefulRestart {
                restarted: true,
                notification: true,
                seconds: 120,
                families: vec![RestartFamily { family: AfiSafi::unicast(Family::V4), forwarding: true }],
            },
            Capability::FourByteAs(4_200_000_001),
            Capability::AddPath(vec![(AfiSafi::unicast(Family::V4), AddPathMode::Both)]),
        ],
    };
    let capabilities =
        "0104 0002 00 01  0200  0506 0001 0001 0002  4006 c078 0001 01 80  4104 fa56ea01  4504 0001 01 03";
    let body = hex(&format!("04 5ba0 005a 0a000001 26 02 24 {capabilities}"));
    assert_eq!(open.encode(), message(1, &body));
    assert_eq!(decode(&open.encode(), &external()), Ok(Message::Open(open.clone())));
    // More than 253 bytes of capabilities take the extended form.
    let many = (0..40).map(|code| Capability::Unknown { code: 200 + code, value: vec![code; 20] }).collect();
    let long = Open { capabilities: many, ..open };
    let long = Open { asn: 23_456, ..long };
    assert_eq!(long.encode()[28..30], [255, 255]);
    assert_eq!(decode(&long.encode(), &external()), Ok(Message::Open(long)));
}

#[test]
fn routes_are_the_bytes_of_the_documents() {
    let mut attributes = Attributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = AsPath::sequence(&[65_001]);
    attributes.med = Some(5);
    let prefixes: Vec<Nlri> =
        ["198.51.100.0/24", "10.0.0.0/8", "0.0.0.0/0"].map(|text| Nlri::of(text.parse().unwrap())).into();
    let mut out = Vec::new();
    assert!(announce(&mut out, &external(), &attributes, &prefixes));
    let body = "400101 00  400206 02 01 0000fde9  400304 c0000201  800404 00000005";
    assert_eq!(out, update(&[], &hex(body), &hex("18 c63364  08 0a  00")));
    // IPv6, first of all attributes.
    let six: Vec<Nlri> = vec![Nlri::of("2001:db8:1::/48".parse().unwrap())];
    attributes.next_hop = NextHop::V6("2001:db8::1".parse().unwrap(), Some("fe80::1".parse().unwrap()));
    out.clear();
    assert!(announce(&mut out, &external(), &attributes, &six));
    let reach =
        "900e 002c 0002 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00 30 20010db80001";
    assert_eq!(out, update(&[], &hex(&format!("{reach} 400101 00  400206 02 01 0000fde9  800404 00000005")), &[]));
    assert_eq!(read(&out, &external()).announced[0].attributes, attributes);
    out.clear();
    withdraw(&mut out, &external(), &six);
    assert_eq!(out, update(&[], &hex("800f 0a 0002 01 30 20010db80001"), &[]));
    out.clear();
    withdraw(&mut out, &external(), &prefixes);
    assert_eq!(out, update(&hex("18 c63364  08 0a  00"), &[], &[]));
    assert_eq!(end_of_rib(Family::V6), update(&[], &hex("800f 03 0002 01"), &[]));
}

#[test]
fn ipv4_by_an_ipv6_next_hop_only_where_that_was_agreed_on() {
    let attributes = Attributes::new(NextHop::V6("fe80::1".parse().unwrap(), None));
    let prefixes = [Nlri::of("10.1.0.0/16".parse().unwrap())];
    let mut out = Vec::new();
    assert!(!announce(&mut out, &internal(), &attributes, &prefixes) && out.is_empty());
    let context = Context { extended_next_hop: true, ..internal() };
    assert!(announce(&mut out, &context, &attributes, &prefixes));
    assert_eq!(read(&out, &context).announced, [Announcement { attributes, nlri: prefixes.to_vec() }]);
}

#[test]
fn a_next_hop_of_two_addresses_has_a_link_local_one_behind_a_global_one() {
    let six = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let read_as = |first: &str, second: &str| {
        let attributes = Attributes::new(NextHop::V6(six(first), Some(six(second))));
        let mut out = Vec::new();
        assert!(announce(&mut out, &internal(), &attributes, &[Nlri::of("2001:db8:1::/48".parse().unwrap())]));
        read(&out, &internal()).announced.pop().map(|one| one.attributes.next_hop)
    };
    let (global, link_local) = ("2001:db8::1", "fe80::1");
    assert_eq!(read_as(global, link_local), Some(NextHop::V6(six(global), Some(six(link_local)))));
    for first in ["::", link_local] {
        assert_eq!(read_as(first, link_local), Some(NextHop::V6(six(link_local), None)), "{first}");
    }
    for second in ["2001:db8::2", "::", "::1", "ff02::1"] {
        assert_eq!(read_as(global, second), Some(NextHop::V6(six(global), None)), "{second}");
    }
    for first in ["::", "::1", "ff02::1"] {
        assert_eq!(read_as(first, "2001:db8::2"), None, "{first} is no next hop");
    }
}

#[test]
fn many_prefixes_share_a_message() {
    let attributes = Attributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let all: Vec<Nlri> =
        (0..10_000u32).map(|n| Nlri::of(format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap())).collect();
    for (extended_messages, count) in [(false, 10), (true, 1)] {
        let context = Context { extended_messages, ..internal() };
        let mut out = Vec::new();
        assert!(announce(&mut out, &context, &attributes, &all));
        let (mut rest, mut found, mut messages) = (&out[..], Vec::new(), 0);
        while let Some(length) = frame(rest, extended_messages).unwrap().filter(|_| !rest.is_empty()) {
            found.extend(read(&rest[..length], &context).announced.remove(0).nlri);
            (rest, messages) = (&rest[length..], messages + 1);
        }
        assert_eq!((found.len(), messages), (all.len(), count));
    }
    let huge = Attributes { communities: (0..1100).collect(), ..attributes };
    assert!(!announce(&mut Vec::new(), &internal(), &huge, &all), "no room for a prefix");
}

#[test]
fn numbers_of_four_bytes_come_through_a_speaker_of_two() {
    let old = Context { four_byte_as: false, ..external() };
    let mut attributes = Attributes::new(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)));
    attributes.as_path = AsPath::sequence(&[65_001, 4_200_000_001, 70_000]);
    attributes.aggregator = Some(Aggregator { asn: 70_000, router_id: Ipv4Addr::new(10, 0, 0, 9) });
    let prefixes = [Nlri::of("10.1.0.0/16".parse().unwrap())];
    let mut out = Vec::new();
    assert!(announce(&mut out, &old, &attributes, &prefixes));
    assert_eq!(read(&out, &old).announced[0].attributes, attributes);
    // That speaker put itself in front, with two bytes.
    let value = |four: &str| {
        [
            attribute(0x40, 1, &[0]),
            attribute(0x40, 2, &hex("02 03 fde8 fde9 5ba0")),
            attribute(0x40, 3, &hex("c0000201")),
            attribute(0xc0, 17, &hex(four)),
        ]
        .concat()
    };
    let path = |four: &str| {
        let found = read(&update(&[], &value(four), &hex("08 0a")), &old);
        (found.announced[0].attributes.as_path.to_string(), found.grade())
    };
    assert_eq!(path("02 02 0000fde9 00011170"), ("65000 65001 70000".to_owned(), None));
    assert_eq!(path("02 09 0000fde9"), ("65000 65001 23456".to_owned(), Some(Grade::AttributeDiscard)));
    assert_eq!(path("02 04 00000001 00000002 00000003 00000004"), ("65000 65001 23456".to_owned(), None), "too long");
}

#[test]
fn what_is_not_known_goes_on_marked_as_partial() {
    let attributes = [
        attribute(0x40, 1, &[0]),
        attribute(0x40, 2, &[]),
        attribute(0x40, 3, &hex("c0000201")),
        attribute(0xc0, 0xee, b"x"),
    ];
    let found = read(&update(&[], &attributes.concat(), &hex("08 0a")), &internal()).announced.remove(0);
    let mut out = Vec::new();
    assert!(announce(&mut out, &internal(), &found.attributes, &found.nlri));
    assert!(out.windows(4).any(|four| four == hex("e0 ee 01 78")), "{out:02x?}");
}
