//! Tables and elements: one transaction, read back, foreign ones left alone.

use ripstop_kernel::{Fault, OnError};
use ripstop_netmodel::*;
use ripstop_nft::model::{
    Chain, ElementBody, ElementKey, Hook, Key as ElementValue, Name, Rule, Set, Table, TableFamily, Type, build,
    priority,
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
