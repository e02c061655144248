//! `ripstop version`: which program this is, and which the agent is.

use clap::Args;
use serde_json::{Value, json};

use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::text::cell;
use crate::print::{Format, Out};
use crate::target::Target;

/// Print the version of this program, and of the agent if one answers
///
/// They differ after an upgrade, until the agent has been restarted.
#[derive(Debug, Args)]
pub struct Version {
    /// Form of the answer: {version, agent}; agent is null where none answers
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
    #[command(flatten)]
    pub target: Target,
}

impl Version {
    /// Prints the versions.
    ///
    /// # Errors
    /// Where they cannot be printed. That no agent answers is no error.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let asked = agent.get::<Value>("/v1/status").ok();
        let agent = asked.and_then(|status| status.get("version").cloned()).unwrap_or(Value::Null);
        let version = env!("CARGO_PKG_VERSION");
        if out.data(self.output, &json!({"version": version, "agent": agent}))? {
            return Ok(());
        }
        out.line(&format!("ripstop {version}"))?;
        if agent.is_null() { Ok(()) } else { out.line(&format!("agent {}", cell(&agent))) }
    }
}
