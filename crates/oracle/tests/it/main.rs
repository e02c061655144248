//! What the oracle says of small worlds that anybody can judge by eye.
// Helpers outside of test functions unwrap as the tests do.
#![allow(clippy::unwrap_used)]
mod closed;
mod policy;
