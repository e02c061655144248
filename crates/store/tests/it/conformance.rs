//! The suite on every store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ripstop_store::fault::{Faults, Faulty};
use ripstop_store::suite::{CASES, Fixture};
use ripstop_store::{Embedded, Event, Expect, Kind, Options, Remote, Server, Store};
use serde_json::json;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

use crate::relay::{Passing, Relay};

/// An embedded store, in a file or in memory.
struct Alone {
    dir: tempfile::TempDir,
    in_memory: bool,
    store: Mutex<Option<Arc<Embedded>>>,
}

impl Alone {
    fn new(in_memory: bool) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), in_memory, store: Mutex::default() }
    }

    async fn store(&self) -> Arc<Embedded> {
        let mut store = self.store.lock().await;
        let open = || match self.in_memory {
            true => Embedded::in_memory(),
            false => Embedded::open(self.dir.path().join("store.redb")),
        };
        store.get_or_insert_with(|| Arc::new(open().unwrap())).clone()
    }
}

#[async_trait]
impl Fixture for Alone {
    async fn open(&self) -> Arc<dyn Store> {
        self.store().await
    }

    async fn restart(&self) -> bool {
        if !self.in_memory {
            self.store().await.close().await;
            *self.store.lock().await = None;
        }
        !self.in_memory
    }
}

/// A served store with clients, each on a connection of its own, through a relay.
struct Served {
    alone: Alone,
    relay: Relay,
    server: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
    front: PathBuf,
    back: PathBuf,
}

impl Served {
    async fn new() -> Self {
        let alone = Alone::new(false);
        let (front, back) = (alone.dir.path().join("front"), alone.dir.path().join("back"));
        let relay = Relay::start(&front, &back);
        let served = Self { alone, relay, server: Mutex::default(), front, back };
        served.start().await;
        served
    }

    async fn start(&self) {
        let server = Server::bind(self.alone.store().await, &self.back).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        *self.server.lock().await = Some((stop, task));
    }
}

#[async_trait]
impl Fixture for Served {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(Remote::connect(&self.front).await.unwrap())
    }

    async fn restart(&self) -> bool {
        let (stop, task) = self.server.lock().await.take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
        assert!(!self.back.exists(), "the server left its socket");
        self.alone.restart().await;
        self.start().await;
        true
    }

    fn handles_survive(&self) -> bool {
        true
    }

    async fn part(&self) -> bool {
        self.relay.pass(Passing::None);
        true
    }

    async fn join(&self) {
        self.relay.pass(Passing::All);
    }
}

/// A store behind faults; all handles are one, so that the faults come in one sequence.
struct Faulted {
    store: Arc<Faulty<Embedded>>,
    lossy: bool,
}

impl Faulted {
    fn new(faults: Faults) -> Self {
        let options = Options { log_changes: 64, ..Options::default() };
        let store = Arc::new(Embedded::in_memory_with(options).unwrap());
        let lossy = faults.lose_answers + faults.lose_questions > 0;
        Self { store: Arc::new(Faulty::new(store, faults)), lossy }
    }
}

#[async_trait]
impl Fixture for Faulted {
    async fn open(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn is_lossy(&self) -> bool {
        self.lossy
    }

    async fn part(&self) -> bool {
        self.store.away();
        true
    }

    async fn join(&self) {
        self.store.back();
    }
}

async fn judge(case: &str, fixture: &dyn Fixture) {
    let case = CASES.iter().find(|known| known.name == case).expect("a case of the suite");
    if let Err(why) = case.run(fixture).await {
        panic!("{}: {why}", case.name);
    }
}

const LOSSES: Faults =
    Faults { seed: 7, lose_questions: 100, lose_answers: 100, duplicate: 200, delay: Duration::ZERO, forget: false };

/// One test a case and store, so that what fails is named.
macro_rules! on_every_store {
    ($($case:ident)+) => {
        #[test]
        fn every_case_is_run() {
            assert_eq!(CASES.iter().map(|case| case.name).collect::<Vec<_>>(), [$(stringify!($case)),+]);
        }

        $(mod $case {
            use super::*;

            const CASE: &str = stringify!($case);

            #[tokio::test]
            async fn in_memory() {
                judge(CASE, &Alone::new(true)).await;
            }

            #[tokio::test]
            async fn in_a_file() {
                judge(CASE, &Alone::new(false)).await;
            }

            #[tokio::test]
            async fn over_a_socket() {
                judge(CASE, &Served::new().await).await;
            }

            #[tokio::test]
            async fn on_etcd() {
                if crate::etcd::is_here(CASE) {
                    judge(CASE, &crate::etcd::Single::new().await).await;
                }
            }

            #[tokio::test]
            async fn with_losses() {
                let fixture = Faulted::new(LOSSES);
                judge(CASE, &fixture).await;
            }

            #[tokio::test]
            async fn with_delays_and_forgetful() {
                let delay = Duration::from_micros(300);
                judge(CASE, &Faulted::new(Faults { seed: 3, duplicate: 300, delay, forget: true, ..Faults::default() })).await;
            }
        })+
    };
}

on_every_store! {
    a_write_happens_only_where_its_expectation_holds
    a_delete_removes_what_is_expected_and_nothing_else
    revisions_grow_over_all_kinds
    a_list_is_in_order_and_of_its_kind
    keys_and_values_are_bounded
    the_largest_values_come_back_whole
    a_claim_has_one_winner
    a_claim_is_repeated_without_effect
    a_counter_counts_every_increment
    a_watch_begins_with_what_is_there
    a_watch_sees_every_change_once_and_in_order
    watches_that_begin_under_writes_agree
    every_sign_of_life_is_seen
    a_slow_watch_holds_up_nobody_and_catches_up
    ten_thousand_records_are_listed_and_watched
    a_watch_of_nothing_ends_and_a_dropped_one_is_forgotten
    records_and_revisions_survive_a_restart
    a_watch_goes_on_after_a_restart
    a_watch_goes_on_after_an_absence
    calls_fail_while_the_store_is_away
}

#[tokio::test]
async fn a_second_delivery_is_refused() {
    let fixture = Faulted::new(LOSSES);
    judge("a_counter_counts_every_increment", &fixture).await;
    let counts = fixture.store.counts();
    assert!(counts.questions_lost > 10 && counts.answers_lost > 10 && counts.duplicated > 10, "{counts:?}");
    assert_eq!(counts.duplicates_refused, counts.duplicated);
    fixture.store.away();
    assert!(fixture.store.get(Kind::Nodes, "n").await.is_err());
    assert_eq!(fixture.store.counts().refused, counts.refused + 1);
}

#[tokio::test]
async fn faults_follow_from_the_seed() {
    let mut seen = Vec::new();
    for seed in [7, 7, 8] {
        let fixture = Faulted::new(Faults { seed, ..LOSSES });
        let mut answers = Vec::new();
        for n in 0..200 {
            let put = fixture.store.put_if(Kind::Nodes, "n", &json!(n), Expect::Any).await;
            answers.push(put.map_err(|fault| fault.maybe_applied()));
        }
        assert!(answers.contains(&Err(true)));
        seen.push((answers, fixture.store.counts()));
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
}

#[tokio::test]
async fn a_store_taken_away_for_a_time_comes_back() {
    let fixture = Faulted::new(Faults::default());
    let mut watch = fixture.store.watch(&[Kind::Nodes]);
    assert!(matches!(watch.recv().await, Some(Event::Synced { .. })));
    fixture.store.away_for(Duration::from_millis(20));
    assert!(fixture.store.list(Kind::Nodes).await.is_err());
    assert!(matches!(watch.recv().await, Some(Event::Away { .. })));
    fixture.store.inner().put_if(Kind::Nodes, "n", &json!(1), Expect::Absent).await.unwrap();
    assert_eq!(watch.recv().await, Some(Event::Back));
    assert!(matches!(watch.recv().await, Some(Event::Put(_))));
    assert!(fixture.store.list(Kind::Nodes).await.is_ok());
}
