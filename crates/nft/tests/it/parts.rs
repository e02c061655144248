//! Parts of tables: made, recognised, changed where they stand, removed.

use std::net::{IpAddr, Ipv4Addr};

use ripstop_nft::Digest;
use ripstop_nft::encode::{Batch, digest, part_digest};
use ripstop_nft::model::build::*;
use ripstop_nft::model::*;
use ripstop_types::Family;

use crate::kernel::{Socket, in_namespace, listed, run};

const FAMILY: TableFamily = TableFamily::Ip;

fn table() -> Table {
    let to = Set::map([Type::Ipv4Addr], [Type::Ipv4Addr, Type::InetService]);
    Table::new(FAMILY, "t")
        .set("ways", Set::vmap([Type::Ipv4Addr]))
        .set("to", to)
        .chain("prerouting", Chain::nat(Hook::Prerouting, priority::DSTNAT).rule(Rule::new([ip::daddr().vmap("ways")])))
}

fn part(timeout: u32, size: u32) -> Part {
    let learned = Set::map([Type::Ipv4Addr], [Type::Ipv4Addr, Type::InetService]).timeout().dynamic().size(size);
    let with_ports = || meta::l4proto().one_of([Proto::TCP, Proto::UDP]);
    let learn = update_map("p/1", saddr(Family::V4), (daddr(Family::V4), th::dport()), Some(timeout));
    Part::new(FAMILY, "t", "p/1")
        .set("p/1", learned.comment("who went where"))
        .chain(
            "p/1",
            Chain::regular().comment("service/shop/web").rules([
                Rule::new([with_ports(), dnat_port_map(Family::V4, saddr(Family::V4), "p/1")]),
                Rule::new([with_ports(), dnat_port_map(Family::V4, daddr(Family::V4), "to")]),
            ]),
        )
        .chain("p/1/learn", Chain::regular().rule(Rule::new([with_ports(), learn])))
}

fn way() -> (ElementKey, ElementBody) {
    let key = Key::new(false, ["10.96.0.1".parse::<Ipv4Addr>().unwrap()]);
    table().element("ways", key, ElementBody::data(Data::Verdict(Verdict::Goto("p/1".into()))))
}

fn write(socket: &mut Socket, part: &Part) {
    assert_eq!(table().check_part(part), Ok(()));
    let there = socket.observe(FAMILY, &"t".into()).and_then(|table| table.parts.get(&part.name).cloned());
    let mut batch = Batch::new();
    batch.write_part(part, there.as_ref()).unwrap();
    socket.apply(batch).unwrap();
}

fn set_up(socket: &mut Socket) {
    let mut batch = Batch::new();
    batch.add_table(&table()).unwrap();
    batch.write_part(&part(10, 100), None).unwrap();
    let (key, body) = way();
    batch.add_elements([(&key, &body)]).unwrap();
    socket.apply(batch).unwrap();
}

#[test]
fn a_part_is_written_with_its_table_and_is_none_of_its_definition() {
    in_namespace(|| {
        let mut socket = Socket::open();
        set_up(&mut socket);
        let seen = socket.observe(FAMILY, &"t".into()).unwrap();
        assert!(seen.intact && seen.digest == Some(digest(&table())), "{seen:?}");
        assert!(seen.differences(&table()).is_empty());
        assert_eq!(seen.chains.len(), 1);
        assert_eq!(seen.elements.len(), 1);
        let found = &seen.parts[&"p/1".into()];
        assert_eq!(found.digest, part_digest(&part(10, 100)));
        assert_eq!(found.comment.as_deref(), Some("service/shop/web"));
        assert_eq!(found.chains.len(), 2);
        let text = listed("ip", "t");
        for line in [
            "dnat ip to ip saddr map @p/1",
            "update @p/1 { ip saddr timeout 10s : ip daddr . th dport }",
            "goto p/1",
            "size 100",
            "flags dynamic,timeout",
            "comment \"service/shop/web\"",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    });
}

#[test]
fn a_changed_part_keeps_what_leads_to_it_and_sets_that_are_declared_as_before() {
    in_namespace(|| {
        let mut socket = Socket::open();
        set_up(&mut socket);
        run("nft", &["add", "element", "ip", "t", "p/1", "{ 10.0.0.1 : 10.0.0.2 . 80 }"]);
        let change = |socket: &mut Socket, part: &Part| {
            write(socket, part);
            let seen = socket.observe(FAMILY, &"t".into()).unwrap();
            assert!(seen.intact);
            assert_eq!(seen.elements.len(), 1, "{seen:?}");
            assert_eq!(seen.parts[&part.name].digest, part_digest(part));
            listed("ip", "t").contains("10.0.0.1 : 10.0.0.2 . 80")
        };
        assert!(change(&mut socket, &part(20, 100)));
        // Written again as it is.
        assert!(change(&mut socket, &part(20, 100)));
        let more = part(20, 100).chain("p/1/more", Chain::regular().rule(Rule::new([drop()])));
        assert!(change(&mut socket, &more));
        assert!(change(&mut socket, &part(20, 100)), "a chain that nothing leads to goes");
        assert!(!change(&mut socket, &part(20, 200)), "another set has none of the elements");
    });
}

#[test]
fn another_hand_is_seen_and_a_part_goes_when_nothing_leads_there() {
    in_namespace(|| {
        let mut socket = Socket::open();
        set_up(&mut socket);
        run("nft", &["insert", "rule", "ip", "t", "p/1", "accept"]);
        let seen = socket.observe(FAMILY, &"t".into()).unwrap();
        assert!(seen.intact, "the table is as it was");
        assert_ne!(seen.parts[&"p/1".into()].digest, part_digest(&part(10, 100)));
        write(&mut socket, &part(10, 100));
        run("nft", &["flush", "chain", "ip", "t", "p/1"]);
        let found = socket.observe(FAMILY, &"t".into()).unwrap().parts.remove(&"p/1".into()).unwrap();
        assert_ne!(found.digest, part_digest(&part(10, 100)));
        let delete = |socket: &mut Socket| {
            let mut batch = Batch::new();
            batch.delete_part(&found).unwrap();
            socket.apply(batch)
        };
        let failure = delete(&mut socket).unwrap_err();
        assert!(failure.to_string().contains("delete chain ip t p/1"), "{failure}");
        let mut batch = Batch::new();
        batch.delete_elements([&way().0]).unwrap();
        socket.apply(batch).unwrap();
        delete(&mut socket).unwrap();
        let seen = socket.observe(FAMILY, &"t".into()).unwrap();
        assert!(seen.intact && seen.parts.is_empty(), "{seen:?}");
    });
}

/// A part that drops what comes from these ranges.
fn blocks(ranges: &[(u8, u8)]) -> Part {
    let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
    let ranges = ranges.iter().map(|(first, last)| (ip(*first), ip(*last))).collect();
    let filling = Filling { ranges, data: Data::Verdict(Verdict::Drop) };
    Part::new(FAMILY, "t", "p/1")
        .filled_set("p/1/blocks", Set::vmap([Type::Ipv4Addr]).interval(), filling)
        .chain("p/1", Chain::regular().rule(Rule::new([ip::saddr().vmap("p/1/blocks")])))
}

fn found(socket: &mut Socket) -> Digest {
    let seen = socket.observe(FAMILY, &"t".into()).unwrap();
    assert!(seen.intact && seen.elements.len() == 1 && seen.foreign_elements == 0, "{seen:?}");
    seen.parts[&"p/1".into()].digest
}

#[test]
fn what_a_part_is_filled_with_comes_and_goes_with_it_and_counts() {
    in_namespace(|| {
        let mut socket = Socket::open();
        set_up(&mut socket);
        let all: [&[(u8, u8)]; 5] = [&[(0, 9), (11, 11), (40, 255)], &[], &[(7, 7)], &[(7, 8)], &[(7, 8), (9, 9)]];
        for ranges in all {
            let part = blocks(ranges);
            write(&mut socket, &part);
            assert_eq!(found(&mut socket), part_digest(&part), "{ranges:?}");
            assert_eq!(part.elements().count(), ranges.len());
        }
        for change in [
            "delete element ip t p/1/blocks { 192.0.2.7-192.0.2.8 }",
            "add element ip t p/1/blocks { 192.0.2.77 : drop }",
        ] {
            write(&mut socket, &blocks(all[4]));
            run("nft", &[change]);
            assert_ne!(found(&mut socket), part_digest(&blocks(all[4])), "{change}");
        }
    });
}

#[test]
fn a_part_that_is_filled_by_and_by_drops_all_until_it_is_whole() {
    in_namespace(|| {
        let mut socket = Socket::open();
        set_up(&mut socket);
        let part = blocks(&[(0, 9), (11, 11)]);
        let ranges = &part.filled[&"p/1/blocks".into()].ranges;
        let apply = |socket: &mut Socket, fill: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            fill(&mut batch);
            socket.apply(batch).unwrap();
        };
        let there = socket.observe(FAMILY, &"t".into()).unwrap().parts.remove(&part.name);
        apply(&mut socket, &|batch| batch.begin_part(&part, there.as_ref()).unwrap());
        for range in ranges.chunks(1) {
            assert!(listed("ip", "t").contains("drop"), "{}", listed("ip", "t"));
            assert_ne!(found(&mut socket), part_digest(&part));
            apply(&mut socket, &|batch| batch.fill_part(&part, &"p/1/blocks".into(), range).unwrap());
        }
        assert_ne!(found(&mut socket), part_digest(&part), "it has not its own rules yet");
        apply(&mut socket, &|batch| batch.end_part(&part).unwrap());
        assert_eq!(found(&mut socket), part_digest(&part));
    });
}
