//! The command line: the commands in their groups. What a command takes stands with the command, in `commands`.
//!
//! The texts here and there are the reference: `--help`, the manual page and the completions are made of them.

use std::ffi::OsString;
use std::fmt::Write;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use ripstop_lab::cli::LabCommand;

use crate::commands::{
    agent, bgp, conformance, describe, get, install, ipam, man, manifest, migrate, plan, policy, resume, shell, status,
    store, udp_forward, version,
};
use crate::target::Target;

/// What `ripstop` was asked to do.
#[derive(Debug, Parser)]
#[command(
    name = "ripstop",
    version,
    about = "A Kubernetes container network in one program per node",
    long_about = "A Kubernetes container network in one program per node.\n\nThe agent (ripstop agent) makes pods' links, \
                  addresses, routes and rules on its node, and keeps them. The other commands ask an agent and print what \
                  it answers, or run a cluster on this machine (ripstop lab). --lab with --node, or --socket, pick the \
                  agent that is asked, before or behind the command.",
    disable_help_subcommand = true,
    arg_required_else_help = true,
    subcommand_value_name = "COMMAND",
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. Their order is that of the help.
#[derive(Debug, Subcommand)]
pub enum Command {
    Get(get::Get),
    Describe(describe::Describe),
    Status(status::Status),
    Plan(plan::Plan),
    Policy(policy::Policy),
    Ipam(ipam::Ipam),
    Bgp(bgp::Bgp),
    Apply(manifest::Apply),
    Delete(manifest::Delete),
    Migrate(migrate::Migrate),
    #[command(hide = true)]
    Resume(resume::Resume),
    Agent(agent::Agent),
    Store(store::Store),
    UdpForward(udp_forward::UdpForward),
    Replay(agent::Replay),
    Install(install::Install),
    Uninstall(install::Uninstall),
    Lab(LabCommand),
    Conformance(conformance::Conformance),
    Version(version::Version),
    Completion(shell::Completion),
    Man(man::Man),
}

/// A heading and the commands below it.
type Group = (&'static str, &'static [&'static str]);

/// Every command that help shows is in one group.
const GROUPS: &[Group] = &[
    ("Look at a node and its cluster", &["get", "describe", "status", "plan", "policy", "ipam", "bgp"]),
    ("Change a cluster", &["apply", "delete", "migrate"]),
    ("Run a node", &["agent", "store", "udp-forward", "replay", "install", "uninstall"]),
    ("Try it on this machine", &["lab"]),
    ("Judge a plugin or a proxy", &["conformance"]),
    ("About this program", &["version", "completion", "man"]),
];

/// Exit codes, for help and manual.
pub const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "it was done, or what was asked about is true"),
    ("1", "it failed, or what was asked about is not true"),
    ("2", "the command line is wrong"),
    ("3", "the agent or the store does not answer"),
    ("4", "not permitted: most commands need root"),
    ("130", "interrupted"),
];

/// Examples, for the manual: what for, and the command.
pub const EXAMPLES: &[(&str, &str)] = &[
    ("The pods of this node, with MAC, MTU and interface", "ripstop get pods -o wide"),
    ("What the agent would change, before it does", "ripstop plan"),
    (
        "Why one pod may not talk to another, by manifests",
        "ripstop policy check shop/front shop/web 80/TCP -f manifests.yaml",
    ),
    ("Go over to VXLAN under load, and look how far it is", "ripstop migrate backend vxlan"),
    ("", "ripstop migrate backend --status"),
    ("Wait until this node is ready", "ripstop status --wait --timeout 30s"),
    (
        "Three nodes in two subnets on this machine, and node 2's way to its peers",
        "ripstop lab up --nodes 3 --subnets 2",
    ),
    ("", "ripstop --lab default --node 2 get paths"),
];

/// Files, for the manual.
pub const FILES: &[(&str, &str)] = &[
    ("/etc/ripstop/config.yaml", "configuration of the agent"),
    ("/etc/cni/net.d/10-ripstop.conflist", "tells container runtimes to use Ripstop"),
    ("/opt/cni/bin/ripstop-cni", "the plugin that container runtimes call"),
    ("/run/ripstop/agent.sock", "where the agent answers: JSON over HTTP, /metrics, /healthz, /readyz"),
    ("/run/ripstop/cni.sock", "where the agent takes the plugin's requests"),
    ("/run/ripstop/udp-forward.sock", "where the forwarder of the udp backend takes its set-up"),
    ("/run/ripstop/udp-forward.json", "that set-up, for the forwarder's next start"),
    ("/run/ripstop/leases", "addresses of this node's pods; a reboot empties it, as it does the pods"),
    ("/sys/fs/bpf/ripstop", "programs of the backend ipip, where the kernel has no device for it"),
    ("/var/lib/ripstop", "the agent's snapshot, and the store where it is embedded"),
    ("/run/ripstop-lab", "labs that are up"),
];

/// The whole command line as clap has it.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let template = template(&command);
    command.help_template(template).after_help(after_help())
}

/// Reads the arguments of this program.
///
/// # Errors
/// What clap prints: an error of the command line, a help text or the version.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The top's help, with the commands in their groups, which clap does not know.
fn template(command: &clap::Command) -> String {
    let header = command.get_styles().get_header();
    let literal = command.get_styles().get_literal();
    let width = command.get_subcommands().map(|sub| sub.get_name().len()).max().unwrap_or_default();
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        let _ = write!(text, "\n{header}{title}:{header:#}\n");
        for name in *names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let pad = width - name.len() + 2;
            let _ = writeln!(text, "  {literal}{name}{literal:#}{:pad$}{about}", "");
        }
    }
    let _ = write!(text, "\n{header}Options:{header:#}\n{{options}}{{after-help}}");
    text
}

fn after_help() -> String {
    let codes: Vec<String> = EXIT_CODES.iter().map(|(code, meaning)| format!("{code} {meaning}")).collect();
    format!(
        "Exit codes: {}.\nStandard output is data, standard error is talk. `ripstop COMMAND --help` tells more.",
        codes.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group() {
        let command = command();
        let shown: BTreeSet<&str> =
            command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(clap::Command::get_name).collect();
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        assert_eq!(grouped.len(), shown.len());
        assert_eq!(grouped.into_iter().collect::<BTreeSet<_>>(), shown);
    }

    /// The help is the reference: nothing in it may be without a text.
    #[test]
    fn everything_has_a_text() {
        fn visit(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if command.get_about().is_none() {
                missing.push(path.clone());
            }
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_help().is_none()) {
                missing.push(format!("{path}: {}", arg.get_id()));
            }
            command.get_subcommands().for_each(|sub| visit(sub, &path, missing));
        }
        let mut missing = Vec::new();
        let mut command = command();
        command.build();
        visit(&command, "", &mut missing);
        assert!(missing.is_empty(), "without a text: {missing:#?}");
    }
}
