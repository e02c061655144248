//! What policies cost: to decide about them, packets and connections while they are there, and how soon a change counts.
//!
//! Packets are real, between pods of real agents that read policies from a store; deciding alone is measured in this process.

mod chains;
mod changes;
mod clusters;
mod explain;
mod lists;
mod objects;
mod packets;
mod probe;
mod site;
mod starts;

use anyhow::Result;

use crate::report::{Goal, Section, Table, verdict};
use crate::scene::Programs;

/// Policies that there are.
const MANY: u32 = 10_000;
/// How many of them select the pods that are measured.
const SELECTING: [u32; 2] = [10, 1_000];

/// What one measurement adds to the group.
type Part = (Vec<Goal>, Vec<Table>);

/// Deciding, and saying why.
pub fn decisions(rounds: usize) -> Result<Section> {
    let (mut goals, mut tables) = clusters::clusters(rounds)?;
    let (more, why) = explain::explain()?;
    goals.extend(more);
    tables.extend(why);
    Ok(Section { id: "policies", title: "Policies of large clusters", goals, tables })
}

/// Packets and new connections.
pub fn packets(programs: &Programs, rounds: usize) -> Result<Section> {
    section("policies-packets", "Packets among 10,000 policies", packets::packets(programs, rounds)?)
}

/// A list of a million blocks.
pub fn lists(programs: &Programs, rounds: usize) -> Result<Section> {
    section("policies-lists", "A list of a million blocks", lists::lists(programs, rounds)?)
}

/// How soon a change counts.
pub fn changes(programs: &Programs) -> Result<Section> {
    section("policies-changes", "Changes among 10,000 policies", changes::changes(programs)?)
}

/// Pods that start.
pub fn starts(programs: &Programs) -> Result<Section> {
    section("policies-starts", "Pods that start while policies change", starts::starts(programs)?)
}

fn section(id: &'static str, title: &'static str, (goals, tables): Part) -> Result<Section> {
    Ok(Section { id, title, goals, tables })
}

/// A goal without a rival.
fn alone(what: &str, reach: &str, ours: String, good: bool) -> Goal {
    let (what, reach) = (format!("policies: {what}"), reach.into());
    Goal { what, reach, ours, rival: "–".into(), ratio: "–".into(), met: verdict(good) }
}
