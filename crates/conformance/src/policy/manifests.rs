//! A case's cluster as objects for a real one: in namespaces of their own, at the addresses that pods have there.
//!
//! Namespace `x` becomes `ripstop-conformance-x`, also where a selector asks for it by name. A block of addresses becomes one that has the same
//! pods of the case in it. What a cluster cannot be given without touching what is not ours is named in an error: nodes are as they are,
//! and a ClusterNetworkPolicy is about all namespaces.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::policy::{NetworkPolicy, Operator, Peer, PolicyRule, PortMatch, Selector};
use ripstop_objects::{KubeNamespace, KubePod, NAMESPACE_NAME_LABEL};
use ripstop_types::{Family, Prefix};
use serde_json::{Map, Value, json};

/// What names of namespaces begin with.
pub const NAMESPACES: &str = "ripstop-conformance-";
/// The label of all namespaces of a run.
pub const LABEL: &str = "ripstop.io/conformance";
/// The annotation from which a pod's file is made.
const ASKS: &str = "ripstop.io/asks";

/// Pods' addresses: those of the case, with those that they have.
pub type Addresses = BTreeMap<IpAddr, IpAddr>;

/// What the pods of a run have in common.
#[derive(Debug, Clone)]
pub struct Template {
    /// Their image.
    pub image: String,
    /// What runs there. The path of the file with what is asked is given to it as its last word.
    pub command: Vec<String>,
}

/// A namespace's name there.
#[must_use]
pub fn named(namespace: &str) -> String {
    format!("{NAMESPACES}{namespace}")
}

/// A namespace.
#[must_use]
pub fn namespace(namespace: &KubeNamespace) -> Value {
    let own = namespace.labels.iter().filter(|(key, _)| key.as_ref() != NAMESPACE_NAME_LABEL);
    let mut labels: Map<String, Value> = own.map(|(key, value)| (key.to_string(), value.to_string().into())).collect();
    labels.insert(LABEL.into(), "policy".into());
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": named(&namespace.name), "labels": labels}})
}

/// A pod on a node, with what it is told.
#[must_use]
pub fn pod(pod: &KubePod, node: &str, Template { image, command }: &Template, asks: &str) -> Value {
    let ports = pod
        .ports
        .iter()
        .map(|port| json!({"name": &*port.name, "protocol": port.protocol.as_str(), "containerPort": port.port}));
    let labels: Map<String, Value> =
        pod.labels.iter().map(|(key, value)| (key.to_string(), value.to_string().into())).collect();
    let command: Vec<&str> = command.iter().map(String::as_str).chain(["/asks/asks"]).collect();
    let item = json!({"path": "asks", "fieldRef": {"fieldPath": format!("metadata.annotations['{ASKS}']")}});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": named(&pod.name.namespace), "name": &*pod.name.name,
            "labels": labels, "annotations": {ASKS: asks},
        },
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1, "restartPolicy": "Always",
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "volumes": [{"name": "asks", "downwardAPI": {"items": [item]}}],
            "containers": [{
                "name": "pod", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
                "ports": ports.collect::<Vec<_>>(), "volumeMounts": [{"name": "asks", "mountPath": "/asks"}],
            }],
        },
    })
}

/// A policy.
///
/// # Errors
/// What of it a cluster cannot be given.
pub fn policy(policy: &NetworkPolicy, addresses: &Addresses) -> Result<Value, String> {
    if policy.staged {
        return Err(format!("{} is staged, which other networks do not know", policy.name));
    }
    let mut spec = json!({"podSelector": selector(&policy.subject, |_, value| value.into())});
    let mut types = Vec::new();
    for (kind, field, end, rules) in
        [("Ingress", "ingress", "from", &policy.ingress), ("Egress", "egress", "to", &policy.egress)]
    {
        let Some(rules) = rules else { continue };
        types.push(kind);
        spec[field] = rules.iter().map(|one| rule(one, end, addresses)).collect::<Result<_, _>>()?;
    }
    spec["policyTypes"] = types.into();
    let metadata = json!({"namespace": named(&policy.name.namespace), "name": &*policy.name.name});
    Ok(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec,
    }))
}

fn rule(rule: &PolicyRule, end: &str, addresses: &Addresses) -> Result<Value, String> {
    let is_empty = rule.peers.as_ref().is_some_and(Vec::is_empty) || rule.ports.as_ref().is_some_and(Vec::is_empty);
    if is_empty {
        return Err("a rule matches nothing, which the API cannot say".into());
    }
    let mut written = json!({});
    if let Some(peers) = &rule.peers {
        written[end] = peers.iter().map(|one| peer(one, addresses)).collect::<Result<_, _>>()?;
    }
    if let Some(ports) = &rule.ports {
        written["ports"] = ports.iter().map(port).collect();
    }
    Ok(written)
}

fn peer(peer: &Peer, addresses: &Addresses) -> Result<Value, String> {
    let by_name = |key: &str, value: &str| if key == NAMESPACE_NAME_LABEL { named(value) } else { value.into() };
    Ok(match peer {
        Peer::Pods { namespaces: None, pods } => json!({"podSelector": selector(pods, |_, value| value.into())}),
        Peer::Pods { namespaces: Some(namespaces), pods } => json!({
            "namespaceSelector": selector(namespaces, by_name),
            "podSelector": selector(pods, |_, value| value.into()),
        }),
        Peer::Nodes(_) => return Err("a peer is a node, of which NetworkPolicy knows none".into()),
        Peer::Block { block, except } => {
            let at = placed(block, addresses, |_| true)?;
            // Another length than the block's: the API takes no exception that is all of it.
            let inside = |hole: &Prefix| at.covers(hole) && hole.len() > at.len();
            let except = except.iter().map(|hole| placed(hole, addresses, inside).map(|hole| hole.to_string()));
            json!({"ipBlock": {"cidr": at.to_string(), "except": except.collect::<Result<Vec<_>, _>>()?}})
        }
    })
}

/// The block as it is, or one that has the same pods in it.
fn placed(block: &Prefix, addresses: &Addresses, may_be: impl Fn(&Prefix) -> bool) -> Result<Prefix, String> {
    let family = block.family();
    let pods = || addresses.iter().filter(|(case, _)| Family::of(**case) == family);
    let fits = |other: &Prefix| pods().all(|(case, real)| block.contains(*case) == other.contains(*real));
    let longest = if family == Family::V4 { 32 } else { 128 };
    let lengths = || (block.len()..=longest).chain((0..block.len()).rev());
    let inside: Vec<IpAddr> = pods().filter(|(case, _)| block.contains(**case)).map(|(_, real)| *real).collect();
    let around =
        inside.into_iter().flat_map(|real| lengths().filter_map(move |length| Prefix::containing(real, length)));
    let found = [*block].into_iter().chain(around).find(|other| may_be(other) && fits(other));
    found.ok_or_else(|| format!("no block of addresses has the pods of {block} in it here and no others"))
}

fn port(port: &PortMatch) -> Value {
    match port {
        PortMatch::All(protocol) => json!({"protocol": protocol.as_str()}),
        PortMatch::Range { protocol, first, last } if first == last => {
            json!({"protocol": protocol.as_str(), "port": first})
        }
        PortMatch::Range { protocol, first, last } => {
            json!({"protocol": protocol.as_str(), "port": first, "endPort": last})
        }
        PortMatch::Named { protocol: Some(protocol), name } => json!({"protocol": protocol.as_str(), "port": &**name}),
        PortMatch::Named { protocol: None, name } => json!({"port": &**name}),
    }
}

/// A selector, with the values that labels have there.
fn selector(selector: &Selector, there: impl Fn(&str, &str) -> String) -> Value {
    let expressions = selector.requirements().iter().map(|requirement| {
        let key = &*requirement.key;
        let all = |values: &[Arc<str>]| values.iter().map(|value| there(key, value)).collect::<Vec<_>>();
        match &requirement.operator {
            Operator::In(values) => json!({"key": key, "operator": "In", "values": all(values)}),
            Operator::NotIn(values) => json!({"key": key, "operator": "NotIn", "values": all(values)}),
            Operator::Exists => json!({"key": key, "operator": "Exists"}),
            Operator::DoesNotExist => json!({"key": key, "operator": "DoesNotExist"}),
        }
    });
    match expressions.collect::<Vec<_>>() {
        none if none.is_empty() => json!({}),
        some => json!({"matchExpressions": some}),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, cases};
    use super::*;
    use ripstop_oracle::policy::{Packet, World, judge};

    /// Pods somewhere else: no two in one small block, and in the order of the others.
    fn elsewhere(world: &World) -> Addresses {
        let pods = world.pods.iter().filter(|pod| !pod.host_network).flat_map(|pod| pod.ips.iter().copied());
        pods.map(|ip| match ip {
            IpAddr::V4(v4) => {
                let [_, _, node, last] = v4.octets();
                (ip, IpAddr::from([172, 20 + node, 7, last]))
            }
            IpAddr::V6(v6) => {
                let [_, node, .., last] = v6.segments();
                (ip, IpAddr::from([0xfd77, node, 1, 0, 0, 0, 0, last]))
            }
        })
        .collect()
    }

    /// The same cluster there, with policies as they are read from what is written.
    fn there(world: &World, addresses: &Addresses) -> Option<World> {
        let mut other = World { nodes: world.nodes.clone(), ..World::default() };
        other.namespaces.extend(world.namespaces.iter().map(|one| {
            let name = named(&one.name);
            let mut labels = one.labels.clone();
            labels.insert(NAMESPACE_NAME_LABEL.into(), name.as_str().into());
            KubeNamespace { name: name.into(), labels }
        }));
        for pod in world.pods.iter().filter(|pod| !pod.host_network) {
            let mut pod = pod.clone();
            pod.name.namespace = named(&pod.name.namespace).into();
            pod.ips = pod.ips.iter().map(|ip| addresses[ip]).collect();
            other.pods.push(pod);
        }
        for one in &world.policies {
            let (read, faults) = NetworkPolicy::from_value(&policy(one, addresses).ok()?).unwrap();
            faults.into_result().unwrap();
            other.policies.push(read);
        }
        Some(other)
    }

    #[test]
    fn what_is_written_says_the_same_elsewhere() {
        let (mut compared, mut left) = (0, Vec::new());
        for case in cases().unwrap() {
            let mut world = World::default();
            for step in case.steps().unwrap() {
                step.changes.iter().for_each(|change: &Change| change.apply(&mut world));
                if !world.cluster_policies.is_empty() {
                    continue;
                }
                let addresses = elsewhere(&world);
                let Some(other) = there(&world, &addresses) else {
                    left.push(case.id.clone());
                    continue;
                };
                for probe in step.probes.iter().filter(|probe| !probe.packet.by_service) {
                    let ends = [probe.packet.source, probe.packet.destination].map(|ip| addresses.get(&ip).copied());
                    let [Some(source), Some(destination)] = ends else { continue };
                    let packet = Packet { source, destination, ..probe.packet };
                    assert_eq!(judge(&other, &packet).is_accepted(), probe.arrives, "{}: {}", case.id, probe.name);
                    compared += 1;
                }
            }
        }
        assert!(compared > 50_000, "{compared}");
        assert_eq!(left, Vec::<String>::new());
    }

    #[test]
    fn a_block_that_nothing_there_is_like_is_refused() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let block: Prefix = "10.244.1.0/24".parse().unwrap();
        let mixed: Addresses = [
            (ip("10.244.1.16"), ip("10.0.0.1")),
            (ip("10.244.1.28"), ip("10.0.0.3")),
            (ip("10.244.2.20"), ip("10.0.0.2")),
        ]
        .into();
        let why = placed(&block, &mixed, |_| true).unwrap_err();
        assert!(why.contains("10.244.1.0/24"), "{why}");
        // Where no pod has an address of a family its blocks stay.
        assert_eq!(placed(&block, &Addresses::new(), |_| true), Ok(block));
    }
}
