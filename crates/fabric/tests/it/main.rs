//! How packets travel, as tables of cases.
//!
//! `paths` asks for the way to a peer: every backend, in one subnet and across two, in both families, and with each piece
//! missing that a path needs; a refusal is compared as the sentence that an operator reads. `host` chooses uplinks and
//! the MTU of pods. `publish` is about what the peers are told.
#![allow(clippy::unwrap_used)] // These are tests, helpers included.

mod host;
mod hygiene;
mod migration;
mod paths;
mod publish;
#[path = "../../../tables/tests/scenario/mod.rs"]
mod scenario;
