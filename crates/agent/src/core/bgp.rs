//! What this node's speaker of BGP is to be: with whom it speaks, what it tells and what it takes.
//!
//! Not here: sessions and routes (`ripstop_bgp`), and reading passwords: where they are goes along with what is wanted.
//!
//! Invariants: the same tables give the same plan; nothing is spoken where no network is carried by BGP and no peer is this node's;
//! an external peer without a filter is told what begins at this node, and nothing is taken from it; no filter lets in what would
//! cut off this node, its pods or its neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ripstop_bfd::Timers;
use ripstop_bgp::rib::policy::{Filter, Match, PrefixMatch, Rule, Set};
use ripstop_bgp::rib::{MedScope, PeerConfig, RibConfig};
use ripstop_bgp::session::{Config, ListenRange, PeerAs, SocketOptions};
use ripstop_bgp::wire::{LargeCommunity, NextHop};
use ripstop_fabric::host;
use ripstop_objects::bgp::{
    Bfd, BgpConfiguration, BgpPeer, Community, DEFAULT_PORT, FilterRule, Operation, PasswordSource, PeerAs as WantedAs,
    PeerNodes, PeerPlace,
};
use ripstop_objects::pool::AnnouncedBy;
use ripstop_objects::{BackendKind, FLANNEL_MACHINE, Network, NodeRecord, ObjectKind};
use ripstop_speaker::bgp::{Peer, PeerKey, Range, Setup};
use ripstop_tables::{Change, Knowledge, StoreKind, Tables, Withdrawn};
use ripstop_types::{Family, Fnv1a as _, IfName, Labels, Millis, Prefix};

use super::announce::Announcement;
use super::{Core, Level, Output, announce};

/// Milliseconds between tries to connect.
const CONNECT_RETRY: u64 = 2_000;

/// How long, in milliseconds, a session with another node outlives the wish for it: what that node told comes from others by then.
const LINGER: u64 = 10_000;

/// The address of a peer that is to be found.
const NOT_KNOWN: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Next hops that are used together, as far as a kernel's route can have them.
const MULTIPATH: usize = 8;

/// What is wanted of the speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpPlan {
    /// What it is to be, but for passwords.
    pub setup: Setup,
    /// Where passwords are.
    pub passwords: BTreeMap<PasswordOf, PasswordSource>,
    /// The kernel went on forwarding by what a speaker before this one had brought.
    pub restarted: bool,
    /// What people wrote that cannot be done.
    pub faults: Vec<String>,
}

/// Whose password it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PasswordOf {
    /// A peer's.
    Peer(PeerKey),
    /// That of peers from a range.
    Range(Prefix),
}

/// What the core remembers of BGP.
#[derive(Debug, Default)]
pub(super) struct Bgp {
    told: Option<Arc<BgpPlan>>,
    due: bool,
    restarted: bool,
    faults: BTreeSet<String>,
    /// Sessions with nodes that are not wanted any more, or not with clients, and when that ends.
    lingering: BTreeMap<PeerKey, Millis>,
}

impl Core {
    /// What is known of routes at the start is from the last run.
    pub(super) fn begin_bgp(&mut self) {
        self.bgp.due = true;
        self.bgp.restarted = !self.tables.cluster.bgp.routes.is_empty();
    }

    /// Something changed that the plan hangs on.
    pub(super) fn note_for_bgp(&mut self, changes: &BTreeSet<Change>) {
        let pools = self.tables.cluster.pools.values();
        let tells_balanced = pools.flat_map(|row| &row.value.announce).any(|way| way.by == AnnouncedBy::Bgp);
        self.bgp.due |= changes.iter().any(|change| match change {
            Change::Network(_)
            | Change::Node(_)
            | Change::Claim(_)
            | Change::Blocks(_)
            | Change::Facts
            | Change::Known(_)
            | Change::Migration(_)
            | Change::Withdrawn => true,
            Change::Object(kind) => matches!(kind, ObjectKind::Node | ObjectKind::AddressPool) || kind.is_of_bgp(),
            Change::Service(_) | Change::Proxy => tells_balanced,
            _ => false,
        });
    }

    /// Says what the speaker is to be, if that is news.
    pub(super) fn refresh_bgp(&mut self) {
        let now = self.at.now;
        let ended = self.bgp.lingering.values().any(|until| *until <= now);
        if self.held || !(std::mem::take(&mut self.bgp.due) || ended) {
            return;
        }
        let mut plan = plan(&self.tables, self.bgp.restarted);
        if let Some(plan) = &mut plan {
            self.linger(plan);
        }
        let plan = plan.map(Arc::new);
        let is_read = self.tables.knowledge(StoreKind::Networks) != Knowledge::Unknown;
        if plan.is_none() && is_read && !wants_any(&self.tables) && self.tables.cluster.bgp.forget() {
            self.changes.insert(Change::Bgp);
        }
        if plan == self.bgp.told {
            return;
        }
        let faults: BTreeSet<String> = plan.iter().flat_map(|plan| plan.faults.iter().cloned()).collect();
        for fault in faults.difference(&self.bgp.faults.clone()) {
            self.log(Level::Warn, fault.clone());
        }
        self.bgp.faults = faults;
        self.bgp.told.clone_from(&plan);
        self.outputs.push(Output::Bgp(plan));
    }

    /// Has sessions with nodes that are there still, and reflecting to them, go on for a while: when reflectors change, others stand
    /// by then.
    fn linger(&mut self, plan: &mut BgpPlan) {
        let before = std::mem::take(&mut self.bgp.lingering);
        let Some(told) = self.bgp.told.clone() else { return };
        let is_node = |key: &PeerKey| {
            self.tables.peers().any(|row| row.value.addresses.iter().any(|address| address.ip == key.address))
        };
        for peer in told.setup.peers.iter().filter(|peer| is_node(&peer.key())) {
            let wanted = plan.setup.peers.iter_mut().find(|one| one.key() == peer.key());
            let ends_reflecting = |one: &Peer| peer.routes.reflector_client && !one.routes.reflector_client;
            if wanted.as_deref().is_some_and(|one| !ends_reflecting(one)) {
                continue;
            }
            let until = before.get(&peer.key()).copied().unwrap_or_else(|| self.at.now.plus(LINGER));
            if until <= self.at.now {
                continue;
            }
            self.bgp.lingering.insert(peer.key(), until);
            if let Some(one) = wanted {
                one.routes.reflector_client = true;
                continue;
            }
            let of = PasswordOf::Peer(peer.key());
            plan.passwords.extend(told.passwords.get(&of).map(|source| (of, source.clone())));
            plan.setup.peers.push(peer.clone());
        }
    }

    /// What deserves a look, in sentences.
    pub(super) fn bgp_warnings(&self) -> impl Iterator<Item = String> {
        let faults = self.tables.cluster.bgp.faults.iter().map(|fault| format!("BGP: {fault}"));
        self.bgp.faults.iter().cloned().chain(faults)
    }
}

/// What the speaker is to be; none where nothing is spoken.
fn plan(tables: &Tables, restarted: bool) -> Option<BgpPlan> {
    if tables.withdrawn == Withdrawn::Everything {
        return None;
    }
    let configuration = tables.cluster.bgp.configuration();
    let own_labels = tables.labels_of(&tables.node);
    if !wants_any(tables) {
        return None;
    }
    let site = Site::of(tables, &configuration)?;
    let port = configuration.listen_port;
    let by_link = |peer: &BgpPeer| !matches!(peer.place, PeerPlace::At(_, None) | PeerPlace::Range(..));
    let has_v6 = site.v6.is_some() || outside(tables, &own_labels).any(by_link);
    let wildcards = [(site.v4.is_some(), IpAddr::from([0; 4])), (has_v6, IpAddr::from([0; 16]))];
    let listen = wildcards.into_iter().filter(|(is, _)| *is).map(|(_, ip)| SocketAddr::new(ip, port)).collect();
    let told = announce::all(tables);
    let mut plan = BgpPlan {
        setup: Setup { listen, routes: routes(&told, &configuration), ..Setup::empty(site.rib(&configuration)) },
        passwords: BTreeMap::new(),
        restarted,
        faults: Vec::new(),
    };
    if tables.networks.values().any(|row| carries(&row.value)) {
        site.nodes(&mut plan, tables, &configuration, (&own_labels, &told));
    }
    for peer in outside(tables, &own_labels) {
        site.peer(&mut plan, tables, (peer, &told));
    }
    Some(plan)
}

/// Whether there is anybody to speak with.
fn wants_any(tables: &Tables) -> bool {
    let mut networks = tables.networks.values();
    networks.any(|row| carries(&row.value)) || outside(tables, &tables.labels_of(&tables.node)).next().is_some()
}

/// Peers that people named for this node.
fn outside<'a>(tables: &'a Tables, own_labels: &'a Labels) -> impl Iterator<Item = &'a BgpPeer> {
    tables.cluster.bgp.peers.values().map(|row| &*row.value).filter(|peer| mine(tables, own_labels, peer))
}

fn mine(tables: &Tables, own_labels: &Labels, peer: &BgpPeer) -> bool {
    match &peer.nodes {
        PeerNodes::One(node) => *node == tables.node,
        PeerNodes::Matching(selector) => selector.takes(own_labels),
    }
}

/// Whether it is a peer of this node.
pub(super) fn is_of(tables: &Tables, peer: &BgpPeer) -> bool {
    mine(tables, &tables.labels_of(&tables.node), peer)
}

/// Whether BGP brings the routes to a network's ranges.
fn carries(network: &Network) -> bool {
    network.backends().any(|kind| kind == BackendKind::Bgp)
}

/// This node, as its peers see it.
struct Site {
    local_as: u32,
    router_id: Ipv4Addr,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
    graceful_restart: u16,
}

impl Site {
    /// None before the node has an address.
    fn of(tables: &Tables, configuration: &BgpConfiguration) -> Option<Self> {
        let [v4, v6] = Family::BOTH.map(|family| host::address(tables, family).map(|address| address.ip));
        let router_id = match v4.or(v6)? {
            IpAddr::V4(address) => address,
            // Any number that is this node's alone, and not 0.
            IpAddr::V6(_) => Ipv4Addr::from_bits(u32::of(tables.node.as_str().bytes()) | 1),
        };
        let (local_as, graceful_restart) = (configuration.as_number, configuration.graceful_restart);
        Some(Self { local_as, router_id, v4, v6, graceful_restart })
    }

    fn rib(&self, configuration: &BgpConfiguration) -> RibConfig {
        let cluster_id = configuration.reflectors.as_ref().and_then(|reflectors| reflectors.cluster_id);
        RibConfig {
            router_id: self.router_id,
            cluster_id: cluster_id.unwrap_or(self.router_id),
            multipath: MULTIPATH,
            med: MedScope::SameAs,
        }
    }

    /// What every session of this node has.
    fn session(&self, address: IpAddr, local_as: u32, peer_as: PeerAs) -> Config {
        Config {
            connect_retry: CONNECT_RETRY,
            graceful_restart: Some(self.graceful_restart),
            ..Config::new(address, local_as, peer_as, self.router_id)
        }
    }

    fn routes(&self, address: IpAddr, local_as: u32) -> PeerConfig {
        let as_v4 = |ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None };
        PeerConfig {
            own_v4: self.v4.and_then(as_v4),
            own_v6: self.v6.map(NextHop::from),
            ..PeerConfig::new(address, local_as)
        }
    }

    /// Sessions with other nodes: with each, or with reflectors.
    fn nodes(
        &self,
        plan: &mut BgpPlan,
        tables: &Tables,
        configuration: &BgpConfiguration,
        (own_labels, told): (&Labels, &[Announcement]),
    ) {
        let export =
            hidden(told, None).map(|hidden| Filter { rules: [vec![hidden], Filter::accept_all().rules].concat() });
        let reflectors = configuration.reflectors.as_ref();
        let reflects = |labels: &Labels| reflectors.is_some_and(|reflectors| reflectors.nodes.takes(labels));
        let here = reflects(own_labels);
        for row in tables.peers().filter(|row| row.value.identity.machine_id != FLANNEL_MACHINE) {
            let there = reflectors.is_some() && reflects(&tables.labels_of(&row.value.name));
            let wanted = if reflectors.is_some() { here || there } else { configuration.mesh };
            let Some(address) = self.address_of(&row.value).filter(|_| wanted) else { continue };
            let mut session = self.session(address, self.local_as, PeerAs::Is(self.local_as));
            session.port = configuration.listen_port;
            session.hold_time = configuration.hold_time;
            session.socket.source = if address.is_ipv4() { self.v4 } else { self.v6 };
            let routes = PeerConfig {
                reflector_client: here && !there,
                export: export.clone(),
                ..self.routes(address, self.local_as)
            };
            let peer = Peer { session, routes, bfd: configuration.bfd.map(timers), shut_down: None };
            if let Some(password) = &configuration.password {
                plan.passwords.insert(PasswordOf::Peer(peer.key()), password.clone());
            }
            plan.setup.peers.push(peer);
        }
    }

    /// Where a node is spoken to: IPv4 if both have it.
    fn address_of(&self, peer: &NodeRecord) -> Option<IpAddr> {
        let has = |family| if family == Family::V4 { self.v4.is_some() } else { self.v6.is_some() };
        Family::BOTH.into_iter().filter(|family| has(*family)).find_map(|family| Some(peer.address(family)?.ip))
    }

    /// A peer that people named.
    fn peer(&self, plan: &mut BgpPlan, tables: &Tables, (peer, told): (&BgpPeer, &[Announcement])) {
        let local_as = peer.local_as.unwrap_or(self.local_as);
        let (peer_as, external) = match peer.as_number {
            WantedAs::Is(asn) => (PeerAs::Is(asn), asn != local_as),
            WantedAs::External => (PeerAs::External, true),
            WantedAs::Internal => (PeerAs::Internal, false),
        };
        let (at, interface) = place(&peer.place);
        let no_link = interface.as_ref().and_then(|link| without_link(tables, link));
        let session = Config {
            port: at.port(),
            hold_time: peer.hold_time,
            passive: peer.passive,
            socket: SocketOptions {
                source: peer.source,
                interface,
                security_hops: peer.security_hops,
                multihop: peer.multihop,
                password: None,
            },
            ..self.session(at.ip(), local_as, peer_as)
        };
        let (import, export) = filters(plan, tables, (peer, told), external);
        let routes = PeerConfig {
            import,
            export,
            reflector_client: peer.reflector_client,
            next_hop_self: peer.next_hop_self,
            allow_own_as: peer.allowed_local_as,
            max_prefixes: Some(peer.max_prefixes),
            ..self.routes(at.ip(), local_as)
        };
        let bfd = peer.bfd.map(timers);
        let of = match peer.place {
            PeerPlace::At(..) | PeerPlace::OnLink(_) => {
                let shut_down = peer.shutdown.as_ref().map(ToString::to_string).or(no_link);
                let made = Peer { session, routes, bfd, shut_down };
                let key = made.key();
                if plan.setup.peers.iter().any(|other| other.key() == key) {
                    let text =
                        format!("bgppeer/{}: {key} is a peer already, by another object or as a node", peer.name);
                    plan.faults.push(text);
                    return;
                }
                plan.setup.peers.push(made);
                PasswordOf::Peer(key)
            }
            PeerPlace::Range(range, limit) => {
                let listen = ListenRange { range, template: session, limit: limit.into() };
                if peer.shutdown.is_none() {
                    plan.setup.ranges.push(Range { listen, routes, bfd });
                }
                PasswordOf::Range(range)
            }
        };
        if let Some(password) = &peer.password {
            plan.passwords.insert(of, password.clone());
        }
    }
}

/// The address and the port of a peer, and its link.
fn place(place: &PeerPlace) -> (SocketAddr, Option<IfName>) {
    match place {
        PeerPlace::At(at, interface) => (*at, interface.clone()),
        PeerPlace::OnLink(link) => (SocketAddr::new(NOT_KNOWN, DEFAULT_PORT), Some(link.clone())),
        PeerPlace::Range(range, _) => (SocketAddr::new(range.addr(), 0), None),
    }
}

/// Why nobody is spoken with on a link, if nobody can be: whoever was found there has to be found anew.
fn without_link(tables: &Tables, link: &IfName) -> Option<String> {
    match tables.facts.links.get(link) {
        None => Some(format!("this node has no link {link}")),
        Some(found) if !found.running => Some(format!("the link {link} is down")),
        Some(_) => None,
    }
}

fn timers(bfd: Bfd) -> Timers {
    let ms = |value: u32| Duration::from_millis(value.into());
    Timers { desired_min_tx: ms(bfd.transmit), required_min_rx: ms(bfd.receive), multiplier: bfd.multiplier }
}

/// What begins here, with communities by what it is inside of.
fn routes(told: &[Announcement], configuration: &BgpConfiguration) -> BTreeMap<Prefix, Vec<Set>> {
    let mut routes = BTreeMap::new();
    for one in told {
        let fitting = configuration.advertisements.iter().filter(|by| by.cidr.covers(&one.prefix));
        let mut communities: Vec<Community> = fitting.flat_map(|by| by.communities.clone()).collect();
        communities.extend(&one.communities);
        communities.sort();
        communities.dedup();
        routes.entry(one.prefix).or_insert_with(|| communities.into_iter().map(add).collect());
    }
    routes
}

fn add(community: Community) -> Set {
    match community {
        Community::Standard(value) => Set::AddCommunity(value),
        Community::Large(one, two, three) => Set::AddLarge(LargeCommunity(one, two, three)),
    }
}

/// What is taken from a peer that is no node, and what it is told.
fn filters(
    plan: &mut BgpPlan,
    tables: &Tables,
    (peer, told): (&BgpPeer, &[Announcement]),
    external: bool,
) -> (Option<Filter>, Option<Filter>) {
    let (mut import, mut export) = (Vec::new(), Vec::new());
    for name in &peer.filters {
        let Some(filter) = tables.cluster.bgp.filters.get(name) else {
            let text = format!("bgppeer/{}: there is no BgpFilter {name}, so nothing is taken or told", peer.name);
            plan.faults.push(text);
            return (Some(Filter::default()), Some(Filter::default()));
        };
        let rules = |rules: &[FilterRule], what: &str| -> Vec<Rule> {
            let named = rules.iter().enumerate();
            named.map(|(place, rule)| compiled(format!("{name} {what} {}", place + 1), rule)).collect()
        };
        import.extend(rules(&filter.value.import, "import"));
        export.extend(rules(&filter.value.export, "export"));
    }
    let own: Vec<PrefixMatch> = plan.setup.routes.keys().copied().map(PrefixMatch::exact).collect();
    let import = match import {
        none if none.is_empty() && external => Vec::new(),
        none if none.is_empty() => [guards(tables), Filter::accept_all().rules].concat(),
        rules => [guards(tables), rules].concat(),
    };
    let export = match export {
        none if none.is_empty() && external => {
            let matches = Match { prefixes: own.clone(), ..Match::default() };
            let name = "what begins at this node".to_owned();
            let rule = Rule { name, matches, accept: true, set: Vec::new() };
            // A rule about no prefix would be about all.
            Some(if own.is_empty() { Vec::new() } else { vec![rule] })
        }
        none if none.is_empty() => None,
        rules => Some(others(tables, own).into_iter().chain(rules).collect()),
    };
    let hidden = hidden(told, Some(&peer.name));
    let export = match (hidden, export) {
        (Some(hidden), None) => Some([vec![hidden], Filter::accept_all().rules].concat()),
        (hidden, export) => export.map(|rules| hidden.into_iter().chain(rules).collect()),
    };
    (Some(Filter { rules: import }), export.map(|rules| Filter { rules }))
}

/// That a peer, or a node, is not told what is for others; none where it is told all.
fn hidden(told: &[Announcement], peer: Option<&str>) -> Option<Rule> {
    let others = told.iter().filter(|one| !one.to.has(peer));
    let prefixes: Vec<PrefixMatch> = others.map(|one| PrefixMatch::exact(one.prefix)).collect();
    let matches = Match { prefixes, ..Match::default() };
    let name = "addresses of Services that are told to other peers".to_owned();
    (!matches.prefixes.is_empty()).then_some(Rule { name, matches, accept: false, set: Vec::new() })
}

/// What nobody outside may tell, whatever filters say: it would cut off pods of this node, the cluster's own ranges, where nodes
/// tell each other of these, or its neighbours.
fn guards(tables: &Tables) -> Vec<Rule> {
    let refuse = |(name, prefix): (String, Prefix)| Rule {
        name,
        matches: Match { prefixes: vec![PrefixMatch::inside(prefix)], ..Match::default() },
        accept: false,
        set: Vec::new(),
    };
    let own = tables.ranges_of.get(&tables.node).into_iter().flatten();
    let own = own.map(|(_, range)| (format!("guard: {range} is this node's"), *range));
    let subnets = host::addresses(tables).into_iter();
    let subnets = subnets.map(|one| (format!("guard: {} is a subnet of this node", one.prefix), one.prefix));
    let nodes_tell = whole(tables, |network| is_told_by_nodes(tables, network) && !is_auto(network));
    let cluster = nodes_tell.map(|range| (format!("guard: {range} is the cluster's, and its nodes tell it"), range));
    let never = NEVER.iter().filter_map(|text| text.parse().ok());
    let never = never.map(|prefix: Prefix| (format!("guard: {prefix} is no destination of routes"), prefix));
    own.chain(subnets).chain(cluster).chain(never).map(refuse).collect()
}

/// This host, links and groups.
const NEVER: [&str; 6] = ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8"];

/// Whether nobody outside need tell where ranges of a network are, nor be told by another node: nodes have sessions with each other, or
/// no need of BGP.
fn is_told_by_nodes(tables: &Tables, network: &Network) -> bool {
    let configuration = tables.cluster.bgp.configuration();
    configuration.mesh || configuration.reflectors.is_some() || !carries(network)
}

/// Whether packets to nodes of other subnets go without a tunnel where routers know the way.
fn is_auto(network: &Network) -> bool {
    network.backends().any(|kind| kind == BackendKind::Auto)
}

/// The ranges of some networks.
fn whole(tables: &Tables, of: impl Fn(&Network) -> bool) -> impl Iterator<Item = Prefix> {
    let networks = tables.networks.values().map(|row| &row.value).filter(move |network| of(network));
    networks
        .flat_map(|network| network.spec.families().flat_map(|family| network.spec.whole(family)).collect::<Vec<_>>())
}

/// That ranges of other nodes are not told on, where these can do so themselves: packets would come by way of this node.
fn others(tables: &Tables, own: Vec<PrefixMatch>) -> Option<Rule> {
    let told = whole(tables, |network| is_told_by_nodes(tables, network));
    let prefixes: Vec<PrefixMatch> = told.map(PrefixMatch::inside).collect();
    let name = "guard: other nodes tell their ranges themselves".to_owned();
    let matches = Match { prefixes, except: own, ..Match::default() };
    (!matches.prefixes.is_empty()).then_some(Rule { name, matches, accept: false, set: Vec::new() })
}

fn compiled(name: String, rule: &FilterRule) -> Rule {
    let about = PrefixMatch { within: rule.within, least: rule.least, most: rule.most };
    let all = Prefix::containing(rule.within.addr(), 0).map(PrefixMatch::inside);
    let (prefixes, except) =
        if rule.others { (all.into_iter().collect(), vec![about]) } else { (vec![about], Vec::new()) };
    let mut matches = Match { prefixes, except, through: rule.through.clone(), ..Match::default() };
    for community in &rule.communities {
        match *community {
            Community::Standard(value) => matches.communities.push(value),
            Community::Large(one, two, three) => matches.large_communities.push(LargeCommunity(one, two, three)),
        }
    }
    let set = rule.operations.iter().flat_map(|operation| match operation {
        Operation::LocalPreference(value) => vec![Set::LocalPref(*value)],
        Operation::Med(value) => vec![Set::Med(Some(*value))],
        // The last one that is put before stands first.
        Operation::PrependAsPath(path) => path.iter().rev().map(|asn| Set::Prepend(*asn, 1)).collect(),
        Operation::AddCommunity(community) => vec![add(*community)],
        Operation::RemoveCommunity(Community::Standard(value)) => vec![Set::RemoveCommunity(*value)],
        Operation::RemoveCommunity(Community::Large(one, two, three)) => {
            vec![Set::RemoveLarge(LargeCommunity(*one, *two, *three))]
        }
    });
    Rule { name, matches, accept: rule.accept, set: set.collect() }
}
