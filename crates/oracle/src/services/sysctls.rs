//! Which parameters of connection tracking a proxy sets.
//!
//! Source: kube-proxy's `conntrack` configuration. A value is raised, never lowered: who set a greater one had a reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Settings of connection tracking; zero leaves a parameter alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Conntrack {
    /// Entries for each core.
    pub max_per_core: u64,
    /// Entries at least, unless `max_per_core` is zero.
    pub min: u64,
    /// Seconds that an idle established connection is kept.
    pub tcp_established_timeout: u64,
    /// Seconds that a half-closed connection is kept.
    pub tcp_close_wait_timeout: u64,
    /// Whether packets outside of the window are no INVALID ones.
    pub tcp_be_liberal: bool,
    /// Seconds that a flow of UDP with packets in one direction is kept.
    pub udp_timeout: u64,
    /// Seconds that a flow of UDP with packets in both is kept.
    pub udp_stream_timeout: u64,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established_timeout: 86_400,
            tcp_close_wait_timeout: 3_600,
            tcp_be_liberal: false,
            udp_timeout: 0,
            udp_stream_timeout: 0,
        }
    }
}

/// What is written, by the parameter's name; `hashsize` is that of the module. `present` has the values before.
#[must_use]
pub fn writes(settings: &Conntrack, cores: u64, present: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let max = if settings.max_per_core == 0 { 0 } else { settings.min.max(settings.max_per_core * cores) };
    let wanted = [
        ("nf_conntrack_max", max),
        ("hashsize", max / 4),
        ("nf_conntrack_tcp_timeout_established", settings.tcp_established_timeout),
        ("nf_conntrack_tcp_timeout_close_wait", settings.tcp_close_wait_timeout),
        ("nf_conntrack_tcp_be_liberal", u64::from(settings.tcp_be_liberal)),
        ("nf_conntrack_udp_timeout", settings.udp_timeout),
        ("nf_conntrack_udp_timeout_stream", settings.udp_stream_timeout),
    ];
    let raised = wanted.into_iter().filter(|(name, value)| present.get(*name).copied().unwrap_or_default() < *value);
    raised.map(|(name, value)| (name.to_owned(), value)).collect()
}
