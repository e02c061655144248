//! What goes to whom: peers that are told the same are an update group, and share what is encoded.
//!
//! Nothing is kept of what was sent. While a prefix waits to be sent, the group keeps what it had been told before, from which
//! follows who must be told what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ripstop_types::{Family, Prefix};

use super::decision::DEFAULT_PREFERENCE;
use super::few::Few;
use super::intern::AttrId;
use super::policy::{self, Filter, Verdict, add};
use super::prefixes::ByPrefix;
use super::table::{Path, Paths};
use super::view::View;
use super::{GroupId, PeerId};
use crate::wire::{Attributes, Context, NextHop, Nlri, announce, community, withdraw};

/// What members of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How is encoded, and whether they are internal.
    pub context: Context,
    /// The AS as which this speaker comes to them.
    pub local_as: u32,
    /// They are clients of this reflector.
    pub client: bool,
    /// Their export filter.
    pub filter: Option<Filter>,
    /// This speaker's address for IPv4 routes.
    pub own_v4: Option<Ipv4Addr>,
    /// This speaker's address for IPv6 routes.
    pub own_v6: Option<NextHop>,
    /// Internal peers get this speaker as next hop, too.
    pub next_hop_self: bool,
    /// As many paths to a prefix, where several were agreed on.
    pub paths: usize,
    /// This speaker is about to go (RFC 8326).
    pub shutting_down: bool,
}

/// Peers with the same terms.
#[derive(Debug)]
pub struct Group {
    pub terms: Terms,
    pub members: BTreeSet<PeerId>,
    /// Prefixes that wait, each with the paths the members had been told.
    pub pending: ByPrefix<Told>,
}

/// The paths to a prefix that members have been told: identifiers, and where they came from.
pub type Told = Few<(u32, PeerId)>;

/// One path that a group is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Export {
    /// The identifier it goes with; 0 where one path alone goes.
    pub ours: u32,
    /// Who is not told, as it told it.
    pub source: PeerId,
    /// The attributes as they are in the table.
    pub attributes: AttrId,
    /// What the filter does to them.
    pub verdict: Verdict,
}

/// Why a path does not go to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It came from an internal peer and this speaker reflects it to none of these.
    Internal,
    /// It has a community that says so.
    Community(&'static str),
    /// The filter says so.
    Filter(Verdict),
    /// This speaker has no address that could be the next hop.
    NextHop,
}

/// Bytes for members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The group.
    pub group: GroupId,
    /// This member alone.
    pub only: Option<PeerId>,
    /// All but this member.
    pub except: Option<PeerId>,
    /// Whole messages.
    pub bytes: Vec<u8>,
}

impl Output {
    /// Bytes for one member.
    pub(super) fn to_one(group: GroupId, only: PeerId, bytes: Vec<u8>) -> Self {
        Self { group, only: Some(only), except: None, bytes }
    }
}

/// Whether a path goes to a group, by which verdict.
pub fn may_go(view: &View<'_>, terms: &Terms, prefix: Prefix, path: &Path) -> Result<Export, Held> {
    let Some((id, attributes)) = path.taken.and_then(|id| Some((id, view.sets.get(id)?))) else {
        return Err(Held::Filter(Verdict::Refuse(None)));
    };
    if attributes.has(community::NO_ADVERTISE) {
        return Err(Held::Community("NO_ADVERTISE"));
    }
    let external = !terms.context.internal;
    if external && (attributes.has(community::NO_EXPORT) || attributes.has(community::NO_EXPORT_SUBCONFED)) {
        return Err(Held::Community("NO_EXPORT"));
    }
    let source = view.peers.get(&path.peer);
    let from_internal = source.is_some_and(|peer| !peer.external());
    let reflected = terms.client || source.is_some_and(|peer| peer.config.reflector_client);
    if !external && from_internal && !reflected {
        return Err(Held::Internal);
    }
    if next_hop(terms, prefix.family(), path.peer, attributes).is_none() {
        return Err(Held::NextHop);
    }
    match policy::judge(terms.filter.as_ref(), external, &prefix, attributes) {
        verdict @ Verdict::Accept(_) => {
            let ours = if terms.context.add_path_out.has(prefix.family()) { path.ours } else { 0 };
            Ok(Export { ours, source: path.peer, attributes: id, verdict })
        }
        verdict => Err(Held::Filter(verdict)),
    }
}

/// All paths that a group is told.
pub fn exports(view: &View<'_>, terms: &Terms, prefix: Prefix, paths: &Paths) -> Few<Export> {
    if !terms.context.families.has(prefix.family()) {
        return Few::default();
    }
    let usable = |path: &&Path| view.usable(path);
    if !terms.context.add_path_out.has(prefix.family()) {
        let best = paths.all().first().filter(usable);
        return best.and_then(|path| may_go(view, terms, prefix, path).ok()).into_iter().collect();
    }
    let ranked = view.ranked(paths.all(), terms.paths);
    ranked.into_iter().filter_map(|place| may_go(view, terms, prefix, paths.all().get(place)?).ok()).collect()
}

/// The next hop that a path goes on with.
fn next_hop(terms: &Terms, family: Family, source: PeerId, attributes: &Attributes) -> Option<NextHop> {
    let own = match family {
        Family::V4 => terms.own_v4.map(NextHop::V4).or(terms.own_v6.filter(|_| terms.context.extended_next_hop)),
        Family::V6 => terms.own_v6,
    };
    let replaced = !terms.context.internal || terms.next_hop_self || source == PeerId::LOCAL;
    match attributes.next_hop {
        _ if replaced => own,
        // A link-local address means nothing on another link (RFC 2545 section 3).
        NextHop::V6(address, _) if address.is_unicast_link_local() => own,
        NextHop::V6(address, _) => Some(NextHop::V6(address, None)),
        v4 => Some(v4),
    }
}

/// The attributes that a path goes on with (RFC 4271 section 5.1, 4456 section 8).
pub fn outgoing(view: &View<'_>, terms: &Terms, family: Family, export: &Export) -> Option<Attributes> {
    let from = view.sets.get(export.attributes)?;
    let mut to = Attributes { next_hop: next_hop(terms, family, export.source, from)?, ..from.clone() };
    if terms.context.internal {
        to.local_pref = Some(from.local_pref.unwrap_or(DEFAULT_PREFERENCE));
        let source = view.peers.get(&export.source).filter(|peer| !peer.external());
        if let Some(id) = source.and_then(|peer| peer.known).map(|known| known.router_id) {
            to.originator_id.get_or_insert(id);
            to.cluster_list = [&[view.config.cluster_id][..], &from.cluster_list].concat().into();
        }
    } else {
        to.as_path = from.as_path.prepended(terms.local_as, 1);
        (to.originator_id, to.cluster_list) = (None, Box::default());
        // Of another AS it is nobody else's affair.
        to.med = from.med.filter(|_| export.source == PeerId::LOCAL);
        to.extended_communities = from.extended_communities.iter().copied().filter(|one| one >> 62 & 1 == 0).collect();
    }
    if let Some(filter) = &terms.filter {
        filter.apply(export.verdict, &mut to);
    }
    if !terms.context.internal {
        to.local_pref = None;
    }
    if terms.shutting_down {
        add(&mut to.communities, community::GRACEFUL_SHUTDOWN);
    }
    Some(to)
}

/// Routes that go out together: to whom, with which attributes.
#[derive(Default)]
pub struct Batch {
    announced: Lists<(Family, Export)>,
    /// By those who are not told, and the one who alone is.
    withdrawn: Lists<(Family, Option<PeerId>, Option<PeerId>)>,
}

/// Prefixes by what they have in common, which most have with the one before.
struct Lists<K> {
    places: BTreeMap<K, usize>,
    lists: Vec<Vec<Nlri>>,
    last: Option<(K, usize)>,
}

impl<K> Default for Lists<K> {
    fn default() -> Self {
        Self { places: BTreeMap::new(), lists: Vec::new(), last: None }
    }
}

impl<K: Copy + Ord> Lists<K> {
    fn of(&mut self, key: K) -> &mut Vec<Nlri> {
        let place = match self.last {
            Some((last, place)) if last == key => place,
            _ => *self.places.entry(key).or_insert(self.lists.len()),
        };
        self.last = Some((key, place));
        if place == self.lists.len() {
            self.lists.push(Vec::new());
        }
        &mut self.lists[place]
    }

    /// All, by their keys' order.
    fn into_all(mut self) -> impl Iterator<Item = (K, Vec<Nlri>)> {
        self.places.into_iter().map(move |(key, place)| (key, std::mem::take(&mut self.lists[place])))
    }
}

impl Batch {
    /// A prefix of which the members had been told `old` and are told `new`.
    pub fn change(&mut self, members: &BTreeSet<PeerId>, prefix: Prefix, old: &[(u32, PeerId)], new: &[Export]) {
        let member = |id: PeerId| Some(id).filter(|id| members.contains(id));
        let family = prefix.family();
        for (ours, source) in old {
            if new.iter().all(|one| one.ours != *ours) {
                self.withdrawn.of((family, member(*source), None)).push(Nlri { prefix, path: *ours });
            }
        }
        for one in new {
            let path = one.ours;
            // Who it comes from now had it from somebody else.
            let had = old.iter().any(|(ours, source)| *ours == path && *source != one.source);
            if let Some(only) = member(one.source).filter(|_| had) {
                self.withdrawn.of((family, None, Some(only))).push(Nlri { prefix, path });
            }
            self.announce(prefix, *one);
        }
    }

    /// A prefix of which one member had been told `old` and is told `new`.
    pub fn change_of_one(&mut self, prefix: Prefix, old: &[(u32, PeerId)], new: &[Export]) {
        for (ours, _) in old.iter().filter(|(ours, _)| new.iter().all(|one| one.ours != *ours)) {
            self.withdrawn.of((prefix.family(), None, None)).push(Nlri { prefix, path: *ours });
        }
        new.iter().for_each(|one| self.announce(prefix, *one));
    }

    /// A path that goes out.
    pub fn announce(&mut self, prefix: Prefix, one: Export) {
        let bucket = (prefix.family(), Export { ours: 0, ..one });
        self.announced.of(bucket).push(Nlri { prefix, path: one.ours });
    }

    /// As messages: withdrawals first, so that room is there for what comes.
    pub fn encode(mut self, view: &View<'_>, id: GroupId, group: &Group, only: Option<PeerId>, out: &mut Vec<Output>) {
        let context = &group.terms.context;
        let mut announced = Vec::new();
        for ((family, export), nlri) in std::mem::take(&mut self.announced).into_all() {
            let except = Some(export.source).filter(|source| group.members.contains(source) && only.is_none());
            let mut bytes = Vec::new();
            let attributes = outgoing(view, &group.terms, family, &export);
            if attributes.is_some_and(|attributes| announce(&mut bytes, context, &attributes, &nlri)) {
                announced.push(Output { group: id, only, except, bytes });
            } else {
                self.withdrawn.of((family, except, None)).extend(nlri);
            }
        }
        for ((_, except, alone), nlri) in self.withdrawn.into_all() {
            let mut bytes = Vec::new();
            withdraw(&mut bytes, context, &nlri);
            out.push(Output { group: id, only: alone.or(only), except, bytes });
        }
        // Neighbours in the list that go to the same members are one.
        for one in announced {
            match out.last_mut() {
                Some(last) if (last.group, last.only, last.except) == (one.group, one.only, one.except) => {
                    last.bytes.extend(one.bytes);
                }
                _ => out.push(one),
            }
        }
    }
}

/// What is kept of paths that are told.
pub fn told(exports: &[Export]) -> Told {
    exports.iter().map(|one| (one.ours, one.source)).collect()
}

/// An address as a next hop of routes that begin here, where none means anything.
pub fn no_next_hop(family: Family) -> NextHop {
    match family {
        Family::V4 => IpAddr::from([0; 4]).into(),
        Family::V6 => IpAddr::from([0; 16]).into(),
    }
}
