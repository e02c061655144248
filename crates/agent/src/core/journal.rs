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
    rows: VecDeque<Row>,
    /// Rows that fell out at the front.
    dropped: usize,
}

impl Journal {
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Writes a step down and answers with its number.
    pub(super) fn note(&mut self, step: &Step, state: &str) -> usize {
        if self.rows.len() == KEPT {
            self.rows.pop_front();
            self.dropped += 1;
        }
        let number = self.dropped + self.rows.len() + 1;
        let view = StepView { state: Some(state.into()), ..step.view(number) };
        self.rows.push_back(Row { step: view, error: None });
        number
    }

    /// A step ended.
    pub(super) fn settle(&mut self, number: usize, state: &str, error: Option<String>) {
        let place = number.checked_sub(self.dropped + 1);
        if let Some(row) = place.and_then(|place| self.rows.get_mut(place)) {
            row.step.state = Some(state.into());
            row.error = error;
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
        let rows: Vec<&Row> = journal.rows().collect();
        assert_eq!(rows.len(), KEPT);
        assert_eq!(rows[0].step.step, 4);
        assert!(rows.iter().filter(|row| row.step.state.as_deref() != Some("running")).count() == 1);
        assert_eq!(rows[KEPT - 2].error.as_deref(), Some("why"));
    }
}
