//! The backend ipip, beside the plain route in the same run.
//!
//! Both ways are the product's, with the same pods, links and tables of nftables: nodes lie in one subnet, where the backend
//! `ipip-cross-subnet` sends plain and has all that `ipip` has besides. Each is measured once more without any table and so
//! without connection tracking, its agents ended: what is left then is how packets travel.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ripstop_lab::{settings, space};

use crate::cpu;
use crate::load::{Course, Test};
use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Agent, Programs, Scene, checkpoint};
use crate::stat::{Spread, ratios};
use crate::variant::{ours, run_in, wait_until_open};

/// Where the programs are pinned that carry packets on a kernel without the device.
const PINS: &str = "/sys/fs/bpf/ripstop";

/// How packets travel between the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Carrier {
    Ipip,
    Plain,
}

impl Carrier {
    const ALL: [Self; 2] = [Self::Ipip, Self::Plain];

    fn backend(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Plain => "ipip-cross-subnet",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Plain => "the plain route",
        }
    }

    /// The mean length of frames of transactions of one byte: 67 bytes, and an outer header or none.
    fn frames(self) -> std::ops::Range<u64> {
        match self {
            Self::Ipip => 84..100,
            Self::Plain => 64..80,
        }
    }
}

/// What looks at packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tables {
    All,
    None,
}

impl Tables {
    const ALL: [Self; 2] = [Self::All, Self::None];

    fn title(self) -> &'static str {
        match self {
            Self::All => "the same tables in both",
            Self::None => "no tables",
        }
    }
}

type Costs = BTreeMap<(Carrier, Tables, Test), Vec<f64>>;

/// Measures both, with tables and without.
pub fn ipip(programs: &Programs, rounds: usize) -> Result<Section> {
    let cpu = cpu::last();
    let mut ways = Vec::new();
    for tables in Tables::ALL {
        for carrier in Carrier::ALL {
            checkpoint()?;
            ways.push(Way::build(carrier, tables, programs, cpu)?);
        }
    }
    let by_programs = ways.iter().any(|way| way.pins.iter().any(|folder| folder.exists()));
    let mut costs = Costs::new();
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let count = ways.len();
            // Rivals come one after the other; who begins changes.
            let at = if round.is_multiple_of(2) { (round + turn) % count } else { (round + count - turn) % count };
            let way = &mut ways[at];
            for test in Test::ALL {
                checkpoint()?;
                let cost = way.course.run(test, test.amount(), cpu)?;
                costs.entry((way.carrier, way.tables, test)).or_default().push(cost);
            }
        }
    }
    Ok(section(&costs, by_programs))
}

fn section(costs: &Costs, by_programs: bool) -> Section {
    let of = |carrier, tables, test| costs.get(&(carrier, tables, test)).map_or(&[][..], Vec::as_slice);
    let digits = |test| if test == Test::Stream { 0 } else { 1 };
    let tables = Test::ALL.map(|test| {
        let mut table =
            Table::new(&[test.unit().0, "min / median / max", "ratio to the plain route: min / median / max"]);
        for tables in Tables::ALL {
            for carrier in Carrier::ALL {
                let values = of(carrier, tables, test);
                let ratio = Spread::of(&ratios(values, of(Carrier::Plain, tables, test)));
                let title = format!("{}, {}", carrier.title(), tables.title());
                table.row(&[title, Spread::of(values).text(digits(test)), ratio.to_string()]);
            }
        }
        table
    });
    let carried = if by_programs { "by programs" } else { "by the device" };
    let goal = |tables: Tables, test: Test, word: &str, limit: Option<f64>| {
        let (ours, theirs) = (of(Carrier::Ipip, tables, test), of(Carrier::Plain, tables, test));
        let ratio = Spread::of(&ratios(ours, theirs));
        let unit = if test == Test::Stream { "ms" } else { "µs" };
        let cost = |values: &[f64]| format!("{:.*} {unit}", digits(test), Spread::of(values).median);
        Goal {
            what: format!("ipip {carried}: CPU a {word}, {}", tables.title()),
            reach: limit.map_or("–".into(), |limit| format!("≤ {limit:.2}")),
            ours: cost(ours),
            rival: format!("the plain route: {}", cost(theirs)),
            ratio: ratio.to_string(),
            met: limit.map_or("–", |limit| verdict(ratio.median <= limit)),
        }
    };
    let goals = vec![
        goal(Tables::All, Test::Transaction, "transaction", Some(1.1)),
        goal(Tables::None, Test::Transaction, "transaction", Some(1.0)),
        goal(Tables::All, Test::Connection, "connection", None),
        goal(Tables::None, Test::Connection, "connection", None),
        goal(Tables::All, Test::Stream, "GB", None),
        goal(Tables::None, Test::Stream, "GB", None),
    ];
    Section { id: "ipip", title: "The ipip backend, pod to pod on two machines", goals, tables: tables.into() }
}

/// A standing way.
struct Way {
    carrier: Carrier,
    tables: Tables,
    course: Course,
    pins: Vec<PathBuf>,
    agents: Vec<Agent>,
    _scene: Scene,
}

impl Way {
    /// Builds one, and checks that packets take the way it says.
    fn build(carrier: Carrier, tables: Tables, programs: &Programs, cpu: usize) -> Result<Self> {
        let mut scene = Scene::new(&format!("ipip-{carrier:?}-{tables:?}").to_lowercase(), programs)?;
        let (one, two) = scene.machines("n1", "n2")?;
        let nodes = [one, two];
        let pods = [scene.netns("a")?, scene.netns("b")?];
        let mut agents = Vec::new();
        let server = ours(&mut scene, carrier.backend(), &nodes, &pods, &mut agents)?;
        let mut pins = Vec::new();
        for node in &nodes {
            // Thousands of closed connections a second must not fill the table of any way.
            settings(node, &[("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")])?;
            let name = node.file_name().and_then(|name| name.to_str()).context("a namespace without a name")?;
            let inode = space::netns_inode(name).context("a namespace without a number")?;
            pins.push(Path::new(PINS).join(format!("netns-{inode}")));
        }
        let course = Course::open(&pods[0], &pods[1], server)?;
        let mut way = Self { carrier, tables, course, pins, agents, _scene: scene };
        wait_until_open(&mut way.course, cpu)?;
        way.wait_until_it_is_so(&nodes[0], cpu)?;
        if tables == Tables::None {
            // Who would make them again.
            way.agents.clear();
            for node in &nodes {
                run_in(node, "nft", &["flush", "ruleset"], "")?;
                run_in(node, "conntrack", &["-F"], "")?;
            }
            way.course.run(Test::Connection, 10, cpu)?;
        }
        for node in &nodes {
            let tracked = space::in_netns(node, || fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))?;
            let tracked: u32 = tracked.context("nf_conntrack_count")?.trim().parse()?;
            ensure!((tracked > 0) == (tables == Tables::All), "{tracked} connections are tracked, {}", tables.title());
        }
        way.wait_until_it_is_so(&nodes[0], cpu)?;
        Ok(way)
    }

    /// Waits until packets have an outer header, or none.
    fn wait_until_it_is_so(&mut self, node: &Path, cpu: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let before = space::in_netns(node, sent)??;
            self.course.run(Test::Transaction, 1_000, cpu)?;
            let after = space::in_netns(node, sent)??;
            let length = (after.0 - before.0) / (after.1 - before.1).max(1);
            if self.carrier.frames().contains(&length) {
                return Ok(());
            }
            let title = self.carrier.title();
            ensure!(Instant::now() < deadline, "{title}: frames of transactions have {length} bytes");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.agents.clear();
        for folder in &self.pins {
            // Pins outlive namespaces.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Bytes and packets that the uplink has sent (net/dev, ninth and tenth number).
fn sent() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let mut numbers = line.context("no device eth0")?.split_whitespace().skip(8).map(str::parse);
    let mut next = || numbers.next().context("net/dev")?.context("net/dev");
    Ok((next()?, next()?))
}
