//! Services on etcd without Kubernetes: manifests applied to one node, endpoints on both, connections from either.

use std::io::Write;
use std::process::{Command, Stdio};

use ripstop_lab::{Backend, Lab, Options, PodSpec, Target};
use serde_json::json;

use super::{lab, patiently, pods};

fn apply(lab: &Lab, node: u32, manifest: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.args(["--lab", lab.layout().lab(), "--node", &node.to_string(), "apply", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A server in a pod that says the pod's name; it ends by itself.
fn serve(lab: &Lab, pod: &str) {
    let server = format!(
        "import http.server as h\nclass H(h.BaseHTTPRequestHandler):\n  def do_GET(s):\n    s.send_response(200)\n    \
         s.end_headers()\n    s.wfile.write(b'{pod} ')\nh.HTTPServer(('', 8080), H).serve_forever()\n"
    );
    let line = "timeout 300 python3 -c \"$1\" >/dev/null 2>&1 </dev/null &";
    lab.exec(&Target::Pod(pod.into()), &["sh", "-c", line, "sh", &server]).unwrap();
}

/// Who answers some connections from a pod; nobody where one fails.
fn who(lab: &Lab, from: &str) -> Vec<String> {
    let all =
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do curl -sf --max-time 2 http://10.96.0.1/ || exit 1; done";
    let said = lab.exec(&Target::Pod(from.into()), &["sh", "-c", all]).unwrap_or_default();
    let mut names: Vec<String> = said.split_whitespace().map(ToOwned::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// Each node publishes the slice of its own pod, and connections from either node reach both; a pod that is removed leaves.
#[test]
fn endpoints_of_two_nodes_follow_their_pods() {
    let agent_config = json!({"services": {"proxy": "nftables", "serviceCIDRs": ["10.96.0.0/16"]}});
    let options = Options { nodes: 2, backend: Backend::Vxlan, agent_config, ..Options::named("t-etcd-svc") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    lab.pod_add(&PodSpec::new("far", 2)).unwrap();
    ["p1", "p2"].into_iter().for_each(|pod| serve(&lab, pod));
    let pod = |name: &str, node: u32| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}}, spec: {{nodeName: n{node}, \
             containers: [{{name: c, readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}}}]}}}}\n"
        )
    };
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, \
                   targetPort: 8080}]}}\n";
    let said = apply(&lab, 1, &[service.to_owned(), pod("p1", 1), pod("p2", 2)].concat());
    assert!(said.contains("service/default/web created"), "{said}");
    for from in ["near", "far"] {
        patiently("connections reach the pods of both nodes", || who(&lab, from) == ["p1", "p2"]);
    }
    let keys = || super::ctl(&lab, &["get", "--prefix", "--keys-only", "/ripstop/endpointslices/"]);
    assert!(keys().contains("/default/web.ipv4.n1") && keys().contains("/default/web.ipv4.n2"), "{}", keys());
    lab.pod_del("p2").unwrap();
    for from in ["near", "far"] {
        patiently("the pod that was removed left", || who(&lab, from) == ["p1"]);
    }
    patiently("its node's slice went with it", || !keys().contains("web.ipv4.n2"));
    lab.down().unwrap();
}
