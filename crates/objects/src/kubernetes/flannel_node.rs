//! What flanneld says of a node, by annotations of Kubernetes' object.

use std::net::Ipv4Addr;

use ripstop_types::Mac;
use serde::{Deserialize, Serialize};

use super::ObjectLabels;

/// What flanneld's backend vxlan says of its node (flannel, `pkg/subnet/kube`): annotations `flannel.alpha.coreos.com/…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlannelNode {
    /// Its address on the underlay: `public-ip`.
    pub public_ip: Ipv4Addr,
    /// Network identifier of its device: `backend-data`, field `VNI`.
    pub vni: u32,
    /// Hardware address of its device: `VtepMAC`.
    pub mac: Mac,
}

impl FlannelNode {
    /// What annotations say; `None` where flanneld said nothing, or has another backend.
    pub(super) fn of(annotations: &ObjectLabels) -> Option<Self> {
        let value = |name: &str| annotations.get(format!("{FLANNEL_PREFIX}{name}").as_str());
        if &**value("backend-type")? != "vxlan" {
            return None;
        }
        let data: RawVtep = serde_json::from_str(value("backend-data")?).ok()?;
        let public_ip = value("public-ip")?.parse().ok()?;
        Some(Self { public_ip, vni: data.vni, mac: data.mac })
    }
}

/// What names of Flannel's annotations begin with, unless its nodes were told otherwise (`--kube-annotation-prefix`).
const FLANNEL_PREFIX: &str = "flannel.alpha.coreos.com/";

#[derive(Deserialize)]
struct RawVtep {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: Mac,
}
