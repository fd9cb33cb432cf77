//! Volumes and programs' output, restored as files.

use std::sync::Arc;

use super::report::{Check, Findings};
use super::scratch::Scratch;
use super::{Watch, Work};
use crate::app::restore_command::{self, Target};
use crate::app::restore_volume::{self, Options, Progress};
use crate::app::select::Found;
use crate::error::Result;

/// Room beside the content: directories and rounding to blocks.
const SLACK: u64 = 16 << 20;

/// Restores a volume, reads every file back and compares it with the snapshot.
///
/// # Errors
/// What ends a restore; files that could not be restored or differ are in the findings.
pub(super) async fn volume(work: &Work, found: &Found, scratch: &Scratch, findings: &mut Findings) -> Result<()> {
    let size = found.bytes().unwrap_or(0);
    scratch.check_room(size.saturating_add(size / 20).saturating_add(SLACK))?;
    let mut watch = Watch::start(work);
    let progress = Arc::new(Progress::default());
    let options = Options { verify: true, ..Options::default() };
    let report = restore_volume::run(found, scratch.join("files"), options, progress.clone(), work.memory, &work.cancel).await?;
    watch.step("restore and verify", findings);
    let count = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
    findings.bytes = count(&progress.bytes_written);
    let files = count(&progress.files);
    findings.checks.push(if report.problem_count == 0 {
        Check::passed("files", format!("{files} files, {} bytes, each read back and compared", findings.bytes))
    } else {
        let first: Vec<&str> = report.problems.iter().take(5).map(String::as_str).collect();
        Check::failed("files", format!("{} problems: {}", report.problem_count, first.join("; ")))
    });
    Ok(())
}

/// Restores a program's output: every byte of it comes back, as many as were stored.
///
/// # Errors
/// What ends a restore.
pub(super) async fn output(work: &Work, found: &Found, scratch: &Scratch, findings: &mut Findings) -> Result<()> {
    scratch.check_room(found.bytes().unwrap_or(0).saturating_add(SLACK))?;
    let mut watch = Watch::start(work);
    let request = restore_command::Request::new(Target::File(scratch.join("output")));
    let done = restore_command::run(found, request, &work.cancel).await?;
    watch.step("restore", findings);
    findings.bytes = done.bytes;
    findings.checks.push(Check::passed("content", format!("{}: {} bytes, decrypted and checked", done.file, done.bytes)));
    Ok(())
}
