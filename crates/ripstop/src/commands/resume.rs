//! `ripstop resume`: lets an agent act that computes only.

use clap::Args;

use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::talk;
use crate::target::Target;

/// Let an agent that was started with --hold do what `ripstop plan` prints
#[derive(Debug, Args)]
pub struct Resume {
    #[command(flatten)]
    pub target: Target,
}

impl Resume {
    /// Tells the agent.
    ///
    /// # Errors
    /// Where the agent does not answer, or is not held.
    pub fn run(&self, agent: &Agent) -> Result<(), Failure> {
        agent.post("/v1/resume", "application/json", b"")?;
        talk("the agent goes on");
        Ok(())
    }
}
