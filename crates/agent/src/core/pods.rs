//! Pods' rows: as read at start, as leases, and as orphans.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_fabric::wiring::{pod_link, shaper_index};
use ripstop_ipam::{Attachment, HostLink, Lease, LeaseState, Sight};
use ripstop_netmodel::{Entry, Key, Kind, LinkKind, Model, Ns, Object, RecordScope, Resource};
use ripstop_tables::{Change, PodRow, PodState, Tables};

use super::{Core, Level};

/// The rows that count at start, and what to say of the others.
///
/// A row of another boot means nothing. An ADD that was not answered is undone: what it made goes, its address stays
/// with the container. A pod whose interface is gone keeps its address until DEL, GC or the second look.
pub(super) fn admit(boot: &Arc<str>, rows: &[PodRow], observed: &Model) -> (Vec<PodRow>, Vec<String>) {
    let (mut admitted, mut notes) = (Vec::new(), Vec::new());
    for row in rows {
        if row.boot_id != *boot {
            notes.push(format!("{} is of another boot; its address is free", row.owner()));
            continue;
        }
        let stands = observed.get(&row.host_key()).is_some();
        let state = match row.state {
            PodState::Ready if stands => PodState::Ready,
            PodState::Adding => {
                notes.push(format!("the ADD of {} was not answered; what it made is removed", row.owner()));
                PodState::Gone
            }
            PodState::Ready | PodState::Gone => PodState::Gone,
        };
        admitted.push(PodRow { state, ..row.clone() });
    }
    (admitted, notes)
}

/// A row as the lease book has it.
pub(super) fn lease_of(row: &PodRow) -> Lease {
    Lease {
        attachment: row.attachment.clone(),
        pod: row.pod.clone(),
        network: row.network.as_str().into(),
        ips: row.ips.clone(),
        mac: row.mac,
        since: row.since,
        state: if row.state == PodState::Ready { LeaseState::Held } else { LeaseState::Pending },
        boot: row.boot_id.clone(),
        link: host_link(row),
    }
}

/// The host's end as the lease book knows it: by name, which no other pod of this boot has.
pub(super) fn host_link(row: &PodRow) -> Option<HostLink> {
    (row.state == PodState::Ready).then(|| HostLink { index: 0, altname: row.host_link.as_str().into() })
}

/// What there is of a row outside the host's namespace: its file, and its namespace's objects; and where those were seen,
/// the host's end, which leads to them. `inside` is what was read in
/// pods' namespaces. One that was not looked into, or has another's interface by now, is taken to have what is wanted
/// there; its link has the MTU that the host's end shows in `observed`, for both ends were given one.
pub(super) fn remembered(tables: &Tables, row: &PodRow, observed: &Model, inside: &Model) -> Vec<Entry> {
    let eth = Key::Link { ns: row.ns(), name: row.attachment.ifname.clone() };
    let is_ours = |entry: &Arc<Entry>| matches!(&entry.object, Object::Link(link) if link.mac == Some(row.mac));
    let looked_into = inside.get(&eth).is_some_and(is_ours);
    let mtu = observed.get(&row.host_key()).and_then(|entry| match &entry.object {
        Object::Link(link) => link.mtu,
        _ => None,
    });
    let entries = ripstop_desired::pod_objects(tables, row).into_iter();
    let known = entries.filter_map(|mut entry| match entry.object.key() {
        Key::Record { scope: RecordScope::Boot(_), .. } => Some(entry),
        key if matches!(key.ns(), Some(Ns::Path(_))) && (!looked_into || key.kind() == Kind::Sysctl) => {
            if let Object::Link(link) = &mut entry.object
                && link.kind == LinkKind::VethPeer
            {
                link.mtu = mtu.or(link.mtu);
            }
            Some(entry)
        }
        key => {
            let of_host = observed.get(&key).filter(|_| looked_into && key == row.host_key());
            let mut there = (**inside.get(&key).or(of_host)?).clone();
            if let (Object::Link(wanted), Object::Link(there)) = (&entry.object, &mut there.object) {
                // The kernel does not tell which end of a pair was made for the other, nor where the other is.
                there.kind.clone_from(&wanted.kind);
            }
            Some(Entry { owner: entry.owner, ..there })
        }
    });
    let left_over = ripstop_desired::migration_keys(tables, row).into_iter().filter_map(|key| inside.get(&key));
    let left_over =
        left_over.filter(|_| looked_into).map(|there| Entry { owner: Some(row.owner()), ..(**there).clone() });
    // What is still wanted stands in both, and is the same.
    left_over.chain(known).collect()
}

impl Core {
    /// What to read in the namespace of each pod before a start: all that one that stands would have there, and what a
    /// migration may have left.
    #[must_use]
    pub fn pod_keys(&self) -> Vec<BTreeSet<Key>> {
        let of = |row: &Arc<PodRow>| {
            let standing = PodRow { state: PodState::Ready, ..(**row).clone() };
            let mut keys = ripstop_desired::inspect_keys(&self.tables, &standing);
            keys.append(&mut ripstop_desired::migration_keys(&self.tables, &standing));
            keys.retain(|key| matches!(key.ns(), Some(Ns::Path(_))));
            keys
        };
        self.tables.pods.values().map(of).collect()
    }

    /// A look at every pod's link; removes those that were gone in two looks.
    pub(super) fn look_for_orphans(&mut self) -> BTreeSet<Change> {
        let (applied, tables, leaving) = (&self.applied, &self.tables, &self.leaving);
        let orphans = self.book.look(self.at.now, |lease| {
            let Some(row) = tables.pods.get(&lease.attachment) else {
                return if leaving.contains_key(&lease.attachment) { Sight::Present } else { Sight::Gone };
            };
            if row.state == PodState::Adding || applied.get(&row.host_key()).is_some() {
                Sight::Present
            } else {
                Sight::Gone
            }
        });
        let mut changes = BTreeSet::new();
        for orphan in orphans {
            if let Some(row) = self.tables.pods.get(&orphan).cloned() {
                self.log(Level::Info, format!("{} left without a DEL; its address is free", row.owner()));
                changes.append(&mut self.remove_pod(&orphan));
            } else {
                self.book.release(&orphan, self.at.wall);
            }
        }
        changes
    }

    /// Takes a pod out of the tables; its lease ends when its objects are gone.
    pub(super) fn remove_pod(&mut self, attachment: &Attachment) -> BTreeSet<Change> {
        let Some(row) = self.tables.pods.remove(attachment) else { return BTreeSet::new() };
        self.guard_who_leaves(&row);
        let keys: BTreeSet<Key> =
            ripstop_desired::pod_objects(&self.tables, &PodRow { state: PodState::Ready, ..(*row).clone() })
                .iter()
                .map(|entry| entry.object.key())
                .filter(|key| !matches!(key.ns(), Some(Ns::Path(_))))
                .collect();
        self.leaving.insert(attachment.clone(), keys);
        BTreeSet::from([Change::Pod(attachment.clone())])
    }

    /// A name for the host's end that no other link has.
    pub(super) fn free_pod_link(&self, attachment: &Attachment) -> ripstop_types::IfName {
        let taken = |name: &ripstop_types::IfName| {
            let key = Key::Link { ns: Ns::Host, name: name.clone() };
            let same = |link: &ripstop_types::IfName| *link == *name || shaper_index(link) == shaper_index(name);
            let other = |row: &Arc<PodRow>| row.attachment != *attachment && same(&row.host_link);
            self.tables.pods.values().any(other)
                || self.applied.get(&key).is_some_and(|entry| !matches!(entry.object, Object::Link(_)))
        };
        let mut salt = 0;
        loop {
            let name = pod_link(attachment, salt);
            if !taken(&name) {
                return name;
            }
            salt += 1;
        }
    }
}
