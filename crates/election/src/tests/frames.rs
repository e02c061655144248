//! Frames: as the standards have them, and whatever may come.

use std::net::IpAddr;

use proptest::prelude::*;
use ripstop_types::Mac;

use crate::neighbour::{Heard, Question, announcements, answer, probe, read};

const A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(char::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

#[test]
fn arp_has_the_bytes_of_the_standard() {
    let padding = "00".repeat(18);
    let probe_v4 = format!(
        "ffffffffffff 02000000000a 0806  0001 0800 06 04 0001  02000000000a 00000000  000000000000 c0000207 {padding}"
    );
    assert_eq!(probe(A, ip("192.0.2.7")), bytes(&probe_v4));
    let [request, reply] = &announcements(A, ip("192.0.2.7"))[..] else { panic!("two forms") };
    let as_request = format!(
        "ffffffffffff 02000000000a 0806  0001 0800 06 04 0001  02000000000a c0000207  000000000000 c0000207 {padding}"
    );
    let as_reply = format!(
        "ffffffffffff 02000000000a 0806  0001 0800 06 04 0002  02000000000a c0000207  ffffffffffff c0000207 {padding}"
    );
    assert_eq!((request, reply), (&bytes(&as_request), &bytes(&as_reply)));
}

/// A solicitation with a checksum reckoned by hand: the sum of its words and of those of the pseudo header is 0xffff.
#[test]
fn neighbour_discovery_has_the_bytes_of_the_standard() {
    let frame = probe(A, ip("2001:db8::1:2"));
    let head = "3333ff010002 02000000000a 86dd  60000000 0018 3a ff";
    assert_eq!(frame[..22], bytes(head)[..]);
    let (source, group) = ("00".repeat(16), "ff0200000000000000000001ff010002");
    assert_eq!(frame[22..54], bytes(&format!("{source}{group}"))[..]);
    let sum: u32 = frame[22..78].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = sum + 24 + 58;
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    let [unasked] = &announcements(A, ip("2001:db8::1:2"))[..] else { panic!("one form") };
    assert_eq!(unasked[..14], bytes("333300000001 02000000000a 86dd")[..]);
    assert_eq!(unasked[54], 136);
    assert_eq!(unasked[58], 0x20, "overrides, and answers nobody");
    assert_eq!(unasked[78..86], bytes("0201 02000000000a")[..]);
}

#[test]
fn what_is_said_is_heard() {
    for (one, other) in [("192.0.2.7", "192.0.2.9"), ("2001:db8::7", "fe80::9")] {
        let (one, other) = (ip(one), ip(other));
        let asked = Question { address: one, mac: A, from: None };
        assert_eq!(read(&probe(A, one)), Some(Heard { holds: None, asks: Some(asked) }));
        for told in announcements(A, one) {
            assert_eq!(read(&told), Some(Heard { holds: Some((one, A)), asks: None }));
        }
        for from in [None, Some(other)] {
            let answer = answer(A, &Question { address: one, mac: B, from });
            assert_eq!(read(&answer), Some(Heard { holds: Some((one, A)), asks: None }));
        }
    }
    // An ordinary request tells where the sender is, too.
    let request =
        bytes("ffffffffffff 02000000000b 0806 0001 0800 06 04 0001 02000000000b c0000209 000000000000 c0000207");
    let asked = Question { address: ip("192.0.2.7"), mac: B, from: Some(ip("192.0.2.9")) };
    assert_eq!(read(&request), Some(Heard { holds: Some((ip("192.0.2.9"), B)), asks: Some(asked) }));
}

/// What is changed of a good frame, and by which it says nothing any more.
#[test]
fn what_is_not_as_it_must_be_says_nothing() {
    let good = announcements(A, ip("192.0.2.7")).remove(0);
    let cases: &[(&str, usize, u8)] = &[
        ("a multicast source", 6, 3),
        ("another protocol", 13, 7),
        ("another hardware", 15, 2),
        ("another network protocol", 16, 9),
        ("longer hardware addresses", 18, 8),
        ("longer addresses", 19, 16),
        ("operation 0", 21, 0),
        ("operation 3, reverse ARP", 21, 3),
        ("operation 257", 20, 1),
        ("a multicast sender", 22, 1),
    ];
    for (what, at, byte) in cases {
        let mut bad = good.clone();
        bad[*at] = *byte;
        assert_eq!(read(&bad), None, "{what}");
    }
    assert_eq!(read(&good[..41]), None, "cut short");
    // A reply without an address, and a request for no address by nobody.
    let mut reply = announcements(A, ip("192.0.2.7")).remove(1);
    reply[28..32].fill(0);
    assert_eq!(read(&reply), None);
    let mut nothing = probe(A, ip("192.0.2.7"));
    nothing[38..42].fill(0);
    assert_eq!(read(&nothing), None);
    let advertisement = announcements(A, ip("2001:db8::7")).remove(0);
    let cases: &[(&str, usize, u8)] = &[
        ("version 4", 14, 0x40),
        ("another protocol", 20, 17),
        ("hop limit 254", 21, 254),
        ("a multicast source", 22, 0xff),
        ("a wrong checksum", 56, 1),
        ("a code", 55, 1),
        ("more than there is", 19, 200),
        ("less than a message", 19, 20),
        ("solicited, to all", 58, 0x60),
        ("an option without a length", 79, 0),
        ("an option beyond the end", 79, 2),
    ];
    for (what, at, byte) in cases {
        let mut bad = advertisement.clone();
        bad[*at] = *byte;
        // All but the checksum's own case have a right one.
        if *at != 56 {
            correct(&mut bad);
        }
        assert_eq!(read(&bad), None, "{what}");
    }
    let mut same = advertisement.clone();
    correct(&mut same);
    assert!(read(&same).is_some(), "the checksum is put right");
}

/// Puts a right checksum into a frame of 86 bytes with an ICMPv6 message of 32.
fn correct(frame: &mut [u8]) {
    frame[56..58].fill(0);
    let sum: u32 = frame[22..86].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = sum + 32 + 58;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}

proptest! {
    #[test]
    fn no_frame_panics(start in prop::collection::vec(any::<u8>(), 0..120), kind in 0..3usize) {
        let mut frame = start;
        if kind > 0 && frame.len() >= 24 {
            let head = if kind == 1 { "0806 0001 0800 06 04 00" } else { "86dd 60000000 0020 3a ff" };
            let head = bytes(head);
            frame[12..12 + head.len()].copy_from_slice(&head);
        }
        if let Some(heard) = read(&frame) {
            prop_assert!(heard.holds.is_some() || heard.asks.is_some());
            prop_assert!(heard.holds.is_none_or(|(_, mac)| mac.is_unicast()));
        }
    }

    #[test]
    fn a_changed_frame_panics_nothing(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0..90usize) {
        for address in ["192.0.2.7", "2001:db8::7"] {
            for mut frame in announcements(A, ip(address)) {
                let at = at.index(frame.len());
                frame[at] = byte;
                frame.truncate(cut);
                let _ = read(&frame);
            }
        }
    }
}
