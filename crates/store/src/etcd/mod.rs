//! The store in an etcd cluster, version 3.4 or later.
//!
//! One member is used at a time; where it fails, is cut off from its leader or cannot be reached, the next one is. A call
//! that was under way fails and says whether it may have been done; reads are asked again of the next member. A watch goes
//! on behind what it handed over; where etcd has forgotten that ("compacted"), it begins anew.
//!
//! Nothing here has a lease: no record expires, and an idle client sends nothing but what its caller asks.
//!
//! Invariants: one etcd revision is one change of ours; a watch that begins anew says `Reset` first, and what its receiver
//! knew stays until the new list is complete; keys and values of others under the prefix are never changed on our own.

mod beside;
mod fault;
mod flannel;
mod keys;
mod link;
mod options;
mod proto;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use prost::Message;
use ripstop_types::Revision;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch as cell};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use self::fault::{away, is_compacted, judge};
use self::keys::{Keys, raw, revision};
use self::link::Link;
use self::proto::{
    Compare, DELETE, DeleteRequest, DeleteResponse, KeyValue, PUT, PutRequest, PutResponse, RANGE, RangeRequest,
    RangeResponse, RequestOp, Response, TXN, TxnRequest, TxnResponse,
};
use crate::embedded::CHANNEL;
use crate::record::Form;
use crate::{Event, Expect, Kind, Record, Store, StoreError, Text, validate_key, validate_value};

pub use flannel::FlannelOptions;
pub use options::{EtcdOptions, EtcdTls, EtcdUser};

/// Records of a page, at first, and at most.
const FIRST_PAGE: i64 = 64;
const MOST_PAGE: i64 = 1024;
/// Bytes a page should have at most.
const PAGE_BYTES: usize = 2 << 20;
/// Foreign keys that are named before no more are.
const MOST_NAMED: usize = 100;

/// A store in an etcd cluster. Dropping it ends its watches.
pub struct Etcd {
    shared: Arc<Shared>,
    drive: JoinHandle<()>,
}

struct Shared {
    options: EtcdOptions,
    keys: Keys,
    status: cell::Sender<Status>,
    /// Asks for an attempt before the pause is over.
    hurry: Notify,
    /// Foreign keys that were named already.
    named: Mutex<BTreeSet<String>>,
}

/// Whether a member can be asked.
#[derive(Clone)]
enum Status {
    /// One is being looked for.
    Seeking,
    Up(Arc<Link>),
    /// None could be reached, the last time all were tried.
    Down(StoreError),
    /// The client was dropped.
    Closed,
}

impl Etcd {
    /// A store that is connected to when it is there. Calls wait for the first attempt, and fail while no member can be
    /// reached; watches begin with [`Event::Away`] then.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for options that can never work: no endpoint, a prefix that does not end with '/', half of
    /// certificate and key.
    pub fn lazy(options: EtcdOptions) -> Result<Self, StoreError> {
        validate(&options)?;
        let keys = Keys::new(&options.prefix);
        let status = cell::Sender::new(Status::Seeking);
        let shared = Arc::new(Shared { options, keys, status, hurry: Notify::new(), named: Mutex::default() });
        let drive = tokio::spawn(link::drive(shared.clone()));
        Ok(Self { shared, drive })
    }

    /// As [`Etcd::lazy`], and waits until a member was reached.
    ///
    /// # Errors
    /// As [`Etcd::lazy`], and why none could be.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        let etcd = Self::lazy(options)?;
        let deadline = Instant::now() + etcd.shared.options.timeout;
        etcd.shared.link(deadline).await?;
        Ok(etcd)
    }

    async fn put(&self, tried: &str, key: Vec<u8>, value: Vec<u8>) -> Result<Revision, StoreError> {
        let answer: PutResponse = self.shared.ask(PUT, tried, true, PutRequest { key, value }).await?;
        Ok(revision(answer.header.unwrap_or_default().revision))
    }

    /// Does `then` if the condition holds; otherwise answers the key's value as it stands.
    async fn only_if(
        &self,
        tried: &str,
        condition: Compare,
        then: RequestOp,
    ) -> Result<Result<Revision, Option<KeyValue>>, StoreError> {
        let otherwise = RequestOp::range(condition.key.clone());
        let question = TxnRequest { compare: vec![condition], success: vec![then], failure: vec![otherwise] };
        let answer: TxnResponse = self.shared.ask(TXN, tried, true, question).await?;
        if answer.succeeded {
            return Ok(Ok(revision(answer.header.unwrap_or_default().revision)));
        }
        Ok(Err(answer.responses.into_iter().find_map(|op| match op.response {
            Some(Response::Range(found)) => found.kvs.into_iter().next(),
            _ => None,
        })))
    }

    fn conflict(&self, kind: Kind, key: &str, expected: Expect, found: Option<KeyValue>) -> StoreError {
        let current = found.and_then(|kv| self.shared.keys.record(&kv).ok()).map(Box::new);
        StoreError::Conflict { kind, key: key.to_owned(), expected, current }
    }
}

#[async_trait]
impl Store for Etcd {
    fn name(&self) -> String {
        format!("etcd {} {}", self.shared.options.endpoints.join(","), self.shared.options.prefix)
    }

    async fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        validate_key(key)?;
        let question = RangeRequest { key: self.shared.keys.of(kind, key), ..Default::default() };
        let answer: RangeResponse = self.shared.ask(RANGE, &format!("get {kind}/{key}"), false, question).await?;
        match answer.kvs.first() {
            Some(kv) => Ok(self.shared.keys.record(kv).ok()),
            None => self.shared.one_foreign(kind, key).await,
        }
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        loop {
            match self.shared.all_of(kind).await {
                Err(PageFault::Compacted) => {}
                Err(PageFault::Other(fault)) => return Err(fault),
                Ok(records) => return Ok(records),
            }
        }
    }

    async fn put_if(&self, kind: Kind, key: &str, value: &Value, expect: Expect) -> Result<Revision, StoreError> {
        validate_key(key)?;
        let text = validate_value(value)?.into_bytes();
        if let Some(flannel) = &self.shared.options.flannel {
            if let Some(beside) = self.claim_beside(kind, key, Some(value)) {
                return self.put_claim(flannel, key, beside, text, expect).await;
            }
            if kind == Kind::Nodes && key == flannel.node.as_str() {
                self.tell_flannel(flannel, value).await?;
            }
        }
        let (at, tried) = (self.shared.keys.of(kind, key), format!("put {kind}/{key}"));
        let condition = match expect {
            Expect::Any => return self.put(&tried, at, text).await,
            Expect::Absent => Compare::absent(at.clone()),
            Expect::Revision(revision) => Compare::unchanged(at.clone(), raw(revision)),
        };
        let written = self.only_if(&tried, condition, RequestOp::put(at, text)).await?;
        written.map_err(|found| self.conflict(kind, key, expect, found))
    }

    async fn delete_if(&self, kind: Kind, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        validate_key(key)?;
        if let (Some(flannel), Some(beside)) = (&self.shared.options.flannel, self.claim_beside(kind, key, None)) {
            return self.delete_claim(flannel, key, beside, expect).await;
        }
        let (at, tried) = (self.shared.keys.of(kind, key), format!("delete {kind}/{key}"));
        match expect {
            Expect::Any => {
                let answer: DeleteResponse = self.shared.ask(DELETE, &tried, true, DeleteRequest { key: at }).await?;
                Ok((answer.deleted > 0).then(|| revision(answer.header.unwrap_or_default().revision)))
            }
            Expect::Absent => match self.get(kind, key).await? {
                None => Ok(None),
                Some(found) => Err(StoreError::Conflict {
                    kind,
                    key: key.to_owned(),
                    expected: expect,
                    current: Some(Box::new(found)),
                }),
            },
            Expect::Revision(expected) => {
                let condition = Compare::unchanged(at.clone(), raw(expected));
                let gone = self.only_if(&tried, condition, RequestOp::delete(at)).await?;
                gone.map(Some).map_err(|found| self.conflict(kind, key, expect, found))
            }
        }
    }

    fn watch(&self, kinds: &[Kind]) -> mpsc::Receiver<Event> {
        self.watch_as(kinds)
    }

    fn watch_texts(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<Text>> {
        self.watch_as(kinds)
    }
}

impl Etcd {
    fn watch_as<V: Form>(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<V>> {
        let (events, receiver) = mpsc::channel(CHANNEL);
        let kinds: Vec<Kind> = Kind::every().filter(|kind| kinds.contains(kind)).collect();
        if !kinds.is_empty() {
            tokio::spawn(watch::pump(self.shared.clone(), kinds, events));
        }
        receiver
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.drive.abort();
        self.shared.status.send_replace(Status::Closed);
    }
}

/// A list under way, a page at a time, all as of one revision.
struct Pages {
    next: Vec<u8>,
    end: Vec<u8>,
    /// Zero until the first page set it.
    revision: i64,
    limit: i64,
    done: bool,
}

enum PageFault {
    /// The revision of the list was forgotten meanwhile.
    Compacted,
    Other(StoreError),
}

impl PageFault {
    fn into_fault(self) -> StoreError {
        match self {
            Self::Compacted => StoreError::Away {
                tried: "list".into(),
                cause: "etcd forgot the revision meanwhile".into(),
                maybe_applied: false,
            },
            Self::Other(fault) => fault,
        }
    }
}

impl Pages {
    fn new((next, end): keys::Span, revision: i64) -> Self {
        Self { next, end, revision, limit: FIRST_PAGE, done: false }
    }

    /// Takes note of a page, and sets the size of the next one by it.
    fn turn(&mut self, answer: &RangeResponse) {
        self.done = !answer.more;
        if self.revision == 0 {
            self.revision = answer.header.as_ref().map_or(0, |header| header.revision);
        }
        let Some(last) = answer.kvs.last() else { return };
        self.next = [&last.key[..], &[0]].concat();
        let bytes: usize = answer.kvs.iter().map(Message::encoded_len).sum();
        let each = (bytes / answer.kvs.len()).max(1);
        self.limit = i64::try_from(PAGE_BYTES / each).unwrap_or(MOST_PAGE).clamp(1, MOST_PAGE).min(self.limit * 4);
    }
}

impl Shared {
    /// The member that is asked now; waits while one is being looked for.
    async fn link(&self, deadline: Instant) -> Result<Arc<Link>, StoreError> {
        let mut status = self.status.subscribe();
        let settled = status.wait_for(|status| match status {
            Status::Seeking => false,
            Status::Up(link) => !link.is_dead(),
            Status::Down(_) | Status::Closed => true,
        });
        match timeout_at(deadline, settled).await.map(|settled| settled.map(|status| status.clone())) {
            Ok(Ok(Status::Up(link))) => Ok(link),
            Ok(Ok(Status::Down(fault))) => {
                self.hurry.notify_one();
                Err(fault)
            }
            Ok(_) => Err(away(&self.options.endpoints.join(","), "ask", "the client ended".into(), false)),
            Err(_) => {
                let cause = "no member was reached in time".to_owned();
                Err(away(&self.options.endpoints.join(","), "ask", cause, false))
            }
        }
    }

    /// Asks until there is an answer, where asking again does no harm.
    async fn ask<Q, A>(&self, path: &'static str, tried: &str, writes: bool, question: Q) -> Result<A, StoreError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.retry(tried, writes, |link| {
            let question = question.clone();
            async move { link.ask(path, question).await }
        })
        .await
    }

    async fn retry<A, F: Future<Output = Result<A, tonic::Status>>>(
        &self,
        tried: &str,
        writes: bool,
        ask: impl Fn(Arc<Link>) -> F,
    ) -> Result<A, StoreError> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let link = self.link(deadline).await?;
            let judged = match timeout_at(deadline, ask(link.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => judge(&self.options, &link.peer, tried, writes, &status),
                Err(_) => {
                    link.lose();
                    let cause = format!("no answer within {:?}", self.options.timeout);
                    return Err(away(&link.peer, tried, cause, writes));
                }
            };
            if judged.lost {
                link.lose();
            }
            if !judged.again && (writes || !judged.lost) {
                return Err(judged.fault);
            }
        }
    }

    /// The next page; `None` behind the last.
    async fn page(&self, pages: &mut Pages) -> Result<Option<Vec<KeyValue>>, PageFault> {
        if pages.done {
            return Ok(None);
        }
        let question = RangeRequest {
            key: pages.next.clone(),
            range_end: pages.end.clone(),
            limit: pages.limit,
            revision: pages.revision,
            count_only: false,
        };
        let answer = self.retry("list", false, |link| {
            let question = question.clone();
            async move {
                match link.ask::<_, RangeResponse>(RANGE, question).await {
                    Err(status) if is_compacted(&status) => Ok(None),
                    answer => answer.map(Some),
                }
            }
        });
        let answer = answer.await.map_err(PageFault::Other)?.ok_or(PageFault::Compacted)?;
        pages.turn(&answer);
        Ok(Some(answer.kvs))
    }

    /// All records of a kind, with those that are others' under keys of their own.
    async fn all_of(&self, kind: Kind) -> Result<Vec<Record>, PageFault> {
        let (as_of, foreign) = self.foreign().await?;
        let mut records = BTreeMap::new();
        records.extend(foreign.into_iter().filter(|((of, _), _)| *of == kind).map(|((_, key), record)| (key, record)));
        let mut pages = Pages::new(self.keys.kind(kind), as_of);
        while let Some(kvs) = self.page(&mut pages).await? {
            let ours = kvs.iter().filter_map(|kv| self.record(kv));
            records.extend(ours.map(|record| (record.key.clone(), record)));
        }
        Ok(records.into_values().collect())
    }

    /// A record, unless its key is none of ours: then it is named, once, and passed over.
    fn record<V: Form>(&self, kv: &KeyValue) -> Option<Record<V>> {
        self.keys.record(kv).map_err(|key| self.pass_over(key)).ok()
    }

    fn pass_over(&self, key: String) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < MOST_NAMED && !named.contains(&key) {
            tracing::warn!(
                "etcd has a key that is no record of ripstop, which is passed over and left as it is: {key}"
            );
            named.insert(key);
        }
    }
}

fn validate(options: &EtcdOptions) -> Result<(), StoreError> {
    let invalid = |what: &str, found: String, accepted: &str| StoreError::Invalid {
        what: what.to_owned(),
        found,
        accepted: accepted.to_owned(),
    };
    if options.endpoints.is_empty() {
        return Err(invalid("a list of endpoints of etcd", "[]".into(), "at least one, as http://10.0.0.1:2379"));
    }
    let schemes = ["http://", "https://"];
    if let Some(bad) = options.endpoints.iter().find(|url| !schemes.iter().any(|scheme| url.starts_with(scheme))) {
        return Err(invalid("an endpoint of etcd", bad.clone(), "http://ADDRESS:PORT or https://ADDRESS:PORT"));
    }
    if !options.prefix.ends_with('/') || !options.prefix.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(invalid("a prefix of keys", options.prefix.clone(), "printable ASCII that ends with '/'"));
    }
    if options.tls.cert.is_some() != options.tls.key.is_some() {
        return Err(invalid("a client certificate", "one of cert and key".into(), "both, or neither"));
    }
    Ok(())
}
