//! UPDATE: routes that come and go. Errors are graded as RFC 7606 says, the strongest one decides.
//!
//! Not here: whether a route is wanted (loops, filters), which is the table's.

use ripstop_types::Family;

use super::attributes::{attribute, flag, kind as attribute_kind};
use super::graded::{Fault, Grade};
use super::{Attributes, HEADER, LONGEST, LONGEST_EXTENDED, NextHop, Nlri, Reader, Reset, close_message, code};
use super::{kind, nlri, open_message};

mod parse;

/// What was agreed on with a peer, as far as UPDATEs depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Context {
    /// The peer is in this speaker's AS.
    pub internal: bool,
    /// AS numbers have four bytes.
    pub four_byte_as: bool,
    /// Routes of the families that were agreed on.
    pub families: Families,
    /// The peer sends several paths to a prefix.
    pub add_path_in: Families,
    /// The peer takes several paths to a prefix.
    pub add_path_out: Families,
    /// IPv4 routes may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// Messages may be up to 65,535 bytes long.
    pub extended_messages: bool,
    /// Paths with sets of ASes are taken, which RFC 9774 forbids.
    pub as_sets: bool,
}

/// A set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Families {
    /// IPv4 unicast.
    pub v4: bool,
    /// IPv6 unicast.
    pub v6: bool,
}

impl Families {
    /// Both.
    pub const BOTH: Self = Self { v4: true, v6: true };

    /// Whether the family is in it.
    #[must_use]
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Those for which `test` is true.
    #[must_use]
    pub fn by(test: impl Fn(Family) -> bool) -> Self {
        Self { v4: test(Family::V4), v6: test(Family::V6) }
    }

    /// Each in it, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter().filter(move |family| self.has(*family))
    }
}

/// Prefixes that came with the same attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// What they have in common.
    pub attributes: Attributes,
    /// The prefixes, one at least, all of one family.
    pub nlri: Vec<Nlri>,
}

/// What an UPDATE says, errors that end no session taken into account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// Paths that are gone, also by errors. They go before those that come.
    pub withdrawn: Vec<Nlri>,
    /// Paths that came: two only where a message uses the old field and MP_REACH_NLRI.
    pub announced: Vec<Announcement>,
    /// All routes of this family have been sent.
    pub end_of_rib: Option<Family>,
    /// What was wrong, the first 64 faults.
    pub faults: Vec<Fault>,
}

impl Update {
    /// How bad the worst error was.
    #[must_use]
    pub fn grade(&self) -> Option<Grade> {
        self.faults.iter().map(|fault| fault.grade).max()
    }
}

impl Context {
    fn longest(&self) -> usize {
        if self.extended_messages { LONGEST_EXTENDED } else { LONGEST }
    }
}

/// Reads an UPDATE's body.
pub(super) fn decode(body: &[u8], context: &Context) -> Result<Update, Reset> {
    let refuse = |subcode: u8, reason: String| Err(Reset::new(code::UPDATE, subcode, vec![], reason));
    let mut read = Reader::new(body);
    let Some(withdrawn) = read.counted_long() else {
        return refuse(1, "withdrawn routes are longer than the message".to_owned());
    };
    let Some(attributes) = read.counted_long() else {
        return refuse(1, "path attributes are longer than the message".to_owned());
    };
    let field = |bytes: &[u8], what: &str| {
        nlri::decode(bytes, Family::V4, context.add_path_in.has(Family::V4))
            .map_err(|reason| Reset::new(code::UPDATE, 10, vec![], format!("{what}: {reason}")))
    };
    let withdrawn = field(withdrawn, "withdrawn routes")?;
    let announced = field(read.rest(), "network layer reachability information")?;
    if withdrawn.is_empty() && attributes.is_empty() && announced.is_empty() {
        return Ok(Update { end_of_rib: Some(Family::V4), ..Update::default() });
    }
    parse::attributes(attributes, withdrawn, announced, context)
}

/// Appends as many UPDATEs as it takes to announce the prefixes, which are of one family. False where the attributes leave no
/// room for a prefix or there is no such message between these speakers: nothing was appended, and the prefixes must be
/// withdrawn from the peer.
#[must_use]
pub fn announce(out: &mut Vec<u8>, context: &Context, attributes: &Attributes, nlri: &[Nlri]) -> bool {
    let Some(family) = nlri.first().map(|one| one.prefix.family()) else { return true };
    let classic = matches!((family, attributes.next_hop), (Family::V4, NextHop::V4(_)));
    let extended = family == Family::V4 && !classic;
    let v6_by_v4 = family == Family::V6 && matches!(attributes.next_hop, NextHop::V4(_));
    if v6_by_v4 || (extended && !context.extended_next_hop) {
        return false;
    }
    let mut common = Vec::new();
    attributes.encode(&mut common, context.four_byte_as, classic);
    let head = if classic { Vec::new() } else { reach_head(family, attributes.next_hop) };
    // Around the attribute: flags, type and a length of two bytes.
    let around = if classic { 0 } else { 4 + head.len() };
    let add_path = context.add_path_out.has(family);
    let used = HEADER + 4 + common.len() + around;
    let longest_prefix = 1 + usize::from(family.bits() / 8) + if add_path { 4 } else { 0 };
    let Some(room) = context.longest().checked_sub(used).filter(|room| *room >= longest_prefix) else { return false };
    for part in (Chunks { rest: nlri, room, add_path }) {
        let start = open_message(out, kind::UPDATE);
        out.extend_from_slice(&[0, 0, 0, 0]);
        if !classic {
            reach(out, &head, part, add_path);
        }
        out.extend_from_slice(&common);
        let length = u16::try_from(out.len() - start - HEADER - 4).unwrap_or(u16::MAX);
        out[start + HEADER + 2..start + HEADER + 4].copy_from_slice(&length.to_be_bytes());
        if classic {
            part.iter().for_each(|one| nlri::encode(out, *one, add_path));
        }
        close_message(out, start);
    }
    true
}

/// Appends as many UPDATEs as it takes to withdraw the prefixes, which are of one family.
pub fn withdraw(out: &mut Vec<u8>, context: &Context, nlri: &[Nlri]) {
    let Some(family) = nlri.first().map(|one| one.prefix.family()) else { return };
    let add_path = context.add_path_out.has(family);
    let room = context.longest() - HEADER - 4 - if family == Family::V4 { 0 } else { 7 };
    for part in (Chunks { rest: nlri, room, add_path }) {
        let start = open_message(out, kind::UPDATE);
        let mut prefixes = Vec::new();
        part.iter().for_each(|one| nlri::encode(&mut prefixes, *one, add_path));
        if family == Family::V4 {
            out.extend_from_slice(&u16::try_from(prefixes.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(&prefixes);
            out.extend_from_slice(&[0, 0]);
        } else {
            unreach(out, family, &prefixes);
        }
        close_message(out, start);
    }
}

/// The mark that all routes of a family have been sent (RFC 4724 section 2).
#[must_use]
pub fn end_of_rib(family: Family) -> Vec<u8> {
    super::message(kind::UPDATE, |out| match family {
        Family::V4 => out.extend_from_slice(&[0, 0, 0, 0]),
        Family::V6 => unreach(out, family, &[]),
    })
}

/// MP_REACH_NLRI up to its prefixes: family, next hop, a reserved byte.
fn reach_head(family: Family, next_hop: NextHop) -> Vec<u8> {
    let [high, low] = super::AfiSafi::unicast(family).afi.to_be_bytes();
    let mut head = vec![high, low, 1];
    match next_hop {
        NextHop::V4(address) => {
            head.push(4);
            head.extend_from_slice(&address.octets());
        }
        NextHop::V6(global, link_local) => {
            head.push(if link_local.is_some() { 32 } else { 16 });
            head.extend_from_slice(&global.octets());
            link_local.into_iter().for_each(|address| head.extend_from_slice(&address.octets()));
        }
    }
    head.push(0);
    head
}

/// MP_REACH_NLRI as a whole, always with a length of two bytes, so that what it takes is known before.
fn reach(out: &mut Vec<u8>, head: &[u8], prefixes: &[Nlri], add_path: bool) {
    let start = out.len();
    out.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, attribute_kind::MP_REACH, 0, 0]);
    out.extend_from_slice(head);
    prefixes.iter().for_each(|one| nlri::encode(out, *one, add_path));
    let length = u16::try_from(out.len() - start - 4).unwrap_or(u16::MAX);
    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A body whose only attribute is MP_UNREACH_NLRI.
fn unreach(out: &mut Vec<u8>, family: Family, prefixes: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0]);
    attribute(out, flag::OPTIONAL, attribute_kind::MP_UNREACH, |out| {
        let [high, low] = super::AfiSafi::unicast(family).afi.to_be_bytes();
        out.extend_from_slice(&[high, low, 1]);
        out.extend_from_slice(prefixes);
    });
    let length = u16::try_from(out.len() - start - 4).unwrap_or(u16::MAX);
    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Prefixes cut into parts that fit the room of one message.
struct Chunks<'a> {
    rest: &'a [Nlri],
    room: usize,
    add_path: bool,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [Nlri];

    fn next(&mut self) -> Option<Self::Item> {
        let mut left = self.room;
        let fits = |one: &&Nlri| match left.checked_sub(nlri::length(**one, self.add_path)) {
            Some(after) => {
                left = after;
                true
            }
            None => false,
        };
        let count = self.rest.iter().take_while(fits).count();
        let (part, rest) = self.rest.split_at(count);
        self.rest = rest;
        (!part.is_empty()).then_some(part)
    }
}
