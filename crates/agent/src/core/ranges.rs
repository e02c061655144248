//! Driving the range engine: which ranges this node wants, what the store says of claims, and what it may use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_fabric::host;
use ripstop_ipam::ranges::{
    Answer, Claim, ClaimKey, ClaimState, Claimant, RangeAction, RangeEvent, RangeRequest, ReleaseCause, ReleaseFacts,
    Slot, Stored, releasable,
};
use ripstop_ipam::{LendingEvent, OwnRange, Usable};
use ripstop_netmodel::RecordGuard;
use ripstop_objects::{
    ClaimState as RecordState, FLANNEL_MACHINE, Network, NetworkName, RangeClaim, RangeMode, Record, Wiring,
    check_network_against_host, claim_key,
};
use ripstop_tables::{Change, Start, StoreInput, StoreKind, StoreResult, StoreValue, Withdrawn};
use ripstop_types::{Family, Owner, Prefix, Revision};

use super::withdraw::{record_removal, record_write};
use super::{Core, Level, Output, borrowing};

impl Core {
    /// Tells the engine which ranges this node wants of the networks there are.
    pub(super) fn want_ranges(&mut self) {
        // A machine without the name takes nothing in it: peers would send it to the other of that name.
        let nameless = !self.tables.knows(StoreKind::Nodes) || self.name_conflict().is_some();
        if self.tables.withdrawn == Withdrawn::Everything || (nameless && self.engine.owned().is_empty()) {
            return;
        }
        let mut wanted = BTreeSet::new();
        let host = host::addresses(&self.tables);
        let has_range =
            |network: &Network| self.engine.owned().iter().any(|owned| *owned.key.network == *network.name.as_str());
        // Pods of a network that shares addresses with the node's own subnet would cut the node off.
        let fits = |network: &Network| has_range(network) || check_network_against_host(network, &host).is_ok();
        let networks = self.tables.networks.values().filter(|row| fits(&row.value));
        let of = |network: &Network| match network.spec.range_mode {
            RangeMode::Blocks => self.block_requests(network),
            _ => requests(network, self.pod_cidrs(), &self.preferred),
        };
        let requests: Vec<RangeRequest> = networks.flat_map(|row| of(&row.value)).collect();
        for request in requests {
            wanted.insert(Slot::of(&request));
            // What was released by hand is not taken again because a cable was plugged in.
            if !self.engine.is_released(&request) {
                self.range_event(&RangeEvent::Want(request));
            }
        }
        if !self.tables.knows(StoreKind::Networks) {
            return;
        }
        let gone: Vec<Slot> = self.wanted_slots.difference(&wanted).cloned().collect();
        for slot in gone {
            self.range_event(&RangeEvent::Unwant(slot));
        }
        self.wanted_slots = wanted;
    }

    /// What the store says of claims, for the engine. The tables have it already.
    pub(super) fn range_store_event(&mut self, input: &StoreInput) {
        match input {
            StoreInput::Put { kind: StoreKind::Claims, key, value, revision } => {
                let place = match value {
                    StoreValue::Claim(claim) => Some((claim.network.clone(), claim.range)),
                    _ => ripstop_objects::parse_claim_key(key),
                };
                if let Some((key, claim)) = place.and_then(|place| self.claim_at(&place, *revision)) {
                    if self.listing_claims {
                        self.listed.insert(key, Stored { revision: *revision, claim });
                    } else {
                        self.claim_changed(key, *revision, Some(claim));
                    }
                }
            }
            StoreInput::Delete { kind: StoreKind::Claims, key, revision } => {
                if let Some((network, range)) = ripstop_objects::parse_claim_key(key) {
                    self.claim_changed(ClaimKey::new(network.as_str(), range), *revision, None);
                }
            }
            StoreInput::Reset { kind: StoreKind::Claims } => {
                self.listing_claims = true;
                self.listed = BTreeMap::new();
            }
            StoreInput::Synced { kind: StoreKind::Claims, revision } if self.listing_claims => {
                self.listing_claims = false;
                let claims = std::mem::take(&mut self.listed);
                let single = single_addresses(&claims);
                self.range_event(&RangeEvent::Listed { revision: *revision, claims });
                self.lending_event(&LendingEvent::Listed { revision: *revision, claims: single });
            }
            _ => {}
        }
    }

    /// The claim that came with this revision; none where it could not be read.
    fn claim_at(&self, place: &(NetworkName, Prefix), revision: Revision) -> Option<(ClaimKey, Claim)> {
        let row = self.tables.claims.get(place)?;
        let record = (row.revision == revision).then_some(&row.value)?;
        Some((ClaimKey::new(record.network.as_str(), record.range), claim_of(record)))
    }

    /// Gives the engine an event and carries out what it answers.
    pub(super) fn range_event(&mut self, event: &RangeEvent) {
        for action in self.engine.on(event) {
            match action {
                RangeAction::ClaimPut { op, key, claim, expect } => self.put_claim(op, &key, claim, expect),
                RangeAction::ClaimDelete { op, key, expect } => self.delete_claim(op, &key, expect),
                RangeAction::UseRange(key) => {
                    self.log(Level::Info, format!("this node owns {key}"));
                    self.snapshot_due = true;
                }
                RangeAction::StopRange { key, reason } => {
                    self.log(Level::Warn, format!("no more addresses of {key}: {reason}"));
                    self.snapshot_due = true;
                }
                RangeAction::Save { generation } => self.outputs.push(Output::Save { generation }),
            }
        }
    }

    /// The store's answer to an operation.
    pub(super) fn answer_engine(&mut self, op: u64, result: Option<StoreResult>) {
        let answer = match result {
            Some(StoreResult::Done(revision)) => Answer::Done(revision),
            Some(StoreResult::Conflict(current)) => Answer::Conflict(current.and_then(|(value, revision)| {
                let claim: RangeClaim = serde_json::from_value(value).ok()?;
                Some(Stored { revision, claim: claim_of(&claim) })
            })),
            Some(StoreResult::Failed(_)) | None => Answer::Failed,
        };
        if let Some(op) = op.checked_sub(borrowing::NUMBERS) {
            return self.lending_event(&LendingEvent::Answer { op, answer });
        }
        self.finish_releases(op, &answer);
        self.advance_deletion(op, &answer);
        self.range_event(&RangeEvent::Answer { op, answer });
    }

    /// Brings tables and lease book in line with what the engine says this node owns.
    pub(super) fn sync_ranges(&mut self) -> BTreeSet<Change> {
        self.tell_blocks();
        let mut own: BTreeMap<NetworkName, Vec<Prefix>> = BTreeMap::new();
        let mut ranges = Vec::new();
        let used: BTreeSet<ClaimKey> = self.engine.used().cloned().collect();
        for owned in self.engine.owned() {
            // Its addresses may be in use, whether or not new ones may be given.
            if !matches!(owned.phase, "held" | "in doubt" | "renewing") {
                continue;
            }
            let Ok(name) = owned.key.network.parse::<NetworkName>() else { continue };
            let spec = self.tables.networks.get(&name).map(|row| &row.value.spec);
            own.entry(name).or_default().push(owned.key.range);
            let in_blocks = spec.is_some_and(|spec| spec.range_mode == RangeMode::Blocks);
            if spec.is_some_and(|spec| spec.is_for_nodes(&owned.key.range)) {
                continue;
            }
            let usable = match spec.map(|spec| spec.wiring) {
                _ if in_blocks => Usable::All,
                Some(Wiring::Bridge) => Usable::Bridge,
                _ => Usable::Routed,
            };
            let open = used.contains(&owned.key) && (!in_blocks || self.may_give_from(&owned.key));
            let network = owned.key.network.clone();
            ranges.push(own_range(network, owned.key.range, usable, open, spec));
        }
        for key in self.lending.borrowed() {
            let Ok(name) = key.network.parse::<NetworkName>() else { continue };
            let spec = self.tables.networks.get(&name).map(|row| &row.value.spec);
            ranges.push(own_range(key.network.clone(), key.range, Usable::All, true, spec));
            own.entry(name).or_default().push(key.range);
        }
        ranges.sort_by_key(|range| range.prefix);
        for ranges in own.values_mut() {
            ranges.sort();
        }
        if ranges != self.book_ranges {
            match self.book.set_ranges(ranges.clone()) {
                Ok(()) => self.book_ranges = ranges,
                Err(fault) => self.log(Level::Warn, fault.to_string()),
            }
        }
        if own == self.tables.own_ranges {
            return BTreeSet::new();
        }
        let touched: BTreeSet<NetworkName> = own.keys().chain(self.tables.own_ranges.keys()).cloned().collect();
        let before = std::mem::replace(&mut self.tables.own_ranges, own);
        self.snapshot_due = true;
        // Routes to peers carry this node's address as their source, pods' routes too: all of the network is touched. In
        // mode `blocks` that address stays where blocks come and go.
        touched.into_iter().filter_map(|network| self.range_change(network, &before)).collect()
    }

    fn range_change(&self, network: NetworkName, before: &BTreeMap<NetworkName, Vec<Prefix>>) -> Option<Change> {
        let of = |all: &BTreeMap<NetworkName, Vec<Prefix>>| all.get(&network).cloned().unwrap_or_default();
        let (was, is) = (of(before), of(&self.tables.own_ranges));
        let spec = self.tables.networks.get(&network).map(|row| &row.value.spec);
        let for_nodes = |ranges: &[Prefix]| -> Vec<Prefix> {
            ranges.iter().filter(|range| spec.is_some_and(|spec| spec.is_for_nodes(range))).copied().collect()
        };
        let stays = spec.is_some_and(|spec| spec.blocks.is_some()) && for_nodes(&was) == for_nodes(&is);
        match stays {
            true if was == is => None,
            true => Some(Change::Blocks(network)),
            false => Some(Change::Claim(self.tables.node.clone())),
        }
    }

    /// An operator gives a range back, this node's or a dead node's.
    pub(super) fn release_range(&mut self, call: u64, range: &Arc<str>) {
        let result = self.try_release(call, range);
        if let Err(refusal) = result {
            self.outputs.push(Output::Answer { call, result: Err(refusal) });
        }
    }

    fn try_release(&mut self, call: u64, range: &Arc<str>) -> Result<(), String> {
        let prefix: Prefix = range.parse().map_err(|fault| format!("{fault}"))?;
        let found = self
            .engine
            .claims()
            .find(|(key, _)| key.range == prefix)
            .map(|(key, stored)| (key.clone(), stored.clone()));
        let (key, stored) = found.ok_or_else(|| format!("range {prefix} is claimed by nobody"))?;
        if stored.claim.claimant.machine.as_ref() == FLANNEL_MACHINE {
            return Err(format!("range {prefix} is Flannel's: it is free when Flannel's own record of it ends"));
        }
        let owner = stored.claim.claimant.node.clone();
        if let Some(refusal) = self.lent_refusal(&key) {
            return Err(refusal);
        }
        let leases: Vec<String> = self.book.leases_in(&prefix).map(ripstop_ipam::Lease::holder).collect();
        let own = owner == self.tables.node && *stored.claim.claimant.machine == *self.tables.identity.machine_id;
        let facts = ReleaseFacts {
            asked: self.tables.node.clone(),
            machine: self.tables.identity.machine_id.as_str().into(),
            leases: own.then_some(leases.len()),
            example: leases.first().cloned(),
            life: self.liveness.life(&owner),
            node_exists: self.tables.knows(StoreKind::Nodes).then(|| self.tables.nodes.contains_key(&owner)),
        };
        let cause = if own { ReleaseCause::Owner } else { ReleaseCause::Operator };
        releasable(prefix, &stored.claim, cause, &facts).map_err(|refusal| refusal.to_string())?;
        if own && self.engine.owned().iter().any(|owned| owned.key == key) {
            self.want_fewer_blocks(&key);
            self.range_event(&RangeEvent::Release(key));
            self.outputs.push(Output::Answer { call, result: Ok(()) });
        } else {
            let op = FOREIGN_OPERATIONS + call;
            self.delete_offers_in(&key, &stored.claim.claimant);
            self.delete_claim(op, &key, stored.revision);
            self.releasing.insert(op, call);
        }
        Ok(())
    }

    fn finish_releases(&mut self, op: u64, answer: &Answer) {
        let Some(call) = self.releasing.remove(&op) else { return };
        let result = match answer {
            Answer::Done(_) => Ok(()),
            Answer::Conflict(_) => Err("the claim changed meanwhile: its owner is alive".into()),
            Answer::Failed => Err("the store did not answer; look again with `ripstop ipam show`".into()),
        };
        self.outputs.push(Output::Answer { call, result });
    }

    /// A change of one claim, for both engines.
    fn claim_changed(&mut self, key: ClaimKey, revision: Revision, claim: Option<Claim>) {
        self.range_event(&RangeEvent::Changed { key: key.clone(), revision, claim: claim.clone() });
        let claim = claim.filter(|claim| claim.state.is_lending());
        self.lending_event(&LendingEvent::Changed { key, revision, claim });
    }

    pub(super) fn put_claim(&mut self, op: u64, key: &ClaimKey, claim: Claim, expect: Option<Revision>) {
        let Ok(network) = key.network.parse::<NetworkName>() else { return };
        let record = RangeClaim {
            network,
            range: key.range,
            node: claim.claimant.node,
            machine: claim.claimant.machine.as_ref().into(),
            boot: claim.claimant.boot.as_ref().into(),
            run: claim.claimant.run,
            state: STATES
                .iter()
                .find(|(state, _)| *state == claim.state)
                .map_or(RecordState::Tentative, |(_, word)| *word),
            to: claim.to,
            holder: claim.holder.as_deref().map(Into::into),
        };
        let guard = expect.map_or(RecordGuard::Absent, |revision| RecordGuard::Revision(revision.0));
        let reason = "this node takes part in the network";
        let step =
            record_write(StoreKind::Claims, record.key(), record.encode().to_string(), guard, self.own(), reason);
        self.run_operation(step, op);
    }

    pub(super) fn delete_claim(&mut self, op: u64, key: &ClaimKey, expect: Revision) {
        let Ok(network) = key.network.parse::<NetworkName>() else { return };
        let guard = RecordGuard::Revision(expect.0);
        let step = record_removal(StoreKind::Claims, &claim_key(&network, key.range), guard, self.own(), "given back");
        self.run_operation(step, op);
    }

    fn own(&self) -> Owner {
        Owner::node(&self.tables.node)
    }
}

/// Who this run of the agent is to other nodes.
pub(super) fn claimant(start: &Start) -> Claimant {
    Claimant {
        node: start.node.clone(),
        machine: start.identity.machine_id.as_str().into(),
        boot: start.identity.boot_id.as_str().into(),
        run: start.run,
    }
}

/// The engines' states of claims and the records'.
const STATES: [(ClaimState, RecordState); 7] = [
    (ClaimState::Tentative, RecordState::Tentative),
    (ClaimState::Held, RecordState::Held),
    (ClaimState::Offering, RecordState::Offering),
    (ClaimState::Offered, RecordState::Offered),
    (ClaimState::Borrowed, RecordState::Borrowed),
    (ClaimState::Asked, RecordState::Asked),
    (ClaimState::Refused, RecordState::Refused),
];

/// Claims of single addresses among all.
fn single_addresses(claims: &BTreeMap<ClaimKey, Stored>) -> BTreeMap<ClaimKey, Stored> {
    let single = claims.iter().filter(|(_, stored)| stored.claim.state.is_lending());
    single.map(|(key, stored)| (key.clone(), stored.clone())).collect()
}

/// A range as the lease book has it.
fn own_range(
    network: Arc<str>,
    prefix: Prefix,
    usable: Usable,
    open: bool,
    spec: Option<&ripstop_objects::NetworkSpec>,
) -> OwnRange {
    let exclude = spec.map(|spec| spec.exclude.clone()).unwrap_or_default();
    let cooldown_ms = spec.map(|spec| u64::from(spec.cooldown) * 1000);
    OwnRange { network, prefix, usable, exclude, open, cooldown_ms }
}

/// Numbers of operations that are not the engine's own begin here.
const FOREIGN_OPERATIONS: u64 = 1 << 48;

/// What this node wants of a network: a range in each of its families.
fn requests(network: &Network, pod_cidrs: &[Prefix], preferred: &[Prefix]) -> Vec<RangeRequest> {
    let spec = &network.spec;
    let request = |family: Family| -> Option<RangeRequest> {
        let pool = spec.ranges.get(family)?;
        let mut request = RangeRequest::new(network.name.as_str(), pool, spec.node_range_len.get(family));
        request.min = spec.range_min.get(family);
        request.max = spec.range_max.get(family);
        request.exclude = spec
            .exclude
            .iter()
            .filter(|prefix| prefix.family() == family && prefix.len() <= request.len)
            .copied()
            .collect();
        request.preferred = preferred.iter().find(|range| pool.covers(range) && range.len() == request.len).copied();
        if spec.range_mode == RangeMode::PodCidr {
            // Without a value nothing is wanted yet: it comes from outside.
            request.assigned = Some(*pod_cidrs.iter().find(|cidr| pool.covers(cidr))?);
        }
        Some(request)
    };
    Family::BOTH.into_iter().filter_map(request).collect()
}

fn claim_of(record: &RangeClaim) -> Claim {
    Claim {
        claimant: Claimant {
            node: record.node.clone(),
            machine: record.machine.as_str().into(),
            boot: record.boot.as_str().into(),
            run: record.run,
        },
        state: STATES.iter().find(|(_, word)| *word == record.state).map_or(ClaimState::Tentative, |(state, _)| *state),
        to: record.to.clone(),
        holder: record.holder.as_deref().map(Into::into),
    }
}
