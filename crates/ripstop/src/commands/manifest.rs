//! `ripstop apply` and `ripstop delete`: what a file says shall be, or shall not be.

use std::fs::File;
use std::io::{self, Read};

use clap::Args;
use serde_json::Value;

use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::text::{escaped, field};
use crate::print::{Format, Out};
use crate::target::Target;

/// The longest file that is sent: the agent takes no more.
const MAX_FILE: u64 = 4 << 20;

/// Create or change the networks that a file describes
///
/// The file holds documents of kind Network (ripstop.io/v1alpha1) in YAML or JSON, or Flannel's net-conf.json, which is
/// the network `default`. Either all of it is taken, or, where anything in it is wrong, nothing.
#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    manifest: Manifest,
    #[command(flatten)]
    pub target: Target,
}

/// Delete the networks that a file describes
///
/// The file is one that `ripstop apply` takes; only names matter. A network of which a node owns a range is not deleted:
/// then nothing is.
#[derive(Debug, Args)]
pub struct Delete {
    #[command(flatten)]
    manifest: Manifest,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
struct Manifest {
    /// The file; - is standard input
    #[arg(short, long = "filename", visible_alias = "file", value_name = "FILE")]
    file: String,
    /// Form of the answer: {object, action} for each document
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

impl Apply {
    /// Sends the file.
    ///
    /// # Errors
    /// Where it cannot be read, or the agent does not answer or refuses.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        self.manifest.send(agent, "/v1/apply", out)
    }
}

impl Delete {
    /// Sends the file.
    ///
    /// # Errors
    /// As [`Apply::run`].
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        self.manifest.send(agent, "/v1/delete", out)
    }
}

impl Manifest {
    fn send(&self, agent: &Agent, path: &str, out: &mut Out) -> Result<(), Failure> {
        let answer = agent.post(path, "application/yaml", self.read()?.as_bytes())?;
        let results = answer.get("results").cloned().unwrap_or_else(|| Value::Array(Vec::new()));
        if out.data(self.output, &results)? {
            return Ok(());
        }
        for result in results.as_array().into_iter().flatten() {
            out.line(&format!("{} {}", field(result, "object"), field(result, "action")))?;
        }
        Ok(())
    }

    fn read(&self) -> Result<String, Failure> {
        let name = if self.file == "-" { "standard input".to_owned() } else { escaped(&self.file, false) };
        let cannot = |error: io::Error| Failure::system(&format!("cannot read {name}"), &error);
        let mut source: Box<dyn Read> = match self.file.as_str() {
            "-" => Box::new(io::stdin()),
            path => Box::new(File::open(path).map_err(cannot)?),
        };
        let mut bytes = Vec::new();
        source.by_ref().take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Failure::Failed(format!("{name} is longer than 4 MiB, which no manifest is")));
        }
        String::from_utf8(bytes)
            .map_err(|_| Failure::Failed(format!("{name} is not UTF-8 text; YAML or JSON is accepted")))
    }
}
