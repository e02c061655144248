//! The configuration that a node's agent reads: the lab's options as a document of the product.

use ripstop_types::Family;
use serde_json::{Map, Value, json};

use crate::error::{LabError, Result};
use crate::kubernetes::Network;
use crate::layout::{self, Layout};
use crate::options::{Families, Options, Proxy, RangeMode, StoreKind};
use crate::state::Machine;

/// Where a node's agent finds its configuration.
pub const CONFIG_PATH: &str = "/etc/ripstop/config.yaml";

/// The text of a node's configuration file.
pub fn agent_config(layout: &Layout, options: &Options, name: &str, machine: &Machine) -> Result<String> {
    serde_saphyr::to_string(&document(layout, options, name, machine)?)
        .map_err(|error| LabError::failed(format!("write the configuration of {name}: {error}")))
}

/// The text of one configuration for the agents of all nodes of a cluster.
pub fn cluster_config(layout: &Layout, options: &Options) -> Result<String> {
    let mut document = shared(layout, options, 1)?;
    // By the service account of the agent's pod.
    document["store"] = json!({ "kubernetes": {} });
    // Where kubelet asks how an agent is.
    document["metricsListen"] = "127.0.0.1:9467".into();
    if options.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.proxy != Proxy::KubeProxy) {
        let ranges = Network(options.families).services();
        // Kubernetes' own tests want external addresses served, as kube-proxy does.
        document["services"] = json!({ "serviceCIDRs": ranges.split(',').collect::<Vec<_>>(), "externalIPs": true });
    }
    merge(&mut document, &options.agent_config);
    serde_saphyr::to_string(&document)
        .map_err(|error| LabError::failed(format!("write the configuration of the agents: {error}")))
}

fn document(layout: &Layout, options: &Options, name: &str, machine: &Machine) -> Result<Value> {
    let mut document = shared(layout, options, machine.subnet)?;
    document["node"] = name.into();
    if options.range_mode == RangeMode::PodCidr {
        document["podCIDRs"] = pod_cidrs(options.families, machine.number());
    }
    merge(&mut document, &options.agent_config);
    Ok(document)
}

/// What is the same on all nodes of a subnet.
fn shared(layout: &Layout, options: &Options, subnet: u32) -> Result<Value> {
    let mut spec = json!({
        "ranges": ranges(options.families),
        "rangeMode": word(&options.range_mode)?,
        "wiring": word(&options.wiring)?,
        "backend": { "type": word(&options.backend)? },
    });
    merge(&mut spec, &blocks(options)?);
    merge(&mut spec, &options.network_spec);
    Ok(json!({
        "apiVersion": "ripstop.io/v1alpha1",
        "kind": "AgentConfig",
        "store": store(layout, options, subnet),
        "networks": [{ "metadata": { "name": "default" }, "spec": spec }],
    }))
}

/// What was said of blocks; where nothing was, the product has its own.
fn blocks(options: &Options) -> Result<Value> {
    let mut blocks = Map::new();
    let length = |(key, family)| options.block_length(family).map(|length| (String::from(key), Value::from(length)));
    let lengths: Map<_, _> = [("v4", Family::V4), ("v6", Family::V6)].into_iter().filter_map(length).collect();
    if !lengths.is_empty() {
        blocks.insert("len".into(), lengths.into());
    }
    if !options.pools.is_empty() {
        blocks.insert("pools".into(), word(&options.pools)?);
    }
    Ok(if blocks.is_empty() { Value::Null } else { json!({ "blocks": blocks }) })
}

fn store(layout: &Layout, options: &Options, subnet: u32) -> Value {
    match options.store {
        StoreKind::Embedded => json!({ "embedded": { "socket": layout.store_socket() } }),
        StoreKind::Etcd => {
            let endpoint = |member| layout::etcd_endpoint(options.etcd_scheme(), member, subnet, options.families.v4());
            json!({ "etcd": { "endpoints": (0..options.etcd_members).map(endpoint).collect::<Vec<_>>() } })
        }
    }
}

fn ranges(families: Families) -> Value {
    of_families(families, "10.244.0.0/16", "fd00:244::/48")
}

fn pod_cidrs(families: Families, node: u32) -> Value {
    let (v4, v6) = layout::pod_cidrs(node);
    of_families(families, &v4, &v6)
}

fn of_families(families: Families, v4: &str, v6: &str) -> Value {
    let both = [(families.v4(), v4), (families.v6(), v6)];
    both.into_iter().filter(|(wanted, _)| *wanted).map(|(_, range)| Value::from(range)).collect()
}

fn word(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| LabError::failed(format!("write the configuration: {error}")))
}

/// Lays `over` on `base`: objects merge key by key, null says nothing, anything else replaces.
fn merge(base: &mut Value, over: &Value) {
    match over {
        Value::Null => {}
        Value::Object(over) => {
            if !base.is_object() {
                *base = Value::Object(Map::new());
            }
            if let Value::Object(base) = base {
                for (key, value) in over {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        other => *base = other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Backend, Wiring};

    fn document(options: &Options, node: u32) -> Value {
        let machine = Machine::node(node, options);
        super::document(&Layout::new("x"), options, &layout::node_name(node), &machine).unwrap()
    }

    #[test]
    fn options_become_a_document_of_the_product() {
        let options = Options {
            backend: Backend::HostGw,
            wiring: Wiring::Bridge,
            families: Families::Dual,
            range_mode: RangeMode::PodCidr,
            ..Options::named("x")
        };
        let document = document(&options, 2);
        assert_eq!(document["node"], "n2");
        assert_eq!(document["store"]["embedded"]["socket"], "/run/ripstop-lab/x/store.sock");
        assert_eq!(document["podCIDRs"], json!(["10.244.2.0/24", "fd00:244:0:2::/64"]));
        let spec = &document["networks"][0]["spec"];
        assert_eq!(spec["ranges"], json!(["10.244.0.0/16", "fd00:244::/48"]));
        assert_eq!(spec["rangeMode"], "pod-cidr");
        assert_eq!(spec["backend"]["type"], "host-gw");
        assert_eq!(spec["wiring"], "bridge");
    }

    #[test]
    fn lengths_and_pools_of_blocks_are_the_products() {
        let options = Options { range_mode: RangeMode::Blocks, ..Options::named("x") };
        let spec = |options: &Options| document(options, 1)["networks"][0]["spec"]["blocks"].clone();
        assert_eq!(spec(&options), Value::Null);
        let pools = vec!["10.60.0.0/24,namespace=a,label=tier=db".parse().unwrap(), "10.61.0.0/24".parse().unwrap()];
        let options = Options { block_lengths: vec![28], pools, ..options };
        let expected = json!([
            { "range": "10.60.0.0/24", "namespaces": ["a"], "labels": { "tier": "db" } },
            { "range": "10.61.0.0/24" },
        ]);
        assert_eq!(spec(&options), json!({ "len": { "v4": 28 }, "pools": expected }));
    }

    #[test]
    fn nodes_reach_etcd_at_their_own_router_address() {
        let options = Options { nodes: 3, subnets: 2, store: StoreKind::Etcd, ..Options::named("x") };
        let endpoints = |options: &Options, node| document(options, node)["store"]["etcd"]["endpoints"].clone();
        assert_eq!(endpoints(&options, 2), json!(["http://172.30.2.1:2379"]));
        assert_eq!(endpoints(&options, 3), json!(["http://172.30.1.1:2379"]));
        let options = Options { families: Families::V6, etcd_members: 2, ..options };
        assert_eq!(endpoints(&options, 1), json!(["http://[fd00:30:1::1]:2379", "http://[fd00:30:1::1]:2389"]));
    }

    #[test]
    fn overlays_merge_and_replace() {
        let options = Options {
            network_spec: json!({ "ranges": ["10.1.0.0/16"], "backend": { "vni": 7 } }),
            agent_config: json!({ "log": { "level": "debug" } }),
            ..Options::named("x")
        };
        let document = document(&options, 1);
        assert_eq!(document["networks"][0]["spec"]["ranges"], json!(["10.1.0.0/16"]));
        assert_eq!(document["networks"][0]["spec"]["backend"], json!({ "type": "vxlan", "vni": 7 }));
        assert_eq!(document["log"]["level"], "debug");
        assert!(document.get("podCIDRs").is_none());
    }

    #[test]
    fn the_text_is_yaml_that_reads_back() {
        let options = Options { families: Families::V6, ..Options::named("x") };
        let text = agent_config(&Layout::new("x"), &options, "n1", &Machine::node(1, &options)).unwrap();
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, document(&options, 1));
    }
}
