//! The product's rules for nftables in the simulator.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_conformance::services::{DataPlane, Fate, Oracle, Seen, Stop, compare};
use ripstop_netmodel::{Model, NftPart, NftTable, Object};
use ripstop_nft::model::{Data, ElementBody, ElementKey, Name, NumGen, Table, Verdict, build::FibAddrType};
use ripstop_nft::sim::{Connection, Host, Link, Packet as Wire, Route, Ruleset, Tracking, Transport, World as Around};
use ripstop_objects::ConntrackConfig;
use ripstop_objects::service::Protocol;
use ripstop_oracle::services::{Origin, Outcome, Packet, Source, State, World};
use ripstop_planes::{Compiler, Spoil, possible_in, settings, wanted};
use ripstop_services::conntrack;
use ripstop_types::Family;

use crate::judged;

/// Scenarios drawn, beside the oracle.
const SCENARIOS: u32 = 5_000;

/// The rules in the simulator.
#[derive(Default)]
pub struct Simulated {
    world: Option<World>,
    model: Model,
    /// The model as the simulator takes it.
    tables: Vec<Table>,
    elements: BTreeMap<ElementKey, ElementBody>,
    sent: usize,
    /// What somebody did to the model.
    fault: Option<Spoil>,
}

impl Simulated {
    /// The rules with a fault in them.
    pub fn spoilt(fault: Spoil) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    fn take(&mut self, world: &World) -> Result<(), Stop> {
        self.model = wanted(Compiler::Nftables, world, &self.model)?;
        if let Some(fault) = &self.fault {
            fault(&mut self.model);
        }
        self.load();
        self.world = Some(world.clone());
        Ok(())
    }

    /// Rules and elements. Chains that draw one of more endpoints than there are here only cost time.
    fn load(&mut self) {
        let mut tables: BTreeMap<_, Table> = BTreeMap::new();
        self.elements.clear();
        for (_, entry) in self.model.iter() {
            match &entry.object {
                Object::NftTable(NftTable { table }) => {
                    tables.insert((table.family, table.name.clone()), table.clone());
                }
                Object::NftPart(NftPart { part, .. }) => {
                    self.elements.extend(part.elements());
                    let key = (part.family, part.table.clone());
                    let table = tables.remove(&key).unwrap().with_part(part);
                    tables.insert(key, table);
                }
                Object::NftElement(element) => {
                    self.elements.insert(element.key.clone(), element.body.clone());
                }
                _ => {}
            }
        }
        let counts = self.elements.values().filter_map(|body| match &body.data {
            Some(Data::Verdict(Verdict::Goto(chain))) => drawn_by(chain),
            _ => None,
        });
        let most = counts.max().unwrap_or(0);
        self.tables = tables.into_values().collect();
        for table in &mut self.tables {
            table.chains.retain(|chain, _| drawn_by(chain).is_none_or(|count| count <= most));
        }
    }

    /// What becomes of a packet whose endpoint is drawn by this number, and of how many numbers that is one.
    fn walk(world: &World, ruleset: &Ruleset<'_>, packet: &Packet, number: u32) -> Result<(Outcome, u32), Stop> {
        let around = Surroundings::of(world, number);
        let transport = match packet.protocol {
            Protocol::Tcp => Transport::syn(40_000, packet.port),
            Protocol::Udp => Transport::Udp { src: 40_000, dst: packet.port },
            Protocol::Sctp => Transport::Sctp { src: 40_000, dst: packet.port },
        };
        let to = (packet.destination, packet.port);
        let tracking = match packet.state {
            State::New => Tracking::Connection(Connection { original_destination: Some(to), ..Connection::new() }),
            State::Invalid => Tracking::Invalid,
        };
        let received =
            |link| Wire { tracking: tracking.clone(), ..Wire::received(link, packet.source, to.0, transport) };
        let walk = match packet.origin {
            Origin::Pod => ruleset.receive(received(pods()), &around),
            Origin::Outside => ruleset.receive(received(uplink()), &around),
            Origin::Node => ruleset.send(Wire { tracking, ..Wire::sent(packet.source, to.0, transport) }, &around),
        };
        let walk = walk.map_err(|error| faulty(packet, &error))?;
        let now =
            (walk.transit.packet.destination().unwrap(), walk.transit.packet.transport().unwrap().ports().unwrap().1);
        let outcome = match walk.fate {
            ripstop_nft::sim::Fate::Dropped => Outcome::Dropped,
            ripstop_nft::sim::Fate::Rejected(_) => Outcome::Rejected,
            _ if now == to => Outcome::Untouched,
            _ => {
                let source = if walk.transit.masquerade.is_some() || packet.origin == Origin::Node {
                    Source::Node
                } else {
                    Source::Kept
                };
                Outcome::To(BTreeMap::from([(SocketAddr::from(now), source)]))
            }
        };
        Ok((outcome, around.drawn.get()))
    }
}

impl DataPlane for Simulated {
    fn install(&mut self, world: &World) -> Result<(), Stop> {
        *self = Self { fault: self.fault.take(), ..Self::default() };
        self.change(world)
    }

    fn change(&mut self, world: &World) -> Result<(), Stop> {
        possible_in(Compiler::Nftables, world)?;
        if world.services.iter().any(|service| service.affinity.is_some()) {
            return Err(Stop::Skip("what one packet adds to a map no other sees in the simulator".into()));
        }
        self.take(world)
    }

    fn sysctls(&mut self, cores: u64, present: &BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>, Stop> {
        let Some(world) = &self.world else { return Err(Stop::Skip("there is no world".into())) };
        // The size of the table is that of its module's parameter.
        let (outside, inside) = ("hashsize", "buckets");
        let known =
            |name: &str| if name == outside { inside } else { name.strip_prefix("nf_conntrack_").unwrap() }.into();
        let zero = conntrack::least(&ConntrackConfig::default(), 1).map(|(name, _)| (Arc::from(name), 0));
        let mut there: BTreeMap<Arc<str>, u64> = zero.into();
        there.extend(present.iter().map(|(name, value)| (known(name), *value)));
        let raised = conntrack::raised(&settings(world)?, cores, &there);
        let named = |name: &str| if name == inside { outside.into() } else { format!("nf_conntrack_{name}") };
        Ok(raised.into_iter().map(|(name, value)| (named(name), value)).collect())
    }

    fn send(&mut self, packet: &Packet) -> Result<Seen, Stop> {
        let Some(world) = self.world.clone() else { return Err(Stop::Skip("there is no world".into())) };
        let ruleset = Ruleset::new(&self.tables, &self.elements).map_err(|error| faulty(packet, &error))?;
        let (first, numbers) = Self::walk(&world, &ruleset, packet, 0)?;
        let Outcome::To(mut endpoints) = first.clone() else {
            let fate = match first {
                Outcome::Rejected => Fate::Refused,
                Outcome::Dropped => Fate::Nothing,
                _ => Fate::Passed,
            };
            return Ok(Seen { fate, outcome: Some(first) });
        };
        for number in 1..numbers {
            match Self::walk(&world, &ruleset, packet, number)?.0 {
                Outcome::To(more) => endpoints.extend(more),
                other => return Err(Stop::Fail(format!("of {numbers} numbers {number} leads elsewhere: {other}"))),
            }
        }
        self.sent += 1;
        let (endpoint, source) = endpoints.iter().nth(self.sent % endpoints.len()).unwrap();
        let source = if *source == Source::Kept { packet.source } else { world.primary(packet.family()).unwrap() };
        Ok(Seen { fate: Fate::Arrived { endpoint: *endpoint, source }, outcome: Some(Outcome::To(endpoints)) })
    }
}

fn faulty(packet: &Packet, error: &dyn std::fmt::Display) -> Stop {
    Stop::Fail(format!("{packet:?}: {error}"))
}

/// How many endpoints a chain draws one of, where that is what it does.
pub fn drawn_by(chain: &Name) -> Option<usize> {
    chain.as_str().strip_prefix("endpoints-").or_else(|| chain.as_str().strip_prefix("local-"))?.parse().ok()
}

fn link(name: &str, index: u32) -> Link {
    Link { name: name.parse().unwrap(), index }
}

fn pods() -> Link {
    link("pods", 2)
}

fn uplink() -> Link {
    link("eth0", 3)
}

/// What the rules ask of the host.
struct Surroundings {
    host: Host,
    number: u32,
    /// Of how many numbers one was drawn.
    drawn: Cell<u32>,
}

impl Surroundings {
    fn of(world: &World, number: u32) -> Self {
        let own = world.addresses.clone();
        let loopback: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let links = vec![(uplink(), own), (link("lo", 1), loopback)];
        let defaults = ["0.0.0.0/0", "::/0"].map(|prefix| (prefix.parse().unwrap(), uplink()));
        let own = world.pod_ranges.iter().map(|range| (*range, pods()));
        let host = Host { links, routes: defaults.into_iter().chain(own).collect() };
        Self { host, number, drawn: Cell::new(1) }
    }
}

impl Around for Surroundings {
    fn route(&self, packet: &Wire) -> Option<Route> {
        self.host.route(packet)
    }

    fn address_type(&self, address: IpAddr, on: Option<&Link>) -> Option<FibAddrType> {
        self.host.address_type(address, on)
    }

    fn primary_address(&self, link: &Link, family: Family) -> Option<IpAddr> {
        // A link of pods has none of its own: the kernel takes another link's.
        self.host.primary_address(link, family).or_else(|| self.host.primary_address(&uplink(), family))
    }

    fn loopback(&self) -> Option<Link> {
        self.host.loopback()
    }

    fn number(&self, number: &NumGen) -> Option<u32> {
        self.drawn.set(number.modulus);
        Some(number.offset + self.number)
    }
}

#[test]
fn the_rules_do_in_the_simulator_what_every_case_expects() {
    judged(&mut Simulated::default());
}

#[test]
fn the_rules_do_in_the_simulator_what_the_oracle_says() {
    let outcome = compare(&mut Oracle::default(), &mut Simulated::default(), 1, SCENARIOS);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}
