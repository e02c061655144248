//! What a correct data plane does with a packet: the judge of every implementation of ours and of others.
//!
//! Written for clarity, not for speed. It shares words and the types of objects with what it judges and nothing else: it does its own
//! matching and makes its own choices, so that one mistake is not made twice. Not here: compiled tables of any kind, and how an outcome
//! is observed.
//!
//! Invariants: pure; the same question has the same answer; no answer depends on the order in which objects are listed.

pub mod policy;
pub mod services;
