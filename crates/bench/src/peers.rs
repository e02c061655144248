//! Simulated peers: records in the store as agents of other nodes would write them, and their signs of life.
//!
//! Every record is a copy of one that a real agent wrote, with another name and other addresses, so it has whatever such
//! records have in this version.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ripstop_objects::{AliveRecord, NodeRecord, RangeClaim, Receive, Record, alive_key, node_key};
use ripstop_store::{Kind, Remote, Store};
use ripstop_types::{Mac, NodeName, Prefix};
use tokio::task::JoinSet;

use crate::records::{self, Records};
use crate::scene::wait_for;

/// The network identifier of the default network.
const VNI: u32 = 1;

/// Who writes them.
pub struct Peers(Records);

impl Peers {
    /// Connects to a scene's store.
    pub fn connect(socket: &Path) -> Result<Self> {
        Ok(Self(Records::connect(socket)?))
    }

    /// Connects to etcd, from where the calling thread is and stays.
    pub fn connect_etcd(endpoint: &str) -> Result<Self> {
        Ok(Self(Records::connect_etcd(endpoint)?))
    }

    /// Writes peers of these numbers after the pattern of a real node, once that says that it receives the backend: it is
    /// ready for pods a little before.
    pub fn write(&self, pattern: &str, backend: &str, numbers: Range<u32>) -> Result<()> {
        let whole = || self.node(pattern).is_ok_and(|node| backend != "vxlan" || node.vxlan(VNI).is_some());
        wait_for("the pattern's record", Duration::from_secs(10), whole)?;
        let node = self.node(pattern)?;
        let claims = self.0.list(Kind::Claims)?;
        let mut claims = claims.iter().filter_map(|record| RangeClaim::decode(&record.key, &record.value).ok());
        let claim = claims.find(|claim| claim.node.as_str() == pattern).context("the pattern's claim")?;
        // In the order in which agents do: the claim is there before peers look for it.
        for kind in [Kind::Claims, Kind::Nodes] {
            let records = numbers.clone().map(|peer| {
                Ok(if kind == Kind::Claims {
                    let claim = peer_claim(&claim, peer)?;
                    (kind, claim.key(), claim.encode())
                } else {
                    let node = peer_node(&node, peer)?;
                    (kind, node.key(), node.encode())
                })
            });
            self.0.put_all(records.collect::<Result<Vec<_>>>()?)?;
        }
        Ok(())
    }

    fn node(&self, name: &str) -> Result<NodeRecord> {
        let nodes = self.0.list(Kind::Nodes)?;
        let node = nodes.iter().find(|record| record.key == name).context("the pattern's record")?;
        NodeRecord::decode(&node.key, &node.value).map_err(|faults| anyhow!("{faults}"))
    }

    /// Removes everything that a node wrote.
    pub fn forget(&self, node: &str) -> Result<()> {
        let name: NodeName = node.parse()?;
        let claims = self.0.list(Kind::Claims)?;
        let own =
            |record: &&ripstop_store::Record| ripstop_store::node_of(&record.value).is_ok_and(|owner| owner == name);
        for claim in claims.iter().filter(own) {
            self.0.delete(Kind::Claims, &claim.key)?;
        }
        self.0.delete(Kind::Nodes, &node_key(&name))?;
        self.0.delete(Kind::Alive, &alive_key(&name))
    }
}

/// The range of a peer: 10.HIGH.LOW.0/24.
fn range(peer: u32) -> Result<Prefix> {
    let [.., high, low] = peer.to_be_bytes();
    Prefix::containing(Ipv4Addr::new(10, high, low, 0).into(), 24).context("a peer's range")
}

fn name(peer: u32) -> Result<NodeName> {
    Ok(format!("peer{peer:05}").parse()?)
}

/// The address of a peer, in the subnet of the measured node: 172.30.1.0 and on.
fn address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 30, 1, 0).to_bits() + peer)
}

fn peer_node(pattern: &NodeRecord, peer: u32) -> Result<NodeRecord> {
    let mut node = pattern.clone();
    node.name = name(peer)?;
    node.identity.machine_id = format!("machine-{peer:05}");
    node.identity.boot_id = format!("boot-{peer:05}");
    for at in &mut node.addresses {
        at.ip = address(peer).into();
    }
    for receive in &mut node.receives {
        if let Receive::Vxlan(vxlan) = receive {
            let [.., high, low] = peer.to_be_bytes();
            vxlan.mac = format!("02:52:50:00:{high:02x}:{low:02x}").parse::<Mac>()?;
            vxlan.outer_v4 = Some(address(peer));
            vxlan.inner_v4 = range(peer)?.nth(1).and_then(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            });
        }
    }
    Ok(node)
}

fn peer_claim(pattern: &RangeClaim, peer: u32) -> Result<RangeClaim> {
    let mut claim = pattern.clone();
    claim.node = name(peer)?;
    claim.range = range(peer)?;
    claim.machine = format!("machine-{peer:05}");
    claim.boot = format!("boot-{peer:05}");
    Ok(claim)
}

/// Signs of life of simulated peers, each once in an interval and spread over it, until the value goes.
pub struct Signs {
    stop: Arc<AtomicBool>,
    given: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Signs {
    /// Starts giving them.
    #[must_use]
    pub fn start(socket: &Path, peers: u32, interval: Duration) -> Self {
        let (stop, given) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (socket, stopped, count) = (PathBuf::from(socket), stop.clone(), given.clone());
        let thread =
            thread::spawn(move || records::runtime()?.block_on(give(&socket, peers, interval, &stopped, &count)));
        Self { stop, given, thread: Some(thread) }
    }

    /// Stops, and answers how many were given.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("signs of life ended early"))??;
        }
        Ok(self.given.load(Ordering::Relaxed))
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn give(socket: &Path, peers: u32, interval: Duration, stop: &AtomicBool, given: &AtomicU64) -> Result<()> {
    let store = Arc::new(Remote::connect(socket).await?);
    let begun = Instant::now();
    let mut writes = JoinSet::new();
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let due = begun + interval.mul_f64(number as f64 / f64::from(peers));
        tokio::time::sleep_until(due.into()).await;
        let peer = u32::try_from(number % u64::from(peers))?;
        let sign =
            AliveRecord { node: name(peer)?, sequence: number / u64::from(peers), boot_id: format!("boot-{peer:05}") };
        let store = store.clone();
        writes.spawn(async move { store.alive(&sign.node, &sign.encode()).await });
        while let Some(written) = writes.try_join_next() {
            written??;
            given.fetch_add(1, Ordering::Relaxed);
        }
    }
    while let Some(written) = writes.join_next().await {
        written??;
        given.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_peers_have_ranges_addresses_and_names_of_their_own() {
        let all = |of: &dyn Fn(u32) -> String| (0..10_000).map(of).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(all(&|peer| range(peer).unwrap().to_string()), 10_000);
        assert_eq!(all(&|peer| address(peer).to_string()), 10_000);
        assert_eq!(all(&|peer| name(peer).unwrap().to_string()), 10_000);
        assert!(Prefix::containing(Ipv4Addr::new(172, 30, 0, 0).into(), 16).unwrap().contains(address(9_999).into()));
    }
}
