//! Real packets: three nodes on one wire, their pods, and everybody else, each a network namespace or the end of a link in one.
//!
//! Pods and those outside have no network stack: packets are put on their links and taken from them as frames, so that any address of a
//! node's range can send and be reached, and what gets a first packet answers it. Each node has one, with real forwarding, connection
//! tracking and address translation for Services, and the rules of whatever is judged. What reaches a node itself is seen behind its input
//! hook. Each address can also be reached as a Service ([`service_of`]), by rules of the scene or by those of what is judged.
//!
//! Many packets are on their way at once. One is denied if nothing is heard of it for half a second, while packets behind it on the same ways,
//! between addresses that no policy is about, arrive and are answered. Packets without ports or numbers of their own are told from others by
//! their addresses alone: of these, two between the same ends are never on their way together.
//!
//! Invariants: nothing outlives the scene; a connection is forgotten before the next packets are sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ripstop_objects::service::Protocol;
use ripstop_oracle::policy::{Packet, State, Traffic};

use super::generate::{Change, OUTSIDE};
use super::plane::{DataPlane, Fate};
use super::{NODES, node_ips};
use crate::case::{Stop, Verdict, fail};
use crate::process::tool;
use crate::space::{Place, Space};
use crate::wire::ends::{Ear, Mac, Mouth, Tap, forget_connections, listen, quiet, shown};
use crate::wire::{Carries, Message, Read};

/// How long nothing is heard of a packet that is denied.
const SILENCE: Duration = Duration::from_millis(500);
/// The most time that those which must arrive may need, on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(3);
/// How often all are sent again where one of those did not arrive: nothing is known of the others then.
const TRIES: usize = 5;
/// How long is waited behind the last of those: another core may be a little late.
const GRACE: Duration = Duration::from_millis(15);
/// How many packets are sent before what arrived is taken.
const BURST: usize = 64;
/// The place of everybody else, behind the nodes.
const BEYOND: usize = NODES as usize;
/// Source ports, each in its turn.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 50_000;
/// GRE, which the nodes' own ears listen to as well.
const GRE: u8 = 47;

/// The nodes of a scene, for whoever installs rules there.
#[derive(Debug)]
pub struct Nodes<'a>(&'a [Space]);

impl Nodes<'_> {
    /// The paths of their network namespaces, of `n1` first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(Space::path)
    }
}

/// What is judged.
pub trait Subject {
    /// Begins anew with a cluster where nothing is.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn begin(&mut self) -> Verdict;

    /// Follows what happens to the cluster, on all nodes.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn follow(&mut self, changes: &[Change], nodes: &Nodes<'_>) -> Verdict;

    /// Whose Services it serves, at which ports; `None`: none, and the scene serves all.
    fn served(&self) -> Option<&Served> {
        None
    }
}

/// Endpoints and ports that are reached by Services.
pub type Served = BTreeSet<(IpAddr, Protocol, u16)>;

/// A packet, and how it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    /// As it arrives.
    pub packet: Packet,
    /// The address that it is sent to.
    pub to: IpAddr,
    /// The port that it is sent to, if it is another one.
    pub port: Option<u16>,
    /// The node that gets it first, from 0 on, if it comes from outside.
    pub by: usize,
    /// A node's address that may be its source where it arrives.
    pub masqueraded: Option<IpAddr>,
}

impl Sending {
    /// Straight to where it arrives.
    #[must_use]
    pub fn direct(packet: Packet) -> Self {
        let (Spot::Link(place) | Spot::Node(place)) = Spot::of(packet.destination);
        Self { packet, to: packet.destination, port: None, by: place.min(BEYOND - 1), masqueraded: None }
    }
}

/// A data plane of real packets, by the rules that a subject installs.
pub struct Scene<'a> {
    nodes: Vec<Space>,
    _wire: Space,
    _ends: Space,
    subject: Box<dyn Subject + 'a>,
    /// Of each node's pods, and of everybody else.
    taps: Vec<Tap>,
    mouths: Vec<Mouth>,
    ears: Vec<Vec<Ear>>,
    sent: u32,
}

/// A packet on its way.
struct Sent {
    message: Message,
    masqueraded: Option<IpAddr>,
    /// Where it must arrive.
    at: Spot,
    answers: bool,
    arrived: bool,
    answered: bool,
    strayed: bool,
    refused: bool,
}

/// Where a packet is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    /// At a link: that of a node's pods, or of everybody else.
    Link(usize),
    /// At a node itself.
    Node(usize),
}

impl Spot {
    fn of(ip: IpAddr) -> Self {
        let place = super::node_of(ip).and_then(|name| name.as_str().strip_prefix('n')?.parse::<usize>().ok());
        match place {
            Some(number) if node_ips(number as u8).contains(&ip) => Self::Node(number - 1),
            Some(number) => Self::Link(number - 1),
            None => Self::Link(BEYOND),
        }
    }
}

impl<'a> Scene<'a> {
    /// Makes the namespaces. Needs root.
    ///
    /// # Errors
    /// A skip where the machine cannot do it.
    pub fn new(subject: Box<dyn Subject + 'a>) -> Verdict<Self> {
        crate::space::prepare().map_err(broken)?;
        crate::space::sweep();
        let (wire, ends) = (Space::new().map_err(broken)?, Space::new().map_err(broken)?);
        let nodes = (0..NODES).map(|_| Space::new()).collect::<io::Result<Vec<_>>>().map_err(broken)?;
        let (on_wire, at_ends) = (wire.place().map_err(broken)?, ends.place().map_err(broken)?);
        tool(&on_wire, "ip", &["-batch", "-"], "link add wire type bridge\nlink set wire up\n")?;
        let (mut mouths, mut ears) = (Vec::new(), Vec::new());
        for (number, node) in nodes.iter().enumerate() {
            let place = node.place().map_err(broken)?;
            place.run(quiet).map_err(broken)?;
            tool(&place, "ip", &["-batch", "-"], &links_of(number, wire.path(), ends.path()))?;
            tool(
                &on_wire,
                "ip",
                &["-batch", "-"],
                &format!("link set n{number} master wire\nlink set n{number} up\n"),
            )?;
            tool(&at_ends, "ip", &["link", "set", &format!("end{number}"), "up"], "")?;
            tool(&place, "ip", &["-batch", "-"], &ways_of(number))?;
            if subject.served().is_none() {
                tool(&place, "nft", &["-f", "-"], &services())?;
            }
            mouths.push(place.run(Mouth::open).map_err(broken)?);
            ears.push(place.run(|| listen(&node_ips(number as u8 + 1), &[GRE])).map_err(broken)?);
        }
        let beyond = format!(
            "link add end{BEYOND} address {} type veth peer name beyond netns {}\n",
            shown(mac(BEYOND, End::Pods)),
            wire.path().display()
        );
        tool(&at_ends, "ip", &["-batch", "-"], &beyond)?;
        tool(&on_wire, "ip", &["-batch", "-"], "link set beyond master wire\nlink set beyond up\n")?;
        tool(&at_ends, "ip", &["link", "set", &format!("end{BEYOND}"), "up"], "")?;
        let mut taps = Vec::new();
        for number in 0..=BEYOND {
            let open = || Tap::open(&format!("end{number}"), mac(number, End::Pods));
            taps.push(at_ends.run(open).map_err(broken)?);
        }
        let mut scene = Self { nodes, _wire: wire, _ends: ends, subject, taps, mouths, ears, sent: 0 };
        scene.settle()?;
        Ok(scene)
    }

    /// Waits until packets go all ways: links carry nothing for a moment after they were made.
    fn settle(&mut self) -> Verdict {
        let places = || (0..=BEYOND).map(Spot::Link);
        let ways = places().flat_map(|from| places().flat_map(move |to| [(from, to, false), (from, to, true)]));
        let packets: Vec<Packet> = ways.filter_map(free_way).collect();
        for _ in 0..TRIES * TRIES {
            let fates = self.round(&packets.iter().copied().map(Sending::direct).collect::<Vec<_>>())?;
            if fates.is_some_and(|fates| fates.iter().all(|fate| *fate == Fate::Arrived)) {
                return Ok(());
            }
        }
        Err(broken("packets do not go all ways"))
    }

    /// Whether a scene can send a packet: the first of a connection, not what a pod sends to its own address, which never leaves it, and no
    /// neighbour discovery by a Service, as addresses of that are not translated.
    #[must_use]
    pub fn can_send(packet: &Packet) -> bool {
        let (by_service, is_discovery) = (packet.by_service, packet.traffic == Traffic::Discovery);
        packet.state == State::New
            && !(by_service && is_discovery)
            && (by_service || packet.source != packet.destination)
    }

    fn places(&self) -> Verdict<Vec<Place>> {
        self.nodes.iter().map(Space::place).collect::<io::Result<_>>().map_err(broken)
    }

    /// Sends packets that do not disturb each other, and those that must arrive behind them; `None` where one of those did not.
    fn round(&mut self, packets: &[Sending]) -> Verdict<Option<Vec<Fate>>> {
        for place in self.places()? {
            place.run(forget_connections).map_err(broken)?;
        }
        let mut way: BTreeMap<u32, Sent> = BTreeMap::new();
        let mut tokens = Vec::new();
        let followers = followers(packets);
        for (count, sending) in packets.iter().chain(&followers).enumerate() {
            let sent = self.made(sending);
            tokens.push(sent.message.token);
            let carries = match (sent.message.carries, sending.port) {
                (Carries::Ports(protocol, from, _), Some(port)) => Carries::Ports(protocol, from, port),
                (other, _) => other,
            };
            self.post(&Message { destination: sending.to, carries, ..sent.message }, sending.by)?;
            way.insert(sent.message.token, sent);
            if count % BURST == 0 {
                self.look(&mut way)?;
            }
        }
        let begun = Instant::now();
        let (asked, behind) = tokens.split_at(packets.len());
        let is_done = |way: &BTreeMap<u32, Sent>, tokens: &[u32]| {
            tokens
                .iter()
                .all(|token| way.get(token).is_some_and(|sent| sent.arrived && (sent.answered || !sent.answers)))
        };
        let mut followed = None;
        loop {
            self.look(&mut way)?;
            followed = followed.or_else(|| is_done(&way, behind).then(Instant::now));
            let is_silent = |since: Instant| since.elapsed() >= GRACE && begun.elapsed() >= SILENCE;
            if followed.is_some_and(|since| is_silent(since) || is_done(&way, asked)) {
                break;
            }
            if begun.elapsed() > LIMIT && followed.is_none() {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(Some(asked.iter().map(|token| way.get(token).map_or(Fate::Nothing, Sent::fate)).collect()))
    }

    fn made(&mut self, Sending { packet, masqueraded, .. }: &Sending) -> Sent {
        // Every other number, since a reset tells its packet's only to one more or less.
        self.sent = (self.sent + 2) & 0xff_ffff;
        let from = FIRST_PORT + u16::try_from(self.sent % u32::from(PORTS)).unwrap_or_default();
        let carries = match packet.traffic {
            Traffic::Port(protocol, port) => Carries::Ports(protocol, from, port),
            Traffic::Other(1 | 58) => Carries::Echo(from),
            Traffic::Other(number) => Carries::Other(number),
            Traffic::Discovery => Carries::Solicitation,
        };
        let Packet { source, destination, .. } = *packet;
        let message = Message { source, destination, carries, token: 0x5200_0000 | self.sent, is_answer: false };
        let at = Spot::of(destination);
        // What a node's own stack answers is its affair.
        let answers = matches!(at, Spot::Link(_)) && packet.traffic != Traffic::Discovery;
        let masqueraded = *masqueraded;
        Sent { message, masqueraded, at, answers, arrived: false, answered: false, strayed: false, refused: false }
    }

    /// Puts a packet on its way. One from beyond goes to this node.
    fn post(&mut self, message: &Message, by: usize) -> Verdict {
        let bytes = message.bytes();
        let done = match Spot::of(message.source) {
            Spot::Node(number) => self.mouths[number].send(message.destination, &bytes),
            Spot::Link(BEYOND) => self.taps[BEYOND].send(mac(by, End::Wire), &bytes),
            Spot::Link(number) => self.taps[number].send(mac(number, End::Node), &bytes),
        };
        done.map_err(|error| Stop::Fail(format!("a packet cannot be sent: {error}")))
    }

    /// Notes what is to be seen now, and answers.
    fn look(&mut self, way: &mut BTreeMap<u32, Sent>) -> Verdict {
        for (number, tap) in self.taps.iter_mut().enumerate() {
            let mut answers = Vec::new();
            tap.drain(&mut |from, read| {
                if let Some(answer) = note(way, Spot::Link(number), &read) {
                    answers.push((from, answer.bytes()));
                }
            });
            for (to, bytes) in answers {
                tap.send(to, &bytes).map_err(|error| Stop::Fail(format!("an answer cannot be sent: {error}")))?;
            }
        }
        for (number, ears) in self.ears.iter().enumerate() {
            for ear in ears {
                ear.drain(&mut |read| {
                    // What a node gets its own stack answers.
                    let _ = note(way, Spot::Node(number), &read);
                });
            }
        }
        Ok(())
    }
}

/// Notes what was seen somewhere. Gives the answer that it wants.
fn note(way: &mut BTreeMap<u32, Sent>, at: Spot, read: &Read) -> Option<Message> {
    match read {
        Read::Message(message) if message.is_answer => {
            let sent = way.get_mut(&message.token)?;
            // By a Service its source is the Service's.
            sent.answered |= at == Spot::of(sent.message.source) && message.destination == sent.message.source;
            None
        }
        Read::Message(message) => {
            let sent = way.get_mut(&message.token)?;
            let is_it = sent.unmasqueraded(message) == sent.message && at == sent.at;
            sent.arrived |= is_it;
            sent.strayed |= !is_it;
            (is_it && sent.answers).then(|| message.answer())
        }
        Read::Refusal(_, tokens) => {
            tokens.iter().filter_map(|token| way.get_mut(token).map(|sent| sent.refused = true)).for_each(drop);
            None
        }
    }
}

impl Sent {
    /// A message as it was before it may have been masqueraded, which makes its source port another one, too.
    fn unmasqueraded(&self, message: &Message) -> Message {
        if self.masqueraded != Some(message.source) {
            return *message;
        }
        let carries = match (message.carries, self.message.carries) {
            (Carries::Ports(protocol, _, to), Carries::Ports(_, from, _)) => Carries::Ports(protocol, from, to),
            (other, _) => other,
        };
        Message { source: self.message.source, carries, ..*message }
    }

    fn fate(&self) -> Fate {
        match self {
            Self { strayed: true, .. } => Fate::Strayed,
            Self { arrived: true, answered, answers, .. } if *answered || !answers => Fate::Arrived,
            Self { arrived: true, .. } => Fate::Unanswered,
            Self { refused: true, .. } => Fate::Refused,
            Self { .. } => Fate::Nothing,
        }
    }
}

impl DataPlane for Scene<'_> {
    fn begin(&mut self) -> Verdict {
        self.subject.begin()
    }

    fn follow(&mut self, changes: &[Change]) -> Verdict {
        self.subject.follow(changes, &Nodes(&self.nodes))
    }

    fn shows(&self, packet: &Packet) -> bool {
        let is_served = |served: &Served| match packet.traffic {
            Traffic::Port(protocol, port) => served.contains(&(packet.destination, protocol, port)),
            _ => false,
        };
        Self::can_send(packet) && (!packet.by_service || self.subject.served().is_none_or(is_served))
    }

    fn send(&mut self, packets: &[Packet]) -> Verdict<Vec<Fate>> {
        let sendings = packets.iter().map(|packet| self.sending(*packet)).collect::<Verdict<Vec<_>>>()?;
        self.send_all(&sendings)
    }
}

impl Scene<'_> {
    /// How a packet is sent that is for a Service or not.
    fn sending(&self, packet: Packet) -> Verdict<Sending> {
        let direct = Sending::direct(packet);
        if !packet.by_service {
            return Ok(direct);
        }
        let Some(to) = service_of(packet.destination) else {
            return fail(format!("{} has no Service", packet.destination));
        };
        let by = match Spot::of(packet.source) {
            Spot::Link(BEYOND) => direct.by,
            Spot::Link(place) | Spot::Node(place) => place,
        };
        let own = node_ips(one(by))[usize::from(packet.source.is_ipv6())];
        Ok(Sending { to, masqueraded: self.subject.served().map(|_| own), ..direct })
    }

    /// Sends packets, all at once, and gives what became of each.
    ///
    /// # Errors
    /// Where it cannot be done.
    pub fn send_all(&mut self, packets: &[Sending]) -> Verdict<Vec<Fate>> {
        let mut fates: Vec<Option<Fate>> = vec![None; packets.len()];
        while fates.contains(&None) {
            let mut ends = BTreeSet::new();
            let mut now = Vec::new();
            for (place, Sending { packet, .. }) in
                packets.iter().enumerate().filter(|(place, _)| fates[*place].is_none())
            {
                let between = (packet.source.min(packet.destination), packet.source.max(packet.destination));
                let has_number = matches!(packet.traffic, Traffic::Port(..) | Traffic::Other(1 | 58));
                if has_number || ends.insert((packet.traffic, between)) {
                    now.push(place);
                }
            }
            let round: Vec<Sending> = now.iter().map(|place| packets[*place]).collect();
            let mut found = None;
            for _ in 0..TRIES {
                found = self.round(&round)?;
                if found.is_some() {
                    break;
                }
            }
            let Some(found) = found else {
                return fail(format!("packets that nobody may deny did not arrive in {LIMIT:?}, {TRIES} times"));
            };
            now.into_iter().zip(found).for_each(|(place, fate)| fates[place] = Some(fate));
        }
        Ok(fates.into_iter().flatten().collect())
    }
}

/// Packets that nobody may deny, behind others on the same ways.
fn followers(packets: &[Sending]) -> Vec<Sending> {
    let link = |ip| match Spot::of(ip) {
        Spot::Link(place) | Spot::Node(place) => Spot::Link(place),
    };
    let way =
        |Sending { packet, .. }: &Sending| (link(packet.source), link(packet.destination), packet.source.is_ipv6());
    let ways: BTreeSet<(Spot, Spot, bool)> = packets.iter().map(way).collect();
    ways.into_iter().filter_map(free_way).map(Sending::direct).collect()
}

/// A packet between addresses that no pod ever has; none where it would come by no node.
fn free_way((from, to, is_six): (Spot, Spot, bool)) -> Option<Packet> {
    let (Spot::Link(from), Spot::Link(to)) = (from, to) else { return None };
    let free = |place: usize, last: u8| match (one(place), is_six) {
        (_, false) if place == BEYOND => IpAddr::from([198, 51, 100, last]),
        (_, true) if place == BEYOND => IpAddr::from([0x2001, 0xdb8, 5, 0, 0, 0, 0, last.into()]),
        (node, false) => IpAddr::from([10, 244, node, last]),
        (node, true) => IpAddr::from([0xfd00, node.into(), 0, 0, 0, 0, 0, last.into()]),
    };
    let packet = Packet {
        source: free(from, 250),
        destination: free(to, 251),
        traffic: Traffic::Port(Protocol::Udp, 9),
        state: State::New,
        by_service: false,
    };
    (from != BEYOND || to != BEYOND).then_some(packet)
}

/// The address by which another is reached as a Service: 10.96.N.X for 10.244.N.X, and so on.
#[must_use]
pub fn service_of(ip: IpAddr) -> Option<IpAddr> {
    let beyond = |of: usize| OUTSIDE[of].iter().position(|known| known.parse() == Ok(ip));
    Some(match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [10, 244, node, last] => IpAddr::from([10, 96, node, last]),
            [192, 0, 2, last] => IpAddr::from([10, 97, 0, last]),
            _ => IpAddr::from([10, 97, 1, u8::try_from(beyond(0)?).ok()?]),
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0xfd00, node @ 1..=NODES, .., last] => IpAddr::from([0xfd96, node, 0, 0, 0, 0, 0, last]),
            [0x2001, 0xdb8, 0, .., last] => IpAddr::from([0xfd97, 0, 0, 0, 0, 0, 0, last]),
            _ => IpAddr::from([0xfd97, 1, 0, 0, 0, 0, 0, u16::try_from(beyond(1)?).ok()?]),
        },
    })
}

/// The rules by which a node's Services are reached.
fn services() -> String {
    let pods = (1..=NODES).flat_map(|node| {
        (0..=u8::MAX).flat_map(move |last| {
            let four = IpAddr::from([10, 244, u8::try_from(node).unwrap_or_default(), last]);
            [four, IpAddr::from([0xfd00, node, 0, 0, 0, 0, 0, last.into()])]
        })
    });
    let nodes = (1..=NODES).flat_map(|node| node_ips(u8::try_from(node).unwrap_or_default()));
    let beyond = OUTSIDE.iter().flatten().filter_map(|ip| ip.parse().ok());
    let mut maps = [Vec::new(), Vec::new()];
    for ip in pods.chain(nodes).chain(beyond) {
        let pair = service_of(ip).map(|service| format!("{service} : {ip}"));
        maps[usize::from(IpAddr::is_ipv6(&ip))].extend(pair);
    }
    let table = |family: &str, kind: &str, pairs: &[String]| {
        let hook = |name: &str| {
            format!("chain {name} {{ type nat hook {name} priority -100; dnat to {family} daddr map @services; }}")
        };
        let elements = pairs.join(", ");
        format!(
            "table {family} scene {{\nmap services {{ type {kind} : {kind}; elements = {{ {elements} }}; }}\n{}\n{}\n}}\n",
            hook("prerouting"),
            hook("output")
        )
    };
    table("ip", "ipv4_addr", &maps[0]) + &table("ip6", "ipv6_addr", &maps[1])
}

/// The number of a place.
fn one(place: usize) -> u8 {
    u8::try_from(place).unwrap_or_default() + 1
}

/// The end of a link.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Where pods, or those beyond, are.
    Pods,
    /// The node's, of its pods' link.
    Node,
    /// The node's, of the wire.
    Wire,
}

fn mac(number: usize, end: End) -> Mac {
    [2, 0, 0, 0, u8::try_from(number).unwrap_or_default(), end as u8 + 1]
}

fn links_of(number: usize, wire: &Path, ends: &Path) -> String {
    let [pods, node, to_wire] = [End::Pods, End::Node, End::Wire].map(|end| shown(mac(number, end)));
    format!(
        "link add pods address {node} type veth peer name end{number} address {pods} netns {}\nlink set pods up\n\
         link add eth0 address {to_wire} type veth peer name n{number} netns {}\nlink set eth0 up\n",
        ends.display(),
        wire.display()
    )
}

/// Addresses, routes and neighbours of a node.
fn ways_of(number: usize) -> String {
    let mut lines = String::new();
    let [four, six] = node_ips(one(number));
    lines.push_str(&format!("addr add {four}/24 dev eth0\naddr add {six}/64 dev eth0 nodad\n"));
    let mut via = |device: &str, gateways: [IpAddr; 2], mac: Mac, ranges: [String; 2]| {
        for (gateway, range) in gateways.into_iter().zip(ranges) {
            let onlink = if gateway.is_ipv4() { " onlink" } else { "" };
            lines.push_str(&format!("neigh replace {gateway} lladdr {} dev {device} nud permanent\n", shown(mac)));
            lines.push_str(&format!("route replace {range} via {gateway} dev {device}{onlink}\n"));
        }
    };
    let ranges = |node: u8| [format!("10.244.{node}.0/24"), format!("fd00:{node}::/32")];
    let near = |last: u8| [IpAddr::from([169, 254, 0, last]), IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 1, last.into()])];
    via("pods", near(2), mac(number, End::Pods), ranges(one(number)));
    for other in (0..BEYOND).filter(|other| *other != number) {
        via("eth0", node_ips(one(other)), mac(other, End::Wire), ranges(one(other)));
    }
    via("eth0", near(3), mac(BEYOND, End::Pods), ["default".into(), "::/0".into()]);
    lines
}

fn broken(error: impl std::fmt::Display) -> Stop {
    Stop::Skip(format!("the scene cannot be made: {error}"))
}
