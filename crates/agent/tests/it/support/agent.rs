//! An agent in a process of its own: this program, started again.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::ns::Ns;
use super::within;

const CONFIG: &str = "RIPSTOP_TEST_CONFIG";
const RECORD: &str = "RIPSTOP_TEST_RECORD";
const HOLD: &str = "RIPSTOP_TEST_HOLD";

/// The body of the test function that is the agent.
pub fn run_as_told() {
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let options = ripstop_agent::AgentOptions {
        config: config.into(),
        node: None,
        record: std::env::var_os(RECORD).map(PathBuf::from),
        hold: std::env::var_os(HOLD).is_some(),
    };
    let code = match ripstop_agent::run(&options) {
        Ok(_) => 0,
        Err(error) => {
            eprintln!("error: {error:#}");
            1
        }
    };
    std::process::exit(code);
}

/// How an agent is started.
#[derive(Default, Clone)]
pub struct How {
    pub record: Option<PathBuf>,
    pub hold: bool,
    /// What it logs, otherwise all but traces.
    pub log: Option<&'static str>,
    /// As this user, in the test's own namespace.
    pub user: Option<u32>,
    /// Where it looks for programs, and nowhere else.
    pub programs: Option<PathBuf>,
    /// As in a pod: the folder of its service account, and the API's address.
    pub account: Option<(PathBuf, std::net::SocketAddr)>,
}

/// Where a pod's service account is, in a mount namespace of its own whose /run is empty otherwise.
struct Mounts {
    folder: CString,
    on: Vec<CString>,
}

impl Mounts {
    fn of(folder: &Path) -> Self {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let run = std::fs::canonicalize("/var/run").unwrap();
        let on = ["", "secrets", "secrets/kubernetes.io", "secrets/kubernetes.io/serviceaccount"];
        Self { folder: text(folder), on: on.iter().map(|path| text(&run.join(path))).collect() }
    }

    fn mount(&self) -> std::io::Result<()> {
        let none = std::ptr::null();
        let mount = |from: *const libc::c_char, to: &CString, kind: *const libc::c_char, flags: libc::c_ulong| {
            // SAFETY: every text ends with a zero and outlives the call.
            unsafe { libc::mount(from, to.as_ptr(), kind, flags, std::ptr::null()) }
        };
        // SAFETY: only this process, which has one thread, gets another mount namespace.
        let mut done = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0
            && mount(none, &c"/".to_owned(), none, libc::MS_REC | libc::MS_PRIVATE) == 0
            && mount(c"none".as_ptr(), &self.on[0], c"tmpfs".as_ptr(), 0) == 0;
        for folder in &self.on[1..] {
            // SAFETY: the text ends with a zero.
            done = done && unsafe { libc::mkdir(folder.as_ptr(), 0o755) } == 0;
        }
        done = done && mount(self.folder.as_ptr(), &self.on[3], none, libc::MS_BIND) == 0;
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

/// A running agent; killed when dropped.
pub struct Agent {
    child: Child,
    pub log: PathBuf,
}

impl Agent {
    /// Starts one in a namespace. Its log is appended to a file.
    pub fn start(ns: &Ns, config: &Path, log: &Path, how: &How) -> Self {
        let stderr = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["agent_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(CONFIG, config)
            .env("NO_COLOR", "1")
            .env("RIPSTOP_LOG", how.log.unwrap_or("debug"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        if let Some(record) = &how.record {
            command.env(RECORD, record);
        }
        if let Some(programs) = &how.programs {
            command.env("PATH", programs);
        }
        if how.hold {
            command.env(HOLD, "1");
        }
        let account = how.account.as_ref().map(|(folder, api)| {
            command.env("KUBERNETES_SERVICE_HOST", api.ip().to_string());
            command.env("KUBERNETES_SERVICE_PORT", api.port().to_string());
            Mounts::of(folder)
        });
        let fd = ns.raw();
        let enter = how.user.is_none();
        if let Some(user) = how.user {
            command.uid(user).gid(user);
        }
        // SAFETY: system calls alone, which are safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if enter && libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                if let Some(account) = &account {
                    account.mount()?;
                }
                // It ends with the thread of the test that started it.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Self { child: command.spawn().unwrap(), log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How an agent that must end by itself ended.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = within(Duration::from_secs(30), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "the agent goes on: {}", self.log_text());
        status.unwrap()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Time on a processor so far, of all its threads, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let of = |task: std::fs::DirEntry| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0)
        };
        tasks.filter_map(Result::ok).map(of).sum()
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the agent ---\n{}", self.log_text());
        }
    }
}
