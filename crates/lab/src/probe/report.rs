//! What a prober found.

use serde::{Deserialize, Serialize};

use super::engine::{FlowOutcome, Outcome};
use super::flow::Histogram;

/// What a prober found, all pairs together and each by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Probes sent.
    pub sent: u64,
    /// Echoes that came back in time.
    pub received: u64,
    /// Probes without one.
    pub lost: u64,
    /// Echoes that came more than once.
    pub dup: u64,
    /// Echoes that came after a later one.
    pub reordered: u64,
    /// Packets between pods that arrived with another address than they were sent with.
    pub translated: u64,
    /// The longest time without an echo, of any pair, in milliseconds.
    pub max_gap_ms: f64,
    /// The longest time by which the prober itself was late with a probe, in milliseconds. A gap about as long says
    /// nothing about the network.
    pub stall_ms: f64,
    /// The time from probe to echo that half of all do not exceed, in microseconds.
    pub rtt_p50_us: Option<f64>,
    /// The same for 99 of 100.
    pub rtt_p99_us: Option<f64>,
    /// How long probes were sent, in seconds.
    pub seconds: f64,
    /// Each pair and family.
    pub pairs: Vec<PairReport>,
    /// What the system said when a packet could not be sent, each message once.
    pub errors: Vec<String>,
}

/// What a prober found between two endpoints in one family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// Who sent.
    pub from: String,
    /// Who echoed.
    pub to: String,
    /// `4` or `6`.
    pub family: String,
    /// Probes sent.
    pub sent: u64,
    /// Echoes that came back in time.
    pub received: u64,
    /// Probes without one.
    pub lost: u64,
    /// Echoes that came more than once.
    pub dup: u64,
    /// Echoes that came after a later one.
    pub reordered: u64,
    /// The longest time without an echo, in milliseconds.
    pub max_gap_ms: f64,
    /// When the first probe without an echo was sent, in milliseconds from the start; none where all came back.
    pub first_lost_ms: Option<f64>,
    /// The same of the last.
    pub last_lost_ms: Option<f64>,
    /// The time from probe to echo that half of all do not exceed, in microseconds.
    pub rtt_p50_us: Option<f64>,
    /// The same for 99 of 100.
    pub rtt_p99_us: Option<f64>,
}

impl Report {
    pub(super) fn of(mut outcome: Outcome, seconds: f64) -> Self {
        outcome.flows.sort_by_key(|flow| flow.id);
        let mut delays = Histogram::default();
        for flow in &outcome.flows {
            delays.merge(&flow.flow.delays);
        }
        let pairs: Vec<PairReport> = outcome.flows.iter().map(PairReport::of).collect();
        let sum = |field: fn(&PairReport) -> u64| pairs.iter().map(field).sum();
        Self {
            sent: sum(|pair| pair.sent),
            received: sum(|pair| pair.received),
            lost: sum(|pair| pair.lost),
            dup: sum(|pair| pair.dup),
            reordered: sum(|pair| pair.reordered),
            translated: outcome.translated + outcome.flows.iter().map(|flow| flow.translated).sum::<u64>(),
            max_gap_ms: pairs.iter().map(|pair| pair.max_gap_ms).fold(0.0, f64::max),
            stall_ms: millis(outcome.stall),
            rtt_p50_us: micros(&delays, 500),
            rtt_p99_us: micros(&delays, 990),
            seconds: (seconds * 1000.0).round() / 1000.0,
            pairs,
            errors: outcome.errors.into_iter().collect(),
        }
    }
}

impl PairReport {
    fn of(outcome: &FlowOutcome) -> Self {
        let flow = &outcome.flow;
        Self {
            from: outcome.pair.0.clone(),
            to: outcome.pair.1.clone(),
            family: if outcome.v4 { "4" } else { "6" }.into(),
            sent: flow.sent,
            received: flow.received,
            lost: flow.lost(),
            dup: flow.dup,
            reordered: flow.reordered,
            max_gap_ms: millis(flow.max_gap),
            first_lost_ms: flow.unanswered.map(|(first, _)| millis(first)),
            last_lost_ms: flow.unanswered.map(|(_, last)| millis(last)),
            rtt_p50_us: micros(&flow.delays, 500),
            rtt_p99_us: micros(&flow.delays, 990),
        }
    }
}

/// Nanoseconds as milliseconds, to the microsecond.
fn millis(nanos: u64) -> f64 {
    (nanos as f64 / 1000.0).round() / 1000.0
}

/// A share of a histogram in nanoseconds as microseconds, to the tenth.
fn micros(delays: &Histogram, share: u64) -> Option<f64> {
    delays.per_mille(share).map(|nanos| (nanos as f64 / 100.0).round() / 10.0)
}
