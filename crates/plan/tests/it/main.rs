//! The plan's promises.
//!
//! `laws` makes pairs of random models, "is" and "should be", with every kind of object, and runs plans on a model that
//! refuses what the kernel refuses: a plan reaches its goal and is empty afterwards; broken off anywhere, a new one still
//! gets there; undone, it leaves what was; what may not be removed is still there. `world` is where the models come from.
//! `swaps` passes around what only one link can have.
//! `cases` are single stories with the steps they must give, in words: what is read by people is compared as text.
#![allow(clippy::unwrap_used)] // These are tests, helpers included.

mod cases;
mod forwarder;
mod laws;
mod swaps;
mod world;
