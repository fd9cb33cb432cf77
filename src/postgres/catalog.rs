//! What a server holds: its databases and its identity.

use super::session::{Session, get};
use crate::error::{Error, Kind, Result};

/// A database, as its server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its name, as it is.
    pub name: String,
    /// E.g. `UTF8`.
    pub encoding: String,
    /// Its size on the server's disk in bytes, where this role may know it.
    pub bytes: Option<u64>,
    /// Whether anybody may connect to it.
    pub connectable: bool,
    /// Whether this role may connect to it.
    pub permitted: bool,
    /// A template, such as `template1`.
    pub template: bool,
    /// Left behind, unusable, by an interrupted `DROP DATABASE`.
    pub invalid: bool,
}

/// All databases, by name.
///
/// # Errors
/// The server's.
pub fn databases(session: &Session) -> Result<Vec<Database>> {
    let sql = "SELECT d.datname::text, pg_catalog.pg_encoding_to_char(d.encoding)::text, d.datallowconn, d.datistemplate, d.datconnlimit = -2,
                 p.may, CASE WHEN p.may AND d.datconnlimit <> -2 THEN pg_catalog.pg_database_size(d.oid) END
               FROM pg_catalog.pg_database d, LATERAL (SELECT pg_catalog.has_database_privilege(d.oid, 'CONNECT') AS may) p
               ORDER BY d.datname::text COLLATE \"C\"";
    session
        .query(sql, &[])?
        .iter()
        .map(|row| {
            let bytes: Option<i64> = get(row, 6)?;
            Ok(Database {
                name: get(row, 0)?,
                encoding: get(row, 1)?,
                connectable: get(row, 2)?,
                template: get(row, 3)?,
                invalid: get(row, 4)?,
                permitted: get(row, 5)?,
                bytes: bytes.and_then(|b| u64::try_from(b).ok()),
            })
        })
        .collect()
}

/// The cluster's system identifier; `None` if this role may not know it.
///
/// # Errors
/// The server's, but for missing rights.
pub fn system_identifier(session: &Session) -> Result<Option<u64>> {
    match session.one("SELECT system_identifier FROM pg_catalog.pg_control_system()", &[]) {
        Ok(row) => {
            let signed: i64 = get(&row, 0)?;
            Ok(Some(signed.cast_unsigned()))
        }
        Err(e) if e.kind() == Kind::Denied => Ok(None),
        Err(e) => Err(e),
    }
}

/// Chooses databases: a name, or a pattern with `*` (any characters) and `?` (one). Those nobody can connect to and
/// templates are left out unless named exactly.
///
/// # Errors
/// [`Kind::NotFound`] for a name or pattern that fits nothing, [`Kind::Denied`] for those this role may not connect to.
pub fn choose<'a>(all: &'a [Database], wanted: Option<&[String]>, excluded: &[String]) -> Result<Vec<&'a Database>> {
    let fits = |d: &Database, pattern: &str| {
        pattern == d.name || (d.connectable && !d.template && !d.invalid && matches(pattern, &d.name))
    };
    let everything = ["*".to_owned()];
    let patterns = wanted.unwrap_or(&everything);
    for pattern in patterns {
        if !all.iter().any(|d| fits(d, pattern)) {
            let names: Vec<&str> = all.iter().filter(|d| !d.template).map(|d| d.name.as_str()).take(20).collect();
            let what = if pattern.contains(['*', '?']) {
                format!("no database fits the pattern {pattern}")
            } else {
                format!("there is no database {pattern}")
            };
            return Err(Error::new(Kind::NotFound, what).hint(format!("The server has: {}.", names.join(", "))));
        }
    }
    let chosen: Vec<&Database> =
        all.iter().filter(|d| patterns.iter().any(|p| fits(d, p)) && !excluded.iter().any(|p| matches(p, &d.name))).collect();
    let refused: Vec<&str> = chosen.iter().filter(|d| !d.permitted || !d.connectable).map(|d| d.name.as_str()).collect();
    if !refused.is_empty() {
        return Err(Error::new(Kind::Denied, format!("the role may not connect to {}", refused.join(", ")))
            .hint("Grant it CONNECT on them, or exclude them."));
    }
    if chosen.is_empty() {
        return Err(Error::new(Kind::NotFound, "every database that was asked for is excluded"));
    }
    Ok(chosen)
}

/// `*` stands for any characters, `?` for one; everything else for itself.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern == name {
        return true;
    }
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut pi, mut ni) = (0usize, 0usize);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = n.get(ni) {
        match p.get(pi) {
            Some('*') => {
                star = Some((pi, ni));
                pi = pi.saturating_add(1);
            }
            Some(x) if *x == '?' || x == c => {
                pi = pi.saturating_add(1);
                ni = ni.saturating_add(1);
            }
            _ => match star {
                // Let the last star take one character more.
                Some((at, from)) => {
                    star = Some((at, from.saturating_add(1)));
                    pi = at.saturating_add(1);
                    ni = from.saturating_add(1);
                }
                None => return false,
            },
        }
    }
    p.iter().skip(pi).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn db(name: &str) -> Database {
        Database {
            name: name.to_owned(),
            encoding: "UTF8".to_owned(),
            bytes: None,
            connectable: true,
            permitted: true,
            template: name == "template1",
            invalid: false,
        }
    }

    fn names(all: &[Database], wanted: &[&str], excluded: &[&str]) -> Result<String> {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Ok(choose(all, Some(&own(wanted)), &own(excluded))?.iter().map(|d| d.name.clone()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn names_and_patterns_choose() {
        let all: Vec<_> = ["ameide_a", "ameide_b", "a*b", "other", "template1"].iter().map(|n| db(n)).collect();
        assert_eq!(names(&all, &["ameide_*"], &[]).unwrap(), "ameide_a ameide_b");
        assert_eq!(names(&all, &["ameide_*", "other"], &["*_b"]).unwrap(), "ameide_a other");
        assert_eq!(names(&all, &["a?b"], &[]).unwrap(), "a*b");
        assert_eq!(names(&all, &["*"], &[]).unwrap(), "ameide_a ameide_b a*b other");
        assert_eq!(names(&all, &["template1"], &[]).unwrap(), "template1");
        assert_eq!(
            names(&all, &["shop"], &[]).unwrap_err().report(),
            "there is no database shop\nhint: The server has: ameide_a, ameide_b, a*b, other."
        );
        assert_eq!(names(&all, &["x*"], &[]).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(names(&all, &["other"], &["*"]).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn stars_match_anything() {
        for (p, n, yes) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c", "abcd", false),
            ("?", "é", true),
            ("??", "a", false),
        ] {
            assert_eq!(matches(p, n), yes, "{p} {n}");
        }
    }
}
