//! By what this node serves Services: as its configuration says, or as an operator switched to since.
//!
//! While a node is switched both stand beside each other: the old one serves until all of the new one is in the kernel.

use ripstop_objects::Proxy;
use ripstop_types::Millis;
use serde::{Deserialize, Serialize};

use crate::Tables;

/// What outlives the process of how Services are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxies {
    /// What was switched to; none: the configuration's is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Proxy>,
    /// What served before and has not left yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// What was in force when this was kept; none: it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Proxy>,
}

/// A proxy that another takes over from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaving {
    /// Which. None of ours: nothing has to go, and others may serve until ours is there whole.
    pub proxy: Proxy,
    /// How far it is.
    #[serde(skip)]
    pub stage: Stage,
}

/// How far a proxy is that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// It serves as ever.
    #[default]
    Serving,
    /// It is kept from taking new connections.
    Closing,
    /// It takes none any more. Until then a packet may be on its way through it.
    Closed(Millis),
}

impl Leaving {
    /// One that has just begun to leave.
    #[must_use]
    pub fn begun(proxy: Proxy) -> Self {
        Self { proxy, stage: Stage::Serving }
    }
}

impl Proxies {
    /// What an agent that starts makes of what was kept: a configuration that is new is switched to as an operator's word is.
    pub(crate) fn begun(kept: Self, configured: Proxy) -> Self {
        let mut proxies = kept;
        proxies.chosen = proxies.chosen.filter(|chosen| *chosen != configured);
        let now = proxies.chosen.unwrap_or(configured);
        if let Some(last) = proxies.last.filter(|last| *last != now) {
            proxies.leaving = Some(Leaving::begun(last));
        }
        proxies.leaving = proxies.leaving.filter(|leaving| leaving.proxy != now);
        proxies.last = None;
        proxies
    }
}

impl Tables {
    /// What serves Services, or is about to.
    pub fn proxy(&self) -> Proxy {
        self.proxies.chosen.unwrap_or(self.config.services.proxy)
    }

    /// Whether what serves them is not there whole yet, so that what it does not know is nobody's business.
    pub fn is_proxy_coming(&self) -> bool {
        self.proxies.leaving.is_some_and(|leaving| leaving.stage == Stage::Serving)
    }

    /// Whether this node serves Services, be it by what leaves.
    pub fn serves(&self) -> bool {
        let leaves = self.proxies.leaving.is_some_and(|leaving| leaving.proxy != Proxy::None);
        self.proxy() != Proxy::None || leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(proxy: Proxy) -> Option<Leaving> {
        Some(Leaving::begun(proxy))
    }

    #[test]
    fn a_start_goes_on_with_what_it_left() {
        let kept =
            Proxies { chosen: Some(Proxy::Iptables), leaving: leaving(Proxy::Nftables), last: Some(Proxy::Iptables) };
        let begun = Proxies::begun(kept.clone(), Proxy::Nftables);
        assert_eq!(begun, Proxies { last: None, ..kept });
    }

    #[test]
    fn a_new_configuration_is_switched_to() {
        let kept = Proxies { last: Some(Proxy::Nftables), ..Proxies::default() };
        assert_eq!(Proxies::begun(kept.clone(), Proxy::Iptables).leaving, leaving(Proxy::Nftables));
        assert_eq!(Proxies::begun(kept, Proxy::Nftables), Proxies::default());
        // Also one that returns to what has not left yet.
        let kept = Proxies { leaving: leaving(Proxy::Nftables), last: Some(Proxy::Iptables), ..Proxies::default() };
        assert_eq!(Proxies::begun(kept, Proxy::Nftables).leaving, leaving(Proxy::Iptables));
        // What was switched to stays in force, and is no switch any more where the configuration follows.
        let kept = Proxies { chosen: Some(Proxy::Ipvs), last: Some(Proxy::Ipvs), ..Proxies::default() };
        assert_eq!(Proxies::begun(kept.clone(), Proxy::Iptables).chosen, Some(Proxy::Ipvs));
        assert_eq!(Proxies::begun(kept, Proxy::Ipvs), Proxies::default());
    }
}
