//! The reference: help texts, completions, manual page.
//!
//! The texts are compared with `golden/`; `RIPSTOP_BLESS=1 cargo test -p ripstop` writes them anew, for a reviewer to read
//! the difference. What the lab takes is the lab's own and compared there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::fake::{ripstop, run};

/// Commands whose help is compared, with the file's name.
const COMMANDS: &[&str] = &[
    "",
    "get",
    "describe",
    "status",
    "plan",
    "policy",
    "policy check",
    "policy what-if",
    "policy graph",
    "policy unused",
    "ipam",
    "ipam show",
    "ipam check",
    "ipam release",
    "bgp",
    "bgp peers",
    "bgp routes",
    "bgp received",
    "bgp advertised",
    "bgp explain",
    "apply",
    "delete",
    "migrate backend",
    "migrate from",
    "migrate from flannel",
    "migrate from kube-proxy",
    "migrate proxy",
    "migrate to",
    "migrate to kube-proxy",
    "resume",
    "agent",
    "store",
    "store serve",
    "conformance",
    "conformance cni",
    "conformance services",
    "conformance policy",
    "udp-forward",
    "replay",
    "install",
    "uninstall",
    "version",
    "completion",
    "man",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name)
}

#[test]
fn help_is_as_reviewed() {
    let mut wrong = Vec::new();
    for command in COMMANDS {
        let args: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).chain(["--help"]).collect();
        let ended = run(&args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command}");
        let file = golden(&format!("{}.txt", ["ripstop", command].join(" ").trim_end().replace(' ', "-")));
        if std::env::var_os("RIPSTOP_BLESS").is_some() {
            fs::write(&file, &ended.stdout).unwrap();
        }
        let reviewed = fs::read_to_string(&file).unwrap_or_default();
        if reviewed != ended.stdout {
            wrong.push(format!("{} is not what --help prints now:\n{}", file.display(), ended.stdout));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_short_help_fits_a_screen() {
    for command in COMMANDS.iter().filter(|command| !command.is_empty()) {
        let args: Vec<&str> = command.split(' ').chain(["-h"]).collect();
        let ended = run(&args);
        assert_eq!(ended.code, Some(0));
        assert!(ended.stdout.lines().count() <= 40, "{command}");
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 100), "{command}");
    }
}

#[test]
fn help_that_nobody_reads_is_quiet() {
    let mut child = ripstop().arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn shells_can_complete() {
    let bash = run(&["completion", "bash"]).stdout;
    for word in ["_ripstop()", "describe", "--namespace", "--socket"] {
        assert!(bash.contains(word), "{word}");
    }
    assert!(run(&["completion", "zsh"]).stdout.starts_with("#compdef ripstop"));
    assert!(run(&["completion", "fish"]).stdout.contains("complete -c ripstop"));
    assert_eq!(run(&["completion", "tcsh"]).code, Some(2));
}

/// The script is one that bash takes, and completes what it should.
#[test]
fn bash_completes_a_kind() {
    let script = run(&["completion", "bash"]).stdout;
    let tail = "\nCOMP_WORDS=(ripstop get po); COMP_CWORD=2; _ripstop ripstop po get; echo \"${COMPREPLY[@]}\"";
    let Ok(output) = std::process::Command::new("bash").arg("-c").arg(format!("{script}{tail}")).output() else {
        println!("SKIPPED: bash is not installed");
        return;
    };
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "pods\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_manual_has_every_command() {
    let page = run(&["man"]).stdout;
    for words in COMMANDS.iter().filter(|words| !words.is_empty() && **words != "resume") {
        let name = words.replace('-', "\\-");
        assert!(page.contains(&format!(".SS \"ripstop {name}\"\n")), "{words}");
    }
    for section in [".TH ripstop 1", ".SH NAME", ".SH SYNOPSIS", ".SH \"EXIT STATUS\"", ".SH \"FILES\"", ".SH EXAMPLES"]
    {
        assert!(page.contains(section), "{section}");
    }
    assert!(!page.contains("resume [") && !page.contains("lab-node-init"));
}

#[test]
fn pages_are_written_into_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("a/man1");
    let ended = run(&["man", "--dir", man.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for page in ["ripstop.1", "ripstop-get.1", "ripstop-ipam-release.1"] {
        assert!(ended.stdout.contains(&format!("{}\n", man.join(page).display())), "{page}");
        assert!(fs::read_to_string(man.join(page)).unwrap().contains(".TH "), "{page}");
    }
    assert_eq!(fs::read_to_string(man.join("ripstop.1")).unwrap(), run(&["man"]).stdout);
}
