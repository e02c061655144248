//! The connection: made, introduced, read from and written to, and made again.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::pump::Heard;
use super::{Reply, Shared};
use crate::StoreError;
use crate::wire::{self, Ask, Lines, MAX_LINE, PROTOCOL, Tell, VERSION};

/// Time for a server to introduce itself.
const HELLO: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that stands.
pub(super) struct Link {
    /// Which connection of this client it is.
    pub(super) generation: u64,
    /// Which opening of the store it leads to.
    pub(super) epoch: u64,
    /// Lines to write. Closed when the connection is lost.
    pub(super) lines: mpsc::Sender<Vec<u8>>,
    /// Has the connection given up, because the server does not answer.
    pub(super) give_up: Notify,
}

/// Whether the store can be asked.
#[derive(Clone)]
pub(super) enum Status {
    /// The first attempt is under way.
    Untried,
    Up(Arc<Link>),
    Down(StoreError),
    /// The client was dropped.
    Closed,
}

impl Status {
    /// Why a call cannot be made now.
    pub(super) fn fault(&self, socket: &Path) -> StoreError {
        match self {
            Self::Down(fault) => fault.clone(),
            _ => away(socket, "it was not connected to yet"),
        }
    }
}

/// Keeps the connection up until it is aborted.
pub(super) async fn drive(shared: Arc<Shared>) {
    let mut pause = SHORTEST_PAUSE;
    for generation in 1.. {
        let fault = match connect(&shared.socket).await {
            Ok((lines, half, epoch)) => {
                let fault = converse(&shared, generation, epoch, lines, half).await;
                // One that speaks otherwise will do so the next time too.
                if !matches!(fault, StoreError::Refused { .. }) {
                    pause = SHORTEST_PAUSE;
                }
                fault
            }
            Err(fault) => fault,
        };
        lose(&shared, fault);
        sleep(SHORTEST_PAUSE).await;
        // In a hurry or not: a server that is gone is asked at most fifty times a second.
        let _ = timeout(pause - SHORTEST_PAUSE, shared.hurry.notified()).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(socket: &Path) -> Result<(Lines<OwnedReadHalf>, OwnedWriteHalf, u64), StoreError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; is `ripstop store serve` running?",
            io::ErrorKind::PermissionDenied => "; the socket is for its owner alone",
            _ => "",
        };
        away(socket, format!("{e}{hint}"))
    })?;
    let (read, mut half) = stream.into_split();
    let mut lines = Lines::new(read);
    let mut hello = Vec::new();
    wire::line(&mut hello, &Ask::Hello { protocol: PROTOCOL.into(), version: VERSION });
    let introduced = timeout(HELLO, async {
        // One that refuses may close before it has read; what it said is still there.
        let _ = half.write_all(&hello).await;
        lines.next().await.map(|line| line.map(|line| (serde_json::from_slice::<Tell>(line), first_of(line))))
    });
    let refused = |cause: String| StoreError::Refused { peer: socket.display().to_string(), cause };
    match introduced.await {
        Err(_) => Err(away(socket, format!("no hello within {} s", HELLO.as_secs()))),
        Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => Err(refused(format!("no store of ripstop: {e}"))),
        Ok(Err(e)) => Err(away(socket, e)),
        Ok(Ok(None)) => Err(away(socket, "it closed the connection without a hello")),
        Ok(Ok(Some((Ok(Tell::Hello { protocol, version, epoch, .. }), _)))) => {
            if protocol == PROTOCOL && version == VERSION {
                return Ok((lines, half, epoch));
            }
            Err(refused(format!("it speaks {protocol} version {version}, this is {PROTOCOL} version {VERSION}")))
        }
        Ok(Ok(Some((Ok(Tell::Refused { cause }), _)))) => Err(refused(cause)),
        Ok(Ok(Some((_, said)))) => Err(refused(format!("no store of ripstop: it said {said:?}"))),
    }
}

/// The beginning of a line, for a message.
fn first_of(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned()
}

/// Carries questions and answers until the connection is lost, and says why it was.
async fn converse(
    shared: &Shared,
    generation: u64,
    epoch: u64,
    lines: Lines<OwnedReadHalf>,
    half: OwnedWriteHalf,
) -> StoreError {
    let (sender, queue) = mpsc::channel(32);
    let link = Arc::new(Link { generation, epoch, lines: sender, give_up: Notify::new() });
    {
        let mut state = shared.lock();
        state.link = Some(link.clone());
        shared.status.send_replace(Status::Up(link.clone()));
    }
    tokio::select! {
        fault = read(shared, lines) => fault,
        fault = write(queue, half) => away(&shared.socket, fault),
        () = link.give_up.notified() => away(&shared.socket, "the server does not answer"),
    }
}

async fn write(mut queue: mpsc::Receiver<Vec<u8>>, mut half: OwnedWriteHalf) -> io::Error {
    while let Some(line) = queue.recv().await {
        if let Err(fault) = half.write_all(&line).await {
            return fault;
        }
    }
    io::ErrorKind::BrokenPipe.into()
}

async fn read(shared: &Shared, mut lines: Lines<OwnedReadHalf>) -> StoreError {
    let refused = |cause: String| StoreError::Refused { peer: shared.socket.display().to_string(), cause };
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return away(&shared.socket, "the server closed the connection"),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return refused(e.to_string()),
            Err(e) => return away(&shared.socket, e),
        };
        let told = match serde_json::from_slice(line) {
            Ok(told) => told,
            Err(e) => return refused(format!("a line that makes no sense: {e}")),
        };
        if let Err(cause) = take(shared, told, line.len() + 1) {
            return refused(cause);
        }
    }
}

fn take(shared: &Shared, told: Tell, bytes: usize) -> Result<(), String> {
    let mut state = shared.lock();
    let (id, reply) = match told {
        Tell::Hello { .. } => return Err("a second hello".into()),
        Tell::Refused { cause } => return Err(cause),
        Tell::Event { watch, event } => return hear(&mut state, watch, Heard::Event(event, bytes), bytes),
        Tell::At { watch, revision } => return hear(&mut state, watch, Heard::At(revision, bytes), bytes),
        Tell::Item { id, record } => {
            if let Some(pending) = state.pending.get_mut(&id) {
                pending.records.push(record);
            }
            return Ok(());
        }
        Tell::Found { id, record } => (id, Ok(Reply::Found(record))),
        Tell::Written { id, revision } => (id, Ok(Reply::Written(revision))),
        Tell::Failed { id, fault } => (id, Err(fault)),
        Tell::Done { id } => {
            let records = state.pending.get_mut(&id).map(|pending| std::mem::take(&mut pending.records));
            (id, Ok(Reply::Listed(records.unwrap_or_default())))
        }
    };
    if let Some(pending) = state.pending.remove(&id) {
        // Whoever asked may have gone.
        let _ = pending.answer.send(reply);
    }
    Ok(())
}

fn hear(state: &mut super::State, watch: u64, heard: Heard, bytes: usize) -> Result<(), String> {
    // Events of a watch that was just closed may still be under way.
    let Some(slot) = state.watches.get_mut(&watch) else { return Ok(()) };
    slot.credit -= i64::try_from(bytes).unwrap_or(i64::MAX);
    // One page may go beyond the window by its last record.
    if slot.credit < -(2 * MAX_LINE as i64) {
        return Err(format!("it sends more for watch {watch} than it may"));
    }
    let _ = slot.heard.send(heard);
    Ok(())
}

/// Takes note that there is no connection, and fails what was under way.
fn lose(shared: &Shared, fault: StoreError) {
    let mut state = shared.lock();
    state.link = None;
    let pending = std::mem::take(&mut state.pending);
    shared.status.send_replace(Status::Down(fault.clone()));
    drop(state);
    for (_, question) in pending {
        let tried = format!("{} at {}", question.tried, shared.socket.display());
        let lost = StoreError::Away { tried, cause: fault.to_string(), maybe_applied: question.changes };
        // Whoever asked may have gone.
        let _ = question.answer.send(Err(lost));
    }
}

fn away(socket: &Path, cause: impl ToString) -> StoreError {
    let tried = format!("ask the store at {}", socket.display());
    StoreError::Away { tried, cause: cause.to_string(), maybe_applied: false }
}
