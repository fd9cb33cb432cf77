//! Logs: always to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::args::{Global, LogFormat};

/// Starts logging for this process. `STRONGROOM_LOG` (`debug`, `strongroom::store=trace`, …) wins over `-v` and `-q`.
pub(super) fn start(global: &Global, daemon: bool) {
    let terminal = std::io::stderr().is_terminal();
    let level = match (global.quiet, global.verbose) {
        (true, _) => "warn",
        // On a terminal a progress bar says what logs say elsewhere.
        (false, 0) if terminal && !daemon => "warn",
        (false, 0) => "info",
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    let others = if global.verbose > 2 { "debug" } else { "warn" };
    let filter =
        EnvFilter::try_from_env("STRONGROOM_LOG").unwrap_or_else(|_| EnvFilter::new(format!("{others},strongroom={level}")));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) changes nothing.
    let started = match global.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        LogFormat::Text if terminal && !daemon => lines.without_time().with_target(false).try_init(),
        LogFormat::Text => lines.with_target(false).with_ansi(terminal).try_init(),
    };
    drop(started);
}
