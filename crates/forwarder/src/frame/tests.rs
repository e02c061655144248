//! Cutting and joining are each other's inverse, and neither trusts a byte.

use proptest::prelude::*;

use super::Ip;
use super::checksum::{add, pseudo, put, sum, word};
use super::join::{Item, Joiner, Offloads, unwrap};
use super::packet::{TCP, UDP};
use super::split::{Cut, split};
use super::vnet::{self, Vnet};

const ALL: Offloads = Offloads { udp: true };

/// A packet in words.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub v4: bool,
    pub tcp: bool,
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub ports: [u16; 2],
    pub seq: u32,
    pub flags: u8,
    pub options: usize,
}

impl Default for Spec {
    fn default() -> Self {
        let flags = 0x10;
        Self {
            v4: true,
            tcp: true,
            tos: 0,
            id: 7,
            dont_fragment: true,
            ports: [80, 4000],
            seq: 1_000,
            flags,
            options: 12,
        }
    }
}

impl Spec {
    /// The packet, every checksum right.
    pub(super) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = if self.v4 { vec![0; 20] } else { vec![0; 40] };
        let ip = bytes.len();
        let transport = if self.tcp { 20 + self.options / 4 * 4 } else { 8 };
        let length = transport + payload.len();
        let protocol = if self.tcp { TCP } else { UDP };
        if self.v4 {
            (bytes[0], bytes[1], bytes[8], bytes[9]) = (0x45, self.tos, 63, protocol);
            put(&mut bytes, 2, (20 + length) as u16);
            put(&mut bytes, 4, self.id);
            put(&mut bytes, 6, if self.dont_fragment { 0x4000 } else { 0 });
            bytes[12..20].copy_from_slice(&[10, 244, 1, 2, 10, 244, 2, 2]);
            let checksum = !sum(&bytes);
            put(&mut bytes, 10, checksum);
        } else {
            (bytes[0], bytes[1], bytes[6], bytes[7]) = (0x60 | self.tos >> 4, self.tos << 4, protocol, 63);
            put(&mut bytes, 4, length as u16);
            (bytes[8], bytes[23], bytes[24], bytes[39]) = (0xfd, 1, 0xfd, 2);
        }
        bytes.resize(ip + transport, 0);
        put(&mut bytes, ip, self.ports[0]);
        put(&mut bytes, ip + 2, self.ports[1]);
        if self.tcp {
            bytes[ip + 4..ip + 8].copy_from_slice(&self.seq.to_be_bytes());
            (bytes[ip + 12], bytes[ip + 13]) = (((transport / 4) << 4) as u8, self.flags);
            bytes[ip + 20..].fill(1);
        } else {
            put(&mut bytes, ip + 4, length as u16);
        }
        bytes.extend_from_slice(payload);
        let addresses = if self.v4 { 12..20 } else { 8..40 };
        let checksum = !add(pseudo(&bytes[addresses], protocol, length), sum(&bytes[ip..]));
        put(&mut bytes, ip + if self.tcp { 16 } else { 6 }, if checksum == 0 { 0xffff } else { checksum });
        bytes
    }
}

fn is_right(frame: &[u8]) -> bool {
    let ip = Ip::read(frame).unwrap();
    let pseudo = pseudo(&frame[ip.addresses()], ip.protocol, ip.total - ip.header);
    (!ip.v4 || sum(&frame[..20]) == 0xffff) && add(pseudo, sum(&frame[ip.header..ip.total])) == 0xffff
}

/// A TUN packet as the kernel gives it: long, its checksum partial.
fn long(spec: &Spec, payload: &[u8], size: u16) -> (Vnet, Vec<u8>) {
    let mut packet = spec.packet(payload);
    let ip = Ip::read(&packet).unwrap();
    let (offset, kind) = match (spec.tcp, spec.v4) {
        (true, true) => (16, vnet::GSO_TCPV4),
        (true, false) => (16, vnet::GSO_TCPV6),
        (false, _) => (6, vnet::GSO_UDP_L4),
    };
    let partial = pseudo(&packet[ip.addresses()], ip.protocol, ip.total - ip.header);
    put(&mut packet, ip.header + offset, partial);
    let header = Vnet {
        flags: vnet::NEEDS_CSUM,
        gso_type: kind,
        hdr_len: 0,
        gso_size: size,
        csum_start: ip.header as u16,
        csum_offset: offset as u16,
    };
    (header, packet)
}

/// The frames of a TUN packet.
fn cut(header: &Vnet, mut packet: Vec<u8>) -> Vec<Vec<u8>> {
    let mut heads = Vec::new();
    match split(header, &mut packet, &mut heads).unwrap() {
        Cut::Whole => vec![packet],
        Cut::Segments { header, size, count } => (0..count)
            .map(|number| {
                let from = header + number * size;
                let payload = &packet[from..(from + size).min(packet.len())];
                [&heads[number * header..(number + 1) * header], payload].concat()
            })
            .collect(),
    }
}

/// The TUN packets of some frames.
fn joined(frames: &[Vec<u8>]) -> Vec<(Vnet, Vec<u8>)> {
    let mut arena = frames.concat();
    let (mut joiner, mut at) = (Joiner::default(), 0);
    for frame in frames {
        let ip = Ip::read(frame).unwrap();
        joiner.push(&arena, at..at + frame.len(), &ip, ALL);
        at += frame.len();
    }
    let gather = |item: &Item, arena: &[u8]| {
        let mut bytes = arena[item.first.clone()].to_vec();
        item.rest.iter().for_each(|range| bytes.extend_from_slice(&arena[range.clone()]));
        (item.vnet, bytes)
    };
    joiner.finish(&mut arena);
    joiner.items().iter().map(|item| gather(item, &arena)).collect()
}

fn lengths(packets: &[(Vnet, Vec<u8>)]) -> Vec<usize> {
    packets.iter().map(|(_, packet)| packet.len()).collect()
}

/// Frames of one TCP flow: payload sizes and flags.
fn flow(base: &Spec, parts: &[(usize, u8)]) -> Vec<Vec<u8>> {
    let mut spec = base.clone();
    parts
        .iter()
        .map(|&(size, flags)| {
            spec.flags = flags;
            let frame = spec.packet(&vec![0x5a; size]);
            spec.seq = spec.seq.wrapping_add(size as u32);
            spec.id = spec.id.wrapping_add(1);
            frame
        })
        .collect()
}

#[test]
fn segments_carry_what_belongs_to_each() {
    let spec = Spec { flags: 0x10 | 0x80 | 0x08 | 0x01, seq: u32::MAX - 50, id: u16::MAX, ..Spec::default() };
    let (header, packet) = long(&spec, &[3; 250], 100);
    let frames = cut(&header, packet);
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [152, 152, 102]);
    assert!(frames.iter().all(|frame| is_right(frame)));
    assert_eq!(frames.iter().map(|frame| frame[33]).collect::<Vec<_>>(), [0x90, 0x10, 0x19]);
    assert_eq!(frames.iter().map(|frame| word(frame, 4)).collect::<Vec<_>>(), [65535, 0, 1]);
    assert_eq!(frames[1][24..28], 49u32.to_be_bytes());
}

#[test]
fn a_partial_checksum_is_completed() {
    for (v4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut header, packet) = long(&Spec { v4, tcp, ..Spec::default() }, b"odd", 100);
        assert!(!is_right(&packet));
        assert!(is_right(&cut(&header, packet.clone())[0]), "one segment");
        (header.gso_type, header.gso_size) = (vnet::GSO_NONE, 0);
        assert!(is_right(&cut(&header, packet)[0]), "no segmentation");
    }
}

#[test]
fn what_must_not_be_joined_is_not() {
    let ack = 0x10;
    let base = Spec::default();
    let two = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frames = flow(&base, &[(100, ack), (100, ack)]);
        change(&mut frames[1]);
        joined(&frames).len()
    };
    assert_eq!(two(&|_| {}), 1, "equal ones are joined");
    assert_eq!(two(&|frame| *frame.last_mut().unwrap() ^= 1), 2, "a wrong checksum");
    let remade = |change: &dyn Fn(&mut Spec)| {
        let mut spec = Spec { seq: base.seq + 100, id: base.id + 1, ..base.clone() };
        change(&mut spec);
        joined(&[base.packet(&[0x5a; 100]), spec.packet(&[0x5a; 100])]).len()
    };
    assert_eq!(remade(&|_| {}), 1);
    assert_eq!(remade(&|spec| spec.seq += 1), 2, "a gap");
    assert_eq!(remade(&|spec| spec.seq -= 100), 2, "sent again");
    assert_eq!(remade(&|spec| spec.tos = 2), 2, "another congestion mark");
    assert_eq!(remade(&|spec| spec.options = 8), 2, "other options");
    assert_eq!(remade(&|spec| spec.ports[0] = 81), 2, "another flow");
    assert_eq!(remade(&|spec| spec.dont_fragment = false), 2, "another fragmentation");
    assert_eq!(remade(&|spec| spec.id = 99), 1, "an id that means nothing");
    for flags in [0x11, 0x12, 0x14, 0x30, 0x90, 0x50, 0x00] {
        assert_eq!(remade(&|spec| spec.flags = flags), 2, "flags {flags:#x}");
    }
    assert_eq!(joined(&[base.packet(&[]), base.packet(&[])]).len(), 2, "acknowledgements");
    let loose = Spec { dont_fragment: false, ..base.clone() };
    let next = |id| Spec { seq: base.seq + 9, id, ..loose.clone() }.packet(&[1; 9]);
    assert_eq!(joined(&[loose.packet(&[1; 9]), next(base.id + 1)]).len(), 1);
    assert_eq!(joined(&[loose.packet(&[1; 9]), next(base.id + 2)]).len(), 2, "ids that do not count");
}

#[test]
fn a_push_or_a_short_one_is_the_last_and_order_stays() {
    let spec = Spec { options: 0, ..Spec::default() };
    let packets = joined(&flow(&spec, &[(100, 0x10), (100, 0x18), (100, 0x10), (60, 0x10), (100, 0x10), (100, 0x11)]));
    assert_eq!(lengths(&packets), [240, 200, 140, 140]);
    assert_eq!(packets[0].1[33], 0x18, "the push is kept");
    let mut longer = flow(&spec, &[(50, 0x10), (60, 0x10)]);
    assert_eq!(lengths(&joined(&longer)), [90, 100]);
    longer.insert(1, Spec { ports: [1, 2], ..spec }.packet(&[0; 5]));
    assert_eq!(lengths(&joined(&longer)), [90, 45, 100]);
}

#[test]
fn one_wrong_segment_stands_alone_between_the_right_ones() {
    let mut frames = flow(&Spec { options: 0, ..Spec::default() }, &[(100, 0x10); 5]);
    frames[2][50] ^= 0xff;
    let packets = joined(&frames);
    assert_eq!(lengths(&packets), [240, 140, 240]);
    assert_eq!(packets[1], (Vnet::default(), frames[2].clone()));
    frames[0][50] ^= 0xff;
    assert_eq!(lengths(&joined(&frames)), [140, 140, 140, 240], "a wrong first");
}

#[test]
fn datagrams_of_one_size_are_joined_up_to_the_kernels_limit() {
    let spec = Spec { tcp: false, ..Spec::default() };
    assert_eq!(lengths(&joined(&vec![spec.packet(&[1; 64]); 70])), [28 + 64 * 64, 28 + 6 * 64]);
    let mut bare = spec.packet(&[1; 64]);
    put(&mut bare, 26, 0);
    assert_eq!(joined(&[bare.clone(), bare]).len(), 2, "without a checksum");
}

#[test]
fn a_packet_never_grows_past_its_length_field() {
    for v4 in [true, false] {
        let packets = joined(&flow(&Spec { v4, ..Spec::default() }, &[(1_400, 0x10); 60]));
        assert_eq!(packets.len(), 2);
        assert!(packets.iter().all(|(_, packet)| Ip::read(packet).is_ok_and(|ip| ip.total == packet.len())));
    }
}

#[test]
fn a_mark_of_the_network_reaches_the_packet() {
    let mut marked = Spec { tos: 2, ..Spec::default() }.packet(b"x");
    assert_eq!(unwrap(&mut marked, 3).unwrap().unwrap().tos, 3);
    assert!(is_right(&marked));
    let mut plain = Spec::default().packet(b"x");
    assert_eq!(unwrap(&mut plain, 3), Ok(None));
}

fn specs() -> impl Strategy<Value = Spec> {
    (any::<[bool; 3]>(), any::<u8>(), any::<u16>(), any::<u32>(), 0usize..40, any::<bool>()).prop_map(
        |([v4, tcp, dont_fragment], tos, id, seq, options, push)| Spec {
            v4,
            tcp,
            tos,
            id,
            dont_fragment,
            ports: [80, 4000],
            seq,
            flags: if push { 0x18 } else { 0x10 },
            options,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Cut, every frame is right; joined again, cut again, the frames are the same.
    #[test]
    fn cutting_and_joining_are_inverse(spec in specs(), payload in proptest::collection::vec(any::<u8>(), 1..4_000), size in 60u16..1_500) {
        let (header, packet) = long(&spec, &payload, size);
        let frames = cut(&header, packet.clone());
        prop_assert!(frames.iter().all(|frame| is_right(frame)));
        let again = joined(&frames);
        if spec.tcp || frames.len() <= 64 {
            prop_assert_eq!(again.len(), 1);
        }
        if frames.len() > 1 && again.len() == 1 {
            // The id of the long packet is that of the first frame, and its checksum field partial, as the kernel had it.
            prop_assert_eq!(&again[0].1, &packet);
            let told = again[0].0;
            prop_assert_eq!((told.gso_type, told.gso_size, told.csum_start), (header.gso_type, size, header.csum_start));
        }
        let frames_again: Vec<Vec<u8>> = again.into_iter().flat_map(|(header, packet)| cut(&header, packet)).collect();
        prop_assert_eq!(frames_again, frames);
    }

    /// Flows that cross each other, some frames broken: nothing is lost, changed, or put in another order inside a flow.
    #[test]
    fn mixed_flows_come_out_as_they_went_in(picks in proptest::collection::vec((0usize..12, 0u8..20, 1usize..4), 1..60)) {
        let mut flows: Vec<Spec> = (0..12u16).map(|number| Spec {
            v4: number % 3 != 0, tcp: number % 4 != 3, ports: [number, 9], ..Spec::default()
        }).collect();
        let frames: Vec<Vec<u8>> = picks.iter().map(|&(which, chance, size)| {
            let spec = &mut flows[which];
            spec.flags = match chance { 0 => 0x18, 1 => 0x11, 2 => 0x12, _ => 0x10 };
            let mut frame = spec.packet(&vec![chance; size * 30]);
            spec.seq = spec.seq.wrapping_add((size * 30) as u32);
            spec.id = spec.id.wrapping_add(1);
            if chance == 3 { *frame.last_mut().unwrap() ^= 1; }
            frame
        }).collect();
        let out: Vec<Vec<u8>> = joined(&frames).into_iter().flat_map(|(header, packet)| cut(&header, packet)).collect();
        let port = |frame: &[u8]| if frame[0] >> 4 == 4 { word(frame, 20) } else { word(frame, 40) };
        for flow in 0..12u16 {
            let of = |frames: &[Vec<u8>]| frames.iter().filter(|frame| port(frame) == flow).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(&out), of(&frames));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(header: [u8; 10], packet in proptest::collection::vec(any::<u8>(), 0..200), first in 0u8..4, tos: u8) {
        let mut packet = packet;
        if let Some(byte) = packet.first_mut() {
            // Mostly what looks like a packet.
            *byte = [0x45, 0x60, 0x4f, *byte][usize::from(first)];
        }
        let header = Vnet::read(&header).unwrap();
        for kind in [header.gso_type, 0, 1, 4, 5] {
            let header = Vnet { gso_type: kind, csum_start: header.csum_start % 256, csum_offset: header.csum_offset % 64, ..header };
            let _ = split(&header, &mut packet.clone(), &mut Vec::new());
        }
        if let Ok(Some(ip)) = unwrap(&mut packet, tos) {
            let _ = super::icmp::too_big(&ip, &packet, 1_000);
            let (mut joiner, length) = (Joiner::default(), packet.len());
            let mut arena = [packet.clone(), packet].concat();
            joiner.push(&arena, 0..length, &ip, ALL);
            joiner.push(&arena, length..2 * length, &ip, ALL);
            joiner.finish(&mut arena);
        }
    }

    /// A right packet with a few bytes changed: the lengths are the interesting ones.
    #[test]
    fn changed_bytes_never_panic(spec in specs(), changes in proptest::collection::vec((0usize..80, any::<u8>()), 1..4), size: u16) {
        let (mut header, mut packet) = long(&spec, &[9; 300], size);
        for (at, byte) in changes {
            let at = at % packet.len();
            packet[at] = byte;
        }
        let _ = split(&header, &mut packet.clone(), &mut Vec::new());
        header.flags = 0;
        let _ = split(&header, &mut packet.clone(), &mut Vec::new());
        if let Ok(ip) = Ip::read(&packet) {
            let mut joiner = Joiner::default();
            joiner.push(&packet, 0..packet.len(), &ip, ALL);
            joiner.push(&packet, 0..packet.len(), &ip, ALL);
            joiner.finish(&mut packet);
        }
    }
}
