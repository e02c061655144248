//! The part of an agent's configuration that says how the API of Kubernetes is reached.

use super::config::{duration, path};
use super::tree::{Tree, shown};
use super::{Decoder, Node};
use crate::KubernetesConfig;

/// Where signs of life are unless the configuration says otherwise.
const NAMESPACE: &str = "ripstop";

/// Longest wait for an answer unless the configuration says otherwise: an API server that starts may take seconds.
const TIMEOUT_MS: u64 = 10_000;

/// The map behind `store.kubernetes`; nothing there is a whole one.
pub(super) fn kubernetes(d: &mut Decoder, node: &Node<'_>) -> Option<KubernetesConfig> {
    if *node.tree == Tree::Null {
        return Some(KubernetesConfig { kubeconfig: None, namespace: NAMESPACE.into(), timeout: TIMEOUT_MS });
    }
    let fields = d.map(node, &["kubeconfig", "namespace", "timeout"])?;
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
    })
}
