//! What a machine and a pod see of the file system: the host's, except where they must have their own.
//!
//! Mounts of the host come in (the namespaces of pods appear under `/run/netns`), none goes out.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::{fs, io};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    move_mount, open_tree, unmount,
};

use super::{ContainerHost, Spec, groups};
use crate::error::{Attempt, Result};
use crate::layout::{NETNS_DIR, ROOT};

pub(super) const CGROUP: &str = "/sys/fs/cgroup";

/// A machine: own `/proc`, `/sys`, `/run`, and own folders where the agent keeps its files.
pub(super) fn machine(spec: &Spec) -> Result<()> {
    if let Some(host) = &spec.host {
        groups::enter(&host.group)?;
    }
    propagate(MountPropagationFlags::DOWNSTREAM)?;
    fresh_sys(spec.host.is_none())?;
    fresh("proc", "/proc")?;
    private_run(spec.host.is_none())?;
    if let Some(host) = &spec.host {
        groups::show()?;
        container_host(&spec.dir, host)?;
    }
    for (own, place) in [("run", "/run/ripstop"), ("var", "/var/lib/ripstop"), ("etc", "/etc/ripstop")] {
        bind(&spec.dir.join(own), Path::new(place))?;
    }
    for (own, place) in [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")] {
        // A host without the file needs none in its machines.
        if Path::new(place).exists() {
            bind(&spec.dir.join(own), Path::new(place))?;
        }
    }
    if spec.host.is_some() {
        // What kubelet mounts for a pod has to reach its containers.
        propagate(MountPropagationFlags::SHARED)?;
    }
    Ok(())
}

/// Folders of the host with the machine's own changes on top, and those that no overlay can serve.
fn container_host(dir: &Path, host: &ContainerHost) -> Result<()> {
    let mut own = Vec::new();
    for name in ["containerd", "kubelet"] {
        let folder = host.disk.join(name);
        fs::create_dir_all(&folder).attempt(|| format!("make {}", folder.display()))?;
        // Below an overlay of /var there is no way to it any more.
        own.push((grab(&folder)?, format!("/var/lib/{name}")));
    }
    for name in ["etc", "opt", "var"] {
        let [upper, work] = ["upper", "work"].map(|kind| dir.join(kind).join(name));
        for folder in [&upper, &work] {
            fs::create_dir_all(folder).attempt(|| format!("make {}", folder.display()))?;
        }
        let place = format!("/{name}");
        let options = format!("lowerdir={place},upperdir={},workdir={}", upper.display(), work.display());
        let options =
            CString::new(options).map_err(io::Error::from).attempt(|| format!("lay an overlay on {place}"))?;
        let none = MountFlags::empty();
        mount("overlay", &*place, "overlay", none, &*options).attempt(|| format!("lay an overlay on {place}"))?;
    }
    for (tree, folder) in &own {
        fs::create_dir_all(folder).attempt(|| format!("make {folder}"))?;
        place(tree, folder)?;
    }
    let sysctls = dir.join("sysctls");
    fs::create_dir_all(&sysctls).attempt(|| format!("make {}", sysctls.display()))?;
    for (name, value) in &host.sysctls {
        let (own, place) = (sysctls.join(name.replace('/', ".")), Path::new("/proc/sys").join(name));
        fs::write(&own, format!("{value}\n")).attempt(|| format!("write {}", own.display()))?;
        if place.exists() {
            bind(&own, &place)?;
        }
    }
    Ok(())
}

/// A pod: own `/sys` (its devices) and `/run` (its pid files) on top of its node's view.
pub(super) fn pod() -> Result<()> {
    propagate(MountPropagationFlags::PRIVATE)?;
    // A pod has no business with namespaces, and need not keep them alive.
    detach(NETNS_DIR)?;
    fresh_sys(true)?;
    fresh("tmpfs", "/run")
}

fn propagate(kind: MountPropagationFlags) -> Result<()> {
    mount_change("/", kind | MountPropagationFlags::REC).attempt(|| "keep mounts from the host".into())
}

/// A sysfs shows the devices of the network namespace it was mounted in. The control groups under it are kept if asked for.
fn fresh_sys(with_groups: bool) -> Result<()> {
    let cgroups = if with_groups && Path::new(CGROUP).exists() { Some(grab(CGROUP)?) } else { None };
    fresh("sysfs", "/sys")?;
    if let Some(tree) = cgroups {
        place(&tree, CGROUP)?;
    }
    // BPF pins are a node's own. A kernel without them needs no mount.
    let _ = mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None);
    Ok(())
}

/// `/run` is empty but for the labs' files and, unless the machine makes its own, the namespaces.
fn private_run(with_namespaces: bool) -> Result<()> {
    let (namespaces, labs) = (grab(NETNS_DIR)?, grab(ROOT)?);
    detach(NETNS_DIR)?;
    fresh("tmpfs", "/run")?;
    for dir in [NETNS_DIR, ROOT, "/run/ripstop", "/run/lock"] {
        fs::create_dir_all(dir).attempt(|| format!("make {dir}"))?;
    }
    if with_namespaces {
        place(&namespaces, NETNS_DIR)?;
    }
    place(&labs, ROOT)
}

pub(super) fn fresh(kind: &str, place: &str) -> Result<()> {
    mount(kind, place, kind, MountFlags::NOSUID | MountFlags::NODEV, None).attempt(|| format!("mount a new {place}"))
}

fn bind(own: &Path, place: &Path) -> Result<()> {
    mount_bind(own, place).attempt(|| format!("put {} in the place of {}", own.display(), place.display()))
}

/// A copy of a tree of mounts, hung nowhere yet.
fn grab(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).attempt(|| format!("take the mounts of {} along", path.display()))
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
