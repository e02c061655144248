//! Counters that threads add to and the control socket reads. They are exact, but not of one instant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::control::{PeerStats, Reason, Setup, Stats};

/// Packets dropped, by reason.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; Reason::ALL.len()]);

impl Drops {
    /// Counts some.
    pub fn add(&self, reason: Reason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> BTreeMap<Reason, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    fn load(&self, from: &BTreeMap<Reason, u64>) {
        from.iter().for_each(|(reason, count)| self.add(*reason, *count));
    }
}

/// Packets and bytes one way.
#[derive(Debug, Default)]
pub struct Way {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Way {
    /// Counts some.
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Counters of one peer.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Sent to it.
    pub sent: Way,
    /// Received from it.
    pub received: Way,
    /// Dropped on its account.
    pub dropped: Drops,
}

/// All counters. Those of a peer outlive set-ups without it: it may come back.
#[derive(Debug, Default)]
pub struct Counters {
    /// Dropped without a peer.
    pub dropped: Drops,
    peers: std::sync::Mutex<BTreeMap<String, Arc<PeerCounters>>>,
}

impl Counters {
    /// Those of a set-up's peers, in its order. Peers that are not in it are forgotten, if they never counted anything.
    pub fn of(&self, setup: &Setup) -> Vec<Arc<PeerCounters>> {
        let mut peers = self.peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        peers.retain(|_, counters| stats(counters) != PeerStats::default());
        setup.peers.iter().map(|peer| Arc::clone(peers.entry(peer.name.clone()).or_default())).collect()
    }

    /// What was counted so far.
    pub fn read(&self) -> Stats {
        let peers = self.peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let peers = peers.iter().map(|(name, counters)| (name.clone(), stats(counters))).collect();
        Stats { peers, dropped: self.dropped.read() }
    }

    /// Goes on from what another forwarder counted.
    pub fn load(&self, stats: &Stats) {
        self.dropped.load(&stats.dropped);
        let mut peers = self.peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, from) in &stats.peers {
            let counters = peers.entry(name.clone()).or_default();
            counters.sent.add(from.sent, from.sent_bytes);
            counters.received.add(from.received, from.received_bytes);
            counters.dropped.load(&from.dropped);
        }
    }
}

fn stats(counters: &PeerCounters) -> PeerStats {
    let ((sent, sent_bytes), (received, received_bytes)) = (counters.sent.read(), counters.received.read());
    PeerStats { sent, sent_bytes, received, received_bytes, dropped: counters.dropped.read() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_places_of_their_numbers() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }

    #[test]
    fn counters_go_on_from_those_of_another() {
        let (one, two) = (Counters::default(), Counters::default());
        one.dropped.add(Reason::Stranger, 2);
        let mut stats = one.read();
        stats.peers.insert("n2".into(), PeerStats { sent: 3, sent_bytes: 90, ..PeerStats::default() });
        two.load(&stats);
        assert_eq!(two.read(), stats);
    }
}
