//! The table: which peer an inner address lies behind, and which peers a datagram may come from. Pure.
//!
//! Prefixes are flattened into disjoint intervals when the table is made, so a look-up is one binary search however the
//! prefixes are nested.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_types::Family;

use crate::control::Setup;

/// Number of a peer: its place in [`Setup::peers`].
pub type PeerId = u32;

/// Where an interval begins, and whose it is until the next begins.
type Interval = (u128, Option<PeerId>);

/// A table that does not change.
#[derive(Debug, Default)]
pub struct Routes {
    v4: Vec<Interval>,
    v6: Vec<Interval>,
    senders: BTreeMap<IpAddr, Vec<PeerId>>,
}

impl Routes {
    /// The table of a set-up that was checked.
    #[must_use]
    pub fn of(setup: &Setup) -> Self {
        let mut senders: BTreeMap<IpAddr, Vec<PeerId>> = BTreeMap::new();
        for (id, peer) in numbered(setup) {
            for address in peer.also_from.iter().copied().chain([peer.to.ip()]) {
                let ids = senders.entry(address).or_default();
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        Self { v4: intervals(setup, Family::V4), v6: intervals(setup, Family::V6), senders }
    }

    /// The peer behind which an address lies.
    #[must_use]
    pub fn behind(&self, address: IpAddr) -> Option<PeerId> {
        let (table, key) = match address {
            IpAddr::V4(address) => (&self.v4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (&self.v6, address.to_bits()),
        };
        let after = table.partition_point(|(start, _)| *start <= key);
        after.checked_sub(1).and_then(|at| table[at].1)
    }

    /// The peers whose datagrams come from an address; none for a stranger's.
    #[must_use]
    pub fn senders(&self, address: IpAddr) -> &[PeerId] {
        self.senders.get(&address).map_or(&[], Vec::as_slice)
    }
}

fn numbered(setup: &Setup) -> impl Iterator<Item = (PeerId, &crate::control::Peer)> {
    (0..).zip(&setup.peers)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The disjoint intervals of one family.
fn intervals(setup: &Setup, family: Family) -> Vec<Interval> {
    let mut prefixes: Vec<(u128, u8, u128, PeerId)> = numbered(setup)
        .flat_map(|(id, peer)| peer.ranges.iter().map(move |range| (id, range)))
        .filter(|(_, range)| range.family() == family)
        .map(|(id, range)| (bits(range.addr()), range.len(), bits(range.last()), id))
        .collect();
    // A prefix comes before those inside it.
    prefixes.sort_unstable();
    let mut table: Vec<Interval> = Vec::new();
    let mut around: Vec<(u128, PeerId)> = Vec::new();
    let close = |table: &mut Vec<Interval>, around: &mut Vec<(u128, PeerId)>, before: Option<u128>| {
        while let Some((last, _)) = around.last().copied().filter(|(last, _)| before.is_none_or(|start| *last < start))
        {
            around.pop();
            if let Some(next) = last.checked_add(1) {
                put(table, next, around.last().map(|(_, id)| *id));
            }
        }
    };
    for (start, _, last, id) in prefixes {
        close(&mut table, &mut around, Some(start));
        put(&mut table, start, Some(id));
        around.push((last, id));
    }
    close(&mut table, &mut around, None);
    table
}

/// Begins an interval; one that begins at the same place is over before it began.
fn put(table: &mut Vec<Interval>, start: u128, id: Option<PeerId>) {
    if table.last().is_some_and(|(last, _)| *last == start) {
        table.pop();
    }
    if table.last().map(|(_, last)| *last) != Some(id) {
        table.push((start, id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ripstop_types::Prefix;

    use super::*;
    use crate::control::Peer;

    fn setup(ranges: &[Vec<Prefix>]) -> Setup {
        let peer = |(number, ranges): (usize, &Vec<Prefix>)| Peer {
            name: format!("n{number}"),
            to: ([172, 30, 0, u8::try_from(number).unwrap()], 8285).into(),
            also_from: Vec::new(),
            ranges: ranges.clone(),
        };
        Setup {
            device: "ripudp0".parse().unwrap(),
            listen: Vec::new(),
            peers: ranges.iter().enumerate().map(peer).collect(),
        }
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_counts_to_the_ends_of_the_address_space() {
        let routes = Routes::of(&setup(&[
            vec![prefix("0.0.0.0/0"), prefix("::/0")],
            vec![prefix("255.255.255.0/24"), prefix("10.0.0.0/8")],
            vec![prefix("10.1.0.0/16"), prefix("ffff::/16")],
        ]));
        let of = |text: &str| routes.behind(text.parse().unwrap());
        assert_eq!(of("0.0.0.0"), Some(0));
        assert_eq!((of("9.255.255.255"), of("10.0.0.0"), of("10.0.255.255")), (Some(0), Some(1), Some(1)));
        assert_eq!((of("10.1.0.0"), of("10.1.255.255"), of("10.2.0.0")), (Some(2), Some(2), Some(1)));
        assert_eq!((of("11.0.0.0"), of("255.255.255.255")), (Some(0), Some(1)));
        assert_eq!((of("::"), of("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), (Some(0), Some(2)));
        let none = Routes::default();
        assert_eq!(
            (none.behind("1.2.3.4".parse().unwrap()), none.senders("1.2.3.4".parse().unwrap()).len()),
            (None, 0)
        );
    }

    #[test]
    fn a_sender_may_speak_for_several_peers() {
        let mut setup = setup(&[vec![prefix("10.0.1.0/24")], vec![prefix("10.0.2.0/24")]]);
        setup.peers[1].also_from = vec![[172, 30, 0, 0].into(), [172, 30, 0, 1].into()];
        let routes = Routes::of(&setup);
        assert_eq!(routes.senders([172, 30, 0, 0].into()), [0, 1]);
        assert_eq!(routes.senders([172, 30, 0, 1].into()), [1]);
        assert!(routes.senders([172, 30, 0, 9].into()).is_empty());
    }

    proptest! {
        /// As a list that is searched from end to end has it.
        #[test]
        fn the_table_is_the_list(raw in proptest::collection::vec((0u32..64, 24u8..=32, 0usize..4), 0..24), asked in proptest::collection::vec(0u32..80, 16)) {
            let mut ranges: Vec<Vec<Prefix>> = vec![Vec::new(); 4];
            let mut seen = std::collections::BTreeSet::new();
            for (at, len, owner) in raw {
                let address = std::net::Ipv4Addr::from_bits(0xffff_f000 + at * 64);
                let prefix = Prefix::containing(address.into(), len).unwrap();
                if seen.insert(prefix) {
                    ranges[owner].push(prefix);
                }
            }
            let routes = Routes::of(&setup(&ranges));
            for at in asked {
                for address in [at * 64, at * 64 + 63, at * 64 + 1] {
                    let address: IpAddr = std::net::Ipv4Addr::from_bits(0xffff_f000u32.saturating_add(address)).into();
                    let best = ranges.iter().enumerate()
                        .flat_map(|(owner, list)| list.iter().map(move |prefix| (prefix, owner)))
                        .filter(|(prefix, _)| prefix.contains(address))
                        .max_by_key(|(prefix, _)| prefix.len())
                        .map(|(_, owner)| u32::try_from(owner).unwrap());
                    prop_assert_eq!(routes.behind(address), best);
                }
            }
        }
    }
}
