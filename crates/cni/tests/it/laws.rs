//! What holds for any input.

use proptest::prelude::*;
use ripstop_cni_spec::wire::{Request, Response};
use ripstop_cni_spec::{CniArgs, CniResult, CniVersion, Code, ConfList, NetConf, Verb};
use serde_json::{Map, Value, json};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}|\\PC{0,6}".prop_map(Value::from),
        prop::sample::select(vec!["10.0.0.1/24", "fd00::1", "eth0", "1.1.0", "0a:58:0a:f4:01:02", "10s"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Keys that mean something, mostly.
fn key() -> impl Strategy<Value = String> {
    let known = [
        "cniVersion",
        "name",
        "type",
        "mtu",
        "network",
        "runtimeConfig",
        "args",
        "cni",
        "ips",
        "mac",
        "ipRanges",
        "subnet",
        "rangeStart",
        "rangeEnd",
        "bandwidth",
        "ingressRate",
        "ingressBurst",
        "dns",
        "prevResult",
        "interfaces",
        "address",
        "interface",
        "routes",
        "dst",
        "gw",
        "plugins",
        "capabilities",
        "cni.dev/valid-attachments",
        "containerID",
        "ifname",
        "labels",
        "key",
        "value",
        "agentTimeout",
        "portMappings",
    ];
    prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[ -~]{0,8}"]
}

fn any_verb() -> impl Strategy<Value = Verb> {
    prop::sample::select(Verb::ALL.to_vec())
}

fn any_result() -> impl Strategy<Value = CniResult> {
    let ip = || any::<std::net::IpAddr>();
    let cidr = move || {
        (ip(), 0u8..=128).prop_map(|(ip, len)| {
            ripstop_cni_spec::Cidr::new(ip, len).unwrap_or_else(|| ripstop_cni_spec::Cidr::host(ip)).to_string()
        })
    };
    let text = || prop::option::of("[a-z0-9/:]{1,8}");
    let positive = || prop::option::of(1u32..);
    let interface = ("[a-z0-9]{1,15}", text(), positive(), text())
        .prop_map(|(name, mac, mtu, sandbox)| json!({"name": name, "mac": mac, "mtu": mtu, "sandbox": sandbox}));
    let address = (cidr(), prop::option::of(ip())).prop_map(|(address, gw)| json!({"address": address, "gateway": gw}));
    let route = (cidr(), prop::option::of(ip()), positive(), prop::option::of(any::<u32>()))
        .prop_map(|(dst, gw, mtu, table)| json!({"dst": dst, "gw": gw, "mtu": mtu, "table": table}));
    let list = |item| prop::collection::vec(item, 0..4);
    (list(interface.boxed()), list(address.boxed()), list(route.boxed())).prop_map(|(interfaces, ips, routes)| {
        let value = json!({"interfaces": interfaces, "ips": ips, "routes": routes});
        CniResult::from_json(&value, CniVersion::LATEST).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_configuration_makes_a_decoder_panic(config in any_json(), verb in any_verb(), good in any::<bool>()) {
        let mut config = config;
        if let (true, Some(map)) = (good, config.as_object_mut()) {
            map.insert("cniVersion".into(), "1.1.0".into());
            map.insert("name".into(), "net".into());
        }
        let decoded = NetConf::decode(&config.to_string(), verb);
        if verb == Verb::Del && good && config.is_object() {
            prop_assert!(decoded.is_ok(), "a DEL ends well: {:?}", decoded);
        }
        match decoded {
            Ok(conf) => {
                let json = serde_json::to_string(&conf).unwrap();
                prop_assert_eq!(serde_json::from_str::<NetConf>(&json).unwrap(), conf);
            }
            Err(error) => {
                let codes = [Code::IncompatibleVersion, Code::UnsupportedField, Code::Decoding, Code::InvalidConfig];
                prop_assert!(codes.contains(&error.code) && !error.msg.is_empty());
            }
        }
        let _ = ConfList::parse(&config.to_string());
        let _ = CniResult::from_json(&config, CniVersion::V0_4_0);
    }

    #[test]
    fn no_bytes_make_a_line_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,60}", verb in any_verb()) {
        let _ = (Request::parse(&bytes), Response::parse(&bytes), ConfList::parse(&text), NetConf::decode(&text, verb));
        let args = CniArgs::parse(&text, verb);
        prop_assert!(verb != Verb::Del || args.is_ok());
    }

    #[test]
    fn a_result_reads_as_it_prints(result in any_result()) {
        for version in CniVersion::ALL {
            let printed = result.to_json(version);
            let read = CniResult::from_json(&printed, version).unwrap();
            prop_assert_eq!(read.to_json(version), printed);
        }
        let printed = result.to_json(CniVersion::LATEST);
        prop_assert_eq!(CniResult::from_json(&printed, CniVersion::LATEST).unwrap(), result);
    }

    #[test]
    fn an_older_result_says_nothing_newer(result in any_result()) {
        let printed = result.to_json(CniVersion::V1_0_0).to_string();
        for word in ["\"mtu\"", "\"table\"", "\"version\""] {
            prop_assert!(!printed.contains(word), "{}", printed);
        }
        let families = result.to_json(CniVersion::V0_3_0).to_string().matches("\"version\"").count();
        prop_assert_eq!(families, result.ips.len());
    }
}
