//! What runs in each pod of a cluster that is judged, and the two texts by which it and the judge understand each other.
//!
//! A pod is told by a file what to listen on and whom to ask ([`Asks`]), which it reads before each round; each round asks all at once and is a
//! line of its log ([`Round`]). So nobody has to reach a pod, whatever policies say.
//!
//! Not here: what is right.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use ripstop_objects::service::Protocol;

/// How long nothing is heard of what is denied.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(200);
/// Source ports of datagrams, each in its turn: one that was used a moment ago may still be that of a connection that is let through.
const FIRST_PORT: u16 = 20_000;
const PORTS: u64 = 40_000;
/// The stack of a thread that asks or answers.
const STACK: usize = 64 << 10;

/// A port of a protocol that a pod can listen on.
pub type Port = (Protocol, u16);

/// What a pod is told. As text, a line each: `edition 3`, `listen 80/TCP`, `ask 10.0.0.1 80/TCP`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asks {
    /// Tells one text from the one before.
    pub edition: u64,
    /// What it listens on, beside what it was told before.
    pub listen: BTreeSet<Port>,
    /// Whom it asks.
    pub ask: BTreeSet<(IpAddr, Port)>,
}

impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "edition {}", self.edition)?;
        for (protocol, port) in &self.listen {
            writeln!(f, "listen {port}/{protocol}")?;
        }
        for (ip, (protocol, port)) in &self.ask {
            writeln!(f, "ask {ip} {port}/{protocol}")?;
        }
        Ok(())
    }
}

impl FromStr for Asks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut asks = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let read = match *line.split(' ').collect::<Vec<_>>() {
                ["edition", number] => number.parse().ok().map(|number| asks.edition = number),
                ["listen", on] => port(on).map(|on| asks.listen.extend([on])),
                ["ask", ip, at] => ip.parse().ok().zip(port(at)).map(|one| asks.ask.extend([one])),
                _ => None,
            };
            read.ok_or_else(|| {
                format!("found {line:?}, accepted are `edition N`, `listen PORT/PROTOCOL` and `ask IP PORT/PROTOCOL`")
            })?;
        }
        Ok(asks)
    }
}

fn port(text: &str) -> Option<Port> {
    let (port, protocol) = text.split_once('/')?;
    Some((protocol.parse().ok()?, port.parse().ok()?))
}

/// What became of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer.
    Answer,
    /// That it is not taken.
    Refusal,
    /// Nothing.
    Nothing,
}

/// A round of a pod. As text: `round 17 of edition 3: +r-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Counted from 1 on since the pod began.
    pub number: u64,
    /// What it had been told.
    pub edition: u64,
    /// For each that was asked, in their order.
    pub heard: Vec<Heard>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |heard: &Heard| match heard {
            Heard::Answer => '+',
            Heard::Refusal => 'r',
            Heard::Nothing => '-',
        };
        let heard: String = self.heard.iter().map(sign).collect();
        write!(f, "round {} of edition {}: {heard}", self.number, self.edition)
    }
}

impl Round {
    /// Reads a line of a log; none where it is no round.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let (number, rest) = line.strip_prefix("round ")?.split_once(" of edition ")?;
        let (edition, heard) = rest.split_once(": ")?;
        let heard = heard.trim_end().chars().map(|sign| match sign {
            '+' => Some(Heard::Answer),
            'r' => Some(Heard::Refusal),
            '-' => Some(Heard::Nothing),
            _ => None,
        });
        Some(Self {
            number: number.parse().ok()?,
            edition: edition.parse().ok()?,
            heard: heard.collect::<Option<_>>()?,
        })
    }
}

/// Does what the file says, round for round, until its output is gone.
///
/// # Errors
/// Why it could not go on.
pub fn serve(file: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut open = BTreeSet::new();
    for number in 1.. {
        // Until it is there a pod has nothing to do; while it is replaced it may be gone for a moment.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let asks: Asks = text.parse().map_err(|why| io::Error::other(format!("{}: {why}", file.display())))?;
        for port in &asks.listen {
            if !open.contains(port) {
                listen(*port)?;
                open.insert(*port);
            }
        }
        writeln!(out, "{}", Round { number, edition: asks.edition, heard: all(number, &asks)? })?;
        out.flush()?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Asks all at once, in a round of this number.
fn all(number: u64, asks: &Asks) -> io::Result<Vec<Heard>> {
    let small = || thread::Builder::new().stack_size(STACK);
    let turns = number.wrapping_mul(asks.ask.len() as u64)..;
    let from = |turn: u64| FIRST_PORT + u16::try_from(turn % PORTS).unwrap_or_default();
    thread::scope(|scope| {
        let threads = turns.zip(&asks.ask).map(|(turn, (ip, port))| {
            small().spawn_scoped(scope, move || one(from(turn), SocketAddr::new(*ip, port.1), port.0))
        });
        let threads = threads.collect::<io::Result<Vec<_>>>()?;
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|heard| heard.map_err(|_| io::Error::other("a thread that asked panicked"))).collect()
    })
}

fn one(from: u16, to: SocketAddr, protocol: Protocol) -> Heard {
    let heard = match protocol {
        Protocol::Tcp => TcpStream::connect_timeout(&to, SILENCE).map(drop),
        _ => datagram(from, to),
    };
    match heard {
        Ok(()) => Heard::Answer,
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Heard::Nothing,
        Err(_) => Heard::Refusal,
    }
}

/// Sends a datagram, and once more where nothing came back for half of the time. Where its port is taken it is sent from another one.
fn datagram(from: u16, to: SocketAddr) -> io::Result<()> {
    let any = if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, from)).or_else(|_| UdpSocket::bind((any, 0)))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE / 2))?;
    let mut again = true;
    loop {
        socket.send(b"?")?;
        match socket.recv(&mut [0; 1]) {
            Err(error) if again && error.kind() == ErrorKind::WouldBlock => again = false,
            other => return other.map(drop),
        }
    }
}

/// Answers at a port from now on, in both families where the pod has both.
fn listen((protocol, port): Port) -> io::Result<()> {
    let both = [IpAddr::from(Ipv6Addr::UNSPECIFIED), Ipv4Addr::UNSPECIFIED.into()].map(|ip| SocketAddr::new(ip, port));
    let named = |error: io::Error| io::Error::other(format!("cannot listen on {port}/{protocol}: {error}"));
    let thread = thread::Builder::new().stack_size(STACK);
    match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(&both[..]).map_err(named)?;
            thread.spawn(move || listener.incoming().for_each(drop))?;
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(&both[..]).map_err(named)?;
            thread.spawn(move || {
                let mut bytes = [0; 64];
                loop {
                    // An error is one of a packet sent before; who asked hears nothing then.
                    if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                        let _ = socket.send_to(&bytes[..length], from);
                    }
                }
            })?;
        }
        Protocol::Sctp => return Err(named(io::Error::other("accepted are TCP and UDP"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_they_are_written_and_faults_are_named() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let web = (Protocol::Tcp, 80);
        let asks = Asks {
            edition: 3,
            listen: [web, (Protocol::Udp, 53)].into(),
            ask: [(ip("10.0.0.1"), web), (ip("fd00::1"), (Protocol::Udp, 81))].into(),
        };
        assert_eq!(asks.to_string().parse(), Ok(asks));
        assert_eq!("".parse(), Ok(Asks::default()));
        let wrong = "ask 10.0.0.1 80".parse::<Asks>().unwrap_err();
        assert!(wrong.starts_with("found \"ask 10.0.0.1 80\""), "{wrong}");
        let round = Round { number: 17, edition: 3, heard: vec![Heard::Answer, Heard::Refusal, Heard::Nothing] };
        assert_eq!(round.to_string(), "round 17 of edition 3: +r-");
        assert_eq!(Round::read(&format!("{round}\n")), Some(round));
        assert_eq!(Round::read("cannot listen on 80/TCP: no"), None);
    }

    #[test]
    fn who_listens_answers_and_who_does_not_refuses() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        // Ports that nobody has.
        let free = || TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port();
        let (open, closed) = (free(), free());
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            listen((protocol, open)).unwrap();
            let ask = |port| one(0, SocketAddr::new(ip, port), protocol);
            assert_eq!(ask(open), Heard::Answer, "{protocol}");
            assert_eq!(ask(closed), Heard::Refusal, "{protocol}");
        }
        // Takes no datagram out, so nobody answers.
        let silent = UdpSocket::bind((ip, 0)).unwrap();
        assert_eq!(one(0, silent.local_addr().unwrap(), Protocol::Udp), Heard::Nothing);
    }
}
