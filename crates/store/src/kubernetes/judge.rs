//! Says on an object of ours that is not taken why it is not: in its status, by server-side apply.
//!
//! Every node that watches sees such an object. Its status is written by those that see it without the right sentence;
//! the pause before is another at each, so that mostly one writes. An object that is as it should be gets no status, so
//! that no revision of it is spent on that.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::Method;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::http::Ask;
use super::object::{self, Object};
use super::options::Judge;
use super::{Shared, fault};
use crate::Kind;

/// Longest sentence in a status; Kubernetes' conditions have at most 32,768 characters.
const MOST_TEXT: usize = 1_000;
/// Apart from the writer of records: what it says is nobody else's.
const FIELD_MANAGER: &str = "ripstop-judge";

/// What is to be written to a status.
struct Verdict {
    kind: Kind,
    name: String,
    uid: String,
    generation: i64,
    text: Option<String>,
}

/// Hands objects to the task that judges them. Dropped, that ends.
pub(super) struct Judging {
    judge: Option<(Judge, UnboundedSender<Verdict>)>,
}

impl Judging {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let Some(judge) = shared.options.judge else { return Self { judge: None } };
        let (to_write, verdicts) = unbounded_channel();
        tokio::spawn(write(shared, verdicts));
        Self { judge: Some((judge, to_write)) }
    }

    /// Judges an object, and has its status written where that says otherwise.
    pub(super) fn look(&self, kind: Kind, object: &RawValue) {
        let Some((judge, to_write)) = self.judge.as_ref().filter(|_| kind != Kind::Alive) else { return };
        let Ok(object) = serde_json::from_str::<Object>(object.get()) else { return };
        let said = object.status.conditions.iter().find(|condition| condition.kind == "Accepted");
        let said = said.map(|condition| condition.message.clone());
        let (name, uid) = (object.metadata.name.clone(), object.metadata.uid.clone());
        let generation = object.metadata.generation;
        let text = match object.key(kind) {
            None => Some(format!("the name {name} is no record's: it would be that of a key that is not written so")),
            Some(key) => match object.record(kind) {
                Ok(Some(record)) => judge(kind, &key, &record.value).err(),
                _ => return,
            },
        };
        let text = text.map(|text| text.chars().take(MOST_TEXT).collect::<String>());
        if text != said {
            // The task ends only with the watch.
            let _ = to_write.send(Verdict { kind, name, uid, generation, text });
        }
    }
}

async fn write(shared: Arc<Shared>, mut verdicts: UnboundedReceiver<Verdict>) {
    while let Some(first) = verdicts.recv().await {
        let spread = shared.options.spread;
        tokio::time::sleep(spread.mul_f64(super::feed::random())).await;
        // Of several words on one object the last counts.
        let mut latest = BTreeMap::from([((first.kind, first.name.clone()), first)]);
        while let Ok(next) = verdicts.try_recv() {
            latest.insert((next.kind, next.name.clone()), next);
        }
        for verdict in latest.into_values() {
            if let Err(fault) = shared.tell(&verdict).await {
                tracing::warn!(
                    "cannot say why it is not taken on {} {}: {fault}",
                    object::full_name(verdict.kind),
                    verdict.name
                );
            }
        }
    }
}

impl Shared {
    async fn tell(&self, verdict: &Verdict) -> Result<(), crate::StoreError> {
        let tried = format!("patch {}/status", object::full_name(verdict.kind));
        let path = format!("{}/{}", self.path(verdict.kind), verdict.name);
        // Another node may have said it meanwhile, or somebody mended it.
        let answer = self.ask(&tried, &Ask::get(path.clone())).await?;
        let now: Option<Object> = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status.is_success());
        let Some(now) = now else { return Ok(()) };
        let said = now.status.conditions.iter().find(|condition| condition.kind == "Accepted");
        let is_other = now.metadata.uid != verdict.uid || now.metadata.generation != verdict.generation;
        if is_other || said.map(|condition| &condition.message) == verdict.text.as_ref() {
            return Ok(());
        }
        let kind = match verdict.kind {
            Kind::Networks => "Network",
            Kind::Nodes => "NodeState",
            Kind::Claims => "RangeClaim",
            _ => return Ok(()),
        };
        let conditions = verdict.text.as_ref().map_or_else(Vec::new, |text| {
            vec![json!({"type": "Accepted", "status": "False", "reason": "Invalid", "message": text,
                "observedGeneration": verdict.generation, "lastTransitionTime": object::now()})]
        });
        let status = json!({"apiVersion": ripstop_objects::API_VERSION, "kind": kind,
            "metadata": {"name": verdict.name, "uid": verdict.uid}, "status": {"conditions": conditions}});
        let body = Some(("application/apply-patch+yaml", status.to_string().into()));
        let path = format!("{path}/status?fieldManager={FIELD_MANAGER}&force=true");
        let answer = self.ask(&tried, &Ask { method: Method::PATCH, path, body }).await?;
        if answer.status.is_success() || answer.status == ::http::StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(fault::refused(&self.client.peer(), &tried, true, &answer))
    }
}
