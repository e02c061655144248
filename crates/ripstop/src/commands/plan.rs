//! `ripstop plan`: what the agent would do, or did.

use clap::Args;

use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::rows::{self, Row};
use crate::print::table::Table;
use crate::print::{Format, Out, talk, yaml};
use crate::target::Target;

/// Print the steps that would bring the node to its desired state
///
/// In the order in which they run, each with the object it changes, the object that caused it, why, and what undoes it.
/// A step that the agent refuses to do is listed with the reason. No step is left to do on a node at rest: then the list
/// is empty. It holds steps only where a change is on its way, where steps failed or were refused, and under `ripstop
/// agent --hold`, which computes and waits.
#[derive(Debug, Args)]
pub struct Plan {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
    /// Print the steps that ran since the agent started instead, each with its outcome
    #[arg(long)]
    pub journal: bool,
    #[command(flatten)]
    pub target: Target,
}

impl Plan {
    /// Prints the steps.
    ///
    /// # Errors
    /// Where the agent does not answer.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let path = if self.journal { "/v1/journal" } else { "/v1/plan" };
        let steps: Vec<Row> = agent.get(path)?;
        if steps.is_empty() {
            talk(if self.journal { "nothing was done since the agent started" } else { "nothing to do" });
        }
        match self.output {
            Format::Json => out.text(&rows::json(&steps)),
            Format::Yaml => out.text(&yaml::document(&steps.iter().map(|step| step.value.clone()).collect())),
            Format::Table if steps.is_empty() => Ok(()),
            Format::Table => {
                let mut fields = vec!["step", "action", "object", "owner", "reason", "inverse"];
                if self.journal {
                    fields.extend(["state", "error"]);
                }
                let table = Table::of(&fields, steps.iter().map(|step| &step.value));
                out.text(&table.render(true, out.colour()))
            }
        }
    }
}
