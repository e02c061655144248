//! A switch's ports: what happens to them happens at a known moment.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Flags of a port that is up, and of one that is not (`IFF_BROADCAST`, `IFF_MULTICAST`, `IFF_UP`).
const FLAGS: [&str; 2] = ["0x1002", "0x1003"];

/// A shell in the switch's namespace, which sees the settings of its ports: to start a program would take longer than a figure.
pub struct Switch(Child, RefCell<ChildStdin>);

impl Switch {
    /// Starts the shell.
    pub fn open(netns: &Path) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec"]).arg(netns.file_name().context("a namespace")?).arg("sh");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut shell = command.spawn().context("start a shell")?;
        let input = shell.stdin.take().context("the input of a shell")?;
        let this = Self(shell, RefCell::new(input));
        // So that it is there when a moment counts.
        thread::sleep(Duration::from_millis(200));
        Ok(this)
    }

    /// Isolated ports do not reach each other.
    pub fn isolate(&self, port: &str, isolated: bool) -> Result<()> {
        self.tell(&format!("echo {} > /sys/class/net/{port}/brport/isolated", u8::from(isolated)))
    }

    /// Pulls a port's cable, or plugs it in again.
    pub fn plug(&self, port: &str, plugged: bool) -> Result<()> {
        self.tell(&format!("echo {} > /sys/class/net/{port}/flags", FLAGS[usize::from(plugged)]))
    }

    fn tell(&self, line: &str) -> Result<()> {
        self.1.borrow_mut().write_all(format!("{line}\n").as_bytes()).context("tell the switch")
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
