//! Which addresses of pools a Service of type LoadBalancer gets.
//!
//! - [`Pools`]: the pools, and what of them nobody gets because something else has it;
//! - [`Wanted`]: what a Service asks for;
//! - [`decide`]: what it gets, or why not;
//! - [`claim`]: who has which address, as the store keeps it;
//! - [`assign`]: how that is carried out, by whoever does it and however many do at once.
//!
//! First the addresses that the Service names, then those it has, then one that others of its sharing key have, then the first that is
//! free in the first pool that serves it. An address that left its pools is given back, and the Service gets another.
//!
//! Not here: the store, and how the outside learns of an address.
//!
//! Invariants: what is given lies in a pool that serves the Service and is nobody else's, but for those who share it; the same pools and
//! claims give the same addresses.

pub mod assign;
pub mod claim;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::pool::{AddressPool, AddressRange};
use ripstop_objects::service::{Assigned, BALANCER_CLASS, Balancer, Ingress, Protocol, Service};
use ripstop_objects::{Fault, KubeNamespace, Network};
use ripstop_tables::Tables;
use ripstop_types::{Family, ServiceName};

use claim::{AddressClaim, Claims};

/// What a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub service: ServiceName,
    /// One address of each of these.
    pub families: Vec<Family>,
    /// What it says beside.
    pub balancer: Balancer,
    /// Its ports.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// The addresses that it has.
    pub shown: Vec<Ingress>,
}

impl Wanted {
    /// What a Service asks of us; none of one that is not of the type, that another class of balancers is for, or that clients find
    /// by DNS alone.
    #[must_use]
    pub fn of(service: &Service) -> Option<Self> {
        let balancer = service.balancer.as_deref()?;
        let ours = balancer.class.as_deref().is_none_or(|class| class == BALANCER_CLASS);
        let families: Vec<Family> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
        (ours && !service.headless && !families.is_empty()).then(|| Self {
            service: service.name.clone(),
            families,
            balancer: balancer.clone(),
            ports: service.ports.iter().map(|port| (port.protocol, port.port)).collect(),
            shown: service.ingress.clone(),
        })
    }
}

/// Why a Service does not get an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// No pool that serves it has addresses of this family.
    NoPool(Family),
    /// Those that do are full.
    Full(Family, Vec<Arc<str>>),
    /// Something is wrong with those that do.
    Refused(Family, Vec<Arc<str>>),
    /// It names a pool that is not there.
    UnknownPool(Arc<str>),
    /// It names an address of no pool that serves it.
    Outside(IpAddr),
    /// It names one that others have.
    Taken(IpAddr, ServiceName),
    /// It names one that something else of the cluster has.
    Reserved(IpAddr, Arc<str>),
}

impl Lack {
    /// In one word, as Events have it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoPool(_) | Self::UnknownPool(_) | Self::Refused(..) => "NoAddressPool",
            Self::Full(..) => "AddressPoolFull",
            Self::Outside(_) | Self::Reserved(..) => "AddressNotInPool",
            Self::Taken(..) => "AddressTaken",
        }
    }
}

/// A sentence.
impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool(family) => write!(f, "no address pool that serves it has {family} addresses"),
            Self::Full(family, pools) => {
                write!(f, "no {family} address is free in the address pools that serve it: {}", pools.join(", "))
            }
            Self::Refused(family, pools) => {
                let pools = pools.join(", ");
                write!(
                    f,
                    "the address pools with {family} addresses that serve it give none: {pools}; `ripstop get addresspools` says why"
                )
            }
            Self::UnknownPool(name) => write!(f, "it asks for an address of the pool {name}, which is not there"),
            Self::Outside(ip) => write!(f, "it asks for {ip}, which is in no address pool that serves it"),
            Self::Taken(ip, holder) => {
                write!(f, "it asks for {ip}, which service {holder} has and does not share with it")
            }
            Self::Reserved(ip, what) => write!(f, "it asks for {ip}, which is {what}"),
        }
    }
}

/// What a Service gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Its addresses, in the order of its families, each with its pool.
    pub given: Vec<(Ingress, Arc<str>)>,
    /// Why there are not more.
    pub lacks: Vec<Lack>,
}

impl Decision {
    /// As its status shows it.
    #[must_use]
    pub fn ingress(&self) -> Vec<Ingress> {
        self.given.iter().map(|(ingress, _)| *ingress).collect()
    }

    /// Why there are not more: in one word, and in sentences.
    #[must_use]
    pub fn lack(&self) -> Option<(&'static str, Arc<str>)> {
        let texts: Vec<String> = self.lacks.iter().map(ToString::to_string).collect();
        Some((self.lacks.first()?.reason(), texts.join("; ").into()))
    }

    /// What the Service's condition is to say, where it has to be written; what it says already stays, and one that has what it wants
    /// and says nothing needs no write for that.
    #[must_use]
    pub fn assigned(&self, service: &Service) -> Option<Assigned> {
        let before = service.assigned.as_deref();
        let mut says = match self.lack() {
            // Somebody else gave it what it has.
            Some(_) if self.given.is_empty() && !service.ingress.is_empty() => return before.cloned(),
            Some((reason, message)) => Assigned { holds: false, reason: reason.into(), message, since: "".into() },
            None if self.given.is_empty() => return None,
            None => {
                let of = |(ingress, pool): &(Ingress, Arc<str>)| format!("{} of the address pool {pool}", ingress.ip);
                let message = self.given.iter().map(of).collect::<Vec<_>>().join(", ").into();
                Assigned { holds: true, reason: "Assigned".into(), message, since: "".into() }
            }
        };
        if let Some(before) = before.filter(|before| before.holds == says.holds) {
            says.since = before.since.clone();
        }
        Some(says)
    }

    /// Whether the Service's condition says something else than it should.
    #[must_use]
    pub fn is_unsaid(&self, service: &Service) -> bool {
        match (service.assigned.as_deref(), self.assigned(service)) {
            (None, says) => says.is_some_and(|says| !says.holds),
            (Some(before), says) => says.is_none_or(|says| !before.says_as(&says)),
        }
    }
}

/// The pools, and what they cannot give.
#[derive(Debug, Clone, Default)]
pub struct Pools {
    /// In the order in which they are asked.
    pools: Vec<Arc<AddressPool>>,
    namespaces: BTreeMap<Arc<str>, KubeNamespace>,
    /// Ranges that something else has, and what it is.
    reserved: Vec<(AddressRange, Arc<str>)>,
    /// The same of single addresses.
    hosts: BTreeMap<IpAddr, Arc<str>>,
}

impl Pools {
    /// Those of the tables. Addresses of pods, nodes and Services are nobody's to give.
    #[must_use]
    pub fn of(tables: &Tables) -> Self {
        let cluster = &tables.cluster;
        let pools: Vec<_> = cluster.pools.values().map(|row| row.value.clone()).collect();
        let mut reserved: Vec<(AddressRange, Arc<str>)> = Vec::new();
        for network in tables.networks.values().map(|row| &row.value) {
            reserved.extend(ranges_of(network).map(|range| (range, format!("of network {}", network.name).into())));
        }
        let cidrs = tables.config.services.service_cidrs.iter();
        reserved.extend(cidrs.map(|range| ((*range).into(), format!("of the range {range} of ClusterIPs").into())));
        let nodes = tables.nodes.iter().flat_map(|(name, row)| row.value.addresses.iter().map(move |at| (at.ip, name)));
        let mut hosts: BTreeMap<IpAddr, Arc<str>> =
            nodes.map(|(ip, name)| (ip, format!("an address of node {name}").into())).collect();
        // Without a pool nobody asks.
        let services = cluster.services.services().filter(|_| !pools.is_empty());
        for service in services {
            let what = || format!("the ClusterIP of service {}", service.name).into();
            hosts.extend(service.cluster_ips.iter().map(|ip| (*ip, what())));
        }
        Self::new(pools, cluster.namespaces.clone(), reserved, hosts)
    }

    /// These.
    #[must_use]
    pub fn new(
        mut pools: Vec<Arc<AddressPool>>,
        namespaces: BTreeMap<Arc<str>, KubeNamespace>,
        reserved: Vec<(AddressRange, Arc<str>)>,
        hosts: BTreeMap<IpAddr, Arc<str>>,
    ) -> Self {
        pools.sort_by(|a, b| a.order(b));
        Self { pools, namespaces, reserved, hosts }
    }

    /// The same with these in the place of those of their names.
    #[must_use]
    pub fn with(mut self, others: &[Arc<AddressPool>]) -> Self {
        self.pools.retain(|pool| others.iter().all(|other| other.name != pool.name));
        self.pools.extend(others.iter().cloned());
        self.pools.sort_by(|a, b| a.order(b));
        self
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Every one, in the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AddressPool>> {
        self.pools.iter()
    }

    /// What something else has of an address.
    #[must_use]
    pub fn reserved(&self, ip: IpAddr) -> Option<&Arc<str>> {
        let within = || self.reserved.iter().find(|(range, _)| range.contains(ip)).map(|(_, what)| what);
        self.hosts.get(&ip).or_else(within)
    }

    /// What overlaps a pool: ranges and addresses of something else, and other pools; a sentence each, in order.
    #[must_use]
    pub fn overlaps(&self, pool: &AddressPool) -> Vec<String> {
        let mut found = Vec::new();
        for range in &pool.addresses {
            let ranges = self.reserved.iter().filter(|(other, _)| other.overlaps(range));
            found.extend(ranges.map(|(other, what)| format!("{range} shares addresses with {other}, {what}")));
            let hosts = self.hosts.range(range.first()..=range.last());
            found.extend(hosts.map(|(ip, what)| format!("{range} has {ip}, {what}")));
            for other in self.pools.iter().filter(|other| other.name != pool.name) {
                let shared = other.addresses.iter().find(|own| own.overlaps(range));
                found.extend(
                    shared.map(|own| format!("{range} shares addresses with {own} of the pool {}", other.name)),
                );
            }
        }
        found
    }

    /// The same as faults of the pool.
    pub fn faults(&self, pool: &AddressPool) -> impl Iterator<Item = Fault> {
        let object = format!("addresspool/{}", pool.name);
        let accepted = "addresses that nothing else of the cluster and no other pool has";
        let found = self.overlaps(pool).into_iter().map(|found| format!("found that {found}"));
        found.map(move |found| Fault::new(&*object, "spec.addresses", found, accepted))
    }

    /// The first pool of which a Service may have an address.
    fn giving(&self, wanted: &Wanted, ip: IpAddr) -> Option<&Arc<AddressPool>> {
        self.pools.iter().filter(|pool| self.serves(pool, wanted)).find(|pool| pool.gives(ip))
    }

    /// Whether a Service may have addresses of a pool.
    fn serves(&self, pool: &AddressPool, wanted: &Wanted) -> bool {
        let namespace = &wanted.service.namespace;
        let named = wanted.balancer.pool.as_ref().is_none_or(|name| pool.name == *name);
        named && pool.serves(&wanted.balancer.labels, namespace, self.namespaces.get(namespace))
    }
}

/// Every range that a network has.
fn ranges_of(network: &Network) -> impl Iterator<Item = AddressRange> {
    Family::BOTH.into_iter().flat_map(|family| network.spec.whole(family)).map(AddressRange::from)
}

/// Decides what a Service gets.
#[must_use]
pub fn decide(wanted: &Wanted, pools: &Pools, claims: &Claims) -> Decision {
    let mut decision = Decision::default();
    if let Some(name) = wanted.balancer.pool.as_ref().filter(|name| !pools.iter().any(|pool| pool.name == **name)) {
        decision.lacks.push(Lack::UnknownPool(name.clone()));
        return decision;
    }
    for family in &wanted.families {
        let giver = Giver { wanted, pools, claims, family: *family };
        match giver.address() {
            Ok((ip, pool)) => {
                decision.given.push((Ingress { ip, is_proxied: pool.is_proxied }, pool.name.clone()));
            }
            Err(lack) => decision.lacks.push(lack),
        }
    }
    if wanted.balancer.needs_both && !decision.lacks.is_empty() {
        decision.given.clear();
    }
    decision
}

struct Giver<'t> {
    wanted: &'t Wanted,
    pools: &'t Pools,
    claims: &'t Claims,
    family: Family,
}

impl<'t> Giver<'t> {
    fn address(&self) -> Result<(IpAddr, &'t Arc<AddressPool>), Lack> {
        let balancer = &self.wanted.balancer;
        let of_family = |ip: &IpAddr| Family::of(*ip) == self.family;
        if let Some(ip) = balancer.addresses.iter().copied().find(of_family) {
            return self.named(ip);
        }
        let shown = self.wanted.shown.iter().map(|ingress| ingress.ip).filter(of_family);
        let claimed = self.claims.of_service(&self.wanted.service).filter(of_family);
        let has = shown.chain(claimed).find_map(|ip| Some((ip, self.kept(ip)?)));
        if let Some(has) = has.or_else(|| self.shared()) {
            return Ok(has);
        }
        let (mut full, mut refused) = (Vec::new(), Vec::new());
        let asked = |pool: &&Arc<AddressPool>| pool.auto_assign || balancer.pool.is_some();
        let serving = self.pools.pools.iter().filter(|pool| self.pools.serves(pool, self.wanted)).filter(asked);
        for pool in serving {
            if !pool.addresses.iter().any(|range| range.family() == self.family) {
                continue;
            }
            if !pool.refused.is_empty() {
                refused.push(pool.name.clone());
                continue;
            }
            match self.free_in(pool) {
                Some(ip) => return Ok((ip, pool)),
                None => full.push(pool.name.clone()),
            }
        }
        Err(match (full.is_empty(), refused.is_empty()) {
            (false, _) => Lack::Full(self.family, full),
            (true, false) => Lack::Refused(self.family, refused),
            (true, true) => Lack::NoPool(self.family),
        })
    }

    /// The address that the Service names.
    fn named(&self, ip: IpAddr) -> Result<(IpAddr, &'t Arc<AddressPool>), Lack> {
        let pool = self.pools.giving(self.wanted, ip).ok_or(Lack::Outside(ip))?;
        if let Some(what) = self.pools.reserved(ip) {
            return Err(Lack::Reserved(ip, what.clone()));
        }
        match self.claims.obstacle(ip, self.wanted) {
            Some(holder) => Err(Lack::Taken(ip, holder.clone())),
            None => Ok((ip, pool)),
        }
    }

    /// The pool of an address that the Service may go on having.
    fn kept(&self, ip: IpAddr) -> Option<&'t Arc<AddressPool>> {
        let free = self.pools.reserved(ip).is_none() && self.claims.obstacle(ip, self.wanted).is_none();
        self.pools.giving(self.wanted, ip).filter(|_| free)
    }

    /// An address that Services have with whom this one shares.
    fn shared(&self) -> Option<(IpAddr, &'t Arc<AddressPool>)> {
        let key = self.wanted.balancer.sharing.as_ref()?;
        let of_key = self.claims.of_key(key).filter(|ip| Family::of(*ip) == self.family);
        of_key.into_iter().find_map(|ip| Some((ip, self.kept(ip)?)))
    }

    /// The first address of a pool that nobody has.
    fn free_in(&self, pool: &AddressPool) -> Option<IpAddr> {
        let ranges = pool.addresses.iter().filter(|range| range.family() == self.family);
        ranges.into_iter().find_map(|range| {
            let mut ip = range.first();
            loop {
                if let Some((other, _)) = self.pools.reserved.iter().find(|(other, _)| other.contains(ip)) {
                    ip = after(other.last())?;
                } else if pool.gives(ip) && !self.pools.hosts.contains_key(&ip) && self.claims.is_free(ip) {
                    return Some(ip).filter(|ip| range.contains(*ip));
                } else {
                    ip = after(ip)?;
                }
                if !range.contains(ip) {
                    return None;
                }
            }
        })
    }
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// What each Service of ours gets if all are asked in the order of their names, by what the tables show of addresses that others have.
#[must_use]
pub fn decide_all(tables: &Tables, pools: &Pools) -> BTreeMap<ServiceName, Decision> {
    let services = &tables.cluster.services;
    let mut claims = Claims::shown(services.services());
    let mut all = BTreeMap::new();
    for wanted in services.services().filter_map(|service| Wanted::of(service)) {
        let decision = decide(&wanted, pools, &claims);
        for (ingress, _) in &decision.given {
            claims.add(ingress.ip, AddressClaim::holder(&wanted, services.revision(&wanted.service)));
        }
        all.insert(wanted.service, decision);
    }
    all
}
