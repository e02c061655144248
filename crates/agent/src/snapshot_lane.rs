//! The one thread that writes the snapshot: a cluster's records are megabytes of text, and the disk is waited for.
//!
//! Invariants: what is written last is what was handed in last, and was whole at every moment; an answer comes when what it
//! was asked for with, or something later, is on the disk; behind [`Writer::forget`] nothing is written any more.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use anyhow::Context;
use ripstop_objects::AgentConfig;
use ripstop_tables::{Input, SnapshotRows};
use tokio::sync::mpsc::UnboundedSender;

use crate::files;
use crate::message::Message;

enum Job {
    /// Write this, and say so with the number, if there is one.
    Save(Box<SnapshotRows>, Option<u64>),
    /// Remove it, write none any more, and say so.
    Forget(Sender<()>),
}

/// The way to the thread.
pub struct Writer {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread. [`Input::Saved`] and [`Message::Unsaved`] go to the queue.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub fn start(config: AgentConfig, queue: UnboundedSender<Message>) -> anyhow::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let work = move || {
            let mut forgotten = false;
            while let Ok(job) = inbox.recv() {
                serve(job, &inbox, &config, &queue, &mut forgotten);
            }
        };
        let thread = thread::Builder::new().name("snapshot".into()).spawn(work).context("cannot start a thread")?;
        Ok(Self { jobs, thread })
    }

    /// Has the snapshot written. Where several wait, the last one stands for all.
    pub fn save(&self, rows: SnapshotRows, generation: Option<u64>) {
        if self.jobs.send(Job::Save(Box::new(rows), generation)).is_err() {
            tracing::warn!("the thread that writes the snapshot has ended; restart the agent");
        }
    }

    /// Removes the snapshot. What is saved from then on would say what is no longer so.
    pub fn forget(&self) {
        let (done, is_done) = mpsc::channel();
        if self.jobs.send(Job::Forget(done)).is_ok() {
            // An error says that the thread has ended, which was told.
            let _ = is_done.recv();
        }
    }

    /// Waits until everything handed in is written.
    pub fn finish(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            tracing::warn!("the last snapshot was not written");
        }
    }
}

/// Does a job and those that came meanwhile.
fn serve(
    job: Job,
    inbox: &Receiver<Job>,
    config: &AgentConfig,
    queue: &UnboundedSender<Message>,
    forgotten: &mut bool,
) {
    let mut latest = None;
    let mut generations = Vec::new();
    for job in std::iter::once(job).chain(inbox.try_iter()) {
        match job {
            Job::Save(rows, generation) => {
                latest = Some(rows);
                generations.extend(generation);
            }
            Job::Forget(done) => {
                *forgotten = true;
                if let Err(error) = files::remove_snapshot(config) {
                    tracing::warn!("{error:#}");
                }
                // Who asked waits for it.
                let _ = done.send(());
            }
        }
    }
    let Some(rows) = latest else { return };
    let written = if *forgotten { Ok(()) } else { write(config, &rows) };
    // Where nobody takes the answers, the agent ends.
    match written {
        Ok(()) => generations.into_iter().for_each(|generation| {
            let _ = queue.send(Message::Input(Input::Saved { generation }));
        }),
        Err(error) => {
            tracing::warn!("{error:#}; a restart without the store would not know the cluster");
            let _ = queue.send(Message::Unsaved);
        }
    }
}

fn write(config: &AgentConfig, rows: &SnapshotRows) -> anyhow::Result<()> {
    files::write_atomic(&files::snapshot_path(config), &serde_json::to_vec(rows)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ripstop_netmodel::HostFacts;
    use ripstop_objects::NodeIdentity;
    use ripstop_tables::{Start, StoreInput, StoreKind, Tables};
    use ripstop_types::Revision;
    use serde_json::{Value, json};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn config(folder: &Path) -> AgentConfig {
        AgentConfig { state_dir: folder.to_owned(), ..AgentConfig::default() }
    }

    /// What is to be kept when the only record is at this revision.
    fn rows(config: &AgentConfig, revision: u64) -> SnapshotRows {
        let mut tables = Tables::new(Start {
            config: config.clone(),
            node: "n1".parse().unwrap(),
            identity: NodeIdentity { machine_id: "m".into(), boot_id: "b".into() },
            run: 1,
            version: "test".into(),
            facts: HostFacts::default(),
            observed: Vec::new(),
            pods: Vec::new(),
            lost: Vec::new(),
            preferred: Vec::new(),
            snapshot: None,
            held: false,
        });
        let identity = json!({ "machineId": "m", "bootId": "b" });
        let value = json!({ "name": "n2", "identity": identity, "addresses": [], "receives": [] }).into();
        let (kind, revision) = (StoreKind::Nodes, Revision(revision));
        tables.apply_store(&StoreInput::Put { kind, key: "n2".into(), value, revision });
        tables.apply_store(&StoreInput::Synced { kind, revision });
        tables.snapshot(None)
    }

    /// The revision that is on the disk.
    fn on_disk(config: &AgentConfig) -> Option<u64> {
        let text = std::fs::read(files::snapshot_path(config)).ok()?;
        let whole: Value = serde_json::from_slice(&text).expect("it is whole at every moment");
        whole["records"][0]["revision"].as_u64()
    }

    fn saved(queue: &mut UnboundedReceiver<Message>) -> u64 {
        match queue.blocking_recv() {
            Some(Message::Input(Input::Saved { generation })) => generation,
            _ => panic!("something else than that it was saved"),
        }
    }

    #[test]
    fn snapshots_are_written_in_order_and_answered_when_they_are_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let (to_self, mut queue) = unbounded_channel();
        let writer = Writer::start(config.clone(), to_self).unwrap();
        const LAST: u64 = 60;
        for revision in 1..=LAST {
            writer.save(rows(&config, revision), (revision % 3 == 0).then_some(revision));
        }
        let mut before = 0;
        for generation in (1..=LAST).filter(|revision| revision % 3 == 0) {
            assert_eq!(saved(&mut queue), generation);
            let now = on_disk(&config).unwrap();
            assert!(now >= generation, "answered is {generation}, on the disk is {now}");
            assert!(now >= before, "{now} was written behind {before}");
            before = now;
        }
        writer.save(rows(&config, LAST + 1), None);
        writer.finish();
        assert_eq!(on_disk(&config), Some(LAST + 1), "the end waits for the last");
    }

    #[test]
    fn behind_a_forget_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let (to_self, mut queue) = unbounded_channel();
        let writer = Writer::start(config.clone(), to_self).unwrap();
        (1..20).for_each(|revision| writer.save(rows(&config, revision), None));
        writer.forget();
        assert_eq!(on_disk(&config), None);
        writer.save(rows(&config, 20), Some(20));
        assert_eq!(saved(&mut queue), 20, "who waits is answered");
        writer.finish();
        assert_eq!(on_disk(&config), None);
    }
}
