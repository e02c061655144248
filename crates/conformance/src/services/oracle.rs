//! The oracle as a data plane: the suite tests its expectations by it, and it by its expectations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ripstop_oracle::services::flows::{self, Flow};
use ripstop_oracle::services::health::{self, Answer};
use ripstop_oracle::services::{Memory, Outcome, Packet, Source, World, judge, sysctls};
use ripstop_types::{Family, Millis};

use super::plane::{DataPlane, Fate, Knowledge, Seen};
use crate::case::{Verdict, fail};

/// What a correct data plane does.
#[derive(Debug, Default)]
pub struct Oracle {
    /// What the objects say now.
    told: Option<World>,
    /// What the rules are made of.
    ruling: Option<World>,
    /// What changed while the API server was away.
    untold: Option<World>,
    is_away: bool,
    knowledge: Option<Knowledge>,
    memory: Memory,
    flows: BTreeSet<Flow>,
    now: Millis,
    sent: usize,
}

impl Oracle {
    fn take(&mut self, world: &World) {
        self.told = Some(world.clone());
        if !world.listed.is_whole() {
            self.knowledge = Some(Knowledge::Kept);
            return;
        }
        let before = self.ruling.as_ref().unwrap_or(world);
        self.flows.retain(|flow| !flows::is_stale(before, world, flow));
        self.memory.forget(world);
        self.ruling = Some(world.clone());
        self.knowledge = Some(Knowledge::Replaced);
    }

    /// One of the endpoints: each in its turn.
    fn choose(&mut self, endpoints: &BTreeMap<SocketAddr, Source>) -> Option<(SocketAddr, Source)> {
        self.sent += 1;
        let place = self.sent.checked_rem(endpoints.len())?;
        endpoints.iter().nth(place).map(|(endpoint, source)| (*endpoint, *source))
    }
}

impl DataPlane for Oracle {
    fn install(&mut self, world: &World) -> Verdict {
        *self = Self::default();
        self.take(world);
        Ok(())
    }

    fn change(&mut self, world: &World) -> Verdict {
        if self.is_away {
            self.untold = Some(world.clone());
            self.knowledge = Some(Knowledge::Kept);
        } else {
            self.take(world);
        }
        Ok(())
    }

    fn send(&mut self, packet: &Packet) -> Verdict<Seen> {
        let Some(world) = self.ruling.clone() else {
            return Ok(Seen { fate: Fate::Passed, outcome: Some(Outcome::Untouched) });
        };
        let judgement = judge(&world, &self.memory, packet, self.now);
        let fate = match &judgement.outcome {
            Outcome::Rejected => Fate::Refused,
            Outcome::Dropped => Fate::Nothing,
            Outcome::Untouched => Fate::Passed,
            Outcome::To(endpoints) => {
                let Some((endpoint, source)) = self.choose(endpoints) else { return fail("no endpoint is named") };
                if let Some(port) = &judgement.port {
                    self.memory.note(&world, port, packet.source, endpoint, self.now);
                }
                let node = world.primary(packet.family()).unwrap_or(packet.source);
                Fate::Arrived { endpoint, source: if source == Source::Kept { packet.source } else { node } }
            }
        };
        Ok(Seen { fate, outcome: Some(judgement.outcome) })
    }

    fn follow(&mut self, packet: &Packet, endpoint: SocketAddr) {
        if let Some(world) = &self.ruling
            && let Some(port) = judge(world, &self.memory, packet, self.now).port
        {
            self.memory.note(world, &port, packet.source, endpoint, self.now);
        }
    }

    fn wait(&mut self, time: Duration) -> Verdict {
        self.now = self.now.plus(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn restart(&mut self) -> Verdict {
        Ok(())
    }

    fn store(&mut self, back: bool) -> Verdict {
        self.is_away = !back;
        if let Some(world) = self.untold.take_if(|_| back) {
            self.take(&world);
        }
        Ok(())
    }

    fn knowledge(&mut self) -> Verdict<Knowledge> {
        self.knowledge.map_or_else(|| fail("nothing was told yet"), Ok)
    }

    fn health(&mut self, port: u16, path: &str, family: Family) -> Verdict<Option<Answer>> {
        Ok(self.ruling.as_ref().and_then(|world| health::answer(world, port, path, family)))
    }

    fn track(&mut self, flows: &[Flow]) -> Verdict {
        self.flows.extend(flows);
        Ok(())
    }

    fn tracked(&mut self) -> Verdict<BTreeSet<Flow>> {
        Ok(self.flows.clone())
    }

    fn sysctls(&mut self, cores: u64, present: &BTreeMap<String, u64>) -> Verdict<BTreeMap<String, u64>> {
        Ok(self.told.as_ref().map(|world| sysctls::writes(&world.conntrack, cores, present)).unwrap_or_default())
    }
}
