//! Tables and elements: one transaction, read back, foreign ones left alone.

use ripstop_kernel::{Fault, OnError};
use ripstop_netmodel::*;
use ripstop_nft::model::{
    Chain, Data, ElementBody, ElementKey, Hook, Key as ElementValue, Name, Part, Rule, Set, Table, TableFamily, Type,
    Verdict, build, priority,
};
use ripstop_plan::Action;

use crate::support::*;

fn table(rules: usize) -> Table {
    let mut forward = Chain::filter(Hook::Forward, priority::FILTER);
    for _ in 0..rules {
        forward = forward.rule(Rule::new([build::ip::saddr().not_in_set("pods"), build::counter(), build::drop()]));
    }
    Table::new(TableFamily::Inet, NFT_TABLE)
        .set("pods", Set::of([Type::Ipv4Addr]))
        .set("plain", Set::of([Type::Ipv4Addr]).interval())
        .set("ends", Set::map([Type::Ipv4Addr], [Type::Ipv4Addr]))
        .chain("forward", forward)
}

fn definition(rules: usize) -> Object {
    NftTable { table: table(rules) }.into()
}

fn element(set: &'static str, value: ElementValue, body: ElementBody) -> Object {
    let key = ElementKey { family: TableFamily::Inet, table: Name::from(NFT_TABLE), set: Name::from(set), key: value };
    NftElement { key, body }.into()
}

fn pod(ip: &str) -> Object {
    element("pods", ElementValue::new(false, [addr(ip)]), ElementBody::comment(&ripstop_types::Owner::agent()))
}

fn plain(range: &str) -> Object {
    element("plain", ElementValue::new(true, [prefix(range)]), ElementBody::default())
}

fn end(from: &str, to: &str) -> Object {
    element("ends", ElementValue::new(false, [addr(from)]), ElementBody::data(addr(to)))
}

fn whole() -> Vec<Object> {
    vec![
        definition(1),
        pod("10.244.1.5"),
        pod("10.244.1.6"),
        plain("10.244.0.0/16"),
        plain("192.0.2.1/32"),
        end("10.96.0.1", "10.244.1.5"),
    ]
}

#[test]
fn a_table_and_its_elements_are_written_and_read_back() {
    on_a_node(|mut node| {
        let objects = whole();
        node.make(&objects);
        node.assert_there(&objects);
        assert!(run("nft", &["list", "table", "inet", "ripstop"]).contains("10.244.1.6"));
        node.make(&objects[1..]);
        node.assert_there(&objects);
        // An element's owner is its comment.
        let model = node.observer.host(&model(&objects)).unwrap();
        assert_eq!(model.get(&objects[1].key()).unwrap().owner.as_ref().unwrap().as_str(), "agent");
        node.remove(&objects[1..3]);
        node.remove(&objects[1..3]);
        node.assert_gone(&objects[1..3]);
        node.assert_there(&objects[3..]);
        node.remove(&objects);
        node.remove(&objects);
        node.assert_gone(&objects);
        assert_eq!(run("nft", &["list", "tables"]), "");
    });
}

#[test]
fn a_table_that_another_hand_changed_is_not_the_wanted_one() {
    on_a_node(|mut node| {
        let objects = whole();
        node.make(&objects);
        run("nft", &["add", "rule", "inet", "ripstop", "forward", "accept"]);
        let found = node.observe(&objects[..1]);
        let entry = found.get(&objects[0].key()).unwrap();
        assert!(!objects[0].satisfied_by(&entry.object));
        let mut steps = vec![step(Action::Update, Some(&entry.object), Some(&objects[0]))];
        steps.extend(creations(&objects[1..]));
        for outcome in node.run(&steps) {
            outcome.result.unwrap();
        }
        node.assert_there(&objects);
        // Another definition is another table.
        let wider = definition(2);
        assert!(!wider.satisfied_by(&node.observe(std::slice::from_ref(&wider)).get(&wider.key()).unwrap().object));
    });
}

#[test]
fn an_element_with_another_value_is_replaced() {
    on_a_node(|mut node| {
        node.make(&whole());
        node.make(&[end("10.96.0.1", "10.244.1.6")]);
        node.assert_there(&[end("10.96.0.1", "10.244.1.6")]);
        // As a plan writes it: the old one goes and the new one comes in one transaction.
        let steps = [
            step(Action::Delete, Some(&end("10.96.0.1", "10.244.1.6")), None),
            step(Action::Create, None, Some(&end("10.96.0.1", "10.244.1.7"))),
            step(Action::Delete, Some(&pod("10.244.9.9")), None),
            step(Action::Create, None, Some(&pod("10.244.1.5"))),
        ];
        for outcome in node.run(&steps) {
            outcome.result.unwrap();
        }
        node.assert_there(&[end("10.96.0.1", "10.244.1.7"), pod("10.244.1.5")]);
    });
}

#[test]
fn a_bad_element_fails_alone_or_stops_all() {
    on_a_node(|mut node| {
        node.make(&whole());
        let overlapping = plain("10.244.0.0/17");
        let objects = [pod("10.244.1.8"), overlapping, pod("10.244.1.9")];
        let steps: Vec<_> = objects.iter().map(|object| step(Action::Create, None, Some(object))).collect();
        let outcomes = node.applier.run(&steps, OnError::Stop, &mut node.files);
        assert!(matches!(outcomes[1].result.as_ref().unwrap_err().fault, Fault::Refused { .. }), "{outcomes:?}");
        assert_eq!(outcomes[0].result.as_ref().unwrap_err().fault, Fault::NotRun);
        assert_eq!(outcomes[2].result.as_ref().unwrap_err().fault, Fault::NotRun);
        node.assert_gone(&[pod("10.244.1.8"), pod("10.244.1.9")]);
        let outcomes = node.run(&steps);
        assert!(outcomes[1].result.as_ref().unwrap_err().to_string().contains("10.244.0.0/17"), "{outcomes:?}");
        node.assert_there(&[pod("10.244.1.8"), pod("10.244.1.9")]);
    });
}

#[test]
fn tables_of_others_are_refused() {
    on_a_node(|mut node| {
        run("nft", &["add", "table", "inet", "other"]);
        let foreign = Object::from(NftTable { table: Table::new(TableFamily::Inet, "other") });
        for outcome in
            [creations(std::slice::from_ref(&foreign)), removals(&[foreign])].map(|steps| node.run(&steps).remove(0))
        {
            assert!(matches!(outcome.result.unwrap_err().fault, Fault::Foreign { .. }));
        }
        assert!(run("nft", &["list", "tables"]).contains("other"));
    });
}

#[test]
fn ten_thousand_elements_are_written_and_read() {
    on_a_node(|mut node| {
        let ips = (0..10_000u32).map(|i| std::net::Ipv4Addr::from_bits(0x0af4_0000 + i).to_string());
        let mut objects = vec![definition(1)];
        objects.extend(ips.map(|ip| pod(&ip)));
        let start = std::time::Instant::now();
        node.make(&objects);
        println!("10000 elements written in {:?}", start.elapsed());
        let start = std::time::Instant::now();
        node.assert_there(&objects);
        println!("read twice in {:?}", start.elapsed());
        node.remove(&objects[1..]);
        node.assert_gone(&objects[1..]);
    });
}

/// The table with a map of verdicts, and a part that an element of it leads to.
fn with_a_part(rules: usize, port: u16) -> Vec<Object> {
    let table = table(rules).set("ways", Set::vmap([Type::Ipv4Addr]));
    let map = Set::map([Type::Ipv4Addr], [Type::Ipv4Addr]).timeout().dynamic().size(100);
    let rule = Rule::new([build::tcp::dport().is(port), build::ip::saddr().in_set("pods"), build::drop()]);
    let part = Part::new(TableFamily::Inet, NFT_TABLE, "p/1").set("p/1", map);
    let part = part.chain("p/1", Chain::regular().rule(rule).comment("service/shop/web"));
    let way = ElementBody::data(Data::Verdict(Verdict::Goto("p/1".into())));
    let values = NftValues {
        family: TableFamily::Inet,
        table: NFT_TABLE.into(),
        map: "p/1".into(),
        values: [vec![addr("10.244.1.5").into()]].into(),
        found: false,
    };
    vec![
        NftTable { table }.into(),
        NftPart::from(part).into(),
        pod("10.244.1.5"),
        element("ways", ElementValue::new(false, [addr("10.96.0.1")]), way),
        values.into(),
    ]
}

#[test]
fn a_part_is_made_changed_mended_and_removed_in_a_table_that_stays() {
    on_a_node(|mut node| {
        let objects = with_a_part(1, 80);
        node.make(&objects);
        node.assert_there(&objects);
        let (table, part) = (&objects[0], &objects[1]);
        let handle = || run("nft", &["-a", "list", "tables"]);
        let first = handle();
        // What is read stands for what was written, with its owner, and for nothing else.
        let found = node.observer.host(&Model::new()).unwrap();
        let entry = found.get(&part.key()).unwrap();
        assert!(part.satisfied_by(&entry.object));
        assert_eq!(entry.owner.as_ref().unwrap().as_str(), "service/shop/web");
        let changed = with_a_part(1, 443);
        assert!(!changed[1].satisfied_by(&entry.object));
        node.make(&changed[1..2]);
        node.assert_there(&changed);
        // Another hand's rule, and its removal of one.
        for words in
            [&["insert", "rule", "inet", "ripstop", "p/1", "accept"][..], &["flush", "chain", "inet", "ripstop", "p/1"]]
        {
            run("nft", words);
            let found = node.observe(&changed);
            assert!(!changed[1].satisfied_by(&found.get(&part.key()).unwrap().object), "{words:?}");
            assert!(table.satisfied_by(&found.get(&table.key()).unwrap().object), "{words:?}");
            let steps = [step(Action::Update, Some(&found.get(&part.key()).unwrap().object), Some(&changed[1]))];
            node.run(&steps).remove(0).result.unwrap();
            node.assert_there(&changed);
        }
        assert_eq!(handle(), first);
        // Not while an element leads there; others of the same run are done.
        let steps = [step(Action::Create, None, Some(&pod("10.244.1.6"))), step(Action::Delete, Some(part), None)];
        let outcomes = node.run(&steps);
        assert!(outcomes[0].result.is_ok() && outcomes[1].result.is_err(), "{outcomes:?}");
        node.assert_there(&changed);
        node.remove(&objects[1..4]);
        node.remove(&objects[1..4]);
        node.assert_gone(&objects[1..4]);
        node.assert_there(&objects[..1]);
        assert_eq!(handle(), first);
    });
}

/// What is known of parts is kept between transactions, and read again behind another's.
#[test]
fn a_part_is_written_by_what_is_there_also_behind_another_hand() {
    on_a_node(|mut node| {
        let objects = with_a_part(1, 80);
        node.make(&objects[..1]);
        let part = |chains: u32, sets: u32| -> Object {
            let name = |what: &str, n: u32| format!("p/2/{what}{n}").parse::<Name>().unwrap();
            let part = Part::new(TableFamily::Inet, NFT_TABLE, "p/2");
            let part = (0..sets).fold(part, |part, n| part.set(name("s", n), Set::of([Type::Ipv4Addr])));
            let rule = |n: u32| Rule::new([build::meta::mark().is(n), build::drop()]);
            let chain = |n: u32| Chain::regular().rule(rule(n));
            NftPart::from((0..chains).fold(part, |part, n| part.chain(name("c", n), chain(n)))).into()
        };
        // Ours alone: less, more, none, and again; others' elements between them.
        for (chains, sets) in [(1, 1), (3, 2), (1, 3), (2, 1)] {
            node.make(&[part(chains, sets)]);
            node.make(&[pod("10.244.1.5")]);
            node.assert_there(&[part(chains, sets)]);
            node.remove(&[pod("10.244.1.5")]);
        }
        node.remove(&[part(2, 1)]);
        node.make(&[part(3, 3)]);
        // Another hand takes away what would be taken away, and makes what would be made.
        run("nft", &["delete", "set", "inet", "ripstop", "p/2/s2"]);
        run("nft", &["flush", "chain", "inet", "ripstop", "p/2/c2"]);
        run("nft", &["delete", "chain", "inet", "ripstop", "p/2/c2"]);
        node.make(&[part(1, 1)]);
        node.assert_there(&[part(1, 1)]);
        run("nft", &["delete", "table", "inet", "ripstop"]);
        node.make(&[objects[0].clone(), part(2, 2)]);
        node.assert_there(&[objects[0].clone(), part(2, 2)]);
        // The table anew has no parts.
        node.remove(&objects[..1]);
        node.make(&[objects[0].clone(), part(1, 2)]);
        node.assert_there(&[objects[0].clone(), part(1, 2)]);
        node.remove(&[part(1, 2)]);
        node.assert_gone(&[part(1, 2)]);
    });
}

#[test]
fn a_table_is_replaced_with_its_parts() {
    on_a_node(|mut node| {
        node.make(&with_a_part(1, 80));
        let wanted = with_a_part(2, 80);
        let keys = wanted.iter().map(Resource::key).collect();
        let found = node.observe(&wanted);
        let plan = ripstop_plan::diff(&found, &model(&wanted), &keys, &|_: &Key, _: &Entry| Ok(()));
        assert_eq!(plan.steps.len(), wanted.len(), "{plan:?}");
        for outcome in node.run(&plan.steps) {
            outcome.result.unwrap();
        }
        node.assert_there(&wanted);
    });
}

#[test]
fn a_map_that_packets_fill_is_held_to_the_values_it_may_have() {
    on_a_node(|mut node| {
        let objects = with_a_part(1, 80);
        node.make(&objects);
        let add = |from: &str, to: &str| {
            run("nft", &["add", "element", "inet", "ripstop", "p/1", &format!("{{ {from} timeout 60s : {to} }}")])
        };
        add("192.0.2.1", "10.244.1.5");
        add("192.0.2.2", "10.244.1.6");
        let values = &objects[4];
        let found = node.observe(&objects);
        assert!(!values.satisfied_by(&found.get(&values.key()).unwrap().object));
        let listed = || run("nft", &["list", "map", "inet", "ripstop", "p/1"]);
        // Nothing is looked for where no value goes.
        node.run(&[step(Action::Update, Some(values), Some(values))]).remove(0).result.unwrap();
        assert!(listed().contains("192.0.2.2"));
        node.run(&[step(Action::Update, Some(&found.get(&values.key()).unwrap().object), Some(values))])
            .remove(0)
            .result
            .unwrap();
        assert!(!listed().contains("192.0.2.2") && listed().contains("192.0.2.1"), "{}", listed());
        node.assert_there(&objects);
        // Many of them.
        let many: Vec<String> = (0..99u8).map(|n| format!("198.51.100.{n} timeout 60s : 10.244.1.7")).collect();
        run("nft", &["add", "element", "inet", "ripstop", "p/1", &format!("{{ {} }}", many.join(", "))]);
        node.make(&objects[4..]);
        assert!(!listed().contains("198.51.100"), "{}", listed());
    });
}
