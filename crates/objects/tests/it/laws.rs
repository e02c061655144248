//! Laws: nothing panics, and what is written reads back as it was.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use ripstop_objects::{
    AgentConfig, Backend, BackendKind, Bounds, EtcdConfig, EtcdTlsConfig, FlannelConfig, Manifest, Masquerade, Network,
    NetworkName, NetworkSpec, NodeRangeLen, NodeRecord, RangeMode, Ranges, Record, StoreConfig, Timings, ToNodes,
    Wiring, check_change,
};
use ripstop_types::Prefix;

use crate::{name, records};

fn v4_range() -> impl Strategy<Value = Prefix> {
    (any::<u16>(), 12u8..=28).prop_map(|(n, len)| {
        Prefix::containing(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | (u32::from(n) << 8))), len).unwrap()
    })
}

fn v6_range() -> impl Strategy<Value = Prefix> {
    (any::<u32>(), 16u8..=124).prop_map(|(n, len)| {
        Prefix::containing(IpAddr::V6(Ipv6Addr::from_bits((0xfd00u128 << 112) | (u128::from(n) << 64))), len).unwrap()
    })
}

fn ranges() -> impl Strategy<Value = Ranges> {
    prop_oneof![
        v4_range().prop_map(|v4| Ranges { v4: Some(v4), v6: None }),
        v6_range().prop_map(|v6| Ranges { v4: None, v6: Some(v6) }),
        (v4_range(), v6_range()).prop_map(|(v4, v6)| Ranges { v4: Some(v4), v6: Some(v6) }),
    ]
}

fn backend() -> impl Strategy<Value = Backend> {
    let kinds = [BackendKind::Auto, BackendKind::HostGw, BackendKind::Vxlan, BackendKind::Udp, BackendKind::Bgp];
    (proptest::sample::select(kinds.to_vec()), 1u32..=0xff_ffff, 1u16.., 1u16.., proptest::option::of(1280u32..=65535))
        .prop_map(|(kind, vni, port, udp_port, mtu)| Backend { kind, vni, port, udp_port, mtu })
}

/// A valid spec: lengths, bounds and exclusions are drawn as positions inside the ranges.
fn spec() -> impl Strategy<Value = NetworkSpec> {
    let to_nodes = prop_oneof![Just(ToNodes::Auto), Just(ToNodes::Always), Just(ToNodes::Never)];
    let masquerade = (any::<bool>(), to_nodes).prop_map(|(enabled, to_nodes)| Masquerade { enabled, to_nodes });
    let positions =
        (any::<bool>(), any::<bool>(), any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u64>(), 0..4));
    (ranges(), backend(), masquerade, positions).prop_map(|(ranges, backend, masquerade, positions)| {
        let (bridge, pod_cidr, longer, place, excluded) = positions;
        let len = |range: Option<Prefix>, otherwise: u8, longest: u8| {
            range.map_or(otherwise, |range| range.len() + longer % (longest - range.len() + 1))
        };
        let node_range_len = NodeRangeLen { v4: len(ranges.v4, 24, 30), v6: len(ranges.v6, 64, 126) };
        let mut spec = NetworkSpec { node_range_len, backend, masquerade, ..NetworkSpec::of(ranges) };
        spec.wiring = if bridge { Wiring::Bridge } else { Wiring::Routed };
        spec.range_mode = if pod_cidr { RangeMode::PodCidr } else { RangeMode::Lease };
        for range in ranges.iter() {
            let len = spec.node_range_len.get(range.family());
            let bound = range.subnet(len, u128::from(place) % range.count_of(len)).map(|range| range.addr());
            match bound.filter(|_| !pod_cidr) {
                Some(IpAddr::V4(ip)) => spec.range_min = Bounds { v4: Some(ip), ..spec.range_min },
                Some(IpAddr::V6(ip)) => spec.range_max = Bounds { v6: Some(ip), ..spec.range_max },
                None => {}
            }
            spec.exclude
                .extend(excluded.iter().map(|n| Prefix::host(range.nth(u128::from(*n) % range.size()).unwrap())));
        }
        spec.exclude.sort();
        spec.exclude.dedup();
        spec
    })
}

fn network() -> impl Strategy<Value = Network> {
    ("[a-z]([a-z0-9-]{0,20}[a-z0-9])?", proptest::collection::btree_map("[a-z]{1,9}", "[A-Za-z0-9]{0,9}", 0..3), spec())
        .prop_map(|(text, labels, spec)| {
            let labels = labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
            Network { name: name(&text), labels, spec, migration: None }
        })
}

/// Text near the grammar: words of the documents in any order, and anything else.
fn near_text() -> impl Strategy<Value = String> {
    let words = proptest::sample::select(vec![
        "apiVersion: ",
        "ripstop.io/v1alpha1",
        "kind: ",
        "Network",
        "metadata: ",
        "{name: a}",
        "spec: ",
        "ranges: ",
        "[10.0.0.0/8]",
        "10.0.0.0/8",
        "\n",
        "\n  ",
        "\n---\n",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ", ",
        "\"",
        "'",
        "&a ",
        "*a",
        "<<: ",
        "!!binary ",
        "!!int ",
        "? ",
        "|\n",
        "null",
        "true",
        "1e999",
        "-1",
        "0x1f",
        ".nan",
        "Backend",
        "store: ",
        "embedded: ",
        "path: ",
        "timings: ",
        "aliveInterval: ",
        "2s",
        "nodeRangeLen: ",
        "v4: ",
        "24",
        "exclude: ",
        "\u{0}",
        "\u{feff}",
        "é",
        "99999999999999999999999999999999999999999",
    ]);
    prop_oneof![
        proptest::collection::vec(words, 0..40).prop_map(|words| words.concat()),
        any::<String>(),
        "\\{\"Network\": ?[^}]{0,40}\\}",
    ]
}

/// Any JSON value, in shapes that records have.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let keys = proptest::sample::select(vec![
        "name",
        "identity",
        "machineId",
        "bootId",
        "addresses",
        "ip",
        "prefix",
        "receives",
        "type",
        "vni",
        "port",
        "mac",
        "networks",
        "spec",
        "metadata",
        "ranges",
        "node",
        "sequence",
        "network",
        "range",
        "run",
        "state",
        "machine",
        "podMtu",
        "labels",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        proptest::sample::select(vec!["n1", "vxlan", "plain", "10.0.0.0/8", "10.0.0.1", "::", ""]).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            proptest::collection::btree_map(keys.clone().prop_map(String::from), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_network_reads_back_as_it_was(network in network()) {
        let json = serde_json::to_string(&network).unwrap();
        let decoded = Network::decode(&json).map_err(|faults| TestCaseError::fail(format!("{faults}\n{json}")))?;
        prop_assert_eq!(&decoded, &network);
        let yaml = serde_saphyr::to_string(&network).unwrap();
        let decoded = Network::decode(&yaml).map_err(|faults| TestCaseError::fail(format!("{faults}\n{yaml}")))?;
        prop_assert_eq!(&decoded, &network);
        prop_assert_eq!(&serde_json::from_str::<Network>(&json).unwrap(), &network);
        prop_assert_eq!(&<Network as Record>::decode(network.name.as_str(), &network.encode()).unwrap(), &network);
        let in_use: Vec<Prefix> = network.spec.families().filter_map(|f| network.spec.first_node_range(f)).collect();
        prop_assert!(check_change(&network, &network, &in_use).is_ok(), "a network may take its own place");
    }

    #[test]
    fn a_configuration_reads_back_as_it_was(
        network in proptest::option::of(network()),
        store in 0..3,
        alive in 100u64..=60_000,
        address in proptest::option::of(any::<u16>()),
    ) {
        let timings = Timings { alive_interval: alive, stale_after: alive * 3, ..Timings::default() };
        let store = match store {
            0 => StoreConfig::EmbeddedSocket { socket: "/run/s".into() },
            1 => StoreConfig::Embedded { path: "/x".into() },
            _ => StoreConfig::Etcd(Box::new(EtcdConfig {
                endpoints: vec!["https://10.0.0.1:2379".into()],
                prefix: "/r/".into(),
                tls: EtcdTlsConfig { ca: Some("/ca".into()), ..EtcdTlsConfig::default() },
                user: address.map(|port| format!("user-{port}")),
                password_file: address.map(|_| "/password".into()),
                timeout: alive,
                flannel: address.map(|_| FlannelConfig { prefix: "/f".into(), network: NetworkName::first() }),
            })),
        };
        let mut config = AgentConfig { store, timings, networks: network.into_iter().collect(), ..AgentConfig::default() };
        config.metrics_listen = address.map(|port| ([127, 0, 0, 1], port).into());
        let json = serde_json::to_string(&config).unwrap();
        let (decoded, notes) = AgentConfig::decode(&json).map_err(|faults| TestCaseError::fail(format!("{faults}\n{json}")))?;
        prop_assert_eq!(&decoded, &config);
        prop_assert!(notes.is_empty());
        prop_assert_eq!(&serde_json::from_str::<AgentConfig>(&json).unwrap(), &config);
    }

    #[test]
    fn text_never_panics_and_never_gives_an_empty_error(text in near_text()) {
        for faults in [
            Manifest::decode(&text).err(),
            AgentConfig::decode(&text).err(),
            Network::decode(&text).err(),
            Network::from_flannel(name("default"), &text).err(),
        ].into_iter().flatten() {
            prop_assert!(!faults.is_empty());
            prop_assert_eq!(faults.to_string().lines().count(), faults.len(), "{}", faults);
        }
    }

    #[test]
    fn a_record_never_panics(value in any_json()) {
        let _ = NodeRecord::decode("n1", &value);
        let _ = <Network as Record>::decode("default", &value);
        let _ = ripstop_objects::RangeClaim::decode("default/10.0.0.0_8", &value);
        let _ = ripstop_objects::AliveRecord::decode("n1", &value);
    }

    #[test]
    fn one_changed_leaf_of_a_record_never_panics(path in 0usize..12, value in any_json()) {
        let mut record = records::node();
        let pointers = ["/name", "/identity", "/identity/bootId", "/addresses", "/addresses/0/ip", "/addresses/0/prefix",
            "/receives", "/receives/1/mac", "/receives/1/vni", "/networks", "/labels", "/prefers"];
        *record.pointer_mut(pointers[path]).unwrap() = value;
        if let Err(faults) = NodeRecord::decode("n1", &record) {
            prop_assert!(!faults.is_empty());
        }
    }
}
