//! Keys as people read them, and objects as recordings keep them.

use ripstop_netmodel::{
    Entry, Key, LinkKind, NftElement, NftPart, NftValues, Ns, Object, RecordScope, Route, RouteTarget, Veth,
};
use ripstop_nft::model::{Chain, ElementBody, KeyPart, Part, TableFamily, Value};
use ripstop_types::Owner;

use crate::{element, ip, link, link_key, mac, name, pod, prefix};

#[test]
fn keys_are_written_in_the_words_of_ip_and_nft() {
    let part = |text: &str| KeyPart::from(prefix(text));
    let range = KeyPart::range(Value::Service(80), Value::Service(90));
    let cases = [
        (Key::Record { scope: RecordScope::Cluster("nodes".into()), key: "n1".into() }, "record nodes/n1"),
        (Key::Record { scope: RecordScope::Boot("leases".into()), key: "c.eth0".into() }, "file leases/c.eth0"),
        (Key::Sysctl { ns: Ns::Host, path: "net/ipv4/ip_forward".into() }, "sysctl net.ipv4.ip_forward"),
        (
            Key::LinkSysctl { ns: pod(1), link: name("eth0"), path: "net/ipv6/conf/eth0/disable_ipv6".into() },
            "sysctl net.ipv6.conf.eth0.disable_ipv6 in /run/netns/p1",
        ),
        (Key::NftTable { family: TableFamily::Inet, name: "ripstop".into() }, "nft table inet ripstop"),
        (
            Key::NftPart { family: TableFamily::Ip, table: "ripstop-services".into(), name: "endpoints/300".into() },
            "nft part ip ripstop-services endpoints/300",
        ),
        (
            Key::NftValues { family: TableFamily::Ip, table: "ripstop-services".into(), map: "affinity/a_b_c".into() },
            "nft values ip ripstop-services affinity/a_b_c",
        ),
        (
            Key::NftElement(element(
                TableFamily::Bridge,
                "ripstop",
                "ports",
                vec![Value::from(name("ripp1")).into(), Value::Ether(mac(7)).into()],
            )),
            "nft element bridge ripstop ports { ripp1 . 0a:00:00:00:00:07 }",
        ),
        (
            Key::NftElement(element(TableFamily::Inet, "ripstop", "plain4", vec![part("10.0.0.0/8"), range])),
            "nft element inet ripstop plain4 { 10.0.0.0/8 . 80-90 }",
        ),
        (link_key(&Ns::Host, "rip0"), "link rip0"),
        (link_key(&pod(1), "eth0"), "link eth0 in /run/netns/p1"),
        (Key::Address { ns: Ns::Host, link: name("rip0"), ip: ip("fd00::1") }, "address fd00::1 dev rip0"),
        (
            Key::Neighbour { ns: pod(1), link: name("eth0"), ip: ip("169.254.1.1") },
            "neighbour 169.254.1.1 dev eth0 in /run/netns/p1",
        ),
        (Key::Fdb { link: name("ript1"), mac: mac(7) }, "fdb 0a:00:00:00:00:07 dev ript1"),
        (Key::Nexthop { id: 0x5200_0001 }, "nexthop id 1375731713"),
        (Key::main_route(Ns::Host, prefix("10.0.0.0/8")), "route 10.0.0.0/8"),
        (Key::Route { ns: Ns::Host, table: 100, dst: prefix("::/0"), metric: 7 }, "route ::/0 table 100 metric 7"),
        (Key::Qdisc { ns: Ns::Host, link: name("ripp1") }, "qdisc dev ripp1"),
    ];
    for (key, text) in cases {
        assert_eq!(key.to_string(), text);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&json).unwrap(), key, "{json}");
    }
}

/// A recording of what was observed is read back as the same.
#[test]
fn objects_survive_json() {
    let objects: Vec<Object> = vec![
        link(&Ns::Host, "rippa", LinkKind::Veth(Veth { ns: pod(1), name: name("eth0"), mac: mac(2) })).into(),
        link(&Ns::Host, "ript1", LinkKind::Vxlan { vni: 1, port: 8472, local: ip("fd00::1") }).into(),
        link(&pod(1), "lo", LinkKind::Loopback).into(),
        link(&Ns::Host, "ripx", LinkKind::Other("dummy".into())).into(),
        Route {
            ns: pod(1),
            table: 254,
            dst: prefix("0.0.0.0/0"),
            metric: 0,
            target: RouteTarget::Via { link: name("eth0"), gateway: ip("169.254.1.1"), onlink: true },
            src: Some(ip("10.0.0.1")),
            mtu: Some(1400),
        }
        .into(),
        NftElement {
            key: element(TableFamily::Inet, "ripstop", "pods4", vec![Value::from(name("ripp1")).into()]),
            body: ElementBody::comment(&Owner::agent()),
        }
        .into(),
        NftPart::from(Part::new(TableFamily::Ip, "t", "p/1").chain("p/1", Chain::regular())).into(),
        NftValues {
            family: TableFamily::Ip,
            table: "t".into(),
            map: "p/1".into(),
            values: [vec![ip("10.0.0.1").into(), Value::Service(80)]].into(),
            found: true,
        }
        .into(),
    ];
    for object in objects {
        let entry = Entry { object, owner: Some(Owner::agent()) };
        let json = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry, "{json}");
    }
}
