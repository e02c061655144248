//! The store's server of a lab: a process of the host that outlives the command which started it.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};
use crate::layout::{Layout, MEMBER};
use crate::machine::{spawn_detached, tail};
use crate::process::ProcessId;
use crate::programs::Programs;
use crate::space::Place;
use crate::state::State;

const READY_LIMIT: Duration = Duration::from_secs(10);

/// Starts the server, records it, and returns when it accepts connections.
pub fn start(layout: &Layout, programs: &Programs) -> Result<()> {
    let (socket, log) = (layout.store_socket(), layout.store_log());
    // A socket left by a killed server would look like a live one's.
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(&programs.ripstop);
    command.args(["store", "serve", "--socket"]).arg(&socket).arg("--file").arg(layout.store_file());
    command.env(MEMBER, layout.lab()).stdout(Stdio::null());
    let mut child = spawn_detached(&Place::host(), &mut command, &log)?;
    let id = i32::try_from(child.id()).ok().and_then(ProcessId::of);
    State::update(layout, |state| {
        state.store = id;
        Ok(())
    })?;
    let deadline = Instant::now() + READY_LIMIT;
    while UnixStream::connect(&socket).is_err() {
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() >= deadline {
            let how = ended.map_or("it does not answer".to_owned(), |status| format!("it ended: {status}"));
            return Err(LabError::Away(format!("the store did not start, {how}\n{}", tail(&log, 20))));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
