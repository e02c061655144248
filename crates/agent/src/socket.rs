//! Unix sockets of the agent, and the one that plugins talk to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use ripstop_cni_spec::wire::{MAX_LINE, Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::message::Message;

/// Listens on a path that only root may use. A socket that nobody answers on is replaced.
///
/// # Errors
/// Where somebody answers, or the folder cannot be written.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if path.exists() {
        if StdUnixStream::connect(path).is_ok() {
            bail!("{} is in use by another process", path.display());
        }
        fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on {}; is its folder writable?", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes plugins' requests for as long as the agent runs.
pub async fn serve_plugins(listener: UnixListener, queue: UnboundedSender<Message>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let queue = queue.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve_plugin(stream, &queue).await {
                        tracing::debug!("a plugin's connection ended: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; those in use end soon.
                tracing::warn!("cannot take a plugin's connection: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// Reads one request, and writes its answer.
///
/// # Errors
/// Where the plugin goes away, or the agent ends.
pub async fn serve_plugin(stream: UnixStream, queue: &UnboundedSender<Message>) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    BufReader::with_capacity(4096, read.take(limit)).read_until(b'\n', &mut line).await?;
    let response = match Request::parse(&line) {
        Err(error) => Response::failed(error),
        Ok(request) => {
            if hung_up(&write) {
                // It was killed. Its runtime may have deleted by another call already, behind which nothing must be added.
                bail!("a plugin went away before its call began");
            }
            let (answer, answered) = oneshot::channel();
            if queue.send(Message::Cni { request, answer }).is_err() {
                bail!("the agent is ending");
            }
            answered.await.context("the agent is ending")?
        }
    };
    let line = response.to_line().unwrap_or_else(|error| Response::failed(error).to_line().unwrap_or_default());
    write.write_all(&line).await?;
    Ok(())
}

/// Whether nobody is at the other end any more.
fn hung_up(connection: &OwnedWriteHalf) -> bool {
    let mut fds = [PollFd::new(connection.as_ref(), PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1..)) && fds[0].revents().contains(PollFlags::HUP)
}
