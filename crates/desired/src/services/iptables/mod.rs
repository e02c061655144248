//! Services by iptables: chains for each Service, and one place for each address and port that leads to them.
//!
//! Table `nat` sends the first packet of a connection on, from `RIPSTOP-SERVICES` at prerouting and output:
//!
//! - `RIPSTOP-FRONTENDS` and, for the node's own addresses, `RIPSTOP-PORTS` have an entry for each frontend. They are written as trees, by
//!   the last bits of the address and by the port: a packet passes some dozen rules, however many Services there are.
//! - `RIPSTOP-SVC-…` and `RIPSTOP-EXT-…`, for a Service's port as it is entered inside and from outside, mark packets that shall leave with
//!   the node's address.
//! - `RIPSTOP-ALL-…` and `RIPSTOP-OWN-…`, for its endpoints everywhere and on this node, draw one. All entries share them, so one endpoint
//!   more or less is one chain, or two.
//!
//! What was not sent on is refused or dropped in table `filter`, by a tree of the same form: only there has iptables both.
//!
//! Whether a packet leaves with the node's address is a bit of its mark ([`MASQUERADE_MARK`]), which
//! the chain that masquerades takes away. The original destination, by which nftables asks when the packet leaves, would need all frontends
//! once more at postrouting: iptables has no sets of its own.
//!
//! Session affinity is a list of clients for each endpoint (`xt_recent`), shared by all addresses of a Service's port. Such a list has room
//! for 100 clients unless the module's parameter `ip_list_tot` says otherwise; of more the oldest are forgotten.
//!
//! - `base`: what is there whatever the Services.
//! - `service`: what a Service adds.

mod base;
mod service;

pub use base::base;
pub use service::objects;

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_netmodel::{IptablesBackend, IptablesKey, IptablesRules, IptablesTable, MASQUERADE_MARK};
use ripstop_nft::model::IfPattern;
use ripstop_types::{Family, Prefix, sha256};

/// Where rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// By which backend.
    pub backend: IptablesBackend,
    /// Whether the kernel has IPv6: without it there is no `ip6tables`.
    pub ipv6: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self { backend: IptablesBackend::Nft, ipv6: false }
    }
}

impl Place {
    fn families(self) -> impl Iterator<Item = Family> {
        Family::BOTH.into_iter().filter(move |family| self.has(*family))
    }

    fn has(self, family: Family) -> bool {
        family == Family::V4 || self.ipv6
    }

    /// A whole chain.
    fn chain(
        self,
        family: Family,
        table: IptablesTable,
        chain: &str,
        rules: impl IntoIterator<Item = String>,
    ) -> IptablesRules {
        let key = IptablesKey { backend: self.backend, family, table, chain: chain.into(), entry: None };
        IptablesRules { key, rules: rules.into_iter().map(Into::into).collect() }
    }

    /// An entry of a chain that has many.
    fn entry(self, family: Family, table: IptablesTable, chain: &str, of: &str, target: &str) -> IptablesRules {
        let key = IptablesKey { backend: self.backend, family, table, chain: chain.into(), entry: Some(of.into()) };
        IptablesRules { key, rules: vec![target.into()] }
    }
}

/// A packet's source is a prefix: empty for all there are, as iptables leaves it out.
fn from(prefix: &Prefix) -> String {
    if prefix.len() == 0 { String::new() } else { format!("-s {prefix} ") }
}

/// The same of its destination.
fn to(prefix: &Prefix) -> String {
    if prefix.len() == 0 { String::new() } else { format!("-d {prefix} ") }
}

/// A packet is of this node's pods, by each of these.
fn of_pods<'a>(pods: impl IntoIterator<Item = &'a Prefix>, links: Option<&IfPattern>) -> Vec<String> {
    match links {
        None => pods.into_iter().map(from).collect(),
        Some(IfPattern::Exact(name)) => vec![format!("-i {name} ")],
        Some(IfPattern::Prefix(name)) => vec![format!("-i {name}+ ")],
    }
}

fn host(ip: IpAddr) -> String {
    format!("{ip}/{}", Family::of(ip).bits())
}

fn mark() -> String {
    format!("-j MARK --set-xmark {MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x}")
}

fn reject(family: Family) -> &'static str {
    match family {
        Family::V4 => "-j REJECT --reject-with icmp-port-unreachable",
        Family::V6 => "-j REJECT --reject-with icmp6-port-unreachable",
    }
}

/// Sixteen letters that stand for these words; no others have them.
fn hashed(words: &[&str]) -> Arc<str> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // No word has a line's end in it.
    let hash = sha256(words.join("\n").as_bytes());
    let number = hash[..10].iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    let letter = |at: u32| char::from(LETTERS[(number >> (5 * at) & 31) as usize]);
    (0..16).map(letter).collect::<String>().into()
}
