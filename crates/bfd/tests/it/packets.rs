//! Packets as bytes: what is written is read again, and nothing from outside panics or makes a session.

use std::time::Duration;

use proptest::prelude::*;
use ripstop_bfd::packet::{LENGTH, Packet};
use ripstop_bfd::{Arrival, Diagnostic, Engine, SessionConfig, State, Timers};

pub fn states() -> impl Strategy<Value = State> {
    prop::sample::select(vec![State::AdminDown, State::Down, State::Init, State::Up])
}

pub fn packets() -> impl Strategy<Value = Packet> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let words = (1..=u32::MAX, any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    (0..32u8, states(), flags, 1..=255u8, words).prop_map(|(diagnostic, state, flags, multiplier, words)| Packet {
        diagnostic: Diagnostic(diagnostic),
        state,
        poll: flags.0,
        last: flags.1,
        independent: flags.2,
        authentication: false,
        demand: flags.3,
        multiplier,
        mine: words.0,
        yours: words.1,
        desired_min_tx: words.2,
        required_min_rx: words.3,
        required_min_echo_rx: words.4,
    })
}

#[test]
fn a_packet_has_the_bytes_of_the_standard() {
    let packet = Packet {
        diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
        state: State::Up,
        poll: true,
        last: false,
        independent: false,
        authentication: false,
        demand: false,
        multiplier: 3,
        mine: 0x0102_0304,
        yours: 0x0506_0708,
        desired_min_tx: 10_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    };
    let bytes = [0x23, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x27, 0x10, 0, 0, 0xc3, 0x50, 0, 0, 0, 0];
    assert_eq!(packet.bytes(), bytes);
    assert_eq!(Packet::read(&bytes), Ok(packet));
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(packet in packets()) {
        prop_assert_eq!(Packet::read(&packet.bytes()), Ok(packet));
    }

    /// What follows the length of a packet is not its own.
    #[test]
    fn what_is_read_is_written_again(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(packet) = Packet::read(&bytes)
            && !packet.authentication
        {
            let mut head: [u8; LENGTH] = *bytes.first_chunk().unwrap();
            head[3] = 24;
            prop_assert_eq!(packet.bytes(), head);
        }
    }

    /// A session that hears nonsense makes no other one, answers no more than it was asked, and stays in order.
    #[test]
    fn no_bytes_panic(inputs in prop::collection::vec((inputs(), any::<u8>(), 0..3_000u64), 0..60)) {
        let (local, peer) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut engine = Engine::new(1);
        let mut now = Duration::ZERO;
        let timers = Timers::every(Duration::from_millis(10), 3);
        let id = engine.add(now, SessionConfig::single_hop(1, local, peer, timers)).unwrap();
        for (mut bytes, choice, pause) in inputs {
            if choice & 1 == 1 && bytes.len() >= 12 {
                bytes[8..12].copy_from_slice(&id.0.to_be_bytes());
            }
            let ttl = if choice & 6 == 6 { choice } else { 255 };
            let arrival = Arrival { multihop: choice & 24 == 24, interface: 1, source: peer, destination: local, ttl };
            let actions = engine.received(now, &arrival, &bytes);
            prop_assert!(actions.len() <= 3, "{:?}", actions);
            now += Duration::from_millis(pause);
            engine.tick(now);
            prop_assert!(engine.due().is_none_or(|due| due > now));
            prop_assert_eq!(engine.views().count(), 1);
        }
    }
}

/// Bytes, and such as are nearly packets.
fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    let broken = (packets(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(packet, at, byte)| {
        let mut bytes = packet.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes
    });
    prop_oneof![bytes, packets().prop_map(|packet| packet.bytes().to_vec()), broken]
}
