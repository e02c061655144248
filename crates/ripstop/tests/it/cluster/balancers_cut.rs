//! Candidates that are cut off from each other, but not from clients: who stops before another answers, seen from the router's side.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use ripstop_election::Timing;
use ripstop_lab::{AgentCommand, Lab, Options};

use super::balancers::Scene;
use super::routers::Router;
use super::segment::{Candidate, Said, Witness, overlap, settled};
use super::{lab, patiently};

const MS: Duration = Duration::from_millis(1);

/// For how long two may be seen: what is promised, and what a thread between its question whether it may answer and its answer may be
/// kept from running. One that is not fenced goes on for as long as the cut lasts.
const TWO: Duration = Duration::from_millis(100 + 150);

/// How long each cut lasts.
const LASTS: Duration = Duration::from_millis(1_500);

/// What is between candidates.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Nothing passes between these and the others.
    Whole,
    /// The others do not hear them.
    Mute,
    /// They do not hear the others.
    Deaf,
    /// Nothing passes between the first of them and the first of the others.
    OneLink,
    /// The same, one way.
    OneWay,
    /// Nothing passes between the first two of the others.
    Elsewhere,
    /// Half of all frames are lost.
    Lossy,
}

/// Ports of a bridge in the form of nft(8), of what they begin with and numbers.
fn ports(of: char, numbers: &[u32]) -> String {
    let names: Vec<String> = numbers.iter().map(|number| format!("{of}{number}")).collect();
    format!("{{ {} }}", names.join(", "))
}

impl Cut {
    fn rules(self, of: char, these: &[u32], others: &[u32]) -> String {
        let drop = |from: &[u32], to: &[u32]| format!("iifname {} oifname {} drop; ", ports(of, from), ports(of, to));
        let both = |a: &[u32], b: &[u32]| drop(a, b) + &drop(b, a);
        match self {
            Self::Whole => both(these, others),
            Self::Mute => drop(these, others),
            Self::Deaf => drop(others, these),
            Self::OneLink => both(&these[..1], &others[..1]),
            Self::OneWay => drop(&these[..1], &others[..1]),
            Self::Elsewhere => both(&others[..1], &others[1..2]),
            Self::Lossy => "numgen random mod 2 == 0 drop; ".into(),
        }
    }
}

/// The segment's switch.
struct Switch(Router);

impl Switch {
    fn of(lab: &Lab) -> Self {
        Self(Router::at_the_middle(lab))
    }

    fn cut(&self, cut: Cut, these: &[u32], others: &[u32]) {
        self.cut_ports(&cut.rules('n', these, others));
    }

    /// What the router itself sends and hears passes.
    fn cut_ports(&self, rules: &str) {
        let table = format!("table bridge cut {{ chain f {{ type filter hook forward priority 0; {rules}}}\n}}");
        self.0.run("nft", &[&table]);
    }

    fn mend(&self) {
        self.0.run("nft", &["delete table bridge cut"]);
    }
}

/// Does something to candidates for a while, undoes it, and waits until all is as it was; nobody may have seen two owners.
#[track_caller]
fn survives(scene: &Scene, what: &str, before: &[(IpAddr, String)], begin: impl FnOnce(), end: impl FnOnce()) {
    let witness = Witness::start(&scene.lab, before.iter().map(|(ip, _)| *ip));
    std::thread::sleep(100 * MS);
    begin();
    end();
    patiently(&format!("{what}: all is as it was"), || settled(scene) == before);
    let said = witness.stop();
    let (two, changes) = (overlap(&said), changes(&said, before));
    println!("{what}: two answered for {two:?} at the longest, {} frames, {changes} changes of owners", said.len());
    assert!(two < TWO, "{what}: two answered for {two:?}");
}

/// How often another one answered than before.
fn changes(said: &[Said], before: &[(IpAddr, String)]) -> usize {
    let of = |ip: &IpAddr| {
        let macs: Vec<_> = said.iter().filter(|one| one.address == *ip).map(|one| one.mac).collect();
        macs.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    before.iter().map(|(ip, _)| of(ip)).sum()
}

fn others(scene: &Scene, these: &[u32]) -> Vec<u32> {
    scene.nodes().into_iter().filter(|node| !these.contains(node)).collect()
}

/// Nodes that own something and do not have the only endpoint, which a Service with the policy Local is bound to.
fn owners(before: &[(IpAddr, String)]) -> Vec<u32> {
    let owners: BTreeSet<u32> = before.iter().map(|(_, owner)| owner[1..].parse().unwrap()).collect();
    owners.into_iter().filter(|node| *node != 3).collect()
}

/// What is judged here can fail: an owner that goes by longer grants than the others wait for is as good as not fenced.
#[test]
fn an_owner_that_does_not_stop_is_seen() {
    let Some(lab) = lab(Options { nodes: 1, agents: false, ..Options::named("t-balancers-judge") }) else { return };
    let switch = Switch::of(&lab);
    let fenced = Timing { settle: 500 * MS, ..Timing::of(60 * MS) };
    let unfenced = Timing { detection: Duration::from_secs(5), ..fenced };
    let address: IpAddr = "172.30.1.240".parse().unwrap();
    let nodes = [("n1", "172.30.1.31"), ("n2", "172.30.1.32"), ("n3", "172.30.1.33")];
    let mut all = [1, 2, 3].map(|number| Candidate::beside(&lab, number, fenced));
    all.iter().for_each(|one| one.wants(nodes, &[address]));
    let speaks = |all: &mut [Candidate; 3]| {
        let speaking: Vec<usize> = (0..3).filter(|one| all[*one].look(address).0).collect();
        if let [one] = speaking[..] { Some(one) } else { None }
    };
    patiently("one of them speaks", || speaks(&mut all).is_some());
    let owner = speaks(&mut all).unwrap();
    for timing in [fenced, unfenced] {
        all[owner].begin(timing);
        all[owner].wants(nodes, &[address]);
        patiently("it speaks again", || speaks(&mut all) == Some(owner));
        let witness = Witness::start(&lab, [address]);
        std::thread::sleep(100 * MS);
        let these = [u32::try_from(owner).unwrap() + 1];
        let others: Vec<u32> = (1..=3).filter(|number| !these.contains(number)).collect();
        switch.cut_ports(&Cut::Whole.rules('x', &these, &others));
        patiently("another speaks", || (0..3).any(|one| one != owner && all[one].look(address).0));
        std::thread::sleep(500 * MS);
        let two = overlap(&witness.stop());
        println!("grants of {:?}: two answered for {two:?}", timing.detection);
        assert_eq!(two < TWO, timing == fenced, "{two:?}");
        switch.mend();
    }
}

#[test]
fn of_three_who_is_cut_off_stops_before_another_answers() {
    let Some(scene) = Scene::of(Options::named("t-balancers-cut")) else { return };
    let switch = Switch::of(&scene.lab);
    let before = settled(&scene);
    let these = [owners(&before)[0]];
    let others = others(&scene, &these);
    for cut in [Cut::Whole, Cut::Mute, Cut::Deaf, Cut::OneLink, Cut::OneWay, Cut::Elsewhere, Cut::Lossy] {
        let begin = || {
            switch.cut(cut, &these, &others);
            if matches!(cut, Cut::Whole | Cut::Mute | Cut::Deaf) {
                scene.succeeded(these[0]);
            }
            std::thread::sleep(LASTS);
        };
        survives(&scene, &format!("{cut:?}"), &before, begin, || switch.mend());
    }
    // One that was stopped where it was answers nothing of what it was asked meanwhile.
    let node = scene.lab.node(these[0]);
    let frozen = || {
        node.pause_agent().unwrap();
        scene.succeeded(these[0]);
        std::thread::sleep(200 * MS);
    };
    survives(&scene, "frozen", &before, frozen, || node.resume_agent().unwrap());
}

#[test]
fn of_five_a_minority_stops_before_the_others_answer() {
    let Some(scene) = Scene::of(Options { nodes: 5, ..Options::named("t-balancers-five") }) else { return };
    let switch = Switch::of(&scene.lab);
    let before = settled(&scene);
    let [first, second, ..] = owners(&before)[..] else { panic!("{before:?}") };
    for (cut, these) in [
        (Cut::Whole, vec![first, second]),
        (Cut::Mute, vec![first, second]),
        (Cut::Deaf, vec![first]),
        (Cut::OneLink, vec![first]),
        (Cut::Lossy, vec![first]),
    ] {
        let others = others(&scene, &these);
        let begin = || {
            switch.cut(cut, &these, &others);
            if matches!(cut, Cut::Whole | Cut::Mute | Cut::Deaf) {
                patiently("those who are not cut off own all", || {
                    let owners = scene.owners(&others);
                    owners.iter().all(|(_, owner, _)| others.iter().any(|node| *owner == format!("n{node}")))
                });
            }
            std::thread::sleep(LASTS);
        };
        survives(&scene, &format!("{cut:?} of {these:?}"), &before, begin, || switch.mend());
    }
}

/// What runs a program with a clock that is some days ahead of the machine's.
const AHEAD: [&str; 6] = ["unshare", "--time", "--monotonic", "360000", "--boottime", "360000"];

fn has_other_clocks() -> bool {
    let uptime = |text: &str| text.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or(0);
    let shown = Command::new(AHEAD[0]).args(&AHEAD[1..]).args(["cat", "/proc/uptime"]).output();
    let shown = shown.map(|output| uptime(&String::from_utf8_lossy(&output.stdout))).unwrap_or(0);
    let is_so = shown >= uptime(&std::fs::read_to_string("/proc/uptime").unwrap()) + 360_000;
    if !is_so {
        println!(
            "SKIPPED: unshare(1) or this kernel has no clocks of namespaces' own that a program can be started with"
        );
    }
    is_so
}

#[test]
fn a_candidate_with_another_clock_is_chosen_and_stops_like_others() {
    if !has_other_clocks() {
        return;
    }
    let Some(scene) = Scene::of(Options::named("t-balancers-clock")) else { return };
    let switch = Switch::of(&scene.lab);
    let these = [owners(&settled(&scene))[0]];
    let node = scene.lab.node(these[0]);
    let command = scene.lab.agent_command(&scene.lab.state().unwrap().options);
    let argv = AHEAD.map(str::to_owned).into_iter().chain(command.argv).collect();
    node.replace_agent(AgentCommand { argv, ..command }).unwrap();
    node.kill_agent(false).unwrap();
    let mut before = Vec::new();
    patiently("it owns some again", || {
        before = settled(&scene);
        owners(&before).contains(&these[0])
    });
    let others = others(&scene, &these);
    for cut in [Cut::Whole, Cut::Mute, Cut::Lossy] {
        let begin = || {
            switch.cut(cut, &these, &others);
            std::thread::sleep(LASTS);
        };
        survives(&scene, &format!("{cut:?} of one with another clock"), &before, begin, || switch.mend());
    }
}
