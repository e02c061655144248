//! What a watch hands over.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_types::Revision;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Fixture, Mirror, Outcome, follow, list, mirror as mirror_of, put, set, sure, unexpected};
use crate::{Event, Expect, Kind, Store, StoreError};

const WRITERS: u64 = 8;
const TURNS: u64 = 60;

/// One writer's part of a storm of writes over few keys, and the revisions it was given.
async fn storm(
    fixture_is_lossy: bool,
    store: Arc<dyn Store>,
    writer: u64,
    turns: u64,
) -> Result<Vec<Revision>, StoreError> {
    let mut given = Vec::new();
    for turn in 0..turns {
        let kind = Kind::ALL[((writer + turn) % 4) as usize];
        let key = format!("k{}", (writer * 7 + turn * 3) % 10);
        let value = json!({"writer": writer, "turn": turn, "pad": "x".repeat(((writer + turn) % 5 * 100) as usize)});
        let answer = match turn % 5 {
            4 => store.delete_if(kind, &key, Expect::Any).await,
            3 => store.put_if(kind, &key, &value, Expect::Absent).await.map(Some),
            _ => store.put_if(kind, &key, &value, Expect::Any).await.map(Some),
        };
        match answer {
            Ok(revision) => given.extend(revision),
            Err(StoreError::Conflict { .. }) => {}
            Err(StoreError::Away { .. }) if fixture_is_lossy => {}
            Err(fault) => return Err(fault),
        }
        if turn % 8 == writer % 8 {
            tokio::task::yield_now().await;
        }
    }
    Ok(given)
}

async fn storm_of_all(fixture: &dyn Fixture, turns: u64) -> JoinSet<Result<Vec<Revision>, StoreError>> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = fixture.open().await;
        writers.spawn(storm(fixture.is_lossy(), store, writer, turns));
    }
    writers
}

async fn calm(mut writers: JoinSet<Result<Vec<Revision>, StoreError>>) -> Result<BTreeSet<Revision>, String> {
    let mut given = BTreeSet::new();
    while let Some(writer) = writers.join_next().await {
        for revision in writer.map_err(|e| e.to_string())?.map_err(unexpected)? {
            ensure!(given.insert(revision), "revision {revision} was given twice");
        }
    }
    Ok(given)
}

/// Writes a last record and follows the watch up to it; then the mirror must equal the lists.
pub(super) async fn settle(
    fixture: &dyn Fixture,
    store: &dyn Store,
    mirror: &mut Mirror,
    watch: &mut tokio::sync::mpsc::Receiver<Event>,
) -> Outcome {
    let last = set(fixture, store, Kind::Networks, "last", 1).await?;
    follow(mirror, watch, |mirror| mirror.has(last)).await?;
    catch_up(fixture, store, mirror, watch).await?;
    for kind in Kind::ALL {
        let (seen, there) = (mirror.records(kind), list(fixture, store, kind).await?);
        ensure!(seen == there, "{kind}: the watch shows {seen:?}, the store has {there:?}");
    }
    Ok(())
}

/// Where the last change of one kind says nothing of the others, follows them until they are as the lists.
async fn catch_up(
    fixture: &dyn Fixture,
    store: &dyn Store,
    mirror: &mut Mirror,
    watch: &mut tokio::sync::mpsc::Receiver<Event>,
) -> Outcome {
    for kind in Kind::ALL.into_iter().filter(|_| !fixture.has_one_order()) {
        let there = list(fixture, store, kind).await?;
        follow(mirror, watch, |mirror| mirror.records(kind) == there).await?;
    }
    Ok(())
}

pub(super) async fn a_watch_begins_with_what_is_there(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let b = set(fixture, store, Kind::Nodes, "b", 1).await?;
    let a = set(fixture, store, Kind::Nodes, "a", 2).await?;
    set(fixture, store, Kind::Alive, "x", 3).await?;
    let n = set(fixture, store, Kind::Networks, "n", 4).await?;
    // Kinds come in their own order, whatever the caller's, and each once.
    let mut watch = store.watch(&[Kind::Claims, Kind::Nodes, Kind::Networks, Kind::Nodes]);
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(match watch.recv().await.ok_or("the watch ended")? {
            Event::Put(record) => (record.kind, record.key, record.revision),
            Event::Synced { kind, revision } => {
                ensure!(revision >= n, "synced at {revision}, behind {n}");
                (kind, "synced".to_owned(), Revision(0))
            }
            other => return Err(format!("not part of a list: {other:?}")),
        });
    }
    let synced = |kind| (kind, "synced".to_owned(), Revision(0));
    let expected = [
        (Kind::Networks, "n".to_owned(), n),
        synced(Kind::Networks),
        (Kind::Nodes, "a".to_owned(), a),
        (Kind::Nodes, "b".to_owned(), b),
        synced(Kind::Nodes),
        synced(Kind::Claims),
    ];
    ensure!(seen == expected, "{seen:?}");
    // A change of another kind is not seen; a conflict and a delete of nothing are no changes.
    set(fixture, store, Kind::Alive, "x", 5).await?;
    let conflict = put(fixture, store, (Kind::Nodes, "a"), &json!(0), Expect::Absent).await;
    ensure!(matches!(conflict, Err(StoreError::Conflict { .. })), "{conflict:?}");
    sure(fixture, || store.delete_if(Kind::Nodes, "none", Expect::Any)).await.map_err(unexpected)?;
    let last = set(fixture, store, Kind::Claims, "c", 6).await?;
    match watch.recv().await {
        Some(Event::Put(record)) if fixture.is_lossy() || record.revision == last => Ok(()),
        other => Err(format!("after the lists came {other:?}")),
    }
}

pub(super) async fn a_watch_sees_every_change_once_and_in_order(fixture: &dyn Fixture) -> Outcome {
    let store = fixture.open().await;
    let mut watch = store.watch(&Kind::ALL);
    let mut mirror = mirror_of(fixture, &Kind::ALL);
    follow(&mut mirror, &mut watch, Mirror::is_synced).await?;
    let writers = storm_of_all(fixture, TURNS).await;
    let reader = tokio::spawn(async move {
        // The last records mark the end: nothing else writes this key.
        let ended = |mirror: &Mirror, kind| mirror.records(kind).iter().any(|record| record.key == "end");
        let all = |mirror: &Mirror| Kind::ALL.into_iter().all(|kind| ended(mirror, kind));
        follow(&mut mirror, &mut watch, all).await.map(|()| mirror)
    });
    let mut given = calm(writers).await?;
    for kind in Kind::ALL {
        given.insert(set(fixture, &*store, kind, "end", 1).await?);
    }
    let mirror = reader.await.map_err(|e| e.to_string())??;
    let seen: BTreeSet<Revision> = mirror.changes().iter().copied().collect();
    if mirror.resets() == 0 {
        ensure!(given.is_subset(&seen), "not seen: {:?}", given.difference(&seen).collect::<Vec<_>>());
        ensure!(fixture.is_lossy() || given == seen, "seen without being made: {:?}", seen.difference(&given));
    }
    for kind in Kind::ALL {
        ensure!(mirror.records(kind) == list(fixture, &*store, kind).await?, "{kind}: the watch differs from the list");
    }
    Ok(())
}

pub(super) async fn watches_that_begin_under_writes_agree(fixture: &dyn Fixture) -> Outcome {
    let store = fixture.open().await;
    let writers = storm_of_all(fixture, TURNS).await;
    let mut readers = Vec::new();
    for _ in 0..6 {
        let other = fixture.open().await;
        set(fixture, &*store, Kind::Nodes, "pace", readers.len() as u64).await?;
        let watch = other.watch(&Kind::ALL);
        readers.push((mirror_of(fixture, &Kind::ALL), watch, other));
    }
    calm(writers).await?;
    for (mirror, watch, _) in &mut readers {
        settle(fixture, &*store, mirror, watch).await?;
    }
    Ok(())
}

pub(super) async fn every_sign_of_life_is_seen(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let node = "n1".parse().map_err(|e| format!("{e}"))?;
    let mut watch = store.watch(&[Kind::Alive]);
    let mut mirror = mirror_of(fixture, &[Kind::Alive]);
    follow(&mut mirror, &mut watch, Mirror::is_synced).await?;
    let (mut last, sign) = (Revision(0), json!({"run": 1}));
    for n in 0..5 {
        // The value does not change: the revision does.
        let given = sure(fixture, || store.alive(&node, &sign)).await.map_err(unexpected)?;
        ensure!(given > last, "sign {n} is at {given}, behind {last}");
        last = given;
        follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await?;
    }
    ensure!(mirror.changes().len() >= 5, "{} signs seen", mirror.changes().len());
    ensure!(mirror.records(Kind::Alive).len() == 1, "more than one record for a node");
    Ok(())
}

/// A watch that takes nothing while more is written than any store remembers.
pub(super) async fn a_slow_watch_holds_up_nobody_and_catches_up(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    set(fixture, store, Kind::Nodes, "gone-later", 0).await?;
    let mut slow = store.watch(&Kind::ALL);
    let mut quick = store.watch(&Kind::ALL);
    let (mut slow_mirror, mut quick_mirror) = (mirror_of(fixture, &Kind::ALL), mirror_of(fixture, &Kind::ALL));
    follow(&mut slow_mirror, &mut slow, Mirror::is_synced).await?;
    sure(fixture, || store.delete_if(Kind::Nodes, "gone-later", Expect::Any)).await.map_err(unexpected)?;
    let large = "x".repeat(64 << 10);
    for n in 0..150u64 {
        let value = json!({"n": n, "pad": large});
        let at = (Kind::Nodes, format!("k{}", n % 3));
        let given = put(fixture, store, (at.0, &at.1), &value, Expect::Any).await.map_err(unexpected)?;
        if n % 25 == 0 {
            follow(&mut quick_mirror, &mut quick, |mirror| mirror.has(given)).await?;
        }
    }
    settle(fixture, store, &mut slow_mirror, &mut slow).await?;
    settle(fixture, store, &mut quick_mirror, &mut quick).await
}

pub(super) async fn ten_thousand_records_are_listed_and_watched(fixture: &dyn Fixture) -> Outcome {
    let count = fixture.many();
    let mut tasks = JoinSet::new();
    let lossy = fixture.is_lossy();
    for task in 0..50u64 {
        let store = fixture.open().await;
        tasks.spawn(async move {
            for n in (task * count / 50)..((task + 1) * count / 50) {
                let (key, value) = (format!("n{n:05}"), json!({"n": n}));
                loop {
                    match store.put_if(Kind::Nodes, &key, &value, Expect::Any).await {
                        Err(StoreError::Away { .. }) if lossy => {}
                        Err(fault) => return Err(fault),
                        Ok(_) => break,
                    }
                }
            }
            Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.map_err(|e| e.to_string())?.map_err(unexpected)?;
    }
    let store = &*fixture.open().await;
    let listed = list(fixture, store, Kind::Nodes).await?;
    ensure!(listed.len() as u64 == count, "{} listed", listed.len());
    let right = |(n, record): (usize, &crate::Record)| record.key == format!("n{n:05}") && record.value["n"] == n;
    ensure!(listed.iter().enumerate().all(right), "the list is not what was written");
    let mut mirror = mirror_of(fixture, &Kind::ALL);
    let mut watch = store.watch(&Kind::ALL);
    follow(&mut mirror, &mut watch, Mirror::is_synced).await?;
    ensure!(mirror.records(Kind::Nodes) == listed, "the watch differs from the list");
    Ok(())
}

pub(super) async fn a_watch_of_nothing_ends_and_a_dropped_one_is_forgotten(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    ensure!(store.watch(&[]).recv().await.is_none(), "a watch without kinds has an event");
    for n in 0..200 {
        let mut watch = store.watch(&Kind::ALL);
        if n % 2 == 0 {
            watch.recv().await.ok_or("the watch ended")?;
        }
    }
    let mut watch = store.watch(&Kind::ALL);
    let mut mirror = mirror_of(fixture, &Kind::ALL);
    follow(&mut mirror, &mut watch, Mirror::is_synced).await?;
    settle(fixture, store, &mut mirror, &mut watch).await
}
