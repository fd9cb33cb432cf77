//! A base backup, with all the WAL behind it, in a scratch server.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::feed::{Feeder, Script};
use super::report::{Check, Findings};
use super::scratch::Scratch;
use super::server::{Place, RunAs, Server};
use super::{Watch, Work, checks};
use crate::app::restore_base::{self, Prepared, Progress, Request, command::Fetch, hold};
use crate::app::select::Found;
use crate::app::{Context, base_facts, blocking};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{BaseBackup, SystemId, Time};
use crate::postgres::{Clients, Control, Session, get};
use crate::wal::Archive;

/// WAL that lies in the scratch directory at the same time, at most, in bytes.
const WAL: u64 = 2 << 30;
/// Room beside the data: what a server makes when it starts.
const SLACK: u64 = 256 << 20;
/// What `pg_amcheck` may write: findings, one a line.
const FINDINGS_LIMIT: u64 = 16 << 20;

/// What the thread that drives the server needs.
struct Ready {
    work: Work,
    place: Arc<Place>,
    /// Answers the server's questions for WAL; absent where there is none but that in the snapshot.
    feeder: Option<Feeder>,
    /// Who may be able to log in.
    roles: Vec<String>,
    watch: Watch,
}

/// Restores the backup, lets it recover to the end of its WAL, and looks at it.
///
/// # Errors
/// What keeps it from being restored and started; what is not as it should be is in the findings.
pub(super) async fn run(
    ctx: &Context,
    work: &Work,
    found: Found,
    roles: Vec<String>,
    scratch: &Scratch,
    findings: &mut Findings,
) -> Result<()> {
    let facts = facts(&found).await?;
    let (dirs, cancel, user, major) = (work.drill.server_dirs.clone(), work.cancel.clone(), work.drill.user.clone(), facts.major);
    let (programs, user) =
        blocking(move || Ok((Clients::find(&dirs, &cancel).server(major, true)?.clone(), RunAs::choose(user.as_deref())?)))
            .await?;
    findings.checks.push(Check::passed("server", format!("PostgreSQL {} of {}", programs.version, programs.dir.display())));
    let mut watch = Watch::start(work);
    let place = Arc::new(Place::new(scratch, programs, user, &work.drill.settings)?);
    let script = Script::new(&place)?;
    let prepared = prepare(ctx, &found, &facts, &place, &script).await?;
    let wal = prepared.summary.wal.map_or(0, |w| w.bytes.min(WAL));
    let size = found.bytes().unwrap_or(0);
    scratch.check_room(size.saturating_add(size / 10).saturating_add(wal).saturating_add(SLACK))?;
    let from_archive = prepared.summary.restore_command.is_some();
    findings.warnings.extend(prepared.summary.notes.iter().cloned());

    let progress = Arc::new(Progress::default());
    let restored = restore_base::run(ctx, prepared, progress.clone(), &work.cancel).await?;
    findings.bytes = progress.bytes_written.load(std::sync::atomic::Ordering::Relaxed);
    findings.warnings.extend(restored.notes.iter().cloned());
    let driven = async {
        let feeder = if from_archive { Some(feeder(&script, &found, &facts, &place, scratch, work)?) } else { None };
        watch.step("restore", findings);
        let ready = Ready { work: work.clone(), place: Arc::clone(&place), feeder, roles, watch };
        let mut own = std::mem::take(findings);
        let (own, driven) = blocking(move || {
            let driven = drive(ready, &mut own);
            Ok((own, driven))
        })
        .await?;
        *findings = own;
        driven
    }
    .await;
    if let Some(held) = &restored.hold
        && let Err(e) = hold::release(&found.repository, held).await
    {
        tracing::warn!("{} stays until {}: {}", held.key, held.expires, e.chain());
    }
    driven
}

/// When it was consistent.
///
/// # Errors
/// A manifest that cannot be read.
pub(super) async fn consistent(found: &Found) -> Result<Time> {
    Ok(facts(found).await?.stopped)
}

async fn facts(found: &Found) -> Result<BaseBackup> {
    let reader = found.repository.reader(found.repository.load_index().await?);
    let snapshot = found.snapshot.clone();
    blocking(move || base_facts::read(&reader, &snapshot)).await
}

async fn prepare(ctx: &Context, found: &Found, facts: &BaseBackup, place: &Place, script: &Script) -> Result<Prepared> {
    let elsewhere = facts.tablespaces.iter().filter(|t| !t.is_inside());
    let mut tablespaces = BTreeMap::new();
    for tablespace in elsewhere {
        // Never where they were: a server may be using them on this very machine.
        tablespaces.insert(tablespace.oid.to_string(), place.directory(&format!("tablespace-{}", tablespace.oid))?);
    }
    let fetch = Fetch::Given(script.restore_command.clone());
    let request = Request { tablespaces, pinned: true, ..Request::new(place.data(), fetch) };
    let found = Found {
        tenant: found.tenant.clone(),
        repository: found.repository.clone(),
        snapshot: found.snapshot.clone(),
        warnings: Vec::new(),
    };
    restore_base::prepare(ctx, found, request).await
}

fn feeder(
    script: &Script,
    found: &Found,
    facts: &BaseBackup,
    place: &Arc<Place>,
    scratch: &Scratch,
    work: &Work,
) -> Result<Feeder> {
    let repo = &found.repository;
    let archive = Archive::open(repo.store().clone(), repo.object_seal()?, &facts.cluster)?;
    let folder = archive.folder(SystemId { major: facts.major, identifier: facts.system_identifier });
    Feeder::start(script, folder, Arc::clone(place), scratch.join("spare"), work.cancel.clone())
}

/// Starts the server, waits until it has recovered, looks at it. Blocks.
fn drive(ready: Ready, findings: &mut Findings) -> Result<()> {
    let Ready { work, place, feeder, roles, mut watch } = ready;
    place.give_all()?;
    let settings = as_the_primary(&Control::read(&place.data())?);
    let mut server = place.start(&settings, "postgres", &work.cancel)?;
    let recovered = recover(&mut server, &roles, &work, findings);
    let looked = match recovered {
        Ok(()) => {
            watch.step("recovery", findings);
            let looked = look(&work, &place, &server, findings);
            watch.step("checks", findings);
            looked
        }
        Err(e) => match feeder.as_ref().and_then(Feeder::trouble) {
            // What the server says of it is only that the command failed.
            Some(trouble) if e.kind() != Kind::Cancelled => Err(trouble),
            _ => Err(e),
        },
    };
    server.stop();
    looked
}

/// Recovery needs no less of these than the server had whose WAL it replays, whatever configuration files say: they may have been
/// given on its command line.
fn as_the_primary(control: &Control) -> Vec<(String, String)> {
    [
        ("max_connections", control.max_connections),
        ("max_worker_processes", control.max_worker_processes),
        ("max_wal_senders", control.max_wal_senders),
        ("max_prepared_transactions", control.max_prepared_transactions),
        ("max_locks_per_transaction", control.max_locks_per_transaction),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_string()))
    // A value that was raised meanwhile would make a server that answers questions wait for ever; this one only recovers.
    .chain([("hot_standby".to_owned(), "off".to_owned())])
    .collect()
}

/// Waits for the end of recovery, and finds a role to log in as.
fn recover(server: &mut Server, roles: &[String], work: &Work, findings: &mut Findings) -> Result<()> {
    let is_done = |session: &Session| Ok(!get::<bool>(&session.one("SELECT pg_catalog.pg_is_in_recovery()", &[])?, 0)?);
    let mut denied = None;
    for role in roles {
        server.set_role(role);
        let session = match server.session(&work.cancel, &is_done) {
            Ok(session) => session,
            Err(e) if e.kind() == Kind::Denied => {
                denied = Some(e);
                continue;
            }
            Err(e) => return Err(e),
        };
        let superuser = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1";
        match session.query(superuser, &[])?.first() {
            Some(row) => server.set_role(&get::<String>(row, 0)?),
            None => findings.warnings.push(format!("no superuser may log in: everything is looked at as {role}")),
        }
        let row = session.one(
            "SELECT pg_catalog.pg_last_xact_replay_timestamp(), pg_catalog.pg_last_wal_replay_lsn()::text,
                    (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())::int4",
            &[],
        )?;
        findings.newest_commit = get::<Option<std::time::SystemTime>>(&row, 0)?.map(Time::from);
        let (end, timeline): (Option<String>, Option<i32>) = (get(&row, 1)?, get(&row, 2)?);
        let end = end.unwrap_or_else(|| "its end".to_owned());
        let timeline = timeline.map_or_else(String::new, |t| format!(", now on timeline {t}"));
        findings.checks.push(Check::passed("recovery", format!("consistent, and replayed to {end}{timeline}")));
        return Ok(());
    }
    Err(denied.unwrap_or_else(|| Error::new(Kind::Bug, "no role to log in as was tried")))
}

fn look(work: &Work, place: &Place, server: &Server, findings: &mut Findings) -> Result<()> {
    let databases = checks::databases(server, &work.cancel)?;
    checks::contents(server, &databases, findings, &work.cancel)?;
    if work.drill.amcheck {
        amcheck(work, place, server, findings)?;
    }
    checks::assertions(server, &work.drill, Some("postgres"), findings, &work.cancel)?;
    if work.drill.heartbeat.is_some() {
        checks::newest_beat(server, &work.name, &databases, findings, &work.cancel)?;
    }
    Ok(())
}

/// Tables and indexes of all databases, where the tool and its extension are installed.
fn amcheck(work: &Work, place: &Place, server: &Server, findings: &mut Findings) -> Result<()> {
    let available = {
        let session = Session::open(&server.connection()?, &work.cancel)?;
        !session.query("SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'", &[])?.is_empty()
    };
    let Some(program) = place.program("pg_amcheck").ok().filter(|_| available) else {
        let dir = place.programs.dir.display();
        findings
            .warnings
            .push(format!("tables and indexes were not checked: pg_amcheck or its extension is not installed with {dir}"));
        return Ok(());
    };
    let connection = server.connection()?;
    let program = program.args(["--all", "--install-missing", "--no-password"]);
    let program = connection.configure(program)?;
    let mut child = program.start(&work.cancel)?;
    let mut found = Vec::new();
    if let Some(output) = child.take_output() {
        use std::io::Read as _;
        output.take(FINDINGS_LIMIT).read_to_end(&mut found).context(|| "read what pg_amcheck says")?;
    }
    let exit = child.wait();
    work.cancel.check()?;
    let found = String::from_utf8_lossy(&found);
    let first: Vec<&str> = found.lines().filter(|l| !l.trim().is_empty()).take(10).collect();
    let check = match exit.into_result() {
        Ok(()) => Check::passed("pg_amcheck", "all tables and indexes of all databases"),
        Err(_) if !first.is_empty() => Check::failed("pg_amcheck", first.join("; ")),
        Err(e) => Check::failed("pg_amcheck", e.chain()),
    };
    findings.checks.push(check);
    Ok(())
}
