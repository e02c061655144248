//! The prober's sockets and clock: carries out what [`ripstop_probe::Engine`] says, and answers peers' probes.
//!
//! Not here: which probe goes when, and what an answer means.
//!
//! Invariants: only addresses that the core names are answered, by a datagram no longer than theirs, and so many a second
//! at most.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ripstop_kernel::ProbeSocket;
use ripstop_objects::ProbingConfig;
use ripstop_probe::{Action, Engine, Report, wire};
use ripstop_tables::{Input, ProbeInput};
use ripstop_types::{Family, Millis};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::core::ProbePlan;
use crate::message::Message;

/// Pause before a port that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Datagrams taken in one go, so that the agent's other work has its turn.
const AT_ONCE: usize = 32;

/// Answers a second, at most.
const ANSWERS: u32 = 2_000;

/// Starts it; answers with where to send what is to be probed.
pub fn start(config: ProbingConfig, queue: UnboundedSender<Message>) -> UnboundedSender<ProbePlan> {
    let (plans, orders) = unbounded_channel();
    if config.mtu || config.checksum {
        tokio::spawn(run(config, orders, queue));
    }
    plans
}

async fn run(config: ProbingConfig, mut orders: UnboundedReceiver<ProbePlan>, queue: UnboundedSender<Message>) {
    let mut last = None;
    let sockets = loop {
        match Sockets::open(config.port) {
            Ok(sockets) => break sockets,
            Err(error) => {
                let why = format!("UDP port {} cannot be opened: {error}", config.port);
                if queue.send(Message::Input(Input::Probe(ProbeInput::Closed { why }))).is_err() {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
                while let Ok(plan) = orders.try_recv() {
                    last = Some(plan);
                }
            }
        }
    };
    if queue.send(Message::Input(Input::Probe(ProbeInput::Open { port: config.port }))).is_err() {
        return;
    }
    let begin = Instant::now();
    let mut prober = Prober {
        engine: Engine::new(RandomState::new().build_hasher().finish(), config.interval, Millis(0)),
        sockets,
        begin,
        queue,
        askers: BTreeSet::new(),
        answers: Answers { begin, count: 0 },
        buffer: vec![0; usize::from(u16::MAX)],
        zeros: vec![0; wire::LONGEST],
    };
    if let Some(plan) = last {
        prober.take(plan);
    }
    prober.work(orders).await;
}

struct Sockets {
    v4: Socket,
    /// None where the kernel has no IPv6.
    v6: Option<Socket>,
}

struct Socket {
    socket: ProbeSocket,
    /// The same one, for the runtime to wait at.
    ear: UdpSocket,
}

impl Sockets {
    fn open(port: u16) -> io::Result<Self> {
        let v6 = match Socket::open(Family::V6, port) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(_) => None,
        };
        Ok(Self { v4: Socket::open(Family::V4, port)?, v6 })
    }

    fn of(&self, family: Family) -> Option<&Socket> {
        match family {
            Family::V4 => Some(&self.v4),
            Family::V6 => self.v6.as_ref(),
        }
    }
}

impl Socket {
    fn open(family: Family, port: u16) -> io::Result<Self> {
        let socket = ProbeSocket::open(family, port)?;
        let ear = UdpSocket::from_std(socket.ear()?)?;
        Ok(Self { socket, ear })
    }
}

struct Prober {
    engine: Engine,
    sockets: Sockets,
    begin: Instant,
    queue: UnboundedSender<Message>,
    askers: BTreeSet<IpAddr>,
    answers: Answers,
    buffer: Vec<u8>,
    zeros: Vec<u8>,
}

impl Prober {
    async fn work(mut self, mut orders: UnboundedReceiver<ProbePlan>) {
        loop {
            let due = self.engine.due().map(|due| self.begin + Duration::from_millis(due.0));
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let from = tokio::select! {
                order = orders.recv() => match order {
                    Some(plan) => {
                        self.take(plan);
                        None
                    }
                    None => return,
                },
                ready = ready(self.sockets.of(Family::V4)) => ready.then_some(Family::V4),
                ready = ready(self.sockets.of(Family::V6)) => ready.then_some(Family::V6),
                () = wait => None,
            };
            if let Some(family) = from {
                self.receive(family);
            }
            let actions = self.engine.tick(self.now());
            self.carry_out(actions);
        }
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn take(&mut self, plan: ProbePlan) {
        let actions = self.engine.set(self.now(), &plan.targets, &plan.tunnels, &plan.broken, plan.links);
        self.askers = plan.askers;
        self.carry_out(actions);
    }

    /// Takes what has come to a socket.
    fn receive(&mut self, family: Family) {
        for _ in 0..AT_ONCE {
            let Some(Socket { socket, ear }) = self.sockets.of(family) else { return };
            let datagram = match ear.try_io(Interest::READABLE, || socket.receive(&mut self.buffer)) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier datagram, or a stranger's.
                Err(_) => continue,
            };
            let payload = &self.buffer[..datagram.length.min(self.buffer.len())];
            if let Some(answer) = wire::read_answer(payload) {
                let actions = self.engine.answered(self.now(), datagram.from.ip(), &answer);
                self.carry_out(actions);
            } else if let Some(answer) = wire::answer_to(payload)
                && self.askers.contains(&datagram.from.ip())
                && self.answers.may()
            {
                // Complete: a fault on the way back is that of the other direction's own probes. What is lost comes again.
                let _ = socket.send_complete(Some(datagram.to), datagram.from, &answer);
            }
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let mut reports: Vec<Report> = Vec::new();
        for action in actions {
            match action {
                Action::Report(report) => reports.push(report),
                Action::Send { to, head, length, complete } => {
                    let Some(Socket { socket, .. }) = self.sockets.of(Family::of(to.ip())) else { continue };
                    self.zeros[..wire::LENGTH].copy_from_slice(&head);
                    let payload = &self.zeros[..length.clamp(wire::LENGTH, wire::LONGEST)];
                    // What a link does not take, or has no route, is as good as lost on the way.
                    let _ = if complete { socket.send_complete(None, to, payload) } else { socket.send(to, payload) };
                }
            }
        }
        if !reports.is_empty() {
            // Nobody listens any more where this fails.
            let _ = self.queue.send(Message::Input(Input::Probe(ProbeInput::Found { reports })));
        }
    }
}

/// Answers in the running second.
struct Answers {
    begin: Instant,
    count: u32,
}

impl Answers {
    fn may(&mut self) -> bool {
        if self.begin.elapsed() >= Duration::from_secs(1) {
            *self = Self { begin: Instant::now(), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= ANSWERS
    }
}

/// Whether there is something to read now; where there is no socket, never.
async fn ready(socket: Option<&Socket>) -> bool {
    match socket {
        Some(socket) => socket.ear.readable().await.is_ok(),
        None => std::future::pending().await,
    }
}
