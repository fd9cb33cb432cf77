//! The two ways libpq writes connection settings: `postgresql://user@host/db?…` and `host=… dbname=…`.
//! Errors name keywords and places, never values: any of them may be a password.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};

/// Keywords and values as written, later ones winning. Nothing is checked but the syntax.
pub(super) type Params = BTreeMap<String, String>;

pub(super) fn parse(text: &str) -> Result<Params> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => url(rest),
        None => pairs(text),
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(Kind::Config, what).hint(
        "Write postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full, with %40 for @, %2F for / and %3A for : inside a part.",
    )
}

/// After the scheme: `[user[:password]@][host[:port]][,…][/dbname][?key=value&…]`.
fn url(text: &str) -> Result<Params> {
    let mut params = Params::new();
    let (before_query, query) = text.split_once('?').map_or((text, ""), |(a, q)| (a, q));
    let authority_end = before_query.find('/').unwrap_or(before_query.len());
    let (authority, path) = before_query.split_at(authority_end);
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)));
            put(&mut params, "user", user, "user name")?;
            if let Some(password) = password {
                put(&mut params, "password", password, "password")?;
            }
            hosts
        }
        None => authority,
    };
    url_hosts(&mut params, hosts)?;
    put(&mut params, "dbname", path.strip_prefix('/').unwrap_or(path), "database name")?;
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(wrong("the connection URL has a parameter without a value"));
        };
        let key = decode(key).ok_or_else(|| wrong("the connection URL has a parameter that is not well encoded"))?;
        let value =
            decode(value).ok_or_else(|| wrong(format!("the value of {key} in the connection URL is not well encoded")))?;
        // As JDBC writes it; libpq knows it too.
        let (key, value) =
            if key == "ssl" && value == "true" { ("sslmode".to_owned(), "require".to_owned()) } else { (key, value) };
        params.insert(key, value);
    }
    Ok(params)
}

fn url_hosts(params: &mut Params, hosts: &str) -> Result<()> {
    if hosts.is_empty() {
        return Ok(());
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(v6) => {
                let (name, rest) =
                    v6.split_once(']').ok_or_else(|| wrong("an IPv6 address in the connection URL lacks its ]"))?;
                let port = match rest {
                    "" => "",
                    _ => rest.strip_prefix(':').ok_or_else(|| wrong("after ] the connection URL must go on with : or /"))?,
                };
                (name, port)
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(decode(name).ok_or_else(|| wrong("a host name in the connection URL is not well encoded"))?);
        ports.push(port);
    }
    if names.iter().any(|n| !n.is_empty()) {
        params.insert("host".to_owned(), names.join(","));
    }
    if ports.iter().any(|p| !p.is_empty()) {
        params.insert("port".to_owned(), ports.join(","));
    }
    Ok(())
}

fn put(params: &mut Params, key: &str, encoded: &str, what: &str) -> Result<()> {
    if encoded.is_empty() {
        return Ok(());
    }
    let value = decode(encoded).ok_or_else(|| wrong(format!("the {what} in the connection URL is not well encoded")))?;
    params.insert(key.to_owned(), value);
    Ok(())
}

/// Percent-decodes. `None` for a broken escape, a zero byte or what is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let b = match b {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok().filter(|b| *b != 0)?
            }
            _ => b,
        };
        out.push(b);
    }
    String::from_utf8(out).ok()
}

/// `key = value` pairs; values with spaces stand in single quotes, `\` escapes the next character.
fn pairs(text: &str) -> Result<Params> {
    let wrong = |what: String| Error::new(Kind::Config, what).hint("Write host=… dbname=… user=…, or a postgresql:// URL.");
    let mut params = Params::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            // A URL with another scheme ends here too; its text is not repeated.
            let place = params.len().saturating_add(1);
            return Err(wrong(format!(
                "the connection settings are neither a postgresql:// URL nor key=value pairs (pair {place} has no =)"
            )));
        };
        let after = after.trim_start();
        let (value, next) = value(after).ok_or_else(|| wrong(format!("the quoted value of {key} does not end")))?;
        params.insert(key.to_owned(), value);
        rest = next.trim_start();
    }
    Ok(params)
}

fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut out = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Some((out, text.get(at.saturating_add(1)..)?)),
            c if !quoted && c.is_whitespace() => return Some((out, text.get(at..)?)),
            c => out.push(c),
        }
    }
    (!quoted).then_some((out, ""))
}

/// One `key='value'` pair, quoted so that libpq reads exactly `value`.
pub(super) fn quote(key: &str, value: &str) -> String {
    format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let params = parse(text).unwrap();
        params.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        assert_eq!(shown("postgresql://"), "");
        assert_eq!(shown("postgres://localhost"), "host=localhost");
        assert_eq!(
            shown("postgresql://me:p%40ss@h1:5433,h2/shop?sslmode=verify-full"),
            "dbname=shop|host=h1,h2|password=p@ss|port=5433,|sslmode=verify-full|user=me"
        );
        assert_eq!(shown("postgresql:///shop?host=/run/pg&port=5433"), "dbname=shop|host=/run/pg|port=5433");
        assert_eq!(shown("postgresql://%2Frun%2Fpg/shop"), "dbname=shop|host=/run/pg");
        assert_eq!(shown("postgresql://[2001:db8::1]:5432/a%2Fb"), "dbname=a/b|host=2001:db8::1|port=5432");
        assert_eq!(shown("postgresql://h/?ssl=true"), "host=h|sslmode=require");
        assert_eq!(shown("postgresql://me:a@b@h/x"), "dbname=x|host=h|password=a@b|user=me");
    }

    #[test]
    fn pairs_are_read_as_libpq_reads_them() {
        assert_eq!(shown("host=h  dbname = 'my \\'db\\\\' user=a\\ b password=''"), "dbname=my 'db\\|host=h|password=|user=a b");
        let odd = r"it's a \ 'name'";
        assert_eq!(parse(&quote("dbname", odd)).unwrap().get("dbname").map(String::as_str), Some(odd));
    }

    #[test]
    fn mistakes_are_named_without_values() {
        for bad in [
            "mysql://me:hunter2@h/x",
            "postgresql://me:hunter2%zz@h/x",
            "host=h password='hunter2",
            "postgresql://[::1/x?password=hunter2",
            "postgresql://h/x?hunter2",
        ] {
            let report = parse(bad).unwrap_err().report();
            assert!(!report.contains("hunter2"), "{report}");
        }
    }
}
