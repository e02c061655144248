//! Installation on a plain host, below a folder that stands for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::fake::{Ended, Fake, ripstop, run};

struct Host {
    dir: tempfile::TempDir,
    plugin: PathBuf,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("built-plugin");
        fs::write(&plugin, "plugin").unwrap();
        Self { dir, plugin }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn install(&self) -> Ended {
        let root = self.root();
        let args = ["install", "--root", root.to_str().unwrap(), "--plugin", self.plugin.to_str().unwrap()];
        run(&args)
    }

    fn uninstall(&self, more: &[&str]) -> Ended {
        let root = self.root();
        run(&[&["uninstall", "--root", root.to_str().unwrap()], more].concat())
    }

    /// Every file, below the root.
    fn files(&self) -> BTreeSet<String> {
        fn walk(dir: &Path, root: &Path, files: &mut BTreeSet<String>) {
            for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), root, files);
                } else {
                    files.insert(format!("/{}", entry.path().strip_prefix(root).unwrap().display()));
                }
            }
        }
        let mut files = BTreeSet::new();
        walk(&self.root(), &self.root(), &mut files);
        files
    }
}

const CONFLIST: &str = "/etc/cni/net.d/10-ripstop.conflist";
const CONFIG: &str = "/etc/ripstop/config.yaml";
const PLUGIN: &str = "/opt/cni/bin/ripstop-cni";
const UNIT: &str = "/usr/local/lib/systemd/system/ripstop-agent.service";

#[test]
fn what_was_installed_goes_again() {
    let host = Host::new();
    let ended = host.install();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let files = host.files();
    for file in [CONFLIST, CONFIG, PLUGIN, UNIT, "/usr/local/bin/ripstop", "/usr/local/share/man/man1/ripstop.1"] {
        assert!(files.contains(file), "{file} is not in {files:?}");
    }
    let told: BTreeSet<String> =
        ended.stdout.lines().map(|line| line.strip_prefix(host.root().to_str().unwrap()).unwrap().to_owned()).collect();
    assert_eq!(told, files);
    assert!(ended.stdout.trim_end().ends_with(CONFLIST), "the file that turns runtimes towards it comes last");
    let plugin = host.root().join(&PLUGIN[1..]);
    assert_eq!(fs::read(&plugin).unwrap(), b"plugin");
    assert_eq!(plugin.metadata().unwrap().permissions().mode() & 0o7777, 0o755);

    let ended = host.uninstall(&[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.lines().next().unwrap().ends_with(CONFLIST), "{ended:?}");
    assert_eq!(host.files(), BTreeSet::from([CONFIG.to_owned()]));
    assert_eq!(host.uninstall(&[]).code, Some(0), "twice is no failure");
}

#[test]
fn what_was_edited_is_kept_and_programs_are_replaced() {
    let host = Host::new();
    host.install();
    for file in [CONFIG, CONFLIST] {
        fs::write(host.root().join(&file[1..]), "edited ripstop-cni").unwrap();
    }
    fs::write(&host.plugin, "newer plugin").unwrap();
    let ended = host.install();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("config.yaml is there and kept as it is"), "{ended:?}");
    for file in [CONFIG, CONFLIST] {
        assert_eq!(fs::read_to_string(host.root().join(&file[1..])).unwrap(), "edited ripstop-cni");
    }
    assert_eq!(fs::read(host.root().join(&PLUGIN[1..])).unwrap(), b"newer plugin");
}

#[test]
fn a_container_installs_what_runtimes_look_for_and_nothing_else() {
    let host = Host::new();
    let folder = host.root().join("etc/cni/net.d");
    fs::create_dir_all(&folder).unwrap();
    for other in ["05-other.conflist", "09-other.conf.bak", "87-podman.conflist"] {
        fs::write(folder.join(other), "{}").unwrap();
    }
    let install = || {
        let root = host.root();
        run(&["install", "--cni", "--root", root.to_str().unwrap(), "--plugin", host.plugin.to_str().unwrap()])
    };
    let ended = install();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.trim_end().ends_with(CONFLIST), "{ended:?}");
    let warned: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("comes before 10-ripstop")).collect();
    assert!(matches!(warned[..], [one] if one.contains("05-other.conflist")), "{ended:?}");
    fs::write(host.root().join(&CONFLIST[1..]), "an older version's, with ripstop-cni").unwrap();
    assert_eq!(install().code, Some(0));
    let written = fs::read_to_string(host.root().join(&CONFLIST[1..])).unwrap();
    assert!(written.contains("\"cniVersions\""), "{written}");
    fs::write(host.root().join(&CONFLIST[1..]), "{\"plugins\": [{\"type\": \"bridge\"}]}").unwrap();
    let ended = install();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("10-ripstop.conflist is not Ripstop's: it names another plugin"), "{ended:?}");
    fs::write(host.root().join(&CONFLIST[1..]), &written).unwrap();
    assert_eq!(host.uninstall(&["--cni"]).code, Some(0));
    let left =
        ["05-other.conflist", "09-other.conf.bak", "87-podman.conflist"].map(|name| format!("/etc/cni/net.d/{name}"));
    assert_eq!(host.files(), BTreeSet::from(left));
}

#[test]
fn a_list_that_shall_come_first_keeps_its_name() {
    let host = Host::new();
    let folder = host.root().join("etc/cni/net.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("10-flannel.conflist"), "{}").unwrap();
    let (root, plugin) = (host.root().display().to_string(), host.plugin.display().to_string());
    let install = |more: &[&str]| run(&[&["install", "--cni", "--root", &root, "--plugin", &plugin], more].concat());
    for more in [&["--first"][..], &[]] {
        let ended = install(more);
        assert_eq!((ended.code, ended.stderr.contains("warning")), (Some(0), false), "{ended:?}");
        assert!(ended.stdout.trim_end().ends_with("/etc/cni/net.d/00-ripstop.conflist"), "{ended:?}");
        assert!(!folder.join("10-ripstop.conflist").exists());
    }
    assert_eq!(host.uninstall(&["--cni"]).code, Some(0));
    assert_eq!(host.files(), BTreeSet::from(["/etc/cni/net.d/10-flannel.conflist".to_owned()]));
    assert_eq!(run(&["install", "--first"]).code, Some(2), "only of what a container installs");
}

#[test]
fn what_is_not_ours_stays() {
    let host = Host::new();
    host.install();
    let conflist = host.root().join(&CONFLIST[1..]);
    fs::write(&conflist, "{\"name\": \"other\", \"plugins\": [{\"type\": \"bridge\"}]}").unwrap();
    let foreign = host.root().join("etc/cni/net.d/20-other.conflist");
    fs::write(&foreign, "{}").unwrap();
    let wants = host.root().join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    symlink("/usr/local/lib/systemd/system/ripstop-agent.service", wants.join("ripstop-agent.service")).unwrap();
    symlink("/lib/systemd/system/ssh.service", wants.join("ssh.service")).unwrap();
    let ended = host.uninstall(&[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("10-ripstop.conflist is not Ripstop's and stays"), "{ended:?}");
    assert!(conflist.is_file() && foreign.is_file());
    assert!(!wants.join("ripstop-agent.service").is_symlink());
    assert!(wants.join("ssh.service").is_symlink());
}

#[test]
fn a_purge_asks_the_agent_first() {
    let host = Host::new();
    host.install();
    let agent = Fake::new();
    agent.on("POST /v1/purge", 409, r#"{"error":"2 pods are attached: default/a, default/b"}"#);
    let root = host.root();
    let args = ["uninstall", "--purge", "--root", root.to_str().unwrap()];
    let refused = agent.run(&args);
    assert_eq!(
        (refused.code, refused.stderr.as_str()),
        (Some(1), "error: 2 pods are attached: default/a, default/b\n")
    );
    assert!(host.files().contains(UNIT) && !host.files().contains(CONFLIST));
    let away = host.uninstall(&["--purge", "--socket", "/nonexistent/agent.sock"]);
    assert_eq!(away.code, Some(3));
    assert!(away.stderr.contains("what it made in the kernel is removed on the host itself"), "{away:?}");
    agent.on("POST /v1/purge", 200, "{}");
    assert_eq!(agent.run(&args).code, Some(0));
    assert_eq!(host.files(), BTreeSet::new());
}

/// What a purge asks for, and that ranges are given back by a running agent only.
#[test]
fn a_purge_releases_when_it_is_told_to() {
    let host = Host::new();
    host.install();
    let agent = Fake::new();
    agent.on("POST /v1/purge", 200, "{}");
    let root = host.root();
    let root = root.to_str().unwrap();
    assert_eq!(agent.run(&["uninstall", "--root", root]).code, Some(0), "an image has no kernel");
    assert_eq!(agent.requests(), []);
    assert_eq!(agent.run(&["uninstall", "--purge", "--root", root]).code, Some(0));
    assert_eq!(agent.run(&["uninstall", "--purge", "--release", "--root", root]).code, Some(0));
    let told: Vec<String> = agent.requests().into_iter().map(|(_, body)| body).collect();
    assert_eq!(told, [r#"{"onlyJumps":false,"release":false}"#, r#"{"onlyJumps":false,"release":true}"#]);
    let away = host.uninstall(&["--purge", "--release", "--socket", "/nonexistent/agent.sock"]);
    assert_eq!(away.code, Some(3));
    assert!(away.stderr.contains("only a running agent gives ranges back"), "{away:?}");
    assert_eq!(host.uninstall(&["--release"]).code, Some(2), "without --purge it means nothing");
}

/// Other programs that configure links are told to leave ours alone, and told no more when Ripstop goes.
#[test]
fn networkd_and_network_manager_leave_our_links_alone() {
    let host = Host::new();
    host.install();
    let text = |path: &str| fs::read_to_string(host.root().join(path)).unwrap();
    let links = text("etc/systemd/network/10-ripstop.network");
    assert!(links.contains("[Match]\nName=rip*\n") && links.contains("Unmanaged=yes"), "{links}");
    let networkd = text("etc/systemd/networkd.conf.d/10-ripstop.conf");
    for line in ["ManageForeignRoutes=no", "ManageForeignRoutingPolicyRules=no", "ManageForeignNextHops=no"] {
        assert!(networkd.lines().any(|found| found == line), "{networkd}");
    }
    let manager = text("etc/NetworkManager/conf.d/10-ripstop.conf");
    assert!(manager.contains("[keyfile]\nunmanaged-devices+=interface-name:rip*\n"), "{manager}");
    assert_eq!(host.uninstall(&[]).code, Some(0));
    for folder in ["etc/systemd/network", "etc/systemd/networkd.conf.d", "etc/NetworkManager/conf.d"] {
        assert_eq!(fs::read_dir(host.root().join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn a_unit_names_the_prefix() {
    let host = Host::new();
    let root = host.root();
    let ended = run(&[
        "install",
        "--prefix",
        "/opt/ripstop",
        "--root",
        root.to_str().unwrap(),
        "--plugin",
        host.plugin.to_str().unwrap(),
    ]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let unit = fs::read_to_string(root.join("opt/ripstop/lib/systemd/system/ripstop-agent.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/ripstop/bin/ripstop agent "), "{unit}");
    let wrong = run(&["install", "--prefix", "relative"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn a_missing_plugin_is_told_before_anything_is_written() {
    let host = Host::new();
    fs::remove_file(&host.plugin).unwrap();
    let ended = host.install();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no plugin at "), "{ended:?}");
    assert_eq!(host.files(), BTreeSet::new());
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let host = Host::new();
    fs::write(host.root(), "a file where a folder should be").unwrap();
    let ended = host.install();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cannot write ") && ended.stderr.contains("not a directory"), "{ended:?}");
}

/// An installed program that installs again neither fails nor harms itself.
#[test]
fn it_installs_itself_in_place() {
    let host = Host::new();
    host.install();
    let installed = host.root().join("usr/local/bin/ripstop");
    let output = std::process::Command::new(&installed)
        .args(["install", "--root", host.root().to_str().unwrap(), "--plugin"])
        .arg(host.root().join(&PLUGIN[1..]))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fs::read(&installed).unwrap(), fs::read(ripstop().get_program()).unwrap());
}

/// The last of a DaemonSet that takes a node out: told to end, it waits for nobody more and removes both folders.
#[test]
fn the_agents_folders_go_when_the_last_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["run/ripstop/leases/one.json", "var/lib/ripstop/snapshot.json", "run/other", "var/lib/other"] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let root = format!("--root={}", dir.path().display());
    let mut command = ripstop();
    let mut last = command.args(["uninstall", "--after-agent", &root]).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(last.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert!(told.contains("they go when this is told to end"), "{told}");
    // Behind that line it sleeps only where it waits for a signal.
    let status = format!("/proc/{}/status", last.id());
    while !fs::read_to_string(&status).unwrap().contains("State:\tS") {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(dir.path().join("run/ripstop/leases/one.json").exists(), "until then they stay");
    rustix::process::kill_process(rustix::process::Pid::from_child(&last), rustix::process::Signal::TERM).unwrap();
    assert!(last.wait().unwrap().success());
    for (path, there) in
        [("run/ripstop", false), ("var/lib/ripstop", false), ("run/other", true), ("var/lib/other", true)]
    {
        assert_eq!(dir.path().join(path).exists(), there, "{path}");
    }
}
