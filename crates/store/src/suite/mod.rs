//! The laws of every store, as cases any store can be put through.
//!
//! A case says what is wrong instead of panicking, and asserts nothing about time.
//!
//! It is no feature of the package, so that a test and a program are linked with one and the same build of it.

macro_rules! ensure {
    ($cond:expr, $($why:tt)+) => {
        if !$cond {
            return Err(format!($($why)+));
        }
    };
}

mod absence;
mod laws;
mod mirror;
mod watching;

pub use mirror::Mirror;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ripstop_types::Revision;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Event, Expect, Kind, MAX_KEY, Record, Store, StoreError};

/// What a case comes to: the error says what is wrong.
pub type Outcome = Result<(), String>;

/// A store to be judged, empty at the beginning of a case.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A handle of the store, as another process would have; all handles share the records.
    async fn open(&self) -> Arc<dyn Store>;

    /// Whether calls may fail without need, with [`StoreError::Away`].
    fn is_lossy(&self) -> bool {
        false
    }

    /// Ends the store and starts it over the same records. Handles of before go on working, or are dead, as
    /// [`Fixture::handles_survive`] says; a case drops those that die. False where the store cannot be restarted.
    async fn restart(&self) -> bool {
        false
    }

    /// Whether handles go on working after [`Fixture::restart`].
    fn handles_survive(&self) -> bool {
        false
    }

    /// Whether a watch has the changes of all its kinds in one order, or those of each kind alone.
    fn has_one_order(&self) -> bool {
        true
    }

    /// The longest key, in letters, where it is shorter than [`MAX_KEY`].
    fn longest_key(&self) -> usize {
        MAX_KEY
    }

    /// Whether the store keeps a value as it is. One that it does not it refuses.
    fn keeps(&self, _value: &Value) -> bool {
        true
    }

    /// How many records there are where there are many.
    fn many(&self) -> u64 {
        10_000
    }

    /// Makes the store unreachable for all handles, until [`Fixture::join`]. False where that cannot be done.
    async fn part(&self) -> bool {
        false
    }

    /// Makes the store reachable again.
    async fn join(&self) {}
}

type Run = for<'a> fn(&'a dyn Fixture) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One law.
pub struct Case {
    /// Its name: what holds.
    pub name: &'static str,
    run: Run,
}

impl Case {
    /// Puts a store through the case. A case that gets stuck ends after two minutes.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn run(&self, fixture: &dyn Fixture) -> Outcome {
        match tokio::time::timeout(Duration::from_secs(120), (self.run)(fixture)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("stuck: something that must come did not".into()),
        }
    }
}

macro_rules! cases {
    ($($module:ident :: $case:ident),+ $(,)?) => {
        /// Every case.
        pub const CASES: &[Case] = &[$(Case { name: stringify!($case), run: |fixture| Box::pin($module::$case(fixture)) }),+];
    };
}

cases![
    laws::a_write_happens_only_where_its_expectation_holds,
    laws::a_delete_removes_what_is_expected_and_nothing_else,
    laws::revisions_grow_over_all_kinds,
    laws::a_list_is_in_order_and_of_its_kind,
    laws::keys_and_values_are_bounded,
    laws::the_largest_values_come_back_whole,
    laws::a_claim_has_one_winner,
    laws::a_claim_is_repeated_without_effect,
    laws::a_counter_counts_every_increment,
    watching::a_watch_begins_with_what_is_there,
    watching::a_watch_sees_every_change_once_and_in_order,
    watching::watches_that_begin_under_writes_agree,
    watching::every_sign_of_life_is_seen,
    watching::a_slow_watch_holds_up_nobody_and_catches_up,
    watching::ten_thousand_records_are_listed_and_watched,
    watching::a_watch_of_nothing_ends_and_a_dropped_one_is_forgotten,
    absence::records_and_revisions_survive_a_restart,
    absence::a_watch_goes_on_after_a_restart,
    absence::a_watch_goes_on_after_an_absence,
    absence::calls_fail_while_the_store_is_away,
];

/// Runs every case, each on a store that `make` makes, and answers those that failed.
pub async fn run<F: Future<Output = Box<dyn Fixture>>>(make: impl Fn() -> F) -> Vec<(&'static str, String)> {
    let mut failed = Vec::new();
    for case in CASES {
        if let Err(why) = case.run(&*make().await).await {
            failed.push((case.name, why));
        }
    }
    failed
}

/// A fault that must not be.
fn unexpected(fault: StoreError) -> String {
    format!("unexpected: {fault}")
}

/// Repeats a call that can be repeated until the store answers.
async fn sure<T, F: Future<Output = Result<T, StoreError>>>(
    fixture: &dyn Fixture,
    mut ask: impl FnMut() -> F,
) -> Result<T, StoreError> {
    loop {
        match ask().await {
            Err(StoreError::Away { .. }) if fixture.is_lossy() => tokio::task::yield_now().await,
            other => return other,
        }
    }
}

/// Writes as a careful caller does: a write whose answer was lost is looked up before it is repeated. The value must
/// be like no other.
async fn put(
    fixture: &dyn Fixture,
    store: &dyn Store,
    at: (Kind, &str),
    value: &Value,
    expect: Expect,
) -> Result<Revision, StoreError> {
    loop {
        match store.put_if(at.0, at.1, value, expect).await {
            Err(StoreError::Away { maybe_applied, .. }) if fixture.is_lossy() => {
                let found = sure(fixture, || store.get(at.0, at.1)).await?;
                if let (true, Some(found)) = (maybe_applied, found.filter(|found| found.value == *value)) {
                    return Ok(found.revision);
                }
                tokio::task::yield_now().await;
            }
            other => return other,
        }
    }
}

/// Writes whatever is there.
async fn set(fixture: &dyn Fixture, store: &dyn Store, kind: Kind, key: &str, n: u64) -> Result<Revision, String> {
    put(fixture, store, (kind, key), &json!({ "n": n }), Expect::Any).await.map_err(unexpected)
}

async fn list(fixture: &dyn Fixture, store: &dyn Store, kind: Kind) -> Result<Vec<Record>, String> {
    sure(fixture, || store.list(kind)).await.map_err(unexpected)
}

/// A receiver that knows nothing yet.
fn mirror(fixture: &dyn Fixture, kinds: &[Kind]) -> Mirror {
    let mirror = Mirror::new(kinds);
    if fixture.has_one_order() { mirror } else { mirror.of_each_kind_alone() }
}

/// Feeds a mirror until it satisfies `done`.
async fn follow(
    mirror: &mut Mirror,
    watch: &mut mpsc::Receiver<Event>,
    mut done: impl FnMut(&Mirror) -> bool,
) -> Outcome {
    while !done(mirror) {
        let event = watch.recv().await.ok_or("the watch ended")?;
        mirror.take(event)?;
    }
    Ok(())
}
