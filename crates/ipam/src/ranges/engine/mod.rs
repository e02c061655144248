//! How a node comes to own a range, keeps it, and gives it back.
//!
//! The agent feeds [`RangeEvent`]s and carries out [`RangeAction`]s; it may lose, repeat and delay both sides of every
//! store call. No clock enters: nothing here can expire. What holds then, in every order of events: **a range between
//! [`RangeAction::UseRange`] and the end of its boot, or its release, is never used by another machine.** It rests on:
//!
//! 1. The store's revisions only grow, and a conditional write or delete happens at exactly the revision expected. A store
//!    restored from a backup breaks this, and is not covered: stop all agents and start them after the restore.
//! 2. Only the answer of a conditional write makes a range usable, never a list or a watch: those may be old.
//! 3. A claim bears the run and the boot of its writer. An agent that finds its machine's claim of an earlier run writes it
//!    anew before it uses the range; every delete still under way for the older revision then fails.
//! 4. The snapshot is trusted within one boot only. It is written *before* a claim is deleted
//!    ([`RangeAction::Save`]), so a restart cannot remember a range that was given back. The agent keeps no older snapshot to
//!    fall back to.
//! 5. Ranges of different length have different keys, which no conditional write keeps apart. So a claim begins
//!    tentative; the node lists the claims as of its own claim's revision, withdraws if one that overlaps is held or
//!    was written earlier, and otherwise makes its claim held.
//! 6. Whoever deletes a claim of another machine states that the machine is off ([`super::releasable`]), and deletes at the
//!    revision that was judged.
//!
//! A machine identity must not be shared: two copies of one machine (same name, same identity, started at the same time) look
//! like one machine that was restarted. The one that loses its claim to the other stops and says so.

mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ripstop_types::{Family, Prefix, Revision};
use serde::{Deserialize, Serialize};

use super::choose::{RangeFault, RangeRequest};
use super::claim::{Claim, ClaimKey, ClaimState, Claimant, Stored};
use super::view::View;

/// What is filled with ranges: one family of a network, or one pool of it where there are several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The network.
    pub network: Arc<str>,
    /// The family.
    pub family: Family,
    /// The pool, in networks of several (mode `blocks`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Prefix>,
    /// The length of its ranges, with the pool: one pool may lie in another, as nodes' own addresses do in the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len: Option<u8>,
}

impl Slot {
    /// The slot a request fills.
    #[must_use]
    pub fn of(request: &RangeRequest) -> Self {
        let pool = request.blocks.map(|_| request.pool);
        let len = request.blocks.map(|_| request.len);
        Self { network: Arc::clone(&request.network), family: request.pool.family(), pool, len }
    }

    /// Whether a range would fill it.
    #[must_use]
    pub fn has(&self, key: &ClaimKey) -> bool {
        self.network == key.network
            && self.family == key.range.family()
            && self.pool.is_none_or(|pool| pool.covers(&key.range))
            && self.len.is_none_or(|len| key.range.len() == len)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RangeEvent {
    /// The node takes part in a network, or the network's definition changed.
    Want(RangeRequest),
    /// The node takes part no longer. Its claim stays until it is [released](Self::Release).
    Unwant(Slot),
    /// Give a range back. The sender made sure that [`super::releasable`] says so: it has no lease. If it was the range of a
    /// wanted slot, the slot stays empty until it is wanted again.
    Release(ClaimKey),
    /// All claims as of a revision: at start, and whenever the watch was interrupted.
    Listed {
        /// The revision of the list: no change up to here is missing.
        revision: Revision,
        /// The claims.
        #[serde(with = "rows")]
        claims: BTreeMap<ClaimKey, Stored>,
    },
    /// One change seen by the watch: in order and without gaps behind the last list; repeats do no harm.
    Changed {
        /// The claim's key.
        key: ClaimKey,
        /// The revision of the change.
        revision: Revision,
        /// The claim now; `None`: deleted.
        claim: Option<Claim>,
    },
    /// The store's answer to an action with this number, or that none came.
    Answer {
        /// The action's number.
        op: u64,
        /// The answer.
        answer: Answer,
    },
    /// The snapshot was written, and holds the engine as it was at the [`RangeAction::Save`] of this number, or later.
    Saved {
        /// The number.
        generation: u64,
    },
    /// Time to repeat what failed: every one or two seconds.
    Tick,
}

/// How a conditional write or delete ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// Done, at this revision. (Of a delete the revision is not looked at.)
    Done(Revision),
    /// The condition did not hold; the claim as it was then, or as a linearisable read found it afterwards.
    Conflict(Option<Stored>),
    /// Not known: it may have happened, may yet happen, or not.
    Failed,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RangeAction {
    /// Write a claim on condition, and [answer](RangeEvent::Answer).
    ClaimPut {
        /// Number of this action in this run.
        op: u64,
        /// The claim's key.
        key: ClaimKey,
        /// Its value.
        claim: Claim,
        /// The revision it must have; `None`: it must not exist.
        expect: Option<Revision>,
    },
    /// Delete a claim on condition, and [answer](RangeEvent::Answer).
    ClaimDelete {
        /// Number of this action in this run.
        op: u64,
        /// The claim's key.
        key: ClaimKey,
        /// The revision it must have.
        expect: Revision,
    },
    /// Give out addresses of this range from now on.
    UseRange(ClaimKey),
    /// Give out no more addresses of this range. Its leases stay.
    StopRange {
        /// The range.
        key: ClaimKey,
        /// Why.
        reason: StopReason,
    },
    /// Write the [snapshot](RangeEngine::snapshot) at once, so that it outlives this process, then say
    /// [`RangeEvent::Saved`].
    Save {
        /// Number to give back.
        generation: u64,
    },
}

/// Why a range is used no longer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The node gives it back.
    Released,
    /// The network has no such range (any more), or the node left the network.
    NotOfNetwork,
    /// The claim was deleted in the store.
    ClaimGone,
    /// Another node has the claim.
    ClaimTaken(Claimant),
    /// Another run of this machine's agent wrote the claim; it is written anew before the range is used again.
    ClaimRewritten,
    /// A copy of this machine wrote the claim.
    Copied,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Released => f.write_str("given back"),
            Self::NotOfNetwork => f.write_str("not a range of the network (any more)"),
            Self::ClaimGone => f.write_str("its claim was deleted in the store"),
            Self::ClaimTaken(by) => write!(f, "its claim is {by}'s"),
            Self::ClaimRewritten => f.write_str("its claim was written by another run of this agent"),
            Self::Copied => f.write_str("its claim was written by a copy of this machine"),
        }
    }
}

/// What must outlive the process. Valid in the same boot; of another boot only the preferences count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RangeSnapshot {
    /// Who wrote it.
    pub claimant: Claimant,
    /// Ranges held, with the revision of the claim.
    pub held: Vec<(ClaimKey, Revision)>,
    /// Ranges being given back, with the revision of the claim.
    pub releasing: Vec<(ClaimKey, Revision)>,
    /// The range each slot had last.
    pub last: Vec<(Slot, Prefix)>,
}

/// A range of this node, for `ripstop ipam show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRange {
    /// The range.
    pub key: ClaimKey,
    /// Whether addresses are given from it.
    pub used: bool,
    /// What is done with it, in a word.
    pub phase: &'static str,
}

/// The state. See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RangeEngine {
    me: Claimant,
    slots: BTreeMap<Slot, SlotState>,
    mine: BTreeMap<ClaimKey, Mine>,
    last: BTreeMap<Slot, Prefix>,
    view: View,
    next_op: u64,
    generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SlotState {
    request: RangeRequest,
    /// Why it has no range: chosen again at the next tick, list or deletion.
    fault: Option<RangeFault>,
    /// Its range was given back on purpose.
    paused: bool,
    /// A copy of this machine is about: nothing more in this run.
    latched: bool,
}

/// A claim this engine deals with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Mine {
    phase: Phase,
    op: Op,
    /// Give it back as soon as its revision is known.
    leave: bool,
    /// Addresses may have been given from it in this boot.
    maybe_used: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    /// Nothing under way.
    Idle,
    /// Sent under this number.
    Sent(u64),
    /// Unknown end: again at the next tick.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// Being written, where there must be none.
    Claiming,
    /// Written, tentative. Waits until the view is as of this revision.
    Checking(Revision),
    /// Being made held.
    Confirming(Revision),
    /// Written by an earlier run; being written anew in the same state.
    Renewing(Revision, ClaimState),
    /// Held, and used if the slot wants it. In doubt: the store showed something older than the claim, and is asked.
    Held { revision: Revision, used: bool, doubt: bool },
    /// To be given back; the snapshot of this number must be written first.
    Saving(Revision, u64),
    /// Being deleted.
    Deleting(Revision),
}

impl RangeEngine {
    /// An engine for this run, with what an earlier one saved. `snapshot` of another machine is passed over.
    #[must_use]
    pub fn new(me: Claimant, snapshot: Option<&RangeSnapshot>) -> Self {
        let mut engine = Self {
            me,
            slots: BTreeMap::new(),
            mine: BTreeMap::new(),
            last: BTreeMap::new(),
            view: View::default(),
            next_op: 1,
            generation: 0,
        };
        let Some(snapshot) = snapshot.filter(|saved| saved.claimant.same_machine(&engine.me)) else {
            return engine;
        };
        engine.last = snapshot.last.iter().cloned().collect();
        if snapshot.claimant.same_boot(&engine.me) {
            for (key, revision) in &snapshot.held {
                let phase = Phase::Held { revision: *revision, used: false, doubt: false };
                engine.mine.insert(key.clone(), Mine { phase, op: Op::Idle, leave: false, maybe_used: true });
            }
            for (key, revision) in &snapshot.releasing {
                let phase = Phase::Saving(*revision, 0);
                engine.mine.insert(key.clone(), Mine { phase, op: Op::Idle, leave: false, maybe_used: false });
            }
        }
        engine
    }

    /// What must outlive the process; see [`RangeAction::Save`]. Save it also, without haste, whenever it changed.
    #[must_use]
    pub fn snapshot(&self) -> RangeSnapshot {
        let held = |(key, mine): (&ClaimKey, &Mine)| match mine.phase {
            Phase::Held { revision, .. } => Some((key.clone(), revision)),
            _ => None,
        };
        let releasing = |(key, mine): (&ClaimKey, &Mine)| match mine.phase {
            Phase::Saving(revision, _) | Phase::Deleting(revision) => Some((key.clone(), revision)),
            _ => None,
        };
        RangeSnapshot {
            claimant: self.me.clone(),
            held: self.mine.iter().filter_map(held).collect(),
            releasing: self.mine.iter().filter_map(releasing).collect(),
            last: self.last.iter().map(|(slot, range)| (slot.clone(), *range)).collect(),
        }
    }

    /// Ranges from which addresses may be given now.
    pub fn used(&self) -> impl Iterator<Item = &ClaimKey> {
        self.mine.iter().filter(|(_, mine)| matches!(mine.phase, Phase::Held { used: true, .. })).map(|(key, _)| key)
    }

    /// The same, with the revision of each claim.
    pub fn held(&self) -> impl Iterator<Item = (&ClaimKey, Revision)> {
        self.mine.iter().filter_map(|(key, mine)| match mine.phase {
            Phase::Held { used: true, revision, .. } => Some((key, revision)),
            _ => None,
        })
    }

    /// Whether the pool of a slot has no free range, as far as the claims tell; `None` where nobody wants it.
    #[must_use]
    pub fn is_exhausted(&self, slot: &Slot) -> Option<bool> {
        let request = &self.slots.get(slot)?.request;
        Some(request.is_exhausted(self.view.claims().map(|(key, stored)| (key, &stored.claim))))
    }

    /// Whether the range of this very request was released, and none is taken until it is wanted again.
    pub fn is_released(&self, request: &RangeRequest) -> bool {
        self.slots.get(&Slot::of(request)).is_some_and(|state| state.paused && state.request == *request)
    }

    /// Every claim this engine deals with.
    #[must_use]
    pub fn owned(&self) -> Vec<OwnedRange> {
        let word = |phase: &Phase| match phase {
            Phase::Claiming => "claiming",
            Phase::Checking(_) => "checking",
            Phase::Confirming(_) => "confirming",
            Phase::Renewing(..) => "renewing",
            Phase::Held { doubt: true, .. } => "in doubt",
            Phase::Held { .. } => "held",
            Phase::Saving(..) | Phase::Deleting(_) => "releasing",
        };
        let used = |phase: &Phase| matches!(phase, Phase::Held { used: true, .. });
        let row = |(key, mine): (&ClaimKey, &Mine)| OwnedRange {
            key: key.clone(),
            used: used(&mine.phase),
            phase: word(&mine.phase),
        };
        self.mine.iter().map(row).collect()
    }

    /// Claims of this machine in the store that no slot uses, left by an earlier run or definition. Pods may have addresses of
    /// them; when none has, [release](RangeEvent::Release) them.
    pub fn unused(&self) -> impl Iterator<Item = &ClaimKey> {
        let idle = self.mine.iter().filter(|(_, mine)| matches!(mine.phase, Phase::Held { used: false, .. }));
        let foreign = |(key, stored): &(&ClaimKey, &Stored)| {
            stored.claim.claimant.same_machine(&self.me)
                && !stored.claim.state.is_lending()
                && !self.mine.contains_key(*key)
        };
        idle.map(|(key, _)| key).chain(self.view.claims().filter(foreign).map(|(key, _)| key))
    }

    /// Why a slot has no range.
    #[must_use]
    pub fn fault(&self, slot: &Slot) -> Option<&RangeFault> {
        self.slots.get(slot)?.fault.as_ref()
    }

    /// All claims as last seen.
    pub fn claims(&self) -> impl Iterator<Item = (&ClaimKey, &Stored)> {
        self.view.claims()
    }
}

/// Claims as a list: JSON has no keys of two parts.
pub(crate) mod rows {
    use serde::{Deserializer, Serializer};

    use super::{BTreeMap, ClaimKey, Deserialize, Stored};

    pub(crate) fn serialize<S: Serializer>(claims: &BTreeMap<ClaimKey, Stored>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(claims)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<ClaimKey, Stored>, D::Error> {
        Ok(Vec::<(ClaimKey, Stored)>::deserialize(from)?.into_iter().collect())
    }
}
