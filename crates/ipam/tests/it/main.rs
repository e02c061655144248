//! Laws of the engines. Each module says which.

// Helpers of tests are tests, though clippy looks at the attribute only; searches say how far they came.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod choose;
mod engine;
mod leases;
mod leases_model;
mod lending;
mod lending_words;
mod lending_world;
mod life;
mod ranges;
mod ranges_words;
mod ranges_world;
mod search;
