//! A few requests at once by the udp backend, each loop sending its next one after the answer: what a forwarder that lets
//! packets wait for each other would slow down. Beside it the forwarder that reads one packet at a time.
//!
//! Each machine, its pod and its forwarder, has a CPU of its own, as machines have: only so do pauses cost a rate.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ripstop_lab::space;

use crate::cpu::{self, Ksoftirqd};
use crate::load::Clock;
use crate::report::{Goal, Table, verdict};
use crate::scene::{Programs, checkpoint, wait_for};
use crate::stat::{Spread, ratios};
use crate::udp::{Carrier, POD, Tunnel};

/// Loops at once.
const LOOPS: [usize; 5] = [1, 2, 4, 8, 16];
/// Up to so many are few: none may come later for a pause.
const FEW: usize = 4;
/// Bytes of a request, and of an answer.
const REQUEST: usize = 64;
/// How long a visit lasts, and what goes before.
const VISIT: Duration = Duration::from_millis(250);
const WARM_UP: Duration = Duration::from_millis(30);
/// The first byte of a request after which no other comes.
const LAST: u8 = b'!';
const PORT: u16 = 7200;
const CARRIERS: [Carrier; 2] = [Carrier::Ours, Carrier::Naive];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    const BOTH: [Self; 2] = [Self::Udp, Self::Tcp];

    fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// Requests a second, and CPU seconds of one.
type Found = BTreeMap<(Carrier, Transport, usize), Vec<(f64, f64)>>;

/// Measures both forwarders.
pub fn few(programs: &Programs, rounds: usize) -> Result<(Vec<Goal>, Vec<Table>)> {
    let cpus = [0, cpu::last()];
    let ways = CARRIERS.map(|carrier| Way::build(carrier, programs, cpus)).into_iter().collect::<Result<Vec<_>>>()?;
    let mut found = Found::new();
    for round in 0..rounds {
        for (transport, loops) in Transport::BOTH.into_iter().flat_map(|each| LOOPS.map(|loops| (each, loops))) {
            for turn in 0..ways.len() {
                checkpoint()?;
                let way = &ways[(round + turn) % ways.len()];
                let what = || format!("{:?}, {loops} loops of {}", way.carrier, transport.name());
                let value = way.visit(transport, loops, cpus).with_context(what)?;
                found.entry((way.carrier, transport, loops)).or_default().push(value);
            }
        }
    }
    Ok((
        Transport::BOTH.map(|transport| goal(&found, transport)).into(),
        Transport::BOTH.map(|each| table(&found, each)).into(),
    ))
}

/// One of the two values of every round.
fn of(found: &Found, carrier: Carrier, transport: Transport, loops: usize, value: fn(&(f64, f64)) -> f64) -> Vec<f64> {
    found.get(&(carrier, transport, loops)).into_iter().flatten().map(value).collect()
}

fn table(found: &Found, transport: Transport) -> Table {
    let first = format!("{} requests of {REQUEST} bytes under way at once", transport.name());
    let mut table = Table::new(&[
        &first,
        "carried by",
        "thousands a second: min / median / max",
        "ratio to one packet a read",
        "CPU µs of one: min / median / max",
        "ratio to one packet a read",
    ]);
    for loops in LOOPS {
        for carrier in CARRIERS {
            let mut cells = vec![loops.to_string(), carrier.title().into()];
            for (value, factor) in [((|both| both.0) as fn(&(f64, f64)) -> f64, 1e-3), (|both| both.1, 1e6)] {
                let values = of(found, carrier, transport, loops, value);
                let ratio = ratios(&values, &of(found, Carrier::Naive, transport, loops, value));
                let values: Vec<f64> = values.iter().map(|value| value * factor).collect();
                cells.extend([Spread::of(&values).text(1), Spread::of(&ratio).to_string()]);
            }
            table.row(&cells);
        }
    }
    table
}

/// The worst of few loops is what counts.
fn goal(found: &Found, transport: Transport) -> Goal {
    let rate = |carrier, loops| of(found, carrier, transport, loops, |both| both.0);
    let ratio = |loops| Spread::of(&ratios(&rate(Carrier::Ours, loops), &rate(Carrier::Naive, loops)));
    let few = LOOPS.into_iter().filter(|loops| *loops <= FEW);
    let worst = few.min_by(|a, b| ratio(*a).median.total_cmp(&ratio(*b).median)).unwrap_or(FEW);
    let cost = |carrier| format!("{:.1} thousand", Spread::of(&rate(carrier, worst)).median / 1e3);
    Goal {
        what: format!(
            "udp: {} requests a second, 1 to {FEW} under way: least beside the rival, at {worst}",
            transport.name()
        ),
        reach: "≥ 0.95".into(),
        ours: cost(Carrier::Ours),
        rival: format!("{}: {}", Carrier::Naive.title(), cost(Carrier::Naive)),
        ratio: ratio(worst).to_string(),
        met: verdict(ratio(worst).median >= 0.95),
    }
}

/// A standing way, with all its connections.
struct Way {
    carrier: Carrier,
    pairs: BTreeMap<Transport, Vec<[Pipe; 2]>>,
    clock: Clock,
    _tunnel: Tunnel,
}

impl Way {
    fn build(carrier: Carrier, programs: &Programs, cpus: [usize; 2]) -> Result<Self> {
        let tunnel = Tunnel::build("few", carrier, programs, cpus)?;
        let mut pairs = BTreeMap::new();
        for transport in Transport::BOTH {
            let most = LOOPS[LOOPS.len() - 1];
            let all = (0..most).map(|number| Pipe::pair(&tunnel, transport, PORT + u16::try_from(number)?));
            pairs.insert(transport, all.collect::<Result<Vec<_>>>()?);
        }
        let clock = Clock { softirqd: cpus.map(Ksoftirqd::of).into(), charged: tunnel.charged() };
        Ok(Self { carrier, pairs, clock, _tunnel: tunnel })
    }

    /// Requests a second, and CPU seconds of one.
    fn visit(&self, transport: Transport, loops: usize, cpus: [usize; 2]) -> Result<(f64, f64)> {
        let pairs = self.pairs.get(&transport).map_or(&[][..], |pairs| &pairs[..loops]);
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for [client, server] in pairs {
                threads.push(scope.spawn(|| answer(server, cpus[1])));
                threads.push(scope.spawn(|| ask(client, cpus[0], &stop, &done)));
            }
            let look = || -> Result<_> { Ok((Instant::now(), done.load(Ordering::Relaxed), self.clock.now()?)) };
            let measured = (|| -> Result<_> {
                thread::sleep(WARM_UP);
                let before = look()?;
                thread::sleep(VISIT);
                Ok((before, look()?))
            })();
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a loop ended early")))?;
            }
            let (before, after) = measured?;
            #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
            let count = (after.1 - before.1) as f64;
            Ok((count / (after.0 - before.0).as_secs_f64(), (after.2 - before.2).as_secs_f64() / count))
        })
    }
}

/// One end of a connection.
enum Pipe {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Pipe {
    /// Both ends, the client's first.
    fn pair(tunnel: &Tunnel, transport: Transport, port: u16) -> Result<[Self; 2]> {
        let to = SocketAddr::from((POD[1], port));
        let pair = match transport {
            Transport::Udp => {
                let open = |number: usize| {
                    space::in_netns(&tunnel.pods[number], || UdpSocket::bind(SocketAddr::from((POD[number], port))))
                };
                let [client, server] = [open(0)??, open(1)??];
                client.connect(to)?;
                server.connect(client.local_addr()?)?;
                [Self::Udp(client), Self::Udp(server)]
            }
            Transport::Tcp => {
                let listener = space::in_netns(&tunnel.pods[1], || TcpListener::bind(to))??;
                let mut client = None;
                wait_for("the way", Duration::from_secs(15), || {
                    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(500));
                    client = space::in_netns(&tunnel.pods[0], connect).ok().and_then(Result::ok);
                    client.is_some()
                })?;
                [Self::Tcp(client.context("no connection")?), Self::Tcp(listener.accept()?.0)]
            }
        };
        for pipe in &pair {
            let patience = Some(Duration::from_secs(2));
            match pipe {
                Self::Udp(socket) => socket.set_read_timeout(patience)?,
                Self::Tcp(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(patience)?;
                }
            }
        }
        Ok(pair)
    }

    fn send(&self, bytes: &[u8; REQUEST]) -> Result<()> {
        match self {
            Self::Udp(socket) => drop(socket.send(bytes)?),
            Self::Tcp(stream) => (&mut &*stream).write_all(bytes)?,
        }
        Ok(())
    }

    /// A lost datagram is an error.
    fn receive(&self, bytes: &mut [u8; REQUEST]) -> Result<()> {
        match self {
            Self::Udp(socket) => drop(socket.recv(bytes)?),
            Self::Tcp(stream) => (&mut &*stream).read_exact(bytes)?,
        }
        Ok(())
    }
}

fn ask(pipe: &Pipe, cpu: usize, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    cpu::pin(cpu)?;
    let mut bytes = [b'?'; REQUEST];
    while bytes[0] != LAST {
        if stop.load(Ordering::Relaxed) {
            bytes[0] = LAST;
        }
        pipe.send(&bytes)?;
        pipe.receive(&mut bytes).context("an answer")?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn answer(pipe: &Pipe, cpu: usize) -> Result<()> {
    cpu::pin(cpu)?;
    let mut bytes = [0; REQUEST];
    while bytes[0] != LAST {
        pipe.receive(&mut bytes).context("a request")?;
        pipe.send(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_is_of_the_worst_of_few() {
        let mut found = Found::new();
        for (loops, ours) in LOOPS.into_iter().zip([9_000.0, 7_000.0, 8_000.0, 1.0, 1.0]) {
            for (carrier, rate) in [(Carrier::Ours, ours), (Carrier::Naive, 10_000.0)] {
                found.insert((carrier, Transport::Udp, loops), vec![(rate, 1e-5)]);
            }
        }
        let goal = goal(&found, Transport::Udp);
        assert!(goal.what.ends_with("at 2") && goal.ratio.contains("0.70"), "{goal:?}");
        assert_eq!(table(&found, Transport::Udp).text().lines().count(), 2 + 2 * LOOPS.len());
    }
}
