//! Plan steps into the kernel.
//!
//! Steps are executed in order. Consecutive ones for the same namespace go out in one system call, and consecutive
//! nftables steps are one transaction: all of them are done or none. Steps for a pod's namespace and steps for the
//! agent's own do not wait for each other, except that a pod's side is set up after its link is made.
//!
//! Not here: which steps, and whether a failure undoes what came before.

mod conflict;
mod connections;
mod deferred;
mod flows;
mod forwarder;
mod hint;
mod ipip;
mod iptables;
mod ipvs;
mod jump;
mod kube_proxy;
mod link;
mod nft;
mod parts;
mod queue;
mod run;
mod space;

pub(crate) use conflict::routes;
pub(crate) use forwarder::connect;
pub(crate) use ipip::ipip_tunnel;
pub use kube_proxy::KubeProxy;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ripstop_plan::Step;
use ripstop_types::IfName;

use crate::error::{ObserveError, StepError};
use crate::iptables::Iptables;
use crate::netlink::{Protocol, Socket};
use crate::netns::Netns;
use crate::own::OwnTraffic;
use crate::reaper::Reaper;
use crate::records::Records;

/// What a failed step means for those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Nothing further is begun; steps that went out in the same system call may have been done. What was not begun
    /// fails with [`crate::Fault::NotRun`].
    Stop,
    /// The others are tried.
    Continue,
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The step's place in what was run.
    pub index: usize,
    /// Done, or why not.
    pub result: Result<(), StepError>,
}

/// Executes plan steps. One is enough for a node: the kernel does one at a time anyway.
#[derive(Debug)]
pub struct Applier {
    host: Netns,
    route: Socket,
    nft: Socket,
    /// Opened with the first step for it.
    ipvs: Option<crate::observe::ipvs::Ipvs>,
    reaper: Reaper,
    own: Arc<OwnTraffic>,
    /// The forwarder's control socket.
    forwarder: Option<PathBuf>,
    /// Keep the carrier of TUN devices, and with it nexthops, while no forwarder runs.
    holds: BTreeMap<IfName, OwnedFd>,
    /// What is known of iptables,
    iptables: Iptables,
    /// and of parts of tables.
    parts: parts::Parts,
    /// It was told that tracked connections cannot be looked at.
    told_of_flows: bool,
    /// The same of sockets that cannot be ended.
    told_of_sockets: bool,
}

impl Applier {
    /// Opens sockets in the calling thread's network namespace, which is the agent's own ([`ripstop_netmodel::Ns::Host`])
    /// from then on. [`Self::run`] must be called from a thread in the same namespace.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open() -> Result<Self, ObserveError> {
        let open = |protocol| Socket::open(protocol).map_err(|e| ObserveError::new("a netlink socket", e));
        let host = Netns::current().map_err(|e| ObserveError::netns(&e))?;
        let (route, nft) = (open(Protocol::Route)?, open(Protocol::Netfilter)?);
        let own = Arc::new(OwnTraffic::default());
        own.add_port(route.port());
        own.add_port(nft.port());
        let reaper = Reaper::start(Arc::clone(&own)).map_err(|e| ObserveError::new("a netlink socket", e))?;
        let (holds, iptables) = (BTreeMap::new(), Iptables::default());
        let (told_of_flows, told_of_sockets) = (false, false);
        Ok(Self {
            host,
            route,
            nft,
            ipvs: None,
            reaper,
            own,
            forwarder: None,
            holds,
            iptables,
            parts: parts::Parts::default(),
            told_of_flows,
            told_of_sockets,
        })
    }

    /// Where a forwarder answers; without it steps for one fail. Holds the carrier of the devices that are there.
    #[must_use]
    pub fn with_forwarder(mut self, socket: PathBuf) -> Self {
        self.hold_all(&socket);
        self.forwarder = Some(socket);
        self
    }

    /// For [`crate::Monitor::open`]: lets it tell this applier's writes from changes by others.
    pub fn own(&self) -> Arc<OwnTraffic> {
        Arc::clone(&self.own)
    }

    /// What is known of iptables, for [`crate::Observer::with_iptables`].
    pub fn iptables(&self) -> Iptables {
        self.iptables.clone()
    }

    /// Executes steps in order and says of each what became of it.
    ///
    /// A creation is "make it or make it so", a removal of what is gone succeeds, a refusal does nothing and succeeds. A
    /// record goes to `records` when everything before it is done. A link counts as removed when it has left its
    /// namespace; the kernel's own clean-up (20 ms and more) goes on behind it, see [`Self::flush`].
    ///
    /// The calling thread enters pods' namespaces and comes back before this returns.
    pub fn run(&mut self, steps: &[Step], on_error: OnError, records: &mut dyn Records) -> Vec<Outcome> {
        run::Run::new(self, steps, on_error, records).finish()
    }

    /// Waits until the kernel is through with every link that was removed.
    pub fn flush(&mut self) {
        self.reaper.flush();
    }
}
