//! Tables, chains and rules.

use std::collections::BTreeMap;
use std::fmt;

use ripstop_types::{Family, IfName};
use serde::{Deserialize, Serialize};

use super::{Comment, ElementBody, ElementKey, Key, Name, Set, Statement};

/// Which packets a table sees, and which hooks it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Frames a bridge forwards or takes in.
    Bridge,
    /// Everything on one device, at its ingress.
    Netdev,
}

impl TableFamily {
    /// That of tables for packets of a family alone.
    pub fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ip,
            Family::V6 => Self::Ip6,
        }
    }

    /// As nft writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A table's whole definition: chains with their rules, and the declarations of sets and maps, without elements.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Table {
    /// The family; family and name together are unique in a network namespace.
    pub family: TableFamily,
    /// The name.
    pub name: Name,
    /// Sets, maps and verdict maps: one name space.
    #[serde(default)]
    pub sets: BTreeMap<Name, Set>,
    /// Chains, another name space.
    #[serde(default)]
    pub chains: BTreeMap<Name, Chain>,
    /// Shown by `nft list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
}

impl Table {
    /// An empty table.
    pub fn new(family: TableFamily, name: impl Into<Name>) -> Self {
        Self { family, name: name.into(), sets: BTreeMap::new(), chains: BTreeMap::new(), comment: None }
    }

    /// With a chain more; one of the same name is replaced.
    #[must_use]
    pub fn chain(mut self, name: impl Into<Name>, chain: Chain) -> Self {
        self.chains.insert(name.into(), chain);
        self
    }

    /// With a set or map more; one of the same name is replaced.
    #[must_use]
    pub fn set(mut self, name: impl Into<Name>, set: Set) -> Self {
        self.sets.insert(name.into(), set);
        self
    }

    /// With a comment, shown by `nft list`.
    #[must_use]
    pub fn comment(self, comment: impl Into<Comment>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }

    /// An element of one of this table's sets. Its key takes the set's `interval` flag; of a set that is not declared
    /// here, the key's own is left.
    pub fn element(&self, set: impl Into<Name>, key: Key, body: ElementBody) -> (ElementKey, ElementBody) {
        let set = set.into();
        let interval = self.sets.get(&set).map_or(key.interval, |declared| declared.interval);
        let key = Key { interval, ..key };
        (ElementKey { family: self.family, table: self.name.clone(), set, key }, body)
    }
}

/// A chain: with a [`Base`] the kernel calls it at a hook, without one only rules lead there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Chain {
    /// Where and when the kernel calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The rules, first to last.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Shown by `nft list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
}

impl Chain {
    /// A chain other rules jump to.
    pub fn regular() -> Self {
        Self::default()
    }

    /// A base chain of type filter with policy accept.
    pub fn filter(hook: Hook, priority: i32) -> Self {
        Self::base(ChainType::Filter, hook, priority)
    }

    /// A base chain of type nat: sees the first packet of each connection only.
    pub fn nat(hook: Hook, priority: i32) -> Self {
        Self::base(ChainType::Nat, hook, priority)
    }

    /// A base chain of type route at the output hook: a changed mark or address makes the kernel look up the route
    /// again.
    pub fn route(priority: i32) -> Self {
        Self::base(ChainType::Route, Hook::Output, priority)
    }

    /// A base chain of type filter at the ingress of a device (netdev and, since Linux 5.10, inet tables).
    pub fn ingress(device: IfName, priority: i32) -> Self {
        let mut chain = Self::filter(Hook::Ingress, priority);
        if let Some(base) = &mut chain.base {
            base.device = Some(device);
        }
        chain
    }

    fn base(kind: ChainType, hook: Hook, priority: i32) -> Self {
        let base = Base { kind, hook, priority, policy: Policy::Accept, device: None };
        Self { base: Some(base), ..Self::default() }
    }

    /// With another policy; without effect on a regular chain.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        if let Some(base) = &mut self.base {
            base.policy = policy;
        }
        self
    }

    /// With a rule more, at the end.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// With these rules more, at the end.
    #[must_use]
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// With a comment, shown by `nft list`.
    #[must_use]
    pub fn comment(self, comment: impl Into<Comment>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}

/// Where and when the kernel calls a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Base {
    /// What its rules may do.
    #[serde(rename = "type")]
    pub kind: ChainType,
    /// The place on a packet's way.
    pub hook: Hook,
    /// The order among chains at one hook, least first; see [`priority`].
    pub priority: i32,
    /// The verdict if no rule gives one.
    pub policy: Policy,
    /// The device of an ingress chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<IfName>,
}

/// What a base chain's rules may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainType {
    /// Decide and mark.
    Filter,
    /// Translate addresses of a connection's first packet; the kernel does the rest of the connection alike.
    Nat,
    /// As filter, and the route is looked up again after a change.
    Route,
}

impl ChainType {
    /// As nft and the kernel write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// A place on a packet's way through the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Off the device, before anything else.
    Ingress,
    /// Received, before the route is looked up.
    Prerouting,
    /// For this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// About to leave, from this host or through it.
    Postrouting,
}

impl Hook {
    /// As nft writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// The verdict of a base chain that decided nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Pass.
    Accept,
    /// Vanish.
    Drop,
}

/// The priorities nft has names for (linux/netfilter_ipv4.h, linux/netfilter_bridge.h).
#[allow(missing_docs)]
pub mod priority {
    pub const RAW: i32 = -300;
    pub const MANGLE: i32 = -150;
    pub const DSTNAT: i32 = -100;
    pub const FILTER: i32 = 0;
    pub const SECURITY: i32 = 50;
    pub const SRCNAT: i32 = 100;
    pub const BRIDGE_DSTNAT: i32 = -300;
    pub const BRIDGE_FILTER: i32 = -200;
    pub const BRIDGE_OUT: i32 = 100;
    pub const BRIDGE_SRCNAT: i32 = 300;
    /// Where connection tracking begins; what is less comes before it.
    pub const CONNTRACK: i32 = -200;
}

/// A rule: statements from left to right, and a comment that names its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Rule {
    /// Matches and actions.
    pub statements: Vec<Statement>,
    /// Names the owner; shown by `nft list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
}

impl Rule {
    /// A rule of these statements.
    pub fn new(statements: impl IntoIterator<Item = Statement>) -> Self {
        Self { statements: statements.into_iter().collect(), comment: None }
    }

    /// With a comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<Comment>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}
