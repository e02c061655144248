//! Elements one by one and by the thousand.

use std::net::{IpAddr, Ipv4Addr};

use ripstop_nft::encode::Batch;
use ripstop_nft::model::*;
use ripstop_nft::text;
use ripstop_types::{IfName, Prefix};

use crate::fixture::{Elements, address, prefix};
use crate::kernel::{Socket, in_namespace, listed, run};

fn table() -> Table {
    Table::new(TableFamily::Inet, "ripstop")
        .set("pods", Set::of([Type::IfName, Type::Ipv4Addr]))
        .set("cluster", Set::of([Type::Ipv4Addr]).interval())
        .set("marks", Set::map([Type::Ipv4Addr], [Type::Mark]).interval())
        .set("ports", Set::of([Type::InetService]).interval())
        .set("six", Set::of([Type::Ipv6Addr]).interval())
        .set("names", Set::map([Type::Ipv4Addr], [Type::Mark]))
        .set("pairs", Set::of([Type::Ipv4Addr, Type::InetService]).interval())
        .set("fading", Set::of([Type::Ipv4Addr]).timeout())
}

fn with_table(test: impl FnOnce(Socket, Table) + Send + 'static) {
    in_namespace(|| {
        let (mut socket, table) = (Socket::open(), table());
        let mut batch = Batch::new();
        batch.add_table(&table).unwrap();
        socket.apply(batch).unwrap();
        test(socket, table);
    });
}

fn one(table: &Table, set: &'static str, part: impl Into<KeyPart>) -> (ElementKey, ElementBody) {
    table.element(set, Key::new(false, [part.into()]), ElementBody::default())
}

fn add(socket: &mut Socket, elements: &[(ElementKey, ElementBody)]) {
    let mut batch = Batch::new();
    batch.add_elements(elements.iter().map(|(key, body)| (key, body))).unwrap();
    socket.apply(batch).unwrap();
}

fn delete(socket: &mut Socket, elements: &[(ElementKey, ElementBody)]) {
    let mut batch = Batch::new();
    batch.delete_elements(elements.iter().map(|(key, _)| key)).unwrap();
    socket.apply(batch).unwrap();
}

/// What the kernel holds is exactly this, and `nft` shows it so.
fn holds(socket: &mut Socket, table: &Table, elements: &[(ElementKey, ElementBody)]) {
    let wanted: Elements = elements.iter().cloned().collect();
    let seen = socket.observe(table.family, &table.name).unwrap();
    assert!(seen.intact);
    assert_eq!(seen.elements, wanted);
    assert_eq!(listed("inet", "ripstop"), text::table(table, &wanted));
}

#[test]
fn intervals_come_and_go_one_by_one_beside_their_neighbours() {
    with_table(|mut socket, table| {
        let of = |text: &str| one(&table, "cluster", prefix(text));
        let mut present = Vec::new();
        // Middle, right neighbour, left neighbour, both ends of the numbers.
        for text in ["10.0.1.0/24", "10.0.2.0/24", "10.0.0.0/24", "0.0.0.0/8", "255.255.255.0/24", "10.0.3.7/32"] {
            present.push(of(text));
            add(&mut socket, &present[present.len() - 1..]);
            holds(&mut socket, &table, &present);
        }
        for text in ["10.0.1.0/24", "0.0.0.0/8", "255.255.255.0/24", "10.0.0.0/24"] {
            let gone = of(text);
            delete(&mut socket, std::slice::from_ref(&gone));
            present.retain(|element| *element != gone);
            holds(&mut socket, &table, &present);
        }
        // And again where one was.
        present.push(of("10.0.1.0/24"));
        add(&mut socket, &present[present.len() - 1..]);
        holds(&mut socket, &table, &present);
    });
}

#[test]
fn everything_is_an_interval_too() {
    with_table(|mut socket, table| {
        let all = [
            one(&table, "cluster", prefix("0.0.0.0/0")),
            one(&table, "six", prefix("::/0")),
            one(&table, "ports", KeyPart::range(Value::Service(0), Value::Service(65_535))),
        ];
        add(&mut socket, &all);
        let wanted: Elements = all.iter().cloned().collect();
        assert_eq!(socket.observe(table.family, &table.name).unwrap().elements, wanted);
        delete(&mut socket, &all);
        holds(&mut socket, &table, &[]);
    });
}

#[test]
fn a_second_add_changes_nothing_and_an_overlap_is_named() {
    with_table(|mut socket, table| {
        let present = [one(&table, "cluster", prefix("10.0.0.0/16")), one(&table, "cluster", prefix("10.9.0.0/16"))];
        add(&mut socket, &present);
        add(&mut socket, &present);
        holds(&mut socket, &table, &present);
        let (key, body) = one(&table, "cluster", prefix("10.0.1.0/24"));
        let mut batch = Batch::new();
        batch.add_elements([(&key, &body)]).unwrap();
        let failure = socket.apply(batch).unwrap_err();
        assert!(failure.to_string().contains("element inet ripstop cluster { 10.0.1.0/24 }"), "{failure}");
        holds(&mut socket, &table, &present);
    });
}

#[test]
fn a_maps_value_changes_by_delete_and_add_in_one_batch() {
    with_table(|mut socket, table| {
        let entry = |mark| {
            let key = Key::new(false, [KeyPart::from(address("10.0.0.1"))]);
            table.element("names", key, ElementBody::data(Value::Mark(mark)))
        };
        let range = |mark| {
            let key = Key::new(false, [KeyPart::from(prefix("10.0.0.0/8"))]);
            table.element("marks", key, ElementBody::data(Value::Mark(mark)))
        };
        add(&mut socket, &[entry(1), range(1)]);
        let mut batch = Batch::new();
        for (key, body) in [entry(2), range(2)] {
            batch.delete_elements([&key]).unwrap();
            batch.add_elements([(&key, &body)]).unwrap();
        }
        socket.apply(batch).unwrap();
        holds(&mut socket, &table, &[entry(2), range(2)]);
        // Without the delete the kernel refuses, and says which.
        let mut batch = Batch::new();
        let (key, body) = entry(3);
        batch.add_elements([(&key, &body)]).unwrap();
        let failure = socket.apply(batch).unwrap_err();
        assert!(failure.is_present(), "{failure}");
        assert_eq!(failure.object, Some(ripstop_nft::encode::Object::Element(key)));
    });
}

#[test]
fn timeouts_are_written_and_seen() {
    with_table(|mut socket, table| {
        let (key, _) = one(&table, "fading", address("10.0.0.1"));
        let body = ElementBody { timeout: Some(3_600), ..ElementBody::comment("for an hour") };
        add(&mut socket, &[(key.clone(), body.clone())]);
        holds(&mut socket, &table, &[(key, body)]);
    });
}

#[test]
fn the_missing_element_of_many_is_named() {
    with_table(|mut socket, table| {
        let many: Vec<_> =
            (0..2_000u32).map(|i| one(&table, "names", Value::Ipv4(Ipv4Addr::from(0x0a00_0000 + i)))).collect();
        let with_data: Vec<_> = many.iter().map(|(key, _)| (key.clone(), ElementBody::data(Value::Mark(7)))).collect();
        add(&mut socket, &with_data);
        let missing = one(&table, "names", Value::Ipv4(Ipv4Addr::new(10, 200, 0, 1)));
        let mut batch = Batch::new();
        let (before, behind) = many.split_at(1_234);
        batch.delete_elements(before.iter().chain([&missing]).chain(behind).map(|(key, _)| key)).unwrap();
        let failure = socket.apply(batch).unwrap_err();
        assert!(failure.is_missing(), "{failure}");
        assert!(failure.to_string().contains("delete element inet ripstop names { 10.200.0.1 }"), "{failure}");
        holds(&mut socket, &table, &with_data);
    });
}

#[test]
fn ten_thousand_pods() {
    with_table(|mut socket, table| {
        let element = |i: u32| {
            let name: IfName = format!("rip{i:x}").parse().unwrap();
            let ip = IpAddr::from(Ipv4Addr::from(0x0af4_0000 + i));
            let key = Key::new(false, [KeyPart::from(&name), KeyPart::from(ip)]);
            table.element("pods", key, ElementBody::comment(format!("pod/default/web-{i}")))
        };
        let range = |i: u32| {
            one(&table, "cluster", Prefix::containing(Ipv4Addr::from(0x0a00_0000 + (i << 8)).into(), 24).unwrap())
        };
        let pods: Elements = (0..10_000).map(element).collect();
        let ranges: Elements = (0..10_000).map(range).collect();
        let all: Elements = pods.clone().into_iter().chain(ranges).collect();
        let mut batch = Batch::new();
        batch.replace_table(&table, &all).unwrap();
        socket.apply(batch).unwrap();
        assert_eq!(socket.observe(table.family, &table.name).unwrap().elements, all);

        let (gone, kept): (Elements, Elements) =
            all.into_iter().enumerate().fold(Default::default(), |mut acc, (i, e)| {
                if i % 2 == 0 {
                    acc.0.insert(e.0, e.1)
                } else {
                    acc.1.insert(e.0, e.1)
                };
                acc
            });
        let mut batch = Batch::new();
        batch.delete_elements(gone.keys()).unwrap();
        socket.apply(batch).unwrap();
        let seen = socket.observe(table.family, &table.name).unwrap();
        assert!(seen.intact && seen.elements == kept);
    });
}

#[test]
fn elements_of_another_hand_are_seen() {
    with_table(|mut socket, table| {
        add(&mut socket, &[one(&table, "cluster", prefix("10.0.0.0/24"))]);
        run("nft", &["add", "element", "inet", "ripstop", "cluster", "{ 10.7.0.0/16, 10.0.1.0/24 }"]);
        run("nft", &["add", "element", "inet", "ripstop", "pods", "{ \"rip9\" . 10.0.0.9 }"]);
        run("nft", &["add", "element", "inet", "ripstop", "pairs", "{ 10.0.0.0/24 . 80-90, 1.2.3.4 . 5 }"]);
        run("nft", &["add", "element", "inet", "ripstop", "names", "{ * : 7 }"]);
        let seen = socket.observe(table.family, &table.name).unwrap();
        // The definition is untouched; elements are compared one by one.
        assert!(seen.intact);
        assert_eq!(seen.foreign_elements, 1);
        let found: Vec<String> = seen.elements.keys().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "inet ripstop cluster { 10.0.0.0/24 }",
                "inet ripstop cluster { 10.0.1.0/24 }",
                "inet ripstop cluster { 10.7.0.0/16 }",
                "inet ripstop pairs { 1.2.3.4 . 5 }",
                "inet ripstop pairs { 10.0.0.0/24 . 80-90 }",
                "inet ripstop pods { \"rip9\" . 10.0.0.9 }",
            ]
        );
        let mut batch = Batch::new();
        batch.delete_elements(seen.elements.keys()).unwrap();
        socket.apply(batch).unwrap();
        assert_eq!(socket.observe(table.family, &table.name).unwrap().elements, Elements::new());
    });
}
