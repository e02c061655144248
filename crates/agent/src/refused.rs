//! The thread that asks the kernel, every few seconds, which packets policies have refused.

use std::thread;
use std::time::Duration;

use ripstop_kernel::{ObserveError, RefusedReader};
use ripstop_netmodel::Refused;
use ripstop_tables::Input;
use tokio::sync::mpsc::UnboundedSender;

use crate::message::Message;

/// Between two readings. What is counted is kept in the kernel for thirty times as long.
const LOOK: Duration = Duration::from_secs(2);

/// Tells the agent of what comes. The first reading is all that the kernel still knows, also of what an earlier run was told.
pub fn watch(queue: UnboundedSender<Message>) {
    let work = move || {
        let (mut reader, mut before, mut is_told) = (None, Refused::default(), false);
        while !queue.is_closed() {
            match read(&mut reader) {
                Ok(now) => {
                    is_told = false;
                    let since = now.since(&before);
                    before = now;
                    // The agent is ending where this fails.
                    if !since.is_empty() && queue.send(Message::Input(Input::Refused(since))).is_err() {
                        break;
                    }
                }
                Err(error) if !is_told => {
                    tracing::warn!("{error}; until it can be, nobody is told which packets policies refuse");
                    (reader, is_told) = (None, true);
                }
                Err(_) => reader = None,
            }
            thread::sleep(LOOK);
        }
    };
    if let Err(error) = thread::Builder::new().name("refused".into()).spawn(work) {
        tracing::warn!("cannot start the thread that reads which packets policies refuse: {error}");
    }
}

fn read(reader: &mut Option<RefusedReader>) -> Result<Refused, ObserveError> {
    match reader {
        Some(reader) => reader.read(),
        None => reader.insert(RefusedReader::open()?).read(),
    }
}
