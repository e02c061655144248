//! Random models that a kernel could have: every object comes with what it hangs on.
//!
//! A model is made of dice: bytes that proptest throws and shrinks. A zero is "not there" wherever a choice is offered,
//! so small counterexamples are small models.

use std::net::IpAddr;

use ripstop_netmodel::{
    Address, BridgePort, Entry, Fdb, Forwarder, ForwarderPeer, Key, Link, LinkKind, Model, Neighbour, Nexthop,
    NftElement, NftPart, NftTable, NftValues, Ns, Object, Qdisc, Record, RecordGuard, RecordScope, Resource, Route,
    RouteTarget, Scope, Sysctl, Veth, link_table,
};
use ripstop_nft::model::{
    Chain, ElementBody, ElementKey, Key as ElementValue, KeyPart, Name, Part, Rule, Set, Table, TableFamily, Type,
    Value, build,
};
use ripstop_plan::{Action, Step, apply_to_model};
use ripstop_types::{Family, IfName, Mac, Owner, Prefix};

/// Bytes that decide.
#[derive(Debug, Clone)]
pub struct Dice {
    bytes: Vec<u8>,
    at: usize,
}

impl Dice {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }

    /// A number below `n`; zero when the bytes are used up.
    pub fn below(&mut self, n: usize) -> usize {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(byte) % n
    }

    /// True once in `n` throws, never for a zero.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn yes(&mut self) -> bool {
        self.one_in(2)
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

pub fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn mac(last: u8) -> Mac {
    Mac::local([0, 0, 0, 0, last])
}

pub fn pod(n: usize) -> Ns {
    Ns::Path(format!("/run/netns/p{n}").into())
}

pub fn link(ns: &Ns, text: &str, kind: LinkKind) -> Link {
    Link {
        ns: ns.clone(),
        name: name(text),
        kind,
        mtu: Some(1500),
        mac: None,
        up: true,
        master: None,
        altname: None,
        port: None,
        no_link_local: false,
        tx_checksum: None,
    }
}

pub fn address(ns: &Ns, dev: &str, text: &str, len: u8) -> Address {
    Address { ns: ns.clone(), link: name(dev), ip: ip(text), len, scope: Scope::Global }
}

pub fn route(ns: &Ns, dst: &str, target: RouteTarget) -> Route {
    Route { ns: ns.clone(), table: 254, dst: prefix(dst), metric: 0, target, src: None, mtu: None }
}

pub fn via(dev: &str, gateway: &str, onlink: bool) -> RouteTarget {
    RouteTarget::Via { link: name(dev), gateway: ip(gateway), onlink }
}

/// A veth pair of the host with its other end in a pod, the other end set up, and the pod's `lo`.
pub fn pair(host: &str, pod: &Ns, end: &str) -> [Link; 3] {
    let kind = LinkKind::Veth(Veth { ns: pod.clone(), name: name(end), mac: mac(9) });
    [
        link(&Ns::Host, host, kind),
        Link { mac: Some(mac(9)), no_link_local: true, ..link(pod, end, LinkKind::VethPeer) },
        Link { mtu: None, ..link(pod, "lo", LinkKind::Loopback) },
    ]
}

pub fn owner() -> Owner {
    Owner::from_mark("test")
}

pub fn put(model: &mut Model, object: impl Into<Object>) {
    model.insert(object, Some(owner()));
}

/// A model of objects with one owner.
pub fn model<const N: usize>(objects: [Object; N]) -> Model {
    objects.into_iter().map(|object| Entry { object, owner: Some(owner()) }).collect()
}

/// A table whose sets and rules depend on the variant; the sets of `elements` are there in all but one.
pub fn table(family: TableFamily, variant: usize) -> Table {
    let mut table = Table::new(family, "ripstop")
        .set("ports", Set::of([Type::InetService]))
        .set("map", Set::map([Type::InetService], [Type::Mark]))
        .set("ways", Set::vmap([Type::InetService]));
    if variant != 2 {
        table = table.set("ranges", Set::of([Type::Ipv4Addr]).interval());
    }
    let rule = Rule::new([build::udp::dport().is(build::Port(u16::try_from(variant).unwrap() + 1)), build::drop()]);
    table.chain("chain", Chain::regular().rule(rule))
}

pub fn element(family: TableFamily, set: &'static str, key: ElementValue, body: ElementBody) -> NftElement {
    NftElement { key: ElementKey { family, table: Name::from("ripstop"), set: Name::from(set), key }, body }
}

/// A part with a map that packets fill; the third variant's rules look into a set that not every table has.
pub fn part(family: TableFamily, name: &'static str, variant: usize) -> NftPart {
    let rule = match variant {
        3 => Rule::new([build::ip::saddr().in_set("ranges"), build::drop()]),
        _ => Rule::new([build::udp::dport().is(build::Port(u16::try_from(variant).unwrap())), build::drop()]),
    };
    let map = Set::map([Type::InetService], [Type::Mark]).dynamic().size(u32::try_from(variant / 2 + 1).unwrap());
    let part = Part::new(family, "ripstop", name).chain(name, Chain::regular().rule(rule));
    part.set(name, map).into()
}

/// A model of a kernel.
pub fn closed_model(dice: &mut Dice) -> Model {
    let mut model = Model::new();
    settings(&mut model, dice);
    for family in [TableFamily::Inet, TableFamily::Bridge] {
        tables(&mut model, dice, family);
    }
    let bridges = shared_links(&mut model, dice);
    pods(&mut model, dice, &bridges);
    let links: Vec<Link> = model.iter().filter_map(|(_, e)| as_link(&e.object)).cloned().collect();
    for link in &links {
        on_link(&mut model, dice, link);
        at_ingress(&mut model, dice, link);
    }
    nexthops(&mut model, dice, &links);
    routes(&mut model, dice, &links);
    model
}

fn as_link(object: &Object) -> Option<&Link> {
    if let Object::Link(link) = object { Some(link) } else { None }
}

fn settings(model: &mut Model, dice: &mut Dice) {
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        if dice.yes() {
            put(model, Sysctl { ns: Ns::Host, link: None, path: path.into(), value: dice.of(&["0", "1"]).into() });
        }
    }
    for scope in [RecordScope::Boot("leases".into()), RecordScope::Cluster("nodes".into())] {
        for key in ["a", "b"] {
            if dice.yes() {
                let value = dice.of(&["1", "2"]).into();
                put(model, Record { scope: scope.clone(), key: key.into(), value, guard: RecordGuard::Any });
            }
        }
    }
}

fn tables(model: &mut Model, dice: &mut Dice, family: TableFamily) {
    let variant = dice.below(4);
    if variant == 0 {
        return;
    }
    put(model, NftTable { table: table(family, variant) });
    for port in 1..4u16 {
        if dice.yes() {
            let key = ElementValue::new(false, [Value::Service(port)]);
            put(model, element(family, "ports", key.clone(), ElementBody::default()));
        }
        if dice.yes() {
            let key = ElementValue::new(false, [Value::Service(port)]);
            let mark = Value::Mark(u32::try_from(dice.below(3)).unwrap());
            put(model, element(family, "map", key, ElementBody::data(ripstop_nft::model::Data::Values(vec![mark]))));
        }
    }
    for (port, name) in [(7, "p/1"), (8, "p/2")] {
        let kind = dice.below(4);
        if kind == 0 || (kind == 3 && variant == 2) {
            continue;
        }
        put(model, part(family, name, kind));
        let map = Name::from(name);
        let values = (0..dice.below(3)).map(|n| vec![Value::Mark(u32::try_from(n).unwrap())]).collect();
        put(model, NftValues { family, table: "ripstop".into(), map, values, found: false });
        if dice.yes() {
            let goto = ripstop_nft::model::Verdict::Goto(Name::from(if dice.yes() { "p/1" } else { name }));
            let there = |to: &str| {
                model.keys().any(
                    |key| matches!(key, Key::NftPart { family: of, name, .. } if *of == family && name.as_str() == to),
                )
            };
            if there("p/1") || goto == ripstop_nft::model::Verdict::Goto(Name::from(name)) {
                let key = ElementValue::new(false, [Value::Service(port)]);
                put(model, element(family, "ways", key, ElementBody::data(ripstop_nft::model::Data::Verdict(goto))));
            }
        }
    }
    for range in ["10.0.0.0/8", "192.168.0.7/32"] {
        if variant != 2 && dice.yes() {
            let key = ElementValue::new(true, [KeyPart::from(prefix(range))]);
            put(model, element(family, "ranges", key, ElementBody::comment("test")));
        }
    }
}

/// Takes one out of a list; what only one link can have is dealt like cards.
fn deal<T>(dice: &mut Dice, cards: &mut Vec<T>) -> T {
    let at = dice.below(cards.len());
    cards.remove(at)
}

/// Links that are no pod's; the names of those that can have ports.
fn shared_links(model: &mut Model, dice: &mut Dice) -> Vec<IfName> {
    let mut bridges = Vec::new();
    let (mut vnis, mut names) = (vec![0, 1, 2], vec!["ripstop.network.a", "ripstop.network.b", "ripstop.network.c"]);
    // The last name sorts behind the pods' links: order by name alone would make ports before it.
    for text in ["rip0", "ripa", "ripz"] {
        let kind = match dice.below(7) {
            0 => continue,
            1 | 2 => LinkKind::Bridge,
            n @ (3 | 4) => {
                let port = if n == 3 { 8472 } else { 4789 };
                LinkKind::Vxlan { vni: deal(dice, &mut vnis), port, local: ip("192.0.2.1") }
            }
            5 => LinkKind::Tun,
            _ => LinkKind::Ifb { index: 0x4000_0001 },
        };
        if kind == LinkKind::Bridge {
            bridges.push(name(text));
        }
        let mtu = dice.of(&[Some(1500), Some(1450)]);
        let altname = dice.yes().then(|| deal(dice, &mut names).into());
        put(model, Link { mtu, up: !dice.one_in(8), altname, ..link(&Ns::Host, text, kind) });
    }
    bridges
}

fn pods(model: &mut Model, dice: &mut Dice, bridges: &[IfName]) {
    // Two interfaces of one pod, one pod more, and one that may have the place of the first.
    for (host, n, end) in [("ripp0", 0, "eth0"), ("ripp1", 0, "net1"), ("ripp2", 1, "eth0"), ("ripp3", 0, "eth0")] {
        let is_taken = model.keys().any(|key| *key == link(&pod(n), end, LinkKind::VethPeer).key());
        match dice.below(5) {
            _ if is_taken => continue,
            0 | 1 => continue,
            2 => {
                put(model, link(&Ns::Host, host, LinkKind::Ifb { index: 0x4000_0001 }));
                continue;
            }
            _ => {}
        }
        let [mut first, mut second, lo] = pair(host, &pod(n), end);
        if let (true, false) = (dice.yes(), bridges.is_empty()) {
            first.master = Some(dice.of(bridges));
            first.port = Some(BridgePort { hairpin: dice.yes(), learning: true });
        }
        first.altname = dice.yes().then(|| format!("ripstop.{host}").into());
        second.mtu = dice.of(&[Some(1500), Some(1450)]);
        put(model, first);
        put(model, second);
        put(model, lo);
    }
}

fn on_link(model: &mut Model, dice: &mut Dice, link: &Link) {
    let (ns, dev) = (&link.ns, link.name.as_str());
    if link.kind == LinkKind::Loopback {
        return;
    }
    // An address of its own in each family, and one that several links may have.
    let own = format!("10.9.{}.1", model.keys().position(|key| *key == link.key()).unwrap_or(0));
    for text in [own.as_str(), "169.254.1.1", "fd00::1"] {
        if dice.one_in(3) {
            let len = if ip(text).is_ipv4() { dice.of(&[32, 24]) } else { 64 };
            put(model, Address { scope: dice.of(&[Scope::Global, Scope::Link]), ..address(ns, dev, text, len) });
        }
    }
    for text in ["10.7.0.2", "fd00::2"] {
        if dice.one_in(3) {
            let mac = mac(u8::try_from(dice.below(3)).unwrap());
            put(model, Neighbour { ns: ns.clone(), link: link.name.clone(), ip: ip(text), mac });
        }
    }
    if matches!(link.kind, LinkKind::Vxlan { .. }) {
        for last in 1..3 {
            if dice.yes() {
                put(
                    model,
                    Fdb { link: link.name.clone(), mac: mac(last), dst: dice.of(&[ip("192.0.2.2"), ip("192.0.2.3")]) },
                );
            }
        }
    }
    if link.kind == LinkKind::Tun && dice.yes() {
        forwarder(model, dice, &link.name);
    }
    if dice.one_in(3) {
        let rate = dice.of(&[1_000_000, 2_000_000]);
        put(model, Qdisc { ns: ns.clone(), link: link.name.clone(), rate, burst: 16_000, limit: 32_000 });
    }
    if dice.one_in(3) {
        let (path, value) = (format!("net/ipv6/conf/{dev}/disable_ipv6").into(), dice.of(&["0", "1"]).into());
        put(model, Sysctl { ns: ns.clone(), link: Some(link.name.clone()), path, value });
    }
}

fn forwarder(model: &mut Model, dice: &mut Dice, link: &IfName) {
    let listen = vec![dice.of(&["192.0.2.1:8285", "192.0.2.9:8285"]).parse().unwrap()];
    put(model, Forwarder { link: link.clone(), listen });
    for peer in ["a/n2", "a/n3"] {
        if dice.yes() {
            let to = dice.of(&["192.0.2.2:8285", "192.0.2.3:8285"]).parse().unwrap();
            let ranges = vec![prefix("10.5.0.0/24")];
            put(model, ForwarderPeer { link: link.clone(), peer: peer.into(), to, also_from: Vec::new(), ranges });
        }
    }
}

/// A table of its own at the ingress of a link of the host.
pub fn ingress(dev: &str, variant: usize) -> NftTable {
    let rule = Rule::new([build::udp::dport().is(build::Port(u16::try_from(variant).unwrap())), build::drop()]);
    let chain = Chain::ingress(name(dev), 0).rule(rule);
    NftTable { table: Table::new(TableFamily::Netdev, link_table(&name(dev)).unwrap()).chain("chain", chain) }
}

fn at_ingress(model: &mut Model, dice: &mut Dice, link: &Link) {
    let variant = dice.below(3);
    if link.ns == Ns::Host && variant > 0 {
        put(model, ingress(link.name.as_str(), variant));
    }
}

fn host_links(links: &[Link]) -> Vec<IfName> {
    let mut names = vec![name("eth0")];
    names.extend(links.iter().filter(|link| link.ns == Ns::Host).map(|link| link.name.clone()));
    names
}

fn nexthops(model: &mut Model, dice: &mut Dice, links: &[Link]) {
    let devices = host_links(links);
    for n in 0..4 {
        if dice.yes() {
            let gateway = dice.of(&[ip("10.1.0.1"), ip("10.1.0.2"), ip("fd00:1::1")]);
            put(model, Nexthop { id: 0x5200_0000 + n, link: dice.of(&devices), gateway, onlink: dice.yes() });
        }
    }
}

fn routes(model: &mut Model, dice: &mut Dice, links: &[Link]) {
    let devices = host_links(links);
    for dst in ["10.10.1.0/24", "10.10.2.0/24", "10.10.3.7/32", "fd00:10::/64", "fd00:11::/64"] {
        let dst = prefix(dst);
        let family = dst.family();
        let nexthops: Vec<u32> = model
            .iter()
            .filter_map(|(_, e)| if let Object::Nexthop(n) = &e.object { Some(n) } else { None })
            .filter(|nexthop| Family::of(nexthop.gateway) == family)
            .map(|nexthop| nexthop.id)
            .collect();
        let gateway = if family == Family::V4 { "10.3.0.1" } else { "fd00:3::1" };
        let target = match dice.below(6) {
            0 => continue,
            1 => RouteTarget::Unreachable,
            2 => RouteTarget::Link(dice.of(&devices)),
            3 => RouteTarget::Via { link: dice.of(&devices), gateway: ip(gateway), onlink: true },
            _ if nexthops.is_empty() => continue,
            _ => RouteTarget::Nexthop(dice.of(&nexthops)),
        };
        let sources: Vec<IpAddr> = model
            .keys()
            .filter_map(|key| if let Key::Address { ns: Ns::Host, ip, .. } = key { Some(*ip) } else { None })
            .filter(|ip| Family::of(*ip) == family)
            .collect();
        let src = (dice.yes() && !sources.is_empty()).then(|| dice.of(&sources));
        put(model, Route { ns: Ns::Host, table: 254, dst, metric: 0, target, src, mtu: None });
    }
    for link in links.iter().filter(|link| link.kind == LinkKind::VethPeer) {
        // Two interfaces of a pod have routes of their own; the default is the first's.
        let dev = link.name.as_str();
        if dice.yes() {
            let router = if dev == "eth0" { "169.254.1.9" } else { "169.254.1.8" };
            put(model, route(&link.ns, &format!("{router}/32"), RouteTarget::Link(link.name.clone())));
            if dev == "eth0" && dice.yes() {
                put(model, route(&link.ns, "0.0.0.0/0", via(dev, router, false)));
            }
        }
    }
}

/// Removes some objects by hand, as an operator might: what hangs on them goes too.
pub fn vandalise(model: &mut Model, dice: &mut Dice) {
    for _ in 0..dice.below(4) {
        let keys: Vec<Key> = model.keys().cloned().collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[(dice.below(256) * 256 + dice.below(256)) % keys.len()].clone();
        let step =
            Step { action: Action::Delete, key, after: None, before: None, owner: owner(), reason: "by hand".into() };
        // The kernel may refuse it: a chain that something leads to stays.
        let _ = apply_to_model(model, &step);
    }
}
