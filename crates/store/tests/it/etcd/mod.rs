//! The store in etcd: what only it has, on real servers.

mod faults;
mod flannel;
pub mod gate;
mod server;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ripstop_store::suite::Fixture;
use ripstop_store::{Etcd, EtcdOptions, Store};
use tokio::sync::Mutex;

use gate::{Gate, Passing};
pub use server::is_here;
use server::{Servers, Setup};

/// A server of one member with clients, each on a connection of its own, through a gate.
pub struct Single {
    servers: Mutex<Servers>,
    gate: Gate,
}

impl Single {
    pub async fn new() -> Self {
        let servers = Servers::start(Setup::default());
        let gate = Gate::start(servers.client(0)).await;
        Self { servers: Mutex::new(servers), gate }
    }
}

fn options(address: SocketAddr) -> EtcdOptions {
    EtcdOptions::new([format!("http://{address}")])
}

#[async_trait]
impl Fixture for Single {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(Etcd::connect(options(self.gate.address)).await.unwrap())
    }

    async fn restart(&self) -> bool {
        let mut servers = self.servers.lock().await;
        servers.kill(0);
        // Clients, which run on this thread, see that it is gone.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        servers.restart(0);
        true
    }

    fn handles_survive(&self) -> bool {
        true
    }

    async fn part(&self) -> bool {
        self.gate.pass(Passing::None);
        true
    }

    async fn join(&self) {
        self.gate.pass(Passing::All);
    }
}
