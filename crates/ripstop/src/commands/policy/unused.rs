//! `ripstop policy unused`: what of policies has no effect.

use clap::Args;
use serde_json::Value;

use super::source::Source;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::{Format, Out, talk};
use crate::target::Target;

/// List what of policies has no effect
///
/// Policies about no pod (selects-nothing), rules that no packet can meet (never-matches), peers that nobody is (no-peer), names that no
/// pod in question has for a port (unknown-port-name), and rules that another one covers (covered). Rules are numbered from 0. All but
/// never-matches and covered may be otherwise as soon as another pod, node or label is there.
#[derive(Debug, Args)]
pub struct Unused {
    #[command(flatten)]
    source: Source,
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

impl Unused {
    /// Prints the list.
    ///
    /// # Errors
    /// Where files cannot be read or the agent does not answer.
    pub fn run(&self, before: &Target, out: &mut Out) -> Result<(), Failure> {
        let found = self.source.policies(before)?.unused();
        let rows: Vec<Value> = found.iter().filter_map(|one| serde_json::to_value(one).ok()).collect();
        if out.data(self.output, &rows.clone().into())? {
            return Ok(());
        }
        if found.is_empty() {
            talk("everything has an effect");
            return Ok(());
        }
        let table = Table::of(&["kind", "namespace", "name", "direction", "rule", "finding", "detail"], &rows);
        out.text(&table.render(true, out.colour()))
    }
}
