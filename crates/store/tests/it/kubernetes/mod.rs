//! The store in the API of Kubernetes, on a real API server.

mod ages;
mod balancers;
mod faults;
pub mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ripstop_store::suite::{CASES, Fixture};
use ripstop_store::{Access, Kubernetes, KubernetesOptions, Store};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::etcd::gate::{Gate, Passing};
use server::{ApiServer, OPERATOR, Setup, is_here};

/// A server with clients, each on a connection of its own, through a gate. Its definitions of our kinds take any value.
struct Open {
    server: Mutex<ApiServer>,
    gate: Gate,
    kubeconfig: PathBuf,
}

impl Open {
    async fn new() -> Self {
        let server = ApiServer::start(Setup::default());
        for kind in ["networks", "nodestates", "rangeclaims"] {
            let schema = r#"{"type": "object", "x-kubernetes-preserve-unknown-fields": true}"#;
            let patch = format!(
                r#"[{{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": {schema}}},
                    {{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}}]"#
            );
            let crd = format!("{kind}.ripstop.io");
            // A field by which claims are selected must be in the schema.
            let _ = server.try_kubectl(&[
                "patch",
                "crd",
                &crd,
                "--type=json",
                "-p",
                r#"[{"op": "remove", "path": "/spec/versions/0/selectableFields"}]"#,
            ]);
            server.kubectl(&["patch", "crd", &crd, "--type=json", "-p", &patch]);
        }
        let gate = Gate::start(server.address()).await;
        let kubeconfig = server.file("gate.kubeconfig");
        server.write_kubeconfig(OPERATOR, &kubeconfig, gate.address);
        let this = Self { server: Mutex::new(server), gate, kubeconfig };
        this.wait_for_schemas().await;
        this
    }

    /// A changed schema is in force a moment later.
    async fn wait_for_schemas(&self) {
        let store = self.open().await;
        for kind in ripstop_store::Kind::ALL {
            while store.put_if(kind, "any", &Value::from(1), ripstop_store::Expect::Any).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        self.clear().await;
    }

    async fn clear(&self) {
        let server = self.server.lock().await;
        for path in
            ["ripstop.io/v1alpha1/networks", "ripstop.io/v1alpha1/nodestates", "ripstop.io/v1alpha1/rangeclaims"]
        {
            server.kubectl(&["delete", "--raw", &format!("/apis/{path}")]);
        }
        server.kubectl(&["delete", "--raw", "/apis/coordination.k8s.io/v1/namespaces/ripstop/leases"]);
    }
}

/// What clients in tests are told.
fn options(kubeconfig: PathBuf) -> KubernetesOptions {
    let spread = Duration::from_millis(50);
    KubernetesOptions { spread, ..KubernetesOptions::new(Access::Kubeconfig(kubeconfig)) }
}

#[async_trait]
impl Fixture for Open {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(Kubernetes::connect(options(self.kubeconfig.clone())).await.unwrap())
    }

    async fn restart(&self) -> bool {
        let mut server = self.server.lock().await;
        server.kill();
        // Clients, which run on this thread, see that it is gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.restart();
        true
    }

    fn handles_survive(&self) -> bool {
        true
    }

    fn has_one_order(&self) -> bool {
        false
    }

    fn longest_key(&self) -> usize {
        253
    }

    fn keeps(&self, value: &Value) -> bool {
        // A number beyond 64 bits with a sign comes back as another.
        !value.is_u64() || value.is_i64()
    }

    fn many(&self) -> u64 {
        2_000
    }

    async fn part(&self) -> bool {
        self.gate.pass(Passing::None);
        true
    }

    async fn join(&self) {
        self.gate.pass(Passing::All);
    }
}

/// The whole suite on one server, which takes longer to start than most cases.
#[tokio::test]
async fn every_law_holds() {
    if !is_here("the suite on Kubernetes") {
        return;
    }
    let fixture = Open::new().await;
    let only = std::env::var("RIPSTOP_CASE").ok();
    let mut failed = Vec::new();
    for case in CASES.iter().filter(|case| only.as_ref().is_none_or(|only| only == case.name)) {
        let begin = std::time::Instant::now();
        if let Err(why) = case.run(&fixture).await {
            failed.push(format!("{}: {}", case.name, why.chars().take(600).collect::<String>()));
        }
        println!("{}: {:?}", case.name, begin.elapsed());
        fixture.clear().await;
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
