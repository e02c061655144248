//! `ripstop ipam`: who owns which range, and what is left of it.

use clap::{Args, Subcommand};
use ripstop_types::Prefix;
use serde_json::{Value, json};

use super::Form;
use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::{Format, Out, talk, text};
use crate::target::Target;

/// Look at the cluster's ranges and addresses, and free what is held by nodes that are gone
#[derive(Debug, Args)]
#[command(subcommand_value_name = "COMMAND")]
pub struct Ipam {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List this node's ranges with their use, and every node's claims
    Show(Form),
    /// Compare claims, leases and pods with each other; exit code 1 if anything is wrong
    Check(Form),
    /// Free a range whose node is gone for good
    ///
    /// The range becomes free for other nodes. While its node is alive the agent refuses: two nodes would use the same
    /// addresses.
    Release {
        /// The range, in CIDR form without host bits, as `ripstop get leases` lists it
        #[arg(value_name = "RANGE")]
        range: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Ipam {
    /// The agent that was picked.
    pub fn target(&self) -> &Target {
        match &self.command {
            Sub::Show(form) | Sub::Check(form) => &form.target,
            Sub::Release { target, .. } => target,
        }
    }

    /// Asks, or releases.
    ///
    /// # Errors
    /// Where the agent does not answer or refuses, and where a check finds something.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        match &self.command {
            Sub::Show(form) => show(agent, form.output, out),
            Sub::Check(form) => check(agent, form.output, out),
            Sub::Release { range, .. } => release(agent, range, out),
        }
    }
}

fn show(agent: &Agent, format: Format, out: &mut Out) -> Result<(), Failure> {
    let ipam: Value = agent.get("/v1/ipam")?;
    if out.data(format, &ipam)? {
        return Ok(());
    }
    let list = |name: &str| ipam.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let ranges = ["network", "range", "used", "phase", "leased", "lent", "usable", "free"];
    let claims = ["range", "network", "node", "holder", "machine", "state", "pod", "alive"];
    out.line("Ranges of this node:")?;
    out.text(&section(&ranges, list("ranges"), out.colour()))?;
    out.line("\nClaims in the cluster:")?;
    out.text(&section(&claims, list("claims"), out.colour()))?;
    for fault in list("faults") {
        talk(&format!("fault: {}", text::cell(fault)));
    }
    Ok(())
}

/// A table of those fields that any row has.
fn section(fields: &[&str], rows: &[Value], colour: bool) -> String {
    if rows.is_empty() {
        return format!("{}\n", text::NONE);
    }
    let told = |name: &&&str| rows.iter().any(|row| row.get(**name).is_some());
    let fields: Vec<&str> = fields.iter().filter(told).copied().collect();
    Table::of(&fields, rows).render(true, colour)
}

fn check(agent: &Agent, format: Format, out: &mut Out) -> Result<(), Failure> {
    let answer: Value = agent.get("/v1/ipam/check")?;
    let problems = answer.get("problems").and_then(Value::as_array).ok_or_else(|| {
        Failure::Failed("the agent's answer to the check has no field problems; is it of another version?".into())
    })?;
    if !out.data(format, &Value::from(problems.clone()))? && !problems.is_empty() {
        out.text(&Table::of(&["severity", "object", "text"], problems).render(true, out.colour()))?;
    }
    if problems.is_empty() {
        talk("nothing is wrong");
        return Ok(());
    }
    Err(Failure::Untrue)
}

fn release(agent: &Agent, range: &str, out: &mut Out) -> Result<(), Failure> {
    let range: Prefix = range.parse().map_err(|invalid| Failure::Usage(format!("RANGE: {invalid}")))?;
    agent.post("/v1/ipam/release", "application/json", json!({"range": range}).to_string().as_bytes())?;
    out.line(&format!("range/{range} released"))
}
