//! Which database system something is of.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};

/// A database system: what `initdb` or `pg_upgrade` made. Text form `17-7387432087440429062`, as in a WAL archive's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId {
    /// Major version of the server.
    pub major: u32,
    /// The number that `initdb` gave the cluster.
    pub identifier: u64,
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.identifier)
    }
}

impl FromStr for SystemId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = || {
            let (major, identifier) = text.split_once('-')?;
            let parsed = Self { major: major.parse().ok()?, identifier: identifier.parse().ok()? };
            (parsed.to_string() == text).then_some(parsed)
        };
        parts().ok_or_else(|| Error::new(Kind::Failed, format!("`{text}` names no system: expected <major>-<system identifier>")))
    }
}

impl serde::Serialize for SystemId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SystemId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
