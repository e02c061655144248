//! Single addresses of one node's block that another node uses: borrowed where a pool has no free block left, or asked for
//! by a pod that must have this address.
//!
//! An address is the node's own or lent, and one record in the store says which: the claim of a range of one address. The
//! **lender** closes the address to its own pods, writes the record *offering*, has its snapshot written, and makes the
//! record *offered*. A **borrower** makes an offer *borrowed* by one conditional write, and deletes the record when no pod of
//! it has the address any more. Whoever wants one certain address puts *asked* where there is no record; the lender turns
//! that into an offer to this node alone, or into a refusal that names the holder. The agent feeds [`LendingEvent`]s and
//! carries out [`LendingAction`]s; it may lose, repeat and delay both sides of every store call.
//!
//! What holds then, in every order of events: **no two machines use one address, and none that is lent stays so when its
//! borrower gave it back.** It rests on the rules of [`crate::ranges`] and on these:
//!
//! 1. The lender closes an address before anything of it is in the store, and opens it again only when the record is
//!    known to be gone, as of a revision behind the one it wrote.
//! 2. *Offered* is written on the exact revision of a record that the snapshot already names. So a restart knows every
//!    write that may still come through, and a delayed first write means nothing.
//! 3. A block that was claimed or renewed in this run is used only with the records as of that claim's revision: what an
//!    earlier boot lent is among them.
//! 4. A borrower uses an address when its own conditional write is known to have happened. Before it deletes the record the
//!    snapshot without it is written, so that a restart does not remember what was given back.
//!
//! Not here: which address is free, how many are offered, which pod waits. Blocks themselves are [`crate::ranges`]'.

mod borrow;
mod lend;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_types::{NodeName, Revision};
use serde::{Deserialize, Serialize};

use crate::ranges::{Answer, Claim, ClaimKey, ClaimState, Claimant, Stored, View, rows};

/// What happened. Keys of claims are those of single addresses, unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LendingEvent {
    /// The blocks this node holds, each with the revision of its claim.
    Own(Vec<(ClaimKey, Revision)>),
    /// Lend an address of an own block. The sender has closed it to its own pods.
    Offer(ClaimKey),
    /// The node wants a lent address back, if nobody has borrowed it.
    TakeBack(ClaimKey),
    /// The answer to [`LendingAction::Judge`]: the address is free, and closed to own pods now.
    Grant(ClaimKey),
    /// The answer to [`LendingAction::Judge`]: somebody has it.
    Refuse {
        /// The address.
        key: ClaimKey,
        /// Who.
        holder: Arc<str>,
    },
    /// Take one of the [offers](LendingEngine::offers).
    Borrow {
        /// The address.
        key: ClaimKey,
        /// For whom.
        holder: Arc<str>,
    },
    /// Ask the block's node for this address.
    Ask {
        /// The address.
        key: ClaimKey,
        /// For whom.
        holder: Arc<str>,
    },
    /// Nobody waits for it any more.
    Cancel(ClaimKey),
    /// A borrowed address of an earlier run that a pod still has.
    Keep(ClaimKey),
    /// No pod has the borrowed address any more.
    Return(ClaimKey),
    /// All claims as of a revision; see [`crate::ranges::RangeEvent::Listed`].
    Listed {
        /// The revision of the list.
        revision: Revision,
        /// The claims.
        #[serde(with = "rows")]
        claims: BTreeMap<ClaimKey, Stored>,
    },
    /// One change seen by the watch; see [`crate::ranges::RangeEvent::Changed`].
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
    /// The snapshot of this number, or a later one, was written.
    Saved {
        /// The number.
        generation: u64,
    },
    /// Time to repeat what failed: every one or two seconds.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LendingAction {
    /// Write a claim on condition, and [answer](LendingEvent::Answer).
    Put {
        /// Number of this action in this run.
        op: u64,
        /// The claim's key.
        key: ClaimKey,
        /// Its value.
        claim: Claim,
        /// The revision it must have; `None`: it must not exist.
        expect: Option<Revision>,
    },
    /// Delete a claim on condition, and [answer](LendingEvent::Answer).
    Delete {
        /// Number of this action in this run.
        op: u64,
        /// The claim's key.
        key: ClaimKey,
        /// The revision it must have.
        expect: Revision,
    },
    /// A borrowed address may be given to a pod.
    Use(ClaimKey),
    /// A borrowed address must not be given any more: its record is gone, or another's.
    Stop(ClaimKey),
    /// An own address is lent, or may be: keep it from own pods before anything else.
    Close(ClaimKey),
    /// An own address is the node's own again.
    Reopen(ClaimKey),
    /// Another node asks for an own address: close it to own pods and [grant](LendingEvent::Grant) it, or
    /// [refuse](LendingEvent::Refuse), before anything else.
    Judge(ClaimKey),
    /// The address that was asked for is somebody's.
    Denied {
        /// The address.
        key: ClaimKey,
        /// Whose.
        holder: Arc<str>,
    },
    /// The offer is another's, or gone.
    Missed(ClaimKey),
    /// Write the [snapshot](LendingEngine::snapshot) at once, then say [`LendingEvent::Saved`].
    Save {
        /// Number to give back.
        generation: u64,
    },
}

/// What must outlive the process; it is valid in the same boot only, and only together with the snapshot of the ranges
/// that was written with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LendingSnapshot {
    /// Who wrote it.
    pub claimant: Claimant,
    /// Own blocks of which everything lent is named here.
    pub open: Vec<ClaimKey>,
    /// Own addresses that are lent or may be, with the last revision of the record that is known.
    pub lent: Vec<(ClaimKey, Revision)>,
    /// Borrowed addresses.
    pub held: Vec<(ClaimKey, Revision)>,
    /// Borrowed addresses that are being given back.
    pub returning: Vec<(ClaimKey, Revision)>,
}

/// The state. See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LendingEngine {
    me: Claimant,
    /// Own blocks, with the revision of each claim.
    own: BTreeMap<ClaimKey, Revision>,
    /// Those of which everything lent is known.
    open: BTreeSet<ClaimKey>,
    /// Blocks that the snapshot vouches for.
    trusted: BTreeSet<ClaimKey>,
    lent: BTreeMap<ClaimKey, Lent>,
    mine: BTreeMap<ClaimKey, Mine>,
    /// Ticks for which a record of ours was seen that waits for another node, with its revision.
    ages: BTreeMap<ClaimKey, (Revision, u32)>,
    view: View,
    next_op: u64,
    generation: u64,
}

/// An own address that is closed to own pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lent {
    phase: Lending,
    op: Op,
    /// The node wants it itself.
    back: bool,
    /// Offered to this node alone.
    to: Option<NodeName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lending {
    /// *Offering* is being written where there must be no record.
    Writing,
    /// The record is *offering*, or another's *asked*; the snapshot of this number must be written first.
    Saving(Revision, u64),
    /// *Offered* is being written on this revision.
    Offering(Revision),
    /// Anyone who may take it can.
    Offered(Revision),
    /// Another node's, or not known better.
    Out(Revision),
    /// The record is being deleted.
    Back(Revision),
}

/// A borrowed address, or one that is to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Mine {
    phase: Borrowing,
    op: Op,
    /// Give it back as soon as its revision is known.
    leave: bool,
    holder: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Borrowing {
    /// *Asked* is being written where there must be no record.
    Asking,
    /// The lender's word is waited for.
    Asked(Revision),
    /// *Borrowed* is being written on the offer's revision.
    Taking(Revision),
    /// Of an earlier run; written anew.
    Renewing(Revision),
    /// Ours.
    Held(Revision),
    /// To be given back; the snapshot of this number must be written first.
    Saving(Revision, u64),
    /// The record is being deleted.
    Deleting(Revision),
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

/// What an address that is lent or borrowed is to this node, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LendingRow {
    /// The address.
    pub key: ClaimKey,
    /// In a word.
    pub phase: &'static str,
}

impl LendingEngine {
    /// An engine for this run, with what an earlier one of this boot saved.
    #[must_use]
    pub fn new(me: Claimant, snapshot: Option<&LendingSnapshot>) -> Self {
        let mut engine = Self {
            me,
            own: BTreeMap::new(),
            open: BTreeSet::new(),
            trusted: BTreeSet::new(),
            lent: BTreeMap::new(),
            mine: BTreeMap::new(),
            ages: BTreeMap::new(),
            view: View::default(),
            next_op: 1,
            generation: 0,
        };
        let Some(saved) = snapshot.filter(|saved| saved.claimant.same_boot(&engine.me)) else { return engine };
        engine.trusted = saved.open.iter().cloned().collect();
        for (key, revision) in &saved.lent {
            let lent = Lent { phase: Lending::Out(*revision), op: Op::Idle, back: false, to: None };
            engine.lent.insert(key.clone(), lent);
        }
        let held = saved.held.iter().map(|(key, revision)| (key, Borrowing::Held(*revision)));
        let returning = saved.returning.iter().map(|(key, revision)| (key, Borrowing::Saving(*revision, 0)));
        for (key, phase) in held.chain(returning) {
            engine.mine.insert(key.clone(), Mine { phase, op: Op::Idle, leave: false, holder: None });
        }
        engine
    }

    /// What must outlive the process; see [`LendingAction::Save`]. Save it also, without haste, whenever it changed.
    #[must_use]
    pub fn snapshot(&self) -> LendingSnapshot {
        let lent = |(key, lent): (&ClaimKey, &Lent)| Some((key.clone(), lent.phase.revision()?));
        let phases = |which: fn(&Borrowing) -> Option<Revision>| {
            let of = move |(key, mine): (&ClaimKey, &Mine)| Some((key.clone(), which(&mine.phase)?));
            self.mine.iter().filter_map(of).collect()
        };
        LendingSnapshot {
            claimant: self.me.clone(),
            // What was saved and not claimed again yet is as good as it was.
            open: self.open.union(&self.trusted).cloned().collect(),
            lent: self.lent.iter().filter_map(lent).collect(),
            held: phases(|phase| if let Borrowing::Held(revision) = phase { Some(*revision) } else { None }),
            returning: phases(|phase| match phase {
                Borrowing::Saving(revision, _) | Borrowing::Deleting(revision) => Some(*revision),
                _ => None,
            }),
        }
    }

    /// Whether addresses of an own block may be given: everything of it that is lent is known.
    #[must_use]
    pub fn is_open(&self, block: &ClaimKey) -> bool {
        self.open.contains(block)
    }

    /// Own addresses that must not be given to own pods.
    pub fn closed(&self) -> impl Iterator<Item = &ClaimKey> {
        self.lent.keys()
    }

    /// Own addresses that are offered to anyone, or are about to be, and not wanted back.
    pub fn offering(&self) -> impl Iterator<Item = &ClaimKey> {
        let open = |lent: &&Lent| {
            let offered = matches!(
                lent.phase,
                Lending::Writing | Lending::Saving(..) | Lending::Offering(_) | Lending::Offered(_)
            );
            offered && !lent.back && lent.to.is_none()
        };
        self.lent.iter().filter(move |(_, lent)| open(lent)).map(|(key, _)| key)
    }

    /// Own addresses on their way back.
    pub fn coming_back(&self) -> impl Iterator<Item = &ClaimKey> {
        self.lent.iter().filter(|(_, lent)| lent.back).map(|(key, _)| key)
    }

    /// Offers of other nodes that this one may take.
    pub fn offers(&self) -> impl Iterator<Item = &ClaimKey> {
        let takeable = |(key, stored): &(&ClaimKey, &Stored)| self.may_take(stored) && !self.mine.contains_key(*key);
        self.view.claims().filter(takeable).map(|(key, _)| key)
    }

    /// Borrowed addresses that may be given to pods.
    pub fn borrowed(&self) -> impl Iterator<Item = &ClaimKey> {
        self.mine.iter().filter(|(_, mine)| matches!(mine.phase, Borrowing::Held(_))).map(|(key, _)| key)
    }

    /// Addresses that are being borrowed or asked for, and are still wanted.
    pub fn expected(&self) -> impl Iterator<Item = &ClaimKey> {
        let coming = |mine: &Mine| {
            matches!(mine.phase, Borrowing::Asking | Borrowing::Asked(_) | Borrowing::Taking(_)) && !mine.leave
        };
        self.mine.iter().filter(move |(_, mine)| coming(mine)).map(|(key, _)| key)
    }

    /// Addresses that this machine borrowed in an earlier run and that this one does not know: [keep](LendingEvent::Keep)
    /// those that pods have, [return](LendingEvent::Return) the others.
    pub fn forgotten(&self) -> impl Iterator<Item = &ClaimKey> {
        let own = |(key, stored): &(&ClaimKey, &Stored)| {
            stored.claim.state == ClaimState::Borrowed
                && stored.claim.claimant.same_machine(&self.me)
                && !self.mine.contains_key(*key)
        };
        self.view.claims().filter(own).map(|(key, _)| key)
    }

    /// Every address that this engine deals with.
    #[must_use]
    pub fn rows(&self) -> Vec<LendingRow> {
        let lent = self.lent.iter().map(|(key, lent)| (key, lent.word()));
        let mine = self.mine.iter().map(|(key, mine)| (key, mine.word()));
        lent.chain(mine).map(|(key, phase)| LendingRow { key: key.clone(), phase }).collect()
    }

    /// Whether a record is an offer that this node may take.
    fn may_take(&self, stored: &Stored) -> bool {
        let claim = &stored.claim;
        claim.state == ClaimState::Offered
            && !claim.claimant.same_machine(&self.me)
            && claim.to.as_ref().is_none_or(|to| *to == self.me.node)
    }
}

impl Lent {
    fn word(&self) -> &'static str {
        match self.phase {
            _ if self.back => "coming back",
            Lending::Writing | Lending::Saving(..) | Lending::Offering(_) => "offering",
            Lending::Offered(_) => "offered",
            Lending::Out(_) => "lent",
            Lending::Back(_) => "coming back",
        }
    }
}

impl Mine {
    fn word(&self) -> &'static str {
        match self.phase {
            Borrowing::Asking | Borrowing::Asked(_) => "asked for",
            Borrowing::Taking(_) => "borrowing",
            Borrowing::Renewing(_) => "renewing",
            Borrowing::Held(_) => "borrowed",
            Borrowing::Saving(..) | Borrowing::Deleting(_) => "returning",
        }
    }
}

impl Lending {
    /// The last known revision of the record; `None`: there may be none.
    fn revision(self) -> Option<Revision> {
        match self {
            Self::Writing => None,
            Self::Saving(revision, _)
            | Self::Offering(revision)
            | Self::Offered(revision)
            | Self::Out(revision)
            | Self::Back(revision) => Some(revision),
        }
    }
}
