//! The suite for proxies of Services: what becomes of packets, whatever data plane carries them.
//!
//! Cases are data: Services and EndpointSlices as Kubernetes writes them, packets, and what a correct proxy does with each. The
//! expectations are written by hand; [`Oracle`] must agree with every one, which tests both. Whatever carries packets is judged by the
//! same cases, as a [`DataPlane`]. [`compare`] sets two data planes beside each other on objects that nobody thought of.
//!
//! Not here: chains, maps and rules. A case knows nothing of them.
//!
//! Invariants: a case counts once, whatever data plane it runs on; what a data plane cannot show is a skip with its reason, and never a
//! pass.

mod case;
mod generate;
mod kube_proxy;
mod load;
mod oracle;
mod plane;
mod run;
pub mod scene;
mod text;

pub use case::{Case, Difference, Differences, POINTS};
pub use generate::{Divergence, Scenario, compare, scenarios};
pub use kube_proxy::control::{Control, Programs};
pub use kube_proxy::http::{Reply, ask};
pub use kube_proxy::{KubeProxy, Mode};
pub use load::cases;
pub use oracle::Oracle;
pub use plane::{DataPlane, Fate, Knowledge, Seen};
pub use run::{run, run_case};

pub use crate::case::Stop;
