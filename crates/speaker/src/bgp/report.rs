//! What became known: routes that changed, and how peers are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_bgp::rib::{Few, Rib};
use ripstop_bgp::session::State;
use ripstop_bgp::wire::Families;
use ripstop_types::{Millis, Prefix, ScopedAddr};

use super::PeerKey;
use super::thread::{PeerId, Session, Worker};

/// Routes in one report: more than come while its reader wakes up.
const ROUTES: usize = 16_384;

/// How a prefix is reached now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteReport {
    /// The prefix.
    pub prefix: Prefix,
    /// Next hops to use together, the best one first; none where it is not reached, or begins here.
    pub next_hops: Few<ScopedAddr>,
}

/// BFD to a peer, as this end sees it.
pub type BfdState = ripstop_bfd::State;

/// How a peer is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    /// Who it is.
    pub key: PeerKey,
    /// Where it was found, if it is whoever is on a link.
    pub found: Option<Ipv6Addr>,
    /// It was not named, and came from this range.
    pub range: Option<Prefix>,
    /// Its session's state.
    pub state: State,
    /// Since when it is so.
    pub since: Millis,
    /// Why there was no session last, or is none.
    pub error: Option<String>,
    /// How often a session ended.
    pub flaps: u32,
    /// The AS that it said it is of.
    pub peer_as: Option<u32>,
    /// The router id that it told.
    pub router_id: Option<Ipv4Addr>,
    /// Families that were agreed on.
    pub families: Families,
    /// The hold time that was agreed on, in seconds.
    pub hold_time: Option<u16>,
    /// This end's address.
    pub local: Option<IpAddr>,
    /// Paths that it sent, and whether those were too many.
    pub received: u32,
    /// It sent more paths than it may.
    pub limited: bool,
    /// Errors in what it sent that ended no session, and the last of them.
    pub faults: u64,
    /// The last of them.
    pub last_fault: Option<String>,
    /// BFD to it, if that is wanted and runs.
    pub bfd: Option<BfdState>,
}

/// What changed since the last report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Prefixes whose use may have changed.
    pub routes: Vec<RouteReport>,
    /// Peers that changed.
    pub peers: Vec<PeerReport>,
    /// Peers that are none any more.
    pub gone: Vec<PeerKey>,
    /// What this speaker cannot do, each time all of it.
    pub faults: Vec<String>,
    /// Peers have sent what they know, or had time to: what is not a route now is none.
    pub settled: bool,
    /// More changed than is in this one.
    pub more: bool,
}

impl Worker {
    /// Makes a report of what changed, if something did.
    pub(super) fn report(&mut self) -> Option<Report> {
        let prefixes = self.rib.take_changed(ROUTES);
        if prefixes.is_empty() && self.changed.is_empty() && self.gone.is_empty() && !self.tell_all {
            return None;
        }
        self.tell_all = false;
        let more = prefixes.len() == ROUTES;
        let routes = prefixes.into_iter();
        let routes = routes.map(|prefix| RouteReport { prefix, next_hops: self.rib.next_hops(prefix) }).collect();
        let changed = std::mem::take(&mut self.changed);
        let peers = changed.iter().filter_map(|id| Some(peer(&self.rib, *id, self.peers.get(id)?))).collect();
        let gone = std::mem::take(&mut self.gone).into_iter().collect();
        Some(Report { routes, peers, gone, faults: self.faults(), settled: self.settling.is_none(), more })
    }
}

/// How a peer is.
pub fn peer(rib: &Rib, id: PeerId, one: &Session) -> PeerReport {
    let agreed = one.session.established().map(|(_, agreed)| agreed);
    let (received, limited) = rib.received(id);
    PeerReport {
        key: one.key.clone(),
        range: one.range,
        state: one.session.state(),
        since: one.since,
        found: one.found,
        error: error(one),
        flaps: one.session.flaps(),
        peer_as: agreed.map(|agreed| agreed.peer_as),
        router_id: agreed.map(|agreed| agreed.peer_id),
        families: agreed.map_or(Families::default(), |agreed| agreed.context.families),
        hold_time: agreed.map(|agreed| agreed.hold_time),
        local: one.local,
        received,
        limited,
        faults: one.faults,
        last_fault: one.last_fault.clone(),
        bfd: one.bfd.as_ref().map(|bfd| bfd.state),
    }
}

/// Why there is no session, and what of the rest does not work.
fn error(one: &Session) -> Option<String> {
    let why = one.session.last_error().or(one.bfd_error.as_deref());
    let link = one.key.interface.as_ref().filter(|_| one.key.address.is_unspecified());
    match (why, link) {
        (None, Some(link)) if one.found.is_none() => Some(format!(
            "nobody is known on {link} yet: no router advertisement has come from there, and nobody has connected"
        )),
        (Some(why), Some(link)) if !one.others.is_empty() => {
            let others: Vec<String> = one.others.iter().map(ToString::to_string).collect();
            Some(format!("{why}; there are others on {link}: {}", others.join(", ")))
        }
        (why, _) => why.map(str::to_owned),
    }
}
