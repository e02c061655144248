//! Lists and watches of several kinds of object as one stream of events.
//!
//! Each kind is listed and then watched from the list's revision on; where a watch ends it goes on behind the last
//! revision it brought. Where the server has forgotten that, the kind alone is listed anew, after a random pause, so
//! that not every node asks for everything in the same moment.
//!
//! Invariants: the receiver gets `away` and `back` in turn; nothing of a list is handed over before all kinds that must
//! be listed are read, so that what fails fails before; the changes of a kind are in the order of their revisions.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fault::Status;
use super::http::{Ask, Lines};
use super::{Shared, object};
use crate::StoreError;

/// Objects of the first page of a list; further pages are as large as their objects allow.
const FIRST_PAGE: usize = 100;
const MOST_PAGE: usize = 5_000;
const PAGE_BYTES: usize = 4 << 20;

/// Pauses between two tries to reach a server.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A server that lists by a watch says something within this time; one whose etcd cannot help it opens the watch and is
/// silent.
const STREAM_PATIENCE: Duration = Duration::from_secs(3);

/// A kind that the server does not have is asked for again so often: it may be defined meanwhile.
const ABSENT_PAUSE: Duration = Duration::from_secs(30);
/// The same of a kind that as a rule never is.
const RARE_PAUSE: Duration = Duration::from_secs(300);

/// A watch lasts so long, and half as much again at random; then it is opened anew.
const WATCH_SECONDS: u64 = 600;

/// What turns objects into a receiver's events. A topic is one kind of object, by its place in `topics`.
pub(super) trait Reader: Send + Sync + 'static {
    /// What the receiver gets.
    type Event: Send + 'static;

    /// The kinds that are read, in order.
    fn topics(&self) -> &[Topic];
    /// What a list of a topic begins with, where it is not the first.
    fn reset(&self, topic: usize) -> Self::Event;
    /// Puts what [`Self::put`] made of a list's objects in the receiver's order.
    fn order(&self, events: &mut Vec<Self::Event>);
    /// What a list ends with.
    fn synced(&self, topic: usize, revision: u64) -> Self::Event;
    /// An object that came or changed; `None`: it is not for the receiver.
    fn put(&self, topic: usize, object: &RawValue) -> Result<Option<Self::Event>, String>;
    /// An object that is gone.
    fn delete(&self, topic: usize, object: &RawValue) -> Result<Option<Self::Event>, String>;
    fn away(&self, reason: String) -> Self::Event;
    fn back(&self) -> Self::Event;
}

/// A kind of object that is listed and watched.
#[derive(Debug, Clone)]
pub(super) struct Topic {
    /// Where they are.
    pub path: String,
    /// Which of them: `&fieldSelector=…`; empty: all.
    pub selector: String,
    /// The kind with its group, for messages.
    pub name: String,
    /// Whether the list is asked for as the beginning of a watch, where the server can do that.
    pub streaming: bool,
    /// Whether a server that does not know the kind is taken as one without such objects. Then it is not streaming.
    pub optional: bool,
    /// Whether it is another product's, which few clusters have.
    pub rare: bool,
}

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Line {
    #[serde(rename = "type")]
    pub kind: String,
    pub object: Box<RawValue>,
}

/// Runs until the receiver or the client is gone.
pub(super) async fn pump<R: Reader>(shared: Arc<Shared>, reader: R, events: mpsc::Sender<R::Event>) {
    let mut closed = shared.closed.subscribe();
    let (places, begun) = (vec![None; reader.topics().len()], vec![false; reader.topics().len()]);
    let streams = reader.topics().iter().map(|topic| topic.streaming).collect();
    let (reader, relist) = (Arc::new(reader), Relist::default());
    let pump = Pump { shared, reader, events: events.clone(), away: None, begun, places, streams, relist };
    tokio::select! {
        Gone = pump.run() => {}
        () = events.closed() => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

/// The receiver is gone.
struct Gone;

enum End {
    Gone,
    Fault(StoreError),
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

struct Pump<R: Reader> {
    shared: Arc<Shared>,
    reader: Arc<R>,
    events: mpsc::Sender<R::Event>,
    /// Why the server is lost, as the receiver was told.
    away: Option<String>,
    /// Which topics the receiver was handed a list of.
    begun: Vec<bool>,
    /// How far the receiver has each topic; none: it is to be listed.
    places: Vec<Option<Place>>,
    /// Which topics are listed by a watch.
    streams: Vec<bool>,
    /// When what the server has forgotten is listed.
    relist: Relist,
}

/// When lists are asked for that all nodes need at once: a server that starts anew has forgotten what comes next of every kind.
/// Nodes are spread, kinds are not: a node waits once for all of them.
#[derive(Default)]
struct Relist {
    at: Option<Instant>,
}

impl Relist {
    /// When to list; `part` says which part of the time that nodes are spread over is this node's.
    fn at(&mut self, now: Instant, spread: Duration, part: f64) -> Instant {
        let at = self.at.filter(|at| now < *at + spread).unwrap_or_else(|| now + spread.mul_f64(part));
        *self.at.insert(at)
    }
}

/// A list: what it says, and its revision; none: the server does not know the kind.
struct Listed<T> {
    items: Vec<T>,
    revision: Option<u64>,
}

/// How far a topic was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Up to this revision.
    At(u64),
    /// As of a kind that the server does not know.
    Absent,
}

impl<T> Listed<T> {
    fn place(&self) -> Place {
        self.revision.map_or(Place::Absent, Place::At)
    }
}

/// What a task that reads a watch says.
enum Heard {
    Line(usize, Line),
    /// The watch ended as it may.
    Ended(usize),
    /// The server has forgotten what comes next.
    Forgot(usize),
    /// It was, and it is time to list.
    Due(usize),
}

impl<R: Reader> Pump<R> {
    async fn run(mut self) -> Gone {
        let mut pause = SHORTEST_PAUSE;
        let mut checked = false;
        loop {
            let fault = match self.follow(&mut pause, &mut checked).await {
                Ok(()) | Err(End::Gone) => return Gone,
                Err(End::Fault(fault)) => fault,
            };
            tracing::debug!(%fault, "a watch of the API server is lost");
            let reason = fault.reason();
            if self.away.as_ref() != Some(&reason) {
                if self.send(self.reader.away(reason.clone())).await.is_err() {
                    return Gone;
                }
                self.away = Some(reason);
            }
            tokio::time::sleep(pause.mul_f64(0.5 + random())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Brings the receiver up to date and follows the server until it is lost.
    async fn follow(&mut self, pause: &mut Duration, checked: &mut bool) -> Result<(), End> {
        if !*checked {
            self.shared.check_version().await.map_err(End::Fault)?;
            *checked = true;
        }
        let count = self.places.len();
        let lists = self.list_unknown().await.map_err(End::Fault)?;
        let (to_self, mut heard) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        for topic in 0..count {
            let listed = lists.iter().find(|(of, _)| *of == topic).map(|(_, listed)| listed.place());
            let Some(from) = self.places[topic].or(listed) else { continue };
            self.listen(topic, from, &mut tasks, &to_self).await?;
        }
        *pause = SHORTEST_PAUSE;
        if self.away.take().is_some() {
            self.send(self.reader.back()).await?;
        }
        for (topic, listed) in lists {
            self.hand_over(topic, listed).await?;
        }
        while let Some(heard) = heard.recv().await {
            let topic = match heard {
                Heard::Line(topic, line) => {
                    self.take(topic, &line).await?;
                    continue;
                }
                Heard::Ended(topic) => topic,
                Heard::Forgot(topic) => {
                    tracing::info!(
                        "the API server has forgotten what came next of {}",
                        self.reader.topics()[topic].name
                    );
                    let at = self.relist.at(Instant::now(), self.shared.options.spread, random());
                    tasks.spawn(wait(at, topic, to_self.clone()));
                    continue;
                }
                Heard::Due(topic) => {
                    let before = self.places[topic].take();
                    let listed = self.list(topic).await.map_err(End::Fault)?;
                    if (before, listed.place()) == (Some(Place::Absent), Place::Absent) {
                        self.places[topic] = before;
                    } else {
                        self.hand_over(topic, listed).await?;
                    }
                    topic
                }
            };
            let Some(from) = self.places[topic] else { continue };
            self.listen(topic, from, &mut tasks, &to_self).await?;
        }
        Ok(())
    }

    async fn hand_over(&mut self, topic: usize, listed: Listed<R::Event>) -> Result<(), End> {
        let place = listed.place();
        if std::mem::replace(&mut self.begun[topic], true) {
            self.send(self.reader.reset(topic)).await?;
        }
        for event in listed.items {
            self.send(event).await?;
        }
        self.send(self.reader.synced(topic, listed.revision.unwrap_or_default())).await?;
        self.places[topic] = Some(place);
        Ok(())
    }

    async fn take(&mut self, topic: usize, line: &Line) -> Result<(), End> {
        let nonsense = |cause| End::Fault(self.shared.nonsense(cause));
        let event = match line.kind.as_str() {
            "ADDED" | "MODIFIED" => self.reader.put(topic, &line.object).map_err(nonsense)?,
            "DELETED" => self.reader.delete(topic, &line.object).map_err(nonsense)?,
            _ => None,
        };
        if let Some(event) = event {
            self.send(event).await?;
        }
        let revision = revision_of(&line.object).map_err(|cause| End::Fault(self.shared.nonsense(cause)))?;
        let before = if let Some(Place::At(before)) = self.places[topic] { before } else { 0 };
        self.places[topic] = Some(Place::At(revision.max(before)));
        Ok(())
    }

    /// Opens a watch behind a revision, and lets a task read it.
    async fn listen(
        &self,
        topic: usize,
        from: Place,
        tasks: &mut JoinSet<()>,
        to: &mpsc::Sender<Heard>,
    ) -> Result<(), End> {
        let Place::At(from) = from else {
            let pause = if self.reader.topics()[topic].rare { RARE_PAUSE } else { ABSENT_PAUSE };
            tasks.spawn(wait(Instant::now() + pause, topic, to.clone()));
            return Ok(());
        };
        match self.open(topic, from).await.map_err(End::Fault)? {
            Some(lines) => tasks.spawn(hear(topic, lines, to.clone())),
            None => tasks.spawn(forgot(topic, to.clone())),
        };
        Ok(())
    }

    /// Opens a watch behind a revision; `None` where the server has forgotten that.
    async fn open(&self, topic: usize, from: u64) -> Result<Option<Lines>, StoreError> {
        let Topic { path, selector, name, optional, .. } = &self.reader.topics()[topic];
        let seconds = WATCH_SECONDS + (WATCH_SECONDS as f64 * 0.5 * random()) as u64;
        let path = format!(
            "{path}?watch=1&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={seconds}{selector}"
        );
        let tried = format!("watch {name}");
        match self.shared.stream(&tried, path).await? {
            Ok(lines) => Ok(Some(lines)),
            Err(answer) if Status::of(&answer).is_gone() => Ok(None),
            // The kind's definition is gone.
            Err(answer) if *optional && answer.status == StatusCode::NOT_FOUND => Ok(None),
            Err(answer) => Err(self.shared.refused(&tried, false, &answer)),
        }
    }

    /// Lists what was not yet: by the first it is seen whether the server lists by a watch, then the others are listed at once, since two
    /// of them may be long, and a server has more than one core.
    async fn list_unknown(&mut self) -> Result<Vec<(usize, Listed<R::Event>)>, StoreError> {
        let unknown: Vec<usize> = (0..self.places.len()).filter(|topic| self.places[*topic].is_none()).collect();
        let Some((first, others)) = unknown.split_first() else { return Ok(Vec::new()) };
        let mut lists = Vec::with_capacity(unknown.len());
        lists.push((*first, self.list(*first).await?));
        let (to_self, mut read) = mpsc::channel(unknown.len());
        let mut tasks = JoinSet::new();
        for topic in others.iter().copied() {
            let (shared, reader, to_self) = (self.shared.clone(), self.reader.clone(), to_self.clone());
            let streams = self.streams[topic];
            tasks.spawn(async move {
                // Nobody wants it any more where another list failed.
                let _ = to_self.send((topic, list(&shared, reader.as_ref(), topic, streams).await)).await;
            });
        }
        drop(to_self);
        while let Some((topic, result)) = read.recv().await {
            let (listed, streams) = result?;
            self.note_streams(topic, streams);
            lists.push((topic, listed));
        }
        if lists.len() < unknown.len() {
            return Err(self.shared.nonsense("a list that could not be read to its end".into()));
        }
        lists.sort_by_key(|(topic, _)| *topic);
        Ok(lists)
    }

    async fn list(&mut self, topic: usize) -> Result<Listed<R::Event>, StoreError> {
        let (listed, streams) = list(&self.shared, self.reader.as_ref(), topic, self.streams[topic]).await?;
        self.note_streams(topic, streams);
        Ok(listed)
    }

    /// An older server, or one whose etcd is (3.4), lists nothing by a watch: what it cannot for one kind it cannot for the others.
    fn note_streams(&mut self, topic: usize, streams: bool) {
        if self.streams[topic] && !streams {
            self.streams.fill(false);
        }
    }

    async fn send(&self, event: R::Event) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }
}

/// Lists a topic, by a watch where the server can do that; whether it can.
async fn list<R: Reader>(
    shared: &Shared,
    reader: &R,
    topic: usize,
    streams: bool,
) -> Result<(Listed<R::Event>, bool), StoreError> {
    let about = &reader.topics()[topic];
    // Each object is read as it comes, while the server is at the next.
    let mut put = |object: &RawValue| reader.put(topic, object);
    let by_watch = if streams { shared.list_by_watch(about, &mut put).await? } else { None };
    let streams = by_watch.is_some();
    let mut listed = match by_watch {
        Some(listed) => listed,
        None => shared.list_by_pages(about, &mut put).await?,
    };
    reader.order(&mut listed.items);
    Ok((listed, streams))
}

async fn hear(topic: usize, mut lines: Lines, to: mpsc::Sender<Heard>) {
    let end = loop {
        match lines.next().await {
            Ok(Some(line)) => match heard_line(&line) {
                Ok(line) if line.kind == "ERROR" => {
                    let status: Status = serde_json::from_str(line.object.get()).unwrap_or_default();
                    break if status.is_gone() { Heard::Forgot(topic) } else { Heard::Ended(topic) };
                }
                Ok(line) => {
                    if to.send(Heard::Line(topic, line)).await.is_err() {
                        return;
                    }
                }
                Err(_) => break Heard::Ended(topic),
            },
            Ok(None) | Err(_) => break Heard::Ended(topic),
        }
    };
    // The session has ended where nobody hears it.
    let _ = to.send(end).await;
}

async fn wait(at: Instant, topic: usize, to: mpsc::Sender<Heard>) {
    tokio::time::sleep_until(at).await;
    let _ = to.send(Heard::Due(topic)).await;
}

async fn forgot(topic: usize, to: mpsc::Sender<Heard>) {
    let _ = to.send(Heard::Forgot(topic)).await;
}

fn heard_line(line: &Bytes) -> Result<Line, serde_json::Error> {
    serde_json::from_slice(line)
}

pub(super) fn revision_of(object: &RawValue) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Head {
        metadata: object::Metadata,
    }
    let head: Head = serde_json::from_str(object.get()).map_err(|fault| fault.to_string())?;
    object::revision(&head.metadata.resource_version).map(|revision| revision.0)
}

/// A number from 0 to 1, another each time and at each node.
pub(super) fn random() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

impl Shared {
    /// All objects of a topic, a page at a time, as of one revision.
    async fn list_by_pages<T>(
        &self,
        topic: &Topic,
        read: &mut impl FnMut(&RawValue) -> Result<Option<T>, String>,
    ) -> Result<Listed<T>, StoreError> {
        #[derive(Deserialize)]
        struct Page {
            metadata: PageData,
            #[serde(default)]
            items: Vec<Box<RawValue>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct PageData {
            #[serde(default)]
            resource_version: String,
            #[serde(default, rename = "continue")]
            more: String,
        }
        let tried = format!("list {}", topic.name);
        let (mut items, mut more, mut limit) = (Vec::new(), String::new(), FIRST_PAGE);
        loop {
            let path = format!("{}?limit={limit}&continue={more}{}", topic.path, topic.selector);
            let answer = self.ask(&tried, &Ask::get(path)).await?;
            if !answer.status.is_success() {
                if topic.optional && answer.status == StatusCode::NOT_FOUND {
                    return Ok(Listed { items: Vec::new(), revision: None });
                }
                if !more.is_empty() && Status::of(&answer).is_gone() {
                    // The rest of the list is no more to be had: all is asked for again.
                    (items, more) = (Vec::new(), String::new());
                    continue;
                }
                return Err(self.refused(&tried, false, &answer));
            }
            let page: Page = serde_json::from_slice(&answer.body)
                .map_err(|fault| self.nonsense(format!("a list that cannot be read: {fault}")))?;
            let each = (answer.body.len() / page.items.len().max(1)).max(1);
            limit = (PAGE_BYTES / each).clamp(1, MOST_PAGE).min(limit * 4);
            for object in &page.items {
                items.extend(read(object).map_err(|cause| self.nonsense(cause))?);
            }
            more = page.metadata.more;
            if more.is_empty() {
                let revision =
                    object::revision(&page.metadata.resource_version).map_err(|cause| self.nonsense(cause))?;
                return Ok(Listed { items, revision: Some(revision.0) });
            }
        }
    }

    /// All objects of a topic as the first events of a watch (Kubernetes' streaming lists): the server keeps no whole
    /// list in memory for it. `None` where it cannot do so.
    async fn list_by_watch<T>(
        &self,
        topic: &Topic,
        read: &mut impl FnMut(&RawValue) -> Result<Option<T>, String>,
    ) -> Result<Option<Listed<T>>, StoreError> {
        let tried = format!("watch {}", topic.name);
        let seconds = self.options.timeout.as_secs().max(1);
        let path = format!(
            "{}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds={seconds}{}",
            topic.path, topic.selector
        );
        let Ok(mut lines) = self.stream(&tried, path).await? else { return Ok(None) };
        let mut items = Vec::new();
        loop {
            let next = tokio::time::timeout(self.options.timeout.min(STREAM_PATIENCE), lines.next()).await;
            let Ok(Ok(Some(line))) = next else { return Ok(None) };
            let Ok(line) = heard_line(&line) else { return Ok(None) };
            match line.kind.as_str() {
                "ADDED" => items.extend(read(&line.object).map_err(|cause| self.nonsense(cause))?),
                "BOOKMARK" => {
                    let revision = revision_of(&line.object).map_err(|cause| self.nonsense(cause))?;
                    return Ok(Some(Listed { items, revision: Some(revision) }));
                }
                _ => return Ok(None),
            }
        }
    }

    /// The records of a kind, in order of their keys.
    pub(super) async fn records(&self, kind: crate::Kind) -> Result<Vec<crate::Record>, StoreError> {
        let topic = super::records::topic(kind, &self.options.namespace);
        let mut listed = self.list_by_pages(&topic, &mut |object| super::records::record(kind, object)).await?;
        listed.items.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_waits_once_for_all_that_was_forgotten() {
        let (spread, now) = (Duration::from_secs(5), Instant::now());
        let mut relist = Relist::default();
        let at = relist.at(now, spread, 0.5);
        assert_eq!(at, now + Duration::from_millis(2_500));
        for later in [0, 2, 4, 7] {
            assert_eq!(relist.at(now + Duration::from_secs(later), spread, 0.9), at, "{later} s later");
        }
        let next = now + Duration::from_secs(8);
        assert_eq!(relist.at(next, spread, 0.2), next + Duration::from_secs(1), "another outage");
    }
}
