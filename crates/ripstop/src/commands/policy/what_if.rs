//! `ripstop policy what-if`: which connections a change of policies would allow or deny.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use clap::Args;
use ripstop_agent::Connections;
use ripstop_policy::Policies;
use ripstop_policy::explain::{Answer, End, Party, Port};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::objects::{Files, Objects};
use super::source::agent;
use crate::ask::Agent;
use crate::commands::manifest;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::text::escaped;
use crate::print::{Format, Out, talk};
use crate::target::Target;

/// The longest file of connections.
const MAX_FILE: u64 = 512 << 20;

/// Tell which connections a change of policies would allow or deny
///
/// The cluster is what a running agent knows, and the connections are those that its node's kernel tracks for its pods: what goes on now and
/// would end. With --objects it is what files say. The change is what --filename says beside it, where objects replace those of their kind
/// and name. Policies that are staged are enforced for the question with --enforce-staged. Connections that stay as they are are not
/// listed.
#[derive(Debug, Args)]
pub struct WhatIf {
    /// Files of the change: what would be applied; - is standard input
    #[arg(short = 'f', long = "filename", visible_alias = "file", value_name = "FILE", required_unless_present_any = ["enforce_staged", "delete"])]
    change: Vec<String>,
    /// Files of the cluster as it is, as kubectl prints them, instead of a running agent; needs --connections
    #[arg(long, value_name = "FILE", requires = "connections", conflicts_with_all = ["lab", "node", "socket"])]
    objects: Vec<String>,
    /// What is deleted, as networkpolicy/NAMESPACE/NAME or clusternetworkpolicy/NAME
    #[arg(long, value_name = "POLICY")]
    delete: Vec<String>,
    /// As if what is staged were enforced
    #[arg(long)]
    enforce_staged: bool,
    /// Connections that are asked about: a line each, as FROM TO PORT/PROTOCOL in the words of `ripstop policy check` [default: those that
    /// the agent's node tracks]
    #[arg(long, value_name = "FILE")]
    connections: Option<String>,
    /// Namespace of pods that are given as POD
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    target: Target,
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
    /// How many there are now, where tracked ones are asked about.
    connections: Option<usize>,
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
    /// Where files cannot be read, or name what is not there, and where the agent does not answer.
    pub fn run(&self, before: &Target, out: &mut Out) -> Result<(), Failure> {
        let (changed, count) = match (self.objects.is_empty(), &self.connections) {
            (true, None) => self.tracked(&agent(&self.target, before)?)?,
            (true, Some(file)) => self.listed(&Objects::of_agent(&agent(&self.target, before)?)?, file)?,
            (false, Some(file)) if before.is_empty() => {
                self.listed(&Files { files: self.objects.clone() }.read()?, file)?
            }
            (false, _) => {
                let why =
                    "files are asked with --objects, and no running agent: --lab, --node and --socket have no meaning";
                return Err(Failure::Usage(why.into()));
            }
        };
        let rows: Vec<Value> = changed.iter().filter_map(|one| serde_json::to_value(one).ok()).collect();
        if out.data(self.output, &rows.clone().into())? {
            return Ok(());
        }
        if changed.is_empty() {
            talk(&format!("of {count} connections none would change"));
            return Ok(());
        }
        let columns = ["from", "to", "port", "now", "then", "by", "connections"];
        let are_counted = changed.iter().any(|one| one.connections.is_some());
        let table = Table::of(if are_counted { &columns } else { &columns[..6] }, &rows);
        out.text(&table.render(true, out.colour()))
    }

    /// Of connections in a file those that would be otherwise, and how many are asked about.
    fn listed(&self, now: &Objects, file: &str) -> Result<(Vec<Changed>, usize), Failure> {
        let then = self.changed(now)?;
        let (before, after) = (now.policies(None), then.policies(None));
        let text = manifest::read(file, MAX_FILE)?;
        let (mut changed, mut count) = (Vec::new(), 0);
        for (place, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            count += 1;
            let ask = Ask { now, then: &then, before: &before, after: &after, namespace: &self.namespace };
            let told = ask.line(line).map_err(|failure| at(place + 1, file, &failure))?;
            changed.extend(told);
        }
        Ok((changed, count))
    }

    /// The same of those that the agent's node tracks. Those that are alike are one row.
    fn tracked(&self, agent: &Agent) -> Result<(Vec<Changed>, usize), Failure> {
        let now = Objects::of_agent(agent)?;
        let then = self.changed(&now)?;
        let Connections { node, own, connections } = agent.get("/v1/policy/connections")?;
        let (before, after) = (now.policies(Some(node.clone())), then.policies(Some(node)));
        let is_own = |ip: IpAddr| ip.is_loopback() || own.contains(&ip);
        let names = now.names();
        let party = |ip: IpAddr| {
            let name = names.get(&ip).map_or_else(|| ip.to_string(), ToString::to_string);
            Party { name, ips: vec![ip] }
        };
        let mut rows: BTreeMap<(String, String, String), Changed> = BTreeMap::new();
        for connection in &connections {
            let [was, is] = [&before, &after].map(|policies| !policies.denies(connection, is_own));
            if was == is {
                continue;
            }
            let port =
                connection.question().port.map_or(Port::None, |(protocol, number)| Port::Number(protocol, number));
            let (from, to) = (party(connection.source), party(connection.destination));
            let key = (from.name.clone(), to.name.clone(), port.to_string());
            if !rows.contains_key(&key) {
                let answer = |policies: &Policies| policies.answer(&from, &to, port).map_err(Failure::Failed);
                let by = reason(&answer(&before)?, &answer(&after)?);
                let (from, to, port) = key.clone();
                let row = Changed { from, to, port, now: Fate::of(was), then: Fate::of(is), by, connections: Some(0) };
                rows.insert(key.clone(), row);
            }
            let count = rows.get_mut(&key).and_then(|row| row.connections.as_mut());
            count.into_iter().for_each(|count| *count += 1);
        }
        Ok((rows.into_values().collect(), connections.len()))
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
        Ok(Some(Changed {
            from,
            to,
            port,
            now: Fate::of(now.allowed),
            then: Fate::of(then.allowed),
            by,
            connections: None,
        }))
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
