//! The direction of the design, as a table: which crate may depend on which, and which outside crates stay with one owner.
//!
//! Judged are normal and build dependencies. Tests may use what they like: they ship nowhere.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::Outcome;
use crate::workspace::{self, Package, Packages, Workspace};

/// One crate of the workspace: where it lies under `crates/`, its package name, and the packages of the workspace it may
/// depend on directly.
struct Row {
    folder: &'static str,
    package: &'static str,
    may_use: &'static [&'static str],
}

const fn row(folder: &'static str, package: &'static str, may_use: &'static [&'static str]) -> Row {
    Row { folder, package, may_use }
}

/// Crates without a clock, IO or randomness, each below what it uses.
const PURE: &[Row] = &[
    row("types", "ripstop-types", &[]),
    row("nft", "ripstop-nft", &["ripstop-types"]),
    row("netmodel", "ripstop-netmodel", &["ripstop-types", "ripstop-nft"]),
    row("cni", "ripstop-cni-spec", &["ripstop-types"]),
    row("objects", "ripstop-objects", &["ripstop-types"]),
    row("ipam", "ripstop-ipam", &["ripstop-types", "ripstop-objects"]),
    row("probe", "ripstop-probe", &["ripstop-types"]),
    row("bfd", "ripstop-bfd", &[]),
    row("election", "ripstop-election", &["ripstop-types"]),
    row("bgp", "ripstop-bgp", &["ripstop-types"]),
    row(
        "tables",
        "ripstop-tables",
        &[
            "ripstop-types",
            "ripstop-nft",
            "ripstop-netmodel",
            "ripstop-cni-spec",
            "ripstop-objects",
            "ripstop-ipam",
            "ripstop-probe",
        ],
    ),
    row(
        "fabric",
        "ripstop-fabric",
        &["ripstop-types", "ripstop-nft", "ripstop-netmodel", "ripstop-objects", "ripstop-ipam", "ripstop-tables"],
    ),
    row("services", "ripstop-services", &["ripstop-types", "ripstop-objects", "ripstop-tables"]),
    row("policy", "ripstop-policy", &["ripstop-types", "ripstop-objects"]),
    row(
        "desired",
        "ripstop-desired",
        &[
            "ripstop-types",
            "ripstop-nft",
            "ripstop-netmodel",
            "ripstop-objects",
            "ripstop-ipam",
            "ripstop-tables",
            "ripstop-fabric",
            "ripstop-services",
            "ripstop-policy",
        ],
    ),
    row("plan", "ripstop-plan", &["ripstop-types", "ripstop-nft", "ripstop-netmodel"]),
    // Judges what the decisions come to: it shares no more with them than the objects.
    row("oracle", "ripstop-oracle", &["ripstop-types", "ripstop-objects"]),
];

/// Crates that touch the world, and the programs.
const RIM: &[Row] = &[
    // Programs in the kernel.
    row("bpf", "ripstop-bpf", &[]),
    // Carries packets and decides nothing.
    row("forwarder", "ripstop-forwarder", &["ripstop-types"]),
    // Applies plans, and those of the forwarder by its control socket.
    row(
        "kernel",
        "ripstop-kernel",
        &["ripstop-types", "ripstop-nft", "ripstop-netmodel", "ripstop-plan", "ripstop-bpf", "ripstop-forwarder"],
    ),
    row("store", "ripstop-store", &["ripstop-types", "ripstop-objects", "ripstop-plan"]),
    // Sockets of engines that speak with neighbours.
    row("speaker", "ripstop-speaker", &["ripstop-types", "ripstop-bfd", "ripstop-bgp", "ripstop-election"]),
    row(
        "agent",
        "ripstop-agent",
        &[
            "ripstop-types",
            "ripstop-nft",
            "ripstop-netmodel",
            "ripstop-cni-spec",
            "ripstop-objects",
            "ripstop-ipam",
            "ripstop-probe",
            "ripstop-tables",
            "ripstop-fabric",
            "ripstop-services",
            "ripstop-policy",
            "ripstop-desired",
            "ripstop-plan",
            "ripstop-kernel",
            "ripstop-store",
            "ripstop-forwarder",
            "ripstop-election",
            "ripstop-bfd",
            "ripstop-bgp",
            "ripstop-speaker",
        ],
    ),
    // The lab drives the product as its users do: by programs, files and sockets. It shares words and formats only.
    row("lab", "ripstop-lab", &["ripstop-types", "ripstop-cni-spec", "ripstop-objects"]),
    // A judge of any plugin and any proxy: it shares no more with what it judges than the types of objects.
    row("conformance", "ripstop-conformance", &["ripstop-types", "ripstop-objects", "ripstop-oracle"]),
    // The product as what that judge judges: its own compilers and applier, where cases are run on them.
    row(
        "planes",
        "ripstop-planes",
        &[
            "ripstop-types",
            "ripstop-netmodel",
            "ripstop-objects",
            "ripstop-tables",
            "ripstop-services",
            "ripstop-policy",
            "ripstop-desired",
            "ripstop-plan",
            "ripstop-kernel",
            "ripstop-agent",
            "ripstop-oracle",
            "ripstop-conformance",
        ],
    ),
    row(
        "ripstop",
        "ripstop",
        &[
            "ripstop-types",
            "ripstop-nft",
            "ripstop-netmodel",
            "ripstop-objects",
            "ripstop-ipam",
            "ripstop-tables",
            "ripstop-policy",
            "ripstop-plan",
            "ripstop-store",
            "ripstop-forwarder",
            "ripstop-agent",
            "ripstop-lab",
            "ripstop-conformance",
            "ripstop-planes",
        ],
    ),
    // Measures the product beside its rivals: by programs and sockets, and by records as agents write them. What no rival does it
    // asks the deciding crate itself, and a speaker that is measured alone is a process of it. Frames of a segment are read as candidates
    // read them.
    row(
        "bench",
        "ripstop-bench",
        &[
            "ripstop-types",
            "ripstop-objects",
            "ripstop-store",
            "ripstop-forwarder",
            "ripstop-lab",
            "ripstop-conformance",
            "ripstop-oracle",
            "ripstop-policy",
            "ripstop-bfd",
            "ripstop-bgp",
            "ripstop-election",
            "ripstop-speaker",
        ],
    ),
    // Drives every parser of outside input.
    row(
        "fuzz",
        "ripstop-fuzz",
        &[
            "ripstop-types",
            "ripstop-nft",
            "ripstop-cni-spec",
            "ripstop-objects",
            "ripstop-probe",
            "ripstop-bfd",
            "ripstop-bgp",
            "ripstop-election",
            "ripstop-tables",
            "ripstop-kernel",
            "ripstop-store",
            "ripstop-agent",
        ],
    ),
    row("ripstop-cni", PLUGIN, &["ripstop-cni-spec"]),
    row("xtask", "xtask", &[]),
];

/// Never in what a pure crate is linked with, however far down. A trailing `*` stands for any rest.
const IMPURE: &[&str] = &[
    "async-std",
    "aya*",
    "chrono",
    "fastrand",
    "getrandom",
    "hyper*",
    "inotify",
    "jiff",
    "kube*",
    "libc",
    "mio",
    "netlink-*",
    "nix",
    "notify",
    "prometheus*",
    "rand",
    "redb",
    "reqwest",
    "rtnetlink",
    "rustix",
    "socket2",
    "time",
    "tokio*",
    "tracing-subscriber",
    "ureq",
];

const PLUGIN: &str = "ripstop-cni";

/// Never in the plugin, which starts for every call of the runtime and is built without std: no async runtime, no command
/// line parser, and of the workspace the wire format alone.
const HEAVY: &[&str] =
    &["anyhow", "clap*", "hyper*", "libc", "mio", "netlink-*", "redb", "regex*", "ripstop-types", "tokio*", "tracing*"];

/// Outside crates with one purpose: pattern, and the only folders whose crate names them as a dependency.
const OWNED: &[(&str, &[&str])] = &[
    ("aya*", &["bpf"]),
    ("netlink-*", &["kernel"]),
    ("redb", &["store"]),
    ("tonic*", &["store"]),
    ("prost*", &["store"]),
    ("clap*", &["ripstop", "lab"]),
    ("serde-saphyr", &["objects", "lab", "ripstop", "conformance"]),
    ("prometheus-client", &["agent"]),
];

/// The folders under `crates/` of the pure crates.
pub fn pure_folders() -> impl Iterator<Item = &'static str> {
    PURE.iter().map(|row| row.folder)
}

/// True for the package name of a pure crate.
#[must_use]
pub fn is_pure(package: &str) -> bool {
    PURE.iter().any(|row| row.package == package)
}

/// Judges the dependency graph of the workspace.
///
/// # Errors
/// If cargo does not give the graph, for example because the lock file is not up to date.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let mut faults = faults(&workspace::packages(&workspace.metadata()?));
    faults.extend(heavy(&workspace.tree(PLUGIN)?));
    Ok(Outcome::of(faults))
}

/// Faults of what the plugin is linked with, by package names.
fn heavy(linked: &[String]) -> Vec<String> {
    let banned = linked.iter().filter(|name| HEAVY.iter().any(|pattern| matches(pattern, name)));
    banned.map(|name| format!("{PLUGIN}: must not be linked with {name}")).collect()
}

fn faults(packages: &Packages) -> Vec<String> {
    let mut faults = Vec::new();
    for (id, package) in packages.iter().filter(|(_, package)| package.member) {
        let Some(row) = PURE.iter().chain(RIM).find(|row| row.package == package.name) else {
            faults.push(format!("{}: not in the table of allowed dependencies: give it a row", package.name));
            continue;
        };
        faults.extend(direct(row, package, packages));
        if !is_pure(row.package) {
            continue;
        }
        for (name, chain) in reach(id, packages) {
            if IMPURE.iter().any(|pattern| matches(pattern, &name)) {
                faults.push(format!("{}: must not be linked with {name}, which comes by {chain}", package.name));
            }
        }
    }
    faults
}

/// Faults of the direct dependencies of one package.
fn direct(row: &Row, package: &Package, packages: &Packages) -> Vec<String> {
    let mut faults = Vec::new();
    for dependency in package.links.iter().filter_map(|id| packages.get(id)) {
        let name = dependency.name.as_str();
        if dependency.member && !row.may_use.contains(&name) {
            faults.push(format!("{}: may not depend on {name}", row.package));
        }
        for (pattern, owners) in OWNED.iter().filter(|(pattern, _)| matches(pattern, name)) {
            if !owners.contains(&row.folder) {
                faults.push(format!("{}: {pattern} is used in crates/{} only", row.package, owners.join(", crates/")));
            }
        }
    }
    faults
}

/// Everything `start` is linked with: package name, and the way from `start` to it.
fn reach(start: &str, packages: &Packages) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::from([start.to_owned()]);
    let mut next = vec![(start.to_owned(), String::new())];
    while let Some((id, chain)) = next.pop() {
        for (dependency, package) in
            packages.get(&id).into_iter().flat_map(|package| &package.links).filter_map(|id| packages.get_key_value(id))
        {
            if seen.insert(dependency.clone()) {
                let chain = if chain.is_empty() { package.name.clone() } else { format!("{chain} > {}", package.name) };
                found.insert(package.name.clone(), chain.clone());
                next.push((dependency.clone(), chain));
            }
        }
    }
    found
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph out of "name: what it is linked with"; members are those with a row or the word `member`.
    fn graph(lines: &[&str]) -> Packages {
        let known = |name: &str| PURE.iter().chain(RIM).any(|row| row.package == name);
        let mut packages = Packages::new();
        for line in lines {
            let (name, links) = line.split_once(':').unwrap();
            let member = known(name) || name == "ripstop-new";
            let links = links.split_whitespace().map(str::to_owned).collect();
            packages.insert(name.into(), Package { name: name.into(), member, links });
        }
        packages
    }

    #[test]
    fn an_arrow_back_is_found() {
        let found = faults(&graph(&["ripstop-types:ripstop-plan", "ripstop-plan:"]));
        assert_eq!(found, ["ripstop-types: may not depend on ripstop-plan"]);
    }

    #[test]
    fn io_below_a_pure_crate_is_found_with_its_way() {
        let found = faults(&graph(&["ripstop-types:helper", "helper:deep", "deep:tokio-util", "tokio-util:"]));
        assert_eq!(
            found,
            ["ripstop-types: must not be linked with tokio-util, which comes by helper > deep > tokio-util"]
        );
    }

    #[test]
    fn a_runtime_in_the_plugin_is_found() {
        let found = heavy(&["ripstop-cni-spec", "serde", "tokio-util"].map(str::to_owned));
        assert_eq!(found, ["ripstop-cni: must not be linked with tokio-util"]);
    }

    #[test]
    fn a_crate_without_a_row_and_an_owned_crate_elsewhere_are_found() {
        let found = faults(&graph(&["ripstop-new:", "ripstop-agent:redb", "redb:"]));
        assert_eq!(
            found,
            [
                "ripstop-agent: redb is used in crates/store only",
                "ripstop-new: not in the table of allowed dependencies: give it a row",
            ]
        );
    }

    #[test]
    fn the_table_has_no_circle_and_every_name_has_a_row() {
        let mut above: BTreeSet<&str> = BTreeSet::new();
        for row in PURE.iter().chain(RIM) {
            for used in row.may_use {
                assert!(above.contains(used), "{} uses {used}, which does not stand above it", row.package);
            }
            above.insert(row.package);
        }
    }
}
