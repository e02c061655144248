//! From a [`Tree`] to typed values, with every fault on the way.
//!
//! A [`Decoder`] walks one object. Each reader gives `Some` or pushes a fault and gives `None`; a caller puts a default
//! in the place of what is missing and goes on, and [`Decoder::finish`] hands out a value only if no fault came up.

pub(crate) mod applied;
mod balancer;
pub(crate) mod bgp;
pub(crate) mod blocks;
pub(crate) mod config;
pub(crate) mod etcd;
pub(crate) mod flannel;
pub(crate) mod kubeconfig;
pub(crate) mod kubernetes;
pub(crate) mod metallb;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod record;
pub(crate) mod rules;
pub(crate) mod service;
pub(crate) mod tree;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

use ripstop_types::{Invalid, Labels};

use crate::{Fault, Faults, Note};
use tree::{Tree, shown};

/// Whether fields that are not known are faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Yes: a person wrote this.
    Refuse,
    /// No: a newer version may have written this.
    PassOver,
}

/// The state of decoding one object.
pub(crate) struct Decoder {
    object: String,
    unknown: Unknown,
    faults: Faults,
    notes: Vec<Note>,
}

/// A value and where it stands in its object.
pub(crate) struct Node<'t> {
    pub(crate) tree: &'t Tree<'t>,
    pub(crate) path: Path<'t>,
}

/// The way to a value from its object's root. Text is made of it where something is wrong, which it rarely is.
#[derive(Clone)]
pub(crate) struct Path<'t> {
    above: Option<Rc<Self>>,
    last: Part<'t>,
}

#[derive(Clone, Copy)]
enum Part<'t> {
    Root,
    Key(&'t str),
    Place(usize),
}

/// A map whose keys have been checked.
pub(crate) struct Fields<'t> {
    tree: &'t Tree<'t>,
    path: Rc<Path<'t>>,
}

impl<'t> Node<'t> {
    pub(crate) fn root(tree: &'t Tree<'t>) -> Self {
        Self { tree, path: Path { above: None, last: Part::Root } }
    }

    /// The value under a key of this one, which need not be of the value.
    pub(crate) fn field(&self, key: &'t str, tree: &'t Tree<'t>) -> Self {
        Self { tree, path: Path { above: Some(Rc::new(self.path.clone())), last: Part::Key(key) } }
    }
}

impl<'t> Fields<'t> {
    /// The value of a field; `None` where it is missing or null.
    pub(crate) fn get(&self, key: &str) -> Option<Node<'t>> {
        let (key, tree) = self.tree.entry(key).filter(|(_, tree)| **tree != Tree::Null)?;
        Some(Node { tree, path: Path { above: Some(self.path.clone()), last: Part::Key(key) } })
    }

    /// The path of a field, there or not.
    pub(crate) fn path(&self, key: &str) -> String {
        join(&*self.path, key)
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> Self {
        let above = path.above.as_deref().map_or_else(Self::new, Self::from);
        match path.last {
            Part::Root => above,
            Part::Key(key) => join(above, key),
            Part::Place(place) => format!("{above}[{place}]"),
        }
    }
}

/// A field's path under its parent's.
pub(crate) fn join(parent: impl Into<String>, key: &str) -> String {
    let (parent, key) = (parent.into(), shown(key));
    if parent.is_empty() { key } else { format!("{parent}.{key}") }
}

impl Decoder {
    pub(crate) fn new(object: impl Into<String>, unknown: Unknown) -> Self {
        Self { object: object.into(), unknown, faults: Faults::none(), notes: Vec::new() }
    }

    /// Adds a fault of this object.
    pub(crate) fn fault(&mut self, path: impl Into<String>, found: impl Display, accepted: impl Into<String>) {
        self.faults.push(Fault::new(self.object.clone(), path, format!("found {found}"), accepted));
    }

    /// Adds faults of any object.
    pub(crate) fn append(&mut self, faults: Faults) {
        self.faults.append(faults);
    }

    /// Whether nothing was wrong so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// How many faults there are. Their number grows by each new one.
    pub(crate) fn count(&self) -> usize {
        self.faults.len()
    }

    /// The faults alone, of an object that is read as far as it can be.
    pub(crate) fn into_faults(self) -> Faults {
        self.faults
    }

    /// Adds a note on this object.
    pub(crate) fn note(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.notes.push(Note { object: self.object.clone(), path: path.into(), text: text.into() });
    }

    /// The value, if nothing was wrong.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Note>), Faults> {
        match value {
            Some(value) if self.faults.is_empty() => Ok((value, self.notes)),
            _ => {
                if self.faults.is_empty() {
                    self.fault("", "an incomplete object", "all required fields");
                }
                Err(self.faults)
            }
        }
    }

    /// A map with no other keys than these, each at most once.
    pub(crate) fn map<'t>(&mut self, node: &Node<'t>, known: &[&str]) -> Option<Fields<'t>> {
        let Tree::Map(entries) = node.tree else {
            self.fault(&node.path, node.tree, format!("a map with {}", known.join(", ")));
            return None;
        };
        for (n, (key, _)) in entries.iter().enumerate() {
            if entries[..n].iter().any(|(earlier, _)| earlier == key) {
                self.fault(join(&node.path, key), "the field twice", "each field once");
            } else if self.unknown == Unknown::Refuse && !known.contains(&&**key) {
                self.fault(
                    join(&node.path, key),
                    "an unknown field",
                    match nearest(key, known) {
                        Some(near) => format!("{near} (the nearest field), of {}", known.join(", ")),
                        None => known.join(", "),
                    },
                );
            }
        }
        Some(Fields { tree: node.tree, path: Rc::new(node.path.clone()) })
    }

    /// A field that must be there.
    pub(crate) fn required<'t>(&mut self, fields: &Fields<'t>, key: &str, accepted: &str) -> Option<Node<'t>> {
        let node = fields.get(key);
        if node.is_none() {
            self.fault(fields.path(key), "nothing", accepted);
        }
        node
    }

    /// The items of a list.
    pub(crate) fn list<'t>(&mut self, node: &Node<'t>, accepted: &str) -> Vec<Node<'t>> {
        let Tree::List(items) = node.tree else {
            self.fault(&node.path, node.tree, format!("a list of {accepted}"));
            return Vec::new();
        };
        let above = Rc::new(node.path.clone());
        let item = |(n, tree)| Node { tree, path: Path { above: Some(above.clone()), last: Part::Place(n) } };
        items.iter().enumerate().map(item).collect()
    }

    /// Text.
    pub(crate) fn text<'t>(&mut self, node: &Node<'t>, accepted: &str) -> Option<&'t str> {
        match node.tree {
            Tree::Text(text) => Some(text),
            Tree::Int(_) | Tree::Float(_) | Tree::Bool(_) => {
                self.fault(&node.path, format!("{} without quotes", node.tree), format!("text: {accepted}"));
                None
            }
            other => {
                self.fault(&node.path, other, format!("text: {accepted}"));
                None
            }
        }
    }

    /// Text with a type of its own. `accepted` names it where the value is not even text.
    pub(crate) fn parse<T: FromStr<Err = Invalid>>(&mut self, node: &Node<'_>, accepted: &str) -> Option<T> {
        match self.text(node, accepted)?.parse() {
            Ok(value) => Some(value),
            Err(Invalid { found, accepted, .. }) => {
                self.fault(&node.path, shown(&found), accepted);
                None
            }
        }
    }

    /// Text with a type of the standard library, whose errors say nothing useful.
    pub(crate) fn parse_std<T: FromStr>(&mut self, node: &Node<'_>, accepted: &str) -> Option<T> {
        let text = self.text(node, accepted)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.fault(&node.path, shown(text), accepted);
        }
        value
    }

    /// A whole number within bounds.
    pub(crate) fn uint(&mut self, node: &Node<'_>, bounds: RangeInclusive<u64>) -> Option<u64> {
        if let Tree::Int(value) = node.tree
            && let Ok(value) = u64::try_from(*value)
            && bounds.contains(&value)
        {
            return Some(value);
        }
        let accepted = format!("a number from {} to {}", bounds.start(), bounds.end());
        match node.tree {
            Tree::Text(text) => self.fault(&node.path, format!("the text {}", shown(text)), accepted),
            other => self.fault(&node.path, other, accepted),
        }
        None
    }

    /// A whole number within bounds that fit the type.
    pub(crate) fn number<T: TryFrom<u64>>(&mut self, node: &Node<'_>, bounds: RangeInclusive<u64>) -> Option<T> {
        self.uint(node, bounds).and_then(|value| T::try_from(value).ok())
    }

    /// Yes or no.
    pub(crate) fn bool(&mut self, node: &Node<'_>) -> Option<bool> {
        if let Tree::Bool(value) = node.tree {
            return Some(*value);
        }
        self.fault(&node.path, node.tree, "true or false");
        None
    }

    /// One of several words. `later` are words that will mean something, but do not yet.
    pub(crate) fn choice<T: Copy>(&mut self, node: &Node<'_>, words: &[(&str, T)], later: &[&str]) -> Option<T> {
        let accepted = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let text = self.text(node, &accepted)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if later.contains(&text) {
            self.fault(&node.path, format!("{text}, which is not available yet"), accepted);
        } else {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let hint = nearest(text, &known).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            self.fault(&node.path, shown(text), format!("{accepted}{hint}"));
        }
        None
    }

    /// Labels by Kubernetes' rules.
    pub(crate) fn labels<'t>(&mut self, node: &Node<'t>) -> Labels {
        let Tree::Map(entries) = node.tree else {
            self.fault(&node.path, node.tree, "a map of labels");
            return Labels::new();
        };
        let mut labels = Labels::new();
        for (key, value) in entries {
            let at = node.field(key, value);
            if !label_key_ok(key) {
                let accepted =
                    "[DNS-name/]name: letters, digits, '-', '_' and '.', at most 63, first and last a letter or digit";
                self.fault(&at.path, "a key that is not a label's", accepted);
            }
            let accepted = "letters, digits, '-', '_' and '.', at most 63, first and last a letter or digit";
            let Some(text) = self.text(&at, accepted) else { continue };
            if !text.is_empty() && !label_word_ok(text) {
                self.fault(&at.path, shown(text), accepted);
            }
            if labels.insert(Arc::from(&**key), Arc::from(text)).is_some() {
                self.fault(&at.path, "the label twice", "each label once");
            }
        }
        labels
    }
}

pub(crate) fn label_key_ok(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => ripstop_types::validate_dns_name("a label", prefix).is_ok() && label_word_ok(name),
        None => label_word_ok(key),
    }
}

pub(crate) fn label_word_ok(word: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    word.len() <= 63 && word.chars().all(inner) && end(word.chars().next()) && end(word.chars().last())
}

/// The known word a person most likely meant; `None` if none is near.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 40;
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let distance = |candidate: &str| edits(lower.as_bytes(), candidate.to_ascii_lowercase().as_bytes());
    let best = known.iter().map(|candidate| (distance(candidate), *candidate)).min()?;
    (best.0 <= 1 + best.1.len() / 4).then_some(best.1)
}

/// Levenshtein's distance in bytes.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let words = ["ranges", "rangeMode", "rangeMin", "wiring", "v4", "v6"];
        for (word, near) in [
            ("wirring", Some("wiring")),
            ("WIRING", Some("wiring")),
            ("range", Some("ranges")),
            ("rangemode", Some("rangeMode")),
            ("range_min", Some("rangeMin")),
            ("v5", Some("v4")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &words), near, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), &words), None);
    }

    #[test]
    fn nothing_is_handed_out_with_a_fault() {
        let mut decoder = Decoder::new("thing", Unknown::Refuse);
        decoder.fault("a", 1, "2");
        assert_eq!(decoder.finish(Some(())).unwrap_err().to_string(), "thing: a: found 1, accepted: 2");
        assert_eq!(Decoder::new("thing", Unknown::Refuse).finish::<()>(None).unwrap_err().len(), 1);
    }
}
