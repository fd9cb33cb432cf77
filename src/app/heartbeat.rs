//! A row with the time, which the daemon writes into a database and a drill reads in the restored one: it tells how much was
//! lost also where nobody else writes.
//!
//! The table is `strongroom.heartbeat (name text primary key, at timestamptz)`, one row a job. It is created where it is missing,
//! by an ordinary role that may create a schema in that database; where it may not, somebody else creates both and grants
//! `USAGE` on the schema and `SELECT, INSERT, UPDATE` on the table.

use std::time::Duration;

use super::Context;
use crate::config::settings::{Heartbeat, Job};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::Time;
use crate::postgres::{ConnectionSettings, Session, connect, explain, get};
use crate::runtime::Cancel;

/// The longest a beat may take; a database that is slower counts as one that does not answer.
const BEAT: Duration = Duration::from_secs(60);
/// After a failure, it is tried again no sooner.
const PAUSE: Duration = Duration::from_secs(30);

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS strongroom;
    CREATE TABLE IF NOT EXISTS strongroom.heartbeat (name text PRIMARY KEY, at timestamptz NOT NULL)";
const WRITE: &str = "INSERT INTO strongroom.heartbeat (name, at) VALUES ($1, pg_catalog.clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET at = excluded.at";

/// Writes beats of a job until `stop` fires. A failure is logged when it begins and when it ends, and never ends anything else.
pub(super) async fn run(job: &Job, beat: &Heartbeat, stop: &Cancel) {
    let name = job.selector().to_string();
    let mut failing = false;
    loop {
        let pause = tokio::select! {
            () = stop.cancelled() => return,
            ended = beats(&name, beat, &mut failing) => {
                let Err(e) = ended;
                if !failing {
                    tracing::warn!("the heartbeat of {name} stopped, and is tried again: {}", e.report());
                }
                failing = true;
                beat.every.max(PAUSE)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Connects and beats until something fails.
async fn beats(name: &str, beat: &Heartbeat, failing: &mut bool) -> Result<std::convert::Infallible> {
    let late = |_| Error::new(Kind::Unavailable, "the server did not answer in time");
    let secrets = beat.clone();
    let settings = super::blocking(move || {
        let mut settings = ConnectionSettings::parse(&secrets.url.read()?)?;
        if let Some(password) = &secrets.password {
            settings = settings.with_password(password.read()?);
        }
        Ok(match &secrets.database {
            Some(name) => settings.with_database(name),
            None => settings,
        })
    })
    .await?;
    let (client, _) = connect(&settings).await?;
    let there = "SELECT pg_catalog.to_regclass('strongroom.heartbeat') IS NOT NULL";
    let there: bool = {
        let row = tokio::time::timeout(BEAT, client.query_one(there, &[])).await.map_err(late)?.map_err(explain)?;
        get(&row, 0)?
    };
    if !there {
        let created = tokio::time::timeout(BEAT, client.batch_execute(CREATE)).await.map_err(late)?;
        created.map_err(explain).context(|| "create the table strongroom.heartbeat").map_err(|e| {
            e.hint("Let the role create a schema (GRANT CREATE ON DATABASE …), or create the table as docs/drills.md shows.")
        })?;
    }
    loop {
        let written = tokio::time::timeout(BEAT, client.execute(WRITE, &[&name])).await.map_err(late)?;
        written.map_err(explain).context(|| "write the heartbeat")?;
        if std::mem::take(failing) {
            tracing::info!("the heartbeat of {name} goes on");
        }
        tokio::time::sleep(beat.every).await;
    }
}

/// The jobs that have a heartbeat.
pub(super) fn of(ctx: &Context) -> Vec<(Job, Heartbeat)> {
    let jobs = ctx.settings().tenants.values().flat_map(|t| t.jobs.values());
    jobs.filter_map(|j| Some((j.clone(), j.drill.heartbeat.clone()?))).collect()
}

/// The time in a job's row, if this database has one. Blocks.
///
/// # Errors
/// The server's.
pub(super) fn read(session: &Session, name: &str) -> Result<Option<Time>> {
    let there = session.one("SELECT pg_catalog.to_regclass('strongroom.heartbeat') IS NOT NULL", &[])?;
    if !get::<bool>(&there, 0)? {
        return Ok(None);
    }
    let sql = "SELECT at FROM strongroom.heartbeat WHERE name = $1";
    match session.query(sql, &[&name])?.first() {
        Some(row) => Ok(Some(get::<std::time::SystemTime>(row, 0)?.into())),
        None => Ok(None),
    }
}
