//! The kernel as it was read: what is there, what others drop, what went behind the agent's back, and which pods lost their interface.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_fabric::{forwarder, ipip, paths};
use ripstop_netmodel::{
    Entry, HostFacts, Key, Kind, LinkKind, Model, Ns, Object, Record, RecordGuard, RecordScope, Resource,
};
use ripstop_tables::{Change, PodRow, PodState};
use ripstop_types::IfName;

use super::{Core, Level, pods};

impl Core {
    /// What the host is given has been read.
    pub(super) fn take_facts(&mut self, facts: HostFacts) -> BTreeSet<Change> {
        let changes = self.tables.apply_facts(facts);
        self.tell_foreign_drops();
        if !changes.is_empty() {
            // A cable that is plugged in again, for one.
            self.retry_at_once();
        }
        changes
    }

    /// The kernel as it stands, for whole kinds.
    pub(super) fn take_observed(&mut self, kinds: &BTreeSet<Kind>, entries: Vec<Entry>) -> BTreeSet<Change> {
        let found: Model = entries.into_iter().collect();
        let gone: Vec<Key> = self
            .applied
            .keys()
            .filter(|key| kinds.contains(&key.kind()) && key.ns() == Some(&Ns::Host) && found.get(key).is_none())
            .cloned()
            .collect();
        for key in gone {
            self.forget_forwarder(&key);
            self.applied.remove(&key);
            self.dirty.insert(key);
        }
        for (key, entry) in found.iter() {
            // What was written says more than what can be read: the other end of a pair, for one.
            if !self.applied.get(key).is_some_and(|there| there.object.satisfied_by(&entry.object)) {
                self.dirty.insert(key.clone());
                if key.kind() == Kind::NftValues {
                    // Which others may come yet, nobody knows before it was written.
                    self.applied.remove(key);
                } else {
                    self.applied.insert_entry(entry.clone());
                }
            }
        }
        if kinds.contains(&Kind::Forwarder) {
            // One that comes is told at once what it does not know.
            self.failed.retain(|key, _| !matches!(key.kind(), Kind::Forwarder | Kind::ForwarderPeer));
        }
        if !kinds.contains(&Kind::Link) {
            return BTreeSet::new();
        }
        self.reconsider_wanted();
        self.note_lost_pods()
    }

    /// Which links of ours that the node's record speaks of are there. Whether that changed.
    pub(super) fn refresh_realised(&mut self) -> bool {
        let shared = |entry: &Entry| match &entry.object {
            Object::Link(link) if link.ns == Ns::Host => match link.kind {
                LinkKind::Bridge | LinkKind::Vxlan { .. } | LinkKind::Ipip { .. } => Some(link.name.clone()),
                LinkKind::Ifb { .. } if self.has_programs(&link.name) => Some(link.name.clone()),
                _ => None,
            },
            _ => None,
        };
        let mut realised = BTreeSet::new();
        for row in self.tables.networks.values() {
            let node_link = ripstop_fabric::wiring::node_link(&row.value.name);
            let tunnels = [paths::vxlan_link(&row.value), ipip::device(&row.value)];
            for name in tunnels.into_iter().flatten().chain([node_link]) {
                let key = Key::Link { ns: Ns::Host, name };
                realised.extend(self.applied.get(&key).and_then(|entry| shared(entry)));
            }
            realised.extend(forwarder::device(&row.value).filter(|device| self.forwards_by(device)));
        }
        if realised == self.tables.realised {
            return false;
        }
        self.tables.realised = realised;
        true
    }

    /// Whether programs that carry IPIP are at a link.
    fn has_programs(&self, link: &IfName) -> bool {
        let key = Key::IpipProgram { link: link.clone() };
        match (self.applied.get(&key), self.desired.model().get(&key)) {
            (Some(is), Some(wanted)) => wanted.object.satisfied_by(&is.object),
            _ => false,
        }
    }

    /// With its device a forwarder loses what it goes by, whatever it says of it.
    fn forget_forwarder(&mut self, link: &Key) {
        let Key::Link { ns: Ns::Host, name } = link else { return };
        let of_it = |key: &Key| match key {
            Key::Forwarder { link } | Key::ForwarderPeer { link, .. } => link == name,
            _ => false,
        };
        let first = Key::Forwarder { link: name.clone() };
        let forwarder = |key: &Key| matches!(key.kind(), Kind::Forwarder | Kind::ForwarderPeer);
        let keys = self.applied.range(first).map(|(key, _)| key.clone()).take_while(forwarder);
        for key in keys.filter(of_it).collect::<Vec<_>>() {
            self.applied.remove(&key);
            self.dirty.insert(key);
        }
    }

    /// Whether the forwarder is set up. One that has just died comes back with what it had.
    fn forwards_by(&self, device: &IfName) -> bool {
        let key = Key::Forwarder { link: device.clone() };
        let is_set = match (self.applied.get(&key), self.desired.model().get(&key)) {
            (Some(is), Some(wanted)) => wanted.object.satisfied_by(&is.object),
            _ => false,
        };
        self.tables.facts.forwarder && (is_set || self.tables.realised.contains(device))
    }

    /// Puts what pods have beside the host's ends into `applied`: their files were read, so they are there; and those that
    /// could not be read, which are no row's file.
    pub(super) fn note_pod_files(&mut self, lost: &[Arc<str>], inside: &Model) {
        let rows: Vec<Arc<PodRow>> = self.tables.pods.values().cloned().collect();
        for row in rows {
            for entry in pods::remembered(&self.tables, &row, &self.applied, inside) {
                self.applied.insert_entry(Arc::new(entry));
            }
        }
        for key in lost {
            let scope = RecordScope::Boot(ripstop_desired::LEASES.into());
            let file = Record { scope, key: key.clone(), value: "".into(), guard: RecordGuard::Any };
            self.applied.insert(file, None);
        }
    }

    /// Pods whose interface went without a DEL.
    fn note_lost_pods(&mut self) -> BTreeSet<Change> {
        let lost: Vec<Arc<PodRow>> = self
            .tables
            .pods
            .values()
            .filter(|row| row.state == PodState::Ready && self.applied.get(&row.host_key()).is_none())
            .filter(|row| !self.busy.contains(&row.host_key()))
            .cloned()
            .collect();
        let mut changes = BTreeSet::new();
        for row in lost {
            let gone = PodRow { state: PodState::Gone, ..(*row).clone() };
            self.forget_namespace(&row);
            self.log(Level::Debug, format!("{}'s interface {} is gone without a DEL", row.owner(), row.host_link));
            changes.insert(Change::Pod(row.attachment.clone()));
            self.tables.pods.insert(row.attachment.clone(), Arc::new(gone));
        }
        changes
    }

    /// What was known of a pod's namespace went with its interface.
    fn forget_namespace(&mut self, row: &PodRow) {
        let keys: Vec<Key> = ripstop_desired::inspect_keys(&self.tables, row)
            .into_iter()
            .filter(|key| matches!(key.ns(), Some(Ns::Path(_))))
            .collect();
        for key in keys {
            self.applied.remove(&key);
        }
    }
}

/// The kinds of which the kernel shows something that is recognised by what is wanted.
const REFERENCE: [Kind; 3] = [Kind::Sysctl, Kind::NftTable, Kind::LinkSysctl];

/// Whether what the kernel shows under a key is recognised by what is wanted there.
pub(super) fn is_reference(key: &Key) -> bool {
    REFERENCE.contains(&key.kind()) && key.ns() == Some(&Ns::Host)
}

/// What is wanted of what [`is_reference`] speaks of. Of other kinds, of which there may be thousands, nothing is looked at.
pub(crate) fn reference(desired: &Model) -> Model {
    let firsts = REFERENCE.into_iter().filter_map(|kind| Some((kind, Key::first_of(kind)?)));
    // The agent's namespace comes before every pod's.
    let in_host =
        |(kind, first)| desired.range(first).take_while(move |(key, _)| key.kind() == kind && is_reference(key));
    firsts.flat_map(in_host).map(|(_, entry)| (**entry).clone()).collect()
}

/// The kinds of which everything of ours in the host's namespace can be read.
pub(crate) fn host_kinds() -> BTreeSet<Kind> {
    BTreeSet::from([
        Kind::Sysctl,
        Kind::IpvsService,
        Kind::IpvsDestination,
        Kind::NftTable,
        Kind::NftPart,
        Kind::NftElement,
        Kind::NftValues,
        Kind::ForwardJump,
        Kind::Iptables,
        Kind::Link,
        Kind::Address,
        Kind::Neighbour,
        Kind::Fdb,
        Kind::Forwarder,
        Kind::ForwarderPeer,
        Kind::IpipProgram,
        Kind::IpipPeer,
        Kind::Nexthop,
        Kind::NexthopGroup,
        Kind::Route,
        Kind::Qdisc,
        Kind::LinkSysctl,
    ])
}
