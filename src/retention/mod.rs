//! Which snapshots stay and which go, each with its reason. Pure: no I/O, no clock.
//!
//! [`plan()`] looks at all snapshots of a repository and decides about those of one job. What it may remove is only
//! given out by [`Plan::removals`], after the guards.
//!
//! # Rules
//! `last: n` keeps the newest n snapshots (one that is there twice, because it is being rewritten, counts once). `hourly`,
//! `daily`, `weekly` (ISO, from Monday), `monthly` and `yearly: n` keep the newest snapshot of each of the newest n periods
//! **that have one**; periods are those of a calendar in one time zone (UTC where none is set). `within: d` keeps everything at most d older than the newest snapshot. A snapshot
//! stays if any rule keeps it. No rule at all keeps everything.
//!
//! `recovery_window: d` keeps what recovery to any time of the last d needs: every snapshot that ended in that time, and
//! the newest one that ended before it, on each timeline that was written since ([`Guards::lines`]): after a recovery in place
//! the newest one may lie behind the point where the new timeline begins.
//!
//! **Systems.** Physical backups carry the identifier of their database system, and a system that was upgraded or made anew has
//! another one. Rules are counted in each system's own history, by time and never by WAL position, so that the first
//! backups after an upgrade push nothing out. A rule lets an older system go once the newer ones fill it by
//! themselves: `last: 3` when they have three backups, `recovery_window: 14d` when they cover all of the 14 days.
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

//!
//! # WAL
//! [`wal_need`] tells which part of a WAL archive some retained backup, running restore or recovery window still
//! needs. What is in doubt is needed.

mod keep;
mod need;
mod plan;
mod system;

pub use keep::{Keep, built_in};
pub use need::{Base, Cluster, Hold, Lineage, Need, Needs, Stretch, System, recovery_bases, wal_need};
pub use plan::{Action, Candidate, Decision, Guards, Lines, Plan, plan};

/// How far two clocks may differ, in seconds.
pub const CLOCK_TOLERANCE_SECS: i64 = 300;

#[cfg(test)]
mod tests;
