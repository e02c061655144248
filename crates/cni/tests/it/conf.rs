//! Network configurations.

use ripstop_cni_spec::{CniVersion, Code, Error, NetConf, Verb};
use serde_json::{Value, json};

fn decode(verb: Verb, config: &Value) -> Result<NetConf, Error> {
    NetConf::decode(&config.to_string(), verb)
}

fn minimal() -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "ripstop-cni"})
}

fn with(key: &str, value: Value) -> Value {
    let mut config = minimal();
    config[key] = value;
    config
}

#[test]
fn the_least_configuration_has_defaults() {
    let conf = decode(Verb::Add, &minimal()).unwrap();
    assert_eq!((conf.version, conf.name.as_str()), (CniVersion::LATEST, "net"));
    assert_eq!((conf.network.as_str(), conf.mtu, conf.agent_timeout_ms), ("default", None, 10_000));
    assert_eq!(conf.socket, "/run/ripstop/cni.sock");
    assert!(conf.prev_result.is_none() && conf.valid_attachments.is_none() && conf.dns().is_empty());
    assert_eq!(decode(Verb::Add, &with("mtu", 0.into())).unwrap().mtu, None);
}

#[test]
fn everything_a_runtime_can_ask_for_is_typed() {
    let mut config = minimal();
    for (key, value) in json!({
        "network": "blue",
        "mtu": 1400,
        "socket": "/run/other.sock",
        "agentTimeout": "2s",
        "ipMasq": true,
        "ipam": {},
        "_comment": "words",
        "cni.dev/attachments": [],
        "dns": {"nameservers": ["10.96.0.10"], "domain": "example", "search": ["a"]},
        "args": {"cni": {"labels": [{"key": "app", "value": "web"}], "ips": ["10.244.1.8"], "other": {}}, "more": 1},
        "runtimeConfig": {
            "ips": ["10.244.1.9/24", "fd00::9"],
            "mac": "0A:58:0a:f4:01:02",
            "ipRanges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.3", "rangeEnd": "10.1.2.9", "gateway": "10.1.2.1"}],
                         [{"subnet": "fd01::/64"}]],
            "dns": {"servers": ["8.8.8.8"], "options": ["ndots:2"]},
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 8_000, "egressRate": 5},
            "portMappings": [],
            "io.kubernetes.cri.pod-annotations": {"a": "b"}
        },
        "prevResult": {"ips": [{"address": "10.0.0.1/24"}]}
    })
    .as_object()
    .unwrap()
    {
        config[key] = value.clone();
    }
    let conf = decode(Verb::Add, &config).unwrap();
    assert_eq!((conf.network.as_str(), conf.mtu, conf.agent_timeout_ms), ("blue", Some(1400), 2_000));
    assert_eq!(conf.socket, "/run/other.sock");
    assert_eq!(conf.runtime.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.9/24", "fd00::9"]);
    assert_eq!(conf.runtime.mac.unwrap().to_string(), "0a:58:0a:f4:01:02");
    assert_eq!(conf.runtime.ip_ranges.len(), 2);
    assert_eq!(conf.runtime.ip_ranges[0][0].end, Some("10.1.2.9".parse().unwrap()));
    assert_eq!(conf.runtime.bandwidth.ingress.unwrap().burst_bits, Some(8_000));
    assert_eq!(conf.runtime.bandwidth.egress.unwrap().burst_bits, None);
    assert_eq!(conf.runtime.annotations["a"], "b");
    assert_eq!(conf.extra.labels["app"], "web");
    assert_eq!(conf.extra.ips.len(), 1);
    assert_eq!(conf.prev_result.as_ref().unwrap().ips.len(), 1);
    let dns = conf.dns();
    assert_eq!(
        (dns.nameservers, dns.search, dns.domain),
        (vec!["8.8.8.8".into()], vec!["a".into()], Some("example".into()))
    );
    assert_eq!(dns.options, ["ndots:2"]);
    let json = serde_json::to_string(&conf).unwrap();
    assert_eq!(serde_json::from_str::<NetConf>(&json).unwrap(), conf, "a recorded configuration is the same again");
}

#[test]
fn faults_are_collected_and_each_says_field_found_and_accepted() {
    let mut config = minimal();
    config["mtu"] = 70_000.into();
    config["network"] = "Blue".into();
    config["agentTimeout"] = 10.into();
    config["runtimeConfig"] = json!({
        "ips": ["10.0.0.256", 4, "10.0.0.1", "10.0.0.1/8"],
        "mac": "01:00:5e:00:00:01",
        "ipRanges": [[], [{"subnet": "10.0.0.1/24"}], [{"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"}],
                     [{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}],
                     [{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]],
        "bandwidth": {"ingressRate": -1, "egressBurst": 5}
    });
    let error = decode(Verb::Add, &config).unwrap_err();
    assert_eq!(error.code, Code::InvalidConfig);
    assert!(error.msg.starts_with("network configuration \"net\": "), "{error}");
    for fault in [
        "mtu is 70000: it must be 0 (taken from the path) or a whole number from 576 to 65535",
        "network is \"Blue\": it must be lower-case letters",
        "agentTimeout is 10: it must be a duration",
        "runtimeConfig.ips[0] is \"10.0.0.256\": it must be an address",
        "runtimeConfig.ips[1] is 4",
        "runtimeConfig.ips[3] is \"10.0.0.1/8\": it must be an address that is not in the list already",
        "runtimeConfig.mac is \"01:00:5e:00:00:01\": it must be a unicast",
        "runtimeConfig.ipRanges[0] is []",
        "runtimeConfig.ipRanges[1][0].subnet is \"10.0.0.1/24\"",
        "runtimeConfig.ipRanges[2][0].gateway is \"10.0.1.1\": it must be an address in 10.0.0.0/24",
        "runtimeConfig.ipRanges[3][0].rangeEnd is \"10.0.0.8\"",
        "runtimeConfig.ipRanges[4] is \"fd00::/64\": it must be ranges of one address family",
        "runtimeConfig.bandwidth.ingressRate is -1",
        "runtimeConfig.bandwidth.egressBurst is 5: it must be left out, or egressRate given",
    ] {
        assert!(error.details.contains(fault), "{fault} is not in {}", error.details);
    }
    assert_eq!(error.details.split("; ").count(), 14, "{}", error.details);
    assert!(error.msg.ends_with("(and 13 more)"), "{error}");
}

#[test]
fn what_is_not_supported_is_code_2_with_key_and_value() {
    for (key, value, words) in [
        ("runtimeConfig", json!({"deviceID": "0000:04"}), "runtimeConfig.deviceID is \"0000:04\""),
        ("ipam", json!({"type": "host-local"}), "ipam is {\"type\":\"host-local\"}"),
        ("ipMasq", json!(false), "ipMasq is false"),
        ("netwrok", json!("blue"), "netwrok is \"blue\""),
    ] {
        for verb in [Verb::Add, Verb::Check, Verb::Status] {
            let error = decode(verb, &with(key, value.clone())).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedField, "{error}");
            assert!(error.msg.contains(words), "{error}");
        }
        assert!(decode(Verb::Del, &with(key, value)).is_ok(), "a DEL must end well");
    }
    // One fault of another kind makes it an invalid configuration.
    let mut both = with("netwrok", "blue".into());
    both["mtu"] = 1.into();
    assert_eq!(decode(Verb::Add, &both).unwrap_err().code, Code::InvalidConfig);
}

#[test]
fn version_and_name_are_required_of_every_verb() {
    for verb in [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status] {
        for version in [json!("0.2.0"), json!(null), json!("2.0.0")] {
            assert_eq!(decode(verb, &with("cniVersion", version)).unwrap_err().code, Code::IncompatibleVersion);
        }
        assert_eq!(decode(verb, &with("cniVersion", 1.into())).unwrap_err().code, Code::Decoding);
        for name in [json!(null), json!(""), json!("a/b"), json!(5), json!("-a")] {
            let error = decode(verb, &with("name", name)).unwrap_err();
            assert!(error.code == Code::InvalidConfig && error.msg.contains("name is"), "{error}");
        }
    }
    assert_eq!(decode(Verb::Gc, &with("cniVersion", "1.0.0".into())).unwrap_err().code, Code::IncompatibleVersion);
    assert_eq!(decode(Verb::Check, &with("cniVersion", "0.3.1".into())).unwrap_err().code, Code::IncompatibleVersion);
}

#[test]
fn a_del_ends_well_whatever_the_rest_has_become() {
    let mut config = minimal();
    for key in
        ["mtu", "network", "runtimeConfig", "prevResult", "dns", "args", "socket", "type", "cni.dev/x", "unknown"]
    {
        config[key] = json!([1, {"a": "b"}]);
    }
    let conf = decode(Verb::Del, &config).unwrap();
    assert_eq!(conf.name, "net");
    assert!(decode(Verb::Add, &config).is_err());
}

#[test]
fn gc_takes_nothing_but_a_flawless_list() {
    let key = "cni.dev/valid-attachments";
    let gc = |value: Value| decode(Verb::Gc, &with(key, value));
    let valid = gc(json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}])).unwrap();
    let names: Vec<String> = valid.valid_attachments.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a/eth0", "b/net1"]);
    assert_eq!(gc(json!([])).unwrap().valid_attachments, Some(Vec::new()));
    assert_eq!(gc(json!(null)).unwrap().valid_attachments, Some(Vec::new()), "what Go prints for an empty list");
    for bad in [
        json!({}),
        json!("a"),
        json!(["a/eth0"]),
        json!([{"containerID": "a"}]),
        json!([{"containerID": "", "ifname": "eth0"}]),
        json!([{"containerID": "a", "ifname": "sixteen-bytes-xx"}]),
        json!([{"containerID": "a", "ifname": "eth0"}, null]),
    ] {
        let error = gc(bad).unwrap_err();
        assert!(error.code == Code::InvalidConfig && error.msg.contains(key), "{error}");
    }
    let error = decode(Verb::Gc, &minimal()).unwrap_err();
    assert!(error.msg.contains("without which GC removes nothing"), "{error}");

    let old = with("cni.dev/attachments", json!([{"containerID": "a", "ifname": "eth0"}]));
    assert_eq!(decode(Verb::Gc, &old).unwrap().valid_attachments.unwrap().len(), 1, "early libcni's name");
    let mut two = old;
    two[key] = json!([]);
    assert_eq!(decode(Verb::Gc, &two).unwrap_err().code, Code::InvalidConfig, "two lists that differ");
}

#[test]
fn text_that_is_no_object_is_code_6() {
    for text in ["", "{", "[]", "null", "7", "{}x", "{\"a\":\"\\ud800\"}"] {
        assert_eq!(NetConf::decode(text, Verb::Add).unwrap_err().code, Code::Decoding, "{text}");
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(NetConf::decode(&deep, Verb::Del).unwrap_err().code, Code::Decoding);
}

#[test]
fn a_long_value_is_cut_in_the_message() {
    let error = decode(Verb::Add, &with("network", "ü".repeat(10_000).into())).unwrap_err();
    assert!(error.msg.len() < 1_000, "{}", error.msg.len());
}

#[test]
fn an_annotation_names_the_address_where_no_capability_does() {
    let with = |runtime: serde_json::Value| {
        decode(Verb::Add, &json!({"cniVersion": "1.1.0", "name": "n", "type": "ripstop-cni", "runtimeConfig": runtime}))
    };
    let annotated = |text: &str| json!({"io.kubernetes.cri.pod-annotations": {"ripstop.io/ip": text}});
    let ips = |conf: NetConf| conf.runtime.ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ips(with(annotated("10.1.2.3, fd00::3")).unwrap()), ["10.1.2.3", "fd00::3"]);
    let mut both = annotated("10.1.2.3");
    both["ips"] = json!(["10.9.9.9"]);
    assert_eq!(ips(with(both).unwrap()), ["10.9.9.9"], "the capability goes before");
    let error = with(annotated("10.1.2")).unwrap_err().to_string();
    assert!(error.contains("ripstop.io/ip") && error.contains("10.1.2"), "{error}");
}

/// As containerd 1.6 writes them, whose types have no names of their own for JSON.
#[test]
fn names_are_read_in_any_case() {
    let runtime = json!({
        "portMappings": [{"HostPort": 54323, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "127.0.0.1"}],
        "bandwidth": {"IngressRate": 1_000_000, "IngressBurst": 2_000_000, "EgressRate": 0, "EgressBurst": 0},
        "dns": {"Servers": ["10.96.0.10"], "Searches": ["svc.cluster.local"], "Options": ["ndots:5"]},
        "ipRanges": [[{"Subnet": "10.1.0.0/24", "RangeStart": "10.1.0.9"}]],
    });
    let read = decode(Verb::Add, &with("runtimeConfig", runtime)).unwrap().runtime;
    let port = &read.port_mappings[0];
    assert_eq!((port.host_ip, port.host_port, port.container_port), (Some([127, 0, 0, 1].into()), 54323, 8080));
    let rate = read.bandwidth.ingress.unwrap();
    assert_eq!(
        (rate.bits_per_second, rate.burst_bits, read.bandwidth.egress.is_none()),
        (1_000_000, Some(2_000_000), true)
    );
    assert_eq!(
        (&read.dns.nameservers[..], &read.dns.search[..]),
        (&["10.96.0.10".into()][..], &["svc.cluster.local".into()][..])
    );
    assert_eq!(read.ip_ranges.len(), 1);
    let both = json!({"portMappings": [{"hostPort": 1, "HOSTPORT": 2, "containerPort": 3}]});
    let read = decode(Verb::Add, &with("runtimeConfig", both)).unwrap().runtime;
    assert_eq!(read.port_mappings[0].host_port, 1, "as it is written goes before");
}

#[test]
fn ports_of_the_host_are_read_as_runtimes_write_them() {
    let mappings = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
        {"hostPort": 8080, "containerPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
        {"hostPort": 0, "containerPort": 81},
        {"hostPort": 8081, "containerPort": 81},
    ]);
    let typed = decode(Verb::Add, &with("runtimeConfig", json!({"portMappings": mappings}))).unwrap();
    let read = &typed.runtime.port_mappings;
    assert_eq!(read.len(), 3, "{read:?}");
    assert_eq!((read[0].host_ip, read[0].container_port, read[0].protocol.as_str()), (None, 80, "tcp"));
    assert_eq!((read[1].host_ip, read[1].protocol.as_str()), (Some("127.0.0.1".parse().unwrap()), "udp"));
    for (bad, words) in [
        (json!([{"hostPort": 8080}]), "runtimeConfig.portMappings[0].containerPort"),
        (json!([{"hostPort": 70000, "containerPort": 80}]), "runtimeConfig.portMappings[0].hostPort is 70000"),
        (json!([{"hostPort": 1, "containerPort": 80, "protocol": "icmp"}]), "portMappings[0].protocol is \"icmp\""),
        (json!([{"hostPort": 1, "containerPort": 80, "hostIP": "here"}]), "portMappings[0].hostIP is \"here\""),
        (
            json!([{"hostPort": 1, "containerPort": 80}, {"hostPort": 1, "containerPort": 81}]),
            "portMappings[1].hostPort is 1",
        ),
        (json!([7]), "portMappings[0] is 7"),
    ] {
        let error = decode(Verb::Add, &with("runtimeConfig", json!({"portMappings": bad}))).unwrap_err();
        assert!(error.code == Code::InvalidConfig && error.msg.contains(words), "{error}");
    }
}
