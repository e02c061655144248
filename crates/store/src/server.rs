//! Serves an embedded store to the processes of one machine, on a unix socket only its owner may use.
//!
//! Invariants: memory a connection is bounded, whatever it asks; a connection that does not take what it is sent is
//! dropped; nothing one connection does holds up another. The store's file was locked before the socket is touched, so
//! no two servers of one file ever contend for it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::embedded::{Begin, Embedded, Feed, HOLD, Item, PAGE};
use crate::record::Form;
use crate::wire::{self, Ask, From, Lines, PROTOCOL, Tell, VERSION};
use crate::{Store, StoreError, Text};

/// Time for a client to introduce itself.
const HELLO: Duration = Duration::from_secs(5);
/// Longest time for which a client may take nothing of what it is sent.
const STALL: Duration = Duration::from_secs(30);
/// Time for questions under way when the server ends.
const GRACE: Duration = Duration::from_secs(1);
/// Questions of one connection under way at a time.
const MOST_ASKED: usize = 32;
/// Watches of one connection.
const MOST_WATCHES: usize = 64;

/// Serves `store` on `socket` until `shutdown` is done, then removes the socket.
///
/// # Errors
/// As [`Server::bind`].
pub async fn serve(
    store: Arc<Embedded>,
    socket: impl AsRef<Path>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StoreError> {
    Server::bind(store, socket)?.run(shutdown).await;
    Ok(())
}

/// A store with a socket that listens: clients can connect, and are answered once [`Server::run`] runs.
pub struct Server {
    store: Arc<Embedded>,
    listener: UnixListener,
    path: PathBuf,
    inode: Option<u64>,
}

impl Server {
    /// Makes the socket, with mode 0600. A socket file left behind by a process that is gone is replaced.
    ///
    /// # Errors
    /// [`StoreError::Io`] where someone listens there already, where something other than a socket is there, or where
    /// it cannot be made; [`StoreError::Invalid`] for a path longer than a socket's can be.
    pub fn bind(store: Arc<Embedded>, socket: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = socket.as_ref().to_owned();
        validate_socket_path(&path)?;
        let fault = |cause: io::Error| io_fault(&path, cause);
        let listener = match listen(&path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(&path).map_err(fault)?;
                listen(&path).map_err(fault)?
            }
            other => other.map_err(fault)?,
        };
        let inode = std::fs::symlink_metadata(&path).ok().map(|found| found.ino());
        Ok(Self { store, listener, path, inode })
    }

    /// Answers clients until `shutdown` is done. When this returns, no connection is left and the socket is gone.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(Connection::serve(self.store.clone(), stream, stopped.clone()));
                    }
                    Err(fault) => {
                        // Too many open files, most likely: nothing helps but others closing theirs.
                        tracing::warn!(%fault, socket = ?self.path, "cannot take a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = &mut shutdown => break,
            }
        }
        drop(self.listener);
        if self.inode.is_some() && std::fs::symlink_metadata(&self.path).ok().map(|found| found.ino()) == self.inode {
            // A socket file that stays is replaced by the next server.
            let _ = std::fs::remove_file(&self.path);
        }
        stop.send_replace(true);
        while connections.join_next().await.is_some() {}
    }
}

/// Checks that a path fits a socket's address: 107 bytes (`sockaddr_un`, unix(7)).
pub(crate) fn validate_socket_path(path: &Path) -> Result<(), StoreError> {
    if path.as_os_str().len() <= 107 {
        return Ok(());
    }
    let found = path.display().to_string();
    Err(StoreError::Invalid { what: "a socket's path".into(), found, accepted: "at most 107 bytes".into() })
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // The file bind(2) makes takes its mode from the socket: so nobody else can connect at any time.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    socket.bind(path)?;
    socket.listen(128)
}

/// Removes a socket nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("something that is not a socket is there"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) => Err(e),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

fn io_fault(path: &Path, cause: io::Error) -> StoreError {
    StoreError::Io { tried: "serve on socket".into(), path: path.to_owned(), cause: cause.to_string() }
}

/// The way to a client. Several tasks use it.
struct Outbox {
    half: Mutex<OwnedWriteHalf>,
    dead: Notify,
}

/// The client is gone, or as good as.
struct Gone;

impl Outbox {
    async fn send(&self, bytes: &[u8]) -> Result<(), Gone> {
        let mut half = self.half.lock().await;
        match timeout(STALL, half.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            _ => {
                self.dead.notify_one();
                Err(Gone)
            }
        }
    }

    async fn tell(&self, message: &Tell) -> Result<(), Gone> {
        let mut buffer = Vec::new();
        wire::line(&mut buffer, message);
        self.send(&buffer).await
    }
}

/// A watch under way: what it may still send, and how to end it.
struct Watching {
    credit: Arc<watch::Sender<i64>>,
    task: AbortHandle,
}

/// One client, and what it has asked for.
pub(crate) struct Connection {
    store: Arc<Embedded>,
    outbox: Arc<Outbox>,
    asked: Arc<Semaphore>,
    questions: JoinSet<()>,
    feeds: JoinSet<()>,
    watches: BTreeMap<u64, Watching>,
}

impl Connection {
    pub(crate) async fn serve(store: Arc<Embedded>, stream: UnixStream, mut stopped: watch::Receiver<bool>) {
        let (read, write) = stream.into_split();
        let outbox = Arc::new(Outbox { half: Mutex::new(write), dead: Notify::new() });
        let mut connection = Self {
            store,
            outbox: outbox.clone(),
            asked: Arc::new(Semaphore::new(MOST_ASKED)),
            questions: JoinSet::new(),
            feeds: JoinSet::new(),
            watches: BTreeMap::new(),
        };
        let refused = tokio::select! {
            ended = connection.converse(Lines::new(read)) => ended.err(),
            () = outbox.dead.notified() => None,
            _ = stopped.wait_for(|stop| *stop) => None,
        };
        connection.feeds.shutdown().await;
        let _ = timeout(GRACE, async { while connection.questions.join_next().await.is_some() {} }).await;
        if let Some(cause) = refused {
            tracing::debug!(cause, "refused a client");
            let _ = timeout(GRACE, outbox.tell(&Tell::Refused { cause })).await;
        }
        connection.questions.shutdown().await;
    }

    /// Answers until the client is done. The error is what it said that makes no sense.
    async fn converse(&mut self, mut lines: Lines<OwnedReadHalf>) -> Result<(), String> {
        let hello = timeout(HELLO, lines.next()).await.map_err(|_| "no hello came")?;
        match hello.map_err(|e| e.to_string())?.map(parse) {
            Some(Ok(Ask::Hello { protocol, version: VERSION })) if protocol == PROTOCOL => {}
            Some(Ok(Ask::Hello { protocol, version })) => {
                return Err(format!(
                    "this is {PROTOCOL} version {VERSION}; asked for was {protocol} version {version}"
                ));
            }
            Some(_) => return Err(format!("this is {PROTOCOL} version {VERSION}; a hello was expected first")),
            None => return Ok(()),
        }
        let (store, epoch) = (self.store.name(), self.store.epoch());
        let hello = Tell::Hello { protocol: PROTOCOL.into(), version: VERSION, store, epoch };
        if self.outbox.tell(&hello).await.is_err() {
            return Ok(());
        }
        loop {
            while self.questions.try_join_next().is_some() {}
            while self.feeds.try_join_next().is_some() {}
            match lines.next().await {
                Ok(Some(line)) => {
                    let ask = parse(line)?;
                    self.take(ask).await?;
                }
                Ok(None) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(e.to_string()),
                Err(_) => return Ok(()),
            }
        }
    }

    async fn take(&mut self, ask: Ask<'static>) -> Result<(), String> {
        match ask {
            Ask::Hello { .. } => return Err("a second hello".into()),
            Ask::Watch { watch, kinds, from, window } => {
                self.watches.retain(|_, watching| !watching.task.is_finished());
                if self.watches.contains_key(&watch) || self.watches.len() >= MOST_WATCHES {
                    return Err(format!("watch {watch} is open already, or {MOST_WATCHES} others are"));
                }
                let begin = match from {
                    From::Start => Begin::Fresh,
                    From::After { epoch, revision } if epoch == self.store.epoch() => Begin::After(revision),
                    From::Anew | From::After { .. } => Begin::Anew,
                };
                let credit = Arc::new(watch::Sender::new(i64::from(window)));
                let feed = self.store.feed(&kinds, begin);
                let task = self.feeds.spawn(carry(feed, watch, self.outbox.clone(), credit.clone()));
                self.watches.insert(watch, Watching { credit, task });
            }
            Ask::More { watch, bytes } => {
                if let Some(watching) = self.watches.get(&watch) {
                    watching.credit.send_modify(|credit| *credit = credit.saturating_add(i64::from(bytes)));
                }
            }
            Ask::Unwatch { watch } => {
                if let Some(watching) = self.watches.remove(&watch) {
                    watching.task.abort();
                }
            }
            question => {
                let Ok(permit) = self.asked.clone().acquire_owned().await else { return Ok(()) };
                let (store, outbox) = (self.store.clone(), self.outbox.clone());
                self.questions.spawn(async move {
                    let _permit = permit;
                    // Whether it failed shows in the outbox.
                    let _ = answer(&store, &outbox, question).await;
                });
            }
        }
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<Ask<'static>, String> {
    serde_json::from_slice(line).map_err(|e| format!("a line that makes no sense: {e}"))
}

async fn answer(store: &Embedded, outbox: &Outbox, question: Ask<'_>) -> Result<(), Gone> {
    let (id, told) = match question {
        Ask::Get { id, kind, key } => (id, store.get(kind, &key).await.map(|record| Tell::Found { id, record })),
        Ask::Put { id, kind, key, expect, value } => {
            let written = store.put_if(kind, &key, &value, expect).await;
            (id, written.map(|revision| Tell::Written { id, revision: Some(revision) }))
        }
        Ask::Delete { id, kind, key, expect } => {
            (id, store.delete_if(kind, &key, expect).await.map(|revision| Tell::Written { id, revision }))
        }
        Ask::List { id, kind } => {
            let listed = store.pages(kind, |page| async move {
                let mut buffer = Vec::new();
                page.iter().for_each(|change| wire::item_line(&mut buffer, id, change));
                // Whoever asked is gone, so it does not matter which fault this is.
                outbox
                    .send(&buffer)
                    .await
                    .map_err(|Gone| StoreError::Refused { peer: "the client".into(), cause: "it is gone".into() })
            });
            (id, listed.await.map(|()| Tell::Done { id }))
        }
        Ask::Hello { .. } | Ask::Watch { .. } | Ask::More { .. } | Ask::Unwatch { .. } => return Ok(()),
    };
    outbox.tell(&told.unwrap_or_else(|fault| Tell::Failed { id, fault })).await
}

/// Carries a feed to the client, as far as its window allows.
async fn carry(mut feed: Feed, watch: u64, outbox: Arc<Outbox>, credit: Arc<watch::Sender<i64>>) {
    let mut granted = credit.subscribe();
    loop {
        if timeout(HOLD, granted.wait_for(|credit| *credit > 0)).await.is_err() {
            feed.release();
            // The sender is an argument of this function, so the wait cannot fail.
            let _ = granted.wait_for(|credit| *credit > 0).await;
        }
        let room = usize::try_from(*credit.borrow()).unwrap_or(0);
        let Some(items) = feed.next(room.clamp(1, PAGE)).await else {
            // The store was closed below us: nothing more can be served.
            outbox.dead.notify_one();
            return;
        };
        let mut buffer = Vec::new();
        for item in items {
            match item {
                Item::Change(change) => wire::event_line(&mut buffer, watch, &change),
                Item::Event(event) => {
                    wire::line(&mut buffer, &Tell::Event { watch, event: event.map(Text::of_value) });
                }
                Item::At(revision) => wire::line(&mut buffer, &Tell::At { watch, revision }),
            }
        }
        credit.send_modify(|credit| *credit -= i64::try_from(buffer.len()).unwrap_or(i64::MAX));
        if outbox.send(&buffer).await.is_err() {
            return;
        }
    }
}
