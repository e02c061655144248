//! Programs of ours in the kernel (eBPF, in C below `c/`): loaded, pinned, attached, read back.
//!
//! - [`ipip`]: IPIP where the kernel has no device for it.
//!
//! Not here: when they are wanted. Invariants: what is in the kernel is pinned in one folder, so it outlives who made it and is found
//! again; whatever is not in that folder is nobody's business here.

pub mod ipip;

use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be done with a program: a sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(Box<str>);

impl Fault {
    fn of(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = format!("{what}: {error}");
        let mut next = error.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            next = cause.source();
        }
        Self(text.into())
    }
}

/// Where the kernel's file system for pins is.
const FILE_SYSTEM: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` (linux/magic.h).
const MAGIC: u64 = 0xcafe_4a11;

/// The folder for pins of the calling thread's network namespace.
///
/// # Errors
/// The namespace has no number.
pub fn folder() -> io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let number = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(Path::new(FILE_SYSTEM).join("ripstop").join(format!("netns-{number}")))
}

/// Whether the kernel attaches programs to links in an order of their own (tcx, Linux 6.6).
#[must_use]
pub fn is_supported() -> bool {
    let release = rustix::system::uname();
    let mut numbers =
        release.release().to_str().unwrap_or_default().split('.').map_while(|part| part.parse::<u32>().ok());
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    release >= (6, 6) && Path::new(FILE_SYSTEM).exists()
}

/// Makes a folder for pins, and mounts their file system where nobody did.
fn make_folder(folder: &Path) -> Result<(), Fault> {
    let magic = rustix::fs::statfs(FILE_SYSTEM).map(|found| found.f_type.cast_unsigned());
    if magic.map_err(|error| Fault::of(FILE_SYSTEM, &error))? != MAGIC {
        rustix::mount::mount("bpf", FILE_SYSTEM, "bpf", rustix::mount::MountFlags::empty(), None)
            .map_err(|error| Fault::of(&format!("mounting {FILE_SYSTEM}"), &error))?;
    }
    std::fs::create_dir_all(folder).map_err(|error| Fault::of(&folder.display().to_string(), &error))
}
