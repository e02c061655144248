//! Tests of the stores from outside: the suite on each of them, and what only one of them has.

// What is not in a `#[test]` function is test code all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod conformance;
mod etcd;
mod file;
mod kubernetes;
mod process;
mod relay;
mod socket;
