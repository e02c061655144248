//! Claims with Flannel's record beside them: both keys change in one transaction, so no subnet has two owners.

use std::collections::BTreeMap;

use ripstop_types::Revision;
use serde_json::Value;

use super::flannel::{FlannelOptions, Holder};
use super::keys::{raw, revision};
use super::proto::{Compare, KeyValue, RangeRequest, RangeResponse, RequestOp, Response, TXN, TxnRequest, TxnResponse};
use super::{Etcd, PageFault, Pages, RANGE, Shared};
use crate::{Expect, Kind, Record, StoreError, node_of};

/// Tries before others that write the same keys are told of as a conflict.
const TRIES: usize = 8;

/// What lies at a claim's keys, and this node's own record.
struct Found {
    claim: Option<KeyValue>,
    beside: Option<KeyValue>,
    node: Option<Value>,
}

impl Found {
    fn holder(&self, flannel: &FlannelOptions) -> Option<Holder> {
        self.beside.as_ref().map(|kv| flannel.holder(&kv.value))
    }
}

/// That a key is as it was found.
fn as_found(key: &[u8], found: Option<&KeyValue>) -> Compare {
    match found {
        Some(kv) => Compare::unchanged(key.to_vec(), kv.mod_revision),
        None => Compare::absent(key.to_vec()),
    }
}

impl Etcd {
    /// Flannel's key beside a claim of this node; none where Flannel takes no part.
    pub(super) fn claim_beside(&self, kind: Kind, key: &str, value: Option<&Value>) -> Option<Vec<u8>> {
        let flannel = self.shared.options.flannel.as_ref().filter(|_| kind == Kind::Claims)?;
        let mine = value.is_none_or(|value| node_of(value).is_ok_and(|node| node == flannel.node));
        flannel.beside(key).filter(|_| mine)
    }

    /// Writes a claim of this node and Flannel's record beside it.
    pub(super) async fn put_claim(
        &self,
        flannel: &FlannelOptions,
        key: &str,
        beside: Vec<u8>,
        text: Vec<u8>,
        expect: Expect,
    ) -> Result<Revision, StoreError> {
        let (at, tried) = (self.shared.keys.of(Kind::Claims, key), format!("put claims/{key}"));
        for _ in 0..TRIES {
            let found = self.look(flannel, &tried, &at, &beside).await?;
            let holder = found.holder(flannel);
            let fits = match (expect, &found.claim) {
                (Expect::Any, _) => true,
                (Expect::Absent, claim) => claim.is_none() && matches!(holder, None | Some(Holder::Ours)),
                (Expect::Revision(expected), Some(claim)) => claim.mod_revision == raw(expected),
                // What flanneld left here is taken over at the revision at which it was seen.
                (Expect::Revision(expected), None) => {
                    let left = found.beside.as_ref().is_some_and(|kv| kv.mod_revision == raw(expected));
                    holder == Some(Holder::Predecessor) && left
                }
            };
            if !fits {
                return Err(self.claim_conflict(flannel, key, expect, found));
            }
            let mut then = vec![RequestOp::put(at.clone(), text.clone())];
            if holder == Some(Holder::Other) {
                tracing::warn!("{}: another wrote it: it is left as it is", String::from_utf8_lossy(&beside));
            } else {
                then.push(RequestOp::put(beside.clone(), flannel.value(found.node.as_ref())));
            }
            if let Some(done) = self.commit(&tried, &at, &beside, &found, then).await? {
                return Ok(done);
            }
        }
        Err(self.busy(&tried))
    }

    /// Removes a claim, and Flannel's record beside it where that is ours.
    pub(super) async fn delete_claim(
        &self,
        flannel: &FlannelOptions,
        key: &str,
        beside: Vec<u8>,
        expect: Expect,
    ) -> Result<Option<Revision>, StoreError> {
        let (at, tried) = (self.shared.keys.of(Kind::Claims, key), format!("delete claims/{key}"));
        for _ in 0..TRIES {
            let found = self.look(flannel, &tried, &at, &beside).await?;
            let fits = match (expect, &found.claim) {
                (Expect::Any | Expect::Absent, None) => return Ok(None),
                (Expect::Any, Some(_)) => true,
                (Expect::Revision(expected), Some(claim)) => claim.mod_revision == raw(expected),
                (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
            };
            if !fits {
                return Err(self.claim_conflict(flannel, key, expect, found));
            }
            let mut then = vec![RequestOp::delete(at.clone())];
            if found.holder(flannel) == Some(Holder::Ours) {
                then.push(RequestOp::delete(beside.clone()));
            }
            if let Some(done) = self.commit(&tried, &at, &beside, &found, then).await? {
                return Ok(Some(done));
            }
        }
        Err(self.busy(&tried))
    }

    /// Brings what this node says behind its subnets in line with a record of it that is about to be written.
    pub(super) async fn tell_flannel(&self, flannel: &FlannelOptions, node: &Value) -> Result<(), StoreError> {
        let wanted = flannel.value(Some(node));
        for kv in self.shared.flannels(flannel).await.map_err(PageFault::into_fault)?.1 {
            if kv.value == wanted || flannel.holder(&kv.value) != Holder::Ours {
                continue;
            }
            let condition = Compare::unchanged(kv.key.clone(), kv.mod_revision);
            let then = RequestOp::put(kv.key, wanted.clone());
            // Whoever changed it meanwhile had a reason.
            let _ = self.only_if("tell flannel of this node", condition, then).await?;
        }
        Ok(())
    }

    async fn look(
        &self,
        flannel: &FlannelOptions,
        tried: &str,
        claim: &[u8],
        beside: &[u8],
    ) -> Result<Found, StoreError> {
        let node = self.shared.keys.of(Kind::Nodes, flannel.node.as_str());
        let reads = [claim.to_vec(), beside.to_vec(), node].map(RequestOp::range).to_vec();
        let question = TxnRequest { compare: Vec::new(), success: reads, failure: Vec::new() };
        let answer: TxnResponse = self.shared.ask(TXN, tried, false, question).await?;
        let mut read = answer.responses.into_iter().map(|op| match op.response {
            Some(Response::Range(found)) => found.kvs.into_iter().next(),
            _ => None,
        });
        let (claim, beside) = (read.next().flatten(), read.next().flatten());
        let node = read.next().flatten().and_then(|kv| serde_json::from_slice(&kv.value).ok());
        Ok(Found { claim, beside, node })
    }

    /// Does it if both keys are as they were found; `None` where they are not.
    async fn commit(
        &self,
        tried: &str,
        claim: &[u8],
        beside: &[u8],
        found: &Found,
        then: Vec<RequestOp>,
    ) -> Result<Option<Revision>, StoreError> {
        let compare = vec![as_found(claim, found.claim.as_ref()), as_found(beside, found.beside.as_ref())];
        let question = TxnRequest { compare, success: then, failure: Vec::new() };
        let answer: TxnResponse = self.shared.ask(TXN, tried, true, question).await?;
        Ok(answer.succeeded.then(|| revision(answer.header.unwrap_or_default().revision)))
    }

    fn claim_conflict(&self, flannel: &FlannelOptions, key: &str, expect: Expect, found: Found) -> StoreError {
        if found.claim.is_some() {
            return self.conflict(Kind::Claims, key, expect, found.claim);
        }
        let foreign = found.beside.and_then(|kv| flannel.records(&kv).ok()).unwrap_or_default();
        let current = foreign.into_iter().find(|record| record.kind == Kind::Claims && record.key == key);
        StoreError::Conflict {
            kind: Kind::Claims,
            key: key.to_owned(),
            expected: expect,
            current: current.map(Box::new),
        }
    }

    fn busy(&self, tried: &str) -> StoreError {
        let cause = format!("others changed it {TRIES} times meanwhile");
        StoreError::Away { tried: tried.to_owned(), cause, maybe_applied: false }
    }
}

/// Records of ours that others' keys are, in order.
pub(super) type Foreign = BTreeMap<(Kind, String), Record>;

impl Shared {
    /// Flannel's records as records of ours, as of the revision that is answered with them.
    pub(super) async fn foreign(&self) -> Result<(i64, Foreign), PageFault> {
        let Some(flannel) = &self.options.flannel else { return Ok((0, Foreign::new())) };
        let (as_of, kvs) = self.flannels(flannel).await?;
        Ok((as_of, self.translate(flannel, &kvs)))
    }

    fn translate(&self, flannel: &FlannelOptions, kvs: &[KeyValue]) -> Foreign {
        let mut foreign = Foreign::new();
        for kv in kvs {
            match flannel.records(kv) {
                Ok(records) => {
                    foreign.extend(records.into_iter().map(|found| ((found.kind, found.key.clone()), found)))
                }
                Err(fault) => self.pass_over(fault),
            }
        }
        foreign
    }

    async fn flannels(&self, flannel: &FlannelOptions) -> Result<(i64, Vec<KeyValue>), PageFault> {
        let mut pages = Pages::new(flannel.span(), 0);
        let mut kvs = Vec::new();
        while let Some(page) = self.page(&mut pages).await? {
            kvs.extend(page);
        }
        Ok((pages.revision, kvs))
    }

    /// One of Flannel's records as a record of ours.
    pub(super) async fn one_foreign(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        let Some(flannel) = &self.options.flannel else { return Ok(None) };
        if let (Kind::Claims, Some(key_beside)) = (kind, flannel.beside(key)) {
            let question = RangeRequest { key: key_beside, ..Default::default() };
            let answer: RangeResponse = self.ask(RANGE, &format!("get {kind}/{key}"), false, question).await?;
            return Ok(self.translate(flannel, &answer.kvs).remove(&(kind, key.to_owned())));
        }
        let (_, mut foreign) = self.foreign().await.map_err(PageFault::into_fault)?;
        Ok(foreign.remove(&(kind, key.to_owned())))
    }
}
