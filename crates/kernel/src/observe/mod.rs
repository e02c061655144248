//! The kernel's state as values of the model.
//!
//! Not here: what should be there. Everything read is a value that could be compared with one that is wanted; what has
//! no form in the model (a foreign route, a learned neighbour) is left out, except what [`HostFacts`] has a place for.

mod connections;
pub(crate) mod facts;
mod forwarder;
mod ipip;
pub(crate) mod iptables;
pub(crate) mod ipvs;
pub(crate) mod jump;
pub(crate) mod nft;
mod refused;
mod space;

pub use facts::is_conntrack_full;
pub use refused::RefusedReader;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ripstop_netmodel::{HostFacts, Key, Kind, Model, Ns, Object, Sysctl};

use crate::error::ObserveError;
use crate::iptables::Iptables;
use crate::netlink::{Protocol, Socket};
use crate::netns::Netns;
use crate::sysctl;

/// Reads the kernel. One is enough for a node, and it may be used beside the applier on another thread.
#[derive(Debug)]
pub struct Observer {
    host: Netns,
    route: Socket,
    nft: Socket,
    forwarder: Option<PathBuf>,
    iptables: Iptables,
    /// Opened when something of it is there.
    ipvs: Option<ipvs::Ipvs>,
    /// It is asked once: a "no" may have looked for a module, and what carries packets does not change under them.
    abilities: facts::Abilities,
}

impl Observer {
    /// Opens sockets in the calling thread's network namespace, which is the agent's own ([`Ns::Host`]) from then on. The
    /// other methods must be called from a thread in the same namespace.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open() -> Result<Self, ObserveError> {
        let open = |protocol| Socket::open(protocol).map_err(|e| ObserveError::new("a netlink socket", e));
        let host = Netns::current().map_err(|e| ObserveError::netns(&e))?;
        let mut route = open(Protocol::Route)?;
        let abilities = facts::Abilities::ask(&mut route);
        let nft = open(Protocol::Netfilter)?;
        Ok(Self { host, route, nft, forwarder: None, iptables: Iptables::default(), ipvs: None, abilities })
    }

    /// Where a forwarder answers; without it none is asked.
    #[must_use]
    pub fn with_forwarder(mut self, socket: PathBuf) -> Self {
        self.forwarder = Some(socket);
        self
    }

    /// Shares with an applier what is known of iptables ([`crate::Applier::iptables`]).
    #[must_use]
    pub fn with_iptables(mut self, iptables: Iptables) -> Self {
        self.iptables = iptables;
        self
    }

    /// Everything of ours in the agent's namespace: links named `rip*` that carry a mark, with their addresses, permanent
    /// neighbours, forwarding entries and queueing discipline; nexthop objects of our ids and routes of our protocol; tables named
    /// `ripstop` with their elements, and links' own; jumps of ours in iptables' tables; virtual servers of
    /// IPVS at addresses that a route of ours makes local; programs that carry IPIP; what the forwarder goes by, where one
    /// answers. Owners are read from the links'
    /// alternative names and the comments of elements and links' tables; what hangs on a link has its link's owner.
    ///
    /// `desired` says which settings below /proc/sys are read, and lets tables be recognised: a table that is what
    /// `desired` has under its key is shown as that, any other as a table that equals none.
    ///
    /// The far end of a veth is shown as `desired` has it, or as a placeholder: the kernel shows no path to it.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn host(&mut self, desired: &Model) -> Result<Model, ObserveError> {
        self.kinds(|_| true, desired)
    }

    /// The same of some kinds only, which is quicker where there is much of the others.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn kinds(&mut self, asked: impl Fn(Kind) -> bool, desired: &Model) -> Result<Model, ObserveError> {
        let mut model = Model::new();
        space::ours(&mut self.route, &asked, desired, &mut model)?;
        nft::ours(&mut self.nft, &asked, desired, &mut model)?;
        if asked(Kind::ForwardJump) {
            jump::read(&mut self.nft, &mut model)?;
        }
        if asked(Kind::Iptables) {
            iptables::read(&mut self.nft, &self.iptables, &mut model);
        }
        if ipvs::KINDS.into_iter().any(&asked) {
            ipvs::ours(&mut self.route, &mut self.ipvs, &asked, &mut model)?;
        }
        if ipip::KINDS.into_iter().any(&asked) {
            ipip::read(&mut self.route, &mut model)?;
        }
        if let Some(socket) = self.forwarder.as_deref().filter(|_| forwarder::KINDS.into_iter().any(&asked)) {
            forwarder::read(socket, &mut model);
        }
        let settings = desired.keys().filter(|key| key.ns() == Some(&Ns::Host) && asked(key.kind()));
        read_settings(&Ns::Host, settings, &mut model)?;
        Ok(model)
    }

    /// What is there under these keys, in whatever namespace: absent keys are absent from the model, and so are objects
    /// whose namespace does not exist, records, and routes and nexthops of others. Cheap for few keys. `desired` lets
    /// tables be recognised, see [`Self::host`].
    ///
    /// The calling thread enters pods' namespaces and comes back before this returns.
    ///
    /// # Errors
    /// The kernel cannot be asked, or a path is no network namespace though something is there.
    pub fn observe_keys(&mut self, keys: &BTreeSet<Key>, desired: &Model) -> Result<Model, ObserveError> {
        let mut by_ns: BTreeMap<&Ns, BTreeSet<&Key>> = BTreeMap::new();
        for key in keys {
            if let Some(ns) = key.ns() {
                by_ns.entry(ns).or_default().insert(key);
            }
        }
        let mut model = Model::new();
        for (ns, keys) in by_ns {
            match ns {
                Ns::Host => {
                    space::keys(&mut self.route, ns, &keys, desired, &mut model)?;
                    nft::keys(&mut self.nft, &keys, desired, &mut model)?;
                    if keys.iter().any(|key| key.kind() == Kind::ForwardJump) {
                        let mut jumps = Model::new();
                        jump::read(&mut self.nft, &mut jumps)?;
                        let wanted = jumps.iter().filter(|(key, _)| keys.contains(key));
                        wanted.for_each(|(_, entry)| drop(model.insert_entry(entry.clone())));
                    }
                    if keys.iter().any(|key| key.kind() == Kind::Iptables) {
                        let mut rules = Model::new();
                        iptables::read(&mut self.nft, &self.iptables, &mut rules);
                        let wanted = rules.iter().filter(|(key, _)| keys.contains(key));
                        wanted.for_each(|(_, entry)| drop(model.insert_entry(entry.clone())));
                    }
                    if keys.iter().any(|key| ipvs::KINDS.contains(&key.kind())) {
                        let mut found = Model::new();
                        ipvs::ours(&mut self.route, &mut self.ipvs, |_| true, &mut found)?;
                        let wanted = found.iter().filter(|(key, _)| keys.contains(key));
                        wanted.for_each(|(_, entry)| drop(model.insert_entry(entry.clone())));
                    }
                    if keys.iter().any(|key| ipip::KINDS.contains(&key.kind())) {
                        let mut found = Model::new();
                        ipip::read(&mut self.route, &mut found)?;
                        let wanted = found.iter().filter(|(key, _)| keys.contains(key));
                        wanted.for_each(|(_, entry)| drop(model.insert_entry(entry.clone())));
                    }
                    read_settings(ns, keys, &mut model)?;
                }
                Ns::Path(path) => self.pod(ns, path, keys, desired, &mut model)?,
            }
        }
        Ok(model)
    }

    /// Links, addresses and settings of the agent's namespace that are not ours.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn facts(&mut self) -> Result<HostFacts, ObserveError> {
        facts::read(&mut self.route, &mut self.nft, self.abilities)
    }

    fn pod(
        &self,
        ns: &Ns,
        path: &str,
        keys: BTreeSet<&Key>,
        desired: &Model,
        model: &mut Model,
    ) -> Result<(), ObserveError> {
        let netns = match Netns::open(path) {
            Ok(netns) => netns,
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(ObserveError::netns(&error)),
        };
        if netns.is_same(&self.host) {
            return Err(ObserveError::netns(&crate::netns::NetnsError::Own { path: path.into() }));
        }
        let inside = netns.run(|| {
            let mut socket = Socket::open(Protocol::Route).map_err(|e| ObserveError::new("a netlink socket", e))?;
            space::keys(&mut socket, ns, &keys, desired, model)?;
            read_settings(ns, keys, model)
        });
        inside.map_err(|error| ObserveError::netns(&error))?
    }
}

/// Has the kernel load the module of IPVS, if it is not there and it can.
pub fn load_ipvs() {
    if !ipvs::is_there() {
        // Whether it could shows when it is looked for again.
        let _ = ipvs::Ipvs::open();
    }
}

/// Whether the kernel has IPVS.
#[must_use]
pub fn has_ipvs() -> bool {
    ipvs::is_there()
}

/// Reads settings in the calling thread's namespace.
fn read_settings<'a>(ns: &Ns, keys: impl IntoIterator<Item = &'a Key>, model: &mut Model) -> Result<(), ObserveError> {
    for key in keys {
        let (path, link) = match key {
            Key::Sysctl { path, .. } => (path, None),
            Key::LinkSysctl { path, link, .. } => (path, Some(link.clone())),
            _ => continue,
        };
        let value = sysctl::read(path).map_err(|fault| ObserveError::new(key.to_string(), fault))?;
        if let Some(value) = value {
            let setting = Sysctl { ns: ns.clone(), link, path: path.clone(), value: value.into() };
            model.insert(Object::Sysctl(setting), None);
        }
    }
    Ok(())
}
