//! The form of `iptables-save` and `iptables-restore`.
//!
//! Rules are kept without their chain, without comments, and without what the protocol implies (`-m tcp`): so the same rule reads the same
//! from either backend. A comment says whose a rule is.

use std::fmt::Write as _;
use std::sync::Arc;

use ripstop_netmodel::{FORWARD_CHAIN, IptablesTable};
use ripstop_types::Owner;

use super::is_ours;
use super::state::{Chain, Jump, Place, Rule, State, Touched, root_of};

/// What comments of ours begin with; the owner follows.
const MARK: &str = "ripstop ";
/// Chains of the kernel's in which jumps of ours may stand.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// What of ours is in what a program has saved.
///
/// # Errors
/// A line that is not understood.
pub(super) fn read(saved: &str) -> Result<State, String> {
    let mut state = State::default();
    let (mut table, mut is_late) = (None, false);
    for line in saved.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            table = IptablesTable::BOTH.into_iter().find(|table| table.as_str() == name);
            is_late = false;
            continue;
        }
        let Some(table) = table else { continue };
        if let Some(rest) = line.strip_prefix(':') {
            let chain = rest.split(' ').next().unwrap_or_default();
            if is_ours(chain) {
                // A branch is there for what is in it.
                let is_branch = root_of(chain).is_some_and(|root| root != chain);
                state.chains.entry((table, chain.into())).or_default().whole = (!is_branch).then(Vec::new);
            }
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let (chain, written) = rest.split_once(' ').unwrap_or((rest, ""));
            let (text, owner) = plain(written).ok_or_else(|| format!("this is not understood: {line}"))?;
            let rule = Rule { text: text.into(), owner };
            let place: Place = (table, chain.into());
            if is_ours(chain) {
                add(&mut state, place, rule);
            } else if BUILT_IN.contains(&chain) {
                let to = target(&rule.text).1.split(' ').nth(1).unwrap_or_default();
                if is_ours(to) {
                    let is_late = is_late && chain == "FORWARD";
                    state.jumps.entry(place).or_default().push(Jump { rule, written: written.to_owned(), is_late });
                } else if chain == "FORWARD" {
                    // The jump by which packets from and to links of ours pass.
                    is_late |= matches!(to, FORWARD_CHAIN | "DOCKER-USER");
                }
            }
        }
    }
    Ok(state)
}

fn add(state: &mut State, place: Place, rule: Rule) {
    let is_of_many = root_of(&place.1).is_some();
    let chain: &mut Chain = state.chains.entry(place).or_default();
    if is_of_many {
        let (of, target) = target(&rule.text);
        chain.entries.insert(of.into(), Rule { text: target.into(), owner: rule.owner });
    } else {
        chain.whole.get_or_insert_default().push(rule);
    }
}

/// What a packet must be like, and what becomes of it.
fn target(text: &str) -> (&str, &str) {
    let at = [" -j ", " -g "].into_iter().filter_map(|word| text.find(word)).min();
    match at {
        Some(at) => (&text[..at], &text[at + 1..]),
        None if text.starts_with("-j ") || text.starts_with("-g ") => ("", text),
        None => (text, ""),
    }
}

/// A rule without comment and what the protocol implies, and whose it is.
fn plain(written: &str) -> Option<(String, Option<Owner>)> {
    let words = words(written)?;
    let (mut text, mut owner) = (Vec::<String>::new(), None);
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-m" => match words.next()?.as_str() {
                "tcp" | "udp" | "sctp" => {}
                "comment" => {
                    words.next_if(|word| word == "--comment")?;
                    owner = words.next()?.strip_prefix(MARK).map(Owner::from_mark);
                }
                name => text.extend([word, name.to_owned()]),
            },
            "--probability" => {
                let part: f64 = words.next()?.parse().ok()?;
                text.extend([word, format!("{part:.11}")]);
            }
            _ => text.push(word),
        }
    }
    Some((text.join(" "), owner))
}

/// Words as a shell would part them, as far as these programs write them.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' => {}
            '"' => {
                let mut word = String::new();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => word.push(chars.next()?),
                        c => word.push(c),
                    }
                }
                words.push(word);
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| *c != ' ') {
                    word.push(c);
                }
                words.push(word);
            }
        }
    }
    Some(words)
}

/// A rule with its comment. `of` is what a packet must be like, where the rule is the target of an entry.
pub(super) fn written(rule: &Rule, of: Option<&str>) -> String {
    let (of, target) = match of {
        Some(of) => (of, &*rule.text),
        None => target(&rule.text),
    };
    let mut text = String::new();
    if !of.is_empty() {
        text.push_str(of);
        text.push(' ');
    }
    if let Some(owner) = &rule.owner {
        // Longest comment: 255 bytes, which no owner comes near.
        let owner: String = owner.as_str().chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
        let _ = write!(text, "-m comment --comment \"{MARK}{owner}\" ");
    }
    text.push_str(target);
    text
}

/// So many chains are made at once: programs of the backend nft take longer for each the more a run brings.
const AT_ONCE: usize = 2_000;

/// Where many chains come that lead to nothing but each other and what is there: inputs that make them first, each in one table. Nothing
/// leads to them yet. What they write is touched no more.
pub(crate) fn parts(state: &State, touched: &mut Touched) -> Vec<String> {
    let mut parts = Vec::new();
    if touched.made.len() <= AT_ONCE {
        return parts;
    }
    // Endpoints are drawn by chains that lead nowhere else, and those to which the ways into Services lead.
    for _ in 0..2 {
        let is_there = |table: IptablesTable, rule: &Rule| {
            let to = target(&rule.text).1.split(' ').nth(1).unwrap_or_default();
            !is_ours(to) || root_of(to).is_none() && !touched.made.contains(&(table, to.into()))
        };
        let is_ready = |place: &&Place| {
            let rules = state.chains.get(*place).and_then(|chain| chain.whole.as_ref());
            root_of(&place.1).is_none() && rules.is_some_and(|rules| rules.iter().all(|rule| is_there(place.0, rule)))
        };
        let ready: Vec<Place> = touched.made.iter().filter(is_ready).cloned().collect();
        for table in IptablesTable::BOTH {
            let of_table: Vec<&Place> = ready.iter().filter(|place| place.0 == table).collect();
            for some in of_table.chunks(AT_ONCE) {
                let chains = some.iter().map(|place| (*place).clone()).collect();
                parts.push(input(state, &Touched { chains, ..Touched::default() }).0);
            }
        }
        for place in ready {
            touched.made.remove(&place);
            touched.chains.remove(&place);
        }
    }
    parts
}

/// The input by which the kernel comes to have what was touched, and how many tables are written; each is one transaction.
pub(crate) fn input(state: &State, touched: &Touched) -> (String, u32) {
    let (mut text, mut tables) = (String::new(), 0);
    for table in IptablesTable::BOTH {
        let of_table = |place: &&Place| place.0 == table;
        let chains: Vec<&Place> = touched.chains.iter().filter(of_table).collect();
        let gone: Vec<(&Place, &String)> = touched
            .gone
            .iter()
            .filter(|(place, _)| place.0 == table)
            .flat_map(|(place, gone)| gone.iter().map(move |written| (place, written)))
            .collect();
        let jumps: Vec<&Place> = touched.jumps.iter().filter(of_table).collect();
        if chains.is_empty() && gone.is_empty() && jumps.is_empty() {
            continue;
        }
        tables += 1;
        let _ = writeln!(text, "*{}", table.as_str());
        for (_, chain) in &chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for ((_, chain), written) in gone {
            let _ = writeln!(text, "-D {chain} {written}");
        }
        for place in &chains {
            if let Some(chain) = state.chains.get(*place) {
                rules(&mut text, &place.1, chain);
            }
        }
        for place in jumps {
            for jump in state.jumps.get(place).into_iter().flatten() {
                let _ = writeln!(text, "-I {} 1 {}", place.1, jump.written);
            }
        }
        for place in chains.into_iter().filter(|place| !state.chains.contains_key(*place)) {
            let _ = writeln!(text, "-X {}", place.1);
        }
        text.push_str("COMMIT\n");
    }
    (text, tables)
}

fn rules(text: &mut String, name: &Arc<str>, chain: &Chain) {
    // One comment says whose a chain is.
    for (at, rule) in chain.whole.iter().flatten().enumerate() {
        let rule = if at == 0 { rule.clone() } else { Rule { owner: None, ..rule.clone() } };
        let _ = writeln!(text, "-A {name} {}", written(&rule, None));
    }
    let (last, others): (Vec<_>, Vec<_>) = chain.entries.iter().partition(|(of, _)| of.is_empty());
    for (of, rule) in others.into_iter().chain(last) {
        let _ = writeln!(text, "-A {name} {}", written(rule, Some(of)));
    }
}
