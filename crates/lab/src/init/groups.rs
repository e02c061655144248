//! A machine's own control groups: one of its name in every hierarchy, which it takes for the root of all.
//!
//! A container runtime and kubelet compare `/proc/self/cgroup` with the mounts they see; inside a control group namespace
//! both begin at `/`. Hierarchies of version 1 and 2 may stand side by side.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::mount::{MountFlags, mount};
use rustix::thread::UnshareFlags;

use super::mounts::{CGROUP, fresh};
use crate::error::{Attempt, Result};
use crate::space::unshare;

/// The group below the machine's root that its programs live in where there is only version 2: a group that has children
/// with controllers may hold no process itself (cgroups(7), "no internal processes").
const INNER: &str = "machine";

/// Moves this process to the groups of this name, and lets it take them for the root.
pub(super) fn enter(name: &str) -> Result<()> {
    for tree in trees()? {
        let own = tree.join(name);
        let doing = || format!("enter the control group {}", own.display());
        fs::create_dir_all(&own).attempt(doing)?;
        // A new group of version 1 has no processor, and takes nobody in until it has.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (tree.join(file), own.join(file));
            if only_version_2() || !to.exists() {
                continue;
            }
            fs::write(&to, fs::read(&from).attempt(doing)?).attempt(doing)?;
        }
        fs::write(own.join("cgroup.procs"), "0").attempt(doing)?;
    }
    unshare(UnshareFlags::NEWCGROUP).attempt(|| "make a control group namespace".into())
}

/// Mounts the hierarchies anew, as they are seen from the process's groups.
pub(super) fn show() -> Result<()> {
    let doing = || "mount the control groups".to_owned();
    let sets = fs::read_to_string("/proc/self/cgroup").attempt(doing)?;
    let sets: Vec<&str> = sets.lines().filter_map(|line| line.split(':').nth(1)).collect();
    if sets == [""] {
        fresh("cgroup2", CGROUP)?;
        return delegate(Path::new(CGROUP)).attempt(doing);
    }
    fresh("tmpfs", CGROUP)?;
    for set in sets {
        let (folder, kind, data) = match (set, set.strip_prefix("name=")) {
            ("", _) => ("unified", "cgroup2", None),
            (_, Some(name)) => (name, "cgroup", Some(format!("none,{set}"))),
            _ => (set, "cgroup", Some(set.to_owned())),
        };
        let place = Path::new(CGROUP).join(folder);
        let doing = || format!("mount {}", place.display());
        fs::create_dir_all(&place).attempt(doing)?;
        let data = std::ffi::CString::new(data.unwrap_or_default()).map_err(io::Error::from).attempt(doing)?;
        mount("cgroup", &place, kind, MountFlags::empty(), &*data).attempt(doing)?;
    }
    Ok(())
}

/// Gives every controller to groups below the machine's root.
fn delegate(root: &Path) -> io::Result<()> {
    let inner = root.join(INNER);
    fs::create_dir_all(&inner)?;
    fs::write(inner.join("cgroup.procs"), "0")?;
    for controller in fs::read_to_string(root.join("cgroup.controllers"))?.split_whitespace() {
        fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

fn only_version_2() -> bool {
    Path::new(CGROUP).join("cgroup.controllers").exists()
}

/// The roots of the hierarchies.
fn trees() -> Result<Vec<PathBuf>> {
    if only_version_2() {
        return Ok(vec![CGROUP.into()]);
    }
    let entries = fs::read_dir(CGROUP).attempt(|| format!("list {CGROUP}"))?;
    let mut trees: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    trees.sort();
    Ok(trees)
}
