//! GoBGP. What begins there is told to it when it runs: its configuration has no routes.

use std::fs::File;
use std::time::{Duration, Instant};

use ripstop_types::Family;
use serde_json::Value;

use super::route::{Route, community_words, large, target, target_words};
use super::{Ask, At, Program};
use crate::bfd::MS;
use crate::programs::is_there;
use crate::space::Daemon;

const PROGRAM: &str = "/usr/bin/gobgpd";

pub struct Gobgp;

impl Gobgp {
    fn say(at: &At<'_>, words: &str) -> String {
        at.space.run("gobgp", &words.split(' ').collect::<Vec<_>>())
    }
}

impl Program for Gobgp {
    fn installed(&self) -> bool {
        is_there(PROGRAM, "GoBGP", "gobgpd")
    }

    fn start(&self, at: &At<'_>, ask: &Ask) -> Vec<Daemon> {
        let path = at.folder.file("gobgpd.toml");
        std::fs::write(&path, conf(ask)).unwrap();
        let log = File::options().create(true).append(true).open(at.folder.file("log")).unwrap();
        let mut arguments = vec!["-f", &path, "--api-hosts", "127.0.0.1:50051", "--pprof-disable", "-l", "debug"];
        arguments.extend(ask.again.then_some("-r"));
        let daemon = at.space.start(PROGRAM, &arguments, log);
        let end = Instant::now() + Duration::from_secs(10);
        while !at.space.command("gobgp", &["global"]).output().unwrap().status.success() {
            assert!(Instant::now() < end, "GoBGP does not answer: {}", self.log(at));
            std::thread::sleep(50 * MS);
        }
        ask.routes.iter().for_each(|route| self.announce(at, ask, route));
        vec![daemon]
    }

    fn table(&self, at: &At<'_>, _: &Ask) -> Vec<Route> {
        let of = |family: &str| {
            let text = Self::say(at, &format!("global rib -a {family} -j"));
            let all: Value = serde_json::from_str(&text).unwrap();
            all.as_object().into_iter().flatten().flat_map(|(prefix, paths)| parse(prefix, paths)).collect::<Vec<_>>()
        };
        [of("ipv4"), of("ipv6")].concat()
    }

    fn announce(&self, at: &At<'_>, _: &Ask, route: &Route) {
        Self::say(at, &format!("global rib add {} -a {}{}", route.prefix, family(route), sets(route)));
    }

    fn withdraw(&self, at: &At<'_>, _: &Ask, route: &Route) {
        Self::say(at, &format!("global rib del {} -a {}", route.prefix, family(route)));
    }

    fn begins(&self, ask: &Ask, route: &Route) -> Route {
        // To its clients it reflects what begins there, too.
        if ask.reflects { route.reflected(2, 2) } else { route.clone() }
    }

    fn refresh(&self, _: &At<'_>, _: &Ask) {
        unreachable!("it asks for no routes: it keeps what came");
    }

    fn shut_down(&self, at: &At<'_>, ask: &Ask, why: &str) {
        at.space.run("gobgp", &["neighbor", &ask.address(ask.peers[0]), "reset", "--reason", why]);
    }

    fn updates(&self, at: &At<'_>, ask: &Ask) -> u64 {
        let text = Self::say(at, &format!("neighbor {} -j", ask.address(ask.peers[0])));
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["state"]["messages"]["received"]["update"].as_u64().unwrap_or(0)
    }

    fn log(&self, at: &At<'_>) -> String {
        at.log("log")
    }
}

fn family(route: &Route) -> &'static str {
    if route.prefix.family() == Family::V4 { "ipv4" } else { "ipv6" }
}

fn conf(ask: &Ask) -> String {
    let head = format!("[global.config]\nas = {}\nrouter-id = \"192.0.2.2\"\nport = 179\n", ask.asn);
    let peers: String = ask.peers.iter().map(|peer| session(ask, *peer)).collect();
    let dynamic = "[[dynamic-neighbors]]\n[dynamic-neighbors.config]\n";
    let range = format!("{dynamic}prefix = \"{}\"\npeer-group = \"g\"\n", ask.link());
    format!("{head}{peers}{}", if ask.listens { range } else { String::new() })
}

fn session(ask: &Ask, peer: u8) -> String {
    let table = if ask.listens { "peer-groups" } else { "neighbors" };
    let who = if ask.listens {
        "peer-group-name = \"g\"\n".to_owned()
    } else {
        format!("neighbor-address = \"{}\"\n", ask.address(peer))
    };
    let key = ask.password.map_or(String::new(), |key| format!("auth-password = \"{key}\"\n"));
    let part = |wanted: bool, name: &str, lines: &str| {
        if wanted { format!("[{table}.{name}]\n{lines}\n") } else { String::new() }
    };
    let family = |name: &str| {
        let limit = ask.limit.filter(|_| name == "ipv4-unicast");
        [
            format!("[[{table}.afi-safis]]\n[{table}.afi-safis.config]\nafi-safi-name = \"{name}\"\n"),
            part(ask.graceful, "afi-safis.mp-graceful-restart.config", "enabled = true"),
            part(ask.add_path, "afi-safis.add-paths.config", "receive = true\nsend-max = 8"),
            part(
                limit.is_some(),
                "afi-safis.prefix-limit.config",
                &format!("max-prefixes = {}", limit.unwrap_or_default()),
            ),
        ]
        .concat()
    };
    [
        format!("[[{table}]]\n[{table}.config]\n{who}peer-as = {}\n{key}", ask.peer_as),
        part(
            true,
            "timers.config",
            &format!(
                "hold-time = {}\nkeepalive-interval = {}\nconnect-retry = 1\nidle-hold-time-after-reset = 1",
                ask.hold,
                ask.hold / 3
            ),
        ),
        part(!ask.listens, "transport.config", &format!("local-address = \"{}\"", ask.address(2))),
        part(ask.security, "ttl-security.config", "enabled = true\nttl-min = 255"),
        part(
            ask.graceful,
            "graceful-restart.config",
            &format!("enabled = true\nrestart-time = 120\nnotification-enabled = {}", ask.notification),
        ),
        part(
            ask.reflects,
            "route-reflector.config",
            "route-reflector-client = true\nroute-reflector-cluster-id = \"192.0.2.2\"",
        ),
        family("ipv4-unicast"),
        family("ipv6-unicast"),
    ]
    .concat()
}

fn sets(route: &Route) -> String {
    let list = |name: &str, all: Vec<String>| {
        if all.is_empty() { String::new() } else { format!(" {name} {}", all.join(",")) }
    };
    let targets: Vec<String> = route.extended.iter().map(|one| target_words(*one)).collect();
    [
        format!(" origin igp nexthop {}", route.next_hop),
        list("aspath", route.as_path.iter().map(u32::to_string).collect()),
        list("med", route.med.iter().map(u32::to_string).collect()),
        list("local-pref", route.local_pref.iter().map(u32::to_string).collect()),
        list("community", route.communities.iter().map(|one| community_words(*one)).collect()),
        list("rt", vec![targets.join(" ")].into_iter().filter(|all| !all.is_empty()).collect()),
        list("large-community", route.large.iter().map(ToString::to_string).collect()),
    ]
    .concat()
}

/// The paths to a prefix that a peer sent.
fn parse(prefix: &str, paths: &Value) -> Vec<Route> {
    let from_peer = |path: &&Value| path["neighbor-ip"].is_string();
    paths.as_array().unwrap().iter().filter(from_peer).map(|path| read(prefix, path)).collect()
}

fn read(prefix: &str, path: &Value) -> Route {
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let mut route = Route::to(prefix, "0.0.0.0");
    for one in path["attrs"].as_array().unwrap() {
        let all = |name: &str| one[name].as_array().into_iter().flatten();
        match one["type"].as_u64().unwrap() {
            2 => {
                let numbers = all("as_paths").flat_map(|part| part["asns"].as_array().unwrap());
                route.as_path = numbers.map(number).collect();
            }
            3 | 14 => route.next_hop = one["nexthop"].as_str().unwrap().parse().unwrap(),
            4 => route.med = Some(number(&one["metric"])),
            5 => route.local_pref = Some(number(&one["value"])),
            8 => route.communities = all("communities").map(number).collect(),
            9 => route.originator = Some(one["value"].as_str().unwrap().parse().unwrap()),
            10 => route.clusters = all("value").map(|id| id.as_str().unwrap().parse().unwrap()).collect(),
            16 => route.extended = all("value").map(|one| target(one["value"].as_str().unwrap())).collect(),
            32 => {
                let part = |one: &Value, name: &str| one[name].as_u64().unwrap();
                let words = |one| ["ASN", "LocalData1", "LocalData2"].map(|name| part(one, name).to_string()).join(":");
                route.large = all("value").map(|one| large(&words(one))).collect();
            }
            _ => {}
        }
    }
    route
}
