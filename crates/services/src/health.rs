//! What health checks of this node are answered.
//!
//! A Service of type LoadBalancer whose external policy is Local has a port of its own (`spec.healthCheckNodePort`), where load balancers
//! ask whether this node has endpoints of it; `/healthz` and `/livez` say how the proxy itself is (KEP-3836).
//!
//! Not here: sockets, HTTP, and since when something waits.
//!
//! Invariants: a port is one Service's, of several that ask for it the first one's by name; an address counts once, in however many slices
//! and with however many ports it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_objects::service::{ServiceKind, TrafficPolicy};
use ripstop_tables::ServiceTables;
use ripstop_types::{Family, ServiceName};

use crate::relay::Relays;
use crate::{Node, is_served};

/// Within so many milliseconds all rules are looked at by proxies that do that (kube-proxy's `syncPeriod`); a change that has waited for
/// twice as long is not on its way any more.
pub const SYNC_PERIOD_MS: u64 = 30_000;

/// What is answered at the port of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The Service.
    pub service: ServiceName,
    /// How many of its endpoints on this node are ready, of families in which there are any.
    pub local: BTreeMap<Family, usize>,
}

/// The health checks that a node answers, and what else it has sockets for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether Services are served here, so that `/healthz` and `/livez` are answered.
    pub serves: bool,
    /// By what, in a word.
    pub mode: &'static str,
    /// Where Services' ports are answered: the addresses that have node ports.
    pub addresses: BTreeSet<IpAddr>,
    /// What is answered there.
    pub checks: BTreeMap<u16, Check>,
    /// Node ports at `::1`.
    pub relays: Relays,
    /// Whether every change of Services comes into the kernel.
    pub is_live: bool,
    /// Whether this node is about to go.
    pub is_leaving: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question<'a> {
    /// Somebody who wants to know how the proxy is, by this path.
    Proxy(&'a str),
    /// A load balancer, at a Service's port and an address of this family.
    Service(u16, Family),
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The status of HTTP.
    pub status: u16,
    /// The Service that was asked for, and how many of its endpoints are here.
    pub local: Option<(&'a ServiceName, usize)>,
}

impl Plan {
    /// The answer; `None` where there is none at this port or path.
    #[must_use]
    pub fn answer(&self, question: Question<'_>) -> Option<Answer<'_>> {
        let (good, local) = match question {
            Question::Proxy("/livez") => (self.is_live, None),
            Question::Proxy("/healthz") => (self.is_live && !self.is_leaving, None),
            Question::Proxy(_) => return None,
            Question::Service(port, family) => {
                let check = self.checks.get(&port)?;
                let local = check.local.get(&family).copied().unwrap_or_default();
                // That the node leaves is said at /healthz alone: here established connections would suffer.
                (self.is_live && local > 0, Some((&check.service, local)))
            }
        };
        Some(Answer { status: if good { 200 } else { 503 }, local })
    }

    /// Gives ports to the Services that ask for them.
    pub fn set_checks<'a>(&mut self, wanted: impl Iterator<Item = &'a (u16, Check)>) {
        self.checks.clear();
        for (port, check) in wanted {
            let there = self.checks.entry(*port).or_insert_with(|| check.clone());
            if check.service < there.service {
                there.clone_from(check);
            }
        }
    }
}

/// The port of a Service and what is answered there; `None` where it has none that this proxy answers.
#[must_use]
pub fn check(node: &Node, tables: &ServiceTables, name: &ServiceName) -> Option<(u16, Check)> {
    let service = tables.service(name).filter(|service| is_served(node, service))?;
    let has_one = service.kind == ServiceKind::LoadBalancer && service.external_policy == TrafficPolicy::Local;
    let port = service.health_check_node_port.filter(|_| has_one)?;
    let mut here: BTreeSet<IpAddr> = BTreeSet::new();
    for slice in tables.slices_of(name) {
        let own = slice.endpoints.iter().filter(|at| at.ready && at.node.as_ref() == Some(&node.name));
        here.extend(own.map(|at| at.ip).filter(|ip| slice.family == Some(Family::of(*ip))));
    }
    let mut local = BTreeMap::new();
    for ip in here {
        *local.entry(Family::of(ip)).or_default() += 1;
    }
    Some((port, Check { service: name.clone(), local }))
}

/// Whether a proxy lives whose oldest change has waited for so many milliseconds, by a sync period in milliseconds.
#[must_use]
pub fn is_live(pending_for: Option<u64>, sync_period: u64) -> bool {
    pending_for.is_none_or(|waited| waited < sync_period.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, local: usize) -> (u16, Check) {
        (31_000, Check { service: name.parse().unwrap(), local: BTreeMap::from([(Family::V4, local)]) })
    }

    #[test]
    fn of_two_that_ask_for_a_port_the_first_by_name_has_it() {
        let mut plan = Plan { is_live: true, ..Plan::default() };
        plan.set_checks([asked("b", 1), asked("a", 0)].iter());
        let answer = plan.answer(Question::Service(31_000, Family::V4)).unwrap();
        assert_eq!((answer.status, answer.local), (503, Some((&"a".parse().unwrap(), 0))));
        assert_eq!(plan.answer(Question::Service(31_001, Family::V4)), None);
        assert_eq!(plan.answer(Question::Proxy("/metrics")), None);
    }

    #[test]
    fn a_change_may_wait_for_less_than_two_periods() {
        assert!(is_live(None, SYNC_PERIOD_MS) && is_live(Some(59_999), SYNC_PERIOD_MS));
        assert!(!is_live(Some(60_000), SYNC_PERIOD_MS) && is_live(Some(u64::MAX - 1), u64::MAX));
    }
}
