//! The process: start, control socket, hand-over, end.
//!
//! One engine behind one lock: a request is done before the next begins, and a hand-over keeps the lock until it is
//! over, so nobody changes a set-up that is being given away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::client::{Client, ClientFault};
use crate::control::{Answer, MOST_LINE, Request};
use crate::engine::{Engine, EngineFault};
use crate::state;
use crate::sys::signal;

/// How long a forwarder that takes over may think before this one goes on by itself.
const PATIENCE: Duration = Duration::from_secs(3);
/// Connections at one time.
const MOST_CLIENTS: usize = 32;
/// Queues at most, so that all descriptors fit one message.
const MOST_QUEUES: usize = 64;

/// How a forwarder is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The control socket.
    pub socket: PathBuf,
    /// The file with the set-up in force; it lies on a tmpfs.
    pub state: PathBuf,
    /// Queues, and threads; nothing for one a CPU, four at most.
    pub queues: Option<usize>,
}

/// Why a forwarder ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// SIGTERM or SIGINT.
    Told,
    /// Another has taken over.
    HandedOver,
}

/// Why a forwarder does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The control socket cannot be made.
    #[error("{path}: {error}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The number of queues makes no sense.
    #[error("queues: {0}; accepted: 1 to {MOST_QUEUES}")]
    Queues(usize),
    /// A forwarder that is there does not give what it has.
    #[error("another forwarder answers this socket, and nothing could be taken over from it: {0}")]
    TakeOver(#[from] ClientFault),
    /// What it gave cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineFault),
    /// The system refused what every process needs.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Forwards until told to stop, or until another takes over. Blocks SIGTERM and SIGINT, so it is called before any
/// other thread is started.
///
/// # Errors
/// Where it cannot start. What fails later is told to the client or counted.
pub fn run(options: &Options) -> Result<Ended, StartFault> {
    let endings = signal::endings()?;
    let queues = match options.queues {
        None => std::thread::available_parallelism().map_or(1, usize::from).min(4),
        Some(queues) if (1..=MOST_QUEUES).contains(&queues) => queues,
        Some(queues) => return Err(StartFault::Queues(queues)),
    };
    let socket = |error| StartFault::Socket { path: options.socket.clone(), error };
    let lock = lock(&options.socket).map_err(socket)?;
    let (engine, listener) = match Client::connect(&options.socket) {
        Ok(client) => take_over(client, queues, &options.socket)?,
        // Nobody is there: what the last one went by is in the file.
        Err(_) => {
            let mut engine = Engine::new(queues)?;
            if let Some(setup) = state::read(&options.state) {
                match engine.set(setup) {
                    Ok(()) => tracing::info!("forwarding as before"),
                    Err(fault) => tracing::warn!("{fault}; waiting for the agent"),
                }
            }
            (engine, bind(&options.socket).map_err(socket)?)
        }
    };
    drop(lock);
    let server = Arc::new(Server {
        engine: Mutex::new(engine),
        state: options.state.clone(),
        handed_over: eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?,
        clients: AtomicUsize::new(0),
        streams: Mutex::default(),
    });
    let inode = fs::metadata(&options.socket).map(|meta| meta.ino()).ok();
    let ended = server.serve(&listener, &endings)?;
    if ended == Ended::HandedOver {
        server.let_go(queues)?;
    } else {
        // Another's socket may have its name by now.
        if fs::metadata(&options.socket).map(|meta| meta.ino()).ok() == inode {
            let _ = fs::remove_file(&options.socket);
        }
        server.engine().stop();
    }
    Ok(ended)
}

/// Only one forwarder at a time looks who is there: two that start together would both find nobody.
fn lock(socket: &Path) -> io::Result<fs::File> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = fs::File::create(socket.with_extension("lock"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// A socket that has its name only when it can be connected to, so that clients see the old one or the new one.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

fn take_over(mut client: Client, queues: usize, path: &Path) -> Result<(Engine, UnixListener), StartFault> {
    let mut engine = match client.hand_over()? {
        Some(estate) => Engine::adopt(estate)?,
        None => Engine::new(queues)?,
    };
    let stats = client.stop()?;
    engine.load(&stats);
    engine.start()?;
    let listener = bind(path).map_err(|error| StartFault::Socket { path: path.into(), error })?;
    if let Err(fault) = client.done() {
        // It is stopped, and may not have read this: where it lives, it ends or is ended by its supervisor.
        tracing::warn!("the forwarder before this one did not say that it ends: {fault}");
    }
    tracing::info!("took over");
    Ok((engine, listener))
}

struct Server {
    engine: Mutex<Engine>,
    state: PathBuf,
    handed_over: OwnedFd,
    clients: AtomicUsize,
    /// Connections by number.
    streams: Mutex<BTreeMap<u64, UnixStream>>,
}

impl Server {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<u64, UnixStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what was handed over, for this process may stay, and ends all connections: clients look for the other.
    fn let_go(&self, queues: usize) -> io::Result<()> {
        *self.engine() = Engine::new(queues)?;
        for stream in self.streams().values() {
            // One that is closed already is as it shall be.
            let _ = stream.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    /// Takes connections until the end.
    fn serve(self: &Arc<Self>, listener: &UnixListener, endings: &OwnedFd) -> io::Result<Ended> {
        let mut numbers = 0_u64..;
        loop {
            let mut fds = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(endings, PollFlags::IN),
                PollFd::new(&self.handed_over, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = fds.map(|fd| !fd.revents().is_empty());
            if ready[2] {
                return Ok(Ended::HandedOver);
            }
            if ready[1] {
                return Ok(Ended::Told);
            }
            if ready[0] {
                let Ok((stream, _)) = listener.accept() else { continue };
                let Some((number, kept)) = numbers.next().zip(stream.try_clone().ok()) else { continue };
                if self.clients.fetch_add(1, Ordering::Relaxed) >= MOST_CLIENTS {
                    self.clients.fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!("more than {MOST_CLIENTS} connections: one is refused");
                    continue;
                }
                self.streams().insert(number, kept);
                let server = Arc::clone(self);
                let spawned = std::thread::Builder::new().name("control".into()).spawn(move || {
                    if let Err(error) = server.attend(stream) {
                        tracing::debug!("control connection: {error}");
                    }
                    server.streams().remove(&number);
                    server.clients.fetch_sub(1, Ordering::Relaxed);
                });
                if let Err(error) = spawned {
                    self.streams().remove(&number);
                    self.clients.fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!("no thread for a connection: {error}");
                }
            }
        }
    }

    /// Answers one client until it goes.
    fn attend(&self, stream: UnixStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let request = match next(&mut reader)? {
                Some(Ok(request)) => request,
                Some(Err(why)) => {
                    say(&mut reader, &Answer::Refused(why))?;
                    continue;
                }
                None => return Ok(()),
            };
            let answer = match request {
                Request::Set(setup) => self.set(setup),
                Request::Clear => self.clear(),
                Request::Get => Answer::Setup(self.engine().setup().cloned()),
                Request::Hold => {
                    let hold = self.engine().hold();
                    match hold {
                        Some(hold) => give(&mut reader, &Answer::Ok, &[hold.as_fd()])?,
                        None => say(&mut reader, &Answer::Refused("there is no device yet".into()))?,
                    }
                    continue;
                }
                Request::Stats => Answer::Stats(self.engine().stats()),
                Request::HandOver => {
                    if self.hand_over(&mut reader)? {
                        return Ok(());
                    }
                    continue;
                }
                Request::Stop | Request::Done => Answer::Refused("it follows handOver on one connection".into()),
            };
            say(&mut reader, &answer)?;
        }
    }

    fn set(&self, setup: crate::control::Setup) -> Answer {
        let mut engine = self.engine();
        if let Err(fault) = engine.set(setup.clone()) {
            return Answer::Refused(fault.to_string());
        }
        // Forwarding is right already; without the file only a restart would have to wait for the agent.
        if let Err(error) = state::write(&self.state, &setup) {
            tracing::warn!("{}: {error}", self.state.display());
        }
        Answer::Ok
    }

    fn clear(&self) -> Answer {
        let mut engine = self.engine();
        if engine.setup().is_some() {
            tracing::info!("told to forward nothing any more");
        }
        engine.clear();
        state::forget(&self.state);
        Answer::Ok
    }

    /// Gives everything away; true where the other forwards now and this one is to end.
    fn hand_over(&self, reader: &mut BufReader<UnixStream>) -> io::Result<bool> {
        let mut engine = self.engine();
        reader.get_ref().set_read_timeout(Some(PATIENCE))?;
        let descriptors = engine.descriptors();
        let answer = Answer::HandOver { setup: engine.setup().cloned(), queues: engine.queues() };
        let fds: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        give(reader, &answer, &fds)?;
        if !matches!(next(reader)?, Some(Ok(Request::Stop))) {
            return Ok(false);
        }
        engine.stop();
        let stats = Answer::Stats(engine.stats());
        let done = say(reader, &stats).is_ok() && matches!(next(reader), Ok(Some(Ok(Request::Done))));
        if done {
            let _ = say(reader, &Answer::Ok);
            rustix::io::write(&self.handed_over, &1u64.to_ne_bytes())?;
            return Ok(true);
        }
        tracing::warn!("the forwarder that was to take over is gone: going on");
        engine.start().map_err(io::Error::other)?;
        Ok(false)
    }
}

/// The next request; nothing at the end, or why a line is none.
fn next(reader: &mut BufReader<UnixStream>) -> io::Result<Option<Result<Request, String>>> {
    let mut line = Vec::new();
    reader.by_ref().take(MOST_LINE as u64).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line).map_err(|error| error.to_string()))),
        Some(_) => Err(io::Error::other("a line without an end, or longer than is accepted")),
    }
}

fn line(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(line)
}

/// Says an answer with which descriptors go.
fn give(reader: &mut BufReader<UnixStream>, answer: &Answer, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let line = line(answer)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("more descriptors than one message takes"));
    }
    // The descriptors travel with the first byte; the rest of the line may need several writes.
    sendmsg(reader.get_ref(), &[IoSlice::new(&line[..1])], &mut control, SendFlags::NOSIGNAL)?;
    reader.get_mut().write_all(&line[1..])
}

fn say(reader: &mut BufReader<UnixStream>, answer: &Answer) -> io::Result<()> {
    reader.get_mut().write_all(&line(answer)?)
}
