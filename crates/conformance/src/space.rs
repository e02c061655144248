//! Network namespaces: made, named, entered, given up; and the place where a program runs.
//!
//! Namespaces of the suite are named `conformance-PID-N` and lie in `/run/netns`, where agents of other mount namespaces
//! see them too. Nothing here changes the calling thread.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Where `ip netns` looks.
const DIR: &str = "/run/netns";
const PREFIX: &str = "conformance-";
/// Where plugins of the specification's authors keep their files. A host of its own has a fresh one.
const FILES: &str = "/var/lib/cni";

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A named network namespace of the suite; given up when dropped.
#[derive(Debug)]
pub struct Space {
    path: PathBuf,
    fd: OwnedFd,
}

impl Space {
    /// Makes one. Its loopback interface is up, and addresses of IPv6 are not probed for duplicates, which takes seconds.
    pub fn new() -> io::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(DIR).join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path)?;
        let made = on_thread(|| {
            unshare(UnshareFlags::NEWNET)?;
            for name in ["accept_dad", "dad_transmits"] {
                // A kernel without IPv6 has no such file, and no such addresses.
                let _ = fs::write(format!("/proc/sys/net/ipv6/conf/default/{name}"), "0");
            }
            loopback_up()?;
            mount_bind("/proc/thread-self/ns/net", &path)?;
            Ok(())
        });
        match made.and_then(|()| File::open(&path)) {
            Ok(file) => Ok(Self { path, fd: file.into() }),
            Err(error) => {
                give_up(&path);
                Err(error)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn place(&self) -> io::Result<Place> {
        Ok(Place { net: Some(self.fd.try_clone()?), files: None })
    }

    /// Leaves the name behind as an ordinary file, as a reboot does where names outlive it.
    pub fn hollow(&self) {
        while unmount(&self.path, UnmountFlags::DETACH).is_ok() {}
    }

    /// Takes the name away, as a runtime does that cleaned up before its DEL. What uses the namespace keeps it.
    pub fn vanish(&self) {
        give_up(&self.path);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        give_up(&self.path);
    }
}

/// Where a program runs.
#[derive(Debug, Default)]
pub struct Place {
    net: Option<OwnedFd>,
    files: Option<OwnedFd>,
}

impl Place {
    /// This machine as it is.
    pub fn machine() -> Self {
        Self::default()
    }

    /// The network namespace at a path.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { net: Some(File::open(path)?.into()), files: None })
    }

    /// The same place with plugins' files of its own, empty at first.
    pub fn with_own_files(self) -> io::Result<Self> {
        let files = on_thread(|| {
            unshare(UnshareFlags::FS.union(UnshareFlags::NEWNS))?;
            mount_change("/", MountPropagationFlags::DOWNSTREAM.union(MountPropagationFlags::REC))?;
            mount("conformance", FILES, "tmpfs", MountFlags::empty(), None)?;
            File::open("/proc/thread-self/ns/mnt")
        })?;
        Ok(Self { files: Some(files.into()), ..self })
    }

    /// Starts a program here.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        on_thread(|| {
            self.enter()?;
            command.spawn()
        })
    }

    /// Runs a function in this place's network namespace, on a thread that ends with it. Sockets made there stay there.
    pub fn run<T: Send>(&self, run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            if let Some(net) = &self.net {
                enter(net.as_fd(), LinkNameSpaceType::Network)?;
            }
            run()
        })
    }

    /// The inode of the network namespace; none on the machine itself.
    pub fn inode(&self) -> Option<u64> {
        let net = self.net.as_ref()?;
        rustix::fs::fstat(net).ok().map(|stat| stat.st_ino)
    }

    fn enter(&self) -> io::Result<()> {
        if let Some(files) = &self.files {
            // A thread that shares its working directory with others may not change its mount namespace.
            unshare(UnshareFlags::FS)?;
            enter(files.as_fd(), LinkNameSpaceType::Mount)?;
        }
        if let Some(net) = &self.net {
            enter(net.as_fd(), LinkNameSpaceType::Network)?;
        }
        Ok(())
    }
}

/// That plugins' files have a place, for as long as a run lasts.
#[derive(Debug)]
pub struct Prepared {
    folder: File,
    made: bool,
}

impl Drop for Prepared {
    /// Removes the folder if it was not there and nobody else uses it. It stays if somebody put something into it.
    fn drop(&mut self) {
        if self.made && flock(&self.folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir(FILES);
        }
    }
}

/// Makes `/run/netns` what `ip netns` makes of it, and a place for plugins' files.
pub fn prepare() -> io::Result<Prepared> {
    fs::create_dir_all(DIR)?;
    let dir = File::open(DIR)?;
    // iproute2 takes the same lock: two at once would stack two mounts.
    flock(&dir, FlockOperation::LockExclusive)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    if mount_change(DIR, shared) == Err(Errno::INVAL) {
        mount_bind_recursive(DIR, DIR)?;
        mount_change(DIR, shared)?;
    }
    let made = !Path::new(FILES).exists();
    fs::create_dir_all(FILES)?;
    let folder = File::open(FILES)?;
    flock(&folder, FlockOperation::LockShared)?;
    Ok(Prepared { folder, made })
}

/// Gives up what runs that were killed left behind.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(DIR) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split_once('-'));
        if owner.is_some_and(|(pid, _)| !Path::new("/proc").join(pid).exists()) {
            end_all(&entry.path().metadata().into_iter().map(|meta| meta.ino()).collect::<Vec<_>>());
            give_up(&entry.path());
        }
    }
}

/// Kills every process whose network namespace has one of these inodes.
pub fn end_all(inodes: &[u64]) {
    for pid in members(inodes) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// How many processes have a network namespace of one of these inodes.
pub fn programs_in(inodes: &[u64]) -> usize {
    members(inodes).len()
}

fn members(inodes: &[u64]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let inside =
        |entry: &fs::DirEntry| entry.path().join("ns/net").metadata().is_ok_and(|meta| inodes.contains(&meta.ino()));
    let pid = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
    entries.flatten().filter(inside).filter_map(pid).collect()
}

/// As a runtime does before it calls plugins: netdevice(7).
fn loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all bytes zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the name and the flags, both inside the structure, which lives here.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn give_up(path: &Path) {
    // More than one mount may lie on one name after a crash.
    while unmount(path, UnmountFlags::DETACH).is_ok() {}
    let _ = fs::remove_file(path);
}

fn enter(fd: BorrowedFd<'_>, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(move_into_link_name_space(fd, Some(kind))?)
}

fn on_thread<T: Send>(run: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let lost = || Err(io::Error::other("a thread of the suite panicked"));
    thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|_| lost()))
}

fn unshare(kinds: UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptors stay shared (no FILES), the only thing that could surprise other threads.
    Ok(unsafe { unshare_unsafe(kinds) }?)
}
