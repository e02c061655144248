//! Calls of a runtime: straight to the agent's socket, or through the plugin's program.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ripstop_cni_spec::wire::{PROTOCOL, Request, Response};
use ripstop_cni_spec::{CniVersion, Error};
use serde_json::value::RawValue;
use serde_json::{Value, json};

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A call that can be made any number of times; each time is a new call unless [`Call::id`] was set.
#[derive(Clone)]
pub struct Call {
    verb: &'static str,
    socket: PathBuf,
    env: Vec<(&'static str, String)>,
    pub conf: Value,
    pub id: Option<String>,
    pub timeout_ms: u64,
}

/// What a call came to: the printed result, or the error.
pub type Outcome = Result<Option<Value>, Error>;

impl Call {
    pub fn new(socket: &Path, verb: &'static str) -> Self {
        let conf = json!({"cniVersion": "1.1.0", "name": "ripstop", "type": "ripstop-cni", "socket": socket});
        let env = vec![("CNI_PATH", "/opt/cni/bin".to_owned())];
        Self { verb, socket: socket.to_owned(), env, conf, id: None, timeout_ms: 8_000 }
    }

    /// Sets or takes out (with `null`) a field of the configuration.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        if value.is_null() {
            self.conf.as_object_mut().unwrap().remove(key);
        } else {
            self.conf[key] = value;
        }
        self
    }

    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn timeout(mut self, ms: u64) -> Self {
        self.timeout_ms = ms;
        self
    }

    /// The request as the plugin would send it.
    pub fn request(&self) -> Request {
        let mut env = ripstop_cni_spec::env::Environment::default();
        env.set("CNI_COMMAND", self.verb);
        for (name, value) in &self.env {
            env.set(name, value);
        }
        let fresh = || format!("call-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Request {
            protocol: PROTOCOL,
            id: self.id.clone().unwrap_or_else(fresh),
            attempt: 1,
            timeout_ms: self.timeout_ms,
            plugin: "test".into(),
            env,
            config: RawValue::from_string(self.conf.to_string()).unwrap(),
        }
    }

    /// Sends the request and leaves the answer for later.
    pub fn send(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(&self.request().to_line().unwrap()).unwrap();
        stream
    }

    /// Makes the call on the agent's socket.
    pub fn make(&self) -> Outcome {
        receive(self.send()).expect("the agent's answer")
    }

    /// A call that must succeed.
    pub fn done(&self) -> Value {
        match self.make() {
            Ok(result) => result.unwrap_or(Value::Null),
            Err(error) => panic!("{} {:?}: {} {error}", self.verb, self.env, error.code.number()),
        }
    }

    /// A call that must fail: its code and sentence.
    pub fn refused(&self) -> (u32, String) {
        match self.make() {
            Ok(result) => panic!("{} {:?} succeeded: {result:?}", self.verb, self.env),
            Err(error) => (error.code.number(), error.to_string()),
        }
    }

    /// The plugin's program, ready to run with the configuration on its standard input.
    pub fn program(&self) -> Command {
        let mut command = Command::new(plugin());
        command.env_clear().env("CNI_COMMAND", self.verb).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }

    /// Starts the plugin and gives it the configuration.
    pub fn start(&self) -> std::process::Child {
        let mut child = self.program().spawn().unwrap();
        child.stdin.take().unwrap().write_all(self.conf.to_string().as_bytes()).unwrap();
        child
    }

    /// Runs the plugin: whether it succeeded, and the object it printed.
    pub fn run(&self) -> (bool, Value) {
        let output = self.start().wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        (output.status.success(), value)
    }
}

/// The answer on a connection; `None` where it ended without one.
pub fn receive(stream: UnixStream) -> Option<Outcome> {
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).ok()?;
    if line.last() != Some(&b'\n') {
        return None;
    }
    let outcome = Response::parse(&line).unwrap().into_outcome();
    Some(outcome.map(|raw| raw.map(|raw| serde_json::from_str(raw.get()).unwrap())))
}

/// Every version, newest first.
pub fn versions() -> [CniVersion; 5] {
    CniVersion::ALL
}

/// The plugin's program, built when first needed.
pub fn plugin() -> &'static Path {
    static PLUGIN: OnceLock<PathBuf> = OnceLock::new();
    PLUGIN.get_or_init(|| program("ripstop-cni", true))
}

/// The command, which takes long to build: as it was built, where it was.
pub fn command() -> &'static Path {
    static COMMAND: OnceLock<PathBuf> = OnceLock::new();
    COMMAND.get_or_init(|| program("ripstop", false))
}

/// A program of the workspace, built where it is missing, or always.
fn program(name: &str, anew: bool) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let is_wanted = anew || !folder.join(name).exists();
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| is_wanted) {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "-p", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
        build.env("CARGO_TARGET_DIR", folder.parent().unwrap());
        assert!(build.status().unwrap().success(), "{name} cannot be built");
    }
    let program = folder.join(name);
    assert!(program.exists(), "{} is missing: cargo build -p {name}", program.display());
    program
}
