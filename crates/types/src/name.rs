//! Names of nodes, pods, containers and owners.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// Checks a DNS-1123 subdomain (Kubernetes' rule for object names): at most 253 characters, labels of lower-case
/// letters, digits and '-', that begin and end with a letter or digit, joined by '.'.
pub fn validate_dns_name(what: &'static str, text: &str) -> Result<(), Invalid> {
    let label_ok = |label: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        label.len() <= 63
            && ends(label.chars().next())
            && ends(label.chars().last())
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if text.len() > 253 || !text.split('.').all(label_ok) {
        return Err(Invalid::new(
            what,
            text,
            "lower-case letters, digits, '-' and '.', at most 253 characters, first and last a letter or digit",
        ));
    }
    Ok(())
}

/// The name of a node: a DNS-1123 subdomain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        validate_dns_name("a node name", text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for NodeName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A namespace and a name within it, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamespacedName {
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

/// A pod's name.
pub type PodName = NamespacedName;

/// A Service's name.
pub type ServiceName = NamespacedName;

impl NamespacedName {
    /// A name from its two halves.
    pub fn new(namespace: &str, name: &str) -> Result<Self, Invalid> {
        validate_dns_name("a namespace", namespace)?;
        validate_dns_name("a name", name)?;
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }
}

impl FromStr for NamespacedName {
    type Err = Invalid;

    /// Reads `namespace/name`; a bare name is in the namespace `default`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new("default", text),
        }
    }
}

impl TryFrom<String> for NamespacedName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<NamespacedName> for String {
    fn from(name: NamespacedName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A runtime's id of a container or sandbox, by the CNI specification's rule for `CNI_CONTAINERID`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let ok = text.len() <= 253
            && text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !ok {
            return Err(Invalid::new(
                "a container id",
                text,
                "a letter or digit, then letters, digits, '_', '.' and '-', at most 253 characters",
            ));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for ContainerId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0.as_ref().into()
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The object that caused a kernel object or a record: `pod/default/web`, `node/n2`, `network/default`, `agent`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(Arc<str>);

impl Owner {
    /// This node's own set-up, caused by no object.
    pub fn agent() -> Self {
        Self("agent".into())
    }

    /// Caused by a pod of this node.
    pub fn pod(pod: &PodName) -> Self {
        Self(format!("pod/{pod}").into())
    }

    /// Caused by a Service.
    pub fn service(service: &ServiceName) -> Self {
        Self(format!("service/{service}").into())
    }

    /// The Service that it is.
    pub fn as_service(&self) -> Option<ServiceName> {
        let (namespace, name) = self.0.strip_prefix("service/")?.split_once('/')?;
        Some(ServiceName { namespace: namespace.into(), name: name.into() })
    }

    /// Caused by a peer or by this node's own record.
    pub fn node(node: &NodeName) -> Self {
        Self(format!("node/{node}").into())
    }

    /// Caused by a network.
    pub fn network(name: &str) -> Self {
        Self(format!("network/{name}").into())
    }

    /// An owner read back from a kernel object that carries one.
    pub fn from_mark(text: &str) -> Self {
        Self(text.into())
    }

    /// The owner as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An object's labels, in order of their keys.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_names() {
        for good in ["n1", "worker-1.example", "0"] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "N1", "-a", "a-", "a..b", "a/b", "../etc", &"a".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_bare_pod_name_is_in_default() {
        assert_eq!("web".parse::<PodName>().unwrap().to_string(), "default/web");
        assert_eq!("shop/web".parse::<PodName>().unwrap().to_string(), "shop/web");
        assert!("a/b/c".parse::<PodName>().is_err());
    }

    #[test]
    fn container_ids_follow_the_specification() {
        assert!("0a9f_b.c-d".parse::<ContainerId>().is_ok());
        for bad in ["", "-x", "a b", "a/b", "_x"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?} was accepted");
        }
    }
}
