//! What one manifest does in a cluster: it installs, it is replaced node by node under traffic, it takes itself out.

use std::path::PathBuf;

use ripstop_lab::{AGNHOST, Backend, Cni, Endpoint, Families, Lab, Options, Prober, Program, Target, Wiring};
use serde_json::json;

use super::super::cluster::patiently;
use super::{cluster, create, everybody_reaches_everybody, get, kubectl, row_of, takes_down, texts, turn, web};

/// Sets of pods of ours, with what runs in each.
const SETS: [&str; 2] = ["daemonset/ripstop-agent", "daemonset/ripstop-udp-forward"];

/// A pod of the cluster as a side of a probe.
fn side(lab: &Lab, node: u32) -> Endpoint {
    let row = row_of(lab, node);
    let name = row["name"].as_str().unwrap().to_owned();
    let netns = row["netns"].as_str().unwrap().trim_start_matches("/var").trim_start_matches('/').to_owned();
    let init = lab.node(node).record().unwrap().init.unwrap();
    let ips = row["ips"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect();
    Endpoint { name, netns: PathBuf::from(format!("/proc/{}/root", init.pid)).join(netns), ips, pod: true }
}

/// Pods of ours, by their ids.
fn pods(lab: &Lab) -> Vec<String> {
    let mut pods = texts(lab, &["pods", "-n", "ripstop"], ".items[*].metadata.uid");
    pods.sort();
    pods
}

fn rolled(lab: &Lab) {
    for set in SETS {
        kubectl(lab, &["-n", "ripstop", "rollout", "status", set, "--timeout=180s"]).unwrap();
    }
}

/// None of these pods is there any more: one that has handed over may take its time to end.
fn replaced(lab: &Lab, before: &[String]) {
    patiently("all pods are replaced", || pods(lab).iter().all(|pod| !before.contains(pod)));
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn an_update_and_its_way_back_lose_nothing_and_nothing_is_left_in_the_end() {
    let _turn = turn();
    let options =
        Options { nodes: 2, subnets: 2, backend: Backend::Udp, wiring: Wiring::Bridge, ..Options::named("t-k8s-roll") };
    let Some(lab) = cluster(options, Cni::Ripstop) else { return };
    web(&lab, 2, Families::V4);
    everybody_reaches_everybody(&lab, 2);
    let first = pods(&lab);
    let prober = Prober::start(100, &[(side(&lab, 1), side(&lab, 2))]).unwrap();
    for set in SETS {
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"edition": "2"}}}}}).to_string();
        kubectl(&lab, &["-n", "ripstop", "patch", set, "--type=merge", "-p", &patch]).unwrap();
    }
    rolled(&lab);
    replaced(&lab, &first);
    let second = pods(&lab);
    for set in SETS {
        kubectl(&lab, &["-n", "ripstop", "rollout", "undo", set]).unwrap();
    }
    rolled(&lab);
    replaced(&lab, &second);
    let report = prober.stop().unwrap();
    println!("{report:?}");
    assert!(report.sent > 0 && report.lost == 0, "{report:?}");
    everybody_reaches_everybody(&lab, 2);
    kubelet_and_runtime_start_again_under_traffic(&lab);
    another_plugin_before_ours_is_named(&lab);
    kubectl_asks_an_agent(&lab);
    a_missing_image_is_named(&lab);
    takes_itself_out(&lab, 2);
    takes_down(lab);
}

/// kubelet and containerd are killed one after the other: pods that run notice nothing, and new ones come.
fn kubelet_and_runtime_start_again_under_traffic(lab: &Lab) {
    let prober = Prober::start(100, &[(side(lab, 1), side(lab, 2))]).unwrap();
    for program in [Program::Kubelet, Program::Containerd] {
        let node = lab.node(1);
        let before = node.process(program).unwrap();
        node.signal(program, 9, false).unwrap();
        patiently("it runs again", || node.process(program).is_ok_and(|now| now.is_some() && now != before));
        let name = format!("after-{program:?}").to_lowercase();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": "n1", "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": AGNHOST, "args": ["netexec", "--http-port=8080"]}],
            },
        });
        create(lab, &pod);
        kubectl(lab, &["wait", "--for=condition=Ready", "pod", &name, "--timeout=120s"]).unwrap();
        let ip = texts(lab, &["pod", &name], ".status.podIP").remove(0);
        patiently("another node's pod gets an answer from the new one", || {
            get(lab, "web-2", &format!("http://{ip}:8080/hostname")) == Ok(name.clone())
        });
        kubectl(lab, &["delete", "pod", &name, "--wait=true", "--timeout=60s"]).unwrap();
    }
    let report = prober.stop().unwrap();
    println!("{report:?}");
    assert!(report.sent > 0 && report.lost == 0, "{report:?}");
    everybody_reaches_everybody(lab, 2);
}

/// A list of plugins that runtimes would take instead of ours is told by the container that installs, by the agent, and in
/// the status of the cluster.
fn another_plugin_before_ours_is_named(lab: &Lab) {
    let other = "/etc/cni/net.d/05-other.conflist";
    lab.exec(&lab.node(1).target(), &["sh", "-c", &format!("echo '{{}}' > {other}")]).unwrap();
    kubectl(lab, &["-n", "ripstop", "rollout", "restart", SETS[0]]).unwrap();
    rolled(lab);
    let logs = |node: u32| {
        let selector = ["-l", "app.kubernetes.io/name=ripstop-agent", "--field-selector"];
        let field = format!("spec.nodeName=n{node}");
        let args = [&["pods", "-n", "ripstop"], &selector[..], &[field.as_str()]].concat();
        let pod = texts(lab, &args, ".items[*].metadata.name").remove(0);
        kubectl(lab, &["-n", "ripstop", "logs", &pod, "-c", "install"]).unwrap()
    };
    assert!(logs(1).contains(&format!("warning: {other} comes before 10-ripstop.conflist")), "{}", logs(1));
    assert!(!logs(2).contains("warning"), "{}", logs(2));
    let warned =
        || ripstop(lab, &["status"]).unwrap().contains("warning: n1: container runtimes take /etc/cni/net.d/05-other");
    patiently("the cluster's status names it", warned);
    lab.exec(&lab.node(1).target(), &["rm", other]).unwrap();
    patiently("the cluster's status names it no more", || !ripstop(lab, &["status"]).unwrap().contains("warning"));
}

/// The product's own command, for a whole cluster.
fn ripstop(lab: &Lab, args: &[&str]) -> Result<String, String> {
    let config = lab.kubeconfig().display().to_string();
    let argv = [&[env!("CARGO_BIN_EXE_ripstop")], args, &["--cluster", "--kubeconfig", &config]].concat();
    lab.exec(&Target::Control, &argv).map_err(|error| error.to_string())
}

/// The plugin of kubectl leads to the agent of the node that is named.
fn kubectl_asks_an_agent(lab: &Lab) {
    let kubectl = PathBuf::from(lab.kubectl().unwrap().remove(0));
    let plugins = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let path = format!("PATH={}:{}:/usr/bin:/bin", kubectl.parent().unwrap().display(), plugins.display());
    let config = format!("KUBECONFIG={}", lab.kubeconfig().display());
    let ask = |node: &str| {
        let words = ["env", &path, &config, "kubectl", "ripstop", "--node", node, "get", "pods", "-o", "name"];
        lab.exec(&Target::Control, &words).map_err(|error| error.to_string())
    };
    let pods = ask("n2").unwrap();
    assert!(pods.lines().any(|pod| pod.ends_with("web-2")), "{pods}");
    let refusal = ask("n9").unwrap_err();
    assert!(refusal.contains("there is no agent on a node n9"), "{refusal}");
}

/// An image that no node has is named with the node; the way back is the same command.
fn a_missing_image_is_named(lab: &Lab) {
    let before = "agents are ready";
    let ready = ripstop(lab, &["status", "--wait", "--timeout", "60s"]).unwrap();
    assert_eq!(ready, "ripstop-agent: 2 of 2 nodes ready\nripstop-udp-forward: 2 of 2 nodes ready\n", "{before}");
    let config = lab.layout().dir().join("kubernetes/config.yaml").display().to_string();
    let install = |image: &str, limit: &str| {
        ripstop(lab, &["install", "--config", &config, "--image", image, "--timeout", limit])
    };
    let refusal = install("ripstop.io/ripstop:none", "20s").unwrap_err();
    assert!(refusal.contains("the node has no image ripstop.io/ripstop:none"), "{refusal}");
    assert!(refusal.contains("n1: ") || refusal.contains("n2: "), "{refusal}");
    let refusal = ripstop(lab, &["status"]).unwrap_err();
    assert!(refusal.contains("the node has no image"), "{refusal}");
    install(concat!("ripstop.io/ripstop:", env!("CARGO_PKG_VERSION")), "3m").unwrap();
}

/// Kernel, files and API are as they were before.
fn takes_itself_out(lab: &Lab, nodes: u32) {
    kubectl(lab, &["delete", "pod", "-l", "app=web", "--wait=true", "--timeout=60s"]).unwrap();
    ripstop(lab, &["uninstall", "--timeout", "3m"]).unwrap();
    nothing_is_left(lab, nodes);
}

/// The same by kubectl alone, as the README has it.
fn is_taken_out_by_kubectl(lab: &Lab, nodes: u32) {
    kubectl(lab, &["delete", "pod", "-l", "app=web", "--wait=true", "--timeout=60s"]).unwrap();
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let file = |name: &str| deploy.join(name).display().to_string();
    kubectl(lab, &["apply", "--server-side", "-f", &file("uninstall.yaml")]).unwrap();
    kubectl(lab, &["-n", "ripstop", "rollout", "status", "daemonset/ripstop-uninstall", "--timeout=180s"]).unwrap();
    kubectl(lab, &["delete", "-f", &file("ripstop.yaml"), "-f", &file("uninstall.yaml"), "--timeout=180s"]).unwrap();
    nothing_is_left(lab, nodes);
}

fn nothing_is_left(lab: &Lab, nodes: u32) {
    for node in 1..=nodes {
        let left = lab.exec(&lab.node(node).target(), &["sh", "-c", LEFT]).unwrap();
        assert_eq!(left, "", "on n{node}");
    }
    let left = kubectl(lab, &["api-resources", "--api-group=ripstop.io", "--no-headers"]).unwrap();
    assert_eq!(left, "");
    for kind in ["namespaces", "clusterroles", "clusterrolebindings", "customresourcedefinitions"] {
        let names = texts(lab, &[kind], ".items[*].metadata.name");
        assert!(!names.iter().any(|name| name.contains("ripstop")), "{kind}: {names:?}");
    }
    patiently("containers of ours are gone", || {
        let shown = lab
            .exec(&lab.node(1).target(), &["sh", "-c", "ps ax | grep -c '[r]ipstop \\(agent\\|udp\\|unin\\)' || true"]);
        shown.is_ok_and(|count| count.trim() == "0")
    });
}

/// Prints what is of ours on a node. Its own folders are mounted from elsewhere on a machine of the lab: such stay, empty.
const LEFT: &str = "for folder in /run/ripstop /var/lib/ripstop; do ls -A $folder 2>/dev/null; mountpoint -q $folder || ls -d $folder 2>/dev/null; done; \
    ip -o link | grep -w 'rip[^:]*' | cut -d: -f2; ip route show proto 82 table all; ip -6 route show proto 82 table all; \
    ip nexthop show proto 82; nft list tables | grep ripstop; iptables-save | grep -i ripstop; \
    ls -A /etc/cni/net.d /opt/cni/bin 2>/dev/null | grep -v -e '^$' -e ':$' -e '^bridge$' -e '^host-local$' \
    -e '^loopback$' -e '^portmap$'; true";

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn it_installs_where_there_is_only_ipv6() {
    let _turn = turn();
    let options = Options { nodes: 2, subnets: 2, families: Families::V6, ..Options::named("t-k8s-six") };
    let Some(lab) = cluster(options, Cni::Ripstop) else { return };
    web(&lab, 2, Families::V6);
    everybody_reaches_everybody(&lab, 2);
    is_taken_out_by_kubectl(&lab, 2);
    takes_down(lab);
}
