//! The connection to one member: made, checked, used, and made again with the next one.
//!
//! A member counts as reached when it answered a linearisable read: it has a leader, the user is known, and what was seen
//! of it is not older than the past. Between two members nothing is said; only a whole round without success is a loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status as GrpcStatus, Streaming};
use tonic_prost::ProstCodec;

use super::fault::{self, away};
use super::options::{EtcdOptions, EtcdUser};
use super::proto::{
    AUTHENTICATE, AuthenticateRequest, AuthenticateResponse, RANGE, RangeRequest, RangeResponse, WATCH, WatchRequest,
    WatchResponse,
};
use super::{Shared, Status};
use crate::StoreError;

/// Time for a member to take a connection, and again to answer the first question.
const CONNECT: Duration = Duration::from_secs(3);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that lasted less was none.
const BRIEF: Duration = Duration::from_millis(50);
/// A connection on which nothing comes for this long is asked for a sign of life. etcd takes offence below 5 s.
const PING: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);
/// Bytes one watch, and all together, may have under way: a receiver that is slow holds up no other.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A member that was reached.
pub(super) struct Link {
    pub(super) peer: String,
    /// The cluster's revision when it was reached, and the cluster.
    pub(super) revision: i64,
    pub(super) cluster: u64,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    dead: AtomicBool,
    died: Notify,
}

impl Link {
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Gives the member up.
    pub(super) fn lose(&self) {
        self.dead.store(true, Ordering::Release);
        self.died.notify_one();
    }

    /// Asks once.
    pub(super) async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, GrpcStatus>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        ask(&self.channel, self.token.as_ref(), path, question).await
    }

    /// The cluster's revision, as the member says now.
    pub(super) async fn revision_now(&self, shared: &Shared) -> Result<i64, GrpcStatus> {
        let answer: RangeResponse = self.ask(RANGE, glance(shared)).await?;
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// Opens a stream of watches with a first one. It ends with the sender.
    pub(super) async fn watch(
        &self,
        first: WatchRequest,
    ) -> Result<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>), GrpcStatus> {
        let (sender, requests) = mpsc::channel(4);
        // There is room: the channel is new.
        let _ = sender.try_send(first);
        let mut request = with_token(self.token.as_ref(), ReceiverStream::new(requests));
        // A member without a leader is to say so instead of being silent.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut grpc = grpc(&self.channel);
        grpc.ready().await.map_err(|error| GrpcStatus::from_error(error.into()))?;
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let answers = grpc.streaming(request, PathAndQuery::from_static(WATCH), codec).await?;
        Ok((sender, answers.into_inner()))
    }
}

/// Keeps a member reached until it is aborted.
pub(super) async fn drive(shared: Arc<Shared>) {
    let (mut pause, mut patience) = (SHORTEST_PAUSE, SHORTEST_PAUSE);
    let mut next = 0;
    loop {
        let mut faults = Vec::new();
        let endpoints = &shared.options.endpoints;
        for _ in 0..endpoints.len() {
            let peer = &endpoints[next % endpoints.len()];
            next += 1;
            match reach(&shared, peer).await {
                Ok(link) => {
                    let (link, since) = (Arc::new(link), Instant::now());
                    shared.status.send_replace(Status::Up(link.clone()));
                    link.died.notified().await;
                    shared.status.send_replace(Status::Seeking);
                    pause = SHORTEST_PAUSE;
                    patience = if since.elapsed() < BRIEF { (patience * 2).min(LONGEST_PAUSE) } else { SHORTEST_PAUSE };
                    faults.clear();
                    break;
                }
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() {
            // Members that are lost as soon as they are reached are not asked in haste.
            sleep(patience).await;
        } else {
            shared.status.send_replace(Status::Down(summary(faults)));
            sleep(SHORTEST_PAUSE).await;
            let _ = timeout(pause - SHORTEST_PAUSE, shared.hurry.notified()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The faults of a whole round as one.
fn summary(mut faults: Vec<StoreError>) -> StoreError {
    if faults.len() == 1 {
        return faults.remove(0);
    }
    let causes: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let tried = format!("etcd: reach one of {} members", faults.len());
    StoreError::Away { tried, cause: causes.join("; "), maybe_applied: false }
}

/// Connects to a member, signs in, and has it read.
async fn reach(shared: &Shared, peer: &str) -> Result<Link, StoreError> {
    let options = &shared.options;
    let endpoint = endpoint(options, peer)?;
    let slow = |_| away(peer, "reach it", format!("no answer within {} s", CONNECT.as_secs()), false);
    let channel = timeout(CONNECT, endpoint.connect())
        .await
        .map_err(slow)?
        .map_err(|error| fault::unreachable(options, peer, &error))?;
    let began = Instant::now();
    let check = async {
        let token = match &options.user {
            Some(user) => sign_in(options, peer, &channel, user).await?,
            None => None,
        };
        let answer: RangeResponse = ask(&channel, token.as_ref(), RANGE, glance(shared))
            .await
            .map_err(|status| fault::at_first(options, peer, "read", &status))?;
        Ok::<_, StoreError>((token, answer.header.unwrap_or_default()))
    };
    let (token, header) = timeout(CONNECT, check).await.map_err(slow)??;
    tracing::debug!(peer, revision = header.revision, after = ?began.elapsed(), "etcd reached");
    Ok(Link {
        peer: peer.to_owned(),
        revision: header.revision,
        cluster: header.cluster_id,
        channel,
        token,
        dead: AtomicBool::new(false),
        died: Notify::new(),
    })
}

/// A linearisable read of next to nothing.
fn glance(shared: &Shared) -> RangeRequest {
    RangeRequest { key: shared.keys.prefix().as_bytes().to_vec(), count_only: true, ..Default::default() }
}

async fn sign_in(
    options: &EtcdOptions,
    peer: &str,
    channel: &Channel,
    user: &EtcdUser,
) -> Result<Option<MetadataValue<Ascii>>, StoreError> {
    let password = String::from_utf8(read(&user.password_file, "the password")?)
        .map_err(|_| refused(&user.password_file.display().to_string(), "the password is not UTF-8"))?;
    let password = password.trim_end_matches(['\n', '\r']).to_owned();
    let question = AuthenticateRequest { name: user.name.clone(), password };
    let answer: AuthenticateResponse = match ask(channel, None, AUTHENTICATE, question).await {
        Ok(answer) => answer,
        // The cluster has no users: whoever can connect may ask.
        Err(status) if status.message().contains("authentication is not enabled") => return Ok(None),
        Err(status) if status.message().contains("authentication failed") => {
            let file = user.password_file.display();
            return Err(refused(
                &format!("etcd {peer}"),
                format!("user {:?} is not known there, or the password in {file} is wrong", user.name),
            ));
        }
        Err(status) => return Err(fault::at_first(options, peer, "sign in", &status)),
    };
    let token = MetadataValue::try_from(answer.token);
    token.map(Some).map_err(|_| refused(&format!("etcd {peer}"), "its token cannot be sent back"))
}

async fn ask<Q, A>(
    channel: &Channel,
    token: Option<&MetadataValue<Ascii>>,
    path: &'static str,
    question: Q,
) -> Result<A, GrpcStatus>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = grpc(channel);
    grpc.ready().await.map_err(|error| GrpcStatus::from_error(error.into()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(with_token(token, question), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
}

fn grpc(channel: &Channel) -> Grpc<Channel> {
    // The server bounds what it sends by its records; a page of them is bounded by who asks.
    Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX)
}

fn with_token<T>(token: Option<&MetadataValue<Ascii>>, body: T) -> Request<T> {
    let mut request = Request::new(body);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}

fn endpoint(options: &EtcdOptions, peer: &str) -> Result<Endpoint, StoreError> {
    let bad = |cause: String| refused(&format!("endpoint {peer}"), cause);
    let endpoint = Endpoint::from_shared(peer.to_owned())
        .map_err(|error| bad(format!("{error}; accepted: http://ADDRESS:PORT or https://ADDRESS:PORT")))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if !peer.starts_with("https://") {
        return Ok(endpoint);
    }
    let tls = &options.tls;
    let mut config = ClientTlsConfig::new();
    if let Some(path) = &tls.ca {
        config = config.ca_certificate(Certificate::from_pem(pem(path, "CERTIFICATE")?));
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        config = config.identity(Identity::from_pem(pem(cert, "CERTIFICATE")?, pem(key, "PRIVATE KEY")?));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    endpoint.tls_config(config).map_err(|error| {
        let files = [&tls.ca, &tls.cert, &tls.key].into_iter().flatten().map(|path| path.display().to_string());
        let cause = fault::chain(&error);
        bad(format!("certificates cannot be used ({}): {cause}", files.collect::<Vec<_>>().join(", ")))
    })
}

/// A PEM file that has at least one of what is sought.
fn pem(path: &std::path::Path, what: &str) -> Result<Vec<u8>, StoreError> {
    let text = read(path, "a PEM file")?;
    let mark = format!("{what}-----");
    if text.windows(mark.len()).any(|part| part == mark.as_bytes()) {
        return Ok(text);
    }
    Err(refused(&path.display().to_string(), format!("it has no {what} in PEM form")))
}

fn read(path: &std::path::Path, what: &str) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| StoreError::Io {
        tried: format!("read {what} for etcd from"),
        path: path.to_owned(),
        cause: error.to_string(),
    })
}

fn refused(peer: &str, cause: impl Into<String>) -> StoreError {
    StoreError::Refused { peer: peer.to_owned(), cause: cause.into() }
}
