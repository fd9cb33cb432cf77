//! One error type for the whole program: what was being done, why it failed, what to do next.
//!
//! A room makes an [`Error`] where it knows the cause and callers add what they were doing with
//! [`Context::context`]. The [`Kind`] decides the exit code and is kept while context is added; text is never
//! parsed. `Display` prints the outermost sentence only; [`Error::report`] prints the chain and the hint once.

use std::fmt;

/// What a caller or a script can do about a failure. Maps one to one to the documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The command line is wrong: exit 2.
    Usage,
    /// The configuration is wrong: exit 78.
    Config,
    /// The store answered and there is no repository at this place: exit 10.
    NoRepository,
    /// The repository is there and none of its keys opens with this password: exit 12.
    WrongPassword,
    /// Somebody else holds a conflicting lock or lease: exit 11.
    Locked,
    /// Something was written, but not all of what was asked for: exit 3.
    Incomplete,
    /// A signal or a deadline ended the work: exit 130.
    Cancelled,
    /// A server or network did not answer in time; the same call may succeed later: exit 1.
    Unavailable,
    /// The credentials are wrong or do not allow this: exit 1.
    Denied,
    /// Stored bytes are damaged or not what their name says: exit 1.
    Corrupt,
    /// What was named does not exist: exit 1.
    NotFound,
    /// Any other failure of the work itself (a program failed, a disk is full): exit 1.
    Failed,
    /// A promise inside this program was broken; please report it: exit 1.
    Bug,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 13] = [
        Kind::Usage,
        Kind::Config,
        Kind::NoRepository,
        Kind::WrongPassword,
        Kind::Locked,
        Kind::Incomplete,
        Kind::Cancelled,
        Kind::Unavailable,
        Kind::Denied,
        Kind::Corrupt,
        Kind::NotFound,
        Kind::Failed,
        Kind::Bug,
    ];

    /// The process exit code documented in the README.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Incomplete => 3,
            Kind::NoRepository => 10,
            Kind::Locked => 11,
            Kind::WrongPassword => 12,
            Kind::Config => 78,
            Kind::Cancelled => 130,
            Kind::Unavailable | Kind::Denied | Kind::Corrupt | Kind::NotFound | Kind::Failed | Kind::Bug => 1,
        }
    }

    /// The kind that [`Kind::as_str`] names so.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The stable word used in `--json` output and log fields.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Config => "config",
            Kind::NoRepository => "no_repository",
            Kind::WrongPassword => "wrong_password",
            Kind::Locked => "locked",
            Kind::Incomplete => "incomplete",
            Kind::Cancelled => "cancelled",
            Kind::Unavailable => "unavailable",
            Kind::Denied => "denied",
            Kind::Corrupt => "corrupt",
            Kind::NotFound => "not_found",
            Kind::Failed => "failed",
            Kind::Bug => "bug",
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A failure with its kind, a sentence, an optional cause and an optional hint. One pointer wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    what: String,
    hint: Option<String>,
    source: Option<Source>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `what`: a lower-case sentence without a full stop that names the object, e.g. `repository acme has no config`.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), hint: None, source: None }))
    }

    /// Adds the cause. Its own chain is printed by [`Error::report`].
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds what the user can do next: a full sentence, printed after `hint: `.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Wraps this error in what was being done, keeping kind and hint.
    #[must_use]
    pub fn context(self, what: impl Into<String>) -> Self {
        let kind = self.0.kind;
        Self::new(kind, what).because(self)
    }

    /// The same failure under another kind, for the one caller that knows better what it means.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The hint nearest to the user: this error's own, else the first one down its chain.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        if let Some(h) = &self.0.hint {
            return Some(h);
        }
        let mut next = self.0.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static));
        while let Some(e) = next {
            if let Some(e) = e.downcast_ref::<Error>()
                && let Some(h) = &e.0.hint
            {
                return Some(h);
            }
            next = e.source();
        }
        None
    }

    /// `what: cause: deeper cause`, without the hint. Repeated sentences are printed once.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut out = self.0.what.clone();
        let mut next = std::error::Error::source(self);
        while let Some(e) = next {
            let text = e.to_string();
            if !text.is_empty() && !out.ends_with(&text) {
                out.push_str(": ");
                out.push_str(&text);
            }
            next = e.source();
        }
        out
    }

    /// [`Error::chain`] and, on a line of its own, `hint: …`.
    #[must_use]
    pub fn report(&self) -> String {
        match self.hint_text() {
            Some(h) => format!("{}\nhint: {h}", self.chain()),
            None => self.chain(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.0.kind.as_str(), self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

/// Adds context to results: of our own errors (kind kept) and, with a kind, of any other error.
pub trait Context<T> {
    /// Says what was being done; the closure runs only on failure.
    ///
    /// # Errors
    /// The original failure, wrapped.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.context(what()))
    }
}

impl<T> Context<T> for Result<T, std::io::Error> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| {
            // An error of ours that travelled through `io::Read` or `io::Write` is still what it was.
            let e = match e.downcast::<Error>() {
                Ok(own) => return own.context(what()),
                Err(e) => e,
            };
            let (kind, hint) = match e.kind() {
                std::io::ErrorKind::PermissionDenied => (Kind::Denied, None),
                std::io::ErrorKind::NotFound => (Kind::NotFound, None),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    (Kind::Failed, Some("Free some space (or raise the quota) and run the command again."))
                }
                _ => (Kind::Failed, None),
            };
            let error = Error::new(kind, what()).because(e);
            match hint {
                Some(h) => error.hint(h),
                None => error,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_way_through_io() {
        let own = std::io::Error::other(Error::new(Kind::Locked, "lock lost").hint("Run it again."));
        let e = Err::<(), _>(own).context(|| "store a file").expect_err("an error");
        assert_eq!((e.kind(), e.hint_text()), (Kind::Locked, Some("Run it again.")));
        assert_eq!(e.chain(), "store a file: lock lost");
    }

    #[test]
    fn report_prints_each_cause_once_and_the_nearest_hint() {
        let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let e = Err::<(), _>(io).context(|| "open /data/a").map_err(|e| e.hint("Run as root.")).context(|| "back up job acme/a");
        let e = e.expect_err("an error");
        assert_eq!(e.kind(), Kind::Denied);
        assert_eq!(e.report(), "back up job acme/a: open /data/a: permission denied\nhint: Run as root.");
    }
}
