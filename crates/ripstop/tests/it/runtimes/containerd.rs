//! containerd, asked for pods as kubelet asks: by its CRI socket.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;

use ripstop_lab::{Backend, Families, Lab, Options, Running, Wiring};

use super::cri::{Cri, PodConfig};
use super::image;
use super::machine::{Cloud, Machine};
use super::{installed, lab, patiently};

/// containerd on one node.
struct Containerd<'a> {
    machine: Machine<'a>,
    daemon: Option<Running>,
    cri: Option<Cri>,
}

/// A pod with two servers and somebody to ask them.
struct Web {
    id: String,
    asker: String,
    addresses: Vec<IpAddr>,
}

impl<'a> Containerd<'a> {
    /// Starts it and loads the image.
    fn on(machine: Machine<'a>) -> Self {
        let mut containerd = Self { machine, daemon: None, cri: None };
        containerd.configure();
        containerd.start();
        let (socket, image) = (containerd.socket().display().to_string(), containerd.machine.image());
        let image = image.display().to_string();
        containerd.machine.exec(&["ctr", "--address", &socket, "-n", "k8s.io", "images", "import", &image]);
        containerd
    }

    fn configure(&self) {
        let root = self.machine.dir().join("root");
        let (plugins, lists) = (self.machine.plugins(), self.machine.lists());
        // A host's root user may lack the right to lower a process's chance of being killed; containers here need none.
        let text = format!(
            r#"version = 2
root = {root:?}
state = "/run/containerd"
[grpc]
address = {socket:?}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {plugins:?}
conf_dir = {lists:?}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
            socket = self.socket(),
            image = image::NAME,
        );
        fs::write(self.machine.dir().join("containerd.toml"), text).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.machine.dir().join("cri.sock")
    }

    fn start(&mut self) {
        let dir = self.machine.dir();
        let log = fs::File::options().append(true).create(true).open(dir.join("containerd.log")).unwrap();
        let config = dir.join("containerd.toml").display().to_string();
        let mut command = self.machine.command(&["containerd", "--config", &config, "--log-level", "warn"]);
        command.stdout(Stdio::null()).stderr(log);
        self.daemon = Some(self.machine.spawn(&mut command));
        self.cri = Some(Cri::connect(&self.socket()));
    }

    /// Kills it; what it started goes on.
    fn kill(&mut self) {
        self.cri = None;
        // Dropped, it is killed and reaped.
        self.daemon = None;
    }

    fn cri(&self) -> &Cri {
        self.cri.as_ref().unwrap()
    }

    fn config(&self, name: &str, attempt: u32) -> PodConfig {
        PodConfig::new(name, attempt, &self.machine.group())
    }

    fn web(&self, name: &str, attempt: u32) -> Web {
        let config = self.config(name, attempt);
        let id = self.cri().run_pod(&config).unwrap();
        let run = |name, argv: &[&str]| self.cri().run(&id, &config, name, image::NAME, argv);
        run("inner", &["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www"]);
        run("outer", &["httpd", "-f", "-p", "[::]:80", "-h", "/www"]);
        let asker = run("asker", &[image::PAUSE]);
        let addresses: Vec<IpAddr> = self.cri().addresses(&id).iter().map(|ip| ip.parse().unwrap()).collect();
        Web { id, asker, addresses }
    }

    /// The pod's asker gets the page from an address.
    fn gets(&self, web: &Web, address: IpAddr, port: u16) {
        let url = format!("http://{}/", SocketAddr::new(address, port));
        let page = self.cri().exec(&web.asker, &[&image::GET[..], &[&url]].concat());
        assert_eq!(page.as_deref(), Ok(image::PAGE), "from {url}");
    }

    fn gets_from_itself(&self, web: &Web) {
        self.gets(web, "127.0.0.1".parse().unwrap(), 8080);
    }

    /// As kubelet does it: stop, then remove, and again where that failed: a container that dies meanwhile is no longer
    /// there to be stopped.
    fn remove(&self, id: &str) {
        let mut told = self.cri().stop_pod(id);
        for _ in 0..20 {
            if told.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
            told = self.cri().stop_pod(id);
        }
        told.unwrap();
        self.cri().remove_pod(id).unwrap();
    }
}

fn cloud(options: Options) -> Option<Cloud> {
    installed(&["containerd", "ctr", "runc"]).then(|| lab(options).map(Cloud::of))?
}

fn two_nodes(name: &str, wiring: Wiring) -> Options {
    Options { nodes: 2, backend: Backend::Vxlan, families: Families::Dual, wiring, ..Options::named(name) }
}

#[test]
fn containerds_pods_talk_inside_and_between_nodes_and_survive_its_restart() {
    let Some(cloud) = cloud(two_nodes("t-cri", Wiring::Routed)) else { return };
    let (mut one, two) = (Containerd::on(cloud.machine(1)), Containerd::on(cloud.machine(2)));
    let (web, other) = (one.web("web", 0), two.web("other", 0));
    one.gets_from_itself(&web);
    assert_eq!((web.addresses.len(), other.addresses.len()), (2, 2), "an address of each family");
    assert_eq!(web.addresses, one.machine.addresses(), "what the runtime says is what the agent says");
    let row = one.machine.pods().remove(0);
    assert_eq!((row["namespace"].as_str(), row["name"].as_str()), (Some("default"), Some("web")));
    for (from, asks, to) in [(&one, &web, &other), (&two, &other, &web)] {
        for address in &to.addresses {
            from.gets(asks, *address, 80);
        }
    }
    // Killed, away, and back: its pods go on meanwhile, and it knows them again.
    one.kill();
    two.gets(&other, web.addresses[0], 80);
    one.start();
    assert_eq!(one.cri().pods(), [(web.id.clone(), true)]);
    two.gets(&other, web.addresses[1], 80);
    one.gets_from_itself(&web);
    one.remove(&web.id);
    two.remove(&other.id);
    one.machine.is_clean();
    two.machine.is_clean();
    drop((one, two));
    cloud.down();
}

#[test]
fn a_reboot_under_containerds_pods_leaks_nothing_and_they_come_anew() {
    let Some(cloud) = cloud(two_nodes("t-cri-boot", Wiring::Bridge)) else { return };
    let (mut one, two) = (Containerd::on(cloud.machine(1)), Containerd::on(cloud.machine(2)));
    let (web, other) = (one.web("web", 0), two.web("other", 0));
    one.kill();
    one.machine.reboot();
    one.machine.is_clean();
    one.start();
    // It remembers a pod that is no more. kubelet makes the next one, and removes the old.
    assert_eq!(one.cri().pods(), [(web.id.clone(), false)]);
    let again = one.web("web", 1);
    one.remove(&web.id);
    one.gets_from_itself(&again);
    one.gets(&again, other.addresses[0], 80);
    for address in &again.addresses {
        two.gets(&other, *address, 80);
    }
    assert_eq!(again.addresses, one.machine.addresses());
    one.remove(&again.id);
    one.machine.is_clean();
    drop((one, two));
    cloud.down();
}

#[test]
fn containerds_removals_in_the_wrong_order_leave_nothing() {
    let options = Options { nodes: 1, ..two_nodes("t-cri-wrong", Wiring::Routed) };
    let Some(cloud) = cloud(options) else { return };
    let mut one = Containerd::on(cloud.machine(1));
    namespace_goes_first(&one);
    stopped_twice(&one);
    killed_while_attaching(&mut one, cloud.lab());
    drop(one);
    cloud.down();
}

/// The processes and the namespace are gone before the runtime hears of it.
fn namespace_goes_first(containerd: &Containerd<'_>) {
    let web = containerd.web("early", 0);
    let [namespace] = containerd.machine.namespaces().try_into().unwrap();
    let path = format!("/run/netns/{namespace}");
    containerd.machine.exec(&["sh", "-c", "pidof busybox httpd sleep | xargs -r kill -9"]);
    containerd.machine.exec(&["umount", "-l", &path]);
    containerd.machine.exec(&["rm", &path]);
    containerd.remove(&web.id);
    containerd.machine.is_clean();
}

/// kubelet stops a pod as often as it likes.
fn stopped_twice(containerd: &Containerd<'_>) {
    let web = containerd.web("twice", 0);
    containerd.cri().stop_pod(&web.id).unwrap();
    containerd.cri().stop_pod(&web.id).unwrap();
    assert_eq!(containerd.machine.pods().len(), 0);
    containerd.cri().remove_pod(&web.id).unwrap();
    containerd.cri().remove_pod(&web.id).unwrap();
    containerd.machine.is_clean();
}

/// The runtime is killed while the plugin waits for an agent that does not answer yet.
fn killed_while_attaching(containerd: &mut Containerd<'_>, lab: &Lab) {
    lab.node(1).pause_agent().unwrap();
    std::thread::scope(|scope| {
        let (config, cri) = (containerd.config("torn", 0), containerd.cri.take().unwrap());
        let asked = scope.spawn(move || cri.run_pod(&config));
        patiently("the plugin waits for the agent", || !plugins(&containerd.machine).is_empty());
        containerd.kill();
        asked.join().unwrap().unwrap_err();
    });
    lab.node(1).resume_agent().unwrap();
    patiently("the plugin has ended", || plugins(&containerd.machine).is_empty());
    containerd.start();
    // kubelet finds no pod of this name that is ready, makes the next one and removes what is left of the first.
    let again = containerd.web("torn", 1);
    for (id, _) in containerd.cri().pods().into_iter().filter(|(id, _)| *id != again.id) {
        containerd.remove(&id);
    }
    containerd.gets_from_itself(&again);
    containerd.remove(&again.id);
    println!(
        "forgotten by containerd: {:?}, {} pods",
        containerd.machine.namespaces(),
        containerd.machine.pods().len()
    );
    // A namespace that the runtime forgot keeps its address until it is gone: it may be in use.
    for namespace in containerd.machine.namespaces() {
        let path = format!("/run/netns/{namespace}");
        containerd.machine.exec(&["umount", "-l", &path]);
        containerd.machine.exec(&["rm", &path]);
    }
    containerd.machine.is_clean();
}

/// Running plugins, by their pids inside the node.
fn plugins(machine: &Machine<'_>) -> String {
    machine.exec(&["sh", "-c", "pidof ripstop-cni || true"]).trim().to_owned()
}
