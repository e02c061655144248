//! Words of the lending engine's world: faults and deeds and how many, steps, broken rules.

/// How often each fault and each deed may happen in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    pub lost: u8,
    pub delayed: u8,
    pub stale: u8,
    pub relist: u8,
    pub kill: u8,
    pub amnesia: u8,
    pub off: u8,
    /// Pods of machine 0.
    pub pods: u8,
    pub offers: u8,
    pub backs: u8,
    pub borrows: u8,
    pub asks: u8,
    /// Ticks that repeat nothing that failed: their count is bounded.
    pub ticks: u8,
}

/// Broken rules, by way of an agent that lies to the right engine. Each must be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// An address is offered and still given to own pods.
    OffersWhatIsOpen,
    /// Writes and deletes before the snapshot is there.
    DoesNotSave,
    /// Uses a block before what is lent of it is known.
    OpensAtOnce,
    /// Writes without a condition.
    WritesBlindly,
    /// Takes a request that was sent for one that was granted.
    TrustsItsRequest,
    /// Grants an address that a pod has.
    GrantsAnything,
}

/// The fixed part of a search.
#[derive(Debug, Clone)]
pub struct Setting {
    pub machines: usize,
    pub addresses: u8,
    pub mutant: Option<Mutant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Start(usize),
    StartWithout(usize),
    Kill(usize),
    Off(usize),
    On(usize),
    Land(usize),
    Lose(usize),
    Delay(usize),
    Hear(usize),
    HearNothing(usize),
    List(usize, u64),
    Watch(usize),
    Save(usize),
    Tick(usize),
    Drift(usize),
    /// A pod of this machine gets this address, or goes.
    Add(usize, u8),
    Del(usize, u8),
    Offer(u8),
    Back(u8),
    Borrow(usize, u8),
    Ask(usize, u8),
    /// What no pod has is given back, what an earlier run left is looked through.
    Sweep(usize),
}
