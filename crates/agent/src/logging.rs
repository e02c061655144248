//! Logs by reader: WARN means someone should look, INFO is what an operator wants to have happened.

use std::io::{IsTerminal, stderr};

use ripstop_objects::{LogConfig, LogFormat};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Sends logs to stderr as the configuration says. `RIPSTOP_LOG` overrides its level, for all or by module:
/// `debug`, `warn,ripstop_store=trace`.
pub fn start(config: LogConfig) {
    let asked = std::env::var("RIPSTOP_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.or_else(|| config.level.as_str().parse().ok()).unwrap_or_default();
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let base = layer().with_writer(stderr).with_target(false);
    let lines = match config.format {
        LogFormat::Json => base.json().boxed(),
        LogFormat::Text => base.with_ansi(colours).boxed(),
    };
    // A second start in one process (a test) keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
