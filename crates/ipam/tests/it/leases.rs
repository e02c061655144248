//! What the lease book gives, refuses and remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use ripstop_ipam::{
    Attachment, HostLink, ImportNote, Lease, LeaseBook, LeaseFault, LeaseRequest, LeaseState, OwnRange, Sight, Usable,
    Window, leases::mac_of,
};
use ripstop_types::{Family, Millis, Prefix};

use super::search::Random;

pub fn attachment(name: &str) -> Attachment {
    Attachment { container: name.parse().unwrap(), ifname: "eth0".parse().unwrap() }
}

pub fn request(name: &str, families: &[Family]) -> LeaseRequest {
    LeaseRequest {
        attachment: attachment(name),
        pod: Some(format!("default/{name}").parse().unwrap()),
        network: "default".into(),
        families: families.to_vec(),
        fixed: Vec::new(),
        within: Vec::new(),
        mac: None,
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

const V4: &[Family] = &[Family::V4];

fn book(ranges: &[&str], usable: Usable) -> LeaseBook {
    let mut book = LeaseBook::new("b1", LeaseBook::COOLDOWN_MS);
    book.set_ranges(ranges.iter().map(|range| OwnRange::new("default", prefix(range), usable))).unwrap();
    book
}

fn give(book: &mut LeaseBook, name: &str, now: u64) -> Result<IpAddr, LeaseFault> {
    book.allocate(&request(name, V4), Millis(now)).map(|lease| lease.ips[0])
}

fn fixed(name: &str, address: &str) -> LeaseRequest {
    LeaseRequest { fixed: vec![ip(address)], ..request(name, &[Family::of(ip(address))]) }
}

#[test]
fn a_routed_range_gives_all_but_the_nodes_own_address() {
    let mut book = book(&["10.244.1.0/30"], Usable::Routed);
    let given: Vec<_> = (0..3).map(|n| give(&mut book, &format!("c{n}"), 0).unwrap().to_string()).collect();
    assert_eq!(given, ["10.244.1.0", "10.244.1.2", "10.244.1.3"]);
    let fault = give(&mut book, "c3", 0).unwrap_err();
    let said = "pod default/c3 (c3/eth0): range 10.244.1.0/30 is full: 3 of 3 leased; remove pods, or give the node a larger \
                range";
    assert_eq!(fault.to_string(), said);
    assert!(fault.passes());
}

#[test]
fn a_bridged_range_keeps_the_subnets_own_addresses() {
    let mut book = book(&["10.244.1.0/29", "fd00::/125"], Usable::Bridge);
    let v6 = |book: &mut LeaseBook, n| book.allocate(&request(&format!("s{n}"), &[Family::V6]), Millis(0));
    let given: Vec<_> = (0..5).map(|n| give(&mut book, &format!("c{n}"), 0).unwrap().to_string()).collect();
    assert_eq!(given, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]);
    assert!(matches!(give(&mut book, "c5", 0), Err(LeaseFault::Full { leased: 5, usable: 5, .. })));
    // IPv6 has no broadcast address.
    let given: Vec<_> = (0..6).map(|n| v6(&mut book, n).unwrap().ips[0]).collect();
    assert_eq!((given[0], given[5]), (ip("fd00::2"), ip("fd00::7")));
    assert!(v6(&mut book, 6).is_err());
}

#[test]
fn the_same_attachment_gets_the_same_again() {
    let mut book = book(&["10.244.1.0/24", "fd00::/64"], Usable::Routed);
    let both = request("a", &[Family::V4, Family::V6]);
    let first = book.allocate(&both, Millis(5)).unwrap();
    assert_eq!(first.ips, [ip("10.244.1.0"), ip("fd00::")]);
    assert_eq!((first.state, first.since, &*first.boot), (LeaseState::Pending, Millis(5), "b1"));
    assert_eq!(first.mac, mac_of(ip("10.244.1.0")));
    assert_eq!(first.mac.to_string(), "0a:58:0a:f4:01:00");
    assert_eq!(book.allocate(&both, Millis(9)).unwrap(), first);
    let link = HostLink { index: 7, altname: "rip/pod/default/a/eth0".into() };
    let held = book.hold(&both.attachment, Some(link.clone())).unwrap();
    assert_eq!((held.state, held.link), (LeaseState::Held, Some(link)));
    assert_eq!(book.allocate(&both, Millis(9)).unwrap().ips, first.ips);
    // Asking for something else: a held lease stays, a pending one is exchanged.
    let other = LeaseRequest { fixed: vec![ip("10.244.1.9")], ..both.clone() };
    assert!(matches!(book.allocate(&other, Millis(9)), Err(LeaseFault::Different { .. })));
    let pending = book.allocate(&request("b", V4), Millis(9)).unwrap();
    let exchanged = book.allocate(&fixed("b", "10.244.1.77"), Millis(9)).unwrap();
    assert_eq!((pending.ips, exchanged.ips), (vec![ip("10.244.1.2")], vec![ip("10.244.1.77")]));
    // And kept if there is nothing else.
    assert!(book.allocate(&fixed("b", "10.9.9.9"), Millis(9)).is_err());
    assert_eq!(book.get(&attachment("b")).unwrap().ips, [ip("10.244.1.77")]);
    assert_eq!(book.hold(&attachment("x"), None), Err(LeaseFault::Unknown(attachment("x"))));
}

#[test]
fn addresses_come_back_as_late_as_possible() {
    let mut book = book(&["10.244.1.0/29"], Usable::Routed);
    for n in 0..3 {
        give(&mut book, &format!("c{n}"), 0).unwrap();
    }
    book.release(&attachment("c0"), Millis(0)).unwrap();
    // Behind the last one given, though the first is free again long since.
    assert_eq!(give(&mut book, "c3", 90_000), Ok(ip("10.244.1.4")));
    for n in 4..8 {
        give(&mut book, &format!("c{n}"), 90_000).unwrap();
    }
    assert_eq!(book.get(&attachment("c7")).unwrap().ips, [ip("10.244.1.0")]);
    // All are taken. Those that rest are given all the same, the one that rested longest first.
    book.release(&attachment("c4"), Millis(91_000)).unwrap();
    book.release(&attachment("c2"), Millis(90_500)).unwrap();
    let usage = book.usage().next().unwrap();
    assert_eq!((usage.usable, usage.leased, usage.cooling), (7, 5, 2));
    assert_eq!(give(&mut book, "c8", 92_000), Ok(ip("10.244.1.3")));
    assert_eq!(give(&mut book, "c9", 92_000), Ok(ip("10.244.1.5")));
    assert!(give(&mut book, "c10", 92_000).is_err());
}

#[test]
fn a_dead_half_gives_nothing() {
    let mut book = book(&["10.244.1.0/24", "fd00::/128"], Usable::Routed);
    let both = |name| request(name, &[Family::V4, Family::V6]);
    book.allocate(&both("a"), Millis(0)).unwrap();
    let before = book.clone();
    assert!(matches!(book.allocate(&both("b"), Millis(0)), Err(LeaseFault::Full { leased: 1, usable: 1, .. })));
    assert_eq!(book, before);
    let mut other = request("c", &[Family::V4]);
    other.network = "blue".into();
    let fault = book.allocate(&other, Millis(0)).unwrap_err();
    assert!(fault.to_string().contains("this node has no IPv4 range of network blue yet"), "{fault}");
    assert!(fault.passes());
}

#[test]
fn fixed_addresses_are_refused_with_the_reason() {
    let mut book = LeaseBook::new("b1", 0);
    let mut range = OwnRange::new("default", prefix("10.244.1.0/24"), Usable::Bridge);
    range.exclude = vec![prefix("10.244.1.64/28")];
    book.set_ranges([range]).unwrap();
    book.allocate(&fixed("a", "10.244.1.9"), Millis(3)).unwrap();
    let say = |book: &mut LeaseBook, request: &LeaseRequest| book.allocate(request, Millis(4)).unwrap_err().to_string();
    assert_eq!(
        say(&mut book, &fixed("b", "10.244.1.9")),
        "pod default/b (b/eth0): address 10.244.1.9 is held by pod default/a (a/eth0); remove that pod or ask for \
         another"
    );
    for (address, part) in [
        ("10.244.2.9", "address 10.244.2.9 is in no range that this node gives from; it has 10.244.1.0/24"),
        ("10.244.1.70", "10.244.1.70 of range 10.244.1.0/24 is not for pods: it is excluded"),
        ("10.244.1.1", "is not for pods: the node's own address"),
        ("10.244.1.0", "is not for pods: the subnet's own address"),
        ("10.244.1.255", "is not for pods: the subnet's broadcast address"),
    ] {
        let said = say(&mut book, &fixed("b", address));
        assert!(said.contains(part), "{said}");
    }
    let two = LeaseRequest { fixed: vec![ip("10.244.1.3"), ip("10.244.1.4")], ..request("b", V4) };
    assert!(say(&mut book, &two).contains("10.244.1.3 and 10.244.1.4 are both IPv4"));
    let unasked = LeaseRequest { fixed: vec![ip("fd00::1")], ..request("b", V4) };
    assert!(say(&mut book, &unasked).contains("address fd00::1 is IPv6, which network default does not have"));
    let mac = LeaseRequest { mac: Some(mac_of(ip("10.244.1.9"))), ..request("b", V4) };
    assert!(say(&mut book, &mac).contains("hardware address 0a:58:0a:f4:01:09 is held by pod default/a"));
    assert_eq!(book.leases().count(), 1);
}

#[test]
fn windows_limit_the_choice() {
    let mut book = book(&["10.244.1.0/24"], Usable::Routed);
    let within = |name: &str, first: &str, last: &str| LeaseRequest {
        within: vec![Window { first: ip(first), last: ip(last) }],
        ..request(name, V4)
    };
    assert_eq!(book.allocate(&within("a", "10.244.1.8", "10.244.1.9"), Millis(0)).unwrap().ips, [ip("10.244.1.8")]);
    assert_eq!(book.allocate(&within("b", "10.244.1.8", "10.244.1.9"), Millis(0)).unwrap().ips, [ip("10.244.1.9")]);
    let fault = book.allocate(&within("c", "10.244.1.8", "10.244.1.9"), Millis(0)).unwrap_err();
    assert!(fault.to_string().contains("is full within 10.244.1.8-10.244.1.9: 2 of 2 leased"), "{fault}");
    let fault = book.allocate(&within("c", "10.9.0.0", "10.9.0.255"), Millis(0)).unwrap_err();
    assert!(
        fault.to_string().contains("(10.9.0.0-10.9.0.255) have nothing in common with this node's: 10.244.1.0/24"),
        "{fault}"
    );
    let mut outside = within("c", "10.244.1.8", "10.244.1.9");
    outside.fixed = vec![ip("10.244.1.20")];
    assert!(matches!(book.allocate(&outside, Millis(0)), Err(LeaseFault::OutsideWindow { .. })));
    // A window larger than the range is the range.
    assert_eq!(book.allocate(&within("d", "10.0.0.0", "10.255.0.0"), Millis(0)).unwrap().ips, [ip("10.244.1.10")]);
}

#[test]
fn ranges_come_and_go_under_their_leases() {
    let mut book = book(&["10.244.1.0/30"], Usable::Routed);
    for n in 0..3 {
        give(&mut book, &format!("c{n}"), n).unwrap();
    }
    // A second range is given from when the first is full.
    let range = |text: &str| OwnRange::new("default", prefix(text), Usable::Routed);
    book.set_ranges([range("10.244.1.0/30"), range("10.244.9.0/30")]).unwrap();
    assert_eq!(give(&mut book, "d0", 0), Ok(ip("10.244.9.0")));
    // Closed: nothing new, and what is released is not given again.
    book.set_ranges([OwnRange { open: false, ..range("10.244.1.0/30") }, range("10.244.9.0/30")]).unwrap();
    book.release(&attachment("c0"), Millis(0));
    assert_eq!(give(&mut book, "d1", 90_000), Ok(ip("10.244.9.2")));
    assert!(matches!(book.allocate(&fixed("d9", "10.244.1.0"), Millis(0)), Err(LeaseFault::Outside { .. })));
    // Gone: the leases are strays, and block their addresses when it comes back.
    book.set_ranges([range("10.244.9.0/30")]).unwrap();
    let strays: Vec<_> = book.strays().map(|(ip, lease)| (ip, lease.attachment.container.as_str())).collect();
    assert_eq!(strays, [(ip("10.244.1.2"), "c1"), (ip("10.244.1.3"), "c2")]);
    book.set_ranges([range("10.244.1.0/30")]).unwrap();
    assert_eq!(give(&mut book, "e0", 0), Ok(ip("10.244.1.0")));
    assert!(give(&mut book, "e1", 0).is_err());
    let overlap = book.set_ranges([range("10.244.1.0/30"), range("10.244.0.0/16")]).unwrap_err();
    assert_eq!(overlap.to_string(), "ranges 10.244.1.0/30 and 10.244.0.0/16 of this node overlap");
    assert_eq!(book.ranges().count(), 1);
    assert_eq!(book.leases_in(&prefix("10.244.1.0/30")).count(), 3);
}

#[test]
fn an_exclusion_set_later_lets_leases_live_and_closes_behind_them() {
    let mut book = book(&["10.244.1.0/30"], Usable::Routed);
    for n in 0..3 {
        give(&mut book, &format!("c{n}"), 0).unwrap();
    }
    let mut range = OwnRange::new("default", prefix("10.244.1.0/30"), Usable::Routed);
    range.exclude = vec![prefix("10.244.1.2/32")];
    book.set_ranges([range]).unwrap();
    book.release(&attachment("c1"), Millis(0));
    assert!(give(&mut book, "c4", 90_000).is_err());
    book.release(&attachment("c2"), Millis(90_000));
    assert_eq!(give(&mut book, "c4", 90_000), Ok(ip("10.244.1.3")));
}

fn rows(book: &LeaseBook) -> Vec<Lease> {
    book.leases().cloned().collect()
}

#[test]
fn rows_of_another_boot_are_void() {
    let mut book = book(&["10.244.1.0/24"], Usable::Routed);
    give(&mut book, "a", 0).unwrap();
    let (next, notes) = LeaseBook::import("b2", 0, rows(&book));
    assert_eq!(next.leases().count(), 0);
    assert_eq!(notes[0].to_string(), "lease of pod default/a (a/eth0) (10.244.1.0) is of another boot and void");
    let (same, notes) = LeaseBook::import("b1", 0, rows(&book));
    assert_eq!((rows(&same), notes), (rows(&book), vec![]));
}

#[test]
fn rows_that_contradict_are_all_kept() {
    let mut book = book(&["10.244.1.0/30"], Usable::Routed);
    let older = book.allocate(&request("a", V4), Millis(10)).unwrap();
    let younger = Lease { attachment: attachment("b"), since: Millis(20), ..older.clone() };
    let (mut book, notes) = LeaseBook::import("b1", 0, [younger.clone(), older.clone()]);
    let [ImportNote::Duplicate { ip: at, attachment: named, .. }] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!((*at, named), (ip("10.244.1.0"), &younger.attachment));
    assert!(notes[0].to_string().contains("the older keeps it: remove the younger pod"), "{}", notes[0]);
    book.set_ranges([OwnRange::new("default", prefix("10.244.1.0/30"), Usable::Routed)]).unwrap();
    assert_eq!(book.holder_of(ip("10.244.1.0")), Some(&older));
    let contested: Vec<_> = book.contested().collect();
    assert_eq!(contested, [(ip("10.244.1.0"), vec![&older, &younger])]);
    // The address is free when the last of them is gone, not before.
    book.release(&older.attachment, Millis(30));
    assert_eq!(book.holder_of(ip("10.244.1.0")), Some(&younger));
    assert!(matches!(book.allocate(&fixed("c", "10.244.1.0"), Millis(30)), Err(LeaseFault::Taken { .. })));
    book.release(&younger.attachment, Millis(30));
    assert!(book.allocate(&fixed("c", "10.244.1.0"), Millis(30)).is_ok());
    // Two rows of one attachment: the older counts.
    let moved = Lease { ips: vec![ip("10.244.1.3")], since: Millis(99), ..older.clone() };
    let (book, notes) = LeaseBook::import("b1", 0, [moved, older.clone()]);
    assert_eq!(rows(&book), [older]);
    assert!(notes[0].to_string().contains("has two leases: 10.244.1.0 is kept, 10.244.1.3 is not"), "{}", notes[0]);
}

#[test]
fn a_search_after_a_restart_begins_behind_the_youngest_lease() {
    let mut book = book(&["10.244.1.0/24"], Usable::Routed);
    for n in 0..9 {
        give(&mut book, &format!("c{n}"), n).unwrap();
    }
    for n in 0..5 {
        book.release(&attachment(&format!("c{n}")), Millis(10));
    }
    let (mut next, _) = LeaseBook::import("b1", 0, rows(&book));
    next.set_ranges(book.ranges().cloned().collect::<Vec<_>>()).unwrap();
    assert_eq!(give(&mut next, "d", 10), Ok(ip("10.244.1.10")));
}

#[test]
fn an_orphan_takes_two_looks_ten_seconds_apart() {
    let mut book = book(&["10.244.1.0/24"], Usable::Routed);
    for name in ["a", "b"] {
        give(&mut book, name, 0).unwrap();
        book.hold(&attachment(name), None).unwrap();
    }
    let gone = |lease: &Lease| if lease.attachment == attachment("a") { Sight::Gone } else { Sight::Present };
    let none: [Attachment; 0] = [];
    assert_eq!(book.look(Millis(1_000), gone), none);
    assert_eq!(book.look(Millis(10_999), gone), none);
    // The kernel cannot be asked: neither for nor against.
    assert_eq!(book.look(Millis(30_000), |_| Sight::Unknown), none);
    // Written down and read back in between, like at an upgrade.
    let text = serde_json::to_string(&book).unwrap();
    let mut book: LeaseBook = serde_json::from_str(&text).unwrap();
    assert_eq!(book.look(Millis(11_000), gone), [attachment("a")]);
    // Seen again: it begins anew.
    assert_eq!(book.look(Millis(12_000), |_| Sight::Present), none);
    assert_eq!(book.look(Millis(90_000), gone), none);
    // Asked for again: that too.
    book.allocate(&request("a", V4), Millis(95_000)).unwrap();
    assert_eq!(book.look(Millis(100_500), gone), none);
    // A clock that went back cannot keep an orphan.
    assert_eq!(book.look(Millis(500), gone), none);
    assert_eq!(book.look(Millis(10_500), gone), [attachment("a")]);
    assert_eq!(book.release(&attachment("a"), Millis(10_500)).unwrap().ips, [ip("10.244.1.0")]);
    assert_eq!(book.release(&attachment("a"), Millis(10_500)), None);
    assert_eq!(book.look(Millis(60_000), |_| Sight::Present), none);
}

#[test]
fn gc_ends_what_the_runtime_does_not_list() {
    let mut book = book(&["10.244.1.0/24"], Usable::Routed);
    for name in ["a", "b", "c"] {
        give(&mut book, name, 0).unwrap();
    }
    book.set_ranges([
        OwnRange::new("default", prefix("10.244.1.0/24"), Usable::Routed),
        OwnRange::new("blue", prefix("10.245.1.0/24"), Usable::Routed),
    ])
    .unwrap();
    let blue = LeaseRequest { network: "blue".into(), ..request("z", V4) };
    book.allocate(&blue, Millis(0)).unwrap();
    let valid = BTreeSet::from([attachment("b"), attachment("not-here")]);
    assert_eq!(book.unlisted("default", &valid), [attachment("a"), attachment("c")]);
    let released: Vec<_> = book.gc("default", &valid, Millis(0)).into_iter().map(|lease| lease.attachment).collect();
    assert_eq!(released, [attachment("a"), attachment("c")]);
    assert_eq!(book.leases().map(|lease| &lease.attachment).collect::<Vec<_>>(), [&attachment("b"), &attachment("z")]);
}

#[test]
fn a_full_sixteen_is_worked_in_order_of_its_gaps() {
    let mut book = LeaseBook::new("b1", 1);
    book.set_ranges([OwnRange::new("default", prefix("10.244.0.0/16"), Usable::Routed)]).unwrap();
    for n in 0..65_535 {
        give(&mut book, &format!("c{n}"), 0).unwrap();
    }
    assert!(give(&mut book, "full", 0).is_err());
    // Quadratic work would take many minutes here.
    let mut random = Random::new(1);
    for round in 0..30_000u64 {
        let name = format!("c{}", random.next() % 65_535);
        let Some(lease) = book.release(&attachment(&name), Millis(round)) else { continue };
        assert_eq!(give(&mut book, &name, round), Ok(lease.ips[0]));
    }
    assert_eq!(book.usage().next().unwrap().leased, 65_535);
}

/// The rule of the next address, in the plainest words.
#[derive(Default)]
struct Plain {
    leased: BTreeMap<u128, String>,
    resting: BTreeMap<u128, u64>,
    cursor: u128,
}

impl Plain {
    fn next(&mut self, size: u128, closed: &[u128], now: u64, window: Option<(u128, u128)>) -> Option<u128> {
        self.resting.retain(|_, due| *due > now);
        let inside = |n: &u128| window.is_none_or(|(a, b)| (a..=b).contains(n)) && !closed.contains(n);
        let order = (self.cursor..size).chain(0..self.cursor);
        let free = order.filter(inside).find(|n| !self.leased.contains_key(n) && !self.resting.contains_key(n));
        free.or_else(|| {
            self.resting.iter().filter(|(n, _)| inside(n)).min_by_key(|(n, due)| (**due, **n)).map(|(n, _)| *n)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_next_address_is_the_one_that_plain_words_say(
        steps in prop::collection::vec((0u8..5, 0usize..40, 0u64..9_000, (0u128..16, 0u128..16)), 1..120),
        excluded in prop::collection::vec(0u128..16, 0..4),
        bridge in any::<bool>(),
    ) {
        let range = prefix("10.244.1.0/28");
        let usable = if bridge { Usable::Bridge } else { Usable::Routed };
        let mut own = OwnRange::new("default", range, usable);
        own.exclude = excluded.iter().map(|n| Prefix::host(range.nth(*n).unwrap())).collect();
        let mut closed: Vec<u128> = excluded.into_iter().chain([1]).collect();
        if bridge {
            closed.extend([0, 15]);
        }
        let mut book = LeaseBook::new("b1", 20_000);
        book.set_ranges([own.clone()]).unwrap();
        let (mut plain, mut now) = (Plain::default(), 0);
        for (kind, which, pass, (a, b)) in steps {
            now += pass;
            let name = format!("c{which}");
            match kind {
                0 => {
                    let expected = plain.leased.iter().find(|(_, holder)| **holder == name).map(|(n, _)| *n);
                    let released = book.release(&attachment(&name), Millis(now));
                    prop_assert_eq!(released.and_then(|lease| range.offset_of(lease.ips[0])), expected);
                    if let Some(n) = expected {
                        plain.leased.remove(&n);
                        plain.resting.insert(n, now + 20_000);
                    }
                }
                1 => {
                    // Through text and back, or told its ranges again: nothing changes.
                    book = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
                    book.set_ranges([own.clone()]).unwrap();
                }
                _ => {
                    if book.get(&attachment(&name)).is_some() {
                        continue;
                    }
                    let window = (kind == 4).then_some((a.min(b), a.max(b)));
                    let mut request = request(&name, V4);
                    let to_window = |(a, b)| Window { first: range.nth(a).unwrap(), last: range.nth(b).unwrap() };
                    request.within = window.map(to_window).into_iter().collect();
                    let expected = plain.next(16, &closed, now, window);
                    let given = book.allocate(&request, Millis(now)).ok().and_then(|lease| range.offset_of(lease.ips[0]));
                    prop_assert_eq!(given, expected);
                    if let Some(n) = expected {
                        plain.resting.remove(&n);
                        plain.leased.insert(n, name);
                        plain.cursor = (n + 1) % 16;
                    }
                }
            }
        }
    }
}
