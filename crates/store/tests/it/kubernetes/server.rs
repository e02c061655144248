//! A real API server of Kubernetes for tests, with an etcd of its own: started for a test, ended with it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// The version that is tested with.
const VERSION: &str = "v1.36.2";

/// Who asks. The operator may do everything; the agent what `deploy/ripstop.yaml` allows it.
pub const OPERATOR: &str = "operator";
pub const AGENT: &str = "system:serviceaccount:ripstop:ripstop-agent";
/// Somebody who may do nothing.
pub const NOBODY: &str = "nobody";

/// The cache that `make k8s` and `scripts/programs` fill.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.unwrap_or_else(home).join("ripstop")
}

/// The folder of the programs.
fn programs() -> PathBuf {
    cache().join(format!("kubernetes-{VERSION}"))
}

/// Whether everything that a test needs is here. Says so where it is not.
pub fn is_here(what: &str) -> bool {
    let missing = ["kube-apiserver", "kubectl"].into_iter().find(|program| !programs().join(program).is_file());
    let etcd = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match (missing, etcd.is_ok_and(|status| status.success())) {
        (None, true) => return true,
        (Some(program), _) => {
            println!("SKIPPED: {what}: {program} is not in {}: `make k8s` builds it", programs().display());
        }
        (None, false) => println!("SKIPPED: {what}: etcd-server is not installed"),
    }
    false
}

/// Where and how a server runs.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// In this network namespace, with this address, instead of the test's own and a loopback address.
    pub place: Option<(RawFd, Ipv4Addr)>,
    /// More arguments of the API server.
    pub args: Vec<String>,
    /// Its etcd, instead of the one that is installed.
    pub etcd: Option<PathBuf>,
}

pub struct ApiServer {
    pub dir: tempfile::TempDir,
    setup: Setup,
    address: Ipv4Addr,
    port: u16,
    etcd: Child,
    server: Option<Child>,
}

static SERVERS: AtomicU16 = AtomicU16::new(0);

/// 127.0.0.0/8 is this host's: every process takes an address of its own, so that ports never collide.
fn loopback() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 | high, middle, low)
}

impl ApiServer {
    /// Starts one with our kinds, and waits until it serves them.
    pub fn start(setup: Setup) -> Self {
        let this = Self::bare(setup);
        this.apply_ours();
        this
    }

    /// The manifest of the project.
    pub fn apply_ours(&self) {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ripstop.yaml");
        self.kubectl(&["apply", "-f", manifest.to_str().unwrap()]);
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);
        self.until_ours_are_served();
    }

    /// A server is ready, and a kind established, before the kind is served and known to clients.
    fn until_ours_are_served(&self) {
        for kind in ["networks", "nodestates", "rangeclaims"] {
            self.until(&["get", kind], |output| output.status.success());
        }
    }

    /// Starts one without our kinds.
    pub fn bare(setup: Setup) -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("ripstop-kube").tempdir_in(base).unwrap();
        let address = setup.place.map_or_else(loopback, |(_, address)| address);
        let port = 6443 + SERVERS.fetch_add(1, Ordering::Relaxed) * 10;
        write_secrets(dir.path(), address);
        let etcd = spawn_etcd(&setup, dir.path(), address, port);
        let mut this = Self { dir, setup, address, port, etcd, server: None };
        for user in [OPERATOR, AGENT, NOBODY] {
            this.write_kubeconfig(user, &this.kubeconfig(user), this.address());
        }
        this.launch();
        this
    }

    pub fn address(&self) -> SocketAddr {
        (self.address, self.port).into()
    }

    /// The kubeconfig of a user.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.path().join(format!("{}.kubeconfig", user.replace(':', "-")))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A kubeconfig by which a user asks at an address.
    pub fn write_kubeconfig(&self, user: &str, path: &Path, at: SocketAddr) {
        let ca = self.file("ca.pem");
        let name = self.address;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- {{name: c, context: {{cluster: c, user: u}}}}\n\
             clusters:\n- {{name: c, cluster: {{server: 'https://{at}', certificate-authority: {ca}, tls-server-name: {name}}}}}\n\
             users:\n- {{name: u, user: {{token: {token}}}}}\n",
            ca = ca.display(),
            token = token_of(user),
        );
        std::fs::write(path, text).unwrap();
    }

    /// Starts the API server that was ended, and waits until it serves our kinds again.
    pub fn restart(&mut self) {
        self.launch();
        self.until_ours_are_served();
    }

    fn launch(&mut self) {
        let port = self.port.to_string();
        let bind = self.address.to_string();
        let file = |name: &str| self.file(name).display().to_string();
        let mut command = self.command("kube-apiserver", "apiserver.log");
        command.args(["--etcd-servers", &format!("http://{bind}:{}", self.port + 1)]);
        command.args(["--secure-port", &port, "--bind-address", &bind, "--advertise-address", &bind]);
        command.args(["--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC"]);
        command.args(["--endpoint-reconciler-type", "none", "--disable-admission-plugins", "ServiceAccount"]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc", "--v", "1"]);
        for (flag, name) in [
            ("tls-cert-file", "server.pem"),
            ("tls-private-key-file", "server.key"),
            ("client-ca-file", "ca.pem"),
            ("token-auth-file", "tokens.csv"),
            ("service-account-key-file", "account.pub"),
            ("service-account-signing-key-file", "account.key"),
            ("audit-policy-file", "audit-policy.yaml"),
            ("audit-log-path", "audit.log"),
        ] {
            command.args([format!("--{flag}"), file(name)]);
        }
        command.args(&self.setup.args);
        self.server = Some(command.spawn().unwrap());
        self.until(&["get", "--raw", "/readyz"], |output| output.status.success());
        // The roles that come with it are written behind its readiness.
        self.until(&["get", "clusterrole", "system:discovery"], |output| output.status.success());
    }

    /// Ends the API server at once; its etcd goes on.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    fn command(&self, program: &str, log: &str) -> Command {
        let log = File::options().create(true).append(true).open(self.file(log)).unwrap();
        let mut command = within(&self.setup, &programs().join(program).display().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    /// Runs `kubectl` as the operator, and answers what it printed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_with(args, "")
    }

    /// The same with something to read.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Output {
        let mut command = within(&self.setup, &programs().join("kubectl").display().to_string());
        command.env("KUBECONFIG", self.kubeconfig(OPERATOR)).env("HOME", self.dir.path()).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Applies objects that are written here.
    #[track_caller]
    pub fn apply(&self, text: &str) {
        let output = self.kubectl_with(&["apply", "--server-side", "-f", "-"], text);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn until(&self, args: &[&str], done: impl Fn(&Output) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let output = self.try_kubectl(args);
            if done(&output) {
                return;
            }
            let log = || {
                let text = std::fs::read_to_string(self.file("apiserver.log")).unwrap_or_default();
                text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
            };
            let ended =
                self.server.as_ref().is_some_and(|server| !Path::new(&format!("/proc/{}/exe", server.id())).exists());
            assert!(!ended && Instant::now() < deadline, "kubectl {args:?}: {output:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
        let _ = (self.etcd.kill(), self.etcd.wait());
    }
}

pub fn token_of(user: &str) -> String {
    format!("token-of-{}", user.replace(':', "-"))
}

/// A program that ends with this process, however that ends, in the place where servers are.
fn within(setup: &Setup, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    if let Some((ns, _)) = setup.place {
        // SAFETY: one system call, which is safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let ns = std::os::fd::BorrowedFd::borrow_raw(ns);
                rustix::thread::move_into_link_name_space(ns, Some(rustix::thread::LinkNameSpaceType::Network))
                    .map_err(Into::into)
            });
        }
    }
    command
}

fn spawn_etcd(setup: &Setup, dir: &Path, address: Ipv4Addr, port: u16) -> Child {
    let log = File::create(dir.join("etcd.log")).unwrap();
    let program = setup.etcd.as_ref().map_or_else(|| "etcd".to_owned(), |path| path.display().to_string());
    let mut command = within(setup, &program);
    let (client, peer) = (format!("http://{address}:{}", port + 1), format!("http://{address}:{}", port + 2));
    command.args(["--name", "m", "--logger", "zap", "--log-level", "warn", "--data-dir"]).arg(dir.join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
    command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("m={peer}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// An authority, the server's certificate, tokens, and what is written to the audit log.
pub fn write_secrets(dir: &Path, address: Ipv4Addr) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes");
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let names = vec![address.to_string(), "kubernetes.default.svc".to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("server.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
    let account = KeyPair::generate().unwrap();
    std::fs::write(dir.join("account.key"), account.serialize_pem()).unwrap();
    std::fs::write(dir.join("account.pub"), account.public_key_pem()).unwrap();
    let tokens: String = [(OPERATOR, "system:masters"), (AGENT, "system:serviceaccounts"), (NOBODY, "nobodies")]
        .iter()
        .map(|(user, group)| format!("{},{user},{user},{group}\n", token_of(user)))
        .collect();
    std::fs::write(dir.join("tokens.csv"), tokens).unwrap();
    let policy =
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: Metadata}\n";
    std::fs::write(dir.join("audit-policy.yaml"), policy).unwrap();
}
