//! SIGINT and SIGTERM: the first ends the work in order, the second at once. SIGXFSZ ends nothing: a write that goes
//! beyond the allowed size of files fails with an error that says so.

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context as _, Result};
use crate::runtime::Cancel;

/// Watches for as long as the process lives. `aborted`: the exit code after the second signal.
#[allow(clippy::disallowed_methods, reason = "the second signal means: at once")]
pub(super) fn watch(cancel: Cancel, aborted: u8) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context(|| "watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context(|| "watch for SIGTERM")?;
    // Handled, it does not kill; and unlike an ignored one it is not inherited by programs started from here. The handler
    // stays after the stream is gone.
    drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).context(|| "watch for SIGXFSZ")?);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            if cancel.is_cancelled() {
                // Whoever asks twice does not want to wait for locks and uploads. Nothing is damaged: the commit point
                // was not reached, and the lock is removed as dead later.
                std::process::exit(i32::from(aborted));
            }
            tracing::info!("{name}: ending; once more to abort at once");
            cancel.cancel();
        }
    });
    Ok(())
}
