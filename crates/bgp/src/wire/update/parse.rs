//! The attributes of an UPDATE, each error with its grade.

use std::net::{Ipv4Addr, Ipv6Addr};

use ripstop_types::Family;

use super::super::attributes::{flag, kind, name};
use super::super::foreign::{self, Verdict};
use super::super::{AS_TRANS, Fault, Grade};
use super::super::{
    AfiSafi, Aggregator, AsPath, Attributes, LargeCommunity, NextHop, Nlri, Origin, Reader, Reset, Unknown, code, nlri,
};
use super::{Announcement, Context, Update};

/// As many faults are told.
const FAULTS: usize = 64;

/// An error of an attribute.
type Error = (Grade, String);

/// What was read so far.
struct Draft<'a> {
    context: &'a Context,
    seen: [bool; 256],
    faults: Vec<Fault>,
    /// The worst grade and, for the notification, the attribute it is about.
    worst: Option<(Grade, u8)>,
    origin: Option<Origin>,
    as_path: Option<AsPath>,
    next_hop: Option<Ipv4Addr>,
    aggregator: Option<Aggregator>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    reach: Option<(NextHop, Vec<Nlri>)>,
    unreach: Option<(Option<Family>, Vec<Nlri>)>,
    /// The rest, with a next hop that means nothing.
    rest: Attributes,
    unknown: Vec<Unknown>,
}

/// Reads the field of attributes and puts the update together.
pub fn attributes(field: &[u8], withdrawn: Vec<Nlri>, classic: Vec<Nlri>, context: &Context) -> Result<Update, Reset> {
    let mut draft = Draft {
        context,
        seen: [false; 256],
        faults: Vec::new(),
        worst: None,
        origin: None,
        as_path: None,
        next_hop: None,
        aggregator: None,
        as4_path: None,
        as4_aggregator: None,
        reach: None,
        unreach: None,
        rest: Attributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED)),
        unknown: Vec::new(),
    };
    let mut read = Reader::new(field);
    while !read.is_empty() {
        let (flags, number) = (read.u8().unwrap_or(0), read.u8().unwrap_or(0));
        let long = flags & flag::EXTENDED_LENGTH != 0;
        let Some(value) = (if long { read.counted_long() } else { read.counted() }) else {
            // RFC 7606 section 4: the field's own length is what is relied upon.
            draft.fault(number, (Grade::TreatAsWithdraw, "it is longer than all attributes".to_owned()));
            break;
        };
        draft.take(flags, number, value)?;
    }
    draft.finish(withdrawn, classic)
}

impl Draft<'_> {
    fn fault(&mut self, number: u8, (grade, reason): Error) {
        if self.worst.is_none_or(|(worst, _)| worst < grade) {
            self.worst = Some((grade, number));
        }
        if self.faults.len() < FAULTS {
            self.faults.push(Fault::new(grade, number, reason));
        }
    }

    /// Takes in one attribute.
    fn take(&mut self, flags: u8, number: u8, value: &[u8]) -> Result<(), Reset> {
        let multiprotocol = matches!(number, kind::MP_REACH | kind::MP_UNREACH);
        if std::mem::replace(&mut self.seen[usize::from(number)], true) {
            if multiprotocol {
                return Err(Reset::new(code::UPDATE, 1, vec![], format!("{} is there twice", name(number))));
            }
            self.fault(number, (Grade::AttributeDiscard, "it is there again".to_owned()));
            return Ok(());
        }
        if multiprotocol {
            let read = if flags & (flag::OPTIONAL | flag::TRANSITIVE) != flag::OPTIONAL {
                Err(format!("flags {flags:#04x}, accepted are optional and not transitive"))
            } else if number == kind::MP_REACH {
                self.reach(value)
            } else {
                self.unreach(value)
            };
            // Where prefixes cannot be found nothing milder is possible (RFC 7606 sections 5.3, 7.11).
            return read.map_err(|reason| Reset::new(code::UPDATE, 9, vec![], format!("{}: {reason}", name(number))));
        }
        if let Err(error) = flags_of(number, flags).and_then(|()| self.value(number, flags, value)) {
            self.fault(number, error);
        }
        Ok(())
    }

    /// Takes in an attribute's value.
    fn value(&mut self, number: u8, flags: u8, value: &[u8]) -> Result<(), Error> {
        let withdraw = |reason: String| (Grade::TreatAsWithdraw, reason);
        match number {
            kind::ORIGIN => self.origin = Some(origin(value).map_err(withdraw)?),
            kind::AS_PATH => self.as_path = Some(self.path(value).map_err(withdraw)?),
            kind::NEXT_HOP => self.next_hop = Some(next_hop(value).map_err(withdraw)?),
            kind::MED => self.rest.med = Some(number4(value).map_err(withdraw)?),
            kind::ATOMIC_AGGREGATE if value.is_empty() => self.rest.atomic_aggregate = true,
            kind::ATOMIC_AGGREGATE => {
                return Err((Grade::AttributeDiscard, format!("{} bytes, accepted are 0", value.len())));
            }
            kind::AGGREGATOR => self.aggregator = Some(aggregator(value, self.context.four_byte_as)?),
            kind::COMMUNITIES => {
                self.rest.communities = set(value, |bytes| u32::from_be_bytes(*bytes)).map_err(withdraw)?;
            }
            kind::EXTENDED_COMMUNITIES => {
                self.rest.extended_communities = set(value, |bytes| u64::from_be_bytes(*bytes)).map_err(withdraw)?;
            }
            kind::LARGE_COMMUNITIES => self.rest.large_communities = set(value, large).map_err(withdraw)?,
            kind::LOCAL_PREF | kind::ORIGINATOR_ID | kind::CLUSTER_LIST => return self.internal(number, value),
            kind::AS4_PATH | kind::AS4_AGGREGATOR => return self.four_bytes(number, value),
            _ => match foreign::judge(number, flags, value) {
                Verdict::Keep => {
                    let partial = flags & flag::PARTIAL != 0;
                    self.unknown.push(Unknown { kind: number, partial, value: value.into() });
                }
                Verdict::Drop => return Err((Grade::AttributeDiscard, "it is not known here".to_owned())),
                Verdict::Wrong(grade, reason) => return Err((grade, reason)),
            },
        }
        Ok(())
    }

    fn path(&self, value: &[u8]) -> Result<AsPath, String> {
        let path = AsPath::decode(value, self.context.four_byte_as)?;
        if path.has_set() && !self.context.as_sets {
            return Err("a set of ASes, which RFC 9774 forbids".to_owned());
        }
        Ok(path)
    }

    /// Attributes that mean something from peers of the own AS only (RFC 7606 sections 7.5, 7.9, 7.10).
    fn internal(&mut self, number: u8, value: &[u8]) -> Result<(), Error> {
        if !self.context.internal {
            return Err((Grade::AttributeDiscard, "it came from an external peer".to_owned()));
        }
        let withdraw = |reason: String| (Grade::TreatAsWithdraw, reason);
        match number {
            kind::LOCAL_PREF => self.rest.local_pref = Some(number4(value).map_err(withdraw)?),
            kind::ORIGINATOR_ID => self.rest.originator_id = Some(number4(value).map_err(withdraw)?.into()),
            _ => {
                foreign::multiple(value, 4).map_err(withdraw)?;
                let addresses = value.as_chunks::<4>().0;
                self.rest.cluster_list = addresses.iter().map(|bytes| Ipv4Addr::from(*bytes)).collect();
            }
        }
        Ok(())
    }

    /// What speakers of two-byte numbers pass on; from others it means nothing (RFC 6793 sections 4.1, 6).
    fn four_bytes(&mut self, number: u8, value: &[u8]) -> Result<(), Error> {
        let discard = |reason: String| (Grade::AttributeDiscard, reason);
        if self.context.four_byte_as {
            return Err(discard("AS numbers of this peer have four bytes already".to_owned()));
        }
        if number == kind::AS4_PATH {
            self.as4_path = Some(AsPath::decode(value, true).map_err(discard)?);
        } else {
            self.as4_aggregator = Some(aggregator(value, true)?);
        }
        Ok(())
    }

    fn reach(&mut self, value: &[u8]) -> Result<(), String> {
        let mut read = Reader::new(value);
        let (Some(afi), Some(safi)) = (read.u16(), read.u8()) else { return Err("it is too short".to_owned()) };
        let address = read.counted().ok_or("its next hop is longer than the attribute")?;
        read.u8().ok_or("it ends behind its next hop")?;
        let known = AfiSafi { afi, safi }.family().filter(|family| self.context.families.has(*family));
        let Some(family) = known else {
            let reason = format!("routes of family {afi}/{safi}, which was not agreed on");
            self.fault(kind::MP_REACH, (Grade::AttributeDiscard, reason));
            return Ok(());
        };
        let Some(next_hop) = wide_next_hop(address, family, self.context.extended_next_hop) else {
            return Err(format!("a next hop of {} bytes for {family} routes", address.len()));
        };
        let prefixes = nlri::decode(read.rest(), family, self.context.add_path_in.has(family))?;
        if !usable(next_hop) {
            let reason = format!("next hop {}, which nobody can be reached at", next_hop.address());
            self.fault(kind::MP_REACH, (Grade::TreatAsWithdraw, reason));
        }
        self.reach = Some((next_hop, prefixes));
        Ok(())
    }

    fn unreach(&mut self, value: &[u8]) -> Result<(), String> {
        let mut read = Reader::new(value);
        let (Some(afi), Some(safi)) = (read.u16(), read.u8()) else { return Err("it is too short".to_owned()) };
        let known = AfiSafi { afi, safi }.family().filter(|family| self.context.families.has(*family));
        let Some(family) = known else {
            let reason = format!("routes of family {afi}/{safi}, which was not agreed on");
            self.fault(kind::MP_UNREACH, (Grade::AttributeDiscard, reason));
            self.unreach = Some((None, Vec::new()));
            return Ok(());
        };
        let prefixes = nlri::decode(read.rest(), family, self.context.add_path_in.has(family))?;
        self.unreach = Some((Some(family), prefixes));
        Ok(())
    }

    /// Puts everything together.
    fn finish(mut self, mut withdrawn: Vec<Nlri>, classic: Vec<Nlri>) -> Result<Update, Reset> {
        let others = (0..256).any(|number| self.seen[number] && number != usize::from(kind::MP_UNREACH));
        let (wide_hop, wide) = self.reach.take().map_or((None, Vec::new()), |(hop, prefixes)| (Some(hop), prefixes));
        let announces = !classic.is_empty() || !wide.is_empty();
        if announces {
            self.mandatory(!classic.is_empty());
        } else if let Some((Grade::TreatAsWithdraw, number)) = self.worst {
            // RFC 7606 section 5.2: nobody knows whether the prefixes were found.
            let reason = self.faults.iter().find(|fault| fault.grade == Grade::TreatAsWithdraw);
            let reason = reason.map_or_else(|| format!("attribute {number}"), |fault| fault.reason.clone());
            let reason = format!("{}: {reason}, in a message that announces nothing", name(number));
            return Err(Reset::new(code::UPDATE, subcode(number), vec![], reason));
        }
        let mut end_of_rib = None;
        if let Some((family, prefixes)) = self.unreach.take() {
            if prefixes.is_empty() && withdrawn.is_empty() && !others && !announces {
                end_of_rib = family;
            }
            withdrawn.extend(prefixes);
        }
        let mut announced = Vec::new();
        if self.worst.is_some_and(|(grade, _)| grade >= Grade::TreatAsWithdraw) {
            withdrawn.extend(classic);
            withdrawn.extend(wide);
        } else if announces {
            let narrow_hop = self.next_hop.map(NextHop::V4);
            let common = self.common();
            for (next_hop, nlri) in [(narrow_hop, classic), (wide_hop, wide)] {
                if let Some(next_hop) = next_hop.filter(|_| !nlri.is_empty()) {
                    announced.push(Announcement { attributes: Attributes { next_hop, ..common.clone() }, nlri });
                }
            }
        }
        Ok(Update { withdrawn, announced, end_of_rib, faults: self.faults })
    }

    /// Attributes that a message with routes must have (RFC 7606 section 3 d).
    fn mandatory(&mut self, classic: bool) {
        for (number, wanted) in [(kind::ORIGIN, true), (kind::AS_PATH, true), (kind::NEXT_HOP, classic)] {
            if wanted && !self.seen[usize::from(number)] {
                self.fault(number, (Grade::TreatAsWithdraw, "it is missing".to_owned()));
            }
        }
    }

    /// The attributes, made whole from the four-byte ones (RFC 6793 section 4.2.3).
    fn common(&mut self) -> Attributes {
        let own = self.aggregator.is_some_and(|one| one.asn != u32::from(AS_TRANS));
        let believed = !(own && self.as4_aggregator.is_some());
        let path = self.as_path.take().unwrap_or_default();
        let as_path = match self.as4_path.take().filter(|four| believed && (self.context.as_sets || !four.has_set())) {
            Some(four) => path.completed(&four),
            None => path,
        };
        let aggregator = match self.aggregator {
            Some(_) if believed => self.as4_aggregator.or(self.aggregator),
            other => other,
        };
        let mut unknown = std::mem::take(&mut self.unknown);
        unknown.sort();
        let origin = self.origin.unwrap_or_default();
        Attributes { origin, as_path, aggregator, unknown: unknown.into(), ..self.rest.clone() }
    }
}

/// Whether an attribute has the flags that its document gives it. The partial bit belongs to optional transitive ones alone.
fn flags_of(number: u8, flags: u8) -> Result<(), Error> {
    let both = flag::OPTIONAL | flag::TRANSITIVE;
    let wanted = match number {
        kind::ORIGIN | kind::AS_PATH | kind::NEXT_HOP | kind::LOCAL_PREF | kind::ATOMIC_AGGREGATE => flag::TRANSITIVE,
        kind::MED | kind::ORIGINATOR_ID | kind::CLUSTER_LIST => flag::OPTIONAL,
        kind::AGGREGATOR
        | kind::COMMUNITIES
        | kind::EXTENDED_COMMUNITIES
        | kind::AS4_PATH
        | kind::AS4_AGGREGATOR
        | kind::LARGE_COMMUNITIES => both,
        _ => return Ok(()),
    };
    let partial = if wanted == both { 0 } else { flag::PARTIAL };
    if flags & (both | partial) != wanted {
        let wrong = flags & (both | flag::PARTIAL);
        return Err((Grade::TreatAsWithdraw, format!("flags {wrong:#04x}, accepted are {wanted:#04x}")));
    }
    Ok(())
}

/// The UPDATE error's subcode for an attribute (RFC 4271 section 6.3).
fn subcode(number: u8) -> u8 {
    match number {
        kind::ORIGIN => 6,
        kind::AS_PATH => 11,
        kind::NEXT_HOP => 8,
        kind::MP_REACH | kind::MP_UNREACH => 9,
        _ => 1,
    }
}

fn origin(value: &[u8]) -> Result<Origin, String> {
    match value {
        [0] => Ok(Origin::Igp),
        [1] => Ok(Origin::Egp),
        [2] => Ok(Origin::Incomplete),
        [other] => Err(format!("{other}, accepted are 0 to 2")),
        _ => Err(format!("{} bytes, accepted is 1", value.len())),
    }
}

fn number4(value: &[u8]) -> Result<u32, String> {
    let bytes = value.try_into().map_err(|_| format!("{} bytes, accepted are 4", value.len()))?;
    Ok(u32::from_be_bytes(bytes))
}

fn next_hop(value: &[u8]) -> Result<Ipv4Addr, String> {
    let address = Ipv4Addr::from(number4(value)?);
    if usable(NextHop::V4(address)) { Ok(address) } else { Err(format!("{address}, which nobody can be reached at")) }
}

/// Whether an address can be one of a neighbour at all.
fn usable(next_hop: NextHop) -> bool {
    match next_hop {
        NextHop::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        NextHop::V6(address, _) => !address.is_loopback() && !address.is_multicast() && !address.is_unspecified(),
    }
}

/// The next hop of MP_REACH_NLRI; `None` where it has a length that the family has not.
fn wide_next_hop(bytes: &[u8], family: Family, extended: bool) -> Option<NextHop> {
    let mut read = Reader::new(bytes);
    match (family, bytes.len()) {
        (Family::V4, 4) => Some(NextHop::V4(read.array::<4>()?.into())),
        (Family::V4, 16 | 32) if !extended => None,
        (_, 16) => Some(NextHop::V6(read.array::<16>()?.into(), None)),
        (_, 32) => Some(two_addresses(read.array::<16>()?.into(), read.array::<16>()?.into())),
        _ => None,
    }
}

/// A global and a link-local address (RFC 2545 section 3). Who has a link-local one alone sends `::` before it, or sends it twice;
/// another global one behind the first means nothing.
fn two_addresses(first: Ipv6Addr, second: Ipv6Addr) -> NextHop {
    let second = Some(second).filter(Ipv6Addr::is_unicast_link_local);
    match second {
        Some(second) if first.is_unspecified() => NextHop::V6(second, None),
        second => NextHop::V6(first, second.filter(|_| !first.is_unicast_link_local())),
    }
}

fn aggregator(value: &[u8], four_byte_as: bool) -> Result<Aggregator, Error> {
    let mut read = Reader::new(value);
    let asn = if four_byte_as { read.u32() } else { read.u16().map(u32::from) };
    match (asn, read.array::<4>(), read.is_empty()) {
        (Some(0), ..) => Err((Grade::AttributeDiscard, "AS 0, which nobody may be (RFC 7607)".to_owned())),
        (Some(asn), Some(id), true) => Ok(Aggregator { asn, router_id: id.into() }),
        _ => {
            let accepted = if four_byte_as { 8 } else { 6 };
            Err((Grade::AttributeDiscard, format!("{} bytes, accepted are {accepted}", value.len())))
        }
    }
}

/// Elements of a list, sorted, each once.
fn set<T: Ord, const N: usize>(value: &[u8], element: impl Fn(&[u8; N]) -> T) -> Result<Box<[T]>, String> {
    foreign::multiple(value, N)?;
    let mut all: Vec<T> = value.as_chunks::<N>().0.iter().map(element).collect();
    all.sort_unstable();
    all.dedup();
    Ok(all.into())
}

fn large(bytes: &[u8; 12]) -> LargeCommunity {
    let part = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    LargeCommunity(part(0), part(4), part(8))
}
