//! The part of an agent's configuration that says how the API of Kubernetes is reached.

use super::config::{duration, path};
use super::tree::{Tree, shown};
use super::{Decoder, Node};
use crate::{FlannelNodesConfig, KubernetesConfig, NetworkName};

/// Where signs of life are unless the configuration says otherwise.
const NAMESPACE: &str = "ripstop";

/// Longest wait for an answer unless the configuration says otherwise: an API server that starts may take seconds.
const TIMEOUT_MS: u64 = 10_000;

/// The map behind `store.kubernetes`; nothing there is a whole one.
pub(super) fn kubernetes(d: &mut Decoder, node: &Node<'_>) -> Option<KubernetesConfig> {
    if *node.tree == Tree::Null {
        let namespace = NAMESPACE.into();
        return Some(KubernetesConfig { kubeconfig: None, namespace, timeout: TIMEOUT_MS, flannel: None });
    }
    let fields = d.map(node, &["kubeconfig", "namespace", "timeout", "flannel"])?;
    let namespace = fields.get("namespace").and_then(|node| {
        const ACCEPTED: &str = "a namespace: lower-case letters, digits and '-', at most 63";
        let text = d.text(&node, ACCEPTED)?;
        let ok = !text.contains('.') && ripstop_types::validate_dns_name("a namespace", text).is_ok();
        if !ok {
            d.fault(&node.path, shown(text), ACCEPTED);
        }
        ok.then(|| text.to_owned())
    });
    Some(KubernetesConfig {
        kubeconfig: fields.get("kubeconfig").and_then(|node| path(d, &node)),
        namespace: namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
        timeout: fields.get("timeout").and_then(|node| duration(d, &node, 100, 60_000)).unwrap_or(TIMEOUT_MS),
        flannel: fields.get("flannel").and_then(|node| flannel(d, &node)),
    })
}

fn flannel(d: &mut Decoder, node: &Node<'_>) -> Option<FlannelNodesConfig> {
    let network = match *node.tree == Tree::Null {
        true => None,
        false => d.map(node, &["network"])?.get("network").map(|node| d.parse(&node, "a network's name")),
    };
    Some(FlannelNodesConfig { network: network.unwrap_or_else(|| Some(NetworkName::first()))? })
}
