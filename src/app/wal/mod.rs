//! The WAL archive in use: what `archive_command` and `restore_command` call, the daemon's socket, status, adoption.
//!
//! - [`push`] and [`fetch`] are the one-shot commands, and [`quick`] is the shortest way through them. Each archives or reads ahead, so that a backlog is not one process, one
//!   password and one connection a segment.
//! - [`shipper`] is what a process that lives longer keeps: the open archive, answers that are ready, segments read ahead. The daemon
//!   serves it on the `socket`; `wal fetch`, and `wal push` with a backlog, start a [`helper`] that serves it for as long as somebody
//!   asks.
//! - [`receive`] streams WAL from the server; the daemon does it for every job with `mode: receive`.
//! - **A restored server archives nothing** while the marker of the restore lies in its data directory: [`adopt`] removes it.

pub mod adopt;
mod backfill;
mod bases;
pub mod daemon;
pub mod fetch;
pub mod helper;
mod lately;
pub mod push;
pub mod quick;
pub mod rebase;
pub mod receive;
mod server;
mod shipper;
mod socket;
pub mod status;

use std::path::PathBuf;

pub use crate::wal::Mode;
pub use server::Local;

use super::Context;
use crate::config::settings::{WalCompression, WalJob};
use crate::crypto::Codec;
use crate::error::Result;
use crate::model::Lsn;
use crate::wal::Archive;

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The whole file was written.
    Delivered {
        /// Its length.
        bytes: u64,
        /// The segment was not finished: behind this position it is padding.
        until: Option<Lsn>,
    },
    /// Proven not to be in the archive (a standby gets no proof). Why, for people.
    Missing(String),
}

/// The archive of a job, in its tenant's repository.
///
/// # Errors
/// As [`Context::repository`].
pub async fn open(ctx: &Context, job: &WalJob) -> Result<Archive> {
    let repo = ctx.repository(&job.tenant).await?;
    let codec = match job.settings.compression {
        WalCompression::Zstd => Codec::Zstd(ctx.tenant(&job.tenant)?.repository.compression),
        WalCompression::Gzip => Codec::Gzip(6),
        WalCompression::Lz4 => Codec::Lz4,
        WalCompression::None => Codec::None,
    };
    Archive::with_codec(repo.store().clone(), repo.object_seal()?, &job.settings.cluster, codec)
}

/// What each segment under way takes besides itself, and at most of itself: larger ones go in parts.
const BESIDE_SEGMENT: u64 = 3 << 20;
const MOST_OF_SEGMENT: u64 = 32 << 20;

/// How many segments of this length are under way at once: as the job says, but within so many bytes of memory.
fn parallel(job: &WalJob, segment: u64, memory: u64) -> usize {
    let each = segment.min(MOST_OF_SEGMENT) + BESIDE_SEGMENT;
    job.settings.parallel.min(usize::try_from(memory / each).unwrap_or(usize::MAX)).max(1)
}

/// Where a job keeps files on this machine; `None` where there is no place for them.
fn spool(ctx: &Context, job: &WalJob) -> Option<PathBuf> {
    let own = || Some(super::cache_dir(ctx.settings())?.join("wal").join(format!("{}.{}", job.tenant, job.name)));
    job.settings.spool.clone().or_else(own)
}
