//! This node's records in the store: what it publishes and proposes. Claims and signs of life have engines of their own.

use ripstop_fabric::{migration, publish};
use ripstop_netmodel::{Entry, Record as ModelRecord, RecordGuard, RecordScope};
use ripstop_objects::{Network, Record, check_node_name};
use ripstop_tables::{Knowledge, Row, StoreKind, Tables};
use ripstop_types::Owner;

use crate::Part;

pub(crate) fn objects(tables: &Tables) -> Vec<Entry> {
    let mut part = Part::of(Owner::node(&tables.node));
    if tables.knowledge(StoreKind::Networks) == Knowledge::Synced {
        for network in &tables.config.networks {
            // What the store has wins over the file, also where it could not be read.
            let key: std::sync::Arc<str> = network.key().into();
            if !tables.networks.contains_key(&network.name) && !tables.faults.contains_key(&(StoreKind::Networks, key))
            {
                part.add(model_record(StoreKind::Networks, network, RecordGuard::Absent));
            }
        }
    }
    if tables.knowledge(StoreKind::Nodes) == Knowledge::Synced {
        for row in tables.networks.values().filter(|row| migration::is_over(tables, &row.value)) {
            // Every node proposes it; one is first.
            let ended = Network { migration: None, ..(*row.value).clone() };
            part.add(model_record(StoreKind::Networks, &ended, guard(Some(row))));
        }
    }
    if tables.knowledge(StoreKind::Nodes) == Knowledge::Synced
        && let Some(record) = publish::record(tables)
    {
        let there = tables.nodes.get(&tables.node);
        if there.is_none_or(|row| tables.namesake_gone || check_node_name(&record, &row.value).is_ok()) {
            part.add(model_record(StoreKind::Nodes, &record, guard(there)));
        }
    }
    part.entries
}

fn guard<T>(there: Option<&Row<T>>) -> RecordGuard {
    there.map_or(RecordGuard::Absent, |row| RecordGuard::Revision(row.revision.0))
}

fn model_record<R: Record>(kind: StoreKind, record: &R, guard: RecordGuard) -> ModelRecord {
    ModelRecord {
        scope: RecordScope::Cluster(kind.as_str().into()),
        key: record.key().into(),
        value: record.encode().to_string().into(),
        guard,
    }
}
