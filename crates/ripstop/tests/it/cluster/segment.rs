//! Who answers for addresses on a lab's first segment, as the router there sees it: it asks all the time, by ARP and neighbour discovery.
//!
//! When a frame came is the kernel's word, so what is judged does not depend on when a thread here had its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use ripstop_election::{Timing, neighbour};
use ripstop_lab::capture::Packet;
use ripstop_lab::pcapng::Direction;
use ripstop_lab::{Capture, Lab, Target, layout};
use ripstop_speaker::l2::{FrameSocket, Frames, Report, Segment, Speaker};
use ripstop_types::{Mac, NodeName};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use super::balancers::Scene;
use super::routers::Router;
use super::{inside, patiently};

/// Between two questions about one address.
const PACE: Duration = Duration::from_millis(10);

/// Who is silent for so long does not answer any more.
const SILENT: Duration = Duration::from_millis(80);

/// A candidate in this process, on a machine of its own beside the lab's nodes.
pub struct Candidate {
    name: NodeName,
    own: IpAddr,
    netns: PathBuf,
    interface: u32,
    pub mac: Mac,
    /// None while it begins anew.
    running: Option<(Speaker, Receiver<Report>)>,
    run: u64,
    last: Report,
    _router: Router,
}

impl Candidate {
    /// The node `nN`, at the port `xN` and the address 172.30.1.3N.
    pub fn beside(lab: &Lab, number: u8, timing: Timing) -> Self {
        let (machine, own) = (format!("x{number}"), format!("172.30.1.3{number}"));
        let router = Router::beside(lab, &machine, &own);
        let netns = lab.layout().netns_path(&machine);
        let mut this = Self {
            name: format!("n{number}").parse().unwrap(),
            own: own.parse().unwrap(),
            interface: inside(&netns, || index("eth0")).join().unwrap(),
            netns,
            mac: router.mac(),
            running: None,
            run: 0,
            last: Report::default(),
            _router: router,
        };
        this.begin(timing);
        this
    }

    /// Begins, or begins anew.
    pub fn begin(&mut self, timing: Timing) {
        self.running = None;
        (self.run, self.last) = (self.run + 1, Report::default());
        let (name, run) = (self.name.clone(), self.run);
        let started = inside(&self.netns, move || Speaker::start(name, run, timing)).join().unwrap();
        self.running = Some(started.unwrap());
    }

    /// All candidates with their addresses, and addresses that each of them may have.
    pub fn wants<const N: usize>(&self, candidates: [(&str, &str); N], addresses: &[IpAddr]) {
        self.running.as_ref().unwrap().0.set([Segment {
            interface: self.interface,
            mac: self.mac,
            own: self.own,
            candidates: candidates.map(|(name, ip)| (name.parse().unwrap(), ip.parse().unwrap())).into(),
            addresses: addresses.iter().map(|ip| (*ip, None)).collect(),
            leaves: false,
        }]);
    }

    /// Whether it speaks for an address, and which foreign machine has it.
    pub fn look(&mut self, address: IpAddr) -> (bool, Option<Mac>) {
        let news = self.running.as_ref().unwrap().1.try_iter().last();
        self.last = news.unwrap_or_else(|| std::mem::take(&mut self.last));
        let row = self.last.rows.iter().find(|((_, ip), _)| *ip == address).map(|(_, row)| row);
        row.map_or((false, None), |row| (row.speaks, row.conflict))
    }
}

/// What one frame said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// When, in nanoseconds since 1970.
    pub at: u64,
    pub address: IpAddr,
    pub mac: Mac,
}

/// The hardware address of a machine of the lab: a node by its number.
pub fn mac_of(node: u32) -> Mac {
    layout::mac(1, node).parse().unwrap()
}

/// The same by its name.
pub fn mac_of_name(node: &str) -> Mac {
    mac_of(node[1..].parse().unwrap())
}

/// The number of a device of the calling thread's namespace.
fn index(device: &str) -> u32 {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    name_to_index(&any, device).unwrap()
}

/// Opens sockets for frames of both families on a device of the calling thread's namespace.
pub fn frames(device: &str) -> [FrameSocket; 2] {
    let index = index(device);
    [Frames::Arp, Frames::Ndp].map(|kind| FrameSocket::open(index, kind).unwrap())
}

/// Asks and listens until it is stopped.
pub struct Witness {
    ends: Arc<AtomicBool>,
    asks: JoinHandle<()>,
    heard: Capture<Vec<Packet>>,
}

impl Witness {
    pub fn start(lab: &Lab, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        let heard = lab.capture(&Target::Router, Some("sub1")).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let over = ends.clone();
        let own: Mac = layout::mac(0, 1).parse().unwrap();
        let asks = inside(&lab.layout().netns_path("router"), move || {
            let [arp, ndp] = frames("sub1");
            while !over.load(Ordering::Relaxed) {
                for address in &addresses {
                    let socket = if address.is_ipv4() { &arp } else { &ndp };
                    socket.send(&neighbour::probe(own, *address)).unwrap();
                }
                std::thread::sleep(PACE);
            }
        });
        Self { ends, asks, heard }
    }

    /// All that was said, in order.
    pub fn stop(self) -> Vec<Said> {
        self.ends.store(true, Ordering::Relaxed);
        self.asks.join().unwrap();
        let packets = self.heard.stop().unwrap();
        packets.iter().filter(|packet| packet.way == Direction::In).filter_map(said).collect()
    }
}

/// What a captured frame says that somebody has.
pub fn said(packet: &Packet) -> Option<Said> {
    let (address, mac) = neighbour::read(&packet.data)?.holds?;
    Some(Said { at: packet.at, address, mac })
}

/// Owners of addresses as all nodes see them, once these answer the router, and nobody else.
#[track_caller]
pub fn settled(scene: &Scene) -> Vec<(IpAddr, String)> {
    let nodes = scene.nodes();
    let mut found = Vec::new();
    patiently("those answer that all nodes take for owners, and nobody else", || {
        found = scene.owners(&nodes).into_iter().map(|(_, owner, at)| (at.ip(), owner)).collect();
        let addresses: Vec<IpAddr> = found.iter().map(|(ip, _)| *ip).collect();
        let heard = speakers(&scene.lab, &addresses);
        found.iter().all(|(ip, owner)| heard[ip] == BTreeSet::from([mac_of_name(owner)]))
    });
    found
}

/// Who spoke for each of these addresses for a short while: the machines by address.
fn speakers(lab: &Lab, addresses: &[IpAddr]) -> BTreeMap<IpAddr, BTreeSet<Mac>> {
    let witness = Witness::start(lab, addresses.iter().copied());
    std::thread::sleep(15 * PACE);
    let mut found: BTreeMap<IpAddr, BTreeSet<Mac>> = addresses.iter().map(|ip| (*ip, BTreeSet::new())).collect();
    for one in witness.stop() {
        if let Some(macs) = found.get_mut(&one.address) {
            macs.insert(one.mac);
        }
    }
    found
}

/// For how long two machines answered for one address at the same time, at the longest.
pub fn overlap(said: &[Said]) -> Duration {
    // From when to when each was heard, without a pause.
    let mut spans: BTreeMap<(IpAddr, Mac), Vec<(u64, u64)>> = BTreeMap::new();
    for one in said {
        let of = spans.entry((one.address, one.mac)).or_default();
        match of.last_mut() {
            Some((_, last)) if one.at.saturating_sub(*last) <= u64::try_from(SILENT.as_nanos()).unwrap() => {
                *last = one.at
            }
            _ => of.push((one.at, one.at)),
        }
    }
    let mut longest = 0;
    for ((address, mac), own) in &spans {
        for (_, others) in spans.range((*address, *mac)..).take_while(|((other, _), _)| other == address).skip(1) {
            let pairs = own.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
            longest = pairs.map(|(a, b)| a.1.min(b.1).saturating_sub(a.0.max(b.0))).fold(longest, u64::max);
        }
    }
    Duration::from_nanos(longest)
}

#[test]
fn two_that_answer_at_the_same_time_are_seen() {
    let (ip, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let every = |ms: std::ops::Range<u64>, address, node| {
        let at = ms.step_by(10);
        at.map(move |at| Said { at: at * 1_000_000, address, mac: mac_of(node) })
    };
    let judge = |mut all: Vec<Said>| {
        all.sort_by_key(|one| one.at);
        overlap(&all).as_millis()
    };
    // One after the other, and back.
    assert_eq!(judge(every(0..200, ip, 1).chain(every(300..500, ip, 2)).chain(every(500..900, ip, 1)).collect()), 0);
    // Two addresses.
    assert_eq!(judge(every(0..500, ip, 1).chain(every(0..500, other, 2)).collect()), 0);
    // The second begins before the first ends, and there are two in the middle of the time of one.
    assert_eq!(judge(every(0..300, ip, 1).chain(every(205..500, ip, 2)).collect()), 85);
    assert_eq!(judge(every(0..900, ip, 2).chain(every(305..500, ip, 1)).collect()), 190);
}
