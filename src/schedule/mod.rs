//! When a job runs: cron expressions with time zones, intervals, spreading, jitter, missed runs, quiet hours.
//!
//! Pure: every function is given the time and asks nobody for it. Three steps, one type each:
//!
//! 1. [`Spec`]: what the configuration says (`"H 2 * * *"`, `every 90m`, `never`), checked, without a job.
//! 2. [`Schedule`]: a [`Spec`] for one job: `H` is resolved from the job's name, jitter and quiet hours are attached.
//! 3. [`Start`]: when that job starts next, given when it last started and what time it is ([`Schedule::next_start`]).
//!
//! # Rules
//! - **Missed runs are caught up once.** However many runs were missed, one is made, as soon as possible. A job that
//!   never ran has missed its run.
//! - **Wall clock against elapsed time.** A schedule that names hours (`30 2 * * *`, `0 2,14 * * *`) follows the wall
//!   clock: when the clock jumps over a run, it happens once, at the moment of the jump; when the clock goes back, the run
//!   happens the first time only. A schedule for every hour (`*/15 * * * *`) follows elapsed time: nothing is lost in a
//!   jump, and a repeated hour is an hour like any other.
//! - **Intervals** (`every 90m`) count from the last start.
//! - **Jitter** is stable: the same job, run and seed give the same delay on every machine. It never reaches past
//!   half of the time to the next run.

mod cron;
mod duration;
mod plan;
mod quiet;
mod spec;
mod zone;

pub use duration::{format_duration, parse_duration};
pub use plan::{Schedule, Start};
pub use quiet::QuietHours;
pub use spec::{Spec, built_in};

/// How far ahead of the clock a recorded start may lie and still be believed, in seconds.
pub const CLOCK_TOLERANCE_SECS: i64 = 300;

#[cfg(test)]
mod tests;
