//! Where etcd is and how it is spoken to.

use std::path::PathBuf;
use std::time::Duration;

use super::flannel::FlannelOptions;

/// How to reach an etcd cluster.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Addresses of members: `http://10.0.0.1:2379`, `https://etcd-2.example:2379`. At least one; they are used one at a
    /// time, in this order, and the next one where one fails.
    pub endpoints: Vec<String>,
    /// What every key begins with; ends with '/'.
    pub prefix: String,
    /// Certificates, for endpoints with `https`.
    pub tls: EtcdTls,
    /// Who asks, where the cluster has users.
    pub user: Option<EtcdUser>,
    /// Longest wait for an answer; a member that takes longer is given up.
    pub timeout: Duration,
    /// Flannel's records in the same cluster; none: they are not looked at.
    pub flannel: Option<FlannelOptions>,
}

impl EtcdOptions {
    /// Plain options for these endpoints.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/ripstop/".into(),
            tls: EtcdTls::default(),
            user: None,
            timeout: Duration::from_secs(5),
            flannel: None,
        }
    }
}

/// Certificates, as PEM files. They are read at every connection, so that they can be replaced.
#[derive(Debug, Clone, Default)]
pub struct EtcdTls {
    /// The authorities that may have signed the members' certificates.
    pub ca: Option<PathBuf>,
    /// The certificate by which this node shows who it is, with its chain.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The name in the members' certificates, where it is not the endpoint's.
    pub server_name: Option<String>,
}

/// A user of the cluster.
#[derive(Debug, Clone)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// A file with the password; a line end at its end is not part of it.
    pub password_file: PathBuf,
}
