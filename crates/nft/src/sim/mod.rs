//! One packet through netfilter, without a kernel.
//!
//! [`Ruleset::receive`] and [`Ruleset::send`] take a packet through all hooks on its way; [`Ruleset::at`] through the
//! chains of one. Verdicts, jumps, sets, maps, marks and address translation are those of the kernel. The packet's
//! connection is an input ([`Tracking`]), and so is everything else outside the ruleset ([`World`]).
//!
//! What cannot be told is an error ([`SimError`]) and never a guess: a question the world does not answer, a header
//! field that depends on a choice the kernel makes, two chains of different tables with one priority.
//!
//! Not simulated: fragments, helpers and expectations, flow tables, and IP hooks called for bridged frames.

mod eval;
mod lookup;
mod packet;
mod world;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use ripstop_types::Family;
use serde::{Deserialize, Serialize};

use eval::{Added, Flow, Run};
use lookup::Contents;
pub use packet::{Connection, Ether, Link, Network, Packet, Tracking, Transport};
pub use world::{Host, Nothing, Route, World};

use crate::model::build::{CtState, CtStatus};
use crate::model::{
    Base, ChainType, Comment, ElementBody, ElementKey, Fault, Hook, Name, NatFlags, NatKind, Policy, RejectWith, Table,
    TableFamily, priority,
};

/// Why a packet's way cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot simulate {place}: {problem}")]
pub struct SimError {
    /// The rule, chain or hook.
    pub place: String,
    /// What is not known, and who would have to say it.
    pub problem: String,
}

/// A hook with the layer that calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The ingress of the device the packet comes in by.
    Ingress,
    /// A hook of the bridge.
    Bridge(Hook),
    /// A hook of IPv4, IPv6 or ARP, by the packet.
    Network(Hook),
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It passes.
    Accepted,
    /// It vanishes.
    Dropped,
    /// It vanishes, and the sender is told.
    Rejected(RejectWith),
    /// It passes the ruleset, but there is no route.
    Unreachable,
}

/// A rule that matched, or a policy that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The table's family.
    pub family: TableFamily,
    /// The table.
    pub table: Name,
    /// The chain.
    pub chain: Name,
    /// The rule's place in the chain, from 0; `None` if it is the chain's policy.
    pub rule: Option<usize>,
    /// The rule's comment, which names its owner.
    pub comment: Option<Comment>,
    /// The rule as nft writes it, or the policy.
    pub text: String,
}

impl fmt::Display for Step {
    /// `inet ripstop forward 3: ip saddr @pods accept comment "agent"`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)?;
        match self.rule {
            Some(index) => write!(f, " {}: {}", index + 1, self.text),
            None => write!(f, ": {}", self.text),
        }
    }
}

/// A packet on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transit {
    /// As it is now.
    pub packet: Packet,
    /// It was masqueraded, with these flags. The source is the outgoing link's address if the world knows it;
    /// otherwise it is as before, and a rule that asks for it is an error.
    pub masquerade: Option<NatFlags>,
    /// The port is chosen by the kernel: a rule that asks for it is an error.
    pub port_open: bool,
    /// The rules that matched, in order.
    pub trail: Vec<Step>,
    source_open: bool,
    source_bound: bool,
    destination_bound: bool,
    added: Vec<Added>,
}

impl Transit {
    /// A packet at the beginning of its way.
    pub fn new(packet: Packet) -> Self {
        Self {
            packet,
            masquerade: None,
            port_open: false,
            trail: Vec::new(),
            source_open: false,
            source_bound: false,
            destination_bound: false,
            added: Vec::new(),
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// The end.
    pub fate: Fate,
    /// It was for this host.
    pub local: bool,
    /// The packet as it ended, and how it got there.
    pub transit: Transit,
}

/// Tables with their elements, ready for packets.
#[derive(Debug)]
pub struct Ruleset<'a> {
    tables: Vec<&'a Table>,
    sets: BTreeMap<(TableFamily, &'a Name, &'a Name), Contents<'a>>,
}

impl<'a> Ruleset<'a> {
    /// Prepares tables and the elements of their sets. Elements of other tables are passed over.
    ///
    /// # Errors
    /// A table or an element has a mistake: the kernel would not take it.
    pub fn new(
        tables: impl IntoIterator<Item = &'a Table>,
        elements: &'a BTreeMap<ElementKey, ElementBody>,
    ) -> Result<Self, Fault> {
        let tables: Vec<_> = tables.into_iter().collect();
        let mut sets: BTreeMap<_, Contents<'a>> = BTreeMap::new();
        for table in &tables {
            table.check()?;
            for set in table.sets.keys() {
                sets.insert((table.family, &table.name, set), Contents::default());
            }
        }
        for (key, body) in elements {
            let Some(table) = tables.iter().find(|table| table.family == key.family && table.name == key.table) else {
                continue;
            };
            table.check_element(&key.set, &key.key, body)?;
            if let Some(contents) = sets.get_mut(&(key.family, &key.table, &key.set)) {
                contents.insert(&key.key.parts, body.data.as_ref());
            }
        }
        Ok(Self { tables, sets })
    }

    /// A received IP packet through all hooks: ingress, prerouting, and by its route input, or forward and postrouting.
    ///
    /// # Errors
    /// Something on the way cannot be told.
    pub fn receive(&self, packet: Packet, world: &dyn World) -> Result<Walk, SimError> {
        let mut transit = Transit::new(packet);
        for stage in [Stage::Ingress, Stage::Network(Hook::Prerouting)] {
            let fate = self.at(stage, &mut transit, world)?;
            if fate != Fate::Accepted {
                return Ok(Walk { fate, local: false, transit });
            }
        }
        match route(&transit.packet, world)? {
            Route::Local => {
                let fate = self.at(Stage::Network(Hook::Input), &mut transit, world)?;
                Ok(Walk { fate, local: true, transit })
            }
            Route::Unreachable => Ok(Walk { fate: Fate::Unreachable, local: false, transit }),
            Route::Via(link) => {
                transit.packet.oif = Some(link);
                let hooks = [Hook::Forward, Hook::Postrouting];
                let fate = self.hooks(&hooks, &mut transit, world)?;
                Ok(Walk { fate, local: false, transit })
            }
        }
    }

    /// An IP packet this host sends: output, the route again if that was changed, and postrouting.
    ///
    /// # Errors
    /// Something on the way cannot be told.
    pub fn send(&self, packet: Packet, world: &dyn World) -> Result<Walk, SimError> {
        let mut transit = Transit::new(packet);
        let mut local = false;
        if transit.packet.oif.is_none() && !leave(&mut transit.packet, world, &mut local)? {
            return Ok(Walk { fate: Fate::Unreachable, local, transit });
        }
        let before = (transit.packet.destination(), transit.packet.mark);
        let fate = self.at(Stage::Network(Hook::Output), &mut transit, world)?;
        if fate != Fate::Accepted {
            return Ok(Walk { fate, local, transit });
        }
        let destination_changed = before.0 != transit.packet.destination();
        let mark_changed = before.1 != transit.packet.mark && self.has_route_chain(&transit.packet);
        if (destination_changed || mark_changed) && !leave(&mut transit.packet, world, &mut local)? {
            return Ok(Walk { fate: Fate::Unreachable, local, transit });
        }
        let fate = self.at(Stage::Network(Hook::Postrouting), &mut transit, world)?;
        Ok(Walk { fate, local, transit })
    }

    fn has_route_chain(&self, packet: &Packet) -> bool {
        self.bases(Stage::Network(Hook::Output), packet).iter().any(|(_, _, base)| base.kind == ChainType::Route)
    }

    fn hooks(&self, hooks: &[Hook], transit: &mut Transit, world: &dyn World) -> Result<Fate, SimError> {
        for hook in hooks {
            let fate = self.at(Stage::Network(*hook), transit, world)?;
            if fate != Fate::Accepted {
                return Ok(fate);
            }
        }
        Ok(Fate::Accepted)
    }

    /// The chains of one hook, by priority.
    ///
    /// Address translation happens at one place in that order, −100 or 100, whatever the priorities of the chains of
    /// type nat; those only order the chains among each other. They see the first packet of a connection, and are done
    /// with it when one has translated it. Other packets of a connection are translated as the first was.
    ///
    /// # Errors
    /// Something cannot be told.
    pub fn at(&self, stage: Stage, transit: &mut Transit, world: &dyn World) -> Result<Fate, SimError> {
        let mut bases = self.bases(stage, &transit.packet);
        order(&mut bases)?;
        let (nat, filter): (Vec<_>, Vec<_>) = bases.into_iter().partition(|(_, _, base)| base.kind == ChainType::Nat);
        let manip = Manip::of(stage);
        if let Some((_, at)) = manip
            && !nat.is_empty()
            && let Some((table, name, _)) = filter.iter().find(|(_, _, base)| base.priority == at)
        {
            return Err(SimError {
                place: format!("chain {} {} {name}", table.family, table.name),
                problem: format!("it has the priority of address translation, {at}; which comes first is not known"),
            });
        }
        let split = manip.map_or(filter.len(), |(_, at)| filter.partition_point(|(_, _, base)| base.priority < at));
        let (before, behind) = filter.split_at(split);
        for (table, name, base) in before {
            let fate = self.base(stage, table, name, base, transit, world)?.fate(base);
            if fate != Fate::Accepted {
                return Ok(fate);
            }
        }
        if let Some((manip, _)) = manip {
            let fate = self.translate(stage, manip, &nat, transit, world)?;
            if fate != Fate::Accepted {
                return Ok(fate);
            }
        }
        for (table, name, base) in behind {
            let fate = self.base(stage, table, name, base, transit, world)?.fate(base);
            if fate != Fate::Accepted {
                return Ok(fate);
            }
        }
        Ok(Fate::Accepted)
    }

    /// Base chains a packet meets at a stage.
    fn bases(&self, stage: Stage, packet: &Packet) -> Vec<(&'a Table, &'a Name, &'a Base)> {
        let ip = match packet.family() {
            Some(Family::V4) => Some(TableFamily::Ip),
            Some(Family::V6) => Some(TableFamily::Ip6),
            None => None,
        };
        let mut out = Vec::new();
        for table in &self.tables {
            let (sees, hook) = match stage {
                Stage::Ingress => (matches!(table.family, TableFamily::Netdev | TableFamily::Inet), Hook::Ingress),
                Stage::Bridge(hook) => (table.family == TableFamily::Bridge, hook),
                Stage::Network(hook) => {
                    let arp = matches!(packet.network, Network::Arp { .. }) && table.family == TableFamily::Arp;
                    let by_ip = ip.is_some() && (table.family == TableFamily::Inet || Some(table.family) == ip);
                    (arp || by_ip, hook)
                }
            };
            if !sees {
                continue;
            }
            for (name, chain) in &table.chains {
                let Some(base) = chain.base.as_ref().filter(|base| base.hook == hook) else { continue };
                let device = base.device.as_ref().is_none_or(|d| packet.iif.as_ref().is_some_and(|iif| iif.name == *d));
                // An inet table's ingress chain sees IP only.
                if device && (table.family != TableFamily::Inet || ip.is_some()) {
                    out.push((*table, name, base));
                }
            }
        }
        out
    }

    fn base(
        &self,
        stage: Stage,
        table: &'a Table,
        name: &'a Name,
        base: &Base,
        transit: &mut Transit,
        world: &dyn World,
    ) -> Result<Flow, SimError> {
        let run = Run { ruleset: self, table, stage, tracked: Tracked::of(stage, base.priority), world };
        let flow = run.chain(name, transit, 0)?;
        if flow == Flow::Through {
            let policy = if base.policy == Policy::Accept { "policy accept" } else { "policy drop" };
            transit.trail.push(Step {
                family: table.family,
                table: table.name.clone(),
                chain: name.clone(),
                rule: None,
                comment: None,
                text: policy.to_owned(),
            });
        }
        Ok(flow)
    }

    fn translate(
        &self,
        stage: Stage,
        manip: Manip,
        chains: &[(&'a Table, &'a Name, &'a Base)],
        transit: &mut Transit,
        world: &dyn World,
    ) -> Result<Fate, SimError> {
        let Some(connection) = transit.packet.connection().cloned() else { return Ok(Fate::Accepted) };
        if connection.state & (CtState::NEW.0 | CtState::RELATED.0) == 0 {
            return translate_again(manip, &connection, transit).map(|()| Fate::Accepted);
        }
        for (table, name, base) in chains {
            if transit.is_bound(manip.kind) {
                break;
            }
            let fate = self.base(stage, table, name, base, transit, world)?.fate(base);
            if fate != Fate::Accepted {
                return Ok(fate);
            }
        }
        // Whoever was not translated by now stays as it is: the connection is bound to it.
        transit.bind(manip.kind);
        Ok(Fate::Accepted)
    }
}

/// Which end of packets a hook's translation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manip {
    kind: NatKind,
}

impl Manip {
    /// The end, and the priority at which the kernel translates (linux/netfilter_ipv4.h).
    fn of(stage: Stage) -> Option<(Self, i32)> {
        match stage {
            Stage::Network(Hook::Prerouting | Hook::Output) => Some((Self { kind: NatKind::Dnat }, priority::DSTNAT)),
            Stage::Network(Hook::Input | Hook::Postrouting) => Some((Self { kind: NatKind::Snat }, priority::SRCNAT)),
            _ => None,
        }
    }
}

impl Transit {
    fn is_bound(&self, kind: NatKind) -> bool {
        match kind {
            NatKind::Snat => self.source_bound,
            NatKind::Dnat => self.destination_bound,
        }
    }

    fn bind(&mut self, kind: NatKind) {
        match kind {
            NatKind::Snat => self.source_bound = true,
            NatKind::Dnat => self.destination_bound = true,
        }
    }
}

/// A later packet of a connection is translated as the first was.
fn translate_again(manip: Manip, connection: &Connection, transit: &mut Transit) -> Result<(), SimError> {
    let (wanted, becomes) = match manip.kind {
        NatKind::Snat => (connection.rewrites_source(), connection.source_becomes),
        NatKind::Dnat => (connection.rewrites_destination(), connection.destination_becomes),
    };
    match becomes {
        Some((address, port)) => {
            eval::rewrite(&mut transit.packet, manip.kind, address, port);
            Ok(())
        }
        None if wanted => Err(SimError {
            place: "a packet of a translated connection".to_owned(),
            problem: format!("what its {:?} address becomes is not given with the connection", manip.kind),
        }),
        None => Ok(()),
    }
}

/// Least priority first. Chains of one table were made in the order of their names, and of equals the kernel calls the
/// last made first; between tables that order is nobody's to know.
fn order(bases: &mut [(&Table, &Name, &Base)]) -> Result<(), SimError> {
    bases.sort_by(|a, b| a.2.priority.cmp(&b.2.priority).then_with(|| b.1.cmp(a.1)));
    for pair in bases.windows(2) {
        let [(left, left_chain, one), (right, right_chain, two)] = pair else { continue };
        let same_table = left.family == right.family && left.name == right.name;
        if one.priority == two.priority && (one.kind == ChainType::Nat) == (two.kind == ChainType::Nat) && !same_table {
            return Err(SimError {
                place: format!("hook {}", one.hook.as_str()),
                problem: format!(
                    "chains {} {} {left_chain} and {} {} {right_chain} have the same priority {}; which comes first \
                     depends on which was made last",
                    left.family, left.name, right.family, right.name, one.priority
                ),
            });
        }
    }
    Ok(())
}

/// Whether connection tracking has seen the packet when a chain runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tracked {
    Yes,
    NotYet,
    /// It cannot be told, for this reason.
    Unknown(&'static str),
}

impl Tracked {
    fn of(stage: Stage, chain_priority: i32) -> Self {
        match stage {
            Stage::Ingress => Self::NotYet,
            Stage::Bridge(_) => Self::Unknown("connection tracking of bridged frames is not simulated"),
            Stage::Network(Hook::Prerouting | Hook::Output) => match chain_priority.cmp(&priority::CONNTRACK) {
                Ordering::Less => Self::NotYet,
                Ordering::Equal => Self::Unknown("connection tracking has the same priority as the chain"),
                Ordering::Greater => Self::Yes,
            },
            Stage::Network(_) => Self::Yes,
        }
    }
}

fn route(packet: &Packet, world: &dyn World) -> Result<Route, SimError> {
    world.route(packet).ok_or_else(|| SimError {
        place: "the route".to_owned(),
        problem: format!("the world does not say where {:?} goes", packet.destination()),
    })
}

/// Decides by which link a packet of this host leaves; false if there is no route.
fn leave(packet: &mut Packet, world: &dyn World, local: &mut bool) -> Result<bool, SimError> {
    *local = false;
    match route(packet, world)? {
        Route::Via(link) => packet.oif = Some(link),
        Route::Local => {
            *local = true;
            packet.oif = world.loopback();
        }
        Route::Unreachable => return Ok(false),
    }
    Ok(true)
}

impl Flow {
    fn fate(self, base: &Base) -> Fate {
        match self {
            Self::Accept => Fate::Accepted,
            Self::Drop => Fate::Dropped,
            Self::Reject(with) => Fate::Rejected(with),
            Self::Through if base.policy == Policy::Accept => Fate::Accepted,
            Self::Through => Fate::Dropped,
        }
    }
}

/// Notes in a connection that an end was translated.
fn note_status(connection: &mut Connection, kind: NatKind) {
    connection.status |= match kind {
        NatKind::Snat => CtStatus::SNAT.0,
        NatKind::Dnat => CtStatus::DNAT.0,
    };
}
