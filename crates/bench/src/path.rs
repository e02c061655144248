//! What packets cost: every way beside every other, in rotation.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::cpu;
use crate::load::Test;
use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Programs, checkpoint};
use crate::stat::{Spread, ratios};
use crate::variant::{Backend, Shape, Variant};

/// Costs by way and test, one a round.
type Costs = BTreeMap<(Backend, Shape, Test), Vec<f64>>;

/// Measures all ways.
pub fn path(programs: &Programs, rounds: usize) -> Result<Section> {
    let cpu = cpu::last();
    let mut variants = Vec::new();
    for backend in [Backend::HostGw, Backend::Vxlan] {
        for shape in Shape::ALL {
            checkpoint()?;
            variants.push(Variant::build(backend, shape, programs, cpu)?);
        }
    }
    let mut costs = Costs::new();
    for round in 0..rounds {
        for at in order(round, variants.len()) {
            let variant = &mut variants[at];
            for test in Test::ALL {
                checkpoint()?;
                let cost = variant.course.run(test, test.amount(), cpu)?;
                costs.entry((variant.backend, variant.shape, test)).or_default().push(cost);
            }
        }
    }
    Ok(section(&costs))
}

/// The order of a round: it begins one further than the round before, and every second round goes backwards.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| {
        let at = (round + turn) % count;
        if round.is_multiple_of(2) { at } else { count - 1 - at }
    })
}

fn section(costs: &Costs) -> Section {
    let mut tables = Vec::new();
    let mut goals = Vec::new();
    for backend in [Backend::HostGw, Backend::Vxlan] {
        for test in Test::ALL {
            tables.push(table(costs, backend, test));
        }
        for (test, word) in Test::ALL.into_iter().zip(["transaction", "connection", "GB"]) {
            goals.push(goal(costs, backend, test, word, Shape::Hand));
        }
    }
    for backend in [Backend::HostGw, Backend::Vxlan] {
        for (test, word) in Test::ALL.into_iter().zip(["transaction", "connection", "GB"]) {
            goals.push(goal(costs, backend, test, word, Shape::Flannel));
        }
    }
    for backend in [Backend::HostGw, Backend::Vxlan] {
        for (test, word) in Test::ALL.into_iter().zip(["transaction", "connection", "GB"]) {
            goals.push(masquerade(costs, backend, test, word));
        }
    }
    Section { id: "path", title: "What a packet costs, pod to pod on two machines", goals, tables }
}

fn of(costs: &Costs, backend: Backend, shape: Shape, test: Test) -> &[f64] {
    costs.get(&(backend, shape, test)).map_or(&[], Vec::as_slice)
}

fn decimals(test: Test) -> usize {
    if test == Test::Stream { 0 } else { 1 }
}

fn table(costs: &Costs, backend: Backend, test: Test) -> Table {
    let unit = test.unit().0;
    let mut table = Table::new(&[
        &format!("{}, {unit}", backend.name()),
        "min / median / max",
        "ratio to by hand with masquerade: min / median / max",
    ]);
    for shape in Shape::ALL {
        let values = of(costs, backend, shape, test);
        let ratio = ratios(values, of(costs, backend, Shape::Hand, test));
        let cells = [shape.title().into(), Spread::of(values).text(decimals(test)), Spread::of(&ratio).to_string()];
        table.row(&cells);
    }
    table
}

fn goal(costs: &Costs, backend: Backend, test: Test, word: &str, rival: Shape) -> Goal {
    let (ours, theirs) = (of(costs, backend, Shape::Ours, test), of(costs, backend, rival, test));
    let ratio = Spread::of(&ratios(ours, theirs));
    let cost = |values: &[f64]| format!("{:.*}", decimals(test), Spread::of(values).median);
    let unit = if test == Test::Stream { "ms" } else { "µs" };
    let (reach, met) = match (rival, test) {
        (Shape::Flannel, Test::Transaction) => ("≤ 0.90", verdict(ratio.median <= 0.90)),
        (Shape::Flannel, _) => ("–", "–"),
        _ => ("≤ 1.05", verdict(ratio.median <= 1.05)),
    };
    Goal {
        what: format!("{}: CPU a {word}, beside {}", backend.name(), short(rival)),
        reach: reach.into(),
        ours: format!("{} {unit}", cost(ours)),
        rival: format!("{}: {} {unit}", short(rival), cost(theirs)),
        ratio: ratio.to_string(),
        met,
    }
}

fn short(shape: Shape) -> &'static str {
    if shape == Shape::Flannel { "Flannel's shape" } else { "the same by hand" }
}

/// What connection tracking and the masquerade rule cost by themselves, whoever makes them.
fn masquerade(costs: &Costs, backend: Backend, test: Test, word: &str) -> Goal {
    let (with, without) = (of(costs, backend, Shape::Hand, test), of(costs, backend, Shape::Bare, test));
    let cost = |values: &[f64]| format!("{:.*}", decimals(test), Spread::of(values).median);
    let unit = if test == Test::Stream { "ms" } else { "µs" };
    Goal {
        what: format!("{}: the cost of masquerade by itself, CPU a {word}, by hand", backend.name()),
        reach: "–".into(),
        ours: format!("with: {} {unit}", cost(with)),
        rival: format!("without: {} {unit}", cost(without)),
        ratio: Spread::of(&ratios(with, without)).to_string(),
        met: "–",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_visits_every_way_once_and_begins_elsewhere_each_time() {
        for round in 0..16 {
            let mut visited: Vec<usize> = order(round, 8).collect();
            visited.sort_unstable();
            assert_eq!(visited, (0..8).collect::<Vec<_>>());
        }
        let first: std::collections::BTreeSet<usize> = (0..8).filter_map(|round| order(round, 8).next()).collect();
        assert!(first.len() >= 4, "{first:?}");
        assert_ne!(order(0, 8).collect::<Vec<_>>(), order(2, 8).collect::<Vec<_>>());
    }
}
