//! A network card that says it fills in checksums, and does so for outer headers only: found by the nodes, and avoided.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ripstop_lab::{Backend, Lab, Options, Target};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{lab, pods, router};

/// Bytes of `struct virtio_net_hdr` (linux/virtio_net.h).
const VNET: usize = 10;
/// Where the transport header begins in a frame of IPv4.
const OUTER: usize = 14 + 20;

/// The card: carries frames between two devices of a namespace as long as it lives.
struct Card {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Card {
    /// What comes from `node` gets outer checksums only; what goes there gets all.
    fn between(netns: &std::path::Path, node: &str, wire: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let netns = File::open(netns).unwrap();
        let (node, wire) = (node.to_owned(), wire.to_owned());
        let sockets = std::thread::spawn(move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            (Arc::new(device(&node)), Arc::new(device(&wire)))
        });
        let (node, wire) = sockets.join().unwrap();
        let threads = [(node.clone(), wire.clone(), false), (wire, node, true)].map(|(from, to, all)| {
            let stop = stop.clone();
            std::thread::spawn(move || carry(&from, &to, all, &stop))
        });
        Self { stop, threads: threads.into() }
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A packet socket on a device that shows what is left to be filled in (packet(7)).
fn device(name: &str) -> OwnedFd {
    let name = std::ffi::CString::new(name).unwrap();
    let all = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
    // SAFETY: the descriptor is new; names, options and the address are read only, as long as they say.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all));
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = i32::try_from(libc::if_nametoindex(name.as_ptr())).unwrap();
        let length = u32::try_from(size_of_val(&address)).unwrap();
        assert_eq!(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length), 0);
        let wait = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
        let set = |level, option, value: *const libc::c_void, length: usize| {
            let length = u32::try_from(length).unwrap();
            assert_eq!(libc::setsockopt(fd.as_raw_fd(), level, option, value, length), 0, "option {option}");
        };
        let on = 1i32;
        set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const on).cast(), 4);
        set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, (&raw const on).cast(), 4);
        set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), size_of_val(&wait));
        fd
    }
}

fn carry(from: &OwnedFd, to: &OwnedFd, all: bool, stop: &AtomicBool) {
    let mut buffer = vec![0u8; 70_000];
    while !stop.load(Relaxed) {
        let Ok(length) = rustix::io::read(from, &mut buffer) else { continue };
        let Some((header, frame)) = buffer[..length].split_at_mut_checked(VNET) else { continue };
        let start = usize::from(u16::from_ne_bytes([header[6], header[7]]));
        let offset = usize::from(u16::from_ne_bytes([header[8], header[9]]));
        if header[0] & 1 != 0 && (all || start == OUTER) && start + offset + 2 <= frame.len() {
            let sum = checksum(&frame[start..]);
            frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        header.fill(0);
        // A frame that does not pass is lost, as on any wire.
        let _ = rustix::io::write(to, &buffer[..length]);
    }
}

/// RFC 1071; the field holds the sum of the pseudo header.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn within(what: &str, mut is: impl FnMut() -> bool) -> f32 {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed().as_secs_f32()
}

fn offload(lab: &Lab, node: u32) -> bool {
    let features = lab.exec(&Target::Node(node), &["ethtool", "-k", "ript1"]).unwrap();
    features.contains("tx-checksum-ip-generic: on")
}

/// A packet whose checksum a pod leaves to be filled in gets an answer: a connection to a port where nobody listens.
fn refused(lab: &Lab) -> bool {
    let address = lab.state().unwrap().pods["p2"].ips()[0].to_string();
    let line = format!("timeout 1 bash -c '</dev/tcp/{address}/9' 2>&1; true");
    lab.exec(&Target::Pod("p1".into()), &["bash", "-c", &line]).unwrap().contains("refused")
}

#[test]
fn a_card_that_fills_in_outer_checksums_only_is_found_and_avoided_until_links_change() {
    let options = Options { nodes: 2, subnets: 1, backend: Backend::Vxlan, ..Options::named("t-offload") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    for node in [1, 2] {
        let quiet = ["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx-udp_tnl-segmentation", "off"];
        lab.exec(&Target::Node(node), &quiet).unwrap();
    }
    assert!(offload(&lab, 1) && refused(&lab), "all is well");
    let warnings = || lab.agent_json(1, "/v1/status").unwrap()["warnings"].to_string();

    router(&lab, "link set n1 nomaster");
    router(&lab, "link add card type veth peer name card2");
    router(&lab, "link set card2 master sub1 up");
    router(&lab, "link set card up");
    let card = Card::between(&lab.layout().netns_path("router"), "n1", "card");
    let seconds = within("what is left to hardware is completed before", || !offload(&lab, 1));
    within("pods talk again", || refused(&lab));
    println!("found and repaired after {seconds:.1} s");
    assert!(warnings().contains("packets whose checksums ript1 leaves to hardware do not arrive"), "{}", warnings());
    assert!(offload(&lab, 2), "what the other node sends comes right");

    // The card is replaced: the link goes and comes.
    drop(card);
    router(&lab, "link del card");
    router(&lab, "link set n1 master sub1");
    lab.exec(&Target::Node(1), &["ip", "link", "set", "eth0", "mtu", "1499"]).unwrap();
    within("it is left to hardware again", || offload(&lab, 1));
    within("no warning is left", || !warnings().contains("ript1 leaves to hardware"));
    assert!(refused(&lab));
    lab.down().unwrap();
}
