//! Streams and new connections between pods that policies select, beside the same between pods that none selects.
//!
//! All cases stand at once, each with nodes, agents and a store of its own. Everything runs on one CPU, so a rate is one over the CPU time.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::chains::Chains;
use super::site::{NODES, Site};
use super::{MANY, Part, SELECTING, objects};
use crate::cpu;
use crate::load::{Course, Test};
use crate::report::{Goal, Table, verdict};
use crate::scene::{Programs, checkpoint};
use crate::stat::{Spread, ratios};

/// The least share of the rate without policies.
const LEAST: f64 = 0.97;
const TESTS: [(Test, &str); 2] = [(Test::Connection, "connections a second"), (Test::Stream, "one stream")];

/// Where the other pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Near,
    Far,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Near, Self::Far];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Near => "pods of one node",
            Self::Far => "pods of two nodes",
        }
    }
}

/// CPU time by case, place and test, one a round.
pub type Costs = BTreeMap<(usize, Place, Test), Vec<f64>>;

/// A standing case.
pub struct Case {
    pub title: String,
    courses: Vec<(Place, Course)>,
    stands: Stands,
}

/// What a case is made of.
enum Stands {
    Site(Box<Site>),
    Chains(Chains),
}

impl Case {
    /// Ways between the pods of a site, where policies are as they are said to be.
    pub fn new(title: String, site: Site, has_policies: bool) -> Result<Self> {
        site.check(has_policies).with_context(|| title.clone())?;
        let way = |server: &super::site::Pod| Course::open(&site.client.netns, &server.netns, server.ip);
        let mut courses = vec![(Place::Near, way(&site.near)?), (Place::Far, way(&site.far)?)];
        for (_, course) in &mut courses {
            course.reach().with_context(|| title.clone())?;
        }
        Ok(Self { title, courses, stands: Stands::Site(site.into()) })
    }

    fn chains(selecting: u32, programs: &Programs) -> Result<Self> {
        let chains = Chains::build(selecting, programs)?;
        let course = chains.course()?;
        let title = format!("a chain a policy, as kube-router's: {MANY}, of which {selecting}");
        Ok(Self { title, courses: vec![(Place::Far, course)], stands: Stands::Chains(chains) })
    }

    /// Nodes with agents; none where the rules are by hand.
    pub fn site(&self) -> Option<&Site> {
        if let Stands::Site(site) = &self.stands { Some(site) } else { None }
    }

    /// The same, and nothing else of it.
    pub fn into_site(self) -> Option<Site> {
        if let Stands::Site(site) = self.stands { Some(*site) } else { None }
    }
}

/// Measures it.
pub fn packets(programs: &Programs, rounds: usize) -> Result<Part> {
    let mut cases = vec![Case::new("no policy".into(), Site::build("none", programs, [])?, false)?];
    for selecting in SELECTING {
        let all = objects::others().chain(objects::policies(MANY, selecting));
        let site = Site::build(&format!("of-{selecting}"), programs, all)?;
        cases.push(Case::new(format!("{MANY} policies, of which {selecting} select both pods"), site, true)?);
    }
    for selecting in SELECTING {
        cases.push(Case::chains(selecting, programs)?);
    }
    let costs = costs(&mut cases, rounds)?;
    let titles: Vec<&str> = cases.iter().map(|case| case.title.as_str()).collect();
    let mut goals = Vec::new();
    for case in 1..=SELECTING.len() {
        goals.extend(self::goals(&costs, case, &titles, LEAST));
    }
    goals.extend((1..=SELECTING.len()).map(|case| beside(&costs, case, case + SELECTING.len(), &titles)));
    Ok((goals, [tables(&costs, &titles), of_cases(&cases)?].concat()))
}

/// What agents used, and what a change of chains takes.
fn of_cases(cases: &[Case]) -> Result<Vec<Table>> {
    let mut agents = Table::new(&["policies", "agent of", "CPU seconds in all", "resident MiB"]);
    let mut changes =
        Table::new(&["all rules read and written, as kube-router does at a change", "ms: min / median / max"]);
    for case in cases {
        match &case.stands {
            Stands::Site(site) => {
                for (agent, node) in site.agents.iter().zip(NODES) {
                    let used = format!("{:.2}", cpu::of_process(agent.pid())?.as_secs_f64());
                    let memory = format!("{:.0}", cpu::memory(agent.pid(), "VmRSS")?);
                    agents.row(&[case.title.clone(), node.into(), used, memory]);
                }
            }
            Stands::Chains(chains) => {
                changes.row(&[case.title.clone(), Spread::of(&chains.changes()?).text(0)]);
            }
        }
    }
    Ok(vec![agents, changes])
}

/// New connections beside those by chains.
fn beside(costs: &Costs, ours: usize, theirs: usize, titles: &[&str]) -> Goal {
    let of = |case| costs.get(&(case, Place::Far, Test::Connection)).map_or(&[][..], Vec::as_slice);
    let share = Spread::of(&ratios(of(theirs), of(ours)));
    Goal {
        what: format!("policies: {}, {}, {}", TESTS[0].1, Place::Far.title(), titles[ours]),
        reach: "–".into(),
        ours: cost(costs, ours, Place::Far, Test::Connection),
        rival: format!("{}: {}", titles[theirs], cost(costs, theirs, Place::Far, Test::Connection)),
        ratio: share.to_string(),
        met: "–",
    }
}

/// Every test on every way of every case, in rotation.
pub fn costs(cases: &mut [Case], rounds: usize) -> Result<Costs> {
    let (cpu, count) = (cpu::last(), cases.len());
    let mut costs = Costs::new();
    for round in 0..rounds {
        for turn in 0..count {
            let turn = (round + turn) % count;
            let number = if round.is_multiple_of(2) { turn } else { count - 1 - turn };
            let case = &mut cases[number];
            for (place, course) in &mut case.courses {
                for (test, _) in TESTS {
                    checkpoint()?;
                    let cost = course.run(test, test.amount(), cpu).with_context(|| case.title.clone())?;
                    costs.entry((number, *place, test)).or_default().push(cost);
                }
            }
        }
    }
    Ok(costs)
}

/// The rates of a case beside those of the first, a ratio a round.
fn shares(costs: &Costs, case: usize, place: Place, test: Test) -> Spread {
    let of = |case| costs.get(&(case, place, test)).map_or(&[][..], Vec::as_slice);
    Spread::of(&ratios(of(0), of(case)))
}

/// Goals of a case: its rates are at least this share of the first one's.
pub fn goals(costs: &Costs, case: usize, titles: &[&str], least: f64) -> Vec<Goal> {
    let all = Place::ALL.into_iter().flat_map(|place| TESTS.map(|(test, words)| (place, test, words)));
    let goal = |(place, test, words)| {
        let share = shares(costs, case, place, test);
        Goal {
            what: format!("policies: {words}, {}, {}", place.title(), titles[case]),
            reach: format!("≥ {least:.2} ×"),
            ours: cost(costs, case, place, test),
            rival: format!("{}: {}", titles[0], cost(costs, 0, place, test)),
            ratio: share.to_string(),
            met: verdict(share.median >= least),
        }
    };
    all.map(goal).collect()
}

fn cost(costs: &Costs, case: usize, place: Place, test: Test) -> String {
    let median = costs.get(&(case, place, test)).map_or(0.0, |costs| Spread::of(costs).median);
    if test == Test::Stream { format!("{median:.0} ms a GB") } else { format!("{median:.1} µs of CPU") }
}

/// A table for each test.
pub fn tables(costs: &Costs, titles: &[&str]) -> Vec<Table> {
    let table = |(test, _): (Test, &str)| {
        let mut table = Table::new(&[
            test.unit().0,
            "between",
            "min / median / max",
            &format!("rate beside {}: min / median / max", titles[0]),
        ]);
        for place in Place::ALL {
            for (case, title) in titles.iter().enumerate() {
                let Some(costs_of) = costs.get(&(case, place, test)) else { continue };
                let spread = Spread::of(costs_of).text(usize::from(test != Test::Stream));
                let share = shares(costs, case, place, test).to_string();
                table.row(&[(*title).into(), place.title().into(), spread, share]);
            }
        }
        table
    };
    TESTS.map(table).into()
}
