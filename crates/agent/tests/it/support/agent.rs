//! An agent in a process of its own: this program, started again.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

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
        if how.hold {
            command.env(HOLD, "1");
        }
        let fd = ns.raw();
        let enter = how.user.is_none();
        if let Some(user) = how.user {
            command.uid(user).gid(user);
        }
        // SAFETY: two system calls, which are safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if enter && libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
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
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
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
