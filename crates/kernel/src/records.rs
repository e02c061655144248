//! Records in files of this node that do not outlive a boot.
//!
//! One file a record, `<root>/<folder>/<key>.json`, written beside and renamed, so that a reader sees the old or the new
//! one and never a part. A writer that is killed between the two leaves the file beside, which is no record:
//! [`BootFiles::clear_unfinished`] removes it. The root lies on a tmpfs: a reboot removes records and what they speak of
//! together, so nothing is synced to a disk.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ripstop_netmodel::{Record, RecordGuard, RecordScope};

use crate::error::Fault;

/// Longest file name in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
const SUFFIX: &str = ".json";
/// Last letter of the name under which a record is written before it gets its own.
const BESIDE: char = '~';

/// Where record steps go that are not for the kernel.
pub trait Records {
    /// Writes a record under the condition of its guard. Writing the value that is there succeeds.
    fn put(&mut self, record: &Record) -> Result<(), Fault>;

    /// Removes a record. Removing what is gone succeeds.
    fn delete(&mut self, scope: &RecordScope, key: &str) -> Result<(), Fault>;
}

/// The records of [`RecordScope::Boot`].
#[derive(Debug, Clone)]
pub struct BootFiles {
    root: PathBuf,
}

impl BootFiles {
    /// Records below this directory, usually `/run/ripstop`. It is made when first needed.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Every record of a folder, in the order of keys. A folder that is not there is empty.
    ///
    /// # Errors
    /// Names the file that cannot be read. One bad file does not hide the others: they are returned too.
    pub fn list(&self, folder: &str) -> (Vec<Record>, Vec<Fault>) {
        let directory = self.root.join(escape(folder));
        let mut records = Vec::new();
        let mut faults = Vec::new();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (records, faults),
            Err(error) => return (records, vec![fault(&directory, &error)]),
        };
        for entry in entries {
            match entry.map_err(|error| fault(&directory, &error)).and_then(|entry| read(folder, &entry.path())) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => faults.push(error),
            }
        }
        records.sort_by(|a: &Record, b| a.key.cmp(&b.key));
        (records, faults)
    }

    /// Removes what a writer that was killed left beside the records of a folder. Only for the folder's one writer: what
    /// another one is writing would go too.
    ///
    /// # Errors
    /// Names the files that cannot be removed; the others are gone.
    pub fn clear_unfinished(&self, folder: &str) -> Vec<Fault> {
        let directory = self.root.join(escape(folder));
        let unfinished = |name: &str| name.starts_with('.') && name.ends_with(BESIDE);
        let entries = fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
        entries
            .filter(|entry| entry.file_name().to_str().is_some_and(unfinished))
            .filter_map(|entry| fs::remove_file(entry.path()).err().map(|error| fault(&entry.path(), &error)))
            .collect()
    }

    /// The record under a key, if it is there.
    pub fn get(&self, folder: &str, key: &str) -> Result<Option<Record>, Fault> {
        let path = self.path(folder, key)?;
        if path.exists() { read(folder, &path) } else { Ok(None) }
    }

    fn path(&self, folder: &str, key: &str) -> Result<PathBuf, Fault> {
        let name = format!("{}{SUFFIX}", escape(key));
        // The temporary file's name is two bytes longer.
        if name.len() + 2 > NAME_MAX || escape(folder).len() > NAME_MAX {
            return Err(Fault::Unsupported(format!("the key is too long for a file name of {NAME_MAX} bytes").into()));
        }
        Ok(self.root.join(escape(folder)).join(name))
    }

    fn folder(scope: &RecordScope) -> Result<&str, Fault> {
        match scope {
            RecordScope::Boot(folder) => Ok(folder),
            RecordScope::Cluster(kind) => {
                Err(Fault::Unsupported(format!("records of kind {kind} belong to the cluster's store").into()))
            }
        }
    }
}

impl Records for BootFiles {
    fn put(&mut self, record: &Record) -> Result<(), Fault> {
        let path = self.path(Self::folder(&record.scope)?, &record.key)?;
        if record.guard == RecordGuard::Absent
            && let Ok(there) = fs::read_to_string(&path)
        {
            if there == *record.value {
                return Ok(());
            }
            return Err(Fault::Foreign { holder: format!("the record in {}", path.display()).into() });
        }
        let Some(directory) = path.parent() else {
            return Err(Fault::Unsupported("the record's folder has no parent".into()));
        };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|e| fault(directory, &e))?;
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let beside = directory.join(format!(".{name}{BESIDE}"));
        let written = fs::write(&beside, record.value.as_bytes()).and_then(|()| fs::rename(&beside, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&beside);
            fault(&path, &error)
        })
    }

    fn delete(&mut self, scope: &RecordScope, key: &str) -> Result<(), Fault> {
        let path = self.path(Self::folder(scope)?, key)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(&path, &error)),
            _ => Ok(()),
        }
    }
}

/// The record in a file; `None` for a file that is no record.
fn read(folder: &str, path: &Path) -> Result<Option<Record>, Fault> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if name.starts_with('.') {
        return Ok(None);
    }
    let Some(key) = name.strip_suffix(SUFFIX).and_then(unescape) else { return Ok(None) };
    let value = match fs::read_to_string(path) {
        Ok(value) => value,
        // Removed since the directory was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(path, &error)),
    };
    Ok(Some(Record {
        scope: RecordScope::Boot(folder.into()),
        key: key.into(),
        value: value.into(),
        guard: RecordGuard::Any,
    }))
}

fn fault(path: &Path, error: &io::Error) -> Fault {
    Fault::file(&path.display().to_string(), error, None)
}

/// A key as a file name: letters, digits, '.', '_' and '-' stay, everything else and a leading '.' become `%XX`.
fn escape(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for (i, byte) in key.bytes().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            b'.' if i > 0 => name.push('.'),
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    name
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str, guard: RecordGuard) -> Record {
        Record { scope: RecordScope::Boot("leases".into()), key: key.into(), value: value.into(), guard }
    }

    #[test]
    fn keys_are_safe_in_file_names_and_come_back() {
        for key in ["a/b", "../../etc/passwd", ".", "..", ".hidden", "ä b%2F", "0a9f_b.c-d/eth0", "a\0b", ""] {
            let name = escape(key);
            assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
            assert_eq!(unescape(&name).as_deref(), Some(key));
        }
        assert_eq!(unescape("a%2"), None);
        assert_eq!(unescape("a%zz"), None);
    }

    #[test]
    fn records_are_written_listed_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let mut files = BootFiles::new(root.path());
        assert_eq!(files.list("leases"), (vec![], vec![]));
        files.put(&record("b/eth0", "{\"ip\":2}", RecordGuard::Any)).unwrap();
        files.put(&record("a/eth0", "{\"ip\":1}", RecordGuard::Absent)).unwrap();
        files.put(&record("a/eth0", "{\"ip\":1}", RecordGuard::Absent)).unwrap();
        let taken = files.put(&record("a/eth0", "{\"ip\":9}", RecordGuard::Absent)).unwrap_err();
        assert!(matches!(taken, Fault::Foreign { .. }), "{taken}");
        fs::write(root.path().join("leases/.left-over~"), "{").unwrap();
        let (listed, faults) = files.list("leases");
        assert_eq!(faults, []);
        assert_eq!(
            listed.iter().map(|r| (&*r.key, &*r.value)).collect::<Vec<_>>(),
            [("a/eth0", "{\"ip\":1}"), ("b/eth0", "{\"ip\":2}")]
        );
        assert_eq!(files.get("leases", "a/eth0").unwrap().unwrap().value, "{\"ip\":1}".into());
        files.delete(&RecordScope::Boot("leases".into()), "a/eth0").unwrap();
        files.delete(&RecordScope::Boot("leases".into()), "a/eth0").unwrap();
        assert_eq!(files.get("leases", "a/eth0").unwrap(), None);
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let mut files = BootFiles::new(root.path());
        assert_eq!(files.clear_unfinished("leases"), [], "a folder that is not there has nothing");
        files.put(&record("a~", "{}", RecordGuard::Any)).unwrap();
        let leases = root.path().join("leases");
        for name in [".a.eth0.json~", ".b.eth0.json~", ".hidden", "README~"] {
            fs::write(leases.join(name), "{\"half\":").unwrap();
        }
        assert_eq!(files.clear_unfinished("leases"), []);
        let mut left: Vec<_> = fs::read_dir(&leases).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".hidden", "README~", "a%7E.json"]);
        fs::create_dir(leases.join(".c.json~")).unwrap();
        let faults = files.clear_unfinished("leases");
        assert!(faults.len() == 1 && faults[0].to_string().contains(".c.json~"), "{faults:?}");
    }

    #[test]
    fn a_bad_file_is_named_and_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        let mut files = BootFiles::new(root.path());
        files.put(&record("good", "{}", RecordGuard::Any)).unwrap();
        fs::write(root.path().join("leases/bad.json"), [0xff, 0xfe]).unwrap();
        let (listed, faults) = files.list("leases");
        assert_eq!(listed.len(), 1);
        assert!(faults.len() == 1 && faults[0].to_string().contains("leases/bad.json"), "{faults:?}");
    }

    #[test]
    fn what_is_not_for_files_is_refused() {
        let mut files = BootFiles::new("/nonexistent");
        let cluster = Record { scope: RecordScope::Cluster("claims".into()), ..record("x", "{}", RecordGuard::Any) };
        assert!(files.put(&cluster).unwrap_err().to_string().contains("claims"));
        assert!(
            files.put(&record(&"x".repeat(300), "{}", RecordGuard::Any)).unwrap_err().to_string().contains("too long")
        );
    }
}
