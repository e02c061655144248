//! Laws of the sessions. Each module says which.

// Helpers of tests are tests, though clippy looks at the attribute only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod packets;
mod rules;
mod set;
mod timers;
mod wire;
mod world;
