//! The CNI verbs: what each waits for, does and answers (specification 1.1.0, section 2).
//!
//! Calls for one attachment run one after the other. An ADD writes its lease before its interface, and its answer comes
//! when every step of its plan ran; a failed ADD is undone and keeps its address for the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_cni_spec::call::{Attachment as SpecAttachment, Call};
use ripstop_cni_spec::wire::{Request, Response};
use ripstop_cni_spec::{Code, Error, TypedCall};
use ripstop_desired::{LEASES, Source};
use ripstop_fabric::{host, wiring};
use ripstop_ipam::{Attachment, Lease, LeaseFault, LeaseRequest, Window};
use ripstop_netmodel::{Key, Kind, NFT_TABLE, Ns, RecordScope, Resource};
use ripstop_objects::{Network, NetworkName};
use ripstop_plan::{Action, Step};
use ripstop_tables::{Change, FaultCause, PodRow, PodState, StepFault, StoreKind, Withdrawn};
use ripstop_types::Millis;

use super::asked::{bandwidth, host_ports};
use super::blocks::Lack;
use super::policies::Guard;
use super::{CALL_PATIENCE_MS, Core, Level, Output, pods, status};

/// A call that is not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub call: u64,
    pub typed: Box<TypedCall>,
    pub deadline: Millis,
    pub stage: Stage,
}

/// How far a call is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not begun.
    Waiting,
    /// Its plan runs, and what policies ask may wait for these.
    Running(Guard),
    /// Its plan ran, and what policies ask is not all in the kernel yet.
    Guarding(Guard, BTreeSet<Key>),
    /// The kernel is asked.
    Inspecting,
    /// Objects of these pods are being removed.
    Removing(BTreeSet<Attachment>),
}

/// What a try to begin a call led to.
pub(super) enum Begun {
    /// Answered.
    Answer(Response),
    /// Under way.
    Stage(Stage),
    /// Not yet, for this reason.
    Wait(Error),
}

impl Core {
    /// A runtime's call arrives.
    pub(super) fn take_call(&mut self, call: u64, request: &Request) {
        match request.decode() {
            Err(error) => self.reply(call, Response::failed(error)),
            Ok(typed) => {
                let patience = typed.timeout_ms.saturating_sub(500).min(CALL_PATIENCE_MS);
                self.pending.push_back(Pending {
                    call,
                    typed: Box::new(typed),
                    deadline: self.at.now.plus(patience),
                    stage: Stage::Waiting,
                });
            }
        }
    }

    /// Begins what can begin, and ends what waited too long.
    pub(super) fn advance_calls(&mut self) {
        self.forget_needs();
        let mut queue = std::mem::take(&mut self.pending);
        let mut later = std::collections::VecDeque::with_capacity(queue.len());
        while let Some(pending) = queue.pop_front() {
            if pending.stage != Stage::Waiting {
                if !self.removal_done(&pending) && !self.guard_passed(&pending) {
                    later.push_back(pending);
                }
                continue;
            }
            let earlier = later.iter().any(|other: &Pending| same_attachment(other, &pending));
            let begun = if earlier { Begun::Wait(busy()) } else { self.begin(&pending) };
            let response = match begun {
                Begun::Answer(response) => response,
                Begun::Wait(why) if self.at.now >= pending.deadline => Response::failed(why),
                Begun::Stage(stage) => {
                    later.push_back(Pending { stage, ..pending });
                    continue;
                }
                Begun::Wait(_) => {
                    later.push_back(pending);
                    continue;
                }
            };
            self.note_outcome(&pending.typed, &response);
            self.reply(pending.call, response);
        }
        self.pending = later;
    }

    fn begin(&mut self, pending: &Pending) -> Begun {
        let typed = &pending.typed;
        if self.held && matches!(typed.call, Call::Add { .. } | Call::Del { .. } | Call::Gc) {
            return Begun::Wait(Error::new(Code::TryAgainLater, status::HELD));
        }
        if self.tables.withdrawn == Withdrawn::Everything && matches!(typed.call, Call::Add { .. }) {
            return Begun::Answer(Response::failed(Error::new(Code::TryAgainLater, status::WITHDRAWN)));
        }
        match &typed.call {
            Call::Add { attachment, netns, .. } => self.begin_add(pending.call, typed, &own(attachment), netns),
            Call::Del { attachment, .. } => self.begin_del(&own(attachment)),
            Call::Check { attachment, netns, .. } => self.begin_check(pending.call, typed, &own(attachment), netns),
            Call::Gc => self.begin_gc(typed),
            Call::Status => Begun::Answer(self.cni_status(typed)),
            Call::Version => Begun::Answer(Response::done()),
        }
    }

    fn begin_add(&mut self, call: u64, typed: &TypedCall, attachment: &Attachment, netns: &str) -> Begun {
        if let Some(row) = self.tables.pods.get(attachment).cloned()
            && row.state == PodState::Ready
        {
            if *row.request == *typed.id
                && let Some(missing) = self.policies_missing(typed).or_else(|| self.not_in_force(self.guard()))
            {
                return Begun::Wait(Error::new(Code::TryAgainLater, missing));
            }
            // The same request again: the answer was lost, not the interface.
            return Begun::Answer(if *row.request == *typed.id {
                self.add_result(typed, &row)
            } else {
                let text =
                    format!("{} has {} already, made by an earlier ADD; DEL comes first", row.owner(), attachment);
                Response::failed(Error::new(Code::InterfaceExists, text))
            });
        }
        if self.keys_busy(attachment) {
            return Begun::Wait(busy());
        }
        if let Err(error) = clashes(typed, attachment) {
            return Begun::Answer(Response::failed(error));
        }
        if let Some(error) = self.taken_port(typed, attachment) {
            return Begun::Answer(Response::failed(error));
        }
        let network = match self.network_of(typed) {
            Ok(network) => network,
            Err(error) if error.code == Code::TryAgainLater => return Begun::Wait(error),
            Err(error) => return Begun::Answer(Response::failed(error)),
        };
        if self.tables.is_deleted(&network.name) {
            return Begun::Wait(Error::new(Code::TryAgainLater, status::deleted_sentence(&network.name)));
        }
        if let Some(missing) = self.object_missing(typed, &network).or_else(|| self.policies_missing(typed)) {
            return Begun::Wait(Error::new(Code::TryAgainLater, missing));
        }
        if let Some(missing) = self.base_missing(&network).or_else(|| self.close_flannels(&network)) {
            return Begun::Wait(Error::new(Code::TryAgainLater, missing));
        }
        if self.policies_run() {
            let text =
                "what policies ask of others is on its way to the kernel, and what they ask of this pod goes behind it";
            return Begun::Wait(Error::new(Code::TryAgainLater, text));
        }
        let Some(mtu) = typed.conf.mtu.or_else(|| host::pod_mtu(&self.tables, &network)) else {
            let text = "this node has no uplink yet, so the MTU is not known";
            return Begun::Wait(Error::new(Code::TryAgainLater, text));
        };
        // From here on nothing is left to chance: a lease without a row would be nobody's.
        let lease = match self.lease_for(typed, attachment, &network) {
            Ok(lease) => lease,
            Err(begun) => return begun,
        };
        let row = PodRow { netns: netns.into(), mtu, ..self.new_pod(typed, attachment, &network, &lease) };
        let last = self.completion(&row);
        let scope = self.put_pod(row);
        self.send_policies();
        let guard = self.guard();
        self.run_for_call(scope, last, call);
        Begun::Stage(Stage::Running(guard))
    }

    /// The addresses of a pod, or what becomes of its call without them.
    fn lease_for(&mut self, typed: &TypedCall, attachment: &Attachment, network: &Network) -> Result<Lease, Begun> {
        let mut request = lease_request(typed, attachment, network);
        let in_blocks = network.spec.blocks.is_some();
        if in_blocks {
            request.within = self.pool_windows(typed, network, &request);
        }
        match self.book.allocate(&request, self.at.wall) {
            // The route of an address that was another node's is still on its way out.
            Ok(lease) if in_blocks && lease.ips.iter().any(|ip| self.busy.contains(&host_route(*ip))) => {
                Err(Begun::Wait(busy()))
            }
            Ok(lease) => Ok(lease),
            Err(fault) if in_blocks => Err(match self.lacks(typed, network, &request, &fault) {
                Some(Lack::Wait(error)) => Begun::Wait(error),
                Some(Lack::Never(error)) => Begun::Answer(Response::failed(error)),
                None => Begun::Answer(Response::failed(lease_error(&fault))),
            }),
            Err(fault) if matches!(fault, LeaseFault::NoRange { .. }) => {
                Err(Begun::Wait(Error::new(Code::TryAgainLater, fault.to_string())))
            }
            Err(fault) => Err(Begun::Answer(Response::failed(lease_error(&fault)))),
        }
    }

    /// The row of a pod that has its addresses; its namespace and MTU come from elsewhere.
    fn new_pod(&self, typed: &TypedCall, attachment: &Attachment, network: &Network, lease: &Lease) -> PodRow {
        PodRow {
            attachment: attachment.clone(),
            pod: lease.pod.clone(),
            network: network.name.clone(),
            config_name: typed.conf.name.as_str().into(),
            netns: "".into(),
            ips: lease.ips.clone(),
            ranges: self.ranges_of(&network.name, &lease.ips),
            mac: lease.mac,
            host_link: self.free_pod_link(attachment),
            host_mac: wiring::pod_link_mac(attachment, network.spec.wiring),
            mtu: 0,
            fixed_mtu: typed.conf.mtu.is_some(),
            wiring: network.spec.wiring,
            bandwidth: bandwidth(typed),
            host_ports: host_ports(typed),
            state: PodState::Adding,
            request: typed.id.as_str().into(),
            since: lease.since,
            boot_id: lease.boot.clone(),
        }
    }

    /// The node's ranges that these addresses lie in.
    fn ranges_of(&self, network: &NetworkName, ips: &[std::net::IpAddr]) -> Vec<ripstop_types::Prefix> {
        let own = self.tables.own_ranges.get(network);
        let range_of = |ip: &std::net::IpAddr| own?.iter().find(|range| range.contains(*ip)).copied();
        // In mode `blocks` the node's own address lies elsewhere; the pod's routes need it.
        let spec = self.tables.networks.get(network).map(|row| &row.value.spec);
        let of_node =
            own.into_iter().flatten().filter(|range| spec.is_some_and(|spec| spec.is_for_nodes(range))).copied();
        of_node.chain(ips.iter().filter_map(range_of)).collect()
    }

    /// The last step of an ADD: its file says that it is complete before the runtime hears so. Whenever the agent dies,
    /// what was answered stands and what was not is undone.
    fn completion(&self, row: &PodRow) -> Step {
        let file = |state: PodState| {
            let row = PodRow { state, ..row.clone() };
            let objects = ripstop_desired::pod_objects(&self.tables, &row);
            objects.into_iter().find(|entry| entry.object.key().kind() == Kind::Record).map(Arc::new)
        };
        let (before, after) = (file(PodState::Adding), file(PodState::Ready));
        Step {
            action: Action::Update,
            key: Key::Record { scope: RecordScope::Boot(LEASES.into()), key: row.file_key() },
            after,
            before,
            owner: row.owner(),
            reason: "the interface is complete".into(),
        }
    }

    /// Puts a row and answers with the keys it touches.
    fn put_pod(&mut self, row: PodRow) -> BTreeSet<Key> {
        let attachment = row.attachment.clone();
        self.tables.pods.insert(attachment.clone(), Arc::new(row));
        self.leaving.remove(&attachment);
        let source = Source::Pod(attachment.clone());
        let before: BTreeSet<Key> = self.desired.keys_of(&source).collect();
        let touched = self.desired.update(&self.tables, &BTreeSet::from([Change::Pod(attachment)]));
        for key in &touched {
            self.dirty.remove(key);
            self.failed.remove(key);
        }
        let mut scope: BTreeSet<Key> = before.into_iter().chain(touched).chain(self.desired.keys_of(&source)).collect();
        // What policies ask goes by plans of its own.
        self.dirty.extend(scope.extract_if(.., |key| key.is_of_policies()));
        scope
    }

    /// The plan of an ADD ran.
    pub(super) fn plan_of_call_ran(
        &mut self,
        call: u64,
        fault: Option<StepFault>,
        scope: &BTreeSet<Key>,
    ) -> BTreeSet<Change> {
        let Some(place) = self.pending.iter().position(|pending| pending.call == call) else { return BTreeSet::new() };
        let Some(pending) = self.pending.remove(place) else { return BTreeSet::new() };
        match pending.stage {
            Stage::Running(guard) if fault.is_none() && self.not_in_force(guard).is_some() => {
                self.pending.push_back(Pending { stage: Stage::Guarding(guard, scope.clone()), ..pending });
                BTreeSet::new()
            }
            _ => self.finish_add(&pending, fault.map(|fault| step_error(&fault)), scope),
        }
    }

    /// Answers an ADD whose plan ran, once what policies ask is in the kernel, or when that takes too long.
    fn guard_passed(&mut self, pending: &Pending) -> bool {
        let Stage::Guarding(guard, scope) = &pending.stage else { return false };
        let fault = match self.not_in_force(*guard) {
            None => None,
            Some(_) if self.at.now < pending.deadline => return false,
            Some(why) => Some(Error::new(Code::TryAgainLater, why)),
        };
        let changes = self.finish_add(pending, fault, scope);
        let touched = self.desired.update(&self.tables, &changes);
        self.take_touched(touched);
        self.changes.extend(changes);
        true
    }

    fn finish_add(&mut self, pending: &Pending, fault: Option<Error>, scope: &BTreeSet<Key>) -> BTreeSet<Change> {
        let call = pending.call;
        let Some(attachment) = pending.typed.call.attachment().map(own) else { return BTreeSet::new() };
        let Some(row) = self.tables.pods.get(&attachment).cloned() else {
            // Everything is taken out meanwhile, what this ADD made too.
            self.reply(call, Response::failed(Error::new(Code::TryAgainLater, status::WITHDRAWN)));
            return BTreeSet::new();
        };
        let (state, response) = match fault {
            None => {
                let ready = PodRow { state: PodState::Ready, ..(*row).clone() };
                let link = pods::host_link(&ready);
                if let Err(fault) = self.book.hold(&attachment, link) {
                    self.log(Level::Warn, fault.to_string());
                }
                (PodState::Ready, self.add_result(&pending.typed, &ready))
            }
            // Undone, with the address kept for the container's next ADD.
            Some(error) => (PodState::Gone, Response::failed(error)),
        };
        self.note_outcome(&pending.typed, &response);
        self.reply(call, response);
        self.tables.pods.insert(attachment.clone(), Arc::new(PodRow { state, ..(*row).clone() }));
        if state == PodState::Gone {
            self.guard_who_leaves(&row);
            self.dirty.extend(scope.iter().cloned());
        }
        BTreeSet::from([Change::Pod(attachment)])
    }

    fn begin_del(&mut self, attachment: &Attachment) -> Begun {
        if !self.tables.pods.contains_key(attachment) {
            return if self.leaving.contains_key(attachment) {
                Begun::Stage(Stage::Removing(BTreeSet::from([attachment.clone()])))
            } else {
                Begun::Answer(Response::done())
            };
        }
        if self.keys_busy(attachment) {
            return Begun::Wait(busy());
        }
        self.start_removal(attachment);
        Begun::Stage(Stage::Removing(BTreeSet::from([attachment.clone()])))
    }

    fn start_removal(&mut self, attachment: &Attachment) {
        let changes = self.remove_pod(attachment);
        self.note_for_slices(&changes);
        let touched = self.desired.update(&self.tables, &changes);
        for key in &touched {
            self.failed.remove(key);
        }
        self.dirty.extend(touched);
    }

    /// Answers a DEL or GC whose pods are gone.
    fn removal_done(&mut self, pending: &Pending) -> bool {
        let Stage::Removing(left) = &pending.stage else { return false };
        if left.iter().any(|attachment| self.leaving.contains_key(attachment)) {
            if self.at.now < pending.deadline {
                return false;
            }
            let failures: Vec<String> = left
                .iter()
                .filter_map(|attachment| self.leaving.get(attachment))
                .flatten()
                .filter_map(|key| self.failed.get(key))
                .map(|failure| failure.why.clone())
                .collect();
            let text =
                if failures.is_empty() { "the kernel did not answer in time".into() } else { failures.join("; ") };
            self.reply(pending.call, Response::failed(Error::new(Code::TryAgainLater, text)));
            return true;
        }
        self.reply(pending.call, Response::done());
        true
    }

    fn begin_gc(&mut self, typed: &TypedCall) -> Begun {
        let valid: BTreeSet<Attachment> = typed.conf.valid_attachments.iter().flatten().map(own).collect();
        let unlisted: BTreeSet<Attachment> = self
            .tables
            .pods
            .values()
            .filter(|row| *row.config_name == *typed.conf.name && row.state != PodState::Adding)
            .map(|row| row.attachment.clone())
            .filter(|attachment| !valid.contains(attachment))
            .collect();
        if unlisted.iter().any(|attachment| self.keys_busy(attachment)) {
            return Begun::Wait(busy());
        }
        for attachment in &unlisted {
            self.start_removal(attachment);
        }
        Begun::Stage(Stage::Removing(unlisted))
    }

    fn cni_status(&self, typed: &TypedCall) -> Response {
        let reasons = self.not_ready_for(&typed.conf.network);
        if reasons.is_empty() {
            // A node that is full is ready: its pods go on, and the next DEL makes room.
            return match self.full_for(&typed.conf.network) {
                Some(full) => Response::failed(Error::new(Code::NotAvailable, full)),
                None => Response::done(),
            };
        }
        // Pods that exist go on; so 50 and not 51, unless the way to peers is what fails.
        let code = if self.failed.is_empty() { Code::NotAvailable } else { Code::LimitedConnectivity };
        Response::failed(Error::new(code, reasons.join("; ")))
    }

    fn network_of(&self, typed: &TypedCall) -> Result<Arc<Network>, Error> {
        let name: NetworkName = typed.conf.network.parse().map_err(|fault: ripstop_types::Invalid| {
            Error::new(Code::InvalidConfig, format!("field \"network\": {fault}"))
        })?;
        if let Some(row) = self.tables.networks.get(&name) {
            return Ok(row.value.clone());
        }
        if !self.tables.knows(StoreKind::Networks) {
            return Err(Error::new(
                Code::TryAgainLater,
                format!("network {name}: {}", status::store_sentence(&self.tables)),
            ));
        }
        let known: Vec<&str> = self.tables.networks.keys().map(NetworkName::as_str).collect();
        let text = format!("field \"network\": found {name}, accepted: one of [{}]", known.join(", "));
        // The first network of a cluster may be on its way.
        let code = if known.is_empty() { Code::TryAgainLater } else { Code::InvalidConfig };
        Err(Error::new(code, text))
    }

    /// What of the node's own set-up is not in the kernel yet: a pod never comes before the guard of the tunnels.
    pub(super) fn base_missing(&self, network: &Network) -> Option<String> {
        let table = Key::NftTable { family: ripstop_nft::model::TableFamily::Inet, name: NFT_TABLE.into() };
        let link = Key::Link { ns: Ns::Host, name: wiring::node_link(&network.name) };
        // Routes to pods have the node's own addresses as their source, and a call's plan may overtake the one that brings these.
        let own = Source::Network(network.name.clone());
        let addresses = self.desired.keys_of(&own).filter(|key| key.kind() == Kind::Address);
        [table, link].into_iter().chain(addresses).find(|key| self.applied.get(key).is_none()).map(|key| {
            match self.failed.get(&key) {
                Some(failure) => failure.why.clone(),
                None => format!("{key} is not in the kernel yet"),
            }
        })
    }

    /// Whether a plan is under way for anything that this attachment has, had, or would have.
    pub(super) fn keys_busy(&self, attachment: &Attachment) -> bool {
        if self.busy.is_empty() {
            return false;
        }
        let source = Source::Pod(attachment.clone());
        let wanted = self.desired.keys_of(&source).any(|key| self.busy.contains(&key));
        // Of a pod whose interface went, or could not be made, remains may still be on their way out.
        let remains = |row: &Arc<PodRow>| {
            let whole = PodRow { state: PodState::Ready, ..(**row).clone() };
            let objects = ripstop_desired::pod_objects(&self.tables, &whole);
            objects.iter().any(|entry| self.busy.contains(&entry.object.key()))
        };
        wanted
            || self.tables.pods.get(attachment).is_some_and(remains)
            || self.leaving.get(attachment).is_some_and(|keys| keys.iter().any(|key| self.busy.contains(key)))
    }

    pub(super) fn reply(&mut self, call: u64, response: Response) {
        self.outputs.push(Output::Reply { call, response });
    }
}

/// The runtime's words for an attachment in ours.
pub(super) fn own(attachment: &SpecAttachment) -> Attachment {
    Attachment { container: attachment.container_id.clone(), ifname: attachment.ifname.clone() }
}

fn same_attachment(a: &Pending, b: &Pending) -> bool {
    a.typed.call.attachment().is_some() && a.typed.call.attachment() == b.typed.call.attachment()
}

/// The key of the host's route to a pod's address.
fn host_route(ip: std::net::IpAddr) -> Key {
    Key::main_route(Ns::Host, ripstop_types::Prefix::host(ip))
}

pub(super) fn busy() -> Error {
    Error::new(Code::TryAgainLater, "an earlier call for the same interface is still under way")
}

/// A chained plugin must not make an interface that one before it made.
fn clashes(typed: &TypedCall, attachment: &Attachment) -> Result<(), Error> {
    let made = typed.conf.prev_result.as_ref().and_then(|result| result.pod_interface(&attachment.ifname));
    match made {
        None => Ok(()),
        Some(_) => {
            let text = format!("interface {} was made by a plugin before this one in the chain", attachment.ifname);
            Err(Error::new(Code::InterfaceExists, text))
        }
    }
}

fn lease_request(typed: &TypedCall, attachment: &Attachment, network: &Network) -> LeaseRequest {
    let windows = typed.conf.runtime.ip_ranges.iter().flatten().map(|range| Window {
        first: range.start.unwrap_or(range.subnet.addr()),
        last: range.end.unwrap_or(range.subnet.last()),
    });
    LeaseRequest {
        attachment: attachment.clone(),
        pod: typed.call.args().and_then(|args| args.pod.clone()),
        network: network.name.as_str().into(),
        families: network.spec.families().collect(),
        fixed: typed.requested_ips().iter().map(|ip| ip.ip).collect(),
        within: windows.collect(),
        mac: typed.requested_mac(),
    }
}

fn lease_error(fault: &LeaseFault) -> Error {
    let code = match fault {
        LeaseFault::Full { .. } => Code::NoFreeAddress,
        LeaseFault::NoRange { .. } => Code::TryAgainLater,
        LeaseFault::Different { .. } => Code::InterfaceExists,
        LeaseFault::Unknown(_) | LeaseFault::RangesOverlap(..) | LeaseFault::NoFamily { .. } => Code::Internal,
        _ => Code::AddressRefused,
    };
    Error::new(code, fault.to_string())
}

fn step_error(fault: &StepFault) -> Error {
    let code = match fault.cause {
        FaultCause::Namespace => Code::InvalidEnvironment,
        FaultCause::Foreign => Code::InterfaceExists,
        FaultCause::Permission => Code::NotPermitted,
        FaultCause::Other => Code::Kernel,
    };
    let variable = if fault.cause == FaultCause::Namespace { "CNI_NETNS: " } else { "" };
    Error::new(code, format!("{variable}{}", fault.text))
}
