//! What a machine and a pod see of the file system: the host's, except where they must have their own.
//!
//! Mounts of the host come in (the namespaces of pods appear under `/run/netns`), none goes out.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    move_mount, open_tree, unmount,
};

use super::Spec;
use crate::error::{Attempt, Result};
use crate::layout::{NETNS_DIR, ROOT};

const CGROUP: &str = "/sys/fs/cgroup";

/// A machine: own `/proc`, `/sys`, `/run`, and own folders where the agent keeps its files.
pub(super) fn machine(spec: &Spec) -> Result<()> {
    propagate(MountPropagationFlags::DOWNSTREAM)?;
    fresh_sys()?;
    fresh("proc", "/proc")?;
    private_run()?;
    for (own, place) in [("run", "/run/ripstop"), ("var", "/var/lib/ripstop"), ("etc", "/etc/ripstop")] {
        bind(&spec.dir.join(own), Path::new(place))?;
    }
    for (own, place) in [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")] {
        // A host without the file needs none in its machines.
        if Path::new(place).exists() {
            bind(&spec.dir.join(own), Path::new(place))?;
        }
    }
    Ok(())
}

/// A pod: own `/sys` (its devices) and `/run` (its pid files) on top of its node's view.
pub(super) fn pod() -> Result<()> {
    propagate(MountPropagationFlags::PRIVATE)?;
    // A pod has no business with namespaces, and need not keep them alive.
    detach(NETNS_DIR)?;
    fresh_sys()?;
    fresh("tmpfs", "/run")
}

fn propagate(kind: MountPropagationFlags) -> Result<()> {
    mount_change("/", kind | MountPropagationFlags::REC).attempt(|| "keep mounts from the host".into())
}

/// A sysfs shows the devices of the network namespace it was mounted in. The control groups under it are kept.
fn fresh_sys() -> Result<()> {
    let cgroups = if Path::new(CGROUP).exists() { Some(grab(CGROUP)?) } else { None };
    fresh("sysfs", "/sys")?;
    if let Some(tree) = cgroups {
        place(&tree, CGROUP)?;
    }
    // BPF pins are a node's own. A kernel without them needs no mount.
    let _ = mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None);
    Ok(())
}

/// `/run` is empty but for the namespaces and the labs' files.
fn private_run() -> Result<()> {
    let (namespaces, labs) = (grab(NETNS_DIR)?, grab(ROOT)?);
    detach(NETNS_DIR)?;
    fresh("tmpfs", "/run")?;
    for dir in [NETNS_DIR, ROOT, "/run/ripstop", "/run/lock"] {
        fs::create_dir_all(dir).attempt(|| format!("make {dir}"))?;
    }
    place(&namespaces, NETNS_DIR)?;
    place(&labs, ROOT)
}

fn fresh(kind: &str, place: &str) -> Result<()> {
    mount(kind, place, kind, MountFlags::NOSUID | MountFlags::NODEV, None).attempt(|| format!("mount a new {place}"))
}

fn bind(own: &Path, place: &Path) -> Result<()> {
    mount_bind(own, place).attempt(|| format!("put {} in the place of {}", own.display(), place.display()))
}

/// A copy of a tree of mounts, hung nowhere yet.
fn grab(path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).attempt(|| format!("take the mounts of {path} along"))
}

fn place(tree: &OwnedFd, path: &str) -> Result<()> {
    move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).attempt(|| format!("mount {path} again"))
}

fn detach(path: &str) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        other => other.attempt(|| format!("unmount {path}")),
    }
}
