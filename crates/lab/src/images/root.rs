//! The file system of images with tools: busybox's applets as links, and over them the host's own programs with the
//! libraries they load.
//!
//! `/bin/sh` is bash: busybox's shell prefers its own applets to what `PATH` says.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::oci::Content;
use crate::error::{Attempt, LabError, Result};

const BUSYBOX: &str = "/bin/busybox";
/// Programs that tests call: name in the image, program of the host, Debian's package.
const PROGRAMS: [(&str, &str, &str); 14] = [
    ("bash", "bash", "bash"),
    ("conntrack", "conntrack", "conntrack"),
    ("curl", "curl", "curl"),
    ("dig", "dig", "bind9-dnsutils"),
    ("getent", "getent", "libc-bin"),
    ("hostname", "hostname", "hostname"),
    ("ip", "ip", "iproute2"),
    ("iperf", "iperf", "iperf"),
    ("nc", "nc.openbsd", "netcat-openbsd"),
    ("nft", "nft", "nftables"),
    ("nslookup", "nslookup", "bind9-dnsutils"),
    ("seq", "seq", "coreutils"),
    ("ss", "ss", "iproute2"),
    ("wget", "wget", "wget"),
];
const FOLDERS: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];

/// What goes into the image.
pub struct Tools {
    /// Name in the image and path on the host.
    programs: Vec<(&'static str, PathBuf)>,
    applets: Vec<String>,
}

impl Tools {
    /// Finds all programs on the host.
    pub fn find() -> Result<Self> {
        let applets = output(&[BUSYBOX, "--list"])?;
        if !libraries(Path::new(BUSYBOX))?.is_empty() {
            return Err(LabError::failed(format!("{BUSYBOX} is not static: install Debian's busybox-static")));
        }
        let programs = PROGRAMS.map(|(name, program, package)| {
            let found =
                FOLDERS.iter().map(|folder| Path::new("/").join(folder).join(program)).find(|path| path.is_file());
            found.map(|path| (name, path)).ok_or_else(|| {
                LabError::failed(format!("there is no {program}: scripts/setup k8s installs Debian's {package}"))
            })
        });
        Ok(Self {
            programs: programs.into_iter().collect::<Result<_>>()?,
            applets: applets.lines().map(str::to_owned).collect(),
        })
    }

    /// The host's programs that go in.
    pub fn programs(&self) -> impl Iterator<Item = &Path> {
        [Path::new(BUSYBOX)].into_iter().chain(self.programs.iter().map(|(_, path)| path.as_path()))
    }

    /// Writes the layer.
    pub fn write(&self, layer: &mut Content) -> io::Result<()> {
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "run", "var/run", "usr/bin"] {
            layer.folder(folder)?;
        }
        layer.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
        layer.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
        layer.text("etc/nsswitch.conf", "hosts: files dns\n")?;
        layer.program(Path::new(BUSYBOX), "bin/busybox")?;
        layer.link("bash", "bin/sh")?;
        let own: BTreeSet<&str> = self.programs.iter().map(|(name, _)| *name).chain(["sh", "busybox"]).collect();
        for applet in self.applets.iter().filter(|applet| !own.contains(applet.as_str())) {
            layer.link("busybox", &format!("bin/{applet}"))?;
        }
        let mut loaded = BTreeSet::new();
        for (name, path) in &self.programs {
            layer.program(path, &format!("bin/{name}"))?;
            loaded.extend(libraries(path).map_err(io::Error::other)?);
        }
        for library in &loaded {
            layer.library(library)?;
        }
        Ok(())
    }
}

/// The programs of iptables, of each backend that the host has: one file that goes by many names, and its extensions.
#[derive(Debug, Default)]
pub(super) struct Iptables {
    programs: Vec<(&'static str, PathBuf)>,
    pub(super) libraries: BTreeSet<PathBuf>,
}

impl Iptables {
    /// Finds what the host has; which may be nothing.
    pub(super) fn find() -> Result<Self> {
        let mut found = Self::default();
        for backend in ["nft", "legacy"] {
            let path = Path::new("/usr/sbin").join(format!("xtables-{backend}-multi"));
            if path.is_file() {
                found.libraries.extend(libraries(&path)?);
                found.programs.push((backend, path));
            }
        }
        // Extensions are beside the library, where it looks for them.
        let folders = found.libraries.iter().filter_map(|library| library.parent());
        let in_usr = |folder: &Path| match folder.strip_prefix("/usr") {
            Ok(_) => folder.to_owned(),
            Err(_) => Path::new("/usr").join(folder.strip_prefix("/").unwrap_or(folder)),
        };
        let folders: BTreeSet<PathBuf> = folders.map(in_usr).collect();
        for folder in folders {
            let extensions = std::fs::read_dir(folder.join("xtables")).into_iter().flatten().flatten();
            let extensions: BTreeSet<PathBuf> =
                extensions.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
            // Those that reckon with fractions load more than the program does.
            found.libraries.extend(loaded_by(&extensions)?);
            found.libraries.extend(extensions);
        }
        Ok(found)
    }

    /// Writes the programs, not what they load.
    pub(super) fn write(&self, layer: &mut Content) -> io::Result<()> {
        for (backend, path) in &self.programs {
            let program = format!("usr/sbin/xtables-{backend}-multi");
            layer.program(path, &program)?;
            for (word, verb) in
                [("iptables", "restore"), ("iptables", "save"), ("ip6tables", "restore"), ("ip6tables", "save")]
            {
                layer.link(&format!("/{program}"), &format!("usr/sbin/{word}-{backend}-{verb}"))?;
            }
        }
        Ok(())
    }
}

/// The libraries that a program loads, the loader among them, by the paths under which it looks for them.
pub(super) fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    loaded_by([program])
}

fn loaded_by(files: impl IntoIterator<Item: AsRef<Path>>) -> Result<BTreeSet<PathBuf>> {
    let mut command = Command::new("ldd");
    command.args(files.into_iter().map(|file| file.as_ref().to_owned()));
    let listed = command.output().attempt(|| "run ldd".into())?;
    // A static program has none, which ldd says as an error.
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(text.lines().filter_map(library).collect())
}

/// An indented line of ldd, of which the others name a file: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<PathBuf> {
    let line = line.strip_prefix('\t')?;
    let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
    let path = path.split(" (").next()?;
    path.starts_with('/').then(|| path.into())
}

fn output(argv: &[&str]) -> Result<String> {
    let output = Command::new(argv[0]).args(&argv[1..]).output().attempt(|| format!("run {}", argv[0]))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_prints_is_read() {
        let lines = [
            ("\tlinux-vdso.so.1 (0x00007ffd)", None),
            ("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)", Some("/lib/x86_64-linux-gnu/libc.so.6")),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)", Some("/lib64/ld-linux-x86-64.so.2")),
            ("\tnot a dynamic executable", None),
            ("/usr/lib/x86_64-linux-gnu/xtables/libxt_statistic.so:", None),
        ];
        for (line, expected) in lines {
            assert_eq!(library(line), expected.map(PathBuf::from), "{line}");
        }
    }
}
