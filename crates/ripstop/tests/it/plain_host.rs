//! Installation as README describes it for a plain host: what the installed unit says is what is started.
//!
//! There is no systemd in a lab. What of the unit a few programs can do is done: command, environment, capabilities, no new
//! privileges, file mask, and a file system that is read-only but for the unit's own folders. Its filters of system calls
//! and address families are not.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ripstop_lab::init::AgentCommand;
use ripstop_lab::{Lab, Options, Target, space};
use serde_json::Value;

use crate::cluster::{lab, until};

/// Starts a service in a file system of its own. `$1`: file mask; `$2`: capabilities; then the command.
const SANDBOX: &str = r#"umask "$1"
mount -o remount,bind,ro / && mount -o remount,bind,ro /run || exit 1
bounding=$2
shift 2
exec setpriv --bounding-set="$bounding" --inh-caps=-all --no-new-privs -- "$@""#;

/// A unit's part `[Service]`; a key that comes twice has two values.
fn service(unit: &str) -> BTreeMap<&str, Vec<&str>> {
    let lines = unit.lines().skip_while(|line| *line != "[Service]").skip(1).take_while(|line| !line.starts_with('['));
    let mut service = BTreeMap::<&str, Vec<&str>>::new();
    for (key, value) in lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        service.entry(key).or_default().push(value);
    }
    service
}

/// The command that does what systemd would, as far as this test goes.
fn command(lab: &Lab, name: &str) -> AgentCommand {
    let unit = lab.layout().machine_dir("n1").join(format!("root/usr/local/lib/systemd/system/{name}.service"));
    let unit = std::fs::read_to_string(unit).unwrap();
    let service = service(&unit);
    let one = |key: &str| match service.get(key).map(Vec::as_slice) {
        Some([value]) => *value,
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!((one("NoNewPrivileges"), one("ProtectSystem")), ("yes", "strict"));
    assert_eq!(one("RuntimeDirectory"), one("StateDirectory"));
    folders(lab, one("StateDirectory"));
    let capabilities = one("CapabilityBoundingSet").split(' ').filter(|name| !name.is_empty()).map(|name| {
        let name = name.strip_prefix("CAP_").unwrap().to_lowercase();
        format!(",+{name}")
    });
    let bounding = std::iter::once("-all".to_owned()).chain(capabilities).collect::<String>();
    let own = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", SANDBOX, "sh", one("UMask")];
    let argv =
        own.into_iter().chain([bounding.as_str()]).chain(one("ExecStart").split(' ')).map(str::to_owned).collect();
    let environment = service.get("Environment").into_iter().flatten().flat_map(|line| line.split(' '));
    let env =
        environment.map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    AgentCommand { argv, env }
}

/// The unit's own folders, each mounted by itself, so that it stays when all others become read-only.
fn folders(lab: &Lab, name: &str) {
    let node = Target::Node(1);
    // The agent's are the lab's.
    if name != "ripstop" {
        let state = lab.layout().machine_dir("n1").join("lib");
        std::fs::create_dir_all(state.join("ripstop")).unwrap();
        std::fs::create_dir_all(state.join(name)).unwrap();
        let script =
            format!("mount --bind /var/lib/ripstop '{0}/ripstop' && mount --rbind '{0}' /var/lib", state.display());
        lab.exec(&node, &["sh", "-c", &script]).unwrap();
        let run = format!("/run/{name}");
        lab.exec(&node, &["mkdir", &run]).unwrap();
        lab.exec(&node, &["mount", "--bind", &run, &run]).unwrap();
    }
}

/// A lab of one machine on which Ripstop is installed and nothing runs yet.
fn installed(name: &str) -> Option<Lab> {
    let lab = lab(Options { nodes: 1, agents: false, ..Options::named(name) })?;
    let machine = lab.layout().machine_dir("n1");
    let root = machine.join("root");
    let done = Command::new(env!("CARGO_BIN_EXE_ripstop")).args(["install", "--root"]).arg(&root).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    std::fs::copy(root.join("etc/ripstop/config.yaml"), machine.join("etc/config.yaml")).unwrap();
    for folder in ["usr/local", "opt"] {
        let from = root.join(folder).display().to_string();
        lab.exec(&Target::Node(1), &["mount", "--bind", &from, &format!("/{folder}")]).unwrap();
    }
    Some(lab)
}

/// Calls the installed plugin as a runtime does that has read the installed list.
fn plugin(lab: &Lab, verb: &str, netns: &Path) -> Value {
    let list = lab.layout().machine_dir("n1").join("root/etc/cni/net.d/10-ripstop.conflist");
    let list: Value = serde_json::from_slice(&std::fs::read(list).unwrap()).unwrap();
    let mut configuration = list["plugins"][0].clone();
    (configuration["name"], configuration["cniVersion"]) = (list["name"].clone(), list["cniVersion"].clone());
    let program = format!("/opt/cni/bin/{}", configuration["type"].as_str().unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", &format!("echo '{configuration}' | {program}")]);
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "plain").env("CNI_IFNAME", "eth0");
    command.env("CNI_NETNS", netns).env("CNI_PATH", "/opt/cni/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = lab.spawn(&Target::Node(1), &mut command).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{verb}: {said}");
    serde_json::from_str(&said).unwrap_or_default()
}

#[test]
fn the_installed_unit_runs_the_agent_and_the_installed_plugin_attaches_pods() {
    let Some(lab) = installed("t-plain") else { return };
    lab.node(1).replace_agent(command(&lab, "ripstop-agent")).unwrap();
    let node = Target::Node(1);
    let status = lab.exec(&node, &["/usr/local/bin/ripstop", "status", "--wait"]);
    let log = std::fs::read_to_string(lab.layout().agent_log(1)).unwrap_or_default();
    println!("{}\n{log}", status.unwrap_or_else(|error| panic!("{error}\n{log}")));
    let agent = lab.node(1).agent().unwrap().unwrap();
    let program = std::fs::read_link(format!("/proc/{}/exe", agent.pid)).unwrap();
    assert!(program.ends_with("usr/local/bin/ripstop"), "{}", program.display());
    let process = std::fs::read_to_string(format!("/proc/{}/status", agent.pid)).unwrap();
    for line in ["CapEff:\t0000000000283400", "CapBnd:\t0000000000283400", "NoNewPrivs:\t1"] {
        assert!(process.contains(line), "{line} is not in\n{process}");
    }

    let name = lab.layout().netns("plain");
    space::netns_add(&name).unwrap();
    let netns = lab.layout().netns_path("plain");
    let result = plugin(&lab, "ADD", &netns);
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    let inside = format!("--net={}", netns.display());
    let talks = || {
        lab.exec(&node, &["nsenter", &inside, "ping", "-c", "1", "-W", "5", "172.30.1.11"]).unwrap();
        lab.exec(&node, &["ping", "-c", "1", "-W", "5", &address]).unwrap();
    };
    talks();
    // As systemd does it: killed, it is started again; told to end, it ends.
    lab.node(1).kill_agent(false).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    lab.exec(&node, &["/usr/local/bin/ripstop", "status", "--wait"]).unwrap();
    talks();
    plugin(&lab, "DEL", &netns);
    let pods = lab.agent_json(1, "/v1/pods").unwrap();
    assert_eq!(pods.as_array().map(Vec::len), Some(0), "{pods}");
    lab.node(1).stop_agent(true).unwrap();
    until("the agent has ended", || lab.node(1).agent().unwrap().is_none());
    space::netns_del(&name).unwrap();
    lab.down().unwrap();
}

#[test]
fn the_installed_store_serves_an_agent_as_its_unit_says() {
    let Some(lab) = installed("t-plain-store") else { return };
    let AgentCommand { argv, env } = command(&lab, "ripstop-store");
    let mut serve = Command::new(&argv[0]);
    serve.args(&argv[1..]).envs(env).stdin(Stdio::null()).stdout(Stdio::null());
    let store = lab.spawn(&Target::Node(1), &mut serve).unwrap();
    let config = lab.layout().machine_dir("n1").join("etc/config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + "\nstore: {embedded: {socket: /run/ripstop-store/store.sock}}\n").unwrap();
    lab.node(1).replace_agent(command(&lab, "ripstop-agent")).unwrap();
    let status = lab.exec(&Target::Node(1), &["/usr/local/bin/ripstop", "status", "--wait"]).unwrap();
    assert!(status.contains("Store:     here"), "{status}");
    let process = std::fs::read_to_string(format!("/proc/{}/status", store.id().unwrap())).unwrap();
    assert!(process.contains("CapEff:\t0000000000000000") && process.contains("Name:\tripstop"), "{process}");
    let file = lab.layout().machine_dir("n1").join("lib/ripstop-store/store.redb");
    assert!(file.is_file(), "{} is not there", file.display());
    drop(store);
    lab.down().unwrap();
}
