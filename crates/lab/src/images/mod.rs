//! The images of a cluster's pods, made on the spot from what the host has, since there is nobody to ask for them.
//!
//! They bear the names that Kubernetes' end-to-end tests ask for (test/utils/image/manifest.go), at a registry that cannot
//! exist. One archive has them all; it is kept by the digest of what it was made of.

mod oci;
mod root;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use oci::{Archive, Image};
use ring::digest::{SHA256, digest};

use crate::error::{Attempt, LabError, Result};
use crate::lock::{Hold, Lock};

/// The image of a pod's own process.
pub const PAUSE: &str = "images.invalid/pause:3.10.2";
/// The cluster's name server.
pub const COREDNS: &str = "images.invalid/coredns:v1.14.6";
/// What nearly every test runs.
pub const AGNHOST: &str = "images.invalid/e2e-test-images/agnhost:2.63.0";

/// Programs that look at the network and change it, iptables among them.
pub const NETWORK_TOOLS: &str = "images.invalid/build-image/distroless-iptables:v0.9.3";

/// The product's own, as `deploy/ripstop.yaml` names it.
pub const RIPSTOP: &str = concat!("ripstop.io/ripstop:", env!("CARGO_PKG_VERSION"));

/// Names of the tests' other images that agnhost and the tools can stand for.
const AGNHOSTS: [&str; 2] = [AGNHOST, "images.invalid/e2e-test-images/agnhost:2.55"];
const TOOLS: [&str; 3] = [
    "images.invalid/e2e-test-images/busybox:1.37.0-1",
    "images.invalid/e2e-test-images/glibc-dns-testing:2.0.0",
    NETWORK_TOOLS,
];
/// Sends a segment that connection tracking takes for invalid, and says whether its peer was reset.
const INVALID: &str = "images.invalid/e2e-test-images/regression-issue-74839:1.4";
/// Has only to run, and to answer on port 80.
const NGINX: &str = "images.invalid/e2e-test-images/nginx:1.15-4";

/// Counts up when what is made here changes.
const EDITION: u32 = 3;
const PAUSE_SOURCE: &str = include_str!("pause.c");
/// How long an archive of what was there before stays: another checkout's cluster may be reading it.
const KEPT: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
/// How long another command may take to make the same archive.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

/// Programs that images are made of, besides the host's own.
pub struct Programs {
    /// What nearly every test runs.
    pub agnhost: PathBuf,
    /// CoreDNS.
    pub coredns: PathBuf,
    /// `regression-issue-74839`.
    pub invalid: PathBuf,
}

impl Programs {
    /// All of them.
    pub fn all(&self) -> [&Path; 3] {
        [&self.agnhost, &self.coredns, &self.invalid]
    }
}

/// The archive of all images, from the cache or made now.
pub fn archive(cache: &Path, programs: &Programs) -> Result<PathBuf> {
    let tools = root::Tools::find()?;
    let parts = programs.all().into_iter().chain(tools.programs());
    let path = cache.join(format!("images-{}.tar", mark(parts)?));
    let _lock = Lock::take(&cache.join("images.lock"), Hold::Exclusive, LIMIT)?;
    if path.is_file() {
        return Ok(path);
    }
    for old in former(cache) {
        let _ = fs::remove_file(old);
    }
    let new = path.with_extension("new");
    make(&new, programs, &tools)?;
    fs::rename(&new, &path).attempt(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Writes an archive of the product's image: its two programs, and the libraries that they load where they are not static; with them
/// iptables, where the host has it.
pub fn product(path: &Path, ripstop: &Path, plugin: &Path) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let (programs, mut loaded) = ([(ripstop, "ripstop"), (plugin, "ripstop-cni")], BTreeSet::new());
    for (program, _) in programs {
        loaded.extend(root::libraries(program)?);
    }
    let iptables = root::Iptables::find()?;
    loaded.extend(iptables.libraries.iter().cloned());
    let mut archive = Archive::create(path).attempt(doing)?;
    let layer = archive
        .layer(|layer| {
            for (program, name) in programs {
                layer.program(program, &format!("usr/local/bin/{name}"))?;
            }
            iptables.write(layer)?;
            loaded.iter().try_for_each(|library| layer.library(library))
        })
        .attempt(doing)?;
    let image = Image {
        name: RIPSTOP.to_owned(),
        layers: vec![layer],
        entrypoint: vec!["/usr/local/bin/ripstop".to_owned()],
        arguments: Vec::new(),
    };
    archive.finish(&[image]).attempt(doing)
}

fn make(path: &Path, programs: &Programs, tools: &root::Tools) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let pause = pause(path)?;
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other);
    let certificate = certificate.attempt(|| "make a certificate".into())?;
    let mut archive = Archive::create(path).attempt(doing)?;
    let layer = archive.layer(|layer| layer.program(&pause, "pause")).attempt(doing);
    let _ = fs::remove_file(&pause);
    let pause = layer?;
    let tools = archive.layer(|layer| tools.write(layer)).attempt(doing)?;
    let coredns = archive.layer(|layer| layer.program(&programs.coredns, "coredns")).attempt(doing)?;
    let agnhost = archive
        .layer(|layer| {
            layer.program(&programs.agnhost, "agnhost")?;
            layer.link("/agnhost", "agnhost-2")?;
            // A server of TLS takes these where nobody names others.
            layer.text("localhost.crt", &certificate.cert.pem())?;
            layer.text("localhost.key", &certificate.signing_key.serialize_pem())?;
            layer.folder("uploads")
        })
        .attempt(doing)?;
    let name = "regression-issue-74839";
    let invalid = archive.layer(|layer| layer.program(&programs.invalid, name)).attempt(doing)?;
    let image = |name: &str, layers: &[&oci::Layer], program: &str, arguments: &[&str]| Image {
        name: name.to_owned(),
        layers: layers.iter().map(|layer| (*layer).clone()).collect(),
        entrypoint: vec![program.to_owned()],
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
    };
    let mut images = vec![image(PAUSE, &[&pause], "/pause", &[]), image(COREDNS, &[&coredns], "/coredns", &[])];
    // A test of resolv.conf starts CoreDNS out of the image of agnhost.
    let all = [&tools, &agnhost, &coredns];
    images.extend(AGNHOSTS.map(|name| image(name, &all, "/agnhost", &["pause"])));
    images.push(image(INVALID, &[&invalid], &format!("/{name}"), &[]));
    images.push(image(NGINX, &all, "/agnhost", &["netexec", "--http-port=80"]));
    images.extend(TOOLS.map(|name| image(name, &[&tools], "/bin/sh", &[])));
    archive.finish(&images).attempt(doing)
}

/// Compiles the process that holds a pod.
fn pause(beside: &Path) -> Result<PathBuf> {
    let (source, program) = (beside.with_extension("pause.c"), beside.with_extension("pause"));
    fs::write(&source, PAUSE_SOURCE).attempt(|| format!("write {}", source.display()))?;
    let output = Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(&program).arg(&source).output();
    let _ = fs::remove_file(&source);
    let output = output.attempt(|| "run cc, which compiles the process that holds a pod".into())?;
    if output.status.success() {
        return Ok(program);
    }
    Err(LabError::failed(format!("cc did not compile: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// What the archive is made of, as a short word: paths with size and time of each part.
fn mark<'a>(parts: impl Iterator<Item = &'a Path>) -> Result<String> {
    let mut text = format!("{EDITION} {PAUSE_SOURCE}");
    for path in parts {
        let meta = fs::metadata(path).attempt(|| format!("look at {}", path.display()))?;
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{} {} {}.{}", path.display(), meta.len(), meta.mtime(), meta.mtime_nsec());
    }
    Ok(hex(&digest(&SHA256, text.as_bytes()).as_ref()[..8]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Old archives of what was there before.
fn former(cache: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let old = |entry: &fs::DirEntry| {
        let made = entry.metadata().and_then(|meta| meta.modified()).ok();
        made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age > KEPT)
    };
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("images-"));
    named.filter(move |entry| old(entry)).map(|entry| entry.path())
}

/// An error that names the file.
fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn archives_of_before_go_when_nobody_can_be_reading_them() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("images-1.tar", KEPT * 2), ("images-2.tar", KEPT / 2), ("images.lock", KEPT * 2)] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        assert_eq!(former(dir.path()).collect::<Vec<_>>(), [dir.path().join("images-1.tar")]);
    }
}
