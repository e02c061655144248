//! The one thread that talks to the kernel, and the one that listens to it.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use ripstop_kernel::{Applier, BootFiles, Fault, Monitor, Observer, OnError, StepError};
use ripstop_netmodel::{Entry, HostFacts, Key, Kind, Model};
use ripstop_plan::Plan;
use ripstop_tables::{FaultCause, Input, StepFault};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::run::Message;

/// Notifications are collected this long before the kernel is read: they come in bursts.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Something for the kernel thread.
pub enum Job {
    /// Run steps.
    Apply { plan: u64, steps: Plan, stop_on_error: bool },
    /// Read keys for a CHECK.
    Inspect { call: u64, keys: BTreeSet<Key> },
    /// Read everything of ours of these kinds.
    Observe { kinds: BTreeSet<Kind> },
    /// Read what the host is given.
    Facts,
    /// The wanted settings below /proc/sys and tables: what is read is recognised by them.
    Reference(Model),
}

/// What the kernel has at start.
pub struct Found {
    /// What the host is given.
    pub facts: HostFacts,
    /// Everything of ours.
    pub observed: Vec<Entry>,
}

/// Starts both threads; answers with what is there and where to send jobs.
///
/// # Errors
/// Where the kernel refuses a socket or cannot be read.
pub fn start(
    files: BootFiles,
    reference: Model,
    queue: UnboundedSender<Message>,
) -> anyhow::Result<(Found, mpsc::Sender<Job>)> {
    let (jobs, inbox) = mpsc::channel();
    let (first, found) = mpsc::channel();
    let to_self = jobs.clone();
    thread::Builder::new()
        .name("kernel".into())
        .spawn(move || {
            let opened = open(&reference);
            let Ok((mut worker, result, own)) = opened.map_err(|error| first.send(Err(error))) else { return };
            if first.send(Ok(result)).is_err() {
                return;
            }
            watch(own, to_self, queue.clone());
            worker.reference = reference;
            worker.files = Some(files);
            worker.work(&inbox, &queue);
        })
        .context("cannot start a thread")?;
    let found = found.recv().context("the kernel thread ended")??;
    Ok((found, jobs))
}

type Opened = (Worker, Found, std::sync::Arc<ripstop_kernel::OwnTraffic>);

fn open(reference: &Model) -> anyhow::Result<Opened> {
    let applier = Applier::open()?;
    let mut observer = Observer::open()?;
    let found = Found { facts: observer.facts()?, observed: entries(&observer.host(reference)?) };
    let own = applier.own();
    Ok((Worker { applier, observer, files: None, reference: Model::new() }, found, own))
}

struct Worker {
    applier: Applier,
    observer: Observer,
    files: Option<BootFiles>,
    reference: Model,
}

impl Worker {
    fn work(&mut self, inbox: &mpsc::Receiver<Job>, queue: &UnboundedSender<Message>) {
        let send = |input| queue.send(Message::Input(input)).is_ok();
        while let Ok(job) = inbox.recv() {
            let goes_on = match job {
                Job::Apply { plan, steps, stop_on_error } => {
                    let results = self.apply(&steps, stop_on_error);
                    send(Input::Applied { plan, results })
                }
                Job::Inspect { call, keys } => {
                    let found = self.observer.observe_keys(&keys, &self.reference);
                    send(Input::Inspected {
                        call,
                        found: found.map(|model| entries(&model)).map_err(|e| e.to_string()),
                    })
                }
                Job::Observe { kinds } => match self.observer.host(&self.reference) {
                    Ok(model) => {
                        let mut entries = entries(&model);
                        entries.retain(|entry| kinds.contains(&ripstop_netmodel::Resource::key(&entry.object).kind()));
                        send(Input::Observed { kinds, entries })
                    }
                    Err(error) => {
                        tracing::warn!("{error}; reading again with the next change");
                        true
                    }
                },
                Job::Facts => match self.observer.facts() {
                    Ok(facts) => send(Input::Facts(facts)),
                    Err(error) => {
                        tracing::warn!("{error}; reading again with the next change");
                        true
                    }
                },
                Job::Reference(reference) => {
                    self.reference = reference;
                    true
                }
            };
            if !goes_on {
                break;
            }
        }
        self.applier.flush();
    }

    fn apply(&mut self, plan: &Plan, stop_on_error: bool) -> Vec<Option<Result<(), StepFault>>> {
        let mut results = vec![None; plan.steps.len()];
        let Some(files) = &mut self.files else { return results };
        let on_error = if stop_on_error { OnError::Stop } else { OnError::Continue };
        for outcome in self.applier.run(&plan.steps, on_error, files) {
            let result = match outcome.result {
                Ok(()) => Some(Ok(())),
                Err(StepError { fault: Fault::NotRun, .. }) => None,
                Err(error) => Some(Err(fault(&error))),
            };
            if let Some(place) = results.get_mut(outcome.index) {
                *place = result;
            }
        }
        results
    }
}

fn fault(error: &StepError) -> StepFault {
    let cause = match &error.fault {
        Fault::Namespace(_) => FaultCause::Namespace,
        Fault::Foreign { .. } => FaultCause::Foreign,
        Fault::Refused { errno, .. } | Fault::File { errno, .. }
            if *errno == rustix::io::Errno::PERM.raw_os_error()
                || *errno == rustix::io::Errno::ACCESS.raw_os_error() =>
        {
            FaultCause::Permission
        }
        _ => FaultCause::Other,
    };
    StepFault { text: error.to_string(), cause }
}

fn entries(model: &Model) -> Vec<Entry> {
    model.iter().map(|(_, entry)| (**entry).clone()).collect()
}

/// Whether something is to be read before the time is over.
fn wait(monitor: &Monitor, time: Duration) -> bool {
    let mut fds = [PollFd::new(monitor, PollFlags::IN)];
    let time = Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(1), tv_nsec: i64::from(time.subsec_nanos()) };
    matches!(poll(&mut fds, Some(&time)), Ok(ready) if ready > 0)
}

/// Waits for notifications and asks for what changed to be read.
fn watch(own: std::sync::Arc<ripstop_kernel::OwnTraffic>, jobs: mpsc::Sender<Job>, queue: UnboundedSender<Message>) {
    let work = move || {
        let mut monitor = match Monitor::open(own) {
            Ok(monitor) => monitor,
            Err(error) => {
                tracing::warn!("{error}; changes by others are found by the slow sweep only");
                return;
            }
        };
        while !queue.is_closed() {
            if !wait(&monitor, Duration::from_secs(1)) {
                continue;
            }
            let until = Instant::now() + DEBOUNCE;
            let mut changed = ripstop_kernel::Changed::default();
            loop {
                match monitor.read() {
                    Ok(more) => changed.merge(more),
                    Err(error) => {
                        tracing::warn!("{error}");
                        break;
                    }
                }
                let left = until.saturating_duration_since(Instant::now());
                if changed.is_empty() || left.is_zero() || !wait(&monitor, left) {
                    break;
                }
            }
            let mut sent = true;
            if changed.facts {
                sent &= jobs.send(Job::Facts).is_ok();
            }
            if !changed.kinds.is_empty() {
                sent &= jobs.send(Job::Observe { kinds: changed.kinds }).is_ok();
            }
            if !sent {
                break;
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("monitor".into()).spawn(work) {
        tracing::warn!("cannot start the monitor thread: {error}");
    }
}
