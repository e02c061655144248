//! The parts of tables that are there, as who writes or removes one must know, kept from one transaction to the next: to read them takes
//! longer the more of them there are.
//!
//! The kernel counts the transactions of a namespace. As long as it has counted those of this applier alone, what is there follows from
//! what was written; or else it is read again.
//!
//! Invariant: what is kept is what is there when the kernel has counted as many transactions as is kept with it.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_nft::decode::ObservedPart;
use ripstop_nft::model::{Name, Part, TableFamily};

use crate::netlink::{NetlinkError, Socket};
use crate::observe::nft::{generation, parts_of};

/// A table.
type TableKey = (TableFamily, Name);

/// What is known of parts.
#[derive(Debug, Default)]
pub(super) struct Parts {
    there: BTreeMap<(TableFamily, Name, Name), ObservedPart>,
    /// Those of these tables are known.
    tables: BTreeSet<TableKey>,
    /// Since so many transactions.
    generation: Option<u32>,
}

impl Parts {
    /// Has the parts of these tables known.
    pub(super) fn learn(&mut self, socket: &mut Socket, tables: BTreeSet<TableKey>) -> Result<(), NetlinkError> {
        let now = generation(socket)?;
        let is_known = now.is_some() && now == self.generation;
        if is_known && tables.is_subset(&self.tables) {
            return Ok(());
        }
        if !is_known {
            *self = Self::default();
        }
        self.tables.extend(tables);
        let (there, generation) = parts_of(socket, &self.tables)?;
        (self.there, self.generation) = (there, generation);
        Ok(())
    }

    /// They are there after one more transaction, if nobody made another one. One that changed nothing is not counted.
    pub(super) fn follow(&mut self, socket: &mut Socket) {
        let Some(before) = self.generation else { return };
        let now = generation(socket).ok().flatten();
        // The kernel passes zero over.
        let next = before.checked_add(1).unwrap_or(1);
        if now == Some(next) || now == Some(before) {
            self.generation = now;
        } else {
            *self = Self::default();
        }
    }

    pub(super) fn get(&self, family: TableFamily, table: &Name, name: &Name) -> Option<&ObservedPart> {
        self.there.get(&(family, table.clone(), name.clone()))
    }

    /// One is written.
    pub(super) fn insert(&mut self, part: &Part) {
        let key = (part.family, part.table.clone(), part.name.clone());
        self.there.insert(key, part.into());
    }

    /// One is taken away.
    pub(super) fn remove(&mut self, family: TableFamily, table: &Name, name: &Name) -> Option<ObservedPart> {
        self.there.remove(&(family, table.clone(), name.clone()))
    }

    /// A table is taken away, or written anew without parts.
    pub(super) fn clear(&mut self, table: (TableFamily, &Name)) {
        self.there.retain(|(family, of, _), _| (*family, of) != table);
    }
}
