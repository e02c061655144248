//! Messages as bytes.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::world::node;
use crate::{Message, Votes};

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn messages() -> impl Strategy<Value = Message> {
    let votes = prop::option::of(prop::collection::btree_map(addresses(), (0..9usize).prop_map(node), 0..20));
    let set = || prop::collection::btree_set((0..9usize).prop_map(node), 0..9);
    let speaks = prop::collection::vec(addresses(), 0..5);
    (0..9usize, any::<[u64; 7]>(), votes, (set(), set(), set()), any::<bool>(), speaks).prop_map(
        |(from, n, votes, (sees, recent, silent), leaves, speaks)| {
            let [run, seq, list, echo_run, echo_seq, knows, generation] = n;
            let (from, votes, echo) = (node(from), votes.map(Arc::new), (echo_run, echo_seq));
            Message { from, run, seq, list, echo, knows, generation, votes, sees, recent, silent, leaves, speaks }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(message in messages()) {
        prop_assert_eq!(Message::read(&message.bytes().unwrap()), Some(message));
    }

    /// Whatever comes is a message or none; cut short it is none.
    #[test]
    fn no_bytes_panic(message in messages(), at in any::<prop::sample::Index>(), byte in any::<u8>(), more in 0..3usize) {
        let good = message.bytes().unwrap();
        let cut = at.index(good.len());
        prop_assert_eq!(Message::read(&good[..cut]), None);
        let mut bad = good;
        bad[cut] = byte;
        bad.extend(vec![0; more]);
        if let Some(read) = Message::read(&bad) {
            prop_assert!(more == 0);
            prop_assert_eq!(Message::read(&read.bytes().unwrap()), Some(read));
        }
    }
}

#[test]
fn a_message_fits_a_datagram_or_has_no_bytes() {
    let votes = |count: u16| -> Votes {
        (0..count).map(|n| ([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]].into(), node(1))).collect()
    };
    let message = |count| Message {
        from: node(1),
        run: 1,
        seq: 1,
        list: 1,
        echo: (0, 0),
        knows: 0,
        generation: 1,
        votes: Some(Arc::new(votes(count))),
        sees: [node(1)].into(),
        recent: [].into(),
        silent: [].into(),
        leaves: false,
        speaks: Vec::new(),
    };
    assert_eq!(message(1000).bytes().map(|bytes| bytes.len()), Some(5 + 1 + 2 + 3 + 2 + 56 + 4 + 2 + 2 + 2 + 2 + 7000));
    assert!(message(9000).bytes().is_some());
    assert_eq!(message(9400).bytes(), None);
}
