//! The door of the fuzz targets to both ends of the store's socket. Not part of the crate's interface.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::server::Connection;
use crate::wire::{Lines, Tell};
use crate::{Embedded, Kind, StoreError, kubernetes};

/// Says these bytes to a server with an empty store, and hands back all that it answered.
///
/// # Errors
/// Where no store or socket can be made here.
pub async fn to_server(bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    let store = Arc::new(Embedded::in_memory()?);
    let fault = |cause: std::io::Error| StoreError::Io {
        tried: "make a pair of sockets".into(),
        path: "socketpair".into(),
        cause: cause.to_string(),
    };
    let (here, there) = UnixStream::pair().map_err(fault)?;
    let (_stop, stopped) = watch::channel(false);
    let (mut read, mut write) = here.into_split();
    let talk = async {
        // A server that refuses closes before all was said.
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
        drop(write);
    };
    let mut answers = Vec::new();
    let listen = async {
        let _ = read.read_to_end(&mut answers).await;
    };
    tokio::join!(talk, listen, Connection::serve(store, there, stopped));
    Ok(answers)
}

/// Reads text as an object of Kubernetes that keeps a record of a kind: the key, and whether the record is written as
/// the same object. Nothing where there is no record, or a number in it that the server would not have sent.
pub fn kubernetes_record(kind: Kind, text: &str) -> Option<(String, bool)> {
    kubernetes::untrusted(kind, text)
}

/// Reads bytes as a server's messages, and gives the number of those that are.
pub async fn to_client(bytes: &[u8]) -> usize {
    let mut lines = Lines::new(bytes);
    let mut count = 0;
    while let Ok(Some(line)) = lines.next().await {
        count += usize::from(serde_json::from_slice::<Tell>(line).is_ok());
    }
    count
}
