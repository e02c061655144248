//! The one thread that talks to the kernel, and the one that listens to it.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use ripstop_kernel::{Applier, BootFiles, Changed, Fault, Iptables, Monitor, Observer, OnError, OwnTraffic, StepError};
use ripstop_netmodel::{Entry, HostFacts, Key, Kind, Model, Ns, Object, Resource, Sysctl};
use ripstop_plan::{Plan, Step};
use ripstop_tables::{FaultCause, Input, StepFault};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::forwarder;
use crate::message::Message;

/// Notifications come in bursts: the kernel is read when there was none for so long,
const QUIET: Duration = Duration::from_millis(5);

/// or so long after the first.
const PATIENCE: Duration = Duration::from_millis(50);

/// Pause before the kernel is listened to again after that failed.
const DEAF: Duration = Duration::from_secs(1);

/// Settings below /proc/sys change without a notification: they are looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// Nor does IPVS tell of changes: its virtual servers are read this often where it has any of ours. Ten thousand with ten destinations
/// each cost some hundredths of a core.
const IPVS_LOOK: Duration = Duration::from_secs(10);

/// So many steps of a plan are done before a call may have its turn.
const SLICE: usize = 512;

/// So many where they are elements of nftables: with each transaction that brings a verdict the kernel looks through all maps of verdicts.
const ELEMENTS: usize = 4_096;

/// Something for the kernel thread.
pub enum Job {
    /// Run steps.
    Apply { plan: u64, steps: Arc<Plan>, stop_on_error: bool },
    /// Read keys for a CHECK.
    Inspect { call: u64, keys: BTreeSet<Key> },
    /// Read everything of ours of these kinds.
    Observe { kinds: BTreeSet<Kind> },
    /// Read what the host is given.
    Facts,
    /// A forwarder came, which is to be asked what it goes by, or went.
    Forwarder(bool),
    /// The wanted settings below /proc/sys and tables: what is read is recognised by them.
    Reference(Model),
}

/// What the kernel has at start.
pub struct Found {
    /// What the host is given.
    pub facts: HostFacts,
    /// Everything of ours.
    pub observed: Vec<Entry>,
    /// What is wanted there, by which it was recognised.
    pub reference: Model,
}

/// What an agent wants of a host, before it has looked at it.
pub struct Wanted {
    /// Settings and tables, by which those that are there are recognised.
    pub reference: Model,
    /// What each pod of an earlier run has in its namespace.
    pub pods: Vec<BTreeSet<Key>>,
}

/// Starts both threads; answers with what is there and where to send jobs. `wanted` says, of what the host is given, what an
/// agent wants.
///
/// # Errors
/// Where the kernel refuses a socket or cannot be read.
pub fn start(
    files: BootFiles,
    forwarder: PathBuf,
    wanted: impl FnOnce(&HostFacts) -> Wanted + Send + 'static,
    queue: UnboundedSender<Message>,
) -> anyhow::Result<(Found, mpsc::Sender<Job>)> {
    let (jobs, inbox) = mpsc::channel();
    let (first, found) = mpsc::channel();
    let to_self = jobs.clone();
    thread::Builder::new()
        .name("kernel".into())
        .spawn(move || {
            let (mut worker, result, own) = match open(wanted, &forwarder) {
                Ok(opened) => opened,
                Err(error) => {
                    // Who waits for it tells it.
                    let _ = first.send(Err(error));
                    return;
                }
            };
            let reference = result.reference.clone();
            if first.send(Ok(result)).is_err() {
                return;
            }
            let settings = Settings::default();
            settings.set(&reference);
            forwarder::watch(forwarder, worker.forwarder, to_self.clone());
            let iptables = worker.applier.iptables();
            watch(own, iptables, to_self, queue.clone(), settings.clone());
            worker.reference = reference;
            worker.settings = settings;
            worker.files = Some(files);
            worker.work(&mut Waiting { inbox, later: VecDeque::new() }, &queue);
        })
        .context("cannot start a thread")?;
    let found = found.recv().context("the kernel thread ended")??;
    Ok((found, jobs))
}

type Opened = (Worker, Found, Arc<OwnTraffic>);

fn open(wanted: impl FnOnce(&HostFacts) -> Wanted, socket: &Path) -> anyhow::Result<Opened> {
    let applier = Applier::open()?.with_forwarder(socket.to_owned());
    let iptables = applier.iptables();
    let mut observer = Observer::open()?.with_forwarder(socket.to_owned()).with_iptables(iptables);
    let forwarder = forwarder::answers(socket);
    let facts = HostFacts { forwarder, ..observer.facts()? };
    let Wanted { reference, pods } = wanted(&facts);
    let mut observed = entries(&observer.host(&reference)?);
    observed.append(&mut inside(&mut observer, &pods));
    let found = Found { facts, observed, reference };
    let own = applier.own();
    let (reference, settings) = (Model::new(), Settings::default());
    let worker = Worker { applier, observer, files: None, reference, settings, forwarder };
    Ok((worker, found, own))
}

/// What there is in pods' namespaces under these keys, each pod's by itself: one that cannot be read is left out.
fn inside(observer: &mut Observer, pods: &[BTreeSet<Key>]) -> Vec<Entry> {
    let mut found = Vec::new();
    for keys in pods {
        match observer.observe_keys(keys, &Model::new()) {
            Ok(model) => found.append(&mut entries(&model)),
            Err(error) => tracing::debug!("{error}"),
        }
    }
    found
}

/// What is to be done. What runtimes wait for overtakes the rest: a plan for thousands of peers takes its time.
struct Waiting {
    inbox: mpsc::Receiver<Job>,
    /// Jobs that were overtaken.
    later: VecDeque<Job>,
}

impl Waiting {
    /// The next that somebody waits for, if there is one already.
    fn awaited(&mut self) -> Option<Job> {
        while let Ok(job) = self.inbox.try_recv() {
            if is_awaited(&job) {
                return Some(job);
            }
            self.later.push_back(job);
        }
        None
    }

    /// The next; `None` when nobody is left to ask for anything.
    fn next(&mut self) -> Option<Job> {
        self.awaited().or_else(|| self.later.pop_front()).or_else(|| self.inbox.recv().ok())
    }
}

/// Whether a call waits for it. Of what policies ask one waits that comes behind: before a pod's interface is there what is asked of its
/// packets is.
fn is_awaited(job: &Job) -> bool {
    match job {
        // A call's plan may make what the reference speaks of.
        Job::Reference(_) | Job::Inspect { .. } => true,
        Job::Apply { steps, stop_on_error, .. } => *stop_on_error || is_of_policies(steps),
        Job::Observe { .. } | Job::Facts | Job::Forwarder(_) => false,
    }
}

fn is_of_policies(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| step.key.is_of_policies())
}

struct Worker {
    applier: Applier,
    observer: Observer,
    files: Option<BootFiles>,
    reference: Model,
    settings: Settings,
    /// Whether a forwarder answers.
    forwarder: bool,
}

/// The wanted settings below /proc/sys, shared with the thread that looks at them.
#[derive(Clone, Default)]
struct Settings(Arc<Mutex<Vec<Sysctl>>>);

impl Settings {
    fn set(&self, reference: &Model) {
        let wanted = reference.iter().filter_map(|(_, entry)| match &entry.object {
            Object::Sysctl(setting) => Some(setting.clone()),
            _ => None,
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wanted.collect();
    }

    /// Whether IPVS is told something, as it is where Services are served by it.
    fn is_of_ipvs(&self) -> bool {
        let wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().any(|setting| setting.path.starts_with("net/ipv4/vs/"))
    }

    /// Paths and values of those that are not as wanted.
    fn odd(&self) -> Vec<(Arc<str>, Option<String>)> {
        let wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |setting: &Sysctl| {
            let text = std::fs::read_to_string(Path::new("/proc/sys").join(&*setting.path)).ok();
            (setting.path.clone(), text.map(|text| text.trim().to_owned()))
        };
        let differs = |setting: &&Sysctl| {
            let there = read(setting).1.map(|value| Sysctl { value: value.into(), ..(*setting).clone() });
            there.is_none_or(|there| !setting.satisfied_by(&there))
        };
        wanted.iter().filter(differs).map(read).collect()
    }
}

impl Worker {
    fn work(&mut self, jobs: &mut Waiting, queue: &UnboundedSender<Message>) {
        while !queue.is_closed() {
            let Some(job) = jobs.next() else { break };
            let may_wait = !is_awaited(&job);
            match job {
                Job::Apply { plan, steps, .. } if may_wait => {
                    let mut results = Vec::with_capacity(steps.steps.len());
                    for slice in slices(&steps.steps) {
                        while let Some(awaited) = jobs.awaited() {
                            self.serve(awaited, queue);
                        }
                        results.append(&mut self.apply(slice, false));
                    }
                    send(queue, Input::Applied { plan, results });
                }
                job => self.serve(job, queue),
            }
        }
        self.applier.flush();
    }

    fn serve(&mut self, job: Job, queue: &UnboundedSender<Message>) {
        match job {
            Job::Apply { plan, steps, stop_on_error } => {
                let results = self.apply(&steps.steps, stop_on_error);
                send(queue, Input::Applied { plan, results });
            }
            Job::Inspect { call, keys } => {
                let found = self.observer.observe_keys(&keys, &self.reference);
                let found = found.map(|model| entries(&model)).map_err(|e| e.to_string());
                send(queue, Input::Inspected { call, found });
            }
            Job::Observe { kinds } => self.tell(kinds, queue),
            Job::Facts => self.tell_facts(queue),
            Job::Forwarder(there) => {
                self.forwarder = there;
                self.tell(BTreeSet::from([Kind::Forwarder, Kind::ForwarderPeer]), queue);
                self.tell_facts(queue);
            }
            Job::Reference(reference) => {
                self.settings.set(&reference);
                self.reference = reference;
            }
        }
    }

    fn tell(&mut self, kinds: BTreeSet<Kind>, queue: &UnboundedSender<Message>) {
        match self.observer.kinds(|kind| kinds.contains(&kind), &self.reference) {
            Ok(model) => send(queue, Input::Observed { kinds, entries: entries(&model) }),
            Err(error) => tracing::warn!("{error}; reading again with the next change"),
        }
    }

    fn tell_facts(&mut self, queue: &UnboundedSender<Message>) {
        match self.observer.facts() {
            Ok(facts) => send(queue, Input::Facts(HostFacts { forwarder: self.forwarder, ..facts })),
            Err(error) => tracing::warn!("{error}; reading again with the next change"),
        }
    }

    fn apply(&mut self, steps: &[Step], stop_on_error: bool) -> Vec<Option<Result<(), StepFault>>> {
        let mut results = vec![None; steps.len()];
        let Some(files) = &mut self.files else { return results };
        let on_error = if stop_on_error { OnError::Stop } else { OnError::Continue };
        for outcome in self.applier.run(steps, on_error, files) {
            let result = match outcome.result {
                Ok(()) => Some(Ok(())),
                Err(StepError { fault: Fault::NotRun, .. }) => None,
                Err(error) => Some(Err(fault(&error, steps.get(outcome.index).map(|step| &step.key)))),
            };
            if let Some(place) = results.get_mut(outcome.index) {
                *place = result;
            }
        }
        results
    }
}

fn send(queue: &UnboundedSender<Message>, input: Input) {
    // The agent is ending where this fails, which the loop sees.
    let _ = queue.send(Message::Input(input));
}

/// A plan in parts that each take some milliseconds. Not parted: what a table of nftables is replaced with, which is one
/// transaction, links with what is made on them, and an object that is removed and made anew.
fn slices(steps: &[Step]) -> impl Iterator<Item = &[Step]> {
    let replaces = steps.iter().any(|step| step.key.kind() == Kind::NftTable);
    let may_begin = move |step: &Step| match step.key.kind() {
        Kind::IpvsService | Kind::IpvsDestination => true,
        Kind::Neighbour | Kind::Fdb | Kind::Nexthop | Kind::NexthopGroup | Kind::Route => {
            step.key.ns() == Some(&Ns::Host)
        }
        Kind::NftElement => !replaces,
        Kind::Connection => true,
        _ => false,
    };
    let least = |step: &Step| if step.key.kind() == Kind::NftElement { ELEMENTS } else { SLICE };
    let mut rest = steps;
    std::iter::from_fn(move || {
        let follows = |(place, pair): &(usize, &[Step])| {
            *place >= least(&pair[1]) && pair[0].key != pair[1].key && may_begin(&pair[1])
        };
        let behind = rest.get(SLICE - 1..).unwrap_or_default();
        let mut places = (SLICE..).zip(behind.windows(2));
        let place = places.find(follows).map_or(rest.len(), |(place, _)| place);
        let (slice, behind) = rest.split_at(place);
        rest = behind;
        (!slice.is_empty()).then_some(slice)
    })
}

fn fault(error: &StepError, key: Option<&Key>) -> StepFault {
    let cause = match &error.fault {
        Fault::Namespace(_) => FaultCause::Namespace,
        Fault::Foreign { .. } => FaultCause::Foreign,
        // Its name, or its other end's, is another's.
        Fault::Refused { errno, .. }
            if *errno == rustix::io::Errno::EXIST.raw_os_error() && key.is_some_and(|key| key.kind() == Kind::Link) =>
        {
            FaultCause::Foreign
        }
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
fn watch(
    own: Arc<OwnTraffic>,
    iptables: Iptables,
    jobs: mpsc::Sender<Job>,
    queue: UnboundedSender<Message>,
    settings: Settings,
) {
    let work = move || {
        let mut monitor = None;
        let (mut looked, mut odd, mut silent) = (Instant::now(), Vec::new(), silent_facts());
        let mut ipvs_looked = Instant::now();
        while !queue.is_closed() {
            let changed = hear(&mut monitor, &own, LOOK.saturating_sub(looked.elapsed()));
            let mut changed = changed.unwrap_or_else(|error| {
                tracing::warn!("{error}; until it can be listened to again, changes by others are found late");
                monitor = None;
                thread::sleep(DEAF);
                Changed::default()
            });
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                // What cannot be set is not asked for again and again.
                let found = settings.odd();
                if !found.is_empty() && found != odd {
                    changed.kinds.extend([Kind::Sysctl, Kind::LinkSysctl]);
                    // Some are wanted because of what was found there.
                    changed.facts = true;
                }
                odd = found;
                let found = silent_facts();
                changed.facts |= found != silent;
                changed.kinds.extend(iptables.has_legacy_changed().then_some(Kind::Iptables));
                silent = found;
            }
            if ipvs_looked.elapsed() >= IPVS_LOOK {
                ipvs_looked = Instant::now();
                if settings.is_of_ipvs() {
                    changed.kinds.extend([Kind::IpvsService, Kind::IpvsDestination]);
                }
            }
            if !tell(&jobs, changed) {
                break;
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("monitor".into()).spawn(work) {
        tracing::warn!("cannot start the monitor thread: {error}");
    }
}

/// What the host's facts speak of and the kernel tells no change of: whether bridged packets pass netfilter, which
/// tables legacy iptables has, whether there is IPVS, and whether connection tracking is full.
fn silent_facts() -> ([Option<String>; 4], [bool; 2]) {
    let texts = [
        "sys/net/bridge/bridge-nf-call-iptables",
        "sys/net/bridge/bridge-nf-call-ip6tables",
        "net/ip_tables_names",
        "net/ip6_tables_names",
    ]
    .map(|name| std::fs::read_to_string(Path::new("/proc").join(name)).ok());
    (texts, [Path::new("/proc/net/ip_vs").exists(), ripstop_kernel::is_conntrack_full()])
}

/// What changed within a time, and until it is quiet for a moment. Who listens anew has missed something.
fn hear(
    monitor: &mut Option<Monitor>,
    own: &Arc<OwnTraffic>,
    time: Duration,
) -> Result<Changed, ripstop_kernel::ObserveError> {
    let Some(monitor) = monitor else {
        *monitor = Some(Monitor::open(own.clone())?);
        return Ok(Changed::everything());
    };
    if !wait(monitor, time) {
        // A link that the other thread was at may have been put off.
        return monitor.read();
    }
    let mut changed = Changed::default();
    let until = Instant::now() + PATIENCE;
    loop {
        changed.merge(monitor.read()?);
        let left = until.saturating_duration_since(Instant::now()).min(QUIET);
        if changed.is_empty() || left.is_zero() || !wait(monitor, left) {
            return Ok(changed);
        }
    }
}

/// Asks for what changed; `false` when nobody is asked any more.
fn tell(jobs: &mpsc::Sender<Job>, mut changed: Changed) -> bool {
    if changed.kinds.contains(&Kind::Link) {
        // Programs at a link go with it, without a word.
        changed.kinds.extend([Kind::IpipProgram, Kind::IpipPeer]);
    }
    if changed.kinds.contains(&Kind::Address) {
        // Routes with an address as their source go with it, without a word.
        changed.kinds.insert(Kind::Route);
    }
    let facts = !changed.facts || jobs.send(Job::Facts).is_ok();
    facts && (changed.kinds.is_empty() || jobs.send(Job::Observe { kinds: changed.kinds }).is_ok())
}

#[cfg(test)]
mod tests {
    use ripstop_netmodel::{Nexthop, NftElement, Resource, Sysctl};
    use ripstop_nft::model::{ElementBody, ElementKey, Name, TableFamily};
    use ripstop_plan::Action;
    use ripstop_types::Owner;

    use super::*;

    fn step(object: impl Into<Object>) -> Step {
        let object = object.into();
        Step {
            action: Action::Create,
            key: object.key(),
            after: Some(Arc::new(Entry { object, owner: None })),
            before: None,
            owner: Owner::agent(),
            reason: "missing".into(),
        }
    }

    fn element(table: &'static str, n: usize) -> Step {
        let ip = std::net::Ipv4Addr::from_bits(n as u32);
        let key = ripstop_nft::model::Key::new(false, [ripstop_nft::model::Value::from(ip)]);
        let (family, table, set) = (TableFamily::Ip, Name::from(table), Name::from("s"));
        step(NftElement { key: ElementKey { family, table, set, key }, body: ElementBody::default() })
    }

    #[test]
    fn a_call_overtakes_all_but_what_policies_ask() {
        let (jobs, inbox) = mpsc::channel();
        let mut waiting = Waiting { inbox, later: VecDeque::new() };
        let send = |plan, table, stop_on_error| {
            let steps = Arc::new(Plan { steps: vec![element(table, 1)] });
            jobs.send(Job::Apply { plan, steps, stop_on_error }).unwrap();
        };
        let name = |job: Option<Job>| match job {
            Some(Job::Apply { plan, .. }) => Some(plan),
            _ => None,
        };
        send(1, "t", false);
        send(2, ripstop_netmodel::NFT_POLICY_TABLE, false);
        send(3, "t", true);
        send(4, "t", false);
        send(5, ripstop_netmodel::NFT_POLICY_TABLE, false);
        assert_eq!([(); 2].map(|()| name(waiting.next())), [Some(2), Some(3)]);
        assert_eq!(name(waiting.awaited()), Some(5));
        assert_eq!(name(waiting.awaited()), None);
        send(6, "t", true);
        assert_eq!([(); 3].map(|()| name(waiting.next())), [Some(6), Some(1), Some(4)]);
    }

    #[test]
    fn elements_of_nftables_go_in_longer_parts() {
        let element = |n: usize| element("t", n);
        let steps: Vec<Step> = (0..2 * ELEMENTS + 7).map(element).collect();
        let parts: Vec<usize> = slices(&steps).map(<[Step]>::len).collect();
        assert_eq!(parts, [ELEMENTS, ELEMENTS, 7]);
    }

    #[test]
    fn a_long_plan_is_parted_where_nothing_hangs_together() {
        let setting =
            |n: usize| step(Sysctl { ns: Ns::Host, link: None, path: format!("net/{n}").into(), value: "1".into() });
        let nexthop = |n: usize| {
            let (id, gateway) = (0x5200_0000 + n as u32, std::net::Ipv4Addr::from_bits(n as u32).into());
            step(Nexthop { id, link: "eth0".parse().unwrap(), gateway, onlink: false })
        };
        let steps: Vec<Step> = (0..SLICE + 9).map(setting).chain((0..2 * SLICE).map(nexthop)).collect();
        let parts: Vec<&[Step]> = slices(&steps).collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [SLICE + 9, SLICE, SLICE]);
        assert_eq!(parts.concat(), steps);
        assert_eq!(slices(&[]).count(), 0);
        // What is made anew goes and comes in one part.
        let anew = |n: usize| {
            let made = nexthop(n);
            [Step { action: Action::Delete, before: made.after.clone(), after: None, ..made.clone() }, made]
        };
        let steps: Vec<Step> = std::iter::once(nexthop(0)).chain((1..2 * SLICE).flat_map(anew)).collect();
        let parts: Vec<&[Step]> = slices(&steps).collect();
        assert_eq!(parts.concat(), steps);
        assert!(parts.len() > 3 && parts.iter().skip(1).all(|part| part[0].action == Action::Delete));
    }
}
