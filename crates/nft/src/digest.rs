//! Digests by which a table in the kernel is recognised as the one that was written.
//!
//! Each rule carries the digest of its expressions and comment, and the table the digest of its whole definition, both
//! in userdata, where nft passes over them. A definition can be made of a [`Table`] and of what the kernel dumps; if
//! the dump's digest is the one the table carries, nobody has added, removed, replaced or moved a rule, chain or set.
//! Somebody who copies userdata along can deceive it: it guards against other programs, not against an adversary.

use std::collections::BTreeMap;
use std::fmt;

use ripstop_types::Fnv1a as _;
use serde::{Deserialize, Serialize};

use crate::encode::{self, set_flags, types_number, width};
use crate::implied::hook_number;
use crate::model::{Data, DataType, Policy, Set, Table};
use crate::uapi::{DATA_TYPE_VERDICT, NF_ACCEPT, NF_DROP};

/// 128 bits that stand for a definition. Stable across versions of the compiler and machines of one byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = ripstop_types::Invalid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number =
            (text.len() == 32 && !text.starts_with('+')).then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        match number {
            Some(number) => Ok(Self(number.to_be_bytes())),
            None => Err(ripstop_types::Invalid::new("a digest", text, "32 hexadecimal digits")),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// FNV-1a with 128 bits: no secret, no adversary.
#[derive(Debug, Clone)]
pub(crate) struct Hasher(u128);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(u128::BASIS)
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0 = self.0.and(bytes.iter().copied());
    }

    /// Takes a part with its length, so that no two lists of parts run together.
    pub(crate) fn part(&mut self, bytes: &[u8]) {
        self.raw(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.raw(bytes);
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.raw(&number.to_be_bytes());
    }

    pub(crate) fn finish(&self) -> Digest {
        Digest(self.0.to_be_bytes())
    }
}

/// Of what a set is filled with: bounds of keys and what each carries, in order.
pub(crate) fn filling<'a>(elements: impl Iterator<Item = (Vec<u8>, Vec<u8>, Option<&'a Data>)>) -> Digest {
    let mut hasher = Hasher::new();
    let mut before = None;
    for (first, last, data) in elements {
        // Neighbours carry the same as a rule.
        if before != Some(data) {
            before = Some(data);
            hasher.part(&data.map_or_else(Vec::new, encode::data_bytes));
        }
        hasher.raw(&first);
        hasher.raw(&last);
    }
    hasher.finish()
}

impl Digest {
    /// Of a definition together with what its sets are filled with.
    pub(crate) fn filled<'a>(self, fillings: impl Iterator<Item = (&'a str, Self)>) -> Self {
        let mut fillings = fillings.peekable();
        if fillings.peek().is_none() {
            return self;
        }
        let mut hasher = Hasher::new();
        hasher.part(&self.0);
        for (set, filling) in fillings {
            hasher.part(set.as_bytes());
            hasher.part(&filling.0);
        }
        hasher.finish()
    }
}

/// A base chain's place, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HookShape {
    pub(crate) kind: String,
    pub(crate) number: u32,
    pub(crate) priority: i32,
    pub(crate) policy: u32,
    pub(crate) device: Option<String>,
}

/// A chain, as the kernel tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChainShape {
    pub(crate) hook: Option<HookShape>,
    pub(crate) comment: Option<String>,
    /// One a rule, in order; `None` for a rule without a digest.
    pub(crate) rules: Vec<Option<Digest>>,
}

/// A named set, as the kernel tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SetShape {
    pub(crate) flags: u32,
    pub(crate) key_type: u32,
    pub(crate) key_len: u32,
    pub(crate) data_type: u32,
    pub(crate) data_len: u32,
    pub(crate) timeout_ms: u64,
    pub(crate) size: u32,
    pub(crate) comment: Option<String>,
}

/// A table, as far as its digest goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) comment: Option<String>,
    pub(crate) chains: BTreeMap<String, ChainShape>,
    pub(crate) sets: BTreeMap<String, SetShape>,
}

impl Definition {
    /// What the kernel is to tell of a table whose rules have these digests.
    pub(crate) fn of(table: &Table, rule_digest: impl Fn(&crate::model::Rule) -> Digest) -> Self {
        let chains = table.chains.iter().map(|(name, chain)| {
            let hook = chain.base.as_ref().map(|base| HookShape {
                kind: base.kind.as_str().to_owned(),
                number: hook_number(table.family, base.hook),
                priority: base.priority,
                policy: if base.policy == Policy::Accept { NF_ACCEPT } else { NF_DROP },
                device: base.device.as_ref().map(ToString::to_string),
            });
            let rules = chain.rules.iter().map(|rule| Some(rule_digest(rule))).collect();
            let comment = chain.comment.as_ref().map(ToString::to_string);
            (name.to_string(), ChainShape { hook, comment, rules })
        });
        let sets = table.sets.iter().map(|(name, set)| (name.to_string(), SetShape::of(set)));
        Self {
            comment: table.comment.as_ref().map(ToString::to_string),
            chains: chains.collect(),
            sets: sets.collect(),
        }
    }

    /// The same, whatever is said of chains and sets.
    pub(crate) fn without_comments(mut self) -> Self {
        self.chains.values_mut().for_each(|chain| chain.comment = None);
        self.sets.values_mut().for_each(|set| set.comment = None);
        self
    }

    /// Says what `found` has otherwise, one sentence each.
    pub(crate) fn differences(&self, found: &Self, out: &mut Vec<String>) {
        if self.comment != found.comment {
            out.push("the table's comment is another".to_owned());
        }
        for name in self.chains.keys().chain(found.chains.keys().filter(|name| !self.chains.contains_key(*name))) {
            match (self.chains.get(name), found.chains.get(name)) {
                (Some(_), None) => out.push(format!("chain {name} is missing")),
                (None, _) => out.push(format!("chain {name} is another hand's")),
                (Some(wanted), Some(found)) => wanted.differences(name, found, out),
            }
        }
        for name in self.sets.keys().chain(found.sets.keys().filter(|name| !self.sets.contains_key(*name))) {
            match (self.sets.get(name), found.sets.get(name)) {
                (Some(_), None) => out.push(format!("set {name} is missing")),
                (None, _) => out.push(format!("set {name} is another hand's")),
                (Some(wanted), Some(found)) if wanted != found => out.push(format!("set {name} is declared otherwise")),
                _ => {}
            }
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        let optional = |hasher: &mut Hasher, text: &Option<String>| match text {
            Some(text) => hasher.part(text.as_bytes()),
            None => hasher.number(u64::MAX),
        };
        optional(&mut hasher, &self.comment);
        hasher.number(self.chains.len() as u64);
        for (name, chain) in &self.chains {
            hasher.part(name.as_bytes());
            optional(&mut hasher, &chain.comment);
            match &chain.hook {
                None => hasher.number(u64::MAX),
                Some(hook) => {
                    hasher.part(hook.kind.as_bytes());
                    hasher.number(hook.number.into());
                    hasher.part(&hook.priority.to_be_bytes());
                    hasher.number(hook.policy.into());
                    optional(&mut hasher, &hook.device);
                }
            }
            hasher.number(chain.rules.len() as u64);
            for rule in &chain.rules {
                hasher.part(rule.as_ref().map_or(&[][..], |digest| &digest.0));
            }
        }
        hasher.number(self.sets.len() as u64);
        for (name, set) in &self.sets {
            hasher.part(name.as_bytes());
            for number in [set.flags, set.key_type, set.key_len, set.data_type, set.data_len, set.size] {
                hasher.number(number.into());
            }
            hasher.number(set.timeout_ms);
            optional(&mut hasher, &set.comment);
        }
        hasher.finish()
    }
}

impl ChainShape {
    fn differences(&self, name: &str, found: &Self, out: &mut Vec<String>) {
        if self.hook != found.hook || self.comment != found.comment {
            out.push(format!("chain {name} has another type, hook, priority, policy, device or comment"));
        }
        let (mut wanted, mut present) = (self.rules.clone(), found.rules.clone());
        if wanted == present {
            return;
        }
        wanted.sort();
        present.sort();
        let why = if wanted == present { "in another order" } else { "that are not those written" };
        out.push(format!("chain {name} has {} rules {why}; {} were written", found.rules.len(), self.rules.len()));
    }
}

impl SetShape {
    /// Whether two sets are the same but for what is said of them.
    pub(crate) fn is_declared_like(&self, other: &Self) -> bool {
        Self { comment: None, ..self.clone() } == Self { comment: None, ..other.clone() }
    }

    pub(crate) fn of(set: &Set) -> Self {
        let (data_type, data_len) = match &set.data {
            None => (0, 0),
            Some(DataType::Verdict) => (DATA_TYPE_VERDICT, 0),
            Some(DataType::Values(types)) => (types_number(types), width(types)),
        };
        Self {
            flags: set_flags(set),
            key_type: types_number(&set.key),
            key_len: width(&set.key),
            data_type,
            data_len,
            timeout_ms: set.default_timeout.map_or(0, |seconds| u64::from(seconds) * 1_000),
            size: set.size.unwrap_or(0),
            comment: set.comment.as_ref().map(ToString::to_string),
        }
    }
}
