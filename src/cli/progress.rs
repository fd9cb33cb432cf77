//! Progress of backups and restores: a bar on a terminal, a log line every 30 seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::output;
use crate::app::backup::Progress;
use crate::app::restore_volume;

/// How often a line is logged where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(30);
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The bars of one command.
pub(super) struct Board {
    bars: Option<MultiProgress>,
}

impl Board {
    /// Bars only where people look: standard error is a terminal and nobody asked for less.
    pub(super) fn new(quiet: bool, json_logs: bool) -> Self {
        let wanted = std::io::stderr().is_terminal() && !quiet && !json_logs;
        Self { bars: wanted.then(MultiProgress::new) }
    }

    /// Follows a backup until the guard is dropped.
    pub(super) fn follow(&self, name: String, progress: Arc<Progress>) -> Follower {
        self.start(name, move || {
            let source = &progress.source;
            Counts {
                done: source.bytes_total.load(Relaxed),
                expected: progress.expected_bytes.load(Relaxed),
                files: source.files_new.load(Relaxed)
                    + source.files_changed.load(Relaxed)
                    + source.files_unmodified.load(Relaxed),
            }
        })
    }

    /// Follows the restore of a volume of so many bytes.
    pub(super) fn follow_restore(&self, name: String, progress: Arc<restore_volume::Progress>, bytes: Option<u64>) -> Follower {
        self.start(name, move || Counts {
            done: progress.bytes_written.load(Relaxed) + progress.bytes_reused.load(Relaxed),
            expected: bytes.unwrap_or(0),
            files: progress.files.load(Relaxed),
        })
    }

    /// Follows a count of bytes.
    pub(super) fn follow_bytes(&self, name: String, done: Arc<AtomicU64>, expected: Option<u64>) -> Follower {
        self.start(name, move || Counts { done: done.load(Relaxed), expected: expected.unwrap_or(0), files: 0 })
    }

    fn start(&self, name: String, counts: impl Fn() -> Counts + Send + 'static) -> Follower {
        let bar = self.bars.as_ref().map(|b| b.add(bar(&name)));
        let task = tokio::spawn(watch(name, counts, bar.clone()));
        Follower { task, bar }
    }
}

/// Ends the following when dropped.
pub(super) struct Follower {
    task: tokio::task::JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(name.to_owned());
    // Written here, so a mistake in it would show in every test on a terminal; the plain style is as good.
    let style = ProgressStyle::with_template(
        "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {prefix}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

/// How far something is.
struct Counts {
    done: u64,
    /// A guess, 0 where there is none.
    expected: u64,
    files: u64,
}

async fn watch(name: String, counts: impl Fn() -> Counts + Send + 'static, bar: Option<ProgressBar>) {
    let began = Instant::now();
    let mut tick = tokio::time::interval(if bar.is_some() { DRAW_EVERY } else { LOG_EVERY });
    tick.tick().await;
    loop {
        tick.tick().await;
        let Counts { done, expected, files } = counts();
        // When a guess is passed, the end is unknown.
        let expected = expected.max(done);
        match &bar {
            Some(bar) => {
                bar.set_length(expected);
                bar.set_position(done);
                if files > 0 {
                    bar.set_prefix(format!("{files} files"));
                }
            }
            None => {
                let rate = done as f64 / began.elapsed().as_secs_f64().max(0.001);
                let percent = if expected > done {
                    format!(" of about {} ({} %)", output::size(expected), done * 100 / expected.max(1))
                } else {
                    String::new()
                };
                let files = if files > 0 { format!("{files} files, ") } else { String::new() };
                tracing::info!(job = %name, "{files}{}{percent}, {}/s", output::size(done), output::size(rate as u64));
            }
        }
    }
}
