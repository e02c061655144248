//! Tracked connections to Services: those to an endpoint that is gone are forgotten, so that the next packet finds another.
//!
//! Only UDP's, and TCP's where the Service wants that: others end by themselves, as their ends please. And what was sent to a frontend before
//! it was served and has no answer: a client that tries again from the same port would be sent to nobody again. What is forgotten hangs on steps
//! that take endpoints away, in an order in which a crash loses nothing: first nobody gets there any more, then connections are
//! forgotten, then the endpoint's element goes. One that is replaced in its slot, which is one transaction, is looked for again when an
//! agent starts ([`ServiceFlows`](ripstop_netmodel::ServiceFlows)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_netmodel::{
    Entry, FrontendFlows, Key, NFT_IPVS_TABLE, NFT_SERVICES_TABLE, NFT_TABLE, Object, RESET_MARK, is_services_table,
};
use ripstop_nft::model::{Data, ElementBody, ElementKey, KeyPart, Name, TableFamily, Value};
use ripstop_plan::{Action, Step};

use super::run::Run;
use crate::error::Fault;
use crate::netlink::{NetlinkError, Socket};
use crate::observe::nft::elements_of;
use crate::wire::flow::{self, End, Flow};

/// IANA's numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// An endpoint of a frontend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lead {
    protocol: u8,
    to: End,
    endpoint: End,
}

/// What an element of the endpoints says, and whether its connections are to be forgotten when it goes. They are a map from slots, or
/// a set where something else draws.
fn read(key: &ElementKey, body: &ElementBody) -> Option<(Lead, bool)> {
    if !is_services_table(key.table.as_str()) || key.set.as_str() != "endpoints" {
        return None;
    }
    let value = |part: &KeyPart| if let KeyPart::Value(value) = part { Some(value.clone()) } else { None };
    let parts: Vec<Value> = key.key.parts.iter().filter_map(value).collect();
    let [ip, Value::Proto(protocol), Value::Service(port), behind @ ..] = &parts[..] else { return None };
    let (endpoint, endpoint_port) = match (&body.data, behind) {
        (Some(Data::Values(values)), [_]) => match &values[..] {
            [endpoint, Value::Service(port)] => (endpoint, port),
            _ => return None,
        },
        (None, [endpoint, Value::Service(port)]) => (endpoint, port),
        _ => return None,
    };
    let lead = Lead { protocol: *protocol, to: (address(ip)?, *port), endpoint: (address(endpoint)?, *endpoint_port) };
    let is_reset = body.comment.as_ref().is_some_and(|comment| comment.as_str().starts_with(RESET_MARK));
    Some((lead, *protocol == UDP || *protocol == TCP && is_reset))
}

fn address(value: &Value) -> Option<IpAddr> {
    match value {
        Value::Ipv4(ip) => Some((*ip).into()),
        Value::Ipv6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn element(entry: Option<&Entry>) -> Option<(Lead, bool)> {
    match &entry?.object {
        Object::NftElement(element) => read(&element.key, &element.body),
        _ => None,
    }
}

/// Whether a step is about an endpoint's slot.
pub(super) fn is_of_an_endpoint(step: &Step) -> bool {
    matches!(&step.key, Key::NftElement(key) if is_services_table(key.table.as_str()) && key.set.as_str() == "endpoints")
}

/// What a step about a host port of UDP brings: the port, and where it leads from now on; nowhere where it goes.
fn host_port(step: &Step) -> Option<(u16, Option<End>)> {
    let Key::NftElement(key) = &step.key else { return None };
    if key.table.as_str() != NFT_TABLE || !key.set.as_str().starts_with("host-") {
        return None;
    }
    let [.., KeyPart::Value(Value::Proto(UDP)), KeyPart::Value(Value::Service(port))] = &key.key.parts[..] else {
        return None;
    };
    let Some(after) = step.after.as_deref() else { return Some((*port, None)) };
    Some((*port, Some(leads_to(after)?)))
}

/// The pod's end that a host port leads to.
fn leads_to(entry: &Entry) -> Option<End> {
    let Object::NftElement(element) = &entry.object else { return None };
    let Some(Data::Values(values)) = &element.body.data else { return None };
    let [ip, Value::Service(to)] = &values[..] else { return None };
    Some((address(ip)?, *to))
}

impl Run<'_> {
    /// Forgets flows of UDP to host ports that changed: those that lead to a pod that no longer has one, and those that began when nobody
    /// had it, so that the next packet finds who has it now. Those that are passed on to other machines are none of them.
    pub(super) fn forget_host_ports(&mut self, steps: &[usize]) {
        let mut gone: BTreeSet<(u16, End)> = BTreeSet::new();
        let mut come: BTreeMap<u16, End> = BTreeMap::new();
        for step in steps.iter().filter_map(|i| self.steps.get(*i)) {
            let Some((port, to)) = host_port(step) else { continue };
            let before = step.before.as_deref().and_then(leads_to);
            gone.extend(before.filter(|before| Some(*before) != to).map(|before| (port, before)));
            come.extend(to.map(|to| (port, to)));
        }
        let all = gone.iter().map(|(_, end)| end).chain(come.values());
        let families: BTreeSet<bool> = all.map(|(ip, _)| ip.is_ipv4()).collect();
        for is_v4 in families {
            let family: IpAddr = if is_v4 { [0; 4].into() } else { [0u16; 8].into() };
            let found = read_flows(&mut self.applier.nft, &flow::dump_all(UDP, family));
            let of_host = |flow: &Flow| is_own(flow.to.0);
            self.forget_of(found, |flow| {
                let is_over = gone.contains(&(flow.to.1, flow.from));
                let is_early = flow.from == flow.to && come.contains_key(&flow.to.1) && of_host(flow);
                is_over || is_early
            });
        }
    }

    /// What these steps take away and no step of this run puts into another slot.
    pub(super) fn taken_away(&self, steps: &[usize]) -> BTreeSet<Lead> {
        let removed = steps.iter().filter_map(|i| self.steps.get(*i)).filter(|step| step.action == Action::Delete);
        let mut leads: BTreeSet<Lead> = removed
            .filter_map(|step| element(step.before.as_deref()))
            .filter_map(|(lead, is_forgotten)| is_forgotten.then_some(lead))
            .collect();
        if !leads.is_empty() {
            let kept = self.steps.iter().filter_map(|step| element(step.after.as_deref()));
            kept.for_each(|(lead, _)| {
                leads.remove(&lead);
            });
        }
        leads
    }

    /// Forgets the connections that lead there.
    pub(super) fn forget(&mut self, leads: &BTreeSet<Lead>) {
        if !leads.is_empty() {
            self.purge_all();
        }
        let frontends: BTreeSet<(u8, End)> = leads.iter().map(|lead| (lead.protocol, lead.to)).collect();
        let is_over = |flow: &Flow| leads.contains(&Lead { protocol: flow.protocol, to: flow.to, endpoint: flow.from });
        for (protocol, to) in frontends {
            let found = read_flows(&mut self.applier.nft, &flow::dump_to(protocol, to));
            self.forget_of(found, is_over);
        }
    }

    /// Looks at all connections to what the kernel has as frontends.
    pub(super) fn check_flows(&mut self) -> Result<(), Fault> {
        let tables = [NFT_SERVICES_TABLE, NFT_IPVS_TABLE];
        let in_table = |table| {
            [TableFamily::Ip, TableFamily::Ip6].map(|family| (family, Name::from(table), Name::from("endpoints")))
        };
        let there = elements_of(&mut self.applier.nft, &tables.into_iter().flat_map(in_table).collect());
        let there = there.map_err(|error| Fault::refused(&error, None))?;
        let mut endpoints: BTreeMap<(u8, End), BTreeSet<End>> = BTreeMap::new();
        let mut held: BTreeSet<(u8, End)> = BTreeSet::new();
        for (lead, is_held) in there.iter().filter_map(|(key, body)| read(key, body)) {
            let frontend = (lead.protocol, lead.to);
            endpoints.entry(frontend).or_default().insert(lead.endpoint);
            if is_held {
                held.insert(frontend);
            }
        }
        let kinds: BTreeSet<(u8, bool)> =
            endpoints.keys().map(|(protocol, (ip, _))| (*protocol, ip.is_ipv4())).collect();
        for (protocol, is_v4) in kinds {
            let family: IpAddr = if is_v4 { [0; 4].into() } else { [0u16; 8].into() };
            let found = read_flows(&mut self.applier.nft, &flow::dump_all(protocol, family));
            self.forget_of(found, |flow| {
                let frontend = (flow.protocol, flow.to);
                let is_lost = flow.from == flow.to && !flow.is_answered;
                let is_over =
                    |right: &BTreeSet<End>| !right.contains(&flow.from) && (is_lost || held.contains(&frontend));
                endpoints.get(&frontend).is_some_and(is_over)
            });
        }
        Ok(())
    }

    /// Holds connections to frontends to where they may lead. Behind all rules of the run: nobody gets elsewhere any more.
    pub(super) fn flush_leading(&mut self) {
        let waiting = std::mem::take(&mut self.leading);
        if waiting.is_empty() || self.stopped() {
            return;
        }
        let steps = self.steps;
        let mut frontends: BTreeMap<(u8, End), Right> = BTreeMap::new();
        for step in waiting.iter().map(|step| &steps[*step]) {
            let (before, after) = (leading(step.before.as_deref()), leading(step.after.as_deref()));
            let Some(of) = after.or(before) else { continue };
            let right = match (before, after) {
                // What went to it before there was a frontend was sent to nobody.
                (None, Some(after)) => Right::Only(&after.endpoints),
                (Some(before), after) => {
                    let stays = |end: &&End| after.is_some_and(|after| after.endpoints.contains(*end));
                    Right::Not(before.endpoints.iter().filter(|end| !stays(end)).collect())
                }
                (None, None) => continue,
            };
            if !matches!(&right, Right::Not(gone) if gone.is_empty()) {
                frontends.insert((of.protocol, of.to), right);
            }
        }
        let is_over = |flow: &Flow| match frontends.get(&(flow.protocol, flow.to)) {
            Some(Right::Only(right)) => !right.contains(&flow.from),
            Some(Right::Not(gone)) => gone.contains(&flow.from),
            None => false,
        };
        // Each look goes over the whole table: of many frontends one look is quicker.
        let kinds: BTreeSet<(u8, bool)> = frontends.keys().map(|(kind, (ip, _))| (*kind, ip.is_ipv4())).collect();
        for (protocol, is_v4) in kinds {
            let mut of_kind = frontends.keys().filter(|(kind, (ip, _))| *kind == protocol && ip.is_ipv4() == is_v4);
            let request = match (of_kind.next(), of_kind.next()) {
                (Some((_, to)), None) => flow::dump_to(protocol, *to),
                _ => flow::dump_all(protocol, if is_v4 { [0; 4].into() } else { [0u16; 8].into() }),
            };
            let found = read_flows(&mut self.applier.nft, &request);
            self.forget_of(found, is_over);
        }
        waiting.into_iter().for_each(|step| self.settle(step, Ok(())));
    }

    fn forget_of(&mut self, found: Result<Vec<Flow>, NetlinkError>, is_over: impl Fn(&Flow) -> bool) {
        let over = match found {
            Ok(flows) => flows.into_iter().filter(is_over).map(|flow| flow.delete()).collect(),
            Err(error) => return self.tell_of_flows(&error),
        };
        let answers = self.applier.nft.batch(over);
        // One that has ended meanwhile is what was wanted.
        let refused = answers.into_iter().filter_map(|answer| answer.result.err());
        if let Some(error) = refused.into_iter().find(|error| error.errno != libc::ENOENT) {
            self.tell_of_flows(&error);
        }
    }

    fn tell_of_flows(&mut self, error: &NetlinkError) {
        if !std::mem::replace(&mut self.applier.told_of_flows, true) {
            tracing::warn!(
                "tracked connections cannot be looked at ({error}): UDP clients of a Service may stay with an endpoint that is gone \
                 until their connection times out"
            );
        }
    }
}

/// Where connections to a frontend may lead.
enum Right<'a> {
    Only(&'a BTreeSet<End>),
    Not(BTreeSet<&'a End>),
}

fn leading(entry: Option<&Entry>) -> Option<&FrontendFlows> {
    match &entry?.object {
        Object::FrontendFlows(flows) => Some(flows),
        _ => None,
    }
}

/// Whether an address is this host's: only of these a socket can be bound to.
fn is_own(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

fn read_flows(socket: &mut Socket, request: &crate::netlink::Message) -> Result<Vec<Flow>, NetlinkError> {
    Ok(socket.dump(request)?.iter().filter_map(Flow::read).collect())
}
