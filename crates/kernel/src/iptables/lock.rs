//! Who holds the lock that programs of legacy iptables take in turn.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// The file, unless the environment names another, as the programs do.
const FILE: &str = "/run/xtables.lock";

/// The process that holds the lock now: its id and command.
pub(super) fn holder() -> Option<String> {
    let path = std::env::var("XTABLES_LOCKFILE").unwrap_or_else(|_| FILE.into());
    let meta = fs::metadata(path).ok()?;
    let device = meta.dev();
    let file = format!("{:02x}:{:02x}:{}", libc::major(device), libc::minor(device), meta.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = of(&locks, &file).or_else(|| heir(&file))?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let command = if command.trim().is_empty() { name.trim().to_owned() } else { command.trim().to_owned() };
    Some(format!("process {pid} ({command})"))
}

/// The holder of a lock of this file, among lines like `1: FLOCK  ADVISORY  WRITE 1234 00:1a:56 0 EOF`; who waits for one has an arrow.
fn of(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, _, _, _, pid, of, ..] if of == file && words.get(1) != Some(&"->") => pid.parse().ok(),
            _ => None,
        }
    })
}

/// Who has the lock of one that has ended: the lock belongs to the open file, which a child goes on having.
fn heir(file: &str) -> Option<u32> {
    let has = |pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        let infos = open.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        infos.into_iter().any(|info| info.lines().any(|line| line.starts_with("lock:") && line.contains(file)))
    };
    let all = fs::read_dir("/proc").ok()?.flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| has(*pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_and_not_who_waits() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1a:55 0 EOF\n2: FLOCK  ADVISORY  WRITE 77 00:1a:56 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 78 00:1a:56 0 EOF\n";
        assert_eq!(of(locks, "00:1a:56"), Some(77));
        assert_eq!(of(locks, "00:1a:57"), None);
    }
}
