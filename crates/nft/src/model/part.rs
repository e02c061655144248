//! Chains and sets that come and go in a table whose own definition stays.
//!
//! A table is replaced as a whole, with all its elements: right for rules that are always there, too dear for a chain that one
//! object needs. A [`Part`] holds regular chains and the sets only they use. It is written, changed in place and removed without
//! the table's being touched, and the table's digest does not count it.
//!
//! Interval maps of a part may be filled by its definition: their elements come and go with it, and are no objects of their own. That is for
//! maps of which nothing ever changes, and which may have a million elements.
//!
//! Its chains and sets carry its name as a mark in the kernel, and are recognised by that. They are also named by it
//! ([`part_of`]), so that of an element which leads to one it is known what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::check::{Fault, targets};
use super::{Chain, Data, ElementBody, ElementKey, Key, KeyPart, Name, Set, Table, TableFamily, Value};

/// Chains and sets of a table that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The table's family.
    pub family: TableFamily,
    /// The table.
    pub table: Name,
    /// Its own name: two words with a `/` between.
    pub name: Name,
    /// Sets and maps, which only rules of this part look into.
    #[serde(default)]
    pub sets: BTreeMap<Name, Set>,
    /// Regular chains. Their comments are for readers: the kernel cannot change them, and they do not count.
    #[serde(default)]
    pub chains: BTreeMap<Name, Chain>,
    /// What some of its interval maps have in them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filled: BTreeMap<Name, Filling>,
}

/// The elements of an interval map: ranges of addresses with one value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Filling {
    /// The first and the last address of each, in order and apart.
    pub ranges: Arc<[(IpAddr, IpAddr)]>,
    /// What each carries.
    pub data: Data,
}

impl Filling {
    /// The keys of ranges, as elements have them.
    pub fn keys(ranges: &[(IpAddr, IpAddr)]) -> impl Iterator<Item = Key> {
        ranges.iter().map(|(first, last)| Key::new(true, [KeyPart::range(Value::from(*first), Value::from(*last))]))
    }
}

impl Part {
    /// A part without chains and sets.
    pub fn new(family: TableFamily, table: impl Into<Name>, name: impl Into<Name>) -> Self {
        let (sets, chains, filled) = Default::default();
        Self { family, table: table.into(), name: name.into(), sets, chains, filled }
    }

    /// With a chain more; one of the same name is replaced.
    #[must_use]
    pub fn chain(mut self, name: impl Into<Name>, chain: Chain) -> Self {
        self.chains.insert(name.into(), chain);
        self
    }

    /// With a set or map more; one of the same name is replaced.
    #[must_use]
    pub fn set(mut self, name: impl Into<Name>, set: Set) -> Self {
        self.sets.insert(name.into(), set);
        self
    }

    /// With an interval map more that has these elements; one of the same name is replaced.
    #[must_use]
    pub fn filled_set(self, name: impl Into<Name>, set: Set, filling: Filling) -> Self {
        let name = name.into();
        let mut part = self.set(name.clone(), set);
        part.filled.insert(name, filling);
        part
    }

    /// How many elements it is filled with.
    #[must_use]
    pub fn filling(&self) -> usize {
        self.filled.values().map(|filling| filling.ranges.len()).sum()
    }

    /// All that it is filled with, as elements.
    pub fn elements(&self) -> impl Iterator<Item = (ElementKey, ElementBody)> {
        self.filled.iter().flat_map(|(set, filling)| {
            let key = |key| ElementKey { family: self.family, table: self.table.clone(), set: set.clone(), key };
            Filling::keys(&filling.ranges).map(move |one| (key(one), ElementBody::data(filling.data.clone())))
        })
    }
}

/// The part that a chain or set belongs to by its name: `affinity/1f` of `affinity/1f/learn`. `None` for what is a table's own:
/// its name has no `/`.
pub fn part_of(name: &Name) -> Option<Name> {
    let text = name.as_str();
    let (first, rest) = text.split_once('/')?;
    let second = rest.split('/').next()?;
    text.get(..first.len() + 1 + second.len())?.parse().ok()
}

impl Table {
    /// The table with a part more, as a packet meets both.
    #[must_use]
    pub fn with_part(mut self, part: &Part) -> Self {
        self.sets.extend(part.sets.clone());
        self.chains.extend(part.chains.clone());
        self
    }

    /// Finds the first mistake of a part of this table: also a set that neither declares, and a name that is not the part's.
    ///
    /// # Errors
    /// The fault, with its place.
    pub fn check_part(&self, part: &Part) -> Result<(), Fault> {
        let fault =
            |problem| Fault { place: format!("part {} of table {} {}", part.name, self.family, self.name), problem };
        if (part.family, &part.table) != (self.family, &self.name) {
            return Err(fault(format!("belongs to table {} {}", part.family, part.table)));
        }
        let misnamed = |name: &&Name| part_of(name).as_ref() != Some(&part.name);
        if let Some(name) = part.chains.keys().chain(part.sets.keys()).find(misnamed) {
            return Err(fault(format!("{name} is named otherwise; accepted are {0} and {0}/…", part.name)));
        }
        if let Some((name, _)) = part.chains.iter().find(|(_, chain)| chain.base.is_some()) {
            return Err(fault(format!("chain {name} is a base chain; accepted are regular ones")));
        }
        part.filled.iter().try_for_each(|(name, filling)| self.check_filling(part, name, filling).map_err(fault))?;
        // Of the table only what the part refers to, or the table's own rules would be checked with every part.
        let mut seen = Self::new(self.family, &self.name).with_part(part);
        seen.sets.extend(self.sets.iter().map(|(name, set)| (name.clone(), set.clone())));
        let targets: BTreeSet<Name> = part.chains.values().flat_map(targets).collect();
        for (name, chain) in targets.iter().filter_map(|name| self.chains.get_key_value(name)) {
            seen.chains.insert(name.clone(), Chain { base: chain.base.clone(), ..Chain::default() });
        }
        seen.check()
    }

    fn check_filling(&self, part: &Part, name: &Name, filling: &Filling) -> Result<(), String> {
        let alone = Part { chains: BTreeMap::new(), ..part.clone() };
        let with = Self::new(self.family, &self.name).with_part(&alone);
        let (Some((first, last)), Some(end)) = (filling.ranges.first(), filling.ranges.last()) else { return Ok(()) };
        let body = ElementBody::data(filling.data.clone());
        for key in Filling::keys(&[(*first, *last), *end]) {
            with.check_element(name, &key, &body).map_err(|fault| fault.to_string())?;
        }
        let is_odd = |(first, last): &&(IpAddr, IpAddr)| first > last || first.is_ipv4() != last.is_ipv4();
        if let Some((first, last)) = filling.ranges.iter().find(is_odd) {
            return Err(format!("set {name} has {first} to {last}, which is no range"));
        }
        let touch = |pair: &&[(IpAddr, IpAddr)]| pair[0].1 >= pair[1].0 || pair[0].1.is_ipv4() != pair[1].0.is_ipv4();
        match filling.ranges.windows(2).find(touch) {
            Some(pair) => {
                Err(format!("set {name} has {} behind {}, which is not in order and apart", pair[1].0, pair[0].1))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Key, Rule, Type, Verdict, build::*};

    fn table() -> Table {
        let map = Set::map([Type::Ipv4Addr], [Type::Ipv4Addr]);
        Table::new(TableFamily::Ip, "t")
            .set("ways", Set::vmap([Type::Ipv4Addr]))
            .set("map", map)
            .chain("c", Chain::regular())
    }

    fn part(rule: Rule) -> Part {
        Part::new(TableFamily::Ip, "t", "p/1")
            .chain("p/1", Chain::regular().rule(rule))
            .set("p/1/s", Set::of([Type::Ipv4Addr]))
    }

    #[test]
    fn a_name_tells_its_part() {
        let of = |text: &'static str| part_of(&Name::from(text)).map(String::from);
        assert_eq!(of("endpoints-3"), None);
        assert_eq!(of("p/1").as_deref(), Some("p/1"));
        assert_eq!(of("p/1/learn").as_deref(), Some("p/1"));
        assert_eq!(of("p/1/a/b").as_deref(), Some("p/1"));
    }

    #[test]
    fn a_part_is_checked_against_its_table() {
        let fits = |rule| table().check_part(&part(Rule::new([rule]))).map_err(|fault| fault.problem);
        assert_eq!(fits(ip::saddr().vmap("ways")), Ok(()));
        assert_eq!(fits(ip::saddr().in_set("p/1/s")), Ok(()));
        assert_eq!(fits(goto("c")), Ok(()));
        assert!(fits(ip::saddr().in_set("none")).is_err());
        assert!(fits(goto("p/1")).is_err(), "a circle");
        assert!(fits(goto("none")).is_err());
        let other = Part::new(TableFamily::Ip, "t", "p/2").chain("p/1", Chain::regular());
        assert!(table().check_part(&other).is_err());
        let base = Part::new(TableFamily::Ip, "t", "p/1").chain("p/1", Chain::nat(crate::model::Hook::Output, 0));
        assert!(table().check_part(&base).is_err());
        assert!(Table::new(TableFamily::Ip6, "t").check_part(&part(Rule::new([drop()]))).is_err());
    }

    #[test]
    fn what_a_part_is_filled_with_is_checked() {
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let six = IpAddr::from([0; 16]);
        let fits = |set: Set, ranges: &[(IpAddr, IpAddr)]| {
            let filling = Filling { ranges: ranges.into(), data: Data::Verdict(Verdict::Return) };
            table().check_part(&part(Rule::new([drop()])).filled_set("p/1/blocks", set, filling)).is_ok()
        };
        let map = || Set::vmap([Type::Ipv4Addr]).interval();
        assert!(fits(map(), &[]) && fits(map(), &[(ip(1), ip(1)), (ip(3), ip(9))]));
        for ranges in [[(ip(1), ip(5)), (ip(5), ip(9))], [(ip(7), ip(9)), (ip(1), ip(2))], [(ip(1), ip(2)), (six, six)]]
        {
            assert!(!fits(map(), &ranges), "{ranges:?}");
        }
        assert!(!fits(map(), &[(ip(2), ip(1))]));
        assert!(!fits(Set::vmap([Type::Ipv4Addr]), &[(ip(1), ip(1))]), "no interval");
        assert!(!fits(Set::of([Type::Ipv4Addr]).interval(), &[(ip(1), ip(1))]), "no map");
        assert!(!fits(Set::vmap([Type::Ipv6Addr]).interval(), &[(ip(1), ip(1))]));
    }

    #[test]
    fn an_element_may_lead_to_a_part_but_no_rule_of_the_table() {
        let key = Key::new(false, ["10.0.0.1".parse::<std::net::Ipv4Addr>().unwrap()]);
        let body = |chain| crate::model::ElementBody::data(crate::model::Data::Verdict(Verdict::Goto(chain)));
        assert!(table().check_element(&"ways".into(), &key, &body("p/1".into())).is_ok());
        assert!(table().check_element(&"ways".into(), &key, &body("none".into())).is_err());
        assert!(table().chain("d", Chain::regular().rule(Rule::new([goto("p/1")]))).check().is_err());
    }
}
