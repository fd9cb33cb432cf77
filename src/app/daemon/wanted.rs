//! Backups that are wanted now and not by a schedule: a base backup after WAL was lost. They are started by the loop like all others, so
//! that they count within the limits and a job never runs twice at once.

use tokio::sync::{mpsc, oneshot};

use super::turn::Ended;
use crate::model::Time;
use crate::runtime::Cancel;

/// One that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    /// `tenant/job`.
    pub(super) name: String,
    /// It must begin after this.
    pub(super) since: Time,
    /// Told when there is one, or when the run for it failed.
    pub(super) answer: oneshot::Sender<Ended>,
}

/// Asks the loop. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Asker(mpsc::Sender<Wanted>);

/// The asker, and what the loop hears of it.
pub(super) fn channel() -> (Asker, mpsc::Receiver<Wanted>) {
    let (sender, receiver) = mpsc::channel(16);
    (Asker(sender), receiver)
}

impl Asker {
    /// Waits until a backup of the job that began after `since` is there, and tells how it ended; [`Ended::Failed`] also if there is
    /// no such job, or nobody wants to know any more.
    pub(super) async fn ask(&self, name: &str, since: Time, cancel: &Cancel) -> Ended {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.0.send(Wanted { name: name.to_owned(), since, answer }).await.ok()?;
            answered.await.ok()
        };
        tokio::select! {
            ended = asked => ended.unwrap_or(Ended::Failed),
            () = cancel.cancelled() => Ended::Failed,
        }
    }
}
