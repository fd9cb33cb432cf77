//! What a drill found: the evidence.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::model::{Id, Time};

/// Version history of the stored form. 1: first form.
pub(super) const VERSION: u32 = 1;

/// One drill, as it is stored in the repository and printed with `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// Version of the program that drilled.
    pub program: String,
    /// The machine it drilled on.
    pub host: String,
    /// Whose.
    pub tenant: String,
    /// Which job's backup.
    pub job: String,
    /// `pg_base`, `pg_dump`, `volume`, `command`.
    pub source: String,
    /// When it began, by the store's clock: the moment at which everything was lost, as far as the drill is concerned.
    pub started: Time,
    /// When it ended.
    pub ended: Time,
    /// Whether the backup was restored and every check passed.
    pub ok: bool,
    /// Why not: the failure that ended the drill, or the first check that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The snapshot that was restored; absent if none could be chosen.
    pub snapshot: Option<Id>,
    /// When that backup was begun; of a base backup, when it was consistent. It holds nothing that is younger for sure.
    pub backup_time: Option<Time>,
    /// Proven recovery point: seconds from the newest data that came back to `started`.
    pub rpo_seconds: Option<f64>,
    /// What that rests on: `heartbeat` (the row that the agent writes), `commit` (newest replayed transaction) or `backup` (its time).
    pub rpo_basis: Option<String>,
    /// Proven recovery time: seconds from `started` to the last check, all of `steps`. Absent unless everything passed.
    pub rto_seconds: Option<f64>,
    /// Newest transaction that recovery replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_commit: Option<Time>,
    /// Newest heartbeat row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Time>,
    /// Bytes that were restored.
    pub bytes: u64,
    /// How long each step took, in order.
    pub steps: Vec<Step>,
    /// Everything that was checked, in order.
    pub checks: Vec<Check>,
    /// What deserves a look. Each is one sentence.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A failure in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The word of its kind, as in every `--json` output.
    pub kind: String,
    /// What failed and why.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Failure {
    pub(super) fn of(e: &Error) -> Self {
        Self { kind: e.kind().as_str().to_owned(), message: e.chain(), hint: e.hint_text().map(str::to_owned) }
    }
}

/// A step and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// `restore`, `recovery`, `checks`, …
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// Something that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `files`, `assertion 1`, `pg_amcheck`, …
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

impl Check {
    pub(super) fn passed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok: true, detail: detail.into() }
    }

    pub(super) fn failed(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok: false, detail: detail.into() }
    }
}

/// What the restore of a source tells; the frame around it is the same for all.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) bytes: u64,
    pub(super) steps: Vec<Step>,
    pub(super) checks: Vec<Check>,
    pub(super) warnings: Vec<String>,
    pub(super) newest_commit: Option<Time>,
    pub(super) heartbeat: Option<Time>,
}

impl Report {
    /// The failure as an error, for logs and the exit code; `None` if it passed.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        let failure = self.failure.as_ref()?;
        let kind = Kind::ALL.into_iter().find(|k| k.as_str() == failure.kind).unwrap_or(Kind::Failed);
        let e = Error::new(kind, format!("the drill of {}/{} failed: {}", self.tenant, self.job, failure.message));
        Some(match &failure.hint {
            Some(hint) => e.hint(hint.clone()),
            None => e,
        })
    }

    /// Takes over what the restore found, and computes what it proves.
    pub(super) fn take(&mut self, findings: Findings) {
        let Findings { bytes, steps, checks, warnings, newest_commit, heartbeat } = findings;
        (self.bytes, self.newest_commit, self.heartbeat) = (bytes, newest_commit, heartbeat);
        self.steps.extend(steps);
        self.warnings.extend(warnings);
        if let Some(bad) = checks.iter().find(|c| !c.ok) {
            self.failure.get_or_insert_with(|| Failure {
                kind: Kind::Failed.as_str().to_owned(),
                message: format!("{}: {}", bad.name, bad.detail),
                hint: None,
            });
        }
        self.checks.extend(checks);
    }

    /// Says what came out, at the end.
    pub(super) fn conclude(&mut self, ended: Time) {
        self.ended = ended;
        self.ok = self.failure.is_none() && self.snapshot.is_some();
        let newest = [
            (self.heartbeat, "heartbeat"),
            (self.newest_commit, "commit"),
            // Of a database that was idle, the backup may be newer than the last commit.
            (self.backup_time, "backup"),
        ];
        let newest = newest.into_iter().filter_map(|(at, basis)| Some((at?, basis))).max_by_key(|(at, _)| *at);
        if let Some((at, basis)) = newest {
            self.rpo_seconds = Some(self.started.seconds_since(at).max(0.0));
            self.rpo_basis = Some(basis.to_owned());
        }
        self.rto_seconds = self.ok.then(|| ended.seconds_since(self.started).max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            version: VERSION,
            program: "1".into(),
            host: "h".into(),
            tenant: "acme".into(),
            job: "main".into(),
            source: "pg_base".into(),
            started: Time::new(1000, 0),
            ended: Time::new(1000, 0),
            ok: false,
            failure: None,
            snapshot: Some(Id([1; 32])),
            backup_time: Some(Time::new(400, 0)),
            rpo_seconds: None,
            rpo_basis: None,
            rto_seconds: None,
            newest_commit: None,
            heartbeat: None,
            bytes: 0,
            steps: Vec::new(),
            checks: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn what_is_proven_rests_on_the_newest_thing_that_came_back() {
        let mut of_backup = report();
        of_backup.take(Findings { checks: vec![Check::passed("files", "3")], ..Findings::default() });
        of_backup.conclude(Time::new(1090, 0));
        assert_eq!((of_backup.ok, of_backup.rpo_seconds, of_backup.rto_seconds), (true, Some(600.0), Some(90.0)));
        let mut of_row = report();
        of_row.take(Findings {
            newest_commit: Some(Time::new(700, 0)),
            heartbeat: Some(Time::new(995, 0)),
            ..Findings::default()
        });
        of_row.conclude(Time::new(1001, 0));
        assert_eq!((of_row.rpo_seconds, of_row.rpo_basis.as_deref()), (Some(5.0), Some("heartbeat")));
        assert!(of_row.error().is_none());
    }

    #[test]
    fn a_check_that_fails_fails_the_drill_and_proves_no_time() {
        let mut r = report();
        r.take(Findings { checks: vec![Check::passed("a", "x"), Check::failed("assertion 1", "false")], ..Findings::default() });
        r.conclude(Time::new(1010, 0));
        assert_eq!((r.ok, r.rto_seconds), (false, None));
        assert_eq!(r.error().unwrap().chain(), "the drill of acme/main failed: assertion 1: false");
        let json = serde_json::to_vec(&r).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&json).unwrap(), r);
    }
}
