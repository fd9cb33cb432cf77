//! Which snapshots stay and which go, each with its reason. Pure: no I/O, no clock.
//!
//! [`plan()`] looks at all snapshots of a repository and decides about those of one job. What it may remove is only
//! given out by [`Plan::removals`], after the guards.
//!
//! # Rules
//! `last: n` keeps the newest n snapshots. `hourly`, `daily`, `weekly` (ISO, from Monday), `monthly` and `yearly: n` keep the
//! newest snapshot of each of the newest n periods **that have one**; periods are those of a calendar in one time
//! zone (UTC where none is set). `within: d` keeps everything at most d older than the newest snapshot. A snapshot
//! stays if any rule keeps it. No rule at all keeps everything.
//!
//! This is what `restic forget` does, with two differences. restic also keeps the very oldest snapshot while a rule
//! has periods to spare; here adding an older snapshot never makes a newer one go. And restic groups by host and paths, while
//! here the job's tag decides.
//!
//! # Guards
//! - Only snapshots with our `job=` tag, of this job, are looked at. Held ones stay.
//! - The newest complete snapshot of a job stays, whatever the rules say.
//! - Incomplete snapshots fill no period and push nothing out. They go once a newer complete one exists.
//! - A snapshot that another program altered fills no period either. It goes when it would go if it were whole.
//! - A snapshot dated over 5 minutes ahead of the store's clock is reported and otherwise ignored: it neither goes, nor counts.
//! - Where this machine's clock and the store's differ by over 5 minutes, nothing goes.
//! - A plan that would remove an unusual share of a job's complete snapshots is refused unless forced
//!   ([`Guards::max_removed`]).

mod keep;
mod plan;

pub use keep::{Keep, built_in};
pub use plan::{Action, Candidate, Decision, Guards, Plan, plan};

/// How far two clocks may differ, in seconds.
pub const CLOCK_TOLERANCE_SECS: i64 = 300;

#[cfg(test)]
mod tests;
