//! BFD and BGP with real packets: between two of our own, and with BIRD, FRR, GoBGP and ExaBGP of Debian, in network namespaces that
//! end with the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod bfd;
mod bgp;
mod bgp_links;
mod cases;
mod daemons;
mod decoders;
mod foreign;
mod l2;
mod programs;
mod space;
