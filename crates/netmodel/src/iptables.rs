//! The resources of iptables: rules in chains of ours, and the jumps that lead there.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::Family;
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::resource::Resource;

/// What the names of chains of ours begin with. [`crate::FORWARD_CHAIN`] is none of Services'.
pub const IPTABLES_PREFIX: &str = "RIPSTOP-";

/// The bit of a packet's mark that says: this packet leaves with the node's address. Set and cleared within the node, for the first packet
/// of a connection to a Service. kube-proxy has 0x4000, kubelet 0x8000 and the plugin portmap 0x2000.
pub const MASQUERADE_MARK: u32 = 0x1000;

/// Chains that hold an entry for each place, in whatever order: they are laid out as a tree where they are written.
pub const FRONTENDS_CHAIN: &str = "RIPSTOP-FRONTENDS";
/// The same for the node's own addresses, by port.
pub const PORTS_CHAIN: &str = "RIPSTOP-PORTS";
/// `ClusterIPs`.
pub const CLUSTER_IPS_CHAIN: &str = "RIPSTOP-CLUSTER-IPS";
/// `ClusterIPs` that are no business of this proxy.
pub const OTHERS_CHAIN: &str = "RIPSTOP-OTHERS";
/// Pods of this node that may reach themselves.
pub const HAIRPIN_CHAIN: &str = "RIPSTOP-HAIRPIN";

/// Which of the kernel's two machineries iptables writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IptablesBackend {
    /// `x_tables`.
    Legacy,
    /// Tables of nftables.
    Nft,
}

impl IptablesBackend {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Legacy, Self::Nft];

    /// The word in the names of programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

/// A table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IptablesTable {
    /// Where packets are sent elsewhere.
    Nat,
    /// Where they are refused.
    Filter,
}

impl IptablesTable {
    /// Both, in the order in which they are written: who is sent elsewhere is not refused.
    pub const BOTH: [Self; 2] = [Self::Nat, Self::Filter];

    /// The table's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// Which rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IptablesKey {
    /// Where.
    pub backend: IptablesBackend,
    /// `iptables` or `ip6tables`.
    pub family: Family,
    /// The table.
    pub table: IptablesTable,
    /// The chain. One that does not begin with [`IPTABLES_PREFIX`] is the kernel's own: the rule is a jump at its head.
    pub chain: Arc<str>,
    /// Of one entry of a chain that has an entry for each place: what packets must be like. The empty one comes last.
    pub entry: Option<Arc<str>>,
}

/// All rules of a chain of ours, or one entry of a chain that has many.
///
/// The text is that of `iptables-save` without the chain, comments and what follows from the protocol (`-m tcp`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IptablesRules {
    /// Which.
    pub key: IptablesKey,
    /// The rules in order. Of an entry one, without what is in the key.
    pub rules: Vec<Arc<str>>,
}

/// That tracked connections which were sent to a frontend lead to its endpoints. It has no state of its own: it is looked at when it is
/// written. Only of protocols whose connections do not end by themselves, and where a Service wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendFlows {
    /// IANA's number.
    pub protocol: u8,
    /// The address and port that packets are sent to.
    pub to: (IpAddr, u16),
    /// Where they may lead.
    pub endpoints: BTreeSet<(IpAddr, u16)>,
}

impl Resource for IptablesRules {
    fn key(&self) -> Key {
        Key::Iptables(self.key.clone())
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self.rules == observed.rules
    }
}

impl Resource for FrontendFlows {
    fn key(&self) -> Key {
        Key::FrontendFlows { protocol: self.protocol, ip: self.to.0, port: self.to.1 }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self.endpoints == observed.endpoints
    }
}

impl fmt::Display for IptablesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, family, table, chain, entry } = self;
        let program = if *family == Family::V4 { "iptables" } else { "ip6tables" };
        write!(f, "{program}-{} {} {chain}", backend.as_str(), table.as_str())?;
        match entry.as_deref() {
            Some("") => f.write_str(" otherwise"),
            Some(entry) => write!(f, " {entry}"),
            None => Ok(()),
        }
    }
}
