//! Results in each version: golden texts, and what comes back when they are read.

use ripstop_cni_spec::{CniResult, CniVersion, Code, Dns, Interface, IpConfig, Route};
use serde_json::{Value, json};

/// A result that uses everything there is.
pub fn everything() -> CniResult {
    let veth: ripstop_types::IfName = "rip12ab".parse().unwrap();
    let eth0: ripstop_types::IfName = "eth0".parse().unwrap();
    let mac = |text: &str| text.parse().unwrap();
    let mut result = CniResult {
        interfaces: vec![
            Interface::on_host(&veth, mac("0a:58:0a:f4:01:01"), 1450),
            Interface::in_pod(&eth0, mac("0a:58:0a:f4:01:02"), 1450, "/run/netns/c-1"),
        ],
        ips: vec![
            IpConfig {
                address: "10.244.1.9/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
                interface: Some(1),
            },
            IpConfig { address: "fd00::9/128".parse().unwrap(), gateway: None, interface: Some(1) },
        ],
        routes: vec![
            Route::new("0.0.0.0/0".parse().unwrap(), Some("169.254.1.1".parse().unwrap())),
            Route {
                mtu: Some(1400),
                advmss: Some(1360),
                priority: Some(7),
                table: Some(254),
                scope: Some(0),
                ..Route::new("::/0".parse().unwrap(), Some("fe80::1".parse().unwrap()))
            },
        ],
        dns: Dns {
            nameservers: vec!["10.96.0.10".into()],
            domain: Some("example".into()),
            search: vec!["svc.example".into()],
            options: vec!["ndots:5".into()],
        },
    };
    result.interfaces[0].socket_path = Some("/run/vhost".into());
    result.interfaces[0].pci_id = Some("0000:04:00.5".into());
    result
}

/// The golden text of 1.1.0.
fn v1_1_0() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "rip12ab", "mac": "0a:58:0a:f4:01:01", "mtu": 1450, "socketPath": "/run/vhost", "pciID": "0000:04:00.5"},
            {"name": "eth0", "mac": "0a:58:0a:f4:01:02", "mtu": 1450, "sandbox": "/run/netns/c-1"}
        ],
        "ips": [
            {"address": "10.244.1.9/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::9/128", "interface": 1}
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::1", "mtu": 1400, "advmss": 1360, "priority": 7, "table": 254, "scope": 0}
        ],
        "dns": {"nameservers": ["10.96.0.10"], "domain": "example", "search": ["svc.example"], "options": ["ndots:5"]}
    })
}

/// The golden text of 1.0.0: no more than names, addresses and hops.
fn v1_0_0() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "rip12ab", "mac": "0a:58:0a:f4:01:01"},
            {"name": "eth0", "mac": "0a:58:0a:f4:01:02", "sandbox": "/run/netns/c-1"}
        ],
        "ips": [
            {"address": "10.244.1.9/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::9/128", "interface": 1}
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
        "dns": {"nameservers": ["10.96.0.10"], "domain": "example", "search": ["svc.example"], "options": ["ndots:5"]}
    })
}

/// The golden text of the versions before 1.0.0: each address says its family.
fn v0(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": "rip12ab", "mac": "0a:58:0a:f4:01:01"},
            {"name": "eth0", "mac": "0a:58:0a:f4:01:02", "sandbox": "/run/netns/c-1"}
        ],
        "ips": [
            {"version": "4", "address": "10.244.1.9/32", "gateway": "169.254.1.1", "interface": 1},
            {"version": "6", "address": "fd00::9/128", "interface": 1}
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
        "dns": {"nameservers": ["10.96.0.10"], "domain": "example", "search": ["svc.example"], "options": ["ndots:5"]}
    })
}

fn golden(version: CniVersion) -> Value {
    match version {
        CniVersion::V1_1_0 => v1_1_0(),
        CniVersion::V1_0_0 => v1_0_0(),
        older => v0(older.as_str()),
    }
}

#[test]
fn each_version_prints_its_own_words() {
    for version in CniVersion::ALL {
        assert_eq!(everything().to_json(version), golden(version));
        assert_eq!(CniResult::default().to_json(version), json!({"cniVersion": version}), "nothing is left out");
        let raw: Value = serde_json::from_str(everything().to_raw(version).get()).unwrap();
        assert_eq!(raw, golden(version));
    }
}

#[test]
fn each_version_reads_as_it_prints() {
    for version in CniVersion::ALL {
        // The version inside counts, whatever the configuration's is.
        for of_config in CniVersion::ALL {
            let read = CniResult::from_json(&golden(version), of_config).unwrap();
            assert_eq!(read.to_json(version), golden(version));
        }
    }
    assert_eq!(CniResult::from_json(&v1_1_0(), CniVersion::V0_3_0).unwrap(), everything());
}

#[test]
fn what_go_programs_print_for_nothing_is_nothing() {
    let printed = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": "", "sandbox": ""}],
        "ips": [{"address": "10.0.0.1/24", "gateway": "", "interface": null}],
        "routes": null,
        "dns": {}
    });
    let read = CniResult::from_json(&printed, CniVersion::LATEST).unwrap();
    assert_eq!(read.interfaces, [Interface { name: "eth0".into(), ..Interface::default() }]);
    assert_eq!(read.ips[0].gateway, None);
    assert_eq!(
        read.to_json(CniVersion::V1_0_0),
        json!({
            "cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.1/24"}]
        })
    );
}

#[test]
fn a_version_outside_falls_to_the_one_of_the_configuration() {
    let mut printed = v0("0.4.0");
    printed.as_object_mut().unwrap().remove("cniVersion");
    printed["ips"][0]["version"] = "6".into();
    // Before 1.0.0 the family is a part of the format, and this one is wrong; later it is an unknown word.
    let error = CniResult::from_json(&printed, CniVersion::V0_4_0).unwrap_err();
    assert_eq!(error.code, Code::InvalidConfig);
    assert!(error.msg.contains("ips[0].version is \"6\"") && error.msg.contains("10.244.1.9/32"), "{error}");
    assert!(CniResult::from_json(&printed, CniVersion::V1_0_0).is_ok());
}

#[test]
fn every_fault_of_a_result_is_named() {
    let bad = json!({
        "interfaces": [{"mac": 5}, "eth0", {"name": 7}],
        "ips": [{"address": "10.0.0.1"}, {"interface": 9, "address": "10.0.0.1/8"}, {}],
        "routes": [{"gw": "here", "dst": "0.0.0.0/0"}, {"dst": 0}, {"dst": "::/0", "table": -1}],
        "dns": {"nameservers": "10.0.0.1", "search": [1]}
    });
    let error = CniResult::from_json(&bad, CniVersion::LATEST).unwrap_err();
    for field in [
        "interfaces[0].name is nothing",
        "interfaces[0].mac is 5",
        "interfaces[1] is \"eth0\"",
        "interfaces[2].name is 7",
        "ips[0].address is \"10.0.0.1\"",
        "ips[1].interface is 9",
        "ips[2].address is nothing",
        "routes[0].gw is \"here\"",
        "routes[1].dst is 0",
        "routes[2].table is -1",
        "dns.nameservers is \"10.0.0.1\"",
        "dns.search[0] is 1",
    ] {
        assert!(error.details.contains(field), "{field} is not in {}", error.details);
    }
    assert_eq!(error.details.split("; ").count(), 12, "{}", error.details);
    for other in [json!([]), json!("x"), json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/8"}})] {
        assert_eq!(CniResult::from_json(&other, CniVersion::LATEST).unwrap_err().code, Code::InvalidConfig);
    }
}

#[test]
fn the_pods_side_can_be_found() {
    let result = everything();
    let (index, interface) = result.pod_interface(&"eth0".parse().unwrap()).unwrap();
    assert_eq!((index, interface.mac().unwrap().to_string().as_str()), (1, "0a:58:0a:f4:01:02"));
    assert_eq!(result.ips_of(index).count(), 2);
    assert!(result.pod_interface(&"rip12ab".parse().unwrap()).is_none(), "the host's side is not in the pod");
}
