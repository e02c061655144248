//! The thread that reads tracked connections: there may be a million, and what pods wait for does not wait behind them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use ripstop_kernel::{ObserveError, Observer};
use ripstop_tables::{Input, Tracking};
use tokio::sync::mpsc::UnboundedSender;

use crate::message::Message;

/// A question for connections.
pub struct Look {
    /// Its number.
    pub look: u64,
    /// Addresses that began them,
    pub from: BTreeSet<IpAddr>,
    /// or that answer them.
    pub to: BTreeSet<IpAddr>,
}

/// Starts the thread; it ends with who asks.
///
/// # Errors
/// The system refuses a thread.
pub fn start(queue: UnboundedSender<Message>) -> anyhow::Result<mpsc::Sender<Look>> {
    let (looks, asked) = mpsc::channel();
    let work = move || {
        let mut observer = None;
        for Look { look, from, to } in asked {
            let found = read(&mut observer, &from, &to).map_err(|error| error.to_string());
            if queue.send(Message::Input(Input::Tracked { look, found })).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("tracking".into()).spawn(work).context("cannot start a thread")?;
    Ok(looks)
}

fn read(
    observer: &mut Option<Observer>,
    from: &BTreeSet<IpAddr>,
    to: &BTreeSet<IpAddr>,
) -> Result<Tracking, ObserveError> {
    let observer = match observer {
        Some(observer) => observer,
        None => observer.insert(Observer::open()?),
    };
    let since = Instant::now();
    let connections = observer.connections(from, to)?;
    tracing::debug!("{} tracked connections were read in {:.1?}", connections.len(), since.elapsed());
    Ok(Tracking { connections, own: observer.addresses()? })
}
