//! Which range of a network a node owns.
//!
//! [`choose`] names the range, [`Claim`] is the record that takes it, [`releasable`] says when it may be given back, and
//! [`Liveness`] tells fresh from stale nodes. Staleness is shown to people; nothing here frees a range because of it.

mod choose;
mod claim;
mod liveness;
mod release;

pub use choose::{Choice, RangeFault, RangeRequest, choose, start_of};
pub use claim::{Claim, ClaimState, Claimant};
pub use liveness::{Life, Liveness};
pub use release::{ReleaseCause, ReleaseFacts, ReleaseRefused, releasable};
