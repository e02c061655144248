//! The network configurations that the container runtime finds: whether it takes ours is told by who comes first.
//!
//! The folder is only read. What cannot be read says nothing: the agent may run where it does not see the folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ripstop_tables::{Input, NetworkList};
use tokio::sync::mpsc::UnboundedSender;

use crate::message::Message;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Files that are looked at, and bytes of each.
const MOST_FILES: usize = 100;
const MOST_BYTES: u64 = 1 << 20;

/// The name of our plugin in a configuration.
const PLUGIN: &str = "\"ripstop-cni\"";

/// Hands in what is found, whenever that changes.
pub fn watch(dir: PathBuf, queue: UnboundedSender<Message>) {
    tokio::spawn(async move {
        let mut last = None;
        loop {
            if let Ok(lists) = read(&dir)
                && last.as_ref() != Some(&lists)
            {
                last = Some(lists.clone());
                if queue.send(Message::Input(Input::Lists { lists })).is_err() {
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    });
}

/// The configurations in a folder, in the order of their names, which is that in which runtimes take them.
fn read(dir: &Path) -> std::io::Result<Vec<NetworkList>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // libcni's own list of endings (`ConfFiles`).
        if path.extension().is_some_and(|kind| ["conf", "conflist", "json"].iter().any(|known| kind == *known)) {
            found.push(path);
        }
    }
    found.sort();
    found.truncate(MOST_FILES);
    let list = |path: &PathBuf| {
        let name = path.file_name()?.to_string_lossy();
        let mut text = Vec::new();
        // One that is gone meanwhile, or no file, is none.
        File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut text).ok()?;
        // As it is shown to people: a name may have any byte.
        let file = name.chars().filter(|c| !c.is_control()).collect::<String>();
        Some(NetworkList { file: file.into(), ours: String::from_utf8_lossy(&text).contains(PLUGIN) })
    };
    Ok(found.iter().filter_map(list).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&dir.path().join("none")).is_err());
        for (name, text) in [
            ("10-ripstop.conflist", "{\"plugins\": [{\"type\": \"ripstop-cni\"}]}"),
            ("87-podman.conflist", "{\"plugins\": [{\"type\": \"bridge\"}]}"),
            ("05-other.conf", "not even JSON \u{7f}"),
            ("01-other.conflist.bak", "{}"),
            (".00-half.conflist.new-1", "{}"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::create_dir(dir.path().join("02-folder.conflist")).unwrap();
        let found: Vec<_> =
            read(dir.path()).unwrap().into_iter().map(|list| (list.file.to_string(), list.ours)).collect();
        let wanted = [("05-other.conf", false), ("10-ripstop.conflist", true), ("87-podman.conflist", false)];
        assert_eq!(found, wanted.map(|(name, ours)| (name.to_owned(), ours)));
    }
}
