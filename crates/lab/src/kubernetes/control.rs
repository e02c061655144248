//! The control plane: what its programs are told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use super::network::{API_PORT, Network};
use crate::init::{AgentCommand, Program};
use crate::layout::etcd_endpoint;
use crate::options::{Cni, Kubernetes, Options};

/// A program of Kubernetes with its arguments.
pub fn command(cluster: &Kubernetes, program: Program, args: Vec<String>) -> AgentCommand {
    let path = cluster.programs.join(program.as_str()).display().to_string();
    AgentCommand { argv: [path].into_iter().chain(args).collect(), env: environment() }
}

/// Where programs of the host are found: those of administrators, too.
pub fn environment() -> BTreeMap<String, String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    BTreeMap::from([("PATH".to_owned(), path.to_owned())])
}

/// The API.
pub fn apiserver(options: &Options, dir: &Path) -> Vec<String> {
    let network = Network(options.families);
    let file = |name: &str| dir.join(name).display().to_string();
    let etcd = etcd_endpoint(options.etcd_scheme(), 0, 1, options.families.v4());
    vec![
        format!("--advertise-address={}", network.control()),
        format!("--bind-address={}", network.anywhere()),
        format!("--secure-port={API_PORT}"),
        format!("--etcd-servers={etcd}"),
        format!("--client-ca-file={}", file("ca.pem")),
        format!("--tls-cert-file={}", file("kube-apiserver.pem")),
        format!("--tls-private-key-file={}", file("kube-apiserver.key")),
        format!("--kubelet-certificate-authority={}", file("ca.pem")),
        format!("--kubelet-client-certificate={}", file("admin.pem")),
        format!("--kubelet-client-key={}", file("admin.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", file("tokens.pub")),
        format!("--service-account-signing-key-file={}", file("tokens.key")),
        format!("--service-cluster-ip-range={}", network.services()),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        // No proxy for Services runs beside it.
        "--enable-aggregator-routing=true".into(),
        "--profiling=false".into(),
    ]
}

/// The controllers. Nodes get ranges of pods from them only where the CNI plugins go by those.
pub fn controllers(options: &Options, cluster: &Kubernetes, dir: &Path) -> Vec<String> {
    let network = Network(options.families);
    let file = |name: &str| dir.join(name).display().to_string();
    let mut args = vec![
        format!("--kubeconfig={}", file("kube-controller-manager.conf")),
        format!("--root-ca-file={}", file("ca.pem")),
        format!("--service-account-private-key-file={}", file("tokens.key")),
        format!("--cluster-signing-cert-file={}", file("ca.pem")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        format!("--service-cluster-ip-range={}", network.services()),
        "--use-service-account-credentials=true".into(),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
    ];
    if cluster.cni != Cni::Ripstop {
        args.push("--allocate-node-cidrs=true".into());
        args.push(format!("--cluster-cidr={}", network.pods()));
        let sizes = match (options.families.v4(), options.families.v6()) {
            (true, true) => vec!["--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"],
            (true, _) => vec!["--node-cidr-mask-size=24"],
            _ => vec!["--node-cidr-mask-size=64"],
        };
        args.extend(sizes.into_iter().map(str::to_owned));
    }
    args
}

/// What gives pods a node.
pub fn scheduler(dir: &Path) -> Vec<String> {
    let config = dir.join("kube-scheduler.conf").display().to_string();
    vec![format!("--kubeconfig={config}"), "--leader-elect=false".into(), "--bind-address=127.0.0.1".into()]
}

/// The names under which the API is asked.
pub fn names(options: &Options) -> Vec<String> {
    let network = Network(options.families);
    let services = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned);
    let mut names: Vec<String> = services.into();
    names.push("kubernetes.default.svc.cluster.local".into());
    names.extend(network.api());
    let (v4, v6) = crate::layout::control_addresses();
    let own: [IpAddr; 3] = [v4.into(), v6.into(), [127, 0, 0, 1].into()];
    names.extend(own.map(|ip| ip.to_string()));
    names
}
