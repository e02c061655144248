//! What begins at this node and is told by BGP: one list, whoever has something told.
//!
//! Not here: to whom it is told (filters), and with which communities by what it is inside of (BgpConfiguration).
//!
//! Who has more to tell adds it to [`all`], and what it hangs on to `Core::note_for_bgp`. Of several that tell one prefix the first
//! one has it.

use ripstop_objects::bgp::Community;
use ripstop_tables::Tables;
use ripstop_types::Prefix;

/// A prefix that packets may be sent to this node for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announcement {
    /// The prefix.
    pub(super) prefix: Prefix,
    /// Communities that it is told with, beside those of all that is inside of a range.
    pub(super) communities: Vec<Community>,
}

/// All of them.
pub(super) fn all(tables: &Tables) -> Vec<Announcement> {
    ranges(tables).collect()
}

/// This node's ranges, and single addresses that it borrowed.
fn ranges(tables: &Tables) -> impl Iterator<Item = Announcement> {
    let own = tables.ranges_of.get(&tables.node).into_iter().flatten();
    let own = own.filter(|(network, _)| tables.networks.contains_key(network));
    own.map(|(_, prefix)| Announcement { prefix: *prefix, communities: Vec::new() })
}
