//! `ripstop policy graph`: who may talk to whom.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::source::Source;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::text::{cell, escaped};
use crate::print::{Out, talk, yaml};
use crate::target::Target;

/// Show who may talk to whom
///
/// Each line is what one may do to another: pods of which the same is said stand under the name of the first. `outside` is whoever has an
/// address that neither a pod nor a node has and no policy names. What is not listed is denied.
#[derive(Debug, Args)]
pub struct Graph {
    /// Only between pods of this namespace, and beyond [default: all namespaces]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    source: Source,
    /// Form of the graph
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

/// The form of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// Aligned columns for people
    #[default]
    Table,
    /// The language of Graphviz: `… -o dot | dot -Tsvg`
    Dot,
    /// An object with members, the pods under each name, and edges
    Json,
    /// The same as YAML
    Yaml,
}

impl Graph {
    /// Prints the graph.
    ///
    /// # Errors
    /// Where files cannot be read or the agent does not answer, or there are too many pods to draw.
    pub fn run(&self, before: &Target, out: &mut Out) -> Result<(), Failure> {
        let policies = self.source.policies(before)?;
        let is_meant = |name: &str| self.namespace.as_deref().is_none_or(|own| own == name);
        let graph = policies.graph(|pod| is_meant(&pod.namespace)).map_err(Failure::Failed)?;
        let value = serde_json::to_value(&graph).unwrap_or(Value::Null);
        match self.output {
            Format::Json => return out.json(&value),
            Format::Yaml => return out.text(&yaml::document(&value)),
            Format::Dot => return out.text(&escaped(&graph.dot(), true)),
            Format::Table => {}
        }
        let name = |name: &str| match graph.members.get(name).map_or(0, Vec::len) {
            0 | 1 => cell(&name.into()),
            count => format!("{} (+{})", escaped(name, false), count - 1),
        };
        let mut table = Table::new(["from", "to", "family", "ports"]);
        for edge in &graph.edges {
            let family = edge.family.map_or_else(|| "all".to_owned(), |family| family.to_string());
            table.push(vec![name(&edge.from), name(&edge.to), family, edge.ports.join(",")]);
        }
        if graph.edges.is_empty() {
            talk("nobody may talk to anybody");
            return Ok(());
        }
        out.text(&table.render(true, out.colour()))
    }
}
