//! The tables, by the questions that a data plane asks them.
// Helpers outside of test functions unwrap as the tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
mod coming_to;
mod explain;
mod planted;
mod random;
mod revoke;
mod scale;
