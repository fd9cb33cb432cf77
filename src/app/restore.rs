//! What a restore begins with, whatever the source: which snapshot, and is it still what the backup made.

use std::collections::HashSet;
use std::path::PathBuf;

use super::select::{Found, Pick, Reference, find_but};
use super::{Context, altered};
use crate::config::settings::Job;
use crate::error::{Error, Kind, Result};
use crate::model::TenantName;
use crate::source::SourceSettings;

/// Which of the restores a snapshot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `app::restore_volume`; snapshots of other programs too.
    Volume,
    /// `app::restore_dump`.
    PgDump,
    /// `app::restore_base`.
    PgBase,
    /// `app::restore_command`.
    Command,
}

/// Chooses the snapshot. `latest` and a time pass over snapshots that are incomplete, dated in the future, or that were
/// altered since they were made; an id is taken at its word, with a warning.
///
/// # Errors
/// [`Kind::NotFound`] if there is none; what keeps the repository from being read.
pub async fn choose(ctx: &Context, reference: &Reference) -> Result<Found> {
    let mut passed_over = HashSet::new();
    let mut warnings = Vec::new();
    loop {
        let mut found = find_but(ctx, reference, &passed_over).await?;
        if !altered::find(&found.repository, std::slice::from_ref(&found.snapshot)).await?.is_empty() {
            warnings.push(format!(
                "snapshot {} was altered by another program since it was made: it may lack something",
                found.snapshot.id.short()
            ));
            if !matches!(reference.pick, Pick::Id(_)) {
                passed_over.insert(found.snapshot.id);
                continue;
            }
        }
        warnings.extend(std::mem::take(&mut found.warnings));
        return Ok(Found { warnings, ..found });
    }
}

/// Makes sure that whoever asks may act for the tenant that the data is restored for: its repository opens too.
///
/// # Errors
/// As [`Context::repository`].
pub async fn authorize(ctx: &Context, for_tenant: &TenantName) -> Result<()> {
    ctx.repository(for_tenant).await.map(drop)
}

/// Which restore fits.
///
/// # Errors
/// [`Kind::Failed`] for a source that this version does not know.
pub fn source_of(found: &Found) -> Result<Source> {
    match found.snapshot.file.tag("source") {
        None | Some("volume") => Ok(Source::Volume),
        Some("pg_dump") => Ok(Source::PgDump),
        Some("pg_base") => Ok(Source::PgBase),
        Some("command") => Ok(Source::Command),
        Some(other) => Err(Error::new(
            Kind::Failed,
            format!("snapshot {} was made from a source this version does not know: {other}", found.snapshot.id.short()),
        )
        .hint("Restore it with a newer version, or as plain files with `restic restore`.")),
    }
}

/// Where the job that made the snapshot looks for PostgreSQL's client tools, if it is still in the configuration.
#[must_use]
pub fn client_dirs(ctx: &Context, found: &Found) -> Vec<PathBuf> {
    let job = found.snapshot.file.tag("job");
    let jobs = ctx.tenant(&found.tenant).map(|t| t.jobs.values().find(|j| Some(j.name.as_str()) == job));
    match jobs {
        Ok(Some(Job { source: SourceSettings::PgDump(settings), .. })) => settings.client_dirs.clone(),
        _ => Vec::new(),
    }
}
