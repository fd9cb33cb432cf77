//! WAL archives as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{RawSecret, RawSecretOrText, RawSize};

/// A WAL archive: what `archive_command` pushes, what is streamed from the server, or both.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PgWal")]
pub struct RawPgWal {
    /// Connection URL with all hosts of the cluster, or a secret that holds one. Needed for `mode: receive`; with `mode: archive`
    /// `wal status` asks the server how far it is.
    pub url: Option<RawSecretOrText>,
    /// The password, where the URL holds none.
    pub password: Option<RawSecret>,
    /// How WAL gets here. Default: `receive` where there is a `url`, else `archive`.
    pub mode: Option<RawWalMode>,
    /// Name of the cluster: ties base backups to their WAL. Default: `main`.
    pub cluster: Option<String>,
    /// The physical replication slot WAL is streamed from. Default: `strongroom`.
    pub slot: Option<String>,
    /// How far the archive may lag behind a server that WAL is streamed from: `5s`, which is the default.
    pub max_lag: Option<String>,
    /// Let go of the slot when it keeps more WAL than this on the server (a recorded gap, then a new base backup): `64GiB`.
    /// Default: never, which can fill the server's disk while the store cannot be reached.
    pub max_slot_size: Option<RawSize>,
    /// The server's data directory, where it can be reached: `archive_command` gives paths below it.
    pub data_directory: Option<String>,
    /// How WAL is compressed. Default: `zstd`.
    pub compression: Option<RawWalCompression>,
    /// Segments that are pushed or fetched at the same time, 1 to 64. Default: 4.
    pub parallel: Option<i64>,
    /// How much WAL `wal fetch` reads ahead during a recovery: `256MiB`, which is the default; 0 is none. Who reads at the same time
    /// through one socket has an even part of it.
    pub prefetch: Option<RawSize>,
    /// How long `wal fetch` goes on trying to reach a store before it ends with 255, which ends the recovery: `5m`, which is the
    /// default.
    pub fetch_timeout: Option<String>,
    /// Absolute path of the socket that the daemon serves for `strongroom-client`; `none` for no socket. `{tenant}` and
    /// `{environment}` are filled in. Default: `/run/strongroom/{tenant}.sock`.
    pub socket: Option<String>,
    /// Users (numbers) that may use the socket, beside root and the daemon's own.
    pub socket_uids: Option<Vec<i64>>,
    /// Groups (numbers) whose members may use the socket; the first one owns it. Primary groups only.
    pub socket_gids: Option<Vec<i64>>,
    /// Directory for WAL on its way: what was streamed and is not stored yet. Default: a directory of the job's own in the cache.
    pub spool: Option<String>,
}

/// How WAL gets into an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "WalMode")]
pub enum RawWalMode {
    /// The server's `archive_command` calls `strongroom wal push` or `strongroom-client`.
    Archive,
    /// `strongroom run` or `strongroom wal receive` streams it from the server; `archive_command` may push beside it.
    Receive,
}

/// How WAL is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "WalCompression")]
pub enum RawWalCompression {
    /// The best for nearly everybody.
    Zstd,
    /// For readers that know nothing else.
    Gzip,
    /// Fastest, and larger.
    Lz4,
    /// As it is.
    None,
}
