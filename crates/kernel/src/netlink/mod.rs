//! Netlink sockets and bytes: requests with acknowledgement, dumps, batches, events.
//!
//! Nothing here knows an object of ours. A [`Message`] is written attribute by attribute and a reply is read the same
//! way, because half of the messages this crate needs (veth peers in a namespace, nexthop objects, port settings) are
//! shorter in bytes than in any general model. Constants are those of the kernel's headers, in [`uapi`].
//!
//! Invariants: a socket belongs to the network namespace in which it was opened, whatever the thread does later; every
//! reply is matched by sequence number; a dump that the kernel marked as interrupted is never returned.

mod message;
mod socket;
pub(crate) mod uapi;

pub(crate) use message::{Attrs, Message, Replies, Reply, ip_bytes, read_ip};
#[cfg(test)]
pub(crate) use message::{message_bytes, reply_to};
pub(crate) use socket::{Membership, NetlinkError, Protocol, Socket, drop_events_of, each_message, parse_ack};
