//! An agent that answers what a test tells it to, and the program that asks it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

/// The program under test, with nothing of the environment that changes what it prints.
pub fn ripstop() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.env_remove("COLUMNS").env_remove("CLICOLOR_FORCE").env_remove("NO_COLOR").env("TERM", "dumb");
    command.stdin(Stdio::null());
    command
}

/// How a run of the program ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program with these arguments.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ended {
    ripstop().args(args).output().unwrap().into()
}

/// A request as it arrived: `GET /path`, and the body.
pub type Request = (String, String);

/// What is answered, by `GET /path`: bytes of a whole HTTP answer.
type Answers = BTreeMap<String, Vec<u8>>;

/// The agent.
pub struct Fake {
    dir: TempDir,
    answers: Arc<Mutex<Answers>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Listens. The thread ends with the test program.
    pub fn new() -> Self {
        let fake = Self { dir: tempfile::tempdir().unwrap(), answers: Arc::default(), requests: Arc::default() };
        let listener = UnixListener::bind(fake.socket()).unwrap();
        let (answers, requests) = (fake.answers.clone(), fake.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &answers, &requests);
            }
        });
        fake
    }

    /// An agent that answers this to one `GET`.
    pub fn answering(path: &str, body: &str) -> Self {
        let fake = Self::new();
        fake.on(&format!("GET {path}"), 200, body);
        fake
    }

    /// Answers `request` (`GET /path`) with a status and a body from now on.
    pub fn on(&self, request: &str, status: u16, body: &str) {
        let length = body.len();
        self.on_bytes(request, &format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}"));
    }

    /// Answers `request` with these very bytes from now on.
    pub fn on_bytes(&self, request: &str, answer: &str) {
        self.answers.lock().unwrap().insert(request.into(), answer.into());
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// A folder that goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What arrived so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The program, told to ask this agent.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = ripstop();
        command.arg("--socket").arg(self.socket()).args(args);
        command
    }

    /// Runs the program against this agent.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.command(args).output().unwrap().into()
    }
}

/// Runs a copy of the program, for the program may lie where root alone may look, as a user without any right.
pub fn as_nobody(dir: &Path, args: &[&str]) -> Ended {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
    let copy = dir.join("ripstop");
    fs::copy(env!("CARGO_BIN_EXE_ripstop"), &copy).unwrap();
    let mut command = Command::new(&copy);
    command.args(args).current_dir("/").gid(65_534).uid(65_534);
    // A child that another test starts has the copy open for writing until it is its own program.
    let mut tries = 0..500;
    loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries.next().is_some() => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            result => return result.unwrap().into(),
        }
    }
}

/// Answers one request; a broken one is not answered.
fn serve(stream: UnixStream, answers: &Mutex<Answers>, requests: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request = head[0].strip_suffix(" HTTP/1.1").unwrap().to_owned();
    let missing = "HTTP/1.1 404 X\r\nContent-Length: 24\r\n\r\n{\"error\":\"no such path\"}";
    let answer = answers.lock().unwrap().get(&request).cloned();
    requests.lock().unwrap().push((request, String::from_utf8(body).unwrap()));
    let _ = reader.into_inner().write_all(&answer.unwrap_or_else(|| missing.into()));
}
