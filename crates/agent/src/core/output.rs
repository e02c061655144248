//! What the core wants to have carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_cni_spec::wire::Response;
use ripstop_netmodel::{Key, Kind};
use ripstop_objects::Notice;
use ripstop_plan::Plan;
use ripstop_services::readiness::Watched;
#[cfg(doc)]
use ripstop_tables::Input;
use ripstop_types::PodName;

use super::{Assignments, BgpPlan, ProbePlan, SegmentPlan};

/// Something to carry out.
#[derive(Debug, Clone)]
pub enum Output {
    /// Run these steps on the kernel and this node's files, in order, and answer with [`Input::Applied`].
    Apply {
        /// The plan's number.
        plan: u64,
        /// The steps.
        steps: Arc<Plan>,
        /// Stop at the first failure instead of going on.
        stop_on_error: bool,
    },
    /// Run these steps on the store and answer with [`Input::Stored`].
    Store {
        /// The plan's number.
        plan: u64,
        /// The steps.
        steps: Arc<Plan>,
    },
    /// Read these keys, a pod's namespace included, and answer with [`Input::Inspected`].
    Inspect {
        /// The call on whose behalf.
        call: u64,
        /// What to read.
        keys: BTreeSet<Key>,
    },
    /// Read everything of ours of these kinds and answer with [`Input::Observed`].
    Observe {
        /// The kinds.
        kinds: BTreeSet<Kind>,
    },
    /// Read tracked connections and answer with [`Input::Tracked`].
    Track {
        /// Number to give back.
        look: u64,
        /// Those that one of these addresses began,
        from: BTreeSet<IpAddr>,
        /// and those that one of these answers.
        to: BTreeSet<IpAddr>,
    },
    /// Answer a CNI call.
    Reply {
        /// The call.
        call: u64,
        /// The answer.
        response: Response,
    },
    /// Answer an operator.
    Answer {
        /// The call.
        call: u64,
        /// Done, or the sentence of the refusal.
        result: Result<(), String>,
    },
    /// Write the snapshot before anything else and answer with [`Input::Saved`].
    Save {
        /// Number to give back.
        generation: u64,
    },
    /// Remove the snapshot, and write none any more.
    Forget,
    /// What the prober probes and answers from now on.
    Probe(Box<ProbePlan>),
    /// What health checks are answered from now on.
    Health(Arc<ripstop_services::health::Plan>),
    /// Whose readiness is probed from now on.
    Readiness(BTreeMap<PodName, Watched>),
    /// What is announced on segments from now on.
    Announce(Arc<Vec<SegmentPlan>>),
    /// See to the addresses of Services of type LoadBalancer.
    Assign(Box<Assignments>),
    /// What people are told on objects of Kubernetes from now on.
    Notices(Arc<Vec<Notice>>),
    /// What the speaker of BGP is to be from now on; none: it says nothing.
    Bgp(Option<Arc<BgpPlan>>),
    /// Something for the log.
    Log {
        /// Who should read it.
        level: Level,
        /// A sentence.
        text: String,
    },
}

/// Who reads a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Someone should look.
    Warn,
    /// What an operator wants to have happened.
    Info,
    /// What a developer wants to know.
    Debug,
}
