//! A recording run again: the same inputs, the same plans.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use anyhow::{Context, bail};
use ripstop_tables::{Input, Recording};

use crate::core::{Core, Output};

/// Runs a recording through a fresh core and writes every plan as JSON lines:
/// `{"input": N, "name": "...", "plan": N, "lane": "kernel", "steps": [...]}`.
///
/// # Errors
/// Where the file cannot be read, is not a recording, or does not begin with a start.
pub fn replay(path: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut inputs = Recording::read(BufReader::new(file)).enumerate();
    let Some((_, first)) = inputs.next() else { bail!("{} is empty: a recording begins with a start", path.display()) };
    let first = first?;
    let Input::Start(start) = first.input else {
        bail!("{} begins with {:?}, accepted: a start; was its head cut off?", path.display(), first.input.name());
    };
    let (mut core, outputs) = Core::start(first.at, *start);
    write_outputs(out, 1, "start", &outputs)?;
    for (number, stamped) in inputs {
        let stamped = stamped?;
        let name = stamped.input.name();
        core.take_in(stamped.at, stamped.input);
        if !stamped.more {
            write_outputs(out, number + 1, name, &core.conclude())?;
        }
    }
    Ok(())
}

fn write_outputs(out: &mut dyn Write, input: usize, name: &str, outputs: &[Output]) -> anyhow::Result<()> {
    for output in outputs {
        let (plan, lane, steps) = match output {
            Output::Apply { plan, steps, .. } => (plan, "kernel", steps),
            Output::Store { plan, steps } => (plan, "store", steps),
            _ => continue,
        };
        let line = serde_json::json!({
            "input": input, "name": name, "plan": plan, "lane": lane, "steps": steps.view(),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
