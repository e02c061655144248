//! What people and other agents write: configuration, networks, records of the store.

use std::fmt::Debug;

use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::{
    AgentConfig, AliveRecord, ClusterObject, Kubeconfig, Manifest, Network, NetworkName, NodeRecord, ObjectKind,
    RangeClaim, Record,
};
use ripstop_objects::{check_networks, parse_claim_key};
use ripstop_store::untrusted::kubernetes_record;
use ripstop_store::{Kind, MAX_KEY, MAX_VALUE, validate_key, validate_value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{head, text};

/// The agent's configuration file.
pub fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match AgentConfig::decode(text) {
        Ok((config, _)) => again(&config),
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

/// A kubeconfig.
pub fn kubeconfig(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Kubeconfig::decode(text) {
        Ok(config) => assert!(config.server.starts_with("https://")),
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

/// An object of Kubernetes, as each of the kinds that are read.
pub fn kubernetes_object(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for kind in ObjectKind::ALL {
        match ClusterObject::decode(kind, text) {
            Ok((object, _)) => again(&object),
            Err(fault) => assert!(!fault.is_empty()),
        }
    }
    match NetworkPolicy::decode(text) {
        Ok((policy, _)) => again(&policy),
        Err(fault) => assert!(!fault.is_empty()),
    }
    match ClusterNetworkPolicy::decode(text) {
        Ok((policy, _)) => again(&policy),
        Err(fault) => assert!(!fault.is_empty()),
    }
    for kind in Kind::ALL {
        // A record that was read is written under the name it was found under, and says the same.
        if let Some((key, again)) = kubernetes_record(kind, text) {
            assert!(validate_key(&key).is_ok() && again, "{key:?}");
        }
    }
}

/// Flannel's `net-conf.json`.
pub fn flannel(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Network::from_flannel(NetworkName::first(), text) {
        Ok((network, _)) => {
            judge(&network);
            record(&network);
        }
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

/// A file for `ripstop apply -f`.
pub fn manifest(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Manifest::decode(text) {
        Ok(manifest) => {
            assert!(check_networks(&manifest.networks).is_ok());
            manifest.networks.iter().for_each(judge);
            manifest.networks.iter().for_each(record);
        }
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

/// What a decoded network promises.
fn judge(network: &Network) {
    let network = &network.spec;
    assert!(network.families().next().is_some());
    for family in network.families() {
        for range in [network.first_node_range(family), network.last_node_range(family)].into_iter().flatten() {
            assert!(network.contains(range.addr()), "{range} of {network:?}");
        }
    }
}

/// A record of the store: a key, an empty line, a value.
pub fn store_record(data: &[u8]) {
    let Some((key, written)) = text(data).map(head) else { return };
    if validate_key(key).is_ok() {
        assert!(key.len() <= MAX_KEY);
    }
    let Ok(value) = serde_json::from_str::<Value>(written) else {
        assert!(NodeRecord::decode_text(key, written).is_err());
        return;
    };
    if let Ok(text) = validate_value(&value) {
        assert!(text.len() <= MAX_VALUE);
        assert!(serde_json::from_str::<Value>(&text).is_ok_and(|read| read == value), "{text}");
    }
    let _ = ripstop_store::node_of(&value);
    let _ = parse_claim_key(key);
    Network::decode_record(key, written, &value);
    NodeRecord::decode_record(key, written, &value);
    RangeClaim::decode_record(key, written, &value);
    AliveRecord::decode_record(key, written, &value);
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.as_str()).ok(), Some(kind));
    }
}

/// Decoding, for every kind of record alike.
trait DecodeRecord: Record + Debug + PartialEq {
    fn decode_record(key: &str, text: &str, value: &Value) {
        let read = <Self as Record>::decode(key, value);
        // Of its text no more is read than of its value, and the same.
        if let Ok(of_text) = Self::decode_text(key, text) {
            assert_eq!(read.as_ref().ok(), Some(&of_text));
        }
        match read {
            Ok(read) => {
                assert_eq!(read.key(), key);
                record(&read);
            }
            Err(faults) => assert!(!faults.to_string().is_empty()),
        }
    }
}

impl<T: Record + Debug + PartialEq> DecodeRecord for T {}

/// A record that was read is written, and reads back as the same.
fn record<T: Record + Debug + PartialEq>(record: &T) {
    let (key, value) = (record.key(), record.encode());
    match T::decode(&key, &value) {
        Ok(read) => assert_eq!(read, *record, "written as {value}"),
        Err(faults) => panic!("what was written cannot be read: {value}: {faults}"),
    }
}

/// A value that was read is written, and reads back as the same.
fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let Ok(written) = serde_json::to_string(value) else { panic!("cannot be written: {value:?}") };
    match serde_json::from_str::<T>(&written) {
        Ok(read) => assert_eq!(read, *value, "written as {written}"),
        Err(error) => panic!("what was written cannot be read: {written}: {error}"),
    }
}
