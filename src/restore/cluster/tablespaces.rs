//! Tablespaces: beside the data directory in the snapshot, elsewhere and linked in a running cluster.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::folder::{Folder, Owner};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Tablespace;

/// Where the links are, in the data directory.
pub(super) const LINKS: &str = "pg_tblspc";

/// A tablespace and the directory it gets.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Placed {
    /// Its number.
    pub oid: u32,
    /// Where it was on the server.
    pub was: String,
    /// Where it goes.
    pub path: PathBuf,
}

/// Decides where each tablespace goes. `map` has former directories, or numbers, and new directories. A tablespace that
/// lay inside the data directory stays there and is not in the result. One with a relative link, as stock tools leave it, lies
/// the same way from the new data directory.
///
/// # Errors
/// [`Kind::Usage`] for a mapping of a tablespace that does not exist, for directories that are not absolute, inside the
/// data directory, or the same twice.
pub fn place(tablespaces: &[Tablespace], map: &BTreeMap<String, PathBuf>, to: &Path) -> Result<Vec<Placed>> {
    let is_of = |name: &str, t: &Tablespace| t.oid.to_string() == name || same(&t.path, name);
    if let Some(unknown) = map.keys().find(|name| !tablespaces.iter().any(|t| is_of(name, t))) {
        let known: Vec<&str> = tablespaces.iter().map(|t| t.path.as_str()).collect();
        let hint = if known.is_empty() {
            "It has no tablespaces of its own.".to_owned()
        } else {
            format!("There are: {}.", known.join(", "))
        };
        return Err(Error::new(Kind::Usage, format!("the base backup has no tablespace `{unknown}`")).hint(hint));
    }
    let mut out: Vec<Placed> = Vec::new();
    for tablespace in tablespaces {
        let mapped = map.iter().find(|(name, _)| is_of(name, tablespace)).map(|(_, path)| path.clone());
        if mapped.is_none() && tablespace.is_inside() {
            continue;
        }
        let path = mapped.unwrap_or_else(|| from_links(to, &tablespace.path));
        let bad = |why: &str| {
            Error::new(Kind::Usage, format!("tablespace {} cannot go to {}: {why}", tablespace.path, path.display()))
                .hint(format!("Choose a directory with --tablespace-map {}=DIR.", tablespace.path))
        };
        if !path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(bad("it must be an absolute path without `..`"));
        }
        if path.starts_with(to) || to.starts_with(&path) {
            return Err(bad("it must not be in the data directory, nor hold it"));
        }
        if out.iter().any(|o| o.path.starts_with(&path) || path.starts_with(&o.path)) {
            return Err(bad("another tablespace goes there"));
        }
        out.push(Placed { oid: tablespace.oid, was: tablespace.path.clone(), path });
    }
    Ok(out)
}

/// What a link in the data directory means: `..` leads up, by its words.
fn from_links(to: &Path, link: &str) -> PathBuf {
    if link.starts_with('/') {
        return PathBuf::from(link);
    }
    let mut path = to.join(LINKS);
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    path
}

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

/// Makes sure that a tablespace's directory may be written: it does not exist, is empty, or holds the tablespace of this
/// very data directory and `delta` allows to go over it.
///
/// # Errors
/// [`Kind::Failed`] for a directory that is in use, by whatever.
pub(super) fn check(placed: &Placed, data: Option<&Folder>, delta: bool) -> Result<()> {
    let path = &placed.path;
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(|| format!("look into tablespace directory {}", path.display())),
    };
    if entries.flatten().all(|e| e.file_name() == "lost+found") {
        return Ok(());
    }
    let refuse = |why: &str, hint: String| {
        Err(Error::new(Kind::Failed, format!("tablespace directory {} is not empty{why}", path.display())).hint(hint))
    };
    let map = format!("Choose another one with --tablespace-map {}=DIR.", placed.was);
    if !delta {
        return refuse("", map);
    }
    let linked = match data.map(|d| d.below(LINKS)).transpose()?.flatten() {
        Some(links) => rustix::fs::readlinkat(&links.fd, placed.oid.to_string(), Vec::new()).ok(),
        None => None,
    };
    let ours = linked.zip(data).is_some_and(|(link, data)| link.to_str().is_ok_and(|link| from_links(&data.path, link) == *path));
    // It may be that of a server that runs elsewhere on this machine.
    if ours { Ok(()) } else { refuse(" and is not a tablespace of the data directory that is restored over", map) }
}

/// Makes the directories and the links to them, and takes away links of a former cluster.
pub(super) fn link(data: &Folder, placed: &[Placed], owner: Owner) -> Result<()> {
    let links = data.make(LINKS, owner)?;
    for name in links.names()? {
        // What is left are directories inside; they are compared like all others.
        let is_link = rustix::fs::readlinkat(&links.fd, name.as_slice(), Vec::new()).is_ok();
        if is_link && let Ok(name) = std::str::from_utf8(&name) {
            links.remove(name)?;
        }
    }
    for tablespace in placed {
        std::fs::create_dir_all(&tablespace.path).context(|| format!("make {}", tablespace.path.display()))?;
        let dir = Folder::open(&tablespace.path)?;
        owner.give(&dir.fd, true).map_err(|e| dir.failed("set owner and mode of", ".", e))?;
        let name = tablespace.oid.to_string();
        rustix::fs::symlinkat(&tablespace.path, &links.fd, name.as_str()).map_err(|e| links.failed("link", &name, e))?;
    }
    links.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_go_where_they_were_or_where_they_are_sent() {
        let all = [
            Tablespace { oid: 16400, path: "/ts/a".into() },
            Tablespace { oid: 16401, path: "/ts/b".into() },
            Tablespace { oid: 16402, path: "pg_tblspc/16402".into() },
            Tablespace { oid: 16403, path: "../../tablespaces/16403".into() },
        ];
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), PathBuf::from(b))).collect();
        let to = Path::new("/srv/data");
        let placed = place(&all, &map(&[("/ts/a/", "/new/a"), ("16401", "/new/b")]), to).unwrap();
        let paths: Vec<_> = placed.iter().map(|p| (p.oid, p.path.to_str().unwrap())).collect();
        assert_eq!(paths, [(16400, "/new/a"), (16401, "/new/b"), (16403, "/srv/tablespaces/16403")]);
        assert_eq!(place(&all, &map(&[]), to).unwrap()[1].path, Path::new("/ts/b"));
        for bad in [
            ("/ts/c", "/x"),
            ("/ts/a", "x"),
            ("/ts/a", "/srv/data/x"),
            ("/ts/a", "/"),
            ("/ts/a", "/ts/b"),
            ("/ts/a", "/x/../ts/b"),
        ] {
            assert!(place(&all, &map(&[bad]), to).is_err_and(|e| e.kind() == Kind::Usage), "{bad:?}");
        }
    }

    #[test]
    fn a_directory_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (data, used) = (dir.path().join("data"), dir.path().join("used"));
        std::fs::create_dir_all(data.join(LINKS)).unwrap();
        let placed = Placed { oid: 5, was: "/ts".into(), path: used.clone() };
        let folder = Folder::open(&data).unwrap();
        check(&placed, None, false).unwrap();
        std::fs::create_dir(&used).unwrap();
        check(&placed, None, false).unwrap();
        std::fs::write(used.join("x"), "x").unwrap();
        assert!(check(&placed, None, false).is_err());
        assert!(check(&placed, Some(&folder), true).is_err(), "not ours");
        std::os::unix::fs::symlink(&used, data.join(LINKS).join("5")).unwrap();
        check(&placed, Some(&folder), true).unwrap();
        assert!(check(&placed, Some(&folder), false).is_err());
        // As stock tools leave it.
        std::fs::remove_file(data.join(LINKS).join("5")).unwrap();
        std::os::unix::fs::symlink("../../used", data.join(LINKS).join("5")).unwrap();
        check(&placed, Some(&folder), true).unwrap();
    }
}
