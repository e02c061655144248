//! The agent's side of the store: opens it, hands its events in, and writes what plans say.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use ripstop_netmodel::{Key, Object, Record as ModelRecord, RecordGuard, RecordScope};
use ripstop_objects::{EtcdConfig, KubernetesConfig, Notice, ObjectKind, StoreConfig};
use ripstop_plan::{Action, Plan, Step};
use ripstop_store::{
    Access, Embedded, Etcd, EtcdOptions, EtcdTls, EtcdUser, Event, Expect, FlannelOptions, Kind, Kubernetes,
    KubernetesOptions, ObjectEvent, Record, Remote, Store, StoreError, Text, Wants,
};
use ripstop_tables::{Input, ObjectInput, StoreInput, StoreResult, StoreValue};
use ripstop_types::{NodeName, Revision};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::message::Message;

/// Pause between two tries to open a store that cannot be opened.
const RETRY: Duration = Duration::from_secs(1);

/// Signs of life come all the time in a large cluster, and none is urgent: they are handed in together, this late at most.
/// What the store says beside takes them along.
const SIGNS: Duration = Duration::from_millis(200);

/// A plan for the store.
pub struct Write {
    /// Its number.
    pub plan: u64,
    /// Its steps.
    pub steps: Arc<Plan>,
}

/// Who this is, for stores that are shared with others than agents of ours.
pub struct Host {
    /// This node.
    pub node: NodeName,
    /// Its machine.
    pub machine: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What comes and where it goes.
pub struct Ways {
    /// Plans for the store.
    pub writes: UnboundedReceiver<Write>,
    /// What people are told on objects of Kubernetes.
    pub notices: watch::Receiver<Arc<Vec<Notice>>>,
    /// Whether Services are to be read, or were in this run.
    pub serves: watch::Receiver<bool>,
    /// Whether there are policies, or were in this run.
    pub policed: watch::Receiver<bool>,
    /// For what the store says.
    pub news: Sender<Input>,
    /// For what became of the plans.
    pub queue: UnboundedSender<Message>,
    /// Hand records in as they came, for a recording.
    pub raw: bool,
}

/// The lane's thread: reading a list of thousands of records keeps nothing else waiting there. Dropped, it ends, and the
/// store is closed; what is under way is not waited for.
pub struct Lane {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub fn start(config: StoreConfig, host: Host, ways: Ways, ready: StoreCell) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = run(config, host, ways, ready) => {}
                    // Its end is the sign.
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("store".into()).spawn(work).context("cannot start a thread")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic in it was reported where it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Opens the store as often as it takes, then watches it and runs writes in order.
async fn run(config: StoreConfig, host: Host, ways: Ways, ready: StoreCell) {
    let Ways { mut writes, notices, serves, policed, news, queue, raw } = ways;
    let mut told = false;
    let store = loop {
        match open(&config, &host, &notices) {
            Ok((store, cluster)) => {
                if let Some(cluster) = cluster {
                    tokio::spawn(hear_objects(cluster, serves.clone(), policed.clone(), news.clone(), queue.clone()));
                }
                break store;
            }
            Err(error) => {
                if !told {
                    told = true;
                    send(&news, StoreInput::Away { reason: error.to_string() }).await;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            Some(write) = writes.recv() => refuse(&queue, &write, "the store is not open"),
        }
    };
    if told {
        send(&news, StoreInput::Back).await;
    }
    tracing::info!("store: {}", store.name());
    ready.set(store.clone());
    let in_kubernetes = matches!(config, StoreConfig::Kubernetes(_));
    let objects = Kind::OBJECTS.into_iter().chain([Kind::PodAddresses]).filter(|_| !in_kubernetes);
    let kinds: Vec<Kind> = Kind::ALL.into_iter().chain(objects).collect();
    tokio::spawn(hand_in(store.watch_texts(&kinds), news, raw, SIGNS));
    while let Some(write) = writes.recv().await {
        let mut results = Vec::with_capacity(write.steps.steps.len());
        for step in &write.steps.steps {
            results.push(write_step(store.as_ref(), step).await);
        }
        if queue.send(Message::Input(Input::Stored { plan: write.plan, results })).is_err() {
            break;
        }
    }
}

/// The store, once it is open.
#[derive(Clone, Default)]
pub struct StoreCell(Arc<std::sync::OnceLock<Arc<dyn Store>>>);

impl StoreCell {
    fn set(&self, store: Arc<dyn Store>) {
        // Set once, by the only task that opens it.
        let _ = self.0.set(store);
    }

    /// The store, if it is open.
    pub fn get(&self) -> Option<Arc<dyn Store>> {
        self.0.get().cloned()
    }
}

/// The store, and where it is Kubernetes what that says besides records.
type Opened = (Arc<dyn Store>, Option<Cluster>);

struct Cluster {
    store: Arc<Kubernetes>,
    node: NodeName,
    /// Whether every node is a peer by what it says of itself.
    peers: bool,
    /// Why no Event can be written, or that they can.
    told: Receiver<Option<String>>,
}

fn open(config: &StoreConfig, host: &Host, notices: &watch::Receiver<Arc<Vec<Notice>>>) -> Result<Opened, StoreError> {
    if let StoreConfig::Kubernetes(kubernetes) = config {
        let store = Arc::new(Kubernetes::lazy(kubernetes_options(kubernetes)));
        let (node, peers) = (host.node.clone(), kubernetes.flannel.is_some());
        let cluster = Cluster { told: store.tell(&node, notices.clone()), store: store.clone(), node, peers };
        return Ok((store, Some(cluster)));
    }
    let store: Arc<dyn Store> = match config {
        StoreConfig::Embedded { path } => Arc::new(Embedded::open(path)?),
        StoreConfig::EmbeddedSocket { socket } => Arc::new(Remote::lazy(socket)?),
        StoreConfig::Etcd(etcd) => Arc::new(Etcd::lazy(etcd_options(etcd, host))?),
        StoreConfig::Kubernetes(kubernetes) => Arc::new(Kubernetes::lazy(kubernetes_options(kubernetes))),
    };
    Ok((store, None))
}

fn kubernetes_options(config: &KubernetesConfig) -> KubernetesOptions {
    let access = config.kubeconfig.clone().map_or(Access::InCluster, Access::Kubeconfig);
    KubernetesOptions {
        namespace: config.namespace.clone(),
        timeout: Duration::from_millis(config.timeout),
        judge: Some(StoreValue::judge),
        ..KubernetesOptions::new(access)
    }
}

/// Hands what Kubernetes says of its objects to the core, many at once, and whether notices can be written. Services are asked for from
/// the moment on in which the node serves them or a pool has addresses for them, other nodes and their pods once there is a policy: then
/// everything is listed anew.
async fn hear_objects(
    cluster: Cluster,
    mut serves: watch::Receiver<bool>,
    mut policed: watch::Receiver<bool>,
    news: Sender<Input>,
    queue: UnboundedSender<Message>,
) {
    tokio::spawn(hear_told(cluster.told, queue));
    let mut wants =
        Wants { services: *serves.borrow_and_update(), peer_pods: *policed.borrow_and_update(), nodes: cluster.peers };
    wants.nodes |= wants.peer_pods;
    let mut objects = cluster.store.objects(&cluster.node, wants);
    let mut heard = Vec::new();
    loop {
        let over = tokio::select! {
            count = objects.recv_many(&mut heard, news.max_capacity()) => count == 0,
            more = more_wanted(wants, &mut serves, &mut policed) => {
                wants = more;
                objects = cluster.store.objects(&cluster.node, wants);
                // The first list of a stream begins without a word, and it does not know that the server was away.
                heard.extend(ObjectKind::ALL.map(ObjectEvent::Reset).into_iter().chain([ObjectEvent::Back]));
                false
            }
        };
        if over || !hand_on(&mut heard, &news).await {
            return;
        }
    }
}

/// Waits until more is wanted than this.
async fn more_wanted(wants: Wants, serves: &mut watch::Receiver<bool>, policed: &mut watch::Receiver<bool>) -> Wants {
    tokio::select! {
        () = turns(serves), if !wants.services => Wants { services: true, ..wants },
        () = turns(policed), if !wants.peer_pods => Wants { peer_pods: true, nodes: true, ..wants },
        else => std::future::pending().await,
    }
}

/// Waits until it is so; where nobody says so any more, for ever.
async fn turns(so: &mut watch::Receiver<bool>) {
    if so.wait_for(|so| *so).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Hands on what was heard of objects, at once; whether anybody still wants it.
async fn hand_on(heard: &mut Vec<ObjectEvent>, news: &Sender<Input>) -> bool {
    let Ok(places) = news.reserve_many(heard.len()).await else { return false };
    places.zip(heard.drain(..)).for_each(|(place, event)| place.send(Input::Object(object_input(event))));
    true
}

/// What an event of an object is to the core.
fn object_input(event: ObjectEvent) -> ObjectInput {
    match event {
        ObjectEvent::Put(object, revision) => ObjectInput::Put { object, revision },
        ObjectEvent::Faulty(kind, name, fault) => ObjectInput::Faulty { kind, name, fault },
        ObjectEvent::Delete(kind, name, revision) => ObjectInput::Delete { kind, name, revision },
        ObjectEvent::Reset(kind) => ObjectInput::Reset { kind },
        ObjectEvent::Synced(kind, revision) => ObjectInput::Synced { kind, revision },
        ObjectEvent::Away(reason) => ObjectInput::Away { reason },
        ObjectEvent::Back => ObjectInput::Back,
    }
}

/// Hands in whether notices can be written.
async fn hear_told(mut told: Receiver<Option<String>>, queue: UnboundedSender<Message>) {
    while let Some(fault) = told.recv().await {
        if queue.send(Message::Input(Input::Noticed { fault })).is_err() {
            return;
        }
    }
}

fn etcd_options(config: &EtcdConfig, host: &Host) -> EtcdOptions {
    let password = |name: &String| Some(EtcdUser { name: name.clone(), password_file: config.password_file.clone()? });
    EtcdOptions {
        endpoints: config.endpoints.clone(),
        prefix: config.prefix.clone(),
        tls: EtcdTls {
            ca: config.tls.ca.clone(),
            cert: config.tls.cert.clone(),
            key: config.tls.key.clone(),
            server_name: config.tls.server_name.clone(),
        },
        user: config.user.as_ref().and_then(password),
        timeout: Duration::from_millis(config.timeout),
        flannel: config.flannel.as_ref().map(|flannel| FlannelOptions {
            prefix: flannel.prefix.clone(),
            network: flannel.network.clone(),
            node: host.node.clone(),
            machine: host.machine.clone(),
            addresses: host.addresses.clone(),
        }),
    }
}

/// Hands in what the store says, many at once: who takes them in wakes once for all of them. Only signs of life wait for
/// others.
async fn hand_in(mut events: Receiver<Event<Text>>, news: Sender<Input>, raw: bool, wait: Duration) {
    let (mut heard, mut read) = (Vec::new(), Vec::new());
    let mut due: Option<Instant> = None;
    loop {
        let most = news.max_capacity() - read.len();
        let over = tokio::select! {
            count = events.recv_many(&mut heard, most) => count == 0,
            () = until(due) => false,
        };
        let from = read.len();
        read.extend(heard.drain(..).map(|event| input(event, raw)));
        let now = Instant::now();
        let may_wait = read[from..].iter().all(is_sign) && read.len() < news.max_capacity() && !over;
        if may_wait && !read.is_empty() && due.is_none_or(|due| now < due) {
            due.get_or_insert(now + wait);
            continue;
        }
        due = None;
        // The agent is ending where this fails.
        let Ok(places) = news.reserve_many(read.len()).await else { return };
        places.zip(read.drain(..)).for_each(|(place, input)| place.send(Input::Store(input)));
        if over {
            return;
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn is_sign(input: &StoreInput) -> bool {
    matches!(input, StoreInput::Put { kind: Kind::Alive, .. })
}

async fn send(news: &Sender<Input>, input: StoreInput) {
    // The agent is ending where this fails.
    let _ = news.send(Input::Store(input)).await;
}

fn refuse(queue: &UnboundedSender<Message>, write: &Write, why: &str) {
    let results = write.steps.steps.iter().map(|_| StoreResult::Failed(why.into())).collect();
    let _ = queue.send(Message::Input(Input::Stored { plan: write.plan, results }));
}

/// What an event is to the core. Records are read here: the core has enough to do with what they say.
fn input(event: Event<Text>, raw: bool) -> StoreInput {
    match event {
        Event::Put(Record { kind, key, value, revision }) => {
            let text = value.get();
            let value = if raw { StoreValue::unread(text) } else { StoreValue::read(kind, &key, text) };
            StoreInput::Put { kind, key: key.into(), value, revision }
        }
        Event::Delete { kind, key, revision } => StoreInput::Delete { kind, key: key.into(), revision },
        Event::Synced { kind, revision } => StoreInput::Synced { kind, revision },
        Event::Reset { kind } => StoreInput::Reset { kind },
        Event::Away { reason } => StoreInput::Away { reason },
        Event::Back => StoreInput::Back,
    }
}

async fn write_step(store: &dyn Store, step: &Step) -> StoreResult {
    let Key::Record { scope: RecordScope::Cluster(scope), key } = &step.key else {
        return StoreResult::Failed(format!("{} is not a record of the store", step.key));
    };
    let Ok(kind) = Kind::parse(scope) else {
        return StoreResult::Failed(format!("{scope} is not a kind of record"));
    };
    let record = match (step.action, &step.after, &step.before) {
        (Action::Delete, _, Some(entry)) | (_, Some(entry), _) => &entry.object,
        _ => return StoreResult::Failed("the step has no record".into()),
    };
    let Object::Record(ModelRecord { value, guard, .. }) = record else {
        return StoreResult::Failed("the step's object is not a record".into());
    };
    let expect = match guard {
        RecordGuard::Absent => Expect::Absent,
        RecordGuard::Revision(revision) => Expect::Revision(Revision(*revision)),
        RecordGuard::Any => Expect::Any,
    };
    let result = if step.action == Action::Delete {
        store.delete_if(kind, key, expect).await.map(Option::unwrap_or_default)
    } else {
        match serde_json::from_str(value) {
            Ok(value) => store.put_if(kind, key, &value, expect).await,
            Err(error) => return StoreResult::Failed(format!("the record's value is not JSON: {error}")),
        }
    };
    match result {
        Ok(revision) => StoreResult::Done(revision),
        Err(StoreError::Conflict { current, .. }) => {
            StoreResult::Conflict(current.map(|record| (record.value.clone(), record.revision)))
        }
        Err(error) => StoreResult::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(node: &str, revision: u64) -> Event<Text> {
        let value = serde_json::json!({ "node": node, "sequence": revision, "bootId": "b" });
        let value = serde_json::value::to_raw_value(&value).unwrap();
        Event::Put(Record { kind: Kind::Alive, key: node.into(), value, revision: Revision(revision) })
    }

    #[tokio::test]
    async fn signs_of_life_wait_for_others_and_hold_up_nothing() {
        let (events, hear) = tokio::sync::mpsc::channel(16);
        let (to_news, mut news) = tokio::sync::mpsc::channel(4);
        let (wait, mut heard) = (Duration::from_millis(50), Vec::new());
        let task = tokio::spawn(hand_in(hear, to_news, false, wait));
        let begun = Instant::now();
        events.send(sign("n1", 1)).await.unwrap();
        assert_eq!(news.recv_many(&mut heard, 16).await, 1);
        assert!(begun.elapsed() >= wait);
        task.abort();

        // Those that would wait for hours.
        let (events, hear) = tokio::sync::mpsc::channel(16);
        let (to_news, mut news) = tokio::sync::mpsc::channel(4);
        tokio::spawn(hand_in(hear, to_news, false, Duration::from_secs(10_000)));
        // What is no sign of life goes at once, and in its turn.
        events.send(sign("n1", 3)).await.unwrap();
        tokio::task::yield_now().await;
        events.send(Event::Away { reason: "it rains".into() }).await.unwrap();
        heard.clear();
        assert_eq!(news.recv_many(&mut heard, 16).await, 2);
        let Input::Store(first) = &heard[0] else { panic!("{heard:?}") };
        assert!(is_sign(first) && matches!(heard[1], Input::Store(StoreInput::Away { .. })), "{heard:?}");
        // As many as may wait are enough.
        for revision in 4..8 {
            events.send(sign("n1", revision)).await.unwrap();
        }
        heard.clear();
        assert_eq!(news.recv_many(&mut heard, 16).await, 4);
        // Nothing is lost at the end.
        events.send(sign("n1", 8)).await.unwrap();
        drop(events);
        heard.clear();
        assert_eq!(news.recv_many(&mut heard, 16).await, 1);
        assert!(news.recv().await.is_none());
    }

    #[tokio::test]
    async fn objects_come_many_at_once_and_in_their_order() {
        let (to_news, mut news) = tokio::sync::mpsc::channel(16);
        let gone = |revision| ObjectEvent::Delete(ObjectKind::Service, "default/s".into(), Revision(revision));
        let (mut events, mut heard): (Vec<ObjectEvent>, _) = ((0..16).map(gone).collect(), Vec::new());
        assert!(hand_on(&mut events, &to_news).await && events.is_empty());
        assert_eq!(news.recv_many(&mut heard, 16).await, 16);
        let revisions = heard.iter().filter_map(|input| match input {
            Input::Object(ObjectInput::Delete { revision, .. }) => Some(revision.0),
            _ => None,
        });
        assert!(revisions.eq(0..16));
        drop(news);
        events.push(gone(16));
        assert!(!hand_on(&mut events, &to_news).await);
    }
}
