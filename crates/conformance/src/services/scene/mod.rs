//! Real packets: a node between three networks, each a network namespace at the other end of a veth.
//!
//! `pods` are the node's pods, `remote` is the rest of the cluster, `outside` everything else. They have no addresses: packets are put on
//! their wire and taken from it as frames, so that any address can send and be reached. Only the node has a network stack, with the
//! addresses and pod ranges of the world, and the rules of whatever is judged. What reaches the node itself is seen behind its input hook.
//!
//! Invariants: nothing outlives the scene; one packet is on its way at a time, and a second one that follows it by the same way says when
//! the first has gone all of its own.

mod http;
mod wire;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use ripstop_objects::service::Protocol;
use ripstop_oracle::services::health::Answer;
use ripstop_oracle::services::{Origin, Packet, State, World};
use ripstop_types::{Family, Prefix};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, netdevice, recvfrom, sendto,
    socket_with,
};

use super::plane::{DataPlane, Fate, Seen};
use crate::case::{Stop, Verdict, fail, skip};
use crate::process::tool;
use crate::space::{Place, Space};
use wire::Sign;

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
            taps.push(there.run(|| Tap::open(number)).map_err(broken)?);
        }
        let (ears, addresses, ranges) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { node, _networks: networks, rules, taps, ears, addresses, ranges, sent: 0, answers: false })
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
        self.ears = place.run(|| listen(&world.addresses)).map_err(broken)?;
        (self.addresses, self.ranges) = (world.addresses.clone(), world.pod_ranges.clone());
        Ok(())
    }

    /// Puts a packet on its way.
    fn post(&mut self, packet: &Packet, token: u32) -> Verdict {
        self.sent = self.sent.wrapping_add(1) % PORTS;
        let bytes = wire::packet(packet, FIRST_PORT + self.sent, token);
        let done = match packet.origin {
            Origin::Node => self.node.place().and_then(|place| place.run(|| emit(packet.destination, &bytes))),
            Origin::Pod => self.taps[0].send(packet.destination, &bytes),
            Origin::Outside => {
                let near = REMOTE.iter().filter_map(|range| range.parse::<Prefix>().ok());
                let number = if near.into_iter().any(|range| range.contains(packet.source)) { 1 } else { 2 };
                self.taps[number].send(packet.destination, &bytes)
            }
        };
        done.map_err(|error| Stop::Fail(format!("a packet cannot be sent: {error}")))
    }

    /// What is to be seen of two tokens now: the first one's sign, and whether the second came through.
    fn look(&mut self, token: u32, follower: u32) -> (Vec<Sign>, bool) {
        let (mut signs, mut followed) = (Vec::new(), false);
        let mut note = |sign: &Reading<'_>| {
            signs.extend(sign(token));
            followed |= sign(follower).is_some();
        };
        for tap in &mut self.taps {
            tap.drain(&mut note);
        }
        for ear in &self.ears {
            ear.drain(&mut note);
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
        let asked = self.node.place().and_then(|place| place.run(|| http::get(SocketAddr::new(ip, port), path)));
        asked.map_err(|error| Stop::Fail(format!("port {port}{path}: {error}")))
    }
}

/// What something that was received says of a token.
type Reading<'a> = dyn Fn(u32) -> Option<Sign> + 'a;

/// The end of a wire: a packet socket on the device of a namespace.
#[derive(Debug)]
struct Tap {
    file: File,
    number: usize,
}

impl Tap {
    fn open(number: usize) -> io::Result<Self> {
        let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        let kind = Some(rustix::net::Protocol::from_raw(
            rustix::net::RawProtocol::new(u32::from(all)).ok_or(io::ErrorKind::InvalidInput)?,
        ));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, kind)?;
        // SAFETY: all bytes zero is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = i32::try_from(netdevice::name_to_index(&fd, "eth0")?).unwrap_or_default();
        let length = u32::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: the address is a sockaddr_ll that lives through the call, and its length is given.
        match unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } {
            0 => Ok(Self { file: File::from(fd), number }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn send(&mut self, destination: IpAddr, packet: &[u8]) -> io::Result<()> {
        let kind: [u8; 2] = if destination.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&mac(self.number, 1)[..], &mac(self.number, 2), &kind, packet].concat();
        self.file.write_all(&frame)
    }

    /// Takes all that came from the node.
    fn drain(&mut self, note: &mut dyn FnMut(&Reading<'_>)) {
        let mut buffer = [0; 2048];
        while let Ok(n) = self.file.read(&mut buffer) {
            let frame = &buffer[..n];
            if frame.len() > 14 && frame[..6] == mac(self.number, 2) {
                note(&|token| wire::sign(&frame[14..], token));
            }
        }
    }
}

/// What the node itself gets of one protocol: a raw socket, behind the input hook.
#[derive(Debug)]
struct Ear {
    fd: OwnedFd,
    protocol: u8,
    /// With IPv6, which gives no header.
    address: Option<IpAddr>,
}

impl Ear {
    fn drain(&self, note: &mut dyn FnMut(&Reading<'_>)) {
        let mut buffer = [0; 2048];
        while let Ok((n, _, from)) = recvfrom(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            let data = &buffer[..n];
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            match (self.address, from) {
                (Some(address), Some(from)) => {
                    note(&|token| wire::sign_of(from.ip(), address, self.protocol, data, token));
                }
                _ => note(&|token| wire::sign(data, token)),
            }
        }
    }
}

fn listen(addresses: &[IpAddr]) -> io::Result<Vec<Ear>> {
    let mut ears = Vec::new();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let raw = |number: u8| Some(rustix::net::Protocol::from_raw(rustix::net::RawProtocol::new(u32::from(number))?));
    for protocol in Protocol::ALL.map(Protocol::number).into_iter().chain([1]) {
        let fd = socket_with(AddressFamily::INET, SocketType::RAW, flags, raw(protocol))?;
        ears.push(Ear { fd, protocol, address: None });
    }
    for protocol in Protocol::ALL.map(Protocol::number).into_iter().chain([58]) {
        for ip in addresses.iter().copied().filter(IpAddr::is_ipv6).chain([std::net::Ipv6Addr::LOCALHOST.into()]) {
            let fd = socket_with(AddressFamily::INET6, SocketType::RAW, flags, raw(protocol))?;
            bind(&fd, &SocketAddr::new(ip, 0))?;
            ears.push(Ear { fd, protocol, address: Some(ip) });
        }
    }
    Ok(ears)
}

/// Sends a packet of the node's own.
fn emit(destination: IpAddr, packet: &[u8]) -> io::Result<()> {
    let family = if destination.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?;
    match sendto(&fd, packet, SendFlags::empty(), &SocketAddr::new(destination, 0)) {
        // A hook that drops or rejects says so to the sender.
        Ok(_) | Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS | rustix::io::Errno::HOSTUNREACH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Parameters of the node: it forwards, believes every source, and says of every packet that nobody is there.
fn quiet() -> io::Result<()> {
    let set = |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/{name}"), value);
    for (name, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv4/icmp_ratelimit", "0")] {
        set(name, value)?;
    }
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/default/rp_filter", "0")?;
    set("ipv4/conf/default/send_redirects", "0")?;
    set("ipv4/conf/all/send_redirects", "0")?;
    // Some kernels have these for the whole machine alone, which is not ours. Connections are forgotten in a second.
    for (name, value) in [
        ("ipv6/icmp/ratelimit", "0"),
        ("ipv4/icmp_msgs_per_sec", "1000000"),
        ("ipv4/icmp_msgs_burst", "100000"),
        ("netfilter/nf_conntrack_udp_timeout", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_syn_sent", "1"),
        ("netfilter/nf_conntrack_sctp_timeout_cookie_wait", "1"),
    ] {
        let _ = set(name, value);
    }
    Ok(())
}

/// The end of wire `number` in the node (1) or in its network (2).
fn mac(number: usize, end: u8) -> [u8; 6] {
    [2, 0, 0, 0, u8::try_from(number).unwrap_or_default(), end]
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
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
