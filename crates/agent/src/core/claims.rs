//! What `ripstop ipam` shows of the cluster's claims, and what is wrong with addresses.

use ripstop_ipam::ranges::{Life, RangeFault, Slot};
use ripstop_objects::{ClaimState, FLANNEL_MACHINE};
use ripstop_tables::{PodState, StoreKind};
use ripstop_types::{NodeName, Prefix};
use serde::Serialize;

use super::Core;
use super::view::LeaseView;

/// A claim as the store has it.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct ClaimView {
    pub range: Prefix,
    pub network: String,
    pub node: String,
    /// Who holds the range: a node that was installed anew is another machine of the same name.
    pub machine: String,
    /// tentative: nobody uses the range; held: its node does, or may. Of single addresses: offering, offered, borrowed, asked,
    /// refused.
    pub state: &'static str,
    /// For whom a single address was borrowed or is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `null` while it is not known.
    pub alive: Option<bool>,
}

/// Something `ripstop ipam check` found.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Problem {
    pub severity: &'static str,
    pub object: String,
    pub text: String,
}

impl Core {
    /// Every claim, tentative ones too.
    #[must_use]
    pub fn claims(&self) -> Vec<ClaimView> {
        let rows = self.tables.claims.values();
        rows.map(|row| ClaimView {
            range: row.value.range,
            network: row.value.network.to_string(),
            node: row.value.node.to_string(),
            machine: row.value.machine.clone(),
            state: row.value.state.as_str(),
            pod: row.value.holder.clone(),
            alive: self.is_alive(&row.value.node, &row.value.machine),
        })
        .collect()
    }

    /// Who owns which range.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseView> {
        // What is offered or asked for is nobody's yet.
        let owned = |state: ClaimState| state == ClaimState::Tentative || state.is_in_use();
        let rows = self.tables.claims.values().filter(|row| owned(row.value.state));
        rows.map(|row| LeaseView {
            range: row.value.range,
            network: row.value.network.to_string(),
            node: row.value.node.to_string(),
            holder: row.value.machine.clone(),
            alive: self.is_alive(&row.value.node, &row.value.machine),
            state: row.value.state.as_str(),
            pod: row.value.holder.clone(),
        })
        .collect()
    }

    /// Whether the machine that holds a claim shows signs of life. Those of another that has its name now are not its own.
    fn is_alive(&self, node: &NodeName, machine: &str) -> Option<bool> {
        let named = self.tables.nodes.get(node).map(|row| row.value.identity.machine_id.as_str());
        if *node == self.tables.node && *machine == *self.tables.identity.machine_id {
            return Some(true);
        }
        if named.is_some_and(|named| named != machine) {
            return Some(false);
        }
        // Flannel takes the record away when the node is gone.
        if machine == FLANNEL_MACHINE {
            return Some(true);
        }
        match self.liveness.life(node) {
            Life::Fresh(_) => Some(true),
            Life::Stale(_) => Some(false),
            Life::Unknown => None,
        }
    }

    /// Why this node has not the ranges it wants, and which claims in the store cannot be read.
    #[must_use]
    pub fn ipam_faults(&self) -> Vec<String> {
        // That no block is left is no fault where nodes lend.
        let fault = |slot: &Slot| {
            let fault = self.engine.fault(slot)?;
            (slot.pool.is_none() || !matches!(fault, RangeFault::Full { .. })).then(|| fault.to_string())
        };
        let slots = self.wanted_slots.iter().filter_map(fault);
        let records = self.tables.faults.iter().filter(|((kind, _), _)| *kind == StoreKind::Claims);
        slots.chain(records.map(|((_, key), fault)| format!("record claims/{key}: {fault}"))).collect()
    }

    /// What is wrong with addresses on this node, as far as it is known here.
    #[must_use]
    pub fn ipam_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (ip, holders) in self.book.contested() {
            let names: Vec<String> = holders.iter().map(|lease| lease.holder()).collect();
            problems.push(Problem {
                severity: "error",
                object: ip.to_string(),
                text: format!("held by {}", names.join(" and ")),
            });
        }
        for (ip, lease) in self.book.strays() {
            let text = format!("held by {}, but in no range of this node", lease.holder());
            problems.push(Problem { severity: "warning", object: ip.to_string(), text });
        }
        for row in self.tables.pods.values().filter(|row| row.state == PodState::Gone) {
            let text =
                "its interface is gone without a DEL; the address waits for DEL, GC or the second look".to_owned();
            problems.push(Problem { severity: "info", object: row.owner().to_string(), text });
        }
        for key in self.engine.unused() {
            let text = "claimed by this node and not used; `ripstop ipam release` gives it back".to_owned();
            problems.push(Problem { severity: "warning", object: key.to_string(), text });
        }
        for lease in self.leases().into_iter().filter(|lease| lease.alive == Some(false)) {
            let text = format!(
                "machine {} of node {} shows no sign of life; its range stays its own until it is released",
                lease.holder, lease.node
            );
            problems.push(Problem { severity: "info", object: lease.range.to_string(), text });
        }
        for text in self.ipam_faults() {
            problems.push(Problem { severity: "error", object: "ranges".into(), text });
        }
        problems
    }
}
