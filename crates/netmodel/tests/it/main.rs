//! The model's own promises: what belongs to what, in which order, and when an object is what is asked for.
//!
//! `order` tells which objects are children of which, that no neighbour in the order is taken for one, and that the order
//! of keys is the order of making. `satisfied` goes through each resource and says which differences from what the kernel
//! shows count, and which of them a change in place can mend. `words` is what a reader sees.
#![allow(clippy::unwrap_used)] // These are tests, helpers included.

mod order;
mod satisfied;
mod words;

use ripstop_netmodel::{Key, Link, LinkKind, Ns};
use ripstop_nft::model::{ElementKey, Key as ElementValue, KeyPart, Name, TableFamily};
use ripstop_types::{IfName, Mac, Prefix};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac::local([0, 0, 0, 0, last])
}

fn pod(n: u8) -> Ns {
    Ns::Path(format!("/run/netns/p{n}").into())
}

fn link(ns: &Ns, dev: &str, kind: LinkKind) -> Link {
    Link {
        ns: ns.clone(),
        name: name(dev),
        kind,
        mtu: Some(1500),
        mac: Some(mac(1)),
        up: true,
        master: None,
        altname: None,
        port: None,
        no_link_local: false,
        tx_checksum: None,
    }
}

fn link_key(ns: &Ns, dev: &str) -> Key {
    Key::Link { ns: ns.clone(), name: name(dev) }
}

fn element(family: TableFamily, table: &'static str, set: &'static str, parts: Vec<KeyPart>) -> ElementKey {
    let key = ElementValue::new(false, parts);
    ElementKey { family, table: Name::from(table), set: Name::from(set), key }
}
