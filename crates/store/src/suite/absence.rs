//! Stores that end, and stores that are out of reach. A case passes where its store cannot be either.

use ripstop_types::Revision;
use serde_json::json;

use super::watching::settle;
use super::{Fixture, Mirror, Outcome, follow, list, mirror as mirror_of, set, sure, unexpected};
use crate::{Expect, Kind, Store, StoreError};

pub(super) async fn records_and_revisions_survive_a_restart(fixture: &dyn Fixture) -> Outcome {
    let mut last = Revision(0);
    let mut expected = Vec::new();
    for round in 0..4 {
        let store = fixture.open().await;
        let found = list(fixture, &*store, Kind::Nodes).await?;
        ensure!(found == expected, "round {round}: found {found:?} instead of {expected:?}");
        for n in 0..5 {
            let given = set(fixture, &*store, Kind::Nodes, &format!("k{n}"), round * 10 + n).await?;
            ensure!(given > last, "round {round}: revision {given} after {last}");
            last = given;
        }
        // The latest revision of all is a removal's, which no record bears.
        sure(fixture, || store.delete_if(Kind::Nodes, "k4", Expect::Any)).await.map_err(unexpected)?;
        let set_then_gone = set(fixture, &*store, Kind::Claims, "k", round).await?;
        let gone = sure(fixture, || store.delete_if(Kind::Claims, "k", Expect::Any)).await.map_err(unexpected)?;
        last = gone.unwrap_or(set_then_gone);
        expected = list(fixture, &*store, Kind::Nodes).await?;
        drop(store);
        if !fixture.restart().await {
            return Ok(());
        }
    }
    Ok(())
}

pub(super) async fn a_watch_goes_on_after_a_restart(fixture: &dyn Fixture) -> Outcome {
    if !fixture.handles_survive() {
        return Ok(());
    }
    let store = &*fixture.open().await;
    let mut watch = store.watch(&Kind::ALL);
    let mut mirror = mirror_of(fixture, &Kind::ALL);
    follow(&mut mirror, &mut watch, Mirror::is_synced).await?;
    for round in 0..3 {
        let key = format!("k{round}");
        let given = set(fixture, store, Kind::Nodes, &key, round).await?;
        follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await?;
        ensure!(fixture.restart().await, "it did not restart");
        reach(store).await?;
        sure(fixture, || store.delete_if(Kind::Nodes, &key, Expect::Any)).await.map_err(unexpected)?;
        set(fixture, store, Kind::Claims, &key, round).await?;
        settle(fixture, store, &mut mirror, &mut watch).await?;
    }
    ensure!(mirror.absences() >= 3, "{} absences seen in 3 restarts", mirror.absences());
    Ok(())
}

pub(super) async fn a_watch_goes_on_after_an_absence(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let mut watch = store.watch(&Kind::ALL);
    let mut mirror = mirror_of(fixture, &Kind::ALL);
    follow(&mut mirror, &mut watch, Mirror::is_synced).await?;
    for round in 0..3 {
        let given = set(fixture, store, Kind::Nodes, "k", round).await?;
        follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await?;
        if !fixture.part().await {
            return Ok(());
        }
        follow(&mut mirror, &mut watch, Mirror::is_away).await?;
        let known = mirror.records(Kind::Nodes);
        fixture.join().await;
        reach(store).await?;
        set(fixture, store, Kind::Claims, &format!("c{round}"), round).await?;
        ensure!(mirror.records(Kind::Nodes) == known, "records changed during the absence");
        settle(fixture, store, &mut mirror, &mut watch).await?;
    }
    ensure!(mirror.absences() >= 3, "{} absences seen of 3", mirror.absences());
    Ok(())
}

pub(super) async fn calls_fail_while_the_store_is_away(fixture: &dyn Fixture) -> Outcome {
    let store = &*fixture.open().await;
    let before = set(fixture, store, Kind::Nodes, "k", 1).await?;
    if !fixture.part().await {
        return Ok(());
    }
    let answers = [
        store.get(Kind::Nodes, "k").await.map(|_| ()),
        store.list(Kind::Nodes).await.map(|_| ()),
        store.put_if(Kind::Nodes, "k", &json!(2), Expect::Any).await.map(|_| ()),
        store.delete_if(Kind::Nodes, "k", Expect::Any).await.map(|_| ()),
        store.claim("c", &json!({"node": "n1"})).await.map(|_| ()),
    ];
    for answer in answers {
        let Err(StoreError::Away { tried, cause, .. }) = &answer else { return Err(format!("away: {answer:?}")) };
        ensure!(!tried.is_empty() && !cause.is_empty(), "{answer:?} does not say why");
    }
    // A watch may begin while the store is away.
    let mut mirror = mirror_of(fixture, &Kind::ALL);
    let mut watch = store.watch(&Kind::ALL);
    follow(&mut mirror, &mut watch, Mirror::is_away).await?;
    fixture.join().await;
    reach(store).await?;
    settle(fixture, store, &mut mirror, &mut watch).await?;
    let found = sure(fixture, || store.get(Kind::Nodes, "k")).await.map_err(unexpected)?;
    ensure!(found.is_some_and(|record| record.revision == before), "a call that failed was done");
    Ok(())
}

/// Waits until the store answers again.
async fn reach(store: &dyn Store) -> Outcome {
    loop {
        match store.get(Kind::Nodes, "k").await {
            Ok(_) => return Ok(()),
            Err(StoreError::Away { .. }) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            Err(other) => return Err(unexpected(other)),
        }
    }
}
