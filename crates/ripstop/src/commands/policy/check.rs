//! `ripstop policy check`: may one talk to another?

use clap::Args;
use ripstop_agent::core::PolicyQuestion;
use ripstop_policy::explain::{Answer, Party, Port};
use serde_json::Value;

use super::objects::{Files, Objects};
use super::source::{Asked, Source};
use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::text::escaped;
use crate::print::{Format, Out, talk};
use crate::target::Target;

/// Tell whether one may talk to another, and by which policies and rules
///
/// The answer is that of the tables that the policies become: those that a running agent has put into its node's kernel, or, with
/// --filename, those that files of objects come to. At each end that is a pod it names who decides: the rule, the rules that
/// permit it, or, where it is denied because nothing permits it, the policies that isolate the pod and the rule that came closest, with
/// what of it failed. Rules are numbered from 0, as they stand in the object. The exit code is 0 if it is allowed in every family that both
/// have, and 1 if not. A pod that is both ends is asked about by a Service of its own.
#[derive(Debug, Args)]
pub struct Check {
    /// Who begins the connection: NAMESPACE/POD, POD, an address, or node/NAME
    #[arg(value_name = "FROM")]
    from: String,
    /// With whom; behind a Service, the pod
    #[arg(value_name = "TO")]
    to: String,
    /// To which port there: 80/TCP, 53/UDP, 5060/SCTP, 80, which is TCP, or ICMP
    #[arg(value_name = "PORT/PROTOCOL", value_parser = port)]
    port: Port,
    /// Namespace of pods that are given as POD
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    source: Source,
    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

impl Check {
    /// Prints the answer.
    ///
    /// # Errors
    /// [`Failure::Untrue`] where it is denied, and where nothing can be said.
    pub fn run(&self, before: &Target, out: &mut Out) -> Result<(), Failure> {
        let answer = match self.source.asked(before)? {
            Asked::Files(files) => self.by_files(&files)?,
            Asked::Agent(agent) => self.by_agent(&agent)?,
        };
        let value = serde_json::to_value(&answer).unwrap_or(Value::Null);
        if !out.data(self.output, &value)? {
            out.text(&escaped(&answer.to_string(), true))?;
        }
        if answer.allowed { Ok(()) } else { Err(Failure::Untrue) }
    }

    fn by_files(&self, files: &Files) -> Result<Answer, Failure> {
        let objects = files.read()?;
        let (from, to) = self.parties(&objects)?;
        for party in [&from, &to].into_iter().filter(|party| party.ips.iter().any(Objects::is_made_up)) {
            let (name, ip) = (&party.name, party.ips[0]);
            talk(&format!("{name} has no address in the files: blocks of addresses are asked about {ip}"));
        }
        objects.policies(None).answer(&from, &to, self.port).map_err(Failure::Failed)
    }

    /// By the tables that the agent's kernel has; where it has none, by what they would be.
    fn by_agent(&self, agent: &Agent) -> Result<Answer, Failure> {
        let (from, to) = self.parties(&Objects::named(agent, [&self.from, &self.to], &self.namespace)?)?;
        let question = PolicyQuestion { from: from.clone(), to: to.clone(), port: self.port.to_string() };
        let body = serde_json::to_vec(&question).map_err(|error| Failure::Failed(error.to_string()))?;
        let answer = agent.post("/v1/policy/answer", "application/json", &body)?;
        let answer: Option<Answer> =
            serde_json::from_value(answer).map_err(|error| Failure::Failed(format!("the agent's answer: {error}")))?;
        match answer {
            Some(answer) => Ok(answer),
            None => Objects::of_agent(agent)?.policies(None).answer(&from, &to, self.port).map_err(Failure::Failed),
        }
    }

    fn parties(&self, objects: &Objects) -> Result<(Party, Party), Failure> {
        Ok((objects.party(&self.from, &self.namespace)?, objects.party(&self.to, &self.namespace)?))
    }
}

/// Reads a port, with the sentence that clap shows.
pub fn port(text: &str) -> Result<Port, String> {
    text.parse::<Port>().map_err(|invalid| invalid.to_string())
}
