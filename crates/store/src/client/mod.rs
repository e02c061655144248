//! The store another process serves, over its unix socket.
//!
//! One connection carries all questions and watches. It is made again whenever it is lost, after pauses of 20 ms to
//! 1 s; a call in between fails at once and has the next attempt made early. A server that ended is noticed at once, one
//! that hangs by the next call, after 10 s.
//!
//! Invariants: a question under way when the connection is lost fails, and says whether it may have been applied; what
//! waits for a watch's receiver is bounded by the watch's window.

mod link;
mod pump;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ripstop_types::Revision;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::embedded::CHANNEL;
use crate::record::Form;
use crate::server::validate_socket_path;
use crate::wire::{self, Ask};
use crate::{Event, Expect, Kind, Record, Store, StoreError, Text, validate_key, validate_value};
use link::{Link, Status};
use pump::Heard;

/// Longest wait for an answer, and for each record of a list. A server that takes longer is given up, and the connection with it.
const ANSWER: Duration = Duration::from_secs(10);

/// A store served on a unix socket. Dropping it ends its watches.
pub struct Remote {
    shared: Arc<Shared>,
    drive: JoinHandle<()>,
}

struct Shared {
    socket: PathBuf,
    state: Mutex<State>,
    /// What watches go by. Behind `state`, never ahead of it.
    status: watch::Sender<Status>,
    /// Asks for an attempt to connect before the pause is over.
    hurry: Notify,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    watches: BTreeMap<u64, Slot>,
}

/// A question under way.
struct Pending {
    answer: oneshot::Sender<Result<Reply, StoreError>>,
    /// What came of a list so far.
    records: Vec<Record>,
    tried: String,
    changes: bool,
}

/// Where a watch's events go, and how many bytes of them may still come.
struct Slot {
    heard: mpsc::UnboundedSender<Heard>,
    credit: i64,
}

enum Reply {
    Found(Option<Record>),
    Listed(Vec<Record>),
    Written(Option<Revision>),
}

impl Remote {
    /// Connects to a store's socket.
    ///
    /// # Errors
    /// [`StoreError::Away`] where nobody answers there; [`StoreError::Refused`] where someone does who is no store of
    /// ours; [`StoreError::Invalid`] for a path longer than a socket's can be.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, StoreError> {
        let remote = Self::lazy(socket)?;
        let mut status = remote.shared.status.subscribe();
        let tried = status.wait_for(|status| !matches!(status, Status::Untried)).await.map(|status| status.clone());
        match tried {
            Ok(Status::Down(fault)) => Err(fault),
            _ => Ok(remote),
        }
    }

    /// A store that is connected to when it is there: calls fail until then, and watches begin with
    /// [`Event::Away`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a path longer than a socket's can be.
    pub fn lazy(socket: impl AsRef<Path>) -> Result<Self, StoreError> {
        let socket = socket.as_ref().to_owned();
        validate_socket_path(&socket)?;
        let status = watch::Sender::new(Status::Untried);
        let shared = Arc::new(Shared { socket, state: Mutex::default(), status, hurry: Notify::new() });
        let drive = tokio::spawn(link::drive(shared.clone()));
        Ok(Self { shared, drive })
    }

    /// Asks, and waits for the answer.
    async fn call<'a>(
        &self,
        tried: String,
        changes: bool,
        ask: impl FnOnce(u64) -> Ask<'a>,
    ) -> Result<Reply, StoreError> {
        let shared = &*self.shared;
        let (answer, answered) = oneshot::channel();
        let (link, id, line) = {
            let mut state = shared.lock();
            let Some(link) = state.link.clone() else {
                shared.hurry.notify_one();
                return Err(shared.status.borrow().fault(&shared.socket));
            };
            state.next += 1;
            let id = state.next;
            state.pending.insert(id, Pending { answer, records: Vec::new(), tried: tried.clone(), changes });
            let mut line = Vec::new();
            wire::line(&mut line, &ask(id));
            (link, id, line)
        };
        let _asked = Asked { shared, id };
        if link.lines.send(line).await.is_err() {
            return Err(self.away(tried, "the connection was lost", false));
        }
        let (mut answered, mut listed) = (answered, 0);
        loop {
            match tokio::time::timeout(ANSWER, &mut answered).await {
                Ok(Ok(reply)) => return reply,
                Ok(Err(_)) => return Err(self.away(tried, "the client ended", changes)),
                Err(_) => {
                    let so_far = shared.lock().pending.get(&id).map_or(0, |pending| pending.records.len());
                    if so_far > listed {
                        listed = so_far;
                        continue;
                    }
                    link.give_up.notify_one();
                    let cause = format!("no answer within {} s", ANSWER.as_secs());
                    return Err(self.away(tried, &cause, changes));
                }
            }
        }
    }

    fn away(&self, tried: String, cause: &str, maybe_applied: bool) -> StoreError {
        let tried = format!("{tried} at {}", self.shared.socket.display());
        StoreError::Away { tried, cause: cause.to_owned(), maybe_applied }
    }

    fn nonsense(&self) -> StoreError {
        let (peer, cause) = (self.shared.socket.display().to_string(), "it answered another question".to_owned());
        StoreError::Refused { peer, cause }
    }
}

/// Forgets a question when nobody waits for its answer any more.
struct Asked<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.shared.lock().pending.remove(&self.id);
    }
}

#[async_trait]
impl Store for Remote {
    fn name(&self) -> String {
        format!("socket {}", self.shared.socket.display())
    }

    async fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        validate_key(key)?;
        match self.call(format!("get {kind}/{key}"), false, |id| Ask::Get { id, kind, key: Cow::Borrowed(key) }).await?
        {
            Reply::Found(record) => Ok(record),
            _ => Err(self.nonsense()),
        }
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        match self.call(format!("list {kind}"), false, |id| Ask::List { id, kind }).await? {
            Reply::Listed(records) => Ok(records),
            _ => Err(self.nonsense()),
        }
    }

    async fn put_if(&self, kind: Kind, key: &str, value: &Value, expect: Expect) -> Result<Revision, StoreError> {
        validate_key(key)?;
        validate_value(value)?;
        let ask = |id| Ask::Put { id, kind, key: Cow::Borrowed(key), expect, value: Cow::Borrowed(value) };
        match self.call(format!("put {kind}/{key}"), true, ask).await? {
            Reply::Written(Some(revision)) => Ok(revision),
            _ => Err(self.nonsense()),
        }
    }

    async fn delete_if(&self, kind: Kind, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        validate_key(key)?;
        let ask = |id| Ask::Delete { id, kind, key: Cow::Borrowed(key), expect };
        match self.call(format!("delete {kind}/{key}"), true, ask).await? {
            Reply::Written(revision) => Ok(revision),
            _ => Err(self.nonsense()),
        }
    }

    fn watch(&self, kinds: &[Kind]) -> mpsc::Receiver<Event> {
        self.watch_as(kinds)
    }

    fn watch_texts(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<Text>> {
        self.watch_as(kinds)
    }
}

impl Remote {
    fn watch_as<V: Form>(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<V>> {
        let (events, receiver) = mpsc::channel(CHANNEL);
        let (heard, hearing) = mpsc::unbounded_channel();
        let kinds: Vec<Kind> = Kind::every().filter(|kind| kinds.contains(kind)).collect();
        if !kinds.is_empty() {
            let id = {
                let mut state = self.shared.lock();
                state.next += 1;
                let id = state.next;
                state.watches.insert(id, Slot { heard, credit: 0 });
                id
            };
            tokio::spawn(pump::pump(self.shared.clone(), id, kinds, hearing, events));
        }
        receiver
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.drive.abort();
        let mut state = self.shared.lock();
        state.link = None;
        state.pending.clear();
        state.watches.clear();
        self.shared.status.send_replace(Status::Closed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
