//! Readiness of pods: which probe goes when, and what its outcome means.
//!
//! As kubelet has it: a probe goes at once or after its delay, then every period; so many successes in a row make its container
//! ready, so many failures in a row end that. A pod is ready while all its containers with a probe are.
//!
//! Not here: sockets and clocks. Time is an argument, actions are values.
//!
//! Invariants: a probe is under way once at most, and at most [`AT_ONCE`] of all are; an outcome counts only for the probe that it is
//! of; a pod's readiness is reported when it changes, and never without an outcome.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_objects::{ProbeCheck, ReadinessProbe};
use ripstop_types::{Millis, PodName};

/// So many probes are under way at once, at most.
pub const AT_ONCE: usize = 64;

/// A pod whose readiness is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Where its probes go, unless they say otherwise.
    pub ip: IpAddr,
    /// Another one after it was attached anew: its probes begin anew then.
    pub container: Option<Arc<str>>,
    /// Its probes.
    pub probes: Vec<ReadinessProbe>,
    /// Number of the order that it came with; reports repeat it.
    pub order: u64,
    /// It was ready when the last run of the agent ended, and stays so until its probes say otherwise.
    pub was_ready: bool,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make this check, and say by [`Engine::finished`] how it ended.
    Check {
        /// Its number.
        id: u64,
        /// Where.
        at: SocketAddr,
        /// What.
        check: ProbeCheck,
        /// It has failed after so many milliseconds.
        timeout: u64,
    },
    /// A pod became ready, or is so no more.
    Report {
        /// The pod.
        pod: PodName,
        /// The order it came with.
        order: u64,
        /// Whether it is ready.
        ready: bool,
    },
}

/// The prober without IO.
#[derive(Debug, Default)]
pub struct Engine {
    pods: BTreeMap<PodName, Pod>,
    /// Probes under way: whose, and which.
    running: BTreeMap<u64, (PodName, usize)>,
    last: u64,
}

#[derive(Debug)]
struct Pod {
    watched: Watched,
    probes: Vec<State>,
    ready: bool,
}

#[derive(Debug)]
struct State {
    due: Millis,
    running: Option<u64>,
    ready: bool,
    /// Outcomes in a row that say the other thing.
    against: u32,
}

impl Engine {
    /// Probes these from now on.
    pub fn set(&mut self, now: Millis, pods: BTreeMap<PodName, Watched>) {
        self.pods.retain(|name, pod| pods.get(name) == Some(&pod.watched));
        self.running.retain(|_, (name, _)| self.pods.contains_key(name));
        for (name, watched) in pods {
            self.pods.entry(name).or_insert_with(|| {
                let ready = watched.was_ready;
                let state = |probe: &ReadinessProbe| {
                    // One that was probed before has begun long ago.
                    let delay = if ready { 0 } else { seconds(probe.delay) };
                    State { due: now.plus(delay), running: None, ready, against: 0 }
                };
                Pod { probes: watched.probes.iter().map(state).collect(), ready, watched }
            });
        }
    }

    /// When [`Self::tick`] should come next; `None`: not until a check has ended or others are set.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        let waiting = self.pods.values().flat_map(|pod| &pod.probes).filter(|probe| probe.running.is_none());
        waiting.map(|probe| probe.due).min().filter(|_| self.running.len() < AT_ONCE)
    }

    /// The checks to make now, those first that are late.
    pub fn tick(&mut self, now: Millis) -> Vec<Action> {
        let mut due: Vec<(Millis, &PodName, usize)> = Vec::new();
        for (name, pod) in &self.pods {
            let ready = pod.probes.iter().enumerate().filter(|(_, probe)| probe.running.is_none() && probe.due <= now);
            due.extend(ready.map(|(place, probe)| (probe.due, name, place)));
        }
        due.sort();
        due.truncate(AT_ONCE.saturating_sub(self.running.len()));
        let due: Vec<(PodName, usize)> = due.into_iter().map(|(_, name, place)| (name.clone(), place)).collect();
        let mut actions = Vec::with_capacity(due.len());
        for (name, place) in due {
            let Some(pod) = self.pods.get_mut(&name) else { continue };
            let (Some(state), Some(probe)) = (pod.probes.get_mut(place), pod.watched.probes.get(place)) else {
                continue;
            };
            self.last += 1;
            state.running = Some(self.last);
            state.due = now.plus(seconds(probe.period));
            let at = SocketAddr::new(probe.host.unwrap_or(pod.watched.ip), probe.port);
            let (check, timeout) = (probe.check.clone(), seconds(probe.timeout));
            actions.push(Action::Check { id: self.last, at, check, timeout });
            self.running.insert(self.last, (name, place));
        }
        actions
    }

    /// A check has ended.
    pub fn finished(&mut self, id: u64, succeeded: bool) -> Option<Action> {
        let (name, place) = self.running.remove(&id)?;
        let pod = self.pods.get_mut(&name)?;
        let (state, probe) = (pod.probes.get_mut(place)?, pod.watched.probes.get(place)?);
        if state.running != Some(id) {
            return None;
        }
        state.running = None;
        state.against = if succeeded == state.ready { 0 } else { state.against + 1 };
        let needed = if succeeded { probe.successes } else { probe.failures };
        if state.against >= needed.max(1) {
            (state.ready, state.against) = (succeeded, 0);
        }
        let ready = pod.probes.iter().all(|probe| probe.ready);
        if ready == pod.ready {
            return None;
        }
        pod.ready = ready;
        Some(Action::Report { pod: name, order: pod.watched.order, ready })
    }
}

fn seconds(seconds: u32) -> u64 {
    u64::from(seconds) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(successes: u32, failures: u32) -> ReadinessProbe {
        let check = ProbeCheck::Tcp;
        ReadinessProbe { check, host: None, port: 80, delay: 2, period: 10, timeout: 1, successes, failures }
    }

    fn watched(probes: Vec<ReadinessProbe>) -> Watched {
        Watched { ip: "10.0.0.1".parse().unwrap(), container: None, probes, order: 7, was_ready: false }
    }

    fn set(engine: &mut Engine, now: u64, name: &str, watched: Watched) {
        engine.set(Millis(now), BTreeMap::from([(name.parse().unwrap(), watched)]));
    }

    fn id(actions: &[Action]) -> u64 {
        let [Action::Check { id, .. }] = actions else { panic!("{actions:?}") };
        *id
    }

    fn report(ready: bool) -> Option<Action> {
        Some(Action::Report { pod: "a".parse().unwrap(), order: 7, ready })
    }

    #[test]
    fn thresholds_count_in_a_row() {
        let mut engine = Engine::default();
        set(&mut engine, 0, "a", watched(vec![probe(2, 2)]));
        assert_eq!((engine.due(), engine.tick(Millis(1_999)).len()), (Some(Millis(2_000)), 0), "the delay");
        let mut now = 2_000;
        let mut next = |engine: &mut Engine, ok: bool| {
            let id = id(&engine.tick(Millis(now)));
            assert!(engine.tick(Millis(now + 60_000)).is_empty(), "one at a time");
            now += 10_000;
            engine.finished(id, ok)
        };
        assert_eq!(next(&mut engine, true), None);
        assert_eq!(next(&mut engine, false), None, "begins anew");
        assert_eq!(next(&mut engine, true), None);
        assert_eq!(next(&mut engine, true), report(true));
        assert_eq!(next(&mut engine, false), None);
        assert_eq!(next(&mut engine, true), None);
        assert_eq!(next(&mut engine, false), None);
        assert_eq!(next(&mut engine, false), report(false));
        assert_eq!(engine.finished(99, true), None);
    }

    #[test]
    fn a_pod_that_is_another_begins_anew() {
        let mut engine = Engine::default();
        let first = watched(vec![probe(1, 1)]);
        set(&mut engine, 0, "a", first.clone());
        let before = id(&engine.tick(Millis(2_000)));
        set(&mut engine, 2_500, "a", first.clone());
        assert!(engine.tick(Millis(3_000)).is_empty(), "the same one goes on");
        set(&mut engine, 3_000, "a", Watched { container: Some("c2".into()), ..first.clone() });
        assert_eq!(engine.finished(before, true), None, "an outcome of the one before");
        assert_eq!(engine.due(), Some(Millis(5_000)));
        let was = Watched { was_ready: true, probes: vec![probe(1, 1), probe(1, 1)], ..first };
        set(&mut engine, 6_000, "a", was);
        let checks = engine.tick(Millis(6_000));
        assert_eq!(checks.len(), 2, "at once");
        assert_eq!(engine.finished(id(&checks[..1]), true), None, "as it was");
        assert_eq!(engine.finished(id(&checks[1..]), false), report(false), "all must be ready");
    }

    #[test]
    fn few_are_under_way_at_once() {
        let mut engine = Engine::default();
        let pods = (0..100).map(|n| (format!("p{n}").parse().unwrap(), watched(vec![probe(1, 1)])));
        engine.set(Millis(0), pods.collect());
        let first = engine.tick(Millis(2_000));
        assert_eq!((first.len(), engine.due()), (AT_ONCE, None));
        assert!(engine.finished(id(&first[..1]), true).is_some());
        assert_eq!(engine.tick(Millis(2_001)).len(), 1);
        engine.set(Millis(3_000), BTreeMap::new());
        assert_eq!((engine.due(), engine.running.len()), (None, 0));
    }
}
