//! `ripstop store`: the embedded store of several agents on one machine.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use ripstop_store::{Embedded, Server, StoreError};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, INTERRUPTED};
use crate::print::talk;

/// Serve the embedded store to several agents on this machine
///
/// An agent that is alone on its machine opens the file itself and needs no server; agents on several hosts need etcd.
#[derive(Debug, Args)]
#[command(subcommand_value_name = "COMMAND")]
pub struct Store {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Serve a store's file on a unix socket, in the foreground, until SIGTERM or SIGINT
    ///
    /// Agents name the socket in their configuration: store: {embedded: {socket: PATH}}. Pods and traffic do not need
    /// the store; while it is away, agents go on with what they know.
    Serve(Serve),
}

#[derive(Debug, Args)]
struct Serve {
    /// The socket to make, which only its owner may use
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The store's file, which is made where there is none; its folder must exist
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

impl Store {
    /// Serves until told to stop.
    ///
    /// # Errors
    /// Where the file cannot be opened or the socket cannot be made.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let Sub::Serve(serve) = self.command;
        tracing_subscriber::fmt().with_writer(stderr).with_ansi(stderr().is_terminal()).init();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::system("cannot start", &error))?;
        runtime.block_on(serve.run())
    }
}

impl Serve {
    async fn run(self) -> Result<ExitCode, Failure> {
        let cannot = |error| Failure::system("cannot wait for signals", &error);
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        // The file first: whoever cannot have it must not take the socket of who has.
        let store = Arc::new(Embedded::open(&self.file).map_err(refused)?);
        let server = Server::bind(store, &self.socket).map_err(refused)?;
        talk(&format!("serving {} on {}", self.file.display(), self.socket.display()));
        let interrupted = AtomicBool::new(false);
        server
            .run(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => interrupted.store(true, Ordering::Relaxed),
                }
            })
            .await;
        Ok(if interrupted.into_inner() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
    }
}

/// The store tells the system's answers as text, the number behind: a fault crosses its socket as it is.
fn refused(error: StoreError) -> Failure {
    let text = error.to_string();
    match error {
        StoreError::Io { cause, .. } if cause.ends_with("(os error 13)") || cause.ends_with("(os error 1)") => {
            Failure::NotPermitted(text)
        }
        StoreError::Invalid { .. } => Failure::Usage(text),
        StoreError::Away { .. } => Failure::Away(text),
        _ => Failure::Failed(text),
    }
}
