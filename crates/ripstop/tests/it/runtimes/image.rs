//! An image made on the spot: a static busybox, a page, and a process that only waits.
//!
//! Layout: the OCI image specification, `image-layout.md`, as an uncompressed archive, which podman and containerd load.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// The image's name in every runtime.
pub const NAME: &str = "localhost/tools:latest";
/// What the image's page says.
pub const PAGE: &str = "hello from a container\n";
/// The program that waits until it is told to end.
pub const PAUSE: &str = "/pause";
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 6] = ["httpd", "ping", "sh", "sleep", "timeout", "wget"];

/// Gets the page. `wget -T` of Debian's busybox crashes.
pub const GET: [&str; 6] = ["timeout", "5", "wget", "-q", "-O", "-"];

/// Why there can be no image.
pub fn missing() -> Option<&'static str> {
    let is_static = || Command::new("ldd").arg(BUSYBOX).output().is_ok_and(|output| !output.status.success());
    (!Path::new(BUSYBOX).exists() || !is_static()).then_some("busybox-static is not installed")
}

/// Writes the archive into a folder and returns its path.
pub fn make(dir: &Path) -> PathBuf {
    let (root, layout, layer) = (dir.join("root"), dir.join("layout"), dir.join("layer.tar"));
    furnish(&root);
    tar(&layer, &root);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let layer_digest = store(&blobs, &layer);
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": [PAUSE]},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest["digest"]]},
    });
    let config = store_json(dir, &blobs, &config, "application/vnd.oci.image.config.v1+json");
    let mut layer = layer_digest;
    layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
        "layers": [layer],
    });
    let mut manifest = store_json(dir, &blobs, &manifest, "application/vnd.oci.image.manifest.v1+json");
    // containerd and podman each read an annotation of their own.
    manifest["annotations"] = json!({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = dir.join("tools.tar");
    tar(&archive, &layout);
    archive
}

/// The image's file system.
fn furnish(root: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "www"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("www/index.html"), PAGE).unwrap();
    let pause = root.join(&PAUSE[1..]);
    fs::write(&pause, "#!/bin/sh\nexec sleep 86400\n").unwrap();
    fs::set_permissions(&pause, fs::Permissions::from_mode(0o755)).unwrap();
}

/// As Go calls it, whose words the specification uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(archive: &Path, folder: &Path) {
    let done = Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(archive).arg(".").status().unwrap();
    assert!(done.success(), "tar of {}", folder.display());
}

fn store_json(dir: &Path, blobs: &Path, value: &Value, media_type: &str) -> Value {
    let file = dir.join("blob.json");
    fs::write(&file, value.to_string()).unwrap();
    let mut descriptor = store(blobs, &file);
    descriptor["mediaType"] = media_type.into();
    descriptor
}

/// Moves a file to the blobs and describes it.
fn store(blobs: &Path, file: &Path) -> Value {
    let size = file.metadata().unwrap().len();
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    let digest = String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned();
    fs::rename(file, blobs.join(&digest)).unwrap();
    json!({"digest": format!("sha256:{digest}"), "size": size})
}
