//! Services of a node are taken over from Kubernetes' own kube-proxy, and given back, while connections come and go on.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
    /// Its `iptables` is that of a backend.
    fn start(scene: &Scene, path: &Path, mode: &str, backend: &str) -> Self {
        let folder = scene.world.dir.path();
        let programs = folder.join("programs");
        if std::fs::create_dir(&programs).is_ok() {
            for (word, verb) in
                ["iptables", "ip6tables"].iter().flat_map(|word| ["", "-save", "-restore"].map(|verb| (word, verb)))
            {
                let program = format!("/usr/sbin/{word}-{backend}{verb}");
                std::os::unix::fs::symlink(program, programs.join(format!("{word}{verb}"))).unwrap();
            }
        }
        let before = std::env::var("PATH").unwrap_or_default();
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
        command.env("PATH", format!("{}:{before}", programs.display()));
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
    fn of_kubernetes(&self, backend: &str) -> BTreeSet<String> {
        let tables = self.world.node.run("nft", &["list", "tables"]);
        let chains = ["iptables", "ip6tables"]
            .map(|word| self.world.node.tried(&format!("{word}-{backend}-save"), &[]).1)
            .concat();
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

/// What happens while a load goes on.
struct Story {
    load: Load,
    since: Instant,
    /// When each part began, and whether ours serve alone in it.
    parts: Vec<(Duration, bool, &'static str)>,
}

impl Story {
    fn begin(scene: &Scene) -> Self {
        let (load, since) = (scene.load(), Instant::now());
        Self { load, since, parts: vec![(Duration::ZERO, false, "kube-proxy alone")] }
    }

    fn part(&mut self, alone: bool, what: &'static str) {
        self.load.go_on(100);
        println!("{:>6.1?} {what}", self.since.elapsed());
        self.parts.push((self.since.elapsed(), alone, what));
    }

    /// What stays has not failed, and of new connections none while ours serve alone. Where kube-proxy's rules are there, a few may: it
    /// was seen to refuse one of a thousand while both serve or while its tables go, and nothing is written of ours at that time.
    fn end(self, scene: &Scene) {
        let most = self.load.made() / 200;
        let faults = self.load.end().into_iter();
        let (new, staying): (Vec<String>, Vec<String>) = faults.partition(|fault| fault.contains(", new: "));
        assert_eq!(staying, Vec::<String>::new());
        let told = new.into_iter().map(|fault| {
            let begun = begun(&fault);
            let part = self.parts.iter().rev().find(|(at, ..)| *at <= begun).unwrap_or(&self.parts[0]);
            (part.1, format!("{}: {fault}", part.2))
        });
        let (ours, its): (Vec<_>, Vec<_>) = told.partition(|(alone, _)| *alone);
        println!("failed while rules of kube-proxy were there: {its:#?}");
        if !(ours.is_empty() && its.is_empty()) {
            println!("what was done here: {:#}", scene.world.get("/v1/journal"));
        }
        assert_eq!(ours, []);
        assert!(its.len() as u64 <= most, "{its:#?}");
    }
}

/// When a connection began that failed, as its fault says.
fn begun(fault: &str) -> Duration {
    let at = fault.split(" at ").nth(1).and_then(|rest| rest.split('s').next()?.parse().ok());
    Duration::from_secs_f64(at.unwrap_or_else(|| panic!("when it began is not said: {fault}")))
}

/// In a mode of kube-proxy, by a backend of iptables.
fn is_taken_over_and_given_back(mode: &str, backend: &'static str) {
    let is_possible = is_possible("kube-proxy at an API server");
    let Some(path) = program_of_kubernetes().filter(|_| is_possible) else { return };
    command();
    let scene = scene("none", &How::default());
    let iptables = format!("iptables-{backend}");
    for line in OTHERS {
        scene.world.node.run(&iptables, &line.split(' ').collect::<Vec<_>>());
    }
    let address = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "172.30.1.11"}]}}"#;
    scene.server.kubectl(&["patch", "node", "n1", "--subresource=status", "--type=merge", "-p", address]);
    let before = scene.of_kubernetes(backend);
    // Who calls before anybody serves goes out, and would go there again from the same port for as long as that is remembered.
    let forget = |seconds: u64| {
        let setting = format!("net.netfilter.nf_conntrack_tcp_timeout_syn_sent={seconds}");
        scene.world.node.run("sysctl", &["-qw", &setting]);
    };
    forget(1);
    let proxy = KubeProxy::start(&scene, &path, mode, backend);
    assert!(soon(|| scene.is_served()), "{}", scene.log());
    std::thread::sleep(Duration::from_millis(1200));
    forget(120);
    let mut story = Story::begin(&scene);
    story.load.go_on(200);
    // It runs: ours serve, and nothing of it is taken away.
    story.part(false, "ours come");
    let (done, said) = scene.migrate("from kube-proxy --timeout 5s");
    assert!(!done && said.contains("kube-proxy still runs on this node (process "), "{said}");
    assert_eq!(scene.world.get("/v1/proxy")["proxy"], "nftables");
    assert!(scene.of_kubernetes(backend).len() > before.len());
    story.part(false, "kube-proxy ends");
    drop(proxy);
    let (done, said) = scene.migrate("from kube-proxy --dry-run");
    assert!(done && said.contains(if mode == "nftables" { "nft table ip kube-proxy" } else { "KUBE-…" }), "{said}");
    story.part(false, "what it left goes");
    let (done, said) = scene.migrate("from kube-proxy --timeout 60s");
    assert!(done && said.contains("removed: "), "{said}");
    assert_eq!(scene.of_kubernetes(backend), before, "{said}");
    story.part(true, "ours alone");
    // Back: not before it serves.
    let (done, said) = scene.migrate("to kube-proxy --timeout 1s");
    assert!(!done && said.contains("kube-proxy does not serve on this node yet"), "{said}");
    scene.expect("nftables");
    story.part(false, "kube-proxy starts");
    let _proxy = KubeProxy::start(&scene, &path, mode, backend);
    let (done, said) = scene.migrate("to kube-proxy --timeout 60s");
    assert!(done, "{said}\n{}", scene.log());
    scene.expect("none");
    story.part(false, "kube-proxy alone again");
    story.load.go_on(100);
    story.end(&scene);
    let rules = scene.world.node.run(&format!("{iptables}-save"), &[]);
    let others = ["-A OUTPUT -d 192.0.2.8/32 -j KUBE-FIREWALL", "-A PREROUTING -d 192.0.2.9/32 -j RETURN"];
    assert!(others.iter().all(|rule| rules.contains(rule)), "{rules}");
}

#[test]
fn is_taken_over_from_its_iptables_and_given_back() {
    is_taken_over_and_given_back("iptables", "nft");
}

#[test]
fn is_taken_over_from_its_legacy_iptables_and_given_back() {
    is_taken_over_and_given_back("iptables", "legacy");
}

#[test]
fn is_taken_over_from_its_nftables_and_given_back() {
    is_taken_over_and_given_back("nftables", "nft");
}
