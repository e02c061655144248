//! What policies come to: who may talk to whom, and what has no effect.

use proptest::prelude::*;
use ripstop_conformance::policy::{Change, scenarios};
use ripstop_objects::policy::{NetworkPolicy, PolicyName};
use ripstop_objects::service::Protocol;
use ripstop_oracle::policy::{Packet, State, Traffic, World, judge};
use ripstop_policy::Policies;
use ripstop_policy::explain::{FindingKind, OUTSIDE, Party, Port};
use ripstop_types::Family;
use serde_json::json;

use super::explain::{cluster, network, pod, shop};
use super::random::follow;

/// Whether a graph's words permit a port; of protocols without ports, `None`.
fn has(words: &[String], port: Option<(Protocol, u16)>) -> bool {
    words.iter().any(|word| match (word.as_str(), port) {
        ("all", _) => true,
        ("other", port) => port.is_none(),
        (_, None) => false,
        (word, Some((protocol, number))) => {
            let (ports, own) = word.split_once('/').unwrap_or(("0-65535", word));
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            own == protocol.as_str() && (first.parse().unwrap()..=last.parse().unwrap()).contains(&number)
        }
    })
}

fn view(world: &World) -> Policies {
    let mut policies = Policies::new(None);
    Change::all_of(world).iter().for_each(|change| follow(&mut policies, change));
    policies.decide();
    policies
}

const PORTS: [Option<(Protocol, u16)>; 6] = [
    Some((Protocol::Tcp, 80)),
    Some((Protocol::Tcp, 443)),
    Some((Protocol::Udp, 81)),
    Some((Protocol::Udp, 65_535)),
    Some((Protocol::Sctp, 1)),
    None,
];

/// Each pair of pods may what the oracle says.
fn compare(world: &World) -> Result<(), String> {
    let graph = view(world).graph(|_| true)?;
    let class =
        |name: &str| graph.members.iter().find(|(_, all)| all.iter().any(|one| one.to_string() == name)).unwrap().0;
    let ends: Vec<_> =
        world.pods.iter().filter(|pod| !pod.host_network && !pod.has_finished() && !pod.ips.is_empty()).collect();
    for from in &ends {
        for to in ends.iter().filter(|to| to.name != from.name) {
            for family in Family::BOTH {
                let ip = |ips: &[std::net::IpAddr]| ips.iter().copied().find(|ip| Family::of(*ip) == family);
                let (Some(source), Some(destination)) = (ip(&from.ips), ip(&to.ips)) else { continue };
                // Of two that say that they have an address one has it.
                let is_shared = [(from, source), (to, destination)]
                    .into_iter()
                    .any(|(_, ip)| ends.iter().filter(|pod| pod.ips.contains(&ip)).count() > 1);
                if is_shared {
                    continue;
                }
                let (from, to) = (class(&from.name.to_string()), class(&to.name.to_string()));
                let edges = graph.edges.iter().filter(|edge| (&edge.from, &edge.to) == (from, to));
                let edges: Vec<_> = edges.filter(|edge| edge.family.is_none_or(|own| own == family)).collect();
                for port in PORTS {
                    let traffic = port.map_or(Traffic::Other(1), |(protocol, port)| Traffic::Port(protocol, port));
                    let packet = Packet { source, destination, traffic, state: State::New, by_service: false };
                    let drawn = edges.iter().any(|edge| has(&edge.ports, port));
                    if drawn != judge(world, &packet).is_accepted() {
                        return Err(format!("{packet:?}: {edges:#?}"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Who decides stays the same without a rule that is said to be covered, or to match never.
fn leave_out(world: &World, packets: &[Packet]) -> Result<(), String> {
    for found in view(world).unused() {
        let (Some(direction), Some(rule)) = (found.direction, found.rule) else { continue };
        if !matches!(found.finding, FindingKind::Covered | FindingKind::NeverMatches) {
            continue;
        }
        let mut less = world.clone();
        match found.policy.policy_name() {
            PolicyName::Network(name) => {
                let policy = less.policies.iter_mut().find(|policy| policy.name == name).unwrap();
                let rules = if direction == ripstop_objects::policy::Direction::Ingress {
                    &mut policy.ingress
                } else {
                    &mut policy.egress
                };
                rules.as_mut().unwrap().remove(rule);
            }
            PolicyName::Cluster(name) => {
                let policy = less.cluster_policies.iter_mut().find(|policy| policy.name == name).unwrap();
                let rules = if direction == ripstop_objects::policy::Direction::Ingress {
                    &mut policy.ingress
                } else {
                    &mut policy.egress
                };
                rules.remove(rule);
            }
        }
        for packet in packets {
            if judge(world, packet).is_accepted() != judge(&less, packet).is_accepted() {
                return Err(format!("{found:?} has an effect on {packet:?}"));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_graph_says_what_the_oracle_says(scenario in scenarios()) {
        let mut world = scenario.world.clone();
        scenario.steps.iter().flat_map(|step| &step.changes).for_each(|change| change.apply(&mut world));
        let why = compare(&world);
        prop_assert!(why.is_ok(), "{}{}", scenario, why.unwrap_err());
    }

    #[test]
    fn what_is_unused_has_no_effect(scenario in scenarios()) {
        let mut world = scenario.world.clone();
        for step in &scenario.steps {
            step.changes.iter().for_each(|change| change.apply(&mut world));
            let why = leave_out(&world, &step.packets);
            prop_assert!(why.is_ok(), "{}{}", scenario, why.unwrap_err());
        }
    }
}

#[test]
fn a_shop_is_drawn() {
    let mut policies = shop();
    pod(&mut policies, "shop", "web-2", json!({"app": "web"}), "10.0.0.9");
    policies.decide();
    let graph = policies.graph(|pod| &*pod.namespace == "shop").unwrap();
    let edges: Vec<String> =
        graph.edges.iter().map(|edge| format!("{} > {} {}", edge.from, edge.to, edge.ports.join(" "))).collect();
    assert_eq!(
        edges,
        ["shop/db > outside all", "shop/front > outside all", "shop/web > outside all", "shop/web > shop/db 5432/TCP"]
    );
    assert_eq!(graph.members["shop/web"].len(), 2);
    let dot = graph.dot();
    assert!(dot.contains("\"shop/web\" [label=\"shop/web and 1 like it\"];"), "{dot}");
    assert!(dot.contains("\"shop/web\" -> \"shop/db\" [label=\"5432/TCP\"];"), "{dot}");
    assert!(
        policies.graph(|_| true).unwrap().edges.iter().any(|edge| edge.from == OUTSIDE && edge.to == "other/front")
    );
}

#[test]
fn what_has_no_effect_is_named() {
    let mut policies = shop();
    let app = |name: &str| json!({"podSelector": {"matchLabels": {"app": name}}});
    network(&mut policies, "gone", &json!({"podSelector": {"matchLabels": {"app": "gone"}}}));
    let rules = json!([
        {"from": [app("web")], "ports": [{"port": "htttp"}]},
        {"from": [app("nobody")]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        {"from": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.1.0/24"]}}], "ports": [{"port": 80}]},
        {"from": [{"podSelector": {"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["a"]}, {"key": "app", "operator": "NotIn", "values": ["a", "b"]}]}}]},
    ]);
    network(&mut policies, "some", &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules}));
    let all = json!([{"action": "Deny", "from": [{"namespaces": {}}]}, {"action": "Accept", "from": [{"pods": {"podSelector": {}}}]}]);
    cluster(
        &mut policies,
        &json!({"metadata": {"name": "c"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {"matchLabels": {"team": "a"}}}, "ingress": all}}),
    );
    policies.decide();
    let found: Vec<String> = policies
        .unused()
        .iter()
        .map(|one| {
            let at = one.rule.map(|rule| format!("[{rule}]")).unwrap_or_default();
            format!("{}{at} {}: {}", one.policy.name, one.finding, one.detail)
        })
        .collect();
    assert_eq!(
        found,
        [
            "c[1] covered: by clusternetworkpolicy/c (tier Admin, priority 1) ingress[0]: Deny",
            "gone selects-nothing: no pod of namespace shop with app=gone",
            "some[0] unknown-port-name: no pod that the policy is about has a port htttp of TCP",
            "some[1] no-peer: no pod of namespace shop with app=nobody",
            "some[3] covered: by networkpolicy/shop/some ingress[2]",
            "some[4] never-matches: no labels meet app=a,app notin (a,b)",
            "web[0] no-peer: no pod of namespace shop with app=frontend",
        ]
    );
}

#[test]
fn an_answer_is_for_people_and_programs() {
    let mut policies = shop();
    let value = json!({"metadata": {"namespace": "shop", "name": "quiet", "annotations": {"ripstop.io/staged": "true"}},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}});
    policies.put_policy(&NetworkPolicy::from_value(&value).unwrap().0);
    policies.decide();
    let party = |name: &str, ip: &str| Party { name: name.into(), ips: vec![ip.parse().unwrap()] };
    let (web, db) = (party("shop/web", "10.0.0.2"), party("shop/db", "10.0.0.3"));
    let answer = policies.answer(&web, &db, "5432".parse().unwrap()).unwrap();
    assert_eq!((answer.allowed, answer.allowed_staged), (true, false));
    assert_eq!(
        answer.to_string(),
        "allowed: shop/web -> shop/db 5432/TCP\n\
         egress of shop/web: allowed because no policy is about it\n  \
         if what is staged were enforced: denied by default: shop/web is isolated for egress by staged \
         networkpolicy/shop/quiet\n  none of them has a rule for egress, so nothing is permitted\n\
         ingress of shop/db: allowed by networkpolicy/shop/db ingress[0]\n"
    );
    let value = serde_json::to_value(&answer).unwrap();
    let by = &value["paths"][0]["ingress"]["by"]["permitted"][0];
    assert_eq!(
        by,
        &json!({"kind": "NetworkPolicy", "namespace": "shop", "name": "db", "direction": "Ingress", "rule": 0, "action": "Accept"})
    );
    assert_eq!(serde_json::from_value::<ripstop_policy::explain::Answer>(value).unwrap(), answer);
    let six = party("2001:db8::1", "2001:db8::1");
    assert!(policies.answer(&web, &six, Port::None).unwrap_err().contains("no family of addresses in common"));
}

#[test]
fn ports_are_read() {
    for (text, read) in
        [("80/TCP", "80/TCP"), ("53/udp", "53/UDP"), ("443", "443/TCP"), ("1/SCTP", "1/SCTP"), ("icmp", "ICMP")]
    {
        assert_eq!(text.parse::<Port>().unwrap().to_string(), read);
    }
    for text in ["", "0", "0/TCP", "65536", "80/", "80/ICMP", "+80", "080", "80/TCP/UDP", "http", "-1"] {
        let why = text.parse::<Port>().unwrap_err().to_string();
        assert!(why.contains("80/TCP"), "{text}: {why}");
    }
}
