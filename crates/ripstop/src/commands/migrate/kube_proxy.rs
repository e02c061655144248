//! `ripstop migrate from kube-proxy` and `to kube-proxy`: Services of a node are served by the one instead of the other, while
//! connections go on.
//!
//! Both may stand beside each other: each leads a new connection to a right endpoint, and one that is there belongs to connection
//! tracking. So who is to serve comes first, and the other goes then. kube-proxy takes nothing away when it ends, and puts back what is
//! taken while it runs; so its leavings go when it has ended, which is the cluster's to do.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ripstop_agent::KubeProxy;
use serde_json::Value;

use super::proxy::{switch, wait};
use crate::ask::Agent;
use crate::duration;
use crate::failure::Failure;
use crate::print::text::field;
use crate::print::{Out, talk};
use crate::target::Target;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// The port of its health check, where nothing else was said to it.
const HEALTH: u16 = 10256;
/// So long it has to serve: it begins with one family a moment before the other.
const SETTLED: Duration = Duration::from_secs(1);
/// What it has to answer in.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serve this node's Services in the place of kube-proxy, while connections go on
///
/// On the node itself, as root. Its agent serves Services; then it is waited until kube-proxy has ended here, which you see
/// to (`kubectl -n kube-system delete daemonset kube-proxy`, or a node affinity that leaves this node out); then what it left
/// is removed: its tables of nftables, its chains of iptables in either backend, its virtual servers and their link. Chains of
/// kubelet stay, and so does everything of others. Interrupted, it is started again and goes on.
#[derive(Debug, Args)]
pub struct From {
    /// By what Services are served from then on; where the agent serves them already it stays as it is [default: nftables]
    #[arg(long, value_name = "PROXY", value_parser = ["nftables", "iptables", "ipvs"])]
    proxy: Option<String>,
    /// The longest wait for all of it: a number with a unit of ms, s, m or h
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10m")]
    timeout: Duration,
    /// List what there is of kube-proxy on this node, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub target: Target,
}

/// Leave this node's Services to kube-proxy, while connections go on
///
/// On the node itself, as root. It is waited until kube-proxy serves here, which you see to; then the agent serves no
/// Services any more. That stays so when it starts anew; `ripstop migrate proxy` undoes it.
#[derive(Debug, Args)]
pub struct To {
    /// The longest wait for all of it: a number with a unit of ms, s, m or h
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "10m")]
    timeout: Duration,
    #[command(flatten)]
    pub target: Target,
}

impl From {
    /// Takes over.
    ///
    /// # Errors
    /// Where the agent does not answer or refuses, where kube-proxy has not ended in time, and where something of it cannot be removed.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let until = Instant::now() + self.timeout;
        let found = find()?;
        if self.dry_run {
            found.words().iter().try_for_each(|what| out.line(what))?;
            return match runs() {
                Some(how) => out.line(&format!("kube-proxy runs: {how}")),
                None if found.is_empty() => out.line("there is nothing of kube-proxy on this node"),
                None => Ok(()),
            };
        }
        let now = field(&agent.get::<Value>("/v1/proxy")?, "proxy");
        let proxy = match (&self.proxy, now.as_str()) {
            (Some(proxy), _) => proxy,
            (None, "none") => "nftables",
            (None, now) => now,
        };
        if proxy == "ipvs" && found.has_virtual_servers() {
            return Err(Failure::Failed(
                "kube-proxy serves by IPVS here, and one address cannot have virtual servers of both: go by nftables, and \
                 then `ripstop migrate proxy ipvs`"
                    .into(),
            ));
        }
        if proxy != now {
            switch(agent, proxy)?;
        }
        wait(agent, proxy, until)?;
        talk(&format!("Services are served by {proxy}"));
        wait_for_end(until)?;
        let found = find()?;
        if !found.is_empty() {
            found.remove().map_err(|fault| fault_of("cannot remove what kube-proxy left", &fault))?;
            found.words().iter().try_for_each(|what| out.line(&format!("removed: {what}")))?;
        }
        out.line(&format!("Services of this node are served by {proxy}, and nothing of kube-proxy is left"))
    }
}

impl To {
    /// Gives over.
    ///
    /// # Errors
    /// Where the agent does not answer or refuses, and where kube-proxy does not serve in time.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let until = Instant::now() + self.timeout;
        let mut told = false;
        let mut since = None;
        loop {
            if !(runs().is_some() && find()?.serves()) {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() >= SETTLED {
                break;
            }
            if Instant::now() >= until {
                return Err(Failure::Failed(
                    "kube-proxy does not serve on this node yet: start it here, and run this again; Services are served \
                     as they were"
                        .into(),
                ));
            }
            if !std::mem::replace(&mut told, true) {
                talk("waiting until kube-proxy serves on this node: start it here");
            }
            thread::sleep(LOOK);
        }
        switch(agent, "none")?;
        wait(agent, "none", until)?;
        out.line("Services of this node are served by kube-proxy")
    }
}

fn find() -> Result<KubeProxy, Failure> {
    KubeProxy::find().map_err(|fault| fault_of("cannot look for what there is of kube-proxy", &fault))
}

fn fault_of(what: &str, fault: &impl std::fmt::Display) -> Failure {
    let text = format!("{what}: {fault}");
    if rustix::process::geteuid().is_root() { Failure::Failed(text) } else { Failure::NotPermitted(text) }
}

fn wait_for_end(until: Instant) -> Result<(), Failure> {
    let mut told = None;
    while let Some(how) = runs() {
        let advice = format!(
            "kube-proxy still runs on this node ({how}): `kubectl -n kube-system delete daemonset kube-proxy`, or keep it \
             from this node; what it left is removed when it has ended"
        );
        if Instant::now() >= until {
            return Err(Failure::Failed(format!("{advice}; run this again then")));
        }
        if told.as_ref() != Some(&how) {
            talk(&advice);
            told = Some(how);
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// How it shows that kube-proxy runs in this network namespace.
fn runs() -> Option<String> {
    process().map(|id| format!("process {id}")).or_else(|| answers().then(|| format!("it answers at port {HEALTH}")))
}

/// A process of its name. One whose namespace cannot be read counts.
fn process() -> Option<String> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let ids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    ids.filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())).find(|id| {
        let is_it = fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim_end() == "kube-proxy");
        is_it && fs::read_link(format!("/proc/{id}/ns/net")).map_or(true, |ns| Some(ns) == own)
    })
}

/// Whether somebody answers its health check as it does, who is not an agent of ours.
fn answers() -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, HEALTH).into(), PATIENCE) else {
        return false;
    };
    let mut text = String::new();
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
        .and_then(|()| stream.take(8 << 10).read_to_string(&mut text));
    let text = text.to_ascii_lowercase();
    asked.is_ok() && text.contains("\"lastupdated\"") && !text.contains("server: ripstop")
}
