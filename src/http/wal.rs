//! The metrics of one WAL archive.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::{Families, Job, Number, seconds};
use crate::error::Kind;
use crate::model::Time;

/// Which failure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Failure {
    pub(super) tenant: String,
    pub(super) job: String,
    pub(super) kind: &'static str,
}

/// What is shown of all WAL archives.
#[derive(Debug, Default)]
pub(super) struct WalFamilies {
    stored: Family<Job, Counter>,
    repeated: Family<Job, Counter>,
    failures: Family<Failure, Counter>,
    last_stored: Family<Job, Number>,
    failing: Family<Job, Gauge>,
    listening: Family<Job, Gauge>,
    ready: Family<Job, Gauge>,
    ready_age: Family<Job, Number>,
    streaming: Family<Job, Gauge>,
    received: Family<Job, Gauge>,
    stored_to: Family<Job, Gauge>,
    kept: Family<Job, Gauge>,
    waiting: Family<Job, Number>,
    gaps: Family<Job, Counter>,
    slot_drops: Family<Job, Counter>,
    split: Family<Job, Gauge>,
}

impl WalFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("wal_pushed_files", "Files of pg_wal that the socket took and the store acknowledged", self.stored.clone());
        r.register("wal_repeated_files", "Files that were pushed again and were stored already", self.repeated.clone());
        r.register("wal_push_failures", "Pushes that failed, by kind; the server repeats them", self.failures.clone());
        r.register(
            "wal_last_pushed_timestamp_seconds",
            "When the last file was acknowledged to the server, in seconds since 1970",
            self.last_stored.clone(),
        );
        r.register("wal_push_failing", "Whether the newest push failed", self.failing.clone());
        r.register("wal_socket_up", "Whether the job's socket is served", self.listening.clone());
        r.register(
            "wal_ready_files",
            "Files in archive_status that wait to be archived; only where the data directory can be reached",
            self.ready.clone(),
        );
        r.register("wal_ready_age_seconds", "How long the oldest of them has waited", self.ready_age.clone());
        r.register("wal_streaming", "Whether WAL is streamed from the server", self.streaming.clone());
        r.register("wal_received_bytes", "Position behind the last byte that was streamed", self.received.clone());
        r.register("wal_confirmed_bytes", "Position up to which the store has what was streamed", self.stored_to.clone());
        r.register("wal_slot_kept_bytes", "WAL that the server keeps for the slot", self.kept.clone());
        r.register("wal_unstored_age_seconds", "How long the oldest streamed byte waits for the store", self.waiting.clone());
        r.register(
            "wal_split",
            "Whether the server archives behind a point where another one of the same origin went on with a timeline of its own",
            self.split.clone(),
        );
        r.register("wal_gaps", "Stretches of WAL that were lost: a base backup is needed after each", self.gaps.clone());
        r.register("wal_slot_drops", "How often the slot was dropped because of max_slot_size", self.slot_drops.clone());
    }
}

/// Writes the metrics of one WAL archive. Cheap to make and to clone.
#[derive(Debug, Clone)]
pub struct WalMetrics {
    pub(super) families: Arc<Families>,
    pub(super) job: Job,
}

impl WalMetrics {
    /// A file was acknowledged; `new`: it was not stored before.
    pub fn pushed(&self, new: bool, at: Time) {
        let f = &self.families.wal;
        let count = if new { &f.stored } else { &f.repeated };
        count.get_or_create(&self.job).inc();
        f.last_stored.get_or_create(&self.job).set(seconds(at));
        f.failing.get_or_create(&self.job).set(0);
    }

    /// A push failed.
    pub fn failed(&self, kind: Kind) {
        let f = &self.families.wal;
        let failure = Failure { tenant: self.job.tenant.clone(), job: self.job.job.clone(), kind: kind.as_str() };
        f.failures.get_or_create(&failure).inc();
        f.failing.get_or_create(&self.job).set(1);
    }

    /// Makes counters appear with 0, so that their first increase is seen.
    pub fn known(&self) {
        let f = &self.families.wal;
        for family in [&f.stored, &f.repeated, &f.gaps, &f.slot_drops] {
            drop(family.get_or_create(&self.job));
        }
    }

    /// The store takes WAL again; nothing was pushed.
    pub fn recovered(&self) {
        self.families.wal.failing.get_or_create(&self.job).set(0);
    }

    /// Whether its socket is served.
    pub fn listening(&self, up: bool) {
        self.families.wal.listening.get_or_create(&self.job).set(i64::from(up));
    }

    /// What waits in `archive_status`, and for how many seconds the oldest file has.
    pub fn ready(&self, files: usize, oldest: f64) {
        let f = &self.families.wal;
        f.ready.get_or_create(&self.job).set(i64::try_from(files).unwrap_or(i64::MAX));
        f.ready_age.get_or_create(&self.job).set(oldest);
    }

    /// Whether WAL is streamed.
    pub fn streaming(&self, up: bool) {
        self.families.wal.streaming.get_or_create(&self.job).set(i64::from(up));
    }

    /// How far the stream is: positions behind the last byte received and stored, bytes that the server keeps, and how long the
    /// oldest byte waits for the store.
    pub fn stream(&self, received: u64, stored: u64, kept: u64, waiting: Duration) {
        let f = &self.families.wal;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        f.received.get_or_create(&self.job).set(number(received));
        f.stored_to.get_or_create(&self.job).set(number(stored));
        f.kept.get_or_create(&self.job).set(number(kept));
        f.waiting.get_or_create(&self.job).set(waiting.as_secs_f64());
    }

    /// Whether two servers of one origin both archive.
    pub fn split(&self, split: bool) {
        self.families.wal.split.get_or_create(&self.job).set(i64::from(split));
    }

    /// WAL was lost.
    pub fn gap(&self) {
        self.families.wal.gaps.get_or_create(&self.job).inc();
    }

    /// The slot was dropped because it kept too much.
    pub fn slot_dropped(&self) {
        self.families.wal.slot_drops.get_or_create(&self.job).inc();
    }

    /// The job is gone from the configuration: its metrics go too.
    pub fn forget(&self) {
        let f = &self.families.wal;
        for family in [&f.stored, &f.repeated, &f.gaps, &f.slot_drops] {
            family.remove(&self.job);
        }
        for family in [&f.failing, &f.listening, &f.ready, &f.streaming, &f.received, &f.stored_to, &f.kept, &f.split] {
            family.remove(&self.job);
        }
        for family in [&f.last_stored, &f.ready_age, &f.waiting] {
            family.remove(&self.job);
        }
        for kind in Kind::ALL {
            let failure = Failure { tenant: self.job.tenant.clone(), job: self.job.job.clone(), kind: kind.as_str() };
            f.failures.remove(&failure);
        }
    }
}
