//! The crate against the kernel: in network namespaces each test makes for itself, with Debian's `nft` as witness.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // These are tests, helpers included.

mod agree;
mod bridge;
mod counting;
mod elements;
mod fixture;
mod hosts;
mod kernel;
mod parts;
mod random;
mod replace;
mod robust;
mod router;
mod simulate;
mod write;
