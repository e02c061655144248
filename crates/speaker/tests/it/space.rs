//! Two network namespaces with a wire between them. Nothing is named outside; all of it ends with the test, also when it fails.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace without a process.
pub struct Space(File);

impl Space {
    /// A new one; `None` and a line where that is not possible.
    pub fn new() -> Option<Self> {
        let open = || {
            // SAFETY: only this thread's network namespace changes.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.ok()?;
            File::open("/proc/thread-self/ns/net").ok()
        };
        let ns = std::thread::spawn(open).join().unwrap();
        if ns.is_none() {
            println!("SKIPPED: no new network namespaces: not root");
        }
        Some(Self(ns?))
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs something inside, on a thread of its own. Threads it starts and sockets it opens stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program).args(arguments);
        command
    }

    /// Runs a command inside to its end and gives what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {text}{error}");
        text
    }

    pub fn ip(&self, line: &str) {
        self.run("ip", &line.split(' ').collect::<Vec<_>>());
    }

    /// Starts a daemon inside, which is ended with this value.
    pub fn start(&self, program: &str, arguments: &[&str], log: File) -> Daemon {
        let copy = log.try_clone().unwrap();
        let mut command = self.command(program, arguments);
        Daemon(command.stdin(Stdio::null()).stdout(log).stderr(copy).spawn().unwrap())
    }
}

/// A process that ends with this value. nsenter becomes the program, so the id is the program's.
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two namespaces, `one0` and `two0`, with addresses of both families, and addresses beyond for sessions over some hops.
pub fn wire() -> Option<(Space, Space)> {
    let (one, two) = (Space::new()?, Space::new()?);
    one.ip(&format!("link add one0 index 101 type veth peer name two0 index 102 netns {}", two.path()));
    for (space, link, number) in [(&one, "one0", 1), (&two, "two0", 2)] {
        for line in [
            "link set lo up".into(),
            format!("link set {link} up"),
            format!("addr add 192.0.2.{number}/24 dev {link}"),
            format!("addr add 2001:db8::{number}/64 dev {link} nodad"),
            format!("addr add 198.51.100.{number}/32 dev lo"),
            format!("route add 198.51.100.{}/32 via 192.0.2.{}", 3 - number, 3 - number),
        ] {
            space.ip(&line);
        }
    }
    Some((one, two))
}
