//! BIRD.

use ripstop_types::Family;

use super::route::{Route, community, community_words, large, target, target_words};
use super::{Ask, At, Program};
use crate::programs::{bird, has_bird};
use crate::space::Daemon;

pub struct Bird;

impl Bird {
    /// Says something to it. It fails where there is no such route, and prints that.
    fn say(at: &At<'_>, words: &str) -> String {
        let control = at.folder.file("ctl");
        let words: Vec<&str> = ["-s", &control].into_iter().chain(words.split(' ')).collect();
        let output = at.space.command("birdc", &words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn write(at: &At<'_>, ask: &Ask) {
        std::fs::write(at.folder.file("bird.conf"), conf(ask)).unwrap();
    }
}

impl Program for Bird {
    fn installed(&self) -> bool {
        has_bird()
    }

    fn start(&self, at: &At<'_>, ask: &Ask) -> Vec<Daemon> {
        vec![bird(at.space, &at.folder, &conf(ask), if ask.again { &["-R"] } else { &[] })]
    }

    fn table(&self, at: &At<'_>, _: &Ask) -> Vec<Route> {
        parse(&Self::say(at, "show route all where source = RTS_BGP"))
    }

    fn announce(&self, at: &At<'_>, ask: &Ask, route: &Route) {
        let mut ask = ask.clone();
        ask.routes.retain(|one| one.prefix != route.prefix);
        ask.routes.push(route.clone());
        Self::write(at, &ask);
        Self::say(at, "configure");
    }

    fn withdraw(&self, at: &At<'_>, ask: &Ask, _: &Route) {
        Self::write(at, ask);
        Self::say(at, "configure");
    }

    fn refresh(&self, at: &At<'_>, ask: &Ask) {
        ask.peers.iter().for_each(|peer| drop(Self::say(at, &format!("reload in p{peer}"))));
    }

    fn shut_down(&self, at: &At<'_>, ask: &Ask, why: &str) {
        let control = at.folder.file("ctl");
        let name = format!("p{}", ask.peers[0]);
        at.space.run("birdc", &["-s", &control, "disable", &name, &format!("\"{why}\"")]);
    }

    fn updates(&self, at: &At<'_>, ask: &Ask) -> u64 {
        let text = Self::say(at, &format!("show protocols all p{}", ask.peers[0]));
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Import updates:"));
        lines.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum()
    }

    fn log(&self, at: &At<'_>) -> String {
        at.log("log")
    }
}

fn conf(ask: &Ask) -> String {
    let routes = |family: Family| {
        let own = ask.routes.iter().filter(|route| route.prefix.family() == family);
        own.map(|route| format!("route {} blackhole {{ {} }};", route.prefix, sets(route))).collect::<String>()
    };
    [
        "log stderr all;\nrouter id 192.0.2.2;\nprotocol device {}\nprotocol direct { ipv4; ipv6; }\n".to_owned(),
        format!("protocol static s4 {{ ipv4; {} }}\n", routes(Family::V4)),
        format!("protocol static s6 {{ ipv6; {} }}\n", routes(Family::V6)),
        "protocol bfd { interface \"two0\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 4; }; }\n"
            .to_owned(),
        ask.peers.iter().map(|peer| session(ask, *peer)).collect(),
    ]
    .concat()
}

fn session(ask: &Ask, peer: u8) -> String {
    let line = |wanted: bool, text: &str| if wanted { format!("  {text};\n") } else { String::new() };
    let source = if ask.reflects { "source = RTS_STATIC || source = RTS_BGP" } else { "source = RTS_STATIC" };
    let channel = |family: &str, other: &str| {
        let mut text = format!("import all; export where {source};");
        if ask.extended_next_hop {
            text += " extended next hop on;";
        } else if !ask.address(2).contains(if family == "ipv4" { '.' } else { ':' }) {
            // It has no other address to tell than that of the session.
            text += &format!(" next hop address {other};");
        }
        if ask.add_path {
            text += " add paths on;";
        }
        if let Some(limit) = ask.limit.filter(|_| family == "ipv4") {
            text += &format!(" import limit {limit} action disable;");
        }
        format!("  {family} {{ {text} }};\n")
    };
    let neighbor = if ask.listens {
        format!("neighbor range {} as {};\n  dynamic name \"d\"", ask.link(), ask.peer_as)
    } else {
        format!("neighbor {} as {}", ask.address(peer), ask.peer_as)
    };
    [
        format!("protocol bgp p{peer} {{\n  local {} as {};\n  {neighbor};\n", ask.address(2), ask.asn),
        format!("  hold time {};\n  connect retry time 1;\n  error wait time 1, 2;\n", ask.hold),
        ask.password.map_or(String::new(), |key| format!("  password \"{key}\";\n")),
        line(true, if ask.graceful { "graceful restart on" } else { "graceful restart off" }),
        line(ask.bfd, "bfd on"),
        line(ask.security, "ttl security on"),
        line(ask.reflects, "rr client"),
        line(ask.two_byte_as, "enable as4 off"),
        channel("ipv4", "192.0.2.2"),
        channel("ipv6", "2001:db8::2"),
        "}\n".to_owned(),
    ]
    .concat()
}

fn sets(route: &Route) -> String {
    let path = route.as_path.iter().rev().map(|asn| format!("bgp_path.prepend({asn});"));
    let med = route.med.map(|med| format!("bgp_med = {med};"));
    let preference = route.local_pref.map(|value| format!("bgp_local_pref = {value};"));
    let pair = |text: String| text.replace(':', ",");
    let standard = route.communities.iter().map(|one| format!("bgp_community.add(({}));", pair(community_words(*one))));
    let extended = route.extended.iter();
    let extended = extended.map(|one| format!("bgp_ext_community.add((rt,{}));", pair(target_words(*one))));
    let large = route.large.iter();
    let large = large.map(|one| format!("bgp_large_community.add(({},{},{}));", one.0, one.1, one.2));
    path.chain(med).chain(preference).chain(standard).chain(extended).chain(large).collect()
}

/// Reads what `show route all` prints: a prefix, or blanks for one more path to it, begins a path; its attributes are indented.
fn parse(text: &str) -> Vec<Route> {
    let mut all: Vec<Route> = Vec::new();
    for line in text.lines() {
        if let Some(attribute) = line.strip_prefix("\tBGP.") {
            let (name, value) = attribute.split_once(':').unwrap();
            read(all.last_mut().unwrap(), name, value.trim());
        } else if line.contains(" [") && !line.starts_with('\t') {
            let first = line.split_whitespace().next().unwrap();
            let prefix = if line.starts_with(' ') { all.last().unwrap().prefix.to_string() } else { first.to_owned() };
            all.push(Route::to(&prefix, "0.0.0.0"));
        }
    }
    all
}

fn read(route: &mut Route, name: &str, value: &str) {
    // Lists of (1,2) (3,4), or with blanks behind the commas.
    let members = || {
        let all = value.split(')').filter_map(|one| one.split_once('(')).map(|(_, one)| one.replace(", ", ":"));
        all.map(|one| one.replace(',', ":")).collect::<Vec<_>>()
    };
    match name {
        "as_path" => route.as_path = value.split_whitespace().map(|asn| asn.parse().unwrap()).collect(),
        // A link-local address may stand behind it.
        "next_hop" => route.next_hop = value.split_whitespace().next().unwrap().parse().unwrap(),
        "med" => route.med = Some(value.parse().unwrap()),
        "local_pref" => route.local_pref = Some(value.parse().unwrap()),
        "community" => route.communities = members().iter().map(|one| community(one)).collect(),
        "ext_community" => {
            let one = |one: &String| target(one.strip_prefix("rt:").unwrap_or_else(|| panic!("no target: {one}")));
            route.extended = members().iter().map(one).collect();
        }
        "large_community" => route.large = members().iter().map(|one| large(one)).collect(),
        "originator_id" => route.originator = Some(value.parse().unwrap()),
        "cluster_list" => route.clusters = value.split_whitespace().map(|one| one.parse().unwrap()).collect(),
        _ => {}
    }
}
