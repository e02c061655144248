//! The agent's loop: one message at a time into the core, its outputs out again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use ripstop_cni_spec::wire::Response;
use ripstop_kernel::BootFiles;
use ripstop_netmodel::{HostFacts, Model};
use ripstop_objects::{AgentConfig, Notice, Proxy};
use ripstop_tables::{Input, Moment, Recording, Stamped, Start};
use ripstop_types::{Millis, NodeName};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::bgp::{self, BgpCell};
use crate::core::{Assignments, BgpPlan, Core, Level, Output, ProbePlan, reference};
use crate::kernel_thread::{self, Job, Wanted};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::snapshot_lane::Writer;
use crate::store_lane::{self, Lane, StoreCell, Ways, Write as StoreWrite};
use crate::tracking::{self, Look};
use crate::{assign, files, health, http, l2, lists, logging, prober, readiness, refused, socket};

/// So much of what the store says is acted upon at once: in its list there are thousands of records, and each would have a
/// plan of its own. Not more, so that a call waits for some milliseconds at most.
const BATCH: usize = 256;

/// A snapshot is written at most this long after a change.
const SNAPSHOT_DELAY: Duration = Duration::from_millis(500);

/// Pause before a snapshot that could not be written is tried again.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Its configuration file.
    pub config: PathBuf,
    /// Its node's name; none: as the configuration says.
    pub node: Option<NodeName>,
    /// Write every input to this file.
    pub record: Option<PathBuf>,
    /// Plan, and wait with everything until told to go on.
    pub hold: bool,
}

/// Runs an agent until it is told to stop. Everything in the kernel stays as it is then.
///
/// # Errors
/// Where it cannot start: configuration, folders, permissions, another agent.
pub fn run(options: &AgentOptions) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err(anyhow::Error::new(std::io::Error::from(std::io::ErrorKind::PermissionDenied))
            .context("the agent sets up links and routes: run it as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN as root in a container"));
    }
    let config = read_config(&options.config)?;
    logging::start(config.log);
    let node = options.node.clone().map_or_else(|| node_name(&config), Ok)?;
    let lock = files::lock(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // From here on, so that who ends it while it starts ends it as ever.
        let ends = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        Shell::start(options, config, node, &lock)?.work(ends).await
    })
}

pub(crate) fn read_config(path: &Path) -> anyhow::Result<AgentConfig> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let (config, notes) = AgentConfig::decode(&text).map_err(|faults| anyhow!("{}:\n{faults}", path.display()))?;
    for note in notes {
        eprintln!("{}: {note}", path.display());
    }
    Ok(config)
}

fn node_name(config: &AgentConfig) -> anyhow::Result<NodeName> {
    if let Some(node) = &config.node {
        return Ok(node.clone());
    }
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().to_lowercase();
    name.parse()
        .with_context(|| format!("the host's name {name:?} cannot be the node's; set node in the configuration"))
}

struct Shell {
    core: Core,
    clock: Clock,
    queue: UnboundedReceiver<Message>,
    /// What the store says, of records and of Kubernetes' own objects. Apart from the queue, so that nothing waits behind a list.
    news: Receiver<Input>,
    jobs: mpsc::Sender<Job>,
    tracking: mpsc::Sender<Look>,
    store: ToLane,
    prober: UnboundedSender<ProbePlan>,
    readiness: UnboundedSender<readiness::Order>,
    assign: UnboundedSender<Assignments>,
    health: watch::Sender<Arc<ripstop_services::health::Plan>>,
    bgp: mpsc::Sender<Option<Arc<BgpPlan>>>,
    l2: mpsc::Sender<l2::Order>,
    recording: Option<BufWriter<File>>,
    calls: BTreeMap<u64, oneshot::Sender<Response>>,
    answers: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    next_call: u64,
    reference: Model,
    snapshot: Writer,
    snapshot_at: Option<Instant>,
    metrics: Metrics,
    _lane: Lane,
}

/// What the store's lane is told.
struct ToLane {
    writes: UnboundedSender<StoreWrite>,
    notices: watch::Sender<Arc<Vec<Notice>>>,
    /// Whether Services are to be read.
    serves: watch::Sender<bool>,
    /// Whether there are policies.
    policed: watch::Sender<bool>,
}

impl ToLane {
    fn new(core: &Core, news: Sender<Input>, queue: UnboundedSender<Message>, raw: bool) -> (Self, Ways) {
        let (to_write, writes) = unbounded_channel();
        let (tell, notices) = watch::channel(Arc::default());
        let (say_serves, serves) = watch::channel(core.tables().serves());
        let (say_policed, policed) = watch::channel(false);
        let this = Self { writes: to_write, notices: tell, serves: say_serves, policed: say_policed };
        (this, Ways { writes, notices, serves, policed, news, queue, raw })
    }
}

impl Shell {
    fn start(options: &AgentOptions, config: AgentConfig, node: NodeName, lock: &files::Lock) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let (to_self, queue) = unbounded_channel();
        let boot_files = BootFiles::new(&config.run_dir);
        let at = clock.now();
        let mut start = left_behind(&config, &node, at, &boot_files, lock)?;
        // What the last run wanted, so that what it left is recognised.
        let last = start.clone();
        load_modules(&start);
        let wanted = move |facts: &HostFacts| wanted(at, Start { facts: facts.clone(), ..last });
        let (found, jobs) =
            kernel_thread::start(boot_files, files::forwarder_socket(&config), wanted, to_self.clone())?;
        let reference = found.reference;
        start.facts = found.facts;
        start.observed = found.observed;
        start.held = options.hold;
        let host = host(&start);
        let recording = open_recording(options, at, &start)?;
        let (core, outputs) = Core::start(at, start);
        let store = StoreCell::default();
        let (to_news, news) = channel(BATCH);
        let bgp = BgpCell::default();
        let to_bgp = bgp::start(bgp.clone(), to_news.clone(), store.clone())?;
        let (to_lane, ways) = ToLane::new(&core, to_news, to_self.clone(), recording.is_some());
        let lane = Lane::start(config.store.clone(), host, ways, store.clone())?;
        let tracking = tracking::start(to_self.clone())?;
        let plugins = socket::listen(&config.run_dir.join("cni.sock"))?;
        tokio::spawn(socket::serve_plugins(plugins, to_self.clone()));
        let prober = prober::start(config.probing, to_self.clone());
        let readiness = readiness::start(to_self.clone());
        let assign = assign::start(store.clone());
        lists::watch(config.cni_conf_dir.clone(), to_self.clone());
        refused::watch(to_self.clone());
        let health = answer_health(health::Listen::of(&config.services), to_self.clone());
        http::start(&config, to_self.clone(), store, bgp)?;
        tracing::info!("agent {} of node {node} is up", env!("CARGO_PKG_VERSION"));
        let mut shell = Self {
            core,
            clock,
            queue,
            news,
            jobs,
            tracking,
            store: to_lane,
            prober,
            readiness,
            assign,
            health,
            bgp: to_bgp,
            l2: l2::start(node, files::next_run(&config), to_self.clone())?,
            recording,
            calls: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_call: 1,
            reference,
            snapshot: Writer::start(config, to_self)?,
            snapshot_at: None,
            metrics: Metrics::default(),
            _lane: lane,
        };
        shell.carry_out(outputs);
        Ok(shell)
    }

    async fn work(mut self, [mut terminate, mut interrupt]: [Signal; 2]) -> anyhow::Result<ExitCode> {
        let mut news = Vec::with_capacity(BATCH);
        loop {
            let tick = self.clock.at(self.core.next_tick());
            let wake = self.snapshot_at.map_or(tick, |snapshot| snapshot.min(tick));
            tokio::select! {
                _ = self.news.recv_many(&mut news, BATCH), if !self.news.is_closed() => self.hear(&mut news),
                message = self.queue.recv() => match message {
                    Some(message) => self.take(message),
                    None => return Err(anyhow!("the agent's queue ended")),
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    if Instant::now() >= tick {
                        self.feed(Input::Tick);
                    }
                }
                _ = terminate.recv() => return self.stop(ExitCode::SUCCESS),
                _ = interrupt.recv() => return self.stop(ExitCode::from(130)),
            }
            self.save_if_due();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.feed(input),
            Message::Cni { request, answer } => {
                let call = self.next_call();
                self.calls.insert(call, answer);
                self.feed(Input::Cni { call, request });
            }
            Message::Operate { input, answer } => {
                let call = self.next_call();
                self.answers.insert(call, answer);
                self.feed(input(call));
            }
            Message::Ask(question) => question(&self.core, &self.metrics),
            Message::Unsaved => self.snapshot_at = Some(Instant::now() + SNAPSHOT_RETRY),
        }
    }

    fn next_call(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call
    }

    /// Takes in what the store has said, and acts upon it once.
    fn hear(&mut self, news: &mut Vec<Input>) {
        let at = self.clock.now();
        let mut left = news.len();
        for input in news.drain(..) {
            left -= 1;
            self.take_in(at, input, left > 0);
        }
        let outputs = self.core.conclude();
        self.carry_out(outputs);
    }

    fn feed(&mut self, input: Input) {
        self.take_in(self.clock.now(), input, false);
        let outputs = self.core.conclude();
        self.carry_out(outputs);
    }

    /// Hands an input to the core; whether `more` come before it is asked what to do.
    fn take_in(&mut self, at: Moment, input: Input, more: bool) {
        self.metrics.count_input(input.name());
        if let Some(out) = &mut self.recording
            && let Err(error) = record(out, at, input.clone(), more)
        {
            tracing::warn!("the recording ends here: {error}");
            self.recording = None;
        }
        self.core.take_in(at, input);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        // Before the plan that makes it so: what is read from then on is recognised.
        self.keep_reference();
        for output in outputs {
            match output {
                Output::Apply { plan, steps, stop_on_error } => {
                    self.metrics.count_steps("kernel", &steps);
                    self.job(Job::Apply { plan, steps, stop_on_error });
                }
                Output::Store { plan, steps } => {
                    self.metrics.count_steps("store", &steps);
                    // The lane ends only with the agent.
                    let _ = self.store.writes.send(StoreWrite { plan, steps });
                }
                Output::Inspect { call, keys } => self.job(Job::Inspect { call, keys }),
                Output::Observe { kinds } => self.job(Job::Observe { kinds }),
                // The thread ends only with the agent.
                Output::Track { look, from, to } => drop(self.tracking.send(Look { look, from, to })),
                Output::Reply { call, response } => {
                    self.metrics.count_reply(response.error.is_none());
                    if let Some(answer) = self.calls.remove(&call) {
                        // A plugin that was killed does not wait for its answer.
                        let _ = answer.send(response);
                    }
                }
                Output::Answer { call, result } => {
                    if let Some(answer) = self.answers.remove(&call) {
                        let _ = answer.send(result);
                    }
                }
                Output::Save { generation } => self.snapshot.save(self.core.snapshot(), Some(generation)),
                Output::Forget => self.snapshot.forget(),
                // The prober ends only with the agent.
                Output::Probe(plan) => drop(self.prober.send(*plan)),
                // So does this one.
                Output::Readiness(order) => drop(self.readiness.send(order)),
                // And this one.
                Output::Assign(order) => drop(self.assign.send(*order)),
                // Who is slow sees the last of them.
                Output::Notices(notices) => drop(self.store.notices.send_replace(notices)),
                Output::Health(plan) => drop(self.health.send_replace(plan)),
                // The lane ends only with the agent.
                Output::Announce(plans) => drop(self.l2.send(l2::Order::Plans(plans))),
                Output::Bgp(plan) => drop(self.bgp.send(plan)),
                Output::Log { level, text } => match level {
                    Level::Warn => tracing::warn!("{text}"),
                    Level::Info => tracing::info!("{text}"),
                    Level::Debug => tracing::debug!("{text}"),
                },
            }
        }
        let cluster = &self.core.tables().cluster;
        // Beside another proxy they are read for the addresses that they get here.
        let are_served = self.core.tables().serves() || !cluster.pools.is_empty();
        self.store.serves.send_if_modified(|known| are_served && !std::mem::replace(known, true));
        // Reflectors are known by nodes' labels.
        let is_policed = !cluster.policies.is_empty() || cluster.bgp.configuration().reflectors.is_some();
        self.store.policed.send_if_modified(|known| is_policed && !std::mem::replace(known, true));
        if self.core.snapshot_changed() && self.snapshot_at.is_none() {
            self.snapshot_at = Some(Instant::now() + SNAPSHOT_DELAY);
        }
    }

    fn job(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::warn!("the kernel thread has ended; restart the agent");
        }
    }

    /// The kernel thread recognises what it reads by what is wanted.
    fn keep_reference(&mut self) {
        if !self.core.reference_changed() {
            return;
        }
        let wanted = reference(self.core.desired());
        if wanted != self.reference {
            self.reference = wanted.clone();
            self.job(Job::Reference(wanted));
        }
    }

    fn save_if_due(&mut self) {
        if self.snapshot_at.is_some_and(|at| Instant::now() >= at) {
            self.snapshot_at = None;
            self.snapshot.save(self.core.snapshot(), None);
        }
    }

    fn stop(mut self, code: ExitCode) -> anyhow::Result<ExitCode> {
        l2::leave(&self.l2);
        self.snapshot.save(self.core.snapshot(), None);
        self.snapshot.finish();
        if let Some(out) = &mut self.recording {
            out.flush()?;
        }
        tracing::info!("the agent stops; pods go on");
        Ok(code)
    }
}

/// Starts the lane that answers health checks; it says what it cannot do whenever that is news.
fn answer_health(
    listen: health::Listen,
    queue: UnboundedSender<Message>,
) -> watch::Sender<Arc<ripstop_services::health::Plan>> {
    let (plans, told) = watch::channel(Arc::default());
    let mut last = health::Faults::new();
    let settled = move |faults: &health::Faults| {
        if last != *faults {
            last.clone_from(faults);
            // Nobody listens any more where this fails.
            let _ = queue.send(Message::Input(Input::Unheard { faults: last.clone() }));
        }
    };
    tokio::spawn(async move { health::serve(&listen, told, settled).await });
    plans
}

/// What the last run and the machine left, as far as files tell: a start without its view of the kernel.
fn left_behind(
    config: &AgentConfig,
    node: &NodeName,
    at: Moment,
    boot_files: &BootFiles,
    lock: &files::Lock,
) -> anyhow::Result<Start> {
    let identity = files::identity(config)?;
    let pods = files::pods(boot_files, &config.run_dir, lock);
    let (snapshot, problem) = files::snapshot(config, node);
    for problem in pods.problems.into_iter().chain(problem) {
        tracing::warn!("{problem}");
    }
    Ok(Start {
        config: config.clone(),
        node: node.clone(),
        identity,
        run: at.wall.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        facts: HostFacts::default(),
        observed: Vec::new(),
        pods: pods.rows,
        lost: pods.lost,
        preferred: files::flannel_subnets(),
        snapshot,
        held: true,
    })
}

/// Has the kernel load what the proxy of Services needs. Whether it is there then is a fact of the host.
fn load_modules(start: &Start) {
    let chosen = start.snapshot.as_ref().and_then(|snapshot| snapshot.proxies.chosen);
    if chosen.unwrap_or(start.config.services.proxy) == Proxy::Ipvs {
        ripstop_kernel::load_ipvs();
    }
}

/// Who this is to stores that are shared with others.
fn host(start: &Start) -> store_lane::Host {
    store_lane::Host {
        node: start.node.clone(),
        machine: start.identity.machine_id.clone(),
        addresses: start.facts.links.values().flat_map(|link| &link.addresses).map(|(ip, _)| *ip).collect(),
    }
}

/// What of the kernel has to be known to an agent that starts like this.
fn wanted(at: Moment, start: Start) -> Wanted {
    let (core, _) = Core::start(at, start);
    Wanted { reference: reference(core.desired()), pods: core.pod_keys() }
}

/// The file that inputs are written to, with the first in it.
fn open_recording(options: &AgentOptions, at: Moment, start: &Start) -> anyhow::Result<Option<BufWriter<File>>> {
    let Some(path) = &options.record else { return Ok(None) };
    let file = File::create(path).with_context(|| format!("--record: cannot write {}", path.display()))?;
    let mut out = BufWriter::new(file);
    record(&mut out, at, Input::Start(Box::new(start.clone())), false)?;
    Ok(Some(out))
}

fn record(out: &mut BufWriter<File>, at: Moment, input: Input, more: bool) -> anyhow::Result<()> {
    Recording::write(out, &Stamped { at, input, more })?;
    if !more {
        out.flush()?;
    }
    Ok(())
}

/// Monotonic time for decisions, wall time for people.
struct Clock {
    begin: Instant,
    base: u64,
}

impl Clock {
    fn start() -> Self {
        // A base above zero, so that "long ago" can be said.
        Self { begin: Instant::now(), base: 1_000_000 }
    }

    fn now(&self) -> Moment {
        let passed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment {
            now: Millis(self.base.saturating_add(passed)),
            wall: Millis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn at(&self, moment: Millis) -> Instant {
        self.begin + Duration::from_millis(moment.0.saturating_sub(self.base))
    }
}
