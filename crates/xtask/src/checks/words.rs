//! What no file of the project may hold: names of registry hosts, which belong to the set-up of each machine, and paths
//! that exist on one machine only.

use super::Outcome;
use crate::workspace::Sources;

/// Registry hosts, in parts, for this file is checked as well. The index name that cargo writes into every lock file
/// (`https://github.com/…/crates.io-index`) is a fixed word of its format and no host.
const HOSTS: &[&[&str]] = &[
    &["index", "crates", "io"],
    &["static", "crates", "io"],
    &["static", "rust-lang", "org"],
    &["deb", "debian", "org"],
    &["security", "debian", "org"],
    &["docker", "io"],
    &["ghcr", "io"],
    &["quay", "io"],
    &["gcr", "io"],
    &["registry", "k8s", "io"],
    &["pypi", "org"],
    &["registry", "npmjs", "org"],
    &["proxy", "golang", "org"],
    &["sum", "golang", "org"],
];

/// Folders of one machine, in parts.
const FOLDERS: &[&[&str]] = &[&["", "work", ""], &["", "tmp", "tgt"], &["", "root", ".cargo"]];

/// Every line that holds one of them, and every source in the lock file that is not the usual index.
#[must_use]
pub fn check(sources: &Sources) -> Outcome {
    let hosts: Vec<String> = HOSTS.iter().map(|parts| parts.join(".")).collect();
    let folders: Vec<String> = FOLDERS.iter().map(|parts| parts.join("/")).collect();
    let mut faults = Vec::new();
    for (path, text) in sources {
        for (number, line) in text.lines().enumerate() {
            let place = format!("{path}:{}", number + 1);
            for host in hosts.iter().filter(|host| stands_alone(line, host)) {
                faults.push(format!("{place}: names the registry host {host}"));
            }
            for folder in folders.iter().filter(|folder| stands_alone(line, folder)) {
                faults.push(format!("{place}: names {folder}, which exists on one machine only"));
            }
            if path.ends_with("Cargo.lock") && line.starts_with("source = ") && !line.contains("/crates.io-index\"") {
                faults.push(format!("{place}: {line}: only crates of the usual index are used"));
            }
        }
    }
    Outcome::of(faults)
}

/// True where `word` is in `line` and is not the end of a longer name or path.
fn stands_alone(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before
            .is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '}') || (c == '.' && word.starts_with('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::planted;

    #[test]
    fn hosts_and_folders_are_found() {
        let host = format!("see https://{}/x", ["index", "crates", "io"].join("."));
        let image = format!("image: {}/pause", ["registry", "k8s", "io"].join("."));
        let folder = format!("cd {}x", ["", "work", ""].join("/"));
        let lock = "source = \"registry+https://example.org/index\"";
        let files = planted(&[("a.md", &host), ("b.yaml", &image), ("c.sh", &folder), ("a/Cargo.lock", lock)]);
        let Outcome::Failed(faults) = check(&files) else { panic!("not found") };
        assert_eq!(faults.len(), 4, "{faults:?}");
    }

    #[test]
    fn other_words_pass() {
        let text = "crates.io is a site; target/work/x ../work/x frame$D/work-x notdocker.iox a-quay.io";
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        assert_eq!(check(&planted(&[("a.md", text), ("Cargo.lock", lock)])), Outcome::Ok);
    }
}
