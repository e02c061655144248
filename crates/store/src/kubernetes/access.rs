//! From a kubeconfig or a service account to what a connection needs: an address, certificates, a token.
//!
//! Files are read at each connection, and a token's file once a minute besides, since it is replaced while it is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use http::Uri;
use ripstop_objects::{Kubeconfig, Pem, Token};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::options::Access;

/// Where a pod finds its service account (Kubernetes' documentation, "Accessing the API from a Pod").
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A token from a file is read again after this.
pub(super) const TOKEN_AGE: Duration = Duration::from_secs(60);

/// An API server and how to ask it.
pub(super) struct Server {
    /// `https://HOST[:PORT]`, for messages.
    pub url: String,
    pub host: String,
    pub port: u16,
    /// What every path begins with; empty, or without a '/' at its end.
    pub prefix: String,
    pub name: ServerName<'static>,
    pub tls: Arc<ClientConfig>,
    pub token: Option<Secret>,
}

/// A token, and where it comes from.
#[derive(Clone)]
pub(super) enum Secret {
    Here(String),
    File(PathBuf),
}

impl Secret {
    /// The token as it is now.
    pub(super) fn read(&self) -> Result<String, String> {
        match self {
            Self::Here(token) => Ok(token.clone()),
            Self::File(path) => {
                let token = text(path, "the token")?.trim().to_owned();
                let plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
                if plain { Ok(token) } else { Err(format!("the token {} is not one line of text", path.display())) }
            }
        }
    }
}

impl Server {
    /// Reads what there is to read.
    ///
    /// # Errors
    /// A sentence with the file and what is wrong with it.
    pub(super) fn read(access: &Access) -> Result<Self, String> {
        match access {
            Access::Kubeconfig(path) => {
                let config = Kubeconfig::decode(&text(path, "the kubeconfig")?)
                    .map_err(|faults| format!("{}: {}", path.display(), faults.to_string().replace('\n', "; ")))?;
                Self::of(&config, path.parent().unwrap_or(Path::new("/")))
                    .map_err(|fault| format!("{}: {fault}", path.display()))
            }
            Access::InCluster => Self::of(&service_account()?, Path::new(ACCOUNT)),
        }
    }

    fn of(config: &Kubeconfig, folder: &Path) -> Result<Self, String> {
        let uri: Uri = config.server.parse().map_err(|_| format!("{} is not an address", config.server))?;
        let host = uri.host().ok_or_else(|| format!("{} has no host", config.server))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = config.server_name.clone().unwrap_or_else(|| bare.to_owned());
        let name = ServerName::try_from(name.clone()).map_err(|_| format!("{name} is not a server's name"))?;
        let token = config.token.as_ref().map(|token| match token {
            Token::Inline(token) => Secret::Here(token.clone()),
            Token::File(path) => Secret::File(folder.join(path)),
        });
        Ok(Self {
            url: format!("https://{}", uri.authority().map_or(host, |authority| authority.as_str())),
            host: bare.to_owned(),
            port: uri.port_u16().unwrap_or(443),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            name,
            tls: Arc::new(tls(config, folder)?),
            token,
        })
    }
}

fn service_account() -> Result<Kubeconfig, String> {
    let of = |name: &str| {
        std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
            format!(
                "{name} is not set, so this is no pod with a service account: name a kubeconfig in store.kubernetes"
            )
        })
    };
    let (host, port) = (of("KUBERNETES_SERVICE_HOST")?, of("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(Kubeconfig {
        server: format!("https://{host}:{port}"),
        ca: Some(Pem::File("ca.crt".into())),
        server_name: None,
        client: None,
        token: Some(Token::File("token".into())),
    })
}

fn tls(config: &Kubeconfig, folder: &Path) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let ca = config
        .ca
        .as_ref()
        .ok_or("the cluster has no certificate-authority, so nothing tells its API server from another: set one")?;
    let (text, from) = pem(ca, folder, "certificate-authority")?;
    for cert in certificates(&text, &from)? {
        roots.add(cert).map_err(|fault| format!("{from}: not an authority's certificate: {fault}"))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| format!("TLS: {fault}"))?
        .with_root_certificates(roots);
    let mut tls = match &config.client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let (cert, cert_from) = pem(cert, folder, "client-certificate")?;
            let (key, key_from) = pem(key, folder, "client-key")?;
            let chain = certificates(&cert, &cert_from)?;
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| format!("{key_from}: no key in PEM form"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|fault| format!("{cert_from} and {key_from} do not fit together: {fault}"))?
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

fn certificates(text: &[u8], from: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let read = read.map_err(|fault| format!("{from}: {fault}"))?;
    if read.is_empty() { Err(format!("{from}: no CERTIFICATE in PEM form")) } else { Ok(read) }
}

/// What is in PEM form, and where it is from.
fn pem(pem: &Pem, folder: &Path, field: &str) -> Result<(Vec<u8>, String), String> {
    match pem {
        Pem::File(path) => {
            let path = folder.join(path);
            Ok((text(&path, field)?.into_bytes(), path.display().to_string()))
        }
        Pem::Inline(data) => {
            let data = base64::engine::general_purpose::STANDARD.decode(data);
            Ok((data.map_err(|_| format!("{field}-data is not base64"))?, format!("{field}-data")))
        }
    }
}

fn text(path: &Path, what: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|fault| format!("cannot read {what} {}: {fault}", path.display()))
}
