//! The image that `deploy/Containerfile` makes, built by podman from the folder as it is sent to an engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::installed;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const NAME: &str = "ripstop.test/built:1";

/// Podman with its storage in a folder.
fn podman(storage: &Path, args: &[&str]) -> String {
    let (root, run) = (storage.join("root"), storage.join("run"));
    let mut command = Command::new("podman");
    command.arg("--root").arg(root).arg("--runroot").arg(&run).arg("--tmpdir").arg(run.join("tmp"));
    let output = command.args(["--storage-driver", "vfs", "--events-backend", "file"]).args(args).output().unwrap();
    assert!(output.status.success(), "podman {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_containerfile_makes_an_image_of_the_two_programs() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: podman builds as root here");
        return;
    }
    if !installed(&["podman"]) {
        return;
    }
    let (context, storage) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let programs = context.path().join("target/release");
    fs::create_dir_all(&programs).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_ripstop"));
    fs::copy(binary, programs.join("ripstop")).unwrap();
    fs::write(programs.join("ripstop-cni"), "the plugin").unwrap();
    fs::write(programs.join("other"), "not sent").unwrap();
    fs::copy(Path::new(REPOSITORY).join(".dockerignore"), context.path().join(".dockerignore")).unwrap();
    let file = format!("{REPOSITORY}/deploy/Containerfile");
    podman(storage.path(), &["build", "-q", "-f", &file, "-t", NAME, &context.path().display().to_string()]);

    let config: Value = serde_json::from_str(&podman(storage.path(), &["image", "inspect", NAME])).unwrap();
    assert_eq!(config[0]["Config"]["Entrypoint"], json!(["/usr/local/bin/ripstop"]));
    let root = podman(storage.path(), &["image", "mount", NAME]);
    let inside = Path::new(&root).join("usr/local/bin");
    let mut names: Vec<_> = fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ripstop", "ripstop-cni"]);
    assert_eq!(fs::read(inside.join("ripstop-cni")).unwrap(), b"the plugin");
    assert_eq!(fs::metadata(inside.join("ripstop")).unwrap().len(), fs::metadata(binary).unwrap().len());
    podman(storage.path(), &["image", "unmount", NAME]);
}
