//! How a Service gets its addresses: what is asked of the store, one thing after the other.
//!
//! Several may do so at once, with different views of pools, and each may end in the middle; no address is given twice. For that
//! - a Service's status is written on condition of the revision that was read;
//! - each address that it is to show is claimed before, on condition of the claim's revision, with the Service's revision in it;
//! - a claim is given up only for a Service that was read *after* the claim, is gone or does not show the address, and has
//!   another revision than the claim says: whoever wrote the claim can then not write that status any more.
//!
//! Not here: the store itself, and when this is done.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use ripstop_objects::service::{Assigned, Ingress, Service};
use ripstop_types::{Revision, ServiceName};

use super::claim::{AddressClaim, Claims};
use super::{Lack, Pools, Wanted, decide};

/// So often it begins anew because somebody else wrote meanwhile.
const TRIES: usize = 32;

/// What is asked of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Every claim.
    Claims,
    /// The Service as it is now.
    Service,
    /// Write a claim where it still has this revision, or where there is none; without holders, remove it.
    Claim(IpAddr, AddressClaim, Option<Revision>),
    /// Write these addresses and this condition, or none, into the Service's status, where it still has this revision.
    Status(Vec<Ingress>, Option<Assigned>, Revision),
    /// It is over.
    Done(Outcome),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The Service has what it can have; why it has no more.
    Settled(Vec<Lack>),
    /// Others were always first.
    Busy,
}

/// What the store answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Claims with their revisions.
    Claims(BTreeMap<IpAddr, (AddressClaim, Revision)>),
    /// The Service, if it is there.
    Service(Option<(Box<Service>, Revision)>),
    /// It was written.
    Written,
    /// Somebody else wrote before.
    Conflict,
}

/// One Service that is seen to.
#[derive(Debug, Clone)]
pub struct Assignment {
    service: ServiceName,
    claims: BTreeMap<IpAddr, (AddressClaim, Revision)>,
    todo: VecDeque<Ask>,
    lacks: Vec<Lack>,
    tries: usize,
}

impl Assignment {
    /// Sees to this Service.
    #[must_use]
    pub fn new(service: ServiceName) -> Self {
        Self { service, claims: BTreeMap::new(), todo: VecDeque::new(), lacks: Vec::new(), tries: 0 }
    }

    /// Whom it sees to.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// What is asked first.
    #[must_use]
    pub fn begin(&self) -> Ask {
        Ask::Claims
    }

    /// What is asked after an answer. `others` are addresses that Services show without a claim, as far as the asker knows.
    pub fn next(&mut self, pools: &Pools, others: &Claims, answer: Answer) -> Ask {
        match answer {
            Answer::Claims(claims) => {
                self.claims = claims;
                return Ask::Service;
            }
            Answer::Service(found) => self.plan(pools, others, found),
            Answer::Written => {}
            Answer::Conflict => {
                self.todo.clear();
                self.tries += 1;
                return if self.tries < TRIES { Ask::Claims } else { Ask::Done(Outcome::Busy) };
            }
        }
        self.todo.pop_front().unwrap_or_else(|| Ask::Done(Outcome::Settled(std::mem::take(&mut self.lacks))))
    }

    fn plan(&mut self, pools: &Pools, others: &Claims, found: Option<(Box<Service>, Revision)>) {
        self.todo.clear();
        let Some((service, revision)) = found else {
            let gone: Vec<IpAddr> = self.own().collect();
            gone.into_iter().for_each(|ip| self.give_up(ip));
            return;
        };
        let shown: Vec<IpAddr> = service.ingress.iter().map(|ingress| ingress.ip).collect();
        let wanted = Wanted::of(&service);
        let decision = wanted.as_ref().map(|wanted| decide(wanted, pools, &self.view(others))).unwrap_or_default();
        let given = decision.ingress();
        if let Some(wanted) = wanted {
            let holder = AddressClaim::holder(&wanted, revision);
            for ip in given.iter().map(|ingress| ingress.ip) {
                let before = self.claims.get(&ip);
                let own = before.and_then(|(claim, _)| claim.of(&self.service)).filter(|own| own.says_as(&holder));
                if own.is_none_or(|own| own.revision != revision && !shown.contains(&ip)) {
                    let claim = before.map(|(claim, _)| claim.with(holder.clone()));
                    let claim = claim.unwrap_or_else(|| AddressClaim { holders: vec![holder.clone()] });
                    self.todo.push_back(Ask::Claim(ip, claim, before.map(|(_, revision)| *revision)));
                }
            }
        }
        // What somebody else gave is taken away only for something better.
        let mut after = given;
        if after.is_empty() {
            let own: Vec<IpAddr> = self.own().collect();
            after = service.ingress.iter().copied().filter(|ingress| !own.contains(&ingress.ip)).collect();
        }
        let writes = after != service.ingress || decision.is_unsaid(&service);
        if writes {
            self.todo.push_back(Ask::Status(after.clone(), decision.assigned(&service), revision));
        }
        let stale = self.own().filter(|ip| {
            let written = self.claims.get(ip).and_then(|(claim, _)| claim.of(&self.service)).map(|own| own.revision);
            let pending = written == Some(revision) && !shown.contains(ip) && !writes;
            !pending && after.iter().all(|ingress| ingress.ip != *ip)
        });
        stale.collect::<Vec<_>>().into_iter().for_each(|ip| self.give_up(ip));
        self.lacks = decision.lacks;
    }

    /// Addresses that the Service has claimed.
    fn own(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.claims.iter().filter(|(_, (claim, _))| claim.of(&self.service).is_some());
        own.map(|(ip, _)| *ip)
    }

    fn give_up(&mut self, ip: IpAddr) {
        let Some((claim, revision)) = self.claims.get(&ip) else { return };
        self.todo.push_back(Ask::Claim(ip, claim.without(&self.service), Some(*revision)));
    }

    /// What decides: claims, and what others show without one.
    fn view(&self, others: &Claims) -> Claims {
        let mut view: Claims = self.claims.iter().map(|(ip, (claim, _))| (*ip, claim.clone())).collect();
        // What this Service has claimed it has, whatever was shown some time ago.
        let own: Vec<IpAddr> = self.own().collect();
        for (ip, claim) in others.iter().filter(|(ip, _)| !own.contains(ip)) {
            let unclaimed =
                |name: &ServiceName| *name != self.service && view.get(ip).is_none_or(|claim| claim.of(name).is_none());
            let more: Vec<_> = claim.holders.iter().filter(|holder| unclaimed(&holder.service)).cloned().collect();
            more.into_iter().for_each(|holder| view.add(ip, holder));
        }
        view
    }
}
