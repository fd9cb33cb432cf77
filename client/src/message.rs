//! What is said on the socket, as lines of text.
//!
//! **Version 1.** A connection carries one request and its answer.
//! - Request: one line `STRONGROOM/1 <verb> <key>=<value>…`, with the open files it is about attached to its first byte.
//!   Values are written with `%` escapes; keys that the other side does not know are ignored, unknown verbs and versions
//!   are answered with an error that says so.
//! - Answers: any number of lines `wait` (at least one every [`WAIT_EVERY`], so that a dead daemon is told from a busy
//!   one), then one line that ends the exchange: `stored`, `delivered <bytes>`, `ready <bytes> <place>`, `missing <why>`,
//!   `another`, `error <kind> <text>`. `ready` answers a `take` only, and only a helper says `another`.
//!
//! A name is never a path: the daemon opens nothing that a client names.

use std::collections::BTreeMap;
use std::time::Duration;

/// The version that this side speaks.
pub const VERSION: u32 = 1;
/// No line is longer than this, in bytes.
pub const MAX_LINE: usize = 16 << 10;
/// Files of one request: the one asked for and those behind it. Below the kernel's limit of 253.
pub const MAX_FILES: usize = 64;
/// A daemon that works on an answer says so this often.
pub const WAIT_EVERY: Duration = Duration::from_secs(3);

/// What a client wants. The files travel beside it, in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Store the first file. The others are asked for next, most likely: they may be stored in advance.
    Push {
        /// The job; empty: the only one behind this socket.
        job: String,
        /// Names of the files, the one asked for first.
        names: Vec<String>,
        /// The server's own identity, where the client could read it.
        server: Option<Server>,
    },
    /// Write a file of the archive into the one open file that came along.
    Fetch {
        /// The job; empty: the only one behind this socket.
        job: String,
        /// Which file of the archive.
        name: String,
        /// `recovery`, `standby` or `rewind`.
        mode: String,
        /// The server's own identity, where the client could read it.
        server: Option<Server>,
    },
    /// As a fetch; but if the file lies ready beside the socket, it is not written once more: the answer says where it is, and
    /// the client takes it from there. For clients that share a directory with whoever answers.
    Take {
        /// The job; empty: the only one behind this socket.
        job: String,
        /// Which file of the archive.
        name: String,
        /// As in a fetch.
        mode: String,
        /// The server's own identity, where the client could read it.
        server: Option<Server>,
    },
}

/// Which server: from `global/pg_control` and `PG_VERSION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// The number `initdb` gave to the cluster.
    pub identifier: u64,
    /// Major version.
    pub major: u32,
}

/// What a daemon answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Still at it.
    Wait,
    /// The file is in the archive, durably.
    Stored,
    /// The file was written: this many bytes from its beginning.
    Delivered(u64),
    /// The file lies beside the socket, and nobody else will use it.
    Ready {
        /// Its length.
        bytes: u64,
        /// Where, from the socket's directory on.
        place: String,
    },
    /// Proven not to be in the archive.
    Missing(String),
    /// Whoever answers here works for somebody else and does nothing for this job, or leaves this file to the caller.
    Another,
    /// It failed: a word for the kind of failure, and one or two lines for people.
    Error {
        /// `usage`, `config`, `unavailable`, ….
        kind: String,
        /// What happened.
        text: String,
    },
}

impl Request {
    /// The job it is about; empty: the only one behind the socket.
    #[must_use]
    pub fn job(&self) -> &str {
        match self {
            Request::Push { job, .. } | Request::Fetch { job, .. } | Request::Take { job, .. } => job,
        }
    }

    /// The line, its end included.
    #[must_use]
    pub fn line(&self) -> String {
        let (verb, job, server) = match self {
            Request::Push { job, server, .. } => ("push", job, server),
            Request::Fetch { job, server, .. } => ("fetch", job, server),
            Request::Take { job, server, .. } => ("take", job, server),
        };
        let mut out = format!("STRONGROOM/{VERSION} {verb} job={}", escape(job));
        if let Some(s) = server {
            out.push_str(&format!(" system={} major={}", s.identifier, s.major));
        }
        match self {
            Request::Push { names, .. } => {
                let names: Vec<String> = names.iter().map(|n| escape(n)).collect();
                out.push_str(&format!(" names={}", names.join(",")));
            }
            Request::Fetch { name, mode, .. } | Request::Take { name, mode, .. } => {
                out.push_str(&format!(" name={} mode={}", escape(name), escape(mode)))
            }
        }
        out.push('\n');
        out
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// Another version, an unknown verb, a request that lacks something: a sentence to answer with.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let version = words.next().and_then(|w| w.strip_prefix("STRONGROOM/")).ok_or("not a request of a strongroom client")?;
        if version != VERSION.to_string() {
            return Err(format!("the client speaks version {version} of the protocol, and this daemon version {VERSION}"));
        }
        let verb = words.next().unwrap_or_default();
        let fields: BTreeMap<&str, String> = words.filter_map(|w| w.split_once('=')).map(|(k, v)| (k, unescape(v))).collect();
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let number = |name: &str| fields.get(name)?.parse::<u64>().ok();
        let server = match (number("system"), number("major").and_then(|m| u32::try_from(m).ok())) {
            (Some(identifier), Some(major)) => Some(Server { identifier, major }),
            _ => None,
        };
        match verb {
            "push" => {
                let names: Vec<String> = field("names").split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
                if names.is_empty() || names.len() > MAX_FILES {
                    return Err(format!("a push names 1 to {MAX_FILES} files"));
                }
                Ok(Request::Push { job: field("job"), names, server })
            }
            "fetch" => Ok(Request::Fetch { job: field("job"), name: field("name"), mode: field("mode"), server }),
            "take" => Ok(Request::Take { job: field("job"), name: field("name"), mode: field("mode"), server }),
            other => Err(format!("this daemon does not know the request `{}`", other.escape_debug())),
        }
    }
}

impl Reply {
    /// The line, its end included. Texts are cut so that it fits.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = match self {
            Reply::Wait => "wait".to_owned(),
            Reply::Stored => "stored".to_owned(),
            Reply::Delivered(bytes) => format!("delivered {bytes}"),
            Reply::Ready { bytes, place } => format!("ready {bytes} {}", escape(place)),
            Reply::Missing(why) => format!("missing {}", escape(why)),
            Reply::Another => "another".to_owned(),
            Reply::Error { kind, text } => format!("error {} {}", escape(kind), escape(text)),
        };
        // All of it is ASCII, so every place is a good one.
        line.truncate(MAX_LINE - 4);
        line.push('\n');
        line
    }

    /// Reads a line without its end; `None` for what this version does not know.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match word {
            "wait" => Reply::Wait,
            "stored" => Reply::Stored,
            "delivered" => Reply::Delivered(rest.parse().ok()?),
            "ready" => {
                let (bytes, place) = rest.split_once(' ')?;
                Reply::Ready { bytes: bytes.parse().ok()?, place: unescape(place) }
            }
            "missing" => Reply::Missing(unescape(rest)),
            "another" => Reply::Another,
            "error" => {
                let (kind, text) = rest.split_once(' ').unwrap_or((rest, ""));
                Reply::Error { kind: unescape(kind), text: unescape(text) }
            }
            _ => return None,
        })
    }
}

/// Letters, digits and a few signs stay; every other byte becomes `%xx`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02x}"));
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok());
        match code {
            Some(b) if *first == b'%' => {
                out.push(b);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_understood() {
        let server = Some(Server { identifier: u64::MAX, major: 18 });
        let push = Request::Push { job: "wal".into(), names: vec!["00000002.history".into(), "a b,c".replace(',', "_")], server };
        let fetch = Request::Fetch { job: String::new(), name: "x%y\n".into(), mode: "recovery".into(), server: None };
        let take = Request::Take { job: "wal".into(), name: "x".into(), mode: "recovery".into(), server };
        for request in [push, fetch, take] {
            assert_eq!(Request::parse(request.line().trim_end_matches('\n')), Ok(request));
        }
        let error = Reply::Error { kind: "denied".into(), text: "no: ü\nhint: %41 x".into() };
        let ready = Reply::Ready { bytes: 7, place: "a b/c".into() };
        for reply in
            [Reply::Wait, Reply::Stored, Reply::Delivered(7), ready, Reply::Missing("proven".into()), Reply::Another, error]
        {
            assert_eq!(Reply::parse(reply.line().trim_end_matches('\n')), Some(reply));
        }
    }

    #[test]
    fn strangers_are_told_why() {
        for bad in ["", "GET / HTTP/1.1", "STRONGROOM/2 push names=a", "STRONGROOM/1 drop", "STRONGROOM/1 push job=a names="] {
            assert!(Request::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Reply::parse("maybe later"), None);
        let long = Reply::Missing("x".repeat(100_000)).line();
        assert!(long.len() <= MAX_LINE && long.ends_with('\n'));
        let more = Request::parse("STRONGROOM/1 push job=a names=b future=yes").expect("unknown keys are ignored");
        assert!(matches!(more, Request::Push { .. }));
    }
}
