//! BFD on a thread of its own: an engine, its clock and its sockets.
//!
//! What has arrived is taken in before time passes for the engine, so a thread that was kept from running does not take its own
//! pause for the peers' silence.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ripstop_bfd::{Action, Diagnostic, Engine, MULTIHOP_PORT, SINGLE_HOP_PORT, SessionId, State};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::sockets::{Listener, Origin, Outlet};

/// Datagrams taken from one socket before others have their turn.
const TURN: usize = 256;

/// The thread looks no sooner than that after its last look, as most of what a packet costs is to wake up for it. It is a tenth of the
/// shortest interval, and who is woken less often than that waits for nothing.
const REST: Duration = Duration::from_millis(1);

/// What became known.
#[derive(Debug)]
pub enum Event {
    /// A session changed its state.
    Changed {
        /// The session.
        id: SessionId,
        /// Its state.
        state: State,
        /// Why.
        diagnostic: Diagnostic,
        /// What the peer last told.
        remote: State,
    },
    /// A session cannot send. Told once, until it can again.
    Unsent {
        /// The session.
        id: SessionId,
        /// Why.
        error: io::Error,
    },
}

type Work = Box<dyn FnOnce(&mut Engine, Duration) -> Vec<Action> + Send>;

/// BFD of the network namespace in which it was started.
#[derive(Debug)]
pub struct Speaker {
    work: Option<Sender<Work>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    /// Opens the ports of single-hop and multihop sessions and starts the thread. `seed` should differ from start to start.
    ///
    /// # Errors
    /// If a port is taken, or no thread can be started.
    pub fn start(seed: u64) -> io::Result<(Self, Receiver<Event>)> {
        Self::start_for(seed, None)
    }

    /// The same, and each event wakes a descriptor of this kind.
    pub(crate) fn start_for(seed: u64, tells: Option<Arc<OwnedFd>>) -> io::Result<(Self, Receiver<Event>)> {
        let listeners = [
            Listener::open(SINGLE_HOP_PORT, false)?,
            Listener::open(MULTIHOP_PORT, false)?,
            Listener::open(SINGLE_HOP_PORT, true)?,
            Listener::open(MULTIHOP_PORT, true)?,
        ];
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (work, todo) = channel();
        let (tell, events) = channel();
        let woken = wake.clone();
        let engine = Engine::new(seed);
        let mut worker = Worker { engine, listeners, outlets: BTreeMap::new(), unsent: BTreeMap::new(), tell, tells };
        let thread = std::thread::Builder::new().name("bfd".into()).spawn(move || worker.run(&todo, &woken))?;
        Ok((Self { work: Some(work), wake, thread: Some(thread) }, events))
    }

    /// Does something with the engine on its thread, and waits for what it gives. None if the thread is gone.
    pub fn with<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Engine, Duration) -> (T, Vec<Action>) + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = channel();
        let work: Work = Box::new(move |engine, now| {
            let (given, actions) = what(engine, now);
            // Who asked waits for it.
            let _ = tell.send(given);
            actions
        });
        self.work.as_ref()?.send(work).ok()?;
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).ok()?;
        told.recv().ok()
    }
}

impl Drop for Speaker {
    /// Ends the thread. Peers notice by silence: sessions that end on purpose are removed before.
    fn drop(&mut self) {
        self.work = None;
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    engine: Engine,
    listeners: [Listener; 4],
    outlets: BTreeMap<SessionId, Outlet>,
    /// Sessions whose last packet did not go.
    unsent: BTreeMap<SessionId, ()>,
    tell: Sender<Event>,
    /// Who waits for events by that.
    tells: Option<Arc<OwnedFd>>,
}

impl Worker {
    /// Until nobody can ask for anything any more.
    fn run(&mut self, todo: &Receiver<Work>, wake: &OwnedFd) {
        let mut looked = Duration::ZERO;
        loop {
            std::thread::sleep((looked + REST).saturating_sub(now()));
            self.wait(wake);
            looked = now();
            // Emptied before what it announces is looked for.
            let _ = rustix::io::read(wake, &mut [0u8; 8]);
            let mut actions = self.hear();
            let mut asked = false;
            let ended = loop {
                match todo.try_recv() {
                    Ok(work) => {
                        asked = true;
                        actions.extend(work(&mut self.engine, now()));
                    }
                    Err(error) => break error == std::sync::mpsc::TryRecvError::Disconnected,
                }
            };
            actions.extend(self.engine.tick(now()));
            self.perform(actions);
            if asked {
                self.forget();
            }
            if ended {
                return;
            }
        }
    }

    fn wait(&self, wake: &OwnedFd) {
        let all = self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN));
        let mut all: Vec<PollFd<'_>> = all.chain([PollFd::new(wake, PollFlags::IN)]).collect();
        let pause = self.engine.due().map(|due| due.saturating_sub(now()));
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        // Whatever it says, sockets and timers are looked at.
        while let Err(Errno::INTR) = poll(&mut all, pause.as_ref()) {}
    }

    fn hear(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut bytes = [0; 128];
        for listener in &self.listeners {
            for _ in 0..TURN {
                let Some((length, origin)) = listener.take(&mut bytes) else { break };
                let Some(Origin { arrival }) = origin else { continue };
                actions.extend(self.engine.received(now(), &arrival, bytes.get(..length).unwrap_or_default()));
            }
        }
        actions
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { id, from, source_port, to, interface, bytes } => {
                    let outlet = match self.outlets.entry(id) {
                        std::collections::btree_map::Entry::Occupied(open) => Ok(&*open.into_mut()),
                        std::collections::btree_map::Entry::Vacant(place) => {
                            Outlet::open(from, source_port, interface).map(|outlet| &*place.insert(outlet))
                        }
                    };
                    match outlet.and_then(|outlet| outlet.send(to, interface, &bytes)) {
                        Ok(()) => drop(self.unsent.remove(&id)),
                        Err(error) => {
                            if self.unsent.insert(id, ()).is_none() {
                                self.tell(Event::Unsent { id, error });
                            }
                        }
                    }
                }
                Action::Changed { id, state, diagnostic, remote } => {
                    self.tell(Event::Changed { id, state, diagnostic, remote });
                }
            }
        }
    }

    /// Closes what belongs to sessions that are none any more: they go when somebody asks for it.
    fn forget(&mut self) {
        let engine = &self.engine;
        self.outlets.retain(|id, _| engine.view(*id).is_some());
        self.unsent.retain(|id, ()| engine.view(*id).is_some());
    }

    /// Nobody may listen any more.
    fn tell(&self, event: Event) {
        let _ = self.tell.send(event);
        if let Some(tells) = &self.tells {
            let _ = rustix::io::write(tells, &1u64.to_ne_bytes());
        }
    }
}

/// Time that never goes back and counts what the machine slept.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}
