//! A store in this process, served on a socket, that tests write to as other nodes would.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ripstop_objects::{NetworkName, NodeRecord, RangeClaim, Record, claim_key};
use ripstop_store::{Embedded, Expect, Kind, Store, serve};
use ripstop_types::{Prefix, Revision};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub struct TestStore {
    runtime: Handle,
    /// The thread on which everything asynchronous runs ends with this.
    _alive: oneshot::Sender<()>,
    store: Arc<Embedded>,
    socket: PathBuf,
    serving: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
}

impl TestStore {
    pub fn new(socket: &Path) -> Self {
        let work = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let runtime = work.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::spawn(move || work.block_on(async { drop(ended.await) }));
        let store = {
            let _inside = runtime.enter();
            Arc::new(Embedded::in_memory().unwrap())
        };
        let mut this = Self { runtime, _alive: alive, store, socket: socket.to_owned(), serving: None };
        this.open();
        this
    }

    /// Lets clients in.
    pub fn open(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let (store, socket) = (self.store.clone(), self.socket.clone());
        let work = async move {
            serve(store, socket, async { drop(stopped.await) }).await.unwrap();
        };
        self.serving = Some((stop, self.runtime.spawn(work)));
    }

    /// Shuts clients out.
    pub fn close(&mut self) {
        let (stop, served) = self.serving.take().unwrap();
        let _ = stop.send(());
        self.runtime.block_on(served).unwrap();
    }

    pub fn put(&self, kind: Kind, key: &str, value: &Value) -> Revision {
        self.runtime.block_on(self.store.put_if(kind, key, value, Expect::Any)).unwrap()
    }

    pub fn get(&self, kind: Kind, key: &str) -> Option<Value> {
        self.runtime.block_on(self.store.get(kind, key)).unwrap().map(|record| record.value)
    }

    pub fn list(&self, kind: Kind) -> Vec<(String, Value, u64)> {
        let records = self.runtime.block_on(self.store.list(kind)).unwrap();
        records.into_iter().map(|record| (record.key, record.value, record.revision.0)).collect()
    }

    pub fn delete(&self, kind: Kind, key: &str) {
        self.runtime.block_on(self.store.delete_if(kind, key, Expect::Any)).unwrap();
    }

    /// Another node: its record and its ranges.
    pub fn peer(&self, peer: &Peer) {
        let claims = peer.ranges.iter().map(|range| peer.claim(range));
        for (key, claim) in claims {
            self.put(Kind::Claims, &key, &claim);
        }
        let record = peer.record();
        assert!(NodeRecord::decode(peer.name, &record).is_ok(), "{record}");
        self.put(Kind::Nodes, peer.name, &record);
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        if let Some((stop, _)) = self.serving.take() {
            let _ = stop.send(());
        }
    }
}

/// A node that is not there but in the store.
#[derive(Clone)]
pub struct Peer {
    pub name: &'static str,
    /// Addresses with their subnets' lengths.
    pub addresses: Vec<&'static str>,
    pub ranges: Vec<&'static str>,
    /// Hardware address of its tunnel end, where it has one.
    pub vtep: Option<&'static str>,
}

impl Peer {
    pub fn record(&self) -> Value {
        let split = |text: &str| {
            let (ip, len) = text.split_once('/').unwrap();
            let prefix = Prefix::containing(ip.parse().unwrap(), len.parse().unwrap()).unwrap();
            (ip.to_owned(), prefix)
        };
        let addresses: Vec<Value> = self
            .addresses
            .iter()
            .map(|text| split(text))
            .map(|(ip, prefix)| json!({"ip": ip, "prefix": prefix}))
            .collect();
        let mut receives = vec![json!({"type": "plain"})];
        if let Some(mac) = self.vtep {
            let mut vxlan = json!({"type": "vxlan", "vni": 1, "port": 8472, "mac": mac});
            for address in &self.addresses {
                let (ip, _) = split(address);
                let key = if ip.contains(':') { "outerV6" } else { "outerV4" };
                vxlan[key] = ip.into();
            }
            for range in &self.ranges {
                let range: Prefix = range.parse().unwrap();
                let key = if range.addr().is_ipv4() { "innerV4" } else { "innerV6" };
                vxlan[key] = range.nth(1).unwrap().to_string().into();
            }
            receives.push(vxlan);
        }
        json!({
            "name": self.name, "identity": {"machineId": format!("machine-of-{}", self.name), "bootId": "boot-1"},
            "addresses": addresses, "receives": receives, "prefers": [], "networks": {}, "version": "0.1.0", "labels": {},
        })
    }

    fn claim(&self, range: &str) -> (String, Value) {
        let range: Prefix = range.parse().unwrap();
        let network = NetworkName::first();
        let key = claim_key(&network, range);
        let value = json!({
            "network": "default", "range": range, "node": self.name, "machine": format!("machine-of-{}", self.name),
            "boot": "boot-1", "run": 1, "state": "held",
        });
        assert!(RangeClaim::decode(&key, &value).is_ok(), "{value}");
        (key, value)
    }
}
