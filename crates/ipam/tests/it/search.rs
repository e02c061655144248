//! Searches of an engine's world: every history up to a bound, and long random ones.

use std::collections::HashSet;
use std::fmt::Debug;

/// A world of machines and a store, in one state.
pub trait World: Sized + Clone {
    /// The fixed part of a search.
    type Setting;
    /// One thing that happens.
    type Step: Copy + Debug;

    /// A number for this state; equal states have equal ones.
    fn fingerprint(&self) -> u64;

    /// The law.
    fn check(&self) -> Result<(), String>;

    /// Steps that can happen now.
    fn steps(&self, setting: &Self::Setting) -> Vec<Self::Step>;

    /// Does a step.
    fn take(&mut self, setting: &Self::Setting, step: Self::Step);

    /// Whether a step is a fault, or something a person does, rather than progress.
    fn is_fault(step: &Self::Step) -> bool;

    /// Lets everything come to rest without further faults.
    fn settle(&mut self, setting: &Self::Setting);

    /// What holds then.
    fn check_settled(&self, setting: &Self::Setting) -> Result<(), String>;
}

/// What a search saw.
#[derive(Debug)]
pub struct Found<S> {
    /// Different states.
    pub states: usize,
    /// Steps of the longest history looked at.
    pub depth: usize,
    /// Whether every state within the budget was seen.
    pub whole: bool,
    /// The first history that breaks the law.
    pub broken: Option<(String, Vec<S>)>,
}

/// Every history, breadth first, until nothing new is found or `limit` states were seen.
pub fn every<W: World>(first: W, setting: &W::Setting, limit: usize) -> Found<W::Step> {
    let mut found = Found { states: 0, depth: 0, whole: false, broken: None };
    let mut seen = HashSet::from([first.fingerprint()]);
    // Where each state came from, to tell the history of a fault.
    let mut ways: Vec<(u32, Option<W::Step>)> = vec![(0, None)];
    let mut layer: Vec<(u32, W)> = vec![(0, first)];
    while !layer.is_empty() {
        let mut next = Vec::new();
        for (way, world) in &layer {
            for step in world.steps(setting) {
                let mut after = world.clone();
                after.take(setting, step);
                if !seen.insert(after.fingerprint()) {
                    continue;
                }
                ways.push((*way, Some(step)));
                let here = (ways.len() - 1) as u32;
                if let Err(broken) = after.check() {
                    found.broken = Some((broken, history(&ways, here)));
                    found.states = seen.len();
                    return found;
                }
                next.push((here, after));
            }
            if seen.len() >= limit {
                found.states = seen.len();
                return found;
            }
        }
        found.depth += 1;
        layer = next;
    }
    (found.states, found.whole) = (seen.len(), true);
    found
}

/// One random history, in which one step of eight is a fault if one can happen; then everything comes to rest. `Err`: what is wrong, and the history.
pub fn walk<W: World>(first: W, setting: &W::Setting, seed: u64, length: usize) -> Result<W, (String, Vec<W::Step>)> {
    let (mut random, mut world, mut done) = (Random::new(seed), first, Vec::new());
    for _ in 0..length {
        let fault = random.next().is_multiple_of(8);
        let (faults, progress): (Vec<W::Step>, Vec<W::Step>) = world.steps(setting).into_iter().partition(W::is_fault);
        let Some(step) = random.pick(if fault && !faults.is_empty() { &faults } else { &progress }).copied() else {
            continue;
        };
        world.take(setting, step);
        done.push(step);
        world.check().map_err(|broken| (broken, done.clone()))?;
    }
    world.settle(setting);
    world.check_settled(setting).map_err(|broken| (broken, done))?;
    Ok(world)
}

fn history<S: Copy>(ways: &[(u32, Option<S>)], mut at: u32) -> Vec<S> {
    let mut steps = Vec::new();
    while let (before, Some(step)) = ways[at as usize] {
        steps.push(step);
        at = before;
    }
    steps.reverse();
    steps
}

/// SplitMix64: the same histories on every machine.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let n = self.next().checked_rem(from.len() as u64)?;
        from.get(n as usize)
    }
}
