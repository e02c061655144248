//! Faults planted into the tables that policies are compiled to.
//!
//! They are not picked by hand but follow from the tables: each rule is left out once, each set and map is emptied, loses an element, and
//! leads elsewhere, each port is another and each address, in each family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ripstop_conformance::policy::{Scenario, Step};
use ripstop_netmodel::{Entry, Key, Model, NftElement, Object};
use ripstop_nft::model::{Chain, Data, KeyPart, Name, TableFamily, Value, Verdict, part_of};
use ripstop_objects::service::Protocol;
use ripstop_oracle::policy::{Packet, State, Traffic};
use ripstop_types::Prefix;
use serde_json::json;

use super::Spoil;

/// A fault.
pub struct Fault {
    pub name: String,
    pub spoil: Spoil,
}

const FAMILIES: [TableFamily; 2] = [TableFamily::Ip, TableFamily::Ip6];

/// Chains with how many rules they have in IPv4 and in IPv6: `ports` and `peers` are those of all parts of that kind.
const CHAINS: [(&str, [usize; 2]); 5] =
    [("near", [2, 2]), ("forward", [5, 6]), ("input", [2, 3]), ("ports", [2, 2]), ("peers", [3, 3])];

/// The place of the rule about flows that ended, in `forward`.
const OF_ENDED: [usize; 2] = [1, 2];

/// Sets and maps, and whether their elements have verdicts.
const SETS: [(&str, bool); 9] = [
    ("itself", false),
    ("egress", true),
    ("ingress", true),
    ("egress-near", true),
    ("ingress-near", true),
    ("ports", true),
    ("others", true),
    ("single", true),
    ("blocks", true),
];

/// What a chain or set of a part is called among its like: its kind or the last word of its name.
fn is_called(name: &Name, kind: &str) -> bool {
    match (part_of(name), name.as_str().matches('/').count()) {
        (Some(_), 1) => name.as_str().starts_with(&format!("{kind}/")),
        (Some(_), _) => name.as_str().ends_with(&format!("/{kind}")),
        (None, _) => name.as_str() == kind,
    }
}

/// The chains of a model.
fn change_chains(model: &mut Model, family: TableFamily, kind: &str, change: &dyn Fn(&mut Chain)) {
    let entries: Vec<Entry> = model.iter().map(|(_, entry)| Entry::clone(entry)).collect();
    for mut entry in entries {
        let chains = match &mut entry.object {
            Object::NftTable(table) if table.table.family == family => &mut table.table.chains,
            Object::NftPart(part) if part.part.family == family => &mut part.part.chains,
            _ => continue,
        };
        chains.iter_mut().filter(|(name, _)| is_called(name, kind)).for_each(|(_, chain)| change(chain));
        model.insert_entry(entry.into());
    }
}

/// What becomes of an element; `None`: it goes.
type Change = fn(NftElement) -> Option<NftElement>;

/// What parts are filled with becomes elements of their own.
fn spill(model: &mut Model) {
    let entries: Vec<Entry> = model.iter().map(|(_, entry)| Entry::clone(entry)).collect();
    for mut entry in entries {
        let Object::NftPart(part) = &mut entry.object else { continue };
        let elements: Vec<_> = part.part.elements().collect();
        part.part.filled.clear();
        for (key, body) in elements {
            model.insert(NftElement { key, body }, entry.owner.clone());
        }
        model.insert_entry(entry.into());
    }
}

fn change_elements(model: &mut Model, family: TableFamily, set: &str, most: usize, change: Change) {
    spill(model);
    let of = |key: &Key| matches!(key, Key::NftElement(key) if key.family == family && is_called(&key.set, set));
    let keys: Vec<Key> = model.keys().filter(|key| of(key)).take(most).cloned().collect();
    let taken: Vec<Entry> = keys.iter().filter_map(|key| model.remove(key)).map(|entry| Entry::clone(&entry)).collect();
    for entry in taken {
        let Object::NftElement(element) = entry.object else { unreachable!() };
        if let Some(element) = change(element) {
            model.insert(element, entry.owner);
        }
    }
}

fn with(mut element: NftElement, change: impl Fn(&Verdict) -> Verdict) -> NftElement {
    if let Some(Data::Verdict(verdict)) = &mut element.body.data {
        *verdict = change(verdict);
    }
    element
}

/// Every port of a key is the next one, or a range longer by it; every address another.
fn moved(mut element: NftElement) -> NftElement {
    let next = |value: &Value| match value {
        Value::Service(port) => Value::Service(port.saturating_add(1)),
        Value::Ipv4(ip) => Value::Ipv4(Ipv4Addr::from_bits(ip.to_bits() ^ 1)),
        Value::Ipv6(ip) => Value::Ipv6(Ipv6Addr::from_bits(ip.to_bits() ^ 1)),
        other => other.clone(),
    };
    for part in Arc::make_mut(&mut element.key.key.parts) {
        *part = match &*part {
            KeyPart::Value(value) => KeyPart::Value(next(value)),
            // The one beside it.
            KeyPart::Prefix(prefix) if prefix.len() > 0 => {
                let bit = prefix.family().bits() - prefix.len();
                let beside = match prefix.addr() {
                    IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ (1 << bit))),
                    IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ (1 << bit))),
                };
                Prefix::containing(beside, prefix.len()).unwrap().into()
            }
            KeyPart::Range(bounds) => match &**bounds {
                (Value::Service(first), Value::Service(last)) => {
                    KeyPart::range(Value::Service(*first), Value::Service(last.saturating_sub(1).max(*first)))
                }
                _ => KeyPart::Range(bounds.clone()),
            },
            KeyPart::Prefix(_) => part.clone(),
        };
    }
    element
}

/// All of them.
pub fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |name: String, spoil: Spoil| faults.push(Fault { name, spoil });
    for (place, family) in FAMILIES.into_iter().enumerate() {
        let called = family.as_str();
        for (kind, rules) in CHAINS {
            // What is said of flows that ended no scenario meets: those end with real packets alone.
            let of_ended = |index: &usize| kind == "forward" && *index == OF_ENDED[place];
            for index in (0..rules[place]).filter(|index| !of_ended(index)) {
                let spoil = move |model: &mut Model| {
                    change_chains(model, family, kind, &|chain: &mut Chain| {
                        if index < chain.rules.len() {
                            chain.rules.remove(index);
                        }
                    });
                };
                add(format!("{called} {kind}: no rule {}", index + 1), Arc::new(spoil));
            }
        }
        let spoil = move |model: &mut Model| change_chains(model, family, "refused", &|chain| chain.rules.clear());
        add(format!("{called} refused: no rules"), Arc::new(spoil));
        for (set, leads) in SETS {
            let changes: [(&str, usize, bool, Change); 7] = [
                ("empty", usize::MAX, true, |_| None),
                ("one less", 1, true, |_| None),
                ("moved", usize::MAX, set != "others", |element| Some(moved(element))),
                ("opened", usize::MAX, leads, |element| Some(with(element, |_| Verdict::Return))),
                ("one opened", 1, leads, |element| Some(with(element, |_| Verdict::Return))),
                ("shut", usize::MAX, leads, |element| Some(with(element, |_| Verdict::Drop))),
                ("turned", usize::MAX, leads, |element| {
                    Some(with(element, |verdict| match verdict {
                        // The rule goes on, to where packets are refused.
                        Verdict::Continue => Verdict::Return,
                        Verdict::Return => Verdict::Continue,
                        other => other.clone(),
                    }))
                }),
            ];
            for (what, most, applies, change) in changes {
                if applies {
                    let spoil = move |model: &mut Model| change_elements(model, family, set, most, change);
                    add(format!("{called} {set}: {what}"), Arc::new(spoil));
                }
            }
        }
    }
    faults
}

/// What is drawn too rarely: a pod that may talk to nobody goes on talking to its own node where it did before, and one that nobody may talk
/// to does not reach itself by a Service.
pub fn rare() -> [Scenario; 2] {
    let tcp = Traffic::Port(Protocol::Tcp, 80);
    let packet = |source: &str, destination: &str, traffic, state, by_service| {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Packet { source, destination, traffic, state, by_service }
    };
    let to_its_node = vec![
        packet("10.244.1.1", "192.0.2.1", tcp, State::New, false),
        packet("10.244.1.1", "192.0.2.1", tcp, State::Known, false),
        packet("fd00:1::1", "2001:db8::1", tcp, State::Known, false),
        packet("fd00:1::1", "2001:db8::1", Traffic::Discovery, State::New, false),
        // Whose answers go there.
        packet("192.0.2.1", "10.244.1.1", tcp, State::New, false),
        packet("2001:db8::1", "fd00:1::1", tcp, State::New, false),
    ];
    let to_itself = ["10.244.1.1", "fd00:1::1"].map(|ip| packet(ip, ip, tcp, State::New, true)).into();
    [where_all_is_denied("egress", to_its_node), where_all_is_denied("ingress", to_itself)]
}

fn where_all_is_denied(direction: &str, packets: Vec<Packet>) -> Scenario {
    let pod = json!({"name": "x/a", "uid": "", "node": "n1", "ips": ["10.244.1.1", "fd00:1::1"], "phase": "Running"});
    let deny = json!({"name": "c", "tier": "Admin", "priority": 0, "namespaces": [], direction: [{"action": "Deny"}]});
    let node = json!({"name": "n1", "podCIDRs": [], "addresses": ["192.0.2.1", "2001:db8::1"]});
    let world = json!({"nodes": [node], "namespaces": [{"name": "x"}], "pods": [pod], "clusterPolicies": [deny]});
    let steps = vec![Step { changes: Vec::new(), packets }];
    Scenario { world: serde_json::from_value(world).unwrap(), steps }
}
