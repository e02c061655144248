//! Networks that the store says are gone or other than pods of this node need them.
//!
//! An agent refuses such changes when it is asked for them; this is for what gets into the store in another way. What pods
//! stand on stays in force until the last of them is gone, and the store's word is kept to be taken then.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_objects::{Network, NetworkName, check_change};
use ripstop_types::Prefix;

use crate::{Change, PodState, Row, StoreKind, Tables};

impl Tables {
    /// Takes a network in, or says why the one before stays.
    pub(crate) fn put_network(&mut self, row: Row<Network>, changes: &mut BTreeSet<Change>) -> Result<(), String> {
        let name = row.value.name.clone();
        if let Some(there) = self.networks.get(&name)
            && let Some((pods, in_use)) = self.pods_of(&name)
            && let Err(faults) = check_change(&there.value, &row.value, &in_use)
        {
            self.held_back.insert(name, Some(row));
            return Err(format!("{pods}; {faults}"));
        }
        self.held_back.remove(&name);
        // The revision that is in the kernel is published: a new one of the same network is news.
        let is_newer = self.networks.get(&name).is_some_and(|there| there.revision != row.revision);
        if crate::state::replace(&mut self.networks, name.clone(), row) || is_newer {
            changes.insert(Change::Network(name));
        }
        Ok(())
    }

    /// Lets a network go, or says why it stays.
    pub(crate) fn remove_network(&mut self, name: &NetworkName, changes: &mut BTreeSet<Change>) -> Result<(), String> {
        if let Some((pods, _)) = self.pods_of(name)
            && self.networks.contains_key(name)
        {
            self.held_back.insert(name.clone(), None);
            // New pods are refused from now on.
            changes.insert(Change::Network(name.clone()));
            return Err(format!("it was deleted, but {pods}"));
        }
        self.held_back.remove(name);
        if self.networks.remove(name).is_some() {
            changes.insert(Change::Network(name.clone()));
        }
        Ok(())
    }

    /// Whether the store says that a network is gone which pods of this node still need.
    pub fn is_deleted(&self, name: &NetworkName) -> bool {
        matches!(self.held_back.get(name), Some(None))
    }

    /// Takes in what was held back for pods that are gone by now.
    pub fn take_held_back(&mut self) -> BTreeSet<Change> {
        let mut changes = BTreeSet::new();
        for (name, row) in std::mem::take(&mut self.held_back) {
            let key = ripstop_objects::network_key(&name).into();
            let taken = match row {
                Some(row) => self.put_network(row, &mut changes),
                None => self.remove_network(&name, &mut BTreeSet::new()).map(|()| {
                    changes.insert(Change::Network(name.clone()));
                }),
            };
            self.note_fault(StoreKind::Networks, &key, taken.err(), &mut changes);
        }
        changes
    }

    /// Pods of this node in a network, as words and as what they use of it; `None` where there are none.
    fn pods_of(&self, name: &NetworkName) -> Option<(String, Vec<Prefix>)> {
        let rows = self.pods.values().filter(|row| row.network == *name && row.state != PodState::Gone);
        let rows: Vec<&Arc<crate::PodRow>> = rows.collect();
        let first = rows.first()?;
        let addresses = rows.iter().flat_map(|row| row.ips.iter().map(|ip| Prefix::host(*ip)));
        let in_use = self.own_ranges.get(name).into_iter().flatten().copied().chain(addresses).collect();
        let words = match rows.len() {
            1 => format!("{} of this node is in it", first.owner()),
            count => format!("{count} pods of this node are in it, {} for one", first.owner()),
        };
        Some((words, in_use))
    }
}
