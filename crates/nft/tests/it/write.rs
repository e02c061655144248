//! Tables written by netlink are what `nft` lists, and what is observed again.

use ripstop_nft::encode::{Batch, digest};
use ripstop_nft::model::Table;
use ripstop_nft::text;

use crate::fixture::{Elements, actions, elements, matches, others};
use crate::kernel::{Socket, in_namespace, listed, run};

fn written_and_listed(table: &Table, elements: &Elements) {
    let own: Elements = elements
        .iter()
        .filter(|(key, _)| key.family == table.family && key.table == table.name)
        .map(|(key, body)| (key.clone(), body.clone()))
        .collect();
    let mut socket = Socket::open();
    let mut batch = Batch::new();
    batch.add_table(table).unwrap();
    batch.add_elements(&own).unwrap();
    socket.apply(batch).unwrap();

    let ours = sorted_concatenations(&text::table(table, &own));
    let theirs = sorted_concatenations(&listed(table.family.as_str(), table.name.as_str()));
    assert!(ours == theirs, "{}", difference(&ours, &theirs));

    let seen = socket.observe(table.family, &table.name).unwrap();
    assert_eq!(seen.digest, Some(digest(table)));
    assert!(seen.intact, "{seen:#?}");
    assert_eq!(seen.elements, own);
    assert_eq!(seen.foreign_elements, 0);
}

/// nft orders concatenations with ranges by what happens to lie in memory: puts their elements, one a line, in order.
fn sorted_concatenations(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut open: Option<Vec<String>> = None;
    for line in text.lines() {
        let first = line.trim_start().strip_prefix("elements = { ");
        if first.is_some_and(|element| element.contains(" . ")) {
            open = Some(Vec::new());
        }
        let Some(elements) = &mut open else {
            out.push(line.to_owned());
            continue;
        };
        let element = first.unwrap_or(line.trim_start());
        elements.push(element.trim_end_matches([',', ' ', '}']).to_owned());
        if line.ends_with('}') {
            elements.sort();
            out.append(elements);
            open = None;
        }
    }
    out.join("\n")
}

/// Lines that stand in one text only.
pub fn difference(ours: &str, theirs: &str) -> String {
    let mut out = String::new();
    for (ours, theirs) in ours.lines().zip(theirs.lines()).filter(|(a, b)| a != b).take(20) {
        out.push_str(&format!("ours   {ours}\ntheirs {theirs}\n"));
    }
    format!("{out}{} and {} lines", ours.lines().count(), theirs.lines().count())
}

#[test]
fn every_match_is_listed_as_we_print_it() {
    in_namespace(|| written_and_listed(&matches(), &elements()));
}

#[test]
fn every_action_is_listed_as_we_print_it() {
    in_namespace(|| written_and_listed(&actions(), &elements()));
}

#[test]
fn every_family_is_listed_as_we_print_it() {
    in_namespace(|| {
        run("ip", &["link", "set", "lo", "up"]);
        for table in others() {
            written_and_listed(&table, &Elements::new());
        }
    });
}

#[test]
fn nft_reads_what_we_print() {
    in_namespace(|| {
        let mut tables = others();
        tables.extend([matches(), actions()]);
        for table in tables {
            let text = text::table(&table, &elements());
            let path = format!("/tmp/ripstop-nft-{}-{}.nft", std::process::id(), table.name);
            std::fs::write(&path, &text).unwrap();
            let out = std::process::Command::new("nft").args(["-f", &path]).output().unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(out.status.success(), "{}\n{text}", String::from_utf8_lossy(&out.stderr));
            let text = sorted_concatenations(&text);
            let theirs = sorted_concatenations(&listed(table.family.as_str(), table.name.as_str()));
            assert!(text == theirs, "{}", difference(&text, &theirs));
            // It reads alike, but it is not ours: it carries no digest.
            let seen = Socket::open().observe(table.family, &table.name).unwrap();
            assert_eq!((seen.digest, seen.intact), (None, false));
        }
    });
}
