//! Who is measured: the product's speaker in a process of its own, which is this program started anew, or Debian's BIRD.
//!
//! The agent has this speaker on a thread; alone in a process its CPU time and memory are told apart from all else that an agent does.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ripstop_bfd::{SessionConfig, Timers};
use ripstop_bgp::rib::policy::Filter;
use ripstop_bgp::rib::{MedScope, PeerConfig, RibConfig};
use ripstop_bgp::session::{Config, PeerAs};
use ripstop_lab::space;
use ripstop_speaker::bfd;
use ripstop_speaker::bgp::{Peer, Setup, Speaker};

use crate::scene::{NODES, Running, Scene, wait_for};

/// The first word of this program where it is a speaker.
pub const WORD: &str = "bgp-speaker";
pub const BIRD: &str = "/usr/sbin/bird";
const AS: u32 = 64_512;
const FOREVER: Duration = Duration::from_secs(86_400);

/// Whose figures they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Ripstop,
    Bird,
}

/// What the speaker has to do.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// Pass on what external peers tell: addresses and their ASes.
    Transit(&'a [(Ipv4Addr, u32)]),
    /// Reflect what these clients tell.
    Reflector(&'a [Ipv4Addr]),
    /// BFD with these peers, all of them neighbours or all over hops.
    Bfd(&'a [BfdPair]),
}

/// A session of BFD.
#[derive(Debug, Clone, Copy)]
pub struct BfdPair {
    pub own: Ipv4Addr,
    pub peer: Ipv4Addr,
    pub interval: u64,
    pub multiplier: u8,
}

impl Subject {
    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ripstop => "ripstop",
            Self::Bird => "BIRD",
        }
    }

    /// Starts it in a namespace and waits until it does its work.
    pub fn start(self, scene: &Scene, netns: &Path, name: &str, work: Work<'_>) -> Result<Running> {
        let log = scene.run().join(format!("{name}.log"));
        let conf = scene.run().join(format!("{name}.conf"));
        let mut command = match self {
            Self::Ripstop => {
                fs::write(&conf, work.lines()).context("write a file")?;
                let mut command = Command::new(std::env::current_exe().context("this program")?);
                command.arg(WORD).arg(&conf);
                command
            }
            Self::Bird => {
                ensure!(Path::new(BIRD).exists(), "BIRD (package bird2) is not installed");
                fs::write(&conf, work.bird()).context("write a file")?;
                let (control, pid) = (scene.run().join(format!("{name}.ctl")), scene.run().join(format!("{name}.pid")));
                let mut command = Command::new(BIRD);
                command.arg("-f").arg("-c").arg(&conf).arg("-s").arg(control).arg("-P").arg(pid);
                command
            }
        };
        let running = Running::start(&space::Place::host().in_netns(netns)?, &mut command, &log)?;
        let is_bfd = matches!(work, Work::Bfd(_));
        wait_for("a speaker", Duration::from_secs(10), || is_bfd || listens(running.pid()))
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(running)
    }
}

/// Whether somebody listens at BGP's port in the namespace of a process: state 0A, port 179.
fn listens(pid: u32) -> bool {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default());
    let lines = tables.iter().flat_map(|text| text.lines());
    lines
        .filter_map(|line| Some((line.split_whitespace().nth(1)?, line.split_whitespace().nth(3)?)))
        .any(|(local, state)| local.ends_with(":00B3") && state == "0A")
}

impl Work<'_> {
    /// For the product's speaker: one session a line.
    fn lines(self) -> String {
        match self {
            Self::Transit(peers) => peers.iter().map(|(peer, asn)| format!("external {peer} {asn}\n")).collect(),
            Self::Reflector(clients) => clients.iter().map(|client| format!("client {client} {AS}\n")).collect(),
            Self::Bfd(pairs) => pairs
                .iter()
                .map(|pair| format!("bfd {} {} {} {}\n", pair.own, pair.peer, pair.interval, pair.multiplier))
                .collect(),
        }
    }

    /// For BIRD, without a kernel's table.
    fn bird(self) -> String {
        let head = format!("router id {};\nprotocol device {{}}\nprotocol direct {{ ipv4; }}\n", NODES[0]);
        let session = |name: String, peer: Ipv4Addr, asn: u32, more: &str| {
            format!(
                "protocol bgp {name} {{ local {} as {AS}; neighbor {peer} as {asn}; passive on; {more} ipv4 {{ import all; export where \
                 source = RTS_BGP; }}; }}\n",
                NODES[0]
            )
        };
        let sessions: String = match self {
            Self::Transit(peers) => {
                peers.iter().enumerate().map(|(n, (peer, asn))| session(format!("p{n}"), *peer, *asn, "")).collect()
            }
            Self::Reflector(clients) => {
                let one = |(n, client): (usize, &Ipv4Addr)| session(format!("p{n}"), *client, AS, "rr client;");
                // So that next hops are reached.
                let ways = format!("protocol static {{ ipv4; route 0.0.0.0/0 via {}; }}\n", NODES[1]);
                [ways].into_iter().chain(clients.iter().enumerate().map(one)).collect()
            }
            Self::Bfd(pairs) => {
                let timers = |pair: &BfdPair| {
                    let BfdPair { interval, multiplier, .. } = pair;
                    format!("min rx interval {interval} ms; min tx interval {interval} ms; multiplier {multiplier};")
                };
                let first = pairs.first().map(timers).unwrap_or_default();
                let one = |pair: &BfdPair| {
                    let way = if near(pair) { "dev \"eth0\" " } else { "" };
                    let hops = if near(pair) { "" } else { " multihop" };
                    format!(" neighbor {} {way}local {}{hops};\n", pair.peer, pair.own)
                };
                let all: String = pairs.iter().map(one).collect();
                format!(
                    "protocol bfd {{\n debug {{ states, events }};\n interface \"*\" {{ {first} }};\n multihop {{ {first} }};\n{all}}}\n"
                )
            }
        };
        format!("log stderr all;\n{head}{sessions}")
    }
}

/// Whether a session of BFD is with a neighbour on `eth0`.
fn near(pair: &BfdPair) -> bool {
    pair.own == NODES[0] || pair.own == NODES[1]
}

/// This program as a speaker, until it is killed.
pub fn run(file: &str) -> ExitCode {
    match be(file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(1)
        }
    }
}

fn be(file: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    if text.starts_with("bfd") {
        return be_bfd(&text);
    }
    let id = NODES[0];
    let rib = RibConfig { router_id: id, cluster_id: id, multipath: 8, med: MedScope::SameAs };
    let peers = text.lines().map(peer).collect::<Result<Vec<_>>>()?;
    let setup = Setup { listen: vec![(Ipv4Addr::UNSPECIFIED, 179).into()], peers, ..Setup::empty(rib) };
    let (_speaker, reports) = Speaker::start(setup, false, 7)?;
    // Somebody reads what it tells, as the agent does.
    while reports.next(FOREVER).is_ok() {}
    Ok(())
}

fn peer(line: &str) -> Result<Peer> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[kind, address, asn] = &words[..] else { bail!("{line:?}: three words are accepted") };
    let (address, asn): (IpAddr, u32) = (address.parse()?, asn.parse()?);
    let mut session = Config::new(address, AS, PeerAs::Is(asn), NODES[0]);
    session.passive = true;
    session.graceful_restart = None;
    let routes = PeerConfig {
        import: Some(Filter::accept_all()),
        export: Some(Filter::accept_all()),
        reflector_client: kind == "client",
        ..PeerConfig::new(address, AS)
    };
    Ok(Peer { session, routes, bfd: None, shut_down: None })
}

/// Tells each change of a session on a line.
fn be_bfd(text: &str) -> Result<()> {
    let (speaker, events) = bfd::Speaker::start(u64::from(std::process::id()))?;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[_, own, peer, interval, multiplier] = &words[..] else { bail!("{line:?}: five words are accepted") };
        let pair = BfdPair {
            own: own.parse()?,
            peer: peer.parse()?,
            interval: interval.parse()?,
            multiplier: multiplier.parse()?,
        };
        let timers = Timers::every(Duration::from_millis(pair.interval), pair.multiplier);
        let config = if near(&pair) {
            let index: u32 = fs::read_to_string("/proc/self/net/igmp").map(|text| index_of(&text, "eth0"))?;
            SessionConfig::single_hop(index, pair.own.into(), pair.peer.into(), timers)
        } else {
            SessionConfig::multihop(pair.own.into(), pair.peer.into(), timers, 1)
        };
        let added = speaker.with(move |engine, now| (engine.add(now, config), Vec::new())).context("BFD ended")?;
        added.map_err(|fault| anyhow::anyhow!("{line:?}: {fault}"))?;
    }
    while let Ok(event) = events.recv() {
        eprintln!("{event:?}");
    }
    Ok(())
}

/// The index of an interface: what the kernel tells of it in a file of the namespace.
fn index_of(table: &str, name: &str) -> u32 {
    let found = table.lines().filter_map(|line| line.split_once('\t'));
    let found = found.filter(|(_, rest)| rest.split_whitespace().next() == Some(name));
    found.filter_map(|(index, _)| index.trim().parse().ok()).next().unwrap_or(0)
}
