//! The figures of BENCHMARKS.md: each is measured beside its rival in the same run.
//!
//! `ripstop-bench [--rounds N] [--only ID,ID] [--record]` prints tables; with `--record` it also puts them into
//! BENCHMARKS.md and writes docs/choosing.md. The programs measured are those of the folder that `RIPSTOP_BIN_DIR` names, otherwise target/release.
//!
//! Invariants: rivals alternate inside a round and the order rotates; a ratio is taken inside one round; a figure that
//! was not measured is not printed.

#![allow(clippy::print_stdout, reason = "results are this program's stdout")]

mod adds;
mod agents;
mod bgp;
mod choosing;
mod cni;
mod cpu;
mod etcd;
mod few;
mod ipip;
mod kubernetes;
mod load;
mod loadbalancers;
mod migration;
mod path;
mod peers;
mod plugin;
mod policies;
mod records;
mod report;
mod scene;
mod services;
mod stat;
mod switch;
mod udp;
mod variant;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ripstop_lab::interrupt;

use crate::report::Section;
use crate::scene::Programs;

/// The parts of BENCHMARKS.md that are rewritten.
const MARKS: [&str; 3] = ["run", "goals", "details"];

/// A group of measurements by its name.
type Group = (&'static str, fn(&Programs, usize) -> Result<Section>);

const GROUPS: [Group; 29] = [
    ("cni", cni::one_by_one),
    ("burst", cni::at_once),
    ("adds", |programs, rounds| adds::thousand(programs, (rounds / 5).max(1))),
    ("etcd", etcd::etcd),
    ("kubernetes", |programs, rounds| kubernetes::kubernetes(programs, (rounds / 5).max(1))),
    ("migration", migration::migration),
    ("cluster", |programs, _| agents::cluster(programs)),
    ("thousand", agents::thousand),
    ("ten-thousand", agents::ten_thousand),
    // A visit is short, so twice as many cost little and steady the median.
    ("path", |programs, rounds| path::path(programs, 2 * rounds)),
    ("udp", udp::udp),
    ("ipip", ipip::ipip),
    ("services", services::services),
    ("policies", |_, rounds| policies::decisions(rounds)),
    ("policies-packets", policies::packets),
    ("policies-lists", policies::lists),
    ("policies-changes", |programs, _| policies::changes(programs)),
    ("policies-starts", |programs, _| policies::starts(programs)),
    ("bgp-routes", |programs, rounds| bgp::routes(programs, (rounds / 5).max(1))),
    ("bgp-reflector", |programs, rounds| bgp::reflector(programs, (rounds / 5).max(1))),
    ("bgp-bfd", |programs, rounds| bgp::bfd(programs, (rounds / 5).max(1))),
    ("bgp-cut", |programs, rounds| bgp::cut(programs, (rounds / 5).max(1))),
    ("bgp-pods", bgp::pods),
    ("bgp-changes", |programs, _| bgp::changes(programs)),
    ("loadbalancers-owner", loadbalancers::owner),
    ("loadbalancers-drain", loadbalancers::drain),
    ("loadbalancers-node", loadbalancers::node),
    ("loadbalancers-many", |programs, _| loadbalancers::many(programs)),
    ("choosing", choosing::choosing),
];

struct Args {
    rounds: usize,
    only: Vec<String>,
    record: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, file] = &words[..]
        && word == bgp::WORD
    {
        return bgp::run(file);
    }
    match Args::read(words.into_iter()).and_then(|args| run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(1)
        }
    }
}

impl Args {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut args = Self { rounds: 15, only: Vec::new(), record: false };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--rounds" => {
                    let number = words.next().context("--rounds needs a number")?;
                    args.rounds = number.parse().with_context(|| format!("--rounds {number}"))?;
                    ensure!((1..=1_000).contains(&args.rounds), "--rounds {number}: 1 to 1000");
                }
                "--only" => {
                    args.only = words.next().context("--only needs names")?.split(',').map(str::to_owned).collect()
                }
                "--record" => args.record = true,
                other => bail!("{other:?}; accepted: --rounds N, --only {}, --record", names().join(",")),
            }
        }
        if let Some(unknown) = args.only.iter().find(|only| !names().iter().any(|name| is_meant(only, name))) {
            bail!("--only {unknown:?}; accepted: {}", names().join(","));
        }
        ensure!(!args.record || args.only.is_empty(), "--record writes all figures of one run: without --only");
        Ok(args)
    }
}

/// Whether a name means a group: its own does, and what it begins with before a hyphen.
fn is_meant(only: &str, name: &str) -> bool {
    name.strip_prefix(only).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn names() -> Vec<&'static str> {
    GROUPS.iter().map(|(name, _)| *name).collect()
}

/// True if every group was measured, whatever it showed.
fn run(args: &Args) -> Result<bool> {
    ensure!(rustix::process::geteuid().is_root(), "it needs root: it makes network namespaces");
    ensure!(
        Path::new(plugin::REFERENCE).join("bridge").is_file(),
        "the rivals are missing: `make setup` installs them"
    );
    interrupt::watch();
    scene::sweep();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let folder = std::env::var_os("RIPSTOP_BIN_DIR").map_or_else(|| root.join("target/release"), PathBuf::from);
    let programs = Programs::in_folder(&folder)?;
    let machine = report::machine();
    println!("{machine}\n");
    let begun = Instant::now();
    let mut sections = Vec::new();
    let mut failed = false;
    for (name, measure) in
        GROUPS.iter().filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|only| is_meant(only, name)))
    {
        let started = Instant::now();
        eprintln!("bench: {name} …");
        match measure(&programs, args.rounds) {
            Ok(section) => {
                eprintln!("bench: {name} took {:.0} s", started.elapsed().as_secs_f64());
                println!("{}\n", report::details(&section));
                sections.push(section);
            }
            Err(error) => {
                eprintln!("bench: {name} failed: {error:#}");
                failed = true;
            }
        }
        scene::checkpoint()?;
    }
    let goals = report::goals(&sections).text();
    println!("{goals}");
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let summary = format!("{machine}; {} rounds ({} for packets), {minutes:.0} minutes.", args.rounds, 2 * args.rounds);
    println!("{summary}");
    if args.record {
        ensure!(!failed, "nothing is recorded, since not everything was measured");
        let details: Vec<String> = sections.iter().map(report::details).collect();
        let parts: Vec<_> = MARKS.into_iter().zip([summary, goals, details.join("\n")]).collect();
        report::record(&root.join("BENCHMARKS.md"), &parts)?;
        let speeds =
            sections.iter().find(|section| section.id == "choosing").and_then(|section| section.tables.first());
        let document = choosing::document(speeds.context("no speeds")?, &parts[0].1);
        report::write(&root.join("docs/choosing.md"), &document)?;
    }
    Ok(!failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args> {
        Args::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_checked() {
        let args = read("--rounds 3 --only cni,path").unwrap();
        assert_eq!((args.rounds, args.only.len(), args.record), (3, 2, false));
        assert_eq!(read("").unwrap().rounds, 15);
        assert!(read("--only loadbalancers,bgp").is_ok(), "what several begin with");
        assert!(is_meant("policies", "policies-lists") && is_meant("policies", "policies"));
        assert!(!is_meant("policies-lists", "policies") && !is_meant("thousand", "ten-thousand"));
        for bad in ["--rounds 0", "--rounds", "--only speed", "--fast", "--record --only cni"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
