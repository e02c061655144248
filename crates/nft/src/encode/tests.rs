//! Byte order, padding and lengths, without a kernel.

use std::collections::BTreeMap;

use std::net::Ipv4Addr;

use super::*;
use crate::model::build::*;
use crate::model::{Chain, Hook, Key, KeyPart, Set, Type, Value};

fn table() -> Table {
    Table::new(TableFamily::Inet, "t")
        .set("ranges", Set::of([Type::Ipv4Addr]).interval())
        .set("pods", Set::of([Type::IfName, Type::Ipv4Addr]))
}

fn expressions(rule: &Rule) -> Vec<u8> {
    expr::rule(TableFamily::Inet, rule, &mut 0).expressions.bytes
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attrs = Attrs::default();
    attrs.bytes(kind, value);
    attrs.bytes
}

#[test]
fn a_name_is_sixteen_bytes_and_a_pattern_only_its_beginning() {
    let mut whole = b"rip0".to_vec();
    whole.resize(16, 0);
    assert!(holds(&expressions(&Rule::new([meta::iifname().is("rip0")])), &attribute(NFTA_DATA_VALUE, &whole)));
    assert!(holds(&expressions(&Rule::new([meta::iifname().is("rip*")])), &attribute(NFTA_DATA_VALUE, b"rip")));
}

#[test]
fn marks_are_in_host_order_and_ports_in_network_order() {
    let mark = expressions(&Rule::new([meta::mark().is(0x0102_0304)]));
    assert!(holds(&mark, &attribute(NFTA_DATA_VALUE, &0x0102_0304u32.to_ne_bytes())));
    let port = expressions(&Rule::new([tcp::dport().is(8080)]));
    assert!(holds(&port, &attribute(NFTA_DATA_VALUE, &8080u16.to_be_bytes())));
}

#[test]
fn a_condition_is_written_once_a_rule() {
    let count = |rule: &Rule| {
        let bytes = expressions(rule);
        let wanted = attribute(NFTA_META_KEY, &NFT_META_NFPROTO.to_be_bytes());
        bytes.windows(wanted.len()).filter(|window| *window == wanted).count()
    };
    assert_eq!(count(&Rule::new([ip::saddr().is([1, 2, 3, 4]), ip::daddr().is([1, 2, 3, 5])])), 1);
    assert_eq!(count(&Rule::new([meta::nfproto().is(NfProto::IPV4), ip::saddr().is([1, 2, 3, 4])])), 1);
    assert_eq!(count(&Rule::new([meta::mark().is(1)])), 0);
}

#[test]
fn an_interval_has_a_beginning_and_an_end_unless_it_is_the_last() {
    let of = |first: [u8; 4], last: [u8; 4]| {
        let part = KeyPart::range(Value::Ipv4(first.into()), Value::Ipv4(last.into()));
        let mut attrs = Attrs::default();
        set::element(&mut attrs, &Key::new(true, [part]), Some(&ElementBody::default()));
        attrs.bytes
    };
    let end = attribute(NFTA_SET_ELEM_FLAGS, &NFT_SET_ELEM_INTERVAL_END.to_be_bytes());
    let middle = of([10, 0, 0, 0], [10, 0, 0, 255]);
    assert!(holds(&middle, &attribute(NFTA_DATA_VALUE, &[10, 0, 1, 0])) && holds(&middle, &end));
    let open = of([255, 0, 0, 0], [255; 4]);
    assert!(!holds(&open, &end));
    assert!(holds(&open, &[UDATA_ELEM_FLAGS, 4]));
}

#[test]
fn no_message_outgrows_its_length_however_many_elements() {
    let table = table();
    let elements: BTreeMap<ElementKey, ElementBody> = (0..20_000u32)
        .map(|i| {
            let parts = [KeyPart::from(Value::Ipv4(Ipv4Addr::from(0x0a00_0000 + i * 2)))];
            table.element("ranges", Key::new(true, parts), ElementBody::comment("x".repeat(127)))
        })
        .collect();
    let mut batch = Batch::new();
    batch.replace_table(&table, &elements).unwrap();
    let encoded = batch.finish(1);
    let mut rest = &encoded.bytes[..];
    let mut largest = 0;
    while let Some(length) = rest.get(..4) {
        let length = u32::from_ne_bytes(length.try_into().unwrap()) as usize;
        assert!(length.is_multiple_of(4) && length <= rest.len());
        largest = largest.max(length);
        rest = &rest[length..];
    }
    assert!(largest < 64 * 1024, "{largest}");
    assert_eq!(encoded.next_seq(), encoded.last_seq() + 2);
}

#[test]
fn a_generation_stands_in_the_first_message_only_if_asked_for() {
    let first = |batch: Batch| batch.finish(1).bytes[..28].to_vec();
    let wanted = attribute(NFNL_BATCH_GENID, &7u32.to_be_bytes());
    let mut plain = Batch::new();
    plain.add_table(&table()).unwrap();
    assert!(!holds(&first(plain), &wanted));
    let mut at = Batch::at_generation(7);
    at.add_table(&table()).unwrap();
    assert!(holds(&first(at), &wanted));
}

#[test]
fn what_is_too_large_is_refused_by_name() {
    let many = (0..6_000u32).map(|i| Ipv4Addr::from(i * 2));
    let rule = Rule::new([ip::saddr().one_of(many), accept()]);
    let fault = Batch::new().add_table(&table().chain("a", Chain::filter(Hook::Input, 0).rule(rule))).unwrap_err();
    assert!(
        matches!(&fault, EncodeError::TooLarge(object) if object.starts_with("rule 1 of chain inet t a")),
        "{fault}"
    );
    let rule = Rule::new((0..200).map(|_| counter()));
    let fault = Batch::new().add_table(&table().chain("a", Chain::filter(Hook::Input, 0).rule(rule))).unwrap_err();
    assert!(matches!(fault, EncodeError::RuleTooLong { .. }), "{fault}");
}

#[test]
fn an_element_of_another_table_is_not_replaced_with_this_one() {
    let other = Table::new(TableFamily::Inet, "other").set("ranges", Set::of([Type::Ipv4Addr]).interval());
    let part = KeyPart::from(Value::Ipv4([1, 2, 3, 4].into()));
    let (key, body) = other.element("ranges", Key::new(true, [part]), ElementBody::default());
    let fault = Batch::new().replace_table(&table(), [(&key, &body)]).unwrap_err();
    assert!(fault.to_string().contains("belongs to another table"), "{fault}");
}
