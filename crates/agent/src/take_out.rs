//! Taking what is of ours out of the kernel where no agent runs: everything that is found goes, by the same steps.
//!
//! The agent's lock is held meanwhile. Not here: the store, which only an agent speaks to.

use std::path::Path;

use anyhow::{anyhow, bail};
use ripstop_desired::LEASES;
use ripstop_kernel::{Applier, BootFiles, Observer, OnError};
use ripstop_netmodel::{Entry, Kind, Model, Record, RecordGuard, RecordScope};
use ripstop_objects::AgentConfig;
use ripstop_tables::Withdrawn;

use crate::{files, run};

/// Removes what an agent of this configuration left in the calling thread's network namespace, and its files of this
/// boot and its snapshot with it, or only the jumps in tables of others. What is not there is no error. A configuration
/// that does not exist is the default one.
///
/// # Errors
/// An agent runs and holds its lock; the kernel cannot be read; something cannot be removed.
pub fn take_out(config: &Path, what: Withdrawn) -> anyhow::Result<()> {
    let config = if config.exists() { run::read_config(config)? } else { AgentConfig::default() };
    let _lock = files::lock(&config)?;
    let mut files = BootFiles::new(&config.run_dir);
    let mut found = Observer::open()?.with_forwarder(files::forwarder_socket(&config)).host(&Model::new())?;
    if what == Withdrawn::Everything {
        let (records, faults) = files.list(LEASES);
        if let Some(fault) = faults.first() {
            bail!("{fault}");
        }
        for record in records {
            let scope = RecordScope::Boot(LEASES.into());
            found.insert(Record { scope, key: record.key, value: "".into(), guard: RecordGuard::Any }, None);
        }
    } else {
        found.retain(|key, _| what == Withdrawn::Jumps && key.kind() == Kind::ForwardJump);
    }
    let plan = ripstop_plan::diff_all(&found, &Model::new(), &|_: &_, _: &Entry| Ok(()));
    let mut applier = Applier::open()?.with_forwarder(files::forwarder_socket(&config));
    let outcomes = applier.run(&plan.steps, OnError::Continue, &mut files);
    applier.flush();
    let faults: Vec<String> =
        outcomes.into_iter().filter_map(|outcome| outcome.result.err()).map(|error| error.to_string()).collect();
    if !faults.is_empty() {
        return Err(anyhow!("{}", faults.join("\n")));
    }
    if what == Withdrawn::Everything {
        files::remove_snapshot(&config)?;
        files::remove_forwarder_state(&config)?;
    }
    Ok(())
}
