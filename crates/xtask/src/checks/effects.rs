//! Who may start programs, and who may change the kernel.

use super::Outcome;
use crate::source::{self, Token};
use crate::workspace::Sources;

/// Ways to start a program, or to become one.
const PROCESSES: &[&str] = &[
    "std::process::Command",
    "std::os::unix::process::CommandExt",
    "tokio::process",
    "libc::execv",
    "libc::execve",
    "libc::execvp",
    "libc::execveat",
    "libc::fexecve",
    "libc::fork",
    "libc::vfork",
    "libc::posix_spawn",
    "libc::posix_spawnp",
    "libc::popen",
    "libc::system",
    "rustix::runtime",
];

/// Crates that may: they drive the product from outside.
const RUNNERS: &[&str] = &["crates/lab/", "crates/bench/", "crates/conformance/", "crates/xtask/"];

/// The one place of an agent from which programs are run: those that write iptables' rules, where a node's configuration asks for them.
const PROGRAM: &str = "crates/kernel/src/iptables/program.rs";

/// What runs while the product is built: the compiler of programs for the kernel.
const BUILD: &str = "crates/bpf/build.rs";

/// Flags that only a change carries, and the types of messages that change something.
const MODIFYING_FLAGS: &[&str] = &["NLM_F_CREATE", "NLM_F_EXCL", "NLM_F_REPLACE", "NLM_F_APPEND"];
const MODIFYING_TYPES: &[&str] = &[
    "RTM_NEW",
    "RTM_DEL",
    "RTM_SET",
    "NFT_MSG_NEW",
    "NFT_MSG_DEL",
    "NFT_MSG_DESTROY",
    "IPVS_CMD_NEW",
    "IPVS_CMD_SET",
    "IPVS_CMD_DEL",
    "IPCTNL_MSG_CT_DELETE",
    "SOCK_DESTROY",
];

/// Methods of the netlink socket that only changes need.
const MODIFYING_CALLS: &[&str] = &["batch", "transact", "transact_all"];

/// The only code that sends changes: apply, and the threads to which it hands the removal of links.
const APPLY: &[&str] = &["crates/kernel/src/apply/", "crates/kernel/src/reaper.rs"];

/// The only crate with a netlink socket. It reads notifications, which have the types and flags of changes, so there a
/// type counts where a message is made of it.
const KERNEL: &[&str] = &["crates/kernel/"];

/// Code that gives bytes and sends nothing by itself: pure encoders, and the transport with its constants.
const ENCODERS: &[&str] = &["crates/nft/", "crates/kernel/src/wire/", "crates/kernel/src/netlink/"];

/// The module of encoders, and how those of its functions are called that make no change.
const WIRE: &str = "crate::wire::";
const READERS: &[&str] = &["get", "dump", "read", "bridge_port", "protocol_name", "scope_number"];

/// Every place outside the runners and outside tests that names a way to start a program.
#[must_use]
pub fn processes(sources: &Sources) -> Outcome {
    let mut faults = Vec::new();
    for (file, text) in
        product(sources).filter(|(file, _)| !under(file, RUNNERS) && ![PROGRAM, BUILD].contains(&file.as_str()))
    {
        for path in source::paths(&source::tokens(text)) {
            if PROCESSES.iter().any(|banned| path.names(banned)) {
                faults.push(format!("{file}:{}: {}: this crate runs no program", path.line, path.text));
            }
        }
    }
    Outcome::of(faults)
}

/// Every place outside `kernel::apply`, the encoders and tests that makes or sends a modifying netlink request.
#[must_use]
pub fn netlink(sources: &Sources) -> Outcome {
    let mut faults = Vec::new();
    for (file, text) in product(sources).filter(|(file, _)| !under(file, APPLY) && !under(file, ENCODERS)) {
        let tokens = source::tokens(text);
        let kernel = under(file, KERNEL);
        let mut found: Vec<(usize, String)> = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            let word = token.text.as_str();
            let flag = MODIFYING_FLAGS.contains(&word);
            let kind = MODIFYING_TYPES.iter().any(|kind| word.starts_with(kind));
            let sent = MODIFYING_CALLS.contains(&word) && at > 0 && tokens[at - 1].text == ".";
            let change = if kernel { sent || (kind && made_here(&tokens, at)) } else { flag || kind };
            if change {
                found.push((token.line, word.to_owned()));
            }
        }
        let encoders = source::paths(&tokens).into_iter().filter(|path| kernel && encodes_change(&path.text));
        found.extend(encoders.map(|path| (path.line, path.text)));
        faults.extend(
            found.iter().map(|(line, what)| format!("{file}:{line}: {what}: only kernel::apply changes the kernel")),
        );
    }
    Outcome::of(faults)
}

/// True for the path of a function of the encoders' modules, except the readers: `crate::wire::link::create`.
fn encodes_change(path: &str) -> bool {
    let Some(inside) = path.strip_prefix(WIRE) else { return false };
    let is_function = inside.contains("::") && !inside.contains(char::is_uppercase);
    let name = inside.rsplit("::").next().unwrap_or_default();
    is_function && !READERS.iter().any(|reader| name.starts_with(reader))
}

/// True where the message type at `at` is the first argument of a call: `new(RTM_NEWROUTE`, `new(uapi::RTM_NEWROUTE`.
fn made_here(tokens: &[Token], at: usize) -> bool {
    let text = |at: Option<usize>| at.map_or("", |at| tokens[at].text.as_str());
    let mut start = at;
    while text(start.checked_sub(1)) == "::" && start >= 2 {
        start -= 2;
    }
    text(start.checked_sub(1)) == "(" && text(start.checked_sub(2)) == "new"
}

/// The Rust files of the product: no tests, and not the checks themselves.
fn product(sources: &Sources) -> impl Iterator<Item = (&String, &String)> {
    sources.iter().filter(|(file, _)| {
        file.starts_with("crates/")
            && file.ends_with(".rs")
            && !file.starts_with("crates/xtask/")
            && !source::is_test_file(file)
    })
}

fn under(file: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| file.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::planted;

    #[test]
    fn a_program_run_by_the_agent_is_found() {
        let by_module = "use std::process;\nfn f() { process::Command::new(\"ip\"); }";
        let files = planted(&[
            ("crates/agent/src/lib.rs", by_module),
            ("crates/kernel/src/lib.rs", "fn f() { unsafe { libc::fork(); } }"),
            ("crates/store/src/lib.rs", "use tokio::process::Command as C;"),
        ]);
        let Outcome::Failed(faults) = processes(&files) else { panic!("not found") };
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("crates/agent/src/lib.rs:2: std::process::Command::new"), "{faults:?}");
    }

    #[test]
    fn the_lab_and_tests_may_run_programs() {
        let run = "use std::process::Command;";
        assert_eq!(processes(&planted(&[(PROGRAM, run), (BUILD, run)])), Outcome::Ok);
        assert_ne!(processes(&planted(&[("crates/kernel/src/iptables/lock.rs", run)])), Outcome::Ok);
        let tested = "use std::process::ExitCode;\n#[cfg(test)] mod tests { use std::process::Command; }";
        let files = planted(&[
            ("crates/lab/src/lib.rs", run),
            ("crates/agent/tests/it/main.rs", run),
            ("crates/agent/src/lib.rs", tested),
        ]);
        assert_eq!(processes(&files), Outcome::Ok);
    }

    #[test]
    fn a_change_outside_apply_is_found() {
        let flags = "fn f(h: &mut Header) { h.flags = NLM_F_REQUEST | NLM_F_CREATE; }";
        let made = "fn f() { Message::new(uapi::RTM_DELROUTE, NLM_F_ACK, &[]); }";
        let sent = "fn f(s: &mut Socket) { s.transact(&bytes); }";
        let encoded = "use crate::wire::{self, link};\nfn f() { call(link::delete(3)); dump(wire::route::dump()); }";
        let raw = "const KIND: u16 = 25; // RTM_\nconst OTHER: u16 = libc::RTM_DELROUTE;";
        let files = planted(&[
            ("crates/agent/src/lib.rs", raw),
            ("crates/kernel/src/apply/route.rs", encoded),
            ("crates/kernel/src/observe/a.rs", encoded),
            ("crates/kernel/src/observe/b.rs", made),
            ("crates/kernel/src/observe/c.rs", sent),
            ("crates/lab/src/lib.rs", flags),
        ]);
        let Outcome::Failed(faults) = netlink(&files) else { panic!("not found") };
        assert_eq!(faults.len(), 5, "{faults:?}");
        assert!(faults[1].starts_with("crates/kernel/src/observe/a.rs:2: crate::wire::link::delete"), "{faults:?}");
        assert!(faults[0].starts_with("crates/agent/src/lib.rs:2: RTM_DELROUTE"), "{faults:?}");
        assert!(faults[2].starts_with("crates/kernel/src/observe/b.rs:1: RTM_DELROUTE"), "{faults:?}");
    }

    #[test]
    fn looking_is_no_change() {
        let look = "fn f(k: u16) { match k { uapi::RTM_NEWLINK | RTM_DELLINK => {} _ => {} } \
                    Message::new(RTM_GETLINK, NLM_F_DUMP, &[]); e.flags & NLM_F_REPLACE; } // RTM_NEWLINK";
        assert_eq!(netlink(&planted(&[("crates/kernel/src/observe.rs", look)])), Outcome::Ok);
    }
}
