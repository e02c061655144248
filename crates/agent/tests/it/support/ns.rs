//! Network namespaces without a process or a name: held open by a descriptor, gone with the test.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

use ripstop_kernel::Netns;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The first descriptor's number.
const FIRST: i32 = 2_000;
/// The next descriptor's number. One that was used comes again only after all others, so a path does not lead to another
/// namespace than it did.
static NEXT: AtomicI32 = AtomicI32::new(FIRST);
static LAST: AtomicI32 = AtomicI32::new(FIRST);

/// A network namespace.
pub struct Ns {
    fd: OwnedFd,
    pub path: String,
}

impl Ns {
    /// A new one, with everything in it down.
    pub fn new() -> Self {
        static ROOM: Once = Once::new();
        ROOM.call_once(|| {
            let limit = rustix::process::getrlimit(Resource::Nofile);
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
            LAST.store(limit.maximum.map_or(i32::MAX, |most| i32::try_from(most).unwrap_or(i32::MAX)) - 1, Relaxed);
        });
        let open = || {
            // SAFETY: only the network namespace of this thread changes, and it ends at once.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let file = std::thread::spawn(open).join().unwrap();
        let next = |number: i32| Some(if number >= LAST.load(Relaxed) { FIRST } else { number + 1 });
        let number = NEXT.fetch_update(Relaxed, Relaxed, next).unwrap_or(FIRST);
        let fd = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), number).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        Self { fd, path }
    }

    pub fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Runs something inside, on a thread of its own.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|s| {
            let thread = s.spawn(|| Netns::open(&self.path).unwrap().run(work).unwrap());
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path)).arg(program).args(arguments);
        command
    }

    /// Runs a program inside: whether it succeeded, and what it printed.
    pub fn tried(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let output = self.command(program, arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a program inside, which must succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let (done, text) = self.tried(program, arguments);
        assert!(done, "{program} {arguments:?}: {text}");
        text
    }

    /// `ip` with its arguments in one line.
    pub fn ip(&self, line: &str) -> String {
        self.run("ip", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Many lines of `ip` at once.
    pub fn ips(&self, lines: &str) {
        let mut command = self.command("ip", &["-batch", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether there is a link of this name.
    pub fn has_link(&self, name: &str) -> bool {
        self.inside(|| link_index(name).is_some())
    }
}

/// The index of a link in the calling thread's namespace.
pub fn link_index(name: &str) -> Option<i32> {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: the name is a terminated string, only read.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    i32::try_from(index).ok().filter(|index| *index != 0)
}

/// Whether this process may make namespaces; otherwise a line that says the test was skipped.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: network namespaces need root");
    }
    root
}
