//! The agent's files: its lock, identities, the pods' rows of this boot, the snapshot.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use ripstop_desired::LEASES;
use ripstop_kernel::BootFiles;
use ripstop_objects::{AgentConfig, NodeIdentity};
use ripstop_tables::{PodRow, Snapshot};
use ripstop_types::{NodeName, Prefix};
use rustix::fs::{FlockOperation, flock};

/// Held as long as the agent runs: a second one on the same node is refused.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Makes the agent's folders and takes its lock.
///
/// # Errors
/// Where a folder cannot be written, or another agent holds the lock.
pub fn lock(config: &AgentConfig) -> anyhow::Result<Lock> {
    for (dir, key) in [(&config.run_dir, "runDir"), (&config.state_dir, "stateDir")] {
        fs::create_dir_all(dir)
            .with_context(|| format!("{key}: cannot make {}; is it writable for this user?", dir.display()))?;
    }
    let path = config.run_dir.join("agent.lock");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("runDir: cannot write {}; is it writable for this user?", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // Only to name the other; without it the sentence is still true.
        let _ = file.read_to_string(&mut pid);
        bail!("another agent (process {}) runs on this node: it holds {}", pid.trim(), path.display());
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(Lock { _file: file })
}

/// A number that is greater at each start of the agent, also where the clock was set back: the last one is kept.
pub fn next_run(config: &AgentConfig) -> u64 {
    let path = config.state_dir.join("announcing");
    let last = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let next = clock.max(last.saturating_add(1));
    if let Err(error) = write_atomic(&path, next.to_string().as_bytes()) {
        tracing::warn!(
            "{}: {error:#}; if the clock is set back before the next start, other nodes pass over this one then",
            path.display()
        );
    }
    next
}

/// Which machine and boot this is. Both are kept: the machine's in the state folder, the boot's beside the pods' files.
///
/// # Errors
/// Where a file cannot be read or written.
pub fn identity(config: &AgentConfig) -> anyhow::Result<NodeIdentity> {
    let machine = kept(&config.state_dir.join("machine-id"), |_| true)?;
    let kernel = read_word(Path::new("/proc/sys/kernel/random/boot_id"))?;
    // A folder that is no tmpfs outlives a boot: then the kernel's id differs, and pods cannot have survived.
    let boot = kept(&config.run_dir.join("boot-id"), |text| text.starts_with(&kernel[..8.min(kernel.len())]))?;
    Ok(NodeIdentity { machine_id: machine, boot_id: boot })
}

/// An id in a file, made where there is none or where it does not fit.
fn kept(path: &Path, fits: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    if let Ok(text) = fs::read_to_string(path)
        && !text.trim().is_empty()
        && fits(text.trim())
    {
        return Ok(text.trim().to_owned());
    }
    let boot = read_word(Path::new("/proc/sys/kernel/random/boot_id"))?;
    let random = read_word(Path::new("/proc/sys/kernel/random/uuid"))?;
    let id = format!("{}-{random}", &boot[..8.min(boot.len())]);
    write_atomic(path, id.as_bytes())?;
    Ok(id)
}

fn read_word(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The files of this boot's pods.
pub struct Pods {
    /// Their rows.
    pub rows: Vec<PodRow>,
    /// Names of those that cannot be read.
    pub lost: Vec<Arc<str>>,
    /// What is wrong with them.
    pub problems: Vec<String>,
}

/// Reads the pods' files, and removes what a killed agent left unfinished beside them: the lock says that none is at it.
pub fn pods(files: &BootFiles, run_dir: &Path, _lock: &Lock) -> Pods {
    let unfinished = files.clear_unfinished(LEASES);
    let (records, faults) = files.list(LEASES);
    let mut pods = Pods { rows: Vec::new(), lost: Vec::new(), problems: Vec::new() };
    pods.problems.extend(unfinished.iter().chain(&faults).map(ToString::to_string));
    let mut read = BTreeSet::new();
    for record in records {
        read.insert(record.key.clone());
        match pod_row(&record.value) {
            Ok(row) => pods.rows.push(row),
            Err(error) => {
                pods.problems.push(format!("{LEASES}/{}: not a pod's row: {error}", record.key));
                pods.lost.push(record.key);
            }
        }
    }
    // A file that is no text at all still has a name, and the name says whose it is.
    for entry in fs::read_dir(run_dir.join(LEASES)).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let key = name.to_str().and_then(|name| name.strip_suffix(".json"));
        if let Some(key) = key.filter(|key| !key.starts_with('.') && !key.contains('%') && !read.contains(*key)) {
            pods.lost.push(key.into());
        }
    }
    pods.lost.sort();
    pods
}

/// Where flanneld says which subnets it gave this node's pods.
const SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// The subnets of a flanneld that runs here, or did in this boot.
pub fn flannel_subnets() -> Vec<Prefix> {
    fs::read_to_string(SUBNET_ENV).map(|text| subnets_of(&text)).unwrap_or_default()
}

/// The ranges in a `subnet.env`: flanneld writes the first address its bridge would have (flannel, `WriteSubnetFile`).
fn subnets_of(text: &str) -> Vec<Prefix> {
    let names = ["FLANNEL_SUBNET=", "FLANNEL_IPV6_SUBNET="];
    let values = text.lines().filter_map(|line| names.iter().find_map(|name| line.trim().strip_prefix(name)));
    let prefix = |value: &str| {
        let (addr, len) = value.split_once('/')?;
        Prefix::containing(addr.parse().ok()?, len.parse().ok()?)
    };
    values.filter_map(prefix).collect()
}

/// A pod's row of its file's text.
///
/// # Errors
/// Where it is none.
pub fn pod_row(text: &str) -> serde_json::Result<PodRow> {
    serde_json::from_str(text)
}

/// Where the forwarder of the backend `udp` answers.
pub fn forwarder_socket(config: &AgentConfig) -> PathBuf {
    config.run_dir.join("udp-forward.sock")
}

/// Removes what a dead forwarder would begin with again; one that runs does that itself when it is told to forward nothing.
///
/// # Errors
/// Where the file cannot be removed.
pub fn remove_forwarder_state(config: &AgentConfig) -> anyhow::Result<()> {
    let socket = forwarder_socket(config);
    if ripstop_forwarder::Client::connect(&socket).is_ok() { Ok(()) } else { remove(&socket.with_extension("json")) }
}

/// Where the snapshot lies.
pub fn snapshot_path(config: &AgentConfig) -> PathBuf {
    config.state_dir.join("snapshot.json")
}

/// Removes the snapshot, where there is one.
///
/// # Errors
/// Where it cannot be removed.
pub fn remove_snapshot(config: &AgentConfig) -> anyhow::Result<()> {
    remove(&snapshot_path(config))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The last run's snapshot. One that cannot be used is set aside and named.
pub fn snapshot(config: &AgentConfig, node: &NodeName) -> (Option<Snapshot>, Option<String>) {
    let path = snapshot_path(config);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (None, None),
        Err(error) => return (None, Some(format!("{}: {error}", path.display()))),
    };
    match Snapshot::decode(&text, node) {
        Ok(snapshot) => (Some(snapshot), None),
        Err(fault) => {
            let aside = path.with_extension("json.unusable");
            let moved = fs::rename(&path, &aside).is_ok();
            let place = if moved { format!("; kept as {}", aside.display()) } else { String::new() };
            (None, Some(format!("{}: {fault}{place}", path.display())))
        }
    }
}

/// Writes a file so that a crash leaves the old or the new content, on the disk when this returns.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_atomic(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().ok_or_else(|| anyhow!("{} has no folder", path.display()))?;
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flanneld_names_an_address_and_means_its_subnet() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_IPV6_SUBNET=fd00:244:0:7::1/64\n\
                    FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        let subnets: Vec<String> = subnets_of(text).iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.244.7.0/24", "fd00:244:0:7::/64"]);
        assert!(subnets_of("FLANNEL_SUBNET=\nFLANNEL_SUBNET=10.244.7.1/240\nFLANNEL_SUBNET=x/24").is_empty());
    }
}
