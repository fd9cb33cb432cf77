//! Why a server refused: told by its SQLSTATE, never by its words, which may be in any language.

use std::fmt;

use crate::error::{Error, Kind};
use crate::postgres::explain;

/// What a caller can act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The WAL that was asked for is not on this server any more: there is a hole unless another host or an archive has it.
    WalRemoved,
    /// The slot has lost its WAL (`max_slot_wal_keep_size`), or it is of another kind: drop it and create it again.
    SlotUnusable,
    /// Somebody else streams from the slot. It may be our own last connection, which the server has not noticed to be dead.
    SlotInUse,
    /// There is no slot of this name.
    SlotMissing,
    /// There is one already.
    SlotExists,
    /// `max_replication_slots` are in use.
    NoFreeSlot,
    /// `max_wal_senders` or `max_connections` are in use.
    NoFreeSender,
    /// Wrong password, or no line in `pg_hba.conf`.
    Login,
    /// The role lacks the `REPLICATION` attribute.
    Privilege,
    /// The server found pages with wrong checksums while it sent a base backup, and says so at its end.
    BadChecksums,
}

impl Refusal {
    /// The reason within an error of this module, however deep. `None` for what a server did not say, or said about something
    /// else.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        Some(match sqlstate(error)? {
            "58P01" => Self::WalRemoved,
            "55000" => Self::SlotUnusable,
            "55006" => Self::SlotInUse,
            "42704" => Self::SlotMissing,
            "42710" => Self::SlotExists,
            "53400" => Self::NoFreeSlot,
            "53300" => Self::NoFreeSender,
            "28000" | "28P01" => Self::Login,
            "42501" => Self::Privilege,
            "XX001" => Self::BadChecksums,
            _ => return None,
        })
    }

    fn kind(self) -> Kind {
        match self {
            Self::SlotInUse => Kind::Locked,
            Self::WalRemoved | Self::SlotMissing => Kind::NotFound,
            Self::NoFreeSender => Kind::Unavailable,
            Self::Login | Self::Privilege => Kind::Denied,
            Self::BadChecksums => Kind::Corrupt,
            Self::SlotUnusable | Self::SlotExists | Self::NoFreeSlot => Kind::Failed,
        }
    }

    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::WalRemoved => "Take a new base backup. A replication slot keeps the WAL; see also wal_keep_size.",
            Self::SlotInUse => "Only one receiver can use a slot: stop the other one, or give this one a slot of its own.",
            Self::NoFreeSlot => "Raise max_replication_slots, or drop a slot that nobody uses.",
            Self::NoFreeSender => "Raise max_wal_senders and max_connections, or try again later.",
            Self::Login => {
                "Check user and password, and that pg_hba.conf has a line for the database `replication`, this role and this address."
            }
            Self::Privilege => "Give the role the attribute: ALTER ROLE … REPLICATION.",
            Self::BadChecksums => "Some pages of the cluster are damaged; the server's log names them.",
            Self::SlotUnusable | Self::SlotMissing | Self::SlotExists => return None,
        })
    }
}

/// The SQLSTATE that a server gave for an error of this module.
#[must_use]
pub fn sqlstate(error: &Error) -> Option<&str> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        if let Some(Code(code)) = e.downcast_ref() {
            return Some(code);
        }
        next = e.source();
    }
    None
}

/// The code, kept as the cause of the error it belongs to.
#[derive(Debug)]
struct Code(String);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLSTATE {}", self.0)
    }
}

impl std::error::Error for Code {}

/// What a server says in an error or a notice.
#[derive(Debug, Default, Clone)]
pub(super) struct Words {
    pub(super) severity: String,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) detail: Option<String>,
    pub(super) hint: Option<String>,
}

impl Words {
    /// From the fields of an error or notice: a letter and a text, each ended by zero. What is cut off is left out.
    pub(super) fn parse(body: &[u8]) -> Self {
        let mut words = Self::default();
        for field in body.split(|b| *b == 0) {
            let Some((letter, text)) = field.split_first() else { break };
            let text = String::from_utf8_lossy(text).into_owned();
            match letter {
                // The severity that is not translated; all servers that we know send it.
                b'V' => words.severity = text,
                b'C' => words.code = text,
                b'M' => words.message = text,
                b'D' => words.detail = Some(text),
                b'H' => words.hint = Some(text),
                _ => {}
            }
        }
        words
    }

    pub(super) fn into_error(self) -> Error {
        let error = explain::from_server(&self.code, &self.message, self.detail.as_deref(), self.hint.as_deref());
        let error = error.because(Code(self.code));
        let Some(refusal) = Refusal::of(&error) else { return error };
        let error = error.with_kind(refusal.kind());
        match refusal.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_under_any_context() {
        let body = b"SFEHLER\0VERROR\0C58P01\0Mdas angeforderte WAL-Segment 000000010000000000000001 wurde schon entfernt\0\0";
        let error = Words::parse(body).into_error().context("stream WAL").context("job acme/wal");
        assert_eq!(
            (Refusal::of(&error), error.kind(), sqlstate(&error)),
            (Some(Refusal::WalRemoved), Kind::NotFound, Some("58P01"))
        );
        assert!(
            error.report().contains("wurde schon entfernt: SQLSTATE 58P01\nhint: Take a new base backup"),
            "{}",
            error.report()
        );
        assert_eq!(Refusal::of(&Error::new(Kind::Failed, "x")), None);
        assert_eq!(Refusal::of(&Words::parse(b"VERROR\0C22012\0Mdivision by zero\0\0").into_error()), None);
    }

    #[test]
    fn odd_fields_do_no_harm() {
        assert_eq!(Words::parse(b"").message, "");
        assert_eq!(Words::parse(b"Mcut").message, "cut");
        assert_eq!(Words::parse(b"M\xFF\0?\0D\0").detail.as_deref(), Some(""));
    }
}
