//! BFD with real packets: between two of our own, and with Debian's BIRD and FRR, in network namespaces that end with the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod bfd;
mod daemons;
mod space;
