//! Damaged attributes, and what RFC 7606 and the attributes' own documents make of each, from external and internal peers.
//!
//! W, D and R number the cases as treat-as-withdraw, attribute discard and session reset; who collects such cases elsewhere has
//! 58, 26 and 4. Two differ here from what others do: D06, where another list also has treat-as-withdraw and RFC 6793 says to
//! discard, and D26, which is no error but is passed on.

use ripstop_bgp::wire::{Context, Grade, Message, Update, decode};

use crate::{attribute, external, hex, internal, update};

/// Outcomes, in the words of the table.
const KEEP: Option<Grade> = None;
const DISCARD: Option<Grade> = Some(Grade::AttributeDiscard);
const WITHDRAW: Option<Grade> = Some(Grade::TreatAsWithdraw);

/// Number, attribute, flags, value, from an external peer, from an internal one, by which rule.
type Case = (&'static str, u8, u8, &'static str, Option<Grade>, Option<Grade>, &'static str);

const WITHDRAWN: &[Case] = &[
    ("W01 ORIGIN optional", 1, 0xc0, "00", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W02 ORIGIN partial", 1, 0x60, "00", WITHDRAW, WITHDRAW, "4271 4.3"),
    ("W03 ORIGIN of 0 bytes", 1, 0x40, "", WITHDRAW, WITHDRAW, "7606 7.1"),
    ("W04 ORIGIN of 2 bytes", 1, 0x40, "0000", WITHDRAW, WITHDRAW, "7606 7.1"),
    ("W05 ORIGIN 3", 1, 0x40, "03", WITHDRAW, WITHDRAW, "7606 7.1"),
    ("W06 ORIGIN 4", 1, 0x40, "04", WITHDRAW, WITHDRAW, "7606 7.1"),
    ("W07 ORIGIN 255", 1, 0x40, "ff", WITHDRAW, WITHDRAW, "7606 7.1"),
    ("W08 AS_PATH optional", 2, 0xc0, "02 01 0000fbf0", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W09 AS_PATH partial", 2, 0x60, "02 01 0000fbf0", WITHDRAW, WITHDRAW, "4271 4.3"),
    ("W10 AS_PATH segment of type 0", 2, 0x40, "00 01 0000fbf0", WITHDRAW, WITHDRAW, "7606 7.2"),
    ("W11 AS_PATH segment of type 5", 2, 0x40, "05 01 0000fbf0", WITHDRAW, WITHDRAW, "7606 7.2"),
    ("W12 AS_PATH empty segment", 2, 0x40, "02 00", WITHDRAW, WITHDRAW, "7606 7.2"),
    ("W13 AS_PATH segment overrun", 2, 0x40, "02 ff 0000fbf0", WITHDRAW, WITHDRAW, "7606 7.2"),
    ("W14 AS_PATH with AS 0", 2, 0x40, "02 01 00000000", WITHDRAW, WITHDRAW, "7607 2"),
    ("W15 NEXT_HOP 0.0.0.0", 3, 0x40, "00000000", WITHDRAW, WITHDRAW, "4271 6.3"),
    ("W16 NEXT_HOP 127.0.0.1", 3, 0x40, "7f000001", WITHDRAW, WITHDRAW, "4271 6.3"),
    ("W17 NEXT_HOP 224.0.0.1", 3, 0x40, "e0000001", WITHDRAW, WITHDRAW, "4271 6.3"),
    ("W18 MED transitive", 4, 0xc0, "0000000a", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W19 MED of 3 bytes", 4, 0x80, "000000", WITHDRAW, WITHDRAW, "7606 7.4"),
    ("W20 MED of 5 bytes", 4, 0x80, "000000000a", WITHDRAW, WITHDRAW, "7606 7.4"),
    ("W21 MED of 0 bytes", 4, 0x80, "", WITHDRAW, WITHDRAW, "7606 7.4"),
    ("W22 LOCAL_PREF of 3 bytes", 5, 0x40, "000000", DISCARD, WITHDRAW, "7606 7.5"),
    ("W23 LOCAL_PREF of 5 bytes", 5, 0x40, "0000000064", DISCARD, WITHDRAW, "7606 7.5"),
    ("W24 LOCAL_PREF of 0 bytes", 5, 0x40, "", DISCARD, WITHDRAW, "7606 7.5"),
    ("W25 LOCAL_PREF optional", 5, 0xc0, "00000064", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W26 COMMUNITIES not transitive", 8, 0x80, "fbf00001", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W27 COMMUNITIES of 0 bytes", 8, 0xc0, "", WITHDRAW, WITHDRAW, "7606 7.8"),
    ("W28 COMMUNITIES of 5 bytes", 8, 0xc0, "fbf0000100", WITHDRAW, WITHDRAW, "7606 7.8"),
    ("W29 ORIGINATOR_ID of 3 bytes", 9, 0x80, "0a0000", DISCARD, WITHDRAW, "7606 7.9"),
    ("W30 ORIGINATOR_ID of 5 bytes", 9, 0x80, "0a00000200", DISCARD, WITHDRAW, "7606 7.9"),
    ("W31 ORIGINATOR_ID transitive", 9, 0xc0, "0a000002", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W32 CLUSTER_LIST of 0 bytes", 10, 0x80, "", DISCARD, WITHDRAW, "7606 7.10"),
    ("W33 CLUSTER_LIST of 5 bytes", 10, 0x80, "0a00000200", DISCARD, WITHDRAW, "7606 7.10"),
    ("W34 CLUSTER_LIST transitive", 10, 0xc0, "0a000002", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W35 extended communities not transitive", 16, 0x80, "0002fbf000000001", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W36 extended communities of 0 bytes", 16, 0xc0, "", WITHDRAW, WITHDRAW, "7606 7.14"),
    ("W37 extended communities of 9 bytes", 16, 0xc0, "0002fbf00000000100", WITHDRAW, WITHDRAW, "7606 7.14"),
    ("W38 AS4_PATH not transitive", 17, 0x80, "02 01 00010001", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W40 PMSI_TUNNEL not transitive", 22, 0x80, "00 06 000000 0a000002", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W41 PMSI_TUNNEL of 4 bytes", 22, 0xc0, "00 06 0000", WITHDRAW, WITHDRAW, "6514 silent"),
    ("W42 PMSI_TUNNEL of type 8", 22, 0xc0, "00 08 000000 0a000002", WITHDRAW, WITHDRAW, "6514 silent"),
    ("W43 PMSI_TUNNEL of type 255", 22, 0xc0, "00 ff 000000 0a000002", WITHDRAW, WITHDRAW, "6514 silent"),
    ("W44 PMSI_TUNNEL to 5 bytes", 22, 0xc0, "00 06 000000 0a00000200", WITHDRAW, WITHDRAW, "6514 silent"),
    ("W45 tunnel not transitive", 23, 0x80, "0007 0000", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W46 tunnel of 3 bytes", 23, 0xc0, "0007 00", WITHDRAW, WITHDRAW, "9012 13"),
    ("W47 tunnel overrun", 23, 0xc0, "0007 0004 01", WITHDRAW, WITHDRAW, "9012 13"),
    ("W48 sub-TLV overrun", 23, 0xc0, "0007 0004 01 ff", WITHDRAW, WITHDRAW, "9012 13"),
    (
        "W49 IPv6 communities not transitive",
        25,
        0x80,
        "0002 20010db8000000000000000000000001 0001",
        WITHDRAW,
        WITHDRAW,
        "7606 3c",
    ),
    ("W50 IPv6 communities of 0 bytes", 25, 0xc0, "", WITHDRAW, WITHDRAW, "7606 7.15"),
    (
        "W51 IPv6 communities of 21 bytes",
        25,
        0xc0,
        "0002 20010db8000000000000000000000001 0001 00",
        WITHDRAW,
        WITHDRAW,
        "7606 7.15",
    ),
    ("W52 large communities not transitive", 32, 0x80, "0000fbf00000000100000002", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W53 large communities of 0 bytes", 32, 0xc0, "", WITHDRAW, WITHDRAW, "8092 6"),
    ("W54 large communities of 13 bytes", 32, 0xc0, "0000fbf0000000010000000200", WITHDRAW, WITHDRAW, "8092 6"),
    ("W55 OTC not transitive", 35, 0x80, "0000fbf0", WITHDRAW, WITHDRAW, "7606 3c"),
    ("W56 OTC of 3 bytes", 35, 0xc0, "0000fb", WITHDRAW, WITHDRAW, "9234 6"),
    ("W57 OTC of 5 bytes", 35, 0xc0, "0000fbf000", WITHDRAW, WITHDRAW, "9234 6"),
    ("W58 OTC 0", 35, 0xc0, "00000000", WITHDRAW, WITHDRAW, "7607 2"),
    // Beyond that list.
    ("X01 NEXT_HOP of 3 bytes", 3, 0x40, "0a0000", WITHDRAW, WITHDRAW, "7606 7.3"),
    ("X02 NEXT_HOP of 16 bytes", 3, 0x40, "20010db8000000000000000000000001", WITHDRAW, WITHDRAW, "7606 7.3"),
    ("X03 NEXT_HOP optional", 3, 0xc0, "0a000001", WITHDRAW, WITHDRAW, "7606 3c"),
    ("X04 AS_PATH with one byte left", 2, 0x40, "02 01 0000fbf0 02", WITHDRAW, WITHDRAW, "7606 7.2"),
    ("X05 AS_PATH of a confederation", 2, 0x40, "03 01 0000fbf0", WITHDRAW, WITHDRAW, "5065 5"),
    ("X06 AS_PATH with a set", 2, 0x40, "02 01 0000fbf0 01 01 0000fbf1", WITHDRAW, WITHDRAW, "9774 3"),
    ("X07 well-known but unknown", 77, 0x40, "00", WITHDRAW, WITHDRAW, "4271 6.3"),
    ("X08 ATOMIC_AGGREGATE optional", 6, 0xc0, "", WITHDRAW, WITHDRAW, "7606 3c"),
    ("X09 AGGREGATOR not transitive", 7, 0x80, "0000fbf00a000002", WITHDRAW, WITHDRAW, "7606 3c"),
    ("X10 OTC of 1024 bytes", 35, 0xc0, "LONG", WITHDRAW, WITHDRAW, "9234 6"),
];

const DISCARDED: &[Case] = &[
    ("D01 ATOMIC_AGGREGATE of 1 byte", 6, 0x40, "00", DISCARD, DISCARD, "7606 7.6"),
    ("D02 AGGREGATOR of 5 bytes", 7, 0xc0, "0000fbf00a", DISCARD, DISCARD, "7606 7.7"),
    ("D03 AGGREGATOR of 7 bytes", 7, 0xc0, "0000fbf00a0000", DISCARD, DISCARD, "7606 7.7"),
    ("D04 AGGREGATOR of 9 bytes", 7, 0xc0, "0000fbf00a00000200", DISCARD, DISCARD, "7606 7.7"),
    ("D05 AGGREGATOR AS 0", 7, 0xc0, "000000000a000002", DISCARD, DISCARD, "7607 2"),
    ("D06 AS4_PATH segment of type 0, also W39", 17, 0xc0, "00 01 00010001", DISCARD, DISCARD, "6793 4.1"),
    ("D07 AS4_AGGREGATOR of 7 bytes", 18, 0xc0, "0000fbf00a0000", DISCARD, DISCARD, "6793 4.1"),
    ("D08 AS4_AGGREGATOR of 9 bytes", 18, 0xc0, "0000fbf00a00000200", DISCARD, DISCARD, "6793 4.1"),
    ("D09 ORIGINATOR_ID of 3 bytes", 9, 0x80, "0a0000", DISCARD, WITHDRAW, "7606 7.9"),
    ("D10 ORIGINATOR_ID of 5 bytes", 9, 0x80, "0a00000200", DISCARD, WITHDRAW, "7606 7.9"),
    ("D11 CLUSTER_LIST of 0 bytes", 10, 0x80, "", DISCARD, WITHDRAW, "7606 7.10"),
    ("D12 CLUSTER_LIST of 5 bytes", 10, 0x80, "0a00000200", DISCARD, WITHDRAW, "7606 7.10"),
    ("D13 AIGP transitive", 26, 0xc0, "01 000b 000000000000000a", DISCARD, DISCARD, "7311 4"),
    ("D14 AIGP of unknown type", 26, 0x80, "09 000b 000000000000000a", DISCARD, DISCARD, "7311 4"),
    ("D15 AIGP of wrong length", 26, 0x80, "01 0005 000000000000000a", DISCARD, DISCARD, "7311 4"),
    ("D16 AIGP of 0 bytes", 26, 0x80, "", DISCARD, DISCARD, "7311 4"),
    ("D17 PREFIX_SID not transitive", 40, 0x80, "01 0007 00000000000001", DISCARD, DISCARD, "7606 3c"),
    ("D18 PREFIX_SID overrun", 40, 0xc0, "01 00ff 000000", DISCARD, DISCARD, "8669 6"),
    ("D19 PREFIX_SID cut off", 40, 0xc0, "01 00", DISCARD, DISCARD, "8669 6"),
    ("D20 PREFIX_SID label of 0 bytes", 40, 0xc0, "01 0000", DISCARD, DISCARD, "8669 6"),
    ("D21 BGP-LS transitive", 29, 0xc0, "0400 0001 00", DISCARD, DISCARD, "9552 6.3.2"),
    ("D22 BGP-LS overrun", 29, 0x80, "0400 00ff 00", DISCARD, DISCARD, "9552 6.3.2"),
    ("D23 BGP-LS cut off", 29, 0x80, "0400", DISCARD, DISCARD, "9552 6.3.2"),
    ("D24 NHC of no family", 39, 0xc0, "00ff 01 00 01 000100", DISCARD, DISCARD, "a draft"),
    ("D25 NHC overrun", 39, 0xc0, "0001 01 00 01 ff00", DISCARD, DISCARD, "a draft"),
    ("D26 unknown, transitive", 0xfe, 0xc0, "00c0ffee", KEEP, KEEP, "4271 5"),
    ("D27 unknown, not transitive", 0xfd, 0x80, "00c0ffee", DISCARD, DISCARD, "7606 5.2"),
    // Beyond that list.
    ("X11 LOCAL_PREF from outside", 5, 0x40, "00000064", DISCARD, KEEP, "7606 7.5"),
    ("X12 PREFIX_SID of zeros", 40, 0xc0, "00000000000000000000", DISCARD, DISCARD, "8669 6"),
    ("X13 PREFIX_SID in order", 40, 0xc0, "01 0007 00000000000001", KEEP, KEEP, "8669 3"),
    ("X14 tunnel in order", 23, 0xc0, "0007 0003 01 01 ff", KEEP, KEEP, "9012 2"),
];

/// A message with one good prefix and good attributes, except that the case's stands in the place of its type.
fn with(case: &Case) -> Vec<u8> {
    let (_, kind, flags, digits, ..) = *case;
    let value = if digits == "LONG" { vec![0x5a; 1024] } else { hex(digits) };
    let good = [(1, "00"), (2, "02 02 0000fde9 0000fdea"), (3, "c0000201")];
    let mut attributes: Vec<u8> = good
        .iter()
        .filter(|(other, _)| *other != kind)
        .flat_map(|(other, value)| attribute(0x40, *other, &hex(value)))
        .collect();
    attributes.extend(attribute(flags, kind, &value));
    update(&[], &attributes, &hex("18 c63364"))
}

fn read(message: &[u8], context: &Context) -> Update {
    match decode(message, context) {
        Ok(Message::Update(update)) => update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_are_graded_as_their_documents_say() {
    let mut wrong = Vec::new();
    for case in WITHDRAWN.iter().chain(DISCARDED) {
        for (context, expected) in [(external(), case.4), (internal(), case.5)] {
            let found = read(&with(case), &context);
            let (gone, here) = (found.withdrawn.len(), found.announced.len());
            let withdrawn = expected == WITHDRAW;
            if found.grade() != expected || (gone, here) != (usize::from(withdrawn), usize::from(!withdrawn)) {
                wrong.push(format!("{} by RFC {}: {:?}", case.0, case.6, found.faults));
            }
            // What was discarded does not go on.
            let passed = found.announced.iter().any(|one| one.attributes.unknown.iter().any(|one| one.kind == case.1));
            if passed && expected.is_some() {
                wrong.push(format!("{} is passed on", case.0));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Number, attribute's value, subcode of the UPDATE error.
const RESET: &[(&str, u8, &str, u8)] = &[
    ("R01 next hop of 9 bytes", 14, "0002 01 09 20010db80000000000 00 40 20010db800000001", 9),
    ("R02 next hop overrun", 14, "0002 01 40 20010db8000000000000000000000001 00", 9),
    ("R03 next hop cut off", 14, "0002 01 10 20010db800000000", 9),
    ("R04 withdrawn prefix cut off", 15, "0002 01 40 20010db8", 9),
    ("X20 prefix of 129 bits", 14, "0002 01 10 20010db8000000000000000000000001 00 81 20010db800000001", 9),
    ("X21 MP_REACH of 4 bytes", 14, "0002 01 00", 9),
    ("X22 MP_UNREACH of 2 bytes", 15, "0002", 9),
    (
        "X23 IPv6 next hop of IPv4 routes, not agreed on",
        14,
        "0001 01 10 20010db8000000000000000000000001 00 18 c63364",
        9,
    ),
];

#[test]
fn where_prefixes_cannot_be_found_the_session_ends() {
    for (name, kind, value, subcode) in RESET {
        let mut attributes = attribute(0x80, *kind, &hex(value));
        attributes.extend(attribute(0x40, 1, &[0]));
        attributes.extend(attribute(0x40, 2, &[]));
        for context in [external(), internal()] {
            let told = decode(&update(&[], &attributes, &[]), &context).expect_err(name).notification;
            assert_eq!((told.code, told.subcode), (3, *subcode), "{name}");
        }
    }
}

#[test]
fn rules_about_the_message_as_a_whole() {
    let good =
        || [attribute(0x40, 1, &[0]), attribute(0x40, 2, &hex("02 01 0000fde9")), attribute(0x40, 3, &hex("c0000201"))];
    let prefix = hex("18 c63364");
    let reset = |attributes: Vec<u8>, nlri: &[u8]| {
        let told = decode(&update(&[], &attributes, nlri), &external()).expect_err("a reset").notification;
        (told.code, told.subcode)
    };
    // Section 4: an attribute longer than all of them; less than an attribute's head is left.
    for end in ["80 04 ff 00", "80", "90 04 01"] {
        let found = read(&update(&[], &[good().concat(), hex(end)].concat(), &prefix), &external());
        assert_eq!((found.grade(), found.withdrawn.len()), (WITHDRAW, 1), "{end}");
    }
    // Section 5.2: an error worse than a discard where nothing is announced.
    assert_eq!(reset(attribute(0x40, 1, &[9]), &[]), (3, 6));
    let found = read(&update(&prefix, &attribute(0x40, 6, &[1]), &[]), &external());
    assert_eq!((found.grade(), found.withdrawn.len()), (DISCARD, 1), "a discard is mild enough");
    // Section 3 d: what is missing.
    for left_out in 0..3 {
        let mut some = good().to_vec();
        some.remove(left_out);
        let found = read(&update(&[], &some.concat(), &prefix), &external());
        assert_eq!((found.grade(), found.withdrawn.len()), (WITHDRAW, 1), "without {left_out}");
    }
    // Section 3 g: twice. The first one counts, unless it says where prefixes are.
    let twice = [good().concat(), attribute(0x40, 1, &[2])].concat();
    let found = read(&update(&[], &twice, &prefix), &external());
    assert_eq!((found.grade(), found.announced[0].attributes.origin as u8), (DISCARD, 0));
    let unreach = attribute(0x80, 15, &hex("0002 01"));
    assert_eq!(reset([unreach.clone(), unreach].concat(), &[]), (3, 1));
    // Section 3 h: the strongest decides.
    let both = [good().concat(), attribute(0x40, 6, &[1]), attribute(0x80, 4, &[])].concat();
    assert_eq!(read(&update(&[], &both, &prefix), &external()).grade(), WITHDRAW);
    // Section 3 b, 5.3: fields that overrun, prefixes that cannot be.
    assert_eq!(reset(good().concat(), &hex("21 c633640001")), (3, 10));
    assert_eq!(reset(good().concat(), &hex("18 c633")), (3, 10));
    for body in ["00ff 0000", "0000 00ff"] {
        let told = decode(&crate::message(2, &hex(body)), &external()).expect_err("a reset").notification;
        assert_eq!((told.code, told.subcode), (3, 1));
    }
}
