//! One run over a list of steps.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_netmodel::{
    CONNTRACK_SETTINGS, Entry, Key, LINK_PREFIX, Link, LinkKind, Ns, Object, RecordScope, Resource, Route, RouteTarget,
    Sysctl,
};
use ripstop_plan::{Action, Step};
use ripstop_types::IfName;

use super::hint::cause;
use super::queue::Begun;
use super::space::{Item, Known, Pod, Space, find_link, order_routes};
use super::{Applier, OnError, Outcome};
use crate::error::{Fault, StepError};
use crate::netlink::uapi::{NLM_F_EXCL, NLM_F_REPLACE};
use crate::netlink::{Message, NetlinkError, Socket};
use crate::records::Records;
use crate::{sysctl, wire};

/// The index of `lo` in every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// The state of a run. A step without a result has not been begun, or waits to be sent.
pub(super) struct Run<'a> {
    pub(super) applier: &'a mut Applier,
    pub(super) steps: &'a [Step],
    pub(super) results: Vec<Option<Result<(), Fault>>>,
    pub(super) spaces: BTreeMap<Ns, Space>,
    /// nftables steps that will be one transaction.
    pub(super) nft: Vec<usize>,
    pub(super) begun: Begun,
    /// Parts that were made in this run.
    pub(super) fresh: BTreeSet<Key>,
    /// Parts of policies of which not all could be written.
    pub(super) short: BTreeSet<Key>,
    /// Steps for IPVS that will go out together.
    pub(super) ipvs: Vec<usize>,
    /// Steps for maps that packets fill, which are held to their values together,
    pub(super) bounding: Vec<usize>,
    /// and those that were.
    pub(super) bounded: Vec<usize>,
    /// Steps for rules of iptables, which are written together.
    pub(super) iptables: Vec<usize>,
    /// Steps for frontends whose connections are looked at when the rules are written.
    pub(super) leading: Vec<usize>,
    /// Steps for connections, which end when all else is done.
    pub(super) ending: Vec<usize>,
    /// Steps for the forwarder, which go to it together.
    pub(super) forwarder: Vec<usize>,
    /// Pairs just made that are still down: step and index.
    pub(super) starting: Vec<(usize, u32)>,
    /// Links that will be removed together: step and index.
    pub(super) departing: Vec<(usize, u32)>,
    /// Routes of ours that are there, by namespace; read when first needed.
    pub(super) owned_routes: BTreeMap<Ns, BTreeSet<Key>>,
    /// Nexthop objects in our range that are not ours; read when first needed.
    pub(super) foreign_nexthops: Option<BTreeSet<u32>>,
    records: &'a mut dyn Records,
    on_error: OnError,
    failed: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        applier: &'a mut Applier,
        steps: &'a [Step],
        on_error: OnError,
        records: &'a mut dyn Records,
    ) -> Self {
        Self {
            applier,
            results: vec![None; steps.len()],
            steps,
            spaces: BTreeMap::new(),
            nft: Vec::new(),
            begun: Begun::default(),
            fresh: BTreeSet::new(),
            short: BTreeSet::new(),
            ipvs: Vec::new(),
            bounding: Vec::new(),
            bounded: Vec::new(),
            iptables: Vec::new(),
            leading: Vec::new(),
            ending: Vec::new(),
            forwarder: Vec::new(),
            starting: Vec::new(),
            departing: Vec::new(),
            owned_routes: BTreeMap::new(),
            foreign_nexthops: None,
            records,
            on_error,
            failed: false,
        }
    }

    pub(super) fn finish(mut self) -> Vec<Outcome> {
        for i in 0..self.steps.len() {
            self.step(i);
            if self.stopped() {
                break;
            }
        }
        self.flush_all();
        self.flush_bounds();
        self.flush_iptables();
        self.flush_leading();
        self.flush_connections();
        self.look_again();
        self.wait_for_deferred_work();
        self.applier.own.end_links();
        let outcomes = self.results.into_iter().zip(self.steps).enumerate();
        outcomes
            .map(|(index, (result, step))| {
                let fault = |fault: Fault| -> StepError { fault.of(&step.key, step.action) };
                Outcome { index, result: result.unwrap_or(Err(Fault::NotRun)).map_err(fault) }
            })
            .collect()
    }

    pub(super) fn stopped(&self) -> bool {
        self.failed && self.on_error == OnError::Stop
    }

    /// Sets a step's result; the first failure stands.
    pub(super) fn settle(&mut self, step: usize, result: Result<(), Fault>) {
        self.failed |= result.is_err();
        let key = &self.steps[step].key;
        if result.is_err() && key.is_of_policies() {
            self.short.extend(key.part());
        }
        match &self.results[step] {
            Some(Err(_)) => {}
            _ => self.results[step] = Some(result),
        }
    }

    fn step(&mut self, i: usize) {
        let step = &self.steps[i];
        if step.action == Action::Refuse {
            return self.settle(i, Ok(()));
        }
        if !matches!(step.key, Key::NftValues { .. }) {
            self.flush_bounds();
        }
        if !matches!(step.key, Key::IpvsService { .. } | Key::IpvsDestination { .. }) {
            self.flush_ipvs();
        }
        match &step.key {
            Key::Record { .. } => {
                self.flush_all();
                if !self.stopped() {
                    let result = self.record(step);
                    self.settle(i, result);
                }
            }
            Key::Forwarder { .. } | Key::ForwarderPeer { .. } => {
                self.flush_nft();
                self.flush_links();
                self.start_links();
                self.flush(&Ns::Host);
                self.forwarder.push(i);
            }
            Key::IpipProgram { .. } | Key::IpipPeer { .. } => self.of_ipip(i),
            Key::IpvsService { .. } | Key::IpvsDestination { .. } => {
                self.flush_nft();
                self.flush(&Ns::Host);
                self.ipvs.push(i);
            }
            Key::NftValues { .. } => {
                self.flush_nft();
                self.bounding.push(i);
            }
            Key::NftTable { .. } | Key::NftPart { .. } | Key::NftElement(_) => {
                self.flush_forwarder();
                self.flush_links();
                self.flush(&Ns::Host);
                self.queue_nft(i);
            }
            Key::ServiceFlows => self.all_flows(i),
            Key::Iptables(_) => self.iptables.push(i),
            Key::FrontendFlows { .. } => self.leading.push(i),
            Key::Connection { .. } => self.ending.push(i),
            Key::ForwardJump { .. } => {
                self.flush_all();
                if !self.stopped() {
                    let result = self.jump(step);
                    self.settle(i, result);
                }
            }
            _ => self.of_netlink(i),
        }
    }

    /// A step for programs that carry IPIP: behind their link.
    fn of_ipip(&mut self, i: usize) {
        self.flush_all();
        self.start_links();
        if !self.stopped() {
            let result = self.ipip(i);
            self.settle(i, result);
        }
    }

    /// A step for all tracked connections.
    fn all_flows(&mut self, i: usize) {
        self.flush_all();
        if !self.stopped() {
            let result = if self.steps[i].action == Action::Delete { Ok(()) } else { self.check_flows() };
            self.settle(i, result);
        }
    }

    /// A step for links, addresses, routes and what else is no object of nftables.
    fn of_netlink(&mut self, i: usize) {
        let step = &self.steps[i];
        self.flush_nft();
        self.flush_forwarder();
        match (&step.key, step.action) {
            (Key::Link { ns: Ns::Host, .. }, Action::Delete) => {}
            // The tables at the ingress of links come behind the last of them.
            (Key::Link { ns: Ns::Host, .. }, _) => self.flush_links(),
            _ => {
                self.flush_links();
                self.start_links();
            }
        }
        if !self.stopped() {
            match self.begin(i) {
                Ok(true) => self.settle(i, Ok(())),
                Ok(false) => {}
                Err(fault) if step.action == Action::Delete && is_gone(&fault) => self.settle(i, Ok(())),
                Err(fault) => self.settle(i, Err(fault)),
            }
        }
    }

    fn record(&mut self, step: &Step) -> Result<(), Fault> {
        let Key::Record { scope, key } = &step.key else {
            return Err(Fault::Unsupported("the step is for another object than its key says".into()));
        };
        if let RecordScope::Cluster(kind) = scope {
            return Err(Fault::Unsupported(format!("records of kind {kind} belong to the cluster's store").into()));
        }
        match (step.action, object(step)) {
            (Action::Delete, _) => self.records.delete(scope, key),
            (_, Some(Object::Record(record))) => self.records.put(record),
            _ => Err(mismatch()),
        }
    }

    /// Does a step or puts its messages with those that will be sent; `true` if it is done.
    fn begin(&mut self, i: usize) -> Result<bool, Fault> {
        let steps = self.steps;
        let step = &steps[i];
        let ns = step.key.ns().cloned().unwrap_or(Ns::Host);
        let message = match (&step.key, step.action) {
            (Key::Link { .. }, _) => return self.link(i, &ns),
            (Key::Sysctl { .. } | Key::LinkSysctl { .. }, Action::Delete) => return Ok(true),
            (Key::Sysctl { .. } | Key::LinkSysctl { .. }, _) => return self.setting(i, &ns).map(|()| true),
            (Key::Route { .. }, Action::Create | Action::Update) => return self.route(i).map(|()| false),
            (_, Action::Delete) => self.removal(step, &ns)?,
            _ => self.creation(step, &ns)?,
        };
        self.push(i, &ns, message);
        Ok(false)
    }

    fn removal(&mut self, step: &Step, ns: &Ns) -> Result<Message, Fault> {
        match &step.key {
            Key::Address { link, ip, .. } => {
                let index = self.index(ns, link)?;
                Ok(match step.before.as_deref() {
                    Some(Entry { object: Object::Address(address), .. }) => wire::address::delete(address, index),
                    _ => wire::address::delete(&wire::address::bare(ns, link, *ip), index),
                })
            }
            Key::Neighbour { link, ip, .. } => Ok(wire::neighbour::delete(*ip, self.index(ns, link)?)),
            Key::Fdb { link, mac } => {
                let index = self.index(ns, link)?;
                self.applier.own.set_fdb(index, *mac, None);
                Ok(wire::neighbour::delete_fdb(*mac, index))
            }
            Key::Nexthop { id } | Key::NexthopGroup { id } => {
                self.check_nexthop(*id)?;
                Ok(wire::nexthop::delete(*id))
            }
            Key::Route { table, dst, metric, .. } => {
                self.space(ns)?;
                Ok(wire::route::delete(*table, *dst, *metric))
            }
            Key::Qdisc { link, .. } => Ok(wire::qdisc::delete(self.index(ns, link)?)),
            _ => Err(mismatch()),
        }
    }

    fn creation(&mut self, step: &Step, ns: &Ns) -> Result<Message, Fault> {
        match (&step.key, object(step)) {
            (Key::Address { link, .. }, Some(Object::Address(address))) => {
                Ok(wire::address::create(address, self.index(ns, link)?))
            }
            (Key::Neighbour { link, .. }, Some(Object::Neighbour(neighbour))) => {
                Ok(wire::neighbour::create(neighbour, self.index(ns, link)?))
            }
            (Key::Fdb { link, .. }, Some(Object::Fdb(fdb))) => {
                let index = self.index(ns, link)?;
                self.applier.own.set_fdb(index, fdb.mac, Some(fdb.dst));
                Ok(wire::neighbour::create_fdb(fdb, index))
            }
            (Key::Nexthop { .. }, Some(Object::Nexthop(nexthop))) => {
                let index = self.index(ns, &nexthop.link)?;
                if step.action == Action::Update {
                    self.check_nexthop(nexthop.id)?;
                    return Ok(wire::nexthop::create(nexthop, index, NLM_F_REPLACE));
                }
                Ok(wire::nexthop::create(nexthop, index, NLM_F_EXCL))
            }
            (Key::NexthopGroup { .. }, Some(Object::NexthopGroup(group))) => {
                if step.action == Action::Update {
                    self.check_nexthop(group.id)?;
                    return Ok(wire::nexthop::create_group(group, NLM_F_REPLACE));
                }
                Ok(wire::nexthop::create_group(group, NLM_F_EXCL))
            }
            (Key::Qdisc { link, .. }, Some(Object::Qdisc(qdisc))) => {
                Ok(wire::qdisc::create(qdisc, self.index(ns, link)?, NLM_F_EXCL))
            }
            _ => Err(mismatch()),
        }
    }

    /// Writes a setting below /proc/sys, after what waits for its namespace.
    fn setting(&mut self, i: usize, ns: &Ns) -> Result<(), Fault> {
        let steps = self.steps;
        let Some(Object::Sysctl(setting)) = object(&steps[i]) else { return Err(mismatch()) };
        self.flush(ns);
        if self.stopped() {
            return Err(Fault::NotRun);
        }
        let write = || {
            // Nothing is lowered that is only to be raised, whatever was believed to be there.
            let is_raised = setting.path.starts_with(CONNTRACK_SETTINGS)
                && sysctl::read(&setting.path)?
                    .is_some_and(|value| setting.satisfied_by(&Sysctl { value: value.into(), ..setting.clone() }));
            if is_raised { Ok(()) } else { sysctl::write(&setting.path, &setting.value) }
        };
        self.inside(ns, write)?
    }

    /// A route that replaces one must be known to replace one of ours: the kernel would replace any.
    fn route(&mut self, i: usize) -> Result<(), Fault> {
        let steps = self.steps;
        let Some(Object::Route(route)) = object(&steps[i]) else { return Err(mismatch()) };
        let index = self.route_link(route)?;
        let known = self.steps[i].action == Action::Update && self.owns_route(route)?;
        let flags = if known { NLM_F_REPLACE } else { NLM_F_EXCL };
        let leans = Some(matches!(route.target, RouteTarget::Via { .. }));
        let message = wire::route::create(route, index, flags);
        self.spaces.entry(route.ns.clone()).or_default().pending.push(Item { step: i, message, leans });
        Ok(())
    }

    /// The index of the link a route leaves by, where it names one.
    pub(super) fn route_link(&mut self, route: &Route) -> Result<Option<u32>, Fault> {
        self.space(&route.ns)?;
        match &route.target {
            RouteTarget::Via { link, .. } | RouteTarget::Link(link) => self.index(&route.ns, link).map(Some),
            RouteTarget::Local => Ok(Some(LOOPBACK)),
            RouteTarget::Nexthop(_) | RouteTarget::Unreachable => Ok(None),
        }
    }

    pub(super) fn push(&mut self, step: usize, ns: &Ns, message: Message) {
        self.spaces.entry(ns.clone()).or_default().pending.push(Item { step, message, leans: None });
    }

    /// Opens what a namespace needs, once a run.
    pub(super) fn space(&mut self, ns: &Ns) -> Result<&mut Space, Fault> {
        if let Ns::Path(path) = ns
            && self.spaces.get(ns).is_none_or(|space| space.pod.is_none())
        {
            let pod = Pod::open(path, &self.applier.host)?;
            self.spaces.entry(ns.clone()).or_default().pod = Some(pod);
        }
        Ok(self.spaces.entry(ns.clone()).or_default())
    }

    /// The socket of a namespace.
    pub(super) fn socket(&mut self, ns: &Ns) -> Result<&mut Socket, Fault> {
        if *ns == Ns::Host {
            return Ok(&mut self.applier.route);
        }
        let space = self.space(ns)?;
        space.pod.as_mut().map(|pod| &mut pod.socket).ok_or_else(mismatch)
    }

    /// Runs something with the thread inside a namespace.
    pub(super) fn inside<T>(&mut self, ns: &Ns, work: impl FnOnce() -> T) -> Result<T, Fault> {
        match &self.space(ns)?.pod {
            Some(pod) => Ok(pod.netns.run(work)?),
            None => Ok(work()),
        }
    }

    /// The index of a link.
    pub(super) fn index(&mut self, ns: &Ns, link: &IfName) -> Result<u32, Fault> {
        self.known(ns, link).map(|known| known.index)
    }

    /// A link that is there. One that was made in this run is known already.
    fn known(&mut self, ns: &Ns, link: &IfName) -> Result<Known, Fault> {
        if let Some(known) = self.space(ns)?.links.get(link) {
            return Ok(*known);
        }
        let found = find_link(self.socket(ns)?, link)?.ok_or_else(|| Fault::NoLink { link: link.clone() })?;
        if *ns == Ns::Host && link.as_str().starts_with(LINK_PREFIX) && !found.is_ours() {
            let kind = found.kind.as_deref().unwrap_or("device");
            return Err(Fault::Foreign { holder: format!("a link {link} of kind {kind}").into() });
        }
        let known = Known::from(&found);
        self.space(ns)?.links.insert(link.clone(), known);
        Ok(known)
    }

    /// Sends everything that waits: the agent's own namespace first.
    pub(super) fn flush_all(&mut self) {
        self.flush_nft();
        self.flush_ipvs();
        self.flush_forwarder();
        self.flush_links();
        self.start_links();
        for ns in self.spaces.keys().cloned().collect::<Vec<_>>() {
            if self.stopped() {
                return;
            }
            self.flush(&ns);
        }
    }

    /// Sends what waits for one namespace, in one system call as far as it fits.
    pub(super) fn flush(&mut self, ns: &Ns) {
        let Some(space) = self.spaces.get_mut(ns).filter(|space| !space.pending.is_empty()) else { return };
        let mut items = std::mem::take(&mut space.pending);
        order_routes(&mut items);
        let socket = match &mut space.pod {
            Some(pod) => &mut pod.socket,
            None => &mut self.applier.route,
        };
        let (steps, messages): (Vec<usize>, Vec<Message>) = items.into_iter().map(|i| (i.step, i.message)).unzip();
        let answers = socket.batch(messages);
        let mut conflicts = Vec::new();
        for (step, answer) in steps.into_iter().zip(answers) {
            match answer.result {
                Ok(()) => self.settle(step, Ok(())),
                Err(error) if self.steps[step].action == Action::Delete && is_absent(&self.steps[step].key, &error) => {
                    self.settle(step, Ok(()));
                }
                Err(error) if is_without_ipv6(&self.steps[step].key, &error) => self.settle(step, Ok(())),
                Err(error) if error.errno == libc::EEXIST && can_conflict(&self.steps[step].key) => {
                    conflicts.push(step)
                }
                Err(error) => self.settle(step, Err(self.refused(step, &error))),
            }
        }
        if !conflicts.is_empty() {
            self.resolve(ns, conflicts);
        }
    }

    fn flush_links(&mut self) {
        if self.departing.is_empty() || self.stopped() {
            return;
        }
        self.flush(&Ns::Host);
        let departing = std::mem::take(&mut self.departing);
        let faults = self.applier.reaper.remove(&departing.iter().map(|(_, index)| *index).collect());
        for (step, index) in departing {
            let result = faults.get(&index).map_or(Ok(()), |error| Err(self.refused(step, error)));
            self.settle(step, result);
        }
    }

    pub(super) fn refused(&self, step: usize, error: &NetlinkError) -> Fault {
        let step = &self.steps[step];
        Fault::refused(error, cause(step.after.as_deref().or(step.before.as_deref()), error.errno))
    }

    fn link(&mut self, i: usize, ns: &Ns) -> Result<bool, Fault> {
        let step = &self.steps[i];
        match (step.action, object(step), ns) {
            (Action::Delete, _, Ns::Host) => self.remove_link(i),
            // The other end of a pair goes with the first, and loopback with its namespace.
            (Action::Delete, ..) => Ok(true),
            (_, Some(Object::Link(link)), _) => match link.kind {
                LinkKind::VethPeer | LinkKind::Loopback => self.set_up_link(i, link),
                _ => self.make_link(i, link),
            },
            _ => Err(mismatch()),
        }
    }

    /// Puts the settings of a link that is there with what will be sent. Its address is left out where it is right: the
    /// kernel would forget the link's neighbours.
    fn set_up_link(&mut self, i: usize, link: &Link) -> Result<bool, Fault> {
        let known = self.known(&link.ns, &link.name)?;
        let differing = Link {
            mac: link.mac.filter(|wanted| known.mac != Some(*wanted)),
            mtu: link.mtu.filter(|wanted| known.mtu != Some(*wanted)),
            ..link.clone()
        };
        for message in wire::link::settings(&differing, known.index, false, None) {
            self.push(i, &link.ns, message);
        }
        Ok(false)
    }
}

pub(super) fn object(step: &Step) -> Option<&Object> {
    step.after.as_ref().map(|entry| &entry.object)
}

pub(super) fn mismatch() -> Fault {
    Fault::Unsupported("the step has no object, or one of another kind than its key says".into())
}

/// Whether a removal failed because there is nothing to remove.
fn is_gone(fault: &Fault) -> bool {
    match fault {
        Fault::NoLink { .. } => true,
        fault => fault.is_namespace_gone(),
    }
}

/// What the kernel answers where the object of a removal is not there.
fn is_absent(key: &Key, error: &NetlinkError) -> bool {
    match key {
        Key::Route { .. } => matches!(error.errno, libc::ESRCH | libc::ENOENT | libc::ENODEV),
        Key::Address { .. } => matches!(error.errno, libc::EADDRNOTAVAIL | libc::ENODEV),
        Key::Qdisc { .. } => matches!(error.errno, libc::ENOENT | libc::EINVAL | libc::ENODEV),
        _ => matches!(error.errno, libc::ENOENT | libc::ENODEV),
    }
}

/// A link on which there is no IPv6 makes no link-local address either, whatever it was told.
pub(super) fn is_without_ipv6(key: &Key, error: &NetlinkError) -> bool {
    error.errno == libc::EAFNOSUPPORT && matches!(key, Key::Link { .. })
}

/// Objects whose creation is exclusive at first, so that a foreign one is not replaced.
fn can_conflict(key: &Key) -> bool {
    matches!(key, Key::Nexthop { .. } | Key::NexthopGroup { .. } | Key::Route { .. } | Key::Qdisc { .. })
}
