//! A TCP address in front of a server that can be shut: what a network between them would do.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// They are carried.
    All,
    /// They are closed, and new ones too.
    None,
}

/// Carries connections to a server.
pub struct Gate {
    pub address: SocketAddr,
    passing: Arc<watch::Sender<Passing>>,
    task: JoinHandle<()>,
}

impl Gate {
    pub async fn start(back: SocketAddr) -> Self {
        let listener = TcpListener::bind((back.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let passing = Arc::new(watch::Sender::new(Passing::All));
        let shared = passing.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, back, shared.subscribe()));
            }
        });
        Self { address, passing, task }
    }

    pub fn pass(&self, what: Passing) {
        self.passing.send_replace(what);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.pass(Passing::None);
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, back: SocketAddr, mut passing: watch::Receiver<Passing>) {
    if *passing.borrow_and_update() == Passing::None {
        return;
    }
    let Ok(mut server) = TcpStream::connect(back).await else { return };
    // Small questions and answers must not wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = passing.wait_for(|passing| *passing == Passing::None) => {}
    }
}
