//! Everything that can enter an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_cni_spec::wire::Request;
use ripstop_netmodel::{Connection, Entry, HostFacts, Kind, Refused};
use ripstop_objects::{AgentConfig, NodeIdentity, Proxy};
use ripstop_probe::Report;
use ripstop_types::{IfName, Mac, Millis, NodeName, PodName, Prefix, Revision, StoreKind};
use serde::{Deserialize, Serialize};

use crate::{BgpInput, ObjectInput, PodRow, Snapshot, StoreValue};

/// One message from outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// The agent starts with this. Always the first, and only once.
    Start(Box<Start>),
    /// The store said something.
    Store(StoreInput),
    /// Kubernetes said something of its own objects.
    Object(ObjectInput),
    /// What the host is given has changed.
    Facts(HostFacts),
    /// Everything of ours of these kinds in the host's namespace, as it stands.
    Observed {
        /// The kinds that were read, whole.
        kinds: BTreeSet<Kind>,
        /// What was found.
        entries: Vec<Entry>,
    },
    /// The answer to a question for some keys, asked on behalf of a CNI call.
    Inspected {
        /// The call.
        call: u64,
        /// What was found, or why the look failed.
        found: Result<Vec<Entry>, String>,
    },
    /// A runtime's request.
    Cni {
        /// Number of the call in this process.
        call: u64,
        /// What it asks.
        request: Request,
    },
    /// A plan for the kernel and this node's files has run.
    Applied {
        /// The plan's number.
        plan: u64,
        /// One result a step, in the plan's order; a step that was not reached has none.
        results: Vec<Option<Result<(), StepFault>>>,
    },
    /// A plan for the store has run.
    Stored {
        /// The plan's number.
        plan: u64,
        /// One result a step, in the plan's order.
        results: Vec<StoreResult>,
    },
    /// The snapshot was written.
    Saved {
        /// The number the writing was asked for with.
        generation: u64,
    },
    /// What is held back may run.
    Resume,
    /// An operator asks to give a range back.
    Release {
        /// Number of the call in this process.
        call: u64,
        /// Key of the claim.
        claim: Arc<str>,
    },
    /// An operator says that a node is gone for good.
    DeleteNode {
        /// Number of the call in this process.
        call: u64,
        /// The node.
        node: NodeName,
    },
    /// An operator asks to take out of the kernel what is of ours.
    Withdraw {
        /// Number of the call in this process.
        call: u64,
        /// What goes.
        what: Withdrawn,
        /// Give this node's ranges back too, and remove its records from the store.
        release: bool,
    },
    /// An operator has Services served by another proxy.
    SwitchProxy {
        /// Number of the call in this process.
        call: u64,
        /// By which.
        proxy: Proxy,
    },
    /// Tracked connections, as they were asked for.
    Tracked {
        /// The number of the question.
        look: u64,
        /// What was found, or why the look failed.
        found: Result<Tracking, String>,
    },
    /// The prober said something.
    Probe(ProbeInput),
    /// What network configurations the container runtime finds now.
    Lists {
        /// In the order in which it takes them: the first is that of new pods.
        lists: Vec<NetworkList>,
    },
    /// Where health checks cannot be listened for now.
    Unheard {
        /// Why, by address.
        faults: BTreeMap<SocketAddr, String>,
    },
    /// What became of writing notices.
    Noticed {
        /// Why none can be written; none: they can.
        fault: Option<String>,
    },
    /// Policies have refused packets.
    Refused(Refused),
    /// The speaker of BGP said something.
    Bgp(BgpInput),
    /// Who answers on segments for addresses of Services.
    Announced(Announced),
    /// Time has passed.
    Tick,
}

/// Connections, as they were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Without their pods' namespaces.
    pub connections: Vec<Connection>,
    /// The addresses of this node itself.
    pub own: BTreeSet<IpAddr>,
}

/// Who answers on segments for addresses of Services, all that is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Each address.
    pub rows: Vec<AnnouncedRow>,
    /// Why some are not answered for here.
    pub faults: Vec<String>,
}

/// One address on one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedRow {
    /// This node's link on the segment.
    pub link: IfName,
    /// The address.
    pub address: IpAddr,
    /// Whether this node answers for it.
    pub speaks: bool,
    /// The node that should, as this one sees it.
    pub owner: Option<NodeName>,
    /// A machine that is no node has it.
    pub conflict: Option<Mac>,
}

/// A network configuration in the container runtime's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkList {
    /// The name of its file.
    pub file: Arc<str>,
    /// Whether it names our plugin.
    pub ours: bool,
}

/// What the prober says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeInput {
    /// This node answers probes.
    Open {
        /// The UDP port.
        port: u16,
    },
    /// It cannot.
    Closed {
        /// Why.
        why: String,
    },
    /// A pod's probes succeed, or do so no more.
    Ready {
        /// The pod.
        pod: PodName,
        /// The order that it answers.
        order: u64,
        /// Whether they succeed.
        ready: bool,
    },
    /// Something was found out.
    Found {
        /// What.
        reports: Vec<Report>,
    },
}

/// How much of ours is taken out of the kernel, for good: only another start of the agent puts it back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withdrawn {
    /// Nothing.
    #[default]
    Nothing,
    /// What stands in tables of others.
    Jumps,
    /// Everything; the node's pods lose their network.
    Everything,
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFault {
    /// A sentence with the object and the likely cause.
    pub text: String,
    /// What is at fault, as far as an answer to a runtime depends on it.
    pub cause: FaultCause,
}

/// Kinds of cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCause {
    /// The pod's namespace: not there, or not one.
    Namespace,
    /// Something of another owner is in the way.
    Foreign,
    /// The agent lacks a permission.
    Permission,
    /// Anything else.
    Other,
}

/// How a conditional write or removal in the store ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreResult {
    /// Done, at this revision.
    Done(Revision),
    /// The condition did not hold; the record as it is, if there is one.
    Conflict(Option<(serde_json::Value, Revision)>),
    /// Not known whether it happened, or refused; the sentence says which.
    Failed(String),
}

/// What an agent finds when it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Its configuration.
    pub config: AgentConfig,
    /// The node's name.
    pub node: NodeName,
    /// Which machine and boot this is.
    pub identity: NodeIdentity,
    /// Different in every start of the agent within a boot.
    pub run: u64,
    /// The agent's version.
    pub version: String,
    /// What the host is given.
    pub facts: HostFacts,
    /// Everything of ours in the kernel.
    pub observed: Vec<Entry>,
    /// The pods' files of this boot.
    pub pods: Vec<PodRow>,
    /// Names of pods' files that cannot be read.
    #[serde(default)]
    pub lost: Vec<Arc<str>>,
    /// Ranges this node would rather have than others: those another program gave its pods before.
    #[serde(default)]
    pub preferred: Vec<Prefix>,
    /// What the last run left, if it left something.
    pub snapshot: Option<Snapshot>,
    /// Whether everything is planned and nothing done until [`Input::Resume`].
    #[serde(default)]
    pub held: bool,
}

/// What the store says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreInput {
    /// A record is there, or has changed.
    Put {
        /// Its kind.
        kind: StoreKind,
        /// Its key.
        key: Arc<str>,
        /// Its value.
        value: StoreValue,
        /// Its revision.
        revision: Revision,
    },
    /// A record is gone.
    Delete {
        /// Its kind.
        kind: StoreKind,
        /// Its key.
        key: Arc<str>,
        /// The revision of the removal.
        revision: Revision,
    },
    /// A full list of this kind begins: what it does not name is gone.
    Reset {
        /// The kind.
        kind: StoreKind,
    },
    /// The list of this kind is complete.
    Synced {
        /// The kind.
        kind: StoreKind,
        /// The revision as of which it is.
        revision: Revision,
    },
    /// The store cannot be reached.
    Away {
        /// Why.
        reason: String,
    },
    /// The store is back.
    Back,
}

impl Input {
    /// The input's name in a recording.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Store(_) => "store",
            Self::Object(_) => "object",
            Self::Facts(_) => "facts",
            Self::Observed { .. } => "observed",
            Self::Inspected { .. } => "inspected",
            Self::Cni { .. } => "cni",
            Self::Applied { .. } => "applied",
            Self::Stored { .. } => "stored",
            Self::Saved { .. } => "saved",
            Self::Resume => "resume",
            Self::Release { .. } => "release",
            Self::DeleteNode { .. } => "delete-node",
            Self::Withdraw { .. } => "withdraw",
            Self::SwitchProxy { .. } => "switch-proxy",
            Self::Tracked { .. } => "tracked",
            Self::Probe(_) => "probe",
            Self::Lists { .. } => "lists",
            Self::Unheard { .. } => "unheard",
            Self::Noticed { .. } => "noticed",
            Self::Refused(_) => "refused",
            Self::Bgp(_) => "bgp",
            Self::Announced(_) => "announced",
            Self::Tick => "tick",
        }
    }
}

/// When an input was taken in, with a wall clock for what people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Monotonic.
    pub now: Millis,
    /// Since the Unix epoch, as the machine's clock says.
    pub wall: Millis,
}
