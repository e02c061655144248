//! Folders of the host on which machines hang their own: `/etc/ripstop` and `/var/lib/ripstop`.
//!
//! The first lab makes those that are missing, the last one takes them away again. All under one lock, since removing a
//! folder would also remove the mounts other machines have on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Attempt, Result};
use crate::layout::{DISK, Layout, ROOT};
use crate::lock::{Hold, Lock};

const WANTED: [&str; 2] = ["/etc/ripstop", "/var/lib/ripstop"];
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the lab's folder, which registers it, and the host's folders where they are missing.
pub fn register(layout: &Layout) -> Result<()> {
    let _lock = root_lock()?;
    let mut made = made();
    for place in WANTED.map(Path::new) {
        if !place.exists() {
            made.push(place.into());
            write_made(&made)?;
            fs::create_dir_all(place).attempt(|| format!("make {}", place.display()))?;
        }
    }
    fs::create_dir_all(layout.dir()).attempt(|| format!("make {}", layout.dir().display()))
}

/// Removes the lab's folder and, after the last lab, everything the first one made.
pub fn unregister(layout: &Layout) -> Result<()> {
    let lock = root_lock()?;
    match fs::remove_dir_all(layout.dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).attempt(|| format!("remove {}", layout.dir().display()));
        }
        _ => {}
    }
    remove_disk(layout)?;
    if !known_labs().is_empty() {
        return Ok(());
    }
    for place in made() {
        // A folder that somebody filled meanwhile is theirs.
        let _ = fs::remove_dir(place);
    }
    let _ = fs::remove_file(made_file());
    lock.remove()?;
    Ok(())
}

/// Removes what containers left on the disk, and the labs' common folder there if nothing else is in it.
fn remove_disk(layout: &Layout) -> Result<()> {
    match fs::remove_dir_all(layout.disk()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).attempt(|| format!("remove {}", layout.disk().display()));
        }
        _ => {}
    }
    let _ = fs::remove_dir(DISK);
    Ok(())
}

/// Removes the labs' common folder if nothing is in it.
pub fn remove_root() {
    let _ = fs::remove_dir(ROOT);
}

/// The names of all labs that are up or left something behind.
#[must_use]
pub fn known_labs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn root_lock() -> Result<Lock> {
    Lock::take(&Path::new(ROOT).join(".lock"), Hold::Exclusive, LIMIT)
}

fn made_file() -> PathBuf {
    Path::new(ROOT).join(".made")
}

fn made() -> Vec<PathBuf> {
    let text = fs::read_to_string(made_file()).unwrap_or_default();
    text.lines().map(PathBuf::from).filter(|path| WANTED.iter().any(|wanted| path == Path::new(wanted))).collect()
}

fn write_made(made: &[PathBuf]) -> Result<()> {
    let text: String = made.iter().map(|path| format!("{}\n", path.display())).collect();
    fs::write(made_file(), text).attempt(|| format!("write {}", made_file().display()))
}
