//! A table with peers, and what they have been told, read back as a peer would.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ripstop_bgp::rib::policy::Filter;
use ripstop_bgp::rib::*;
use ripstop_bgp::session::Negotiated;
use ripstop_bgp::wire::*;
use ripstop_types::{Family, Prefix};

/// This speaker's AS.
pub const OWN: u32 = 64_512;

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn rib() -> Rib {
    let id = Ipv4Addr::new(10, 0, 0, 254);
    Rib::new(RibConfig { router_id: id, cluster_id: id, multipath: 4, med: MedScope::SameAs })
}

pub fn address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(peer).unwrap())
}

/// A peer with open filters.
pub fn config(peer: u32) -> PeerConfig {
    PeerConfig {
        import: Some(Filter::accept_all()),
        export: Some(Filter::accept_all()),
        own_v4: Some(Ipv4Addr::new(10, 0, 0, 254)),
        own_v6: Some(NextHop::V6("fd00::fe".parse().unwrap(), None)),
        ..PeerConfig::new(address(peer).into(), OWN)
    }
}

pub fn agreed(peer: u32, asn: u32) -> Negotiated {
    let context = Context {
        internal: asn == OWN,
        four_byte_as: true,
        families: Families::BOTH,
        extended_next_hop: true,
        ..Context::default()
    };
    Negotiated {
        context,
        peer_as: asn,
        peer_id: address(peer),
        hold_time: 90,
        route_refresh: true,
        enhanced_refresh: true,
        restart: None,
    }
}

pub fn connect(rib: &mut Rib, peer: u32, asn: u32, config: PeerConfig) {
    rib.configure(PeerId(peer), config);
    rib.peer_up(PeerId(peer), &agreed(peer, asn), Families::default());
}

/// A route as that peer would send it.
pub fn route(peer: u32, path: &[u32]) -> Attributes {
    Attributes { as_path: AsPath::sequence(path), ..Attributes::new(NextHop::V4(address(peer))) }
}

pub fn announce_one(rib: &mut Rib, peer: u32, to: &str, attributes: Attributes) {
    let announcement = Announcement { attributes, nlri: vec![Nlri::of(prefix(to))] };
    rib.update(PeerId(peer), &Update { announced: vec![announcement], ..Update::default() }).unwrap();
}

pub fn withdraw_one(rib: &mut Rib, peer: u32, to: &str) {
    let withdrawn = vec![Nlri::of(prefix(to))];
    rib.update(PeerId(peer), &Update { withdrawn, ..Update::default() }).unwrap();
}

/// What peers have been told.
#[derive(Default)]
pub struct Told {
    pub routes: BTreeMap<PeerId, BTreeMap<Nlri, Attributes>>,
    pub ends: Vec<(PeerId, Family)>,
    pub messages: usize,
}

impl Told {
    /// Takes in everything that waits, `limit` prefixes at a time.
    pub fn flush(&mut self, rib: &mut Rib, limit: usize, contexts: &BTreeMap<PeerId, Context>) {
        loop {
            let outputs = rib.flush(limit);
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                let members = rib.members(output.group).filter(|id| {
                    output.only.is_none_or(|only| only == *id) && output.except.is_none_or(|except| except != *id)
                });
                for id in members.collect::<Vec<_>>() {
                    self.read(id, &output.bytes, contexts.get(&id).copied().unwrap_or(agreed(1, OWN).context));
                }
            }
        }
    }

    /// One round.
    pub fn flush_once(&mut self, rib: &mut Rib, limit: usize) -> bool {
        let outputs = rib.flush(limit);
        for output in &outputs {
            let to = |id: &PeerId| output.only.is_none_or(|only| only == *id) && output.except != Some(*id);
            for id in rib.members(output.group).filter(to).collect::<Vec<_>>() {
                self.read_lenient(id, &output.bytes);
            }
        }
        !outputs.is_empty()
    }

    pub fn flush_lenient(&mut self, rib: &mut Rib) {
        while self.flush_once(rib, 3) {}
    }

    /// While a peer is sent everything it may be told of what goes before it was told that it is there, which does no harm.
    fn read_lenient(&mut self, id: PeerId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let length = frame(bytes, false).unwrap().unwrap();
            let Message::Update(update) = decode(&bytes[..length], &agreed(1, OWN).context).unwrap() else {
                panic!("no UPDATE")
            };
            bytes = &bytes[length..];
            let routes = self.routes.entry(id).or_default();
            update.withdrawn.iter().for_each(|nlri| drop(routes.remove(nlri)));
            for one in update.announced {
                routes.extend(one.nlri.into_iter().map(|nlri| (nlri, one.attributes.clone())));
            }
        }
    }

    fn read(&mut self, id: PeerId, mut bytes: &[u8], context: Context) {
        let context = Context { internal: true, add_path_in: context.add_path_out, ..context };
        while !bytes.is_empty() {
            let length = frame(bytes, false).unwrap().unwrap();
            let message = decode(&bytes[..length], &context).unwrap();
            bytes = &bytes[length..];
            self.messages += 1;
            let Message::Update(update) = message else { continue };
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            let routes = self.routes.entry(id).or_default();
            for nlri in update.withdrawn {
                assert!(routes.remove(&nlri).is_some(), "{nlri:?} is withdrawn from {id:?}, which never had it");
            }
            for one in update.announced {
                routes.extend(one.nlri.into_iter().map(|nlri| (nlri, one.attributes.clone())));
            }
            self.ends.extend(update.end_of_rib.map(|family| (id, family)));
        }
    }

    pub fn route(&self, peer: u32, to: &str) -> Option<&Attributes> {
        self.routes.get(&PeerId(peer))?.get(&Nlri::of(prefix(to)))
    }
}
