//! libpq's password file: `host:port:database:user:password` lines, `*` for any, `\` before `:` and `\`.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::endpoint::{Endpoint, Host};
use crate::error::{Context, Error, Kind, Result};
use crate::runtime::SecretText;

/// The first matching line's password. A file that others may read is refused if it was asked for, else ignored, as libpq does.
pub(super) fn look_up(
    path: &Path,
    explicit: bool,
    endpoint: &Endpoint,
    database: &str,
    user: &str,
) -> Result<Option<SecretText>> {
    let meta = match path.metadata() {
        Ok(meta) => meta,
        Err(e) if !explicit && e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.context(|| "look at it")?,
    };
    if !meta.is_file() {
        // /dev/null is the usual way to say "none".
        return Ok(None);
    }
    if meta.permissions().mode() & 0o077 != 0 {
        if explicit {
            return Err(
                Error::new(Kind::Denied, "other users may read or change it").hint(format!("Run chmod 0600 {}.", path.display()))
            );
        }
        tracing::warn!(file = %path.display(), "the password file is ignored: other users may read it (chmod 0600)");
        return Ok(None);
    }
    let text = SecretText::new(std::fs::read_to_string(path).context(|| "read it")?);
    Ok(find(text.expose(), endpoint, database, user))
}

fn find(text: &str, endpoint: &Endpoint, database: &str, user: &str) -> Option<SecretText> {
    let host = match &endpoint.host {
        Host::Tcp(name) => name.clone(),
        // libpq looks for "localhost" when the socket lies at its default place, else for the directory.
        Host::Unix(dir) if dir == Path::new("/var/run/postgresql") || dir == Path::new("/tmp") => "localhost".to_owned(),
        Host::Unix(dir) => dir.to_string_lossy().into_owned(),
    };
    let port = endpoint.port.to_string();
    text.lines().filter(|l| !l.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in [host.as_str(), &port, database, user] {
            let (field, next) = field(rest)?;
            if field != "*" && unescape(field) != wanted {
                return None;
            }
            rest = next;
        }
        Some(SecretText::new(unescape(rest.trim_end_matches('\r'))))
    })
}

/// The text before the next unescaped colon, and what follows it.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let at = text.find(|c| {
        let end = c == ':' && !escaped;
        escaped = c == '\\' && !escaped;
        end
    })?;
    Some((text.get(..at)?, text.get(at.saturating_add(1)..)?))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_wins() {
        let at = |host: &str| Endpoint { host: Host::Tcp(host.to_owned()), address: None, port: 5432 };
        let text = "# note\nbroken line\ndb:5432:shop:me:pa\\:ss\\\\word\n*:*:*:me:other\n\\:\\:1:*:*:*:six";
        let found = |e: &Endpoint, d: &str, u: &str| find(text, e, d, u).map(|s| s.expose().to_owned());
        assert_eq!(found(&at("db"), "shop", "me").as_deref(), Some("pa:ss\\word"));
        assert_eq!(found(&at("db"), "else", "me").as_deref(), Some("other"));
        assert_eq!(found(&at("::1"), "x", "you").as_deref(), Some("six"));
        assert_eq!(found(&at("db"), "shop", "you"), None);
    }
}
