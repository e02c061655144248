//! Starting the plugin, and judging what it prints.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ripstop_cni_spec::CniVersion;
use serde_json::Value;

/// Both builds of the plugin.
pub fn programs() -> [&'static Path; 2] {
    static SHIPPED: OnceLock<PathBuf> = OnceLock::new();
    [Path::new(env!("CARGO_BIN_EXE_ripstop-cni")), SHIPPED.get_or_init(build_shipped)]
}

/// Builds the plugin as it is shipped, into a directory of its own.
fn build_shipped() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shipped");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--package", "ripstop-cni", "--bins", "--profile", "plugin"])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .unwrap();
    assert!(status.success(), "the shipped plugin does not build");
    target.join("plugin/ripstop-cni")
}

/// One start of the plugin.
pub struct Run {
    command: Command,
    input: Vec<u8>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// A start with an empty environment but for `CNI_COMMAND`.
    pub fn new(program: &Path, verb: &str) -> Self {
        let mut command = Command::new(program);
        command.env_clear().env("CNI_COMMAND", verb);
        Self { command, input: Vec::new() }
    }

    /// A complete call, with every variable that any verb requires.
    pub fn complete(program: &Path, verb: &str, socket: &Path, config: &Value) -> Self {
        Self::new(program, verb)
            .env("CNI_CONTAINERID", "c-1")
            .env("CNI_NETNS", "/run/netns/c-1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("RIPSTOP_CNI_SOCKET", socket)
            .input(config.to_string())
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    pub fn end(mut self) -> Ended {
        let mut child =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A plugin that refuses early does not read its input: that is its right.
        let _ = child.stdin.take().unwrap().write_all(&self.input);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), None, "ended by a signal");
        Ended {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// The error object, after checking that this is what the specification says a failure looks like.
    pub fn error(&self) -> Value {
        assert_eq!(self.status, Some(1), "{self:?}");
        let error: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        let object = error.as_object().unwrap();
        assert!(object["cniVersion"].as_str().unwrap().parse::<CniVersion>().is_ok(), "{error}");
        assert!(object["code"].as_u64().unwrap() > 0, "{error}");
        assert!(!object["msg"].as_str().unwrap().is_empty(), "{error}");
        for (key, value) in object {
            assert!(
                ["cniVersion", "code", "msg"].contains(&key.as_str()) || (key == "details" && value.is_string()),
                "{error}"
            );
        }
        assert_eq!(self.stderr, "", "{self:?}");
        error
    }

    /// The error's message and details, after checking its code.
    pub fn refusal(&self, code: u64) -> String {
        let error = self.error();
        assert_eq!(error["code"], code, "{error}");
        format!("{} | {}", error["msg"].as_str().unwrap(), error["details"].as_str().unwrap_or_default())
    }
}
