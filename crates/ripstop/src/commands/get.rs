//! `ripstop get`: lists.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::ask::Agent;
use crate::failure::Failure;
use crate::kinds::Kind;
use crate::print::rows::{self, Row};
use crate::print::table::Table;
use crate::print::{ListFormat, Out, talk, text};
use crate::subject::{Subject, SubjectParser};
use crate::target::Target;

/// Between two looks of --watch.
const LOOK: Duration = Duration::from_secs(1);

/// List nodes, pods, networks, leases, paths, routes, Services, endpoints, namespaces, policies or drops
///
/// Nodes, networks, leases, Services, namespaces and policies are those of the cluster; pods, paths, routes, endpoints and drops those of the asked node.
#[derive(Debug, Args)]
pub struct Get {
    /// What to list; also in the singular, and no, po, net, svc, ep, ns, netpol and cnp; with a name in one word as KIND/NAME
    #[arg(value_name = "KIND", value_parser = SubjectParser::<Kind>::new())]
    pub subject: Subject<Kind>,
    /// Only these: a pod as NAME or NAMESPACE/NAME, a path by its peer, a lease by its range or node, a route by its
    /// destination [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Only pods, Services, endpoints, NetworkPolicies or drops of this namespace [default: all namespaces]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Those of all namespaces, which is the default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: ListFormat,
    /// Leave out the header of a table
    #[arg(long)]
    pub no_headers: bool,
    /// After the list go on, looking once a second, and print each row that was added, changed or removed, until
    /// interrupted; JSON is then one object {event, object} a line
    #[arg(short, long)]
    pub watch: bool,
    #[command(flatten)]
    pub target: Target,
}

impl Get {
    /// Prints the list.
    ///
    /// # Errors
    /// Where the agent does not answer, or a named thing is not there.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let kind = self.subject.kind;
        if self.namespace.is_some() && !kind.has_namespaces() {
            let accepted = "pods, services, endpoints, networkpolicies and drops have a namespace";
            let why = format!("--namespace: {accepted}, {} have none", kind.plural());
            return Err(Failure::Usage(why));
        }
        let names = self.subject.names(&self.names)?;
        if self.watch {
            return self.watch(agent, &names, out);
        }
        let all = self.look(agent)?;
        let rows: Vec<Row> = all.iter().filter(|row| self.wants(row, &names)).cloned().collect();
        if rows.is_empty() && names.is_empty() {
            talk(&format!("no {} found", kind.plural()));
        }
        out.text(&rows::render(kind, &rows, self.output, !self.no_headers, out.colour()))?;
        let missing: Vec<String> = names
            .iter()
            .filter(|name| !rows.iter().any(|row| row.answers_to(kind, name)))
            .map(|name| format!("{} {:?} not found", kind.singular(), text::escaped(name, false)))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(Failure::Failed(missing.join("\n"))) }
    }

    fn look(&self, agent: &Agent) -> Result<Vec<Row>, Failure> {
        agent.get(&format!("/v1/{}", self.subject.kind.plural()))
    }

    fn wants(&self, row: &Row, names: &[String]) -> bool {
        let namespace = self.namespace.as_deref();
        namespace.is_none_or(|wanted| row.value.get("namespace").and_then(Value::as_str) == Some(wanted))
            && (names.is_empty() || names.iter().any(|name| row.answers_to(self.subject.kind, name)))
    }

    /// Prints changes until interrupted, or until nobody reads. An agent that is away for a while, as in an upgrade, is
    /// waited for; one that was never there is not.
    fn watch(&self, agent: &Agent, names: &[String], out: &mut Out) -> Result<(), Failure> {
        if self.output == ListFormat::Yaml {
            return Err(Failure::Usage("--watch prints table, wide, json or name, and no yaml".into()));
        }
        let kind = self.subject.kind;
        let mut known: Option<BTreeMap<String, Row>> = None;
        let mut away = false;
        while !out.is_gone() {
            match self.look(agent) {
                Ok(rows) => {
                    if std::mem::take(&mut away) {
                        talk("the agent answers again");
                    }
                    let now: BTreeMap<String, Row> = rows
                        .into_iter()
                        .filter(|row| self.wants(row, names))
                        .map(|row| (row.name(kind), row))
                        .collect();
                    let header = known.is_none() && !self.no_headers;
                    let before = known.unwrap_or_default();
                    self.report(&changes(&before, &now), header, out)?;
                    known = Some(now);
                }
                Err(failure @ Failure::Away(_)) if known.is_some() => {
                    if !std::mem::replace(&mut away, true) {
                        talk(&format!("{failure}; waiting for it"));
                    }
                }
                Err(failure) => return Err(failure),
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn report(&self, changes: &[(&'static str, Row)], header: bool, out: &mut Out) -> Result<(), Failure> {
        match self.output {
            ListFormat::Json => changes.iter().try_for_each(|(event, row)| {
                // The row as it came, between two pieces that cannot be anything but JSON.
                out.line(&format!("{{\"event\":{},\"object\":{}}}", json!(event), row.json()))
            }),
            ListFormat::Name => changes.iter().try_for_each(|(event, row)| {
                let name = text::escaped(&row.name(self.subject.kind), false);
                out.line(&format!("{event} {}/{name}", self.subject.kind.singular()))
            }),
            _ => {
                let rows: Vec<Row> = changes.iter().map(|(_, row)| row.clone()).collect();
                let fields = rows::fields(self.subject.kind, self.output == ListFormat::Wide, &rows);
                let mut table = Table::new(std::iter::once("event").chain(fields.iter().map(String::as_str)));
                for (event, row) in changes {
                    let cells = fields.iter().map(|name| text::field(&row.value, name));
                    table.push(std::iter::once((*event).to_owned()).chain(cells).collect());
                }
                out.text(&table.render(header, out.colour()))
            }
        }
    }
}

/// What differs between two looks, in the order of names.
fn changes(before: &BTreeMap<String, Row>, now: &BTreeMap<String, Row>) -> Vec<(&'static str, Row)> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let change = |name: &String| match (before.get(name), now.get(name)) {
        (None, Some(row)) => Some(("added", row.clone())),
        (Some(row), None) => Some(("removed", row.clone())),
        (Some(old), Some(new)) if old.value != new.value => Some(("changed", new.clone())),
        _ => None,
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> BTreeMap<String, Row> {
        let rows: Vec<Row> = serde_json::from_str(text).unwrap();
        rows.into_iter().map(|row| (row.name(Kind::Nodes), row)).collect()
    }

    #[test]
    fn a_watch_tells_what_differs() {
        let before = rows(r#"[{"name":"a","ready":true},{"name":"b","ready":true},{"name":"c"}]"#);
        let now = rows(r#"[{"name":"b","ready":false},{"name":"c"},{"name":"d"}]"#);
        let told: Vec<(&str, String)> =
            changes(&before, &now).into_iter().map(|(event, row)| (event, row.name(Kind::Nodes))).collect();
        assert_eq!(told, [("removed", "a".into()), ("changed", "b".into()), ("added", "d".into())]);
        assert!(changes(&now, &now).is_empty());
    }
}
