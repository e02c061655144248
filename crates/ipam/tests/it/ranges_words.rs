//! Words of the range engine's world: faults and how many, steps, broken rules.

use ripstop_ipam::RangeRequest;

/// How often each fault may happen in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// An answer is lost, or the request with it (store away).
    pub lost: u8,
    /// A request is given up and may come through later.
    pub delayed: u8,
    /// A list shows the store as it was.
    pub stale: u8,
    /// The watch is interrupted; everything is listed anew.
    pub relist: u8,
    /// A change is delivered again.
    pub repeat: u8,
    /// An agent is killed.
    pub kill: u8,
    /// A start finds no snapshot.
    pub amnesia: u8,
    /// A machine is switched off (and may be switched on again).
    pub off: u8,
    /// An operator frees the range of a machine that is off, or its node is deleted.
    pub operator: u8,
    /// A node gives its range back, and may want one again.
    pub release: u8,
}

/// Engines that break a rule, by way of an agent that lies to the right one. Each must be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// Takes the claim of a node that shows no life.
    TrustsExpiry,
    /// Takes a range as soon as the write is sent.
    TrustsItsRequest,
    /// Trusts the snapshot of another boot.
    TrustsOldBoot,
    /// Trusts what a list says it holds.
    TrustsLists,
    /// Deletes the claim before the snapshot is written.
    DeletesBeforeSaving,
    /// Does not look at claims that overlap.
    IgnoresOverlap,
    /// Writes without a condition.
    WritesBlindly,
    /// Deletes without a condition.
    DeletesBlindly,
    /// The operator frees ranges of machines that run.
    OperatorGuesses,
}

/// What one node is asked to be.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name, and its machine's.
    pub node: String,
    /// What it wants.
    pub request: RangeRequest,
}

/// One step of one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Start(usize),
    StartWithout(usize),
    Land(usize),
    Lose(usize),
    Delay(usize),
    Hear(usize),
    HearNothing(usize),
    List(usize, u64),
    Watch(usize),
    Repeat(usize, u64),
    Save(usize),
    Tick(usize),
    Kill(usize),
    Off(usize),
    On(usize),
    Release(usize),
    Rejoin(usize),
    Operator(usize),
    Drift(usize),
}

impl Step {
    /// Whether this is a fault, or something a person does, rather than progress.
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::StartWithout(_)
                | Self::Lose(_)
                | Self::Delay(_)
                | Self::HearNothing(_)
                | Self::Repeat(..)
                | Self::Kill(_)
                | Self::Off(_)
                | Self::Release(_)
                | Self::Operator(_)
                | Self::Drift(_)
        )
    }
}

/// The fixed part of a search.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The nodes.
    pub parts: Vec<Part>,
    /// A broken rule, if any.
    pub mutant: Option<Mutant>,
    /// Kills and switching off meet the first machine only. Of equal machines it does not matter which one it is.
    pub spare_others: bool,
    /// All machines have one name: each is the other installed anew, and none need be off.
    pub namesakes: bool,
}
