//! Who has which address: one record an address, by its text, made and changed on condition of its revision alone.
//!
//! Not here: when it is written.
//!
//! Invariant: of two who have one address, both have the same sharing key, no port in common, and the same pods where the node of the
//! address decides which those are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::service::{Protocol, Service};
use ripstop_types::{Revision, ServiceName};
use serde::{Deserialize, Serialize};

use super::Wanted;

/// Who has an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressClaim {
    /// In the order in which they came.
    pub holders: Vec<Holder>,
}

/// One who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The Service.
    pub service: ServiceName,
    /// The revision of the Service for which it was written: only on condition of that one may its status be given the address.
    pub revision: Revision,
    /// The key by which it shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Arc<str>>,
    /// Its ports.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Its pods, where those of the node of the address alone are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Arc<str>>,
}

impl Holder {
    /// Whether the two may have one address.
    fn shares_with(&self, wanted: &Wanted) -> bool {
        let same_key = self.sharing.is_some() && self.sharing == wanted.balancer.sharing;
        same_key && self.local == wanted.balancer.local && self.ports.is_disjoint(&wanted.ports)
    }

    /// Whether it says the same of the Service.
    pub(super) fn says_as(&self, other: &Self) -> bool {
        *self == Self { revision: self.revision, ..other.clone() }
    }
}

impl AddressClaim {
    /// What a Service writes of itself.
    #[must_use]
    pub fn holder(wanted: &Wanted, revision: Revision) -> Holder {
        Holder {
            service: wanted.service.clone(),
            revision,
            sharing: wanted.balancer.sharing.clone(),
            ports: wanted.ports.clone(),
            local: wanted.balancer.local.clone(),
        }
    }

    /// Its entry of a Service.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.service == *service)
    }

    /// The same with this entry in the place of the Service's other one, or behind all.
    #[must_use]
    pub(super) fn with(&self, new: Holder) -> Self {
        let mut holders = self.holders.clone();
        match holders.iter_mut().find(|holder| holder.service == new.service) {
            Some(place) => *place = new,
            None => holders.push(new),
        }
        Self { holders }
    }

    /// The same without a Service.
    #[must_use]
    pub(super) fn without(&self, service: &ServiceName) -> Self {
        Self { holders: self.holders.iter().filter(|holder| holder.service != *service).cloned().collect() }
    }
}

/// Claims by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    of: BTreeMap<IpAddr, AddressClaim>,
    by_service: BTreeMap<ServiceName, BTreeSet<IpAddr>>,
    by_key: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
}

impl FromIterator<(IpAddr, AddressClaim)> for Claims {
    fn from_iter<I: IntoIterator<Item = (IpAddr, AddressClaim)>>(all: I) -> Self {
        let mut claims = Self::default();
        for (ip, claim) in all {
            // One that nobody can read has no holders, and keeps its address.
            claims.of.entry(ip).or_default();
            claim.holders.into_iter().for_each(|holder| claims.add(ip, holder));
        }
        claims
    }
}

impl Claims {
    /// As if each Service had claimed the addresses that its status shows.
    pub fn shown<'s>(services: impl Iterator<Item = &'s Arc<Service>>) -> Self {
        let mut claims = Self::default();
        for service in services.filter(|service| !service.ingress.is_empty()) {
            claims.add_shown(service);
        }
        claims
    }

    /// The same of one Service. Another's balancer shares with nobody.
    pub fn add_shown(&mut self, service: &Service) {
        let other = || Holder {
            service: service.name.clone(),
            revision: Revision::default(),
            sharing: None,
            ports: BTreeSet::new(),
            local: None,
        };
        let holder =
            Wanted::of(service).map_or_else(other, |wanted| AddressClaim::holder(&wanted, Revision::default()));
        service.ingress.iter().for_each(|ingress| self.add(ingress.ip, holder.clone()));
    }

    /// Adds a holder, in the place of the Service's other one.
    pub fn add(&mut self, ip: IpAddr, holder: Holder) {
        self.by_service.entry(holder.service.clone()).or_default().insert(ip);
        if let Some(key) = &holder.sharing {
            self.by_key.entry(key.clone()).or_default().insert(ip);
        }
        let claim = self.of.entry(ip).or_default();
        *claim = claim.with(holder);
    }

    /// Who has an address.
    #[must_use]
    pub fn get(&self, ip: IpAddr) -> Option<&AddressClaim> {
        self.of.get(&ip)
    }

    /// Every address that somebody has, with those who have it.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &AddressClaim)> {
        self.of.iter().map(|(ip, claim)| (*ip, claim))
    }

    /// Addresses that a Service has.
    pub fn of_service(&self, service: &ServiceName) -> impl Iterator<Item = IpAddr> {
        self.by_service.get(service).into_iter().flatten().copied()
    }

    /// Addresses that somebody with this key has.
    pub fn of_key(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        self.by_key.get(key).into_iter().flatten().copied()
    }

    /// Whether nobody has an address.
    #[must_use]
    pub fn is_free(&self, ip: IpAddr) -> bool {
        !self.of.contains_key(&ip)
    }

    /// Who keeps a Service from having an address.
    #[must_use]
    pub fn obstacle(&self, ip: IpAddr, wanted: &Wanted) -> Option<&ServiceName> {
        let others = self.of.get(&ip)?.holders.iter().filter(|holder| holder.service != wanted.service);
        others.into_iter().find(|holder| !holder.shares_with(wanted)).map(|holder| &holder.service)
    }
}
