//! What a full table costs. Times are printed, memory is judged.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use ripstop_bgp::rib::{PeerConfig, PeerId, Rib};
use ripstop_bgp::session::Negotiated;
use ripstop_bgp::wire::*;
use ripstop_types::Prefix;

use crate::speaker::{OWN, agreed, config, connect, rib, route};

/// Nanoseconds that this thread has run.
fn cpu() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Megabytes of memory that this process holds.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 4_096 / 1_000_000
}

/// UPDATEs as one external peer sends them: a million routes, `share` of them with the same attributes.
fn feed(share: u32) -> Vec<Vec<u8>> {
    let context = agreed(1, 65_001).context;
    (0..1_000_000 / share)
        .map(|set| {
            let mut attributes = route(1, &[65_001, 65_100, 1 + set % 60_000]);
            attributes.med = Some(set);
            let host = |n: u32| Prefix::host(IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + set * share + n)));
            let nlri: Vec<Nlri> = (0..share).map(|n| Nlri::of(host(n))).collect();
            let mut bytes = Vec::new();
            assert!(announce(&mut bytes, &context, &attributes, &nlri));
            bytes
        })
        .collect()
}

/// Reads the feed into the table and flushes to another peer, as a speaker would; bytes that went out.
fn pass(rib: &mut Rib, feed: &[Vec<u8>]) -> usize {
    let context = agreed(1, 65_001).context;
    let (mut sent, mut since) = (0, 0);
    let mut flush = |rib: &mut Rib| {
        loop {
            rib.take_changed(usize::MAX);
            let outputs = rib.flush(10_000);
            if outputs.is_empty() {
                return;
            }
            sent += outputs.iter().map(|output| output.bytes.len()).sum::<usize>();
        }
    };
    for bytes in feed {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = frame(rest, false).unwrap().unwrap();
            let Message::Update(update) = decode(&rest[..length], &context).unwrap() else { panic!("no UPDATE") };
            rib.update(PeerId(1), &update).unwrap();
            rest = &rest[length..];
        }
        since += bytes.len();
        if since > 200_000 {
            since = 0;
            flush(rib);
        }
    }
    flush(rib);
    sent
}

fn measure(share: u32) {
    // Alone: memory of other tests in this process would be counted, also what they gave back.
    if std::env::var_os("RIPSTOP_SCALE").is_none() {
        println!("SKIPPED: set RIPSTOP_SCALE=1 and run this test alone (it measures the memory of its process)");
        return;
    }
    let feed = feed(share);
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, config(1));
    connect(&mut rib, 2, 65_002, config(2));
    let (before, start) = (resident(), cpu());
    let sent = pass(&mut rib, &feed);
    let (taken, memory) = (cpu() - start, resident() - before);
    assert_eq!(rib.sizes(), (1_000_000, (1_000_000 / share) as usize));
    let start = cpu();
    rib.peer_down(PeerId(1), Families::default());
    while rib.work(10_000) {
        rib.take_changed(usize::MAX);
        while !rib.flush(10_000).is_empty() {}
    }
    rib.take_changed(usize::MAX);
    while !rib.flush(10_000).is_empty() {}
    let gone = cpu() - start;
    let ms = |ns: u64| ns / 1_000_000;
    println!("{share} routes a set: {} ms CPU, {memory} MB, {sent} bytes out; gone in {} ms CPU", ms(taken), ms(gone));
    assert!(memory <= 126, "{memory} MB");
}

#[test]
fn a_million_routes_with_a_thousand_a_set_take_little_memory() {
    measure(1_000);
}

#[test]
fn a_million_routes_with_ten_a_set_take_little_memory() {
    measure(10);
}

#[test]
fn a_reflector_tells_a_thousand_clients_everything_by_encoding_it_once() {
    let mut rib = rib();
    let start = cpu();
    let address = |peer: u32| Ipv4Addr::from_bits(0x0a80_0000 + peer);
    for peer in 1..=1_000 {
        let client = PeerConfig { reflector_client: true, address: address(peer).into(), ..config(1) };
        rib.configure(PeerId(peer), client);
        rib.peer_up(PeerId(peer), &Negotiated { peer_id: address(peer), ..agreed(1, OWN) }, Families::default());
    }
    while !rib.flush(1_000).is_empty() {}
    for peer in 1..=1_000u32 {
        let block = |n: u32| Prefix::containing(Ipv4Addr::from_bits(0x0b00_0000 + (peer * 16 + n) * 64).into(), 26);
        let nlri = (0..10).filter_map(|n| block(n).map(Nlri::of)).collect();
        let attributes = Attributes { local_pref: Some(100), ..Attributes::new(NextHop::V4(address(peer))) };
        let update = Update { announced: vec![Announcement { attributes, nlri }], ..Update::default() };
        rib.update(PeerId(peer), &update).unwrap();
    }
    let (mut delivered, mut encoded) = (0, 0);
    loop {
        let outputs = rib.flush(1_000);
        if outputs.is_empty() {
            break;
        }
        for output in outputs {
            assert_eq!(output.only, None, "it is for all but one");
            let members = rib.members(output.group).count() - usize::from(output.except.is_some());
            let messages = count(&output.bytes);
            (delivered, encoded) = (delivered + members * messages.1, encoded + messages.0);
        }
    }
    println!("1000 clients: {} ms CPU, {encoded} messages encoded", (cpu() - start) / 1_000_000);
    assert_eq!((delivered, encoded), (999 * 10_000, 1_000));
}

/// Messages, and prefixes in them.
fn count(mut bytes: &[u8]) -> (usize, usize) {
    let mut found = (0, 0);
    while !bytes.is_empty() {
        let length = frame(bytes, false).unwrap().unwrap();
        let Message::Update(update) = decode(&bytes[..length], &agreed(1, OWN).context).unwrap() else {
            panic!("no UPDATE")
        };
        found.0 += 1;
        found.1 += update.announced.iter().map(|one| one.nlri.len()).sum::<usize>();
        bytes = &bytes[length..];
    }
    found
}
