//! What is fuzzed: one function for each parser of input that comes from outside.
//!
//! A function takes bytes, as a runtime, a user, a disk, a peer or a kernel might hand them over, and panics where
//! something is wrong: where a parser does, or where what it accepted breaks a promise. libFuzzer runs the functions
//! (`make fuzz`, by the package in `fuzz/`), and this package's test runs them on every committed seed.
//!
//! Not here: the engine, and inputs.

mod agent;
mod cni;
mod objects;
mod peers;

/// One function and its name, which is also the name of its folder of seeds and of its program.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, in the order of their names.
pub const TARGETS: &[Target] = &[
    ("agent_http", agent::http),
    ("bfd", peers::bfd),
    ("bgp", peers::bgp),
    ("cni_args", cni::args),
    ("cni_config", cni::config),
    ("cni_list", cni::list),
    ("cni_request", cni::request),
    ("config", objects::config),
    ("election", peers::election),
    ("flannel", objects::flannel),
    ("kernel", peers::kernel),
    ("kubeconfig", objects::kubeconfig),
    ("kubernetes_object", objects::kubernetes_object),
    ("lease", agent::lease),
    ("manifest", objects::manifest),
    ("nft", peers::nft),
    ("plugin", agent::plugin),
    ("probe", peers::probe),
    ("recording", agent::recording),
    ("snapshot", agent::snapshot),
    ("store_client", peers::store_client),
    ("store_record", objects::store_record),
    ("store_server", peers::store_server),
];

/// Runs one function.
///
/// # Panics
/// Where the function finds a fault, and where there is none of this name.
#[allow(clippy::panic, reason = "a fault is found by panicking")]
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, target)) => target(data),
        None => panic!("{name}: there is no such target"),
    }
}

/// The text that the bytes are, if they are text.
fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Lines before the first empty one, and everything behind it.
fn head(text: &str) -> (&str, &str) {
    text.split_once("\n\n").unwrap_or((text, ""))
}
