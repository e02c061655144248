//! What a Service adds: chains of its own, and entries that lead there.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_netmodel::{
    CLUSTER_IPS_CHAIN, Entry, FRONTENDS_CHAIN, FrontendFlows, HAIRPIN_CHAIN, IptablesTable, OTHERS_CHAIN, PORTS_CHAIN,
};
use ripstop_nft::model::IfPattern;
use ripstop_objects::service::Protocol;
use ripstop_services::{Backend, Decision, Entry as Entrance, Frontend, Node, Target, decide};
use ripstop_tables::ServiceTables;
use ripstop_types::{Family, Owner, Prefix, ServiceName};

use super::base::MARK_CLUSTER;
use super::{Place, from, hashed, host, mark, of_pods, reject};
use crate::Part;
use crate::services::{Reach, Scope};

/// The objects of a Service. `links` are those that this node's pods send by, where they are told by that.
#[must_use]
pub fn objects(
    place: Place,
    links: Option<&IfPattern>,
    node: &Node,
    tables: &ServiceTables,
    name: &ServiceName,
) -> Vec<Entry> {
    let decided = decide(node, tables, name);
    let mut adding = Adding { part: Part::of(Owner::service(name)), place, links, node, written: BTreeSet::new() };
    for ip in decided.cluster_ips.iter().filter(|ip| place.has(Family::of(**ip))) {
        adding.filter(*ip, CLUSTER_IPS_CHAIN, &format!("-d {}", host(*ip)), reject(Family::of(*ip)));
    }
    for ip in decided.others_ips.iter().filter(|ip| place.has(Family::of(**ip))) {
        adding.filter(*ip, OTHERS_CHAIN, &format!("-d {}", host(*ip)), "-j RETURN");
    }
    let mut endpoints: BTreeSet<IpAddr> = BTreeSet::new();
    for (frontend, decision) in decided.frontends.iter().filter(|(frontend, _)| place.has(Family::of(frontend.ip))) {
        adding.frontend(frontend, decision);
        adding.flows(frontend, decision);
        let backends = [Some(&decision.inside), decision.outside.as_ref()].into_iter().flatten().filter_map(backends);
        endpoints.extend(backends.flat_map(|backends| backends.iter()).map(|backend| backend.ip));
    }
    // A pod of this node that reaches itself has to see another source than its own.
    for ip in endpoints.into_iter().filter(|ip| node.may_be_here(*ip)) {
        let itself = format!("-s {0} -d {0}", host(ip));
        let entry =
            place.entry(Family::of(ip), IptablesTable::Nat, HAIRPIN_CHAIN, &itself, "-j MASQUERADE --random-fully");
        adding.part.add(entry);
    }
    adding.part.entries
}

fn backends(target: &Target) -> Option<&Arc<BTreeSet<Backend>>> {
    match target {
        Target::Backends(backends) => Some(backends),
        Target::Reject | Target::Drop => None,
    }
}

struct Adding<'a> {
    part: Part,
    place: Place,
    links: Option<&'a IfPattern>,
    node: &'a Node,
    /// Chains that are made already: several frontends lead there.
    written: BTreeSet<Arc<str>>,
}

impl Adding<'_> {
    fn filter(&mut self, ip: IpAddr, chain: &str, of: &str, target: &str) {
        self.part.add(self.place.entry(Family::of(ip), IptablesTable::Filter, chain, of, target));
    }

    fn frontend(&mut self, frontend: &Frontend, decision: &Decision) {
        let tree = if self.node.node_port_addresses.contains(&frontend.ip) { PORTS_CHAIN } else { FRONTENDS_CHAIN };
        let at = format!("-d {} -p {} --dport {}", host(frontend.ip), word(frontend.protocol), frontend.port);
        let family = Family::of(frontend.ip);
        if let Some(chain) = self.entrance(frontend, decision) {
            let to = format!("-g {chain}");
            match &decision.sources {
                None => self.part.add(self.place.entry(family, IptablesTable::Nat, tree, &at, &to)),
                Some(sources) => {
                    for source in sources {
                        let at = format!("{}{at}", from(source));
                        self.part.add(self.place.entry(family, IptablesTable::Nat, tree, &at, &to));
                    }
                }
            }
        }
        // Of what is not sent on: who comes from elsewhere than its endpoints serve, from elsewhere than it permits, or everybody.
        let refusal = match decision.outside.as_ref().unwrap_or(&decision.inside) {
            Target::Reject => Some(reject(family)),
            Target::Drop => Some("-j DROP"),
            Target::Backends(_) => None,
        };
        match (&decision.sources, refusal) {
            (None, None) => {}
            (None, Some(refusal)) => self.filter(frontend.ip, tree, &at, refusal),
            (Some(sources), Some(refusal)) if refusal != "-j DROP" => {
                let fence = self.fence(frontend, decision, sources, refusal);
                self.filter(frontend.ip, tree, &at, &format!("-g {fence}"));
            }
            (Some(_), _) => self.filter(frontend.ip, tree, &at, "-j DROP"),
        }
    }

    /// The chain that refuses who is permitted and drops all others.
    fn fence(&mut self, frontend: &Frontend, decision: &Decision, sources: &[Prefix], refusal: &str) -> Arc<str> {
        let name = self.name("FEN", frontend, decision, &frontend.ip.to_string());
        let rules = sources.iter().map(|source| format!("{}{refusal}", from(source))).chain(["-j DROP".to_owned()]);
        self.chain(frontend, IptablesTable::Filter, &name, rules.collect());
        name
    }

    /// The chain by which a frontend is entered; `None` where nothing is sent on.
    fn entrance(&mut self, frontend: &Frontend, decision: &Decision) -> Option<Arc<str>> {
        let reach = Reach::of(decision, Scope::Inside);
        let inside = backends(&decision.inside).map(|backends| self.drawing(frontend, decision, reach, backends));
        let word = if decision.entry == Entrance::Cluster { "SVC" } else { "EXT" };
        let name = self.name(word, frontend, decision, "");
        let rules = match decision.entry {
            Entrance::Cluster => vec![format!("-j {MARK_CLUSTER}"), format!("-g {}", inside?)],
            Entrance::Anywhere => vec![mark(), format!("-g {}", inside?)],
            Entrance::Local => {
                let outside = decision.outside.as_ref().and_then(backends);
                let outside = outside
                    .map(|backends| self.drawing(frontend, decision, Reach::of(decision, Scope::Outside), backends));
                let inside = inside?;
                let pods = self.node.pods.iter().filter(|range| range.family() == Family::of(frontend.ip));
                let pods = of_pods(pods, self.links).into_iter();
                let mut rules: Vec<String> = pods.map(|from| format!("{from}-g {inside}")).collect();
                let own = "-m addrtype --src-type LOCAL";
                rules.extend([format!("{own} {}", mark()), format!("{own} -g {inside}")]);
                rules.extend(outside.map(|outside| format!("-g {outside}")));
                rules
            }
        };
        self.chain(frontend, IptablesTable::Nat, &name, rules);
        Some(name)
    }

    /// The chain that draws one of these endpoints.
    fn drawing(
        &mut self,
        frontend: &Frontend,
        decision: &Decision,
        reach: Reach,
        backends: &BTreeSet<Backend>,
    ) -> Arc<str> {
        let name = self.name(drawn(reach), frontend, decision, "");
        if self.written.contains(&name) {
            return name;
        }
        let protocol = word(frontend.protocol);
        let list = |backend: &Backend| {
            let full =
                if frontend.ip.is_ipv4() { "255.255.255.255" } else { "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" };
            let list = self.name(drawn(reach), frontend, decision, &backend.to_string());
            format!("--name {list} --mask {full} --rsource ")
        };
        let to = |backend: &Backend| format!("-j DNAT --to-destination {}", SocketAddr::new(backend.ip, backend.port));
        let mut rules = Vec::new();
        if let Some(seconds) = decision.affinity {
            // Where a client is on an endpoint's list it goes there again, and its time begins anew.
            rules.extend(backends.iter().map(|backend| {
                let stays = format!("-m recent --update --seconds {seconds} --reap {}", list(backend));
                format!("-p {protocol} {stays}{}", to(backend))
            }));
        }
        for (left, backend) in (1..=backends.len()).rev().zip(backends) {
            let lists = decision.affinity.map(|_| format!("-m recent --set {}", list(backend))).unwrap_or_default();
            rules.push(format!("-p {protocol} {}{lists}{}", one_of(left), to(backend)));
        }
        self.chain(frontend, IptablesTable::Nat, &name, rules);
        name
    }

    /// A name for a chain, or list, of a Service's port in a family.
    fn name(&self, word: &str, frontend: &Frontend, decision: &Decision, more: &str) -> Arc<str> {
        let family = if frontend.ip.is_ipv4() { "4" } else { "6" };
        let protocol = self::word(frontend.protocol);
        let service = &decision.service;
        let words = [&*service.namespace, &*service.name, &*decision.port, protocol, family, word, more];
        format!("RIPSTOP-{word}-{}", hashed(&words)).into()
    }

    fn chain(&mut self, frontend: &Frontend, table: IptablesTable, name: &Arc<str>, rules: Vec<String>) {
        if self.written.insert(name.clone()) {
            self.part.add(self.place.chain(Family::of(frontend.ip), table, name, rules));
        }
    }

    /// Where connections may lead that do not end by themselves.
    fn flows(&mut self, frontend: &Frontend, decision: &Decision) {
        if frontend.protocol == Protocol::Udp || frontend.protocol == Protocol::Tcp && decision.reset {
            let targets = [Some(&decision.inside), decision.outside.as_ref()];
            let endpoints = targets.into_iter().flatten().filter_map(backends).flat_map(|backends| backends.iter());
            let endpoints = endpoints.map(|backend| (backend.ip, backend.port)).collect();
            let (protocol, to) = (frontend.protocol.number(), (frontend.ip, frontend.port));
            self.part.add(FrontendFlows { protocol, to, endpoints });
        }
    }
}

/// One of so many, as the kernel keeps it: in parts of 2³¹.
fn one_of(count: usize) -> String {
    const WHOLE: f64 = 2_147_483_648.0;
    if count <= 1 {
        return String::new();
    }
    let probability = (WHOLE / count as f64).round() / WHOLE;
    format!("-m statistic --mode random --probability {probability:.11} ")
}

/// How chains are called that draw from these endpoints.
fn drawn(reach: Reach) -> &'static str {
    match reach {
        Reach::Cluster => "ALL",
        Reach::Local => "OWN",
    }
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}
