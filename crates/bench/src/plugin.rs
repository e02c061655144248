//! A CNI plugin called as a runtime calls it: a process, with its configuration on standard input.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cpu;

/// Where Debian's containernetworking-plugins are.
pub const REFERENCE: &str = "/usr/lib/cni";

/// A plugin and its configuration.
pub struct Plugin {
    pub name: &'static str,
    program: PathBuf,
    conf: String,
}

/// What one call took.
#[derive(Debug, Clone)]
pub struct Taken {
    /// From before the process was started until after it had ended.
    pub wall: Duration,
    /// CPU time of the process and what it started.
    pub cpu: Duration,
    /// What it printed.
    pub printed: String,
}

/// A call under way.
pub struct Call {
    child: Child,
    started: Instant,
    what: String,
}

impl Plugin {
    /// The product's, for an agent's socket.
    #[must_use]
    pub fn ripstop(program: &Path, socket: &Path) -> Self {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "ripstop", "type": "ripstop-cni", "network": "default", "socket": socket,
        });
        Self { name: "ripstop", program: program.into(), conf: conf.to_string() }
    }

    /// Debian's `bridge` or `ptp`, with `host-local` addresses of a /24 kept in a folder; no masquerade.
    #[must_use]
    pub fn reference(name: &'static str, number: u8, folder: &Path) -> Self {
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": format!("bench-{name}"), "type": name, "mtu": 1450,
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join(format!("host-local-{name}")),
                "ranges": [[{ "subnet": format!("10.245.{number}.0/24") }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        if name == "bridge" {
            conf["bridge"] = "cni0".into();
            conf["isGateway"] = true.into();
        }
        Self { name, program: Path::new(REFERENCE).join(name), conf: conf.to_string() }
    }

    /// Starts a call in the calling thread's namespaces.
    pub fn start(&self, verb: &str, container: &str, netns: Option<&Path>) -> Result<Call> {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns.unwrap_or(Path::new("")))
            .env("CNI_PATH", REFERENCE)
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        if let Some(mut input) = child.stdin.take() {
            // If the plugin ended early, its answer says why.
            let _ = input.write_all(self.conf.as_bytes());
        }
        Ok(Call { child, started, what: format!("{} {verb} of {container}", self.name) })
    }

    /// Calls and waits.
    pub fn call(&self, verb: &str, container: &str, netns: Option<&Path>) -> Result<Taken> {
        self.start(verb, container, netns)?.finish()
    }
}

impl Call {
    /// Waits for the end; an error unless the call succeeded.
    pub fn finish(mut self) -> Result<Taken> {
        let mut printed = String::new();
        if let Some(mut output) = self.child.stdout.take() {
            output.read_to_string(&mut printed)?;
        }
        let (code, cpu) = cpu::wait(self.child.id())?;
        let wall = self.started.elapsed();
        if code != Some(0) {
            bail!("{}: {}", self.what, printed.trim());
        }
        Ok(Taken { wall, cpu, printed })
    }
}

/// The first address in what ADD printed, without its length.
pub fn address(printed: &str) -> Result<std::net::IpAddr> {
    let value: Value = serde_json::from_str(printed).context("a result of ADD")?;
    let cidr = value["ips"][0]["address"].as_str().context("a result of ADD without address")?;
    Ok(cidr.split('/').next().unwrap_or_default().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_result_is_found() {
        let printed = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.3/32","interface":1}]}"#;
        assert_eq!(address(printed).unwrap().to_string(), "10.1.2.3");
        assert!(address("{}").is_err());
    }

    #[test]
    fn a_call_that_fails_is_told_with_what_was_printed() {
        let plugin = Plugin { name: "sh", program: "/bin/false".into(), conf: String::new() };
        assert!(plugin.call("ADD", "c1", None).unwrap_err().to_string().starts_with("sh ADD of c1"));
        let plugin = Plugin { name: "cat", program: "/bin/cat".into(), conf: "echo".into() };
        assert_eq!(plugin.call("ADD", "c1", None).unwrap().printed, "echo");
    }
}
