//! A BGP speaker (RFC 4271) without sockets and clocks: bytes, events and time in, bytes and actions out.
//!
//! - [`wire`]: messages as bytes, with errors graded as RFC 7606 says;
//! - [`session`]: a session with one peer, from connecting to its end;
//! - [`rib`]: routes, which of them are used, and what each peer is told;
//! - [`discovery`]: who is a neighbour on a link.
//!
//! Not here: sockets, kernel routes, configuration objects. IPv4 and IPv6 unicast are the only families.
//!
//! Invariants: nothing that a peer sends makes this panic, or allocate more than a small multiple of what it sent; the same
//! inputs give the same outputs in the same order.

pub mod discovery;
pub mod rib;
pub mod session;
pub mod wire;
