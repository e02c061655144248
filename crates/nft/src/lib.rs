//! nftables: a typed ruleset, its text, its netlink bytes and a simulator of one packet through it.
//!
//! Pure: bytes and values in, bytes and values out. Sockets, dumps and retries belong to the crate that talks to the
//! kernel; what a rule is for belongs to the crates that write rules.
//!
//! - [`model`]: tables, chains, rules, sets and elements as values, with small functions to write rules in code.
//!
//! Only what Linux 5.13 knows is used.

pub mod model;
