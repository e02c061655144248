//! What health checks are answered.
//!
//! Sources: the Service's `healthCheckNodePort`; KEP-3836 for `/healthz` and `/livez`.

use ripstop_objects::service::{ServiceKind, TrafficPolicy};
use ripstop_types::Family;
use serde::{Deserialize, Serialize};

use super::endpoints::ready_here;
use super::frontend;
use super::world::World;

/// The port of `/healthz` and `/livez`.
pub const HEALTHZ_PORT: u16 = 10_256;

/// How the proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Proxy {
    /// For how many seconds the oldest change has waited that is not in the rules yet.
    pub pending_for: Option<u64>,
    /// The sync period, in seconds.
    pub sync_period: u64,
    /// Whether the node is about to go: it has the taint `ToBeDeletedByClusterAutoscaler`, or is being deleted.
    pub leaving: bool,
}

impl Default for Proxy {
    fn default() -> Self {
        Self { pending_for: None, sync_period: 30, leaving: false }
    }
}

impl Proxy {
    /// Whether its rules are as they should be: no change has waited for twice the sync period.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.pending_for.is_none_or(|waited| waited < 2 * self.sync_period)
    }
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// How many endpoints are on this node; none where that was not asked.
    #[serde(default)]
    pub local: Option<usize>,
}

/// What a GET is answered at a port of the node, at its address of a family. None: nobody listens, or the path is none of ours.
#[must_use]
pub fn answer(world: &World, port: u16, path: &str, family: Family) -> Option<Answer> {
    let status = |good: bool| if good { 200 } else { 503 };
    if port == HEALTHZ_PORT {
        let live = world.proxy.is_live();
        return match path {
            "/livez" => Some(Answer { status: status(live), local: None }),
            "/healthz" => Some(Answer { status: status(live && !world.proxy.leaving), local: None }),
            _ => None,
        };
    }
    let service = frontend::served(world).into_iter().find(|service| {
        service.kind == ServiceKind::LoadBalancer
            && service.external_policy == TrafficPolicy::Local
            && service.health_check_node_port == Some(port)
    })?;
    let local = ready_here(world, service, family).len();
    Some(Answer { status: status(local > 0 && world.proxy.is_live()), local: Some(local) })
}
