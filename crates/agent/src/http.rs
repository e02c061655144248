//! The agent's HTTP socket: rows for `ripstop get`, plans, health and metrics.
//!
//! Everything but `POST` reads. A manifest that is applied goes to the store, and comes back by the watch like any
//! other change.

mod bgp;
mod policies;

pub use policies::Connections;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ripstop_objects::pool::AddressPool;
use ripstop_objects::{
    AgentConfig, Manifest, Network, NetworkName, ObjectKind, Proxy, Record, StoreConfig, check_change,
    check_network_against_host, check_networks,
};
use ripstop_services::pools::Pools;
use ripstop_store::{Expect, Kind, Store};
use ripstop_tables::{Input, Withdrawn};
use ripstop_types::{NodeName, Prefix, Revision};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::bgp::BgpCell;
use crate::core::{Core, MigrationRequest};
use crate::manifests;
use crate::message::Message;
use crate::metrics::{self, Metrics};
use crate::socket;
use crate::store_lane::StoreCell;

/// Longest manifest taken, in bytes.
const MAX_BODY: usize = 4 << 20;

/// So often, and at this pace, it is looked for among the host's facts that IPVS was loaded.
const IPVS_LOOKS: u32 = 50;
const IPVS_LOOK: Duration = Duration::from_millis(100);

/// Answers clients of one address.
#[derive(Clone)]
pub struct Server {
    /// Where questions go.
    pub queue: UnboundedSender<Message>,
    /// Where manifests go.
    pub store: StoreCell,
    /// Where BGP is asked.
    pub bgp: BgpCell,
    /// Answers health and metrics only.
    pub public: bool,
}

/// What `POST /v1/purge` is told.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Purge {
    only_jumps: bool,
    release: bool,
}

/// An answer's status and body.
struct Answer(StatusCode, &'static str, String);

/// Listens on the agent's socket, and on the configured address for metrics and health.
///
/// # Errors
/// Where it cannot listen.
pub fn start(
    config: &AgentConfig,
    queue: UnboundedSender<Message>,
    store: StoreCell,
    bgp: BgpCell,
) -> anyhow::Result<()> {
    let listener = socket::listen(&config.run_dir.join("agent.sock"))?;
    let server = Server { queue: queue.clone(), store: store.clone(), bgp: bgp.clone(), public: false };
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(server.clone().serve(stream))),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    });
    if let Some(address) = config.metrics_listen {
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("metricsListen: cannot listen on {address}; is the port taken?"))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let server = Server { queue, store, bgp, public: true };
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(server.clone().serve(stream))),
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                }
            }
        });
    }
    Ok(())
}

impl Server {
    /// Answers one client until it is done.
    pub async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(respond(server.answer(request).await)) }
        });
        // A client that goes away ends its own connection; one that has said all it wants may close its half before.
        let mut http = hyper::server::conn::http1::Builder::new();
        let _ = http.half_close(true).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        match (request.method().clone(), path.as_str()) {
            (Method::GET, "/healthz") => Answer(StatusCode::OK, "text/plain", "ok\n".into()),
            (Method::GET, "/readyz") => self.ready().await,
            (Method::GET, "/metrics") => match self.ask(|core, metrics| metrics.render(core)).await {
                Ok(text) => Answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
                Err(answer) => answer,
            },
            _ if self.public => error(StatusCode::NOT_FOUND, "this address answers /metrics, /healthz and /readyz"),
            (Method::GET, path) => self.get(path).await,
            (Method::POST, path) => {
                let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
                match body.map(|body| String::from_utf8(body.to_bytes().to_vec())) {
                    Ok(Ok(body)) => self.post(path, body).await,
                    Ok(Err(_)) => error(StatusCode::BAD_REQUEST, "the body is not UTF-8"),
                    Err(cause) => error(StatusCode::BAD_REQUEST, &format!("the body cannot be read: {cause}")),
                }
            }
            (method, path) => error(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} {path} is not known")),
        }
    }

    async fn ready(&self) -> Answer {
        match self.ask(|core, _| core.status()).await {
            Ok(status) if status.ready => Answer(StatusCode::OK, "text/plain", "ok\n".into()),
            Ok(status) => {
                Answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{}\n", status.reasons.join("\n")))
            }
            Err(answer) => answer,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        let rows = match path {
            "/v1/nodes" => self.ask(|core, _| json!(core.nodes())).await,
            "/v1/pods" => self.ask(|core, _| json!(core.pods())).await,
            "/v1/networks" => self.ask(|core, _| json!(core.networks())).await,
            "/v1/leases" => self.ask(|core, _| json!(core.leases())).await,
            "/v1/paths" => self.ask(|core, _| json!(core.paths())).await,
            "/v1/routes" => self.ask(|core, _| json!(core.routes())).await,
            "/v1/services" => self.ask(|core, _| json!(core.services())).await,
            "/v1/networkpolicies" => self.ask(|core, _| json!(core.network_policies())).await,
            "/v1/loadbalancers" => self.ask(|core, _| json!(core.load_balancers())).await,
            "/v1/addresspools" => self.ask(|core, _| json!(core.address_pools())).await,
            "/v1/clusternetworkpolicies" => self.ask(|core, _| json!(core.cluster_network_policies())).await,
            "/v1/drops" => self.ask(|core, _| json!(core.drops())).await,
            "/v1/namespaces" => self.ask(|core, _| json!(core.namespaces())).await,
            "/v1/endpoints" => self.ask(|core, _| json!(core.endpoints())).await,
            "/v1/status" => self.ask(|core, _| json!(core.status())).await,
            "/v1/plan" => self.ask(|core, _| planned(core)).await,
            "/v1/journal" => self.ask(|core, _| json!(core.journal().collect::<Vec<_>>())).await,
            "/v1/proxy" => self.ask(|core, _| json!(core.proxy_view())).await,
            "/v1/migrations" => self.ask(|core, _| json!(core.migrations())).await,
            "/v1/ipam" => self.ask(|core, _| ipam(core)).await,
            "/v1/ipam/check" => self.ask(|core, _| json!({"problems": core.ipam_problems()})).await,
            "/v1/bgppeers" => self.bgp_peers().await,
            "/v1/bgpconfigurations" => self.bgp_configurations().await,
            "/v1/bgpfilters" => self.ask(|core, _| json!(core.bgp_filters())).await,
            _ if path.starts_with("/v1/bgp/") => return self.bgp(&path["/v1/bgp/".len()..]).await,
            _ => match path.strip_prefix("/v1/policy/") {
                Some(path) => return self.policy(path).await,
                None => return self.describe(path).await,
            },
        };
        match rows {
            Ok(rows) => json_answer(&rows),
            Err(answer) => answer,
        }
    }

    async fn describe(&self, path: &str) -> Answer {
        let parts: Vec<String> = path.split('/').skip(1).map(ToOwned::to_owned).collect();
        let [version, verb, kind, name @ ..] = parts.as_slice() else {
            return error(StatusCode::NOT_FOUND, &format!("{path} is not known"));
        };
        if version != "v1" || verb != "describe" || name.is_empty() {
            return error(StatusCode::NOT_FOUND, &format!("{path} is not known"));
        }
        let (kind, name) = (kind.clone(), name.join("/"));
        if matches!(kind.as_str(), "bgppeer" | "bgpconfiguration" | "bgpfilter") {
            return self.describe_bgp(&kind, &name).await;
        }
        let sentence = format!("no {kind} {name} is known to this agent");
        match self.ask(move |core, _| core.describe(&kind, &name)).await {
            Ok(Some(text)) => json_answer(&json!({"text": text})),
            Ok(None) => error(StatusCode::NOT_FOUND, &sentence),
            Err(answer) => answer,
        }
    }

    async fn post(&self, path: &str, body: String) -> Answer {
        match path {
            "/v1/apply" => self.apply(&body).await,
            "/v1/delete" => self.delete(&body).await,
            "/v1/resume" => match self.queue.send(Message::Input(Input::Resume)) {
                Ok(()) => json_answer(&json!({})),
                Err(_) => ending(),
            },
            "/v1/ipam/release" => self.release(&body).await,
            "/v1/purge" => self.purge(&body).await,
            _ if path.starts_with("/v1/delete/") => self.delete_named(&path["/v1/delete/".len()..]).await,
            "/v1/migrate" => self.migrate(&body).await,
            "/v1/proxy" => self.switch_proxy(&body).await,
            "/v1/policy/answer" => self.policy_answer(&body).await,
            _ => error(StatusCode::NOT_FOUND, &format!("{path} is not known")),
        }
    }

    async fn release(&self, body: &str) -> Answer {
        let range =
            serde_json::from_str::<Value>(body).ok().and_then(|body| body["range"].as_str().map(ToOwned::to_owned));
        let Some(range) = range else {
            return error(StatusCode::BAD_REQUEST, "the body must be {\"range\": \"10.244.3.0/24\"}");
        };
        self.operate(move |call| Input::Release { call, claim: range.into() }).await
    }

    /// Hands an operator's request in and waits until it was carried out or refused.
    async fn operate(&self, input: impl FnOnce(u64) -> Input + Send + 'static) -> Answer {
        let (answer, answered) = oneshot::channel();
        if self.queue.send(Message::Operate { input: Box::new(input), answer }).is_err() {
            return ending();
        }
        match answered.await {
            Ok(Ok(())) => json_answer(&json!({})),
            Ok(Err(refusal)) => error(StatusCode::CONFLICT, &refusal),
            Err(_) => ending(),
        }
    }

    /// Takes what is of ours out of the kernel: everything, or only the jumps in tables of others.
    async fn purge(&self, body: &str) -> Answer {
        let body = if body.trim().is_empty() { "{}" } else { body };
        let Ok(Purge { only_jumps, release }) = serde_json::from_str(body) else {
            let accepted = "the body must be empty or {\"onlyJumps\": false, \"release\": false}";
            return error(StatusCode::BAD_REQUEST, accepted);
        };
        let what = if only_jumps { Withdrawn::Jumps } else { Withdrawn::Everything };
        let release = release && !only_jumps;
        self.operate(move |call| Input::Withdraw { call, what, release }).await
    }

    /// Changes how a network migrates. What each node does follows from the record.
    async fn migrate(&self, body: &str) -> Answer {
        let request: MigrationRequest = match serde_json::from_str(body) {
            Ok(request) => request,
            Err(fault) => {
                let accepted = r#"{"network": "default", "action": {"to": "vxlan"}}; other actions: "stop", "continue", "back", {"skip": NODE}"#;
                return error(
                    StatusCode::BAD_REQUEST,
                    &format!("the body cannot be read: {fault}; accepted: {accepted}"),
                );
            }
        };
        let Some(store) = self.store.get() else { return away("it is not open") };
        let (network, revision) = match self.ask(move |core, _| core.migration_record(&request)).await {
            Ok(Ok(record)) => record,
            Ok(Err(refusal)) => return error(StatusCode::CONFLICT, &refusal),
            Err(answer) => return answer,
        };
        let written = match revision {
            None => Ok(()),
            Some(revision) => {
                let expect = Expect::Revision(revision);
                store.put_if(Kind::Networks, &network.key(), &network.encode(), expect).await.map(drop)
            }
        };
        match written {
            Ok(()) => json_answer(&json!({
                "backend": network.spec.backend.kind.as_str(),
                "migrating": network.migration.is_some(),
            })),
            Err(cause) => error(StatusCode::SERVICE_UNAVAILABLE, &cause.to_string()),
        }
    }

    /// Has Services served by another proxy.
    async fn switch_proxy(&self, body: &str) -> Answer {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wanted {
            proxy: Proxy,
        }
        let proxy = match serde_json::from_str(body) {
            Ok(Wanted { proxy }) => proxy,
            Err(fault) => {
                let accepted = r#"{"proxy": "nftables"}; or "iptables", "ipvs", "none""#;
                return error(
                    StatusCode::BAD_REQUEST,
                    &format!("the body cannot be read: {fault}; accepted: {accepted}"),
                );
            }
        };
        if proxy == Proxy::Ipvs {
            // What was loaded shows among the host's facts a moment later.
            let _ = tokio::task::spawn_blocking(ripstop_kernel::load_ipvs).await;
            for _ in 0..IPVS_LOOKS {
                match self.ask(|core, _| core.tables().facts.ipvs).await {
                    Ok(false) if ripstop_kernel::has_ipvs() => tokio::time::sleep(IPVS_LOOK).await,
                    _ => break,
                }
            }
        }
        self.operate(move |call| Input::SwitchProxy { call, proxy }).await
    }

    /// Writes networks and objects to the store, all or none as far as they can be judged beforehand.
    async fn apply(&self, body: &str) -> Answer {
        let Manifest { networks, objects, .. } = match Manifest::decode(body) {
            Ok(manifest) => manifest,
            Err(faults) => return error(StatusCode::UNPROCESSABLE_ENTITY, &faults.to_string()),
        };
        let ranges = match self.keeps_objects(objects.is_empty()).await {
            Ok(ranges) => ranges,
            Err(answer) => return answer,
        };
        let Some(store) = self.store.get() else { return away("it is not open") };
        let judged = networks.clone();
        let pools: Vec<_> = objects.iter().filter_map(|object| object.pool().cloned()).collect();
        let judgement = match self.ask(move |core, _| judge(core, &judged, &pools)).await {
            Ok(judgement) => judgement,
            Err(answer) => return answer,
        };
        if let Err(faults) = judgement {
            return error(StatusCode::UNPROCESSABLE_ENTITY, &faults);
        }
        let mut results = Vec::new();
        for network in &networks {
            match put_network(store.as_ref(), network).await {
                Ok(action) => results.push(json!({"object": format!("network/{}", network.name), "action": action})),
                Err(cause) => return error(StatusCode::SERVICE_UNAVAILABLE, &cause),
            }
        }
        match manifests::apply(store.as_ref(), objects, &ranges).await {
            Ok(more) => results.extend(more),
            Err(refusal) => return refused(refusal),
        }
        json_answer(&json!({"results": results}))
    }

    async fn delete(&self, body: &str) -> Answer {
        let Manifest { networks, objects, .. } = match Manifest::decode(body) {
            Ok(manifest) => manifest,
            Err(faults) => return error(StatusCode::UNPROCESSABLE_ENTITY, &faults.to_string()),
        };
        let objects = objects.iter().map(|object| (object.object.kind(), object.key().to_string())).collect();
        self.delete_all(networks.into_iter().map(|network| network.name).collect(), objects).await
    }

    /// The ranges of ClusterIPs, where there is nothing to keep or the store keeps objects.
    async fn keeps_objects(&self, is_nothing: bool) -> Result<Vec<Prefix>, Answer> {
        let config = self.ask(|core, _| core.tables().config.clone()).await?;
        if !is_nothing && matches!(config.store, StoreConfig::Kubernetes(_)) {
            let why = "found an object of Kubernetes' own, accepted: networks, since the store is Kubernetes; kubectl takes all else";
            return Err(error(StatusCode::UNPROCESSABLE_ENTITY, &format!("manifest: {why}")));
        }
        Ok(config.services.service_cidrs)
    }

    /// Deletes what is named as `kind/name`.
    async fn delete_named(&self, object: &str) -> Answer {
        match object.split_once('/') {
            Some(("network", name)) => match name.parse() {
                Ok(name) => self.delete_all(vec![name], Vec::new()).await,
                Err(fault) => error(StatusCode::UNPROCESSABLE_ENTITY, &fault.to_string()),
            },
            Some(("node", name)) => {
                let node: NodeName = match name.parse() {
                    Ok(node) => node,
                    Err(fault) => return error(StatusCode::UNPROCESSABLE_ENTITY, &format!("{fault}")),
                };
                let object = format!("node/{node}");
                let asked = node.clone();
                match self.ask(move |core, _| core.is_no_node(&asked)).await {
                    Ok(false) => {}
                    Ok(true) => {
                        return json_answer(&json!({"results": [{"object": object, "action": "not found"}]}));
                    }
                    Err(answer) => return answer,
                }
                match self.operate(move |call| Input::DeleteNode { call, node }).await {
                    Answer(StatusCode::OK, ..) => {
                        json_answer(&json!({"results": [{"object": object, "action": "deleted"}]}))
                    }
                    refusal => refusal,
                }
            }
            Some((kind, name)) if object_kind(kind).is_some() => {
                let kind = object_kind(kind).unwrap_or(ObjectKind::Service);
                self.delete_all(Vec::new(), vec![(kind, name.to_owned())]).await
            }
            _ => {
                let accepted = "network/NAME, node/NAME, namespace/NAME, clusternetworkpolicy/NAME, addresspool/NAME, and service, endpointslice, pod or \
                                networkpolicy/NAMESPACE/NAME";
                error(StatusCode::NOT_FOUND, &format!("{object} cannot be deleted; accepted: {accepted}"))
            }
        }
    }

    async fn delete_all(&self, names: Vec<NetworkName>, objects: Vec<(ObjectKind, String)>) -> Answer {
        if let Err(answer) = self.keeps_objects(objects.is_empty()).await {
            return answer;
        }
        let Some(store) = self.store.get() else { return away("it is not open") };
        let used = names.clone();
        let in_use = self.ask(move |core, _| {
            core.tables().claims.values().find(|row| used.contains(&row.value.network)).map(|row| {
                format!(
                    "network/{}: node {} owns range {} of it; release the ranges first (`ripstop ipam release`)",
                    row.value.network, row.value.node, row.value.range
                )
            })
        });
        match in_use.await {
            Ok(None) => {}
            Ok(Some(refusal)) => return error(StatusCode::UNPROCESSABLE_ENTITY, &refusal),
            Err(answer) => return answer,
        }
        let mut results = Vec::new();
        for name in names {
            let deleted = store.delete_if(Kind::Networks, &ripstop_objects::network_key(&name), Expect::Any).await;
            match deleted {
                Ok(Some(_)) => results.push(json!({"object": format!("network/{name}"), "action": "deleted"})),
                Ok(None) => results.push(json!({"object": format!("network/{name}"), "action": "not found"})),
                Err(cause) => return error(StatusCode::SERVICE_UNAVAILABLE, &cause.to_string()),
            }
        }
        match manifests::delete(store.as_ref(), &objects).await {
            Ok(more) => results.extend(more),
            Err(refusal) => return refused(refusal),
        }
        json_answer(&json!({"results": results}))
    }

    /// Puts a question to the core and waits for the answer.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Core, &Metrics) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Answer>> + Send {
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Message::Ask(Box::new(move |core, metrics| {
            // Nobody waits any more where this fails.
            let _ = answer.send(question(core, metrics));
        })));
        async move {
            match sent {
                Ok(()) => answered.await.map_err(|_| ending()),
                Err(_) => Err(ending()),
            }
        }
    }
}

fn object_kind(word: &str) -> Option<ObjectKind> {
    match word {
        "service" => Some(ObjectKind::Service),
        "endpointslice" => Some(ObjectKind::EndpointSlice),
        "pod" => Some(ObjectKind::Pod),
        "namespace" => Some(ObjectKind::Namespace),
        "networkpolicy" => Some(ObjectKind::NetworkPolicy),
        "clusternetworkpolicy" => Some(ObjectKind::ClusterNetworkPolicy),
        "addresspool" => Some(ObjectKind::AddressPool),
        _ => None,
    }
}

fn refused(refusal: manifests::Refusal) -> Answer {
    match refusal {
        manifests::Refusal::Faults(faults) => error(StatusCode::UNPROCESSABLE_ENTITY, &faults.to_string()),
        manifests::Refusal::Store(cause) => error(StatusCode::SERVICE_UNAVAILABLE, &cause),
    }
}

/// Ranges, claims, and why there are not those that are wanted.
fn ipam(core: &Core) -> Value {
    json!({"ranges": core.ipam(), "claims": core.claims(), "faults": core.ipam_faults()})
}

/// What is planned and not done, as rows.
fn planned(core: &Core) -> Value {
    let mut rows = core.plan().view();
    for row in &mut rows {
        row.state = Some("planned".into());
    }
    json!(rows)
}

/// Whether these networks and pools can be put beside what there is.
fn judge(core: &Core, networks: &[Network], pools: &[Arc<AddressPool>]) -> Result<(), String> {
    let tables = core.tables();
    let mut faults = Vec::new();
    let mut after: BTreeMap<_, Network> =
        tables.networks.iter().map(|(name, row)| (name.clone(), (*row.value).clone())).collect();
    for network in networks {
        if let Some(before) = after.get(&network.name) {
            let in_use: Vec<Prefix> = tables
                .claims
                .values()
                .filter(|row| row.value.network == network.name)
                .map(|row| row.value.range)
                .collect();
            faults.extend(check_change(before, network, &in_use).err().map(|faults| faults.to_string()));
            faults.extend(network.clone().succeeding(before).err().map(|fault| fault.to_string()));
        }
        let hosts: Vec<_> = tables.nodes.values().flat_map(|row| row.value.addresses.clone()).collect();
        faults.extend(check_network_against_host(network, &hosts).err().map(|faults| faults.to_string()));
        after.insert(network.name.clone(), network.clone());
    }
    let all: Vec<Network> = after.into_values().collect();
    faults.extend(check_networks(&all).err().map(|faults| faults.to_string()));
    let beside = Pools::of(tables).with(pools);
    faults.extend(pools.iter().flat_map(|pool| beside.faults(pool)).map(|fault| fault.to_string()));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

async fn put_network(store: &dyn Store, network: &Network) -> Result<&'static str, String> {
    let key = network.key();
    let there = store.get(Kind::Networks, &key).await.map_err(|error| error.to_string())?;
    // What is broken there is replaced as it is.
    let before = there.as_ref().and_then(|record| <Network as Record>::decode(&key, &record.value).ok());
    let network = match before {
        Some(before) => network.clone().succeeding(&before).map_err(|fault| fault.to_string())?,
        None => network.clone(),
    };
    let value = network.encode();
    let (expect, action) = match &there {
        Some(record) if record.value == value => return Ok("unchanged"),
        Some(record) => (Expect::Revision(Revision(record.revision.0)), "configured"),
        None => (Expect::Absent, "created"),
    };
    store.put_if(Kind::Networks, &key, &value, expect).await.map_err(|error| error.to_string())?;
    Ok(action)
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let Answer(status, kind, body) = answer;
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn json_answer(value: &Value) -> Answer {
    Answer(StatusCode::OK, "application/json", format!("{value}\n"))
}

fn error(status: StatusCode, sentence: &str) -> Answer {
    Answer(status, "application/json", format!("{}\n", json!({"error": sentence})))
}

fn away(why: &str) -> Answer {
    error(
        StatusCode::SERVICE_UNAVAILABLE,
        &format!("the store is away: {why}; try again when `ripstop status` says it is here"),
    )
}

fn ending() -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")
}
