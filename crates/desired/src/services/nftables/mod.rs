//! Services by nftables: a table of each family whose rules are few and the same whatever the Services, and elements.
//!
//! `ip ripstop-services` and `ip6 ripstop-services`. The first packet of a connection is looked up once, in `frontends`, by its destination; the
//! verdict found there leads to a chain for that many endpoints, which draws a number and looks up the endpoint of that slot. So a
//! Service costs no chain and no rule, its first packet one look whatever the number of Services, and a changed endpoint one element or
//! two a frontend. A packet that finds no endpoint in its slot is dropped: it was between two changes.
//!
//! Whether the source is rewritten is asked when the packet leaves, by where its connection went at first, so that packets need no mark.
//!
//! - `table`: chains, sets and maps.
//! - `elements`: what a Service adds to them.
//! - `affinity`: what it adds where its clients keep their endpoints.

mod affinity;
mod elements;
mod table;

pub use elements::{base, objects};
pub use table::PREPARED;

use ripstop_nft::model::Name;

use super::Scope;

/// The chain that draws one of so many endpoints of the cluster, or of this node; of more than [`PREPARED`] the name of a part too.
fn chain_of(count: usize, of: Scope) -> Option<Name> {
    let kind = match of {
        Scope::Inside => "endpoints",
        Scope::Outside => "local",
    };
    let separator = if count > PREPARED { '/' } else { '-' };
    format!("{kind}{separator}{count}").parse().ok()
}
