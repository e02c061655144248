//! Where a cluster keeps its records: one trait, the embedded store, etcd, and the API of Kubernetes.
//!
//! A store is a small ordered map from ([`Kind`], key) to a JSON value, with one revision counter for all kinds, writes
//! that compare before they change, and a watch that hands over every change in order. The stores:
//!
//! - [`Embedded`]: one file, opened by one process;
//! - [`Remote`]: the same file served by [`serve`] to several processes of one machine over a unix socket;
//! - [`Etcd`]: a cluster of etcd, for several hosts;
//! - [`Kubernetes`]: objects in the API of Kubernetes;
//! - [`fault::Faulty`]: any store, with faults on command; for tests and the lab.
//!
//! Not here: what the values mean. A value is JSON to this crate, except that a claim names its node.
//!
//! Invariants, which the suite (module `suite`, which no program of the product calls) holds every store to:
//!
//! - A revision is given to one change and never again, and a later change has a greater one, also across restarts.
//! - A write that was answered is on disk. A write whose answer was lost says so ([`StoreError::Away`]).
//! - A watch has no gap and no duplicate, and each kind's changes in order. Where it cannot continue, it says [`Event::Reset`] and begins anew.
//! - No record expires. That a node is no longer alive is a judgement of who reads, on what that reader saw change.

mod client;
mod embedded;
mod error;
mod etcd;
pub mod fault;
mod kubernetes;
mod record;
mod server;
pub mod suite;
#[doc(hidden)]
pub mod untrusted;
mod wire;

pub use client::Remote;
pub use embedded::{Embedded, Options};
pub use error::StoreError;
pub use etcd::{Etcd, EtcdOptions, EtcdTls, EtcdUser, FlannelOptions};
pub use kubernetes::{
    Access, Api, CLUSTER_NAMESPACE, CONTROLLER, Judge, Kubernetes, KubernetesOptions, OVER, ObjectEvent, Wants,
    before_now, now, utc,
};
pub use record::{Event, Expect, MAX_DEPTH, MAX_KEY, MAX_VALUE, Record, Text, node_of, validate_key, validate_value};
pub use ripstop_types::StoreKind as Kind;
pub use server::{Server, serve};

use async_trait::async_trait;
use ripstop_types::{NodeName, Revision};
use serde_json::Value;
use tokio::sync::mpsc;

/// A place where records are kept. Usable as `Arc<dyn Store>`.
///
/// Every call needs a Tokio runtime around it. A call that is dropped before it answered may or may not have changed
/// the store.
#[async_trait]
pub trait Store: Send + Sync {
    /// What and where this store is, for status and messages: `embedded /var/lib/ripstop/store.redb`.
    fn name(&self) -> String;

    /// One record, or `None` where the key has none.
    async fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError>;

    /// All records of a kind at one revision, in order of their keys.
    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError>;

    /// Writes a record if its present state is as expected, and answers the revision of the write. A write of the value
    /// that is already there is a write: it has its own revision and is seen by every watch.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with the present record; [`StoreError::Invalid`] for a key or value beyond its bounds;
    /// [`StoreError::Away`], where `maybe_applied` obliges the caller to read again before it concludes anything.
    async fn put_if(&self, kind: Kind, key: &str, value: &Value, expect: Expect) -> Result<Revision, StoreError>;

    /// Removes a record if its present state is as expected, and answers the revision of the removal; `None` where there
    /// was nothing to remove and nothing was expected ([`Expect::Any`], [`Expect::Absent`]), which changes nothing.
    ///
    /// # Errors
    /// As [`Store::put_if`].
    async fn delete_if(&self, kind: Kind, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError>;

    /// Claims a key of [`Kind::Claims`] for the node that `value` names in its field `node`, and answers the claim that
    /// now stands.
    ///
    /// Where the key is free, `value` is written. Where it is held by the same node, the call succeeds and changes
    /// nothing: the answer is the record as it stands, with the value of whoever wrote it (an update is a
    /// [`Store::put_if`] on its revision). Where another node holds it, or the present value names no node, the call
    /// fails. So of any number of nodes exactly one wins a key, and a claim whose answer was lost can be repeated.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] with the holder's record; [`StoreError::Invalid`] where `value` names no node; and as
    /// [`Store::put_if`].
    async fn claim(&self, key: &str, value: &Value) -> Result<Record, StoreError> {
        let node = node_of(value)?;
        match self.put_if(Kind::Claims, key, value, Expect::Absent).await {
            Ok(revision) => Ok(Record { kind: Kind::Claims, key: key.to_owned(), value: value.clone(), revision }),
            Err(StoreError::Conflict { current: Some(held), .. }) if node_of(&held.value).is_ok_and(|n| n == node) => {
                Ok(*held)
            }
            Err(fault) => Err(fault),
        }
    }

    /// A sign of life: writes the node's record of [`Kind::Alive`], whatever is there.
    ///
    /// `value` is the node's own; by convention it counts up. A reader takes a node for gone when it has seen no new
    /// revision of this record for a time of its own clock; no clock of the store or of the node enters.
    ///
    /// # Errors
    /// As [`Store::put_if`], without conflicts.
    async fn alive(&self, node: &NodeName, value: &Value) -> Result<Revision, StoreError> {
        self.put_if(Kind::Alive, node.as_str(), value, Expect::Any).await
    }

    /// A value of a Secret in the namespace that this product is in, as text; `None` where there is none.
    ///
    /// # Errors
    /// That it cannot be read, or that this store has no Secrets.
    async fn secret(&self, name: &str, key: &str) -> Result<Option<String>, StoreError> {
        let cause = format!("it has no Secrets, so none called {name} with a key {key}; a file can be named instead");
        Err(StoreError::Refused { peer: self.name(), cause })
    }

    /// Puts these fields into the `status` of an object that is still at this revision, and answers the revision of the write.
    ///
    /// # Errors
    /// As [`Store::put_if`]; also where there is no such object.
    async fn put_status(&self, kind: Kind, key: &str, status: &Value, at: Revision) -> Result<Revision, StoreError> {
        let expected = Expect::Revision(at);
        let current = self.get(kind, key).await?;
        let Some(mut record) = current.clone().filter(|record| record.revision == at && record.value.is_object())
        else {
            let current = current.map(Box::new);
            return Err(StoreError::Conflict { kind, key: key.to_owned(), expected, current });
        };
        if !record.value["status"].is_object() {
            record.value["status"] = Value::Object(serde_json::Map::new());
        }
        for (field, value) in status.as_object().into_iter().flatten() {
            record.value["status"][field] = value.clone();
        }
        self.put_if(kind, key, &record.value, expected).await
    }

    /// All present records of these kinds, then every change of them, as [`Event`] describes. Kinds named twice count
    /// once; without kinds the channel is closed at once.
    ///
    /// The channel is bounded and nothing is buffered behind it: a receiver that is slow holds up nobody, and where it
    /// falls behind what the store remembers it gets [`Event::Reset`]. The channel ends when the receiver is dropped,
    /// or when the store is closed by this process; loss of a store elsewhere is [`Event::Away`], not an end.
    fn watch(&self, kinds: &[Kind]) -> mpsc::Receiver<Event>;

    /// As [`Store::watch`], with values as their JSON text, for who knows better than to make a [`Value`] of each.
    fn watch_texts(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<Text>>;
}
