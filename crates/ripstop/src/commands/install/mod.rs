//! `ripstop install` and `ripstop uninstall`: this program, its plugin and their configuration on a plain host, or what runs
//! them on every node of a cluster.
//!
//! Only files are written and removed; no program is run, so units are neither started nor stopped here, and the last
//! lines say what does that. Invariants: every file appears whole or not at all; the file that turns container runtimes
//! towards Ripstop is the last to come and the first to go; what an administrator may have edited is never overwritten;
//! what is not Ripstop's is never removed.

pub mod cluster;
mod files;
mod last;
pub mod manifest;
pub mod remote;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use ripstop_agent::Withdrawn;
use serde_json::json;

use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::{Out, talk};
use crate::target::Target;
use files::{Content, FILES, Installed, Kept};

/// Install this program, its plugin and systemd units on this host
///
/// Puts the plugin where container runtimes look for it, and a network configuration that names it, besides the
/// program, its manual, completions and units, and what tells systemd-networkd and NetworkManager to leave Ripstop's
/// links alone. A configuration that exists is kept. Nothing is started.
///
/// With --cluster the objects that run Ripstop on every node of a Kubernetes cluster are applied instead, and its nodes are
/// waited for.
#[derive(Debug, Args)]
pub struct Install {
    #[command(flatten)]
    place: Place,
    /// The plugin to install [default: ripstop-cni beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    plugin: Option<PathBuf>,
    /// Only the plugin and the network configuration, as a container does for the agent that runs in the next one. The
    /// network configuration is replaced
    #[arg(long, conflicts_with = "cluster")]
    cni: bool,
    /// With --cni: the network configuration under a name that comes before those of other networks. It keeps that name
    #[arg(long, requires = "cni")]
    first: bool,
    #[command(flatten)]
    cluster: cluster::IntoCluster,
}

/// Remove what `ripstop install` put on this host
///
/// Removes only files that are Ripstop's, the one that turns container runtimes towards it first, and the jump in iptables'
/// tables that lets pods' packets pass. Configuration, leases and the store stay. Running pods keep their links, and
/// their traffic as far as those tables let it pass.
///
/// With --cluster each node of a Kubernetes cluster is cleaned while its agent runs, and then what `ripstop install` applied
/// is deleted.
#[derive(Debug, Args)]
pub struct Uninstall {
    #[command(flatten)]
    place: Place,
    /// Remove the configuration as well, and before that what was made in the kernel: links, routes, rules, tables. The
    /// node's pods lose their network. Settings below /proc/sys stay as they are
    #[arg(long, conflicts_with = "cluster")]
    purge: bool,
    /// Only the plugin and the network configuration, as `ripstop install --cni` put them there, and with --purge what was
    /// made in the kernel
    #[arg(long, conflicts_with = "cluster")]
    cni: bool,
    /// Wait for SIGTERM, then until neither agent nor forwarder runs, and remove their folders below --root: the last in a
    /// container
    #[arg(long, hide = true, conflicts_with_all = ["cni", "purge", "cluster"])]
    after_agent: bool,
    #[command(flatten)]
    cluster: cluster::OutOfCluster,
    /// With --purge: also give this node's address ranges back to the cluster and remove its record, which only a running
    /// agent can
    #[arg(long, requires = "purge")]
    release: bool,
    /// Configuration of the agent whose leavings are removed, where no agent runs
    #[arg(long, value_name = "FILE", default_value = "/etc/ripstop/config.yaml")]
    config: PathBuf,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
struct Place {
    /// Folder of programs, manual and units
    #[arg(long, value_name = "DIR", default_value = "/usr/local", conflicts_with = "cluster")]
    prefix: PathBuf,
    /// Work below this folder as if it were /: for an image of a host
    #[arg(long, value_name = "DIR", default_value = "/", conflicts_with = "cluster")]
    root: PathBuf,
}

impl Place {
    fn check(&self) -> Result<(), Failure> {
        for (flag, path) in [("--prefix", &self.prefix), ("--root", &self.root)] {
            if !path.is_absolute() {
                return Err(Failure::Usage(format!(
                    "{flag} {}: accepted is a path that begins with /",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    fn of(&self, file: &Installed) -> PathBuf {
        let path = self.prefix.join(file.to);
        self.root.join(path.strip_prefix("/").unwrap_or(&path))
    }
}

impl Place {
    /// Where the network configuration goes: under the first name where it shall come first, or did before.
    fn list(&self, first: bool) -> PathBuf {
        let to = self.of(&files::FIRST);
        if first || to.symlink_metadata().is_ok() { to } else { self.of(&files::LIST) }
    }
}

impl Install {
    /// Writes the files.
    ///
    /// # Errors
    /// Where a file cannot be written; those before it stay, and a second call goes on.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        if self.cluster.is_wanted() {
            return self.cluster.run(out);
        }
        self.place.check()?;
        let program = std::env::current_exe().map_err(|error| Failure::system("cannot find this program", &error))?;
        let beside = program.with_file_name("ripstop-cni");
        let plugin = self.plugin.clone().unwrap_or(beside);
        if !plugin.is_file() {
            return Err(Failure::Failed(format!(
                "no plugin at {}: build it, or name it with --plugin",
                plugin.display()
            )));
        }
        for file in FILES.iter().filter(|file| !self.cni || file.is_cni()) {
            let to = match file.content {
                Content::NetworkConfiguration if self.cni => self.place.list(self.first),
                _ => self.place.of(file),
            };
            let there = file.kept != Kept::Never && to.symlink_metadata().is_ok();
            if there && self.cni {
                owned(file, &to)?;
            } else if there {
                talk(&format!("{} is there and kept as it is", to.display()));
                continue;
            }
            let from = match file.content {
                Content::Program => Some(&program),
                Content::Plugin => Some(&plugin),
                _ => None,
            };
            // A program that runs from its place installs everything but itself.
            if from.is_some_and(|from| same(from, &to)) {
                continue;
            }
            let bytes = match from {
                Some(path) => fs::read(path).map_err(|error| cannot("read", path, &error))?,
                None => file.content.text(&self.place.prefix)?.into_bytes(),
            };
            files::write(&to, &bytes, file.content.mode()).map_err(|error| cannot("write", &to, &error))?;
            out.line(&to.display().to_string())?;
        }
        let list = if self.cni { self.place.list(self.first) } else { self.place.of(&files::LIST) };
        for other in files::before(&self.place.root, &list) {
            talk(&format!(
                "warning: {} comes before {}, so container runtimes use that and not Ripstop: remove or rename it",
                other.display(),
                list.file_name().unwrap_or_default().to_string_lossy()
            ));
        }
        if !self.cni {
            talk("installed; to start: systemctl daemon-reload && systemctl enable --now ripstop-agent");
        }
        Ok(())
    }
}

impl Uninstall {
    /// Removes the files.
    ///
    /// # Errors
    /// Where the agent cannot be asked to remove what it made, or a file cannot be removed. What is not there is no error.
    pub fn run(&self, agent: &Agent, target: &Target, out: &mut Out) -> Result<(), Failure> {
        if self.cluster.is_wanted() {
            return self.cluster.run(out);
        }
        if self.after_agent {
            return last::run(&self.place.root);
        }
        self.place.check()?;
        let (first, rest): (Vec<_>, Vec<_>) =
            FILES.iter().rev().partition(|file| file.content == Content::NetworkConfiguration);
        for file in first.into_iter().chain([&files::FIRST]) {
            self.remove(file, out)?;
        }
        if self.cni {
            if self.purge {
                self.clear_kernel(agent, target)?;
            }
            return rest.into_iter().filter(|file| file.is_cni()).try_for_each(|file| self.remove(file, out));
        }
        self.clear_kernel(agent, target)?;
        for file in rest {
            self.remove(file, out)?;
        }
        for unit in files::ENABLED {
            let link = self.place.root.join(unit);
            if link.is_symlink() {
                remove(&link, out)?;
            }
        }
        talk("uninstalled; a running agent ends by: systemctl stop ripstop-agent && systemctl daemon-reload");
        talk("left as they are: /var/lib/ripstop, /run/ripstop");
        Ok(())
    }

    /// Takes what is Ripstop's out of the kernel, by the agent, or where none runs on this host, here: everything, or only
    /// the jump in tables of others. A folder that is an image has no kernel.
    fn clear_kernel(&self, agent: &Agent, target: &Target) -> Result<(), Failure> {
        if !self.purge && self.place.root != Path::new("/") {
            return Ok(());
        }
        let told = json!({"onlyJumps": !self.purge, "release": self.release}).to_string();
        match agent.post("/v1/purge", "application/json", told.as_bytes()) {
            Ok(_) => {}
            Err(Failure::Away(text)) if self.release => {
                return Err(Failure::Away(format!(
                    "{text}\nonly a running agent gives ranges back; start it, or leave --release out"
                )));
            }
            Err(Failure::Away(_)) if target.is_empty() && self.place.root == Path::new("/") => {
                let what = if self.purge { Withdrawn::Everything } else { Withdrawn::Jumps };
                ripstop_agent::take_out(&self.config, what).map_err(|error| Failure::of_chain(&error))?;
            }
            Err(Failure::Away(text)) => {
                return Err(Failure::Away(format!(
                    "{text}\nwithout it, what it made in the kernel is removed on the host itself: leave --socket, --lab and \
                     --root out there"
                )));
            }
            Err(failure) => return Err(failure),
        }
        if self.purge {
            talk("what was made in the kernel is removed; settings below /proc/sys stay as they are");
        }
        Ok(())
    }

    fn remove(&self, file: &Installed, out: &mut Out) -> Result<(), Failure> {
        let path = self.place.of(file);
        if file.kept == Kept::Always && !self.purge {
            if path.exists() {
                talk(&format!("{} stays; --purge removes it too", path.display()));
            }
            return Ok(());
        }
        match file.is_ours(&path) {
            Ok(true) => remove(&path, out),
            Ok(false) => {
                talk(&format!("{} is not Ripstop's and stays", path.display()));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(cannot("read", &path, &error)),
        }
    }
}

fn remove(path: &Path, out: &mut Out) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Ok(()) => out.line(&path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot("remove", path, &error)),
    }
}

/// Whether a file that is to be replaced is ours.
fn owned(file: &Installed, to: &Path) -> Result<(), Failure> {
    match file.is_ours(to) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Failed(format!(
            "{} is not Ripstop's: it names another plugin; move it out of the way",
            to.display()
        ))),
        Err(error) => Err(cannot("read", to, &error)),
    }
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::system(&format!("cannot {what} {}", path.display()), error)
}
