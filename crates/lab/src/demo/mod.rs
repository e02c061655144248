//! `ripstop lab demo`: what the product does, shown with real programs in under a minute and a half.
//!
//! Each act makes its own lab, does something a user would fear, and checks it with counted packets. Every check is a
//! row of the table at the end; the exit code is 0 only if all held.
//!
//! Not here: anything that knows how the product works. A later subject adds its act to `ACTS`.

mod acts;
mod balancer;
mod ledger;
mod load;
mod programs;
mod service;

use std::process::ExitCode;
use std::time::Instant;

use crate::error::Result;
use crate::interrupt;

pub use ledger::Ledger;

/// An act: its title and what it does.
type Act = (&'static str, fn(&mut Ledger) -> Result<()>);

/// The acts, in order.
const ACTS: &[Act] = &[
    ("Three nodes in two subnets, VXLAN between them", acts::vxlan),
    ("host-gw where the nodes share a subnet, and a reason where they do not", acts::host_gw),
    ("auto: plain inside a subnet, VXLAN across; pods on a bridge", acts::auto_bridge),
    ("udp: a forwarder in user space carries the packets", acts::udp),
    ("A Service without Kubernetes: its backends replaced, its proxy switched live", service::services),
    ("An address that the outside reaches: downloaded from while its owner is killed", balancer::downloads),
];

/// Runs every act and prints the table.
///
/// # Errors
/// Where an act cannot be set up at all. What does not hold is a row, and exit code 1.
pub fn run() -> Result<ExitCode> {
    programs::check()?;
    let begun = Instant::now();
    let mut ledger = Ledger::new();
    for (number, (title, act)) in ACTS.iter().enumerate() {
        interrupt::check()?;
        ledger.act(number + 1, ACTS.len(), title);
        if let Err(error) = act(&mut ledger) {
            interrupt::check()?;
            ledger.broken(&error);
        }
    }
    ledger.print(begun.elapsed());
    Ok(if ledger.all_held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
