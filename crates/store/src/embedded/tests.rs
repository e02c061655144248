//! What needs a look inside: broken files, and feeds that are held up.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use super::*;

/// The items of a feed up to and with the first that is `last`, as words.
async fn words(feed: &mut Feed, last: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    while words.last().is_none_or(|word| !word.starts_with(last)) {
        for item in feed.next(1).await.expect("an item") {
            words.push(match item {
                Item::Change(change) if change.text.is_some() => format!("put {}", change.key),
                Item::Change(change) => format!("delete {}", change.key),
                Item::Event(Event::Synced { kind, revision }) => format!("synced {kind} {revision}"),
                Item::Event(Event::Reset { kind }) => format!("reset {kind}"),
                Item::Event(Event::Away { .. }) => "away".to_owned(),
                Item::Event(Event::Back) => "back".to_owned(),
                Item::Event(other) => panic!("{other:?}"),
                Item::At(revision) => format!("at {revision}"),
            });
        }
    }
    words
}

async fn filled(store: &Embedded) {
    for key in ["a", "b", "c"] {
        store.put_if(Kind::Nodes, key, &json!(1), Expect::Absent).await.unwrap();
    }
}

#[tokio::test]
async fn a_feed_that_let_go_of_its_snapshot_begins_anew() {
    let store = Embedded::in_memory().unwrap();
    filled(&store).await;
    let mut feed = store.feed(&[Kind::Nodes, Kind::Claims], Begin::Fresh);
    assert_eq!(words(&mut feed, "put b").await, ["put a", "put b"]);
    feed.release();
    store.delete_if(Kind::Nodes, "c", Expect::Any).await.unwrap();
    let expected = ["reset nodes", "reset claims", "put a", "put b", "synced nodes 4", "synced claims 4"];
    assert_eq!(words(&mut feed, "synced claims").await, expected);
    // In the log there is nothing to let go of.
    feed.release();
    store.put_if(Kind::Claims, "x", &json!(1), Expect::Any).await.unwrap();
    assert_eq!(words(&mut feed, "put x").await, ["put x"]);
}

#[tokio::test]
async fn a_feed_mentions_its_place_among_changes_of_others() {
    let store = Embedded::in_memory().unwrap();
    let mut feed = store.feed(&[Kind::Claims], Begin::After(0));
    for n in 0..300 {
        store.put_if(Kind::Alive, "n", &json!(n), Expect::Any).await.unwrap();
    }
    assert_eq!(words(&mut feed, "at").await, ["at 256"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_away_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path().join("store.redb")).unwrap();
    filled(&store).await;
    let mut again = store.feed(&[Kind::Nodes], Begin::Anew);
    let mut fresh = store.feed(&[Kind::Nodes], Begin::Fresh);
    drop(store.core.lock_write().take());
    assert_eq!(words(&mut again, "away").await, ["away"]);
    assert_eq!(words(&mut fresh, "away").await, ["away"]);
    assert!(matches!(store.get(Kind::Nodes, "a").await, Err(StoreError::Away { maybe_applied: false, .. })));
    // The first write has the file opened again, and is not made.
    let fault = store.put_if(Kind::Nodes, "d", &json!(1), Expect::Any).await.unwrap_err();
    assert!(matches!(fault, StoreError::Away { maybe_applied: false, .. }), "{fault:?}");
    let expected = ["back", "reset nodes", "put a", "put b", "put c", "synced nodes 3"];
    assert_eq!(words(&mut again, "synced").await, expected);
    assert_eq!(words(&mut fresh, "synced").await, ["back", "put a", "put b", "put c", "synced nodes 3"]);
    assert_eq!(store.put_if(Kind::Nodes, "d", &json!(1), Expect::Any).await, Ok(Revision(4)));
}

#[tokio::test]
async fn a_sync_that_fails_promises_nothing_and_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Embedded::open(&path).unwrap();
    filled(&store).await;
    let mut feed = store.feed(&[Kind::Nodes], Begin::After(3));
    *file::tests::FAILING.lock().unwrap() = Some(std::fs::metadata(&path).unwrap().ino());
    let fault = store.put_if(Kind::Nodes, "d", &json!(1), Expect::Absent).await.unwrap_err();
    assert!(fault.to_string().contains("the disk is broken"), "{fault}");
    let found = store.get(Kind::Nodes, "d").await.unwrap();
    // What is in the file was not promised, and is seen; what is not was refused.
    assert_eq!(fault.maybe_applied(), found.is_some(), "{fault:?}");
    let next = store.put_if(Kind::Nodes, "e", &json!(1), Expect::Absent).await.unwrap();
    assert_eq!(next, Revision(if found.is_some() { 5 } else { 4 }));
    let expected: &[&str] = if found.is_some() { &["put d", "put e"] } else { &["put e"] };
    assert_eq!(words(&mut feed, "put e").await, expected);
    drop(store);
    assert_eq!(Embedded::open(&path).unwrap().revision(), next);
}
