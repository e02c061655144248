//! Two nodes on one wire. A node is a network namespace held open by a descriptor, with a TUN device and a forwarder that is
//! a process of its own: this test binary, started again with its part in the environment. Nothing is named outside; all of
//! it ends with the test, also when it fails.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_forwarder::control::{Peer, Reason, Setup, Stats};
use ripstop_forwarder::{Client, Options};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

pub const DEVICE: &str = "ripudp0";
/// A forwarder that is started in this binary: its socket, its state file, its queues.
const PART: &str = "RIPSTOP_TEST_FORWARDER";

/// A network namespace without a process.
pub struct Space {
    ns: File,
}

impl Space {
    /// A new one; `None` and a line where that is not possible.
    pub fn new() -> Option<Self> {
        let open = || {
            // SAFETY: only this thread's network namespace changes.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.ok()?;
            run("ip", &["link", "set", "lo", "up"]);
            File::open("/proc/thread-self/ns/net").ok()
        };
        let ns = std::thread::spawn(open).join().unwrap();
        if ns.is_none() {
            println!("SKIPPED: no new network namespaces: not root");
        }
        Some(Self { ns: ns? })
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.ns.as_raw_fd())
    }

    /// Runs something inside, on a thread of its own.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            move_into_link_name_space(self.ns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
    }

    /// `ip` and its arguments, a command a line.
    pub fn ip(&self, lines: &str) {
        let net = format!("--net={}", self.path());
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let all: Vec<&str> = [net.as_str(), "ip"].into_iter().chain(line.split_whitespace()).collect();
            run("nsenter", &all);
        }
    }

    /// What a command prints inside.
    pub fn run(&self, line: &str) -> String {
        let net = format!("--net={}", self.path());
        let all: Vec<&str> = [net.as_str()].into_iter().chain(line.split_whitespace()).collect();
        run("nsenter", &all)
    }

    /// A command that will start inside.
    pub fn command(&self, program: &Path) -> Command {
        let ns = self.ns.try_clone().unwrap();
        let mut command = Command::new(program);
        // SAFETY: setns is a system call and nothing else.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(Into::into)
            });
        }
        command
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A node.
pub struct Node {
    pub space: Space,
    pub number: u8,
    folder: tempfile::TempDir,
}

/// A process that ends with its value.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two nodes, `eth0` 172.30.0.1 and .2, fd30::1 and ::2, inner 10.244.N.1/32 and fd44:N::1/128; `mtu` is the wire's.
pub fn nodes(mtu: u16) -> Option<[Node; 2]> {
    let [one, two] = [Space::new()?, Space::new()?];
    one.ip(&format!(
        "link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
        // ip takes a namespace's path as well as its name.
        two.path()
    ));
    for (number, space) in [(1, &one), (2, &two)] {
        space.ip(&format!(
            "link set eth0 up\naddr add 172.30.0.{number}/24 dev eth0\naddr add fd30::{number}/64 dev eth0 nodad"
        ));
        space.inside(|| ripstop_forwarder::create(&DEVICE.parse().unwrap()).unwrap());
        let peer = 3 - number;
        space.ip(&format!(
            "link set {DEVICE} mtu 1452 addrgenmode none up\naddr add 10.244.{number}.1/32 dev {DEVICE}\n\
             addr add fd44:{number}::1/128 dev {DEVICE} nodad\n\
             route add 10.244.{peer}.0/24 dev {DEVICE} src 10.244.{number}.1\n\
             route add fd44:{peer}::/64 dev {DEVICE} src fd44:{number}::1"
        ));
    }
    let node = |number, space| Node { space, number, folder: tempfile::tempdir().unwrap() };
    Some([node(1, one), node(2, two)])
}

/// An inner address.
pub fn inner(number: u8, v4: bool) -> IpAddr {
    if v4 { [10, 244, number, 1].into() } else { format!("fd44:{number}::1").parse().unwrap() }
}

impl Node {
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("udp-forward.sock")
    }

    /// The set-up with the other node as its peer, by outer IPv4 or IPv6.
    pub fn setup(&self, v4: bool) -> Setup {
        let outer = |number: u8| -> SocketAddr {
            if v4 { ([172, 30, 0, number], 8285).into() } else { format!("[fd30::{number}]:8285").parse().unwrap() }
        };
        let peer = 3 - self.number;
        Setup {
            device: DEVICE.parse().unwrap(),
            listen: vec![outer(self.number)],
            peers: vec![Peer {
                name: format!("n{peer}"),
                to: outer(peer),
                also_from: Vec::new(),
                ranges: vec![
                    format!("10.244.{peer}.0/24").parse().unwrap(),
                    format!("fd44:{peer}::/64").parse().unwrap(),
                ],
            }],
        }
    }

    /// Starts a forwarder and waits until it answers.
    pub fn start(&self) -> Running {
        let child = self.spawn();
        self.client();
        child
    }

    /// Starts a forwarder.
    pub fn spawn(&self) -> Running {
        let mut command = self.space.command(&std::env::current_exe().unwrap());
        // The harness has a thread of its own that must not take the signal from the forwarder's.
        let block = || {
            // SAFETY: the set is initialised before it is read.
            unsafe {
                let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
                libc::sigemptyset(set.as_mut_ptr());
                libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
                libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            }
            Ok(())
        };
        // SAFETY: the signal calls are async-signal-safe.
        unsafe { command.pre_exec(block) };
        command.args(["--exact", "support::a_forwarder", "--nocapture"]).env(PART, self.folder.path());
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Starts a forwarder with the other node as its peer.
    pub fn forward(&self, v4: bool) -> Running {
        let running = self.start();
        self.client().set(&self.setup(v4)).unwrap();
        running
    }

    /// A connection to this node's forwarder, when it answers.
    pub fn client(&self) -> Client {
        let begun = Instant::now();
        loop {
            match Client::connect(&self.socket()) {
                Ok(client) => return client,
                Err(error) if begun.elapsed() > Duration::from_secs(10) => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    pub fn stats(&self) -> Stats {
        self.client().stats().unwrap()
    }

    /// Drops of a reason, whoever is charged.
    pub fn dropped(&self, reason: Reason) -> u64 {
        let stats = self.stats();
        let of_peers = stats.peers.values().filter_map(|peer| peer.dropped.get(&reason)).sum::<u64>();
        of_peers + stats.dropped.get(&reason).copied().unwrap_or(0)
    }

    pub fn udp(&self, ip: IpAddr, port: u16) -> UdpSocket {
        let socket = self.space.inside(move || UdpSocket::bind((ip, port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }
}

/// The forwarder's process; as a test it does nothing.
#[test]
fn a_forwarder() {
    let Some(folder) = std::env::var_os(PART).map(PathBuf::from) else { return };
    let file = |name: &str| folder.join(name);
    let options = Options { socket: file("udp-forward.sock"), state: file("udp-forward.json"), queues: Some(2) };
    match ripstop_forwarder::run(&options) {
        Ok(_) => std::process::exit(0),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

/// Bytes that tell where they are.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends `length` bytes from each of two nodes to the other over one connection, at the same time, and compares every byte.
pub fn stream_both_ways(from: &Node, to: &Node, v4: bool, length: usize) {
    use std::io::Write;
    let address = inner(to.number, v4);
    let listener = to.space.inside(|| TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let client = from.space.inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap());
    let (server, _) = listener.accept().unwrap();
    let ends = [Arc::new(client), Arc::new(server)];
    for end in &ends {
        end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    std::thread::scope(|scope| {
        for (seed, end) in ends.iter().enumerate() {
            scope.spawn(move || {
                (&**end).write_all(&pattern(length, seed as u64)).unwrap();
                end.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let other = &ends[1 - seed];
            scope.spawn(move || {
                let mut got = Vec::new();
                (&**other).read_to_end(&mut got).unwrap();
                assert!(got == pattern(length, seed as u64), "{} of {length} bytes, or other ones", got.len());
            });
        }
    });
}
