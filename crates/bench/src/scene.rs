//! Namespaces, folders, a store and agents for one measurement. A node here is a network namespace and an agent with its
//! own folders: what is measured is the product, so nothing else runs beside it.
//!
//! Invariants: everything made is named after this process, so the next run removes what a killed one left; every
//! process started is ended when its value goes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ripstop_lab::layout::{MEMBER, NETNS_DIR};
use ripstop_lab::{http, interrupt, ip_batch, process, settings, space};
use serde_json::{Value, json};

/// What the name of every namespace begins with; then the process, and a part.
const PREFIX: &str = "ripbench-";
/// Sockets and leases lie on a tmpfs, as /run is.
const RUN: &str = "/run/ripstop-bench";
/// Snapshots lie on a disk, as /var/lib is.
const DISK: &str = "/var/tmp/ripstop-bench";
const READY_LIMIT: Duration = Duration::from_secs(30);

/// The programs that are measured.
#[derive(Debug, Clone)]
pub struct Programs {
    pub ripstop: PathBuf,
    pub plugin: PathBuf,
}

impl Programs {
    /// Both programs in one folder.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = std::path::absolute(folder.join(name))?;
            ensure!(path.is_file(), "{} is not there: `make build` makes it, or set RIPSTOP_BIN_DIR", path.display());
            Ok(path)
        };
        Ok(Self { ripstop: find("ripstop")?, plugin: find("ripstop-cni")? })
    }
}

/// One measurement's world.
pub struct Scene {
    programs: Programs,
    name: String,
    store: Option<Running>,
}

impl Scene {
    /// An empty one.
    pub fn new(name: &str, programs: &Programs) -> Result<Self> {
        space::prepare_netns_dir()?;
        let scene = Self { programs: programs.clone(), name: format!("{}-{name}", std::process::id()), store: None };
        fs::create_dir_all(scene.run()).context("make a folder")?;
        fs::create_dir_all(scene.disk()).context("make a folder")?;
        Ok(scene)
    }

    /// The programs measured in it.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// A folder on a tmpfs.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        Path::new(RUN).join(&self.name)
    }

    /// A folder on a disk.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        Path::new(DISK).join(&self.name)
    }

    /// Makes a network namespace, its loopback interface up.
    pub fn netns(&self, part: &str) -> Result<PathBuf> {
        checkpoint()?;
        let name = self.netns_name(part);
        space::netns_add(&name)?;
        Ok(Path::new(NETNS_DIR).join(name))
    }

    /// Gives up a namespace that [`Scene::netns`] made.
    pub fn drop_netns(&self, part: &str) -> Result<()> {
        Ok(space::netns_del(&self.netns_name(part))?)
    }

    fn netns_name(&self, part: &str) -> String {
        format!("{PREFIX}{}-{part}", self.name)
    }

    /// Two machines on one wire: namespaces `a` and `b` with `eth0` 172.30.0.1 and 172.30.0.2 of one /16. Each has its
    /// default route through the other.
    pub fn machines(&self, a: &str, b: &str) -> Result<(PathBuf, PathBuf)> {
        let (one, two) = (self.netns(a)?, self.netns(b)?);
        let peer = self.netns_name(b);
        ip_batch(
            &one,
            &format!(
                "link add eth0 address 02:52:42:00:00:01 type veth peer name eth0 address 02:52:42:00:00:02 netns {peer}\n"
            ),
        )?;
        for (netns, own, other) in [(&one, NODES[0], NODES[1]), (&two, NODES[1], NODES[0])] {
            settings(netns, &[("net/ipv6/conf/default/accept_dad", "0")])?;
            let lines = [
                "link set lo up".to_owned(),
                "link set eth0 up".into(),
                format!("addr add {own}/16 dev eth0"),
                format!("route add default via {other}"),
            ];
            ip_batch(netns, &(lines.join("\n") + "\n"))?;
        }
        Ok((one, two))
    }

    /// Serves a store and answers its socket; the one there is, if there is one.
    pub fn store(&mut self) -> Result<PathBuf> {
        let socket = self.run().join("store.sock");
        if self.store.is_none() {
            let mut command = Command::new(&self.programs.ripstop);
            command.args(["store", "serve", "--socket"]).arg(&socket).arg("--file").arg(self.run().join("store.redb"));
            let store = Running::start(&space::Place::host(), &mut command, &self.run().join("store.log"))?;
            wait_for("the store", READY_LIMIT, || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
            self.store = Some(store);
        }
        Ok(socket)
    }

    /// Process number of the store's server.
    #[must_use]
    pub fn store_pid(&self) -> Option<u32> {
        self.store.as_ref().map(Running::pid)
    }

    /// Starts an agent in a namespace, as a node that was never there. Returns at once.
    pub fn agent(&mut self, node: &str, netns: &Path, spec: &Value) -> Result<Agent> {
        let (run, disk) = (self.run().join(node), self.disk().join(node));
        for folder in [&run, &disk] {
            if folder.exists() {
                fs::remove_dir_all(folder).context("empty a folder")?;
            }
            fs::create_dir_all(folder).context("make a folder")?;
        }
        let config = json!({
            "apiVersion": "ripstop.io/v1alpha1",
            "kind": "AgentConfig",
            "node": node,
            "store": { "embedded": { "socket": self.store()? } },
            "runDir": run,
            "stateDir": disk,
            "networks": [{ "metadata": { "name": "default" }, "spec": spec }],
        });
        fs::write(disk.join("config.yaml"), config.to_string()).context("write a configuration")?;
        self.start_agent(&run, &disk, netns)
    }

    /// Starts an agent where one was that has ended.
    pub fn agent_again(&self, node: &str, netns: &Path) -> Result<Agent> {
        self.start_agent(&self.run().join(node), &self.disk().join(node), netns)
    }

    fn start_agent(&self, run: &Path, disk: &Path, netns: &Path) -> Result<Agent> {
        let mut command = Command::new(&self.programs.ripstop);
        command.arg("agent").arg("--config").arg(disk.join("config.yaml"));
        let place = space::Place::host().in_netns(netns)?;
        let log = disk.join("agent.log");
        let started = Instant::now();
        Ok(Agent { process: Running::start(&place, &mut command, &log)?, started, run: run.into(), log })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.store = None;
        remove_all(&format!("{PREFIX}{}-", self.name));
        let _ = fs::remove_dir_all(self.run());
        let _ = fs::remove_dir_all(self.disk());
    }
}

/// The addresses of the two machines.
pub const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 30, 0, 1), Ipv4Addr::new(172, 30, 0, 2)];

/// An agent.
pub struct Agent {
    process: Running,
    /// When it was started.
    pub started: Instant,
    run: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where the plugin finds it.
    #[must_use]
    pub fn cni_socket(&self) -> PathBuf {
        self.run.join("cni.sock")
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        let socket = self.run.join("agent.sock");
        let ready = || http::get(&socket, "/readyz", Duration::from_secs(2)).is_ok_and(|answer| answer.status == 200);
        wait_for("the agent", READY_LIMIT, ready)
            .with_context(|| format!("its log:\n{}", fs::read_to_string(&self.log).unwrap_or_default()))
    }
}

/// A process that ends with its value.
pub struct Running(Child);

impl Running {
    /// Starts it, its words in a file.
    pub fn start(place: &space::Place, command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
        command.env(MEMBER, mark(std::process::id()));
        Ok(Self(place.spawn(command)?))
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a manifest by the agent that has this socket.
pub fn apply(programs: &Programs, socket: &Path, manifest: &str) -> Result<()> {
    let mut command = Command::new(&programs.ripstop);
    command.arg("--socket").arg(socket).args(["apply", "-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run ripstop")?;
    // If it ended early, what it said is the better error.
    let _ = child.stdin.take().map(|mut input| input.write_all(manifest.as_bytes()));
    let said = child.wait_with_output().context("run ripstop")?;
    ensure!(said.status.success(), "ripstop apply: {}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}

/// Waits until something holds.
pub fn wait_for(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds() {
        checkpoint()?;
        if Instant::now() >= deadline {
            bail!("{what} is not ready after {:.0} s", limit.as_secs_f64());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// An error where the user wants to stop.
pub fn checkpoint() -> Result<()> {
    ensure!(!interrupt::happened(), "interrupted");
    Ok(())
}

/// By which a run's processes are found: none of them outlives it, though it is killed.
fn mark(run: u32) -> String {
    format!("{PREFIX}{run}")
}

/// Removes what runs left that were killed.
pub fn sweep() {
    let entries = |root: &str| fs::read_dir(root).into_iter().flatten().flatten();
    let is_dead = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
    let spaces = entries(NETNS_DIR).filter_map(|entry| owner(entry.file_name().to_str()?.strip_prefix(PREFIX)?));
    let folders = || [RUN, DISK].into_iter().flat_map(entries);
    let owners: BTreeSet<u32> =
        spaces.chain(folders().filter_map(|entry| owner(entry.file_name().to_str()?))).filter(is_dead).collect();
    for dead in &owners {
        process::kill_all(&process::members(&mark(*dead)), Duration::from_secs(10));
        remove_all(&format!("{PREFIX}{dead}-"));
    }
    for entry in folders().filter(|entry| entry.file_name().to_str().and_then(owner).is_some_and(|pid| is_dead(&pid))) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

fn owner(rest: &str) -> Option<u32> {
    rest.split('-').next()?.parse().ok()
}

/// Ends what runs in namespaces whose name begins so, and gives them up.
fn remove_all(prefix: &str) {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    let inodes: BTreeSet<u64> = names.iter().filter_map(|name| space::netns_inode(name)).collect();
    process::kill_all(&process::in_namespaces(&inodes), Duration::from_secs(10));
    for name in names {
        let _ = space::netns_del(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: its folders are root's");
            return;
        }
        // No process has this number: the kernel's are below 2^22.
        let dead = 1_000_000_007;
        let folder = Path::new(DISK).join(format!("{dead}-x"));
        fs::create_dir_all(&folder).unwrap();
        let start = |run: u32| Command::new("sleep").arg("60").env(MEMBER, mark(run)).spawn().unwrap();
        let (left, mut ours) = (start(dead), Running(start(std::process::id())));
        let left = process::ProcessId::of(left.id().cast_signed()).unwrap();
        sweep();
        assert!(!left.alive() && !folder.exists());
        assert!(ours.0.try_wait().unwrap().is_none(), "what a living run has stays");
    }
}
