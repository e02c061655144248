//! Questions for policies: the objects that they hang on, why a connection is allowed or not, and which connections there are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hyper::StatusCode;
use ripstop_kernel::Observer;
use ripstop_policy::revoke::Tracked;
use ripstop_types::{NodeName, PodName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, Server, error, json_answer};
use crate::core::{PolicyQuestion, Unanswered, tracked};

/// Tracked connections of this node's pods.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connections {
    /// The node.
    pub node: NodeName,
    /// Its own addresses.
    pub own: BTreeSet<IpAddr>,
    /// The connections.
    pub connections: Vec<Tracked>,
}

impl Server {
    /// What stands below `/v1/policy/`.
    pub(super) async fn policy(&self, path: &str) -> Answer {
        let unknown = || error(StatusCode::NOT_FOUND, &format!("/v1/policy/{path} is not known"));
        if path == "connections" {
            return self.connections().await;
        }
        let Some((what, name)) = path.split_once('/') else { return unknown() };
        let found = match what {
            "objects" => {
                let (kind, after) = name.split_once('/').unwrap_or((name, ""));
                let (kind, after) = (kind.to_owned(), after.to_owned());
                self.ask(move |core, _| core.policy_objects(&kind, &after)).await
            }
            "pod" => match name.parse::<PodName>() {
                Ok(name) => self.ask(move |core, _| Ok(core.policy_pod(&name))).await,
                Err(invalid) => return error(StatusCode::UNPROCESSABLE_ENTITY, &invalid.to_string()),
            },
            "node" => match name.parse::<NodeName>() {
                Ok(name) => self.ask(move |core, _| Ok(core.policy_node(&name))).await,
                Err(invalid) => return error(StatusCode::UNPROCESSABLE_ENTITY, &invalid.to_string()),
            },
            _ => return unknown(),
        };
        told(found)
    }

    /// Whether a connection comes about, and why.
    pub(super) async fn policy_answer(&self, body: &str) -> Answer {
        let question: PolicyQuestion = match serde_json::from_str(body) {
            Ok(question) => question,
            Err(fault) => {
                let accepted = r#"{"from": {"name": "shop/a", "ips": ["10.0.0.1"]}, "to": …, "port": "80/TCP"}"#;
                return error(
                    StatusCode::BAD_REQUEST,
                    &format!("the body cannot be read: {fault}; accepted: {accepted}"),
                );
            }
        };
        told(self.ask(move |core, _| core.policy_answer(&question)).await)
    }

    /// The connections of this node's pods. They are read beside all else.
    async fn connections(&self) -> Answer {
        let asked = self.ask(|core, _| (core.tables().node.clone(), core.pod_addresses())).await;
        let (node, pods) = match asked {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        let read = move || {
            let mut observer = Observer::open()?;
            Ok::<_, ripstop_kernel::ObserveError>((observer.connections(&pods, &pods)?, observer.addresses()?))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok((connections, own))) => {
                let connections = connections.iter().map(tracked).collect();
                json_answer(&json!(Connections { node, own, connections }))
            }
            Ok(Err(fault)) => error(StatusCode::INTERNAL_SERVER_ERROR, &fault.to_string()),
            Err(_) => super::ending(),
        }
    }
}

fn told<T: Serialize>(found: Result<Result<T, Unanswered>, Answer>) -> Answer {
    match found {
        Ok(Ok(found)) => json_answer(&json!(found)),
        Ok(Err(Unanswered::NotYet(why))) => error(StatusCode::SERVICE_UNAVAILABLE, &why),
        Ok(Err(Unanswered::Wrong(why))) => error(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(answer) => answer,
    }
}
