//! Tries again what may succeed later.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::runtime::Cancel;

/// Pause after the first failed attempt; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Pause while somebody else holds the repository's lock. Such attempts are not counted.
const LOCKED_PAUSE: Duration = Duration::from_secs(30);
/// A lock is waited for at most this long.
const LOCKED_FOR: Duration = Duration::from_secs(2 * 3600);

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts after the first.
    pub retries: u32,
    /// Nobody is waiting for the answer: also what a person might rather be told at once is tried again (a program that
    /// failed, a volume that is not there), and a locked repository is waited for, up to two hours.
    pub unattended: bool,
}

impl Patience {
    /// Whether the same run may succeed later without a person doing anything.
    fn may_pass(self, kind: Kind) -> bool {
        match kind {
            Kind::Unavailable | Kind::Locked => true,
            Kind::Failed | Kind::NotFound => self.unattended,
            Kind::Usage
            | Kind::Config
            | Kind::NoRepository
            | Kind::WrongPassword
            | Kind::Incomplete
            | Kind::Cancelled
            | Kind::Denied
            | Kind::Corrupt
            | Kind::Bug => false,
        }
    }
}

/// Runs `attempt` until it succeeds, fails for good, or as many more attempts have failed as `patience` allows. Returns
/// the number of attempts beyond the first too. `name` spreads the pauses of different jobs.
pub(super) async fn run<T, F: Future<Output = Result<T>>>(
    name: &str,
    patience: Patience,
    cancel: &Cancel,
    mut attempt: impl FnMut() -> F,
) -> (Result<T>, u64) {
    let (mut failed, mut waited) = (0u32, Duration::ZERO);
    loop {
        let error = match attempt().await {
            Ok(done) => return (Ok(done), u64::from(failed)),
            Err(e) => e,
        };
        let pause = if cancel.is_cancelled() {
            return (Err(error), u64::from(failed));
        } else if error.kind() == Kind::Locked && patience.unattended && waited < LOCKED_FOR {
            waited += LOCKED_PAUSE;
            LOCKED_PAUSE
        } else if patience.may_pass(error.kind()) && failed < patience.retries {
            failed += 1;
            pause(name, failed)
        } else {
            return (Err(error), u64::from(failed));
        };
        tracing::warn!("trying again in {} s: {}", pause.as_secs(), error.report());
        tokio::select! {
            () = cancel.cancelled() => return (Err(Error::new(Kind::Cancelled, "cancelled while waiting to try again").because(error)), u64::from(failed)),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The pause before the `n`th repetition, counted from 1: doubling, and up to half as long again by the job's name, so that
/// many jobs that failed together do not come back together.
fn pause(name: &str, n: u32) -> Duration {
    let base = FIRST_PAUSE.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
    let hash = blake3::hash(format!("{name} {n}").as_bytes());
    base + base.mul_f64(f64::from(hash.as_bytes()[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn attempts(kinds: &[Kind], retries: u32, unattended: bool) -> (Result<u32>, u64, u32) {
        let made = Cell::new(0u32);
        let (done, extra) = run("a/b", Patience { retries, unattended }, &Cancel::new(), || {
            let n = made.get();
            made.set(n + 1);
            let kind = kinds.get(n as usize).copied();
            async move { kind.map_or(Ok(n), |k| Err(Error::new(k, "failed"))) }
        })
        .await;
        (done, extra, made.get())
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_nothing_else() {
        let (done, extra, made) = attempts(&[Kind::Unavailable, Kind::Failed], 2, true).await;
        assert_eq!((done.unwrap(), extra, made), (2, 2, 3));
        let (done, extra, made) = attempts(&[Kind::Unavailable; 3], 2, true).await;
        assert_eq!((done.unwrap_err().kind(), extra, made), (Kind::Unavailable, 2, 3));
        for kind in [Kind::Denied, Kind::WrongPassword, Kind::NoRepository, Kind::Corrupt, Kind::Cancelled, Kind::Config] {
            let (done, extra, made) = attempts(&[kind], 9, true).await;
            assert_eq!((done.unwrap_err().kind(), extra, made), (kind, 0, 1));
        }
        // Somebody waits at the terminal.
        assert_eq!(attempts(&[Kind::Failed], 9, false).await.2, 1);
        assert_eq!(attempts(&[Kind::Unavailable], 9, false).await.2, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_waited_for_without_using_up_attempts() {
        let (done, extra, made) = attempts(&[Kind::Locked; 50], 1, true).await;
        assert_eq!((done.unwrap(), extra, made), (50, 0, 51));
        let (done, _, made) = attempts(&[Kind::Locked; 1000], 0, true).await;
        assert_eq!((done.unwrap_err().kind(), made), (Kind::Locked, 241));
        assert_eq!(attempts(&[Kind::Locked; 9], 2, false).await.2, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_the_run_is_cancelled() {
        let cancel = Cancel::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            stop.cancel();
        });
        let begun = tokio::time::Instant::now();
        let (done, _) = run::<(), _>("a/b", Patience { retries: 5, unattended: true }, &cancel, || async {
            Err(Error::new(Kind::Failed, "the disk is full"))
        })
        .await;
        let error = done.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (Kind::Cancelled, 3));
        assert!(error.report().contains("the disk is full"));
    }

    #[test]
    fn pauses_double_are_spread_and_end() {
        let secs = |n| pause("a/b", n).as_secs_f64();
        assert!((10.0..=15.0).contains(&secs(1)) && (20.0..=30.0).contains(&secs(2)) && (600.0..=900.0).contains(&secs(40)));
        assert_ne!(pause("a/b", 1), pause("a/c", 1));
    }
}
