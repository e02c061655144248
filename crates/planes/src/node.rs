//! The kernel of a scene's node, as plans make it.

use std::fmt::Display;
use std::sync::Arc;

use ripstop_conformance::services::Stop;
use ripstop_kernel::{Applier, BootFiles, Netns, OnError};
use ripstop_netmodel::{Entry, Key, Model};
use ripstop_plan::Step;

/// A change of a model that should not be.
pub type Spoil = Arc<dyn Fn(&mut Model) + Send + Sync>;

/// The product's applier, and what it made.
#[derive(Default)]
pub struct Node {
    applier: Option<Applier>,
    model: Model,
}

impl Node {
    /// What is there.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Makes what is wanted of what is there, with a fault if there is one.
    pub fn follow(&mut self, netns: &Netns, mut wanted: Model, fault: Option<&Spoil>) -> Result<(), Stop> {
        if let Some(fault) = fault {
            fault(&mut wanted);
        }
        let plan = ripstop_plan::diff_all(&self.model, &wanted, &|_: &Key, _: &Entry| Ok(()));
        self.model = wanted;
        match plan.steps.is_empty() {
            true => Ok(()),
            false => self.apply(netns, &plan.steps),
        }
    }

    /// Runs steps on a thread in the node, which ends with it.
    fn apply(&mut self, netns: &Netns, steps: &[Step]) -> Result<(), Stop> {
        let run = || {
            let applier = match &mut self.applier {
                Some(applier) => applier,
                None => self.applier.insert(Applier::open().map_err(broken)?),
            };
            // Rules have no records.
            let mut records = BootFiles::new(std::env::temp_dir());
            let outcomes = applier.run(steps, OnError::Continue, &mut records);
            outcomes.into_iter().try_for_each(|outcome| outcome.result.map_err(|error| Stop::Fail(error.to_string())))
        };
        let panicked = |_| Err(broken("its thread panicked"));
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| netns.run(run).map_err(broken)?);
            inside.join().unwrap_or_else(panicked)
        })
    }
}

fn broken(error: impl Display) -> Stop {
    Stop::Fail(format!("rules cannot be written: {error}"))
}
