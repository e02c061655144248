//! A socket in front of a socket, that can be cut: what a network between client and server would do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// Everything.
    All,
    /// What the client says; what the server says is dropped with the connection.
    Questions,
    /// Nothing: connections are closed, and refused.
    None,
}

/// Carries connections from one socket to another.
pub struct Relay {
    /// What goes through, and how often the connections were cut.
    passing: Arc<watch::Sender<(Passing, u32)>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on `front` for those who want `back`.
    pub fn start(front: &Path, back: &Path) -> Self {
        let listener = UnixListener::bind(front).unwrap();
        let passing = Arc::new(watch::Sender::new((Passing::All, 0)));
        let (back, shared) = (back.to_owned(), passing.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, back.clone(), shared.subscribe()));
            }
        });
        Self { passing, task }
    }

    /// Changes what goes through, for the connections there are too.
    pub fn pass(&self, what: Passing) {
        self.passing.send_modify(|state| state.0 = what);
    }

    /// Cuts the connections there are.
    pub fn cut(&self) {
        self.passing.send_modify(|state| state.1 += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.pass(Passing::None);
        self.task.abort();
    }
}

async fn carry(client: UnixStream, back: PathBuf, mut passing: watch::Receiver<(Passing, u32)>) {
    let (what, cuts) = *passing.borrow_and_update();
    if what == Passing::None {
        return;
    }
    let Ok(server) = UnixStream::connect(back).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut forth = tokio::spawn(copy(from_client, to_server));
    let answers = copy_answers(from_server, to_client, passing.clone());
    tokio::select! {
        () = answers => {}
        _ = &mut forth => {}
        _ = passing.wait_for(|state| state.0 == Passing::None || state.1 != cuts) => {}
    }
    forth.abort();
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// Ends the connection where the server says something that does not go through.
async fn copy_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passing: watch::Receiver<(Passing, u32)>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if passing.borrow().0 != Passing::All || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
