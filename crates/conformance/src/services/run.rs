//! Runs cases on a data plane, and says where it does something else than expected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ripstop_oracle::services::{Outcome, Packet, Source, World};

use super::case::{Case, Difference, Health, Step, Sysctls};
use super::load::cases;
use super::plane::{DataPlane, Fate, Seen};
use super::text::{Expected, Then};
use crate::case::{Row, Stop, Verdict, fail, need};
use crate::interrupt;
use crate::suite::Error;

/// How many packets are sent for each endpoint that has not been seen yet: one of 2 is missed once in 65,536 runs of a case.
const TRIES: usize = 16;

/// Runs the cases that were asked for, ids or what stands before a slash, all where none was named; gives a row for each in their order.
/// `seen` is told each as it comes.
///
/// # Errors
/// See [`Error`]. A data plane that does something else is none: its rows say so.
pub fn run(plane: &mut dyn DataPlane, only: &[String], seen: &dyn Fn(&Row)) -> Result<Vec<Row>, Error> {
    let cases = cases().map_err(Error::Failed)?;
    let named = |case: &Case, word: &str| {
        case.id.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(word) = only.iter().find(|word| !cases.iter().any(|case| named(case, word))) {
        return Err(Error::Usage(format!("--only {word}: there is no case or group of this name; --list names them")));
    }
    let chosen = cases.iter().filter(|case| only.is_empty() || only.iter().any(|word| named(case, word)));
    let mut rows = Vec::new();
    for case in chosen {
        if interrupt::happened() {
            return Err(Error::Interrupted);
        }
        let begun = Instant::now();
        let verdict = explain(run_case(plane, case), plane.explained(case));
        if let Some(row) = Row::of(&case.id, &case.cite, verdict, begun.elapsed()) {
            seen(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A difference with an explanation is none to find, and an explanation without one is wrong.
fn explain(verdict: Verdict, known: Option<&Difference>) -> Verdict {
    match (verdict, known) {
        (Err(Stop::Fail(why)), Some(Difference::Always(because) | Difference::Sometimes { sometimes: because })) => {
            Err(Stop::Differs(format!("{why}; {because}")))
        }
        (Ok(()), Some(Difference::Always(because))) => {
            fail(format!("it does as expected, though it is said to differ: {because}"))
        }
        (other, _) => other,
    }
}

/// Runs one case, from its own beginning.
pub fn run_case(plane: &mut dyn DataPlane, case: &Case) -> Verdict {
    let mut went: Vec<Option<SocketAddr>> = Vec::new();
    for (number, step) in case.steps.iter().enumerate() {
        run_step(plane, step, number == 0, &mut went)?;
    }
    Ok(())
}

fn run_step(plane: &mut dyn DataPlane, step: &Step, first: bool, went: &mut Vec<Option<SocketAddr>>) -> Verdict {
    plane.told(&step.objects);
    if first {
        plane.install(&step.world)?;
    }
    let flows: Vec<_> = step.flows.iter().map(|(flow, _)| *flow).collect();
    if !flows.is_empty() {
        plane.track(&flows)?;
    }
    if step.wait > 0 {
        plane.wait(Duration::from_secs(step.wait))?;
    }
    if step.restart {
        plane.restart()?;
    }
    if let Some(back) = step.store {
        plane.store(back)?;
    }
    if !first || !flows.is_empty() {
        plane.change(&step.world)?;
    }
    if let Some(expected) = step.knowledge {
        let found = plane.knowledge()?;
        need!(found == expected, "rules from before: {found:?}, expected {expected:?}");
    }
    let before = went.len();
    for expected in &step.packets {
        went.push(check_packet(plane, &step.world, expected, went)?);
    }
    check_clients(step, went.get(before..).unwrap_or_default())?;
    for health in &step.health {
        check_health(plane, health)?;
    }
    if !flows.is_empty() {
        let there = plane.tracked()?;
        for (flow, gone) in &step.flows {
            let word = if *gone { "it is still there" } else { "it is gone" };
            need!(there.contains(flow) != *gone, "flow {} by {}: {word}", flow.destination, flow.replier);
        }
    }
    step.sysctls.as_ref().map_or(Ok(()), |sysctls| check_sysctls(plane, sysctls))
}

fn check_sysctls(plane: &mut dyn DataPlane, expected: &Sysctls) -> Verdict {
    let written = plane.sysctls(expected.cores, &expected.present)?;
    need!(written == expected.writes, "written: {written:?}, expected: {:?}", expected.writes);
    Ok(())
}

fn check_health(plane: &mut dyn DataPlane, health: &Health) -> Verdict {
    let found = plane.health(health.port, &health.path, health.family)?;
    let expected = health.answer;
    let same = match (found, expected) {
        (Some(found), Some(expected)) => {
            found.status == expected.status && (expected.local.is_none() || expected.local == found.local)
        }
        (None, None) => true,
        _ => false,
    };
    need!(same, "port {}{}: answered {found:?}, expected {expected:?}", health.port, health.path);
    Ok(())
}

/// Gives the endpoint that the packet went to.
fn check_packet(
    plane: &mut dyn DataPlane,
    world: &World,
    expected: &Expected,
    went: &[Option<SocketAddr>],
) -> Verdict<Option<SocketAddr>> {
    let outcome = match &expected.then {
        Then::Is(outcome) => outcome.clone(),
        Then::Same(number, source) => {
            let Some(Some(endpoint)) = went.get(*number) else {
                return fail(format!("{}: packet {} went to no endpoint", expected.text, number + 1));
            };
            Outcome::To([(*endpoint, *source)].into())
        }
    };
    let seen = plane.send(&expected.packet)?;
    fits(world, &expected.packet, &outcome, &seen).or_else(|why| fail(format!("{}: {why}", expected.text)))?;
    let Fate::Arrived { endpoint, .. } = seen.fate else { return Ok(None) };
    if seen.outcome.is_none() && matches!(expected.then, Then::Is(_)) {
        look_for_all(plane, world, expected, &outcome, endpoint)?;
    }
    Ok(Some(endpoint))
}

/// Each endpoint has got some of many clients, each of which has one of its own.
fn check_clients(step: &Step, went: &[Option<SocketAddr>]) -> Verdict {
    /// What is asked, and who may answer.
    type Asked<'a> = (SocketAddr, &'a BTreeMap<SocketAddr, Source>);
    let mut clients: BTreeMap<Asked<'_>, BTreeMap<IpAddr, SocketAddr>> = BTreeMap::new();
    for (expected, endpoint) in step.packets.iter().zip(went) {
        if let (Then::Is(Outcome::To(endpoints)), Some(endpoint)) = (&expected.then, endpoint) {
            let to = SocketAddr::new(expected.packet.destination, expected.packet.port);
            clients.entry((to, endpoints)).or_default().insert(expected.packet.source, *endpoint);
        }
    }
    for ((to, endpoints), clients) in clients.into_iter().filter(|((_, to), all)| all.len() >= to.len() * TRIES) {
        let seen: BTreeSet<SocketAddr> = clients.into_values().collect();
        let missing: Vec<String> =
            endpoints.keys().filter(|endpoint| !seen.contains(endpoint)).map(ToString::to_string).collect();
        need!(missing.is_empty(), "of many clients of {to} {} never got one", missing.join(", "));
    }
    Ok(())
}

/// Whether something that was seen is what was expected; else what it was.
pub fn fits(world: &World, packet: &Packet, expected: &Outcome, seen: &Seen) -> Result<(), String> {
    if let Some(outcome) = &seen.outcome
        && outcome != expected
    {
        return Err(format!("found {outcome}"));
    }
    match (seen.fate, expected) {
        (Fate::Refused, Outcome::Rejected) | (Fate::Nothing, Outcome::Dropped) | (Fate::Passed, Outcome::Untouched) => {
            Ok(())
        }
        (Fate::Arrived { endpoint, source }, Outcome::To(endpoints)) => match endpoints.get(&endpoint) {
            Some(Source::Kept) if source == packet.source => Ok(()),
            Some(Source::Node) if world.addresses.contains(&source) => Ok(()),
            Some(_) => Err(format!("{endpoint} got it from {source}")),
            None => Err(format!("{endpoint} got it")),
        },
        (Fate::Arrived { endpoint, source }, _) => Err(format!("{endpoint} got it from {source}")),
        (Fate::Refused, _) => Err("it was refused".into()),
        (Fate::Nothing, _) => Err("nothing was heard of it".into()),
        (Fate::Passed, _) => Err("it went where it was sent to".into()),
    }
}

/// Sends more until every endpoint has been seen. A client with affinity sees one only.
fn look_for_all(
    plane: &mut dyn DataPlane,
    world: &World,
    expected: &Expected,
    outcome: &Outcome,
    first: SocketAddr,
) -> Verdict {
    let Outcome::To(endpoints) = outcome else { return Ok(()) };
    if world.services.iter().any(|service| service.affinity.is_some()) {
        return Ok(());
    }
    let mut missing: BTreeSet<SocketAddr> = endpoints.keys().copied().filter(|endpoint| *endpoint != first).collect();
    for _ in 0..endpoints.len() * TRIES {
        if missing.is_empty() {
            return Ok(());
        }
        let seen = plane.send(&expected.packet)?;
        fits(world, &expected.packet, outcome, &seen).or_else(|why| fail(format!("{}: {why}", expected.text)))?;
        if let Fate::Arrived { endpoint, .. } = seen.fate {
            missing.remove(&endpoint);
        }
    }
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    if missing.is_empty() { Ok(()) } else { fail(format!("{}: {} never got one", expected.text, missing.join(", "))) }
}
