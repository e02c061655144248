//! The container runtime's part: calls the real plugin as containerd would, inside the node.
//!
//! Specification: <https://github.com/containernetworking/cni/blob/main/SPEC.md>, section 3.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use ripstop_cni_spec::list::Parameters;
use ripstop_cni_spec::{Attachment as Target, CniResult, CniVersion, Code, ConfList, Error, Verb};
use serde_json::{Value, json};

use crate::error::{Attempt, LabError, Result};
use crate::lab::Lab;
use crate::layout::{self, MEMBER};
use crate::space::Place;
use crate::state::{Attachment, Pod};

/// The interface the plugin makes in a pod.
pub const INTERFACE: &str = "eth0";
/// The network the lab's pods are in.
const NETWORK: &str = "default";

/// Attaches a pod: CNI ADD. Answers the plugin's result and what it says about the pod's interface.
pub fn add(lab: &Lab, pod: &Pod) -> Result<(Value, Attachment)> {
    let printed = call(lab, pod, Verb::Add)?;
    let not_one = |why: String| LabError::failed(format!("ADD of {}: the result is not one: {why}", pod.name));
    let value: Value = serde_json::from_slice(&printed).map_err(|error| not_one(error.to_string()))?;
    let result = CniResult::from_json(&value, CniVersion::LATEST).map_err(|error| not_one(error.to_string()))?;
    let attachment = attachment(&result).map_err(not_one)?;
    Ok((value, attachment))
}

/// Detaches a pod: CNI DEL.
pub fn del(lab: &Lab, pod: &Pod) -> Result<()> {
    call(lab, pod, Verb::Del).map(drop)
}

/// Asks whether a pod is attached as its result says: CNI CHECK.
pub fn check(lab: &Lab, pod: &Pod) -> Result<()> {
    call(lab, pod, Verb::Check).map(drop)
}

/// The network configuration list of a lab, for a pod with these labels.
pub fn conflist(labels: &BTreeMap<String, String>) -> Value {
    let mut plugin = json!({
        "type": "ripstop-cni",
        "network": NETWORK,
        "capabilities": { "bandwidth": true, "dns": true, "ipRanges": true, "ips": true, "mac": true },
    });
    if !labels.is_empty() {
        let labels: Vec<Value> = labels.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        plugin["args"] = json!({ "cni": { "labels": labels } });
    }
    json!({ "cniVersion": "1.1.0", "name": "ripstop", "plugins": [plugin] })
}

/// One call of the plugin, and what it printed.
fn call(lab: &Lab, pod: &Pod, verb: Verb) -> Result<Vec<u8>> {
    let failed = |error: Error| failure(&pod.name, verb, &error);
    let list = ConfList::parse(&conflist(&pod.labels).to_string()).map_err(failed)?;
    let parameters = parameters(lab, pod)?;
    let stdin = list.attachment_stdin(&list.plugins[0], verb, &parameters, pod.result.as_ref());
    let plugin = lab.programs.plugin()?;
    let folder = plugin.parent().unwrap_or(Path::new("/")).display().to_string();
    let mut command = Command::new(plugin);
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env(MEMBER, lab.layout.lab())
        .envs(parameters.env(verb, &folder))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = {
        let doing = || format!("run {}", plugin.display());
        let place = Place::beside(lab.init_of(&layout::node_name(pod.node))?)?;
        let mut child = place.spawn(&mut command)?;
        if let Some(mut input) = child.stdin.take() {
            // If the plugin ended early, its own message is the better one.
            let _ = input.write_all(stdin.to_string().as_bytes());
        }
        child.wait_with_output().attempt(doing)?
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    match serde_json::from_slice(&output.stdout) {
        Ok(error) => Err(failed(error)),
        Err(_) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(LabError::failed(format!(
                "{verb} of {}: the plugin ended with {}: {}",
                pod.name,
                output.status,
                said.trim()
            )))
        }
    }
}

fn parameters(lab: &Lab, pod: &Pod) -> Result<Parameters> {
    let wrong = |error: ripstop_types::Invalid| LabError::usage(error.to_string());
    let netns = lab.layout.netns_path(&pod.name);
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_INFRA_CONTAINER_ID", &pod.container),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_NAMESPACE", &pod.namespace),
    ];
    Ok(Parameters {
        attachment: Target {
            container_id: pod.container.parse().map_err(wrong)?,
            ifname: INTERFACE.parse().map_err(wrong)?,
        },
        // After a reboot the namespace is gone, and a runtime says so by not naming one.
        netns: netns.exists().then(|| netns.display().to_string()),
        args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        capability_args: pod.capability_args.clone(),
    })
}

fn attachment(result: &CniResult) -> Result<Attachment, String> {
    let name = INTERFACE.parse().map_err(|error: ripstop_types::Invalid| error.to_string())?;
    let (index, interface) =
        result.pod_interface(&name).ok_or(format!("it has no interface {INTERFACE} in the pod"))?;
    let ips: Vec<IpAddr> = result.ips_of(index).map(|ip| ip.address.ip()).collect();
    if ips.is_empty() {
        return Err(format!("{INTERFACE} has no address"));
    }
    Ok(Attachment {
        ips,
        mac: interface.mac.clone(),
        mtu: interface.mtu,
        interface: INTERFACE.into(),
        network: NETWORK.into(),
    })
}

fn failure(pod: &str, verb: Verb, error: &Error) -> LabError {
    let text = format!("{verb} of {pod}: {error} (CNI code {})", error.code.number());
    if error.code == Code::TryAgainLater { LabError::Away(text) } else { LabError::Failed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_one_and_carries_labels_where_the_conventions_say() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let text = conflist(&labels).to_string();
        let list = ConfList::parse(&text).unwrap();
        assert_eq!(list.plugins.len(), 1);
        assert_eq!(conflist(&labels)["plugins"][0]["args"]["cni"]["labels"], json!([{ "key": "app", "value": "web" }]));
        assert!(conflist(&BTreeMap::new())["plugins"][0].get("args").is_none());
    }

    #[test]
    fn the_pod_side_of_a_result_is_found() {
        let value = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "ripabc", "mac": "02:00:00:00:00:01" },
                { "name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450, "sandbox": "/run/netns/rip-x-web" },
            ],
            "ips": [{ "address": "10.244.1.5/32", "interface": 1 }],
        });
        let found = attachment(&CniResult::from_json(&value, CniVersion::LATEST).unwrap()).unwrap();
        assert_eq!(found.ips, ["10.244.1.5".parse::<IpAddr>().unwrap()]);
        assert_eq!((found.mac.as_deref(), found.mtu), (Some("02:00:00:00:00:02"), Some(1450)));
        assert!(attachment(&CniResult::default()).is_err());
    }

    #[test]
    fn try_again_later_means_the_agent_is_away() {
        let error = failure("web", Verb::Add, &Error::new(Code::TryAgainLater, "the agent does not answer"));
        assert_eq!(error.exit_code(), 3);
    }
}
