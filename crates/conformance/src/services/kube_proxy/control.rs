//! A control plane as small as it can be: etcd, the API server, and kubectl, which speaks to it with TLS for us.
//!
//! All of it runs in the scene's node and listens at its loopback address alone.
//!
//! Invariants: what was started ends with the value; who may ask may do everything, since nobody else is there.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::http::{Reply, ask};
use crate::case::{Stop, Verdict, fail, skip};
use crate::interrupt;
use crate::space::Place;

/// How long the API server may need until it is ready, on a machine that has other things to do.
const START: Duration = Duration::from_secs(120);
/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(30);
/// The only user's token.
const TOKEN: &str = "conformance";
/// Programs of Kubernetes that are needed.
const PROGRAMS: [&str; 3] = ["kube-apiserver", "kube-proxy", "kubectl"];

/// Where programs of others are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder of those of Kubernetes.
    kubernetes: PathBuf,
}

impl Programs {
    /// The programs in a folder; etcd is the machine's.
    ///
    /// # Errors
    /// A skip that names what is not there.
    pub fn find(kubernetes: &Path) -> Verdict<Self> {
        if let Some(missing) = PROGRAMS.iter().map(|name| kubernetes.join(name)).find(|path| !path.is_file()) {
            return skip(format!("there is no {}", missing.display()));
        }
        let etcd = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !etcd.is_ok_and(|status| status.success()) {
            return skip("there is no etcd: install Debian's etcd-server");
        }
        Ok(Self { kubernetes: kubernetes.into() })
    }

    /// A program of Kubernetes.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        Command::new(self.kubernetes.join(name))
    }
}

/// A program that is ended when it is forgotten.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it at a place; what it says is added to `LOG` in the folder.
    pub fn start(place: &Place, command: &mut Command, folder: &Path, log: &str) -> Verdict<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let path = folder.join(log);
        let open = || File::options().create(true).append(true).open(&path);
        let started = open().and_then(|out| {
            command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
            place.spawn(command)
        });
        match started {
            Ok(child) => Ok(Self { child, log: path }),
            Err(error) => skip(format!("{program} cannot be started: {error}")),
        }
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// The control plane.
#[derive(Debug)]
pub struct Control {
    folder: PathBuf,
    server: Daemon,
    _asker: Daemon,
    _etcd: Daemon,
}

impl Control {
    /// Starts it in the network namespace at a path, with its files in a folder.
    ///
    /// # Errors
    /// A skip where a program cannot be started, a failure where it does not become ready.
    pub fn start_at(programs: &Programs, netns: &Path, folder: &Path, services: &str) -> Verdict<Self> {
        let place = Place::at(netns).map_err(|error| Stop::Skip(format!("{}: {error}", netns.display())))?;
        Self::start(programs, &place, folder, services)
    }

    /// Starts it and waits until it is ready. `services` is what ClusterIPs are given from.
    pub(super) fn start(programs: &Programs, place: &Place, folder: &Path, services: &str) -> Verdict<Self> {
        write_files(folder).map_err(|error| Stop::Skip(format!("{} cannot be written: {error}", folder.display())))?;
        let file = |name: &str| folder.join(name).display().to_string();
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "one", "--data-dir", &file("etcd"), "--unsafe-no-fsync", "--log-level", "error"]);
        etcd.args([
            "--listen-client-urls",
            "http://127.0.0.1:2379",
            "--advertise-client-urls",
            "http://127.0.0.1:2379",
        ]);
        etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--initial-cluster", "one=http://127.0.0.1:2380"]);
        etcd.args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"]);
        // Whoever puts many objects there at once goes around the API server.
        etcd.args(["--max-txn-ops", "10000", "--max-request-bytes", "33554432", "--quota-backend-bytes", "8589934592"]);
        let etcd = Daemon::start(place, &mut etcd, folder, "etcd.log")?;
        let mut server = programs.command("kube-apiserver");
        // The key of its own certificate signs tokens, too: nobody asks for one.
        let key = file("certificates/apiserver.key");
        server.args([
            "--etcd-servers",
            "http://127.0.0.1:2379",
            "--bind-address",
            "127.0.0.1",
            "--secure-port",
            "6443",
        ]);
        server.args(["--advertise-address", "127.0.0.1"]);
        server.args(["--cert-dir", &file("certificates"), "--token-auth-file", &file("tokens.csv")]);
        server.args(["--authorization-mode", "AlwaysAllow", "--disable-admission-plugins", "ServiceAccount"]);
        server.args(["--service-account-issuer", "https://kubernetes.default.svc", "--profiling=false"]);
        server.args(["--service-account-key-file", &key, "--service-account-signing-key-file", &key]);
        server.args(["--service-cluster-ip-range", services, "--endpoint-reconciler-type", "none"]);
        let server = Daemon::start(place, &mut server, folder, "apiserver.log")?;
        wait_for_file(&folder.join("certificates/apiserver.crt"))?;
        let mut asker = programs.command("kubectl");
        asker.args(["--kubeconfig", &file("kubeconfig"), "proxy", "--unix-socket", &file("api.sock")]);
        asker.env("HOME", folder);
        let asker = Daemon::start(place, &mut asker, folder, "kubectl.log")?;
        let mut this = Self { folder: folder.into(), server, _asker: asker, _etcd: etcd };
        this.await_ready()?;
        Ok(this)
    }

    /// The file by which clients speak to it.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Stops the API server where it is, or lets it go on: connections stay, and nobody is answered.
    pub fn freeze(&self, frozen: bool) {
        self.server.signal(if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// Asks the API.
    ///
    /// # Errors
    /// Where it does not answer. A refusal is an answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Verdict<Reply> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = UnixStream::connect(self.folder.join("api.sock")).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER))?;
            ask(stream, method, path, body.as_bytes())
        });
        answer.map_err(|error| Stop::Fail(format!("the API server does not answer {method} {path}: {error}")))
    }

    fn await_ready(&mut self) -> Verdict {
        let begun = Instant::now();
        loop {
            // Behind its readiness it makes what it needs itself: the ranges of Services and their first namespace.
            let there = ["/readyz", "/api/v1/namespaces/default", "/apis/networking.k8s.io/v1/servicecidrs/kubernetes"];
            if there.iter().all(|path| self.ask("GET", path, None).is_ok_and(|reply| reply.status == 200)) {
                return Ok(());
            }
            if interrupt::happened() {
                return Err(Stop::Interrupted);
            }
            if self.server.has_ended() || begun.elapsed() > START {
                return fail(format!("the API server does not become ready: {}", self.server.last_words()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// kubectl reads the certificate once, when it starts.
fn wait_for_file(path: &Path) -> Verdict {
    let begun = Instant::now();
    while !path.exists() {
        if begun.elapsed() > START {
            return fail(format!("the API server does not write {}", path.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn write_files(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("tokens.csv"), format!("{TOKEN},conformance,conformance,system:masters\n"))?;
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "c",
            // It signs for itself.
            "cluster": {
                "server": "https://127.0.0.1:6443",
                "certificate-authority": folder.join("certificates/apiserver.crt"),
            },
        }],
        "users": [{ "name": "u", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "current-context": "c",
    });
    // JSON is YAML.
    fs::write(folder.join("kubeconfig"), format!("{document:#}\n"))
}
