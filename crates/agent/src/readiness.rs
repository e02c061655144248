//! The sockets and the clock of readiness probes: carries out what [`ripstop_services::readiness::Engine`] says.
//!
//! Probes go out in the agent's own namespace, as kubelet's do in its node's. A probe is a connection, and for HTTP one
//! request on it; no process is run for it.
//!
//! Not here: which probe goes when, and what its outcome means.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ripstop_objects::ProbeCheck;
use ripstop_services::readiness::{Action, Engine, Watched};
use ripstop_tables::{Input, ProbeInput};
use ripstop_types::{Millis, PodName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::message::Message;

/// Whose readiness is probed.
pub type Order = BTreeMap<PodName, Watched>;

/// So much of an answer is read: its first line says it all (RFC 9112, section 4).
const STATUS_LINE: usize = 12;

/// Starts it; answers with where to send whose readiness is to be probed.
pub fn start(queue: UnboundedSender<Message>) -> UnboundedSender<Order> {
    let (orders, to_do) = unbounded_channel();
    tokio::spawn(run(to_do, queue));
    orders
}

async fn run(mut orders: UnboundedReceiver<Order>, queue: UnboundedSender<Message>) {
    let begin = Instant::now();
    let now = || Millis(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
    let mut engine = Engine::default();
    let mut checks: JoinSet<(u64, bool)> = JoinSet::new();
    loop {
        let due = engine.due().map(|due| begin + Duration::from_millis(due.0));
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let report = tokio::select! {
            order = orders.recv() => match order {
                Some(pods) => {
                    engine.set(now(), pods);
                    None
                }
                None => return,
            },
            Some(ended) = checks.join_next() => match ended {
                Ok((id, succeeded)) => engine.finished(id, succeeded),
                // A panic in it was reported where it happened.
                Err(_) => None,
            },
            () = wait => None,
        };
        for action in report.into_iter().chain(engine.tick(now())) {
            match action {
                Action::Check { id, at, check, timeout } => {
                    checks.spawn(async move {
                        let succeeds = tokio::time::timeout(Duration::from_millis(timeout), succeeds(at, &check));
                        (id, succeeds.await.unwrap_or(false))
                    });
                }
                Action::Report { pod, order, ready } => {
                    // Nobody listens any more where this fails.
                    let _ = queue.send(Message::Input(Input::Probe(ProbeInput::Ready { pod, order, ready })));
                }
            }
        }
    }
}

async fn succeeds(at: SocketAddr, check: &ProbeCheck) -> bool {
    let Ok(mut stream) = TcpStream::connect(at).await else { return false };
    let ProbeCheck::Http { path } = check else { return true };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: ripstop-probe\r\nConnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut line = [0; STATUS_LINE];
    if stream.read_exact(&mut line).await.is_err() {
        return false;
    }
    let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
    status.and_then(|status| status.parse::<u16>().ok()).is_some_and(|status| (200..400).contains(&status))
}
