//! Connections that are over: the sockets of pods that are their ends are ended first, so that the other end is told by a packet that
//! still belongs to the connection; then tracking forgets it, and its next packet is the first of another one.
//!
//! Behind all rules of a run: whatever made a connection end must be in force, or its next packet would begin it anew.
//!
//! A socket that is not connected is left alone: one that listens, or of UDP one that answers to many.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ripstop_netmodel::{Connection, Object, ended_element};
use ripstop_plan::{Action, Step};

use super::run::Run;
use crate::error::Fault;
use crate::netlink::{NetlinkError, Protocol, Socket};
use crate::netns::Netns;
use crate::wire::flow;
use crate::wire::sock::{self, Ends};

/// Protocols whose sockets can be ended: TCP and UDP (IANA).
const WITH_SOCKETS: [u8; 2] = [6, 17];

impl Run<'_> {
    /// Ends the connections of steps that wait for it.
    pub(super) fn flush_connections(&mut self) {
        let waiting = std::mem::take(&mut self.ending);
        if waiting.is_empty() || self.stopped() {
            return;
        }
        let steps = self.steps;
        let connections: Vec<(usize, &Connection)> =
            waiting.iter().filter_map(|i| Some((*i, over(&steps[*i])?))).collect();
        let since = Instant::now();
        // Before they end: what is on its way then begins no other.
        let ended = connections.iter().filter_map(|(_, connection)| ended_element(connection)).collect();
        if let Err(fault) = self.add_passing(&ended) {
            tracing::debug!("answers to flows that end may begin others: {fault}");
        }
        for (path, ends) in by_namespace(connections.iter().map(|(_, connection)| *connection)) {
            if let Err(error) = end_sockets(&path, &ends) {
                self.tell_of_sockets(&path, &error);
            }
        }
        let sockets = since.elapsed();
        let requests = connections.iter().map(|(_, connection)| flow::end_connection(connection)).collect();
        let answers = self.applier.nft.batch(requests);
        tracing::debug!(
            "{} connections: sockets ended in {sockets:.1?}, all in {:.1?}",
            connections.len(),
            since.elapsed()
        );
        for ((i, _), answer) in connections.iter().zip(answers) {
            let result = match answer.result {
                // It has ended by itself.
                Err(error) if error.errno == libc::ENOENT => Ok(()),
                other => other.map_err(|error| Fault::refused(&error, None)),
            };
            self.settle(*i, result);
        }
        for i in waiting.into_iter().filter(|i| over(&steps[*i]).is_none()) {
            let why = "a connection is begun by who wants it, and by nobody else";
            self.settle(i, Err(Fault::Unsupported(why.into())));
        }
    }

    fn tell_of_sockets(&mut self, path: &str, error: &str) {
        if !std::mem::replace(&mut self.applier.told_of_sockets, true) {
            tracing::warn!(
                "sockets in {path} cannot be ended ({error}): programs of pods learn that a connection is over only when they wait in vain"
            );
        }
    }
}

/// The connection that a step removes.
fn over(step: &Step) -> Option<&Connection> {
    match &step.before.as_deref()?.object {
        Object::Connection(connection) if step.action == Action::Delete => Some(connection),
        _ => None,
    }
}

/// The sockets that are ends of connections, as their programs see them.
fn by_namespace<'c>(connections: impl Iterator<Item = &'c Connection>) -> BTreeMap<Arc<str>, Vec<Ends>> {
    let mut all: BTreeMap<Arc<str>, Vec<Ends>> = BTreeMap::new();
    for connection in connections.filter(|connection| WITH_SOCKETS.contains(&connection.protocol)) {
        let mut add = |path: &Option<Arc<str>>, local: SocketAddr, remote: SocketAddr| {
            if let Some(path) = path {
                all.entry(path.clone()).or_default().push(Ends { protocol: connection.protocol, local, remote });
            }
        };
        add(&connection.sender, connection.source, connection.sent_to);
        add(&connection.receiver, connection.destination, connection.answers_to);
    }
    all
}

/// Ends sockets in a namespace. A namespace that is gone has none.
fn end_sockets(path: &str, ends: &[Ends]) -> Result<(), String> {
    let netns = match Netns::open(path) {
        Ok(netns) => netns,
        Err(error) if error.is_gone() => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    let socket = netns.run(|| Socket::open(Protocol::SockDiag)).map_err(|error| error.to_string())?;
    let mut socket = socket.map_err(|error| error.to_string())?;
    let is_gone = |error: &NetlinkError| error.errno == libc::ENOENT;
    let found = socket.batch(ends.iter().map(sock::get).collect());
    let mut requests = Vec::new();
    for (ends, answer) in ends.iter().zip(found) {
        match answer.result {
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.to_string()),
            Ok(()) => {
                let cookie = answer.replies.first().and_then(|reply| sock::read(reply, ends));
                requests.extend(cookie.map(|cookie| sock::destroy(ends, &cookie)));
            }
        }
    }
    let refused = socket.batch(requests).into_iter().filter_map(|answer| answer.result.err());
    refused.into_iter().find(|error| !is_gone(error)).map_or(Ok(()), |error| Err(error.to_string()))
}
