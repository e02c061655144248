//! Podman with CNI as its network backend.
//!
//! It has no daemon: what is killed and started again is its command, and conmon, which watches over one container.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Output};

use ripstop_lab::{Backend, Families, Lab, Options, Wiring};
use serde_json::json;

use super::image;
use super::machine::{Cloud, Machine};
use super::{installed, lab, patiently};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Podman on one node.
struct Podman<'a> {
    machine: Machine<'a>,
}

impl<'a> Podman<'a> {
    /// Configures it and loads the image.
    fn on(machine: Machine<'a>) -> Self {
        let podman = Self { machine };
        podman.configure();
        podman.run(&["load", "-q", "-i", &podman.machine.image().display().to_string()]);
        podman
    }

    fn configure(&self) {
        let (plugins, lists) = (self.machine.plugins(), self.machine.lists());
        let text = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{plugins:?}]\n\
             network_config_dir = {lists:?}\ndefault_network = \"ripstop\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n"
        );
        fs::write(self.machine.dir().join("containers.conf"), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let dir = self.machine.dir();
        let storage = dir.join("storage").display().to_string();
        // What must not outlive a reboot lies in the node's own /run.
        let fixed = [
            "podman",
            "--root",
            &storage,
            "--runroot",
            "/run/containers",
            "--tmpdir",
            "/run/libpod",
            "--storage-driver",
            "vfs",
        ];
        let mut command = self.machine.command(&[&fixed, args].concat());
        command.env("CONTAINERS_CONF", dir.join("containers.conf"));
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.machine.output(&mut self.command(args))
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "podman {args:?}: {}: {err}", output.status);
        out.trim().to_owned()
    }

    /// Makes a pod, and starts what holds its namespace.
    fn pod(&self, name: &str) {
        self.pod_create(name);
        self.run(&["pod", "start", name]);
    }

    fn pod_create(&self, name: &str) {
        let group = self.machine.group();
        let fixed = ["pod", "create", "--network", "ripstop", "--cgroup-parent", &group, "--infra-image", image::NAME];
        self.run(&[&fixed[..], &["--infra-command", image::PAUSE, "--name", name]].concat());
    }

    /// Runs a container in a pod.
    fn container(&self, pod: &str, name: &str, argv: &[&str]) {
        let capabilities = ["--cap-add", "NET_RAW"];
        let fixed = ["run", "-d", "--pod", pod, "--name", name];
        self.run(&[&fixed[..], &capabilities, &[image::NAME], argv].concat());
    }

    /// Two servers and somebody to ask them: one on localhost only, one on every address.
    fn web(&self, pod: &str) {
        self.pod(pod);
        self.container(pod, "inner", &["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www"]);
        self.container(pod, "outer", &["httpd", "-f", "-p", "[::]:80", "-h", "/www"]);
        self.container(pod, "asker", &[image::PAUSE]);
    }

    /// A container gets the page from an address.
    fn gets(&self, container: &str, address: IpAddr, port: u16) {
        let url = format!("http://{}/", SocketAddr::new(address, port));
        let page = self.run(&[&["exec", container], &image::GET[..], &[&url]].concat());
        assert_eq!(page, image::PAGE.trim(), "{container} from {url}");
    }

    fn remove(&self, pod: &str) {
        self.run(&["pod", "rm", "-f", "-t", "0", pod]);
    }

    /// The pid of a container's process, inside the node.
    fn pid(&self, container: &str, what: &str) -> String {
        self.run(&["inspect", "--format", &format!("{{{{.State.{what}}}}}"), container])
    }
}

fn cloud(options: Options) -> Option<Cloud> {
    installed(&["podman", "conmon", "runc"]).then(|| lab(options).map(Cloud::of))?
}

fn two_nodes(name: &str, wiring: Wiring) -> Options {
    Options { nodes: 2, backend: Backend::Vxlan, families: Families::Dual, wiring, ..Options::named(name) }
}

#[test]
fn podmans_pods_talk_inside_and_between_nodes_and_survive_their_monitors() {
    let Some(cloud) = cloud(two_nodes("t-podman", Wiring::Routed)) else { return };
    let (one, two) = (Podman::on(cloud.machine(1)), Podman::on(cloud.machine(2)));
    one.web("web");
    two.web("other");
    // Containers of one pod share its loopback, and nobody else has a part in it.
    one.gets("asker", LOCALHOST, 8080);
    let (web, other) = (one.machine.addresses(), two.machine.addresses());
    assert_eq!((web.len(), other.len()), (2, 2), "an address of each family");
    for (from, to) in [(&one, &other), (&two, &web)] {
        for address in to {
            from.gets("asker", *address, 80);
            from.run(&["exec", "asker", "ping", "-c", "1", "-W", "5", &address.to_string()]);
        }
    }
    let url = format!("http://{}:8080/", web[0]);
    let refused = two.output(&[&["exec", "asker"], &image::GET[..], &[&url]].concat());
    assert!(!refused.status.success(), "a server on localhost is the pod's own");
    // What watches over the containers dies: they go on, and their pod can be removed.
    let infra = one.run(&["pod", "inspect", "--format", "{{.InfraContainerID}}", "web"]);
    for container in [infra.as_str(), "inner", "outer", "asker"] {
        one.machine.exec(&["kill", "-9", &one.pid(container, "ConmonPid")]);
    }
    two.gets("asker", web[0], 80);
    one.remove("web");
    two.remove("other");
    one.machine.is_clean();
    two.machine.is_clean();
    cloud.down();
}

#[test]
fn a_reboot_under_podmans_pods_leaks_nothing_and_they_come_anew() {
    let Some(cloud) = cloud(two_nodes("t-podman-boot", Wiring::Bridge)) else { return };
    let (one, two) = (Podman::on(cloud.machine(1)), Podman::on(cloud.machine(2)));
    one.web("web");
    two.web("other");
    one.machine.reboot();
    // No pod runs, none has an address, and the peer's pod is where it was.
    one.machine.is_clean();
    one.run(&["pod", "start", "web"]);
    one.gets("asker", LOCALHOST, 8080);
    one.gets("asker", two.machine.addresses()[0], 80);
    for address in one.machine.addresses() {
        two.gets("asker", address, 80);
    }
    one.remove("web");
    one.machine.is_clean();
    cloud.down();
}

#[test]
fn podmans_removals_in_the_wrong_order_leave_nothing() {
    let options = Options { nodes: 1, ..two_nodes("t-podman-wrong", Wiring::Routed) };
    let Some(cloud) = cloud(options) else { return };
    let one = Podman::on(cloud.machine(1));
    namespace_goes_first(&one);
    detached_twice(&one);
    killed_while_attaching(&one, cloud.lab());
    cloud.down();
}

/// The processes and the namespace are gone before podman hears of it.
fn namespace_goes_first(podman: &Podman<'_>) {
    podman.pod("early");
    let infra = podman.run(&["pod", "inspect", "--format", "{{.InfraContainerID}}", "early"]);
    let [namespace] = podman.machine.namespaces().try_into().unwrap();
    let conmon = podman.pid(&infra, "ConmonPid");
    podman.machine.exec(&["kill", "-9", &conmon, &podman.pid(&infra, "Pid")]);
    podman.machine.exec(&["umount", "-l", &format!("/run/netns/{namespace}")]);
    podman.machine.exec(&["rm", &format!("/run/netns/{namespace}")]);
    podman.output(&["pod", "rm", "-f", "-t", "0", "early"]);
    podman.machine.is_clean();
}

/// Somebody detached the pod before podman does.
fn detached_twice(podman: &Podman<'_>) {
    podman.pod("twice");
    let row = podman.machine.pods().remove(0);
    let text = |field: &str| row[field].as_str().unwrap().to_owned();
    let configuration = json!({"cniVersion": "1.0.0", "name": "ripstop", "type": "ripstop-cni"});
    let script = format!("echo '{configuration}' | {}", podman.machine.plugins().join("ripstop-cni").display());
    let mut command = podman.machine.command(&["sh", "-c", &script]);
    command.env("CNI_COMMAND", "DEL").env("CNI_CONTAINERID", text("container")).env("CNI_IFNAME", text("interface"));
    command.env("CNI_NETNS", text("netns")).env("CNI_PATH", podman.machine.plugins());
    for _ in 0..2 {
        let output = podman.machine.output(&mut command);
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(podman.machine.pods().len(), 0);
    podman.remove("twice");
    podman.machine.is_clean();
}

/// Podman is killed while the plugin waits for an agent that does not answer yet.
fn killed_while_attaching(podman: &Podman<'_>, lab: &Lab) {
    podman.pod_create("torn");
    lab.node(1).pause_agent().unwrap();
    let start = podman.machine.spawn(&mut podman.command(&["pod", "start", "torn"]));
    patiently("the plugin waits for the agent", || {
        podman.machine.exec(&["sh", "-c", "pidof ripstop-cni || true"]).trim().contains(|c: char| c.is_ascii_digit())
    });
    drop(start);
    lab.node(1).resume_agent().unwrap();
    patiently("the plugin has ended", || {
        podman.machine.exec(&["sh", "-c", "pidof ripstop-cni || true"]).trim().is_empty()
    });
    // Podman has forgotten how far it was. It asks for the same interface in a new namespace, is told of the old one,
    // detaches that, and can start.
    let started = (0..3).any(|_| podman.output(&["pod", "start", "torn"]).status.success());
    assert!(started, "the pod does not start");
    podman.machine.addresses();
    podman.remove("torn");
    println!("forgotten by podman: {:?}", podman.machine.namespaces());
    // The namespace of the first start is podman's to lose; what was in it is ours.
    for namespace in podman.machine.namespaces() {
        let path = format!("/run/netns/{namespace}");
        assert_eq!(
            podman.machine.exec(&["nsenter", &format!("--net={path}"), "ip", "-o", "link"]).lines().count(),
            1,
            "more than lo"
        );
        podman.machine.exec(&["umount", "-l", &path]);
        podman.machine.exec(&["rm", &path]);
    }
    podman.machine.is_clean();
}
