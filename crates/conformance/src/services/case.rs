//! What a case is, as it is written and as it runs.

use std::collections::BTreeMap;

use ripstop_oracle::services::World;
use ripstop_oracle::services::flows::Flow;
use ripstop_oracle::services::health::Answer;
use ripstop_types::Family;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::kube_proxy::Mode;
use super::plane::Knowledge;
use super::text::Expected;

/// What a correct proxy does, in 22 points. Each has cases of its own.
pub const POINTS: [&str; 22] = [
    "ClusterIP",
    "headless and ExternalName",
    "NodePort",
    "LoadBalancer",
    "externalIPs",
    "loadBalancerSourceRanges",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "conditions of endpoints",
    "topology",
    "sessionAffinity",
    "EndpointSlices",
    "reject without endpoints",
    "hairpin",
    "masquerade",
    "health checks",
    "conntrack of UDP",
    "conntrack sysctls",
    "INVALID packets",
    "service-proxy-name",
    "start and loss of the API",
    "names",
];

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Words and slashes, unique and stable.
    pub id: String,
    /// Which of [`POINTS`] it is about, counted from 1.
    pub point: usize,
    /// The document that says so, and what it says.
    pub cite: String,
    /// What happens, one after the other.
    pub steps: Vec<Step>,
    /// Where Kubernetes' own kube-proxy does something else.
    pub kube_proxy: Differences,
}

/// Why kube-proxy differs from a case in its modes: which of the two is right, and the document that says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Differences {
    /// With nftables.
    pub nftables: Option<Difference>,
    /// With iptables.
    pub iptables: Option<Difference>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Difference {
    /// Every time.
    Always(String),
    /// Not every time: what is done depends on the order in which things are taken up.
    Sometimes {
        /// Why.
        sometimes: String,
    },
}

impl Differences {
    /// The same with reasons in the place of their names.
    pub(super) fn told(self, reasons: &BTreeMap<String, String>) -> Result<Self, String> {
        let tell =
            |name: String| reasons.get(&name).cloned().ok_or_else(|| format!("kube-proxy: no reason is named {name}"));
        let one = |difference: Option<Difference>| {
            difference.map_or(Ok(None), |difference| match difference {
                Difference::Always(name) => Ok::<_, String>(Some(Difference::Always(tell(name)?))),
                Difference::Sometimes { sometimes } => Ok(Some(Difference::Sometimes { sometimes: tell(sometimes)? })),
            })
        };
        Ok(Self { nftables: one(self.nftables)?, iptables: one(self.iptables)? })
    }

    /// What is said of a mode.
    #[must_use]
    pub fn of(&self, mode: Mode) -> Option<&Difference> {
        match mode {
            Mode::Nftables => self.nftables.as_ref(),
            Mode::Iptables => self.iptables.as_ref(),
        }
    }
}

/// A change, and what must be so after it.
#[derive(Debug, Clone)]
pub struct Step {
    /// Everything as it is now.
    pub world: World,
    /// Its Services and EndpointSlices as Kubernetes writes them.
    pub objects: Vec<Value>,
    /// Seconds that pass before.
    pub wait: u64,
    /// Whether the proxy is restarted with the change.
    pub restart: bool,
    /// Whether the API server goes away (`false`) or comes back.
    pub store: Option<bool>,
    /// What becomes of packets, in this order.
    pub packets: Vec<Expected>,
    /// What health checks are answered.
    pub health: Vec<Health>,
    /// Tracked flows from before the change, and whether each must be gone.
    pub flows: Vec<(Flow, bool)>,
    /// What became of the rules from before the change.
    pub knowledge: Option<Knowledge>,
    /// What is written to parameters of the kernel.
    pub sysctls: Option<Sysctls>,
}

/// A health check and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The port that is asked.
    pub port: u16,
    /// The path.
    pub path: String,
    /// At which address of the node.
    pub family: Family,
    /// None: nobody answers.
    pub answer: Option<Answer>,
}

/// What is written to parameters of connection tracking.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctls {
    /// Cores of the machine.
    pub cores: u64,
    /// Values before.
    #[serde(default)]
    pub present: BTreeMap<String, u64>,
    /// What is written.
    pub writes: BTreeMap<String, u64>,
}

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFile {
    /// Which of [`POINTS`], counted from 1; zero in the file of what is shared.
    #[serde(default)]
    pub point: usize,
    /// The document of cases that name none.
    #[serde(default)]
    pub cite: Option<String>,
    /// A place for YAML anchors.
    #[serde(rename = "parts", default)]
    pub _parts: Value,
    /// The world that others are patches of.
    #[serde(default)]
    pub world: Option<Value>,
    /// Why kube-proxy differs, by the names that cases know the reasons by.
    #[serde(default)]
    pub reasons: BTreeMap<String, String>,
    /// Services and EndpointSlices by the names that cases know them by.
    #[serde(default)]
    pub objects: BTreeMap<String, Value>,
    #[serde(default)]
    pub cases: Vec<RawCase>,
}

/// A case as written: its first step, and further ones.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCase {
    pub id: String,
    #[serde(default)]
    pub cite: Option<String>,
    #[serde(rename = "kube-proxy", default)]
    pub kube_proxy: Differences,
    #[serde(flatten)]
    pub first: RawStep,
    #[serde(default)]
    pub steps: Vec<RawStep>,
}

/// A step as written: what is different from the step before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStep {
    /// Objects that are there from now on.
    #[serde(rename = "use", default)]
    pub added: Vec<String>,
    /// Objects that are no more.
    #[serde(default)]
    pub without: Vec<String>,
    /// Changes of objects: merge patches (RFC 7386).
    #[serde(default)]
    pub with: BTreeMap<String, Value>,
    /// A merge patch of the world.
    #[serde(default)]
    pub world: Map<String, Value>,
    #[serde(default)]
    pub wait: u64,
    #[serde(default)]
    pub restart: bool,
    #[serde(default)]
    pub store: Option<Store>,
    #[serde(default)]
    pub packets: Vec<String>,
    #[serde(default)]
    pub health: Vec<RawHealth>,
    #[serde(default)]
    pub flows: Vec<String>,
    #[serde(default)]
    pub knowledge: Option<Knowledge>,
    #[serde(default)]
    pub sysctls: Option<Sysctls>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    Lost,
    Back,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHealth {
    pub port: u16,
    #[serde(default = "root")]
    pub path: String,
    #[serde(default = "four")]
    pub family: Family,
    /// None: nobody answers.
    #[serde(default)]
    pub status: Option<u16>,
    #[serde(default)]
    pub local: Option<usize>,
}

fn root() -> String {
    "/".into()
}

fn four() -> Family {
    Family::V4
}
