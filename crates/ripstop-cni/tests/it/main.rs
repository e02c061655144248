//! The plugin's executable against agents made in the test: what it sends, what it prints, how it exits.
//!
//! Every case runs on both builds: the one of this test's profile, and the one that is shipped, which has another entry
//! point and allocator, and no C library.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands, in its helpers too")]
#![allow(clippy::print_stdout, reason = "a case that cannot run here says so")]

mod agent;
mod broken;
mod calls;
mod fuzz;
mod input;
mod program;
