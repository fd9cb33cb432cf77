//! Physical replication slots, looked after by SQL: what a connection for replication cannot do.

use super::explain::explain;
use super::session::connect;
use super::settings::ConnectionSettings;
use crate::error::{Error, Kind, Result};
use crate::model::Lsn;

/// How a slot is looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotCare {
    /// Its name.
    pub name: String,
    /// The cluster's system identifier: nothing is done on a server of another one.
    pub system: u64,
    /// It is dropped when it keeps more bytes than this.
    pub most: Option<u64>,
}

/// Makes sure that this server has a physical slot that keeps WAL, and moves it forward to `position` (0: leaves it), or as far
/// as the server itself is. Never moves it back. Nothing is done to a slot that somebody streams from.
///
/// # Errors
/// The server's; [`Kind::Failed`] if it belongs to another cluster, or the slot is of another kind.
pub async fn keep_physical_slot(settings: &ConnectionSettings, care: &SlotCare, position: Lsn) -> Result<()> {
    let (name, system) = (&care.name, care.system);
    let (client, _) = connect(settings).await?;
    let identifier: i64 = client
        .query_one("SELECT system_identifier FROM pg_catalog.pg_control_system()", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(explain)?;
    if identifier.cast_unsigned() != system {
        return Err(Error::new(Kind::Failed, "it is not a server of this cluster: its system identifier is another one"));
    }
    let sql = "SELECT slot_type, active, restart_lsn IS NULL FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let found = client.query_opt(sql, &[name]).await.map_err(explain)?;
    let found = found.map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose();
    let mut found: Option<(String, bool, bool)> = found.map_err(explain)?;
    if let Some((kind, _, _)) = found.as_ref().filter(|(kind, ..)| kind != "physical") {
        return Err(Error::new(Kind::Failed, format!("its slot of this name is {kind}")));
    }
    if matches!(found, Some((_, false, true))) {
        // It keeps nothing, or has lost what it kept.
        client.execute("SELECT pg_catalog.pg_drop_replication_slot($1)", &[name]).await.map_err(explain)?;
        found = None;
    }
    if found.is_none() {
        client.execute("SELECT pg_catalog.pg_create_physical_replication_slot($1, true)", &[name]).await.map_err(explain)?;
    }
    if position > Lsn(0) && !matches!(found, Some((_, true, _))) {
        let sql =
            "SELECT pg_catalog.pg_replication_slot_advance(slot_name, $2::text::pg_lsn) FROM pg_catalog.pg_replication_slots
                   WHERE slot_name = $1 AND restart_lsn < $2::text::pg_lsn AND NOT active";
        client.execute(sql, &[name, &position.to_string()]).await.map_err(explain)?;
    }
    if let Some(most) = care.most {
        let sql = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots
                   WHERE slot_name = $1 AND NOT active AND $2 < pg_catalog.pg_wal_lsn_diff(
                       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                            ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::int8";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let dropped = client.execute(sql, &[name, &most]).await.map_err(explain)?;
        if dropped > 0 {
            tracing::warn!("the replication slot {name} kept too much WAL on {settings} and was dropped");
        }
    }
    Ok(())
}
