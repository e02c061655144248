//! What people wrote of BGP, in rows. How sessions are the speaker knows, whose rows are put beside these.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_objects::bgp::{BgpConfiguration, BgpFilter, BgpPeer, CONFIGURATION, PeerAs, PeerNodes, PeerPlace};
use ripstop_objects::policy::Selector;
use ripstop_policy::explain::selector_text;
use serde::Serialize;

use super::Core;
use super::bgp::is_of;

/// A BgpPeer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerView {
    /// Its name.
    pub name: String,
    /// Whose peer it is: a node's, or that of nodes with labels.
    pub nodes: String,
    /// Its address, range or link, as sessions name it.
    pub peer: String,
    /// Of which AS.
    #[serde(rename = "as")]
    pub asn: String,
    /// Its filters.
    pub filters: Vec<String>,
    /// It is a peer of this node.
    pub here: bool,
    /// What is wrong, or that there is to be no session.
    pub reason: Option<String>,
}

/// A BgpConfiguration.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigurationView {
    /// Its name.
    pub name: String,
    /// The AS of nodes.
    #[serde(rename = "as")]
    pub asn: u32,
    /// Each node speaks with each other one.
    pub mesh: bool,
    /// Labels of nodes that are reflectors.
    pub reflectors: Option<String>,
    /// The port of nodes.
    pub port: u16,
    /// Why it means nothing.
    pub reason: Option<String>,
}

/// A BgpFilter.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterView {
    /// Its name.
    pub name: String,
    /// Rules of what is taken.
    pub import: usize,
    /// Rules of what is told.
    pub export: usize,
    /// BgpPeers that name it.
    pub peers: Vec<String>,
    /// Why it means nothing.
    pub reason: Option<String>,
}

impl Core {
    /// BgpPeers of the cluster.
    #[must_use]
    pub fn bgp_peers(&self) -> Vec<BgpPeerView> {
        let filters = &self.tables.cluster.bgp.filters;
        let row = |peer: &BgpPeer| {
            let missing = peer.filters.iter().find(|name| !filters.contains_key(*name));
            let missing = missing.map(|name| format!("there is no BgpFilter {name}, so nothing is taken or told"));
            let shut = peer.shutdown.as_ref().map(|why| format!("shut down: {why}"));
            BgpPeerView {
                name: peer.name.to_string(),
                nodes: match &peer.nodes {
                    PeerNodes::One(node) => node.to_string(),
                    PeerNodes::Matching(selector) => shown(selector),
                },
                peer: match &peer.place {
                    PeerPlace::At(at, None) => at.ip().to_string(),
                    PeerPlace::At(at, Some(interface)) => format!("{}%{interface}", at.ip()),
                    PeerPlace::OnLink(interface) => interface.to_string(),
                    PeerPlace::Range(range, _) => range.to_string(),
                },
                asn: match peer.as_number {
                    PeerAs::Is(asn) => asn.to_string(),
                    PeerAs::External => "external".into(),
                    PeerAs::Internal => "internal".into(),
                },
                filters: peer.filters.iter().map(ToString::to_string).collect(),
                here: is_of(&self.tables, peer),
                reason: shut.or(missing),
            }
        };
        self.tables.cluster.bgp.peers.values().map(|peer| row(&peer.value)).collect()
    }

    /// BgpConfigurations.
    #[must_use]
    pub fn bgp_configurations(&self) -> Vec<BgpConfigurationView> {
        let row = |one: &BgpConfiguration| {
            let others = || format!("only the one called {CONFIGURATION} is looked at");
            BgpConfigurationView {
                name: one.name.to_string(),
                asn: one.as_number,
                mesh: one.mesh && one.reflectors.is_none(),
                reflectors: one.reflectors.as_ref().map(|reflectors| shown(&reflectors.nodes)),
                port: one.listen_port,
                reason: (&*one.name != CONFIGURATION).then(others),
            }
        };
        self.tables.cluster.bgp.configurations.values().map(|one| row(&one.value)).collect()
    }

    /// BgpFilters.
    #[must_use]
    pub fn bgp_filters(&self) -> Vec<BgpFilterView> {
        let peers = &self.tables.cluster.bgp.peers;
        let row = |filter: &BgpFilter| {
            let users: BTreeSet<&Arc<str>> = peers
                .values()
                .filter(|peer| peer.value.filters.contains(&filter.name))
                .map(|peer| &peer.value.name)
                .collect();
            BgpFilterView {
                name: filter.name.to_string(),
                import: filter.import.len(),
                export: filter.export.len(),
                reason: users.is_empty().then(|| "no BgpPeer names it".to_owned()),
                peers: users.into_iter().map(ToString::to_string).collect(),
            }
        };
        self.tables.cluster.bgp.filters.values().map(|filter| row(&filter.value)).collect()
    }
}

/// A selector in words.
fn shown(selector: &Selector) -> String {
    if selector.requirements().is_empty() { "all".into() } else { selector_text(selector) }
}
