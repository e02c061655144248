//! Settings below /proc/sys, in the calling thread's network namespace.
//!
//! The kernel looks up everything below /proc/sys/net by the namespace of the thread that opens the file, so whoever
//! means another namespace enters it first.
//!
//! Container runtimes mount /proc/sys read-only where a container is not privileged. Then what is written goes through a
//! proc file system of this process' own, which is mounted nowhere, so that nothing else sees it: CAP_SYS_ADMIN is
//! enough for that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::Fault;

/// The value as one reads it back: without the line's end, fields separated by one blank.
pub(crate) fn read(path: &str) -> Result<Option<String>, Fault> {
    let file = file(path)?;
    match fs::read_to_string(&file) {
        Ok(text) => Ok(Some(normal(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::file(&file, &error, None)),
    }
}

/// Writes a value; writes nothing where it is there already, so that read-only trees do where nothing need be changed.
pub(crate) fn write(path: &str, value: &str) -> Result<(), Fault> {
    let file = file(path)?;
    let written = open(path, &file).and_then(|mut f| f.write_all(value.as_bytes()));
    let Err(error) = written else { return Ok(()) };
    if matches!(read(path), Ok(Some(there)) if there == normal(value)) {
        return Ok(());
    }
    let cause = match error.raw_os_error() {
        Some(libc::ENOENT) => Some("this kernel has no such setting, or the link it belongs to is gone"),
        Some(libc::EROFS) => Some("/proc/sys is mounted read-only, and the agent's container lacks CAP_SYS_ADMIN"),
        Some(libc::EINVAL) => Some("the kernel does not accept this value"),
        Some(libc::EACCES | libc::EPERM) => Some("the agent needs root and CAP_NET_ADMIN"),
        _ => None,
    };
    Err(Fault::file(&file, &error, cause))
}

/// Whether a setting is there and could be written.
pub(crate) fn is_writable(path: &str) -> bool {
    let Ok(file) = file(path) else { return false };
    match rustix::fs::access(&file, rustix::fs::Access::WRITE_OK) {
        Err(Errno::ROFS) => own_proc().is_ok_and(|proc| {
            let below = format!("sys/{path}");
            rustix::fs::accessat(proc, &below, rustix::fs::Access::WRITE_OK, AtFlags::empty()).is_ok()
        }),
        answer => answer.is_ok(),
    }
}

/// Opens a setting to write it; `file` is where it shows below /proc.
fn open(path: &str, file: &str) -> io::Result<File> {
    let error = match OpenOptions::new().write(true).open(file) {
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => error,
        opened => return opened,
    };
    // Without a proc file system of its own the first answer is the one that tells what is wrong.
    let Ok(proc) = own_proc() else { return Err(error) };
    let opened = rustix::fs::openat(proc, format!("sys/{path}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(File::from(opened))
}

/// A proc file system that can be written to: fsopen(2), fsmount(2), Linux 5.2.
fn own_proc() -> Result<&'static OwnedFd, Errno> {
    static PROC: OnceLock<Result<OwnedFd, Errno>> = OnceLock::new();
    let made = PROC.get_or_init(|| {
        let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    });
    made.as_ref().map_err(|errno| *errno)
}

fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn file(path: &str) -> Result<String, Fault> {
    let odd = path.is_empty() || path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if odd {
        return Err(Fault::Unsupported(format!("{path:?} is not a path below /proc/sys").into()));
    }
    Ok(format!("/proc/sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_proc_sys() {
        for bad in ["", "/etc/passwd", "net/../../../etc/passwd", "net//ipv4", "."] {
            assert!(matches!(write(bad, "1"), Err(Fault::Unsupported(_))), "{bad}");
        }
    }

    #[test]
    fn values_come_without_the_lines_end() {
        assert!(read("kernel/ostype").unwrap().is_some_and(|text| text == "Linux"));
        assert_eq!(read("net/no/such/setting").unwrap(), None);
        let fault = write("net/no/such/setting", "1").unwrap_err();
        assert!(fault.to_string().contains("no such setting"), "{fault}");
    }
}
