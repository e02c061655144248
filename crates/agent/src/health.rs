//! The node's own sockets for Services: where health checks of them and of their proxy are answered, and node ports at `::1`.
//!
//! Not here: what is answered, which is [`ripstop_services::health`], and which ports there are, which the core says.
//!
//! Invariants: who asks gets one answer, and has some seconds for it; so many clients of a port at once and no more; a port that is taken
//! ends nothing, is named, and is tried again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ripstop_objects::ServicesConfig;
use ripstop_services::health::{Plan, Question};
use ripstop_store::before_now;
use ripstop_types::Family;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// Pause before a port that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A client has so long for its question and the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients of one port at once; others wait.
const CLIENTS: usize = 32;

/// Connections that are passed on from one port at once; others wait.
const CONNECTIONS: usize = 256;

/// The most bytes of a question's head.
const LONGEST_HEAD: usize = 8 << 10;

/// Why nobody can be heard at an address.
pub type Faults = BTreeMap<SocketAddr, String>;

/// Where questions about the proxy are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listen {
    healthz: Vec<SocketAddr>,
    status: Vec<SocketAddr>,
}

impl Listen {
    /// As a configuration says.
    #[must_use]
    pub fn of(config: &ServicesConfig) -> Self {
        Self { healthz: config.healthz_listen.clone(), status: config.status_listen.clone() }
    }
}

/// Answers by the last plan until nobody makes plans any more. After each plan, and whenever something that failed was tried again,
/// `settled` is told what cannot be listened at.
pub async fn serve(listen: &Listen, mut plans: watch::Receiver<Arc<Plan>>, mut settled: impl FnMut(&Faults)) {
    let mut open: BTreeMap<SocketAddr, (Port, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let plan = plans.borrow_and_update().clone();
        let wanted = wanted(listen, &plan);
        let closing: Vec<SocketAddr> =
            open.iter().filter(|(at, (port, _))| wanted.get(at) != Some(port)).map(|(at, _)| *at).collect();
        for (_, task) in closing.iter().filter_map(|at| open.remove(at)) {
            task.abort();
            // The socket is closed when the task has ended, and not before.
            let _ = task.await;
        }
        let mut faults = Faults::new();
        for (at, port) in wanted {
            if open.contains_key(&at) {
                continue;
            }
            match open_socket(at) {
                Ok(listener) => drop(open.insert(at, (port, tokio::spawn(accept(listener, port, plans.clone()))))),
                Err(error) => drop(faults.insert(at, error.to_string())),
            }
        }
        settled(&faults);
        let again = async {
            match faults.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN).await,
            }
        };
        tokio::select! {
            changed = plans.changed() => if changed.is_err() { break },
            () = again => {}
        }
    }
    for (_, task) in open.into_values() {
        task.abort();
    }
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Questions.
    Asked(About),
    /// Connections that go there.
    Relay(SocketAddr),
}

/// What is asked about at a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The proxy.
    Proxy,
    /// Which one it is.
    Mode,
    /// The Service of this port, at an address of this family.
    Service(u16, Family),
}

fn wanted(at: &Listen, plan: &Plan) -> BTreeMap<SocketAddr, Port> {
    let mut wanted = BTreeMap::new();
    for port in plan.checks.keys() {
        let at = |ip: &IpAddr| (SocketAddr::new(*ip, *port), Port::Asked(About::Service(*port, Family::of(*ip))));
        wanted.extend(plan.addresses.iter().map(at));
    }
    let relays = plan.relays.iter();
    wanted.extend(relays.map(|(port, to)| (SocketAddr::new(Ipv6Addr::LOCALHOST.into(), *port), Port::Relay(*to))));
    if plan.serves {
        wanted.extend(at.status.iter().map(|at| (*at, Port::Asked(About::Mode))));
        wanted.extend(at.healthz.iter().map(|at| (*at, Port::Asked(About::Proxy))));
    }
    wanted
}

/// A socket for one address alone: that for all of IPv6 leaves those of IPv4 to another.
fn open_socket(at: SocketAddr) -> io::Result<TcpListener> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    bind(&fd, &at)?;
    listen(&fd, i32::try_from(CLIENTS).unwrap_or(i32::MAX))?;
    TcpListener::from_std(fd.into())
}

async fn accept(listener: TcpListener, port: Port, plans: watch::Receiver<Arc<Plan>>) {
    let room = Arc::new(Semaphore::new(if matches!(port, Port::Relay(_)) { CONNECTIONS } else { CLIENTS }));
    while let Ok(place) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let plans = plans.clone();
                tokio::spawn(async move {
                    match port {
                        Port::Relay(to) => pass_on(stream, to).await,
                        // Who is slower has asked for nothing.
                        Port::Asked(about) => {
                            let _ = tokio::time::timeout(PATIENCE, answer_one(stream, about, plans)).await;
                        }
                    }
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Carries a connection until both ends are done. Where nobody is reached it ends as it would without a relay: by a reset.
async fn pass_on(mut from: TcpStream, to: SocketAddr) {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await {
        // What breaks at one end breaks at the other.
        Ok(Ok(mut to)) => drop(tokio::io::copy_bidirectional(&mut from, &mut to).await),
        _ => drop(sockopt::set_socket_linger(&from, Some(Duration::ZERO))),
    }
}

async fn answer_one(stream: TcpStream, about: About, plans: watch::Receiver<Arc<Plan>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let plan = plans.borrow().clone();
        async move {
            Ok::<_, Infallible>(match about {
                About::Mode if request.uri().path() == "/proxyMode" => Response::new(Full::new(plan.mode.into())),
                About::Mode => not_found(),
                About::Proxy => answer(&plan, Question::Proxy(request.uri().path())),
                About::Service(port, family) => answer(&plan, Question::Service(port, family)),
            })
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.half_close(true).keep_alive(false).max_buf_size(LONGEST_HEAD);
    // A client that goes away ends its own connection.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"not found\n")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// As kube-proxy answers.
fn answer(plan: &Plan, question: Question<'_>) -> Response<Full<Bytes>> {
    let Some(answer) = plan.answer(question) else { return not_found() };
    let body = match answer.local {
        Some((service, local)) => json!({
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": local,
            "serviceProxyHealthy": plan.is_live,
        }),
        None => {
            let now = before_now(Duration::ZERO);
            // Of one that is not live it is not known when it last was.
            let updated = plan.is_live.then(|| now.clone());
            json!({"lastUpdated": updated, "currentTime": now, "nodeEligible": !plan.is_leaving})
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // By which this is told from kube-proxy, whose answers are the same.
    headers.insert(SERVER, HeaderValue::from_static("ripstop"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some((_, local)) = answer.local {
        headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(local));
    }
    response
}
