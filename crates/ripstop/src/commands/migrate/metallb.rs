//! `ripstop migrate from metallb`: MetalLB's pools in our words.
//!
//! Nothing is changed. Both would answer for one address, so whoever moves ends the one before the other begins.

use clap::Args;
use ripstop_objects::Manifest;
use serde_json::{Value, json};

use crate::commands::manifest::read;
use crate::failure::Failure;
use crate::print::{Out, talk};

/// The longest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// Print MetalLB's pools and advertisements as AddressPools, and change nothing
///
/// The file holds its IPAddressPools, L2Advertisements, BGPAdvertisements and Communities (metallb.io/v1beta1) in YAML or JSON, also
/// as `kubectl get -o yaml` prints them. What an AddressPool cannot say is refused and named. Services keep the addresses that they show.
#[derive(Debug, Args)]
pub struct From {
    /// The file; - is standard input
    #[arg(short, long = "filename", visible_alias = "file", value_name = "FILE")]
    file: String,
}

impl From {
    /// Reads and prints them.
    ///
    /// # Errors
    /// Where the file cannot be read, or something in it cannot be said here.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let manifest =
            Manifest::decode(&read(&self.file, MAX_FILE)?).map_err(|faults| Failure::Failed(faults.to_string()))?;
        manifest.notes.iter().for_each(|note| talk(&note.to_string()));
        let pools: Vec<&Value> =
            manifest.objects.iter().filter(|object| object.pool().is_some()).map(|object| &object.value).collect();
        if pools.is_empty() {
            return Err(Failure::Failed("found no IPAddressPool".into()));
        }
        out.line(&format!("{:#}", json!({"apiVersion": "v1", "kind": "List", "items": pools})))
    }
}
