//! Objects of Kubernetes' kinds in a store of Ripstop's own: what `ripstop apply` and `ripstop delete` do with them.
//!
//! A Service gets its ClusterIPs and node ports here. Each is a claim of its own in the store, made on condition that nobody has it; a
//! claim stays while its Service does, so two Services that are applied at once never get one address. What an apply claimed before it
//! failed is given back; where that fails, too, it is kept for the Service and goes when that is applied or deleted.
//!
//! Not here: what is wrong with an object by itself (`ripstop_objects::Applied`), which place a Service gets
//! (`ripstop_services::give`), and what follows from objects: they come back by the watch.

use std::collections::BTreeSet;

use ripstop_objects::service::Service;
use ripstop_objects::{Applied, ClusterObject, Faults, ObjectKind};
use ripstop_services::give::{self, Claim, Claims, Given};
use ripstop_store::{Expect, Kind, Record, Store, StoreError};
use ripstop_types::{Prefix, ServiceName};
use serde_json::{Value, json};

/// So often an object is decided anew because somebody else wrote meanwhile.
const TRIES: usize = 64;

/// Why nothing was done.
#[derive(Debug)]
pub enum Refusal {
    /// What is wrong with the objects.
    Faults(Faults),
    /// The store failed, or others were always first.
    Store(String),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// An object that is ready to be written.
struct Prepared {
    applied: Applied,
    /// Its status is whatever the store has.
    leaves_status: bool,
    before: Option<Record>,
    /// Claims that were made for it now.
    claimed: Vec<Claim>,
    /// All that it has.
    given: BTreeSet<Claim>,
}

/// Stores objects; answers with what became of each.
///
/// # Errors
/// Where anything is wrong with one of them nothing is stored.
pub async fn apply(store: &dyn Store, objects: Vec<Applied>, ranges: &[Prefix]) -> Result<Vec<Value>, Refusal> {
    let mut prepared = Vec::new();
    let mut refused = Faults::none();
    for applied in objects {
        let leaves_status = applied.leaves_status();
        match prepare(store, applied, leaves_status, ranges).await {
            Ok(ready) => prepared.push(ready),
            Err(Refusal::Faults(faults)) => refused.append(faults),
            Err(fault) => {
                give_back_all(store, &prepared).await;
                return Err(fault);
            }
        }
    }
    if let Err(faults) = refused.into_result() {
        give_back_all(store, &prepared).await;
        return Err(Refusal::Faults(faults));
    }
    let mut results = Vec::new();
    for ready in prepared {
        let name = ready.applied.name();
        let action = write(store, ready, ranges).await?;
        results.push(json!({"object": name, "action": action}));
    }
    Ok(results)
}

/// Removes objects, and what was claimed for them; answers with what became of each.
///
/// # Errors
/// Where the store fails.
pub async fn delete(store: &dyn Store, objects: &[(ObjectKind, String)]) -> Result<Vec<Value>, Refusal> {
    let mut results = Vec::new();
    for (kind, key) in objects {
        let gone = store.delete_if(kind.store_kind(), key, Expect::Any).await?.is_some();
        if *kind == ObjectKind::Service
            && let Ok(name) = key.parse::<ServiceName>()
        {
            give_back(store, &name, &BTreeSet::new()).await?;
        }
        let object = format!("{}/{key}", kind.to_string().to_lowercase());
        results.push(json!({"object": object, "action": if gone { "deleted" } else { "not found" }}));
    }
    Ok(results)
}

/// Decides what an object gets, and claims it.
async fn prepare(
    store: &dyn Store,
    mut applied: Applied,
    leaves_status: bool,
    ranges: &[Prefix],
) -> Result<Prepared, Refusal> {
    let mut claimed = Vec::new();
    for _ in 0..TRIES {
        let before = store.get(applied.store_kind(), &applied.key()).await?;
        if leaves_status {
            // As it is now: an address that the Service had some time ago may be another's.
            applied = applied.with_status_of(before.as_ref().map(|record| &record.value));
        }
        let Some(service) = applied.service() else {
            return Ok(Prepared { applied, leaves_status, before, claimed, given: BTreeSet::new() });
        };
        let stored = before.as_ref().and_then(|record| stored_service(&record.value));
        let claims = claims(store).await?;
        let given = match give::decide(&applied, stored.as_ref(), ranges, &claims) {
            Ok(given) => given,
            Err(faults) => {
                undo(store, &service.name, &claimed).await;
                return Err(Refusal::Faults(faults));
            }
        };
        match claim_all(store, service, &given, &claims, &mut claimed).await {
            Ok(true) => {
                let places = given.claims(service);
                let applied = applied.with(&given.cluster_ips, &given.node_ports);
                return Ok(Prepared { applied, leaves_status, before, claimed, given: places });
            }
            Ok(false) => {}
            Err(fault) => {
                undo(store, &service.name, &claimed).await;
                return Err(fault.into());
            }
        }
    }
    Err(busy(&applied))
}

fn busy(applied: &Applied) -> Refusal {
    Refusal::Store(format!("{}: others wrote {TRIES} times meanwhile; try again", applied.name()))
}

fn stored_service(value: &Value) -> Option<Service> {
    match ClusterObject::from_value(ObjectKind::Service, value) {
        Ok((ClusterObject::Service(service), _)) => Some(*service),
        _ => None,
    }
}

async fn claims(store: &dyn Store) -> Result<Claims, StoreError> {
    let records = store.list(Kind::ServiceClaims).await?;
    Ok(records.iter().filter_map(|record| Some((Claim::of_key(&record.key)?, holder(record)?))).collect())
}

fn holder(record: &Record) -> Option<ServiceName> {
    record.value["service"].as_str()?.parse().ok()
}

/// Whether nobody was first.
async fn claim_all(
    store: &dyn Store,
    service: &Service,
    given: &Given,
    claims: &Claims,
    claimed: &mut Vec<Claim>,
) -> Result<bool, StoreError> {
    for claim in given.claims(service) {
        if claims.get(&claim) == Some(&service.name) {
            continue;
        }
        let value = json!({"service": service.name.to_string()});
        match store.put_if(Kind::ServiceClaims, &claim.to_string(), &value, Expect::Absent).await {
            Ok(_) => claimed.push(claim),
            // Another apply of the same Service may have been first.
            Err(StoreError::Conflict { current, .. })
                if current.as_deref().and_then(holder).as_ref() == Some(&service.name) => {}
            Err(StoreError::Conflict { .. }) => return Ok(false),
            Err(fault) => return Err(fault),
        }
    }
    Ok(true)
}

async fn give_back_all(store: &dyn Store, prepared: &[Prepared]) {
    for ready in prepared {
        if let Some(service) = ready.applied.service() {
            undo(store, &service.name, &ready.claimed).await;
        }
    }
}

/// Gives back what was claimed for nothing. Where the Service is stored, another apply of it may go by these claims: they stay.
async fn undo(store: &dyn Store, name: &ServiceName, claimed: &[Claim]) {
    if !matches!(store.get(Kind::Services, &name.to_string()).await, Ok(None)) {
        return;
    }
    for claim in claimed {
        let key = claim.to_string();
        let Ok(Some(record)) = store.get(Kind::ServiceClaims, &key).await else { continue };
        if holder(&record).as_ref() == Some(name) {
            // What stays is the Service's, and goes with it.
            let _ = store.delete_if(Kind::ServiceClaims, &key, Expect::Revision(record.revision)).await;
        }
    }
}

/// Gives back what a Service has beside these.
async fn give_back(store: &dyn Store, name: &ServiceName, kept: &BTreeSet<Claim>) -> Result<(), StoreError> {
    for record in store.list(Kind::ServiceClaims).await? {
        let is_kept = Claim::of_key(&record.key).is_some_and(|claim| kept.contains(&claim));
        if is_kept || holder(&record).as_ref() != Some(name) {
            continue;
        }
        match store.delete_if(Kind::ServiceClaims, &record.key, Expect::Revision(record.revision)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

async fn write(store: &dyn Store, mut ready: Prepared, ranges: &[Prefix]) -> Result<&'static str, Refusal> {
    for _ in 0..TRIES {
        let (kind, key) = (ready.applied.store_kind(), ready.applied.key());
        let (expect, action) = match &ready.before {
            Some(record) if record.value == ready.applied.value => return Ok("unchanged"),
            Some(record) => (Expect::Revision(record.revision), "configured"),
            None => (Expect::Absent, "created"),
        };
        match store.put_if(kind, &key, &ready.applied.value, expect).await {
            Ok(_) => {
                if let Some(service) = ready.applied.service() {
                    give_back(store, &service.name, &ready.given).await?;
                }
                return Ok(action);
            }
            Err(StoreError::Conflict { .. }) => {
                ready = prepare(store, ready.applied, ready.leaves_status, ranges).await?;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    Err(busy(&ready.applied))
}
