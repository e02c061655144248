//! Stores in processes of their own: killed, locked out, and short of room.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ripstop_store::suite::Mirror;
use ripstop_store::{Embedded, Expect, Kind, Remote, Store, StoreError, serve};
use ripstop_types::Revision;
use serde_json::json;

const TASK: &str = "RIPSTOP_STORE_TEST_TASK";
const DIR: &str = "RIPSTOP_STORE_TEST_DIR";

/// This test binary, doing one of its tasks.
fn command(task: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "process::a_task_of_another_test"]).stdout(Stdio::null());
    command.env(TASK, task).env(DIR, dir);
    command
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a child process does; nothing by itself.
#[tokio::test]
#[ignore = "other tests run this in a process of its own"]
async fn a_task_of_another_test() {
    let (Ok(task), Some(dir)) = (std::env::var(TASK), std::env::var_os(DIR).map(PathBuf::from)) else { return };
    match task.as_str() {
        "serve" => {
            let store = Arc::new(Embedded::open(dir.join("store.redb")).unwrap());
            serve(store, dir.join("s"), std::future::pending()).await.unwrap();
        }
        "fill" => fill(&dir).await,
        other => panic!("no task {other:?}"),
    }
}

/// Writes by client while the server is killed and started again.
#[tokio::test]
async fn a_killed_server_loses_no_answered_write() {
    let dir = tempfile::tempdir().unwrap();
    let client = Remote::lazy(dir.path().join("s")).unwrap();
    let mut watch = client.watch(&[Kind::Nodes]);
    let mut mirror = Mirror::new(&[Kind::Nodes]);
    let (mut last, mut n) = (Revision(0), 0u64);
    let mut answered = std::collections::BTreeMap::new();
    for round in 0..6u64 {
        let mut server = Killed(command("serve", dir.path()).spawn().unwrap());
        let done = Cell::new(0);
        // Killed in the middle of the writing, at another place each time.
        let killer = async {
            while !mirror.is_synced() || done.get() < 10 {
                let event = watch.recv().await.expect("an event");
                mirror.take(event).unwrap();
            }
            tokio::time::sleep(Duration::from_micros(700 * round)).await;
            server.kill();
        };
        let writer = async {
            loop {
                n += 1;
                match client.put_if(Kind::Nodes, &format!("k{n:06}"), &json!(n), Expect::Absent).await {
                    Ok(revision) => {
                        assert!(revision > last, "{revision} after {last}");
                        last = revision;
                        answered.insert(n, revision);
                        done.set(done.get() + 1);
                    }
                    Err(StoreError::Away { .. }) if done.get() >= 10 => break,
                    Err(StoreError::Away { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
                    Err(other) => panic!("{other}"),
                }
            }
        };
        tokio::join!(writer, killer);
    }
    drop(client);
    let store = Embedded::open(dir.path().join("store.redb")).unwrap();
    assert!(answered.len() >= 60, "{} answered", answered.len());
    for (n, revision) in answered {
        let found = store.get(Kind::Nodes, &format!("k{n:06}")).await.unwrap();
        assert_eq!(found.map(|record| (record.value, record.revision)), Some((json!(n), revision)));
    }
    assert!(mirror.absences() >= 5, "{}", mirror.absences());
}

#[tokio::test]
async fn a_file_another_process_serves_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Killed(command("serve", dir.path()).spawn().unwrap());
    let client = loop {
        match Remote::connect(dir.path().join("s")).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let given = client.put_if(Kind::Nodes, "n", &json!(1), Expect::Absent).await.unwrap();
    let path = dir.path().join("store.redb");
    assert_eq!(Embedded::open(&path).err(), Some(StoreError::InUse { path: path.clone() }));
    server.kill();
    // The lock ends with the process, and what was answered is there.
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.revision(), given);
    // The socket it left is replaced.
    let serving = tokio::spawn(serve(Arc::new(store), dir.path().join("s"), std::future::pending()));
    while client.get(Kind::Nodes, "n").await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    serving.abort();
}

/// Runs [`fill`] on a file system of two megabytes that only that process sees.
#[test]
fn a_full_disk_refuses_writes_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |then: &[&str]| {
        let script = r#"mount -t tmpfs -o size=2m none "$0" && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(dir.path()).args(then);
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        command
    };
    if !mount(&["true"]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: a full disk: no file system can be mounted here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let mut filling = mount(&[this, "--ignored", "--exact", "process::a_task_of_another_test", "--nocapture"]);
    let output = filling.env(TASK, "fill").env(DIR, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn fill(dir: &Path) {
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let path = dir.join("store.redb");
    let store = Embedded::open(&path).unwrap();
    let value = json!("x".repeat(20_000));
    let mut written = Vec::new();
    let fault = loop {
        let key = format!("k{:03}", written.len());
        match store.put_if(Kind::Nodes, &key, &value, Expect::Absent).await {
            Ok(revision) => written.push((key, revision)),
            Err(fault) => break fault,
        }
        assert!(written.len() < 1000, "two megabytes took {} records", written.len());
    };
    assert!(matches!(fault, StoreError::Full { .. }), "{fault:?}");
    assert!(written.len() > 5, "{} written", written.len());
    let records = async |store: &Embedded| {
        let listed = store.list(Kind::Nodes).await.unwrap();
        listed.into_iter().map(|record| (record.key, record.revision)).collect::<Vec<_>>()
    };
    assert_eq!(records(&store).await, written);
    // Full again and again, and read all the while.
    for _ in 0..3 {
        let fault = store.put_if(Kind::Claims, "k", &value, Expect::Any).await.unwrap_err();
        assert!(fault.is_passing() && !fault.maybe_applied(), "{fault:?}");
        assert_eq!(records(&store).await, written);
    }
    std::fs::remove_file(&ballast).unwrap();
    let given = store.put_if(Kind::Nodes, "k999", &value, Expect::Absent).await.unwrap();
    written.push(("k999".into(), given));
    store.close().await;
    let store = Embedded::open(&path).unwrap();
    assert_eq!(records(&store).await, written);
    // A disk with no room at all for a new store.
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap_or_default();
    let new = dir.join("new.redb");
    match Embedded::open(&new) {
        Err(StoreError::Full { .. }) => assert_eq!(std::fs::metadata(&new).unwrap().len(), 0),
        Err(other) => panic!("{other}"),
        Ok(_) => {}
    }
}
