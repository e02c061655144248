//! A store with faults on command, for tests and the lab.
//!
//! Invariant: what goes wrong, and when, follows from the arguments and the order of the calls alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ripstop_types::Revision;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::embedded::CHANNEL;
use crate::{Event, Expect, Kind, Record, Store, StoreError, Text};

/// What goes wrong. The default is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Where the sequence of faults begins.
    pub seed: u64,
    /// Of a thousand calls, how many never reach the store. The caller cannot tell these from lost answers.
    pub lose_questions: u16,
    /// Of a thousand calls, how many are done, and their answer lost.
    pub lose_answers: u16,
    /// Of a thousand conditional writes, how many reach the store twice. The store refuses the second, and the caller
    /// gets the answer to the first.
    pub duplicate: u16,
    /// Longest delay of a call on its way there, and of its answer on the way back.
    pub delay: Duration,
    /// Whether a watch that was cut off begins anew (`Reset`) instead of going on.
    pub forget: bool,
}

/// How often what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls that did not reach the store.
    pub questions_lost: u64,
    /// Answers lost.
    pub answers_lost: u64,
    /// Writes delivered twice.
    pub duplicated: u64,
    /// Second deliveries that the store refused.
    pub duplicates_refused: u64,
    /// Calls refused because the store was away.
    pub refused: u64,
}

/// A store that fails as it is told to.
pub struct Faulty<S: Store> {
    store: Arc<S>,
    faults: Mutex<(Faults, Counts)>,
    drawn: AtomicU64,
    away: Arc<watch::Sender<bool>>,
}

impl<S: Store + 'static> Faulty<S> {
    /// `store` with faults.
    pub fn new(store: Arc<S>, faults: Faults) -> Self {
        let away = Arc::new(watch::Sender::new(false));
        Self { store, faults: Mutex::new((faults, Counts::default())), drawn: AtomicU64::new(faults.seed), away }
    }

    /// The store behind it.
    pub fn inner(&self) -> &Arc<S> {
        &self.store
    }

    /// Changes what goes wrong from now on; the sequence begins at the new seed.
    pub fn set(&self, faults: Faults) {
        self.lock().0 = faults;
        self.drawn.store(faults.seed, Ordering::Relaxed);
    }

    /// Takes the store away, for calls and watches, until [`Faulty::back`].
    pub fn away(&self) {
        self.away.send_replace(true);
    }

    /// Brings the store back.
    pub fn back(&self) {
        self.away.send_replace(false);
    }

    /// Takes the store away, and brings it back after `time`.
    pub fn away_for(&self, time: Duration) {
        self.away();
        let away = self.away.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            away.send_replace(false);
        });
    }

    /// What went wrong so far.
    pub fn counts(&self) -> Counts {
        self.lock().1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Faults, Counts)> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next number of the sequence (SplitMix64, Steele et al. 2014), below `bound`.
    fn draw(&self, bound: u64) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.drawn.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound.max(1)
    }

    fn happens(&self, per_mille: u16) -> bool {
        per_mille > 0 && self.draw(1000) < u64::from(per_mille)
    }

    async fn delay(&self, longest: Duration) {
        if !longest.is_zero() {
            let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_micros(self.draw(micros))).await;
        }
    }

    /// One call: `again` where it may be delivered twice.
    async fn call<T, F>(&self, tried: &str, changes: bool, again: bool, ask: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let faults = self.lock().0;
        let fault = |cause: &str, maybe_applied| StoreError::Away {
            tried: format!("{tried} at {}", self.name()),
            cause: cause.to_owned(),
            maybe_applied,
        };
        if *self.away.borrow() {
            self.lock().1.refused += 1;
            return Err(fault("the store was taken away", false));
        }
        self.delay(faults.delay).await;
        if self.happens(faults.lose_questions) {
            self.lock().1.questions_lost += 1;
            return Err(fault("no answer came", changes));
        }
        let answer = ask().await;
        if again && self.happens(faults.duplicate) {
            // Its answer goes to nobody, as that of a delivery nobody asked for.
            let refused = ask().await.is_err();
            let counts = &mut self.lock().1;
            counts.duplicated += 1;
            counts.duplicates_refused += u64::from(refused);
        }
        self.delay(faults.delay).await;
        if self.happens(faults.lose_answers) {
            self.lock().1.answers_lost += 1;
            return Err(fault("no answer came", changes));
        }
        answer
    }
}

#[async_trait]
impl<S: Store + 'static> Store for Faulty<S> {
    fn name(&self) -> String {
        format!("faulty {}", self.store.name())
    }

    async fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        self.call("get", false, false, || self.store.get(kind, key)).await
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        self.call("list", false, false, || self.store.list(kind)).await
    }

    async fn put_if(&self, kind: Kind, key: &str, value: &Value, expect: Expect) -> Result<Revision, StoreError> {
        self.call("put", true, expect != Expect::Any, || self.store.put_if(kind, key, value, expect)).await
    }

    async fn delete_if(&self, kind: Kind, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        self.call("delete", true, expect != Expect::Any, || self.store.delete_if(kind, key, expect)).await
    }

    fn watch(&self, kinds: &[Kind]) -> mpsc::Receiver<Event> {
        self.relay(kinds, S::watch)
    }

    fn watch_texts(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<Text>> {
        self.relay(kinds, S::watch_texts)
    }
}

/// How a watch is opened.
type Open<S, V> = fn(&S, &[Kind]) -> mpsc::Receiver<Event<V>>;

impl<S: Store + 'static> Faulty<S> {
    fn relay<V: Send + 'static>(&self, kinds: &[Kind], open: Open<S, V>) -> mpsc::Receiver<Event<V>> {
        let (events, receiver) = mpsc::channel(CHANNEL);
        let kinds = Kind::ALL.into_iter().filter(|kind| kinds.contains(kind)).collect();
        let relay = Relay {
            store: self.store.clone(),
            open,
            kinds,
            forget: self.lock().0.forget,
            events,
            cut: false,
            lost: false,
            resets: 0,
        };
        tokio::spawn(relay.run(self.away.subscribe()));
        receiver
    }
}

/// One watch through the faulty store.
struct Relay<S, V> {
    store: Arc<S>,
    open: Open<S, V>,
    kinds: Vec<Kind>,
    forget: bool,
    events: mpsc::Sender<Event<V>>,
    /// Whether we took the store away.
    cut: bool,
    /// Whether the store behind says it is away.
    lost: bool,
    /// How many kinds are still to be announced as listed anew.
    resets: usize,
}

/// The receiver is gone.
struct Gone;

impl<S: Store, V: Send> Relay<S, V> {
    async fn run(mut self, mut away: watch::Receiver<bool>) {
        let mut source = (self.open)(&self.store, &self.kinds);
        away.mark_changed();
        loop {
            let went = tokio::select! {
                biased;
                () = self.events.closed() => Err(Gone),
                Ok(()) = away.changed() => {
                    let cut = *away.borrow_and_update();
                    if !cut && self.cut && self.forget {
                        source = (self.open)(&self.store, &self.kinds);
                        self.resets = self.kinds.len();
                    }
                    self.turn(cut, self.lost, "the store was taken away".into()).await
                }
                event = source.recv(), if !self.cut => match event {
                    Some(event) => self.relay(event).await,
                    None => Err(Gone),
                },
            };
            if went.is_err() {
                return;
            }
        }
    }

    async fn relay(&mut self, event: Event<V>) -> Result<(), Gone> {
        match event {
            Event::Away { reason } => return self.turn(self.cut, true, reason).await,
            Event::Back => return self.turn(self.cut, false, String::new()).await,
            _ => {}
        }
        // The list of a new watch comes without them.
        for kind in &self.kinds[self.kinds.len() - self.resets..] {
            self.send(Event::Reset { kind: *kind }).await?;
        }
        self.resets = 0;
        self.send(event).await
    }

    async fn turn(&mut self, cut: bool, lost: bool, reason: String) -> Result<(), Gone> {
        let (was, is) = (self.cut || self.lost, cut || lost);
        (self.cut, self.lost) = (cut, lost);
        match (was, is) {
            (false, true) => self.send(Event::Away { reason }).await,
            (true, false) => self.send(Event::Back).await,
            _ => Ok(()),
        }
    }

    async fn send(&self, event: Event<V>) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}
