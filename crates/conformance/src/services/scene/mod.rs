//! Real packets: a node between three networks, each a network namespace at the other end of a veth.
//!
//! `pods` are the node's pods, `remote` is the rest of the cluster, `outside` everything else. They have no addresses: packets are put on
//! their wire and taken from it as frames, so that any address can send and be reached. Only the node has a network stack, with the
//! addresses and pod ranges of the world, and the rules of whatever is judged. What reaches the node itself is seen behind its input hook.
//!
//! Invariants: nothing outlives the scene; one packet is on its way at a time, and a second one that follows it by the same way says when
//! the first has gone all of its own.

mod http;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use ripstop_objects::service::Protocol;
use ripstop_oracle::services::health::Answer;
use ripstop_oracle::services::{Origin, Packet, State, World};
use ripstop_types::{Family, Prefix};

use super::plane::{DataPlane, Fate, Seen};
use crate::case::{Stop, Verdict, fail, skip};
use crate::process::tool;
use crate::space::{Place, Space};
use crate::wire::ends::{Ear, Mac, Mouth, Tap, listen, quiet, shown};
use crate::wire::{Carries, Message, Read, Reason};

/// The most time a packet may need, on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(2);
/// How long is waited behind the packet that follows: another core may be a little late.
const GRACE: Duration = Duration::from_millis(15);
/// Source ports, each in its turn: a connection is forgotten long before its port comes again.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 50_000;
/// The networks, in the order of their devices.
const NETWORKS: [&str; 3] = ["pods", "remote", "outside"];
/// The rest of the cluster.
const REMOTE: [&str; 6] =
    ["172.18.0.0/16", "10.244.0.0/16", "10.245.0.0/16", "fd00:18::/64", "fd00:18:1::/64", "fd00:244::/32"];
/// Where the following packet goes: outside, and no Service's business.
const BEYOND: [&str; 2] = ["203.0.113.254", "2001:db8:113::fe"];

/// The node of a scene, for whoever installs rules there.
#[derive(Debug)]
pub struct Node<'a> {
    space: &'a Space,
}

impl Node<'_> {
    /// The path of its network namespace.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.space.path()
    }

    /// Loads a ruleset in the text of `nft`.
    ///
    /// # Errors
    /// What nft says; a skip where it is not there.
    pub fn nft(&self, text: &str) -> Verdict {
        tool(&self.space.place().map_err(broken)?, "nft", &["-f", "-"], text).map(drop)
    }
}

/// Installs what is judged: the rules of a world.
pub type Rules<'a> = Box<dyn FnMut(&World, &Node<'_>) -> Verdict + 'a>;

/// A data plane of real packets, by the rules that a caller installs.
pub struct Scene<'a> {
    node: Space,
    _networks: Vec<Space>,
    rules: Rules<'a>,
    taps: Vec<Tap>,
    mouth: Mouth,
    ears: Vec<Ear>,
    addresses: Vec<IpAddr>,
    ranges: Vec<Prefix>,
    sent: u16,
    answers: bool,
}

impl<'a> Scene<'a> {
    /// Makes the namespaces. Needs root.
    ///
    /// # Errors
    /// A skip where the machine cannot do it.
    pub fn new(rules: Rules<'a>) -> Verdict<Self> {
        crate::space::prepare().map_err(broken)?;
        crate::space::sweep();
        let node = Space::new().map_err(broken)?;
        let networks = NETWORKS.iter().map(|_| Space::new()).collect::<io::Result<Vec<_>>>().map_err(broken)?;
        let place = node.place().map_err(broken)?;
        place.run(quiet).map_err(broken)?;
        let mut taps = Vec::new();
        for (number, (name, space)) in NETWORKS.iter().zip(&networks).enumerate() {
            tool(&place, "ip", &["-batch", "-"], &wiring(number, name, space.path()))?;
            let there = space.place().map_err(broken)?;
            tool(&there, "ip", &["-batch", "-"], "link set eth0 up\n")?;
            taps.push(there.run(|| Tap::open("eth0", mac(number, 2))).map_err(broken)?);
        }
        let (ears, addresses, ranges) = (Vec::new(), Vec::new(), Vec::new());
        let mouth = place.run(Mouth::open).map_err(broken)?;
        Ok(Self { node, _networks: networks, rules, taps, mouth, ears, addresses, ranges, sent: 0, answers: false })
    }

    /// Health checks are answered in the node by whoever installs rules: they are asked for, and no case of them is skipped.
    #[must_use]
    pub fn with_health(self) -> Self {
        Self { answers: true, ..self }
    }

    /// The node, for programs that run there.
    pub(crate) fn place(&self) -> Verdict<Place> {
        self.node.place().map_err(broken)
    }

    fn rule(&mut self, world: &World) -> Verdict {
        self.address(world)?;
        (self.rules)(world, &Node { space: &self.node })
    }

    /// Gives the node the addresses and ranges of a world, if it has others.
    fn address(&mut self, world: &World) -> Verdict {
        if self.addresses == world.addresses && self.ranges == world.pod_ranges {
            return Ok(());
        }
        let mut lines = String::from("addr flush dev outside scope global\n");
        for ip in &world.addresses {
            let more = if ip.is_ipv6() { " nodad" } else { "" };
            lines.push_str(&format!("addr add {}/{} dev outside{more}\n", ip, Family::of(*ip).bits()));
        }
        // With a link's last address of IPv4 go its neighbours.
        lines.push_str(&neighbours(2));
        for range in &self.ranges {
            lines.push_str(&format!("route del {range} dev pods\n"));
        }
        for range in &world.pod_ranges {
            lines.push_str(&route(&range.to_string(), 0));
        }
        for range in REMOTE {
            lines.push_str(&route(range, 1));
        }
        for all in ["0.0.0.0/0", "::/0"] {
            lines.push_str(&route(all, 2));
        }
        let place = self.node.place().map_err(broken)?;
        tool(&place, "ip", &["-batch", "-"], &lines)?;
        self.ears = place.run(|| listen(&world.addresses, &[])).map_err(broken)?;
        (self.addresses, self.ranges) = (world.addresses.clone(), world.pod_ranges.clone());
        Ok(())
    }

    /// Puts a packet on its way.
    fn post(&mut self, packet: &Packet, token: u32) -> Verdict {
        self.sent = self.sent.wrapping_add(1) % PORTS;
        let bytes = message(packet, FIRST_PORT + self.sent, token).bytes();
        let mut put = |number: usize| self.taps[number].send(mac(number, 1), &bytes);
        let done = match packet.origin {
            Origin::Node => self.mouth.send(packet.destination, &bytes),
            Origin::Pod => put(0),
            Origin::Outside => {
                let near = REMOTE.iter().filter_map(|range| range.parse::<Prefix>().ok());
                put(if near.into_iter().any(|range| range.contains(packet.source)) { 1 } else { 2 })
            }
        };
        done.map_err(|error| Stop::Fail(format!("a packet cannot be sent: {error}")))
    }

    /// What is to be seen of two tokens now: the first one's sign, and whether the second came through.
    fn look(&mut self, token: u32, follower: u32) -> (Vec<Sign>, bool) {
        let (mut signs, mut followed) = (Vec::new(), false);
        let mut note = |read: &Read| {
            signs.extend(sign(read, token));
            followed |= sign(read, follower).is_some();
        };
        for tap in &mut self.taps {
            tap.drain(&mut |_, read| note(&read));
        }
        for ear in &self.ears {
            ear.drain(&mut |read| note(&read));
        }
        (signs, followed)
    }
}

impl DataPlane for Scene<'_> {
    fn install(&mut self, world: &World) -> Verdict {
        self.rule(world)
    }

    fn change(&mut self, world: &World) -> Verdict {
        self.rule(world)
    }

    fn send(&mut self, packet: &Packet) -> Verdict<Seen> {
        let token = 0x5250_0000 | u32::from(self.sent);
        let follower = token | 0x0800_0000;
        let beyond = BEYOND[usize::from(packet.family() == Family::V6)];
        let behind = Packet {
            destination: beyond.parse().map_err(|_| Stop::Fail(format!("{beyond} is no address")))?,
            port: 9,
            protocol: Protocol::Udp,
            state: State::New,
            ..*packet
        };
        self.look(0, 0);
        self.post(packet, token)?;
        self.post(&behind, follower)?;
        let begun = Instant::now();
        let mut until = begun + LIMIT;
        let mut signs = Vec::new();
        let mut is_over = false;
        while Instant::now() < until && !signs.iter().any(|sign| matches!(sign, Sign::Here { .. })) {
            let (found, followed) = self.look(token, follower);
            signs.extend(found);
            if followed {
                is_over = true;
                until = until.min(Instant::now() + GRACE);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let here = signs.iter().find(|sign| matches!(sign, Sign::Here { .. })).or(signs.first());
        let fate = match here {
            None if !is_over => return fail(format!("the packet that follows did not come to {beyond} in {LIMIT:?}")),
            None => Fate::Nothing,
            Some(Sign::Refused) => Fate::Refused,
            Some(Sign::Here { source, destination }) => {
                let same = *source == packet.source && *destination == SocketAddr::new(packet.destination, packet.port);
                if same { Fate::Passed } else { Fate::Arrived { endpoint: *destination, source: *source } }
            }
        };
        Ok(Seen { fate, outcome: None })
    }

    fn health(&mut self, port: u16, path: &str, family: Family) -> Verdict<Option<Answer>> {
        if !self.answers {
            return skip("no health checks are answered here");
        }
        let Some(ip) = self.addresses.iter().copied().find(|ip| Family::of(*ip) == family) else {
            return fail(format!("the node has no address of {family}"));
        };
        let ask = || self.node.place().and_then(|place| place.run(|| http::get(SocketAddr::new(ip, port), path)));
        // A socket that was closed hears on for the moment in which a process of another test, just forked, has a copy of it: who
        // connects then is reset.
        let asked = match ask() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => ask(),
            other => other,
        };
        asked.map_err(|error| Stop::Fail(format!("port {port}{path}: {error}")))
    }
}

/// What a packet with a token says.
#[derive(Debug, Clone, Copy)]
enum Sign {
    /// It is here.
    Here { source: IpAddr, destination: SocketAddr },
    /// Its sender is told that nobody is there.
    Refused,
}

/// What something that was received says of a token.
fn sign(read: &Read, token: u32) -> Option<Sign> {
    match read {
        Read::Message(message) if message.token == token && !message.is_answer => {
            Some(Sign::Here { source: message.source, destination: message.to() })
        }
        Read::Refusal(Reason::Nobody, tokens) if tokens.contains(&token) => Some(Sign::Refused),
        Read::Message(_) | Read::Refusal(..) => None,
    }
}

fn message(packet: &Packet, from: u16, token: u32) -> Message {
    let carries = match (packet.protocol, packet.state) {
        (Protocol::Tcp, State::Invalid) => Carries::Invalid(from, packet.port),
        (protocol, _) => Carries::Ports(protocol, from, packet.port),
    };
    Message { source: packet.source, destination: packet.destination, carries, token, is_answer: false }
}

/// The end of wire `number` in the node (1) or in its network (2).
fn mac(number: usize, end: u8) -> Mac {
    [2, 0, 0, 0, u8::try_from(number).unwrap_or_default(), end]
}

fn wiring(number: usize, name: &str, there: &Path) -> String {
    let mut lines = format!(
        "link add {name} address {} type veth peer name eth0 address {} netns {}\nlink set {name} up\n",
        shown(mac(number, 1)),
        shown(mac(number, 2)),
        there.display()
    );
    lines.push_str(&neighbours(number));
    lines
}

fn neighbours(number: usize) -> String {
    let there = shown(mac(number, 2));
    let of = |ip| format!("neigh replace {ip} lladdr {there} dev {} nud permanent\n", NETWORKS[number]);
    gateways(number).map(of).concat()
}

/// Who stands for everybody behind a wire.
fn gateways(number: usize) -> [String; 2] {
    [format!("169.254.{number}.2"), format!("fe80::{number}:2")]
}

fn route(range: &str, number: usize) -> String {
    let via = &gateways(number)[usize::from(range.contains(':'))];
    let onlink = if range.contains(':') { "" } else { " onlink" };
    format!("route replace {range} via {via} dev {}{onlink}\n", NETWORKS[number])
}

fn broken(error: impl std::fmt::Display) -> Stop {
    Stop::Skip(format!("the scene cannot be made: {error}"))
}
