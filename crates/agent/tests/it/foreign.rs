//! Beside tables of others that drop forwarded packets: the one jump in iptables' own, and nothing else.

use std::time::{Duration, Instant};

use crate::support::ns::is_root;
use crate::support::packets::{Echo, ask};
use crate::support::soon;
use crate::support::world::{Families, NODE, OUTSIDE, Plan, Pod, StoreAt, World, at};

const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];
const THEIRS: [&str; 2] = ["10.244.200.10", "fd00:244:0:c8::10"];

/// As Docker leaves them: FORWARD drops and asks DOCKER-USER first, which has a rule of the administrator's.
const DOCKER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -i eth9 -m comment --comment \"the administrator's\" -j DROP
-A DOCKER-USER -j RETURN
COMMIT
";

/// FORWARD drops, and nobody asks DOCKER-USER.
const PLAIN: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

fn restore(world: &World, rules: &str) {
    let file = world.dir.path().join("rules");
    std::fs::write(&file, rules).unwrap();
    for program in PROGRAMS {
        world.node.run(&format!("{program}-restore"), &[file.to_str().unwrap()]);
    }
}

/// What a program prints of the table `filter`.
fn rules(world: &World, program: &str) -> Vec<String> {
    world.node.run(program, &["-S"]).lines().map(str::to_owned).collect()
}

fn without_ours(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| !line.contains("RIPSTOP")).cloned().collect()
}

/// The lines of ours, where the jump is to stand in this chain.
fn ours(chain: &str) -> Vec<String> {
    [
        "-N RIPSTOP-FORWARD".to_owned(),
        format!("-A {chain} -m comment --comment \"ripstop: what pods send and receive\" -j RIPSTOP-FORWARD"),
        "-A RIPSTOP-FORWARD -i rip+ -j ACCEPT".to_owned(),
        "-A RIPSTOP-FORWARD -o rip+ -j ACCEPT".to_owned(),
    ]
    .into()
}

fn only_ours(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| line.contains("RIPSTOP")).cloned().collect()
}

fn is_open(world: &World, chain: &str) -> bool {
    PROGRAMS.iter().all(|program| only_ours(&rules(world, program)) == ours(chain))
}

/// A node with a peer whose pods are at the router, which knows this node's.
fn with_peer(rules: &str) -> World {
    let plan = Plan { families: Families::Dual, store: StoreAt::Here, ..Plan::default() };
    let mut world = World::make(plan);
    restore(&world, rules);
    world.start_agent();
    world.wait_ready();
    world.add_peer();
    assert!(soon(|| {
        let paths = world.rows("/v1/paths");
        paths.len() == 2 && paths.iter().all(|path| path["state"] == "realised")
    }));
    for six in [false, true] {
        world.router.ip(&format!("route add {} via {}", world.own_range(six), NODE[usize::from(six)]));
    }
    world
}

/// Pod to a pod of another node and back, and out, in both families.
fn passes(world: &World, pod: &Pod) -> bool {
    (0..2).all(|n| {
        let ip = &pod.ips()[n];
        let out = ask(&pod.ns, None, Echo::start(&world.router, &at(OUTSIDE[n], 7000)).at);
        let there = ask(&pod.ns, None, Echo::start(&world.router, &at(THEIRS[n], 7000)).at);
        let back = ask(&world.router, Some(THEIRS[n]), Echo::start(&pod.ns, &at(ip, 7000)).at);
        out.as_deref() == Some(NODE[n]) && there.as_ref() == Some(ip) && back.as_deref() == Some(THEIRS[n])
    })
}

fn warnings(world: &World) -> String {
    world.get("/v1/status")["warnings"].to_string()
}

/// How long it takes until the jump is back after a command, and that packets pass again then.
fn returns(world: &World, pod: &Pod, chain: &str, lines: &[&str]) {
    for program in PROGRAMS {
        for line in lines {
            // The agent may have been there between two of them: then one is refused.
            world.node.tried(program, &line.split_whitespace().collect::<Vec<_>>());
        }
    }
    let begin = Instant::now();
    assert!(soon(|| is_open(world, chain)), "{lines:?}: {:?}", rules(world, "iptables"));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(1), "{lines:?}: {took:?}");
    assert!(passes(world, pod), "{lines:?}");
}

#[test]
fn docker_like_tables_get_one_jump_in_dockers_own_place() {
    if !is_root() {
        return;
    }
    let mut world = with_peer(DOCKER);
    let pod = world.pod("web");
    assert!(is_open(&world, "DOCKER-USER"), "{:?}", rules(&world, "iptables"));
    let lines = rules(&world, "iptables");
    let user: Vec<&String> = lines.iter().filter(|line| line.starts_with("-A DOCKER-USER")).collect();
    assert!(user[0].contains("RIPSTOP-FORWARD") && user[2].ends_with("-j RETURN"), "it stands first: {user:?}");
    let before = PROGRAMS.map(|program| without_ours(&rules(&world, program)));
    assert!(passes(&world, &pod));
    assert_eq!(warnings(&world), "[]");
    assert!(world.agent().log_text().contains("a jump in DOCKER-USER lets those of pods pass"));
    returns(&world, &pod, "DOCKER-USER", &["-F DOCKER-USER"]);
    restore(&world, DOCKER);
    assert!(soon(|| is_open(&world, "DOCKER-USER")), "after a restore");
    returns(&world, &pod, "DOCKER-USER", &["-F RIPSTOP-FORWARD"]);
    returns(&world, &pod, "DOCKER-USER", &["-A RIPSTOP-FORWARD -i eth7 -j DROP"]);
    returns(&world, &pod, "DOCKER-USER", &["-A DOCKER-USER -j RIPSTOP-FORWARD"]);
    // A restart finds it, and has nothing to do.
    world.restart();
    world.settle();
    assert!(is_open(&world, "DOCKER-USER"));
    assert_eq!(world.rows("/v1/journal").iter().filter(|row| row["object"].to_string().contains("jump")).count(), 0);
    for (program, before) in PROGRAMS.into_iter().zip(before) {
        assert_eq!(without_ours(&rules(&world, program)), before, "{program}: the others' rules are as they were");
    }
}

#[test]
fn without_docker_the_jump_stands_in_forward_and_moves_when_docker_comes() {
    if !is_root() {
        return;
    }
    let world = with_peer(PLAIN);
    let pod = world.pod("web");
    assert!(is_open(&world, "FORWARD"), "{:?}", rules(&world, "iptables"));
    assert!(passes(&world, &pod));
    returns(&world, &pod, "FORWARD", &["-F FORWARD"]);
    returns(&world, &pod, "FORWARD", &["-F", "-X"]);
    world.settle();
    for program in PROGRAMS {
        world.node.run(program, &["-N", "DOCKER-USER"]);
        world.node.run(program, &["-I", "FORWARD", "-j", "DOCKER-USER"]);
    }
    assert!(soon(|| is_open(&world, "DOCKER-USER")), "{:?}", rules(&world, "iptables"));
    assert!(passes(&world, &pod));
    // What drops no more needs no jump, and nothing of it is left.
    for program in PROGRAMS {
        world.node.run(program, &["-P", "FORWARD", "ACCEPT"]);
    }
    assert!(soon(|| PROGRAMS.iter().all(|program| only_ours(&rules(&world, program)).is_empty())));
    assert!(passes(&world, &pod));
}

/// The last rule decides as a policy does; of two families only the one that drops is written to.
#[test]
fn only_the_family_that_drops_is_written_to() {
    if !is_root() {
        return;
    }
    let world = with_peer("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n");
    let pod = world.pod("web");
    world.settle();
    assert!(PROGRAMS.iter().all(|program| only_ours(&rules(&world, program)).is_empty()));
    world.node.run("iptables", &["-A", "FORWARD", "-j", "REJECT", "--reject-with", "icmp-host-prohibited"]);
    assert!(soon(|| only_ours(&rules(&world, "iptables")) == ours("FORWARD")));
    assert!(only_ours(&rules(&world, "ip6tables")).is_empty());
    assert!(passes(&world, &pod));
}

/// A table of another program stays as it is also beside one of iptables; both have to let a packet pass.
#[test]
fn beside_firewalld_like_tables_only_iptables_own_is_written_to() {
    if !is_root() {
        return;
    }
    let world = with_peer(PLAIN);
    let pod = world.pod("web");
    let wall = "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; \
                ct state { established, related } accept; reject with icmpx admin-prohibited; }; }";
    world.node.run("nft", &[wall]);
    let listed = || world.node.run("nft", &["list", "table", "inet", "firewalld"]);
    let before = listed();
    assert!(soon(|| warnings(&world).contains("firewalld")));
    let text = warnings(&world);
    assert!(text.contains("chain filter_FORWARD of table inet firewalld") && !text.contains("ip filter"), "{text}");
    assert!(!passes(&world, &pod), "it drops");
    assert_eq!(listed(), before);
    assert!(is_open(&world, "FORWARD"));
    let status = world.get("/v1/status");
    let text = status["warnings"][0].as_str().unwrap();
    let command = text.split_once("to open it: ").unwrap().1;
    world.node.run("sh", &["-c", &command.replace("\"rip*\"", "'\"rip*\"'")]);
    assert!(passes(&world, &pod), "opened as the status says");
}
