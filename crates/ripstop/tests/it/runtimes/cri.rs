//! The container runtime interface as kubelet speaks it: the messages used here, of `cri-api`'s `runtime.v1`.
//!
//! Fields that are not used are left out: a decoder passes over them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// No answer is waited for longer than kubelet would.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection to a runtime.
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    /// Connects when the runtime says it is ready, its network included.
    pub fn connect(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let begun = Instant::now();
        loop {
            let reached = runtime.block_on(endpoint.connect()).map_err(|error| format!("{error:?}"));
            let ready = reached.and_then(|channel| readiness(&runtime, &channel).map(|()| channel));
            match ready {
                Ok(channel) => return Self { runtime, channel },
                Err(why) => assert!(begun.elapsed() < LIMIT, "the runtime is not ready: {why}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask<Q, A>(&self, method: &str, question: Q) -> Result<A, String>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.runtime.block_on(ask(&self.channel, method, question))
    }

    /// Makes a pod: its namespace, its addresses, and what holds them.
    pub fn run_pod(&self, pod: &PodConfig) -> Result<String, String> {
        let question = RunPodRequest { config: Some(pod.clone()) };
        self.ask("RunPodSandbox", question).map(|answer: PodId| answer.id)
    }

    /// Ends a pod's containers and detaches it.
    pub fn stop_pod(&self, id: &str) -> Result<(), String> {
        self.ask("StopPodSandbox", PodId { id: id.into() }).map(|_: Empty| ())
    }

    /// Removes a pod.
    pub fn remove_pod(&self, id: &str) -> Result<(), String> {
        self.ask("RemovePodSandbox", PodId { id: id.into() }).map(|_: Empty| ())
    }

    /// The pods, and whether each is ready.
    pub fn pods(&self) -> Vec<(String, bool)> {
        let answer: ListPodsResponse = self.ask("ListPodSandbox", Empty {}).unwrap();
        answer.items.into_iter().map(|item| (item.id, item.state == 0)).collect()
    }

    /// A pod's addresses, as the runtime has them from the plugin.
    pub fn addresses(&self, id: &str) -> Vec<String> {
        let answer: PodStatusResponse = self.ask("PodSandboxStatus", PodId { id: id.into() }).unwrap();
        let network = answer.status.unwrap_or_default().network.unwrap_or_default();
        std::iter::once(network.ip).chain(network.more.into_iter().map(|ip| ip.ip)).collect()
    }

    /// Starts a container in a pod and returns its id.
    pub fn run(&self, pod: &str, config: &PodConfig, name: &str, image: &str, argv: &[&str]) -> String {
        let attempt = config.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let metadata = Some(ContainerMetadata { name: name.into(), attempt });
        let command = argv.iter().map(|word| (*word).to_owned()).collect();
        let container = ContainerConfig { metadata, image: Some(Image { image: image.into() }), command };
        let question =
            CreateContainerRequest { pod: pod.into(), config: Some(container), pod_config: Some(config.clone()) };
        let made: ContainerId = self.ask("CreateContainer", question).unwrap();
        let _: Empty = self.ask("StartContainer", ContainerId { id: made.id.clone() }).unwrap();
        made.id
    }

    /// Runs a command in a container and returns what it wrote.
    pub fn exec(&self, container: &str, argv: &[&str]) -> Result<String, String> {
        let command = argv.iter().map(|word| (*word).to_owned()).collect();
        let answer: ExecResponse =
            self.ask("ExecSync", ExecRequest { container: container.into(), command, timeout: 20 })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if answer.code == 0 {
            Ok(text(&answer.stdout))
        } else {
            Err(format!("{}: {}", answer.code, text(&answer.stderr)))
        }
    }
}

fn readiness(runtime: &tokio::runtime::Runtime, channel: &Channel) -> Result<(), String> {
    let answer: StatusResponse = runtime.block_on(ask(channel, "Status", Empty {}))?;
    let conditions = answer.status.unwrap_or_default().conditions;
    match conditions.iter().find(|condition| !condition.status) {
        Some(condition) => Err(format!("{}: {}", condition.kind, condition.message)),
        None if conditions.is_empty() => Err("it says nothing".into()),
        None => Ok(()),
    }
}

/// Asks once.
async fn ask<Q, A>(channel: &Channel, method: &str, question: Q) -> Result<A, String>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| error.to_string())?;
    let asked = grpc.unary(tonic::Request::new(question), path, ProstCodec::<Q, A>::default());
    let answer = tokio::time::timeout(LIMIT, asked).await.map_err(|_| format!("{method}: no answer"))?;
    answer.map(tonic::Response::into_inner).map_err(|status| format!("{method}: {}", status.message()))
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct PodId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

/// What a pod is asked to be.
#[derive(Clone, PartialEq, Message)]
pub struct PodConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodConfig>,
}

impl PodConfig {
    /// A pod of the namespace `default`, as kubelet would ask for it: `attempt` counts its sandboxes.
    pub fn new(name: &str, attempt: u32, group: &str) -> Self {
        let metadata = PodMetadata { name: name.into(), uid: name.into(), namespace: "default".into(), attempt };
        let linux = LinuxPodConfig { group: group.into() };
        Self { metadata: Some(metadata), hostname: name.into(), labels: HashMap::new(), linux: Some(linux) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPodConfig {
    #[prost(string, tag = "1")]
    group: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodsResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodItem>,
}

#[derive(Clone, PartialEq, Message)]
struct PodItem {
    #[prost(string, tag = "1")]
    id: String,
    /// 0: ready.
    #[prost(int32, tag = "3")]
    state: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct PodNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    more: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pod_config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecRequest {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    /// Seconds.
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    code: i32,
}
