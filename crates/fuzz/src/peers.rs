//! What other processes, the kernel and other nodes say: both ends of the store's socket, netlink, probes, BFD, BGP, the choice
//! of owners of addresses, ARP and NDP.

use std::time::Duration;

use ripstop_bfd::packet::{LENGTH, Packet};
use ripstop_bfd::{Arrival, Engine as Sessions, SessionConfig, State, Timers};
use ripstop_bgp::wire::{Context, Families, Message as BgpMessage, announce, decode, frame};
use ripstop_election::{Engine as Election, Message, Table as Candidates, Timing, neighbour};
use ripstop_kernel::untrusted::kernel_messages;
use ripstop_nft::decode::{Answers, Observation, messages};
use ripstop_nft::encode::Batch;
use ripstop_nft::model::{Chain, Hook, Table, TableFamily};
use ripstop_probe::{Engine, wire};
use ripstop_store::untrusted::{to_client, to_server};
use ripstop_types::{Mac, Millis, NodeName};

use crate::agent::wait;

/// The kernel's answers and notifications about links, addresses, routes and what hangs on them.
pub fn kernel(data: &[u8]) {
    assert!(kernel_messages(data) <= data.len() / 16);
}

/// What comes to the port on which probes are answered.
pub fn probe(data: &[u8]) {
    if let Some(answer) = wire::answer_to(data) {
        assert!(answer.len() <= data.len(), "an answer is never longer than its probe");
        let read = wire::read_answer(&answer);
        assert!(read.is_some_and(|read| usize::from(read.length) == data.len()), "an answer tells the length");
    }
    let engine = &mut Engine::new(1, 100, Millis(0));
    if let Some(answer) = wire::read_answer(data) {
        assert!(engine.answered(Millis(1), [192, 0, 2, 1].into(), &answer).is_empty(), "nobody asked");
    }
}

/// What comes to the port of BFD: datagrams, each behind its length.
pub fn bfd(data: &[u8]) {
    let (local, peer) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let mut engine = Sessions::new(1);
    let timers = Timers::every(Duration::from_millis(10), 3);
    let Ok(id) = engine.add(Duration::ZERO, SessionConfig::single_hop(1, local, peer, timers)) else {
        panic!("a good session is refused");
    };
    let arrival = Arrival { multihop: false, interface: 1, source: peer, destination: local, ttl: 255 };
    let (mut now, mut rest) = (Duration::ZERO, data);
    while let Some((length, all)) = rest.split_first() {
        let (payload, others) = all.split_at(usize::from(*length).min(all.len()));
        rest = others;
        let mut payload = payload.to_vec();
        if let Ok(packet) = Packet::read(&payload)
            && !packet.authentication
        {
            let again = Packet::read(&packet.bytes());
            assert_eq!(again, Ok(packet), "what was read is written as something else");
        }
        // Who knows the discriminator comes farther.
        if payload.get(8) == Some(&0xff)
            && let Some(yours) = payload.get_mut(8..12)
        {
            yours.copy_from_slice(&id.0.to_be_bytes());
        }
        let heeded = engine.discards().total();
        let actions = engine.received(now, &arrival, &payload);
        assert!(engine.discards().total() == heeded || actions.is_empty(), "what is discarded does something");
        assert!(payload.len() >= LENGTH || actions.is_empty(), "half a packet does something");
        now += Duration::from_millis(7);
        engine.tick(now);
        let Some(view) = engine.view(id) else { panic!("the session is gone") };
        assert!(view.state != State::AdminDown && engine.due().is_none_or(|due| due > now));
    }
}

/// What candidates tell each other, and what the segment says.
pub fn election(data: &[u8]) {
    if let Some(heard) = neighbour::read(data) {
        assert!(heard.holds.is_none_or(|(_, mac)| mac.is_unicast()), "a group has an address");
        let answers = heard.asks.map(|question| neighbour::answer(Mac::local([0; 5]), &question));
        assert!(answers.is_none_or(|answer| neighbour::read(&answer).is_some()), "an answer that nobody reads");
    }
    let Some(message) = Message::read(data) else { return };
    let again = message.bytes().and_then(|bytes| Message::read(&bytes));
    assert_eq!(again.as_ref(), Some(&message), "what was read is written as something else");
    let names = ["n0", "n1", "n2"].map(str::parse::<NodeName>);
    let candidates = names.iter().flatten().map(|name| (name.clone(), Mac::local([1; 5]))).collect();
    let table = Candidates { candidates, addresses: [([192, 0, 2, 1].into(), None)].into() };
    let [Ok(me), ..] = names else { panic!("good names are refused") };
    let timing = Timing::of(Duration::from_millis(90));
    let mut engine = Election::new(Duration::ZERO, me, 1, timing);
    engine.set(Duration::ZERO, table);
    for now in (0..400).step_by(10).map(Duration::from_millis) {
        engine.received(now, &message);
        engine.tick(now);
        assert!(engine.due() > now && engine.is_silent(), "one message makes an owner");
    }
}

/// What a BGP peer says. The first byte is what was agreed on with it.
pub fn bgp(data: &[u8]) {
    let Some((agreed, mut rest)) = data.split_first() else { return };
    let agreed = |bit: u8| agreed & 1 << bit != 0;
    let context = Context {
        internal: agreed(0),
        four_byte_as: agreed(1),
        families: Families { v4: true, v6: agreed(2) },
        add_path_in: Families { v4: agreed(3), v6: agreed(3) },
        add_path_out: Families { v4: agreed(3), v6: agreed(3) },
        extended_next_hop: agreed(4),
        extended_messages: agreed(5),
        as_sets: agreed(6),
    };
    while let Ok(Some(length)) = frame(rest, context.extended_messages) {
        let (message, behind) = rest.split_at(length);
        rest = behind;
        let Ok(BgpMessage::Update(update)) = decode(message, &context) else { continue };
        let prefixes = update.announced.iter().map(|one| one.nlri.len()).sum::<usize>() + update.withdrawn.len();
        assert!(prefixes <= length, "{prefixes} prefixes of {length} bytes");
        for one in &update.announced {
            let mut again = Vec::new();
            if !announce(&mut again, &context, &one.attributes, &one.nlri) {
                continue;
            }
            let first = frame(&again, context.extended_messages).ok().flatten().unwrap_or(0);
            let Ok(BgpMessage::Update(read)) = decode(&again[..first], &context) else {
                panic!("what is written cannot be read")
            };
            assert!(read.faults.is_empty() && read.withdrawn.is_empty(), "{:?}", read.faults);
        }
    }
}

/// The kernel's answers about nftables.
pub fn nft(data: &[u8]) {
    let Ok(all) = messages(data) else { return };
    let table = Table::new(TableFamily::Inet, "ripstop").chain("c", Chain::filter(Hook::Input, 0));
    let mut seen = Observation::new();
    for one in all {
        seen.take(one.message);
    }
    for found in seen.tables() {
        let _ = (seen.sets(found.family, &found.name), found.differences(&table));
    }
    let mut batch = Batch::new();
    if batch.add_table(&table).is_ok() {
        let batch = batch.finish(1);
        let mut answers = Answers::to(&batch);
        if answers.take(data).is_ok() {
            let _ = answers.result(&batch).map_err(|failure| failure.to_string());
        }
    }
}

/// What a client says to a store.
pub fn store_server(data: &[u8]) {
    match wait(to_server(data)) {
        Ok(answers) => assert!(answers.is_empty() || answers.ends_with(b"\n"), "an answer is cut short"),
        Err(fault) => panic!("no store could be made: {fault}"),
    }
}

/// What a store says to a client.
pub fn store_client(data: &[u8]) {
    let lines = data.iter().filter(|byte| **byte == b'\n').count();
    assert!(wait(to_client(data)) <= lines);
}
