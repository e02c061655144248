//! Whole configurations, results and calls, as runtimes write them.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands, in its helpers too")]

mod call;
mod conf;
mod laws;
mod list;
mod results;
