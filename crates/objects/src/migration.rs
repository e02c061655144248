//! The move of a network from one backend to another, which the cluster's nodes make together.
//!
//! It stands in the network's record under `status.migration` as long as it lasts: every node reads the same. Documents
//! that people write do not name it; a changed backend begins one ([`Network::succeeding`]).

use std::collections::BTreeSet;

use ripstop_types::NodeName;
use serde::Serialize;

use crate::{BackendKind, Fault, Network};

/// A move of a network from one backend to the one that its specification names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Migration {
    /// The backend before.
    pub from: BackendKind,
    /// No further peer is moved.
    #[serde(skip_serializing_if = "is_false")]
    pub paused: bool,
    /// Nodes that are not waited for.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub skip: BTreeSet<NodeName>,
}

impl Migration {
    /// One that just begins.
    #[must_use]
    pub fn from(from: BackendKind) -> Self {
        Self { from, paused: false, skip: BTreeSet::new() }
    }
}

// serde's signature.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Network {
    /// The backends of which this network's nodes have a receive side: the one that is wanted, then the one that is left.
    pub fn backends(&self) -> impl Iterator<Item = BackendKind> + use<> {
        let kind = self.spec.backend.kind;
        std::iter::once(kind)
            .chain(self.migration.as_ref().map(|migration| migration.from).filter(|from| *from != kind))
    }

    /// What is to be stored where a document says `self` and the store has `there`: a changed backend begins a
    /// migration, the one that is being left takes it back, and the same goes on with it.
    ///
    /// # Errors
    /// A third backend in the middle of a migration, or one port for two tunnels: one fault.
    pub fn succeeding(mut self, there: &Self) -> Result<Self, Fault> {
        let (was, is) = (there.spec.backend.kind, self.spec.backend.kind);
        self.migration = match &there.migration {
            None => (was != is).then(|| Migration::from(was)),
            Some(migration) if is == was => Some(migration.clone()),
            Some(migration) if is == migration.from => Some(Migration::from(was)),
            Some(migration) => {
                let found = format!(
                    "found {}, but the network is on its way from {} to {}",
                    is.as_str(),
                    migration.from.as_str(),
                    was.as_str()
                );
                let accepted = format!(
                    "{} or {} until that migration has ended; `ripstop migrate backend --status` shows it",
                    was.as_str(),
                    migration.from.as_str()
                );
                return Err(Fault::new(self.owner().as_str(), "spec.backend.type", found, accepted));
            }
        };
        if self.migration.is_some() {
            // A backend says nothing of the tunnel that is being left.
            let (own, theirs) = (&mut self.spec.backend, &there.spec.backend);
            if !is.may_vxlan() {
                (own.vni, own.port) = (theirs.vni, theirs.port);
            }
            if is != BackendKind::Udp {
                own.udp_port = theirs.udp_port;
            }
            self.check_ports()?;
        }
        Ok(self)
    }

    /// While a network goes from one tunnel to the other, both are there, each on its port.
    fn check_ports(&self) -> Result<(), Fault> {
        let backend = &self.spec.backend;
        let both = self.backends().any(BackendKind::may_vxlan) && self.backends().any(|kind| kind == BackendKind::Udp);
        if !both || backend.port != backend.udp_port {
            return Ok(());
        }
        let found = format!("found {} for vxlan and for udp, between which the network goes", backend.port);
        Err(Fault::new(self.owner().as_str(), "spec.backend.udpPort", found, "two ports"))
    }
}
