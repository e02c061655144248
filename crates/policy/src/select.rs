//! Labels, what meets a selector, and selectors filed so that few are asked.

use std::collections::HashMap;
use std::sync::Arc;

use ripstop_objects::ObjectLabels;
use ripstop_objects::policy::{Operator, Requirement, Selector};

/// A label.
pub type Label = (Arc<str>, Arc<str>);

/// An object's labels, in order of their keys. Shared by all that have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Labels(Box<[Label]>);

impl Labels {
    pub fn of(labels: &ObjectLabels) -> Self {
        Self(labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let place = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.0[place].1)
    }

    /// Whether they are what a selector asks for.
    pub fn meet(&self, selector: &Selector) -> bool {
        selector.requirements().iter().all(|wanted| self.meet_one(wanted))
    }

    /// The same of one requirement.
    pub fn meet_one(&self, wanted: &Requirement) -> bool {
        wanted.is_met_by(self.get(&wanted.key))
    }
}

/// A label that everything has that meets a selector, if there is such a one.
pub fn anchor(selector: &Selector) -> Option<Label> {
    selector.requirements().iter().find_map(|wanted| match &wanted.operator {
        Operator::In(values) if values.len() == 1 => Some((wanted.key.clone(), values[0].clone())),
        _ => None,
    })
}

/// Things with a selector, found by labels that may meet it.
#[derive(Debug)]
pub struct Filed<T> {
    by_label: HashMap<Label, Vec<T>>,
    others: Vec<T>,
}

impl<T> Default for Filed<T> {
    fn default() -> Self {
        Self { by_label: HashMap::new(), others: Vec::new() }
    }
}

impl<T: Copy + PartialEq> Filed<T> {
    pub fn insert(&mut self, selector: &Selector, thing: T) {
        match anchor(selector) {
            Some(label) => self.by_label.entry(label).or_default().push(thing),
            None => self.others.push(thing),
        }
    }

    pub fn remove(&mut self, selector: &Selector, thing: T) {
        let Some(label) = anchor(selector) else {
            self.others.retain(|other| *other != thing);
            return;
        };
        if let Some(things) = self.by_label.get_mut(&label) {
            things.retain(|other| *other != thing);
            if things.is_empty() {
                self.by_label.remove(&label);
            }
        }
    }

    /// Things that labels may meet; what they do not meet may be among them.
    pub fn candidates<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = T> + 'a {
        let filed = labels.iter().filter_map(|label| self.by_label.get(label)).flatten();
        self.others.iter().chain(filed).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.by_label.is_empty() && self.others.is_empty()
    }
}
