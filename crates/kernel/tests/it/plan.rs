//! Observe, compare, apply: the kernel comes to what is wanted from wherever it is, and then there is nothing to do.

use std::collections::BTreeSet;

use ripstop_netmodel::*;
use ripstop_nft::model::{
    Chain, ElementBody, ElementKey, Hook, Key as ElementValue, Name, Policy, Rule, Set, Table, TableFamily, Type,
    build, priority,
};
use ripstop_plan::{Action, Plan, diff_all};
use ripstop_types::Family;

use crate::support::*;

fn observed(node: &mut Node, desired: &Model) -> Model {
    let mut observed = node.observer.host(desired).unwrap();
    let pods: BTreeSet<Key> = desired.keys().filter(|key| matches!(key.ns(), Some(Ns::Path(_)))).cloned().collect();
    for (_, entry) in node.observer.observe_keys(&pods, desired).unwrap().iter() {
        observed.insert_entry(entry.clone());
    }
    observed
}

fn plan(node: &mut Node, desired: &Model) -> Plan {
    let observed = observed(node, desired);
    diff_all(&observed, desired, &|_: &Key, _: &Entry| Ok(()))
}

/// One plan suffices, and the next is empty.
fn converge(node: &mut Node, desired: &Model) {
    let first = plan(node, desired);
    for outcome in node.run(&first.steps) {
        outcome.result.unwrap();
    }
    let second = plan(node, desired);
    assert!(second.is_empty(), "first {:#?}\nsecond {:#?}", first.view(), second.view());
}

fn ruleset(rules: usize) -> Object {
    let mut forward = Chain::filter(Hook::Forward, priority::FILTER);
    for _ in 0..rules {
        forward = forward.rule(Rule::new([build::ip::saddr().not_in_set("pods"), build::drop()]));
    }
    let set = Set::of([Type::Ipv4Addr]);
    NftTable { table: Table::new(TableFamily::Inet, NFT_TABLE).set("pods", set).chain("forward", forward) }.into()
}

fn element(ip: &str) -> Object {
    let key = ElementValue::new(false, [addr(ip)]);
    let key = ElementKey { family: TableFamily::Inet, table: Name::from(NFT_TABLE), set: Name::from("pods"), key };
    NftElement { key, body: ElementBody::default() }.into()
}

fn base() -> Vec<Object> {
    let peer = NEXTHOP_IDS.start() + 1;
    vec![
        ruleset(1),
        sysctl(Ns::Host, None, "net/ipv4/ip_forward", "1"),
        link("rip0", LinkKind::Bridge, 1).into(),
        vxlan("ripvx", 7, "192.0.2.1", 3).into(),
        address(Ns::Host, "rip0", "10.244.1.1", 32, Scope::Global),
        address(Ns::Host, "rip0", "fd00:1::1", 128, Scope::Global),
        neighbour(Ns::Host, "ripvx", "10.244.2.0", 20),
        Fdb { link: name("ripvx"), mac: mac(20), dst: addr("192.0.2.2") }.into(),
        nexthop(1, "ripvx", "10.244.2.0", true),
        route(Ns::Host, "10.244.1.0/24", RouteTarget::Unreachable).into(),
        Route { src: Some(addr("10.244.1.1")), ..route(Ns::Host, "10.244.2.0/24", RouteTarget::Nexthop(peer)) }.into(),
        route(Ns::Host, "fd00:1::/64", RouteTarget::Unreachable).into(),
    ]
}

/// A link's own table, by which nothing but this address passes.
fn guard(dev: &str, ip: &str) -> Object {
    let own = Rule::new([build::saddr(Family::V4).is(addr(ip)), build::accept()]);
    let arp = Rule::new([build::meta::protocol().is(build::EtherType::ARP), build::accept()]);
    let chain = Chain::ingress(name(dev), priority::FILTER).policy(Policy::Drop).rules([own, arp]);
    let table = Table::new(TableFamily::Netdev, link_table(&name(dev)).unwrap());
    NftTable { table: table.comment("test").chain("from-pod", chain) }.into()
}

fn with_pod(pod: &Pod, ip: &str) -> Vec<Object> {
    let mut objects: Vec<Object> = pair(pod, "ripab12", 2).into();
    objects.extend([
        element(ip),
        guard("ripab12", ip),
        address(pod.ns(), "eth0", ip, 32, Scope::Global),
        neighbour(Ns::Host, "ripab12", ip, 102),
        neighbour(pod.ns(), "eth0", "169.254.1.1", 2),
        route(Ns::Host, &format!("{ip}/32"), to_link("ripab12")).into(),
        route(pod.ns(), "169.254.1.1/32", to_link("eth0")).into(),
        route(pod.ns(), "0.0.0.0/0", via("eth0", "169.254.1.1", false)).into(),
        Qdisc { ns: Ns::Host, link: name("ripab12"), rate: 10_000_000, burst: 16_000, limit: 48_000 }.into(),
    ]);
    objects
}

#[test]
fn the_kernel_comes_to_what_is_wanted() {
    on_a_node(|mut node| {
        uplink();
        let pod = Pod::new();
        let mut objects = base();
        converge(&mut node, &model(&objects));
        objects.extend(with_pod(&pod, "10.244.1.5"));
        converge(&mut node, &model(&objects));
        // Another ruleset, another backend's MTU, another source.
        objects[0] = ruleset(2);
        for object in &mut objects {
            match object {
                Object::Link(link) if link.mtu.is_some() => link.mtu = Some(1380),
                Object::Fdb(fdb) => fdb.dst = addr("192.0.2.3"),
                _ => {}
            }
        }
        converge(&mut node, &model(&objects));
        // Other parameters of the tunnel: it is made anew, with all that hung on it.
        objects[3] = Object::Link(Link { mtu: Some(1380), ..vxlan("ripvx", 9, "192.0.2.1", 3) });
        converge(&mut node, &model(&objects));
        let base = base();
        converge(&mut node, &model(&base));
        assert!(!pod.run("ip", &["-o", "link"]).contains("eth0"));
        let tables = run("nft", &["list", "tables"]);
        assert!(!tables.contains("netdev"), "the link's table went with it: {tables}");
        converge(&mut node, &Model::new());
        assert!(node.observer.host(&Model::new()).unwrap().is_empty());
    });
}

/// Whose packets a link would pass before its table stands: nobody's, since it is down until then; and where the table is
/// refused it stays down.
#[test]
fn a_link_comes_up_behind_its_table() {
    on_a_node(|mut node| {
        let (pod, other) = (Pod::new(), Pod::new());
        let mut objects = pair(&pod, "ripab12", 2).to_vec();
        objects.push(guard("ripab12", "10.244.1.5"));
        let desired = model(&objects);
        let steps = plan(&mut node, &desired).steps;
        let words: Vec<String> = steps.iter().map(|step| step.key.to_string()).collect();
        let at = |word: &str| words.iter().position(|words| words.starts_with(word)).unwrap();
        assert!(at("link ripab12") < at("nft table netdev") && at("nft table netdev") < at("link eth0"), "{words:?}");
        for outcome in node.run(&steps) {
            outcome.result.unwrap();
        }
        let is_up =
            |dev: &str| run("ip", &["-o", "link", "show", dev]).split(['<', '>']).nth(1).unwrap().contains("UP");
        assert!(is_up("ripab12"));
        // A table that is refused: it asks for a set that nobody declared.
        let Object::NftTable(mut broken) = guard("ripcd34", "10.244.1.6") else { panic!() };
        for chain in broken.table.chains.values_mut() {
            chain.rules.push(Rule::new([build::ip::saddr().in_set("nosuch"), build::drop()]));
        }
        let mut objects = pair(&other, "ripcd34", 3).to_vec();
        objects.push(broken.into());
        let mut steps: Vec<_> = objects.iter().map(|object| step(Action::Create, None, Some(object))).collect();
        // The host's end, its table, the pod's end and its lo.
        steps.swap(1, 3);
        let failed = node.run(&steps).into_iter().filter(|outcome| outcome.result.is_err()).count();
        assert!(failed >= 2, "the table, and the link that waits for it");
        assert!(!is_up("ripcd34"));
    });
}

#[test]
fn what_others_broke_is_mended() {
    on_a_node(|mut node| {
        uplink();
        let pod = Pod::new();
        let mut objects = base();
        objects.extend(with_pod(&pod, "10.244.1.5"));
        let desired = model(&objects);
        converge(&mut node, &desired);
        let breakages = [
            "ip link set ripab12 down",
            "ip link set ripab12 mtu 1300",
            "ip link set ripvx down",
            "ip link del ripvx",
            "ip link del rip0",
            "ip route del 10.244.1.5/32",
            "ip route del 10.244.1.0/24",
            "ip route del 10.244.2.0/24",
            "ip nexthop flush",
            "ip addr flush dev rip0",
            "ip neigh del 10.244.1.5 dev ripab12",
            "bridge fdb del 0a:58:00:00:00:14 dev ripvx dst 192.0.2.2",
            "nft flush ruleset",
            "nft flush chain inet ripstop forward",
            "nft flush set inet ripstop pods",
            "nft delete table netdev ripstop-ripab12",
            "nft flush chain netdev ripstop-ripab12 from-pod",
            "nft delete chain netdev ripstop-ripab12 from-pod",
            "nft add rule netdev ripstop-ripab12 from-pod accept",
            "ip link del ripab12",
            "nft delete element inet ripstop pods { 10.244.1.5 }",
            "tc qdisc del dev ripab12 root",
            "sysctl -q net.ipv4.ip_forward=0",
        ];
        for breakage in breakages {
            let words: Vec<&str> = breakage.split_whitespace().collect();
            run(words[0], &words[1..]);
            assert!(!plan(&mut node, &desired).is_empty(), "{breakage} is not seen");
            println!("{breakage}");
            converge(&mut node, &desired);
        }
        let inside = [
            "ip addr flush dev eth0",
            "ip link set eth0 down",
            "ip route del default",
            "ip neigh flush dev eth0 nud all",
        ];
        for breakage in inside {
            let words: Vec<&str> = breakage.split_whitespace().collect();
            pod.run(words[0], &words[1..]);
            println!("in the pod: {breakage}");
            converge(&mut node, &desired);
        }
        pod.reaches(&listen("10.244.1.1"));
    });
}
