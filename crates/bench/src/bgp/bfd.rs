//! BFD by itself: what many sessions cost, and whether one that nothing is wrong with ever says so.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ripstop_lab::ip_batch;

use super::speaker::{BfdPair, Subject, Work};
use super::{Part, goal};
use crate::cpu::{self, ms};
use crate::report::Table;
use crate::scene::{NODES, Programs, Running, Scene, checkpoint};
use crate::stat::Spread;

const SESSIONS: u32 = 500;
const SUBJECTS: [Subject; 2] = [Subject::Ripstop, Subject::Bird];
/// How long the cost of sessions is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Minutes that sessions must hold while CPUs are busy; the variable says others.
const MINUTES: &str = "RIPSTOP_BENCH_BFD_MINUTES";
const LONG: f64 = 10.0;
/// Timers of sessions that must hold: milliseconds, and how many may be lost.
const FAST: [(u64, u8); 2] = [(10, 3), (50, 3)];

/// Both.
pub fn bfd(programs: &Programs, rounds: usize) -> Result<Part> {
    let (mut goals, mut tables) = many(programs, rounds)?;
    let (more, flaps) = held(programs)?;
    goals.extend(more);
    tables.extend(flaps);
    Ok((goals, tables))
}

/// Two speakers of a kind with sessions to each other.
struct Pair {
    ends: [Running; 2],
    logs: [PathBuf; 2],
    _scene: Scene,
}

impl Pair {
    fn start(programs: &Programs, subject: Subject, name: &str, pairs: &[BfdPair]) -> Result<Self> {
        let scene = Scene::new(&format!("bgp-bfd-{name}-{}", subject.title()), programs)?;
        let (near, far) = scene.machines("near", "far")?;
        ip_batch(&near, "route add local 10.78.0.0/16 dev lo\n")?;
        ip_batch(&far, "route add local 10.79.0.0/16 dev lo\n")?;
        let other: Vec<BfdPair> =
            pairs.iter().map(|pair| BfdPair { own: pair.peer, peer: pair.own, ..*pair }).collect();
        let ends = [
            subject.start(&scene, &near, "near", Work::Bfd(pairs))?,
            subject.start(&scene, &far, "far", Work::Bfd(&other))?,
        ];
        let logs = ["near", "far"].map(|end| scene.run().join(format!("{end}.log")));
        Ok(Self { ends, logs, _scene: scene })
    }

    /// How often a session came up, and went down, at both ends.
    fn changes(&self) -> (usize, usize) {
        let texts = self.logs.each_ref().map(|log| fs::read_to_string(log).unwrap_or_default());
        let lines = |words: &[&str]| {
            texts
                .iter()
                .flat_map(|text| text.lines())
                .filter(|line| words.iter().any(|word| line.contains(word)))
                .count()
        };
        (lines(&["state: Up", "to Up"]), lines(&["state: Down", "Up to Down"]))
    }

    fn wait_up(&self, sessions: usize) -> Result<()> {
        let begun = Instant::now();
        while self.changes().0 < 2 * sessions {
            checkpoint()?;
            let logs = || self.logs.each_ref().map(|log| fs::read_to_string(log).unwrap_or_default()).concat();
            ensure!(begun.elapsed() < Duration::from_secs(60), "BFD does not come up: {}", logs());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// What 500 sessions cost.
fn many(programs: &Programs, rounds: usize) -> Result<Part> {
    let address = |net: u32, n: u32| Ipv4Addr::from_bits(net + 1 + n);
    let pair =
        |n: u32| BfdPair { own: address(0x0a4e_0000, n), peer: address(0x0a4f_0000, n), interval: 100, multiplier: 3 };
    let pairs: Vec<BfdPair> = (0..SESSIONS).map(pair).collect();
    let mut shares = [Vec::new(), Vec::new()];
    let mut memory = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let running = Pair::start(programs, SUBJECTS[which], "many", &pairs)?;
            running.wait_up(pairs.len())?;
            // Until both ends poll for faster timers no more.
            thread::sleep(Duration::from_secs(3));
            let pid = running.ends[0].pid();
            let (before, begun) = (cpu::of_process(pid)?, Instant::now());
            thread::sleep(WATCHED);
            let used = cpu::of_process(pid)? - before;
            shares[which].push(100.0 * ms(used) / ms(begun.elapsed()));
            memory[which].push(cpu::memory(pid, "VmRSS")?);
            let downs = running.changes().1;
            ensure!(SUBJECTS[which] == Subject::Bird || downs == 0, "{downs} of 500 sessions went down");
        }
    }
    let mut table = Table::new(&["500 sessions at 100 ms × 3, one end", "CPU, % of a core", "MiB"]);
    for (which, subject) in SUBJECTS.iter().enumerate() {
        let (share, memory) = (Spread::of(&shares[which]), Spread::of(&memory[which]));
        table.row(&[subject.title().into(), share.text(1), memory.text(0)]);
    }
    let [own, their] = shares.map(|shares| Spread::of(&shares).median);
    let ratio = format!("{:.2}", own / their);
    let (ours, rival) = (format!("{own:.1} %"), format!("BIRD: {their:.1} %"));
    Ok((vec![goal("BFD, 500 sessions at 100 ms", "≤ 15 % of a core", ours, rival, ratio, own <= 15.0)], vec![table]))
}

/// Threads that keep all CPUs busy.
struct Busy(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Busy {
    fn start() -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let one = |cpu: usize| {
            let is_over = Arc::clone(&ends);
            thread::spawn(move || {
                // Left alone it would go where it likes, which is busy as well.
                let _ = cpu::pin(cpu);
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..=cpu::last()).map(one).collect();
        Self(ends, threads)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Sessions that hold for minutes while all CPUs are busy.
fn held(programs: &Programs) -> Result<Part> {
    let minutes = std::env::var(MINUTES).ok().map(|text| text.parse::<f64>().context(MINUTES)).transpose()?;
    let minutes = minutes.unwrap_or(LONG);
    let mut table = Table::new(&["sessions while all CPUs are busy", "speaker", "minutes", "went down"]);
    let mut goals = Vec::new();
    let start = |subject: Subject, (interval, multiplier): (u64, u8)| {
        let pair = BfdPair { own: NODES[0], peer: NODES[1], interval, multiplier };
        Pair::start(programs, subject, &format!("held-{interval}"), &[pair])
    };
    let mut running = Vec::new();
    for timers in FAST {
        for subject in SUBJECTS {
            let pair = start(subject, timers)?;
            pair.wait_up(1)?;
            running.push((timers, subject, pair));
        }
    }
    thread::sleep(Duration::from_secs(3));
    let before: Vec<usize> = running.iter().map(|(_, _, pair)| pair.changes().1).collect();
    let busy = Busy::start();
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < 60.0 * minutes {
        checkpoint()?;
        thread::sleep(Duration::from_millis(200));
    }
    let downs: Vec<usize> =
        running.iter().zip(before).map(|((_, _, pair), before)| pair.changes().1 - before).collect();
    drop(busy);
    for (place, ((interval, multiplier), subject, _)) in running.iter().enumerate() {
        let title = format!("{interval} ms × {multiplier}");
        table.row(&[title.clone(), subject.title().into(), format!("{minutes}"), downs[place].to_string()]);
        if *subject == Subject::Ripstop {
            let rival = downs.get(place + 1).map_or("–".into(), |downs| format!("BIRD: {downs}"));
            let what = format!("BFD {title} for {minutes} minutes with all CPUs busy: ends that found it down");
            goals.push(goal(&what, "0", downs[place].to_string(), rival, "–".into(), downs[place] == 0));
        }
    }
    Ok((goals, vec![table]))
}
