//! ExaBGP: it has no table, but tells a program of ours all that comes, and announces what that program says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use ripstop_bgp::wire::LargeCommunity;
use ripstop_types::Family;
use serde_json::Value;

use super::route::{Route, community_words, target_words};
use super::{Ask, At, Program};
use crate::programs::{Folder, is_there};
use crate::space::Daemon;

const PROGRAM: &str = "/usr/sbin/exabgp";

/// The program between it and two files; what reads one ends with what writes the other.
const RELAY: &str = "tail -n +1 --pid=$$ -f FOLDERcommands &\nexec cat >> FOLDERmessages\n";

pub struct Exabgp;

impl Exabgp {
    /// Has it do something.
    pub fn say(at: &At<'_>, line: &str) {
        let mut file = File::options().append(true).open(at.folder.file("commands")).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

impl Program for Exabgp {
    fn installed(&self) -> bool {
        is_there(PROGRAM, "ExaBGP", "exabgp")
    }

    fn start(&self, at: &At<'_>, ask: &Ask) -> Vec<Daemon> {
        let path = at.folder.file("exabgp.conf");
        std::fs::write(&path, conf(ask, &at.folder.file("relay"))).unwrap();
        std::fs::write(at.folder.file("relay"), RELAY.replace("FOLDER", &at.folder.file(""))).unwrap();
        for name in ["commands", "messages"] {
            std::fs::write(at.folder.file(name), "").unwrap();
        }
        let log = File::options().create(true).append(true).open(at.folder.file("log")).unwrap();
        let settings =
            ["daemon.user=root", "log.destination=stdout", "api.cli=false", "api.ack=false", "tcp.once=false"];
        let settings = settings.map(|one| format!("exabgp.{one}"));
        let arguments: Vec<&str> = settings.iter().map(String::as_str).chain([PROGRAM, path.as_str()]).collect();
        vec![at.space.start("env", &arguments, log)]
    }

    fn table(&self, at: &At<'_>, _: &Ask) -> Vec<Route> {
        let mut table = BTreeMap::new();
        at.log("messages").lines().for_each(|line| take(&mut table, line));
        table.into_values().collect()
    }

    fn announce(&self, at: &At<'_>, ask: &Ask, route: &Route) {
        Self::say(at, &format!("announce route {} {}", route.prefix, sets(ask, route)));
    }

    fn withdraw(&self, at: &At<'_>, _: &Ask, route: &Route) {
        Self::say(at, &format!("withdraw route {} next-hop {}", route.prefix, route.next_hop));
    }

    fn refresh(&self, at: &At<'_>, _: &Ask) {
        Self::say(at, "announce route-refresh ipv4 unicast");
        Self::say(at, "announce route-refresh ipv6 unicast");
    }

    fn shut_down(&self, at: &At<'_>, ask: &Ask, _: &str) {
        Self::say(at, &format!("neighbor {} teardown 2", ask.address(ask.peers[0])));
    }

    fn updates(&self, at: &At<'_>, _: &Ask) -> u64 {
        let update = |line: &&str| line.contains("\"direction\": \"receive\"") && line.contains("\"announce\"");
        at.log("messages").lines().filter(update).count() as u64
    }

    fn log(&self, at: &At<'_>) -> String {
        at.log("log") + &at.log("messages")
    }
}

/// The routes of each UPDATE, as its decoder reads them.
pub fn decode(messages: &[&[u8]], add_path: bool) -> Vec<BTreeSet<Route>> {
    let folder = Folder::new();
    let path = folder.file("conf");
    let either = if add_path { "send/receive" } else { "disable" };
    let conf = format!(
        "neighbor 127.0.0.1 {{\n  local-address 127.0.0.1;\n  router-id 192.0.2.2;\n  local-as 64512;\n  peer-as 64512;\n  \
         family {{ ipv4 unicast; ipv6 unicast; }}\n  nexthop {{ ipv4 unicast ipv6; }}\n  \
         capability {{ asn4 enable; nexthop enable; add-path {either}; }}\n}}\n"
    );
    std::fs::write(&path, conf).unwrap();
    let hex = |message: &&[u8]| message.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let arguments = messages.iter().flat_map(|message| ["--decode".to_owned(), hex(message)]);
    let settings = ["exabgp.log.destination=stdout", "exabgp.api.cli=false", PROGRAM, &path];
    let output = Command::new("env").args(settings).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let routes = |line: &str| {
        let mut table = BTreeMap::new();
        take(&mut table, line);
        table.into_values().collect()
    };
    text.lines().filter_map(|line| line.split_once("update json ")).map(|(_, json)| routes(json)).collect()
}

fn conf(ask: &Ask, relay: &str) -> String {
    let process = format!("process relay {{ run /bin/sh {relay}; encoder json; }}\n");
    let peers = ask.peers.iter().map(|peer| session(ask, *peer));
    process + &peers.collect::<String>()
}

fn session(ask: &Ask, peer: u8) -> String {
    let routes = |family: Family| {
        let own = ask.routes.iter().filter(|route| route.prefix.family() == family);
        own.map(|route| format!("unicast {} {};", route.prefix, sets(ask, route))).collect::<String>()
    };
    let either = |wanted: bool| if wanted { "enable" } else { "disable" };
    let line = |wanted: bool, text: &str| if wanted { format!("  {text}\n") } else { String::new() };
    [
        format!("neighbor {} {{\n  local-address {};\n  router-id 192.0.2.2;\n", ask.address(peer), ask.address(2)),
        format!("  local-as {};\n  peer-as {};\n  hold-time {};\n", ask.asn, ask.peer_as, ask.hold),
        ask.password.map_or(String::new(), |key| format!("  md5-password \"{key}\";\n  md5-base64 false;\n")),
        line(ask.security, "outgoing-ttl 255;\n  incoming-ttl 255;"),
        "  family { ipv4 unicast; ipv6 unicast; }\n".to_owned(),
        line(ask.extended_next_hop, "nexthop { ipv4 unicast ipv6; }"),
        format!("  capability {{ asn4 {}; route-refresh enable; extended-message enable; ", either(!ask.two_byte_as)),
        if ask.graceful { "graceful-restart 120; " } else { "graceful-restart disable; " }.to_owned(),
        if ask.add_path { "add-path send/receive; " } else { "add-path disable; " }.to_owned(),
        format!("nexthop {}; }}\n", either(ask.extended_next_hop)),
        "  api { processes [ relay ]; neighbor-changes; receive { parsed; update; refresh; } }\n".to_owned(),
        format!("  announce {{ ipv4 {{ {} }} ipv6 {{ {} }} }}\n}}\n", routes(Family::V4), routes(Family::V6)),
    ]
    .concat()
}

/// Attributes. A path that is given is sent as it is.
fn sets(ask: &Ask, route: &Route) -> String {
    let own = Some(ask.asn).filter(|_| !ask.internal() && !route.as_path.is_empty());
    let list = |name: &str, all: Vec<String>| {
        if all.is_empty() { String::new() } else { format!(" {name} [ {} ]", all.join(" ")) }
    };
    let value = |name: &str, value: Option<u32>| value.map_or(String::new(), |value| format!(" {name} {value}"));
    [
        format!("next-hop {}", route.next_hop),
        list("as-path", own.iter().chain(&route.as_path).map(u32::to_string).collect()),
        value("med", route.med),
        value("local-preference", route.local_pref),
        list("community", route.communities.iter().map(|one| community_words(*one)).collect()),
        list("extended-community", route.extended.iter().map(|one| format!("target:{}", target_words(*one))).collect()),
        list("large-community", route.large.iter().map(ToString::to_string).collect()),
    ]
    .concat()
}

/// A path: who sent it, prefix, identifier.
type Key = (String, String, String);

/// Takes a message into the table. What it tells of ROUTE-REFRESH is no JSON.
fn take(table: &mut BTreeMap<Key, Route>, line: &str) {
    let Ok(message) = serde_json::from_str::<Value>(line) else { return };
    let peer = message["neighbor"]["address"]["peer"].as_str().unwrap_or("").to_owned();
    if message["type"] == "state" && message["neighbor"]["state"] == "down" {
        table.retain(|key, _| key.0 != peer);
    }
    let update = &message["neighbor"]["message"]["update"];
    let key = |one: &Value| {
        let part = |name: &str| one[name].as_str().unwrap_or("").to_owned();
        (peer.clone(), part("nlri"), part("path-information"))
    };
    for one in update["withdraw"].as_object().into_iter().flat_map(|all| all.values()) {
        one.as_array().unwrap().iter().for_each(|one| drop(table.remove(&key(one))));
    }
    let announced = update["announce"].as_object().into_iter().flat_map(|all| all.values());
    for (hop, all) in announced.filter_map(Value::as_object).flatten() {
        for one in all.as_array().unwrap() {
            let key = key(one);
            let route = read(&key.1, hop, &update["attribute"]);
            table.insert(key, route);
        }
    }
}

fn read(prefix: &str, hop: &str, attributes: &Value) -> Route {
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let one = |name: &str| attributes[name].as_u64().map(|value| u32::try_from(value).unwrap());
    let all = |name: &str| attributes[name].as_array().into_iter().flatten();
    let id = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let parts = |value: &Value| value.as_array().unwrap().iter().map(number).collect::<Vec<u32>>();
    Route {
        as_path: all("as-path").map(number).collect(),
        med: one("med"),
        local_pref: one("local-preference"),
        communities: all("community").map(parts).map(|one| one[0] << 16 | one[1]).collect(),
        extended: all("extended-community").map(|one| one["value"].as_u64().unwrap()).collect(),
        large: all("large-community").map(parts).map(|one| LargeCommunity(one[0], one[1], one[2])).collect(),
        originator: attributes.get("originator-id").map(id),
        clusters: all("cluster-list").map(id).collect(),
        ..Route::to(prefix, hop)
    }
}
