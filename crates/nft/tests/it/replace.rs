//! Whole tables: replaced at once or not at all, and recognised when another hand was in them.

use ripstop_nft::decode::{Answers, Message, messages};
use ripstop_nft::encode::{Batch, Object, digest};
use ripstop_nft::model::build::*;
use ripstop_nft::model::*;

use crate::fixture::{address, elements, matches, prefix};
use crate::kernel::{Socket, in_namespace, listed, run};

fn small() -> Table {
    Table::new(TableFamily::Inet, "ripstop").set("pods", Set::of([Type::Ipv4Addr])).chain(
        "forward",
        Chain::filter(Hook::Forward, priority::FILTER).rules([
            Rule::new([ip::saddr().in_set("pods"), accept()]).comment("first"),
            Rule::new([tcp::dport().one_of([80, 443]), accept()]).comment("second"),
            Rule::new([counter(), drop()]).comment("third"),
        ]),
    )
}

fn replace(socket: &mut Socket, table: &Table) {
    let mut batch = Batch::new();
    batch.replace_table(table, []).unwrap();
    socket.apply(batch).unwrap();
}

#[test]
fn a_table_is_replaced_with_its_elements_and_deleted() {
    in_namespace(|| {
        let mut socket = Socket::open();
        let family = TableFamily::Inet;
        let name = Name::from("ripstop");
        // Where none is, over another hand's, and over its own.
        replace(&mut socket, &small());
        let first = socket.observe(family, &name).unwrap();
        run("nft", &["delete", "table", "inet", "ripstop"]);
        run("nft", &["add", "table", "inet", "ripstop", "{ flags dormant; chain x { }; }"]);
        replace(&mut socket, &small());
        let own: Vec<_> = elements().into_iter().filter(|(key, _)| key.table == name).collect();
        let mut batch = Batch::new();
        batch.replace_table(&matches(), own.iter().map(|(key, body)| (key, body))).unwrap();
        socket.apply(batch).unwrap();
        let seen = socket.observe(family, &name).unwrap();
        assert!(seen.intact && seen.handle != first.handle);
        assert_eq!(seen.elements.len(), own.len());

        for _ in 0..2 {
            let mut batch = Batch::new();
            batch.destroy_table(family, &name).unwrap();
            socket.apply(batch).unwrap();
            assert_eq!(socket.observe(family, &name), None);
        }
        let mut batch = Batch::new();
        batch.delete_table(family, &name).unwrap();
        let failure = socket.apply(batch).unwrap_err();
        assert!(failure.is_missing() && failure.to_string().contains("delete table inet ripstop"), "{failure}");
    });
}

#[test]
fn a_failed_replace_keeps_the_old_table_and_names_the_object() {
    in_namespace(|| {
        let mut socket = Socket::open();
        replace(&mut socket, &small());
        let before = listed("inet", "ripstop");
        let bad = masquerade_under_filter(matches());
        let mut batch = Batch::new();
        batch.replace_table(&bad, []).unwrap();
        let failure = socket.apply(batch).unwrap_err();
        assert!(failure.to_string().contains("of chain inet ripstop input"), "{failure}");
        assert_eq!(listed("inet", "ripstop"), before);
        assert!(socket.observe(TableFamily::Inet, &"ripstop".into()).unwrap().intact);
    });
}

/// A regular chain with a masquerade is fine by itself, but not where a filter chain leads to it.
fn masquerade_under_filter(table: Table) -> Table {
    table
        .chain("hide", Chain::regular().rule(Rule::new([masquerade()])))
        .chain("input", Chain::filter(Hook::Input, 0).rule(Rule::new([jump("hide")]).comment("agent")))
}

#[test]
fn a_refused_rule_is_named() {
    in_namespace(|| {
        let mut socket = Socket::open();
        let table = masquerade_under_filter(Table::new(TableFamily::Inet, "ripstop"));
        let mut batch = Batch::new();
        batch.add_table(&table).unwrap();
        let failure = socket.apply(batch).unwrap_err();
        let sentence = failure.to_string();
        assert!(sentence.contains("rule 1 of chain inet ripstop input (jump hide comment \"agent\")"), "{sentence}");
        assert_eq!(socket.observe(TableFamily::Inet, &"ripstop".into()), None);
    });
}

#[test]
fn a_changed_ruleset_stops_a_batch_made_for_the_old_one() {
    in_namespace(|| {
        let mut socket = Socket::open();
        let generation = socket.generation();
        let mut batch = Batch::at_generation(generation);
        batch.replace_table(&small(), []).unwrap();
        socket.apply(batch).unwrap();
        let mut batch = Batch::at_generation(generation);
        batch.delete_table(TableFamily::Inet, &"ripstop".into()).unwrap();
        let failure = socket.apply(batch).unwrap_err();
        assert!(failure.is_stale() && failure.object.is_none(), "{failure}");
        assert!(failure.to_string().contains("changed by another hand"), "{failure}");
        // The socket is in step again.
        let mut batch = Batch::at_generation(socket.generation());
        batch.delete_table(TableFamily::Inet, &"ripstop".into()).unwrap();
        socket.apply(batch).unwrap();
    });
}

#[test]
fn another_hand_is_recognised() {
    let handle = |rule: &str| {
        let text = run("nft", &["-a", "list", "table", "inet", "ripstop"]);
        let line = text.lines().find(|line| line.contains(rule)).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    in_namespace(move || {
        let mut socket = Socket::open();
        type Hand = Box<dyn Fn()>;
        let nft = |args: &'static str| -> Hand { Box::new(move || drop_text(run("nft", &[args]))) };
        let hands: Vec<(&str, Hand)> = vec![
            ("a rule added", nft("add rule inet ripstop forward counter")),
            ("a rule inserted", nft("insert rule inet ripstop forward counter")),
            (
                "a rule removed",
                Box::new(move || {
                    drop_text(run(
                        "nft",
                        &["delete", "rule", "inet", "ripstop", "forward", "handle", &handle("second")],
                    ))
                }),
            ),
            (
                "a rule replaced, comment kept",
                Box::new(move || {
                    let rule = format!(
                        "replace rule inet ripstop forward handle {} accept comment \"third\"",
                        handle("third")
                    );
                    drop_text(run("nft", &[&rule]));
                }),
            ),
            ("rules moved", Box::new(last_rule_first)),
            ("all rules flushed", nft("flush chain inet ripstop forward")),
            ("a chain added", nft("add chain inet ripstop other")),
            ("the policy changed", nft("add chain inet ripstop forward { policy drop; }")),
            ("a set added", nft("add set inet ripstop other { type mark; }")),
            ("the table put to sleep", nft("add table inet ripstop { flags dormant; }")),
            (
                "deleted and loaded from a listing",
                Box::new(|| {
                    let text = listed("inet", "ripstop");
                    run("nft", &["delete table inet ripstop"]);
                    run("nft", &[&text]);
                }),
            ),
        ];
        for (what, hand) in hands {
            replace(&mut socket, &small());
            let seen = socket.observe(TableFamily::Inet, &"ripstop".into()).unwrap();
            assert!(seen.intact && seen.digest == Some(digest(&small())));
            assert_eq!(seen.differences(&small()), Vec::<String>::new());
            hand();
            let seen = socket.observe(TableFamily::Inet, &"ripstop".into()).unwrap();
            assert!(!seen.intact, "{what}: {seen:#?}");
            assert_eq!(seen.differences(&small()).len(), 1, "{what}: {:?}", seen.differences(&small()));
        }
        replace(&mut socket, &small());
        run("nft", &["add element inet ripstop pods { 10.0.0.1 }"]);
        assert!(socket.observe(TableFamily::Inet, &"ripstop".into()).unwrap().intact, "elements do not count");
    });
}

fn drop_text(_: String) {}

/// Moves the last rule of the chain before the first with its userdata as it was: what no listing would show.
fn last_rule_first() {
    let mut socket = Socket::open();
    let name = Name::from("ripstop");
    let raw = socket.dump_raw(|seq| ripstop_nft::encode::dump_rules(seq, TableFamily::Inet, Some(&name)));
    socket.move_rule_to_front(&raw[2]);
    let rules: Vec<_> = socket
        .dump(|seq| ripstop_nft::encode::dump_rules(seq, TableFamily::Inet, Some(&name)))
        .into_iter()
        .filter_map(|message| match message {
            Message::Rule(rule) => rule.comment,
            _ => None,
        })
        .collect();
    assert_eq!(rules, ["third", "first", "second"]);
}

#[test]
fn digests_differ_with_every_part_of_a_definition() {
    let base = small();
    let mut seen = std::collections::BTreeSet::from([digest(&base)]);
    let mut differs = |table: Table| assert!(seen.insert(digest(&table)), "{table}");
    differs(base.clone().comment("x"));
    differs(base.clone().set("more", Set::of([Type::Mark])));
    differs(base.clone().set("pods", Set::of([Type::Ipv4Addr]).interval()));
    differs(base.clone().set("pods", Set::of([Type::Ipv4Addr]).comment("x")));
    differs(base.clone().set("pods", Set::of([Type::Ipv4Addr]).size(7)));
    differs(base.clone().chain("more", Chain::regular()));
    let with = |change: &dyn Fn(&mut Chain)| {
        let mut table = base.clone();
        change(table.chains.get_mut(&Name::from("forward")).unwrap());
        table
    };
    differs(with(&|chain| chain.rules.swap(0, 1)));
    differs(with(&|chain| drop_rule(chain)));
    differs(with(&|chain| chain.base.as_mut().unwrap().priority = 1));
    differs(with(&|chain| chain.base.as_mut().unwrap().policy = Policy::Drop));
    differs(with(&|chain| chain.comment = Some("x".into())));
    differs(with(&|chain| chain.rules[0].comment = None));
    differs(with(&|chain| chain.rules[1].statements[0] = tcp::dport().one_of([80, 444])));
    differs(with(&|chain| chain.rules[2].statements[1] = accept()));
    assert_eq!(digest(&base), digest(&small()));
}

fn drop_rule(chain: &mut Chain) {
    chain.rules.pop();
}

#[test]
fn a_change_is_announced_with_its_generation() {
    in_namespace(|| {
        let (mut socket, watch) = (Socket::open(), Socket::open());
        watch.join(7);
        replace(&mut socket, &small());
        let generation = socket.generation();
        let announced = std::iter::repeat_with(|| messages(&watch.receive()).unwrap())
            .flatten()
            .find_map(|one| match one.message {
                Message::Generation(generation) => Some(generation),
                _ => None,
            })
            .unwrap();
        assert_eq!(announced.id, generation);
        // The kernel tells the number in the first namespace of processes, whose inode is fixed (PROC_PID_INIT_INO).
        if std::fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns.as_os_str() == "pid:[4026531836]") {
            // SAFETY: takes nothing, changes nothing.
            assert_eq!(announced.thread, u32::try_from(unsafe { libc::gettid() }).ok());
        }
        assert!(announced.program.is_some());
    });
}

#[test]
fn a_batch_of_nothing_is_answered_by_nothing() {
    let encoded = Batch::new().finish(7);
    assert!(Answers::to(&encoded).take(&[]).unwrap());
    assert_eq!(encoded.object(7), None);
    let mut batch = Batch::new();
    batch.add_table(&small()).unwrap();
    let encoded = batch.finish(u32::MAX - 1);
    // Numbers wrap around.
    assert_eq!(encoded.object(u32::MAX), Some(&Object::Table { family: TableFamily::Inet, table: "ripstop".into() }));
    assert!(matches!(encoded.object(0), Some(Object::Set { .. })));
}

#[test]
fn mistakes_are_found_before_the_kernel_sees_them() {
    let chain = |rule: Rule| Chain::filter(Hook::Forward, 0).rule(rule);
    let of = |rule: Rule| small().chain("x", chain(rule));
    let inline = |parts: Vec<KeyPart>| {
        Statement::Match(Match {
            fields: vec![Selector::IpSaddr],
            mask: None,
            relation: Relation::Is,
            operand: Operand::Set(SetRef::Inline(vec![parts])),
        })
    };
    let cases = [
        (of(Rule::new([ip::saddr().in_set("nosuch"), accept()])), "no set nosuch"),
        (of(Rule::new([ip6::saddr().in_set("pods"), accept()])), "fields [Ipv6Addr]"),
        (of(Rule::new([jump("nosuch")])), "no chain nosuch"),
        (of(Rule::new([jump("forward")])), "base chain"),
        (of(Rule::new([accept(), counter()])), "others follow"),
        (of(Rule::new([])), "no statement"),
        (of(Rule::new([masquerade()])), "type filter"),
        (of(Rule::new([inline(vec![Value::Service(1).into()])])), "Ipv4Addr is accepted"),
        (of(Rule::new([ip::daddr().vmap("pods")])), "map pods gives None"),
        (of(Rule::new([update_set("pods", ip::saddr(), None)])), "flag dynamic"),
        (of(Rule::new([limit(0, TimeUnit::Second), accept()])), "rate 0"),
        (of(Rule::new([meta::iifname().one_of(["rip*"]), accept()])), "pattern"),
        (of(Rule::new([icmpv6::nd_target().within(prefix("fd00::/8")), accept()])), "icmpv6 type"),
        (of(Rule::new([arp::saddr_ip().is([1, 2, 3, 4]), accept()])), "family inet"),
        (small().set("odd", Set::of([Type::Mark]).interval()), "no order"),
        (small().set("odd", Set::of([])), "no key field"),
        (small().chain("in", Chain::filter(Hook::Ingress, 0)), "device"),
        (small().chain("n", Chain::nat(Hook::Forward, 0)), "type nat at hook forward"),
        (
            small()
                .chain("a", Chain::regular().rule(Rule::new([jump("b")])))
                .chain("b", Chain::regular().rule(Rule::new([goto("a")]))),
            "circle",
        ),
        (
            Table::new(TableFamily::Ip, "t").chain(
                "n",
                Chain::nat(Hook::Prerouting, -100).rule(Rule::new([Statement::Nat(Nat {
                    kind: NatKind::Dnat,
                    family: ripstop_types::Family::V4,
                    to: NatTo::Address(address("fd00::1"), None),
                    flags: NatFlags::default(),
                })])),
            ),
            "not of family",
        ),
    ];
    for (table, expected) in cases {
        let fault = Batch::new().add_table(&table).unwrap_err().to_string();
        assert!(fault.contains(expected), "{fault:?} does not say {expected:?}");
        assert!(fault.starts_with("table "), "{fault}");
    }
}
