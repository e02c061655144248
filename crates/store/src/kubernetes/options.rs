//! Where the API of Kubernetes is and who asks it.

use std::path::PathBuf;
use std::time::Duration;

use crate::Kind;

/// How to reach the API of Kubernetes.
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// Where it is, and who asks.
    pub access: Access,
    /// The namespace of the nodes' signs of life.
    pub namespace: String,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Watches that are behind what the server remembers read everything anew within this time, each at another moment.
    pub spread: Duration,
    /// Says what is wrong with a record that the server took; that is written to its object's status. None: nobody asks.
    pub judge: Option<Judge>,
}

/// Says what is wrong with the record of a key.
pub type Judge = fn(Kind, &str, &serde_json::Value) -> Result<(), String>;

/// Where an API server is and how it is asked.
#[derive(Debug, Clone)]
pub enum Access {
    /// As the current context of this file says. It is read again at each connection.
    Kubeconfig(PathBuf),
    /// By the service account of the pod in which this runs.
    InCluster,
}

impl KubernetesOptions {
    /// The options that fit most clusters.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            namespace: "ripstop".into(),
            timeout: Duration::from_secs(10),
            spread: Duration::from_secs(5),
            judge: None,
        }
    }
}
