//! Records in a store, written as any program writes them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use ripstop_store::{Etcd, EtcdOptions, Expect, Kind, Record, Remote, Store};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// Writes under way at one time.
const TOGETHER: usize = 256;

/// A record that is to be written.
pub type New = (Kind, String, Value);

/// A connection to a store.
pub struct Records {
    runtime: Runtime,
    store: Arc<dyn Store>,
}

impl Records {
    /// Connects to a scene's store.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = runtime()?;
        let store = Arc::new(runtime.block_on(Remote::connect(socket))?);
        Ok(Self { runtime, store })
    }

    /// Connects to etcd, from where the calling thread is and stays.
    pub fn connect_etcd(endpoint: &str) -> Result<Self> {
        let runtime = runtime()?;
        let store = Arc::new(runtime.block_on(Etcd::connect(EtcdOptions::new([endpoint.to_owned()])))?);
        Ok(Self { runtime, store })
    }

    /// All of a kind.
    pub fn list(&self, kind: Kind) -> Result<Vec<Record>> {
        Ok(self.runtime.block_on(self.store.list(kind))?)
    }

    /// Writes one, whatever is there.
    pub fn put(&self, (kind, key, value): &New) -> Result<()> {
        self.runtime.block_on(self.store.put_if(*kind, key, value, Expect::Any))?;
        Ok(())
    }

    /// Writes many, some at a time.
    pub fn put_all(&self, records: impl IntoIterator<Item = New>) -> Result<()> {
        self.runtime.block_on(async {
            let mut writes = JoinSet::new();
            for (kind, key, value) in records {
                if writes.len() >= TOGETHER
                    && let Some(written) = writes.join_next().await
                {
                    written??;
                }
                let store = self.store.clone();
                writes.spawn(async move { store.put_if(kind, &key, &value, Expect::Any).await });
            }
            while let Some(written) = writes.join_next().await {
                written??;
            }
            Ok(())
        })
    }

    /// Removes one, if it is there.
    pub fn delete(&self, kind: Kind, key: &str) -> Result<()> {
        self.runtime.block_on(self.store.delete_if(kind, key, Expect::Any))?;
        Ok(())
    }
}

/// What a connection's own work runs on.
pub fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
