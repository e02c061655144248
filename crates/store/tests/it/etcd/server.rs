//! Real etcd servers for tests: started on a loopback address of this process's own, ended with it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The program; another release than Debian's by `RIPSTOP_ETCD`.
pub fn program() -> PathBuf {
    std::env::var_os("RIPSTOP_ETCD").map_or_else(|| "etcd".into(), PathBuf::from)
}

/// Whether etcd and its client are here. Says so where they are not.
pub fn is_here(what: &str) -> bool {
    let runs = |program: &Path, arg: &str| {
        let mut command = Command::new(program);
        command.arg(arg).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let here = runs(&program(), "--version") && runs(Path::new("etcdctl"), "version");
    if !here {
        println!("SKIPPED: {what}: etcd-server and etcd-client are not installed");
    }
    here
}

/// How servers are started.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// How many members; zero is one.
    pub members: usize,
    /// More arguments of each member.
    pub args: Vec<String>,
    /// Whether clients speak TLS.
    pub tls: bool,
    /// Where data is, instead of memory.
    pub dir: Option<PathBuf>,
}

/// A cluster of etcd.
pub struct Servers {
    setup: Setup,
    dir: tempfile::TempDir,
    first_port: u16,
    members: Vec<Option<Child>>,
}

/// Ports of one cluster: three a member.
const PORTS: u16 = 12;
static CLUSTERS: AtomicU16 = AtomicU16::new(0);

/// 127.0.0.0/8 is this host's: every process takes an address of its own, so that ports never collide.
fn address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high, middle, low)
}

impl Servers {
    /// Starts a cluster and waits until every member is healthy.
    pub fn start(setup: Setup) -> Self {
        let memory = Path::new("/dev/shm");
        let base = setup.dir.clone().or_else(|| memory.is_dir().then(|| memory.to_owned()));
        let dir = tempfile::Builder::new().prefix("ripstop-etcd").tempdir_in(base.unwrap_or_else(std::env::temp_dir));
        let first_port = 2379 + CLUSTERS.fetch_add(1, Ordering::Relaxed) * PORTS;
        let count = setup.members.max(1);
        let mut servers = Self { setup, dir: dir.unwrap(), first_port, members: Vec::new() };
        servers.members.resize_with(count, || None);
        (0..count).for_each(|member| servers.spawn(member));
        (0..count).for_each(|member| servers.wait(member));
        servers
    }

    fn port(&self, member: usize, which: u16) -> SocketAddr {
        (address(), self.first_port + 3 * u16::try_from(member).unwrap() + which).into()
    }

    /// Where a member takes clients.
    pub fn client(&self, member: usize) -> SocketAddr {
        self.port(member, 0)
    }

    /// Where a member takes clients, as an endpoint.
    pub fn endpoint(&self, member: usize) -> String {
        format!("{}://{}", if self.setup.tls { "https" } else { "http" }, self.client(member))
    }

    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|member| self.endpoint(member)).collect()
    }

    /// Starts a member that was ended, and waits until it is healthy.
    pub fn restart(&mut self, member: usize) {
        self.spawn(member);
        self.wait(member);
    }

    fn spawn(&mut self, member: usize) {
        let peer = |member| format!("http://{}", self.port(member, 1));
        let all: Vec<String> = (0..self.members.len()).map(|other| format!("m{other}={}", peer(other))).collect();
        let log = self.dir.path().join(format!("m{member}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        // The server ends with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program());
        command.args(["--name", &format!("m{member}"), "--logger", "zap", "--log-level", "warn"]);
        command.arg("--data-dir").arg(self.dir.path().join(format!("m{member}")));
        command.args([
            "--listen-client-urls",
            &self.endpoint(member),
            "--advertise-client-urls",
            &self.endpoint(member),
        ]);
        command.args(["--listen-peer-urls", &peer(member), "--initial-advertise-peer-urls", &peer(member)]);
        command.args(["--listen-metrics-urls", &format!("http://{}", self.port(member, 2))]);
        command.args(["--initial-cluster", &all.join(","), "--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.args(&self.setup.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.members[member] = Some(command.spawn().unwrap());
    }

    fn wait(&mut self, member: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.http(member, "/health").is_some_and(|answer| answer.contains(r#""health":"true""#)) {
            let ended = self.members[member].as_mut().unwrap().try_wait().unwrap();
            let log = || std::fs::read_to_string(self.dir.path().join(format!("m{member}.log"))).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "etcd did not start: {ended:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A page of the member's metrics address.
    pub fn http(&self, member: usize, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.port(member, 2)).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Ends a member at once.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        loop {
            for member in (0..self.members.len()).filter(|member| self.members[*member].is_some()) {
                let metrics = self.http(member, "/metrics").unwrap_or_default();
                if metrics.contains("\netcd_server_is_leader 1") {
                    return member;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `etcdctl` as an operator does, and answers what it printed.
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoints().join(",")])
            .args(args)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Puts keys with a value each, in one transaction.
    pub fn put_at_once(&self, keys: impl Iterator<Item = (String, String)>) {
        let puts: String = keys.map(|(key, value)| format!("put {key} {value}\n")).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoints().join(","), "txn"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Conditions, what is done where they hold, and where they do not.
        child.stdin.take().unwrap().write_all(format!("\n{puts}\n\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout.starts_with(b"SUCCESS"), "{output:?}");
    }

    /// Forgets all revisions but the present, at once.
    pub fn compact(&self, args: &[&str]) {
        let present = self.ctl(&[args, &["get", "x", "-w", "json"]].concat());
        let present: serde_json::Value = serde_json::from_str(&present).unwrap();
        let revision = present["header"]["revision"].to_string();
        self.ctl(&[args, &["compact", &revision, "--physical"]].concat());
    }

    /// Requests a member has answered, by method; watches that were opened count as one.
    pub fn requests(&self, member: usize) -> std::collections::BTreeMap<String, u64> {
        let metrics = self.http(member, "/metrics").unwrap();
        let started = metrics.lines().filter_map(|line| line.strip_prefix("grpc_server_started_total{"));
        let counted = started.filter_map(|line| {
            let (labels, count) = line.split_once("} ")?;
            let method = labels.split("grpc_method=\"").nth(1)?.split('"').next()?;
            Some((method.to_owned(), count.parse::<f64>().ok()? as u64))
        });
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
