//! Runs cases on data planes, and says where one does something else than expected.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ripstop_oracle::policy::{Packet, World, judge};

use super::cases::{Case, Probe, cases};
use super::generate::{Change, Scenario};
use super::plane::{DataPlane, Fate};
use crate::case::{Row, Stop, Verdict, fail, skip};
use crate::interrupt;
use crate::suite::Error;

/// Makes a data plane, each time another.
pub type Make<'a> = dyn Fn() -> Verdict<Box<dyn DataPlane>> + Sync + 'a;

/// How a run is done.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Ids or what stands before a slash; none: all.
    pub only: &'a [String],
    /// How many data planes work at once.
    pub jobs: usize,
    /// Of each step's probes every so many is made: all with 1. Which they are follows from the case.
    pub every: usize,
}

/// Runs the cases that were asked for; gives a row for each in their order. `seen` is told each as it comes.
///
/// # Errors
/// See [`Error`]; and why no data plane could be made. One that does something else is none: its rows say so.
pub fn run(make: &Make<'_>, how: Run<'_>, seen: &(dyn Fn(&Row) + Sync)) -> Result<Vec<Row>, Error> {
    let cases = cases().map_err(Error::Failed)?;
    let named = |case: &Case, word: &str| {
        case.id.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(word) = how.only.iter().find(|word| !cases.iter().any(|case| named(case, word))) {
        return Err(Error::Usage(format!("--only {word}: there is no case or group of this name; --list names them")));
    }
    let is_chosen = |case: &&Case| how.only.is_empty() || how.only.iter().any(|word| named(case, word));
    let chosen: Vec<&'static Case> = cases.iter().filter(is_chosen).collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<(), Stop> {
        let mut plane = make()?;
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = chosen.get(place) else { return Ok(()) };
            if interrupt::happened() {
                return Err(Stop::Interrupted);
            }
            let begun = Instant::now();
            let verdict = run_sample(&mut *plane, case, how.every);
            if let Some(row) = Row::of(&case.id, &case.cite, verdict, begun.elapsed()) {
                seen(&row);
                rows.lock().unwrap_or_else(PoisonError::into_inner).push((place, row));
            }
        }
    };
    at_once(how.jobs, &work).map_err(|stop| match stop {
        Stop::Interrupted => Error::Interrupted,
        Stop::Skip(why) | Stop::Fail(why) | Stop::Differs(why) | Stop::Unclaimed(why) => Error::Failed(why),
    })?;
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(place, _)| *place);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Runs the same on several threads. Gives what stopped the first of them.
fn at_once(jobs: usize, work: &(dyn Fn() -> Result<(), Stop> + Sync)) -> Result<(), Stop> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let panicked = || Err(Stop::Fail("a thread of the suite panicked".into()));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| panicked())).fold(Ok(()), Result::and)
    })
}

/// Runs one case with all its probes, from its own beginning.
pub fn run_case(plane: &mut dyn DataPlane, case: &Case) -> Verdict {
    run_sample(plane, case, 1)
}

fn run_sample(plane: &mut dyn DataPlane, case: &Case, every: usize) -> Verdict {
    let steps = case.steps().map_err(Stop::Fail)?;
    plane.begin()?;
    let mut is_shown = false;
    for (number, step) in steps.into_iter().enumerate() {
        plane.follow(&step.changes)?;
        // Another part of them each time.
        let first = (case.id.len() + number) % every.max(1);
        let shown: Vec<Probe> = step.probes.into_iter().filter(|probe| plane.shows(&probe.packet)).collect();
        is_shown |= !shown.is_empty();
        let probes: Vec<Probe> = shown.into_iter().skip(first).step_by(every.max(1)).collect();
        let packets: Vec<Packet> = probes.iter().map(|probe| probe.packet).collect();
        let expected: Vec<Fate> =
            probes.iter().map(|probe| if probe.arrives { Fate::Arrived } else { Fate::Nothing }).collect();
        let fates = plane.send_until(&packets, &expected)?;
        let wrong: Vec<String> = (probes.iter().zip(fates).zip(expected))
            .filter(|((_, fate), expected)| fate != expected)
            .map(|((Probe { name, arrives, .. }, fate), _)| {
                format!(
                    "{name}: {}, expected is that it {}",
                    fate.as_str(),
                    if *arrives { "arrives" } else { "does not" }
                )
            })
            .collect();
        if !wrong.is_empty() {
            let name = step.name.map(|name| format!(" ({name})")).unwrap_or_default();
            let few = wrong[..wrong.len().min(5)].join("; ");
            return fail(format!("step {number}{name}: {} of {} packets: {few}", wrong.len(), probes.len()));
        }
    }
    if is_shown { Ok(()) } else { skip("none of its packets can be sent here") }
}

/// How a data plane differs from the oracle in a scenario; else how many packets it was right about.
///
/// # Errors
/// What differs, or why nothing can be said.
pub fn differ(plane: &mut dyn DataPlane, scenario: &Scenario) -> Verdict<usize> {
    let mut world = World::default();
    let mut sent = 0;
    plane.begin()?;
    let start = (Change::all_of(&scenario.world), Vec::new());
    let steps = scenario.steps.iter().map(|step| (step.changes.clone(), step.packets.clone()));
    for (changes, packets) in [start].into_iter().chain(steps) {
        changes.iter().for_each(|change| change.apply(&mut world));
        plane.follow(&changes)?;
        let shown: Vec<Packet> = packets.into_iter().filter(|packet| plane.shows(packet)).collect();
        for (packet, fate) in shown.iter().zip(plane.send(&shown)?) {
            let judged = judge(&world, packet);
            if fate != if judged.is_accepted() { Fate::Arrived } else { Fate::Nothing } {
                return fail(format!("{packet:?}: {}; {judged:?}", fate.as_str()));
            }
            sent += 1;
        }
    }
    Ok(sent)
}

/// A scenario in which a data plane differs.
#[derive(Debug)]
pub struct Divergence {
    /// As small as it could be made.
    pub scenario: Scenario,
    /// What differs.
    pub why: String,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.scenario, self.why)
    }
}

/// Sets data planes beside the oracle in scenarios until so many packets were sent. Gives how many it were.
///
/// # Errors
/// The first scenario in which one differs.
pub fn compare(make: &Make<'_>, jobs: usize, seed: u64, packets: usize) -> Result<usize, Box<Divergence>> {
    let (sent, next, is_over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let found: Mutex<Option<Box<Divergence>>> = Mutex::new(None);
    let tell = |scenario, why| {
        is_over.store(true, Ordering::Relaxed);
        found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| Box::new(Divergence { scenario, why }));
    };
    let nothing = || Scenario { world: World::default(), steps: Vec::new() };
    let work = || -> Result<(), Stop> {
        let mut plane = make()?;
        while sent.load(Ordering::Relaxed) < packets && !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed) as u64;
            match super::drawn::first_difference(seed.wrapping_add(number << 20), &mut |scenario| {
                differ(&mut *plane, scenario)
            }) {
                Ok(count) => drop(sent.fetch_add(count, Ordering::Relaxed)),
                Err(found) => tell(found.0, found.1),
            }
        }
        Ok(())
    };
    if let Err(stop) = at_once(jobs, &work) {
        tell(nothing(), format!("{stop:?}"));
    }
    match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(divergence) => Err(divergence),
        None => Ok(sent.into_inner()),
    }
}
