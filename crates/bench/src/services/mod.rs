//! Services by the product beside Kubernetes' own kube-proxy, both of its modes, and beside no Service at all.
//!
//! Everything is real: an API server, the agent or kube-proxy as a program, and connections from a pod's namespace to endpoints' addresses
//! behind the node's uplink. kube-proxy is told to wait a millisecond between changes where its default is a second.

mod events;
pub mod load;
mod objects;
mod site;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ripstop_conformance::services::Programs as Kubernetes;

use crate::cpu;
use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Programs, checkpoint, wait_for};
use crate::stat::{Spread, differences, quantile, ratios};
use events::Transactions;
use load::{Open, Tally};
pub use objects::TARGET;
use site::{Site, Subject};

/// Numbers of Services at which first packets are measured, all with ten endpoints; and what the product alone is asked.
const SIZES: [u32; 4] = [1, 10, 1_000, 10_000];
const ENDPOINTS: u32 = 10;
/// Where kube-proxy's iptables mode still loads in a minute or two: twenty thousand more, of one endpoint, so four on average.
const MANY: u32 = 30_000;
const MOST: u32 = 100_000;
/// Number of Services at which the product is switched to its other proxy and back.
const SWITCHED: u32 = 1_000;
/// The longest that is waited for a quiet machine before packets are timed.
const QUIET: Duration = Duration::from_secs(60);
/// Connections of one visit.
const VISIT: u32 = 1_000;
const SUBJECTS: [Subject; 4] = [Subject::Ripstop, Subject::Nftables, Subject::Iptables, Subject::Direct];
/// Cold starts of the product; rivals take minutes, so they have one.
const COLD: usize = 5;
/// Changes of one endpoint: of the product, of a rival.
const CHANGES: [u32; 2] = [200, 10];
const PACE: u32 = 100;
const PACED: Duration = Duration::from_secs(60);
/// Connections a second while endpoints are replaced and the program is killed, and how many stay open.
const RATE: f64 = 2_000.0;
const STAY: u32 = 50;

/// Microseconds of a connect, one list a round: p50, p01 and connections a second.
type Visits = BTreeMap<(Subject, u32), Vec<[f64; 3]>>;

/// Measures all of it; nothing where Kubernetes' programs were not built.
pub fn services(programs: &Programs, rounds: usize) -> Result<Section> {
    let title = "Services, beside kube-proxy";
    let mut found = Found::default();
    let folder = ripstop_lab::kubernetes_programs()?;
    let kubernetes = match Kubernetes::find(&folder) {
        Ok(kubernetes) => kubernetes,
        Err(why) => {
            eprintln!("bench: services: not measured: {why:?}");
            return Ok(Section { id: "services", title, goals: Vec::new(), tables: Vec::new() });
        }
    };
    let build = |(number, subject)| Site::build(subject, number, programs, &kubernetes);
    let mut sites = SUBJECTS.into_iter().enumerate().map(build).collect::<Result<Vec<_>>>()?;
    for size in SIZES {
        for site in sites.iter_mut().filter(|site| site.subject != Subject::Direct) {
            site.grow(size, ENDPOINTS)?;
        }
        serve_all(&mut sites)?;
        visits(&sites, size, rounds, &mut found.visits)?;
        if size == SWITCHED {
            let ours = sites.iter().find(|site| site.subject == Subject::Ripstop).context("ours")?;
            found.switch = Some(switches(ours)?);
        }
    }
    for site in sites.iter_mut().filter(|site| site.subject != Subject::Direct) {
        let is_ours = site.subject == Subject::Ripstop;
        for _ in 0..if is_ours { COLD } else { 1 } {
            found.start(site)?;
        }
        // Of changes of legacy iptables the kernel tells nobody.
        let is_told = site.subject != Subject::Iptables;
        if !(is_ours || is_told && found.cold.contains_key(&(site.subject, site.count))) {
            continue;
        }
        let changes = changes(site, CHANGES[usize::from(!is_ours)])?;
        found.changes.insert(site.subject, changes);
        if is_ours {
            found.lag = Some(paced(site)?);
            found.losses = Some(losses(site)?);
        }
    }
    sites.retain(|site| site.subject != Subject::Nftables);
    for site in sites.iter_mut().filter(|site| site.subject != Subject::Direct) {
        site.grow(MANY, 1)?;
    }
    serve_all(&mut sites)?;
    visits(&sites, MANY, rounds, &mut found.visits)?;
    for site in sites.iter_mut().filter(|site| site.subject != Subject::Direct) {
        found.memory.insert(site.subject, memory(site)?);
    }
    drop(sites);
    let direct = build((4, Subject::Direct))?;
    let mut ours = build((5, Subject::Ripstop))?;
    ours.stop();
    ours.grow(MOST, ENDPOINTS)?;
    found.start(&mut ours)?;
    let sites = [ours, direct];
    visits(&sites, MOST, rounds, &mut found.visits)?;
    Ok(Section { id: "services", title, goals: found.goals(), tables: found.tables() })
}

/// Waits until all serve. A rival that does not in time is told of and left out.
fn serve_all(sites: &mut Vec<Site>) -> Result<()> {
    let begun = Instant::now();
    let mut late = Vec::new();
    for site in sites.iter() {
        match site.wait_served(begun) {
            Err(why) if site.subject != Subject::Ripstop => {
                checkpoint()?;
                eprintln!("bench: services: left out from here on: {why:#}");
                late.push(site.subject);
            }
            served => drop(served?),
        }
    }
    sites.retain(|site| !late.contains(&site.subject));
    Ok(())
}

fn visits(sites: &[Site], size: u32, rounds: usize, visits: &mut Visits) -> Result<()> {
    let cpu = cpu::last();
    // What follows of many objects is over: kube-proxy goes on for a while, and so do API servers.
    let _ = wait_for("a quiet machine", QUIET, || cpu::busy(Duration::from_secs(1)).is_ok_and(|busy| busy < 0.1));
    for round in 0..rounds {
        for turn in 0..sites.len() {
            checkpoint()?;
            let site = &sites[(round + turn) % sites.len()];
            let targets = site.targets(VISIT, u64::try_from(round).unwrap_or_default());
            let begun = Instant::now();
            let times = load::times(&site.client, &targets, cpu)?;
            let rate = f64::from(VISIT) / begun.elapsed().as_secs_f64();
            let visit = [quantile(&times, 0.5), quantile(&times, 0.01), rate];
            visits.entry((site.subject, size)).or_default().push(visit);
        }
    }
    Ok(())
}

/// Seconds from a start in a kernel without rules until all is served.
fn cold(site: &mut Site) -> Result<f64> {
    site.stop();
    site.clear()?;
    let begun = Instant::now();
    site.start()?;
    site.wait_served(begun)
}

/// Milliseconds from the API server's answer to one endpoint's change until it is in the kernel.
fn changes(site: &Site, count: u32) -> Result<Vec<f64>> {
    let transactions = Transactions::listen(&site.node)?;
    let mut times = Vec::new();
    for number in 0..count {
        checkpoint()?;
        // What follows of the change before is over.
        thread::sleep(Duration::from_millis(100));
        transactions.drain();
        site.change(number % site.count, ENDPOINTS + 1, 0)?;
        let answered = Instant::now();
        let seen = transactions.next(Duration::from_secs(60)).context("a change does not come to the kernel")?;
        times.push(cpu::ms(seen.saturating_duration_since(answered)));
    }
    Ok(times)
}

/// Seconds that the kernel is behind, once many changes a second have been made for a while.
fn paced(site: &Site) -> Result<f64> {
    let transactions = Transactions::listen(&site.node)?;
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < PACED {
        checkpoint()?;
        let due = Duration::from_secs(1) / PACE * number;
        if let Some(early) = due.checked_sub(begun.elapsed()) {
            thread::sleep(early);
        }
        site.change(1_000 + number, ENDPOINTS - 1, 0)?;
        number += 1;
    }
    transactions.drain();
    let last = Instant::now();
    let mut seen = last;
    while let Some(at) = transactions.next(Duration::from_secs(2)) {
        seen = at;
    }
    Ok(seen.saturating_duration_since(last).as_secs_f64())
}

/// Connections that failed, and that broke.
#[derive(Debug, Clone, Copy)]
struct Losses {
    rolling: (u64, u64),
    killed: (u64, u64),
    broken: usize,
}

/// Under load: every endpoint of some Services is replaced, one Service after the other; then the program is killed and started again.
fn losses(site: &mut Site) -> Result<Losses> {
    const REPLACED: u32 = 20;
    let targets: Vec<_> = (0..REPLACED).map(objects::address).collect();
    let client = site.client.clone();
    let (targets, client) = (targets.as_slice(), client.as_path());
    let rolling = under_load(client, targets, || {
        for service in 0..REPLACED {
            checkpoint()?;
            site.change(service, ENDPOINTS, 1)?;
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    })?;
    let mut open = Open::to(client, &site.targets(STAY, 3))?;
    let killed = under_load(client, targets, || {
        site.stop();
        thread::sleep(Duration::from_secs(1));
        site.start()?;
        thread::sleep(Duration::from_secs(5));
        Ok(())
    })?;
    Ok(Losses { rolling, killed, broken: open.broken() })
}

/// What was lost while something was done, and how long that took.
#[derive(Debug, Clone, Copy)]
struct Switch {
    connections: (u64, u64),
    broken: usize,
    seconds: f64,
}

/// Under load: to iptables and back.
fn switches(site: &Site) -> Result<Switch> {
    let targets = site.targets(VISIT, 5);
    let mut open = Open::to(&site.client, &site.targets(STAY, 3))?;
    let mut seconds = 0.0;
    let connections = under_load(&site.client, &targets, || {
        let begun = Instant::now();
        ["iptables", "nftables"].into_iter().try_for_each(|proxy| site.switch(proxy))?;
        seconds = begun.elapsed().as_secs_f64();
        Ok(())
    })?;
    Ok(Switch { connections, broken: open.broken(), seconds })
}

/// Connections that were made and that failed while something was done.
pub fn under_load(
    client: &std::path::Path,
    targets: &[std::net::SocketAddr],
    act: impl FnOnce() -> Result<()>,
) -> Result<(u64, u64)> {
    let (tally, ends) = (Tally::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let load = scope.spawn(|| load::at_rate(client, targets, RATE, &tally, &ends));
        let done = act();
        ends.store(true, Ordering::Relaxed);
        load.join().unwrap_or_else(|_| Err(anyhow!("the load ended early")))?;
        done
    })?;
    Ok((tally.made.into_inner(), tally.failed.into_inner()))
}

/// MiB of the program, and of the kernel for its rules.
fn memory(site: &mut Site) -> Result<(f64, f64)> {
    let program = cpu::memory(site.pid()?, "VmRSS")?;
    site.stop();
    let with = cpu::kernel_memory()?;
    site.clear()?;
    // What is freed behind a grace period.
    thread::sleep(Duration::from_secs(2));
    Ok((program, with - cpu::kernel_memory()?))
}

/// All that was found.
#[derive(Debug, Default)]
struct Found {
    visits: Visits,
    cold: BTreeMap<(Subject, u32), Vec<f64>>,
    /// What of it is neither a start of the program nor the API server's list.
    own: BTreeMap<(Subject, u32), Vec<f64>>,
    changes: BTreeMap<Subject, Vec<f64>>,
    lag: Option<f64>,
    losses: Option<Losses>,
    switch: Option<Switch>,
    memory: BTreeMap<Subject, (f64, f64)>,
}

impl Found {
    /// Takes a cold start in; none of a rival that does not serve in time.
    fn start(&mut self, site: &mut Site) -> Result<()> {
        let took = match cold(site) {
            Err(why) if site.subject != Subject::Ripstop => {
                checkpoint()?;
                eprintln!("bench: services: no cold start: {why:#}");
                return Ok(());
            }
            took => took?,
        };
        let of = (site.subject, site.count);
        self.cold.entry(of).or_default().push(took);
        self.own.entry(of).or_default().push(site.own_part(took)?);
        Ok(())
    }

    fn visit(&self, subject: Subject, size: u32, place: usize) -> Vec<f64> {
        self.visits.get(&(subject, size)).into_iter().flatten().map(|visit| visit[place]).collect()
    }

    fn tables(&self) -> Vec<Table> {
        let mut first = Table::new(&[
            "Services",
            "served by",
            "connect, p50 µs: min / median / max",
            "p01 µs: min / median / max",
            "connections a second: min / median / max",
        ]);
        let mut sizes: Vec<u32> = self.visits.keys().map(|(_, size)| *size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            for subject in SUBJECTS.into_iter().filter(|subject| self.visits.contains_key(&(*subject, size))) {
                let of = |place, decimals| Spread::of(&self.visit(subject, size, place)).text(decimals);
                first.row(&[size.to_string(), subject.title().into(), of(0, 1), of(1, 1), of(2, 0)]);
            }
        }
        let mut cold = Table::new(&[
            "a start without rules",
            "served by",
            "until all is served, s: min / median / max",
            "of it behind the API server's lists",
        ]);
        for ((subject, size), times) in &self.cold {
            let what = format!("{size} Services × {ENDPOINTS}");
            let own = self.own.get(&(*subject, *size)).map_or_else(Vec::new, Clone::clone);
            cold.row(&[what, subject.title().into(), Spread::of(times).to_string(), Spread::of(&own).to_string()]);
        }
        let mut change = Table::new(&["one endpoint more among 10,000 × 10", "p50 ms", "p99 ms", "how many"]);
        for (subject, times) in &self.changes {
            let of = |q| format!("{:.2}", quantile(times, q));
            change.row(&[subject.title().into(), of(0.5), of(0.99), times.len().to_string()]);
        }
        let mut memory = Table::new(&["30,000 Services × 4", "program, MiB", "rules in the kernel, MiB"]);
        for (subject, (program, kernel)) in &self.memory {
            memory.row(&[subject.title().into(), format!("{program:.0}"), format!("{kernel:.0}")]);
        }
        vec![first, cold, change, memory]
    }

    fn goals(&self) -> Vec<Goal> {
        [self.goals_of_packets(), self.goals_of_time(), self.goals_of_rest()].concat()
    }

    fn goals_of_packets(&self) -> Vec<Goal> {
        let median = |subject, size| Spread::of(&self.visit(subject, size, 0)).median;
        let (most, one) = (median(Subject::Ripstop, MOST), median(Subject::Ripstop, SIZES[0]));
        let nothing =
            Spread::of(&differences(&self.visit(Subject::Ripstop, MOST, 0), &self.visit(Subject::Direct, MOST, 0)));
        let mut goals = vec![
            Goal {
                what: "services: first packet at 100,000 over at 1, p50".into(),
                reach: "≤ 1.10".into(),
                ours: micros(most),
                rival: format!("at 1: {}", micros(one)),
                ratio: format!("{:.2}", most / one),
                met: verdict(most <= 1.1 * one),
            },
            Goal {
                what: "services: first packet at 100,000 beside no Service, p50".into(),
                reach: "≤ 8 µs more".into(),
                ours: micros(most),
                rival: format!("direct: {}", micros(median(Subject::Direct, MOST))),
                ratio: format!("{} µs more", nothing.text(1)),
                met: verdict(nothing.median <= 8.0),
            },
        ];
        for (size, factor) in [(10, 1.0), (MANY, 3.0)] {
            let (ours, theirs) = (self.visit(Subject::Ripstop, size, 2), self.visit(Subject::Iptables, size, 2));
            if theirs.is_empty() {
                continue;
            }
            let ratio = Spread::of(&ratios(&ours, &theirs));
            let rate = |values: &[f64]| format!("{:.0}", Spread::of(values).median);
            goals.push(Goal {
                what: format!("services: connections a second at {size}"),
                reach: format!("≥ {factor} ×"),
                ours: rate(&ours),
                rival: format!("{}: {}", Subject::Iptables.title(), rate(&theirs)),
                ratio: ratio.to_string(),
                met: verdict(ratio.median >= factor),
            });
        }
        goals
    }

    fn goals_of_time(&self) -> Vec<Goal> {
        let of = |times: &BTreeMap<(Subject, u32), Vec<f64>>, subject, size| {
            times.get(&(subject, size)).map_or(f64::NAN, |times| Spread::of(times).median)
        };
        let mut goals = Vec::new();
        for (what, reach, times) in
            [("behind the API server's lists", "≤ 1 s, 30 × as fast", &self.own), ("whole", "–", &self.cold)]
        {
            let (ours, theirs) = (of(times, Subject::Ripstop, 10_000), of(times, Subject::Nftables, 10_000));
            let (more, theirs) = if theirs.is_nan() { ("> ", site::RIVALS.as_secs_f64()) } else { ("", theirs) };
            let is_goal = reach != "–";
            goals.push(Goal {
                what: format!("services: cold start of 10,000 × 10, {what}"),
                reach: reach.into(),
                ours: format!("{ours:.2} s"),
                rival: format!("{}: {more}{theirs:.1} s", Subject::Nftables.title()),
                ratio: format!("{more}{:.0} ×", theirs / ours),
                met: if is_goal { verdict(ours <= 1.0 && theirs >= 30.0 * ours) } else { "–" },
            });
        }
        let own = of(&self.own, Subject::Ripstop, MOST);
        let found = format!("{own:.1} s; whole {:.1} s", of(&self.cold, Subject::Ripstop, MOST));
        goals.push(alone("cold start of 100,000 × 10, behind the API server's lists", "≤ 15 s", found, own <= 15.0));
        if let Some(times) = self.changes.get(&Subject::Ripstop) {
            let (worst, usual) = (quantile(times, 0.99), quantile(times, 0.5));
            let found = format!("{worst:.2} ms, p50 {usual:.2}");
            goals.push(alone("one endpoint changed, API to kernel, p99", "≤ 5 ms", found, worst <= 5.0));
        }
        if let Some(lag) = self.lag {
            let what = "behind after 100 changes a second for 60 s";
            goals.push(alone(what, "≤ 1 s", format!("{lag:.2} s"), lag <= 1.0));
        }
        goals
    }

    fn goals_of_rest(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        let words = |(program, kernel): &(f64, f64)| format!("{program:.0} and {kernel:.0} MiB");
        if let Some(ours) = self.memory.get(&Subject::Ripstop) {
            let theirs = self.memory.get(&Subject::Iptables);
            goals.push(Goal {
                what: "services: memory at 30,000 × 4, agent and kernel".into(),
                reach: "≤ 100 and ≤ 60 MiB".into(),
                ours: words(ours),
                rival: theirs
                    .map_or("–".into(), |theirs| format!("{}: {}", Subject::Iptables.title(), words(theirs))),
                ratio: "–".into(),
                met: verdict(ours.0 <= 100.0 && ours.1 <= 60.0),
            });
        }
        if let Some(losses) = self.losses {
            let (made, failed) = losses.rolling;
            let found = format!("{failed} of {}", made + failed);
            goals.push(alone("endpoints replaced at 2,000 connections a second", "0 failed", found, failed == 0));
            let (made, failed) = losses.killed;
            let found = format!("{failed} of {}, {} of {STAY} broken", made + failed, losses.broken);
            let good = failed == 0 && losses.broken == 0;
            goals.push(alone("kill -9 and start at 2,000 connections a second", "0 failed, 0 broken", found, good));
        }
        if let Some(Switch { connections: (made, failed), broken, seconds }) = self.switch {
            let found = format!("{failed} of {}, {broken} of {STAY} broken; {seconds:.1} s", made + failed);
            let what = "1,000 × 10 switched to iptables and back at 2,000 connections a second";
            goals.push(alone(what, "0 failed, 0 broken", found, failed == 0 && broken == 0));
        }
        goals
    }
}

/// A goal without a rival.
fn alone(what: &str, reach: &str, ours: String, good: bool) -> Goal {
    let (what, reach) = (format!("services: {what}"), reach.into());
    Goal { what, reach, ours, rival: "–".into(), ratio: "–".into(), met: verdict(good) }
}

fn micros(value: f64) -> String {
    format!("{value:.1} µs")
}
