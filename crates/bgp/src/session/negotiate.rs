//! What two OPENs agree on.

use std::net::Ipv4Addr;

use ripstop_types::Family;

use super::Config;
use super::hints;
use crate::wire::{AddPathMode, AfiSafi, Capability, Context, Families, Open, Reset, RestartFamily, code};

/// What was agreed on with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// For reading and writing UPDATEs.
    pub context: Context,
    /// The peer's AS.
    pub peer_as: u32,
    /// The peer's router id.
    pub peer_id: Ipv4Addr,
    /// Seconds; 0 for no timer.
    pub hold_time: u16,
    /// The peer sends its routes again when asked.
    pub route_refresh: bool,
    /// It marks where that begins and ends.
    pub enhanced_refresh: bool,
    /// The peer's side of graceful restart.
    pub restart: Option<Restart>,
}

/// How a peer restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// It has just restarted, and waits for all routes before it sends its own.
    pub restarted: bool,
    /// Seconds within which it will be back.
    pub seconds: u16,
    /// Families whose routes are kept meanwhile.
    pub families: Families,
    /// Those of them that it went on forwarding.
    pub forwarding: Families,
    /// Routes are kept after notifications as well, if not after hard resets (RFC 8538).
    pub notification: bool,
}

/// The OPEN of a speaker; `restarted` if it was away and its kernel forwarded on.
pub fn open(config: &Config, restarted: bool) -> Open {
    let families = |some: Families| some.iter().map(AfiSafi::unicast).collect::<Vec<_>>();
    let mut all: Vec<Capability> = families(config.families).into_iter().map(Capability::Multiprotocol).collect();
    all.push(Capability::RouteRefresh);
    all.push(Capability::EnhancedRefresh);
    if config.extended_next_hop && config.families.v4 {
        all.push(Capability::ExtendedNextHop(vec![(AfiSafi::unicast(Family::V4), 2)]));
    }
    if config.extended_messages {
        all.push(Capability::ExtendedMessage);
    }
    if let Some(seconds) = config.graceful_restart {
        let families = families(config.families).into_iter();
        let families = families.map(|family| RestartFamily { family, forwarding: restarted }).collect();
        all.push(Capability::GracefulRestart { restarted, notification: true, seconds: seconds.min(0xfff), families });
    }
    all.push(Capability::FourByteAs(config.local_as));
    let modes: Vec<_> = config.families.iter().filter_map(|family| mode(config, family)).collect();
    if !modes.is_empty() {
        all.push(Capability::AddPath(modes));
    }
    Open { asn: config.local_as, hold_time: config.hold_time, router_id: config.router_id, capabilities: all }
}

fn mode(config: &Config, family: Family) -> Option<(AfiSafi, AddPathMode)> {
    let mode = match (config.add_path_in.has(family), config.add_path_out.has(family)) {
        (true, true) => AddPathMode::Both,
        (true, false) => AddPathMode::Receive,
        (false, true) => AddPathMode::Send,
        (false, false) => return None,
    };
    Some((AfiSafi::unicast(family), mode))
}

/// What comes of the peer's OPEN.
///
/// # Errors
/// Why there is no session with it.
pub fn negotiate(config: &Config, peer: &Open) -> Result<Negotiated, Reset> {
    if !config.peer_as.accepts(peer.asn, config.local_as) {
        return Err(Reset::new(code::OPEN, 2, vec![], hints::wrong_as(config, peer.asn)));
    }
    let internal = peer.asn == config.local_as;
    if internal && peer.router_id == config.router_id {
        let reason = format!("the peer has this node's router id {}: two speakers of one AS need two", peer.router_id);
        return Err(Reset::new(code::OPEN, 3, vec![], reason));
    }
    let offered = offered_families(peer);
    let families = Families::by(|family| config.families.has(family) && offered.has(family));
    if families == Families::default() {
        return Err(Reset::new(code::OPEN, 7, vec![], hints::no_family(config.families, offered)));
    }
    let has = |wanted: &Capability| peer.capabilities.contains(wanted);
    let paths = |own: Families, test: fn(AddPathMode) -> bool| {
        Families::by(|family| families.has(family) && own.has(family) && peer_mode(peer, family).is_some_and(test))
    };
    let context = Context {
        internal,
        four_byte_as: peer.four_byte_as().is_some(),
        families,
        add_path_in: paths(config.add_path_in, AddPathMode::sends),
        add_path_out: paths(config.add_path_out, AddPathMode::receives),
        extended_next_hop: config.extended_next_hop && families.v4 && takes_v6_next_hops(peer),
        extended_messages: config.extended_messages && has(&Capability::ExtendedMessage),
        as_sets: config.as_sets,
    };
    Ok(Negotiated {
        context,
        peer_as: peer.asn,
        peer_id: peer.router_id,
        hold_time: config.hold_time.min(peer.hold_time),
        route_refresh: has(&Capability::RouteRefresh),
        enhanced_refresh: has(&Capability::EnhancedRefresh),
        restart: config.graceful_restart.and_then(|_| restart(peer, families)),
    })
}

/// Without a capability of families a speaker has IPv4 unicast alone.
fn offered_families(peer: &Open) -> Families {
    let mut named = peer.capabilities.iter().filter_map(|one| match one {
        Capability::Multiprotocol(family) => Some(*family),
        _ => None,
    });
    if named.clone().next().is_none() {
        return Families { v4: true, v6: false };
    }
    let known: Vec<AfiSafi> = named.by_ref().collect();
    Families::by(|family| known.contains(&AfiSafi::unicast(family)))
}

fn peer_mode(peer: &Open, family: Family) -> Option<AddPathMode> {
    let all = peer.capabilities.iter().filter_map(|one| match one {
        Capability::AddPath(all) => Some(all),
        _ => None,
    });
    all.flatten().find(|(of, _)| *of == AfiSafi::unicast(family)).map(|(_, mode)| *mode)
}

fn takes_v6_next_hops(peer: &Open) -> bool {
    let wanted = (AfiSafi::unicast(Family::V4), 2);
    peer.capabilities.iter().any(|one| matches!(one, Capability::ExtendedNextHop(all) if all.contains(&wanted)))
}

fn restart(peer: &Open, agreed: Families) -> Option<Restart> {
    peer.capabilities.iter().find_map(|one| {
        let Capability::GracefulRestart { restarted, notification, seconds, families } = one else { return None };
        let of = |family: Family| families.iter().find(|one| one.family == AfiSafi::unicast(family));
        Some(Restart {
            restarted: *restarted,
            seconds: *seconds,
            families: Families::by(|family| agreed.has(family) && of(family).is_some()),
            forwarding: Families::by(|family| agreed.has(family) && of(family).is_some_and(|one| one.forwarding)),
            notification: *notification,
        })
    })
}
