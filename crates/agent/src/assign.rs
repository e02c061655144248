//! Gives Services of type LoadBalancer their addresses: carries out what [`ripstop_services::pools::assign`] asks of the store.
//!
//! A task beside the core. What cannot be done now is tried again; what was done comes back by the watch.
//!
//! Not here: what a Service gets, and which ones are seen to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ripstop_objects::service::{Assigned, Ingress, Service};
use ripstop_services::pools::assign::{Answer, Ask, Assignment, Outcome};
use ripstop_services::pools::claim::AddressClaim;
use ripstop_store::{Expect, Kind, Store, StoreError, now};
use ripstop_types::{Revision, ServiceName};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::core::Assignments;
use crate::store_lane::StoreCell;

/// Pauses before what failed is tried again: the first, which doubles, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// So often those are seen to again, in one go, who wait for what others have just given back.
const ROUNDS: usize = 3;

/// Claims with their revisions, as they were read last.
type Known = BTreeMap<IpAddr, (AddressClaim, Revision)>;

/// Starts it; answers with where to send what is to be seen to.
pub fn start(store: StoreCell) -> UnboundedSender<Assignments> {
    let (orders, to_do) = unbounded_channel();
    tokio::spawn(run(store, to_do));
    orders
}

async fn run(store: StoreCell, mut orders: UnboundedReceiver<Assignments>) {
    let mut waiting: Option<Assignments> = None;
    let mut pause = RETRY.0;
    loop {
        let order = match waiting {
            None => orders.recv().await,
            Some(_) => tokio::select! {
                order = orders.recv() => order,
                () = tokio::time::sleep(pause) => waiting.take(),
            },
        };
        let Some(mut order) = order else { return };
        // What still waits is seen to by what is known now.
        if let Some(before) = waiting.take() {
            order.services.extend(before.services);
            order.claimants |= before.claimants;
        }
        waiting = match store.get() {
            Some(store) => see_to(store.as_ref(), order).await,
            None => Some(order),
        };
        pause = if waiting.is_some() { (pause * 2).min(RETRY.1) } else { RETRY.0 };
    }
}

/// Sees to all; answers with what is to be tried again.
async fn see_to(store: &dyn Store, mut order: Assignments) -> Option<Assignments> {
    let mut known = match claims(store).await {
        Ok(known) => known,
        Err(fault) => {
            tracing::warn!("addresses of pools cannot be given: {fault}");
            return Some(order);
        }
    };
    if order.claimants {
        let claimants = known.values().flat_map(|(claim, _)| claim.holders.iter().map(|holder| holder.service.clone()));
        order.services.extend(claimants);
    }
    let (mut left, mut to_do) = (BTreeSet::new(), std::mem::take(&mut order.services));
    for round in 1..=ROUNDS {
        let (before, mut lacking) = (held(&known), BTreeSet::new());
        for name in to_do {
            match assign(store, &order, &mut known, &name).await {
                Ok(Outcome::Settled(lacks)) if lacks.is_empty() => {}
                Ok(Outcome::Settled(lacks)) => {
                    lacks.iter().for_each(|lack| tracing::info!("service {name}: {lack}"));
                    lacking.insert(name);
                }
                Ok(Outcome::Busy) => drop(left.insert(name)),
                Err(fault) => {
                    tracing::warn!("service {name} cannot be given addresses: {fault}");
                    left.insert(name);
                }
            }
        }
        let given_back = before.difference(&held(&known)).next().is_some();
        if !given_back || lacking.is_empty() || round == ROUNDS {
            break;
        }
        to_do = lacking;
    }
    (!left.is_empty()).then_some(Assignments { services: left, claimants: false, ..order })
}

/// Who holds which address.
fn held(known: &Known) -> BTreeSet<(IpAddr, ServiceName)> {
    let holders = known.iter().flat_map(|(ip, (claim, _))| claim.holders.iter().map(|holder| (*ip, &holder.service)));
    holders.map(|(ip, service)| (ip, service.clone())).collect()
}

async fn assign(
    store: &dyn Store,
    order: &Assignments,
    known: &mut Known,
    name: &ServiceName,
) -> Result<Outcome, StoreError> {
    let mut assignment = Assignment::new(name.clone());
    let mut ask = assignment.begin();
    // What was read for the one before is good enough until somebody else writes: each write is on condition.
    let mut is_fresh = true;
    loop {
        let answer = match ask {
            Ask::Claims => {
                if !std::mem::take(&mut is_fresh) {
                    *known = claims(store).await?;
                }
                Answer::Claims(known.clone())
            }
            Ask::Service => Answer::Service(read(store, name).await?),
            Ask::Claim(ip, claim, expect) => write_claim(store, known, ip, claim, expect).await?,
            Ask::Status(ingress, says, revision) => write_status(store, name, &ingress, says, revision).await?,
            Ask::Done(outcome) => return Ok(outcome),
        };
        ask = assignment.next(&order.pools, &order.shown, answer);
    }
}

/// Every claim. One that cannot be read has no holders.
async fn claims(store: &dyn Store) -> Result<Known, StoreError> {
    let records = store.list(Kind::AddressClaims).await?;
    let read = records.into_iter().filter_map(|record| {
        let claim = serde_json::from_value(record.value).unwrap_or_default();
        Some((record.key.parse().ok()?, (claim, record.revision)))
    });
    Ok(read.collect())
}

async fn read(store: &dyn Store, name: &ServiceName) -> Result<Option<(Box<Service>, Revision)>, StoreError> {
    let Some(record) = store.get(Kind::Services, &name.to_string()).await? else { return Ok(None) };
    // One that cannot be read is as good as gone everywhere else, too.
    Ok(Service::from_value(record.value).ok().map(|(service, _)| (Box::new(service), record.revision)))
}

async fn write_claim(
    store: &dyn Store,
    known: &mut Known,
    ip: IpAddr,
    claim: AddressClaim,
    expect: Option<Revision>,
) -> Result<Answer, StoreError> {
    let key = ip.to_string();
    let expect = expect.map_or(Expect::Absent, Expect::Revision);
    let written = match claim.holders.is_empty() {
        true => store.delete_if(Kind::AddressClaims, &key, expect).await.map(|_| None),
        false => store.put_if(Kind::AddressClaims, &key, &json!(claim), expect).await.map(Some),
    };
    match written {
        Ok(Some(revision)) => drop(known.insert(ip, (claim, revision))),
        Ok(None) => drop(known.remove(&ip)),
        Err(StoreError::Conflict { .. }) => return Ok(Answer::Conflict),
        Err(fault) => return Err(fault),
    }
    Ok(Answer::Written)
}

async fn write_status(
    store: &dyn Store,
    name: &ServiceName,
    ingress: &[Ingress],
    says: Option<Assigned>,
    revision: Revision,
) -> Result<Answer, StoreError> {
    let row = |one: &Ingress| json!({"ip": one.ip, "ipMode": if one.is_proxied { "Proxy" } else { "VIP" }});
    let conditions: Vec<Value> = says.as_ref().map(condition).into_iter().collect();
    let status =
        json!({"loadBalancer": {"ingress": ingress.iter().map(row).collect::<Vec<_>>()}, "conditions": conditions});
    match store.put_status(Kind::Services, &name.to_string(), &status, revision).await {
        Ok(_) => Ok(Answer::Written),
        Err(StoreError::Conflict { .. }) => Ok(Answer::Conflict),
        Err(fault) => Err(fault),
    }
}

/// A condition as Kubernetes writes one.
fn condition(says: &Assigned) -> Value {
    let since = match says.since.is_empty() {
        true => now(),
        false => says.since.to_string(),
    };
    let status = if says.holds { "True" } else { "False" };
    json!({"type": Assigned::CONDITION, "status": status, "reason": &*says.reason, "message": &*says.message,
        "lastTransitionTime": since})
}
