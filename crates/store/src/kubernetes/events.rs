//! Events (`events.k8s.io/v1`) on pods, Services, policies, pools and nodes, by the notices that stand.
//!
//! One Event a cause and object: its name follows from both, so that an agent that starts again goes on with it. What
//! happens again or lasts is counted in its series, at growing pauses; what is over gets an annotation that says since
//! when. All of it is held to a rate. A notice that nobody could write is written once it is possible, if it still stands.
//!
//! Not here: what people should be told. Invariants: nothing waits for this; of what cannot be written one sentence goes
//! back, and another once it can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, StatusCode};
use ripstop_objects::policy::PolicyName;
use ripstop_objects::{About, Notice, ObjectKind};
use ripstop_types::{Fnv1a as _, NodeName};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::fault::Status;
use super::http::Ask;
use super::{Kubernetes, Shared, object};
use crate::StoreError;

/// Who writes them (`reportingController`).
pub const CONTROLLER: &str = "ripstop.io/agent";
/// Says since when what an Event tells is over.
pub const OVER: &str = "ripstop.io/over";
/// The Events of objects without a namespace are in this one (apimachinery, `ValidateEventCreate`).
pub const CLUSTER_NAMESPACE: &str = "default";

/// The pause before a repeat is counted doubles from the first to the second, in milliseconds. By the second an Event
/// that lasts shows that it does.
const PAUSES: (u64, u64) = (5_000, 300_000);
/// So many writes at once, and one more each of these times, in milliseconds.
const BURST: u64 = 25;
const EACH: u64 = 2_000;
/// The pause after a write that failed, in milliseconds.
const AGAIN: u64 = 30_000;
/// Longest text of an Event's note, in bytes (apis/core/validation, `NoteLengthLimit`).
const MOST_NOTE: usize = 1_024;
/// Events that are remembered when they are over.
const MOST_OVER: usize = 256;

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Write {
    Create(Notice),
    /// It was so this often.
    Count(Notice, u64),
    Over(Notice),
}

impl Write {
    fn notice(&self) -> &Notice {
        match self {
            Self::Create(notice) | Self::Count(notice, _) | Self::Over(notice) => notice,
        }
    }
}

/// What stands and what was written of it. Time comes in; nothing is written here.
#[derive(Debug, Default)]
struct Ledger {
    rows: BTreeMap<String, Row>,
    /// When a bucket of [`BURST`] writes would be full again.
    full_at: u64,
}

#[derive(Debug)]
struct Row {
    notice: Notice,
    /// Whether the notice stands.
    stands: bool,
    /// What the object says: none before it is written.
    said: Option<Said>,
    due: u64,
    pause: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    count: u64,
    /// How often the notice was so when it was written.
    times: u64,
    over: bool,
}

impl Ledger {
    /// Takes in which notices stand.
    fn take(&mut self, now: u64, notices: &[Notice]) {
        let names: BTreeSet<String> = notices.iter().map(event_name).collect();
        for notice in notices {
            let name = event_name(notice);
            let new = || Row { notice: notice.clone(), stands: true, said: None, due: now, pause: PAUSES.0 };
            let row = self.rows.entry(name).or_insert_with(new);
            if !row.stands {
                (row.stands, row.due) = (true, row.due.max(now));
            }
            row.notice = notice.clone();
        }
        for (_, row) in self.rows.iter_mut().filter(|(name, row)| row.stands && !names.contains(*name)) {
            (row.stands, row.due) = (false, now);
        }
        // What was never written is not written when it is over.
        self.rows.retain(|_, row| row.stands || row.said.is_some());
        let over = self.rows.iter().filter(|(_, row)| !row.stands && row.said.is_some_and(|said| said.over));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        over.iter().skip(MOST_OVER).for_each(|name| drop(self.rows.remove(name)));
    }

    /// What is to be written next, or when to ask again.
    fn next(&self, now: u64) -> Result<(String, Write), Option<u64>> {
        let wanted = |row: &Row| match row.said {
            None => Some(Write::Create(row.notice.clone())),
            Some(said) if !row.stands => (!said.over).then(|| Write::Over(row.notice.clone())),
            Some(said) => {
                let more = row.notice.times.saturating_sub(said.times).max(1);
                Some(Write::Count(row.notice.clone(), said.count + more))
            }
        };
        let mut first: Option<(u64, &String, Write)> = None;
        for (name, row) in &self.rows {
            let due = row.due.max(self.full_at.saturating_sub((BURST - 1) * EACH));
            if first.as_ref().is_none_or(|(least, ..)| due < *least)
                && let Some(write) = wanted(row)
            {
                first = Some((due, name, write));
            }
        }
        match first {
            Some((due, name, write)) if due <= now => Ok((name.clone(), write)),
            first => Err(first.map(|(due, ..)| due)),
        }
    }

    /// The server answered a write.
    fn done(&mut self, now: u64, name: &str, write: &Write, outcome: Outcome) {
        self.full_at = self.full_at.max(now) + EACH;
        let Some(row) = self.rows.get_mut(name) else { return };
        row.due = now + row.pause;
        row.pause = (row.pause * 2).min(PAUSES.1);
        let times = write.notice().times;
        row.said = match (outcome, write) {
            (Outcome::Written, Write::Create(_)) => Some(Said { count: 1, times, over: false }),
            // Another run of the agent wrote it.
            (Outcome::Exists, _) => {
                row.due = now;
                Some(Said { count: 1, times, over: false })
            }
            (Outcome::Written, Write::Count(_, count)) => Some(Said { count: *count, times, over: false }),
            (Outcome::Written, Write::Over(_)) => row.said.map(|said| Said { over: true, ..said }),
            // Forgotten by the server, or its object is gone.
            (Outcome::Gone, _) => {
                (row.due, row.pause) = (now + PAUSES.1, PAUSES.1);
                None
            }
        };
        self.rows.retain(|_, row| row.stands || row.said.is_some());
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    Exists,
    Gone,
}

impl Kubernetes {
    /// Keeps Events as the notices say until their sender is gone, and answers with why none can be written, once, and
    /// with nothing once they can.
    pub fn tell(&self, node: &NodeName, notices: watch::Receiver<Arc<Vec<Notice>>>) -> mpsc::Receiver<Option<String>> {
        let (faults, receiver) = mpsc::channel(4);
        let instance: String = format!("ripstop-agent-{node}").chars().take(128).collect();
        let teller = Teller { shared: self.shared.clone(), instance, faults, fault: None };
        let mut closed = self.shared.closed.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = teller.run(notices) => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
        receiver
    }
}

struct Teller {
    shared: Arc<Shared>,
    /// Which agent (`reportingInstance`).
    instance: String,
    faults: mpsc::Sender<Option<String>>,
    fault: Option<String>,
}

impl Teller {
    async fn run(mut self, mut notices: watch::Receiver<Arc<Vec<Notice>>>) {
        let begin = Instant::now();
        let now = || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut ledger = Ledger::default();
        let mut again = 0;
        loop {
            let wait = match ledger.next(now().max(again)) {
                Ok((name, write)) if now() >= again => {
                    match self.write(&name, &write).await {
                        Ok(outcome) => {
                            ledger.done(now(), &name, &write, outcome);
                            self.say(None).await;
                        }
                        Err(fault) => {
                            again = now() + AGAIN;
                            // That the server is away is said of the store.
                            if !fault.is_passing() {
                                self.say(Some(fault.to_string())).await;
                            }
                        }
                    }
                    Some(0)
                }
                Ok(_) => Some(again.saturating_sub(now())),
                Err(due) => due.map(|due| due.max(again).saturating_sub(now())),
            };
            let pause = async {
                match wait {
                    Some(wait) => tokio::time::sleep(Duration::from_millis(wait)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = notices.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let standing = notices.borrow_and_update().clone();
                    ledger.take(now(), &standing);
                }
                () = pause => {}
            }
        }
    }

    async fn say(&mut self, fault: Option<String>) {
        if self.fault != fault {
            self.fault.clone_from(&fault);
            // The agent is ending where this fails.
            let _ = self.faults.send(fault).await;
        }
    }

    async fn write(&self, name: &str, write: &Write) -> Result<Outcome, StoreError> {
        let notice = write.notice();
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", namespace(notice));
        let now = object::renew_time();
        let (tried, ask) = match write {
            Write::Create(notice) => {
                let body = self.event(name, notice, &now);
                let body = Some(("application/json", body.to_string().into()));
                let path = format!("{path}?fieldManager=ripstop");
                ("create events.events.k8s.io", Ask { method: Method::POST, path, body })
            }
            Write::Count(_, count) => {
                let body = json!({"metadata": {"annotations": {OVER: null}},
                    "series": {"count": count, "lastObservedTime": now}});
                ("patch events.events.k8s.io", patch(&path, name, &body))
            }
            Write::Over(_) => {
                let body = json!({"metadata": {"annotations": {OVER: now}}});
                ("patch events.events.k8s.io", patch(&path, name, &body))
            }
        };
        let answer = self.shared.ask(tried, &ask).await?;
        let status = Status::of(&answer);
        match answer.status {
            code if code.is_success() => Ok(Outcome::Written),
            StatusCode::CONFLICT if status.reason == "AlreadyExists" => Ok(Outcome::Exists),
            StatusCode::NOT_FOUND => Ok(Outcome::Gone),
            // A namespace on its way out takes nothing new.
            StatusCode::FORBIDDEN if status.message.contains("being terminated") => Ok(Outcome::Gone),
            _ => Err(self.shared.refused(tried, true, &answer)),
        }
    }

    /// The object (`events.k8s.io/v1`, Event).
    fn event(&self, name: &str, notice: &Notice, now: &str) -> Value {
        let (kind, of, uid) = about(notice);
        let mut regarding = json!({"apiVersion": api_version(notice), "kind": kind, "name": of});
        if !uid.is_empty() {
            regarding["uid"] = uid.into();
        }
        if has_namespace(notice) {
            regarding["namespace"] = namespace(notice).into();
        }
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace(notice)},
            "eventTime": now, "type": "Warning", "reason": notice.reason, "note": cut(&notice.note), "regarding": regarding,
            "reportingController": CONTROLLER, "reportingInstance": self.instance, "action": action(notice),
        })
    }
}

fn patch(path: &str, name: &str, body: &Value) -> Ask {
    let path = format!("{path}/{name}?fieldManager=ripstop");
    Ask { method: Method::PATCH, path, body: Some((object::MERGE_PATCH, body.to_string().into())) }
}

/// What was being done when it was found.
fn action(notice: &Notice) -> &'static str {
    match notice.about {
        About::Pod { .. } => "AddToNetwork",
        About::Service { .. } => "ServeService",
        About::Policy { .. } => "EnforcePolicy",
        About::Pool { .. } => "GiveAddresses",
        About::Node { .. } => "ServeNode",
    }
}

fn about(notice: &Notice) -> (&'static str, &str, &str) {
    match &notice.about {
        About::Node { name, uid } => ("Node", name.as_str(), uid),
        About::Service { name, uid } => ("Service", &name.name, uid),
        About::Policy { name: PolicyName::Network(name), uid } => ("NetworkPolicy", &name.name, uid),
        About::Policy { name: PolicyName::Cluster(name), uid } => ("ClusterNetworkPolicy", name, uid),
        About::Pool { name, uid } => ("AddressPool", name, uid),
        About::Pod { name, uid } => ("Pod", &name.name, uid),
    }
}

fn has_namespace(notice: &Notice) -> bool {
    !matches!(
        notice.about,
        About::Node { .. } | About::Pool { .. } | About::Policy { name: PolicyName::Cluster(_), .. }
    )
}

fn api_version(notice: &Notice) -> &'static str {
    match &notice.about {
        About::Policy { name: PolicyName::Network(_), .. } => ObjectKind::NetworkPolicy.api_version(),
        About::Policy { name: PolicyName::Cluster(_), .. } => ObjectKind::ClusterNetworkPolicy.api_version(),
        About::Pool { .. } => ObjectKind::AddressPool.api_version(),
        About::Node { .. } | About::Service { .. } | About::Pod { .. } => "v1",
    }
}

fn namespace(notice: &Notice) -> &str {
    match &notice.about {
        About::Node { .. } | About::Pool { .. } | About::Policy { name: PolicyName::Cluster(_), .. } => {
            CLUSTER_NAMESPACE
        }
        About::Policy { name: PolicyName::Network(name), .. } => &name.namespace,
        About::Service { name, .. } | About::Pod { name, .. } => &name.namespace,
    }
}

/// The name of a notice's Event: that of the object, and a word that is another for another cause.
fn event_name(notice: &Notice) -> String {
    let (kind, name, uid) = about(notice);
    let text = [kind, namespace(notice), name, uid, notice.reason, &notice.note].join("\0");
    let short: String = name.chars().take(200).collect();
    format!("{}.{:016x}", short.trim_end_matches(['.', '-']), u64::of(text.bytes()))
}

/// A text of no more than [`MOST_NOTE`] bytes.
fn cut(text: &str) -> String {
    if text.len() <= MOST_NOTE {
        return text.to_owned();
    }
    let mut end = MOST_NOTE - "…".len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(pod: &str, note: &str, times: u64) -> Notice {
        let name = ripstop_types::PodName::new("default", pod).unwrap();
        Notice { about: About::Pod { name, uid: "u".into() }, reason: "NoFreeAddress", note: note.into(), times }
    }

    /// Writes until a moment, and what was written when.
    fn writes(ledger: &mut Ledger, from: u64, to: u64) -> Vec<(u64, Write)> {
        let (mut now, mut written) = (from, Vec::new());
        loop {
            match ledger.next(now) {
                Ok((name, write)) => {
                    ledger.done(now, &name, &write, Outcome::Written);
                    written.push((now, write));
                }
                Err(Some(due)) if due <= to => now = due,
                Err(_) => return written,
            }
        }
    }

    #[test]
    fn a_thousand_repeats_are_one_event_and_some_counts() {
        let mut ledger = Ledger::default();
        let mut all = Vec::new();
        for times in 1..=1_000 {
            ledger.take(times * 100, &[notice("a", "full", times)]);
            all.extend(writes(&mut ledger, times * 100, times * 100));
        }
        let creates = all.iter().filter(|(_, write)| matches!(write, Write::Create(_))).count();
        assert_eq!(creates, 1);
        // After 5, 15, 35 and 75 seconds.
        assert_eq!(all.len(), 5, "{all:?}");
        assert_eq!(all[4].1, Write::Count(notice("a", "full", 751), 751));
        // It goes on, and shows that it does.
        assert_eq!(writes(&mut ledger, 100_000, 2_000_000).len(), 7);
    }

    #[test]
    fn what_is_over_says_so_once_and_goes_on_when_it_comes_again() {
        let mut ledger = Ledger::default();
        ledger.take(0, &[notice("a", "full", 1)]);
        assert_eq!(writes(&mut ledger, 0, 0).len(), 1);
        ledger.take(1_000, &[]);
        assert_eq!(writes(&mut ledger, 1_000, 900_000), [(1_000, Write::Over(notice("a", "full", 1)))]);
        ledger.take(900_000, &[notice("a", "full", 1)]);
        let again = writes(&mut ledger, 900_000, 900_000);
        assert_eq!(again, [(900_000, Write::Count(notice("a", "full", 1), 2))]);
        // What was never written is not spoken of.
        ledger.take(900_001, &[notice("b", "full", 1)]);
        ledger.take(900_001, &[]);
        assert!(
            !writes(&mut ledger, 900_001, 9_000_000).iter().any(|(_, write)| *write.notice() == notice("b", "full", 1))
        );
    }

    #[test]
    fn many_at_once_are_held_to_a_rate() {
        let mut ledger = Ledger::default();
        let all: Vec<Notice> = (0..100).map(|n| notice(&format!("p{n}"), "full", 1)).collect();
        ledger.take(1_000_000, &all);
        assert_eq!(writes(&mut ledger, 1_000_000, 1_000_000).len(), BURST as usize);
        assert!(writes(&mut ledger, 1_000_000, 1_020_000).len() <= 11);
    }

    #[test]
    fn an_event_that_is_there_is_counted() {
        let mut ledger = Ledger::default();
        ledger.take(0, &[notice("a", "full", 1)]);
        let (name, write) = ledger.next(0).unwrap();
        ledger.done(0, &name, &write, Outcome::Exists);
        assert_eq!(ledger.next(0).unwrap().1, Write::Count(notice("a", "full", 1), 2));
        ledger.done(0, &name, &write, Outcome::Gone);
        assert_eq!(ledger.next(PAUSES.1).unwrap().1, Write::Create(notice("a", "full", 1)));
    }

    #[test]
    fn names_and_notes_fit() {
        let long = format!("{}a", "a.".repeat(126));
        let of = notice(&long, &"é".repeat(1_000), 1);
        assert!(event_name(&of).len() <= 253 && cut(&of.note).len() <= MOST_NOTE);
        assert_ne!(event_name(&of), event_name(&notice(&long, "other", 1)));
        assert_eq!(event_name(&notice("a", "x", 1)), event_name(&notice("a", "x", 9)), "the same cause");
    }
}
