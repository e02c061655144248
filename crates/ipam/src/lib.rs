//! Who owns a range, who uses an address of it, and which pod has it: three pure state machines.
//!
//! - [`ranges`]: which range of a network this node owns. Ownership is a record in the store without expiry, taken and
//!   given back by compare-and-swap only; a sign of life is kept apart and frees nothing.
//! - [`lending`]: single addresses of one node's block that another node uses, each by one record of the store.
//! - [`leases`]: which attachment of this node has which address of the node's own ranges.
//!
//! Not here: the store, the files of `/run/ripstop/leases`, links and clocks. Events and time come in, rows and actions
//! go out, and every state can be written down and read back.
//!
//! Invariants: two nodes never hand out addresses of overlapping ranges; one address never has two attachments that
//! were both given it here; what was read at start is kept and reported, never dropped in silence.

pub mod leases;
pub mod lending;
pub mod ranges;

pub use leases::{
    Attachment, HostLink, ImportNote, Lease, LeaseBook, LeaseFault, LeaseRequest, LeaseState, OwnRange, RangeUsage,
    Sight, Usable, Window,
};
pub use lending::{LendingAction, LendingEngine, LendingEvent, LendingRow, LendingSnapshot};
pub use ranges::{
    Answer, Choice, Claim, ClaimKey, ClaimState, Claimant, Life, Liveness, OwnedRange, RangeAction, RangeEngine,
    RangeEvent, RangeFault, RangeRequest, RangeSnapshot, ReleaseCause, ReleaseFacts, ReleaseRefused, Slot, StopReason,
    Stored, choose, releasable,
};
