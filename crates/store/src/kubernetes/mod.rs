//! The store in the API of Kubernetes: records are objects of our own kinds, signs of life are leases.
//!
//! Revisions are resourceVersions. That they are numbers which grow over all kinds is what kube-apiserver's store does
//! since it is etcd, and what Kubernetes promises for objects of one kind since 1.35; an answer that is no number is
//! refused.
//!
//! Not here: what records mean. Whoever opens the store may hand in a judge ([`KubernetesOptions::judge`]), whose
//! sentence goes to the status of the object it is about.
//!
//! Invariants: an object is written with all that was read of it or not at all (its resourceVersion is the condition);
//! a name keeps one key; changes are in order within a kind, and between kinds in none.

mod access;
mod api;
mod events;
mod fault;
mod feed;
mod http;
mod judge;
mod names;
mod object;
mod objects;
mod options;
mod records;
mod secret;
mod services;

pub use api::Api;
pub use events::{CLUSTER_NAMESPACE, CONTROLLER, OVER};
pub use object::{before_now, now, utc};
pub use objects::{ObjectEvent, Wants};
pub use options::{Access, Judge, KubernetesOptions};

use std::sync::{Arc, Mutex, PoisonError};

use ::http::{Method, StatusCode};
use async_trait::async_trait;
use ripstop_types::{Invalid, Revision};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use self::fault::Status;
use self::http::{Answer, Ask, Client, Lines};
use self::object::Object;
use crate::record::Form;
use crate::{Event, Expect, Kind, Record, Store, StoreError, Text, validate_key, validate_value};

/// Events under way to a receiver.
const CHANNEL: usize = 256;

/// Tries before others that write the same object are told of as a conflict.
const TRIES: usize = 16;

/// A store in the API of Kubernetes. Dropped, its watches end.
pub struct Kubernetes {
    shared: Arc<Shared>,
}

struct Shared {
    options: KubernetesOptions,
    client: Client,
    closed: watch::Sender<bool>,
    /// The last sign of life given here, so that the next one is one question.
    last_sign: Mutex<Option<(String, Revision)>>,
}

impl Kubernetes {
    /// A store that looks for its server when it is first asked.
    pub fn lazy(options: KubernetesOptions) -> Self {
        let client = Client::new(options.access.clone(), options.timeout);
        Self {
            shared: Arc::new(Shared {
                options,
                client,
                closed: watch::Sender::new(false),
                last_sign: Mutex::default(),
            }),
        }
    }

    /// A store whose server has answered, and is one.
    ///
    /// # Errors
    /// What is wrong with the way there, with who asks, or with the server.
    pub async fn connect(options: KubernetesOptions) -> Result<Self, StoreError> {
        let this = Self::lazy(options);
        this.shared.check_version().await?;
        Ok(this)
    }
}

impl Shared {
    /// Asks, and hands out whatever is answered.
    async fn ask(&self, tried: &str, ask: &Ask) -> Result<Answer, StoreError> {
        let writes = ask.method != Method::GET;
        self.client.ask(ask).await.map_err(|lost| fault::lost(&self.client.peer(), tried, writes, lost))
    }

    /// Opens a watch, or hands out what is answered instead.
    async fn stream(&self, tried: &str, path: String) -> Result<Result<Lines, Answer>, StoreError> {
        self.client.stream(path).await.map_err(|lost| fault::lost(&self.client.peer(), tried, false, lost))
    }

    async fn check_version(&self) -> Result<(), StoreError> {
        let answer = self.ask("ask for its version", &Ask::get("/version".into())).await?;
        let peer = self.client.peer();
        if answer.status == StatusCode::FORBIDDEN {
            // Some clusters hide it. What is missing will be told by what misses it.
            return Ok(());
        }
        if !answer.status.is_success() {
            return Err(fault::refused(&peer, "ask for its version", false, &answer));
        }
        fault::supported(&peer, &answer)
    }

    fn path(&self, kind: Kind) -> String {
        object::path(kind, &self.options.namespace)
    }

    fn path_of(&self, kind: Kind, key: &str) -> Result<String, StoreError> {
        Ok(format!("{}/{}", self.path(kind), names::name_of(kind, key)?))
    }

    fn refused(&self, tried: &str, writes: bool, answer: &Answer) -> StoreError {
        fault::refused(&self.client.peer(), tried, writes, answer)
    }

    /// What an answer that must be an object says.
    fn object(&self, answer: &Answer) -> Result<Object, StoreError> {
        serde_json::from_slice(&answer.body)
            .map_err(|fault| self.nonsense(format!("an object that cannot be read: {fault}")))
    }

    fn nonsense(&self, cause: String) -> StoreError {
        fault::refusal(&self.client.peer(), cause)
    }

    async fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        let tried = format!("get {}", object::full_name(kind));
        let answer = self.ask(&tried, &Ask::get(self.path_of(kind, key)?)).await?;
        match answer.status {
            StatusCode::OK => self.object(&answer)?.record(kind).map_err(|cause| self.nonsense(cause)),
            _ if Status::says_absent(&answer) => Ok(None),
            _ => Err(self.refused(&tried, false, &answer)),
        }
    }

    /// A value of a Secret, which is no record: it is never watched, written or kept.
    async fn secret(&self, name: &str, key: &str) -> Result<Option<String>, StoreError> {
        let tried = format!("get the Secret {}/{name}", self.options.namespace);
        let path = format!("/api/v1/namespaces/{}/secrets/{name}", self.options.namespace);
        let answer = self.ask(&tried, &Ask::get(path)).await?;
        match answer.status {
            StatusCode::OK => secret::value(&answer.body, key).map_err(|cause| self.nonsense(cause)),
            _ if Status::says_absent(&answer) => Ok(None),
            _ => Err(self.refused(&tried, false, &answer)),
        }
    }

    /// Makes an object; `None` where there is one.
    async fn create(&self, kind: Kind, key: &str, value: &Value) -> Result<Option<Revision>, StoreError> {
        let tried = format!("create {}", object::full_name(kind));
        let path = format!("{}?fieldManager=ripstop&fieldValidation=Strict", self.path(kind));
        let answer = self.send(&tried, Method::POST, path, &object::of_record(kind, key, value, None)?).await?;
        let exists = || Status::of(&answer).reason == "AlreadyExists";
        match answer.status {
            StatusCode::CONFLICT if exists() => Ok(None),
            status if status.is_success() => self.revision_in(&answer).map(Some),
            _ => Err(self.refused(&tried, true, &answer)),
        }
    }

    /// Replaces an object at a revision; `None` where it is at another, or not there.
    async fn replace(
        &self,
        kind: Kind,
        key: &str,
        value: &Value,
        revision: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        let tried = format!("update {}", object::full_name(kind));
        let path = format!("{}?fieldManager=ripstop&fieldValidation=Strict", self.path_of(kind, key)?);
        let answer =
            self.send(&tried, Method::PUT, path, &object::of_record(kind, key, value, Some(revision))?).await?;
        match answer.status {
            StatusCode::CONFLICT => Ok(None),
            _ if Status::says_absent(&answer) => Ok(None),
            status if status.is_success() => self.revision_in(&answer).map(Some),
            _ => Err(self.refused(&tried, true, &answer)),
        }
    }

    /// Removes an object at a revision; `None` where it is at another, or not there.
    ///
    /// The answer to a removal does not tell its revision. A watch that is opened before does.
    async fn remove(&self, kind: Kind, key: &str, revision: Revision) -> Result<Option<Revision>, StoreError> {
        let tried = format!("delete {}", object::full_name(kind));
        let name = names::name_of(kind, key)?;
        let seconds = self.options.timeout.as_secs().max(1) * 2;
        // From whatever the server has at hand, which may be older than the object: its revision is waited for.
        let path = format!(
            "{}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3D{name}&timeoutSeconds={seconds}",
            self.path(kind)
        );
        let watching = format!("watch {}", object::full_name(kind));
        let opened = self.stream(&watching, path).await?;
        let lines = opened.map_err(|answer| self.refused(&watching, false, &answer))?;
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"resourceVersion": revision.to_string()}});
        let answer = self.send(&tried, Method::DELETE, self.path_of(kind, key)?, &options).await?;
        match answer.status {
            StatusCode::CONFLICT => return Ok(None),
            _ if Status::says_absent(&answer) => return Ok(None),
            status if status.is_success() => {}
            _ => return Err(self.refused(&tried, true, &answer)),
        }
        let unknown = |cause: String| StoreError::Away {
            tried: format!("kubernetes {}: {tried}", self.client.peer()),
            cause: format!("its revision: {cause}"),
            maybe_applied: true,
        };
        match tokio::time::timeout(self.options.timeout, removed_at(lines, revision)).await {
            Ok(removed) => removed.map(Some).map_err(unknown),
            Err(_) => Err(unknown("nothing came".into())),
        }
    }

    async fn send(&self, tried: &str, method: Method, path: String, body: &Value) -> Result<Answer, StoreError> {
        let body = Some(("application/json", body.to_string().into()));
        self.ask(tried, &Ask { method, path, body }).await
    }

    fn revision_in(&self, answer: &Answer) -> Result<Revision, StoreError> {
        self.object(answer)?.revision().map_err(|cause| self.nonsense(cause))
    }

    async fn conflict(&self, kind: Kind, key: &str, expected: Expect) -> Result<StoreError, StoreError> {
        let current = self.get(kind, key).await?.map(Box::new);
        Ok(StoreError::Conflict { kind, key: key.to_owned(), expected, current })
    }

    fn known_sign(&self, kind: Kind, key: &str) -> Option<Revision> {
        let last = self.last_sign.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(of, _)| kind == Kind::Alive && of == key).map(|(_, revision)| *revision)
    }

    fn note_sign(&self, kind: Kind, key: &str, revision: Revision) {
        if kind == Kind::Alive {
            *self.last_sign.lock().unwrap_or_else(PoisonError::into_inner) = Some((key.to_owned(), revision));
        }
    }

    fn busy(&self, kind: Kind, key: &str) -> StoreError {
        let cause = format!("others changed it {TRIES} times meanwhile");
        StoreError::Away { tried: format!("write {kind}/{key}"), cause, maybe_applied: false }
    }
}

/// What [`crate::untrusted::kubernetes_record`] does.
pub(crate) fn untrusted(kind: Kind, text: &str) -> Option<(String, bool)> {
    let object: Object = serde_json::from_str(text).ok()?;
    let name = object.metadata.name.clone();
    let record = object.record(kind).ok()??;
    let written = object::of_record(kind, &record.key, &record.value, Some(record.revision)).ok()?;
    let again: Object = serde_json::from_value(written).ok()?;
    let same = again.metadata.name == name && again.record(kind) == Ok(Some(record.clone()));
    Some((record.key, same))
}

/// The revision of the removal of the object that was at this one, out of a watch of its name.
async fn removed_at(mut lines: Lines, revision: Revision) -> Result<Revision, String> {
    let (mut before, mut last) = (None, String::new());
    while let Some(line) = lines.next().await? {
        let line: feed::Line = serde_json::from_slice(&line).map_err(|fault| fault.to_string())?;
        if line.kind == "ERROR" {
            return Err(format!("the watch failed: {}", line.object.get()));
        }
        let object: Object = serde_json::from_str(line.object.get()).map_err(|fault| fault.to_string())?;
        let at = object.revision()?;
        if line.kind == "DELETED" && before == Some(revision) {
            return Ok(at);
        }
        last = format!("{} at {at}", line.kind);
        before = Some(at);
    }
    Err(format!("the watch of what was at {revision} ended behind {last:?}"))
}

#[async_trait]
impl Store for Kubernetes {
    fn name(&self) -> String {
        format!("kubernetes {}", self.shared.client.peer())
    }

    async fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        validate_key(key)?;
        match kind {
            Kind::Services => self.shared.service(key).await,
            _ => self.shared.get(kind, key).await,
        }
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        self.shared.records(kind).await
    }

    async fn secret(&self, name: &str, key: &str) -> Result<Option<String>, StoreError> {
        self.shared.secret(name, key).await
    }

    async fn put_if(&self, kind: Kind, key: &str, value: &Value, expect: Expect) -> Result<Revision, StoreError> {
        validate_key(key)?;
        validate_value(value)?;
        let shared = &self.shared;
        match expect {
            Expect::Absent => match shared.create(kind, key, value).await? {
                Some(revision) => Ok(revision),
                None => Err(shared.conflict(kind, key, expect).await?),
            },
            Expect::Revision(expected) => match shared.replace(kind, key, value, expected).await? {
                Some(revision) => Ok(revision),
                None => Err(shared.conflict(kind, key, expect).await?),
            },
            Expect::Any => {
                let known = shared.known_sign(kind, key);
                if let Some(revision) = known
                    && let Some(revision) = shared.replace(kind, key, value, revision).await?
                {
                    shared.note_sign(kind, key, revision);
                    return Ok(revision);
                }
                for _ in 0..TRIES {
                    let done = match shared.get(kind, key).await? {
                        Some(found) => shared.replace(kind, key, value, found.revision).await?,
                        None => shared.create(kind, key, value).await?,
                    };
                    if let Some(revision) = done {
                        shared.note_sign(kind, key, revision);
                        return Ok(revision);
                    }
                }
                Err(shared.busy(kind, key))
            }
        }
    }

    async fn delete_if(&self, kind: Kind, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        validate_key(key)?;
        let shared = &self.shared;
        if let Expect::Revision(expected) = expect {
            let gone = shared.remove(kind, key, expected).await?;
            return if gone.is_some() { Ok(gone) } else { Err(shared.conflict(kind, key, expect).await?) };
        }
        for _ in 0..TRIES {
            let Some(found) = shared.get(kind, key).await? else { return Ok(None) };
            if expect == Expect::Absent {
                let current = Some(Box::new(found));
                return Err(StoreError::Conflict { kind, key: key.to_owned(), expected: expect, current });
            }
            if let Some(revision) = shared.remove(kind, key, found.revision).await? {
                return Ok(Some(revision));
            }
        }
        Err(shared.busy(kind, key))
    }

    async fn put_status(&self, kind: Kind, key: &str, status: &Value, at: Revision) -> Result<Revision, StoreError> {
        validate_key(key)?;
        validate_value(status)?;
        if kind != Kind::Services {
            return Err(Invalid::new("a kind whose status is written in Kubernetes", kind.as_str(), "services").into());
        }
        if let Some(revision) = self.shared.put_service_status(key, status, at).await? {
            return Ok(revision);
        }
        let current = self.shared.service(key).await?.map(Box::new);
        Err(StoreError::Conflict { kind, key: key.to_owned(), expected: Expect::Revision(at), current })
    }

    fn watch(&self, kinds: &[Kind]) -> mpsc::Receiver<Event> {
        self.watch_as(kinds)
    }

    fn watch_texts(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<Text>> {
        self.watch_as(kinds)
    }
}

impl Kubernetes {
    fn watch_as<V: Form>(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<V>> {
        let (events, receiver) = mpsc::channel(CHANNEL);
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kinds.contains(kind)).collect();
        if !kinds.is_empty() {
            let reader = records::Records::new(self.shared.clone(), kinds);
            tokio::spawn(feed::pump(self.shared.clone(), reader, events));
        }
        receiver
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.shared.closed.send_replace(true);
    }
}
