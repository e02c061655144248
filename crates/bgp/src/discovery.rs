//! Neighbours on a link, as router advertisements tell of them (RFC 4861): who a peer is that has no address in the configuration.
//!
//! [`Message`] is what speakers tell each other, [`Link`] says when. Advertisements of this speaker say that it is no default router
//! and nothing else, so hosts on the link take nothing from them; nor does this speaker look at more than who sent one.
//!
//! Not here: sockets, and sessions with who was found.
//!
//! Invariants: what came over a router, is malformed, or is from no address of the link is as if it had not come; what is kept of who
//! was heard is bounded, and so is what is answered.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ripstop_types::Millis;

/// Where advertisements go: all systems of a link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Where solicitations go.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The hop limit of all of them: no router passes on a packet that still has it.
pub const HOP_LIMIT: u8 = 255;

/// ICMPv6 types.
pub const SOLICITATION: u8 = 133;
/// That of advertisements.
pub const ADVERTISEMENT: u8 = 134;

/// Milliseconds between advertisements, while nobody is known at first, and then.
const QUICK: u64 = 1_000;
const EVERY: u64 = 10_000;

/// As many go out quickly.
const ROUNDS: u8 = 10;

/// In every so many of them goes a question, which makes three, as the RFC has it.
const ASKS_EVERY: u8 = 4;

/// Milliseconds between answers to questions.
const ANSWER_PAUSE: u64 = 100;

/// As many systems of a link are remembered.
const MOST: usize = 16;

/// Who was not heard for so long, in milliseconds, may be gone.
const FRESH: u64 = 3 * EVERY;

/// What one system of a link says to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Which routers are there?
    Solicitation,
    /// I am.
    Advertisement,
}

impl Message {
    /// The message of a packet's ICMPv6 part, which came from that address with that hop limit (sections 6.1.1, 6.1.2). The kernel has
    /// looked at its checksum.
    ///
    /// # Errors
    /// Why it is as if it had not come.
    pub fn read(bytes: &[u8], source: Ipv6Addr, hop_limit: u8) -> Result<Self, &'static str> {
        if hop_limit != HOP_LIMIT {
            return Err("it came over a router");
        }
        let (message, length) = match bytes {
            [SOLICITATION, 0, ..] => (Self::Solicitation, 8),
            [ADVERTISEMENT, 0, ..] => (Self::Advertisement, 16),
            [SOLICITATION | ADVERTISEMENT, ..] => return Err("it has a code that is not 0"),
            _ => return Err("it is neither a solicitation nor an advertisement"),
        };
        // Who has no address yet may ask.
        let may_be_unspecified = message == Self::Solicitation && source.is_unspecified();
        if !source.is_unicast_link_local() && !may_be_unspecified {
            return Err("it is from no address of the link");
        }
        let mut options = bytes.get(length..).ok_or("it is too short")?;
        while let [_, eights, ..] = options {
            options = options
                .get(usize::from(*eights) * 8..)
                .filter(|_| *eights > 0)
                .ok_or("an option has no such length")?;
        }
        if options.is_empty() { Ok(message) } else { Err("an option is cut off") }
    }

    /// Its bytes, with a checksum that the kernel fills in. All that an advertisement could say is left unsaid.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let (kind, length) = match self {
            Self::Solicitation => (SOLICITATION, 8),
            Self::Advertisement => (ADVERTISEMENT, 16),
        };
        let mut bytes = vec![0; length];
        bytes[0] = kind;
        bytes
    }

    /// Where it goes, if nobody is meant.
    #[must_use]
    pub fn group(self) -> Ipv6Addr {
        match self {
            Self::Solicitation => ALL_ROUTERS,
            Self::Advertisement => ALL_NODES,
        }
    }
}

/// A message, and to whom: all whom it concerns, or one that asked.
pub type Send = (Message, Option<Ipv6Addr>);

/// One link, on which somebody is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The next advertisement goes out.
    next: Millis,
    /// As many have gone out quickly.
    rounds: u8,
    answered: Option<Millis>,
    /// When who was heard last.
    heard: BTreeMap<Ipv6Addr, Millis>,
}

impl Link {
    /// One on which nobody is known.
    #[must_use]
    pub fn new(now: Millis) -> Self {
        Self { next: now, rounds: 0, answered: None, heard: BTreeMap::new() }
    }

    /// When [`Self::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Millis {
        self.next
    }

    /// What is to be sent.
    pub fn tick(&mut self, now: Millis) -> Vec<Send> {
        if now < self.next {
            return Vec::new();
        }
        let mut out = vec![(Message::Advertisement, None)];
        let quick = self.rounds < ROUNDS && self.heard.is_empty();
        if quick && self.rounds.is_multiple_of(ASKS_EVERY) {
            out.push((Message::Solicitation, None));
        }
        self.rounds = self.rounds.saturating_add(1);
        self.next = now.plus(if quick { QUICK } else { EVERY });
        out
    }

    /// A message has come; what is sent for it.
    pub fn received(&mut self, now: Millis, source: Ipv6Addr, message: Message) -> Option<Send> {
        match message {
            Message::Advertisement => {
                self.met(now, source);
                None
            }
            Message::Solicitation => {
                let rested = self.answered.is_none_or(|at| now.since(at) >= ANSWER_PAUSE);
                rested.then(|| {
                    self.answered = Some(now);
                    (Message::Advertisement, Some(source).filter(|source| !source.is_unspecified()))
                })
            }
        }
    }

    /// Somebody has shown to be there.
    pub fn met(&mut self, now: Millis, source: Ipv6Addr) {
        self.heard.insert(source, now);
        if self.heard.len() > MOST {
            let oldest = self.heard.iter().min_by_key(|(_, at)| **at).map(|(source, _)| *source);
            oldest.map(|oldest| self.heard.remove(&oldest));
        }
    }

    /// Who was heard last.
    #[must_use]
    pub fn latest(&self) -> Option<Ipv6Addr> {
        self.heard.iter().max_by_key(|(_, at)| **at).map(|(source, _)| *source)
    }

    /// Who else was heard lately.
    pub fn others(&self, now: Millis, than: Ipv6Addr) -> impl Iterator<Item = Ipv6Addr> + '_ {
        let fresh = self.heard.iter().filter(move |(source, at)| **source != than && now.since(**at) < FRESH);
        fresh.map(|(source, _)| *source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
    const B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb);

    fn at(ms: u64) -> Millis {
        Millis(1_000_000 + ms)
    }

    #[test]
    fn what_is_malformed_or_came_from_elsewhere_has_not_come() {
        let advertisement = Message::Advertisement.bytes();
        let read = |bytes: &[u8]| Message::read(bytes, A, 255);
        assert_eq!(read(&advertisement), Ok(Message::Advertisement));
        assert_eq!(read(&Message::Solicitation.bytes()), Ok(Message::Solicitation));
        // As FRR sends it: a lifetime, the address of its link, an MTU and a prefix.
        let mut real = advertisement.clone();
        real[6..8].copy_from_slice(&1800u16.to_be_bytes());
        let prefix = [&[3, 4, 64, 0xc0][..], &[0; 28]].concat();
        let real = [&real[..], &[1, 1, 2, 0, 0, 0, 0, 1], &[5, 1, 0, 0, 0, 0, 5, 220], &prefix].concat();
        assert_eq!(read(&real), Ok(Message::Advertisement));
        for length in 0..real.len() {
            let is_whole = [16, 24, 32].contains(&length);
            assert_eq!(read(&real[..length]).is_ok(), is_whole, "{length}");
        }
        let with = |place: usize, value: u8| {
            let mut bytes = real.clone();
            bytes[place] = value;
            read(&bytes)
        };
        assert_eq!(with(1, 1), Err("it has a code that is not 0"));
        assert_eq!(with(17, 0), Err("an option has no such length"), "it would never end");
        assert_eq!(with(17, 99), Err("an option has no such length"));
        for kind in [0, 132, 135, 136, 255] {
            assert!(with(0, kind).is_err(), "{kind}");
        }
        for hops in [0, 1, 64, 254] {
            assert_eq!(Message::read(&real, A, hops), Err("it came over a router"));
        }
        for source in ["2001:db8::1", "::", "::1", "ff02::1", "fec0::1"] {
            let source = source.parse().unwrap();
            assert_eq!(Message::read(&real, source, 255), Err("it is from no address of the link"), "{source}");
        }
        assert_eq!(
            Message::read(&Message::Solicitation.bytes(), Ipv6Addr::UNSPECIFIED, 255),
            Ok(Message::Solicitation)
        );
    }

    #[test]
    fn it_asks_three_times_and_tells_quickly_until_somebody_is_known() {
        let mut link = Link::new(at(0));
        let (mut asked, mut told) = (Vec::new(), Vec::new());
        for second in 0..40 {
            for (message, to) in link.tick(at(second * 1_000)) {
                assert_eq!(to, None);
                let times = if message == Message::Solicitation { &mut asked } else { &mut told };
                times.push(second);
            }
        }
        assert_eq!(asked, [0, 4, 8]);
        assert_eq!(told, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30]);
        let mut link = Link::new(at(0));
        assert_eq!(link.tick(at(0)).len(), 2);
        assert_eq!(link.received(at(10), A, Message::Advertisement), None);
        assert_eq!((link.tick(at(999)), link.tick(at(1_000)).len()), (vec![], 1));
        assert_eq!(link.deadline(), at(11_000));
    }

    #[test]
    fn who_asks_is_answered_and_who_asks_without_end_is_not() {
        let mut link = Link::new(at(0));
        assert_eq!(link.received(at(0), A, Message::Solicitation), Some((Message::Advertisement, Some(A))));
        assert_eq!(link.received(at(99), B, Message::Solicitation), None);
        let nobody = Ipv6Addr::UNSPECIFIED;
        assert_eq!(link.received(at(100), nobody, Message::Solicitation), Some((Message::Advertisement, None)));
        assert_eq!(link.latest(), None, "who asks is no router");
    }

    #[test]
    fn who_was_heard_last_is_the_neighbour_and_only_some_are_remembered() {
        let mut link = Link::new(at(0));
        link.met(at(1), B);
        link.met(at(2), A);
        assert_eq!(link.latest(), Some(A));
        link.met(at(3), B);
        assert_eq!((link.latest(), link.others(at(4), B).collect::<Vec<_>>()), (Some(B), vec![A]));
        assert_eq!(link.others(at(40_000), B).count(), 0, "it may be gone");
        for n in 0..1_000u16 {
            link.met(at(5 + u64::from(n)), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, n));
        }
        assert_eq!((link.heard.len(), link.latest()), (MOST, Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, 999))));
    }
}
