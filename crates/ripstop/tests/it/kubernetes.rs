//! A real Kubernetes on a lab's machines: pods by kubelet and containerd, Services by kube-proxy, names by CoreDNS.
//!
//! Kubernetes' programs are built by `make k8s`, so these tests wait for `make test-k8s`; where a program is missing they are
//! skipped.

mod balancers;
mod deploy;
mod judging;
mod matrix;
mod racks;
mod takeover;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ripstop_lab::clean::namespaces;
use ripstop_lab::layout::Layout;
use ripstop_lab::process::members;
use ripstop_lab::{AGNHOST, Cni, Families, Lab, Options, Target};
use serde_json::{Value, json};

use super::cluster::patiently;

/// How long a cluster may take on a busy machine.
const READY: Duration = Duration::from_secs(240);

/// Whoever holds it has a cluster: more than one at a time is too much for two cores.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cluster, or none with the reason printed.
fn cluster(options: Options, cni: Cni) -> Option<Lab> {
    Some(Lab::up(&planned(options, cni)?).unwrap())
}

fn planned(options: Options, cni: Cni) -> Option<Options> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a lab needs root");
        return None;
    }
    let ripstop = Path::new(env!("CARGO_BIN_EXE_ripstop")).to_owned();
    let plugin = Some(ripstop.with_file_name("ripstop-cni"));
    let options = Options { ripstop: Some(ripstop), plugin, replace: true, ready_timeout: READY, ..options };
    options.with_kubernetes(cni).inspect_err(|error| println!("SKIPPED: {error}")).ok()
}

/// As its administrator.
fn kubectl(lab: &Lab, args: &[&str]) -> Result<String, String> {
    let argv: Vec<String> = lab.kubectl().unwrap().into_iter().map(|word| word.into_string().unwrap()).collect();
    let argv: Vec<&str> = argv.iter().map(String::as_str).chain(args.iter().copied()).collect();
    lab.exec(&Target::Control, &argv).map_err(|error| error.to_string())
}

fn create(lab: &Lab, objects: &Value) {
    let file = lab.layout().dir().join("objects.json");
    std::fs::write(&file, objects.to_string()).unwrap();
    kubectl(lab, &["create", "--validate=false", "-f", &file.display().to_string()]).unwrap();
}

/// A web server on each node, called by the node's name, and a Service in front of all.
fn web(lab: &Lab, nodes: u32, families: Families) {
    let pod = |node: u32| pod(&format!("web-{node}"), node);
    let items: Vec<Value> = (1..=nodes).map(pod).chain([service(families)]).collect();
    create(lab, &json!({"apiVersion": "v1", "kind": "List", "items": items}));
    kubectl(lab, &["wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=120s"]).unwrap();
}

/// A web server that answers with its name.
fn pod(name: &str, node: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": format!("n{node}"), "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "web", "image": AGNHOST, "args": ["netexec", "--http-port=8080"],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
            }],
        },
    })
}

/// The Service in front of them.
fn service(families: Families) -> Value {
    let policy = if families == Families::Dual { "RequireDualStack" } else { "SingleStack" };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"}, "ipFamilyPolicy": policy,
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
        },
    })
}

/// What a node's agent knows of its web server.
fn row_of(lab: &Lab, node: u32) -> Value {
    let rows = lab.agent_json(node, "/v1/pods").unwrap();
    rows.as_array().unwrap().iter().find(|row| row["name"] == format!("web-{node}")).unwrap().clone()
}

fn texts(lab: &Lab, object: &[&str], path: &str) -> Vec<String> {
    let text = kubectl(lab, &[&["get"], object, &["-o", &format!("jsonpath={{{path}}}")]].concat()).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// What a pod gets from there.
fn get(lab: &Lab, pod: &str, url: &str) -> Result<String, String> {
    kubectl(lab, &["exec", pod, "--", "curl", "-sS", "--max-time", "5", url])
}

/// Every pod reaches every pod by its address, and the Service by its name and its addresses; so does the outside.
fn everybody_reaches_everybody(lab: &Lab, nodes: u32) {
    for from in 1..=nodes {
        let pod = format!("web-{from}");
        for to in 1..=nodes {
            let name = format!("web-{to}");
            for ip in texts(lab, &["pod", &name], ".status.podIPs[*].ip") {
                let url = format!("http://{}:8080/hostname", in_url(&ip));
                assert_eq!(get(lab, &pod, &url), Ok(name.clone()), "{pod} from {url}");
            }
        }
        let services = texts(lab, &["service", "web"], ".spec.clusterIPs[*]");
        for host in services.iter().map(|ip| in_url(ip)).chain(["web.default.svc.cluster.local".into()]) {
            let answer = get(lab, &pod, &format!("http://{host}/hostname"));
            assert!(answer.as_ref().is_ok_and(|name| name.starts_with("web-")), "{pod} from {host}: {answer:?}");
        }
    }
    for (url, answer) in outside_asks(lab) {
        assert!(answer.starts_with("web-"), "{url}: {answer}");
    }
}

/// What the outside gets from the Service at each address of each node, by URL.
fn outside_asks(lab: &Lab) -> Vec<(String, String)> {
    let state = lab.state().unwrap();
    let nodes = state.machines.values().filter(|machine| machine.node.is_some());
    let ask = |ip: IpAddr| {
        let url = format!("http://{}:30080/hostname", in_url(&ip.to_string()));
        let answer = lab.exec(&Target::Outside, &["curl", "-gsS", "--max-time", "5", &url]);
        (url, answer.unwrap_or_else(|error| error.to_string()))
    };
    nodes.flat_map(|machine| machine.addresses()).map(ask).collect()
}

/// What a lab of this name has left anywhere.
fn left_of(name: &str) -> Vec<String> {
    let layout = Layout::new(name);
    let mut left = namespaces(&layout);
    left.extend(members(name).iter().map(|id| format!("process {}", id.pid)));
    let mut paths = vec![layout.dir().to_owned(), layout.disk(), layout.lock_file()];
    let trees = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    for tree in trees.filter(|path| path.is_dir()).chain([PathBuf::from("/sys/fs/cgroup")]) {
        let groups = std::fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(
            groups.filter(|path| {
                path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&layout.prefix()))
            }),
        );
    }
    left.extend(paths.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let marks = [format!("{}/", layout.dir().display()), format!("{}/", layout.disk().display())];
    left.extend(mounts.lines().filter(|line| marks.iter().any(|mark| line.contains(mark))).map(str::to_owned));
    left
}

/// Settings of the host that kubelet would write.
fn sysctls() -> Vec<String> {
    let names = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys"];
    names.map(|name| std::fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default()).into()
}

fn takes_down(lab: Lab) {
    let name = lab.layout().lab().to_owned();
    lab.down().unwrap();
    assert_eq!(left_of(&name), Vec::<String>::new());
    ripstop_lab::clean::down(&name).unwrap();
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn pods_of_our_network_reach_each_other_and_services() {
    let _turn = turn();
    let before = sysctls();
    let options = Options { nodes: 3, subnets: 2, ..Options::named("t-k8s") };
    let Some(lab) = cluster(options, Cni::Ripstop) else { return };
    web(&lab, 3, Families::V4);
    everybody_reaches_everybody(&lab, 3);
    // What kubelet thinks of the pods is what our agents think.
    for node in 1..=3 {
        let row = row_of(&lab, node);
        assert_eq!(row["namespace"], "default");
        assert_eq!(
            vec![row["ips"][0].as_str().unwrap().to_owned()],
            texts(&lab, &["pod", row["name"].as_str().unwrap()], ".status.podIPs[*].ip")
        );
    }
    a_pod_goes_without_a_trace(&lab);
    a_node_comes_back(&lab);
    takes_down(lab);
    assert_eq!(sysctls(), before);
}

fn a_pod_goes_without_a_trace(lab: &Lab) {
    kubectl(lab, &["delete", "pod", "web-1", "--wait=true", "--timeout=60s"]).unwrap();
    let gone = || {
        let rows = lab.agent_json(1, "/v1/pods").unwrap();
        rows.as_array().unwrap().iter().all(|row| row["name"] != "web-1")
    };
    patiently("the agent has forgotten the pod", gone);
}

/// Its power is cut and comes back: kubelet makes its pods anew.
fn a_node_comes_back(lab: &Lab) {
    let before = texts(lab, &["pod", "web-2"], ".status.containerStatuses[*].containerID");
    lab.node(2).off().unwrap();
    lab.node(2).on().unwrap();
    patiently("kubelet has started the pod's container anew", || {
        let now = texts(lab, &["pod", "web-2"], ".status.containerStatuses[*].containerID");
        now != before && texts(lab, &["pod", "web-2"], ".status.containerStatuses[*].ready") == ["true"]
    });
    let ip = texts(lab, &["pod", "web-2"], ".status.podIPs[*].ip").remove(0);
    patiently("another node's pod gets an answer from it", || {
        get(lab, "web-3", &format!("http://{ip}:8080/hostname")) == Ok("web-2".into())
    });
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn the_reference_plugins_do_the_same() {
    let _turn = turn();
    let options = Options { nodes: 2, subnets: 2, families: Families::Dual, ..Options::named("t-k8s-ref") };
    let Some(lab) = cluster(options, Cni::Reference) else { return };
    web(&lab, 2, Families::Dual);
    everybody_reaches_everybody(&lab, 2);
    takes_down(lab);
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn flanneld_between_the_nodes_does_the_same() {
    let _turn = turn();
    let options = Options { nodes: 2, subnets: 2, ..Options::named("t-k8s-flannel") };
    let Some(lab) = cluster(options, Cni::Flannel) else { return };
    web(&lab, 2, Families::V4);
    everybody_reaches_everybody(&lab, 2);
    a_network_without_policies_is_found_out(&lab);
    takes_down(lab);
}

/// Whoever judges policies sees that nothing is denied here.
fn a_network_without_policies_is_found_out(lab: &Lab) {
    let (code, rows) = judging::judged(lab, &[judging::DENIES]);
    assert!(matches!(&rows[..], [(_, result, why)] if result == "fail" && why.contains("it arrived")), "{rows:?}");
    assert_eq!(code, Some(1));
    judging::nothing_is_left(lab);
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn down_finds_a_cluster_whose_making_was_killed() {
    let _turn = turn();
    let name = "t-k8s-torn";
    if planned(Options::named(name), Cni::Reference).is_none() {
        return;
    }
    let ripstop = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command.args(["lab", "--name", name]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let socket = Layout::new(name).machine_dir("n1").join("containerd.log");
    for moment in [Duration::ZERO, Duration::from_secs(4)] {
        let mut up = ripstop().args(["k8s", "up", "--nodes", "2", "--cni", "reference"]).spawn().unwrap();
        patiently("the runtime was started", || socket.exists());
        std::thread::sleep(moment);
        up.kill().unwrap();
        up.wait().unwrap();
        let start = Instant::now();
        assert!(ripstop().args(["k8s", "down"]).status().unwrap().success());
        println!("down after {moment:?}: {:.1} s", start.elapsed().as_secs_f64());
        assert_eq!(left_of(name), Vec::<String>::new(), "killed {moment:?} after the runtime was started");
    }
}
