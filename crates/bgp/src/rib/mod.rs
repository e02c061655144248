//! Routes: what each peer sent, which path is used, and what each peer is told.
//!
//! [`Rib`] takes in UPDATEs and what begins here, and gives [`Output`]s for peers and changed prefixes for the kernel. Paths of all
//! peers to a prefix stand together, so there is no table a peer; what a peer was told follows from the paths and is not kept.
//!
//! Not here: sockets, the kernel's routes.
//!
//! Invariants: the same paths give the same choice in whatever order they came; every set of attributes is kept once, and none
//! that no path has; a peer is never told its own path.

mod change;
mod decision;
mod explain;
mod export;
mod few;
mod intern;
mod ordered;
pub mod policy;
mod prefixes;
mod send;
mod table;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

pub use decision::{Decision, MedScope, Step};
pub use explain::{Explanation, PathExplanation};
use export::{Group, Told};
pub use export::{Held, Output};
pub use few::Few;
use intern::Interner;
use policy::{Filter, Set, Verdict};
use prefixes::ByPrefix;
use ripstop_types::{Family, IfName, Prefix, ScopedAddr};
use send::Sending;
use table::{Path, Paths, Table};
use view::View;

use crate::session::Negotiated;
use crate::wire::{Attributes, Context, Families, NextHop, Nlri, Refresh, RefreshKind, Update};

/// A peer's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl PeerId {
    /// This speaker itself.
    pub const LOCAL: Self = Self(0);
}

/// An update group's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// What holds for all peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RibConfig {
    /// This speaker's router id.
    pub router_id: Ipv4Addr,
    /// The cluster that this reflector is of; several may be one.
    pub cluster_id: Ipv4Addr,
    /// As many paths to a prefix are used together.
    pub multipath: usize,
    /// Which MEDs are compared.
    pub med: MedScope,
}

/// What holds for one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its address.
    pub address: IpAddr,
    /// The link on which it is a neighbour: that of link-local next hops in its routes.
    pub link: Option<IfName>,
    /// The AS as which this speaker comes to it.
    pub local_as: u32,
    /// It is a client of this reflector.
    pub reflector_client: bool,
    /// What is taken from it; an external peer without one gives nothing (RFC 8212).
    pub import: Option<Filter>,
    /// What it is told; an external peer without one is told nothing.
    pub export: Option<Filter>,
    /// This speaker's address for IPv4 routes.
    pub own_v4: Option<Ipv4Addr>,
    /// This speaker's address for IPv6 routes.
    pub own_v6: Option<NextHop>,
    /// It gets this speaker as next hop even if it is internal.
    pub next_hop_self: bool,
    /// How often the own AS may be in a path that it sends: sites of one AS hear of each other through another.
    pub allow_own_as: u8,
    /// As many paths are taken from it.
    pub max_prefixes: Option<u32>,
    /// As many paths to a prefix are sent, where several were agreed on.
    pub paths: usize,
    /// It is told to use any other way (RFC 8326).
    pub shutting_down: bool,
}

impl PeerConfig {
    /// A peer at an address with customary values and no filters.
    #[must_use]
    pub fn new(address: IpAddr, local_as: u32) -> Self {
        Self {
            address,
            link: None,
            local_as,
            reflector_client: false,
            import: None,
            export: None,
            own_v4: None,
            own_v6: None,
            next_hop_self: false,
            allow_own_as: 0,
            max_prefixes: Some(1_000_000),
            paths: 8,
            shutting_down: false,
        }
    }
}

/// More paths came than are allowed: nothing more is taken in until the session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitExceeded {
    /// As many may be.
    pub limit: u32,
}

/// Why a path is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The own AS is in its path.
    Loop(u32),
    /// It began here and was reflected back.
    OwnRoute,
    /// It came through the own cluster.
    OwnCluster,
    /// Its path does not begin with the AS of the external peer.
    FirstAs(Option<u32>, u32),
    /// Its next hop is this speaker.
    OwnNextHop,
    /// Its next hop is link-local, and the peer is a neighbour on no link that is known.
    NoLink,
    /// The filter says so.
    Filter(Verdict),
}

/// What is known of a peer from its last session.
#[derive(Debug, Clone, Copy)]
struct Known {
    external: bool,
    peer_as: u32,
    router_id: Ipv4Addr,
}

#[derive(Debug)]
struct Peer {
    config: PeerConfig,
    known: Option<Known>,
    /// While it is up.
    group: Option<GroupId>,
    context: Context,
    enhanced_refresh: bool,
    paths: u32,
    limited: bool,
    /// Families that are being sent to it from the start.
    sending: VecDeque<Sending>,
    /// Prefixes that wait for it alone, each with the paths it had been told.
    own: ByPrefix<Told>,
    /// It goes with the last of its paths.
    removed: bool,
}

impl Peer {
    fn external(&self) -> bool {
        self.known.is_none_or(|known| known.external)
    }
}

/// All routes.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    peers: BTreeMap<PeerId, Peer>,
    table: Table,
    sets: Interner,
    groups: BTreeMap<GroupId, Group>,
    next_group: u32,
    /// Next hops of which something is known: what they cost, or that they cannot be reached.
    next_hops: BTreeMap<IpAddr, Option<u32>>,
    changed: ByPrefix<()>,
    /// Peers that are gone and paths of which are still there, with the prefix up to which they are not.
    leaving: BTreeMap<(PeerId, Family), Option<Prefix>>,
    deferred: bool,
}

/// As many prefixes are looked at, at once, for paths of a peer that is gone; for more there is [`Rib::work`].
const AT_ONCE: usize = 1_024;

impl Rib {
    /// Without routes and peers.
    #[must_use]
    pub fn new(config: RibConfig) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            table: Table::default(),
            sets: Interner::default(),
            groups: BTreeMap::new(),
            next_group: 0,
            next_hops: BTreeMap::new(),
            changed: ByPrefix::default(),
            leaving: BTreeMap::new(),
            deferred: false,
        }
    }

    /// Takes another configuration: every prefix is decided again, and all peers are told what differs.
    pub fn reconfigure(&mut self, config: RibConfig) {
        if self.config == config {
            return;
        }
        let all = self.prefixes(|_| true);
        self.remember(&all);
        self.config = config;
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.judge_again(id);
        }
        all.into_iter().for_each(|prefix| self.decide_again(prefix));
    }

    /// Makes a peer known, or changes it. Its paths are judged again by another import filter; who gets other terms is told all
    /// again.
    pub fn configure(&mut self, id: PeerId, config: PeerConfig) {
        if self.peers.get(&id).is_some_and(|peer| peer.removed) {
            self.finish(id);
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            let peer = Peer {
                config,
                known: None,
                group: None,
                context: Context::default(),
                enhanced_refresh: false,
                paths: 0,
                limited: false,
                sending: VecDeque::new(),
                own: ByPrefix::default(),
                removed: false,
            };
            self.peers.insert(id, peer);
            return;
        };
        if peer.config.reflector_client != config.reflector_client {
            // Whom its paths go to depends on that.
            self.remember(&self.prefixes(|path| path.peer == id));
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let old = std::mem::replace(&mut peer.config, config);
        let new = &peer.config;
        let judged = (&old.import, old.address, &old.link) != (&new.import, new.address, &new.link);
        let up = peer.group;
        if judged {
            self.judge_again(id);
        }
        if up.is_some() {
            self.change_terms(id);
        }
    }

    /// Forgets a peer with its paths, those that are many by [`Self::work`].
    pub fn remove(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.removed = true;
        }
        self.peer_down(id, Families::default());
    }

    /// A peer's session is there: it is told everything. Its kept paths of other families than `keep` go.
    pub fn peer_up(&mut self, id: PeerId, agreed: &Negotiated, keep: Families) {
        self.finish(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let external = !agreed.context.internal;
        peer.known = Some(Known { external, peer_as: agreed.peer_as, router_id: agreed.peer_id });
        (peer.context, peer.enhanced_refresh, peer.limited) = (agreed.context, agreed.enhanced_refresh, false);
        peer.sending = agreed.context.families.iter().map(Sending::first).collect();
        self.drop_paths(|family, path| path.peer == id && path.stale && !keep.has(family));
        self.join(id);
    }

    /// It is gone; its paths of families in `keep` stay as stale ones. Of others those that are many go by [`Self::work`], so that
    /// nobody waits for it.
    pub fn peer_down(&mut self, id: PeerId, keep: Families) {
        self.leave(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.sending.clear();
            peer.own = ByPrefix::default();
        }
        for family in keep.iter() {
            self.mark_stale(id, family);
        }
        for family in Families::BOTH.iter().filter(|family| !keep.has(*family)) {
            self.part_with(id, family);
        }
        self.work(AT_ONCE);
        self.work(AT_ONCE);
    }

    /// What was kept of a peer goes.
    pub fn expire(&mut self, id: PeerId) {
        self.drop_paths(|_, path| path.peer == id && path.stale);
    }

    /// Takes in an UPDATE; the family of which the peer has sent all, if it says so.
    ///
    /// # Errors
    /// If the peer has sent more than it may: its session is to be ended.
    pub fn update(&mut self, id: PeerId, update: &Update) -> Result<Option<Family>, LimitExceeded> {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.group.is_some()) else { return Ok(None) };
        let limit = peer.config.max_prefixes;
        if peer.limited {
            return Ok(None);
        }
        for nlri in &update.withdrawn {
            self.withdraw_path(id, *nlri);
        }
        for announcement in &update.announced {
            self.announced(id, &announcement.attributes, &announcement.nlri);
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if let Some(limit) = limit.filter(|limit| peer.paths > *limit) {
                peer.limited = true;
                return Err(LimitExceeded { limit });
            }
        }
        if let Some(family) = update.end_of_rib {
            self.drop_paths(|of, path| path.peer == id && path.stale && of == family);
        }
        Ok(update.end_of_rib)
    }

    /// Takes in a ROUTE-REFRESH.
    pub fn refresh(&mut self, id: PeerId, refresh: Refresh) {
        match refresh.kind {
            RefreshKind::Request => {
                if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.context.families.has(refresh.family)) {
                    peer.sending.retain(|one| one.family != refresh.family);
                    peer.sending.push_back(Sending { again: true, ..Sending::first(refresh.family) });
                }
            }
            RefreshKind::Begin => self.mark_stale(id, refresh.family),
            RefreshKind::End => self.drop_paths(|of, path| path.peer == id && path.stale && of == refresh.family),
        }
    }

    /// A route that begins here.
    pub fn originate(&mut self, prefix: Prefix, change: &[Set]) {
        let mut attributes = Attributes::new(export::no_next_hop(prefix.family()));
        change.iter().for_each(|set| set.apply(&mut attributes));
        let id = self.sets.intern(&attributes);
        self.sets.take(id);
        self.put(prefix, PeerId::LOCAL, 0, id, Some(id));
    }

    /// It begins here no more.
    pub fn withdraw(&mut self, prefix: Prefix) {
        self.withdraw_path(PeerId::LOCAL, Nlri::of(prefix));
    }

    /// What it costs to reach a next hop; none if it cannot be reached. What was never said is reached at no cost.
    pub fn set_next_hop(&mut self, address: IpAddr, cost: Option<u32>) {
        if self.next_hops.get(&address) == Some(&cost) {
            return;
        }
        let through = |path: &Path| {
            path.taken.and_then(|id| self.sets.get(id)).is_some_and(|one| one.next_hop.address() == address)
        };
        let touched = self.prefixes(through);
        self.remember(&touched);
        self.next_hops.insert(address, cost);
        for prefix in touched {
            self.decide_again(prefix);
        }
    }

    /// While deferred nothing is sent: this speaker was away, and waits for what its peers know.
    pub fn set_deferred(&mut self, deferred: bool) {
        self.deferred = deferred;
    }

    /// Prefixes whose use may have changed, as many as `limit`.
    pub fn take_changed(&mut self, limit: usize) -> Vec<Prefix> {
        let mut all = Vec::with_capacity(self.changed.len().min(limit));
        self.changed.pop(limit, |prefix, ()| all.push(prefix));
        all
    }

    /// The next hops by which a prefix is reached, the best one first; empty where it begins here or is not reached.
    #[must_use]
    pub fn next_hops(&self, prefix: Prefix) -> Few<ScopedAddr> {
        let Some(paths) = self.table.get(prefix) else { return Few::default() };
        let view = self.view();
        if let Paths::One(path) = paths {
            let path = Some(path).filter(|path| path.peer != PeerId::LOCAL && view.usable(path));
            return path.and_then(|path| view.way(path)).into_iter().collect();
        }
        let mut found: Vec<ScopedAddr> = Vec::new();
        for place in view.decide(paths.all()).equal {
            let path = paths.all().get(place).filter(|path| path.peer != PeerId::LOCAL);
            found.extend(path.and_then(|path| view.way(path)).filter(|hop| !found.contains(hop)));
        }
        found.truncate(self.config.multipath.max(1));
        found.into_iter().collect()
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn waits(&self) -> bool {
        let own = |peer: &Peer| peer.group.is_some() && !(peer.own.is_empty() && peer.sending.is_empty());
        !self.deferred && (self.groups.values().any(|group| !group.pending.is_empty()) || self.peers.values().any(own))
    }

    /// Prefixes of a family behind `after` that have a path, as many as `limit`, in order.
    #[must_use]
    pub fn known(&self, family: Family, after: Option<Prefix>, limit: usize) -> Vec<Prefix> {
        self.table.after(family, after).take(limit).map(|(prefix, _)| prefix).collect()
    }

    /// How many prefixes, and how many sets of attributes.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.table.len(), self.sets.len())
    }

    /// How many paths a peer has sent, and whether that was too many.
    #[must_use]
    pub fn received(&self, id: PeerId) -> (u32, bool) {
        self.peers.get(&id).map_or((0, false), |peer| (peer.paths, peer.limited))
    }

    /// The members of a group.
    pub fn members(&self, group: GroupId) -> impl Iterator<Item = PeerId> + '_ {
        self.groups.get(&group).into_iter().flat_map(|group| group.members.iter().copied())
    }

    fn view(&self) -> View<'_> {
        View { config: &self.config, peers: &self.peers, sets: &self.sets, next_hops: &self.next_hops }
    }
}
