//! Ripstop in a Kubernetes cluster: `install`, `uninstall` and `status` with `--cluster`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ripstop_types::Prefix;

use super::manifest::{self, Changes};
use super::remote::Remote;
use crate::duration;
use crate::failure::Failure;
use crate::print::Out;

/// The sets of pods, in the order in which they are waited for.
const SETS: [&str; 2] = ["ripstop-agent", "ripstop-udp-forward"];
/// The one that cleans nodes.
const CLEANER: &str = "ripstop-uninstall";

/// Which cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "A cluster")]
pub struct Access {
    /// A Kubernetes cluster instead of this host
    #[arg(long)]
    cluster: bool,
    /// How it is reached [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
}

impl Access {
    /// Whether a cluster is meant.
    pub fn is_wanted(&self) -> bool {
        self.cluster
    }

    fn open(&self) -> Result<Remote, Failure> {
        Remote::open(self.kubeconfig.clone())
    }

    /// Tells how many nodes are ready and what nodes lack, and waits for the rest where `wait` says how long.
    ///
    /// # Errors
    /// Where they are not, or nothing is installed.
    pub fn status(&self, wait: Option<Duration>, out: &mut Out) -> Result<(), Failure> {
        let remote = self.open()?;
        let mut faults = Vec::new();
        for set in SETS {
            if let Some(limit) = wait {
                remote.await_set(set, limit)?;
            }
            let progress = remote.progress(set)?;
            let progress = progress.ok_or_else(|| {
                Failure::Failed(format!("there is no daemonset {set}: `ripstop install --cluster` makes it"))
            })?;
            out.line(&format!("{set}: {} of {} nodes ready", progress.ready, progress.wanted))?;
            if !progress.is_done() {
                faults.extend(remote.faults(set)?.into_iter().map(|fault| format!("{set}: {fault}")));
                if faults.is_empty() {
                    faults.push(format!("{set}: not all are ready"));
                }
            }
        }
        for warning in remote.warnings()? {
            out.line(&format!("warning: {warning}"))?;
        }
        if faults.is_empty() { Ok(()) } else { Err(Failure::Failed(faults.join("\n"))) }
    }
}

/// What goes into a cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Into a cluster")]
pub struct IntoCluster {
    #[command(flatten)]
    access: Access,
    /// Only print the objects as YAML, for `kubectl apply --server-side -f -`
    #[arg(long, requires = "cluster")]
    dry_run: bool,
    /// The image of all containers [default: ripstop.io/ripstop and this version]
    #[arg(long, value_name = "NAME", requires = "cluster")]
    image: Option<String>,
    /// The agents' configuration, instead of one with the network `default` alone
    #[arg(long, value_name = "FILE", requires = "cluster")]
    config: Option<PathBuf>,
    /// How packets of the networks in the configuration reach other nodes
    #[arg(long, value_name = "TYPE", value_parser = ["auto", "host-gw", "vxlan", "udp", "ipip", "ipip-cross-subnet", "bgp"], requires = "cluster")]
    backend: Option<String>,
    /// How their pods are attached to nodes
    #[arg(long, value_name = "HOW", value_parser = ["routed", "bridge"], requires = "cluster")]
    wiring: Option<String>,
    /// Their addresses: a range, or one of each family
    #[arg(long = "cidr", value_name = "RANGE", value_delimiter = ',', requires = "cluster")]
    ranges: Vec<Prefix>,
    /// What serves Services: nftables, iptables or ipvs, in the place of kube-proxy, or none of ours
    #[arg(long, value_name = "PROXY", value_parser = ["none", "nftables", "iptables", "ipvs"], requires = "cluster")]
    proxy: Option<String>,
    /// How agents reach the API server, HOST:PORT: where they serve Services, nobody else serves its own to them
    /// [default: with a --proxy of ours the kubeconfig's server, else its Service]
    #[arg(long, value_name = "ADDRESS", value_parser = address, requires = "cluster")]
    api_server: Option<(String, u16)>,
    /// How long its nodes may take to be ready
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "3m", requires = "cluster")]
    timeout: Duration,
}

/// A host, by name or address, and its port.
fn address(text: &str) -> Result<(String, u16), String> {
    let accepted = "accepted is HOST:PORT, as in 192.0.2.1:6443 or [2001:db8::1]:6443";
    let (host, port) = text.rsplit_once(':').ok_or(accepted)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0).ok_or(accepted)?;
    let is_name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'));
    if is_name { Ok((host.to_owned(), port)) } else { Err(accepted.into()) }
}

/// What takes Ripstop out of a cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Out of a cluster")]
pub struct OutOfCluster {
    #[command(flatten)]
    access: Access,
    /// Only print the objects as YAML: applied, they clean each node while its agent runs; then they and those of
    /// `ripstop install` are deleted
    #[arg(long, requires = "cluster")]
    dry_run: bool,
    /// The image of all containers [default: ripstop.io/ripstop and this version]
    #[arg(long, value_name = "NAME", requires = "cluster")]
    image: Option<String>,
    /// How long its nodes may take to be clean
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "3m", requires = "cluster")]
    timeout: Duration,
}

impl OutOfCluster {
    /// Whether this is what was asked for.
    pub fn is_wanted(&self) -> bool {
        self.access.is_wanted()
    }

    /// Cleans all nodes, then removes the objects; or prints those that clean.
    ///
    /// # Errors
    /// Where a node is not clean in time, and everything else stays; where an object cannot be removed.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let cleaning = manifest::uninstall(self.image.as_deref())?;
        if self.dry_run {
            return out.text(&manifest::text(&cleaning));
        }
        let remote = self.access.open()?;
        let mut all = manifest::objects(&Changes::default())?;
        // Without agents there is nobody who could clean, and their objects go all the same.
        if remote.progress(SETS[0])?.is_some() {
            remote.apply(&cleaning)?;
            remote.await_set(CLEANER, self.timeout)?;
        }
        all.extend(cleaning);
        remote.remove(&all, self.timeout)
    }
}

impl IntoCluster {
    /// Whether this is what was asked for.
    pub fn is_wanted(&self) -> bool {
        self.access.is_wanted()
    }

    /// Applies the objects and waits until all nodes are ready; or prints them.
    ///
    /// # Errors
    /// Where the configuration cannot be read or is none, the cluster refuses an object, or a node is not ready in time.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let config = self.config.as_ref().map(|path| {
            fs::read_to_string(path)
                .map_err(|error| Failure::system(&format!("cannot read {}", path.display()), &error))
        });
        let config = config.transpose()?;
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        let api_server = match (&self.api_server, self.proxy.as_deref()) {
            (Some(address), _) => Some(address.clone()),
            (None, Some(proxy)) if proxy != "none" => Some(self.access.open()?.server()?),
            (None, _) => None,
        };
        let objects = manifest::objects(&Changes {
            image: self.image.as_deref(),
            config: config.as_deref(),
            backend: self.backend.as_deref(),
            wiring: self.wiring.as_deref(),
            ranges: &ranges,
            proxy: self.proxy.as_deref(),
            api_server: api_server.as_ref().map(|(host, port)| (host.as_str(), *port)),
        })?;
        if self.dry_run {
            return out.text(&manifest::text(&objects));
        }
        let remote = self.access.open()?;
        remote.apply(&objects)?;
        SETS.iter().try_for_each(|set| remote.await_set(set, self.timeout))
    }
}
