//! `ripstop policy check`: may one talk to another?

use clap::Args;
use ripstop_policy::explain::Port;
use serde_json::Value;

use super::objects::{Files, Objects};
use crate::failure::Failure;
use crate::print::text::escaped;
use crate::print::{Format, Out, talk};

/// Tell whether one may talk to another, and by which policies and rules
///
/// The answer is that of the tables that the policies become. At each end that is a pod it names who decides: the rule, the rules that
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
    files: Files,
    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

impl Check {
    /// Prints the answer.
    ///
    /// # Errors
    /// [`Failure::Untrue`] where it is denied, and where nothing can be said.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let objects = self.files.read()?;
        let party = |word: &str| objects.party(word, &self.namespace);
        let (from, to) = (party(&self.from)?, party(&self.to)?);
        for party in [&from, &to].into_iter().filter(|party| party.ips.iter().any(Objects::is_made_up)) {
            let (name, ip) = (&party.name, party.ips[0]);
            talk(&format!("{name} has no address in the files: blocks of addresses are asked about {ip}"));
        }
        let answer = objects.policies().answer(&from, &to, self.port).map_err(Failure::Failed)?;
        let value = serde_json::to_value(&answer).unwrap_or(Value::Null);
        if !out.data(self.output, &value)? {
            out.text(&escaped(&answer.to_string(), true))?;
        }
        if answer.allowed { Ok(()) } else { Err(Failure::Untrue) }
    }
}

/// Reads a port, with the sentence that clap shows.
pub fn port(text: &str) -> Result<Port, String> {
    text.parse::<Port>().map_err(|invalid| invalid.to_string())
}
