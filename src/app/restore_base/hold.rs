//! A restored server reads WAL long after the restore ended: what it needs must not expire before.
//!
//! Each restore that recovers from an archive leaves an object `strongroom/holds/restore-<16 hexadecimal digits>` in the
//! repository, sealed like all of ours. It says from where on the WAL of a system is needed, and until when it is believed
//! ([`KEPT`]). Whoever expires WAL reads all of them with [`load`]: one that cannot be read is a reason to expire nothing.
//! One that is over does nothing any more and is removed by [`sweep`].

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::super::Context;
use super::super::select::Found;
use crate::crypto::random;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{BaseBackup, Id, Lsn, Time, Timeline};
use crate::repository::Repository;
use crate::store::{Key, Payload, PutMode};

/// How long a hold is believed, in seconds: seven days.
pub const KEPT: i64 = 7 * 86_400;
/// Where they are.
const FOLDER: &str = "strongroom/holds/restore-";

/// What a restore needs. Version history: 1 = this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// 1.
    pub version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Major version of its server.
    pub major: u32,
    /// The system, in decimal digits.
    pub system_identifier: String,
    /// The timeline of the base backup.
    pub timeline: Timeline,
    /// WAL from here on is needed, on this timeline and on all that left it later.
    pub from: Lsn,
    /// The snapshot that was restored.
    pub snapshot: Id,
    /// When the restore began, by the store's clock.
    pub created: Time,
    /// From then on nothing is held, by the store's clock.
    pub expires: Time,
}

/// A hold that is in place.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    /// The object.
    pub key: String,
    /// When it ends.
    pub expires: Time,
}

/// Holds the WAL that a restore of this base backup reads.
///
/// # Errors
/// The store's failures. Where the credentials may not write, there is no hold and a warning.
pub(super) async fn place(ctx: &Context, found: &Found, facts: &BaseBackup) -> Result<Option<Held>> {
    let repo = &found.repository;
    let created = ctx.store_time(repo.store()).await?;
    let expires = Time { secs: created.secs.saturating_add(KEPT), ..created };
    let hold = Hold {
        version: 1,
        cluster: facts.cluster.clone(),
        major: facts.major,
        system_identifier: facts.system_identifier.to_string(),
        timeline: facts.timeline,
        from: facts.start,
        snapshot: found.snapshot.id,
        created,
        expires,
    };
    let mut digits = [0u8; 8];
    random(&mut digits);
    let key = Key::new(format!("{FOLDER}{}", hex::encode(digits)))?;
    let json = serde_json::to_vec(&hold).map_err(|e| Error::new(Kind::Bug, "write JSON").because(e))?;
    let sealed = repo.object_seal()?.seal(key.as_str(), &json)?;
    match repo.store().put(&key, Payload::from(sealed), PutMode::Create).await.map_err(Error::from) {
        Ok(_) => Ok(Some(Held { key: key.as_str().to_owned(), expires })),
        Err(e) if e.kind() == Kind::Denied => {
            tracing::warn!(
                "these credentials may not write: nothing keeps the WAL that this restore needs from expiring before it is read"
            );
            Ok(None)
        }
        Err(e) => Err(e.context("hold the WAL that the restore needs")),
    }
}

/// Ends a hold.
///
/// # Errors
/// The store's failures; one that is gone is no failure.
pub async fn release(repo: &Repository, held: &Held) -> Result<()> {
    Ok(repo.store().delete(&Key::new(held.key.clone())?).await?)
}

/// All holds, those that are over too.
///
/// # Errors
/// The store's failures; a hold that cannot be read. Expire no WAL then.
pub async fn load(repo: &Repository) -> Result<Vec<(Key, Hold)>> {
    let keys: Vec<Key> = repo.store().list(FOLDER).map_ok(|meta| meta.key).try_collect().await.map_err(Error::from)?;
    let seal = repo.object_seal()?;
    let mut out = Vec::new();
    for key in keys {
        let sealed = match repo.store().get(&key, None).await.map_err(Error::from) {
            Ok(sealed) => sealed,
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) => return Err(e.context(format!("read {key}"))),
        };
        let plain = seal.open(key.as_str(), &sealed).context(|| format!("read {key}"))?;
        let hold: Hold = serde_json::from_slice(&plain)
            .map_err(|e| Error::new(Kind::Corrupt, format!("{key} is not what was expected")).because(e))?;
        out.push((key, hold));
    }
    Ok(out)
}

/// Removes the holds that are over, by the store's clock, and returns the others.
///
/// # Errors
/// As [`load`].
pub async fn sweep(repo: &Repository) -> Result<Vec<Hold>> {
    let now = repo.store().now().await?;
    let mut left = Vec::new();
    for (key, hold) in load(repo).await? {
        if hold.expires > now { left.push(hold) } else { repo.store().delete(&key).await? }
    }
    Ok(left)
}
