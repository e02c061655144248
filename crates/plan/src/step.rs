//! Steps and plans.

use std::sync::Arc;

use ripstop_netmodel::{Entry, Key};
use ripstop_types::Owner;
use serde::{Deserialize, Serialize};

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
    /// The step that undoes this one; `None` for a refusal and for what cannot be undone.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        let action = match (self.action, self.is_irreversible()) {
            (Action::Refuse, _) | (_, true) => return None,
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

    /// Whether nothing brings the former state back: another node may have taken a deleted record meanwhile.
    pub fn is_irreversible(&self) -> bool {
        self.action == Action::Delete && matches!(self.key, Key::Record { .. })
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

    /// The plan that undoes the reversible steps, last first.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self { steps: self.steps.iter().rev().filter_map(Step::inverse).collect() }
    }
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
