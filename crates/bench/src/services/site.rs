//! A node with Services, its client and its server: the product's agent, kube-proxy in one of its modes, or nobody serves them.
//!
//! Each node has an API server of its own, so that they may stand beside each other and be asked in turn.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ripstop_conformance::services::{Control, Programs as Kubernetes, Stop};
use ripstop_lab::{http, ip_batch, settings, space};
use serde_json::{Value, json};

use super::load::{Draw, Server, answering};
use super::objects::{BATCH, ENDPOINTS, SERVICES, address, put, slice, slice_path};
use crate::plugin::Plugin;
use crate::scene::{Programs, Running, Scene, checkpoint, wait_for};

/// The longest that the product may take until it serves, and a rival.
const LIMIT: Duration = Duration::from_secs(600);
pub const RIVALS: Duration = Duration::from_secs(100);
const DAY: f64 = 86_400.0;
/// Of so many Services each is tried before all are taken for served.
const SAMPLE: u32 = 300;
const LAST: u32 = 10;
/// Those of iptables' tables in which kube-proxy has rules.
const LEGACY_TABLES: [&str; 3] = ["filter", "mangle", "nat"];
/// Where pods are, endpoints among them; those of this node; and the client.
const PODS: &str = "10.128.0.0/9";
const NODE_PODS: &str = "10.128.0.0/24";
const CLIENT: &str = "10.128.0.2";
const GATEWAY: &str = "169.254.1.1";
const MAC: &str = "0a:00:00:00:00:01";

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Ripstop,
    Nftables,
    Iptables,
    /// Nobody: packets go to the endpoint itself.
    Direct,
}

impl Subject {
    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ripstop => "ripstop, nftables",
            Self::Nftables => "kube-proxy, nftables",
            Self::Iptables => "kube-proxy, iptables (legacy)",
            Self::Direct => "the endpoint itself, no rules",
        }
    }
}

/// A node and what belongs to it.
pub struct Site {
    pub subject: Subject,
    pub node: PathBuf,
    pub client: PathBuf,
    /// How many Services there are, and endpoints of each.
    pub count: u32,
    pub endpoints: u32,
    process: Option<Running>,
    control: Option<Control>,
    kubernetes: Kubernetes,
    _server: Server,
    scene: Scene,
}

impl Site {
    /// Builds one, without Services.
    pub fn build(subject: Subject, number: usize, programs: &Programs, kubernetes: &Kubernetes) -> Result<Self> {
        let scene = Scene::new(&format!("services-{number}-{subject:?}").to_lowercase(), programs)?;
        let (node, far) = scene.machines("node", "far")?;
        let client = scene.netns("client")?;
        let all = ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/ipv4/conf/eth0/rp_filter"];
        settings(&node, &all.map(|name| (name, "0")))?;
        settings(&node, &[("net/ipv4/ip_forward", "1")])?;
        // Who is not served is told so at once.
        ip_batch(&far, &format!("route add local {ENDPOINTS} dev lo\nroute add unreachable {SERVICES}\n"))?;
        settings(&far, &[("net/ipv4/icmp_ratelimit", "0"), ("net/ipv4/ip_forward", "1")])?;
        ip_batch(&node, &format!("route add {ENDPOINTS} via 172.30.0.2\n"))?;
        let server = Server::start(&far)?;
        let mut this = Self {
            subject,
            node,
            client,
            count: 0,
            endpoints: 0,
            process: None,
            control: None,
            kubernetes: kubernetes.clone(),
            _server: server,
            scene,
        };
        if subject != Subject::Direct {
            this.control = Some(Control::start_at(kubernetes, &this.node, &this.folder()?, SERVICES).map_err(stopped)?);
            let node = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
                "spec": { "podCIDR": NODE_PODS, "podCIDRs": [NODE_PODS] },
            });
            this.ask("POST", "/api/v1/nodes", Some(&node))?;
            let status = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
                "status": { "addresses": [{ "type": "InternalIP", "address": "172.30.0.1" }] },
            });
            this.ask("PUT", "/api/v1/nodes/n1/status", Some(&status))?;
        }
        if subject == Subject::Ripstop {
            this.install()?;
            this.start()?;
            this.wait_ready()?;
            let plugin = Plugin::ripstop(&this.scene.programs().plugin, &this.scene.run().join("n1/cni.sock"));
            space::in_netns(&this.node, || plugin.call("ADD", "client", Some(&this.client)))??;
        } else {
            this.by_hand()?;
        }
        // Many closed connections must not fill the table of any.
        let closed = ["close", "time_wait"].map(|state| format!("net/netfilter/nf_conntrack_tcp_timeout_{state}"));
        let _ = settings(&this.node, &closed.each_ref().map(|name| (name.as_str(), "1")));
        Ok(this)
    }

    /// More Services; the agent hears of them. kube-proxy is started anew: of thousands one by one it would make rules for hours.
    pub fn grow(&mut self, count: u32, endpoints: u32) -> Result<()> {
        let is_fed = self.subject == Subject::Ripstop && self.process.is_some();
        if !is_fed {
            self.stop();
        }
        put(&self.node, self.count..count, endpoints, if is_fed { 1 } else { BATCH })?;
        if !is_fed {
            self.start()?;
        }
        (self.count, self.endpoints) = (count, endpoints);
        Ok(())
    }

    /// Starts who serves.
    pub fn start(&mut self) -> Result<()> {
        let run = self.scene.run();
        let mut command = match self.subject {
            Subject::Direct => return Ok(()),
            Subject::Ripstop => {
                let mut command = Command::new(&self.scene.programs().ripstop);
                command.arg("agent").arg("--config").arg(run.join("agent.yaml"));
                command
            }
            _ => {
                let path = run.join("kube-proxy.yaml");
                fs::write(&path, self.settings()?.to_string())?;
                let mut command = self.kubernetes.command("kube-proxy");
                command.arg(format!("--config={}", path.display()));
                if self.subject == Subject::Iptables {
                    command.env("PATH", self.legacy()?);
                }
                command
            }
        };
        let place = space::Place::host().in_netns(&self.node)?;
        self.process = Some(Running::start(&place, &mut command, &run.join("subject.log"))?);
        Ok(())
    }

    /// Ends it at once, as by a kill.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Takes every rule away.
    pub fn clear(&self) -> Result<()> {
        let empty = self.scene.run().join("no-rules");
        fs::write(&empty, LEGACY_TABLES.map(|table| format!("*{table}\nCOMMIT\n")).concat())?;
        let mut flush = Command::new("nft");
        flush.args(["flush", "ruleset"]).stdout(Stdio::null());
        let restore = ["iptables-legacy-restore", "ip6tables-legacy-restore"].map(|program| {
            let mut command = Command::new(program);
            command.arg(&empty);
            command
        });
        let is_legacy = self.subject == Subject::Iptables;
        for mut command in [flush].into_iter().chain(restore.into_iter().filter(|_| is_legacy)) {
            let status = space::Place::host().in_netns(&self.node)?.spawn(&mut command)?.wait()?;
            ensure!(status.success(), "{command:?}: {status}");
        }
        Ok(())
    }

    /// The process that serves.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Running::pid).context("nobody serves")
    }

    /// Waits until Services answer that were drawn among all; seconds from `begun`.
    pub fn wait_served(&self, begun: Instant) -> Result<f64> {
        let mut targets = self.targets(SAMPLE, 7);
        if self.subject != Subject::Direct {
            // Those that came last are served last.
            targets.extend((self.count.saturating_sub(LAST)..self.count).map(address));
        }
        let mut served = 0;
        while served < targets.len() {
            checkpoint()?;
            served += answering(&self.client, &targets[served..])?;
            let limit = if self.subject == Subject::Ripstop { LIMIT } else { RIVALS };
            if served < targets.len() && begun.elapsed() > limit {
                let log = fs::read_to_string(self.scene.run().join("subject.log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("{} does not serve {}: {}", self.subject.title(), targets[served], end.join(" | "));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds of a start that took so long behind the API server's lists: from when all Services had been read until they were served.
    pub fn own_part(&self, took: f64) -> Result<f64> {
        if self.subject != Subject::Ripstop {
            let log = fs::read_to_string(self.scene.run().join("subject.log")).unwrap_or_default();
            return took_behind_lists(&log, took).context("kube-proxy did not say when it had read Services");
        }
        let (mut read, mut served) = (None, None);
        wait_for("the agent to say that Services are served", LIMIT, || {
            let log = fs::read_to_string(self.scene.run().join("subject.log")).unwrap_or_default();
            let at = |words: &str| log.lines().find(|line| line.ends_with(words)).and_then(time_of_day);
            (read, served) = (at(" EndpointSlices are read"), at(" Services are served"));
            served.is_some()
        })?;
        let (read, served) = read.zip(served).context("the agent did not say when it had read Services")?;
        Ok((served - read).rem_euclid(DAY))
    }

    /// Services drawn among all; the endpoint itself where nobody serves.
    #[must_use]
    pub fn targets(&self, count: u32, seed: u64) -> Vec<SocketAddr> {
        let mut draw = Draw(seed);
        (0..count)
            .map(|_| match self.subject {
                Subject::Direct => ([10, 192, 1, 1], super::objects::TARGET).into(),
                _ => address(draw.below(self.count)),
            })
            .collect()
    }

    /// Gives a Service other endpoints, by the API.
    pub fn change(&self, service: u32, endpoints: u32, generation: u32) -> Result<()> {
        self.ask("PUT", &slice_path(service), Some(&slice(service, endpoints, generation)))
    }

    /// Has the agent serve by another proxy, and waits until it does.
    pub fn switch(&self, proxy: &str) -> Result<()> {
        let socket = self.scene.run().join("n1/agent.sock");
        let mut command = Command::new(&self.scene.programs().ripstop);
        command.arg("--socket").arg(socket).args(["migrate", "proxy", proxy]).stdout(Stdio::null());
        let status = command.status().context("run ripstop")?;
        ensure!(status.success(), "ripstop migrate proxy {proxy}: {status}");
        Ok(())
    }

    /// A path of programs on which iptables is the legacy one: over nf_tables, which most systems have by now, kube-proxy does not come to
    /// serve 10,000 Services in ten minutes.
    fn legacy(&self) -> Result<std::ffi::OsString> {
        let folder = self.scene.run().join("legacy");
        if !folder.exists() {
            fs::create_dir(&folder)?;
            for (name, tool) in ["iptables", "ip6tables"]
                .into_iter()
                .flat_map(|name| ["", "-save", "-restore"].map(|tool| (name, tool)))
            {
                std::os::unix::fs::symlink(
                    format!("/usr/sbin/{name}-legacy{tool}"),
                    folder.join(format!("{name}{tool}")),
                )?;
            }
        }
        let mut path = folder.into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        Ok(path)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        let control = self.control.as_ref().context("there is no API server")?;
        let reply = control.ask(method, path, body).map_err(stopped)?;
        let text = String::from_utf8_lossy(&reply.body);
        ensure!((200..300).contains(&reply.status), "{method} {path}: {}: {text}", reply.status);
        Ok(())
    }

    fn folder(&self) -> Result<PathBuf> {
        let folder = self.scene.run().join("api");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn kubeconfig(&self) -> Result<PathBuf> {
        Ok(self.control.as_ref().context("there is no API server")?.kubeconfig())
    }

    fn wait_ready(&self) -> Result<()> {
        let socket = self.scene.run().join("n1/agent.sock");
        let ready = || http::get(&socket, "/readyz", Duration::from_secs(2)).is_ok_and(|answer| answer.status == 200);
        wait_for("the agent", Duration::from_secs(60), ready)
            .with_context(|| fs::read_to_string(self.scene.run().join("subject.log")).unwrap_or_default())
    }

    /// The product's kinds at the API server, and the agent's configuration.
    fn install(&self) -> Result<()> {
        let manifest = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/ripstop.yaml"));
        let apply = ["apply", "-f", manifest.to_str().context("a path")?];
        for args in [&apply[..], &["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]] {
            let mut command = self.kubernetes.command("kubectl");
            command.arg("--kubeconfig").arg(self.kubeconfig()?).args(args).env("HOME", self.folder()?);
            command.stdout(Stdio::null());
            let status = space::Place::host().in_netns(&self.node)?.spawn(&mut command)?.wait()?;
            ensure!(status.success(), "kubectl {}: {status}", args[0]);
        }
        let (run, disk) = (self.scene.run(), self.scene.disk());
        let config = json!({
            "apiVersion": "ripstop.io/v1alpha1", "kind": "AgentConfig", "node": "n1",
            "store": { "kubernetes": { "kubeconfig": self.kubeconfig()? } },
            "runDir": run.join("n1"), "stateDir": disk.join("n1"), "cniConfDir": disk.join("net.d"),
            "services": { "proxy": "nftables", "serviceCIDRs": [SERVICES] },
            "networks": [{
                "metadata": { "name": "default" },
                "spec": { "ranges": [PODS], "rangeMode": "pod-cidr", "wiring": "routed", "backend": { "type": "host-gw" } },
            }],
        });
        for folder in [run.join("n1"), disk.join("n1"), disk.join("net.d")] {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(run.join("agent.yaml"), config.to_string())?)
    }

    /// The client's link where no plugin makes it.
    fn by_hand(&self) -> Result<()> {
        let name = self.client.file_name().and_then(|name| name.to_str()).context("a namespace without a name")?;
        ip_batch(
            &self.node,
            &format!(
                "link add h0 address {MAC} type veth peer name eth0 netns {name}\nlink set h0 up\n\
                 route add {CLIENT}/32 dev h0\n"
            ),
        )?;
        ip_batch(
            &self.client,
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {CLIENT}/32 dev eth0\nroute add {GATEWAY} dev eth0 scope link\n\
                 route add default via {GATEWAY}\nneigh replace {GATEWAY} lladdr {MAC} dev eth0 nud permanent\n"
            ),
        )?;
        Ok(())
    }

    fn settings(&self) -> Result<Value> {
        let mode = if self.subject == Subject::Iptables { "iptables" } else { "nftables" };
        let mut settings = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "hostnameOverride": "n1",
            "clientConnection": { "kubeconfig": self.kubeconfig()? },
            "detectLocalMode": "ClusterCIDR",
            "clusterCIDR": PODS,
            "conntrack": { "maxPerCore": 0, "min": 0 },
        });
        // Its own default waits a second between changes.
        settings[mode] = json!({ "minSyncPeriod": "1ms" });
        Ok(settings)
    }
}

/// The seconds since midnight at which a line of a log was written: `2026-01-31T23:59:59.123456Z …`
fn time_of_day(line: &str) -> Option<f64> {
    let (_, time) = line.split(' ').next()?.strip_suffix('Z')?.split_once('T')?;
    time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
}

/// The same by the log of kube-proxy, which says when it has a list and not when all is served. Its first line stands for its start.
fn took_behind_lists(log: &str, took: f64) -> Option<f64> {
    let time = |line: &str| {
        line.split_whitespace()
            .nth(1)?
            .split(':')
            .try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
    };
    let first = log.lines().find_map(time)?;
    let read = log.lines().filter(|line| line.contains("Caches are synced")).filter_map(time).next_back()?;
    Some(took - (read - first).rem_euclid(DAY))
}

fn stopped(stop: Stop) -> anyhow::Error {
    match stop {
        Stop::Fail(why) | Stop::Skip(why) | Stop::Differs(why) | Stop::Unclaimed(why) => anyhow!(why),
        Stop::Interrupted => anyhow!("interrupted"),
    }
}

#[cfg(test)]
mod tests {
    use super::{time_of_day, took_behind_lists};

    #[test]
    fn a_line_of_a_log_has_its_time() {
        assert_eq!(time_of_day("2026-01-31T10:02:03.250000Z  INFO agent 0.1.0"), Some(36_123.25));
        assert_eq!(time_of_day("thread 'main' panicked"), None);
    }

    #[test]
    fn what_is_behind_the_last_list_is_found_in_a_log_of_kube_proxy() {
        let log = "I1129 23:59:58.500000 3021 server.go:1] \"Version info\"\n\
                   I1129 23:59:59.000000 3021 shared_informer.go:388] \"Caches are synced\" controller=\"service config\"\n\
                   I1130 00:00:00.500000 3021 shared_informer.go:388] \"Caches are synced\" controller=\"endpoint slice config\"\n";
        assert_eq!(took_behind_lists(log, 10.0), Some(8.0));
        assert_eq!(took_behind_lists("", 10.0), None);
    }
}
