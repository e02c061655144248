//! Hosts: threads with a network namespace each, and raw packets from them.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use etherparse::PacketBuilder;
use ripstop_nft::sim::Transport;

use crate::kernel::run;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which goes when this is dropped.
pub struct Host {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// By which `ip link set … netns` finds it.
    pub tid: i32,
}

impl Host {
    pub fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: no pointers; only this thread is moved.
            let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
            // SAFETY: takes nothing, changes nothing.
            tell.send(unsafe { libc::gettid() }).unwrap();
            for job in inbox {
                job();
            }
        });
        Self { jobs: Some(jobs), thread: Some(thread), tid: told.recv().unwrap() }
    }

    /// Does something in the host's namespace and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job: Job = Box::new(move || drop(tell.send(work())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        told.recv().expect("the host's thread has panicked")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs the lines as commands of `ip`.
pub fn ip(lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        run("ip", &line.split_whitespace().collect::<Vec<_>>());
    }
}

/// Sets a sysctl of the calling thread's namespace.
pub fn sysctl(key: &str, value: &str) {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    std::fs::write(&path, value).unwrap_or_else(|fault| panic!("{path}: {fault}"));
}

/// The bytes of a packet from its network header on.
pub fn packet(src: IpAddr, dst: IpAddr, transport: Transport) -> Vec<u8> {
    let builder = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{src} and {dst} are of two families"),
    };
    let mut out = Vec::new();
    let payload = b"ripstop";
    match transport {
        Transport::Udp { src, dst } => builder.udp(src, dst).write(&mut out, payload).unwrap(),
        Transport::Tcp { src, dst, flags } => {
            let mut tcp = builder.tcp(src, dst, 1, 1_000);
            if flags & 2 != 0 {
                tcp = tcp.syn();
            }
            if flags & 16 != 0 {
                tcp = tcp.ack(1);
            }
            tcp.write(&mut out, payload).unwrap();
        }
        Transport::Icmp { kind: 8, .. } => builder.icmpv4_echo_request(echo_id(), 1).write(&mut out, payload).unwrap(),
        Transport::Icmp { kind: 128, .. } => {
            builder.icmpv6_echo_request(echo_id(), 1).write(&mut out, payload).unwrap()
        }
        // RFC 4861, 4.4: flags, then the target.
        Transport::Icmp { kind, target: Some(target) } => {
            builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut out, &target.octets()).unwrap();
        }
        other => panic!("{other:?} is not built here"),
    }
    out
}

/// Each echo request is a connection of its own.
fn echo_id() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

fn open(domain: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: no pointers; the descriptor is owned from here on.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn send_to<A>(fd: &OwnedFd, bytes: &[u8], address: &A) -> std::io::Result<()> {
    let size = u32::try_from(size_of::<A>()).unwrap();
    // SAFETY: both pointers are to live values of the sizes given.
    let sent = unsafe {
        libc::sendto(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, std::ptr::from_ref(address).cast(), size)
    };
    if sent < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a packet with its network header out of the calling thread's namespace. A refusal on the spot is no fault: a
/// rule at the output hook does that.
pub fn send(bytes: &[u8], dst: IpAddr) {
    let sent = match dst {
        IpAddr::V4(ip) => {
            let fd = open(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET.try_into().unwrap(),
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                sin_zero: [0; 8],
            };
            send_to(&fd, bytes, &address)
        }
        IpAddr::V6(ip) => {
            let fd = open(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW);
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6.try_into().unwrap(),
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: 0,
            };
            send_to(&fd, bytes, &address)
        }
    };
    if let Err(fault) = sent {
        assert!(matches!(fault.raw_os_error(), Some(libc::EPERM)), "{fault}");
    }
}

/// Sends a whole frame out of a link of the calling thread's namespace.
pub fn send_frame(bytes: &[u8], link: &str) {
    let fd = open(libc::AF_PACKET, libc::SOCK_RAW, 0);
    // SAFETY: all zero is an address, and what counts is set next.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET.try_into().unwrap();
    address.sll_ifindex = index(link).try_into().unwrap();
    send_to(&fd, bytes, &address).unwrap();
}

/// The index of a link in the calling thread's namespace.
pub fn index(link: &str) -> u32 {
    let name = std::ffi::CString::new(link).unwrap();
    // SAFETY: the pointer is to a live string that ends with zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no link {link}");
    index
}

/// Of each rule that counts: chain and place in it, and packets.
pub type Counts = Vec<((String, usize), u64)>;

/// What `nft` says the rules of a table have counted.
pub fn counted(family: &str, table: &str) -> Counts {
    let text = run("nft", &["list", "table", family, table]);
    let mut out = Vec::new();
    let (mut chain, mut rule) = (None, 0);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = Some(name.trim_end_matches(" {").to_owned());
            rule = 0;
        } else if line == "}" {
            chain = None;
        } else if let Some(chain) = &chain
            && !line.starts_with("type ")
            && !line.starts_with("comment ")
        {
            if let Some((_, rest)) = line.split_once("counter packets ") {
                let packets = rest.split(' ').next().unwrap().parse().unwrap();
                out.push(((chain.clone(), rule), packets));
            }
            rule += 1;
        }
    }
    out
}
