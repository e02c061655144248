//! Steps and plans.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Kind, Model, Object, Resource};
use ripstop_types::Owner;
use serde::{Deserialize, Serialize};

use crate::diff::place;
use crate::hang::{Others, altered, vanishing};
use crate::model::{apply_to_model, can_be_removed};

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Make what is not there.
    Create,
    /// Change in place.
    Update,
    /// Remove what is there.
    Delete,
    /// Do nothing, and say why.
    Refuse,
}

impl Action {
    /// The word shown to a reader.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Refuse => "refuse",
        }
    }
}

/// One change of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// With which object.
    pub key: Key,
    /// The object as it shall be; `None` for a removal.
    pub after: Option<Arc<Entry>>,
    /// The object as it was; `None` where nothing was.
    pub before: Option<Arc<Entry>>,
    /// The object that caused it.
    pub owner: Owner,
    /// Why, in a sentence without a full stop.
    pub reason: Arc<str>,
}

impl Step {
    /// How many elements it fills sets of a part of nftables with.
    #[must_use]
    pub fn filling(&self) -> usize {
        match self.after.as_ref().map(|entry| &entry.object) {
            Some(Object::NftPart(part)) if self.action != Action::Delete => part.part.filling(),
            _ => 0,
        }
    }

    /// The step that undoes this one; `None` for a refusal and for what cannot be undone: a setting whose former value is
    /// not known, and what has no absence of its own (`lo`, the second end of a pair).
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        let has_absence = self.after.as_ref().is_none_or(|entry| can_be_removed(&entry.object));
        let action = match (self.action, self.is_irreversible()) {
            (Action::Refuse, _) | (_, true) => return None,
            (Action::Create, _) if !has_absence => return None,
            (Action::Create, _) => Action::Delete,
            (Action::Update, _) => Action::Update,
            (Action::Delete, _) => Action::Create,
        };
        Some(Self {
            action,
            key: self.key.clone(),
            after: self.before.clone(),
            before: self.after.clone(),
            owner: self.owner.clone(),
            reason: format!("undo: {}", self.reason).into(),
        })
    }

    /// Whether nothing brings the former state back: another node may have taken a deleted record meanwhile, and a connection that was
    /// ended does not go on.
    pub fn is_irreversible(&self) -> bool {
        self.action == Action::Delete && matches!(self.key, Key::Record { .. } | Key::Connection { .. })
    }

    /// The step as a row for people and programs.
    #[must_use]
    pub fn view(&self, number: usize) -> StepView {
        StepView {
            step: number,
            action: self.action.as_str().into(),
            object: self.key.to_string(),
            owner: self.owner.to_string(),
            reason: self.reason.to_string(),
            inverse: self.inverse().map(|undo| format!("{} {}", undo.action.as_str(), undo.key)),
            state: None,
        }
    }
}

/// Steps in the order in which they run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Whether there is nothing to do and nothing to refuse.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Rows for people and programs, counted from 1.
    #[must_use]
    pub fn view(&self) -> Vec<StepView> {
        self.steps.iter().enumerate().map(|(i, step)| step.view(i + 1)).collect()
    }

    /// The plan that undoes the reversible steps, last first. What went along with an object has no step of its own: it is
    /// read from the model as it was before this plan.
    #[must_use]
    pub fn inverse(&self, earlier: &Model) -> Self {
        let mut model = earlier.clone();
        let mut undone = Vec::new();
        for step in &self.steps {
            let lost = if takes_along(step) { lost_with(&model, &step.key) } else { Vec::new() };
            undone.push((undo(step, model.get(&step.key)), lost));
            // A step that fails changes nothing.
            let _ = apply_to_model(&mut model, step);
        }
        let mut steps = Vec::new();
        for (undo, lost) in undone.into_iter().rev() {
            let Some(undo) = undo else { continue };
            let reason: Arc<str> = format!("undo: goes with {}", undo.key).into();
            steps.push(undo);
            steps.extend(lost.into_iter().map(|entry| Step {
                action: Action::Create,
                key: entry.object.key(),
                owner: entry.owner.clone().unwrap_or_else(Owner::agent),
                after: Some(entry),
                before: None,
                reason: reason.clone(),
            }));
        }
        Self { steps }
    }
}

/// The step that brings back what was there when this one's turn came. That may be less than the step knew: something may
/// have gone with another object before, and comes back with that.
fn undo(step: &Step, was: Option<&Arc<Entry>>) -> Option<Step> {
    let action = match (step.action, was) {
        (Action::Delete, Some(_)) => step.inverse()?.action,
        (Action::Delete, None) => return None,
        (Action::Create | Action::Update, Some(_)) => Action::Update,
        (Action::Create | Action::Update, None) => Step { action: Action::Create, ..step.clone() }.inverse()?.action,
        (Action::Refuse, _) => return None,
    };
    Some(Step {
        action,
        key: step.key.clone(),
        after: was.cloned(),
        before: step.after.clone(),
        owner: step.owner.clone(),
        reason: format!("undo: {}", step.reason).into(),
    })
}

/// Whether other objects go with a step's.
fn takes_along(step: &Step) -> bool {
    step.action == Action::Delete || step.action == Action::Update && step.key.kind() == Kind::NftTable
}

/// What goes or changes with an object, in the order in which it can be made again.
fn lost_with(model: &Model, key: &Key) -> Vec<Arc<Entry>> {
    let gone = vanishing(model, key, Others::Stay);
    let changed: BTreeSet<Key> = gone.iter().chain([key]).flat_map(|key| altered(model, key, Others::Stay)).collect();
    let mut lost: Vec<Arc<Entry>> = gone.union(&changed).filter_map(|key| model.get(key)).cloned().collect();
    lost.sort_by_cached_key(|entry| {
        let key = entry.object.key();
        (place(&key, entry), key)
    });
    lost
}

/// A step as `ripstop plan` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Number, from 1.
    pub step: usize,
    /// create, update, delete or refuse.
    pub action: String,
    /// The object, in the words of `ip` and `nft`.
    pub object: String,
    /// The object that caused it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// What undoes it; absent where nothing does.
    pub inverse: Option<String>,
    /// planned, done or failed; absent where it is not known.
    pub state: Option<String>,
}
