//! The embedded store's file: damaged, foreign, locked, out of reach.

use std::path::Path;

use ripstop_store::{Embedded, Event, Expect, Kind, Store, StoreError};
use serde_json::json;

/// A file with `count` records, closed in order.
async fn filled(path: &Path, count: u32) {
    let store = Embedded::open(path).unwrap();
    let puts = (0..count).map(|i| {
        let store = &store;
        async move {
            let value = json!({"i": i, "text": "x".repeat(200)});
            store.put_if(Kind::Nodes, &format!("n{i:05}"), &value, Expect::Absent).await.unwrap();
        }
    });
    for put in puts {
        put.await;
    }
    store.close().await;
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    filled(&path, 50).await;
    let store = Embedded::open(&path).unwrap();
    let records = store.list(Kind::Nodes).await.unwrap();
    assert_eq!(records.len(), 50);
    assert_eq!(store.revision().0, 50);
    let mut watch = store.watch(&[Kind::Nodes]);
    for record in records {
        assert_eq!(watch.recv().await, Some(Event::Put(record)));
    }
    let next = store.put_if(Kind::Alive, "n", &json!(1), Expect::Any).await.unwrap();
    assert_eq!(next.0, 51);
    drop(store);
    while let Some(event) = watch.recv().await {
        assert!(matches!(event, Event::Synced { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn a_second_opener_is_told_to_serve() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Embedded::open(&path).unwrap();
    let fault = Embedded::open(&path).err().unwrap();
    assert_eq!(fault, StoreError::InUse { path: path.clone() });
    assert!(fault.to_string().contains("serve it with `ripstop store serve`"), "{fault}");
    drop(store);
    Embedded::open(&path).unwrap();
}

/// Damages a good file in many ways. It is either refused and left as it was, or opened with every record whole.
#[tokio::test]
async fn a_damaged_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    filled(&path, 300).await;
    let good = std::fs::read(&path).unwrap();
    let step = good.len() / 60;
    let mut refused = 0;
    for n in 0..60 {
        let mut bad = good.clone();
        let at = n * step + n;
        bad[at] ^= 0x5a;
        std::fs::write(&path, &bad).unwrap();
        match Embedded::open(&path) {
            Ok(store) => {
                let records = store.list(Kind::Nodes).await.unwrap();
                assert_eq!(records.len(), 300, "byte {at}");
                assert!(records.iter().enumerate().all(|(i, r)| r.value["i"] == i), "byte {at}");
            }
            Err(fault) => {
                assert!(matches!(fault, StoreError::Corrupt { .. }), "byte {at}: {fault}");
                assert_eq!(std::fs::read(&path).unwrap(), bad, "byte {at}: the file was changed");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused} of 60 were refused");
}

#[tokio::test]
async fn a_cut_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    filled(&path, 300).await;
    let good = std::fs::read(&path).unwrap();
    for len in [1, 100, 4096, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..len]).unwrap();
        let fault = Embedded::open(&path).err().unwrap();
        assert!(matches!(fault, StoreError::Corrupt { .. }), "{len}: {fault}");
        assert_eq!(std::fs::read(&path).unwrap(), &good[..len]);
        assert!(fault.to_string().contains("move it away"), "{fault}");
    }
}

#[tokio::test]
async fn a_foreign_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let text = b"apiVersion: v1\n".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    assert!(matches!(Embedded::open(&path), Err(StoreError::Corrupt { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), text);

    // Another program's redb file.
    let path = dir.path().join("other.redb");
    let other = redb::Database::create(&path).unwrap();
    let write = other.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<u64, u64>::new("t")).unwrap().insert(1, 1).unwrap();
    write.commit().unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    let fault = Embedded::open(&path).err().unwrap();
    assert!(fault.to_string().contains("no store of ripstop"), "{fault}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_file_out_of_reach_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (path, says) in [
        (dir.path().join("none/store.redb"), "No such file or directory"),
        // Not even root makes files here.
        ("/sys/kernel/store.redb".into(), "ermi"),
        (dir.path().to_owned(), "directory"),
        ("/dev/null".into(), "not a regular file"),
    ] {
        if path.starts_with("/sys") && !Path::new("/sys/kernel").exists() {
            println!("SKIPPED: an unwritable directory: no /sys here");
            continue;
        }
        let fault = Embedded::open(&path).err().unwrap();
        assert!(matches!(fault, StoreError::Io { .. }), "{fault:?}");
        assert!(fault.to_string().contains(says), "{fault}");
        assert!(fault.to_string().contains(path.to_str().unwrap()), "{fault}");
    }
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Embedded::open(&path).unwrap();
    let mut watch = store.watch(&[Kind::Claims]);
    store.close().await;
    store.close().await;
    let fault = store.put_if(Kind::Nodes, "n", &json!(1), Expect::Any).await.unwrap_err();
    assert!(matches!(&fault, StoreError::Away { maybe_applied: false, .. }), "{fault}");
    assert!(matches!(store.get(Kind::Nodes, "n").await, Err(StoreError::Away { .. })));
    while watch.recv().await.is_some() {}
    Embedded::open(&path).unwrap();
}
