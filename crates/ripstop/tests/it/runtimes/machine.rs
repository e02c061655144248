//! A node of a lab as a host of a container runtime: folders that a runtime expects, and control groups of its own.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ripstop_lab::{Lab, Target};
use serde_json::Value;

use super::{PATIENCE, image, patiently, rows};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Mounts what a host has and a node of a lab lacks: a place for namespaces and for CNI's results that no other node sees.
const FOLDERS: &str = "mount -t tmpfs namespaces /run/netns && mount --bind \"$1\" /var/lib/cni";

/// Moves to the group `$1` in every hierarchy and shows the node each hierarchy from there on: a runtime compares
/// `/proc/self/cgroup` with its mounts.
const GROUPS: &str = r#"set -e
cd /sys/fs/cgroup
for tree in */; do echo 0 > "$tree$1/cgroup.procs"; done
exec unshare --cgroup sh -ec '
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
cd /sys/fs/cgroup
while IFS=: read -r _ set _; do
  case $set in
    "") mkdir unified; mount -t cgroup2 cgroup unified ;;
    name=*) mkdir "${set#name=}"; mount -t cgroup -o "none,$set" cgroup "${set#name=}" ;;
    *) mkdir "$set"; mount -t cgroup -o "$set" cgroup "$set" ;;
  esac
done </proc/self/cgroup'"#;

/// Runs a program as if that group were the root of every hierarchy.
const ENTER: &str = r#"for tree in /sys/fs/cgroup/*/; do echo 0 > "$tree/cgroup.procs"; done
exec unshare --cgroup "$@""#;

/// A lab whose nodes run containers.
pub struct Cloud {
    lab: Lab,
    groups: Groups,
    image: PathBuf,
}

impl Cloud {
    /// Makes the nodes hosts of a runtime.
    pub fn of(lab: Lab) -> Self {
        let dir = lab.layout().dir().join("image");
        fs::create_dir_all(&dir).unwrap();
        // libcni keeps its results here on every host; a lab's node hangs its own folder over it.
        fs::create_dir_all("/var/lib/cni").unwrap();
        // By its name the lab knows what to remove.
        let groups = Groups { name: lab.layout().netns("runtime") };
        Self { image: image::make(&dir), groups, lab }
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// A node that has just booted.
    pub fn machine(&self, node: u32) -> Machine<'_> {
        let dir = self.lab.layout().machine_dir(&format!("n{node}")).join("runtime");
        let machine = Machine { lab: &self.lab, node, image: &self.image, groups: &self.groups, dir };
        machine.furnish();
        machine
    }

    /// Takes it down; an error is one of the test.
    pub fn down(self) {
        self.lab.down().unwrap();
        assert!(self.groups.folders().is_empty(), "left: {:?}", self.groups.folders());
    }
}

/// A folder of this name in every hierarchy of control groups.
struct Groups {
    name: String,
}

impl Groups {
    /// Whether this host has the hierarchies of version 1, whose paths differ between them.
    fn many() -> bool {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        text.lines().any(|line| !line.starts_with("0::"))
    }

    fn make(&self) {
        for tree in trees() {
            let own = tree.join(&self.name);
            fs::create_dir_all(&own).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if own.join(file).exists() {
                    fs::write(own.join(file), fs::read(tree.join(file)).unwrap()).unwrap();
                }
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        trees().into_iter().map(|tree| tree.join(&self.name)).filter(|path| path.exists()).collect()
    }
}

/// The roots of the hierarchies.
fn trees() -> Vec<PathBuf> {
    if !Groups::many() {
        return vec![CGROUPS.into()];
    }
    let entries = fs::read_dir(CGROUPS).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// A node that runs containers.
pub struct Machine<'a> {
    lab: &'a Lab,
    node: u32,
    image: &'a Path,
    groups: &'a Groups,
    /// What a runtime keeps over a reboot.
    dir: PathBuf,
}

impl Machine<'_> {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The archive of the image.
    pub fn image(&self) -> &Path {
        self.image
    }

    /// Where plugins are: ours, and the one for the loopback link, which every runtime brings along.
    pub fn plugins(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// Where the configuration list is.
    pub fn lists(&self) -> PathBuf {
        self.dir.join("net.d")
    }

    /// The control group below which a runtime makes its own.
    pub fn group(&self) -> String {
        if Groups::many() { "/pods".into() } else { format!("/{}", self.groups.name) }
    }

    fn furnish(&self) {
        let cni = self.dir.join("cni");
        for folder in [&cni, &self.plugins(), &self.lists()] {
            fs::create_dir_all(folder).unwrap();
        }
        let plugin = self.lab.programs().plugin().unwrap();
        for (program, name) in [(plugin, "ripstop-cni"), (Path::new("/usr/lib/cni/loopback"), "loopback")] {
            let _ = symlink(program, self.plugins().join(name));
        }
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/10-ripstop.conflist");
        fs::copy(list, self.lists().join("10-ripstop.conflist")).unwrap();
        self.exec(&["sh", "-c", FOLDERS, "sh", &cni.display().to_string()]);
        if Groups::many() {
            self.groups.make();
            self.exec(&["sh", "-c", GROUPS, "sh", &self.groups.name]);
        }
    }

    /// A program on the node, in the groups of its runtime.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = if Groups::many() {
            let mut command = Command::new("sh");
            command.args(["-c", ENTER, "sh"]).args(argv);
            command
        } else {
            let mut command = Command::new(argv[0]);
            command.args(&argv[1..]);
            command
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn spawn(&self, command: &mut Command) -> ripstop_lab::Running {
        self.lab.spawn(&self.target(), command).unwrap()
    }

    pub fn output(&self, command: &mut Command) -> Output {
        self.spawn(command).output().unwrap()
    }

    /// Runs a program on the node, outside the groups, and returns what it wrote.
    pub fn exec(&self, argv: &[&str]) -> String {
        self.lab.exec(&self.target(), argv).unwrap()
    }

    pub fn target(&self) -> Target {
        Target::Node(self.node)
    }

    /// The pods that the agent knows.
    pub fn pods(&self) -> Vec<Value> {
        rows(self.lab, self.node, "/v1/pods")
    }

    /// The addresses of the only pod, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let pods = self.pods();
        assert_eq!(pods.len(), 1, "{pods:#?}");
        let ips = pods[0]["ips"].as_array().unwrap();
        ips.iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
    }

    /// Namespaces that a runtime made.
    pub fn namespaces(&self) -> Vec<String> {
        self.exec(&["ls", "/run/netns"]).lines().map(str::to_owned).collect()
    }

    /// Nothing of any pod is left: no row, no lease, no link, no table, no namespace, nothing to do.
    pub fn is_clean(&self) {
        let layout = self.lab.layout();
        let leases = layout.machine_dir(&format!("n{}", self.node)).join("run/leases");
        let begun = Instant::now();
        loop {
            let mut left: Vec<String> = self.pods().iter().map(ToString::to_string).collect();
            left.extend(
                fs::read_dir(&leases).into_iter().flatten().map(|entry| entry.unwrap().path().display().to_string()),
            );
            left.extend(
                self.exec(&["ip", "-o", "link"]).lines().filter(|line| line.contains("ripp")).map(str::to_owned),
            );
            let tables = self.exec(&["nft", "list", "tables"]);
            left.extend(tables.lines().filter(|line| line.contains("ripp")).map(str::to_owned));
            left.extend(self.namespaces());
            left.extend(rows(self.lab, self.node, "/v1/plan").iter().map(ToString::to_string));
            let problems = self.lab.agent_json(self.node, "/v1/ipam/check").unwrap();
            left.extend(problems["problems"].as_array().unwrap().iter().map(ToString::to_string));
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "left on n{}: {left:#?}", self.node);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Cuts the power and switches on again. What a runtime kept is there; `/run` and all namespaces are gone.
    pub fn reboot(&self) {
        let node = self.lab.node(self.node);
        node.off().unwrap();
        node.on().unwrap();
        self.furnish();
        patiently("the agent knows its peers again", || {
            let paths = rows(self.lab, self.node, "/v1/paths");
            !paths.is_empty() && paths.iter().all(|path| path["state"] == "realised")
        });
    }
}
