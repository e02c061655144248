//! The state of one node as values: what should be (desired) and what is (observed) have the same shape.
//!
//! A [`Model`] is an ordered map from [`Key`] to [`Entry`]. Each resource is a plain struct that
//! implements [`Resource`]; nothing here knows why an object is wanted, how it is written, or when. Two models share
//! memory through [`std::sync::Arc`], so "desired" and "last applied" of the same object cost one copy.
//!
//! Invariants: an entry lies under its object's own key; iteration order is the order of [`Key`], and is the same on
//! every run.

mod connection;
mod ended;
mod facts;
mod ipip;
mod iptables;
mod ipvs;
mod key;
mod nexthop;
mod nft;
mod refused;
mod resource;

pub use connection::Connection;
pub use ended::{ENDED_SET, UDP, ended_element, ended_set};
pub use facts::{ForeignDrop, HostFacts, HostLink, Limit, NeighbourLimits};
pub use ipip::{IpipPeer, IpipProgram};
pub use iptables::{
    CLUSTER_IPS_CHAIN, FRONTENDS_CHAIN, FrontendFlows, HAIRPIN_CHAIN, IPTABLES_PREFIX, IptablesBackend, IptablesKey,
    IptablesRules, IptablesTable, MASQUERADE_MARK, OTHERS_CHAIN, PORTS_CHAIN,
};
pub use ipvs::{IpvsDestination, IpvsService, VirtualServer};
pub use key::{Key, Kind, Ns, RecordScope};
pub use nexthop::{Nexthop, NexthopGroup};
pub use nft::{NftElement, NftPart, NftTable, NftValues};
pub use refused::{REFUSED_TIMEOUT, Refused, RefusedPacket, RefusedSet};
pub use resource::{
    Address, BridgePort, Encapsulation, Fdb, ForwardJump, Forwarder, ForwarderPeer, Link, LinkKind, Neighbour, Object,
    Qdisc, Record, RecordGuard, Resource, Route, RouteTarget, Scope, ServiceFlows, Sysctl, Veth,
};

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_nft::model::{Name, TableFamily};
use ripstop_types::{IfName, Owner};
use serde::{Deserialize, Serialize};

/// Protocol number of every route and nexthop of ours (`rtm_protocol`, linux/rtnetlink.h; values above 4 are user's).
pub const ROUTE_PROTOCOL: u8 = 82;

/// First and last id of the nexthop objects of ours that are one peer's.
pub const NEXTHOP_IDS: std::ops::RangeInclusive<u32> = 0x5200_0000..=0x52ff_ffff;

/// First and last id of those that several routes have.
pub const HOP_IDS: std::ops::RangeInclusive<u32> = 0x5300_0000..=0x537f_ffff;

/// First and last id of groups of ours.
pub const GROUP_IDS: std::ops::RangeInclusive<u32> = 0x5380_0000..=0x53ff_ffff;

/// Whether an id of a nexthop object or a group is one of ours.
pub fn is_own_nexthop(id: u32) -> bool {
    NEXTHOP_IDS.contains(&id) || HOP_IDS.contains(&id) || GROUP_IDS.contains(&id)
}

/// First letters of every link of ours.
pub const LINK_PREFIX: &str = "rip";

/// What the alternative name of a bridge begins with that another network left with pods on it: it keeps its name, nothing
/// is hung on it, and it goes when its last port has gone. The network that took over from it follows.
pub const TAKEN_MARK: &str = "ripstop.taken.";

/// Name of every nftables table of ours that is not one link's.
pub const NFT_TABLE: &str = "ripstop";

/// Name of the tables of Services, one in family `ip` and one in `ip6`.
pub const NFT_SERVICES_TABLE: &str = "ripstop-services";

/// Name of the tables of policies, one of each family.
pub const NFT_POLICY_TABLE: &str = "ripstop-policy";

/// The same where endpoints are chosen by IPVS: both stand beside each other while a node is switched.
pub const NFT_IPVS_TABLE: &str = "ripstop-ipvs";

/// Whether that is the name of a table of Services.
pub fn is_services_table(name: &str) -> bool {
    name == NFT_SERVICES_TABLE || name == NFT_IPVS_TABLE
}

/// The kernel's table of local addresses (`RT_TABLE_LOCAL`, linux/rtnetlink.h).
pub const LOCAL_TABLE: u32 = 255;

/// Metric of the routes that make an address local: behind those that the kernel makes for addresses of links.
pub const LOCAL_METRIC: u32 = 82;

/// Name of the table, in family `ip`, that keeps packets for loopback addresses out while [`ROUTE_LOCALNET`] lets them in.
pub const NFT_LOOPBACK_TABLE: &str = "ripstop-loopback";

/// Name of the table, in family `inet`, that keeps packets for addresses of pools that nobody serves from going round.
pub const NFT_POOLS_TABLE: &str = "ripstop-pools";

/// The setting by which packets from loopback addresses may leave, and answers to them come in (ip-sysctl.rst).
pub const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";

/// What paths of settings of connection tracking begin with. They are raised, never lowered: a greater value is as good as the wanted one.
pub const CONNTRACK_SETTINGS: &str = "net/netfilter/nf_conntrack_";

/// What the comment of an endpoint's element begins with where connections to it are reset when it goes; the owner follows.
pub const RESET_MARK: &str = "reset ";

/// Name of the chain of ours in iptables' table `filter`.
pub const FORWARD_CHAIN: &str = "RIPSTOP-FORWARD";

/// What the name of a link's own table begins with; the link's name follows.
const LINK_TABLE_PREFIX: &str = "ripstop-";

/// The name of a link's own table of family `netdev`; `None` for a link whose name nft's scanner does not take.
pub fn link_table(link: &IfName) -> Option<Name> {
    format!("{LINK_TABLE_PREFIX}{link}").parse().ok()
}

/// The link of ours whose own table this is.
pub fn link_of_table(family: TableFamily, name: &str) -> Option<IfName> {
    let link = name.strip_prefix(LINK_TABLE_PREFIX).filter(|_| family == TableFamily::Netdev)?;
    link.parse().ok().filter(|_| link.starts_with(LINK_PREFIX))
}

/// Whether a table is ours by its name.
pub fn is_own_table(family: TableFamily, name: &str) -> bool {
    let of_both = is_services_table(name) || name == NFT_POLICY_TABLE;
    let services = of_both && matches!(family, TableFamily::Ip | TableFamily::Ip6);
    let loopback = name == NFT_LOOPBACK_TABLE && family == TableFamily::Ip;
    let pools = name == NFT_POOLS_TABLE && family == TableFamily::Inet;
    name == NFT_TABLE || services || loopback || pools || link_of_table(family, name).is_some()
}

/// An object with the object that caused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What should be, or is, there.
    pub object: Object,
    /// Why it is there. Observed objects whose mark does not name an owner have none.
    pub owner: Option<Owner>,
}

/// One node's objects, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    entries: BTreeMap<Key, Arc<Entry>>,
}

impl Model {
    /// A model without objects.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an object under its key and returns what was there.
    pub fn insert(&mut self, object: impl Into<Object>, owner: Option<Owner>) -> Option<Arc<Entry>> {
        let object = object.into();
        self.entries.insert(object.key(), Arc::new(Entry { object, owner }))
    }

    /// Puts a shared entry under its key and returns what was there.
    pub fn insert_entry(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        self.entries.insert(entry.object.key(), entry)
    }

    /// Takes the object out.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.remove(key)
    }

    /// The entry under a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.entries.get(key)
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Entry>)> {
        self.entries.iter()
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// The entries from a key on, in order.
    pub fn range(&self, from: Key) -> impl Iterator<Item = (&Key, &Arc<Entry>)> {
        self.entries.range(from..)
    }

    /// The entries whose parent is `parent`, in order.
    pub fn children<'a>(&'a self, parent: &'a Key) -> impl Iterator<Item = (&'a Key, &'a Arc<Entry>)> {
        parent.first_children().into_iter().flat_map(move |first| {
            let within = self.entries.range(first..).take_while(move |(key, _)| key.is_within(parent));
            within.filter(move |(key, _)| key.parent().as_ref() == Some(parent))
        })
    }

    /// Count of objects.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps the entries for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &Arc<Entry>) -> bool) {
        self.entries.retain(|key, entry| keep(key, entry));
    }
}

impl Extend<Entry> for Model {
    fn extend<T: IntoIterator<Item = Entry>>(&mut self, entries: T) {
        for entry in entries {
            self.insert_entry(Arc::new(entry));
        }
    }
}

impl FromIterator<Entry> for Model {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut model = Self::new();
        model.extend(entries);
        model
    }
}
