//! Logs by reader: WARN means someone should look, INFO is what an operator wants to have happened.

use ripstop_objects::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;

/// Sends logs to stderr as the configuration says; `RIPSTOP_LOG` overrides its level.
pub fn start(config: LogConfig) {
    let filter = EnvFilter::try_from_env("RIPSTOP_LOG").unwrap_or_else(|_| EnvFilter::new(config.level.as_str()));
    let base = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).with_target(false);
    // A second start in one process (a test) keeps the first.
    let _ = match config.format {
        LogFormat::Json => base.json().try_init(),
        LogFormat::Text => {
            let colours =
                std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            base.with_ansi(colours).try_init()
        }
    };
}
