//! The forwarder of the `udp` backend: IP packets of a TUN device travel to other nodes in UDP datagrams, one a datagram
//! without a header of its own, as Flannel's udp backend has it (port 8285). A plain forwarder that reads one packet at a
//! time understands it, and is understood.
//!
//! It is a process of its own (`ripstop udp-forward`), so that packets pass while the agent is away. It decides nothing: the
//! agent tells it device, addresses and peers over a unix socket, and puts routes on the device.
//!
//! # What makes it fast
//!
//! The device gives and takes packets of up to 64 KB (`IFF_VNET_HDR`, `TUNSETOFFLOAD`). Their segments are cut without
//! copying payload ([`frame::split`]), leave by one `sendmmsg` with `UDP_SEGMENT`, arrive by `recvmmsg` with `UDP_GRO`, and are
//! joined again ([`frame::join`]), also those of a sender that knows none of this. One thread a queue; no thread is
//! pinned, none waits for another. Where many small packets come close together, a thread lets some gather before it looks
//! again (`pace`): an eighth of a millisecond at most, and never behind a packet that comes by itself.
//!
//! # Control
//!
//! [`control`] has the words; each line on the socket is one of its values as JSON:
//!
//! ```text
//! → {"set":{"device":"ripudp0","listen":["172.30.1.11:8285"],
//!           "peers":[{"name":"n2","to":"172.30.1.12:8285","ranges":["10.244.2.0/24"]}]}}
//! ← "ok"                                          or {"refused":"peers: n2 is listed twice"}
//! → "clear"                                       forward nothing any more
//! ← "ok"
//! → "get"
//! ← {"setup":{…}}                                 {"setup":null} before the first
//! → "hold"                                        a queue that takes no packets comes with the answer (`SCM_RIGHTS`)
//! ← "ok"
//! → "stats"
//! ← {"stats":{"peers":{"n2":{"sent":12,…}},"dropped":{"stranger":3}}}
//! ```
//!
//! `set` is complete and replaces what was before, for all threads, before it is answered; a refused one changes nothing.
//! The device must exist (the agent's plan makes it first, see [`make`]), persistent and with several queues.
//!
//! # What happens when something ends
//!
//! - **The agent**: nothing. The next one says `set` again.
//! - **This process, killed**: its supervisor starts another, which reads the last set-up from the state file (below /run, so
//!   a reboot takes it away with the device) and forwards before any agent speaks. The forwarder writes that file, before it
//!   answers `set`: nobody else knows what is in force. While no queue is open the device has no carrier, and the kernel drops
//!   nexthop objects on it; [`hold`] keeps the carrier. While packets pass, another takes [`Client::hold`] instead: a queue
//!   that is opened takes packets until it holds.
//! - **This process, replaced**: one that starts while another answers its socket takes over: it gets queues and sockets
//!   (`SCM_RIGHTS`) and the set-up, the old one's threads finish what they have read and end, the new one's begin, and takes
//!   the socket's name. Meanwhile packets wait in the kernel, in the same queues and sockets, so none is lost. If the new
//!   one dies before it forwards, the old one goes on.
//!
//! # What is dropped
//!
//! Each with a counter ([`control::Reason`]): datagrams from addresses that are no peer's; packets whose inner source is
//! not behind the peer they came from; what is no IP packet; packets to nobody. Congestion marks cross the tunnel by RFC 6040.
//! A packet that is longer than the way to a peer carries and must not be fragmented is answered by ICMP with the MTU of
//! that way, as far as the kernel knows it.

mod client;
pub mod control;
mod counters;
mod engine;
pub mod frame;
mod outbox;
mod pace;
pub mod plain;
mod routes;
mod server;
mod state;
mod sys;
mod worker;

pub use client::{Client, ClientFault};
pub use engine::EngineFault;
pub use server::{Ended, Options, StartFault, run};
pub use sys::tun::{Made, create, hold, make};
