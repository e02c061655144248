//! The only crate that changes the kernel, and that reads it.
//!
//! - [`Applier`] executes plan steps and takes nothing else;
//! - [`KubeProxy`] finds, and for an operator's command removes, what Kubernetes' proxy left;
//! - [`Observer`] reads what is there, as the same values the plan is made of;
//! - [`RefusedReader`] reads which packets policies refused;
//! - [`Monitor`] tells when something changed behind the agent's back;
//! - [`BootFiles`] keeps the records of this boot in files;
//! - [`Iptables`] is what the three share of iptables, whose rules are written by its own programs;
//! - [`ProbeSocket`] sends and receives datagrams that are not fragmented;
//! - [`netns`] opens and enters network namespaces.
//!
//! Not here: why an object is wanted, which steps lead there, records of the cluster's store. Everything is synchronous
//! and belongs on plain threads: a call may take the calling thread into a pod's namespace and back.
//!
//! Invariants:
//! - an object that is not ours by mark (route protocol, nexthop id and protocol, name and alternative name of a link,
//!   table name) is neither changed nor removed, also when a step says so;
//! - writing what is there and removing what is gone succeed;
//! - what was written for an object is read back as an object that satisfies it.

mod apply;
mod error;
mod ethtool;
mod iptables;
mod monitor;
mod netlink;
pub mod netns;
mod observe;
mod own;
mod probe;
mod reaper;
mod records;
mod sysctl;
#[doc(hidden)]
pub mod untrusted;
mod wire;

pub use apply::{Applier, KubeProxy, OnError, Outcome};
pub use error::{Fault, ObserveError, StepError};
pub use iptables::Iptables;
pub use monitor::{Changed, Monitor};
pub use netns::{Netns, NetnsError};
pub use observe::{Observer, RefusedReader};
pub use observe::{has_ipvs, is_conntrack_full, load_ipvs};
pub use own::OwnTraffic;
pub use probe::{Datagram, ProbeSocket};
pub use records::{BootFiles, Records};
