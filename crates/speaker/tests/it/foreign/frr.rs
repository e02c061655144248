//! FRR.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ripstop_types::Family;
use serde_json::Value;

use super::route::{Route, community, community_words, large, target, target_words};
use super::{Ask, At, Program};
use crate::bfd::MS;
use crate::programs::{frr, has_frr};
use crate::space::Daemon;

pub struct Frr;

impl Frr {
    fn say(at: &At<'_>, lines: &[String]) -> String {
        let folder = at.folder.file("");
        let lines = lines.iter().flat_map(|line| ["-c", line]);
        let all: Vec<&str> = ["--vty_socket", &folder].into_iter().chain(lines).collect();
        at.space.run("vtysh", &all)
    }

    /// What it answers, each as a value.
    fn ask(at: &At<'_>, lines: &[String]) -> Vec<Value> {
        let text = Self::say(at, lines);
        serde_json::Deserializer::from_str(&text).into_iter().map(|one| one.unwrap()).collect()
    }

    fn configure(at: &At<'_>, ask: &Ask, lines: Vec<String>) {
        let head = ["configure".to_owned(), format!("router bgp {}", ask.asn)];
        Self::say(at, &head.into_iter().chain(lines).collect::<Vec<_>>());
    }
}

impl Program for Frr {
    fn installed(&self) -> bool {
        has_frr()
    }

    fn start(&self, at: &At<'_>, ask: &Ask) -> Vec<Daemon> {
        // What it left behind when it died.
        let _ = std::fs::remove_file(at.folder.file("zserv"));
        let (control, conf) = (at.folder.file("bfdd.sock"), conf(ask));
        let bfd: &[&str] = &["--bfdctl", &control];
        let daemons: &[(&str, &str, &[&str])] = &[("bfdd", "", bfd), ("bgpd", &conf, &[])];
        let _ = std::fs::remove_file(at.folder.file("bgpd.vty"));
        let running = frr(at.space, &at.folder, if ask.bfd { daemons } else { &daemons[1..] });
        let end = Instant::now() + Duration::from_secs(10);
        while !std::path::Path::new(&at.folder.file("bgpd.vty")).exists() {
            assert!(Instant::now() < end, "bgpd does not answer: {}", self.log(at));
            std::thread::sleep(50 * MS);
        }
        running
    }

    fn table(&self, at: &At<'_>, _: &Ask) -> Vec<Route> {
        let show = |family: &str| format!("show bgp {family} unicast json");
        let all = Self::ask(at, &["ipv4", "ipv6"].map(show));
        let prefixes: BTreeSet<String> =
            all.iter().filter_map(|one| one["routes"].as_object()).flat_map(|all| all.keys().cloned()).collect();
        let detail = |prefix: &String| {
            let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
            format!("show bgp {family} unicast {prefix} json")
        };
        if prefixes.is_empty() {
            return Vec::new();
        }
        let lines: Vec<String> = prefixes.iter().map(detail).collect();
        Self::ask(at, &lines).iter().flat_map(parse).collect()
    }

    fn announce(&self, at: &At<'_>, ask: &Ask, route: &Route) {
        let name = format!("A{}", at.log("maps").len());
        std::fs::write(at.folder.file("maps"), at.log("maps") + "+").unwrap();
        let map = route_map(&name, route);
        let lines = ["configure"].into_iter().chain(map.lines()).map(str::to_owned);
        Self::say(at, &lines.collect::<Vec<_>>());
        let lines =
            [format!("address-family {} unicast", family(route)), format!("network {} route-map {name}", route.prefix)];
        Self::configure(at, ask, lines.into());
    }

    fn withdraw(&self, at: &At<'_>, ask: &Ask, route: &Route) {
        let lines = [format!("address-family {} unicast", family(route)), format!("no network {}", route.prefix)];
        Self::configure(at, ask, lines.into());
    }

    fn begins(&self, _: &Ask, route: &Route) -> Route {
        self.reflects(route)
    }

    fn reflects(&self, route: &Route) -> Route {
        // It tells a MED in any case.
        Route { med: route.med.or(Some(0)), ..route.clone() }
    }

    fn refresh(&self, at: &At<'_>, ask: &Ask) {
        let peer = ask.address(ask.peers[0]);
        Self::say(at, &["ipv4", "ipv6"].map(|family| format!("clear bgp {family} unicast {peer} soft in")));
    }

    fn shut_down(&self, at: &At<'_>, ask: &Ask, why: &str) {
        let line = format!("neighbor {} shutdown message {why}", ask.address(ask.peers[0]));
        Self::configure(at, ask, vec![line]);
    }

    fn updates(&self, at: &At<'_>, ask: &Ask) -> u64 {
        let peer = ask.address(ask.peers[0]);
        let answer = Self::ask(at, &[format!("show bgp neighbor {peer} json")]);
        answer[0][&peer]["messageStats"]["updatesRecv"].as_u64().unwrap()
    }

    fn log(&self, at: &At<'_>) -> String {
        at.log("bgpd.log")
    }
}

fn family(route: &Route) -> &'static str {
    if route.prefix.family() == Family::V4 { "ipv4" } else { "ipv6" }
}

fn conf(ask: &Ask) -> String {
    let peers: Vec<String> =
        if ask.listens { vec!["G".to_owned()] } else { ask.peers.iter().map(|peer| ask.address(*peer)).collect() };
    let family = |name: &str| {
        let own = ask.routes.iter().enumerate().filter(|(_, route)| family(route) == name);
        let networks = own.map(|(place, route)| format!("  network {} route-map R{place}\n", route.prefix));
        let each = |peer: &String| {
            let line =
                |wanted: bool, text: &str| if wanted { format!("  neighbor {peer} {text}\n") } else { String::new() };
            let limit = ask.limit.filter(|_| name == "ipv4");
            [
                format!("  neighbor {peer} activate\n"),
                line(ask.reflects, "route-reflector-client"),
                line(ask.add_path, "addpath-tx-all-paths"),
                line(limit.is_some(), &format!("maximum-prefix {}", limit.unwrap_or(0))),
            ]
            .concat()
        };
        let peers = peers.iter().map(each);
        format!(" address-family {name} unicast\n{} exit-address-family\n", networks.chain(peers).collect::<String>())
    };
    let maps = ask.routes.iter().enumerate().map(|(place, route)| route_map(&format!("R{place}"), route));
    [
        // What comes behind a route that needs it would be heeded some seconds later.
        format!("log stdout\nbgp route-map delay-timer 0\n{}", maps.collect::<String>()),
        format!("router bgp {}\n bgp router-id 192.0.2.2\n no bgp ebgp-requires-policy\n", ask.asn),
        " no bgp network import-check\n no bgp default ipv4-unicast\n bgp log-neighbor-changes\n".to_owned(),
        if ask.graceful { " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n" } else { "" }.to_owned(),
        if ask.notification { " bgp graceful-restart notification\n" } else { "" }.to_owned(),
        if ask.listens { " neighbor G peer-group\n" } else { "" }.to_owned(),
        peers.iter().map(|peer| session(ask, peer)).collect(),
        if ask.listens { format!(" bgp listen range {} peer-group G\n", ask.link()) } else { String::new() },
        family("ipv4"),
        family("ipv6"),
    ]
    .concat()
}

fn session(ask: &Ask, peer: &str) -> String {
    let line = |wanted: bool, text: &str| if wanted { format!(" neighbor {peer} {text}\n") } else { String::new() };
    [
        format!(" neighbor {peer} remote-as {}\n", ask.peer_as),
        line(!ask.listens, &format!("update-source {}", ask.address(2))),
        format!(" neighbor {peer} timers {} {}\n neighbor {peer} timers connect 1\n", ask.hold / 3, ask.hold),
        format!(" neighbor {peer} advertisement-interval 0\n"),
        line(ask.password.is_some(), &format!("password {}", ask.password.unwrap_or(""))),
        line(ask.bfd, "bfd 4 50 50"),
        line(ask.security, "ttl-security hops 1"),
        line(ask.extended_next_hop, "capability extended-nexthop"),
    ]
    .concat()
}

fn route_map(name: &str, route: &Route) -> String {
    let list = |all: Vec<String>| if all.is_empty() { None } else { Some(all.join(" ")) };
    let path = list(route.as_path.iter().map(u32::to_string).collect());
    let standard = list(route.communities.iter().map(|one| community_words(*one)).collect());
    let extended = list(route.extended.iter().map(|one| target_words(*one)).collect());
    let large = list(route.large.iter().map(|one| format!("{}:{}:{}", one.0, one.1, one.2)).collect());
    let line =
        |head: &str, value: Option<String>| value.map_or(String::new(), |value| format!(" set {head} {value}\n"));
    [
        format!("route-map {name} permit 10\n"),
        line("as-path prepend", path),
        line("metric", route.med.map(|med| med.to_string())),
        line("local-preference", route.local_pref.map(|value| value.to_string())),
        line("community", standard),
        line("extcommunity rt", extended),
        line("large-community", large),
        "exit\n".to_owned(),
    ]
    .concat()
}

/// The paths of an answer about one prefix that a peer sent. It says nothing of one that has just gone.
fn parse(answer: &Value) -> Vec<Route> {
    let Some(prefix) = answer["prefix"].as_str() else { return Vec::new() };
    let from_peer = |path: &&Value| path["peer"]["peerId"].as_str().is_some_and(|id| !matches!(id, "0.0.0.0" | "::"));
    answer["paths"].as_array().into_iter().flatten().filter(from_peer).map(|path| read(prefix, path)).collect()
}

fn read(prefix: &str, path: &Value) -> Route {
    let words = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<String>>();
    let number = |name: &str| path[name].as_u64().map(|value| u32::try_from(value).unwrap());
    let hops = path["nexthops"].as_array().unwrap();
    let hop = hops.iter().find(|hop| hop["scope"].as_str().is_none_or(|scope| scope == "global")).unwrap();
    let segments = path["aspath"]["segments"].as_array().into_iter().flatten();
    let numbers = segments.flat_map(|one| one["list"].as_array().unwrap()).map(|asn| asn.as_u64().unwrap());
    let standard = words(&path["community"]["list"]);
    let extended = path["extendedCommunity"]["string"].as_str().unwrap_or("").split_whitespace();
    Route {
        as_path: numbers.map(|asn| u32::try_from(asn).unwrap()).collect(),
        med: number("metric").or_else(|| number("med")),
        local_pref: number("locPrf"),
        communities: standard
            .iter()
            .map(|one| if one == "gracefulShutdown" { 0xffff_0000 } else { community(one) })
            .collect(),
        extended: extended.map(|one| target(one.strip_prefix("RT:").unwrap())).collect(),
        large: words(&path["largeCommunity"]["list"]).iter().map(|one| large(one)).collect(),
        originator: path["originatorId"].as_str().map(|id| id.parse().unwrap()),
        clusters: words(&path["clusterList"]["list"]).iter().map(|id| id.parse().unwrap()).collect(),
        ..Route::to(prefix, hop["ip"].as_str().unwrap())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
