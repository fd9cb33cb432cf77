//! Reads the configuration again when it changed, or when SIGHUP asks for it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use super::entries::Builder;
use super::turn::{Event, Loaded};
use crate::app::blocking;
use crate::config::{self, Settings};
use crate::error::{Error, Result};
use crate::http::Metrics;

/// The file is looked at this often. Its content decides, not its time: mounted configurations are swapped by links.
const LOOK: Duration = Duration::from_secs(5);

/// Where a configuration came from.
#[derive(Debug, Clone)]
pub struct Origin {
    file: PathBuf,
    environment: Vec<(String, String)>,
    /// The content when this was made.
    first: Option<blake3::Hash>,
}

impl Origin {
    /// A file, and the environment that is laid over it. Blocks: looks at the file. Make it before the configuration is loaded, so
    /// that a change in between is seen.
    #[must_use]
    pub fn new(file: PathBuf, environment: Vec<(String, String)>) -> Self {
        let mut origin = Self { file, environment, first: None };
        origin.first = origin.print();
        origin
    }

    /// As [`Origin::new`], with the environment of this process.
    #[must_use]
    pub fn of_process(file: PathBuf) -> Self {
        let text = |t: std::ffi::OsString| t.into_string().ok();
        Self::new(file, std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?))).collect())
    }

    /// Reads the configuration. Blocks.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn load(&self) -> Result<Settings> {
        config::load(&self.file, self.environment.iter().cloned()).map_err(Error::from)
    }

    /// The content now; `None` if it cannot be read.
    fn print(&self) -> Option<blake3::Hash> {
        std::fs::read(&self.file).ok().map(|bytes| blake3::hash(&bytes))
    }
}

/// Sends a configuration to the loop whenever there is a new one without mistakes. Ends with the loop.
pub(super) async fn watch(origin: Origin, builder: Builder, to: mpsc::Sender<Event>, mut hang_up: Signal, metrics: Metrics) {
    let mut seen = origin.first;
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep(LOOK) => false,
            Some(()) = hang_up.recv() => true,
        };
        // Twice the same content, so that a file that is being written is not read half.
        let now = print(&origin).await;
        if !asked && (now == seen || now != settled(&origin).await) {
            continue;
        }
        seen = now;
        match load(&origin, &builder).await {
            Ok(loaded) => {
                tracing::info!("the configuration was read again: {} jobs", loaded.entries.len());
                if to.send(Event::Replace(loaded)).await.is_err() {
                    return;
                }
            }
            Err(e) => {
                metrics.reload_refused();
                tracing::error!("the new configuration is refused and the one in use goes on: {}", e.report());
            }
        }
    }
}

async fn settled(origin: &Origin) -> Option<blake3::Hash> {
    tokio::time::sleep(Duration::from_millis(200)).await;
    print(origin).await
}

async fn print(origin: &Origin) -> Option<blake3::Hash> {
    let origin = origin.clone();
    blocking(move || Ok(origin.print())).await.ok().flatten()
}

async fn load(origin: &Origin, builder: &Builder) -> Result<Loaded> {
    let (origin, builder) = (origin.clone(), builder.clone());
    blocking(move || builder.build(origin.load()?)).await
}
