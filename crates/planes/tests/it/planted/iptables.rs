//! Faults in what iptables is given, with real packets.
//!
//! Rules are told apart by their form: what is a rule's or an entry's text without addresses, ports and the letters of a chain's name. All
//! of one form are spoilt at once, in a chain or in all that are of a kind.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ripstop_conformance::services::cases;
use ripstop_netmodel::{
    Entry, IPTABLES_PREFIX, IptablesBackend, IptablesRules, IptablesTable, Model, Object, Resource,
};
use ripstop_planes::{Compiler, wanted};
use ripstop_types::Family;

use super::{Fault, Search, sample};

const COMPILER: Compiler = Compiler::Iptables(IptablesBackend::Nft);

/// Faults in the normal tier.
const SOME: usize = 70;

/// Faults that no packet shows: what the name begins with, with or without the family, and why.
const UNSEEN: &[(&str, &str)] = &[
    (
        "nat RIPSTOP-MASQUERADE: no -j MARK",
        "the mark that stays is of a packet that leaves, where a tunnel would look at it",
    ),
    ("nat RIPSTOP-LEAVING: from anywhere", "the chain that it leads to asks for the source itself"),
    ("ip6 nat RIPSTOP-EXT-_: no -m addrtype --src-type LOCAL -j MARK", OWN),
    ("ip6 nat RIPSTOP-EXT-_: another mark: -m addrtype --src-type LOCAL", OWN),
];

const OWN: &str = "the node's own packets have an address of the node without it as well; 127.0.0.1 has none over IPv6";

/// Where a fault shows, by a word of its name; else it shows nearly everywhere.
const LIKELY: &[(&str, &[&str])] = &[
    ("FEN-", &["source-ranges"]),
    ("HAIRPIN", &["hairpin"]),
    ("INVALID", &["invalid"]),
    ("recent", &["affinity"]),
    ("CLUSTER-IPS", &["reject"]),
    ("OTHERS", &["reject", "proxy-name"]),
    ("MARK-CLUSTER", &["masquerade"]),
    ("MASQUERADE", &["masquerade", "node-port"]),
    ("LEAVING", &["masquerade", "hairpin", "node-port"]),
    ("OWN-", &["external-policy", "internal-policy"]),
    ("addrtype", &["external-policy"]),
    ("EXT-", &["node-port", "external-policy", "load-balancer"]),
    ("sctp", &["cluster-ip/sctp", "cluster-ip", "node-port"]),
    ("udp", &["cluster-ip/udp", "cluster-ip", "node-port"]),
    ("PORTS", &["node-port", "external-policy"]),
    ("filter", &["reject", "external-policy", "internal-policy"]),
    ("", &["cluster-ip"]),
];

fn likely(fault: &Fault) -> &'static [&'static str] {
    LIKELY.iter().find(|(word, _)| fault.name.contains(word)).map_or(&[], |(_, groups)| groups)
}

/// A chain, or a kind of chains.
type Chain = (Family, IptablesTable, String);

/// Of a kind of chains the name without its letters.
fn kind(chain: &str) -> String {
    match chain.rsplit_once('-') {
        Some((kind, letters)) if letters.len() == 16 && chain.starts_with(IPTABLES_PREFIX) => format!("{kind}-_"),
        _ => chain.to_owned(),
    }
}

/// A rule's form.
fn form(line: &str) -> String {
    const VALUES: [&str; 9] =
        ["-d", "-s", "-i", "--dport", "--probability", "--seconds", "--mask", "--name", "--to-destination"];
    let mut before = "";
    let words = line.split(' ').filter(|word| !word.is_empty()).map(|word| {
        let is_value = VALUES.contains(&before);
        before = word;
        if is_value { "_".to_owned() } else { kind(word) }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The lines of an object: what an entry is for comes first.
fn lines(rules: &IptablesRules) -> impl Iterator<Item = String> + '_ {
    let entry = rules.key.entry.as_deref().unwrap_or_default();
    rules.rules.iter().map(move |rule| format!("{entry} {rule}"))
}

/// What becomes of the text of a rule, or of what an entry is for.
type Change = fn(&str, Family) -> String;

const CHANGES: [(&str, Change); 11] = [
    ("another port", |text, _| at_another(text, |to| SocketAddr::new(to.ip(), to.port().wrapping_add(1)))),
    ("another address", |text, _| at_another(text, |to| SocketAddr::new(next(to.ip()), to.port()))),
    ("at another port", |text, _| {
        let port = value(text, "--dport ").and_then(|port| port.parse::<u16>().ok());
        port.map_or_else(
            || text.into(),
            |port| text.replace(&format!("--dport {port}"), &format!("--dport {}", port.wrapping_add(1))),
        )
    }),
    ("the first alone", |text, _| without(text, "-m statistic --mode random --probability ")),
    ("from anywhere", |text, _| without(text, "-s ")),
    ("refuses", |text, family| text.replace("-j DROP", refusal(family))),
    ("drops", |text, family| text.replace(refusal(family), "-j DROP")),
    ("drops what returns", |text, _| text.replace("-j RETURN", "-j DROP")),
    ("another mark", |text, _| text.replace("--set-xmark 0x1000/0x1000", "--set-xmark 0x2000/0x2000")),
    ("leads nowhere", |text, _| {
        text.split_once("-g ").map_or_else(|| text.into(), |(head, _)| format!("{head}-j ACCEPT"))
    }),
    ("always another list", |text, _| text.replace("--rsource", "--rdest")),
];

fn refusal(family: Family) -> &'static str {
    match family {
        Family::V4 => "-j REJECT --reject-with icmp-port-unreachable",
        Family::V6 => "-j REJECT --reject-with icmp6-port-unreachable",
    }
}

fn value<'a>(text: &'a str, option: &str) -> Option<&'a str> {
    text.split_once(option)?.1.split(' ').next()
}

/// The text without an option and its value.
fn without(text: &str, option: &str) -> String {
    value(text, option).map_or_else(|| text.into(), |value| text.replacen(&format!("{option}{value} "), "", 1))
}

fn at_another(text: &str, change: impl Fn(SocketAddr) -> SocketAddr) -> String {
    const TO: &str = "--to-destination ";
    match value(text, TO).and_then(|to| Some((to, to.parse().ok()?))) {
        Some((old, to)) => text.replace(&format!("{TO}{old}"), &format!("{TO}{}", change(to))),
        None => text.into(),
    }
}

fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + 1).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() + 1).into(),
    }
}

/// Puts other rules in the place of a chain's; an object without any is no more, but for a chain, which stays.
fn spoil(model: &mut Model, chain: &Chain, change: impl Fn(IptablesRules) -> Option<IptablesRules>) {
    let of = |rules: &IptablesRules| {
        (rules.key.family, rules.key.table) == (chain.0, chain.1) && kind(&rules.key.chain) == chain.2
    };
    let entries: Vec<Entry> = model.iter().map(|(_, entry)| Entry::clone(entry)).collect();
    for entry in entries {
        let Object::IptablesRules(rules) = &entry.object else { continue };
        if !of(rules) {
            continue;
        }
        let Some(changed) = change(rules.clone()) else { continue };
        model.remove(&entry.object.key());
        let is_chain = changed.key.entry.is_none() && changed.key.chain.starts_with(IPTABLES_PREFIX);
        if !changed.rules.is_empty() || is_chain {
            model.insert(changed, entry.owner.clone());
        }
    }
}

/// All forms of rules that are ever wanted, with one of each.
fn forms() -> BTreeMap<Chain, BTreeMap<String, String>> {
    let mut forms: BTreeMap<Chain, BTreeMap<String, String>> = BTreeMap::new();
    for step in cases().unwrap().iter().flat_map(|case| &case.steps) {
        let Ok(model) = wanted(COMPILER, &step.world, &Model::new()) else { continue };
        for (_, entry) in model.iter() {
            let Object::IptablesRules(rules) = &entry.object else { continue };
            let chain = (rules.key.family, rules.key.table, kind(&rules.key.chain));
            let known = forms.entry(chain).or_default();
            known.extend(lines(rules).map(|line| (form(&line), line)));
        }
    }
    forms
}

fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for (chain, forms) in forms() {
        let word = if chain.0 == Family::V4 { "ip" } else { "ip6" };
        let name = |what: &str| format!("{word} {} {}: {what}", chain.1.as_str(), chain.2);
        for (form, line) in &forms {
            faults.push(left_out(name(&format!("no {form}")), &chain, form));
            let changes = CHANGES.iter().filter(|(_, change)| {
                let after = change(line, chain.0);
                // Its table `nat` drops nothing.
                after != *line && (chain.1 == IptablesTable::Filter || !after.contains("-j DROP"))
            });
            faults
                .extend(changes.map(|(what, change)| changed(name(&format!("{what}: {form}")), &chain, form, *change)));
        }
        if forms.len() > 1 && chain.2.starts_with(IPTABLES_PREFIX) {
            let of = chain.clone();
            faults.push(Fault::new(name("empty"), move |model| {
                spoil(model, &of, |rules| Some(IptablesRules { rules: Vec::new(), ..rules }));
            }));
        }
    }
    faults
}

fn left_out(name: String, chain: &Chain, gone: &str) -> Fault {
    let (chain, gone) = (chain.clone(), gone.to_owned());
    Fault::new(name, move |model| {
        spoil(model, &chain, |rules| {
            let is_kept: Vec<bool> = lines(&rules).map(|line| form(&line) != gone).collect();
            if is_kept.iter().all(|kept| *kept) {
                return None;
            }
            let kept = rules.rules.iter().zip(is_kept).filter(|(_, kept)| *kept).map(|(rule, _)| rule.clone());
            Some(IptablesRules { rules: kept.collect(), ..rules })
        });
    })
}

fn changed(name: String, chain: &Chain, of: &str, change: Change) -> Fault {
    let (chain, of) = (chain.clone(), of.to_owned());
    Fault::new(name, move |model| {
        spoil(model, &chain, |mut rules| {
            let is_of: Vec<bool> = lines(&rules).map(|line| form(&line) == of).collect();
            if is_of.iter().all(|is| !is) {
                return None;
            }
            let family = rules.key.family;
            for (rule, _) in rules.rules.iter_mut().zip(is_of).filter(|(_, is)| *is) {
                *rule = change(rule, family).into();
            }
            let entry = rules.key.entry.take();
            rules.key.entry = entry.map(|entry| Arc::from(change(&entry, family).trim_end()));
            Some(rules)
        });
    })
}

#[test]
fn each_fault_of_iptables_is_found_by_packets() {
    let Some(mut search) = Search::by(COMPILER) else { return };
    let faults = faults();
    assert!(faults.len() >= 50, "{}", faults.len());
    search.judge(&sample(faults, SOME, UNSEEN), UNSEEN, likely);
}

#[test]
fn a_form_has_no_values_and_says_the_kind_of_chain() {
    assert_eq!(kind("RIPSTOP-ALL-ABCDEFGHIJKLMNOP"), "RIPSTOP-ALL-_");
    assert_eq!(kind("RIPSTOP-CLUSTER-IPS"), "RIPSTOP-CLUSTER-IPS");
    let line = "-d 10.96.0.1/32 -p tcp --dport 80 -g RIPSTOP-SVC-ABCDEFGHIJKLMNOP";
    assert_eq!(form(line), "-d _ -p tcp --dport _ -g RIPSTOP-SVC-_");
    assert_eq!(CHANGES[2].1(line, Family::V4), line.replace("80", "81"));
    assert_eq!(without("-s 10.0.0.0/8 -j X", "-s "), "-j X");
    assert_eq!(
        CHANGES[0].1("-j DNAT --to-destination [fd00::1]:80", Family::V6),
        "-j DNAT --to-destination [fd00::1]:81"
    );
}
