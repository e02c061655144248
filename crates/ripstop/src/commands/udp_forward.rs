//! `ripstop udp-forward`: the forwarder of the udp backend.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ripstop_forwarder::{Ended, EngineFault, Options, StartFault};

use crate::failure::Failure;
use crate::print::talk;
use crate::signals;

/// Carry packets between a TUN device and UDP, in the foreground, until SIGTERM or SIGINT
///
/// The agent tells it device, addresses and peers over its socket. It is a process of its own, so packets pass while no agent
/// runs; started again after its death it goes on by its state file. Started while another answers the same socket, it takes
/// over from it, and the other ends: that is how it is upgraded, without a lost packet.
#[derive(Debug, Args)]
pub struct UdpForward {
    /// The socket on which the agent speaks to it
    #[arg(long, value_name = "PATH", default_value = "/run/ripstop/udp-forward.sock")]
    socket: PathBuf,
    /// Where it keeps what the agent said, for its next start; on a tmpfs
    #[arg(long, value_name = "FILE", default_value = "/run/ripstop/udp-forward.json")]
    state: PathBuf,
    /// Queues of the device, with a thread each: one a CPU, four at most, unless set
    #[arg(long, value_name = "N")]
    queues: Option<usize>,
    /// Once another has taken over, wait for SIGTERM or SIGINT instead of ending: for a supervisor that starts again whatever
    /// ends, and so would take all back
    #[arg(long)]
    stay: bool,
}

impl UdpForward {
    /// Forwards until told to stop, or until another takes over.
    ///
    /// # Errors
    /// Where it cannot start.
    pub fn run(self) -> Result<ExitCode, Failure> {
        tracing_subscriber::fmt().with_writer(stderr).with_ansi(stderr().is_terminal()).init();
        let options = Options { socket: self.socket, state: self.state, queues: self.queues };
        let ended = ripstop_forwarder::run(&options).map_err(failure)?;
        if self.stay && ended == Ended::HandedOver {
            talk("another has taken over; this one waits for its end");
            signals::wait().map_err(|error| Failure::system("cannot wait for a signal", &error))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn failure(fault: StartFault) -> Failure {
    match &fault {
        StartFault::Queues(_) => Failure::Usage(fault.to_string()),
        StartFault::Socket { path, error } => Failure::system(&format!("cannot make {}", path.display()), error),
        StartFault::System(error) => Failure::system("cannot start", error),
        StartFault::Engine(EngineFault::Device { device, error }) => {
            Failure::system(&format!("cannot open the device {device}"), error)
        }
        StartFault::TakeOver(_) | StartFault::Engine(_) => Failure::Failed(fault.to_string()),
    }
}
