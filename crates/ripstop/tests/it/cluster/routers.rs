//! Routers of others beside a lab's nodes: BIRD or FRR in a namespace of its own at a subnet's switch, or at the lab's router.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ripstop_lab::{Lab, Target};

use super::{router, until};

const BIRD: &str = "/usr/sbin/bird";
const FRR: &str = "/usr/lib/frr";

/// Whether BIRD is there.
pub fn has_bird() -> bool {
    let there = Path::new(BIRD).exists();
    if !there {
        println!("SKIPPED: BIRD (package bird2) is not installed");
    }
    there
}

/// Whether FRR is there.
pub fn has_frr() -> bool {
    let there = ["bgpd", "bfdd", "zebra"].iter().all(|name| Path::new(FRR).join(name).exists());
    if !there {
        println!("SKIPPED: FRR (package frr) is not installed");
    }
    there
}

/// A namespace with a routing daemon.
pub struct Router {
    netns: String,
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

impl Router {
    /// At the lab's own router, which has the first address of each subnet.
    pub fn at_the_middle(lab: &Lab) -> Self {
        Self::of(lab.layout().netns("router"))
    }

    /// BIRD at the lab's own router as the top of two racks: a subnet with one node each, to which it reflects what the other says.
    pub fn of_racks(lab: &Lab) -> Self {
        let mut this = Self::at_the_middle(lab);
        this.bird(
            "log stderr all;\nrouter id 172.30.1.1;\nprotocol device {}\n\
             protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }\n\
             template bgp node { direct; rr client; ipv4 { import all; export all; next hop self; }; }\n\
             protocol bgp n1 from node { local 172.30.1.1 as 64512; neighbor 172.30.1.11 as 64512; }\n\
             protocol bgp n2 from node { local 172.30.2.1 as 64512; neighbor 172.30.2.12 as 64512; }\n",
        );
        this
    }

    /// At the switch of the first subnet, with an address there.
    pub fn beside(lab: &Lab, name: &str, address: &str) -> Self {
        let this = Self::of(lab.layout().netns(name));
        let made = Command::new("ip").args(["netns", "add", &this.netns]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        router(lab, &format!("link add {name} type veth peer name eth0 netns {}", this.netns));
        router(lab, &format!("link set {name} master sub1 up"));
        for line in [&format!("addr add {address}/24 dev eth0"), "link set lo up", "link set eth0 up"] {
            this.ip(line);
        }
        this.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        this
    }

    /// On a link of its own with each of these nodes, called by its name there and `toN` here, without an address.
    pub fn on_links(lab: &Lab, name: &str, nodes: &[u32]) -> Self {
        let this = Self::of(lab.layout().netns(name));
        let made = Command::new("ip").args(["netns", "add", &this.netns]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        this.ip("link set lo up");
        for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            this.run("sysctl", &["-qw", setting]);
        }
        for node in nodes {
            let there = lab.layout().netns(&format!("n{node}"));
            this.ip(&format!("link add to{node} type veth peer name {name} netns {there}"));
            this.ip(&format!("link set to{node} up"));
            lab.exec(&Target::Node(*node), &["ip", "link", "set", name, "up"]).unwrap();
        }
        this
    }

    /// Ends what runs there and takes its links away.
    pub fn remove(self) {
        let netns = self.netns.clone();
        drop(self);
        let gone = Command::new("ip").args(["netns", "del", &netns]).output().unwrap();
        assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    }

    fn of(netns: String) -> Self {
        Self { netns, folder: tempfile::tempdir().unwrap(), running: Vec::new() }
    }

    /// Runs a program there that must succeed, and gives its output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The hardware address of its `eth0`.
    pub fn mac(&self) -> ripstop_types::Mac {
        let shown = self.ip("-o link show eth0");
        shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().parse().unwrap()
    }

    /// Runs ip(8) there.
    pub fn ip(&self, line: &str) -> String {
        self.run("ip", &line.split(' ').collect::<Vec<_>>())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, program]);
        command
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn start(&mut self, program: &str, arguments: &[&str], log: &str) {
        let log = File::options().create(true).append(true).open(self.file(log)).unwrap();
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running.push(command.spawn().unwrap());
    }

    /// Starts BIRD with this configuration.
    pub fn bird(&mut self, conf: &str) {
        std::fs::write(self.file("bird.conf"), conf).unwrap();
        let (conf, control, pid) = (self.file("bird.conf"), self.file("ctl"), self.file("pid"));
        self.start(BIRD, &["-f", "-c", &conf, "-s", &control, "-P", &pid], "log");
        let end = self.file("ctl");
        until("BIRD answers", || Path::new(&end).exists());
    }

    /// Asks BIRD.
    pub fn birdc(&self, line: &str) -> String {
        let control = self.file("ctl");
        let words: Vec<&str> = ["-s", &control].into_iter().chain(line.split(' ')).collect();
        // It fails where there is no such route.
        let output = self.command("birdc").args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asks FRR's bgpd.
    pub fn vtysh(&self, line: &str) -> String {
        self.run("vtysh", &["--vty_socket", self.folder.path().to_str().unwrap(), "-c", line])
    }

    /// Starts FRR's zebra, bfdd and bgpd, the latter with this configuration.
    pub fn frr(&mut self, conf: &str) {
        for (name, conf) in [("zebra", ""), ("bfdd", ""), ("bgpd", conf)] {
            std::fs::write(self.file(&format!("{name}.conf")), conf).unwrap();
        }
        let folder = self.folder.path().to_str().unwrap().to_owned();
        // They give up root.
        self.run("chown", &["-R", "frr:frr", &folder]);
        let (socket, control) = (self.file("zserv"), self.file("bfdd.sock"));
        for name in ["zebra", "bfdd", "bgpd"] {
            let (conf, pid) = (self.file(&format!("{name}.conf")), self.file(&format!("{name}.pid")));
            let program = Path::new(FRR).join(name).to_str().unwrap().to_owned();
            let mut arguments = vec!["-f", &conf, "-i", &pid, "-z", &socket, "--vty_socket", &folder];
            arguments.extend(["-u", "frr", "-g", "frr", "-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
            if name == "bfdd" {
                arguments.extend(["--bfdctl", &control]);
            }
            self.start(&program, &arguments, &format!("{name}.log"));
            until("zebra listens", || Path::new(&socket).exists());
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for child in &mut self.running {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
