//! What a plan may remove: nothing whose owner's kind has not been read.

use ripstop_netmodel::{Entry, Key, Ns, RecordScope};
use ripstop_tables::{Knowledge, StoreKind, Tables};

/// Whether an object that no part of the model wants may go.
///
/// # Errors
/// The sentence of the refusal: which kind of record is not known yet.
pub fn may_delete(tables: &Tables, key: &Key, _entry: &Entry) -> Result<(), String> {
    if let Key::Record { scope: RecordScope::Cluster(kind), .. } = key {
        // A record of the store goes by a decision of its own, never because it is not wanted.
        return Err(format!("a record of kind {kind} is removed by name only"));
    }
    if matches!(key.ns(), Some(Ns::Path(_))) {
        // What lies in a pod's namespace belongs to the pod, and pods are known from the start.
        return Ok(());
    }
    let needed: &[StoreKind] = match key {
        // Pods are known from the start: their files are the truth of this boot.
        Key::Record { .. } | Key::Qdisc { .. } | Key::Sysctl { .. } | Key::LinkSysctl { .. } => &[],
        Key::Link { name, .. } if name.as_str().starts_with(ripstop_fabric::wiring::POD_LINK_PREFIX) => &[],
        Key::Link { .. } | Key::Address { .. } | Key::NftTable { .. } => &[StoreKind::Networks],
        Key::NftElement(_) | Key::Neighbour { .. } | Key::Fdb { .. } | Key::Nexthop { .. } | Key::Route { .. } => {
            &[StoreKind::Networks, StoreKind::Nodes, StoreKind::Claims]
        }
    };
    match needed.iter().find(|kind| tables.knowledge(**kind) == Knowledge::Unknown) {
        None => Ok(()),
        Some(kind) => {
            Err(format!("kept: {} have not been read yet, so nobody knows whether it is still wanted", kind.as_str()))
        }
    }
}
