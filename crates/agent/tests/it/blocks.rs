//! Range mode `blocks`: blocks on demand, borrowed and fixed addresses, pools, growth; agents' cores without kernels.

use std::collections::BTreeSet;

use serde_json::json;

use super::blocks_world::{Wish, World};

fn wish(node: usize, container: &str) -> Wish {
    Wish { node, container: container.into(), runtime: json!({}), labels: Vec::new(), namespace: "default" }
}

fn started(nodes: usize, spec: &str) -> World {
    let mut world = World::new(nodes, spec);
    (0..nodes).for_each(|n| world.start(n));
    let ready = |world: &mut World| world.nodes.iter().all(|node| node.core.as_ref().unwrap().status().ready);
    let is_ready = world.run(20_000, ready);
    let reasons: Vec<_> = world.nodes.iter().map(|node| node.core.as_ref().unwrap().status().reasons).collect();
    assert!(is_ready, "{reasons:?}");
    world
}

/// Adds a pod as a runtime does, which tries again when it is told to.
fn added(world: &mut World, wish: &Wish) -> std::net::IpAddr {
    world.add(wish);
    let done = world.run(60_000, |world| match world.answers.get(&wish.container) {
        Some(Err((11 | 104, _))) => {
            world.add(wish);
            false
        }
        other => other.is_some(),
    });
    let last = world.answers.get(&wish.container);
    assert!(done, "{}: {last:?}; {:?}\n{}", wish.container, world.claims(), world.told(wish.node));
    let ips = world.answers[&wish.container].clone().unwrap_or_else(|why| panic!("{}: {why:?}", wish.container));
    world.check();
    ips[0]
}

fn removed(world: &mut World, node: usize, container: &str) {
    world.del(node, container);
    assert!(world.run(20_000, |world| world.deleted.contains(container)), "{container} stays");
}

/// The refusal of an ADD: its code and sentence.
fn refused(world: &mut World, wish: &Wish) -> (u32, String) {
    world.add(wish);
    assert!(world.run(20_000, |world| world.answers.contains_key(&wish.container)), "no answer");
    world.answers[&wish.container].clone().unwrap_err()
}

fn fixed(node: usize, container: &str, ip: &str) -> Wish {
    Wish { runtime: json!({"ips": [ip]}), ..wish(node, container) }
}

/// A pool of 16 addresses in four blocks; nodes have their own addresses elsewhere.
const TINY: &str = "{ranges: [10.9.0.0/28], rangeMode: blocks, wiring: routed, backend: host-gw, cooldownSeconds: 0, blocks: {len: {v4: 30}, nodeRanges: [10.8.0.0/24]}}";

#[test]
fn every_address_of_a_pool_finds_its_pod_wherever_that_is() {
    let mut world = started(3, TINY);
    let held = |world: &World| world.claims().values().filter(|(state, _)| state == "held").count();
    assert_eq!(held(&world), 6, "an address of its own and a block for each node: {:?}", world.claims());
    // The first node takes its block, the free one, and borrows the eight addresses of the others.
    let ips: BTreeSet<_> = (0..16).map(|n| added(&mut world, &wish(0, &format!("p{n}")))).collect();
    assert_eq!(ips.len(), 16);
    assert!(ips.iter().all(|ip| ip.to_string().starts_with("10.9.0.")), "{ips:?}");
    let borrowed = world.claims().into_values().filter(|claim| *claim == ("borrowed".into(), "n1".into())).count();
    assert_eq!(borrowed, 8, "{:?}", world.claims());
    let (code, why) = refused(&mut world, &wish(1, "late"));
    assert_eq!(code, 104);
    assert!(why.contains("10.9.0.0/28") && why.contains("remove pods, or add a pool"), "{why}");
    // One goes; its address is the other's now.
    removed(&mut world, 0, "p3");
    let ip = added(&mut world, &wish(1, "late"));
    assert!(ips.contains(&ip));
    // All go; what was borrowed is returned, what was claimed beyond one block is released.
    for n in (0..16).filter(|n| *n != 3) {
        removed(&mut world, 0, &format!("p{n}"));
    }
    removed(&mut world, 1, "late");
    world.run(200_000, |_| false);
    let left: Vec<_> = world.claims().into_iter().filter(|(range, _)| range.starts_with("10.9.")).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().all(|(range, (state, _))| range.ends_with("/30") && state == "held"), "{left:?}");
    // A released block moves to a node that needs one.
    for n in 0..8 {
        added(&mut world, &wish(2, &format!("q{n}")));
    }
    let blocks = world.claims().into_iter().filter(|(range, claim)| range.ends_with("/30") && claim.1 == "n3").count();
    assert_eq!(blocks, 2, "{:?}", world.claims());
}

#[test]
fn a_pod_gets_the_address_it_asks_for_or_hears_who_has_it() {
    let mut world = started(3, TINY);
    let of = |world: &World, node: &str| {
        let claims = world.claims().into_iter();
        claims
            .filter(|(range, claim)| range.ends_with("/30") && claim.1 == node)
            .map(|(range, _)| range)
            .next()
            .unwrap()
    };
    let in_block = |block: &str, n: u32| {
        let first: std::net::Ipv4Addr = block.split('/').next().unwrap().parse().unwrap();
        std::net::Ipv4Addr::from(u32::from(first) + n).to_string()
    };
    // In another node's block, the first and the last address too.
    let theirs = of(&world, "n2");
    for n in [0, 3] {
        let ip = in_block(&theirs, n);
        assert_eq!(added(&mut world, &fixed(0, &format!("fixed-{n}"), &ip)).to_string(), ip);
    }
    let claim = world.claims()[&format!("{}/32", in_block(&theirs, 3))].clone();
    assert_eq!(claim, ("borrowed".into(), "n1".into()));
    // Taken by the lender's own pod, by another borrower, on the own node.
    let at_home = added(&mut world, &wish(1, "home")).to_string();
    let (code, why) = refused(&mut world, &fixed(0, "second", &at_home));
    assert_eq!(code, 105);
    assert!(
        why.contains(&format!("address {at_home} is held by pod default/home")) && why.contains("node n2"),
        "{why}"
    );
    for node in [1, 2] {
        let (code, why) = refused(&mut world, &fixed(node, &format!("third-{node}"), &in_block(&theirs, 0)));
        assert_eq!(code, 105);
        assert!(why.contains("held by pod default/fixed-0") && why.contains("n1"), "{why}");
    }
    let (code, why) = refused(&mut world, &fixed(0, "fourth", &in_block(&theirs, 0)));
    assert_eq!((code, why.contains("default/fixed-0")), (105, true), "{why}");
    // In a block of nobody.
    let blocks = ["10.9.0.0/30", "10.9.0.4/30", "10.9.0.8/30", "10.9.0.12/30"];
    let free = blocks.into_iter().find(|block| !world.claims().contains_key(*block)).unwrap();
    let ip = in_block(free, 2);
    assert_eq!(added(&mut world, &fixed(0, "new-block", &ip)).to_string(), ip);
    assert_eq!(world.claims()[free], ("held".into(), "n1".into()));
    // In no pool, and where nodes have their own.
    for (ip, words) in
        [("10.7.0.1", "is in no pool of network default, which has 10.9.0.0/28"), ("10.8.0.3", "in no pool")]
    {
        let (code, why) = refused(&mut world, &fixed(0, "outside", ip));
        assert_eq!(code, 105);
        assert!(why.contains(words), "{why}");
    }
    // When the pods go, so do the records.
    for container in ["fixed-0", "fixed-3", "new-block"] {
        removed(&mut world, 0, container);
    }
    world.run(30_000, |_| false);
    let borrowed = world.claims().into_iter().filter(|(_, claim)| claim.0 == "borrowed");
    assert_eq!(borrowed.collect::<Vec<_>>(), []);
}

const POOLS: &str = "{ranges: [10.9.0.0/28], rangeMode: blocks, backend: host-gw, cooldownSeconds: 0, blocks: {len: {v4: 30}, nodeRanges: [10.8.0.0/24], pools: [
    {range: 10.10.0.0/28, namespaces: [red, blue]}, {range: 10.11.0.0/28, labels: {tier: db}}, {range: 10.12.0.0/28, namespaces: [red], labels: {tier: db}}]}}";

#[test]
fn pods_get_their_address_from_the_pools_that_name_them() {
    let mut world = started(2, POOLS);
    let db = vec![("tier", "db"), ("app", "x")];
    let red = Wish { namespace: "red", ..wish(0, "red") };
    let any_db = Wish { labels: db.clone(), ..wish(0, "db") };
    let other = Wish { labels: vec![("tier", "web")], namespace: "green", ..wish(0, "green") };
    assert!(added(&mut world, &red).to_string().starts_with("10.10."));
    assert!(added(&mut world, &any_db).to_string().starts_with("10.11."));
    assert!(added(&mut world, &other).to_string().starts_with("10.9."));
    // Three pools name this one.
    let red_db = Wish { labels: db, namespace: "red", ..wish(1, "red-db") };
    let ip = added(&mut world, &red_db).to_string();
    assert!(["10.10.", "10.11.", "10.12."].iter().any(|pool| ip.starts_with(pool)), "{ip}");
    // A pool that is full lends none of another's.
    removed(&mut world, 1, "red-db");
    for n in 0..15 {
        added(&mut world, &Wish { namespace: "blue", ..wish(1, &format!("blue-{n}")) });
    }
    let (code, why) = refused(&mut world, &Wish { namespace: "blue", ..wish(0, "blue-late") });
    assert_eq!((code, why.contains("10.10.0.0/28")), (104, true), "{why}");
}

#[test]
fn pools_come_and_go_under_running_pods() {
    let mut world = started(2, POOLS);
    let red = |node, name: &str| Wish { namespace: "red", ..wish(node, name) };
    let before = added(&mut world, &red(0, "before"));
    // The pool of `red` goes; its other pool comes into use only with labels, so the range open to all serves.
    let without = POOLS.replace("{range: 10.10.0.0/28, namespaces: [red, blue]}, ", "");
    world.put_network(&without);
    world.run(3_000, |_| false);
    let after = added(&mut world, &red(0, "after"));
    assert!(before.to_string().starts_with("10.10.") && after.to_string().starts_with("10.9."), "{before} {after}");
    let status = world.nodes[0].core.as_ref().unwrap().status();
    let named = |text: &String| text.contains("has no more") && text.contains(&before.to_string());
    assert!(status.warnings.iter().any(named), "{:?}", status.warnings);
    assert!(status.ready, "{:?}", status.reasons);
    assert!(world.held().iter().any(|(ip, _, _)| *ip == before), "the pod keeps its address");
    // Another range of addresses.
    let grown = without.replace("pools: [", "pools: [{range: 10.20.0.0/28, namespaces: [red]}, ");
    world.put_network(&grown);
    world.run(3_000, |_| false);
    assert!(added(&mut world, &red(1, "grown")).to_string().starts_with("10.20."));
    // The last pod of the old one goes, and its block with it.
    removed(&mut world, 0, "before");
    world.run(100_000, |_| false);
    assert!(!world.claims().keys().any(|range| range.starts_with("10.10.")), "{:?}", world.claims());
    // The range itself is moved: what runs goes on, what comes is in the new one.
    world.put_network(&grown.replace("ranges: [10.9.0.0/28]", "ranges: [10.30.0.0/27]"));
    world.run(5_000, |_| false);
    assert!(added(&mut world, &wish(1, "moved")).to_string().starts_with("10.30."));
    assert!(world.held().iter().any(|(ip, _, _)| *ip == after));
}

#[test]
fn without_the_store_pods_come_into_the_blocks_that_are_there() {
    let mut world = started(2, TINY);
    world.store_away = true;
    for node in &mut world.nodes {
        node.tell_away();
    }
    for n in 0..4 {
        added(&mut world, &wish(0, &format!("p{n}")));
    }
    let (code, why) = refused(&mut world, &wish(0, "p4"));
    assert_eq!(code, 11);
    assert!(why.contains("the store is away"), "{why}");
    world.store_away = false;
    (0..2).for_each(|n| world.forget_watch(n));
    added(&mut world, &wish(0, "p4"));
}

#[test]
fn strict_affinity_lends_nothing_and_max_per_node_holds() {
    let strict = TINY.replace("len: {v4: 30}", "len: {v4: 30}, strictAffinity: true, maxPerNode: 2");
    let mut world = started(2, &strict);
    for n in 0..8 {
        added(&mut world, &wish(0, &format!("p{n}")));
    }
    let (code, why) = refused(&mut world, &wish(0, "p8"));
    assert_eq!(code, 104);
    assert!(why.contains("can claim no further block, and nodes lend none"), "{why}");
    let theirs = world.claims().into_iter().find(|(range, claim)| range.ends_with("/30") && claim.1 == "n2").unwrap().0;
    let (code, why) = refused(&mut world, &fixed(0, "fixed", theirs.split('/').next().unwrap()));
    assert_eq!((code, why.contains("strictAffinity keeps it there")), (105, true), "{why}");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// As many pods as addresses, anywhere, with kills and reboots between any two steps of any agent; then each address is one
/// pod's. Then all go, and nothing is left.
fn storm(nodes: usize, addresses: usize, spec: &str, seed: u64, kill_every: usize) {
    let mut world = started(nodes, spec);
    let mut random = Random(seed);
    let mut wishes: Vec<Wish> = (0..addresses).map(|n| wish(random.below(nodes), &format!("p{n}"))).collect();
    wishes.iter().for_each(|wish| world.add(wish));
    let (until, mut steps) = (world.now + 1_800_000, 0usize);
    let (mut retry, mut check_at) = (Vec::<(u64, usize)>::new(), 0);
    loop {
        assert!(world.now < until, "not all have an address: {:?}", missing(&world, &wishes));
        let mut moved = false;
        for n in 0..nodes {
            for _ in 0..4 {
                moved |= world.step(n);
                steps += 1;
                if kill_every > 0 && random.below(kill_every) == 0 {
                    world.kill(n);
                    world.start(n);
                    again(&mut world, &wishes, n);
                }
            }
            if kill_every > 0 && random.below(kill_every * 60) == 0 {
                world.reboot(n);
                for wish in wishes.iter().filter(|wish| wish.node == n) {
                    world.answers.remove(&wish.container);
                }
                again(&mut world, &wishes, n);
            }
        }
        world.now += if moved { 1 } else { 50 };
        if steps >= check_at {
            check_at = steps + 50 * addresses;
            world.check();
            for (n, wish) in wishes.iter().enumerate() {
                if matches!(world.answers.get(&wish.container), Some(Err(_))) && !retry.iter().any(|(_, of)| *of == n) {
                    retry.push((world.now + 500 + random.below(1_000) as u64, n));
                }
            }
            let due: Vec<usize> = retry.iter().filter(|(at, _)| *at <= world.now).map(|(_, n)| *n).collect();
            retry.retain(|(at, _)| *at > world.now);
            due.into_iter().for_each(|n| try_again(&mut world, &wishes[n]));
            if wishes.iter().all(|wish| matches!(world.answers.get(&wish.container), Some(Ok(_)))) {
                break;
            }
        }
    }
    world.check();
    let ips: BTreeSet<_> = world.held().into_iter().map(|(ip, _, _)| ip).collect();
    let having: BTreeSet<_> = world.held().into_iter().map(|(_, _, container)| container).collect();
    let without = wishes.iter().find(|wish| !having.contains(&wish.container));
    assert!(without.is_none(), "{without:?} has none: {}", world.story(&without.unwrap().container));
    assert_eq!(ips.len(), addresses, "every address has its pod");
    println!("{nodes} nodes, {addresses} addresses, seed {seed}: {steps} steps");
    for wish in wishes.drain(..) {
        world.del(wish.node, &wish.container);
    }
    nothing_is_left(&mut world);
}

/// Some minutes later: each node has its own address and a block at most.
fn nothing_is_left(world: &mut World) {
    world.run(300_000, |_| false);
    assert_eq!(world.held(), [], "pods are left");
    let left: Vec<_> =
        world.claims().into_iter().filter(|(range, claim)| !range.ends_with("/32") || claim.0 != "held").collect();
    let nodes = world.nodes.len();
    assert!(left.iter().all(|(_, (state, _))| state == "held") && left.len() <= nodes, "left: {left:?}");
}

/// A runtime whose ADD failed: told to, it asks again; otherwise it takes back first what its call may have left.
fn try_again(world: &mut World, wish: &Wish) {
    // A machine that was switched off meanwhile was asked anew.
    let Some(Err((code, _))) = world.answers.get(&wish.container) else { return };
    let told_to = [11, 104].contains(code);
    if told_to || world.deleted.remove(&wish.container) {
        world.add(wish);
    } else if !world.is_busy(wish.node, &wish.container) {
        world.del(wish.node, &wish.container);
    }
}

/// A runtime whose call was not answered calls again.
fn again(world: &mut World, wishes: &[Wish], n: usize) {
    for wish in wishes.iter().filter(|wish| wish.node == n) {
        if !world.answers.contains_key(&wish.container) && !world.is_busy(n, &wish.container) {
            world.add(wish);
        }
    }
}

fn missing(world: &World, wishes: &[Wish]) -> Vec<String> {
    let has = |wish: &&Wish| matches!(world.answers.get(&wish.container), Some(Ok(_)));
    wishes
        .iter()
        .filter(|wish| !has(wish))
        .map(|wish| format!("{}: {:?}", wish.container, world.answers.get(&wish.container)))
        .collect()
}

#[test]
fn as_many_pods_as_addresses_with_kills_at_every_step() {
    for seed in 0..3 {
        storm(3, 16, TINY, seed, 60);
    }
}

#[test]
fn a_hundred_pods_over_five_nodes_have_a_hundred_addresses() {
    let hundred = "{ranges: [10.9.0.0/25], rangeMode: blocks, backend: host-gw, cooldownSeconds: 0, exclude: [10.9.0.64/28, 10.9.0.100/30, 10.9.0.120/29], blocks: {len: {v4: 28}, nodeRanges: [10.8.0.0/24]}}";
    for seed in 0..3 {
        storm(5, 100, hundred, seed, 200);
    }
}

#[test]
fn a_thousand_pods_over_ten_nodes_have_a_thousand_addresses() {
    // 1,024 less 24.
    let spec = "{ranges: [10.9.0.0/22], rangeMode: blocks, backend: host-gw, cooldownSeconds: 0, exclude: [10.9.1.0/28, 10.9.3.248/29], blocks: {len: {v4: 26}, nodeRanges: [10.8.0.0/24]}}";
    storm(10, 1_000, spec, 7, 1_000);
}
