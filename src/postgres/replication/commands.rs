//! The connection and its commands with short answers.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::message::frontend;

use super::dial::{Dialled, dial};
use super::refusal::Words;
use super::wire::{Rows, Wire, row, unexpected};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, Timeline, TimelineHistory};
use crate::postgres::endpoint::{Endpoint, TargetAttrs};
use crate::postgres::session::{ServerVersion, get, quote_ident};
use crate::postgres::settings::ConnectionSettings;
use crate::postgres::{connect, explain};

/// How long a command with a short answer may take. Creating a slot and reading a history touch the server's disk.
const ANSWER: Duration = Duration::from_secs(120);

/// A connection for physical replication.
pub struct Replication {
    pub(super) wire: Wire,
    /// A stream was begun and did not end: what comes next on the wire belongs to it.
    pub(super) streaming: bool,
    settings: ConnectionSettings,
    parameters: BTreeMap<String, String>,
    version: ServerVersion,
    in_recovery: bool,
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replication({}, {})", self.settings, self.version)
    }
}

/// Which cluster this is, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    /// `initdb` gave it this number.
    pub system_identifier: u64,
    /// The timeline it is on; of a standby, that of the last WAL it replayed or received.
    pub timeline: Timeline,
    /// How far its WAL is flushed; of a standby, how far it is received or replayed. Streaming cannot begin behind it.
    pub flushed: Lsn,
}

/// A physical slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The oldest position whose WAL it keeps. `None` while it keeps none (never used, made without reserving WAL), or has lost
    /// it.
    pub restart: Option<Lsn>,
    /// The timeline of that position. `None` from servers before 15, and where there is no position.
    pub timeline: Option<Timeline>,
}

/// A timeline's history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFile {
    /// Byte for byte, as it is archived.
    pub content: Bytes,
    /// What it says.
    pub history: TimelineHistory,
}

impl Replication {
    /// Connects to the first host that lets us in and has the wanted role (`target_session_attrs`). A database in the settings
    /// does not matter.
    ///
    /// # Errors
    /// [`Kind::Denied`] for a refused login, certificate or `pg_hba.conf` (see [`super::Refusal`]), [`Kind::Unavailable`] if no
    /// host answers, has a free sender or the wanted role, [`Kind::Config`] for settings that cannot work.
    pub async fn connect(settings: &ConnectionSettings) -> Result<Self> {
        let mut passes = vec![settings.target];
        if settings.target == TargetAttrs::PreferStandby {
            passes.push(TargetAttrs::Any);
        }
        let mut last = None;
        for target in passes {
            for endpoint in &settings.endpoints {
                match Self::connect_one(settings, endpoint, target).await {
                    Ok(connected) => return Ok(connected),
                    Err(e) => last = Some(e.context(format!("connect to PostgreSQL at {endpoint} for replication"))),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::Bug, "the connection settings name no host")))
    }

    async fn connect_one(settings: &ConnectionSettings, endpoint: &Endpoint, target: TargetAttrs) -> Result<Self> {
        let Dialled { wire, parameters } = dial(settings, endpoint).await?;
        let text = parameters.get("server_version").cloned().unwrap_or_default();
        let mut connected = Self {
            wire,
            streaming: false,
            settings: settings.pinned(endpoint),
            parameters,
            version: ServerVersion { text, number: 0 },
            in_recovery: false,
        };
        let number = connected.show("server_version_num").await?;
        connected.version.number =
            number.parse().map_err(|_| Error::new(Kind::Failed, format!("`{number}` is not a version of PostgreSQL")))?;
        connected.look_at_role(target).await?;
        Ok(connected)
    }

    async fn look_at_role(&mut self, target: TargetAttrs) -> Result<()> {
        let read_only = self.show("transaction_read_only").await? == "on";
        self.in_recovery = match self.parameters.get("in_hot_standby") {
            Some(value) => value == "on",
            // Before 14 a server does not say it, but in recovery each transaction is read-only, whatever the default.
            None => read_only && self.show("default_transaction_read_only").await? == "off",
        };
        if target.accepts(self.in_recovery, read_only) {
            return Ok(());
        }
        Err(Error::new(Kind::Unavailable, format!("the server is not {}", target.as_str()))
            .hint("Name all hosts of the cluster in the URL, or change target_session_attrs."))
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> &ServerVersion {
        &self.version
    }

    /// Whether it was a standby when we connected.
    #[must_use]
    pub fn in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Settings for this very server: for a [`super::super::Session`] beside this connection.
    #[must_use]
    pub fn settings(&self) -> &ConnectionSettings {
        &self.settings
    }

    /// The host that answered.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.settings.endpoints.first()
    }

    /// The cluster's identity and position.
    ///
    /// # Errors
    /// The server's; [`Kind::Unavailable`] if the connection is lost.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.command("IDENTIFY_SYSTEM").await.context(|| "identify the cluster")?;
        Ok(SystemIdentity {
            system_identifier: cell(&rows, 0, 0)?,
            timeline: Timeline(cell(&rows, 0, 1)?),
            flushed: cell(&rows, 0, 2)?,
        })
    }

    /// The value of a setting, as the server writes it for people: `wal_segment_size` is `16MB`.
    ///
    /// # Errors
    /// As [`Replication::identify_system`].
    pub async fn show(&mut self, name: &str) -> Result<String> {
        let rows =
            self.command(&format!("SHOW {}", quote_ident(name))).await.context(|| format!("ask for the setting {name}"))?;
        cell(&rows, 0, 0)
    }

    /// Creates a physical slot. With `reserve` it keeps WAL from the last checkpoint on at once, else only once it was streamed
    /// from. A temporary one ends with the connection.
    ///
    /// # Errors
    /// As [`Replication::identify_system`], with [`super::Refusal::SlotExists`] and [`super::Refusal::NoFreeSlot`].
    pub async fn create_physical_slot(&mut self, name: &str, temporary: bool, reserve: bool) -> Result<()> {
        let words = [if temporary { " TEMPORARY" } else { "" }, " PHYSICAL", if reserve { " RESERVE_WAL" } else { "" }].concat();
        self.command(&format!("CREATE_REPLICATION_SLOT {}{words}", quote_ident(name)))
            .await
            .map(drop)
            .context(|| format!("create the replication slot {name}"))
    }

    /// A physical slot's state; `None` if there is no slot of this name. Before PostgreSQL 15 this asks by SQL, over a
    /// connection of its own.
    ///
    /// # Errors
    /// As [`Replication::identify_system`]; a slot of this name that is logical is a [`Kind::Config`].
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<Slot>> {
        let read = if self.version.major() < 15 { self.read_slot_by_sql(name).await } else { self.read_slot_here(name).await };
        read.context(|| format!("look at the replication slot {name}"))
    }

    async fn read_slot_here(&mut self, name: &str) -> Result<Option<Slot>> {
        let rows = match self.command(&format!("READ_REPLICATION_SLOT {}", quote_ident(name))).await {
            // Not in a state for this: logical. An invalidated one is answered.
            Err(e) if super::sqlstate(&e) == Some("55000") => return Err(not_physical(name)),
            other => other?,
        };
        if value(&rows, 0, 0).is_none() {
            return Ok(None);
        }
        let restart = value(&rows, 0, 1).map(|_| cell(&rows, 0, 1)).transpose()?;
        let timeline = value(&rows, 0, 2).map(|_| cell(&rows, 0, 2)).transpose()?;
        Ok(Some(Slot { restart, timeline: timeline.map(Timeline) }))
    }

    async fn read_slot_by_sql(&self, name: &str) -> Result<Option<Slot>> {
        let (client, _) = connect(&self.settings).await?;
        let sql = "SELECT slot_type, restart_lsn::text FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
        let ask = async { client.query_opt(sql, &[&name]).await.map_err(explain::explain) };
        let Some(row) = tokio::time::timeout(ANSWER, ask).await.map_err(|_| slow())?? else { return Ok(None) };
        let kind: String = get(&row, 0)?;
        if kind != "physical" {
            return Err(not_physical(name));
        }
        let restart: Option<String> = get(&row, 1)?;
        Ok(Some(Slot { restart: restart.map(|r| r.parse()).transpose()?, timeline: None }))
    }

    /// Drops a slot.
    ///
    /// # Errors
    /// As [`Replication::identify_system`], with [`super::Refusal::SlotMissing`] and [`super::Refusal::SlotInUse`].
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        self.command(&format!("DROP_REPLICATION_SLOT {}", quote_ident(name)))
            .await
            .map(drop)
            .context(|| format!("drop the replication slot {name}"))
    }

    /// The history file of a timeline. Timeline 1 has none.
    ///
    /// # Errors
    /// As [`Replication::identify_system`]; [`super::Refusal::WalRemoved`] if the server does not have this file.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<HistoryFile> {
        let doing = || format!("read {}", timeline.history_name());
        let rows = self.command(&format!("TIMELINE_HISTORY {}", timeline.0)).await.context(doing)?;
        let content = value(&rows, 0, 1).cloned().ok_or_else(|| unexpected(b'D', "lacks the history")).context(doing)?;
        let history = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content)).context(doing)?;
        Ok(HistoryFile { content, history })
    }

    /// Says goodbye, so that a slot is free at once. A connection that is only dropped ends too, a moment later.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.wire.output);
        if let Err(e) = self.wire.flush().await {
            tracing::debug!(error = %e, "a replication connection was lost before its end");
        }
    }

    /// Sends a command and reads the rows of its (last) answer.
    async fn command(&mut self, text: &str) -> Result<Rows> {
        tokio::time::timeout(ANSWER, async {
            self.send(text).await?;
            self.rows().await
        })
        .await
        .unwrap_or_else(|_| Err(slow()))
    }

    /// Sends a command. It counts as streaming until the server is ready for another.
    pub(super) async fn send(&mut self, text: &str) -> Result<()> {
        if self.streaming {
            return Err(Error::new(Kind::Bug, "a replication connection was used again in the middle of a stream"));
        }
        self.streaming = true;
        frontend::query(text, &mut self.wire.output)
            .map_err(|e| Error::new(Kind::Bug, "a replication command cannot be sent").because(e))?;
        self.wire.flush().await
    }

    /// Reads to the end of the answer.
    pub(super) async fn rows(&mut self) -> Result<Rows> {
        let mut rows = Rows::default();
        loop {
            let message = self.wire.receive().await?;
            match message.tag {
                b'T' => rows.0.clear(),
                b'D' => rows.0.push(row(&message.body)?),
                b'C' | b'I' | b'N' | b'S' | b'A' => {}
                b'Z' => {
                    self.streaming = false;
                    return Ok(rows);
                }
                b'E' => return Err(self.refused(&message.body).await),
                other => return Err(unexpected(other, "came in place of rows")),
            }
        }
    }

    /// An error of the server. Reads on until the server is ready again, where it stays with us.
    pub(super) async fn refused(&mut self, body: &Bytes) -> Error {
        let words = Words::parse(body);
        let stays = words.severity == "ERROR";
        let error = words.into_error();
        while stays {
            match self.wire.receive().await {
                Ok(message) if message.tag == b'Z' => {
                    self.streaming = false;
                    break;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        error
    }
}

fn not_physical(name: &str) -> Error {
    Error::new(Kind::Config, format!("the replication slot {name} is not a physical one"))
        .hint("Choose another name for the slot.")
}

fn slow() -> Error {
    Error::new(Kind::Unavailable, format!("the server did not answer within {ANSWER:?}"))
}

/// A value of an answer, if it is there and not null.
pub(super) fn value(rows: &Rows, row: usize, column: usize) -> Option<&Bytes> {
    rows.0.get(row)?.get(column)?.as_ref()
}

/// A value of an answer as what it must be.
pub(super) fn cell<T: FromStr>(rows: &Rows, row: usize, column: usize) -> Result<T> {
    value(rows, row, column)
        .and_then(|v| std::str::from_utf8(v).ok()?.parse().ok())
        .ok_or_else(|| unexpected(b'D', &format!("has no usable value in column {}", column.saturating_add(1))))
}
