//! Services of a node are taken over from Kubernetes' own kube-proxy, and given back, while connections come and go on.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::kubernetes::is_possible;
use crate::proxies::{Scene, scene};
use crate::server::{OPERATOR, cache};
use crate::support::agent::How;
use crate::support::cni::command;
use crate::support::load::Load;
use crate::support::soon;

/// Its program, as `make k8s` builds it.
fn program_of_kubernetes() -> Option<PathBuf> {
    let path = cache().join("kubernetes-v1.36.2/kube-proxy");
    if !path.is_file() {
        println!("SKIPPED: {} is not there: `make k8s` builds it", path.display());
        return None;
    }
    Some(path)
}

/// kube-proxy on the node of a scene; it ends with this, and leaves its rules.
struct KubeProxy(Child);

impl KubeProxy {
    fn start(scene: &Scene, path: &Path, mode: &str) -> Self {
        let folder = scene.world.dir.path();
        let kubeconfig = folder.join("kubeconfig-of-kube-proxy");
        scene.server.write_kubeconfig(OPERATOR, &kubeconfig, scene.server.address());
        let config = folder.join("kube-proxy.yaml");
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\n\
             hostnameOverride: n1\nclientConnection: {{kubeconfig: {}}}\nclusterCIDR: 10.244.7.0/24\n\
             detectLocalMode: ClusterCIDR\nconntrack: {{maxPerCore: 0, min: 0}}\n\
             iptables: {{minSyncPeriod: 10ms}}\nnftables: {{minSyncPeriod: 10ms}}\n",
            kubeconfig.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = File::options().create(true).append(true).open(folder.join("kube-proxy.log")).unwrap();
        let mut command = Command::new(path);
        command.arg(format!("--config={}", config.display())).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let fd = scene.world.node.raw();
        // SAFETY: system calls alone, which are safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(fd, libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Self(command.spawn().unwrap())
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

impl Scene {
    /// `ripstop migrate …` on the node: whether it succeeded, and what it said.
    fn migrate(&self, words: &str) -> (bool, String) {
        let socket = self.world.run_dir().join("agent.sock").display().to_string();
        let words = words.split(' ').chain(["--socket", &socket]);
        let args: Vec<&str> = ["migrate"].into_iter().chain(words).collect();
        self.world.node.tried(command().to_str().unwrap(), &args)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.world.dir.path().join("kube-proxy.log")).unwrap_or_default()
    }

    /// Names in netfilter that begin like kube-proxy's and kubelet's. Each once: kube-proxy makes kubelet's chain, too, where it is not
    /// there, and it stays.
    fn of_kubernetes(&self) -> BTreeSet<String> {
        let tables = self.world.node.run("nft", &["list", "tables"]);
        let chains =
            ["iptables-nft-save", "ip6tables-nft-save"].map(|save| self.world.node.tried(save, &[]).1).concat();
        let names = chains.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        let names = names.filter(|name| name.starts_with("KUBE-")).map(str::to_owned);
        let tables = tables.lines().filter(|line| line.contains("kube-proxy")).map(str::to_owned);
        names.chain(tables).collect()
    }
}

const OTHERS: [&str; 4] = [
    "-t filter -N KUBE-FIREWALL",
    "-t filter -A OUTPUT -d 192.0.2.8/32 -j KUBE-FIREWALL",
    "-t mangle -N KUBE-KUBELET-CANARY",
    "-t nat -A PREROUTING -d 192.0.2.9/32 -j RETURN",
];

/// Who may serve at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    KubeProxy,
    Both,
    Ours,
}

/// What happens while a load goes on.
struct Story {
    load: Load,
    since: Instant,
    /// When each part began.
    parts: Vec<(Duration, By, &'static str)>,
}

impl Story {
    fn begin(scene: &Scene) -> Self {
        let (load, since) = (scene.load(), Instant::now());
        Self { load, since, parts: vec![(Duration::ZERO, By::KubeProxy, "kube-proxy alone")] }
    }

    fn part(&mut self, by: By, what: &'static str) {
        self.load.go_on(100);
        println!("{:>6.1?} {what}", self.since.elapsed());
        self.parts.push((self.since.elapsed(), by, what));
    }

    /// The part in which a connection began that failed so long after the first one.
    fn part_of(&self, fault: &str) -> (By, &'static str) {
        let after = fault.split(" after ").nth(1).and_then(|rest| rest.split('s').next()?.parse().ok());
        let after = Duration::from_secs_f64(after.unwrap_or_default());
        let waited = if fault.contains("timed out") { Duration::from_secs(5) } else { Duration::ZERO };
        let at = after.saturating_sub(waited);
        let part = self.parts.iter().rev().find(|(begin, ..)| *begin <= at).unwrap_or(&self.parts[0]);
        (part.1, part.2)
    }

    /// What stays has not failed, and of new connections none while ours serve. Where kube-proxy serves alone some may.
    fn end(self) {
        let Self { load, since, parts } = self;
        let most = load.made() / 200;
        let faults = load.end();
        let told = Self { load: Load::start(&[], TCP.parse().unwrap(), TCP.parse().unwrap()), since, parts };
        let (new, staying): (Vec<String>, Vec<String>) = faults.into_iter().partition(|fault| fault.contains(", new: "));
        assert_eq!(staying, Vec::<String>::new());
        let parts: Vec<(By, &str, String)> = new.into_iter().map(|fault| (told.part_of(&fault).0, told.part_of(&fault).1, fault)).collect();
        println!("failed: {parts:#?}");
        let (its, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(|(by, ..)| *by == By::KubeProxy);
        assert_eq!(others, []);
        assert!(its.len() as u64 <= most, "{its:#?}");
    }
}

fn is_taken_over_and_given_back(mode: &str) {
    let is_possible = is_possible("kube-proxy at an API server");
    let Some(path) = program_of_kubernetes().filter(|_| is_possible) else { return };
    command();
    let scene = scene("none", &How::default());
    for line in OTHERS {
        scene.world.node.run("iptables-nft", &line.split(' ').collect::<Vec<_>>());
    }
    let address = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "172.30.1.11"}]}}"#;
    scene.server.kubectl(&["patch", "node", "n1", "--subresource=status", "--type=merge", "-p", address]);
    let before = scene.of_kubernetes();
    let proxy = KubeProxy::start(&scene, &path, mode);
    assert!(soon(|| scene.is_served()), "{}", scene.log());
    let load = scene.load();
    let since = std::time::Instant::now();
    let at = |what: &str| println!("{:>6.1?} {mode}: {what}", since.elapsed());
    // What fails while it serves alone is its own.
    println!("kube-proxy alone: {:?}", load.faults());
    // It runs: ours serve, and nothing of it is taken away.
    let (done, said) = scene.migrate("from kube-proxy --timeout 5s");
    assert!(!done && said.contains("kube-proxy still runs on this node (process "), "{said}");
    assert_eq!(scene.world.get("/v1/proxy")["proxy"], "nftables");
    assert!(scene.of_kubernetes().len() > before.len());
    load.go_on(100);
    at("both serve");
    drop(proxy);
    let (done, said) = scene.migrate("from kube-proxy --dry-run");
    assert!(done && said.contains(if mode == "nftables" { "nft table ip kube-proxy" } else { "KUBE-…" }), "{said}");
    let (done, said) = scene.migrate("from kube-proxy --timeout 60s");
    assert!(done && said.contains("removed: "), "{said}");
    assert_eq!(scene.of_kubernetes(), before, "{said}");
    load.go_on(100);
    at("kube-proxy is gone");
    // Back: not before it serves.
    let (done, said) = scene.migrate("to kube-proxy --timeout 1s");
    assert!(!done && said.contains("kube-proxy does not serve on this node yet"), "{said}");
    scene.expect("nftables");
    let _proxy = KubeProxy::start(&scene, &path, mode);
    at("kube-proxy starts");
    let (done, said) = scene.migrate("to kube-proxy --timeout 60s");
    at("kube-proxy serves");
    assert!(done, "{said}\n{}", scene.log());
    scene.expect("none");
    load.go_on(100);
    expect_few_faults(load);
    let rules = scene.world.node.run("iptables-nft-save", &[]);
    let others = ["-A OUTPUT -d 192.0.2.8/32 -j KUBE-FIREWALL", "-A PREROUTING -d 192.0.2.9/32 -j RETURN"];
    assert!(others.iter().all(|rule| rules.contains(rule)), "{rules}");
}

#[test]
fn is_taken_over_from_its_iptables_and_given_back() {
    is_taken_over_and_given_back("iptables");
}

#[test]
fn is_taken_over_from_its_nftables_and_given_back() {
    is_taken_over_and_given_back("nftables");
}
