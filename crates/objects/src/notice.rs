//! What people are told about a pod, a Service, a policy or a node where they look for it: an Event in Kubernetes.
//!
//! A notice is a level: it is there as long as what it says is so. Whoever writes it down counts, joins repeats and says
//! when it is over.

use std::sync::Arc;

use ripstop_types::{NodeName, PodName, ServiceName};

use crate::policy::PolicyName;

/// Something that deserves a look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// What it is about.
    pub about: About,
    /// The kind of cause in one word, as Events have it.
    pub reason: &'static str,
    /// A sentence for people, with the way out.
    pub note: Arc<str>,
    /// How often it was so; a node's and a Service's are counted by their time.
    pub times: u64,
}

/// What a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A Node object.
    Node {
        /// Its name.
        name: NodeName,
        /// Its uid; empty where it is not known.
        uid: Arc<str>,
    },
    /// A Service.
    Service {
        /// Its namespace and name.
        name: ServiceName,
        /// Its uid; empty where it is not known.
        uid: Arc<str>,
    },
    /// A policy.
    Policy {
        /// Which one.
        name: PolicyName,
        /// Its uid; empty where it is not known.
        uid: Arc<str>,
    },
    /// A pool of addresses for Services.
    Pool {
        /// Its name.
        name: Arc<str>,
        /// Its uid; empty where it is not known.
        uid: Arc<str>,
    },
    /// A Pod object.
    Pod {
        /// Its namespace and name.
        name: PodName,
        /// Its uid; empty where it is not known.
        uid: Arc<str>,
    },
}
