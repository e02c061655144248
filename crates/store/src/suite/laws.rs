//! What writes do.

use std::collections::BTreeSet;

use ripstop_types::Revision;
use serde_json::{Value, json};

use super::{Fixture, Outcome, list, mirror as mirror_of, put, set, sure, unexpected};
use crate::{Expect, Kind, MAX_DEPTH, MAX_KEY, MAX_VALUE, Store, StoreError};

const NODES: Kind = Kind::Nodes;

/// Each expectation against a record that is absent, present and changed since.
pub(super) async fn a_write_happens_only_where_its_expectation_holds(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let write = async |n: u64, expect| put(fixture, store, (NODES, "k"), &json!({ "n": n }), expect).await;
    ensure!(sure(fixture, || store.get(NODES, "k")).await == Ok(None), "a record where none was written");
    let conflict = write(0, Expect::Revision(Revision(1))).await;
    ensure!(current(&conflict)?.is_none(), "a record at a revision was expected where there is none: {conflict:?}");
    let first = write(1, Expect::Absent).await.map_err(unexpected)?;
    let conflict = write(2, Expect::Absent).await;
    ensure!(current(&conflict)? == Some((first, json!({"n": 1}))), "absence was expected: {conflict:?}");
    let second = write(3, Expect::Revision(first)).await.map_err(unexpected)?;
    ensure!(second > first, "revision {second} after {first}");
    let conflict = write(4, Expect::Revision(first)).await;
    ensure!(current(&conflict)? == Some((second, json!({"n": 3}))), "an older revision was expected: {conflict:?}");
    let conflict = write(5, Expect::Revision(Revision(second.0 + 1))).await;
    ensure!(current(&conflict)?.is_some(), "a later revision was expected: {conflict:?}");
    let third = write(6, Expect::Any).await.map_err(unexpected)?;
    let found = sure(fixture, || store.get(NODES, "k")).await.map_err(unexpected)?;
    let found = found.ok_or("the record is not there")?;
    ensure!((found.revision, &found.value) == (third, &json!({"n": 6})), "found {found:?}");
    let message = write(7, Expect::Absent).await.err().map(|fault| fault.to_string()).unwrap_or_default();
    ensure!(message.contains("nodes/k") && message.contains(&third.to_string()), "the conflict says {message:?}");
    Ok(())
}

pub(super) async fn a_delete_removes_what_is_expected_and_nothing_else(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let delete = async |key: &str, expect| sure(fixture, || store.delete_if(NODES, key, expect)).await;
    for expect in [Expect::Any, Expect::Absent] {
        ensure!(delete("k", expect).await == Ok(None), "{expect}: a record that was not there was removed");
    }
    let conflict = delete("k", Expect::Revision(Revision(1))).await.map(|_| Revision(0));
    ensure!(current(&conflict)?.is_none(), "{conflict:?}");
    let first = set(fixture, store, NODES, "k", 1).await?;
    set(fixture, store, NODES, "k2", 2).await?;
    for expect in [Expect::Absent, Expect::Revision(Revision(first.0 + 9))] {
        let conflict = delete("k", expect).await.map(|_| Revision(0));
        ensure!(current(&conflict)?.is_some_and(|(revision, _)| revision == first), "{expect}: {conflict:?}");
    }
    let gone = store.delete_if(NODES, "k", Expect::Revision(first)).await;
    match gone {
        Ok(Some(revision)) => ensure!(revision > first, "removed at {revision}, written at {first}"),
        Err(StoreError::Away { .. }) if fixture.is_lossy() => {
            // Whether this one or the one before did it, it is gone after.
            let again = delete("k", Expect::Any).await;
            ensure!(again.is_ok(), "{again:?}");
        }
        other => return Err(format!("the delete came to {other:?}")),
    }
    let left: Vec<String> = list(fixture, store, NODES).await?.into_iter().map(|record| record.key).collect();
    ensure!(left == ["k2"], "left: {left:?}");
    let again = put(fixture, store, (NODES, "k"), &json!({"n": 3}), Expect::Absent).await.map_err(unexpected)?;
    ensure!(again > first, "a key that is written again is at {again}, before {first}");
    Ok(())
}

pub(super) async fn revisions_grow_over_all_kinds(fixture: &dyn Fixture) -> Outcome {
    let (one, other) = (fixture.open().await, fixture.open().await);
    let mut last = Revision(0);
    for n in 0..40u64 {
        let store = if n % 3 == 0 { &*one } else { &*other };
        let kind = Kind::ALL[(n % 4) as usize];
        let given = set(fixture, store, kind, "k", n).await?;
        ensure!(given > last, "{kind}: revision {given} after {last}");
        last = given;
    }
    Ok(())
}

pub(super) async fn a_list_is_in_order_and_of_its_kind(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    ensure!(list(fixture, store, NODES).await?.is_empty(), "an empty store lists records");
    let keys = ["b", "a/b", "a", "B", "a!", "z~", "a0", "\"quoted\\\""];
    let mut expected = Vec::new();
    for (n, key) in keys.into_iter().enumerate() {
        let revision = set(fixture, store, NODES, key, n as u64).await?;
        set(fixture, store, Kind::Claims, key, 100 + n as u64).await?;
        expected.push((key.to_owned(), revision, json!({ "n": n })));
    }
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let listed = list(fixture, &*fixture.open().await, NODES).await?;
    ensure!(listed.iter().all(|record| record.kind == NODES), "another kind in the list: {listed:?}");
    let found: Vec<_> = listed.into_iter().map(|record| (record.key, record.revision, record.value)).collect();
    ensure!(found == expected, "listed {found:?} instead of {expected:?}");
    Ok(())
}

pub(super) async fn keys_and_values_are_bounded(fixture: &dyn Fixture) -> Outcome {
    let (store, one) = (&*fixture.open().await, json!(1));
    for key in [String::new(), "a b".into(), "a\nb".into(), "ü".into(), "k".repeat(MAX_KEY + 1)] {
        let shown: String = key.chars().take(10).collect();
        let answers = [
            sure(fixture, || store.put_if(NODES, &key, &one, Expect::Any)).await.map(|_| ()),
            sure(fixture, || store.delete_if(NODES, &key, Expect::Any)).await.map(|_| ()),
            sure(fixture, || store.get(NODES, &key)).await.map(|_| ()),
        ];
        for answer in answers {
            ensure!(matches!(answer, Err(StoreError::Invalid { .. })), "the key {shown:?} came to {answer:?}");
        }
    }
    let deep = (0..=MAX_DEPTH).fold(json!(1), |inner, _| json!([inner]));
    for (what, value) in [("large", json!("v".repeat(MAX_VALUE - 1))), ("deep", deep)] {
        let answer = sure(fixture, || store.put_if(NODES, "k", &value, Expect::Any)).await;
        ensure!(matches!(answer, Err(StoreError::Invalid { .. })), "a value too {what} came to {answer:?}");
    }
    if fixture.longest_key() < MAX_KEY {
        let long = "k".repeat(fixture.longest_key() + 1);
        let answer = sure(fixture, || store.put_if(NODES, &long, &one, Expect::Any)).await;
        ensure!(matches!(answer, Err(StoreError::Invalid { .. })), "a key too long came to {answer:?}");
    }
    ensure!(list(fixture, store, NODES).await?.is_empty(), "something was written all the same");
    let longest = "k".repeat(fixture.longest_key());
    set(fixture, store, NODES, &longest, 1).await?;
    let found = sure(fixture, || store.get(NODES, &longest)).await.map_err(unexpected)?;
    ensure!(found.is_some_and(|record| record.key == longest), "the longest key is not found");
    Ok(())
}

pub(super) async fn the_largest_values_come_back_whole(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let deepest = (0..MAX_DEPTH).fold(json!(1), |inner, _| json!([inner]));
    let mut values =
        vec![json!(null), json!(false), json!(-1.5), json!(u64::MAX), json!("ü\u{0}\n\"\\\u{2028}"), deepest];
    let refused: Vec<Value> = values.extract_if(.., |value| !fixture.keeps(value)).collect();
    for value in refused {
        let answer = sure(fixture, || store.put_if(NODES, "k", &value, Expect::Any)).await;
        ensure!(matches!(answer, Err(StoreError::Invalid { .. })), "{value} came to {answer:?}");
    }
    values.extend((0..4).map(|n| json!(n.to_string().repeat(MAX_VALUE - 2))));
    for (n, value) in values.iter().enumerate() {
        put(fixture, store, (NODES, &format!("k{n:02}")), value, Expect::Absent).await.map_err(unexpected)?;
    }
    let conflict = put(fixture, store, (NODES, "k08"), &json!(0), Expect::Absent).await;
    ensure!(current(&conflict)?.is_some_and(|(_, value)| value == values[8]), "the conflict lost the value");
    let found: Vec<Value> = list(fixture, store, NODES).await?.into_iter().map(|record| record.value).collect();
    ensure!(found == values, "the list lost a value");
    let kinds = [NODES];
    let mut mirror = mirror_of(fixture, &kinds);
    super::follow(&mut mirror, &mut store.watch(&kinds), super::Mirror::is_synced).await?;
    let watched: Vec<Value> = mirror.records(NODES).into_iter().map(|record| record.value).collect();
    ensure!(watched == values, "the watch lost a value");
    Ok(())
}

/// Thirty-two nodes claim each of eight keys at once, over four handles.
pub(super) async fn a_claim_has_one_winner(fixture: &dyn Fixture) -> Outcome {
    let mut handles = Vec::new();
    for _ in 0..4 {
        handles.push(fixture.open().await);
    }
    let lossy = fixture.is_lossy();
    for round in 0..8 {
        let mut tasks = tokio::task::JoinSet::new();
        for node in 0..32 {
            let store = handles[node % 4].clone();
            tasks.spawn(async move {
                let (key, value) = (format!("default/10.244.{round}.0_24"), json!({"node": format!("n{node}")}));
                loop {
                    match store.claim(&key, &value).await {
                        Err(StoreError::Away { .. }) if lossy => tokio::task::yield_now().await,
                        answer => return (format!("n{node}"), answer),
                    }
                }
            });
        }
        let (mut winners, mut holders) = (BTreeSet::new(), BTreeSet::new());
        while let Some(task) = tasks.join_next().await {
            let (node, answer) = task.map_err(|e| e.to_string())?;
            let held = match answer {
                Ok(record) => {
                    winners.insert(node);
                    record
                }
                Err(StoreError::Conflict { current: Some(record), .. }) => *record,
                Err(other) => return Err(unexpected(other)),
            };
            holders.insert((held.value["node"].as_str().map(str::to_owned), held.revision));
        }
        ensure!(winners.len() == 1, "round {round}: the winners are {winners:?}");
        ensure!(holders.len() == 1, "round {round}: the holders told are {holders:?}");
        let holder = holders.first().and_then(|(node, _)| node.clone());
        ensure!(winners.first() == holder.as_ref(), "{winners:?} won, {holders:?} was told");
    }
    let claims = list(fixture, &*handles[0], Kind::Claims).await?;
    ensure!(claims.len() == 8, "{} claims of 8 keys", claims.len());
    Ok(())
}

pub(super) async fn a_claim_is_repeated_without_effect(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let claim = async |value: Value| sure(fixture, || store.claim("k", &value)).await;
    let first = claim(json!({"node": "n1", "boot": 1})).await.map_err(unexpected)?;
    let again = claim(json!({"node": "n1", "boot": 2})).await.map_err(unexpected)?;
    ensure!(first == again, "a repeated claim changed {first:?} to {again:?}");
    let other = claim(json!({"node": "n2"})).await.map(|record| record.revision);
    ensure!(current(&other)?.is_some_and(|(revision, _)| revision == first.revision), "{other:?}");
    for bad in [json!({}), json!({"node": 1}), json!({"node": "No Name"}), json!("n1")] {
        let answer = claim(bad.clone()).await;
        ensure!(matches!(answer, Err(StoreError::Invalid { .. })), "the claim {bad} came to {answer:?}");
    }
    // A holder without a name is nobody's.
    put(fixture, store, (Kind::Claims, "foreign"), &json!(1), Expect::Absent).await.map_err(unexpected)?;
    let mine = json!({"node": "n1"});
    let answer = sure(fixture, || store.claim("foreign", &mine)).await;
    ensure!(matches!(answer, Err(StoreError::Conflict { .. })), "{answer:?}");
    Ok(())
}

/// Sixteen tasks raise one number by compare-and-swap; none is lost and none counts twice.
pub(super) async fn a_counter_counts_every_increment(fixture: &dyn Fixture) -> Outcome {
    const TASKS: u64 = 16;
    const EACH: u64 = 10;
    let store = fixture.open().await;
    put(fixture, &*store, (NODES, "n"), &json!({"n": 0, "by": null}), Expect::Absent).await.map_err(unexpected)?;
    let lossy = fixture.is_lossy();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = fixture.open().await;
        tasks.spawn(async move {
            for turn in 0..EACH {
                raise(&*store, json!([task, turn]), lossy).await?;
            }
            Ok::<(), StoreError>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.map_err(|e| e.to_string())?.map_err(unexpected)?;
    }
    let found = sure(fixture, || store.get(NODES, "n")).await.map_err(unexpected)?.ok_or("the number is gone")?;
    ensure!(found.value["n"] == TASKS * EACH, "{} after {} increments", found.value["n"], TASKS * EACH);
    Ok(())
}

/// Raises the number by one. The record keeps who raised it so far, so that a lost answer can be told from a refusal.
async fn raise(store: &dyn Store, by: Value, lossy: bool) -> Result<(), StoreError> {
    loop {
        let found = match store.get(NODES, "n").await {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(StoreError::Away { .. }) if lossy => continue,
            Err(fault) => return Err(fault),
        };
        let mut done = found.value["by"].as_array().cloned().unwrap_or_default();
        if done.contains(&by) {
            return Ok(());
        }
        done.push(by.clone());
        let value = json!({"n": found.value["n"].as_u64().unwrap_or(0) + 1, "by": done});
        match store.put_if(NODES, "n", &value, Expect::Revision(found.revision)).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {}
            Err(StoreError::Away { .. }) if lossy => {}
            Err(fault) => return Err(fault),
        }
    }
}

/// The record a conflict shows.
fn current(answer: &Result<Revision, StoreError>) -> Result<Option<(Revision, Value)>, String> {
    match answer {
        Err(StoreError::Conflict { current, .. }) => {
            Ok(current.as_ref().map(|record| (record.revision, record.value.clone())))
        }
        other => Err(format!("a conflict was expected, found {other:?}")),
    }
}
