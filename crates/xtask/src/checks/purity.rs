//! Pure crates decide from their arguments alone: no clock, no randomness, no thread, no process, no file, no socket.
//! Their dependencies are judged by the dependency table; this judges what they take out of the standard library.

use super::Outcome;
use super::deps::pure_folders;
use crate::source;
use crate::workspace::Sources;

/// What only the rim may name.
const BANNED: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os::fd",
    "std::os::unix",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    // Seeded at random, so that iteration over the map differs from run to run.
    "std::hash::RandomState",
    "std::collections::hash_map::RandomState",
];

/// Every place of a pure crate, outside its tests, that names something banned.
#[must_use]
pub fn check(sources: &Sources) -> Outcome {
    let mut faults = Vec::new();
    for folder in pure_folders() {
        let inside = format!("crates/{folder}/src/");
        for (file, text) in sources.iter().filter(|(file, _)| file.starts_with(&inside) && file.ends_with(".rs")) {
            if source::is_test_file(file) {
                continue;
            }
            for path in source::paths(&source::tokens(text)) {
                if let Some(banned) = BANNED.iter().find(|banned| path.names(banned)) {
                    faults.push(format!("{file}:{}: {} in a pure crate ({banned})", path.line, path.text));
                }
            }
        }
    }
    Outcome::of(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::planted;

    #[test]
    fn a_clock_in_a_pure_crate_is_found() {
        let direct = "fn now() -> u64 { std::time::Instant::now().elapsed().as_secs() }";
        let grouped = "use std::{collections::BTreeMap, time::{Duration, SystemTime}};";
        let by_module = "use std::net;\nfn f() { net::UdpSocket::bind(\"[::]:0\"); }";
        let files = planted(&[
            ("crates/types/src/lib.rs", direct),
            ("crates/plan/src/a/b.rs", grouped),
            ("crates/cni/src/lib.rs", by_module),
        ]);
        let Outcome::Failed(faults) = check(&files) else { panic!("not found") };
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults.iter().any(|fault| fault.starts_with("crates/cni/src/lib.rs:2: std::net::UdpSocket::bind")));
    }

    #[test]
    fn tests_and_the_rim_may() {
        let clock = "use std::time::Instant;";
        let tested = "#[cfg(test)]\nmod tests { use std::fs; }\nuse std::net::IpAddr; use std::time::Duration;";
        let files = planted(&[
            ("crates/kernel/src/lib.rs", clock),
            ("crates/types/tests/it/main.rs", clock),
            ("crates/types/src/tests.rs", clock),
            ("crates/types/src/lib.rs", tested),
        ]);
        assert_eq!(check(&files), Outcome::Ok);
    }
}
