//! What a node knows: the tables as the store's messages shape them.
//!
//! `store` tells what a list, a watch and a broken record do to rows and what each names as changed. `ids` follows the
//! nexthop ids of peers that come and go. `snapshot` is about what a start finds of the last run, and `recording` about
//! runs that are to be repeated: every input is read back as it was, and without secrets.
//! `flannel`: nodes of real flanneld beside those of our agents.
#![allow(clippy::unwrap_used)] // These are tests, helpers included.

mod flannel;
mod ids;
mod recording;
#[path = "../scenario/mod.rs"]
mod scenario;
mod snapshot;
mod store;
