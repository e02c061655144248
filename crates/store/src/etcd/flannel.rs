//! Flannel's records in etcd, as records of ours and back: pure translation (flannel, `pkg/subnet` and `pkg/lease`).
//!
//! `PREFIX/config` is a network, `PREFIX/subnets/10.244.1.0-24` a node with its claim, held as long as the key is there:
//! flanneld gives it a lease of 24 hours and renews it. For each IPv4 claim of this node a record of the same form is
//! kept, without a lease, since our claims do not end by time. It bears the node's name in a field that flanneld passes
//! over; by that it is told from flanneld's own.
//!
//! A record of flanneld with an address of this host is this host's: flanneld ran here, and its subnet is claimed as one
//! claims what an earlier run of the same machine held.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_objects::{
    FLANNEL_MACHINE, FLANNEL_PORT, Network, NetworkName, NodeAddress, NodeRecord, RangeClaim, Receive, UDP_PORT,
    UdpReceive, VxlanReceive, claim_key, parse_claim_key,
};
use ripstop_types::{Family, Mac, NodeName, Prefix};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::{Span, revision, spanned};
use super::proto::KeyValue;
use crate::{Kind, Record};

/// Whose records of Flannel's are looked at, and who looks.
#[derive(Debug, Clone)]
pub struct FlannelOptions {
    /// What Flannel's keys begin with, without '/' at the end.
    pub prefix: String,
    /// The network of ours that is Flannel's.
    pub network: NetworkName,
    /// This node.
    pub node: NodeName,
    /// Its machine, as in its claims.
    pub machine: String,
    /// Addresses of this host.
    pub addresses: Vec<IpAddr>,
}

/// The value behind a subnet (flannel, `lease.LeaseAttrs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attrs {
    #[serde(rename = "PublicIP")]
    public_ip: Option<Ipv4Addr>,
    #[serde(rename = "PublicIPv6")]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    backend_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend_data: Option<Vtep>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "BackendV6Data")]
    backend_v6_data: Option<Vtep>,
    /// The node of ours that keeps the record; not Flannel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ripstop: Option<NodeName>,
}

/// What flanneld's vxlan says of its device (flannel, `vxlanLeaseAttrs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Vtep {
    #[serde(rename = "VNI", default)]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: Mac,
}

/// Whose record lies behind a subnet's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// This node's, written by ours.
    Ours,
    /// This host's, written by the flanneld that ran here.
    Predecessor,
    /// Another's, or not to be understood: never to be written.
    Other,
}

impl FlannelOptions {
    /// All keys of Flannel's.
    pub(super) fn span(&self) -> Span {
        spanned(format!("{}/", self.prefix).into_bytes())
    }

    /// The key of the network's configuration.
    pub(super) fn config_key(&self) -> Vec<u8> {
        format!("{}/config", self.prefix).into_bytes()
    }

    /// The key beside a claim of ours; none where Flannel has no such.
    pub(super) fn beside(&self, claim: &str) -> Option<Vec<u8>> {
        let (network, range) = parse_claim_key(claim)?;
        let ours = network == self.network && range.family() == Family::V4;
        ours.then(|| format!("{}/subnets/{}-{}", self.prefix, range.addr(), range.len()).into_bytes())
    }

    pub(super) fn holder(&self, value: &[u8]) -> Holder {
        match serde_json::from_slice::<Attrs>(value) {
            Ok(Attrs { ripstop: Some(node), .. }) if node == self.node => Holder::Ours,
            Ok(Attrs { ripstop: None, public_ip: Some(ip), .. }) if self.addresses.contains(&ip.into()) => {
                Holder::Predecessor
            }
            _ => Holder::Other,
        }
    }

    /// What this node says behind its subnets, by its record. Without a way to receive yet, it keeps the subnet only.
    pub(super) fn value(&self, node: Option<&Value>) -> Vec<u8> {
        let record = node.and_then(|value| serde_json::from_value::<NodeRecord>(value.clone()).ok());
        let vxlan = record.as_ref().and_then(|record| {
            record.receives.iter().find_map(|receive| match receive {
                Receive::Vxlan(vxlan) => Some(vxlan.clone()),
                _ => None,
            })
        });
        let published = record.as_ref().and_then(|record| record.address(Family::V4)).map(|address| address.ip);
        let own = published.into_iter().chain(self.addresses.iter().copied()).find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let udp = record.as_ref().and_then(NodeRecord::udp).filter(|_| vxlan.is_none());
        let plain = record.as_ref().is_some_and(NodeRecord::receives_plain);
        let attrs = Attrs {
            // flanneld reads no record without one.
            public_ip: Some(vxlan.as_ref().and_then(|vxlan| vxlan.outer_v4).or(own).unwrap_or(Ipv4Addr::UNSPECIFIED)),
            public_ipv6: None,
            backend_type: match vxlan {
                Some(_) => "vxlan".into(),
                None if udp.is_some() => "udp".into(),
                None if plain => "host-gw".into(),
                None => String::new(),
            },
            backend_data: vxlan.map(|vxlan| Vtep { vni: vxlan.vni, mac: vxlan.mac }),
            backend_v6_data: None,
            ripstop: Some(self.node.clone()),
        };
        serde_json::to_vec(&attrs).unwrap_or_default()
    }

    /// The records of ours that one of Flannel's is. The fault names the key and what is wrong with it.
    pub(super) fn records(&self, kv: &KeyValue) -> Result<Vec<Record>, String> {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        let Some(rest) = key.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('/')) else {
            return Ok(Vec::new());
        };
        let named = |fault: String| format!("{key}: {fault}");
        let record = |kind, key: String, value| Record { kind, key, value, revision: revision(kv.mod_revision) };
        if rest == "config" {
            let text = String::from_utf8_lossy(&kv.value);
            let (network, _) =
                Network::from_flannel(self.network.clone(), &text).map_err(|faults| named(faults.to_string()))?;
            let value = serde_json::to_value(&network).map_err(|fault| named(fault.to_string()))?;
            return Ok(vec![record(Kind::Networks, network.name.to_string(), value)]);
        }
        let Some(subnets) = rest.strip_prefix("subnets/") else { return Ok(Vec::new()) };
        let ranges = parse_subnets(subnets)
            .ok_or_else(|| named("not a subnet as in 10.244.1.0-24 or 10.244.1.0-24&fd00:1::-64".into()))?;
        let attrs: Attrs = serde_json::from_slice(&kv.value).map_err(|fault| named(fault.to_string()))?;
        if attrs.ripstop.is_some() {
            return Ok(Vec::new());
        }
        let predecessor = self.holder(&kv.value) == Holder::Predecessor;
        let name = match predecessor {
            true => self.node.clone(),
            false => peer_name(subnets).ok_or_else(|| named("a subnet that makes no name".into()))?,
        };
        let mut records = Vec::new();
        if !predecessor {
            let node = node_record(&name, &attrs, &ranges);
            let value = serde_json::to_value(&node).map_err(|fault| named(fault.to_string()))?;
            records.push(record(Kind::Nodes, name.to_string(), value));
        }
        for range in ranges {
            let mut claim = RangeClaim::of_flannel(self.network.clone(), name.clone(), range);
            if predecessor {
                claim.machine.clone_from(&self.machine);
            }
            let value = serde_json::to_value(&claim).map_err(|fault| named(fault.to_string()))?;
            records.push(record(Kind::Claims, claim_key(&self.network, range), value));
        }
        Ok(records)
    }
}

/// `10.244.1.0-24`, or with a range of IPv6 behind '&'.
fn parse_subnets(text: &str) -> Option<Vec<Prefix>> {
    let range = |part: &str| {
        let (addr, len) = part.rsplit_once('-')?;
        format!("{addr}/{len}").parse::<Prefix>().ok()
    };
    let ranges: Option<Vec<Prefix>> = text.split('&').map(range).collect();
    ranges.filter(|ranges| match ranges.as_slice() {
        [first] => first.family() == Family::V4,
        [first, second] => first.family() == Family::V4 && second.family() == Family::V6,
        _ => false,
    })
}

/// A node is named by its subnet: Flannel gives it no name.
fn peer_name(subnets: &str) -> Option<NodeName> {
    let first = subnets.split('&').next()?;
    format!("{FLANNEL_MACHINE}-{}", first.replace('.', "-")).parse().ok()
}

fn node_record(name: &NodeName, attrs: &Attrs, ranges: &[Prefix]) -> NodeRecord {
    let v4 = attrs.public_ip.filter(|ip| !ip.is_unspecified());
    let addresses = v4.map(IpAddr::V4).into_iter().chain(attrs.public_ipv6.map(IpAddr::V6));
    let first = |family| ranges.iter().find(|range| range.family() == family).map(|range| range.addr());
    let inner_v4 = if let Some(IpAddr::V4(ip)) = first(Family::V4) { Some(ip) } else { None };
    let inner_v6 = if let Some(IpAddr::V6(ip)) = first(Family::V6) { Some(ip) } else { None };
    let receives = match (attrs.backend_type.as_str(), &attrs.backend_data) {
        ("host-gw", _) => vec![Receive::Plain],
        ("udp", _) => vec![Receive::Udp(UdpReceive { port: UDP_PORT, outer_v4: v4, outer_v6: None })],
        // flanneld's device has its subnet's first address, and listens on Linux' own port.
        ("vxlan", Some(vtep)) => vec![Receive::Vxlan(VxlanReceive {
            vni: vtep.vni,
            port: FLANNEL_PORT,
            mac: vtep.mac,
            outer_v4: v4,
            outer_v6: None,
            inner_v4,
            inner_v6: inner_v6.filter(|_| attrs.backend_v6_data.as_ref() == Some(vtep)),
        })],
        _ => Vec::new(),
    };
    let addresses = addresses.map(|ip| NodeAddress { ip, prefix: Prefix::host(ip) }).collect();
    NodeRecord::of_flannel(name.clone(), addresses, receives)
}

#[cfg(test)]
mod tests {
    use ripstop_objects::{ClaimState, Record as _};
    use serde_json::json;

    use super::*;

    fn options() -> FlannelOptions {
        FlannelOptions {
            prefix: "/coreos.com/network".into(),
            network: NetworkName::first(),
            node: "n3".parse().unwrap(),
            machine: "m3".into(),
            addresses: vec!["fd00::13".parse().unwrap(), "172.30.1.13".parse().unwrap()],
        }
    }

    fn kv(key: &str, value: &str) -> KeyValue {
        KeyValue { key: format!("/coreos.com/network/{key}").into_bytes(), mod_revision: 9, value: value.into() }
    }

    const FOREIGN: &str = r#"{"PublicIP":"172.30.1.11","PublicIPv6":null,"BackendType":"vxlan",
        "BackendData":{"VNI":1,"VtepMAC":"56:23:a1:00:00:01"}}"#;

    #[test]
    fn a_subnet_is_a_node_with_its_claim() {
        let records = options().records(&kv("subnets/10.244.1.0-24", FOREIGN)).unwrap();
        assert_eq!(records.len(), 2);
        let node = NodeRecord::decode(&records[0].key, &records[0].value).unwrap();
        assert_eq!((node.name.as_str(), records[0].revision.0), ("flannel-10-244-1-0-24", 9));
        assert_eq!(node.address(Family::V4).unwrap().ip.to_string(), "172.30.1.11");
        let vxlan = node.vxlan(1).unwrap();
        assert_eq!((vxlan.port, vxlan.mac.to_string()), (8472, "56:23:a1:00:00:01".into()));
        assert_eq!(vxlan.inner_v4, Some(Ipv4Addr::new(10, 244, 1, 0)));
        let claim = RangeClaim::decode(&records[1].key, &records[1].value).unwrap();
        assert_eq!((claim.node, claim.state), (node.name, ClaimState::Held));
        assert_eq!(records[1].key, "default/10.244.1.0_24");
    }

    #[test]
    fn a_node_of_flannels_udp_is_one_of_ours() {
        let text = r#"{"PublicIP":"172.30.1.11","PublicIPv6":null,"BackendType":"udp"}"#;
        let records = options().records(&kv("subnets/10.244.1.0-24", text)).unwrap();
        let node = NodeRecord::decode(&records[0].key, &records[0].value).unwrap();
        let udp = node.udp().unwrap();
        assert_eq!((udp.port, udp.outer(Family::V4)), (8285, Some("172.30.1.11".parse().unwrap())));
        let ours = json!({
            "name": "n3", "identity": {"machineId": "m3", "bootId": "b"},
            "addresses": [{"ip": "172.30.1.13", "prefix": "172.30.1.0/24"}],
            "receives": [{"type": "plain"}, {"type": "udp", "port": 8285, "outerV4": "172.30.1.13"}],
        });
        let value: Value = serde_json::from_slice(&options().value(Some(&ours))).unwrap();
        assert_eq!(value["BackendType"], "udp");
    }

    #[test]
    fn both_families_of_a_subnet_are_claimed() {
        let records = options().records(&kv("subnets/10.244.1.0-24&fd00:244:1::-64", FOREIGN)).unwrap();
        let keys: Vec<&str> = records.iter().map(|record| record.key.as_str()).collect();
        assert_eq!(keys, ["flannel-10-244-1-0-24", "default/10.244.1.0_24", "default/fd00:244:1::_64"]);
    }

    #[test]
    fn what_flanneld_left_on_this_host_is_this_machines_claim() {
        let ours = FOREIGN.replace("172.30.1.11", "172.30.1.13");
        let options = options();
        assert_eq!(options.holder(ours.as_bytes()), Holder::Predecessor);
        let records = options.records(&kv("subnets/10.244.3.0-24", &ours)).unwrap();
        assert_eq!(records.len(), 1);
        let claim = RangeClaim::decode(&records[0].key, &records[0].value).unwrap();
        assert_eq!((claim.node.as_str(), claim.machine.as_str()), ("n3", "m3"));
    }

    #[test]
    fn what_this_node_writes_is_flannels_form_and_no_peer() {
        let options = options();
        let node = json!({
            "name": "n3", "identity": {"machineId": "m3", "bootId": "b"},
            "addresses": [{"ip": "172.30.1.13", "prefix": "172.30.1.0/24"}],
            "receives": [{"type": "plain"}, {"type": "vxlan", "vni": 1, "port": 8472, "mac": "02:00:00:00:00:03",
                "outerV4": "172.30.1.13"}],
            "prefers": [], "networks": {}, "version": "1", "labels": {},
        });
        let value = options.value(Some(&node));
        let expected = json!({
            "PublicIP": "172.30.1.13", "PublicIPv6": null, "BackendType": "vxlan",
            "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:03"}, "Ripstop": "n3",
        });
        assert_eq!(serde_json::from_slice::<Value>(&value).unwrap(), expected);
        assert_eq!(options.holder(&value), Holder::Ours);
        let text = String::from_utf8(value).unwrap();
        assert_eq!(options.records(&kv("subnets/10.244.3.0-24", &text)), Ok(Vec::new()));
        // Another node of ours is none of Flannel's either, and not to be written by this one.
        let other = text.replace("\"n3\"", "\"n4\"");
        assert_eq!(options.records(&kv("subnets/10.244.3.0-24", &other)), Ok(Vec::new()));
        assert_eq!(options.holder(other.as_bytes()), Holder::Other);
        let nothing: Value = serde_json::from_slice(&options.value(None)).unwrap();
        assert_eq!(nothing, json!({"PublicIP": "172.30.1.13", "PublicIPv6": null, "Ripstop": "n3"}));
    }

    #[test]
    fn the_configuration_is_the_network() {
        let conf = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
        let records = options().records(&kv("config", conf)).unwrap();
        assert_eq!((records[0].kind, records[0].key.as_str()), (Kind::Networks, "default"));
        let network = <Network as ripstop_objects::Record>::decode(&records[0].key, &records[0].value);
        assert!(
            network.is_ok_and(|network| network.spec.backend.vni == 1 && network.spec.backend.port == FLANNEL_PORT)
        );
    }

    #[test]
    fn nonsense_is_named_and_is_nobodys_to_write() {
        let options = options();
        for (key, value) in [
            ("config", "{"),
            ("subnets/10.244.1.0", FOREIGN),
            ("subnets/10.244.1.1-24", FOREIGN),
            ("subnets/fd00::-64", FOREIGN),
            ("subnets/10.244.1.0-24", "hello"),
        ] {
            let fault = options.records(&kv(key, value)).unwrap_err();
            assert!(fault.starts_with(&format!("/coreos.com/network/{key}: ")), "{fault}");
        }
        assert_eq!(options.holder(b"hello"), Holder::Other);
        assert_eq!(options.records(&kv("elsewhere", "x")), Ok(Vec::new()));
        assert_eq!(options.beside("default/10.244.3.0_24").unwrap(), b"/coreos.com/network/subnets/10.244.3.0-24");
        assert_eq!(options.beside("default/fd00::_64"), None);
        assert_eq!(options.beside("other/10.244.3.0_24"), None);
    }
}
