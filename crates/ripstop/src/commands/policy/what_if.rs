//! `ripstop policy what-if`: which connections a change of policies would allow or deny.

use std::fmt;

use clap::Args;
use ripstop_policy::Policies;
use ripstop_policy::explain::{Answer, End, Port};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::objects::{Files, Objects};
use crate::commands::manifest;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::text::escaped;
use crate::print::{Format, Out, talk};

/// The longest file of connections.
const MAX_FILE: u64 = 512 << 20;

/// Tell which connections a change of policies would allow or deny
///
/// The cluster is what --objects says; the change is what --filename says beside it, where objects replace those of their kind and name.
/// Policies that are staged are enforced for the question with --enforce-staged. Connections that stay as they are are not listed.
#[derive(Debug, Args)]
pub struct WhatIf {
    /// Files of the change: what would be applied; - is standard input
    #[arg(short = 'f', long = "filename", visible_alias = "file", value_name = "FILE", required_unless_present_any = ["enforce_staged", "delete"])]
    change: Vec<String>,
    /// Files of the cluster as it is, as kubectl prints them
    #[arg(long, value_name = "FILE", required = true)]
    objects: Vec<String>,
    /// What is deleted, as networkpolicy/NAMESPACE/NAME or clusternetworkpolicy/NAME
    #[arg(long, value_name = "POLICY")]
    delete: Vec<String>,
    /// As if what is staged were enforced
    #[arg(long)]
    enforce_staged: bool,
    /// Connections that are asked about: a line each, as FROM TO PORT/PROTOCOL in the words of `ripstop policy check`
    #[arg(long, value_name = "FILE", required = true)]
    connections: String,
    /// Namespace of pods that are given as POD
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

/// A connection whose fate would be another.
#[derive(Debug, Serialize, Deserialize)]
struct Changed {
    from: String,
    to: String,
    port: String,
    now: Fate,
    then: Fate,
    /// Who decides then.
    by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fate {
    Allowed,
    Denied,
}

impl Fate {
    fn of(is_allowed: bool) -> Self {
        if is_allowed { Self::Allowed } else { Self::Denied }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        })
    }
}

impl WhatIf {
    /// Prints what would be otherwise.
    ///
    /// # Errors
    /// Where files cannot be read, or name what is not there.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let now = Files { files: self.objects.clone() }.read()?;
        let then = self.changed(&now)?;
        let (before, after) = (now.policies(), then.policies());
        let text = manifest::read(&self.connections, MAX_FILE)?;
        let (mut changed, mut count) = (Vec::new(), 0);
        for (place, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            count += 1;
            let ask = Ask { now: &now, then: &then, before: &before, after: &after, namespace: &self.namespace };
            let told = ask.line(line).map_err(|failure| at(place + 1, &self.connections, &failure))?;
            changed.extend(told);
        }
        let rows: Vec<Value> = changed.iter().filter_map(|one| serde_json::to_value(one).ok()).collect();
        if out.data(self.output, &rows.clone().into())? {
            return Ok(());
        }
        if changed.is_empty() {
            talk(&format!("of {count} connections none would change"));
            return Ok(());
        }
        let table = Table::of(&["from", "to", "port", "now", "then", "by"], &rows);
        out.text(&table.render(true, out.colour()))
    }

    /// The cluster behind the change.
    fn changed(&self, now: &Objects) -> Result<Objects, Failure> {
        let change = if self.change.is_empty() { Objects::default() } else { Objects::read(&self.change)? };
        let mut then = now.clone().with(change);
        for name in &self.delete {
            let before = then.policies.len() + then.cluster_policies.len();
            then.policies.retain(|own, _| format!("networkpolicy/{own}") != *name);
            then.cluster_policies.retain(|own, _| format!("clusternetworkpolicy/{own}") != *name);
            if then.policies.len() + then.cluster_policies.len() == before {
                return Err(Failure::Failed(format!("--delete: {:?} not found", escaped(name, false))));
            }
        }
        if self.enforce_staged {
            then.policies.values_mut().for_each(|policy| policy.staged = false);
            then.cluster_policies.values_mut().for_each(|policy| policy.staged = false);
        }
        then.complete();
        Ok(then)
    }
}

/// A line of a file that is wrong.
fn at(line: usize, file: &str, failure: &Failure) -> Failure {
    Failure::Failed(format!("{}: line {line}: {failure}", escaped(file, false)))
}

/// Two states of a cluster.
struct Ask<'a> {
    now: &'a Objects,
    then: &'a Objects,
    before: &'a Policies,
    after: &'a Policies,
    namespace: &'a str,
}

impl Ask<'_> {
    /// What would be otherwise with a connection.
    fn line(&self, line: &str) -> Result<Option<Changed>, Failure> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [from, to, port] = words[..] else {
            let found = escaped(line, false);
            return Err(Failure::Usage(format!("found {found:?}, accepted: FROM TO PORT/PROTOCOL")));
        };
        let port: Port = port.parse().map_err(|invalid: ripstop_types::Invalid| Failure::Usage(invalid.to_string()))?;
        let ask = |objects: &Objects, policies: &Policies| -> Result<Answer, Failure> {
            let (from, to) = (objects.party(from, self.namespace)?, objects.party(to, self.namespace)?);
            policies.answer(&from, &to, port).map_err(Failure::Failed)
        };
        let (now, then) = (ask(self.now, self.before)?, ask(self.then, self.after)?);
        if now.allowed == then.allowed {
            return Ok(None);
        }
        let (from, to) = (then.source.to_string(), then.destination.to_string());
        let (by, port) = (reason(&now, &then), then.port.clone());
        Ok(Some(Changed { from, to, port, now: Fate::of(now.allowed), then: Fate::of(then.allowed), by }))
    }
}

/// Who decides then, in one line for each end that says something else than now.
fn reason(now: &Answer, then: &Answer) -> String {
    let ends =
        |answer: &Answer| answer.paths.iter().flat_map(|path| path.explanation.ends().cloned()).collect::<Vec<_>>();
    let before = ends(now);
    let is_other = |end: &End| {
        let was = before.iter().find(|was| (&was.pod, was.direction) == (&end.pod, end.direction));
        was.is_none_or(|was| was.allowed != end.allowed)
    };
    let changed = ends(then).into_iter().filter(is_other);
    let mut said: Vec<String> =
        changed.map(|end| end.to_string().lines().next().unwrap_or_default().to_owned()).collect();
    said.dedup();
    said.join("; ")
}
