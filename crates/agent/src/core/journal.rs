//! What was sent out to be done: the last steps in the order in which they were sent, and how each ended.
//!
//! Steps are counted from the agent's start, so a plan that was held back and printed has the numbers that its steps get
//! here. Signs of life are not written down: they are no change, and would soon be all there is.

use std::collections::VecDeque;

use ripstop_plan::{Step, StepView};
use serde::Serialize;

/// Steps kept for those who ask.
const KEPT: usize = 2_000;

/// A step that was sent out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The step. Its state is running, done, failed, refused, or skipped behind one that failed.
    #[serde(flatten)]
    pub step: StepView,
    /// Why it failed.
    pub error: Option<String>,
}

/// The journal.
#[derive(Debug, Default)]
pub(super) struct Journal {
    noted: VecDeque<Noted>,
    /// Steps that fell out at the front.
    dropped: usize,
}

/// A step as it is kept: a row is made of it for who asks.
#[derive(Debug)]
struct Noted {
    step: Step,
    state: &'static str,
    error: Option<String>,
}

impl Journal {
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        self.noted.iter().zip(self.dropped + 1..).map(|(noted, number)| Row {
            step: StepView { state: Some(noted.state.into()), ..noted.step.view(number) },
            error: noted.error.clone(),
        })
    }

    /// Writes a step down and answers with its number.
    pub(super) fn note(&mut self, step: &Step, state: &'static str) -> usize {
        if self.noted.len() == KEPT {
            self.noted.pop_front();
            self.dropped += 1;
        }
        self.noted.push_back(Noted { step: step.clone(), state, error: None });
        self.dropped + self.noted.len()
    }

    /// A step ended.
    pub(super) fn settle(&mut self, number: usize, state: &'static str, error: Option<String>) {
        let place = number.checked_sub(self.dropped + 1);
        if let Some(noted) = place.and_then(|place| self.noted.get_mut(place)) {
            noted.state = state;
            noted.error = error;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ripstop_netmodel::{Entry, Ns, Resource, Sysctl};
    use ripstop_plan::Action;
    use ripstop_types::Owner;

    use super::*;

    fn step() -> Step {
        let object = Sysctl { ns: Ns::Host, link: None, path: "net/ipv4/ip_forward".into(), value: "1".into() };
        Step {
            action: Action::Create,
            key: object.key(),
            after: Some(Arc::new(Entry { object: object.into(), owner: None })),
            before: None,
            owner: Owner::agent(),
            reason: "missing".into(),
        }
    }

    #[test]
    fn numbers_go_on_when_old_rows_fall_out() {
        let mut journal = Journal::default();
        let numbers: Vec<usize> = (0..KEPT + 3).map(|_| journal.note(&step(), "running")).collect();
        assert_eq!(numbers.first(), Some(&1));
        assert_eq!(numbers.last(), Some(&(KEPT + 3)));
        journal.settle(1, "done", None);
        journal.settle(KEPT + 2, "failed", Some("why".into()));
        let rows: Vec<Row> = journal.rows().collect();
        assert_eq!(rows.len(), KEPT);
        assert_eq!(rows[0].step.step, 4);
        assert!(rows.iter().filter(|row| row.step.state.as_deref() != Some("running")).count() == 1);
        assert_eq!(rows[KEPT - 2].error.as_deref(), Some("why"));
    }
}
