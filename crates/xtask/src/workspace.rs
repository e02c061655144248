//! Where the workspace is, which files belong to it, and what cargo says about its packages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The workspace this program was started in.
pub struct Workspace {
    pub root: PathBuf,
    /// The folder cargo builds in.
    pub target: PathBuf,
}

/// The package that libFuzzer drives: a workspace of its own.
pub const FUZZ_MANIFEST: &str = "fuzz/Cargo.toml";

/// Text files by path relative to the root, with `/` between the parts.
pub type Sources = BTreeMap<String, String>;

/// A package of the dependency graph.
#[derive(Debug, Clone, Default)]
pub struct Package {
    pub name: String,
    /// True for the packages of this workspace.
    pub member: bool,
    /// What it is linked with on this host: normal and build dependencies, by package id, dev dependencies left out.
    pub links: BTreeSet<String>,
}

/// Packages by cargo's package id.
pub type Packages = BTreeMap<String, Package>;

impl Workspace {
    /// The workspace around this package, or around the current directory.
    ///
    /// # Errors
    /// If no folder above holds a `Cargo.toml` with a `[workspace]`.
    pub fn open() -> Result<Self> {
        let here = match std::env::var_os("CARGO_MANIFEST_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => std::env::current_dir()?,
        };
        let root = here
            .ancestors()
            .find(|dir| std::fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]")))
            .with_context(|| format!("{} is not inside a cargo workspace", here.display()))?;
        let output = cargo(root)
            .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
            .output()
            .context("cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata: not JSON")?;
        let target = metadata["target_directory"].as_str().context("cargo metadata: no target_directory")?;
        Ok(Self { root: root.to_path_buf(), target: target.into() })
    }

    /// The manifests of this workspace and, where it is there, of the package that libFuzzer drives.
    pub fn manifests(&self) -> impl Iterator<Item = &'static str> {
        ["Cargo.toml", FUZZ_MANIFEST].into_iter().filter(|manifest| self.root.join(manifest).exists())
    }

    /// A cargo of this workspace, without colours, with an empty stdin.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let mut cargo = cargo(&self.root);
        cargo.env("CARGO_TARGET_DIR", &self.target);
        cargo
    }

    /// Where the output of a program run for `what` is kept.
    #[must_use]
    pub fn log(&self, what: &str) -> PathBuf {
        self.target.join("xtask").join(format!("{what}.log"))
    }

    /// Every text file that is tracked, or would be with `git add`.
    ///
    /// # Errors
    /// If git cannot list the files.
    pub fn sources(&self) -> Result<Sources> {
        let output = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(&self.root)
            .output()
            .context("git ls-files")?;
        ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
        let mut sources = Sources::new();
        for path in String::from_utf8_lossy(&output.stdout).split_terminator('\0') {
            // A tracked file may be deleted in the work tree, and a binary file has no lines to check.
            if let Ok(text) = std::fs::read_to_string(self.root.join(path)) {
                sources.insert(path.to_owned(), text);
            }
        }
        Ok(sources)
    }

    /// `cargo metadata` with the lock file as it is.
    ///
    /// # Errors
    /// If cargo fails, which it does where the lock file does not fit the manifests.
    pub fn metadata(&self) -> Result<Value> {
        let output = self
            .cargo()
            .args(["metadata", "--format-version=1", "--locked", "--filter-platform"])
            .arg(host()?)
            .output()
            .context("cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).context("cargo metadata: not JSON")
    }

    /// Every package of the workspace's graph with its features, `NAME VERSION [FEATURES]`, as cargo takes them where
    /// dependencies of these kinds count.
    ///
    /// # Errors
    /// As [`Workspace::metadata`].
    pub fn features(&self, kinds: &str) -> Result<Vec<String>> {
        let output = self
            .cargo()
            .args(["tree", "--locked", "--workspace", "--prefix", "none"])
            .args(["--edges", kinds, "--format", "{p} [{f}]"])
            .output()
            .context("cargo tree")?;
        ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
        let text = String::from_utf8_lossy(&output.stdout);
        // A path, a mark of a procedural macro or of a repetition may stand between.
        let line = |line: &str| -> Option<String> {
            let (package, features) = line.split_once(" [")?;
            let name: Vec<&str> = package.split(' ').take(2).collect();
            Some(format!("{} [{}", name.join(" "), features.trim_end_matches(" (*)")))
        };
        Ok(text.lines().filter_map(line).collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// What a package is linked with when it is built alone, so with its own features only: names of packages.
    ///
    /// # Errors
    /// As [`Workspace::metadata`].
    pub fn tree(&self, package: &str) -> Result<Vec<String>> {
        let output = self
            .cargo()
            .args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"])
            .args(["--package", package])
            .output()
            .context("cargo tree")?;
        ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
    }
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).env("CARGO_TERM_COLOR", "never").stdin(Stdio::null());
    // The package that cargo runs is this one; the packages it is asked for now are others.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The target triple of this host, as rustc names it.
///
/// # Errors
/// If rustc does not run.
pub fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(host.to_owned())
}

/// The packages of what `cargo metadata` printed.
#[must_use]
pub fn packages(metadata: &Value) -> Packages {
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let members: BTreeSet<String> = array(&metadata["workspace_members"]).iter().map(text).collect();
    let mut packages = Packages::new();
    for package in array(&metadata["packages"]) {
        let id = text(&package["id"]);
        let entry = Package { name: text(&package["name"]), member: members.contains(&id), links: BTreeSet::new() };
        packages.insert(id, entry);
    }
    for node in array(&metadata["resolve"]["nodes"]) {
        let links = array(&node["deps"])
            .iter()
            .filter(|dep| array(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev"))
            .map(|dep| text(&dep["pkg"]))
            .collect();
        if let Some(package) = packages.get_mut(&text(&node["id"])) {
            package.links = links;
        }
    }
    packages
}

/// A workspace of one crate without dependencies, with this licence and these files, for the tests with a planted fault.
#[cfg(test)]
pub fn planted(licence: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Workspace) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    let package = "name = \"planted\"\nversion = \"1.0.0\"\n";
    let manifest = format!("[package]\n{package}edition = \"2024\"\nlicense = \"{licence}\"\n");
    let lock = format!("version = 4\n\n[[package]]\n{package}");
    for (file, text) in [("Cargo.toml", &*manifest), ("Cargo.lock", &*lock)].iter().chain(files) {
        std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        std::fs::write(root.join(file), text).unwrap();
    }
    let target = root.join("target");
    (dir, Workspace { root, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_dependencies_are_no_links() {
        let metadata = serde_json::json!({
            "workspace_members": ["a"],
            "packages": [
                {"id": "a", "name": "a"},
                {"id": "b", "name": "b"},
                {"id": "c", "name": "c"},
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [
                    {"pkg": "b", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                    {"pkg": "c", "dep_kinds": [{"kind": "dev"}]},
                ]},
            ]},
        });
        let packages = packages(&metadata);
        assert_eq!(packages["a"].links, BTreeSet::from(["b".to_owned()]));
        assert!(packages["a"].member && !packages["b"].member);
    }
}
