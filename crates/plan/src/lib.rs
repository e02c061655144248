//! From "is" and "should be" to "do": a plan is data.
//!
//! [`diff`] compares touched keys of two models and gives ordered [`Step`]s, each with its owner, its reason and its
//! inverse. A refusal is a step with a sentence. What is printed is what runs: the executor takes nothing but steps.
//! Not here: how a step is written to the kernel, or when.
//!
//! Invariants: steps that create or change come in the order of [`ripstop_netmodel::Key`], removals in the reverse order
//! and behind them, except where a removal must make room; what only one link can have is given up before another takes
//! it; what is refused is as it was when the plan has run; irreversible steps come last; a plan of two equal models is empty.

mod contest;
mod diff;
mod follow;
mod hang;
mod model;
mod refuse;
mod step;

pub use diff::{Guard, diff, diff_all, difference};
pub use model::{Fault, apply_to_model};
pub use step::{Action, Plan, Step, StepView};
