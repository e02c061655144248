//! `ripstop migrate proxy`: a node serves Services by another proxy, while connections go on.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::ask::Agent;
use crate::duration;
use crate::failure::Failure;
use crate::print::text::field;
use crate::print::{Format, Out, talk};
use crate::target::Target;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Have a node serve Services by another proxy, while connections go on
///
/// The new one is set up beside the old one; when all Services are in the kernel, the old one goes. What was chosen stays
/// in force when the agent starts anew, whatever its configuration says; choosing what that says returns to it. On the way
/// the old one may be chosen again. Clients of Services with session affinity may get another endpoint once.
#[derive(Debug, Args)]
pub struct Proxy {
    /// By what Services are served: nftables, iptables, ipvs, or none of ours
    #[arg(value_name = "PROXY", required_unless_present = "status", value_parser = ["nftables", "iptables", "ipvs", "none"])]
    proxy: Option<String>,
    /// Say what is in force and why, and change nothing
    #[arg(long, conflicts_with = "proxy")]
    status: bool,
    /// The longest wait: a number with a unit of ms, s, m or h; 0s does not wait
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "5m")]
    timeout: Duration,
    /// Form of what --status says: {proxy, configured, leaving, reason}
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    pub target: Target,
}

impl Proxy {
    /// Asks for it, and waits.
    ///
    /// # Errors
    /// Where the agent does not answer or refuses, and where it is not done in time.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let Some(proxy) = &self.proxy else {
            let view: Value = agent.get("/v1/proxy")?;
            if out.data(self.output, &view)? {
                return Ok(());
            }
            return out.line(&sentence(&view));
        };
        switch(agent, proxy)?;
        if self.timeout.is_zero() {
            return out.line(&format!("Services are switched to {proxy}"));
        }
        wait(agent, proxy, Instant::now() + self.timeout)?;
        out.line(&format!("Services are served by {proxy}"))
    }
}

/// Asks the agent to serve Services by this.
pub fn switch(agent: &Agent, proxy: &str) -> Result<(), Failure> {
    agent.post("/v1/proxy", "application/json", json!({"proxy": proxy}).to_string().as_bytes()).map(drop)
}

/// Waits until Services are served by this alone.
pub fn wait(agent: &Agent, proxy: &str, until: Instant) -> Result<(), Failure> {
    let mut told = None;
    loop {
        let view: Value = agent.get("/v1/proxy")?;
        let now = field(&view, "proxy");
        if now != proxy {
            return Err(Failure::Failed(format!("Services were switched to {now} meanwhile")));
        }
        if view.get("leaving").is_none_or(Value::is_null) {
            return Ok(());
        }
        let reason = view.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
        if Instant::now() >= until {
            return Err(Failure::Failed(format!(
                "Services are not served by {proxy} alone yet, which goes on: {reason}"
            )));
        }
        if told.as_ref() != Some(&reason) {
            talk(&reason);
            told = Some(reason);
        }
        thread::sleep(LOOK);
    }
}

/// What is in force and why.
pub fn sentence(view: &Value) -> String {
    let reason = view.get("reason").and_then(Value::as_str).map(|reason| format!(": {reason}"));
    let why = if view.get("reason").is_none_or(Value::is_null) { " (as the configuration says)" } else { "" };
    format!("{}{why}{}", field(view, "proxy"), reason.unwrap_or_default())
}
