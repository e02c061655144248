//! One watch of etcd: lists, then changes, into the receiver's channel.
//!
//! Invariants: changes are handed over by whole revisions, so that a watch goes on behind the last one without gap or
//! repetition; the receiver gets `Away` and `Back` in turn; a list begins with `Reset` for a receiver that has begun.
//!
//! Flannel's keys are another watch, whose order beside the first nothing promises. So what they change is not told as
//! changes: where they mean other records than before, everything is listed anew as of one revision. They change rarely,
//! and flanneld's renewals mean the same as before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tonic::Streaming;

use super::beside::Foreign;
use super::fault::judge;
use super::flannel::FlannelOptions;
use super::keys::{Span, revision};
use super::link::Link;
use super::proto::{KeyValue, WatchCreate, WatchEvent, WatchRequest, WatchResponse, WatchUnion};
use super::{PageFault, Pages, Shared, Status};
use crate::record::Form;
use crate::{Event, Kind, Record};

/// How long a member may take to come to where the receiver is, before it is taken for an older cluster's.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Runs until the receiver or the client is gone.
pub(super) async fn pump<V: Form>(shared: Arc<Shared>, kinds: Vec<Kind>, events: mpsc::Sender<Event<V>>) {
    let status = shared.status.subscribe();
    let (place, foreign) = (None, Foreign::new());
    let events_of = events.clone();
    let pump =
        Pump { shared, kinds, events: events_of, status, away: false, begun: false, place, foreign, foreign_as_of: 0 };
    tokio::select! {
        Gone = pump.run() => {}
        () = events.closed() => {}
    }
}

/// The receiver or the client is gone.
struct Gone;

/// Why following a member ended.
enum End {
    Gone(Gone),
    /// The member failed, as it says, and is given up already.
    Lost,
    /// All is to be listed anew.
    Anew,
}

impl From<Gone> for End {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

struct Pump<V> {
    shared: Arc<Shared>,
    kinds: Vec<Kind>,
    events: mpsc::Sender<Event<V>>,
    status: watch::Receiver<Status>,
    away: bool,
    /// Whether the receiver was handed any record or list.
    begun: bool,
    place: Option<Place>,
    foreign: Foreign,
    /// Everything of Flannel's up to here is in `foreign`.
    foreign_as_of: i64,
}

/// What the receiver has: everything of this cluster up to this revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    cluster: u64,
    revision: i64,
}

impl<V: Form> Pump<V> {
    async fn run(mut self) -> Gone {
        loop {
            let link = match self.reach().await {
                Ok(link) => link,
                Err(gone) => return gone,
            };
            let Some(revision) = self.revision_of(&link).await else { continue };
            let known = self.place.filter(|place| place.cluster == link.cluster && place.revision <= revision);
            if known.is_none() && self.place.take().is_some() {
                tracing::warn!(
                    peer = link.peer,
                    "etcd is another or an older one than before: everything is read anew"
                );
            }
            let followed = match known {
                Some(place) => self.follow(&link, place).await,
                None => match self.list(&link).await {
                    Ok(place) => self.follow(&link, place).await,
                    Err(end) => Err(end),
                },
            };
            match followed {
                Ok(()) | Err(End::Lost) => {}
                Err(End::Anew) => self.place = None,
                Err(End::Gone(gone)) => return gone,
            }
        }
    }

    /// The revision that a member has; nothing where it was lost. One that is behind what the receiver knows is given time:
    /// started a moment ago, etcd 3.4 may answer as of its beginning even what it should answer as of now.
    async fn revision_of(&self, link: &Link) -> Option<i64> {
        let until = Instant::now() + CATCH_UP;
        let mut revision = link.revision;
        while self.place.is_some_and(|place| place.cluster == link.cluster && revision < place.revision) {
            if link.is_dead() {
                return None;
            }
            if Instant::now() >= until {
                break;
            }
            sleep(LOOK).await;
            match link.revision_now(&self.shared).await {
                Ok(now) => revision = now,
                Err(status) => {
                    self.lost(link, &status);
                    return None;
                }
            }
        }
        Some(revision)
    }

    /// Waits for a member, and tells the receiver if that takes long.
    async fn reach(&mut self) -> Result<Arc<Link>, Gone> {
        loop {
            let status = self.status.borrow_and_update().clone();
            match status {
                Status::Up(link) if !link.is_dead() => {
                    if std::mem::replace(&mut self.away, false) {
                        self.send(Event::Back).await?;
                    }
                    return Ok(link);
                }
                Status::Up(_) | Status::Seeking => {}
                Status::Down(fault) => {
                    if !std::mem::replace(&mut self.away, true) {
                        self.send(Event::Away { reason: fault.reason() }).await?;
                    }
                }
                Status::Closed => return Err(Gone),
            }
            self.status.changed().await.map_err(|_| Gone)?;
        }
    }

    /// Hands over all records there are.
    async fn list(&mut self, link: &Link) -> Result<Place, End> {
        if self.begun {
            for kind in self.kinds.clone() {
                self.send(Event::Reset { kind }).await?;
            }
        }
        let (mut as_of, foreign) = self.shared.foreign().await.map_err(|fault| failed(link, fault))?;
        for kind in self.kinds.clone() {
            let mut others: BTreeMap<String, Record> = foreign
                .range((kind, String::new())..)
                .take_while(|((of, _), _)| *of == kind)
                .map(|((_, key), record)| (key.clone(), record.clone()))
                .collect();
            let mut pages = Pages::new(self.shared.keys.kind(kind), as_of);
            while let Some(kvs) = self.shared.page(&mut pages).await.map_err(|fault| failed(link, fault))? {
                for kv in &kvs {
                    let Some(record) = self.shared.record::<V>(kv) else { continue };
                    // Ours goes before what others say under the same key.
                    let behind = others.split_off(&record.key);
                    for other in std::mem::replace(&mut others, behind).into_values() {
                        self.put(other.map(V::of_value)).await?;
                    }
                    others.remove(&record.key);
                    self.put(record).await?;
                }
            }
            for other in others.into_values() {
                self.put(other.map(V::of_value)).await?;
            }
            as_of = pages.revision;
            self.begun = true;
            self.send(Event::Synced { kind, revision: revision(as_of) }).await?;
        }
        let place = Place { cluster: link.cluster, revision: as_of };
        self.place = Some(place);
        (self.foreign, self.foreign_as_of) = (foreign, as_of);
        Ok(place)
    }

    async fn put(&mut self, record: Record<V>) -> Result<(), Gone> {
        self.begun = true;
        self.send(Event::Put(record)).await
    }

    /// Hands over changes behind a place until the member fails.
    async fn follow(&mut self, link: &Link, place: Place) -> Result<(), End> {
        let ours = self.shared.keys.kinds(&self.kinds);
        let (_keep, mut answers) = match open(link, ours, place.revision).await {
            Ok(opened) => opened,
            Err(status) => return Err(self.lost(link, &status)),
        };
        let mut others = match &self.shared.options.flannel {
            Some(flannel) => match open(link, flannel.span(), self.foreign_as_of).await {
                Ok(opened) => Some(opened),
                Err(status) => return Err(self.lost(link, &status)),
            },
            None => None,
        };
        // Events of a revision of which a piece is still to come.
        let mut held: Vec<WatchEvent> = Vec::new();
        loop {
            let (answer, is_ours) = tokio::select! {
                biased;
                answer = answers.message() => (answer, true),
                Some(answer) = next_of(&mut others) => (answer, false),
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(self.lost(link, &tonic::Status::unavailable("the watch ended"))),
                Err(status) => return Err(self.lost(link, &status)),
            };
            if answer.compact_revision > 0 {
                tracing::info!(peer = link.peer, "etcd has forgotten what came next: everything is read anew");
                return Err(End::Anew);
            }
            if answer.canceled {
                return Err(self.lost(link, &tonic::Status::unavailable(answer.cancel_reason)));
            }
            if !is_ours {
                self.take_foreign(answer.events)?;
                continue;
            }
            held.extend(answer.events);
            let whole = if answer.fragment { whole_revisions(&held) } else { held.len() };
            for event in held.drain(..whole) {
                self.hand_over(event).await?;
            }
        }
    }

    /// Looks whether a change of Flannel's keys means other records.
    fn take_foreign(&mut self, events: Vec<WatchEvent>) -> Result<(), End> {
        let Some(flannel) = self.shared.options.flannel.clone() else { return Ok(()) };
        for event in events {
            let Some(kv) = event.kv else { continue };
            if event.kind != 0 {
                if self.was_foreign(&flannel, &kv) {
                    return Err(End::Anew);
                }
                continue;
            }
            let records = match flannel.records(&kv) {
                Ok(records) => records,
                Err(fault) => {
                    self.shared.pass_over(fault);
                    continue;
                }
            };
            let known = records.iter().all(|record| {
                let known = self.foreign.get(&(record.kind, record.key.clone()));
                known.is_some_and(|known| known.value == record.value)
            });
            if !known || (records.is_empty() && self.was_foreign(&flannel, &kv)) {
                return Err(End::Anew);
            }
            self.foreign_as_of = self.foreign_as_of.max(kv.mod_revision);
        }
        Ok(())
    }

    /// Whether a key of Flannel's meant records so far. The key of two families begins with that of IPv4.
    fn was_foreign(&self, flannel: &FlannelOptions, kv: &KeyValue) -> bool {
        self.foreign.keys().any(|(kind, key)| match kind {
            Kind::Claims => flannel.beside(key).is_some_and(|beside| kv.key.starts_with(&beside)),
            Kind::Networks => kv.key == flannel.config_key(),
            _ => false,
        })
    }

    async fn hand_over(&mut self, event: WatchEvent) -> Result<(), End> {
        let Some(kv) = event.kv else { return Ok(()) };
        let event = self.event(event.kind, &kv);
        if let Some(Event::Delete { kind, key, .. }) = &event
            && self.foreign.contains_key(&(*kind, key.clone()))
        {
            // What others say under the key shows again.
            return Err(End::Anew);
        }
        if let Some(event) = event {
            self.send(event).await?;
        }
        if let Some(place) = &mut self.place {
            place.revision = place.revision.max(kv.mod_revision);
        }
        Ok(())
    }

    /// What a change is to the receiver; nothing where it is of another kind, or not ours.
    fn event(&self, kind_of_change: i32, kv: &KeyValue) -> Option<Event<V>> {
        let watched = |kind: Kind| self.kinds.contains(&kind);
        if kind_of_change == 0 {
            return self.shared.record(kv).filter(|record: &Record<V>| watched(record.kind)).map(Event::Put);
        }
        let (kind, key) = self.shared.keys.parse(&kv.key).ok().filter(|(kind, _)| watched(*kind))?;
        Some(Event::Delete { kind, key: key.to_owned(), revision: revision(kv.mod_revision) })
    }

    fn lost(&self, link: &Link, status: &tonic::Status) -> End {
        let judged = judge(&self.shared.options, &link.peer, "watch", false, status);
        tracing::debug!(fault = %judged.fault, "a watch is lost");
        link.lose();
        End::Lost
    }

    async fn send(&self, event: Event<V>) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

type Opened = (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>);

async fn open(link: &Link, (key, range_end): Span, behind: i64) -> Result<Opened, tonic::Status> {
    let create = WatchCreate {
        key,
        range_end,
        start_revision: behind + 1,
        // Some versions of etcd say so before they have sent what they speak of.
        progress_notify: false,
        watch_id: 0,
        fragment: true,
    };
    link.watch(WatchRequest { union: Some(WatchUnion::Create(create)) }).await
}

/// The next answer of a watch, where there is one.
async fn next_of(opened: &mut Option<Opened>) -> Option<Result<Option<WatchResponse>, tonic::Status>> {
    Some(opened.as_mut()?.1.message().await)
}

/// A list that came to nothing: begun anew where etcd forgot its revision.
fn failed(link: &Link, fault: PageFault) -> End {
    match fault {
        PageFault::Compacted => End::Anew,
        PageFault::Other(fault) => {
            tracing::warn!(%fault, "the list of a watch failed");
            link.lose();
            End::Lost
        }
    }
}

/// How many events at the beginning are of revisions that are complete, where more may come of the last.
fn whole_revisions(events: &[WatchEvent]) -> usize {
    let at = |event: &WatchEvent| event.kv.as_ref().map(|kv| kv.mod_revision);
    let last = events.last().and_then(at);
    events.iter().take_while(|event| at(event) != last).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_handed_over_whole() {
        let events = |revisions: &[i64]| -> Vec<WatchEvent> {
            let kv = |revision: &i64| KeyValue { mod_revision: *revision, ..Default::default() };
            revisions.iter().map(|revision| WatchEvent { kind: 0, kv: Some(kv(revision)) }).collect()
        };
        for (revisions, whole) in [(&[][..], 0), (&[5], 0), (&[5, 6], 1), (&[5, 6, 6, 6], 1), (&[5, 5, 7, 8], 3)] {
            assert_eq!(whole_revisions(&events(revisions)), whole, "{revisions:?}");
        }
    }
}
