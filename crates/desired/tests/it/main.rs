//! What a node's decisions become: whole models as text, and packets through the rules among them.
//!
//! `golden` prints the model of small clusters, one line an object, and compares it with tests/golden: a reader sees there
//! what Ripstop makes of a node. `update` holds that a model kept up to date with changes is the model made anew, and
//! that a kernel follows every change by plans. `rules` sends packets through the rules of those clusters. `guard` says
//! what may not be removed yet.
//!
//! After a change that is meant, `UPDATE_GOLDEN=1 cargo test -p ripstop-desired golden` writes the files anew; the diff
//! is to be read.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // These are tests, helpers included.

mod clusters;
mod golden;
mod guard;
mod hygiene;
mod ipvs;
#[path = "../policies/mod.rs"]
mod policies;
mod policy;
mod pools;
mod rules;
#[path = "../../../tables/tests/scenario/mod.rs"]
mod scenario;
mod services;
mod update;
