//! Import and export filters, as data: rules in order, the first one that fits decides.

use std::fmt;

use ripstop_types::Prefix;

use crate::wire::{AsPath, Attributes, LargeCommunity};

/// Prefixes inside of one, of some lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixMatch {
    /// They are inside of it.
    pub within: Prefix,
    /// Shortest length.
    pub least: u8,
    /// Longest length.
    pub most: u8,
}

impl PrefixMatch {
    /// That prefix alone.
    #[must_use]
    pub fn exact(prefix: Prefix) -> Self {
        Self { within: prefix, least: prefix.len(), most: prefix.len() }
    }

    /// Whatever is inside of it, itself included.
    #[must_use]
    pub fn inside(prefix: Prefix) -> Self {
        Self { within: prefix, least: prefix.len(), most: prefix.family().bits() }
    }

    fn fits(&self, prefix: &Prefix) -> bool {
        self.within.family() == prefix.family()
            && self.within.covers(prefix)
            && (self.least..=self.most).contains(&prefix.len())
    }
}

/// What a rule is about. Of each list that is not empty one element must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// Prefixes.
    pub prefixes: Vec<PrefixMatch>,
    /// None of these must fit.
    pub except: Vec<PrefixMatch>,
    /// Communities of the route.
    pub communities: Vec<u32>,
    /// Large communities of the route.
    pub large_communities: Vec<LargeCommunity>,
    /// ASes anywhere in the path.
    pub through: Vec<u32>,
    /// The AS where the path ends.
    pub from: Vec<u32>,
}

impl Match {
    fn fits(&self, prefix: &Prefix, attributes: &Attributes) -> bool {
        any(&self.prefixes, |one| one.fits(prefix))
            && !self.except.iter().any(|one| one.fits(prefix))
            && any(&self.communities, |one| attributes.has(*one))
            && any(&self.large_communities, |one| attributes.large_communities.contains(one))
            && any(&self.through, |one| attributes.as_path.numbers().any(|number| number == *one))
            && any(&self.from, |one| attributes.as_path.origin() == Some(*one))
    }
}

/// Whether an element fits, or there are none.
fn any<T>(list: &[T], test: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(test)
}

/// A change of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Set {
    /// LOCAL_PREF.
    LocalPref(u32),
    /// MULTI_EXIT_DISC; none takes it away.
    Med(Option<u32>),
    /// An AS before the path, so many times.
    Prepend(u32, u8),
    /// One community more.
    AddCommunity(u32),
    /// One community less.
    RemoveCommunity(u32),
    /// One large community more.
    AddLarge(LargeCommunity),
    /// One large community less.
    RemoveLarge(LargeCommunity),
    /// One extended community more.
    AddExtended(u64),
    /// One extended community less.
    RemoveExtended(u64),
}

impl Set {
    /// Carries it out.
    pub fn apply(&self, attributes: &mut Attributes) {
        match self {
            Self::LocalPref(value) => attributes.local_pref = Some(*value),
            Self::Med(value) => attributes.med = *value,
            Self::Prepend(asn, times) => {
                let path: AsPath = attributes.as_path.prepended(*asn, usize::from(*times));
                attributes.as_path = path;
            }
            Self::AddCommunity(one) => add(&mut attributes.communities, *one),
            Self::RemoveCommunity(one) => remove(&mut attributes.communities, one),
            Self::AddLarge(one) => add(&mut attributes.large_communities, *one),
            Self::RemoveLarge(one) => remove(&mut attributes.large_communities, one),
            Self::AddExtended(one) => add(&mut attributes.extended_communities, *one),
            Self::RemoveExtended(one) => remove(&mut attributes.extended_communities, one),
        }
    }
}

/// Puts an element into a sorted list that does not have it.
pub fn add<T: Ord + Copy>(list: &mut Box<[T]>, one: T) {
    if let Err(place) = list.binary_search(&one) {
        let mut all = std::mem::take(list).into_vec();
        all.insert(place, one);
        *list = all.into();
    }
}

fn remove<T: Ord + Copy>(list: &mut Box<[T]>, one: &T) {
    if let Ok(place) = list.binary_search(one) {
        let mut all = std::mem::take(list).into_vec();
        all.remove(place);
        *list = all.into();
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it is called in explanations.
    pub name: String,
    /// What it is about.
    pub matches: Match,
    /// Whether what it is about is taken.
    pub accept: bool,
    /// What becomes of what is taken.
    pub set: Vec<Set>,
}

/// Rules in order. What none fits is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What a filter says of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Taken, by the rule of that place; by none where no filter is asked.
    Accept(Option<usize>),
    /// Refused, by the rule of that place; by none where none fits.
    Refuse(Option<usize>),
    /// Refused as there is no filter, which an external peer must have (RFC 8212).
    NoFilter,
}

impl Filter {
    /// A filter that takes everything as it is.
    #[must_use]
    pub fn accept_all() -> Self {
        let rule = Rule { name: "everything".to_owned(), matches: Match::default(), accept: true, set: vec![] };
        Self { rules: vec![rule] }
    }

    /// What it says.
    #[must_use]
    pub fn judge(&self, prefix: &Prefix, attributes: &Attributes) -> Verdict {
        match self.rules.iter().position(|rule| rule.matches.fits(prefix, attributes)) {
            Some(place) if self.rules[place].accept => Verdict::Accept(Some(place)),
            place => Verdict::Refuse(place),
        }
    }

    /// Whether a verdict of this filter comes with something.
    #[must_use]
    pub fn changes(&self, verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Accept(Some(place)) if self.rules.get(place).is_some_and(|rule| !rule.set.is_empty()))
    }

    /// Does to attributes what a verdict of this filter comes with.
    pub fn apply(&self, verdict: Verdict, attributes: &mut Attributes) {
        if let Verdict::Accept(Some(place)) = verdict
            && let Some(rule) = self.rules.get(place)
        {
            rule.set.iter().for_each(|set| set.apply(attributes));
        }
    }

    fn name(&self, place: usize) -> &str {
        self.rules.get(place).map_or("?", |rule| &rule.name)
    }
}

/// What a filter, which an internal peer may be without, says of a route.
#[must_use]
pub fn judge(filter: Option<&Filter>, external: bool, prefix: &Prefix, attributes: &Attributes) -> Verdict {
    match filter {
        Some(filter) => filter.judge(prefix, attributes),
        None if external => Verdict::NoFilter,
        None => Verdict::Accept(None),
    }
}

/// A verdict in words, by the filter that gave it.
pub struct Told<'a>(pub Verdict, pub Option<&'a Filter>);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |place: usize| self.1.map_or("?", |filter| filter.name(place));
        match self.0 {
            Verdict::Accept(Some(place)) => write!(f, "rule {:?} of the filter takes it", name(place)),
            Verdict::Accept(None) => f.write_str("there is no filter"),
            Verdict::Refuse(Some(place)) => write!(f, "rule {:?} of the filter refuses it", name(place)),
            Verdict::Refuse(None) => f.write_str("no rule of the filter is about it"),
            Verdict::NoFilter => f.write_str("no filter is configured, which an external peer must have (RFC 8212)"),
        }
    }
}
