//! Configuration lists, and what they become for each plugin.

use std::collections::BTreeMap;

use ripstop_cni_spec::list::{Parameters, plain_env};
use ripstop_cni_spec::{Attachment, CniVersion, Code, ConfList, Verb};
use serde_json::{Value, json};

/// The specification's example (section 1), with Ripstop in the first place.
fn example() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.1.0", "7.0.0"],
        "name": "dbnet",
        "plugins": [
            {"type": "ripstop-cni", "keyA": ["some more"], "mtu": 1400, "capabilities": {"ips": true, "mac": false}},
            {"type": "tuning", "capabilities": {"mac": true}, "sysctl": {"net.core.somaxconn": "500"}},
            {"type": "portmap", "capabilities": {"portMappings": true}}
        ]
    })
}

fn parse(list: &Value) -> ConfList {
    ConfList::parse(&list.to_string()).unwrap()
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() }
}

fn parameters() -> Parameters {
    Parameters {
        attachment: attachment("c-1"),
        netns: Some("/run/netns/blue".into()),
        args: BTreeMap::from([("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "web".into())]),
        capability_args: BTreeMap::from([
            ("mac".into(), json!("00:11:22:33:44:66")),
            ("ips".into(), json!(["10.0.0.9"])),
            ("portMappings".into(), json!([])),
        ]),
    }
}

#[test]
fn the_highest_version_that_is_ours_is_chosen() {
    let list = parse(&example());
    assert_eq!((list.version, list.name.as_str(), list.plugins.len()), (CniVersion::V1_1_0, "dbnet", 3));
    let mut old = example();
    old["cniVersions"] = json!(["0.1.0"]);
    assert_eq!(parse(&old).version, CniVersion::V1_0_0);
    old["cniVersion"] = "0.2.0".into();
    let error = ConfList::parse(&old.to_string()).unwrap_err();
    assert_eq!(error.code, Code::IncompatibleVersion);
    assert!(error.msg.contains("0.1.0, 0.2.0"), "{error}");
}

#[test]
fn del_goes_backwards_and_forbidden_verbs_go_nowhere() {
    let mut list = parse(&example());
    assert_eq!(list.order(Verb::Add), [0, 1, 2]);
    assert_eq!(list.order(Verb::Del), [2, 1, 0]);
    assert_eq!(list.order(Verb::Check), [0, 1, 2]);
    (list.disable_check, list.disable_gc) = (true, true);
    assert!(list.order(Verb::Check).is_empty() && list.order(Verb::Gc).is_empty());
    assert_eq!(list.order(Verb::Status), [0, 1, 2]);
    list.version = CniVersion::V0_3_1;
    assert!(list.order(Verb::Status).is_empty());
}

#[test]
fn a_plugin_gets_what_it_declares() {
    let list = parse(&example());
    let stdin =
        |n: usize, verb, prev: Option<&Value>| list.attachment_stdin(&list.plugins[n], verb, &parameters(), prev);
    assert_eq!(
        stdin(0, Verb::Add, None),
        json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "ripstop-cni", "keyA": ["some more"], "mtu": 1400,
               "runtimeConfig": {"ips": ["10.0.0.9"]}})
    );
    let prev = json!({"cniVersion": "1.1.0", "ips": []});
    assert_eq!(
        stdin(1, Verb::Add, Some(&prev)),
        json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "tuning", "sysctl": {"net.core.somaxconn": "500"},
               "runtimeConfig": {"mac": "00:11:22:33:44:66"}, "prevResult": prev})
    );
    assert_eq!(stdin(2, Verb::Del, Some(&prev))["prevResult"], prev);
    let mut old = list.clone();
    old.version = CniVersion::V0_3_1;
    let stdin = old.attachment_stdin(&old.plugins[0], Verb::Del, &parameters(), Some(&prev));
    assert_eq!(stdin.get("prevResult"), None, "0.3.1 has no previous result for DEL");
}

#[test]
fn gc_and_status_have_no_attachment() {
    let list = parse(&example());
    let plugin = &list.plugins[1];
    let expected = json!([{"containerID": "a", "ifname": "eth0"}]);
    let stdin = list.gc_stdin(plugin, &[attachment("a")]);
    assert_eq!(stdin["cni.dev/valid-attachments"], expected);
    assert_eq!(stdin["cni.dev/attachments"], expected);
    assert_eq!(
        list.status_stdin(plugin),
        json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "tuning", "sysctl": {"net.core.somaxconn": "500"}})
    );
    assert_eq!(plain_env(Verb::Gc, "/bin"), [("CNI_COMMAND", "GC".to_owned()), ("CNI_PATH", "/bin".to_owned())]);
}

#[test]
fn the_environment_is_the_specifications() {
    let env = parameters().env(Verb::Add, "/opt/cni/bin");
    assert_eq!(
        env,
        [
            ("CNI_COMMAND", "ADD".to_owned()),
            ("CNI_CONTAINERID", "c-1".to_owned()),
            ("CNI_NETNS", "/run/netns/blue".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ]
    );
}

#[test]
fn what_a_list_makes_ripstop_understands() {
    let mut list = example();
    list["plugins"][0].as_object_mut().unwrap().remove("keyA");
    let list = parse(&list);
    let stdin = list.attachment_stdin(&list.plugins[0], Verb::Add, &parameters(), None);
    let conf = ripstop_cni_spec::NetConf::decode(&stdin.to_string(), Verb::Add).unwrap();
    assert_eq!((conf.name.as_str(), conf.mtu, conf.runtime.ips.len()), ("dbnet", Some(1400), 1));
    let stdin = list.gc_stdin(&list.plugins[0], &[attachment("a"), attachment("b")]);
    let conf = ripstop_cni_spec::NetConf::decode(&stdin.to_string(), Verb::Gc).unwrap();
    assert_eq!(conf.valid_attachments, Some(vec![attachment("a"), attachment("b")]));
}

#[test]
fn the_packaged_list_is_understood_in_every_version_it_offers() {
    let text = include_str!("../../../../packaging/10-ripstop.conflist");
    let mut list = ConfList::parse(text).unwrap();
    assert_eq!(list.version, CniVersion::LATEST);
    for version in CniVersion::ALL {
        list.version = version;
        let stdin = list.attachment_stdin(&list.plugins[0], Verb::Add, &parameters(), None);
        let conf = ripstop_cni_spec::NetConf::decode(&stdin.to_string(), Verb::Add).unwrap();
        assert_eq!((conf.version, conf.plugin_type.as_str()), (version, "ripstop-cni"));
    }
}

#[test]
fn a_list_that_is_none_is_refused_with_every_fault() {
    for text in ["", "[]", "{", "3"] {
        assert_eq!(ConfList::parse(text).unwrap_err().code, Code::Decoding, "{text}");
    }
    let bad = json!({"cniVersion": "1.1.0", "name": "a/b", "disableCheck": "perhaps",
                     "plugins": [{"type": "../sh"}, 5, {"capabilities": []}]});
    let error = ConfList::parse(&bad.to_string()).unwrap_err();
    assert_eq!(error.code, Code::InvalidConfig);
    for fault in [
        "name is \"a/b\"",
        "disableCheck is \"perhaps\"",
        "plugins[0].type is \"../sh\"",
        "plugins[1] is 5",
        "plugins[2].type is nothing",
        "plugins[2].capabilities is []",
    ] {
        assert!(error.details.contains(fault), "{fault} is not in {}", error.details);
    }
    let none = json!({"cniVersion": "1.1.0", "name": "a", "disableGC": "TRUE", "plugins": []});
    assert!(ConfList::parse(&none.to_string()).unwrap_err().msg.contains("plugins is []"));
}
