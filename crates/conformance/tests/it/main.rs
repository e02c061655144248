//! The suite against real plugins, against ones with planted faults, and as a program. It needs root and Debian's plugins.
// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod faults;
mod plugins;
mod program;
mod scene;
mod services;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ripstop_conformance::{Options, Outcome, Row};
use serde_json::{Value, json};

/// Where Debian's package puts the plugins.
const DEBIAN: &str = "/usr/lib/cni";

/// Whether the suite can run here; says why not.
fn possible() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return false;
    }
    if !Path::new(DEBIAN).join("bridge").exists() {
        println!("SKIPPED: containernetworking-plugins is not installed");
        return false;
    }
    true
}

/// A program that cargo built beside this one.
fn built(name: &str) -> Option<PathBuf> {
    let me = std::env::current_exe().unwrap();
    let found = me.parent().unwrap().with_file_name(name);
    if found.exists() {
        return Some(found);
    }
    println!("SKIPPED: {} is not built: build the whole workspace first", found.display());
    None
}

/// The configuration of a plugin of Debian's with a small pool of IPv4 and a large one of IPv6.
fn conf(plugin: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{plugin}.conf"));
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// A folder with a configuration, and a plugin if it is a script of its own.
struct Bench {
    dir: tempfile::TempDir,
    plugin: PathBuf,
}

impl Bench {
    /// A plugin as it is installed.
    fn with(plugin: &Path, conf: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("net.conf"), conf.to_string()).unwrap();
        Self { dir, plugin: plugin.to_owned() }
    }

    /// Debian's bridge behind a shell script, which knows it as `$REAL` and finds the configuration in `$IN`.
    fn script(conf: &Value, body: &str) -> Self {
        let mut bench = Self::with(Path::new(""), conf);
        bench.plugin = bench.dir.path().join("bridge");
        let head = format!(
            "#!/bin/sh\nREAL={DEBIAN}/bridge\nIN=$(mktemp)\nOUT=$(mktemp)\ntrap 'rm -f $IN $OUT' EXIT\ncat > $IN\n\
             inside() {{ nsenter --net=\"$CNI_NETNS\" \"$@\"; }}\n"
        );
        fs::write(&bench.plugin, format!("{head}{body}\n")).unwrap();
        fs::set_permissions(&bench.plugin, fs::Permissions::from_mode(0o755)).unwrap();
        bench
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("net.conf")
    }

    fn options(&self, only: &[&str]) -> Options {
        let mut options = Options::new(self.plugin.clone(), self.conf());
        options.path = vec![DEBIAN.into()];
        options.only = only.iter().map(|word| (*word).to_owned()).collect();
        options
    }

    /// Runs cases and gives their rows by id.
    fn run(&self, only: &[&str]) -> BTreeMap<&'static str, Row> {
        rows(&self.options(only))
    }
}

fn rows(options: &Options) -> BTreeMap<&'static str, Row> {
    let rows = ripstop_conformance::run(options, &|_| ()).unwrap();
    rows.into_iter().map(|row| (row.id, row)).collect()
}

/// The ids of failed cases, with reasons for a message.
fn failed(rows: &BTreeMap<&'static str, Row>) -> Vec<(&'static str, String)> {
    let failures = rows.values().filter(|row| row.outcome == Outcome::Fail);
    failures.map(|row| (row.id, row.reason.clone().unwrap_or_default())).collect()
}

/// A static address for every container alike.
fn one_address() -> Value {
    let mut conf = conf("bridge");
    conf["ipam"] = json!({ "type": "static", "addresses": [{ "address": "10.88.0.9/24" }] });
    conf
}
