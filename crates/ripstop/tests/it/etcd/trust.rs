//! etcd as README recommends it: certificates both ways, and a user for the agents.

use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use ripstop_lab::layout::etcd_endpoint;
use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Lab, Options, PodSpec, Target};
use serde_json::json;

use super::{PATIENCE, ip, lab, patiently, pods, reaches, store_is};

/// An authority with a folder for what it signs.
pub struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a certificate; its files are `NAME.pem` and `NAME.key`. It is for the router of the lab.
    pub fn sign(&self, name: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        for ip in ["127.0.0.1", "172.30.1.1"] {
            params.subject_alt_names.push(SanType::IpAddress(ip.parse().unwrap()));
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Arguments of a member that wants certificates.
    pub fn args(&self) -> Vec<String> {
        let pairs = [("cert-file", "server.pem"), ("key-file", "server.key"), ("trusted-ca-file", "ca.pem")];
        let mut args: Vec<String> = pairs.map(|(flag, file)| format!("--{flag}={}", self.text(file))).into();
        args.push("--client-cert-auth".into());
        args
    }

    /// The part `tls` of an agent's configuration.
    pub fn tls(&self) -> serde_json::Value {
        json!({"ca": self.path("ca.pem"), "cert": self.path("node.pem"), "key": self.path("node.key")})
    }
}

/// Signs what a cluster with certificates needs: for the members, the nodes and the operator.
pub fn authority() -> Authority {
    let authority = Authority::new("ours");
    ["server", "node", "root"].iter().for_each(|name| authority.sign(name));
    authority
}

/// As an operator with a certificate: the user that it names.
fn ctl(authority: &Authority, lab: &str, args: &[&str]) -> bool {
    let names = [("cacert", "ca.pem"), ("cert", "root.pem"), ("key", "root.key")];
    let flags = names.map(|(flag, file)| format!("--{flag}={}", authority.text(file)));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("rip-{lab}-router"), "etcdctl"]);
    command.arg(format!("--endpoints={}", etcd_endpoint("https", 0, 1, true))).args(flags).args(args);
    command.output().is_ok_and(|output| output.status.success())
}

/// Makes the user of the agents once etcd answers, and lets nobody in without one.
fn admit(authority: &Authority, lab: &str) {
    patiently("etcd answers", || ctl(authority, lab, &["get", "x"]));
    for command in [
        "user add root --new-user-password=r",
        "user grant-role root root",
        "role add ripstop",
        "role grant-permission ripstop --prefix=true readwrite /ripstop/",
        "user add ripstop --new-user-password=secret",
        "user grant-role ripstop ripstop",
        "auth enable",
    ] {
        assert!(ctl(authority, lab, &command.split(' ').collect::<Vec<_>>()), "{command}");
    }
}

#[test]
fn a_cluster_with_certificates_and_a_user_outlives_wrong_ones() {
    let name = "t-etcd-trust";
    let authority = authority();
    let password = authority.path("password");
    std::fs::write(&password, "secret\n").unwrap();
    let etcd = json!({"tls": authority.tls(), "user": "ripstop", "passwordFile": password});
    let options = Options {
        nodes: 2,
        backend: Backend::Vxlan,
        etcd_args: authority.args(),
        agent_config: json!({"store": {"etcd": etcd}}),
        ..Options::named(name)
    };
    // Agents wait for a user that is made while they start.
    let made = std::thread::scope(|scope| {
        scope.spawn(|| admit(&authority, name));
        lab(options)
    });
    let Some(lab) = made else { return };
    pods(&lab);
    reaches(&lab, "p1", &ip(&lab, "p2"));
    let prober = lab.probe(200, &Pairs::All).unwrap();

    let other = Authority::new("other");
    other.sign("node");
    let config = lab.layout().machine_dir("n1").join("etc/config.yaml");
    let right = std::fs::read_to_string(&config).unwrap();
    let wrong_ca = right.replace(&authority.text("ca.pem"), &other.text("ca.pem"));
    told(&lab, &config, &wrong_ca, &["https://172.30.1.1:2379", "not signed by", &other.text("ca.pem"), "tls.ca"]);
    let wrong_cert = ["node.pem", "node.key"]
        .into_iter()
        .fold(right.clone(), |text, file| text.replace(&authority.text(file), &other.text(file)));
    told(&lab, &config, &wrong_cert, &["not accept this node's certificate", &other.text("node.pem")]);
    std::fs::write(&password, "wrong\n").unwrap();
    told(&lab, &config, &right, &["password", "is wrong"]);
    std::fs::write(&password, "secret\n").unwrap();
    store_is(&lab, 1, true);
    let report = prober.stop().unwrap();
    assert_eq!((report.lost, report.dup), (0, 0), "{report:?}");
    lab.down().unwrap();
}

/// With this configuration the agent says what is wrong, and goes on with what it knows.
fn told(lab: &Lab, config: &Path, text: &str, words: &[&str]) {
    std::fs::write(config, text).unwrap();
    lab.node(1).stop_agent(false).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    lab.wait_ready(&[1], PATIENCE).unwrap();
    let mut said = String::new();
    patiently(&format!("status says {words:?}"), || {
        let output = Command::new(env!("CARGO_BIN_EXE_ripstop"))
            .args(["--lab", lab.layout().lab(), "--node", "1", "status"])
            .output()
            .unwrap();
        let now = String::from_utf8(output.stdout).unwrap();
        if now != said {
            println!("{now}");
            said = now;
        }
        let line = said.lines().find(|line| line.starts_with("Store:")).unwrap_or_default();
        words.iter().all(|word| line.contains(word)) && line.matches("away").count() == 1
    });
    lab.pod_add(&PodSpec::new("alone", 1)).unwrap();
    lab.exec(&Target::Pod("alone".into()), &["ping", "-c", "1", "-W", "5", &ip(lab, "p2")]).unwrap();
    lab.pod_del("alone").unwrap();
}
