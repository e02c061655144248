//! Logs by reader: WARN means someone should look, INFO is what an operator wants to have happened.

use std::io::{IsTerminal, stderr};

use ripstop_objects::{LogConfig, LogFormat};
use tracing::warn;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Sends logs to stderr as the configuration says. `RIPSTOP_LOG` overrides its level, for all or by module:
/// `debug`, `warn,ripstop_store=trace`.
pub fn start(config: LogConfig) {
    let variable = std::env::var("RIPSTOP_LOG").ok();
    let asked = variable.as_ref().map(|text| text.parse::<Targets>());
    let configured = || config.level.as_str().parse().ok();
    let filter = asked.as_ref().and_then(|asked| asked.as_ref().ok().cloned()).or_else(configured).unwrap_or_default();
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let base = layer().with_writer(stderr).with_target(false);
    let lines = match config.format {
        LogFormat::Json => base.json().boxed(),
        LogFormat::Text => base.with_ansi(colours).boxed(),
    };
    // A second start in one process (a test) keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    if let (Some(text), Some(Err(error))) = (variable, asked) {
        warn!(
            "RIPSTOP_LOG is {text:?}, which is no filter ({error}); accepted: as in debug or warn,ripstop_store=trace"
        );
    }
}
