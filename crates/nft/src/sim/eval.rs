//! Chains, rules and statements for one packet.
//!
//! Values are compared as the bytes the kernel has in its registers. A field the packet does not have makes a rule not
//! match, also a negated one, as in the kernel.

use std::net::IpAddr;

use ripstop_types::Family;

use super::{Network, Packet, Ruleset, SimError, Stage, Step, Tracked, Tracking, Transit, World, note_status};
use crate::bytes;
use crate::implied::{network, transport};
use crate::model::build::{CtState, EtherType, IfIndex, Mark, NfProto};
use crate::model::{
    Data, FibKey, FibResult, IfPattern, KeyPart, MapRef, MarkSource, Match, Name, Nat, NatFlags, NatKind, NatTo,
    Operand, RejectWith, Relation, Rule, Selector, SetRef, SetUpdate, Statement, Table, TableFamily, Type, Value,
    Verdict,
};
use crate::sim::lookup::Contents;

/// How a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// At its end, or by `return`.
    Through,
    Accept,
    Drop,
    Reject(RejectWith),
}

/// An element a rule added on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Added {
    family: TableFamily,
    table: Name,
    set: Name,
    key: Vec<Vec<u8>>,
    data: Option<Data>,
}

/// How a rule ended.
enum Ended {
    /// A match failed.
    Missed,
    /// All statements were done.
    Done,
    Verdict(Verdict),
    Reject(RejectWith),
}

/// What a statement says.
enum Said {
    GoOn,
    Miss,
    End(Ended),
}

/// A chain being run.
pub(super) struct Run<'r, 'a> {
    pub(super) ruleset: &'r Ruleset<'a>,
    pub(super) table: &'a Table,
    pub(super) stage: Stage,
    pub(super) tracked: Tracked,
    pub(super) world: &'r dyn World,
}

/// `NFT_JUMP_STACK_SIZE`
const DEPTH: usize = 16;

impl<'a> Run<'_, 'a> {
    pub(super) fn chain(&self, name: &Name, transit: &mut Transit, depth: usize) -> Result<Flow, SimError> {
        let place = || format!("chain {} {} {name}", self.table.family, self.table.name);
        let found = self.table.chains.get(name).filter(|_| depth <= DEPTH);
        let chain = found.ok_or_else(|| SimError {
            place: place(),
            problem: "it is not declared, or jumps lead too deep".to_owned(),
        })?;
        for (index, rule) in chain.rules.iter().enumerate() {
            let ended = self.rule(rule, transit).map_err(|problem| SimError {
                place: format!("rule {} of {} ({})", index + 1, place(), crate::text::rule(self.table.family, rule)),
                problem,
            })?;
            if matches!(ended, Ended::Missed) {
                continue;
            }
            transit.trail.push(Step {
                family: self.table.family,
                table: self.table.name.clone(),
                chain: name.clone(),
                rule: Some(index),
                comment: rule.comment.clone(),
                text: crate::text::rule(self.table.family, rule),
            });
            match ended {
                Ended::Missed | Ended::Done | Ended::Verdict(Verdict::Continue) => {}
                Ended::Reject(with) => return Ok(Flow::Reject(with)),
                Ended::Verdict(Verdict::Accept) => return Ok(Flow::Accept),
                Ended::Verdict(Verdict::Drop) => return Ok(Flow::Drop),
                Ended::Verdict(Verdict::Return) => return Ok(Flow::Through),
                Ended::Verdict(Verdict::Goto(target)) => return self.chain(&target, transit, depth + 1),
                Ended::Verdict(Verdict::Jump(target)) => match self.chain(&target, transit, depth + 1)? {
                    Flow::Through => {}
                    decided => return Ok(decided),
                },
            }
        }
        Ok(Flow::Through)
    }

    fn rule(&self, rule: &Rule, transit: &mut Transit) -> Result<Ended, String> {
        for statement in &rule.statements {
            match self.statement(statement, transit)? {
                Said::GoOn => {}
                Said::Miss => return Ok(Ended::Missed),
                Said::End(ended) => return Ok(ended),
            }
        }
        Ok(Ended::Done)
    }

    fn statement(&self, statement: &Statement, transit: &mut Transit) -> Result<Said, String> {
        Ok(match statement {
            Statement::Match(found) => {
                if self.matches(found, transit)? {
                    Said::GoOn
                } else {
                    Said::Miss
                }
            }
            Statement::Verdict(verdict) => Said::End(Ended::Verdict(verdict.clone())),
            Statement::Vmap { key, map } => match self.map(key, map, transit)? {
                // The rule goes on.
                Some(Data::Verdict(Verdict::Continue)) => Said::GoOn,
                Some(Data::Verdict(verdict)) => Said::End(Ended::Verdict(verdict)),
                Some(Data::Values(_)) => return Err("the map gives a value instead of a verdict".to_owned()),
                None => Said::Miss,
            },
            Statement::Counter | Statement::Log(_) => Said::GoOn,
            Statement::Masquerade(flags) => self.masquerade(*flags, transit)?,
            Statement::Redirect(port) => self.redirect(*port, transit)?,
            Statement::Nat(nat) => self.nat(nat, transit)?,
            Statement::Reject(with) => self.reject(*with, transit),
            Statement::MetaMark(source) => match self.mark(source, Selector::MetaMark, transit)? {
                Some(mark) => {
                    transit.packet.mark = mark;
                    Said::GoOn
                }
                None => Said::Miss,
            },
            Statement::CtMark(source) => match self.mark(source, Selector::CtMark, transit)? {
                Some(mark) => {
                    if self.sees_connection()?
                        && let Some(connection) = transit.packet.connection_mut()
                    {
                        connection.mark = mark;
                    }
                    Said::GoOn
                }
                None => Said::Miss,
            },
            Statement::Notrack => {
                // A packet that has its connection keeps it.
                if self.tracked == Tracked::NotYet {
                    transit.packet.tracking = Tracking::Untracked;
                }
                Said::GoOn
            }
            Statement::Limit(limit) => {
                let below = self.world.is_below(limit).ok_or("the world does not say whether the rate is below")?;
                if below != limit.over { Said::GoOn } else { Said::Miss }
            }
            Statement::SetUpdate(update) => self.update(update, transit)?,
            // The device gives it back behind the hook.
            Statement::Fwd(_) => Said::End(Ended::Verdict(Verdict::Accept)),
        })
    }

    fn matches(&self, found: &Match, transit: &Transit) -> Result<bool, String> {
        let Some(key) = self.key(&found.fields, transit) else { return Ok(false) };
        let wanted = found.relation == Relation::Is;
        let holds = match &found.operand {
            Operand::Set(SetRef::Named(name)) => self.named(name, &key, wanted, transit)?.is_some(),
            Operand::Set(SetRef::Inline(elements)) => {
                let mut contents = Contents::default();
                elements.iter().for_each(|parts| contents.insert(parts, None));
                look(&contents, &key, wanted)?.is_some()
            }
            Operand::AnyBit(any) => number(&single(key)?) & any != 0,
            Operand::Part(KeyPart::Value(Value::IfName(IfPattern::Prefix(prefix)))) => {
                single(key)?.starts_with(prefix.as_str().as_bytes())
            }
            Operand::Part(part) => {
                let (first, last) = part.bounds();
                let value = single(key)?;
                let masked = match found.mask {
                    None => value,
                    Some(mask) => sized(number(&value) & mask, value.len()),
                };
                bytes::value(&first) <= masked && masked <= bytes::value(&last)
            }
        };
        Ok(holds == wanted)
    }

    /// The fields of a key; `None` if the packet lacks one.
    fn key(&self, fields: &[Selector], transit: &Transit) -> Option<Key> {
        fields.iter().map(|field| self.field(*field, transit).transpose()).collect()
    }

    /// Looks into a declared set; `wanted` as in [`look`].
    fn named(&self, name: &Name, key: &Key, wanted: bool, transit: &Transit) -> Result<Option<Option<Data>>, String> {
        let family = self.table.family;
        let mine = |added: &&Added| added.family == family && added.table == self.table.name && added.set == *name;
        if let Ok(known) = known(key) {
            if let Some(added) = transit.added.iter().filter(mine).find(|added| added.key == known) {
                return Ok(Some(added.data.clone()));
            }
        } else if transit.added.iter().any(|added| mine(&added)) {
            known(key)?;
        }
        let contents = self.ruleset.sets.get(&(family, &self.table.name, name));
        look(contents.ok_or_else(|| format!("no set {name} is declared"))?, key, wanted)
    }

    fn map(&self, key: &[Selector], map: &MapRef, transit: &Transit) -> Result<Option<Data>, String> {
        let Some(key) = self.key(key, transit) else { return Ok(None) };
        match map {
            MapRef::Named(name) => Ok(self.named(name, &key, true, transit)?.flatten()),
            MapRef::Inline(entries) => {
                let mut contents = Contents::default();
                entries.iter().for_each(|(parts, data)| contents.insert(parts, Some(data)));
                Ok(look(&contents, &key, true)?.flatten())
            }
        }
    }

    fn mark(&self, source: &MarkSource, own: Selector, transit: &Transit) -> Result<Option<u32>, String> {
        let read = |selector| -> Result<Option<u32>, String> {
            Ok(self.field(selector, transit)?.map(|value| number(&value)))
        };
        Ok(match source {
            MarkSource::Value(mark) => Some(*mark),
            MarkSource::Change { keep, set } => read(own)?.map(|mark| (mark & keep) ^ set),
            MarkSource::Meta(mask) => read(Selector::MetaMark)?.map(|mark| mark & mask),
            MarkSource::Ct(mask) => read(Selector::CtMark)?.map(|mark| mark & mask),
            MarkSource::Number(numgen) => {
                Some(self.world.number(numgen).ok_or("the world does not say which number is generated")?)
            }
            MarkSource::Map { key, map } => match self.map(key, map, transit)? {
                Some(Data::Values(values)) => match &values[..] {
                    [Value::Mark(mark)] => Some(*mark),
                    _ => return Err("the map gives no mark".to_owned()),
                },
                Some(Data::Verdict(_)) => return Err("the map gives a verdict instead of a mark".to_owned()),
                None => None,
            },
        })
    }

    fn update(&self, update: &SetUpdate, transit: &mut Transit) -> Result<Said, String> {
        let (Some(key), Some(data)) = (self.key(&update.key, transit), self.key(&update.data, transit)) else {
            return Ok(Said::Miss);
        };
        let data = known(&data)?;
        let types: Vec<Type> = update.data.iter().map(|field| field.type_of()).collect();
        let values: Option<Vec<Value>> =
            types.iter().zip(&data).map(|(kind, value)| bytes::read(*kind, value)).collect();
        let values = values.ok_or("a link without a name cannot be a map's value")?;
        let present = self.named(&update.set, &key, false, transit)?;
        // What is there keeps its value.
        if present.is_none() {
            if self.is_full(&update.set, transit) {
                return Ok(Said::Miss);
            }
            transit.added.push(Added {
                family: self.table.family,
                table: self.table.name.clone(),
                set: update.set.clone(),
                key: known(&key)?,
                data: (!values.is_empty()).then_some(Data::Values(values)),
            });
        }
        Ok(Said::GoOn)
    }

    /// Whether a set has as many elements as the kernel takes.
    fn is_full(&self, name: &Name, transit: &Transit) -> bool {
        let (family, table) = (self.table.family, &self.table.name);
        let Some(size) = self.table.sets.get(name).and_then(|set| set.size) else { return false };
        let contents = self.ruleset.sets.get(&(family, table, name)).map_or(0, Contents::len);
        let mine = |added: &&Added| added.family == family && added.table == *table && added.set == *name;
        contents + transit.added.iter().filter(mine).count() >= usize::try_from(size).unwrap_or(usize::MAX)
    }

    fn reject(&self, with: RejectWith, transit: &Transit) -> Said {
        let tcp = matches!(transit.packet.transport(), Some(super::Transport::Tcp { .. }));
        if with == RejectWith::TcpReset && !tcp { Said::Miss } else { Said::End(Ended::Reject(with)) }
    }

    fn masquerade(&self, flags: NatFlags, transit: &mut Transit) -> Result<Said, String> {
        let (Some(family), Some(oif)) = (transit.packet.family(), transit.packet.oif.clone()) else {
            return Err("masquerade of a packet without addresses or outgoing link".to_owned());
        };
        transit.masquerade = Some(flags);
        transit.port_open |= flags.random || flags.fully_random;
        match self.world.primary_address(&oif, family) {
            Some(address) => translated(transit, NatKind::Snat, address, None),
            None => {
                transit.source_open = true;
                transit.bind(NatKind::Snat);
            }
        }
        Ok(Said::End(Ended::Verdict(Verdict::Accept)))
    }

    fn redirect(&self, port: Option<u16>, transit: &mut Transit) -> Result<Said, String> {
        let family = transit.packet.family().ok_or("redirect of a packet without addresses")?;
        let address = match (&transit.packet.iif, family) {
            (None, Family::V4) => IpAddr::from([127, 0, 0, 1]),
            (None, Family::V6) => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
            (Some(iif), _) => {
                let address = self.world.primary_address(iif, family);
                address.ok_or_else(|| format!("the world does not say the address of {}", iif.name))?
            }
        };
        translated(transit, NatKind::Dnat, address, port);
        Ok(Said::End(Ended::Verdict(Verdict::Accept)))
    }

    fn nat(&self, nat: &Nat, transit: &mut Transit) -> Result<Said, String> {
        if transit.packet.family() != Some(nat.family) {
            return Ok(Said::GoOn);
        }
        let (address, port) = match &nat.to {
            NatTo::Address(address, port) => (*address, *port),
            NatTo::Map { key, map, .. } => match self.map(key, map, transit)? {
                None => return Ok(Said::Miss),
                Some(data) => endpoint(&data).ok_or("the map gives no address")?,
            },
        };
        transit.port_open |= nat.kind == NatKind::Snat && (nat.flags.random || nat.flags.fully_random);
        translated(transit, nat.kind, address, port);
        Ok(Said::End(Ended::Verdict(Verdict::Accept)))
    }

    fn sees_connection(&self) -> Result<bool, String> {
        match self.tracked {
            Tracked::Yes => Ok(true),
            Tracked::NotYet => Ok(false),
            Tracked::Unknown(why) => Err(why.to_owned()),
        }
    }

    /// The bytes of a field; `None` if the packet lacks it.
    fn field(&self, selector: Selector, transit: &Transit) -> Result<Option<Vec<u8>>, String> {
        use Selector as S;
        let packet = &transit.packet;
        if network(selector).is_some_and(|kind| kind != packet.ether_type().0) {
            return Ok(None);
        }
        if let Some(wanted) = transport(selector)
            && protocol(packet) != Some(wanted)
        {
            return Ok(None);
        }
        let link_name =
            |link: &Option<super::Link>| link.as_ref().map_or_else(|| vec![0; 16], |l| bytes::value(&(&l.name).into()));
        let link_index =
            |link: &Option<super::Link>| bytes::value(&IfIndex(link.as_ref().map_or(0, |l| l.index)).into());
        Ok(Some(match selector {
            S::MetaIifname => link_name(&packet.iif),
            S::MetaOifname => link_name(&packet.oif),
            S::MetaIif => link_index(&packet.iif),
            S::MetaOif => link_index(&packet.oif),
            S::MetaL4proto | S::IpProtocol | S::Ip6Nexthdr => return Ok(protocol(packet).map(|number| vec![number])),
            S::MetaNfproto => vec![self.nfproto(packet)],
            S::MetaProtocol => bytes::value(&packet.ether_type().into()),
            S::MetaMark => bytes::value(&Mark(packet.mark).into()),
            S::MetaPkttype => vec![packet.pkttype.ok_or("whom the frame is for is not given with the packet")?],
            S::EtherSaddr | S::EtherDaddr | S::EtherType => return Ok(ethernet(selector, packet)),
            S::Fib(key, result) => self.fib(key, result, transit)?,
            S::Number(numgen) => {
                let number = self.world.number(&numgen).ok_or("the world does not say which number is generated")?;
                bytes::value(&Mark(number).into())
            }
            S::CtState
            | S::CtStatus
            | S::CtMark
            | S::CtDirection
            | S::CtOriginalIpDaddr
            | S::CtOriginalIp6Daddr
            | S::CtOriginalProtoDst => return self.ct(selector, transit),
            _ => return header(selector, transit),
        }))
    }

    fn nfproto(&self, packet: &Packet) -> u8 {
        match (self.stage, packet.family()) {
            (Stage::Bridge(_), _) => NfProto::BRIDGE.0,
            // NFPROTO_NETDEV
            (Stage::Ingress, _) if self.table.family == TableFamily::Netdev => 5,
            (_, Some(Family::V4)) => NfProto::IPV4.0,
            (_, Some(Family::V6)) => NfProto::IPV6.0,
            (_, None) => NfProto::ARP.0,
        }
    }

    fn fib(&self, key: FibKey, result: FibResult, transit: &Transit) -> Result<Vec<u8>, String> {
        let packet = &transit.packet;
        let (address, on) = match key {
            FibKey::Daddr => (packet.destination(), None),
            FibKey::DaddrIif => (packet.destination(), packet.iif.as_ref()),
            FibKey::Saddr => (packet.source(), None),
            FibKey::SaddrIif => (packet.source(), packet.iif.as_ref()),
        };
        if matches!(key, FibKey::Saddr | FibKey::SaddrIif) && transit.source_open {
            return Err(SOURCE_OPEN.to_owned());
        }
        let address = address.ok_or("the routing tables are asked about a packet without addresses")?;
        let unanswered = || format!("the world does not say what the routing tables hold for {address}");
        let number = match result {
            FibResult::Type => self.world.address_type(address, on).ok_or_else(unanswered)?.0,
            FibResult::Oif => self.world.exit(address, on).ok_or_else(unanswered)?,
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn ct(&self, selector: Selector, transit: &Transit) -> Result<Option<Vec<u8>>, String> {
        use Selector as S;
        let seen = self.sees_connection()?;
        let tracking = &transit.packet.tracking;
        if selector == S::CtState {
            let state = match tracking {
                Tracking::Untracked => CtState::UNTRACKED.0,
                Tracking::Connection(connection) if seen => connection.state,
                _ => CtState::INVALID.0,
            };
            return Ok(Some(state.to_ne_bytes().to_vec()));
        }
        let (true, Tracking::Connection(connection)) = (seen, tracking) else { return Ok(None) };
        if selector == S::CtStatus && transit.source_open {
            return Err(SOURCE_OPEN.to_owned());
        }
        let original =
            || connection.original_destination.ok_or("the original destination is not given with the connection");
        Ok(match (selector, selector.type_of()) {
            (S::CtStatus, _) => Some(connection.status.to_ne_bytes().to_vec()),
            (S::CtMark, _) => Some(connection.mark.to_ne_bytes().to_vec()),
            (S::CtDirection, _) => Some(vec![connection.direction().0]),
            (S::CtOriginalProtoDst, _) => Some(original()?.1.to_be_bytes().to_vec()),
            (_, kind) => {
                let value = Value::from(original()?.0);
                (value.type_of() == kind).then(|| bytes::value(&value))
            }
        })
    }
}

/// The fields of a key; of each the bytes, or why they are not known.
type Key = Vec<Result<Vec<u8>, String>>;

fn known(key: &Key) -> Result<Vec<Vec<u8>>, String> {
    key.iter().cloned().collect()
}

fn single(mut key: Key) -> Result<Vec<u8>, String> {
    match (key.pop(), key.is_empty()) {
        (Some(value), true) => value,
        _ => Err("a concatenation is compared with something else than a set".to_owned()),
    }
}

/// Looks a key up. A field that is not known does no harm where an element is `wanted` and none has the other fields.
fn look(contents: &Contents<'_>, key: &Key, wanted: bool) -> Result<Option<Option<Data>>, String> {
    let partly: Vec<_> = key.iter().map(|field| field.as_ref().ok().map(Vec::as_slice)).collect();
    match known(key) {
        Ok(known) => Ok(contents.get(&known).map(|data| data.cloned())),
        Err(_) if wanted && !contents.any_like(&partly) => Ok(None),
        Err(why) => Err(why),
    }
}

const SOURCE_OPEN: &str = "the packet was masqueraded, and the world does not say the outgoing link's address";

/// The transport protocol's number, if it is IP.
fn protocol(packet: &Packet) -> Option<u8> {
    Some(packet.transport()?.protocol(packet.family()?))
}

fn ethernet(selector: Selector, packet: &Packet) -> Option<Vec<u8>> {
    let ether = packet.ether.as_ref()?;
    Some(match selector {
        Selector::EtherSaddr => ether.src.0.to_vec(),
        Selector::EtherDaddr => ether.dst.0.to_vec(),
        _ => bytes::value(&EtherType(packet.ether_type().0).into()),
    })
}

/// A field of the network or transport header, of which it is known that the packet has it.
fn header(selector: Selector, transit: &Transit) -> Result<Option<Vec<u8>>, String> {
    use Selector as S;
    let packet = &transit.packet;
    let address = |ip: Option<IpAddr>| ip.map(|ip| bytes::value(&ip.into()));
    let port = |pick: fn((u16, u16)) -> u16| {
        let ports = packet.transport().and_then(super::Transport::ports);
        ports.map(|ports| pick(ports).to_be_bytes().to_vec())
    };
    let source_port = matches!(selector, S::TcpSport | S::UdpSport | S::ThSport);
    if transit.source_open && matches!(selector, S::IpSaddr | S::Ip6Saddr) {
        return Err(SOURCE_OPEN.to_owned());
    }
    if transit.port_open && source_port {
        return Err("the source port was chosen at random".to_owned());
    }
    Ok(match (selector, &packet.network) {
        (S::IpSaddr | S::Ip6Saddr, _) => address(packet.source()),
        (S::IpDaddr | S::Ip6Daddr, _) => address(packet.destination()),
        (S::TcpSport | S::UdpSport, _) => port(|(src, _)| src),
        (S::TcpDport | S::UdpDport, _) => port(|(_, dst)| dst),
        (S::ThSport | S::ThDport, Network::Ip { transport, .. }) => {
            let found = if source_port { port(|(src, _)| src) } else { port(|(_, dst)| dst) };
            Some(found.ok_or_else(|| format!("ports of {transport:?}, which has none"))?)
        }
        (_, Network::Ip { transport: super::Transport::Tcp { flags, .. }, .. }) => Some(vec![*flags]),
        (S::NdTarget, Network::Ip { transport: super::Transport::Icmp { target, .. }, .. }) => {
            Some(target.ok_or("the neighbour discovery target is not given with the packet")?.octets().to_vec())
        }
        (_, Network::Ip { transport: super::Transport::Icmp { kind, .. }, .. }) => Some(vec![*kind]),
        (S::ArpOperation, Network::Arp { operation, .. }) => Some(operation.to_be_bytes().to_vec()),
        (S::ArpSaddrEther, Network::Arp { src_mac, .. }) => Some(src_mac.0.to_vec()),
        (S::ArpSaddrIp, Network::Arp { src_ip, .. }) => Some(src_ip.octets().to_vec()),
        (S::ArpDaddrEther, Network::Arp { dst_mac, .. }) => Some(dst_mac.0.to_vec()),
        (S::ArpDaddrIp, Network::Arp { dst_ip, .. }) => Some(dst_ip.octets().to_vec()),
        _ => None,
    })
}

/// A number in host byte order, or a single byte.
fn number(value: &[u8]) -> u32 {
    match value {
        [byte] => u32::from(*byte),
        _ => value.try_into().map_or(0, u32::from_ne_bytes),
    }
}

fn sized(number: u32, len: usize) -> Vec<u8> {
    match len {
        1 => vec![u8::try_from(number & 0xff).unwrap_or(0)],
        _ => number.to_ne_bytes().to_vec(),
    }
}

fn endpoint(data: &Data) -> Option<(IpAddr, Option<u16>)> {
    let Data::Values(values) = data else { return None };
    let address = |value: &Value| match value {
        Value::Ipv4(ip) => Some(IpAddr::V4(*ip)),
        Value::Ipv6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    match &values[..] {
        [one] => Some((address(one)?, None)),
        [one, Value::Service(port)] => Some((address(one)?, Some(*port))),
        _ => None,
    }
}

/// Translates one end of a connection's first packet.
fn translated(transit: &mut Transit, kind: NatKind, address: IpAddr, port: Option<u16>) {
    let before = transit.packet.network.clone();
    rewrite(&mut transit.packet, kind, address, port);
    if before != transit.packet.network
        && let Some(connection) = transit.packet.connection_mut()
    {
        note_status(connection, kind);
    }
    transit.bind(kind);
}

/// Rewrites one end of a packet.
pub(super) fn rewrite(packet: &mut Packet, kind: NatKind, address: IpAddr, port: Option<u16>) {
    let Network::Ip { src, dst, transport } = &mut packet.network else { return };
    let ports = transport.ports_mut().zip(port);
    match kind {
        NatKind::Snat => {
            *src = address;
            if let Some(((src, _), port)) = ports {
                *src = port;
            }
        }
        NatKind::Dnat => {
            *dst = address;
            if let Some(((_, dst), port)) = ports {
                *dst = port;
            }
        }
    }
}
