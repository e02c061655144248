//! `ripstop bgp`: sessions, routes, and why a prefix is reached as it is.

use clap::{Args, Subcommand};
use ripstop_types::Prefix;
use serde_json::Value;

use super::Form;
use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::{Format, Out, talk, text};
use crate::target::Target;

/// Look at BGP: sessions with peers, routes, and why each is used or not
#[derive(Debug, Args)]
#[command(subcommand_value_name = "COMMAND")]
pub struct Bgp {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List the node's sessions, and why one is not there
    Peers(Form),
    /// List all paths that peers sent, and those that begin at the node; the first 10,000 prefixes
    Routes(Form),
    /// List what a peer sent, and why each is used or not
    Received(OfPeer),
    /// List what a peer is told
    Advertised(OfPeer),
    /// Say why a prefix is reached as it is, and which peers are told
    Explain {
        /// The prefix, in CIDR form without host bits, as `ripstop bgp routes` lists it
        #[arg(value_name = "PREFIX")]
        prefix: String,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, Args)]
struct OfPeer {
    /// The peer, as `ripstop bgp peers` names it
    #[arg(value_name = "PEER")]
    peer: String,
    #[command(flatten)]
    form: Form,
}

impl Bgp {
    /// The agent that was picked.
    pub fn target(&self) -> &Target {
        match &self.command {
            Sub::Peers(form) | Sub::Routes(form) | Sub::Explain { form, .. } => &form.target,
            Sub::Received(of) | Sub::Advertised(of) => &of.form.target,
        }
    }

    /// Asks.
    ///
    /// # Errors
    /// Where the agent does not answer, or speaks no BGP.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        match &self.command {
            Sub::Peers(form) => {
                let fields = ["peer", "interface", "as", "state", "received", "bfd", "flaps", "reason"];
                list(agent, "/v1/bgp/peers", &fields, form.output, out)
            }
            Sub::Routes(form) => {
                list(agent, "/v1/bgp/routes", &["dst", "used", "peer", "route", "because"], form.output, out)
            }
            Sub::Received(of) => {
                let path = format!("/v1/bgp/received/{}", of.peer);
                list(agent, &path, &["dst", "used", "route", "because"], of.form.output, out)
            }
            Sub::Advertised(of) => {
                let path = format!("/v1/bgp/advertised/{}", of.peer);
                list(agent, &path, &["dst", "from", "route"], of.form.output, out)
            }
            Sub::Explain { prefix, form } => explain(agent, prefix, form.output, out),
        }
    }
}

fn list(agent: &Agent, path: &str, fields: &[&str], format: Format, out: &mut Out) -> Result<(), Failure> {
    let answer: Value = agent.get(path)?;
    if out.data(format, &answer)? {
        return Ok(());
    }
    let rows = answer.as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        talk("nothing: where no network has the backend bgp and no BgpPeer is this node's, no BGP is spoken");
        return Ok(());
    }
    out.text(&Table::of(fields, rows).render(true, out.colour()))
}

fn explain(agent: &Agent, prefix: &str, format: Format, out: &mut Out) -> Result<(), Failure> {
    let prefix: Prefix = prefix.parse().map_err(|invalid| Failure::Usage(format!("PREFIX: {invalid}")))?;
    let answer: Value = agent.get(&format!("/v1/bgp/explain/{prefix}"))?;
    if out.data(format, &answer)? {
        return Ok(());
    }
    let rows = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let cell = |row: &Value, name: &str| row.get(name).map(text::cell).unwrap_or_default();
    let paths = rows("paths");
    if paths.is_empty() {
        return out.line(&format!("{prefix}: nobody has sent a route to it"));
    }
    out.line(&format!("{prefix}:"))?;
    for path in paths {
        let used = if path.get("used") == Some(&Value::Bool(true)) { "used" } else { "not used" };
        let from = match path.get("peer").and_then(Value::as_str) {
            Some(peer) => format!("from {peer} {}", cell(&path, "route")),
            None => "begins at this node".to_owned(),
        };
        out.line(&format!("  {used}: {from}: {}", cell(&path, "because")))?;
    }
    for told in rows("told") {
        out.line(&format!("  to {}: {}", cell(&told, "peer"), cell(&told, "because")))?;
    }
    Ok(())
}
