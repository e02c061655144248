//! What BGP and BFD cost, and how fast they are, beside Debian's BIRD in the same run.
//!
//! Speakers by themselves are processes between stubs that only count; what reaches a kernel is measured with whole agents.

mod bfd;
mod changes;
mod cut;
mod pods;
mod reflector;
mod routes;
mod speaker;
mod stub;
mod watch;

use anyhow::Result;

use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{self, Programs, Scene};

pub use cut::bird;
pub use speaker::{BIRD, WORD, run};

/// What one measurement adds to the group.
type Part = (Vec<Goal>, Vec<Table>);

/// Tables of routes through a speaker.
pub fn routes(programs: &Programs, rounds: usize) -> Result<Section> {
    section("bgp-routes", "BGP: tables of routes through a speaker", routes::routes(programs, rounds)?)
}

/// A reflector's clients.
pub fn reflector(programs: &Programs, rounds: usize) -> Result<Section> {
    section("bgp-reflector", "BGP: a reflector", reflector::reflector(programs, rounds)?)
}

/// BFD by itself.
pub fn bfd(programs: &Programs, rounds: usize) -> Result<Section> {
    section("bgp-bfd", "BFD: many sessions, and sessions that hold", bfd::bfd(programs, rounds)?)
}

/// A cut that nobody is told of.
pub fn cut(programs: &Programs, rounds: usize) -> Result<Section> {
    section("bgp-cut", "BGP: a silent cut", cut::cut(programs, rounds)?)
}

/// Routes of new pods.
pub fn pods(programs: &Programs, rounds: usize) -> Result<Section> {
    section("bgp-pods", "BGP: routes of new pods", pods::pods(programs, rounds)?)
}

/// Configuration that changes.
pub fn changes(programs: &Programs) -> Result<Section> {
    section("bgp-changes", "BGP: configuration that changes", changes::changes(programs)?)
}

fn section(id: &'static str, title: &'static str, (goals, tables): Part) -> Result<Section> {
    Ok(Section { id, title, goals, tables })
}

fn goal(what: &str, reach: &str, ours: String, rival: String, ratio: String, good: bool) -> Goal {
    Goal { what: format!("BGP: {what}"), reach: reach.into(), ours, rival, ratio, met: verdict(good) }
}

/// Writes a manifest by the agent of a node.
fn apply(scene: &Scene, node: &str, manifest: &str) -> Result<()> {
    scene::apply(scene.programs(), &scene.run().join(node).join("agent.sock"), manifest)
}
