//! Foreign daemons in a namespace. Where one is not installed a line says so.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::bfd::MS;
use super::space::{Daemon, Space};

const BIRD: &str = "/usr/sbin/bird";
const FRR: &str = "/usr/lib/frr";

/// Nothing gets in or out, and no link goes down.
pub const CUT: &str = "add table inet cut; \
    add chain inet cut in { type filter hook input priority 0; policy drop; }; \
    add chain inet cut out { type filter hook output priority 0; policy drop; }";

/// A folder for a daemon's files.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Whether a program is there, and a line if not.
pub fn is_there(program: &str, name: &str, package: &str) -> bool {
    let there = Path::new(program).exists();
    if !there {
        println!("SKIPPED: {name} (package {package}) is not installed");
    }
    there
}

/// Whether BIRD is there.
pub fn has_bird() -> bool {
    is_there(BIRD, "BIRD", "bird2")
}

/// Whether FRR is there.
pub fn has_frr() -> bool {
    ["bgpd", "bfdd", "zebra"].iter().all(|name| is_there(&format!("{FRR}/{name}"), "FRR", "frr"))
}

/// BIRD with this configuration.
pub fn bird(space: &Space, folder: &Folder, conf: &str, more: &[&str]) -> Daemon {
    let (path, control, pid) = (folder.file("bird.conf"), folder.file("ctl"), folder.file("pid"));
    std::fs::write(&path, conf).unwrap();
    let log = File::options().create(true).append(true).open(folder.file("log")).unwrap();
    space.start(BIRD, &[&["-f", "-c", &path, "-s", &control, "-P", &pid], more].concat(), log)
}

/// FRR's zebra and these of its daemons, each with its configuration and what else it is started with.
pub fn frr(space: &Space, folder: &Folder, daemons: &[(&str, &str, &[&str])]) -> Vec<Daemon> {
    let all: Vec<(&str, &str, &[&str])> = [&[("zebra", "", &[][..])], daemons].concat();
    for (name, conf, _) in &all {
        std::fs::write(folder.file(&format!("{name}.conf")), conf).unwrap();
    }
    // They give up root.
    space.run("chown", &["-R", "frr:frr", folder.0.path().to_str().unwrap()]);
    // Its daemons find each other by a socket that would be everybody's, so all is named here.
    let (socket, vty) = (folder.file("zserv"), folder.0.path().to_str().unwrap().to_owned());
    let start = |(name, _, more): &(&str, &str, &[&str])| -> Daemon {
        let (conf, pid) = (folder.file(&format!("{name}.conf")), folder.file(&format!("{name}.pid")));
        let program = Path::new(FRR).join(name);
        let mut arguments =
            vec!["-f", &conf, "-i", &pid, "-z", &socket, "--vty_socket", &vty, "-u", "frr", "-g", "frr"];
        arguments.extend(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
        arguments.extend(*more);
        let log = File::create(folder.file(&format!("{name}.log"))).unwrap();
        space.start(program.to_str().unwrap(), &arguments, log)
    };
    let mut running = vec![start(&all[0])];
    let until = Instant::now() + Duration::from_secs(10);
    while !Path::new(&socket).exists() {
        assert!(Instant::now() < until, "{}", std::fs::read_to_string(folder.file("zebra.log")).unwrap());
        std::thread::sleep(50 * MS);
    }
    running.extend(all[1..].iter().map(start));
    running
}
