//! What holds for every input: what is written is read as it was, and nothing that comes in makes the codec panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use ripstop_bgp::wire::*;
use ripstop_types::{Family, Prefix};

fn asn() -> impl Strategy<Value = u32> {
    prop_oneof![1..65_536u32, 65_536..u32::MAX]
}

fn path() -> impl Strategy<Value = AsPath> {
    let numbers = || vec(asn(), 1..40).prop_map(Into::into);
    let segment = prop_oneof![numbers().prop_map(Segment::Sequence), numbers().prop_map(Segment::Set)];
    vec(segment, 0..3).prop_map(AsPath::of)
}

fn next_hop(family: Family) -> BoxedStrategy<NextHop> {
    let v6 = (1..u128::MAX >> 8, option::of(0xfe80_u128 << 112 | 1..0xfe80_u128 << 112 | 0xffff)).prop_map(
        |(global, local)| NextHop::V6(Ipv6Addr::from_bits(global | 0x20 << 120), local.map(Ipv6Addr::from_bits)),
    );
    let v4 = (1..127u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| NextHop::V4(Ipv4Addr::new(a, b, c, d)));
    if family == Family::V4 { prop_oneof![v4, v6].boxed() } else { v6.boxed() }
}

fn prefix(family: Family) -> impl Strategy<Value = Prefix> {
    (any::<u128>(), 0..=family.bits()).prop_map(move |(bits, length)| {
        let address: IpAddr = match family {
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap()).into(),
            Family::V6 => Ipv6Addr::from_bits(bits).into(),
        };
        Prefix::containing(address, length).unwrap()
    })
}

/// The numbers of one kind, then of another.
type Lists = (Box<[u32]>, Box<[u64]>, Box<[LargeCommunity]>, Box<[Ipv4Addr]>, Box<[Unknown]>);

fn lists() -> impl Strategy<Value = Lists> {
    let large = btree_set(any::<[u32; 3]>().prop_map(|[a, b, c]| LargeCommunity(a, b, c)), 0..5);
    let unknown = btree_set(200..=255u8, 0..4).prop_flat_map(|kinds| {
        let each = kinds.into_iter().map(|kind| {
            vec(any::<u8>(), 0..300).prop_map(move |value| Unknown { kind, partial: true, value: value.into() })
        });
        each.collect::<Vec<_>>()
    });
    (
        btree_set(any::<u32>(), 0..80).prop_map(|all| all.into_iter().collect()),
        btree_set(any::<u64>(), 0..5).prop_map(|all| all.into_iter().collect()),
        large.prop_map(|all| all.into_iter().collect()),
        vec(any::<[u8; 4]>().prop_map(Ipv4Addr::from), 0..4).prop_map(Into::into),
        unknown.prop_map(Into::into),
    )
}

fn attributes(family: Family, internal: bool) -> impl Strategy<Value = Attributes> {
    let numbers = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>()));
    let aggregator = option::of((asn(), any::<u32>()).prop_map(|(asn, id)| Aggregator { asn, router_id: id.into() }));
    (0..3usize, path(), next_hop(family), numbers, any::<bool>(), aggregator, lists()).prop_map(
        move |(origin, as_path, next_hop, (med, preference, id), atomic_aggregate, aggregator, lists)| Attributes {
            origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][origin],
            as_path,
            next_hop,
            med,
            local_pref: preference.filter(|_| internal),
            atomic_aggregate,
            aggregator,
            communities: lists.0,
            extended_communities: lists.1,
            large_communities: lists.2,
            originator_id: id.filter(|_| internal).map(Into::into),
            cluster_list: if internal { lists.3 } else { Box::default() },
            unknown: lists.4,
        },
    )
}

fn context() -> impl Strategy<Value = Context> {
    any::<[bool; 6]>().prop_map(|[internal, four_byte_as, v4, v6, extended_messages, as_sets]| Context {
        internal,
        four_byte_as,
        families: Families::BOTH,
        add_path_in: Families { v4, v6 },
        add_path_out: Families { v4, v6 },
        extended_next_hop: true,
        extended_messages,
        as_sets,
    })
}

/// A route of either family with who exchanges it.
fn routes() -> impl Strategy<Value = (Context, Attributes, Vec<Nlri>)> {
    (context(), any::<bool>()).prop_flat_map(|(context, v4)| {
        let context = Context { as_sets: true, ..context };
        let family = if v4 { Family::V4 } else { Family::V6 };
        let path = if context.add_path_in.has(family) { 0..u32::MAX } else { 0..1 };
        let nlri = (prefix(family), path).prop_map(|(prefix, path)| Nlri { prefix, path });
        (Just(context), attributes(family, context.internal), vec(nlri, 1..900))
    })
}

/// Everything that messages one behind the other say.
fn read_all(mut bytes: &[u8], context: &Context) -> Vec<Update> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = frame(bytes, context.extended_messages).unwrap().unwrap();
        match decode(&bytes[..length], context).unwrap() {
            Message::Update(update) => all.push(update),
            other => panic!("{other:?}"),
        }
        bytes = &bytes[length..];
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn routes_are_read_as_they_were_written((context, attributes, nlri) in routes()) {
        let mut out = Vec::new();
        prop_assume!(announce(&mut out, &context, &attributes, &nlri));
        let mut found = Vec::new();
        for update in read_all(&out, &context) {
            prop_assert!(update.faults.is_empty() && update.withdrawn.is_empty(), "{:?}", update.faults);
            for one in update.announced {
                prop_assert_eq!(&one.attributes, &attributes);
                found.extend(one.nlri);
            }
        }
        prop_assert_eq!(&found, &nlri);
        out.clear();
        withdraw(&mut out, &context, &nlri);
        let gone: Vec<Nlri> = read_all(&out, &context).into_iter().flat_map(|update| update.withdrawn).collect();
        prop_assert_eq!(gone, nlri);
    }

    #[test]
    fn no_bytes_make_it_panic(kind in 0..7u8, body in vec(any::<u8>(), 0..300), context in context()) {
        let _ = decode(&crate::message(kind, &body), &context);
        let _ = frame(&body, context.extended_messages);
    }

    #[test]
    fn no_damage_makes_it_panic((context, attributes, nlri) in routes(), changes in vec((any::<usize>(), any::<u8>()), 1..5)) {
        let mut out = Vec::new();
        prop_assume!(announce(&mut out, &context, &attributes, &nlri));
        let length = frame(&out, context.extended_messages).unwrap().unwrap();
        out.truncate(length);
        for (place, byte) in changes {
            out[19 + place % (length - 19)] = byte;
        }
        if let Ok(Message::Update(update)) = decode(&out, &context) {
            let count: usize = update.withdrawn.len() + update.announced.iter().map(|one| one.nlri.len()).sum::<usize>();
            prop_assert!(count <= out.len());
            // What was accepted can be said again.
            for one in update.announced {
                let mut again = Vec::new();
                if announce(&mut again, &context, &one.attributes, &one.nlri) {
                    for update in read_all(&again, &context) {
                        prop_assert_eq!(&update.announced[0].attributes.as_path, &one.attributes.as_path);
                    }
                }
            }
        }
    }
}
