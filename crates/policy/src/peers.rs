//! Tables of peers: whether packets are accepted, by who is at the other end.
//!
//! A table says one thing of everybody ([`Peers::otherwise`]), another of blocks of addresses, and something else yet of single addresses:
//! those of pods and nodes of which it would say the wrong thing otherwise. So an address that nobody has, or has no more, is in none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Family, Prefix};

use crate::atoms::{Atoms, Who};
use crate::members::{AtomId, Members};
use crate::tables::{Ladder, Stage, TableName, address, number};

#[derive(Debug)]
pub struct Peers {
    pub name: TableName,
    pub ladder: Ladder,
    pub refs: usize,
    /// Where a peer stands, in order.
    places: Vec<(AtomId, u8, u32)>,
    /// Which rungs of a stage blocks have, by family.
    pieces: [[Vec<Piece>; 2]; 2],
    nodes: Vec<AtomId>,
}

/// Addresses from the first to the last, and the first rung that names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    first: u128,
    last: u128,
    rung: u32,
}

type Ranks = [Option<usize>; 2];

impl Peers {
    pub fn new(name: TableName, ladder: Ladder, atoms: &Atoms) -> Self {
        let (mut places, mut nodes) = (Vec::new(), Vec::new());
        for (stage, rungs) in (0..).zip(&ladder.stages) {
            for (rung, atom) in each_atom(rungs) {
                places.push((atom, stage, rung));
                nodes.extend(matches!(atoms.get(atom).key.who, Who::Nodes(_)).then_some(atom));
            }
        }
        places.sort_unstable();
        nodes.sort_unstable();
        nodes.dedup();
        let pieces = |stage: &Stage| Family::BOTH.map(|family| pieces(stage, family, atoms));
        let pieces = [pieces(&ladder.stages[0]), pieces(&ladder.stages[1])];
        Self { name, ladder, refs: 0, places, pieces, nodes }
    }

    /// The peers that it names, in order and once.
    pub fn atoms(&self) -> Vec<AtomId> {
        let mut atoms: Vec<AtomId> = self.places.iter().map(|(atom, ..)| *atom).collect();
        atoms.dedup();
        atoms
    }

    /// What is said of whom nothing else is said of.
    pub fn otherwise(&self) -> bool {
        self.ladder.resolve([None, None])
    }

    /// What is said of an address, whoever has it.
    pub fn anonymous(&self, ip: IpAddr) -> bool {
        self.ladder.resolve(self.ranks_of_blocks(ip))
    }

    fn ranks_of_blocks(&self, ip: IpAddr) -> Ranks {
        let (family, number) = (Family::of(ip), number(ip));
        [0, 1].map(|stage: usize| {
            let pieces = &self.pieces[stage][usize::from(family == Family::V6)];
            let place = pieces.partition_point(|piece| piece.last < number);
            pieces.get(place).filter(|piece| piece.first <= number).map(|piece| piece.rung as usize)
        })
    }

    /// What is said of an address where that differs from what is said of it whoever has it.
    pub fn exception(&self, ip: IpAddr, atoms: &Atoms, members: &Members) -> Option<bool> {
        let blocks = self.ranks_of_blocks(ip);
        let mut ranks = blocks;
        let mut name = |atom: AtomId| {
            if !atoms.get(atom).key.has_address(ip) {
                return;
            }
            let first = self.places.partition_point(|(other, ..)| *other < atom);
            for (_, stage, rung) in self.places[first..].iter().take_while(|(other, ..)| *other == atom) {
                let rank = &mut ranks[usize::from(*stage)];
                *rank = Some(rank.map_or(*rung as usize, |rank| rank.min(*rung as usize)));
            }
        };
        if let Some(group) = members.owner(ip) {
            let own = &members.groups[group].atoms;
            if own.len() <= self.places.len() {
                own.iter().for_each(|atom| name(*atom));
            } else {
                self.places
                    .iter()
                    .filter(|(atom, ..)| own.binary_search(atom).is_ok())
                    .for_each(|(atom, ..)| name(*atom));
            }
        }
        self.nodes.iter().filter(|atom| atoms.get(**atom).addresses.contains(&ip)).for_each(|atom| name(*atom));
        let verdict = self.ladder.resolve(ranks);
        (verdict != self.ladder.resolve(blocks)).then_some(verdict)
    }

    /// The addresses of which something else may be said.
    pub fn candidates(&self, atoms: &Atoms, members: &Members) -> BTreeSet<IpAddr> {
        let mut found = BTreeSet::new();
        for atom in self.atoms() {
            let atom = atoms.get(atom);
            found.extend(&atom.addresses);
            for group in &atom.groups {
                found.extend(&members.groups[*group].addresses);
            }
        }
        found
    }

    /// The first and the last address of each block of a family of which something else is said than otherwise, in order and apart.
    pub fn blocks(&self, family: Family) -> Arc<[(IpAddr, IpAddr)]> {
        let all = [0, 1].map(|stage: usize| &self.pieces[stage][usize::from(family == Family::V6)]);
        let (otherwise, greatest) = (self.otherwise(), number(Prefix::default_route(family).last()));
        let ends = |piece: &Piece| [Some(piece.first), piece.last.checked_add(1)].into_iter().flatten();
        let mut starts: Vec<u128> =
            all.into_iter().flatten().flat_map(ends).filter(|start| *start <= greatest).collect();
        starts.sort();
        starts.dedup();
        let mut blocks: Vec<(u128, u128)> = Vec::new();
        let mut stages = all.map(|pieces| pieces.iter().peekable());
        let mut starts = starts.into_iter().peekable();
        while let Some(first) = starts.next() {
            let last = starts.peek().map_or(greatest, |next| next - 1);
            let ranks = stages.each_mut().map(|pieces| {
                while pieces.next_if(|piece| piece.last < first).is_some() {}
                pieces.peek().filter(|piece| piece.first <= first).map(|piece| piece.rung as usize)
            });
            if self.ladder.resolve(ranks) == otherwise {
                continue;
            }
            match blocks.last_mut() {
                Some(before) if before.1.checked_add(1) == Some(first) => before.1 = last,
                _ => blocks.push((first, last)),
            }
        }
        blocks.into_iter().map(|(first, last)| (address(family, first), address(family, last))).collect()
    }
}

/// Peers of a stage with their rungs.
fn each_atom(stage: &Stage) -> impl Iterator<Item = (u32, AtomId)> {
    (0..).zip(&stage.rungs).flat_map(|(rung, peers)| peers.atoms.iter().map(move |atom| (rung, *atom)))
}

/// The blocks of a stage, in order and apart.
fn pieces(stage: &Stage, family: Family, atoms: &Atoms) -> Vec<Piece> {
    let mut all: Vec<Piece> = Vec::new();
    for (rung, peers) in (0..).zip(&stage.rungs) {
        let mut ranges = Vec::new();
        for atom in &peers.atoms {
            let key = &atoms.get(*atom).key;
            match &key.who {
                Who::Block(block, except) if key.port.is_none() && block.family() == family => {
                    ranges.append(&mut without(*block, except));
                }
                _ => {}
            }
        }
        if !ranges.is_empty() {
            all = overlay(all, &merged(ranges), rung);
        }
    }
    all
}

/// A block with holes, as ranges in order.
fn without(block: Prefix, except: &[Prefix]) -> Vec<(u128, u128)> {
    let holes = merged(except.iter().map(|hole| (number(hole.addr()), number(hole.last()))).collect());
    let (mut first, last) = (number(block.addr()), number(block.last()));
    let mut ranges = Vec::new();
    for (from, to) in holes {
        if first < from {
            ranges.push((first, from - 1));
        }
        match to.checked_add(1) {
            Some(next) => first = next,
            None => return ranges,
        }
    }
    if first <= last {
        ranges.push((first, last));
    }
    ranges
}

/// Ranges in order and apart.
fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if before.1.checked_add(1).is_none_or(|next| first <= next) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Pieces with those parts of ranges that none of them has.
fn overlay(pieces: Vec<Piece>, ranges: &[(u128, u128)], rung: u32) -> Vec<Piece> {
    let mut all = Vec::with_capacity(pieces.len() + ranges.len());
    let mut old = pieces.iter().peekable();
    for (first, last) in ranges {
        let mut from = Some(*first);
        while old.peek().is_some_and(|piece| piece.last < *first) {
            old.next();
        }
        while let (Some(start), Some(piece)) = (from, old.peek().filter(|piece| piece.first <= *last)) {
            if start < piece.first {
                all.push(Piece { first: start, last: piece.first - 1, rung });
            }
            from = piece.last.checked_add(1).filter(|next| next <= last);
            if piece.last > *last {
                break;
            }
            old.next();
        }
        all.extend(from.map(|first| Piece { first, last: *last, rung }));
    }
    all.extend(pieces);
    all.sort_unstable_by_key(|piece| piece.first);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(first: u128, last: u128, rung: u32) -> Piece {
        Piece { first, last, rung }
    }

    #[test]
    fn who_was_first_keeps_his_part() {
        let old = vec![piece(10, 19, 0), piece(30, 39, 1)];
        let new = overlay(old.clone(), &[(5, 12), (15, 33), (38, 50)], 2);
        assert_eq!(new, [piece(5, 9, 2), piece(10, 19, 0), piece(20, 29, 2), piece(30, 39, 1), piece(40, 50, 2)]);
        assert_eq!(overlay(old.clone(), &[(12, 13)], 2), old);
        assert_eq!(overlay(old.clone(), &[(0, u128::MAX)], 2).last(), Some(&piece(40, u128::MAX, 2)));
        assert_eq!(overlay(Vec::new(), &[(1, 2)], 0), [piece(1, 2, 0)]);
    }

    #[test]
    fn holes_are_left_out() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let holes = [prefix("10.0.0.0/9"), prefix("10.64.0.0/10"), prefix("10.255.0.0/16")];
        let all = without(prefix("10.0.0.0/8"), &holes);
        let at = |text: &str| number(text.parse().unwrap());
        assert_eq!(all, [(at("10.128.0.0"), at("10.254.255.255"))]);
        assert_eq!(without(prefix("::/0"), &[prefix("8000::/1")]), [(0, u128::MAX >> 1)]);
    }
}
