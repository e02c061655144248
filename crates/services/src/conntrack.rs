//! How far settings of connection tracking are raised where Services are served.
//!
//! Every connection to a Service has an entry in the kernel's table, and its translation goes with the entry. Sources: kube-proxy's
//! `conntrack` configuration; Linux, `Documentation/networking/nf_conntrack-sysctl.rst`.
//!
//! Invariants: a value is raised, never lowered: who set a greater one had a reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_objects::ConntrackConfig;

/// The settings, by what follows `nf_conntrack_` in their names, and how great each is to be at least on a machine with so many CPUs; zero leaves it alone.
#[must_use]
pub fn least(config: &ConntrackConfig, cpus: u64) -> [(&'static str, u64); 7] {
    let max = match config.max_per_core {
        0 => 0,
        of_core => u64::from(config.min).max(u64::from(of_core).saturating_mul(cpus)),
    };
    let seconds = |ms: u64| ms.div_ceil(1_000);
    [
        ("max", max),
        // As many entries a bucket as kube-proxy leaves to one.
        ("buckets", max / 4),
        ("tcp_timeout_established", seconds(config.tcp_established_timeout)),
        ("tcp_timeout_close_wait", seconds(config.tcp_close_wait_timeout)),
        ("tcp_be_liberal", u64::from(config.tcp_be_liberal)),
        ("udp_timeout", seconds(config.udp_timeout)),
        ("udp_timeout_stream", seconds(config.udp_stream_timeout)),
    ]
}

/// Those that are to be greater than they are. What this kernel has not got is left out.
#[must_use]
pub fn raised(config: &ConntrackConfig, cpus: u64, present: &BTreeMap<Arc<str>, u64>) -> BTreeMap<&'static str, u64> {
    let least = least(config, cpus).into_iter();
    least.filter(|(name, value)| present.get(*name).is_some_and(|there| there < value)).collect()
}
