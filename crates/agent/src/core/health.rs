//! What health checks of Services and of their proxy are answered, and since when a change of Services waits.
//!
//! The lane beside the core is told what there is to answer; that it cannot listen somewhere is an input.
//!
//! Not here: what is right ([`ripstop_services::health`]), and HTTP.
//!
//! Invariants: a change costs as much as it touches; Services are looked at one and all only where the node's side of them changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ripstop_services::Node;
use ripstop_services::health::{self, Check, Plan, SYNC_PERIOD_MS};
use ripstop_services::relay::{Relays, relays};
use ripstop_tables::{Change, Withdrawn};
use ripstop_types::{Millis, ServiceName};

use super::{Core, Level, Output};

/// What the core remembers of health checks.
#[derive(Debug, Default)]
pub(super) struct Health {
    told: Arc<Plan>,
    /// Services that have a port for it.
    checks: BTreeMap<ServiceName, (u16, Check)>,
    /// Those with node ports at `::1`.
    relays: BTreeMap<ServiceName, Relays>,
    /// What that was decided by.
    node: Option<Node>,
    /// Services that changed since.
    touched: BTreeSet<ServiceName>,
    /// Since when everything is held back.
    held_since: Option<Millis>,
    /// Where nobody can be heard.
    unheard: BTreeMap<SocketAddr, String>,
}

impl Core {
    /// The lane says where it cannot listen.
    pub(super) fn take_unheard(&mut self, faults: BTreeMap<SocketAddr, String>) {
        let before = std::mem::replace(&mut self.health.unheard, faults);
        let unheard = &self.health.unheard;
        let news =
            unheard.iter().filter(|(at, _)| !before.contains_key(at)).map(|fault| (Level::Warn, sentence(fault)));
        let over = before.keys().filter(|at| !unheard.contains_key(at));
        let over = over.map(|at| (Level::Info, format!("{at} is listened at, or not wanted any more")));
        let lines: Vec<(Level, String)> = news.chain(over).collect();
        lines.into_iter().for_each(|(level, text)| self.log(level, text));
    }

    /// What deserves a look, in sentences.
    pub(super) fn health_warnings(&self) -> impl Iterator<Item = String> {
        self.health.unheard.iter().map(sentence)
    }

    /// Something changed of what health checks are answered by.
    pub(super) fn note_for_health(&mut self, changes: &BTreeSet<Change>) {
        self.health.touched.extend(changes.iter().filter_map(|change| match change {
            Change::Service(name) => Some(name.clone()),
            _ => None,
        }));
    }

    /// Tells the lane what is news to it. The model must be up to date.
    pub(super) fn refresh_health(&mut self) {
        let held = self.held.then_some(self.health.held_since.unwrap_or(self.at.now));
        self.health.held_since = held;
        let (serves, mode) = (self.serves_health(), self.tables.proxy().as_str());
        let is_live = health::is_live(self.services_wait_for(), SYNC_PERIOD_MS);
        let is_leaving = self.tables.cluster.node.as_ref().is_some_and(|node| node.leaving);
        let differ = self.refresh_checks();
        let told = &self.health.told;
        if !differ && (serves, mode, is_live, is_leaving) == (told.serves, told.mode, told.is_live, told.is_leaving) {
            return;
        }
        let addresses = self.health.node.as_ref().map(|node| node.node_port_addresses.iter().copied().collect());
        let addresses = addresses.unwrap_or_default();
        let mut plan = Plan { serves, mode, addresses, is_live, is_leaving, ..Plan::default() };
        plan.set_checks(self.health.checks.values());
        plan.relays = self.health.relays.values().flatten().map(|(port, to)| (*port, *to)).collect();
        self.health.told = Arc::new(plan);
        self.outputs.push(Output::Health(self.health.told.clone()));
    }

    fn serves_health(&self) -> bool {
        self.tables.serves() && self.tables.withdrawn != Withdrawn::Everything
    }

    /// Brings the ports of Services up to date; whether one may differ.
    fn refresh_checks(&mut self) -> bool {
        let node = self.desired.serving().filter(|_| self.serves_health());
        let tables = &self.tables.cluster.services;
        let health = &mut self.health;
        let is_new = node != health.node.as_ref();
        if is_new {
            health.node = node.cloned();
            health.checks.clear();
            health.relays.clear();
            health.touched = tables.services().map(|service| service.name.clone()).collect();
        }
        let mut differs = is_new;
        for name in std::mem::take(&mut health.touched) {
            let check = health.node.as_ref().and_then(|node| health::check(node, tables, &name));
            let relays =
                health.node.as_ref().map(|node| relays(node, tables, &name)).filter(|relays| !relays.is_empty());
            differs |= put(&mut health.checks, &name, check) | put(&mut health.relays, &name, relays);
        }
        differs
    }

    /// For how many milliseconds the change of Services has waited that has waited longest to come into the kernel. What is wanted is
    /// sent there at once, so that nothing waits but for a plan that runs or a try that failed.
    fn services_wait_for(&self) -> Option<u64> {
        let running = self.running.values().filter(|running| running.is_of_services).map(|running| running.since);
        let failed = self.failed.iter().filter(|(key, _)| key.is_of_services()).map(|(_, failure)| failure.since);
        let held = self.health.held_since.filter(|_| self.desired.serving().is_some());
        running.chain(failed).chain(held).min().map(|since| self.at.now.since(since))
    }
}

/// Whether that changed something.
fn put<T: PartialEq>(rows: &mut BTreeMap<ServiceName, T>, name: &ServiceName, row: Option<T>) -> bool {
    let differs = rows.get(name) != row.as_ref();
    match row {
        Some(row) => drop(rows.insert(name.clone(), row)),
        None => drop(rows.remove(name)),
    }
    differs
}

fn sentence((at, why): (&SocketAddr, &String)) -> String {
    format!("nobody can be heard at {at}, where health checks or node ports are served: {why}; it is tried again")
}
