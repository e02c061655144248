//! Parts of the policies' tables: nothing leads to one that is not whole.

use std::net::Ipv4Addr;

use ripstop_kernel::Fault;
use ripstop_netmodel::*;
use ripstop_nft::model::{
    Chain, Data, ElementBody, ElementKey, Filling, Key as ElementValue, KeyPart, Name, Part, Rule, Set, Table,
    TableFamily, Type, Value, Verdict, build,
};

use ripstop_plan::{Action, Step};

use crate::support::*;

/// More than one transaction takes of what no packet meets yet.
const MANY: u32 = 70_000;

fn table() -> Object {
    NftTable { table: Table::new(TableFamily::Ip, NFT_POLICY_TABLE).set("egress", Set::vmap([Type::Ipv4Addr])) }.into()
}

/// A part that asks who is at the other end.
fn part(name: &'static str) -> Object {
    let blocks: Name = blocks(name);
    let rule = Rule::new([build::ip::saddr().vmap(&blocks), build::drop()]);
    let set = Set::vmap([Type::Ipv4Addr]).interval();
    let part = Part::new(TableFamily::Ip, NFT_POLICY_TABLE, name).set(&blocks, set);
    NftPart::from(part.chain(name, Chain::regular().rule(rule))).into()
}

fn blocks(part: &str) -> Name {
    format!("{part}/blocks").parse().unwrap()
}

fn element(set: Name, key: ElementValue, verdict: Verdict) -> Object {
    let key = ElementKey { family: TableFamily::Ip, table: Name::from(NFT_POLICY_TABLE), set, key };
    NftElement { key, body: ElementBody::data(Data::Verdict(verdict)) }.into()
}

/// What a part says of the addresses from one to another.
fn block(part: &str, first: Ipv4Addr, last: Ipv4Addr, verdict: Verdict) -> Object {
    let range = KeyPart::range(Value::from(std::net::IpAddr::V4(first)), Value::from(std::net::IpAddr::V4(last)));
    element(blocks(part), ElementValue::new(true, [range]), verdict)
}

/// What leads a pod to a part.
fn lead(pod: &str, part: &'static str) -> Object {
    element(Name::from("egress"), ElementValue::new(false, [addr(pod)]), Verdict::Jump(part.into()))
}

/// As a plan has them: what leads to parts comes behind all that lies in them.
fn in_order(objects: &[Object]) -> Vec<Step> {
    objects.iter().map(|object| step(Action::Create, None, Some(object))).collect()
}

#[test]
fn nothing_leads_to_a_part_that_is_not_whole() {
    on_a_node(|mut node| {
        let of = |last: u8| Ipv4Addr::new(192, 0, 2, last);
        let objects = [
            table(),
            part("peers/a"),
            part("peers/b"),
            part("ports/c"),
            block("peers/a", of(1), of(9), Verdict::Return),
            block("peers/b", of(1), of(9), Verdict::Return),
            // The kernel takes no two that overlap.
            block("peers/b", of(5), of(12), Verdict::Continue),
            block("ports/c", of(1), of(9), Verdict::Goto("peers/b".into())),
            lead("10.244.1.1", "peers/a"),
            lead("10.244.1.2", "peers/b"),
            lead("10.244.1.3", "ports/c"),
        ];
        let outcomes = node.run(&in_order(&objects));
        let failed: Vec<usize> =
            outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.index).collect();
        assert_eq!(failed.last(), Some(&10), "{outcomes:?}");
        for lead in [9, 10] {
            let fault = &outcomes[lead].result.as_ref().unwrap_err().fault;
            let is_it = matches!(fault, Fault::Unsupported(text) if text.contains("could not be written whole"));
            assert!(is_it, "{fault}");
        }
        node.assert_there(&objects[8..9]);
        node.assert_gone(&objects[9..]);
        // What was there before is led to as before, and what is mended is led to.
        let mended = [&objects[..6], &objects[7..]].concat();
        node.run(&in_order(&mended[4..])).into_iter().for_each(|outcome| outcome.result.unwrap());
        node.assert_there(&mended);
    });
}

#[test]
fn a_list_of_several_transactions_is_there_before_what_leads_to_it() {
    on_a_node(|mut node| {
        let start = Ipv4Addr::new(32, 0, 0, 0).to_bits();
        let one = |number: u32| Ipv4Addr::from_bits(start + 2 * number);
        let mut objects = vec![table(), part("peers/a")];
        objects.extend((0..MANY).map(|number| block("peers/a", one(number), one(number), Verdict::Return)));
        objects.push(lead("10.244.1.1", "peers/a"));
        node.run(&in_order(&objects)).into_iter().for_each(|outcome| outcome.result.unwrap());
        node.assert_there(&objects);
        // One more that fails belongs to the last of the transactions: the pod is not led to a list that has the others alone.
        let mut other = vec![part("peers/b")];
        other.extend((0..MANY).map(|number| block("peers/b", one(number), one(number), Verdict::Return)));
        other.push(block(
            "peers/b",
            one(MANY - 1),
            Ipv4Addr::from_bits(one(MANY - 1).to_bits() + 1),
            Verdict::Continue,
        ));
        other.push(lead("10.244.1.2", "peers/b"));
        let outcomes = node.run(&in_order(&other));
        assert!(outcomes[0].result.is_ok() && outcomes[1].result.is_ok(), "{:?}", &outcomes[..2]);
        assert!(outcomes.last().unwrap().result.is_err());
        node.assert_gone(&other[other.len() - 1..]);
    });
}

/// A part that is filled with so many addresses, each apart, and with this range.
fn filled(name: &'static str, count: u32, (first, last): (u32, u32)) -> Object {
    let ip = |number: u32| std::net::IpAddr::V4(Ipv4Addr::from_bits((32 << 24) + number));
    let apart = (0..count).map(|number| (2 * number, 2 * number));
    let ranges = apart.chain([(first, last)]).map(|(first, last)| (ip(first), ip(last))).collect();
    let filling = Filling { ranges, data: Data::Verdict(Verdict::Return) };
    let Object::NftPart(mut part) = part(name) else { unreachable!() };
    part.part.filled.insert(blocks(name), filling);
    part.into()
}

#[test]
fn a_part_is_filled_by_several_transactions_or_one_and_mended_where_another_hand_was() {
    on_a_node(|mut node| {
        node.make(&[table()]);
        for (name, count) in [("peers/a", 10), ("peers/b", MANY)] {
            let objects = [filled(name, count, (2 * count, 3 * count)), lead("10.244.1.1", name)];
            node.run(&in_order(&objects)).into_iter().for_each(|outcome| outcome.result.unwrap());
            node.assert_there(&objects);
            for change in ["delete element {} { 32.0.0.2 }", "add element {} { 10.0.0.1 : drop }"] {
                let set = format!("ip ripstop-policy {name}/blocks");
                run("nft", &[&change.replace("{}", &set)]);
                let found = node.observe(&objects);
                let [Some(was), Some(_)] = objects.each_ref().map(|one| found.get(&one.key())) else {
                    panic!("{found:?}")
                };
                assert_ne!(was.object, objects[0], "{change}");
                let mend = step(Action::Update, Some(&was.object), Some(&objects[0]));
                node.run(&[mend]).into_iter().for_each(|outcome| outcome.result.unwrap());
                node.assert_there(&objects);
            }
            node.remove(&objects[1..]);
        }
    });
}

#[test]
fn nothing_leads_to_a_part_that_could_not_be_filled() {
    on_a_node(|mut node| {
        node.make(&[table()]);
        for (name, count) in [("peers/a", 10), ("peers/b", MANY)] {
            // The kernel takes no two that overlap.
            let objects = [filled(name, count, (6, 7)), lead("10.244.1.1", name)];
            let outcomes = node.run(&in_order(&objects));
            assert!(outcomes.iter().all(|outcome| outcome.result.is_err()), "{outcomes:?}");
            let fault = &outcomes[1].result.as_ref().unwrap_err().fault;
            assert!(
                matches!(fault, Fault::Unsupported(text) if text.contains("could not be written whole")),
                "{fault}"
            );
            node.assert_gone(&objects[1..]);
        }
    });
}
