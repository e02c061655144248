//! Which range of a network a node owns.
//!
//! [`choose`] names the range, [`Claim`] is the record that takes it, [`releasable`] says when it may be given back, and
//! [`RangeEngine`] does what a node must do so that no two nodes ever use one range. [`Liveness`] tells fresh from stale nodes. Staleness is shown to people; nothing here frees a range because of it.

mod choose;
mod claim;
mod engine;
mod liveness;
mod release;
mod view;

pub use choose::{Choice, RangeFault, RangeRequest, choose, start_of};
pub use claim::{Claim, ClaimKey, ClaimState, Claimant, Stored};
pub(crate) use engine::rows;
pub use engine::{Answer, OwnedRange, RangeAction, RangeEngine, RangeEvent, RangeSnapshot, Slot, StopReason};
pub use liveness::{Life, Liveness};
pub use release::{ReleaseCause, ReleaseFacts, ReleaseRefused, releasable};
pub(crate) use view::View;
