//! MetalLB's objects as a cluster's API has them, kept as they are: which pools they are together says [`pools`].

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ObjectLabels;
use crate::decode::metallb;
use crate::pool::AddressPool;

/// Its kinds, as far as they are about pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetallbKind {
    /// Addresses.
    Pool,
    /// Which pools are announced by ARP and neighbour discovery,
    L2,
    /// and by BGP.
    Bgp,
    /// Names of communities.
    Community,
}

impl MetallbKind {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Pool, Self::L2, Self::Bgp, Self::Community];
    /// Their API.
    pub const API_VERSION: &str = "metallb.io/v1beta1";
}

impl fmt::Display for MetallbKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pool => "IPAddressPool",
            Self::L2 => "L2Advertisement",
            Self::Bgp => "BGPAdvertisement",
            Self::Community => "Community",
        })
    }
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetallbObject {
    /// Its kind.
    pub kind: MetallbKind,
    /// Its name, with the namespace before it.
    pub name: Arc<str>,
    /// What it says, of which nothing hangs on who wrote it and when.
    pub document: Arc<str>,
}

impl MetallbObject {
    /// Keeps what an API server shows.
    ///
    /// # Errors
    /// A sentence, where it has no name.
    pub fn decode(kind: MetallbKind, text: &str) -> Result<Self, String> {
        let mut value: Value =
            serde_json::from_str(text).map_err(|why| format!("a {kind} that cannot be read: {why}"))?;
        let metadata = &value["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        if name.is_empty() {
            return Err(format!("a {kind} without a name"));
        }
        let labels: ObjectLabels = ObjectLabels::deserialize(&metadata["labels"]).unwrap_or_default();
        let mut document = json!({"apiVersion": MetallbKind::API_VERSION, "kind": kind.to_string(),
            "metadata": {"name": name, "labels": labels}});
        if let Some(spec) = value.get_mut("spec").map(Value::take).filter(|spec| !spec.is_null()) {
            document["spec"] = spec;
        }
        Ok(Self { kind, name: format!("{namespace}/{name}").into(), document: document.to_string().into() })
    }
}

/// The pools that these are together, in the order of their names, and what of them is left out, in sentences.
pub fn pools<'o>(objects: impl Iterator<Item = &'o MetallbObject>) -> (Vec<AddressPool>, Vec<String>) {
    metallb::live(objects)
}

/// Whether a pod with these labels is one of MetalLB's own, as its manifests and its chart label them.
pub fn is_its_pod(labels: &ObjectLabels) -> bool {
    ["app", "app.kubernetes.io/name"].iter().any(|key| labels.get(*key).is_some_and(|name| &**name == "metallb"))
}
