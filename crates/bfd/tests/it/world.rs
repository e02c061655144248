//! Two systems, a wire between them that loses, delays, reorders and doubles packets, and time that does not pass by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ripstop_bfd::{Action, Arrival, Diagnostic, Engine, SessionConfig, SessionId, State, Timers, View};

pub const MS: Duration = Duration::from_millis(1);

/// What happens to a packet: after which times it arrives; nothing if it is lost, more than one if it is doubled.
pub type Fate<'a> = dyn FnMut(Duration, usize) -> Vec<Duration> + 'a;

/// A system came up or fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub at: Duration,
    pub side: usize,
    pub state: State,
    pub diagnostic: Diagnostic,
    /// The detection time before it.
    pub detection: Duration,
    /// The other side's then.
    pub other: Duration,
}

pub struct World {
    pub now: Duration,
    pub engines: [Engine; 2],
    pub ids: [SessionId; 2],
    pub changes: Vec<Change>,
    pub sent: [u64; 2],
    views: [View; 2],
    under_way: BTreeMap<(Duration, u64), (usize, Vec<u8>)>,
    count: u64,
}

fn address(side: usize) -> IpAddr {
    ["192.0.2.1", "192.0.2.2"][side].parse().unwrap()
}

impl World {
    pub fn new(seeds: [u64; 2], timers: [Timers; 2]) -> Self {
        let mut engines = seeds.map(Engine::new);
        let ids = [0, 1].map(|side| {
            let config = SessionConfig::single_hop(1, address(side), address(1 - side), timers[side]);
            engines[side].add(Duration::ZERO, config).unwrap()
        });
        let views = [0, 1].map(|side| engines[side].view(ids[side]).unwrap());
        Self {
            now: Duration::ZERO,
            engines,
            ids,
            changes: Vec::new(),
            sent: [0; 2],
            views,
            under_way: BTreeMap::new(),
            count: 0,
        }
    }

    pub fn view(&self, side: usize) -> View {
        self.views[side]
    }

    pub fn both(&self, state: State) -> bool {
        self.views.iter().all(|view| view.state == state)
    }

    /// Lets everything happen until then.
    pub fn run(&mut self, until: Duration, fate: &mut Fate<'_>) {
        loop {
            let arrives = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let due = self.engines.iter().filter_map(Engine::due).min();
            let Some(next) = arrives.into_iter().chain(due).min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            // What has arrived is taken in before time passes.
            if let Some(first) = self.under_way.first_entry()
                && first.key().0 <= self.now
            {
                let (side, bytes) = first.remove();
                let arrival = Arrival {
                    multihop: false,
                    interface: 1,
                    source: address(1 - side),
                    destination: address(side),
                    ttl: 255,
                };
                let actions = self.engines[side].received(self.now, &arrival, &bytes);
                self.carry(side, actions, fate);
                continue;
            }
            for side in [0, 1] {
                let actions = self.engines[side].tick(self.now);
                self.carry(side, actions, fate);
            }
        }
        self.now = self.now.max(until);
    }

    /// Does something to one side.
    pub fn act(&mut self, side: usize, fate: &mut Fate<'_>, what: impl FnOnce(&mut Engine, SessionId) -> Vec<Action>) {
        let actions = what(&mut self.engines[side], self.ids[side]);
        self.carry(side, actions, fate);
    }

    fn carry(&mut self, side: usize, actions: Vec<Action>, fate: &mut Fate<'_>) {
        for action in actions {
            match action {
                Action::Send { bytes, .. } => {
                    self.sent[side] += 1;
                    for delay in fate(self.now, side) {
                        self.count += 1;
                        self.under_way.insert((self.now + delay, self.count), (1 - side, bytes.to_vec()));
                    }
                }
                Action::Changed { state, diagnostic, .. } => self.changes.push(Change {
                    at: self.now,
                    side,
                    state,
                    diagnostic,
                    detection: self.views[side].detection,
                    other: self.views[1 - side].detection,
                }),
            }
        }
        self.views[side] = self.engines[side].view(self.ids[side]).unwrap();
    }
}
