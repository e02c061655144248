//! Messages as bytes. Numbers are big endian; an address is its family, 4 or 6, and its bytes; a node is its place among the names.
//!
//! | what | bytes |
//! |---|---|
//! | `rpel` and version, 2 | 5 |
//! | flags: 1 leaves, 2 has votes | 1 |
//! | names in ascending order: how many, and each with its length | 2, 1 + n each |
//! | the sender's name | 2 |
//! | run, number, digest of candidates, echo (run, number), generation known, own generation | 8 each |
//! | nodes seen alive: how many, and each | 2, 2 each |
//! | those of them that came back lately: how many, and each | 2, 2 each |
//! | nodes not heard for a detection time: how many, and each | 2, 2 each |
//! | addresses it began to speak for: how many, and each | 2, 5 or 17 each |
//! | votes in ascending order of addresses: how many, and each with its node | 2, 7 or 19 each |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::NodeName;

use crate::message::{Message, Votes};

/// Longest message: a datagram's payload.
pub const LONGEST: usize = 65_507;

const HEAD: &[u8] = b"rpel\x02";
const LEAVES: u8 = 1;
const VOTES: u8 = 2;

impl Message {
    /// Its bytes; none if it is longer than a datagram, as with more than three thousand IPv6 addresses.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let voted = self.votes.iter().flat_map(|votes| votes.values());
        let names: BTreeSet<&NodeName> =
            self.sees.iter().chain(&self.recent).chain(&self.silent).chain(voted).chain([&self.from]).collect();
        let places: BTreeMap<&NodeName, u16> = names.iter().copied().zip(0..).collect();
        let mut out = HEAD.to_vec();
        let flags = [(self.leaves, LEAVES), (self.votes.is_some(), VOTES)];
        out.push(flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        count(&mut out, names.len())?;
        for name in &names {
            out.push(u8::try_from(name.as_str().len()).ok()?);
            out.extend(name.as_str().bytes());
        }
        let node = |out: &mut Vec<u8>, name: &NodeName| {
            out.extend(places.get(name)?.to_be_bytes());
            Some(())
        };
        node(&mut out, &self.from)?;
        for number in [self.run, self.seq, self.list, self.echo.0, self.echo.1, self.knows, self.generation] {
            out.extend(number.to_be_bytes());
        }
        for set in [&self.sees, &self.recent, &self.silent] {
            count(&mut out, set.len())?;
            set.iter().try_for_each(|name| node(&mut out, name))?;
        }
        count(&mut out, self.speaks.len())?;
        self.speaks.iter().for_each(|address| put(&mut out, *address));
        if let Some(votes) = &self.votes {
            count(&mut out, votes.len())?;
            for (address, name) in votes.iter() {
                put(&mut out, *address);
                node(&mut out, name)?;
            }
        }
        (out.len() <= LONGEST).then_some(out)
    }

    /// Reads one; none for what is none.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes.strip_prefix(HEAD)?);
        let flags = rest.byte().filter(|flags| *flags <= LEAVES | VOTES)?;
        let mut names: Vec<NodeName> = Vec::new();
        for _ in 0..rest.short()? {
            let length = rest.byte()?;
            let name: NodeName = std::str::from_utf8(rest.take(length.into())?).ok()?.parse().ok()?;
            if names.last().is_some_and(|last| *last >= name) {
                return None;
            }
            names.push(name);
        }
        let from = rest.node(&names)?;
        let [run, seq, list, echo_run, echo_seq, knows, generation] = {
            let mut numbers = [0; 7];
            for number in &mut numbers {
                *number = u64::from_be_bytes(*rest.take(8)?.first_chunk()?);
            }
            numbers
        };
        let (sees, recent, silent) = (rest.nodes(&names)?, rest.nodes(&names)?, rest.nodes(&names)?);
        let mut speaks = Vec::new();
        for _ in 0..rest.short()? {
            speaks.push(rest.address()?);
        }
        let votes = if flags & VOTES == 0 { None } else { Some(Arc::new(rest.votes(&names)?)) };
        let leaves = flags & LEAVES != 0;
        let echo = (echo_run, echo_seq);
        let message =
            Self { from, run, seq, list, echo, knows, generation, votes, sees, recent, silent, leaves, speaks };
        rest.0.is_empty().then_some(message)
    }
}

fn count(out: &mut Vec<u8>, number: usize) -> Option<()> {
    out.extend(u16::try_from(number).ok()?.to_be_bytes());
    Some(())
}

fn put(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn node(&mut self, names: &[NodeName]) -> Option<NodeName> {
        names.get(usize::from(self.short()?)).cloned()
    }

    fn nodes(&mut self, names: &[NodeName]) -> Option<BTreeSet<NodeName>> {
        (0..self.short()?).map(|_| self.node(names)).collect()
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.byte()? {
            4 => self.take(4)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
            6 => self.take(16)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
            _ => None,
        }
    }

    fn votes(&mut self, names: &[NodeName]) -> Option<Votes> {
        let mut votes = Votes::new();
        for _ in 0..self.short()? {
            let address = self.address()?;
            if votes.last_key_value().is_some_and(|(last, _)| *last >= address) {
                return None;
            }
            votes.insert(address, self.node(names)?);
        }
        Some(votes)
    }
}
