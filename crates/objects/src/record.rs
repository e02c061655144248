//! Records in the store: what nodes publish and claim. Values are JSON.
//!
//! A record may come from a newer version: fields that are not known are passed over, wrong types are faults.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_types::{Family, Labels, Mac, NodeName, Prefix, Revision, StoreKind};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::decode::tree::{Tree, shown};
use crate::decode::{self, Decoder, Node, Unknown};
use crate::{Fault, Faults, Network, NetworkName};

/// A value kept in the store under a kind and a key.
pub trait Record: Sized + Serialize {
    /// The kind it is kept under.
    const KIND: StoreKind;

    /// The key it is kept under.
    fn key(&self) -> String;

    /// Reads a record and checks that it is the one its key says.
    ///
    /// # Errors
    /// Everything wrong with it.
    fn decode(key: &str, value: &serde_json::Value) -> Result<Self, Faults>;

    /// As [`Self::decode`], of the value's JSON text, in a third of the time. A field that comes twice is a fault here; a
    /// `serde_json::Value` has the last.
    ///
    /// # Errors
    /// Everything wrong with it; a text that is not JSON is one fault.
    fn decode_text(key: &str, text: &str) -> Result<Self, Faults>;

    /// The JSON value to store.
    fn encode(&self) -> serde_json::Value {
        // A map key that is not text and a failing Serialize are the only causes, and no record has either.
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}

/// Characters shown of a value that is no JSON.
const SHOWN: usize = 80;

/// A record's value as it lies in a store. One that is no JSON becomes its beginning as a text: no kind of record is a
/// text, so whoever decodes it names it as a fault and keeps what was there before.
pub fn value_of_text(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(text);
        serde_json::Value::String(text.chars().take(SHOWN).collect())
    })
}

/// What a node tells its peers about itself (kind `nodes`, key: its name).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// Which machine, and since which boot: two machines with one name differ here.
    pub identity: NodeIdentity,
    /// Addresses at which peers reach it, the preferred of each family first.
    pub addresses: Vec<NodeAddress>,
    /// What it can receive. An encapsulation this version does not know is left out when read.
    pub receives: Vec<Receive>,
    /// Encapsulations it would rather receive, best first; empty: as its networks say.
    pub prefers: Vec<Encapsulation>,
    /// Whether a forwarder runs on it, so that it could receive by the backend `udp`.
    #[serde(skip_serializing_if = "is_false")]
    pub forwarder: bool,
    /// MTU of its pods in bytes, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_mtu: Option<u32>,
    /// The UDP port on which it answers probes; none: it answers none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_port: Option<u16>,
    /// Networks in its kernel, with the revision at which each is.
    pub networks: BTreeMap<NetworkName, Revision>,
    /// Networks that are migrating, with the revision at which all its packets leave by the new backend.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub migrated: BTreeMap<NetworkName, Revision>,
    /// The agent's version.
    pub version: String,
    /// Labels of the node.
    pub labels: Labels,
}

impl NodeRecord {
    /// The preferred address of a family.
    pub fn address(&self, family: Family) -> Option<NodeAddress> {
        self.addresses.iter().find(|address| Family::of(address.ip) == family).copied()
    }

    /// Whether packets without encapsulation are taken.
    pub fn receives_plain(&self) -> bool {
        self.receives.contains(&Receive::Plain)
    }

    /// The VTEP for a network identifier.
    pub fn vxlan(&self, vni: u32) -> Option<&VxlanReceive> {
        self.receives.iter().find_map(|receive| match receive {
            Receive::Vxlan(vxlan) if vxlan.vni == vni => Some(vxlan),
            _ => None,
        })
    }

    /// Where IPIP packets are taken.
    pub fn ipip(&self) -> Option<Ipv4Addr> {
        self.receives.iter().find_map(|receive| match receive {
            Receive::Ipip(ipip) => Some(ipip.outer_v4),
            _ => None,
        })
    }

    /// Where datagrams of the backend `udp` are taken.
    pub fn udp(&self) -> Option<&UdpReceive> {
        self.receives.iter().find_map(|receive| match receive {
            Receive::Udp(udp) => Some(udp),
            _ => None,
        })
    }
}

// serde's signature.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

/// Which machine, and since which boot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeIdentity {
    /// `/etc/machine-id`, or what stands for it.
    pub machine_id: String,
    /// `/proc/sys/kernel/random/boot_id`, or what stands for it.
    pub boot_id: String,
}

/// An address of a node with the subnet it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    /// The address.
    pub ip: IpAddr,
    /// Its subnet; contains the address.
    pub prefix: Prefix,
}

impl NodeAddress {
    /// Whether packets for another address need no router, so that one without encapsulation comes to whom it is sent: the
    /// rule of host-gw.
    pub fn shares_subnet(&self, other: IpAddr) -> bool {
        self.prefix.contains(other)
    }
}

/// One way in which a node takes packets of peers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Receive {
    /// Without encapsulation.
    Plain,
    /// By VXLAN.
    Vxlan(VxlanReceive),
    /// By the forwarder of the backend `udp`.
    Udp(UdpReceive),
    /// By IPIP.
    Ipip(IpipReceive),
}

/// A VTEP: the parameters a sender needs (RFC 7348).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VxlanReceive {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Hardware address of the device: destination of inner frames.
    pub mac: Mac,
    /// Outer IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_v4: Option<Ipv4Addr>,
    /// Outer IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_v6: Option<Ipv6Addr>,
    /// The device's own IPv4 address: gateway of on-link routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_v4: Option<Ipv4Addr>,
    /// The device's own IPv6 address: gateway of on-link routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_v6: Option<Ipv6Addr>,
}

impl VxlanReceive {
    /// The outer address of a family.
    pub fn outer(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.outer_v4.map(IpAddr::V4),
            Family::V6 => self.outer_v6.map(IpAddr::V6),
        }
    }

    /// The device's own address in a family.
    pub fn inner(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.inner_v4.map(IpAddr::V4),
            Family::V6 => self.inner_v6.map(IpAddr::V6),
        }
    }
}

/// Where a forwarder takes datagrams.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UdpReceive {
    /// UDP port.
    pub port: u16,
    /// Outer IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_v4: Option<Ipv4Addr>,
    /// Outer IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer_v6: Option<Ipv6Addr>,
}

impl UdpReceive {
    /// The outer address of a family.
    pub fn outer(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.outer_v4.map(IpAddr::V4),
            Family::V6 => self.outer_v6.map(IpAddr::V6),
        }
    }
}

/// Where IPIP packets are taken (RFC 2003).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpipReceive {
    /// Outer address.
    pub outer_v4: Ipv4Addr,
}

/// What is put around a packet on its way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// Nothing: shown as `host-gw`, the backend that does so.
    #[serde(rename = "host-gw")]
    None,
    /// VXLAN.
    Vxlan,
    /// A UDP datagram, nothing between its header and the packet.
    Udp,
    /// An IPv4 header.
    Ipip,
}

impl Encapsulation {
    /// The word used in records and for people: the name of the backend.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "host-gw",
            Self::Vxlan => "vxlan",
            Self::Udp => "udp",
            Self::Ipip => "ipip",
        }
    }

    /// Bytes added to a packet with an outer header of this family.
    pub fn overhead(self, outer: Family) -> u32 {
        match (self, outer) {
            (Self::None, _) => 0,
            // Outer IP header, UDP 8, VXLAN 8, inner Ethernet 14.
            (Self::Vxlan, Family::V4) => 50,
            (Self::Vxlan, Family::V6) => 70,
            // Outer IP header, UDP 8.
            (Self::Udp, Family::V4) => 28,
            (Self::Udp, Family::V6) => 48,
            // The outer header is IPv4's, whatever else the node has.
            (Self::Ipip, _) => 20,
        }
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// That a node owns a range (kind `claims`). It does not expire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeClaim {
    /// The network.
    pub network: NetworkName,
    /// The range.
    pub range: Prefix,
    /// The owner.
    pub node: NodeName,
    /// The owner's machine.
    pub machine: String,
    /// The boot of that machine in which the claim was written last.
    pub boot: String,
    /// The run of the agent that wrote it last.
    pub run: u64,
    /// How far the claim has come.
    pub state: ClaimState,
    /// Of an offered address: the only node that may take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeName>,
    /// The pod that an address was borrowed for or is asked for; of a refusal, the one that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

/// The machine in claims and records that stand for nodes of Flannel's: they live as long as Flannel keeps them, and give
/// no signs of life.
pub const FLANNEL_MACHINE: &str = "flannel";

/// The UDP port of VXLAN in Linux, which flanneld uses unless told otherwise.
pub const FLANNEL_PORT: u16 = 8472;

impl NodeRecord {
    /// The record of a node that flanneld runs, which publishes where it is and what it receives, and nothing else.
    pub fn of_flannel(name: NodeName, addresses: Vec<NodeAddress>, receives: Vec<Receive>) -> Self {
        Self {
            name,
            identity: NodeIdentity { machine_id: FLANNEL_MACHINE.into(), boot_id: FLANNEL_MACHINE.into() },
            addresses,
            receives,
            prefers: Vec::new(),
            forwarder: false,
            pod_mtu: None,
            probe_port: None,
            networks: BTreeMap::new(),
            migrated: BTreeMap::new(),
            version: FLANNEL_MACHINE.into(),
            labels: Labels::new(),
        }
    }
}

impl RangeClaim {
    /// The claim of a range that flanneld serves.
    pub fn of_flannel(network: NetworkName, node: NodeName, range: Prefix) -> Self {
        Self {
            network,
            range,
            node,
            machine: FLANNEL_MACHINE.to_owned(),
            boot: FLANNEL_MACHINE.to_owned(),
            run: 0,
            state: ClaimState::Held,
            to: None,
            holder: None,
        }
    }
}

/// How far a claim has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimState {
    /// Written, but overlapping claims were not looked for yet: nobody uses the range.
    Tentative,
    /// The node uses the range, or may: peers make their routes from it.
    Held,
    /// One address of the node's block, about to be offered.
    Offering,
    /// One address of the node's block that another node may borrow.
    Offered,
    /// One address of another node's block that the node uses, or may: peers make a route from it.
    Borrowed,
    /// One address of another node's block that the node asks for.
    Asked,
    /// The answer to that: somebody has it.
    Refused,
}

impl ClaimState {
    /// Every state, with its word.
    pub const ALL: [(&'static str, Self); 7] = [
        ("tentative", Self::Tentative),
        ("held", Self::Held),
        ("offering", Self::Offering),
        ("offered", Self::Offered),
        ("borrowed", Self::Borrowed),
        ("asked", Self::Asked),
        ("refused", Self::Refused),
    ];

    /// The word used in records and for people.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(word, _)| word)
    }

    /// Whether the node may have pods there: peers' packets for them go to it.
    pub fn is_in_use(self) -> bool {
        matches!(self, Self::Held | Self::Borrowed)
    }
}

/// A node's sign of life (kind `alive`, key: its name). When it is stale is the reader's rule on observed time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AliveRecord {
    /// The node.
    pub node: NodeName,
    /// Grows with each sign.
    pub sequence: u64,
    /// The boot it belongs to.
    pub boot_id: String,
}

/// Key of a network's record.
pub fn network_key(name: &NetworkName) -> String {
    name.to_string()
}

/// Key of a node's record.
pub fn node_key(name: &NodeName) -> String {
    name.to_string()
}

/// Key of a node's sign of life.
pub fn alive_key(name: &NodeName) -> String {
    name.to_string()
}

/// Key of a claim: `default/10.244.3.0_24`.
pub fn claim_key(network: &NetworkName, range: Prefix) -> String {
    format!("{network}/{}_{}", range.addr(), range.len())
}

/// Network and range of a claim's key; `None` if it is not one.
pub fn parse_claim_key(key: &str) -> Option<(NetworkName, Prefix)> {
    let (network, range) = key.split_once('/')?;
    let (addr, len) = range.split_once('_')?;
    let claim = (network.parse().ok()?, format!("{addr}/{len}").parse().ok()?);
    (claim_key(&claim.0, claim.1) == key).then_some(claim)
}

/// Reads a record and checks that it is the one its key says.
fn read<R: Record>(
    key: &str,
    tree: &Tree<'_>,
    decode: impl FnOnce(&mut Decoder, &Node<'_>) -> Option<R>,
) -> Result<R, Faults> {
    let mut decoder = Decoder::new(name::<R>(key), Unknown::PassOver);
    let record = decode(&mut decoder, &Node::root(tree));
    let (record, _) = decoder.finish(record)?;
    let found = record.key();
    if found == key {
        return Ok(record);
    }
    Err(Fault::new(name::<R>(key), "", format!("found the record of {found}"), "the record that its key names").into())
}

/// A record in faults.
fn name<R: Record>(key: &str) -> String {
    format!("{}/{}", R::KIND, shown(key))
}

macro_rules! record {
    ($type:ty, $kind:expr, $key:expr, $decode:path) => {
        impl Record for $type {
            const KIND: StoreKind = $kind;

            fn key(&self) -> String {
                let key: fn(&Self) -> String = $key;
                key(self)
            }

            fn decode(key: &str, value: &serde_json::Value) -> Result<Self, Faults> {
                read(key, &Tree::from(value), $decode)
            }

            fn decode_text(key: &str, text: &str) -> Result<Self, Faults> {
                let tree = serde_json::from_str(text)
                    .map_err(|error| Fault::new(name::<Self>(key), "", format!("found {error}"), "JSON"))?;
                read(key, &tree, $decode)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let tree = Tree::deserialize(deserializer)?;
                let mut decoder = Decoder::new($kind.as_str(), Unknown::PassOver);
                let record = $decode(&mut decoder, &Node::root(&tree));
                decoder.finish(record).map(|(record, _)| record).map_err(D::Error::custom)
            }
        }
    };
}

record!(Network, StoreKind::Networks, |network| network_key(&network.name), decode::network::network);
record!(NodeRecord, StoreKind::Nodes, |node| node_key(&node.name), decode::record::node_record);
record!(RangeClaim, StoreKind::Claims, |claim| claim_key(&claim.network, claim.range), decode::record::range_claim);
record!(AliveRecord, StoreKind::Alive, |alive| alive_key(&alive.node), decode::record::alive_record);
