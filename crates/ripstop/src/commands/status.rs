//! `ripstop status`: whether a node is ready, and if not, why.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::ask::Agent;
use crate::commands::install::cluster;
use crate::commands::migrate::proxy;
use crate::duration;
use crate::failure::Failure;
use crate::print::text::{NONE, cell, field};
use crate::print::{Format, Out};
use crate::target::Target;

/// Between two looks of --wait.
const LOOK: Duration = Duration::from_millis(100);

/// Tell whether the node is ready, and if not, why
///
/// Exit code 0 if it is, 1 if not, 3 if the agent does not answer.
#[derive(Debug, Args)]
pub struct Status {
    /// Wait until the node is ready; an agent that does not answer yet is waited for as well
    #[arg(long)]
    pub wait: bool,
    /// The longest wait: a number with a unit of ms, s, m or h
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "60s", requires = "wait")]
    pub timeout: Duration,
    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
    #[command(flatten)]
    pub cluster: cluster::Access,
    #[command(flatten)]
    pub target: Target,
}

impl Status {
    /// Prints the status, once the node is ready where that is waited for.
    ///
    /// # Errors
    /// Where the node is not ready, or the agent does not answer.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        if self.cluster.is_wanted() {
            return self.cluster.status(self.wait.then_some(self.timeout), out);
        }
        let begin = Instant::now();
        let status = loop {
            let answer = agent.get::<Value>("/v1/status");
            let enough = match &answer {
                Ok(status) => is_ready(status),
                // Only what time can heal is waited for.
                Err(Failure::Away(_)) => false,
                Err(_) => true,
            };
            if enough || !self.wait || begin.elapsed() >= self.timeout {
                break answer?;
            }
            thread::sleep(LOOK.min(self.timeout.saturating_sub(begin.elapsed())));
        };
        if !out.data(self.output, &status)? {
            out.text(&text(&status))?;
        }
        match (is_ready(&status), self.wait) {
            (true, _) => Ok(()),
            (false, false) => Err(Failure::Untrue),
            (false, true) => {
                let node = field(&status, "node");
                Err(Failure::Failed(format!("node {node} did not become ready within {:?}", self.timeout)))
            }
        }
    }
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

/// The status for people.
fn text(status: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let label = if name.is_empty() { String::new() } else { format!("{name}:") };
        let _ = writeln!(text, "{label:10} {value}");
    };
    line("Node", &field(status, "node"));
    line("Version", &field(status, "version"));
    line("Ready", if is_ready(status) { "yes" } else { "no" });
    for reason in items(status, "reasons") {
        line("", &sentence(reason));
    }
    if matches!(status.get("held"), Some(held) if *held != Value::Bool(false) && !held.is_null()) {
        line("Held", "yes: the agent computes and changes nothing until `ripstop resume`");
    }
    line("Services", &status.get("proxy").map_or_else(|| NONE.into(), proxy::sentence));
    for (name, key) in [("Store", "store"), ("Networks", "networks"), ("Pods", "pods"), ("Peers", "peers")] {
        line(name, &field(status, key));
    }
    for (name, key) in [("Failed", "failed"), ("Refused", "refused")] {
        let steps = items(status, key);
        line(name, &if steps.is_empty() { NONE.into() } else { steps.len().to_string() });
        for step in steps {
            line("", &sentence(step));
        }
    }
    for warning in items(status, "warnings") {
        line("Warning", &sentence(warning));
    }
    text
}

fn items<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A reason, or a step with what became of it, in a line.
fn sentence(item: &Value) -> String {
    let Some(fields) = item.as_object() else { return cell(item) };
    let told = |name: &&str| fields.get(*name).filter(|value| !value.is_null()).map(cell);
    let what: Vec<String> = ["action", "object"].iter().filter_map(told).collect();
    match ["error", "reason"].iter().find_map(told) {
        Some(why) if what.is_empty() => why,
        Some(why) => format!("{}: {why}", what.join(" ")),
        None => cell(item),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told() {
        let status = json!({
            "node": "n1", "version": "0.1.0", "ready": false, "reasons": ["no range yet"], "held": true,
            "store": "embedded /x", "networks": 1, "pods": 0, "peers": ["n2", "n3"],
            "failed": [{"step": 1, "action": "create", "object": "route 10.0.0.0/8", "error": "file exists"}],
            "refused": [], "warnings": ["table inet firewalld drops"],
        });
        let text = text(&status);
        for line in [
            "Ready:     no\n           no range yet\n",
            "Held:      yes",
            "Peers:     n2,n3\n",
            "Failed:    1\n           create route 10.0.0.0/8: file exists\n",
            "Refused:   <none>\n",
            "Warning:   table inet firewalld drops\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn every_form_of_a_fault_is_a_line() {
        assert_eq!(sentence(&json!("x")), "x");
        assert_eq!(sentence(&json!({"reason": "r"})), "r");
        assert_eq!(sentence(&json!({"a": 1})), "{\"a\":1}");
    }
}
