//! An agent that serves Services by iptables: which programs it runs, and when.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ripstop_store::Kind;
use serde_json::json;

use crate::support::agent::How;
use crate::support::ns::is_root;
use crate::support::world::{Families, Plan, StoreAt, World};
use crate::support::{soon, within};

/// Programs that note that they were run, and do it.
struct Programs {
    world: World,
    backend: &'static str,
}

impl Programs {
    fn start(backend: &'static str) -> Self {
        let mut programs = Self::make(backend, StoreAt::File);
        programs.begin();
        programs
    }

    fn make(backend: &'static str, store: StoreAt) -> Self {
        let services =
            format!("services: {{proxy: iptables, iptablesBackend: {backend}, serviceCIDRs: [10.96.0.0/16]}}");
        let world = World::make(Plan { families: Families::Dual, store, config: vec![services], ..Plan::default() });
        world.write_config();
        fs::create_dir(world.dir.path().join("programs")).unwrap();
        let programs = Self { world, backend };
        programs.provide();
        programs
    }

    fn begin(&mut self) {
        let how = How { programs: Some(self.folder()), ..How::default() };
        self.world.start_agent_as(&how);
        self.world.wait_ready();
    }

    fn folder(&self) -> PathBuf {
        self.world.dir.path().join("programs")
    }

    fn provide(&self) {
        for word in ["iptables", "ip6tables"] {
            for verb in ["save", "restore"] {
                let name = format!("{word}-{}-{verb}", self.backend);
                let log = self.world.dir.path().join("ran").display().to_string();
                let path = self.folder().join(&name);
                let text =
                    format!("#!/bin/sh\necho {name} >> {log}\nPATH=/usr/sbin:/usr/bin:/sbin:/bin exec {name} \"$@\"\n");
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }

    /// Which programs were run since it was asked last.
    fn ran(&self) -> Vec<String> {
        let log = self.world.dir.path().join("ran");
        let text = fs::read_to_string(&log).unwrap_or_default();
        fs::write(log, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Rules of a family, without counts.
    fn rules(&self, word: &str) -> String {
        let text = self.world.node.run(&format!("{word}-{}-save", self.backend), &[]);
        text.lines().filter(|line| !line.starts_with(['#', ':'])).map(|line| format!("{line}\n")).collect()
    }

    fn tables(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.world.node.run(&format!("iptables-{}", self.backend), &words);
    }

    fn is_there(&self) -> bool {
        ["iptables", "ip6tables"].into_iter().all(|word| {
            let rules = self.rules(word);
            rules.contains("PREROUTING -m comment --comment \"ripstop agent\" -j RIPSTOP-SERVICES")
                && rules.contains("-A RIPSTOP-FORWARDED")
        })
    }
}

fn programs_run_where_something_changes(backend: &'static str) {
    if !is_root() {
        return;
    }
    let mut node = Programs::start(backend);
    assert!(soon(|| node.is_there()), "{}", node.world.agent().log_text());
    node.tables("-t nat -A PREROUTING -d 192.0.2.9/32 -j RETURN");
    node.world.settle();
    std::thread::sleep(Duration::from_millis(1500));
    let right = node.rules("iptables");
    node.ran();
    // Nothing changes, and no program runs.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(node.ran(), Vec::<String>::new());
    // What another hand takes away comes back.
    for line in ["-t nat -D PREROUTING 1", "-t filter -F RIPSTOP-FORWARDED", "-t nat -F RIPSTOP-SERVICES"] {
        let begun = Instant::now();
        node.tables(line);
        assert!(soon(|| node.rules("iptables") == right), "{line}:\n{}\nwanted:\n{right}", node.rules("iptables"));
        println!("{backend}: {:.1?} {line}", begun.elapsed());
    }
    // An agent that starts reads, and writes nothing.
    node.world.settle();
    node.world.kill_agent();
    node.ran();
    node.begin();
    node.world.settle();
    let ran = node.ran();
    assert!(!ran.is_empty() && ran.iter().all(|name| name.ends_with("-save")), "{ran:?}");
    assert_eq!(node.rules("iptables"), right);
    // Without its programs the rest goes on, and status says what is missing.
    fs::remove_dir_all(node.folder()).unwrap();
    fs::create_dir(node.folder()).unwrap();
    node.tables("-t nat -D PREROUTING 1");
    let missing = format!("iptables-{backend}-save: there is no such program");
    let log = || node.world.agent().log_text();
    assert!(soon(|| log().contains(&missing)), "{}", log());
    let pod = node.world.pod("web");
    node.world.del(&pod);
    node.provide();
    assert!(soon(|| node.rules("iptables") == right));
    // Another proxy, or none: all of ours goes.
    node.world.plan.config = vec!["services: {proxy: none}".into()];
    node.world.kill_agent();
    node.world.write_config();
    node.begin();
    assert!(soon(|| !["iptables", "ip6tables"].into_iter().any(|word| node.rules(word).contains("RIPSTOP"))));
    assert!(node.rules("iptables").contains("-A PREROUTING -d 192.0.2.9/32 -j RETURN"));
}

#[test]
fn of_the_backend_nft_programs_run_where_something_changes() {
    programs_run_where_something_changes("nft");
}

#[test]
fn of_the_backend_legacy_programs_run_where_something_changes() {
    programs_run_where_something_changes("legacy");
}

/// Endpoints of each of many Services.
const ENDPOINTS: u32 = 4;

/// Many Services that are there when an agent starts; `RIPSTOP_TEST_SERVICES` makes it more.
fn many_services_are_few_runs(backend: &'static str) {
    if !is_root() {
        return;
    }
    let count: u32 = std::env::var("RIPSTOP_TEST_SERVICES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_100);
    let mut node = Programs::make(backend, StoreAt::Here);
    let store = node.world.store.as_ref().unwrap();
    for n in 0..count {
        let name = format!("s{n}");
        let spec = json!({"clusterIP": Ipv4Addr::from_bits(0x0a60_0100 + n), "ports": [{"port": 80}]});
        let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        store.put(Kind::Services, &format!("default/{name}"), &service);
        let ips = (0..ENDPOINTS).map(|e| json!({"addresses": [Ipv4Addr::from_bits(0x0ac8_0000 + n * ENDPOINTS + e)]}));
        let slice = json!({
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": ips.collect::<Vec<_>>(),
        });
        store.put(Kind::EndpointSlices, &format!("default/{name}"), &slice);
    }
    let begun = Instant::now();
    node.begin();
    let log = || node.world.agent().log_text();
    let is_served = || log().contains("Services are served") && log().contains(&format!("{count} Services and"));
    assert!(within(Duration::from_secs(600), is_served), "{}", log());
    let took = begun.elapsed();
    let ran = node.ran();
    let restores = ran.iter().filter(|name| *name == &format!("iptables-{backend}-restore")).count();
    println!("{backend}: {count} Services of {ENDPOINTS} endpoints in {took:.1?}, by {restores} runs of {ran:?}");
    // Two thousand chains at once, of which each Service has two.
    assert!(restores <= 8 + 2 * count.div_ceil(2_000) as usize, "{restores} runs");
    let chains = node.rules("iptables").lines().filter(|line| line.starts_with("-A RIPSTOP-SVC-")).count();
    // The mark of who is no pod, and the way on.
    assert_eq!(chains, 2 * count as usize);
    // One more is one more run.
    let begun = Instant::now();
    let slice = json!({"metadata": {"namespace": "default", "name": "s0", "labels": {"kubernetes.io/service-name": "s0"}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.200.0.0"]}]});
    node.world.store.as_ref().unwrap().put(Kind::EndpointSlices, "default/s0", &slice);
    assert!(soon(|| !node.rules("iptables").contains("--to-destination 10.200.0.3:8080")), "{}", log());
    println!("{backend}: one endpoint changed after {:.1?}", begun.elapsed());
    assert!(node.ran().iter().all(|name| name.ends_with("-restore")));
}

#[test]
fn of_the_backend_nft_many_services_are_few_runs() {
    many_services_are_few_runs("nft");
}

#[test]
fn of_the_backend_legacy_many_services_are_few_runs() {
    many_services_are_few_runs("legacy");
}
