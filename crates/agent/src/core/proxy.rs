//! The switch of this node from one proxy of Services to another, while connections go on.
//!
//! Make before break: what is wanted is both proxies, until all of the new one is in the kernel; then the old one without what leads
//! there, until no packet can be on its way through it; then the new one alone. Connections hang on connection tracking and on neither:
//! also those that IPVS has chosen an endpoint for, since it sees no more than their first packet.
//!
//! Not here: what the objects of a proxy are (`ripstop_desired::services`), and how they come and go, which is as ever.
//!
//! Invariants: nothing of the old proxy goes before the switch is written down, so an agent that is killed goes on with it; there is
//! one switch at a time, to which its return belongs.

use std::collections::BTreeSet;

use ripstop_desired::services;
use ripstop_fabric::migration::DRAIN_MS;
use ripstop_netmodel::{Key, Kind};
use ripstop_objects::Proxy;
use ripstop_tables::{Change, Leaving, Stage, Withdrawn};
use ripstop_types::Millis;
use serde::{Deserialize, Serialize};

use super::{Core, Level, Output, status};

/// The number of the snapshot that a switch is written down with. Engines count from one.
const GENERATION: u64 = u64::MAX;

/// By what Services are served on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyView {
    /// What is in force: none, nftables, iptables or ipvs.
    pub proxy: String,
    /// What the configuration says.
    pub configured: String,
    /// What serves beside it until all of it is in the kernel, or goes; `none`: nothing of ours.
    pub leaving: Option<String>,
    /// Why what is in force is not what the configuration says, and what a switch waits for.
    pub reason: Option<String>,
}

impl Core {
    /// An operator has Services served by another proxy.
    pub(super) fn switch_proxy(&mut self, call: u64, proxy: Proxy) -> BTreeSet<Change> {
        let (now, leaving) = (self.tables.proxy(), self.tables.proxies.leaving);
        let result = match leaving {
            _ if self.held => Err(status::HELD.to_owned()),
            _ if self.tables.withdrawn == Withdrawn::Everything => Err(status::WITHDRAWN.to_owned()),
            // Of none nothing has to go.
            Some(leaving) if leaving.proxy != Proxy::None && proxy != now && proxy != leaving.proxy => Err(format!(
                "Services are being switched from {} to {}; wait for that, or return to {0}",
                leaving.proxy.as_str(),
                now.as_str()
            )),
            _ => services::obstacle(&self.tables, proxy)
                .map_or(Ok(()), |obstacle| Err(format!("Services cannot be served by {}: {obstacle}", proxy.as_str()))),
        };
        let is_accepted = result.is_ok();
        self.outputs.push(Output::Answer { call, result });
        let chosen = (proxy != self.tables.config.services.proxy).then_some(proxy);
        if !is_accepted || proxy == now {
            return BTreeSet::new();
        }
        self.log(Level::Info, format!("Services are switched from {} to {}", now.as_str(), proxy.as_str()));
        self.tables.proxies.chosen = chosen;
        self.tables.proxies.leaving = Some(Leaving::begun(now));
        self.unsaved_switches += 1;
        self.outputs.push(Output::Save { generation: GENERATION });
        BTreeSet::from([Change::Proxy])
    }

    /// A snapshot was written; whether it was for a switch.
    pub(super) fn note_switch_saved(&mut self, generation: u64) -> bool {
        let is_it = generation == GENERATION;
        if is_it {
            self.unsaved_switches = self.unsaved_switches.saturating_sub(1);
        }
        is_it
    }

    /// Brings a switch further that has reached the end of a stage.
    pub(super) fn advance_switch(&mut self) -> BTreeSet<Change> {
        let Some(leaving) = self.tables.proxies.leaving else { return BTreeSet::new() };
        match leaving.stage {
            Stage::Serving if self.unsaved_switches > 0 || self.coming().is_some() => return BTreeSet::new(),
            Stage::Serving if leaving.proxy != Proxy::None => {
                let now = self.tables.proxy().as_str();
                self.log(Level::Info, format!("{now} serves Services, and {} goes", leaving.proxy.as_str()));
                self.tables.proxies.leaving = Some(Leaving { stage: Stage::Closing, ..leaving });
            }
            Stage::Closing => {
                if self.left_to_do(leaving.proxy).is_none() {
                    let until = self.at.now.plus(DRAIN_MS);
                    self.tables.proxies.leaving = Some(Leaving { stage: Stage::Closed(until), ..leaving });
                }
                return BTreeSet::new();
            }
            Stage::Closed(until) if self.at.now < until => return BTreeSet::new(),
            Stage::Serving | Stage::Closed(_) => {
                if leaving.proxy == Proxy::Iptables {
                    self.let_flows_go();
                }
                self.tables.proxies.leaving = None;
                self.snapshot_due = true;
            }
        }
        BTreeSet::from([Change::Proxy])
    }

    /// Connections are no longer held to endpoints by objects of iptables' compiler. Removed as others are, they would have them forgotten.
    fn let_flows_go(&mut self) {
        let flows: Vec<Key> = self.applied.keys().filter(|key| key.kind() == Kind::FrontendFlows).cloned().collect();
        for key in &flows {
            self.applied.remove(key);
        }
    }

    /// When the next stage is reached, if nothing happens until then.
    pub(super) fn switch_due(&self) -> Option<Millis> {
        match self.tables.proxies.leaving?.stage {
            Stage::Closed(until) => Some(until),
            Stage::Serving | Stage::Closing => None,
        }
    }

    /// What was left half-way goes on; what has nothing in the kernel needs not be waited for. Where nothing of the proxy in force is
    /// there, as on a node that has just been started, it begins as after none: until Services are read and in the kernel nobody
    /// knows which addresses no Service has.
    pub(super) fn resume_switch(&mut self) {
        let is_there = |proxy| self.applied.keys().any(|key| services::is_of(proxy, key));
        let leaving = self.tables.proxies.leaving;
        let leaving = leaving.filter(|leaving| leaving.proxy == Proxy::None || is_there(leaving.proxy));
        let now = self.tables.proxy();
        let is_new = now != Proxy::None && !is_there(now);
        self.tables.proxies.leaving = leaving.or_else(|| is_new.then(|| Leaving::begun(Proxy::None)));
        self.snapshot_due |= is_new;
    }

    /// What the proxy in force waits for; `None`: all of it is in the kernel.
    fn coming(&self) -> Option<String> {
        let proxy = self.tables.proxy();
        if proxy == Proxy::None {
            return None;
        }
        if let Some(missing) = services::missing(&self.tables) {
            return Some(missing.into());
        }
        if self.desired.serving().is_none() {
            return Some("Services have not been read yet".into());
        }
        self.left_to_do(proxy)
    }

    /// What is not yet as it is wanted of a proxy.
    fn left_to_do(&self, proxy: Proxy) -> Option<String> {
        let is_of = |key: &&Key| services::is_of(proxy, key);
        if let Some((key, failure)) = self.failed.iter().find(|(key, _)| is_of(key)) {
            return Some(format!("{key} failed: {}", failure.why));
        }
        let mut refused = self.refused.iter().filter(|(key, _)| is_of(key) && self.desired.model().get(key).is_some());
        if let Some((key, why)) = refused.next() {
            return Some(format!("{key} is refused: {why}"));
        }
        let runs = self.running.values().any(|running| running.is_of_services);
        let is_under_way = !self.desired.is_whole() || runs || self.dirty.iter().any(|key| services::is_of(proxy, key));
        is_under_way.then(|| "its objects are being written".into())
    }

    /// By what Services are served.
    #[must_use]
    pub fn proxy_view(&self) -> ProxyView {
        let (proxy, configured) = (self.tables.proxy().as_str(), self.tables.config.services.proxy.as_str());
        let chosen = self.tables.proxies.chosen.map(|_| {
            format!("`ripstop migrate proxy {proxy}` was said; `ripstop migrate proxy {configured}` returns to the configuration")
        });
        let leaving = self.tables.proxies.leaving;
        let switch = leaving.map(|leaving| match (leaving.stage, leaving.proxy) {
            (Stage::Serving, Proxy::None) => format!("it is being set up: {}", self.waits()),
            (Stage::Serving, proxy) => {
                format!("{} serves until all of it is in the kernel: {}", proxy.as_str(), self.waits())
            }
            (Stage::Closing, proxy) => match self.left_to_do(proxy) {
                Some(left) => format!("{} is kept from taking connections: {left}", proxy.as_str()),
                None => format!("{} takes no connection any more", proxy.as_str()),
            },
            (Stage::Closed(_), proxy) => format!("packets may be on their way through {}", proxy.as_str()),
        });
        ProxyView {
            proxy: proxy.into(),
            configured: configured.into(),
            leaving: leaving.map(|leaving| leaving.proxy.as_str().into()),
            reason: switch.or(chosen),
        }
    }

    fn waits(&self) -> String {
        self.coming().unwrap_or_else(|| "that is being written down".into())
    }
}
