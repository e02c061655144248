//! Simulator and kernel agree on tables nobody thought of: rules and packets of a seeded generator.

use ripstop_nft::model::build::*;
use ripstop_nft::model::*;
use ripstop_nft::sim::{Ruleset, Transport};
use ripstop_types::Family;

use crate::fixture::{Elements, address, prefix};
use crate::kernel::in_namespace;
use crate::router::{A, B, From, Router, Shot, shot};

/// A small generator (xorshift64*): the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())].clone()
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.roll(one_in) == 0
    }

    fn port(&mut self) -> u16 {
        self.pick(&[7001, 7002, 7003, 7004, 7005])
    }
}

fn a_match(dice: &mut Dice) -> Statement {
    let v4 = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap();
    let port = dice.port();
    match dice.roll(26) {
        0 => meta::iifname().is(dice.pick(&["ra", "rb", "r*", "lo", "x*"])),
        1 => meta::iifname().is_not(dice.pick(&["ra", "rb", "r*"])),
        2 => ip::saddr().within(prefix(dice.pick(&["10.1.0.0/16", "10.0.0.0/8", "10.1.0.0/31", "0.0.0.0/0"]))),
        3 => ip::daddr().outside(prefix(dice.pick(&["10.2.0.0/24", "10.2.0.2/32", "10.2.0.4/30"]))),
        4 => ip::daddr().is(v4(dice.pick(&["10.2.0.2", "10.2.0.3", "10.1.0.1"]))),
        5 => ip::daddr().between(v4("10.2.0.2"), v4("10.2.0.3")),
        6 => ip::saddr().in_set("ranges"),
        7 => ip::daddr().not_in_set("ranges"),
        8 => ip6::saddr().within(prefix(dice.pick(&["fd01::/64", "fd01::/61", "fd02::/16"]))),
        9 => ip6::daddr().is_not("fd02::2".parse::<std::net::Ipv6Addr>().unwrap()),
        10 => tcp::dport().is(port),
        11 => udp::dport().is_not(port),
        12 => udp::dport().between(7002, port.max(7003)),
        13 => tcp::dport().one_of([port, 7001]),
        14 => udp::dport().none_of([port, 7005]),
        15 => concat((ip::daddr(), udp::dport())).in_set("pairs"),
        16 => concat((meta::iifname(), ip::daddr(), meta::l4proto())).not_in_set("triples"),
        17 => meta::mark().mask(dice.pick(&[0xf, 0xff])).is(dice.pick(&[0, 1, 2])),
        18 => meta::mark().any(Mark(dice.pick(&[1, 2, 0x10]))),
        19 => meta::mark().one_of([1, 3, 0x12]),
        20 => ct::state().any(dice.pick(&[CtState::NEW, CtState::ESTABLISHED, CtState::NEW | CtState::RELATED])),
        21 => ct::mark().is(dice.pick(&[0, 1, 2])),
        22 => ct::status().any(CtStatus::DNAT),
        23 => meta::l4proto().one_of([Proto::TCP, Proto::ICMP]),
        24 => meta::nfproto().is(dice.pick(&[NfProto::IPV4, NfProto::IPV6])),
        _ => tcp::flags().mask(TcpFlags::SYN | TcpFlags::ACK).is(TcpFlags::SYN),
    }
}

fn a_mark(dice: &mut Dice) -> Statement {
    match dice.roll(6) {
        0 => set_mark(dice.pick(&[1, 2, 0x11])),
        1 => set_mark_bits(dice.pick(&[1, 2]), 0xf),
        2 => set_ct_mark(dice.pick(&[1, 2])),
        3 => save_mark(),
        4 => restore_mark(),
        _ => set_mark_map(ip::daddr(), "marks"),
    }
}

/// `below` are the chains that can be jumped to from here. The kernel takes no refusal where postrouting leads.
fn a_rule(dice: &mut Dice, below: &[&'static str], may_reject: bool) -> Rule {
    let mut statements: Vec<_> = (0..dice.roll(3)).map(|_| a_match(dice)).collect();
    if dice.chance(3) {
        statements.push(a_mark(dice));
    }
    statements.push(counter());
    match dice.roll(12) {
        0 => statements.push(accept()),
        1 if dice.chance(2) => statements.push(drop()),
        2 => statements.push(ret()),
        3 if may_reject && dice.chance(3) => statements.push(reject()),
        4 | 5 if !below.is_empty() => statements.push(jump(dice.pick(below))),
        6 if !below.is_empty() => statements.push(goto(dice.pick(below))),
        // The map leads to the last chain, so it is asked above it only.
        7 if !below.is_empty() => {
            // A map may have no entry: what comes behind the counter must count.
            statements.retain(|one| *one != counter());
            statements.push(ip::daddr().vmap("ways"));
        }
        _ => {}
    }
    Rule::new(statements)
}

fn a_translation(dice: &mut Dice, source: bool) -> Rule {
    let matching = a_match(dice);
    let port = dice.chance(2).then(|| dice.port());
    let action = match (source, dice.roll(4)) {
        (_, 0) => accept(),
        (true, 1) => masquerade(),
        (true, _) => snat(address(dice.pick(&["10.2.0.99", "10.2.0.98"])), None),
        (false, 1) => dnat(address("fd02::2"), None),
        (false, _) => dnat(address(dice.pick(&["10.2.0.2", "10.2.0.3"])), port),
    };
    // A port is translated only where there is one.
    Rule::new([matching, meta::l4proto().one_of([Proto::TCP, Proto::UDP]), counter(), action])
}

const BELOW: [&str; 3] = ["x1", "x2", "x3"];

fn a_table(dice: &mut Dice) -> (Table, Elements) {
    let mut table = Table::new(TableFamily::Inet, "tested")
        .set("ranges", Set::of([Type::Ipv4Addr]).interval())
        .set("pairs", Set::of([Type::Ipv4Addr, Type::InetService]).interval())
        .set("triples", Set::of([Type::IfName, Type::Ipv4Addr, Type::InetProto]))
        .set("marks", Set::map([Type::Ipv4Addr], [Type::Mark]).interval())
        .set("ways", Set::vmap([Type::Ipv4Addr]));
    for (index, name) in BELOW.into_iter().enumerate() {
        let below = &BELOW[index + 1..];
        table = table.chain(name, Chain::regular().rules((0..3).map(|_| a_rule(dice, below, false))));
    }
    let bases = [
        ("b1", Hook::Prerouting, -300),
        ("b2", Hook::Prerouting, -150),
        ("b3", Hook::Prerouting, -50),
        ("b4", Hook::Input, 0),
        ("b5", Hook::Forward, 0),
        ("b6", Hook::Forward, 0),
        ("b7", Hook::Output, 0),
        ("b8", Hook::Postrouting, 50),
        ("b9", Hook::Postrouting, 150),
    ];
    for (name, hook, priority) in bases {
        let policy = if dice.chance(6) { Policy::Drop } else { Policy::Accept };
        let chain = Chain::filter(hook, priority)
            .policy(policy)
            .rules((0..4).map(|_| a_rule(dice, &BELOW, hook != Hook::Postrouting)));
        table = table.chain(name, chain);
    }
    let nat = |dice: &mut Dice, hook, source| {
        Chain::nat(hook, if source { 100 } else { -100 }).rules((0..3).map(|_| a_translation(dice, source)))
    };
    table = table
        .chain("n1", nat(dice, Hook::Prerouting, false))
        .chain("n2", nat(dice, Hook::Prerouting, false))
        .chain("n3", nat(dice, Hook::Output, false))
        .chain("n4", nat(dice, Hook::Postrouting, true));
    let elements = elements(&table, dice);
    (table, elements)
}

fn elements(table: &Table, dice: &mut Dice) -> Elements {
    let key = |parts: Vec<KeyPart>| Key::new(false, parts);
    let v4 = |text: &str| KeyPart::from(address(text));
    let range = prefix(dice.pick(&["10.2.0.0/31", "10.1.0.0/24", "10.2.0.2/32"]));
    let ports = KeyPart::range(Value::Service(7001), Value::Service(dice.port()));
    let link = KeyPart::from(IfPattern::from(dice.pick(&["ra", "rb"])));
    let way = dice.pick(&[Verdict::Accept, Verdict::Return, Verdict::Jump("x3".into()), Verdict::Continue]);
    [
        table.element("ranges", key(vec![range.into()]), ElementBody::default()),
        table.element(
            "ranges",
            key(vec![KeyPart::range(address("10.2.0.4"), address("10.2.0.9"))]),
            ElementBody::default(),
        ),
        table.element("pairs", key(vec![prefix("10.2.0.0/24").into(), ports]), ElementBody::default()),
        table.element("triples", key(vec![link, v4("10.2.0.2"), Value::Proto(17).into()]), ElementBody::default()),
        table.element("marks", key(vec![prefix("10.2.0.0/30").into()]), ElementBody::data(Value::Mark(2))),
        table.element("ways", key(vec![v4("10.2.0.3")]), ElementBody::data(way)),
    ]
    .into()
}

fn a_shot(dice: &mut Dice, sport: u16) -> Shot {
    let family = if dice.chance(4) { Family::V6 } else { Family::V4 };
    let port = dice.port();
    let transport = match dice.roll(5) {
        0 | 1 => Transport::syn(sport, port),
        2 if dice.chance(3) => Transport::Icmp { kind: if family == Family::V4 { 8 } else { 128 }, target: None },
        _ => Transport::Udp { src: sport, dst: port },
    };
    let side = usize::from(family == Family::V6);
    let to_b = [
        ["10.2.0.2", "10.2.0.3", "10.2.0.4", "10.2.0.5", "10.1.0.1"],
        ["fd02::2", "fd02::2", "fd02::2", "fd01::1", "fd01::1"],
    ];
    match dice.roll(8) {
        0 => shot(From::B, B[side], [["10.1.0.2", "10.2.0.1"], ["fd01::2", "fd02::1"]][side][dice.roll(2)], transport),
        1 => shot(
            From::Router,
            ["10.2.0.1", "fd02::1"][side],
            [["10.2.0.2", "10.2.0.3"], ["fd02::2"; 2]][side][dice.roll(2)],
            transport,
        ),
        _ => shot(From::A, A[side], to_b[side][dice.roll(5)], transport),
    }
}

#[test]
fn random_tables_treat_random_packets_alike() {
    in_namespace(|| {
        let mut router = Router::new();
        let (mut steps, mut sport) = (0, 40_000);
        for seed in 1..=12u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (table, elements) = a_table(&mut dice);
            router.test(&table, &elements);
            let ruleset = Ruleset::new([&table], &elements).unwrap();
            for _ in 0..25 {
                sport += 1;
                let shot = a_shot(&mut dice, sport);
                let packet = router.simulated(&shot);
                let walk = router.compare(&ruleset, &table, &shot, packet);
                steps += walk.transit.trail.iter().filter(|step| step.rule.is_some()).count();
            }
        }
        assert!(steps > 1_500, "{steps} rules were met: too few to mean anything");
    });
}
