//! Messages like those that made speakers end sessions or crash since 2022, with what must become of them here.

use ripstop_bgp::wire::{Grade, Message, decode, frame};
use ripstop_types::Family;

use crate::{attribute, external, hex, internal, message, update};

/// An OPEN with these optional parameters behind their length.
fn open(parameters: &str) -> Vec<u8> {
    message(1, &[hex("04 fde9 00b4 0a000001"), hex(parameters)].concat())
}

#[test]
fn damaged_capabilities_are_refused_and_odd_ones_taken() {
    for (what, parameters, subcode) in [
        ("parameters longer than the message", "ff", 0),
        ("bytes behind the parameters", "00 02", 0),
        ("a parameter cut off", "02 02 06", 0),
        ("a capability longer than its parameter", "04 02 02 41 04", 0),
        ("four-byte AS of 2 bytes", "06 02 04 41 02 fde9", 0),
        ("multiprotocol of 3 bytes", "07 02 05 01 03 000100", 0),
        ("graceful restart of 1 byte", "05 02 03 40 01 00", 0),
        ("add-path of 5 bytes", "09 02 07 45 05 0001010300", 0),
        ("AS 0", "08 02 06 41 04 00000000", 2),
        ("an authentication parameter", "03 01 01 00", 4),
        ("extended, shorter than it says", "ff ff 0010 02 0002 0200", 0),
        ("extended, cut off", "ff ff 00", 0),
    ] {
        let told = decode(&open(parameters), &external()).expect_err(what).notification;
        assert_eq!((told.code, told.subcode), (2, subcode), "{what}");
    }
    for (what, parameters, count) in [
        ("none", "00", 0),
        ("unknown", "04 02 02 ee 00", 1),
        ("extended", "ff ff 0005 02 0002 0200", 1),
        ("extended with a length that means nothing", "01 ff 0005 02 0002 0200", 1),
        ("two parameters", "08 02 02 0200 02 02 4600", 2),
        ("add-path with mode 9", "08 02 06 45 04 00010109", 1),
        ("outbound filters of families unknown here", "0a 02 08 03 06 0063 00 63 01 01", 1),
    ] {
        match decode(&open(parameters), &external()) {
            Ok(Message::Open(open)) => assert_eq!(open.capabilities.len(), count, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let twice = [open("00"), open("00")].concat();
    assert_eq!(frame(&twice, false).unwrap(), Some(29), "a second OPEN is its own message");
}

#[test]
fn open_fields_are_told_by_name() {
    for (body, told, words) in [
        ("03 fde9 00b4 0a000001 00", (2, 1), "version 3"),
        ("04 fde9 0002 0a000001 00", (2, 6), "hold time of 2 s"),
        ("04 fde9 00b4 00000000 00", (2, 3), "0.0.0.0"),
        ("04 0000 00b4 0a000001 00", (2, 2), "AS 0"),
    ] {
        let fault = decode(&message(1, &hex(body)), &external()).expect_err(words);
        assert_eq!((fault.notification.code, fault.notification.subcode), told);
        assert!(fault.reason.contains(words), "{fault}");
    }
}

#[test]
fn headers_that_no_message_has() {
    let with = |length: &str, kind: &str| [vec![0xff; 16], hex(length), hex(kind)].concat();
    for (bytes, extended, told) in [
        (hex("00"), false, (1, 1)),
        ([vec![0xff; 15], vec![0xfe]].concat(), false, (1, 1)),
        (with("0012", "04"), false, (1, 2)),
        (with("0014", "04"), false, (1, 2)),
        (with("1001", "02"), false, (1, 2)),
        (with("1001", "01"), true, (1, 2)),
        (with("0013", "00"), false, (1, 3)),
        (with("0013", "06"), false, (1, 3)),
        (with("0000", "06"), false, (1, 2)),
        (with("0014", "03"), false, (1, 2)),
        (with("0016", "05"), false, (1, 2)),
    ] {
        let fault = frame(&bytes, extended).expect_err("a wrong header").notification;
        assert_eq!((fault.code, fault.subcode), told, "{bytes:02x?}");
    }
    assert_eq!(frame(&with("1001", "02"), true).unwrap(), None);
    assert_eq!(frame(&[0xff; 7], false).unwrap(), None);
}

#[test]
fn a_withdrawal_of_one_family_beside_a_broken_announcement_of_the_other() {
    // MP_UNREACH_NLRI and prefixes without the attributes that these must have.
    let unreach = attribute(0x80, 15, &hex("0002 01 40 20010db800000000"));
    let Ok(Message::Update(found)) = decode(&update(&[], &unreach, &hex("18 c63364")), &external()) else {
        panic!("reset")
    };
    assert_eq!((found.withdrawn.len(), found.announced.len(), found.grade()), (2, 0, Some(Grade::TreatAsWithdraw)));
    // Nothing but an unknown transitive attribute.
    let unknown = attribute(0xc0, 0xee, &hex("00"));
    let Ok(Message::Update(found)) = decode(&update(&[], &unknown, &hex("18 c63364")), &external()) else {
        panic!("reset")
    };
    assert_eq!((found.withdrawn.len(), found.announced.len()), (1, 0));
}

#[test]
fn ends_of_rib_with_something_wrong_are_none() {
    let read = |attributes: &[u8]| match decode(&update(&[], attributes, &[]), &external()) {
        Ok(Message::Update(update)) => update,
        other => panic!("{other:?}"),
    };
    assert_eq!(read(&[]).end_of_rib, Some(Family::V4));
    assert_eq!(read(&attribute(0x80, 15, &hex("0002 01"))).end_of_rib, Some(Family::V6));
    let other = [attribute(0x80, 15, &hex("0002 01")), attribute(0x40, 6, &[])].concat();
    assert_eq!(read(&other).end_of_rib, None, "with another attribute");
    assert_eq!(read(&attribute(0x80, 15, &hex("0019 46"))).end_of_rib, None, "of a family that is not known");
    let broken = [attribute(0x80, 15, &hex("0002 01")), hex("40")].concat();
    let told = decode(&update(&[], &broken, &[]), &external()).expect_err("nothing is announced").notification;
    assert_eq!(told.code, 3);
}

#[test]
fn families_that_were_not_agreed_on_are_passed_over() {
    for value in ["0019 46 04 0a000001 00 ff", "0001 85 00 00 00", "0001 85 00 00", "4004 47 00 00"] {
        let attributes = [attribute(0x80, 14, &hex(value)), attribute(0x40, 1, &[0]), attribute(0x40, 2, &[])].concat();
        let Ok(Message::Update(found)) = decode(&update(&[], &attributes, &[]), &internal()) else { panic!("{value}") };
        assert_eq!((found.announced.len(), found.grade()), (0, Some(Grade::AttributeDiscard)), "{value}");
    }
}

#[test]
fn a_path_longer_than_a_segment_is_taken() {
    let long: Vec<u8> = (0..3).flat_map(|_| [vec![2, 255], hex("0000fde9").repeat(255)].concat()).collect();
    let attributes =
        [attribute(0x40, 1, &[0]), attribute(0x40, 2, &long), attribute(0x40, 3, &hex("c0000201"))].concat();
    let Ok(Message::Update(found)) = decode(&update(&[], &attributes, &hex("18 c63364")), &external()) else {
        panic!("reset")
    };
    assert_eq!(found.announced[0].attributes.as_path.length(), 765);
}

#[test]
fn requests_to_refresh() {
    let read = |body: &str| decode(&message(5, &hex(body)), &external());
    assert!(matches!(read("0001 00 01"), Ok(Message::RouteRefresh(Some(_)))));
    assert!(matches!(read("0063 00 01"), Ok(Message::RouteRefresh(None))), "a family that is not known");
    assert!(matches!(read("0001 09 01"), Ok(Message::RouteRefresh(None))), "a subtype that is not known");
    assert!(
        matches!(read("0001 00 01 01 40 ffff 00"), Ok(Message::RouteRefresh(Some(_)))),
        "a filter longer than the message"
    );
    assert_eq!(read("0001 01 01 00").expect_err("too long").notification.code, 7);
}
