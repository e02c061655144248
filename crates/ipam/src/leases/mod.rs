//! Which attachment of this node has which address.
//!
//! [`LeaseBook`] is the whole state. It holds no file and no link: the agent writes each [`Lease`] as one file before it
//! touches the kernel, and removes the file after the kernel's objects are gone. So a crash at any point leaves either a
//! file without a link (an orphan, reclaimed by [`LeaseBook::look`]) or nothing.

mod book;
mod fault;
mod lease;
mod space;
mod spans;

pub use book::{LeaseBook, RangeUsage};
pub use fault::{ImportNote, LeaseFault};
pub use lease::{Attachment, HostLink, Lease, LeaseRequest, LeaseState, OwnRange, Sight, Usable, Window, mac_of};
