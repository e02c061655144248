//! Laws of the choice, in a world of nodes, links and clocks that fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod frames;
mod messages;
mod pairs;
mod rules;
mod search;
mod world;
