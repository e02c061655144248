//! API servers of other ages, whose programs cannot be built here: something that answers as they do, by the same TLS and
//! HTTP/2. What it says of its version is all that it has.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ripstop_store::{Access, Event, Kind, Kubernetes, KubernetesOptions, Store};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::server::write_secrets;

/// The answer to `/version`, which may change.
type Version = Arc<Mutex<(StatusCode, String)>>;

fn acceptor(dir: &Path) -> TlsAcceptor {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(dir.join("server.pem")).unwrap().collect();
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = config.with_single_cert(chain.unwrap(), key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, version: Version) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, version) = (acceptor.clone(), version.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let answer = service_fn(move |request: Request<Incoming>| {
                let version = version.lock().unwrap().clone();
                let (status, body) =
                    if request.uri().path() == "/version" { version } else { (StatusCode::NOT_FOUND, "none".into()) };
                let answer = Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap();
                async move { Ok::<_, Infallible>(answer) }
            });
            // The client ends it.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), answer)
                .await;
        });
    }
}

/// The next reason why the store is away, where it has these words.
async fn reason(events: &mut tokio::sync::mpsc::Receiver<Event>, words: &[&str]) {
    let wanted = async {
        loop {
            match events.recv().await.unwrap() {
                Event::Away { reason } if words.iter().all(|word| reason.contains(word)) => return,
                Event::Away { .. } | Event::Back => {}
                other => panic!("{other:?} of a server that has nothing"),
            }
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(30), wanted).await;
    assert!(came.is_ok(), "no reason has {words:?}");
}

#[tokio::test]
async fn a_server_of_another_age_is_named_and_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    write_secrets(dir.path(), "127.0.0.1".parse().unwrap());
    let git = |version: &str| (StatusCode::OK, format!("{{\"major\": \"1\", \"gitVersion\": {version:?}}}"));
    let version: Version = Arc::new(Mutex::new(git("v1.30.14")));
    tokio::spawn(serve(listener, acceptor(dir.path()), version.clone()));
    let kubeconfig = dir.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- {{name: c, context: {{cluster: c, user: u}}}}\n\
         clusters:\n- {{name: c, cluster: {{server: 'https://{at}', certificate-authority: ca.pem}}}}\n\
         users:\n- {{name: u, user: {{token: t}}}}\n"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let options = || KubernetesOptions::new(Access::Kubeconfig(kubeconfig.clone()));

    let refused = Kubernetes::connect(options()).await.err().unwrap().to_string();
    for word in [&format!("https://{at}"), "it is Kubernetes v1.30.14", "not supported", "1.31 or later"] {
        assert!(refused.contains(word), "{refused}");
    }
    let store = Kubernetes::lazy(options());
    let mut events = store.watch(&[Kind::Networks]);
    reason(&mut events, &["it is Kubernetes v1.30.14", "1.31 or later is"]).await;
    *version.lock().unwrap() = (StatusCode::OK, "<html>a proxy's greeting</html>".into());
    reason(&mut events, &["no API server of Kubernetes"]).await;
    *version.lock().unwrap() = git("v2.0.0-alpha.1+later");
    // It is taken now, and what is missing is the next thing to be said.
    reason(&mut events, &["list networks.ripstop.io", "does not have that kind of object", "deploy/ripstop.yaml"])
        .await;
    // One that hides its version from whoever asks is no worse.
    *version.lock().unwrap() = (StatusCode::FORBIDDEN, String::new());
    assert!(Kubernetes::connect(options()).await.is_ok());
}
