//! Base backups.

use std::path::{Component, PathBuf};

use super::super::mistake::Collector;
use super::super::raw::{RawCheckpoint, RawFrom, RawPgBase, RawWalInSnapshot};
use super::job::duration;
use super::secret::Names;
use super::size;
use super::source::server_url;
use crate::model::JobName;
use crate::source::pg_base::{From, Settings, WalInSnapshot};

/// `None` after a mistake.
pub(super) fn source(raw: &RawPgBase, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<Settings> {
    let password = raw.password.as_ref().and_then(|p| names.secret(p, &format!("{path}.password"), out));
    let wal_timeout = duration(raw.wal_timeout.as_ref(), &format!("{path}.wal_timeout"), out);
    let max_rate = size(raw.max_rate.as_ref(), &format!("{path}.max_rate"), true, out);
    if let Some(rate) = max_rate
        && rate != 0
        && !(RATES).contains(&rate)
    {
        out.add_hint(
            format!("{path}.max_rate"),
            "outside of what PostgreSQL allows",
            "Write 32KiB/s to 1GiB/s, or leave it out for no limit.",
        );
    }
    let data_directory = raw.data_directory.as_ref().and_then(|dir| {
        let at = format!("{path}.data_directory");
        let dir = PathBuf::from(names.expand(dir, &at, out));
        if !dir.is_absolute() || dir.components().any(|c| c == Component::ParentDir) {
            out.add_hint(at, "not an absolute path", "Write the whole path, without `..`.");
            return None;
        }
        Some(dir)
    });
    let cluster = cluster(raw.cluster.as_ref(), &format!("{path}.cluster"), out);
    let usual = Settings::new(server_url(raw.url.as_ref(), &format!("{path}.url"), names, out)?);
    Some(Settings {
        password,
        data_directory,
        cluster,
        from: match raw.from {
            None => From::Any,
            Some(RawFrom::Primary) => From::Primary,
            Some(RawFrom::Standby) => From::Standby,
            Some(RawFrom::PreferStandby) => From::PreferStandby,
        },
        wal: match raw.wal_in_snapshot {
            None | Some(RawWalInSnapshot::Always) => WalInSnapshot::Always,
            Some(RawWalInSnapshot::WhenNoArchive) => WalInSnapshot::WhenNoArchive,
        },
        wal_timeout: wal_timeout.unwrap_or(usual.wal_timeout),
        fast_checkpoint: raw.checkpoint != Some(RawCheckpoint::Spread),
        max_rate: max_rate.unwrap_or(0),
        ..usual
    })
}

/// What the server's own limit of a backup's rate can be, in bytes a second.
const RATES: std::ops::RangeInclusive<u64> = (32 << 10)..=(1 << 30);

/// The name of a cluster, which becomes part of its archive's place: as names of jobs.
fn cluster(raw: Option<&String>, path: &str, out: &mut Collector<'_>) -> String {
    let Some(name) = raw else { return "main".to_owned() };
    if let Err(e) = name.parse::<JobName>() {
        out.add_hint(path, format!("not a name for a cluster: {e}"), "Use a-z, 0-9 and `-`, such as `main`.");
    }
    name.clone()
}
