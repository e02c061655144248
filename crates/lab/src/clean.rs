//! Taking a lab down: by what its name marks, not by what its record says, so that it works after any crash.
//!
//! Invariants: no process is killed that does not carry the lab's name in its environment or live in one of its network
//! namespaces; no namespace is removed that belongs to a lab with a longer name (`rip-a-b-n1` is of `a-b`, not of `a`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};
use crate::layout::{Layout, NETNS_DIR};
use crate::lock::{Hold, Lock};
use crate::machine::END_LIMIT;
use crate::options::validate_lab_name;
use crate::places;
use crate::process::{self, ProcessId};
use crate::space;
use crate::state::{self, State};

/// How long a command waits for another one on the same lab.
pub(crate) const LOCK_LIMIT: Duration = Duration::from_secs(60);
/// A process that starts children while it is being killed is caught in one of so many rounds.
const ROUNDS: u32 = 20;
/// How long a control group may take to be let go.
const GROUP_LIMIT: Duration = Duration::from_secs(5);
const CGROUPS: &str = "/sys/fs/cgroup";

/// Removes everything of a lab. Succeeds if there is nothing.
pub fn down(name: &str) -> Result<()> {
    validate_lab_name(name)?;
    need_root()?;
    let layout = Layout::new(name);
    let lock = Lock::take(&layout.lock_file(), Hold::Exclusive, LOCK_LIMIT)?;
    let cleaned = clean(&layout);
    give_back(lock)?;
    cleaned
}

/// Removes everything of a lab, whose lock the caller holds.
pub(crate) fn clean(layout: &Layout) -> Result<()> {
    kill_recorded(layout);
    kill_found(layout)?;
    for name in namespaces(layout) {
        space::netns_del(&name)?;
    }
    remove_control_groups(layout);
    places::unregister(layout)
}

/// Removes a lab's lock and, if no lab is left, the labs' common folder.
pub(crate) fn give_back(lock: Lock) -> Result<()> {
    lock.remove()?;
    places::remove_root();
    Ok(())
}

/// The names of all network namespaces of a lab, whether recorded or not.
#[must_use]
pub fn namespaces(layout: &Layout) -> Vec<String> {
    let foreign = foreign_prefixes(layout, &places::known_labs());
    entries(Path::new(NETNS_DIR)).into_iter().filter(|name| owned(layout, &foreign, name)).collect()
}

/// Refuses to go on without the rights that namespaces need.
pub(crate) fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(LabError::NotPermitted("a lab is made of namespaces, which needs root".into()))
}

/// Inits first: with each of them its whole machine ends.
fn kill_recorded(layout: &Layout) {
    let Ok(state) = State::load(layout) else { return };
    if state.boot != state::boot_id() {
        return;
    }
    let inits = state.machines.values().filter_map(|machine| machine.init);
    process::kill_all(&inits.chain(state.store.values().copied()).collect(), END_LIMIT);
}

fn kill_found(layout: &Layout) -> Result<()> {
    let mut left = BTreeSet::new();
    for _ in 0..ROUNDS {
        let inodes = namespaces(layout).iter().filter_map(|name| space::netns_inode(name)).collect();
        left = process::members(layout.lab());
        left.extend(process::in_namespaces(&inodes));
        if left.is_empty() {
            return Ok(());
        }
        process::kill_all(&left, END_LIMIT);
    }
    let pids: Vec<String> = left.iter().map(|ProcessId { pid, .. }| pid.to_string()).collect();
    Err(LabError::failed(format!("processes of lab {:?} do not end: {}", layout.lab(), pids.join(", "))))
}

/// Prefixes of other labs' names that begin with this lab's prefix.
fn foreign_prefixes(layout: &Layout, labs: &[String]) -> Vec<String> {
    let own = layout.prefix();
    labs.iter().map(|lab| Layout::new(lab).prefix()).filter(|other| *other != own && other.starts_with(&own)).collect()
}

fn owned(layout: &Layout, foreign: &[String], name: &str) -> bool {
    name.starts_with(&layout.prefix()) && !foreign.iter().any(|other| name.starts_with(other.as_str()))
}

/// Control groups of the lab in every hierarchy: `/sys/fs/cgroup/rip-L-…` and `/sys/fs/cgroup/CONTROLLER/rip-L-…`.
fn control_groups(layout: &Layout) -> Vec<PathBuf> {
    let foreign = foreign_prefixes(layout, &places::known_labs());
    let top = Path::new(CGROUPS);
    let hierarchies = entries(top).into_iter().map(|name| top.join(name)).filter(|path| path.is_dir());
    let mut found = Vec::new();
    for dir in hierarchies.chain([top.to_owned()]) {
        found.extend(entries(&dir).into_iter().filter(|name| owned(layout, &foreign, name)).map(|name| dir.join(name)));
    }
    found
}

/// Tries until all are gone: the kernel keeps the group of an ended process a moment longer.
fn remove_control_groups(layout: &Layout) {
    let begun = Instant::now();
    loop {
        let groups = control_groups(layout);
        groups.iter().for_each(|dir| remove_control_group(dir));
        if groups.is_empty() || begun.elapsed() >= GROUP_LIMIT {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A control group goes when its children are gone; its files cannot be removed and need not be.
fn remove_control_group(dir: &Path) {
    for name in entries(dir) {
        let child = dir.join(name);
        if child.is_dir() {
            remove_control_group(&child);
        }
    }
    let _ = fs::remove_dir(dir);
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_owns_its_prefix_but_not_that_of_a_longer_name() {
        let layout = Layout::new("a");
        let foreign = foreign_prefixes(&layout, &["a".into(), "a-b".into(), "b".into(), "ab".into()]);
        assert_eq!(foreign, ["rip-a-b-"]);
        assert!(owned(&layout, &foreign, "rip-a-n1"));
        assert!(owned(&layout, &foreign, "rip-a-bee"));
        assert!(!owned(&layout, &foreign, "rip-a-b-n1"));
        assert!(!owned(&layout, &foreign, "rip-ab-n1"));
    }
}
