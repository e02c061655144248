//! What a case is and how it ends.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::scene::Scene;
use crate::spec::Sentence;

/// One case. It counts once, whatever versions it runs on.
pub struct Case {
    /// `GROUP.WHAT`, unique and stable.
    pub id: &'static str,
    /// What it checks.
    pub cite: &'static Sentence,
    pub run: fn(&Scene<'_>) -> Verdict,
}

/// A row of a table of cases.
pub const fn case(id: &'static str, cite: &'static Sentence, run: fn(&Scene<'_>) -> Verdict) -> Case {
    Case { id, cite, run }
}

/// What a case comes to: nothing to say, or why it ended early.
pub type Verdict<T = ()> = Result<T, Stop>;

/// Why a case ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The plugin did not do what the sentence says.
    Fail(String),
    /// The case says nothing about this configuration or this machine.
    Skip(String),
    /// It does something else, which is known and explained.
    Differs(String),
    /// The plugin claims no version that has this.
    Unclaimed(String),
    /// The user wants to stop.
    Interrupted,
}

/// The plugin did not do what the sentence says.
pub fn fail<T>(reason: impl Into<String>) -> Verdict<T> {
    Err(Stop::Fail(reason.into()))
}

/// The case says nothing here.
pub fn skip<T>(reason: impl Into<String>) -> Verdict<T> {
    Err(Stop::Skip(reason.into()))
}

/// Ends a case with a sentence unless something holds.
macro_rules! need {
    ($holds:expr, $($reason:tt)+) => {
        if !$holds {
            return Err($crate::case::Stop::Fail(format!($($reason)+)));
        }
    };
}
pub(crate) use need;

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The plugin does what the sentence says.
    Pass,
    /// It does not.
    Fail,
    /// The case says nothing about this configuration or this machine.
    Skip,
    /// It does something else, which is known and explained.
    Differs,
    /// The plugin claims no version that has what the case is about.
    Unclaimed,
}

impl Outcome {
    /// The word of the report.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Differs => "differs",
            Self::Unclaimed => "unclaimed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The case.
    pub id: &'static str,
    /// Source and quotation.
    pub cite: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it is not a pass.
    pub reason: Option<String>,
    /// How long it took, with making and removing its namespaces.
    pub took: Duration,
}

impl Row {
    /// The row of a case that ended; none for one that was interrupted.
    pub(crate) fn of(id: &'static str, cite: &dyn fmt::Display, verdict: Verdict, took: Duration) -> Option<Self> {
        let (outcome, reason) = match verdict {
            Ok(()) => (Outcome::Pass, None),
            Err(Stop::Fail(reason)) => (Outcome::Fail, Some(reason)),
            Err(Stop::Skip(reason)) => (Outcome::Skip, Some(reason)),
            Err(Stop::Differs(reason)) => (Outcome::Differs, Some(reason)),
            Err(Stop::Unclaimed(reason)) => (Outcome::Unclaimed, Some(reason)),
            Err(Stop::Interrupted) => return None,
        };
        Some(Self { id, cite: cite.to_string(), outcome, reason, took })
    }

    /// `{id,cite,result,reason,ms}`; a missing reason is null.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "cite": self.cite,
            "result": self.outcome.word(),
            "reason": self.reason,
            "ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
