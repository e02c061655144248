//! Certificates, users and passwords: right ones work, and wrong ones are named.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use ripstop_store::{Etcd, EtcdOptions, EtcdTls, EtcdUser, Expect, Kind, Store, StoreError};
use serde_json::json;

use super::server::{Servers, Setup, is_here};

/// An authority with a folder for what it signs.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a certificate for these names; its files are `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, names: &[&str]) -> &Self {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        self
    }

    /// What a client with one of the certificates is told.
    fn tls(&self, name: &str) -> EtcdTls {
        EtcdTls {
            ca: Some(self.path("ca.pem")),
            cert: Some(self.path(&format!("{name}.pem"))),
            key: Some(self.path(&format!("{name}.key"))),
            server_name: Some("etcd.test".into()),
        }
    }
}

fn secured(authority: &Authority) -> Servers {
    authority.sign("server", &["etcd.test", "localhost"]).sign("client", &["client"]);
    let file = |name: &str| authority.path(name).display().to_string();
    let mut args = vec!["--client-cert-auth".to_owned()];
    for (flag, name) in [("cert-file", "server.pem"), ("key-file", "server.key"), ("trusted-ca-file", "ca.pem")] {
        args.extend([format!("--{flag}"), file(name)]);
    }
    Servers::start(Setup { args, tls: true, ..Setup::default() })
}

async fn fault(options: EtcdOptions) -> StoreError {
    match Etcd::connect(options).await {
        Ok(_) => panic!("it connected"),
        Err(fault) => fault,
    }
}

#[track_caller]
fn says(fault: &StoreError, words: &[&str]) {
    let text = fault.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
    assert!(text.len() < 400 && !text.contains('\n'), "{text:?} is no sentence");
}

#[tokio::test]
async fn certificates_are_checked_both_ways_and_faults_name_the_file() {
    if !is_here("etcd with TLS") {
        return;
    }
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let servers = secured(&ours);
    other.sign("client", &["client"]);
    let endpoint = servers.endpoint(0);
    let with = |tls: EtcdTls| EtcdOptions { tls, ..EtcdOptions::new([endpoint.clone()]) };
    let right = ours.tls("client");
    let etcd = Etcd::connect(with(right.clone())).await.unwrap();
    let given = etcd.put_if(Kind::Nodes, "n1", &json!({"a": 1}), Expect::Absent).await.unwrap();
    let mut watch = etcd.watch(&[Kind::Nodes]);
    assert!(matches!(watch.recv().await, Some(ripstop_store::Event::Put(record)) if record.revision == given));

    let ca = other.path("ca.pem");
    let wrong_ca = fault(with(EtcdTls { ca: Some(ca.clone()), ..right.clone() })).await;
    says(&wrong_ca, &["not signed by", ca.to_str().unwrap(), "tls.ca", &endpoint]);
    let wrong_name = fault(with(EtcdTls { server_name: Some("elsewhere.test".into()), ..right.clone() })).await;
    says(&wrong_name, &["not for elsewhere.test", "tls.serverName"]);
    let none = fault(with(EtcdTls { cert: None, key: None, ..right.clone() })).await;
    says(&none, &["client certificate", "tls.cert"]);
    let foreign = EtcdTls { ca: right.ca.clone(), ..other.tls("client") };
    let foreign = fault(with(foreign)).await;
    says(&foreign, &["not accept this node's certificate", "client.pem"]);
    let crossed = EtcdTls { key: Some(other.path("client.key")), ..right.clone() };
    says(&fault(with(crossed)).await, &["client.pem", "client.key"]);

    let missing = ours.path("missing.pem");
    let gone = fault(with(EtcdTls { ca: Some(missing.clone()), ..right.clone() })).await;
    says(&gone, &["missing.pem", "No such file"]);
    std::fs::write(&missing, "no certificate at all").unwrap();
    let no_pem = fault(with(EtcdTls { cert: Some(missing), ..right.clone() })).await;
    says(&no_pem, &["missing.pem", "no CERTIFICATE in PEM form"]);
    let plain = EtcdOptions::new([endpoint.replace("https", "http")]);
    says(&fault(plain).await, &["https://"]);
}

#[tokio::test]
async fn tls_to_a_server_without_it_is_said_in_a_sentence() {
    if !is_here("etcd without TLS") {
        return;
    }
    let servers = Servers::start(Setup::default());
    let endpoint = servers.endpoint(0).replace("http", "https");
    says(&fault(EtcdOptions::new([endpoint])).await, &["does not speak TLS", "http://"]);
    let refused = fault(EtcdOptions::new([format!("http://{}", unused(&servers))])).await;
    says(&refused, &["connection refused", "is etcd running there?"]);
}

/// An address on which nobody listens.
fn unused(servers: &Servers) -> std::net::SocketAddr {
    let mut address = servers.client(0);
    address.set_port(1);
    address
}

#[tokio::test]
async fn certificates_are_read_again_at_each_connection() {
    if !is_here("etcd with new certificates") {
        return;
    }
    let ours = Authority::new("ours");
    let servers = secured(&ours);
    let tls = ours.tls("later");
    let etcd = Etcd::lazy(EtcdOptions { tls, ..EtcdOptions::new([servers.endpoint(0)]) }).unwrap();
    says(&etcd.get(Kind::Nodes, "n1").await.unwrap_err(), &["later.pem", "No such file"]);
    ours.sign("later", &["client"]);
    while etcd.get(Kind::Nodes, "n1").await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A cluster in which `agent` may use `/ripstop/` alone.
fn with_users(dir: &Path) -> Servers {
    let servers = Servers::start(Setup { args: vec!["--auth-token-ttl".into(), "2".into()], ..Setup::default() });
    std::fs::write(dir.join("password"), "secret word\n").unwrap();
    for command in [
        "user add root --new-user-password=r",
        "user grant-role root root",
        "role add agent",
        "role grant-permission agent --prefix=true readwrite /ripstop/",
    ] {
        servers.ctl(&command.split(' ').collect::<Vec<_>>());
    }
    servers.ctl(&["user", "add", "agent", "--new-user-password=secret word"]);
    servers.ctl(&["user", "grant-role", "agent", "agent"]);
    servers.ctl(&["auth", "enable"]);
    servers
}

#[tokio::test]
async fn users_sign_in_and_tokens_that_run_out_are_renewed() {
    if !is_here("etcd with users") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let servers = with_users(dir.path());
    let user = |name: &str| Some(EtcdUser { name: name.into(), password_file: dir.path().join("password") });
    let with = |user| EtcdOptions { user, ..EtcdOptions::new([servers.endpoint(0)]) };
    says(&fault(with(None)).await, &["wants a user", "passwordFile"]);
    says(&fault(with(user("nobody"))).await, &["\"nobody\" is not known there", "password"]);
    let elsewhere = EtcdOptions { prefix: "/other/".into(), ..with(user("agent")) };
    says(&fault(elsewhere).await, &["user \"agent\" may not", "/other/"]);

    let etcd = Etcd::connect(with(user("agent"))).await.unwrap();
    let mut watch = etcd.watch(&[Kind::Nodes]);
    assert!(matches!(watch.recv().await, Some(ripstop_store::Event::Synced { .. })));
    // Tokens last two seconds here.
    for turn in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        let given = etcd.put_if(Kind::Nodes, "n1", &json!(turn), Expect::Any).await.unwrap();
        match watch.recv().await {
            Some(ripstop_store::Event::Put(record)) => assert_eq!(record.revision, given),
            other => panic!("{other:?}"),
        }
    }
    std::fs::write(dir.path().join("password"), "wrong").unwrap();
    says(&fault(with(user("agent"))).await, &["password", "is wrong"]);
}
