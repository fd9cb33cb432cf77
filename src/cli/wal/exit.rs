//! What PostgreSQL makes of an exit code.
//!
//! - `restore_command`: 0 is a file; 1 to 125 is "there is none", upon which a recovery *ends and goes into service*; what is above, or a
//!   signal, ends the server. So `wal fetch` says 1 for proven missing only, and 255 for everything else, down to a panic. A standby asks
//!   again after 1, and would be stopped by 255, so it gets 1.
//! - `archive_command`: 0 is stored; 1 to 125 is tried again; what is above ends the archiver, uncounted by its statistics.
//! - A helper that they leave behind: nobody waits for it, but a server that is process 1 inherits it, and takes any code but 0 and 1 for a
//!   crash of one of its own, after which it restarts all of its sessions. So `wal helper` says 0 whatever happened.

use std::ffi::OsString;

/// Proven missing, between [`super::super::answer`] and [`Codes::exit_code`]: no kind of failure has this code.
pub(in super::super) const MISSING: u8 = 254;
/// The archive could not be asked, or gave no answer.
const UNKNOWN: u8 = 255;
/// The largest code after which PostgreSQL tries again.
const LAST_RETRIED: u8 = 125;

/// What can follow `wal`.
const VERBS: &[&str] = &["push", "fetch", "receive", "status", "adopt", "helper"];

/// Whose exit codes they are. Told by the bare arguments, since mistakes in them must end the right way, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Codes {
    /// Everybody else's.
    Usual,
    /// `wal push`.
    Push,
    /// `wal fetch`.
    Fetch {
        /// Whether a standby asks.
        standby: bool,
    },
    /// `wal helper`.
    Helper,
}

impl Codes {
    pub(in super::super) fn of(arguments: &[OsString]) -> Self {
        let follows = |a: &str, b: &str| arguments.windows(2).any(|w| matches!(w, [x, y] if x == a && y == b));
        // Options may stand anywhere, also between the two words.
        let verb = arguments.iter().skip_while(|a| *a != "wal").find(|a| VERBS.iter().any(|verb| *a == verb));
        match verb.and_then(|a| a.to_str()) {
            Some("fetch") => {
                Self::Fetch { standby: follows("--mode", "standby") || arguments.iter().any(|a| a == "--mode=standby") }
            }
            Some("push") => Self::Push,
            Some("helper") => Self::Helper,
            _ => Self::Usual,
        }
    }

    /// Runs it and translates its code.
    pub(in super::super) fn exit_code(self, run: impl FnOnce() -> u8) -> u8 {
        let done = match self {
            Self::Usual => return run(),
            // What it touched ends with the process. The message of the panic has been printed.
            Self::Push | Self::Fetch { .. } | Self::Helper => std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)),
        };
        match (self, done) {
            (_, Ok(0)) | (Self::Helper, _) => 0,
            (Self::Fetch { .. }, Ok(MISSING)) | (Self::Fetch { standby: true }, _) => 1,
            (Self::Fetch { standby: false }, _) => UNKNOWN,
            (_, Ok(code)) if code <= LAST_RETRIED => code,
            (_, _) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Codes {
        Codes::of(&text.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn only_proof_lets_a_recovery_end() {
        let fetch = codes("strongroom --config x wal fetch a b --nonsense");
        assert_eq!(fetch, Codes::Fetch { standby: false });
        assert_eq!((fetch.exit_code(|| 0), fetch.exit_code(|| MISSING)), (0, 1));
        for code in [1, 2, 3, 10, 11, 12, 78, 101, 130, 255] {
            assert_eq!(fetch.exit_code(|| code), 255, "{code}");
        }
        assert_eq!(fetch.exit_code(|| panic!("on purpose")), 255);
        for text in ["strongroom wal --config x fetch a b", "strongroom --config wal wal --mode recovery fetch a b"] {
            assert_eq!(codes(text), Codes::Fetch { standby: false }, "{text}");
        }
        for text in ["strongroom wal status fetch", "strongroom backup acme/fetch", "strongroom fetch", "strongroom"] {
            assert_eq!(codes(text), Codes::Usual, "{text}");
        }
    }

    #[test]
    fn a_standby_asks_again() {
        for text in ["strongroom wal fetch a b --mode standby", "strongroom wal fetch a b --mode=standby"] {
            let standby = codes(text);
            for code in [1, 12, 78, 255, MISSING] {
                assert_eq!(standby.exit_code(|| code), 1, "{code}");
            }
            assert_eq!((standby.exit_code(|| 0), standby.exit_code(|| panic!("on purpose"))), (0, 1));
        }
    }

    #[test]
    fn a_helper_is_no_crash_of_the_server_that_inherits_it() {
        let helper = codes("strongroom --config x wal helper --nonsense");
        for code in [0, 1, 2, 78, 101, 130, 255] {
            assert_eq!(helper.exit_code(|| code), 0, "{code}");
        }
        assert_eq!(helper.exit_code(|| panic!("on purpose")), 0);
    }

    #[test]
    fn a_push_that_failed_is_tried_again() {
        let push = codes("strongroom wal push pg_wal/x");
        for (code, told) in [(0, 0), (1, 1), (2, 2), (12, 12), (78, 78), (130, 1), (255, 1)] {
            assert_eq!(push.exit_code(|| code), told, "{code}");
        }
        assert_eq!(push.exit_code(|| panic!("on purpose")), 1);
        assert_eq!(codes("strongroom wal status").exit_code(|| 130), 130);
    }
}
