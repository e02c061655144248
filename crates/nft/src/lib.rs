//! nftables: a typed ruleset, its text, its netlink bytes and a simulator of one packet through it.
//!
//! Pure: bytes and values in, bytes and values out. Sockets, dumps and retries belong to the crate that talks to the
//! kernel; what a rule is for belongs to the crates that write rules.
//!
//! - [`model`]: tables, chains, rules, sets and elements as values, with small functions to write rules in code.
//! - [`text`]: nft's own syntax, for humans and golden files.
//! - [`encode`]: netlink messages that change or read the ruleset.
//! - [`decode`]: netlink messages the kernel sends, and whether a table is still the one that was written.
//! - [`sim`]: one packet through a ruleset.
//!
//! Only what Linux 5.13 knows is used.

mod bytes;
pub mod decode;
mod digest;
pub mod encode;
mod implied;
pub mod model;
pub mod sim;
pub mod text;
mod uapi;

pub use digest::Digest;
