//! The client tools that are installed, and which of them fits a server.
//!
//! `pg_dump` refuses a server of a newer major, and a dump loads into the same major or newer, so the *lowest* major
//! that is not older than the server is the right one.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::runtime::Cancel;
use crate::runtime::process::Program;

/// A colon-separated list of folders to look into first.
pub const DIRS_VARIABLE: &str = "STRONGROOM_PG_BIN_DIRS";

/// Where distributions put them: Debian and Ubuntu, Red Hat and SUSE.
const PLACES: &[(&str, &str, &str)] = &[("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")];

/// One installation of the client tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its folder.
    pub dir: PathBuf,
    /// E.g. 17.
    pub major: u32,
    /// As it prints itself, e.g. `17.5 (Debian 17.5-1)`.
    pub version: String,
}

impl Installed {
    /// One of its tools.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if this installation lacks it.
    pub fn tool(&self, name: &str) -> Result<Program> {
        let path = self.dir.join(name);
        if !path.exists() {
            return Err(Error::new(Kind::NotFound, format!("{} has no {name}", self.dir.display()))
                .hint(format!("Install the complete client tools of PostgreSQL {}.", self.major)));
        }
        Ok(Program::new(path))
    }
}

/// All installations found, lowest major first.
#[derive(Debug, Clone, Default)]
pub struct Clients(Vec<Installed>);

impl Clients {
    /// Looks into `dirs` if there are any; else into [`DIRS_VARIABLE`], the distributions' places and `PATH`.
    /// A folder whose `pg_dump` cannot tell its version is passed over.
    #[must_use]
    pub fn find(dirs: &[PathBuf], cancel: &Cancel) -> Self {
        let places = if dirs.is_empty() { usual_dirs() } else { dirs.to_vec() };
        let mut found: Vec<Installed> = Vec::new();
        for dir in places {
            let pg_dump = dir.join("pg_dump");
            let Ok(real) = pg_dump.canonicalize() else { continue };
            // Debian's wrapper chooses a version by itself; the folders behind it are looked into anyway.
            let wrapper = real.file_name().is_some_and(|n| n == "pg_wrapper");
            if wrapper || found.iter().any(|f| f.dir == dir || f.dir.join("pg_dump").canonicalize().is_ok_and(|p| p == real)) {
                continue;
            }
            match version_of(&pg_dump, cancel) {
                Ok((major, version)) => found.push(Installed { dir, major, version }),
                Err(e) => tracing::warn!("{} is passed over: {}", pg_dump.display(), e.chain()),
            }
        }
        found.sort_by_key(|f| f.major);
        Self(found)
    }

    /// The lowest major that is at least `major`. `what` says for whom, e.g. `the server (PostgreSQL 17.5)`.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming what is installed and what to install.
    pub fn at_least(&self, major: u32, what: &str) -> Result<&Installed> {
        self.0.iter().find(|f| f.major >= major).ok_or_else(|| {
            let have = match self.0.as_slice() {
                [] => "none are installed".to_owned(),
                some => format!("installed: {}", some.iter().map(|f| format!("{} in {}", f.major, f.dir.display())).collect::<Vec<_>>().join(", ")),
            };
            Error::new(Kind::NotFound, format!("no PostgreSQL client tools fit {what}: {have}"))
                .hint(format!("Install the client tools of PostgreSQL {major} or newer (package postgresql-client-{major}), or name their folder in {DIRS_VARIABLE}."))
        })
    }

    /// The installation that can run a server of a major: exactly this one where `exact` (a data directory fits no other), else
    /// the lowest that is not older.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming what is installed and what to install.
    pub fn server(&self, major: u32, exact: bool) -> Result<&Installed> {
        let servers = || self.0.iter().filter(|f| f.dir.join("postgres").exists() && f.dir.join("initdb").exists());
        let fits = |f: &&Installed| f.major == major || (!exact && f.major > major);
        servers().find(fits).ok_or_else(|| {
            let have: Vec<String> = servers().map(|f| format!("{} in {}", f.major, f.dir.display())).collect();
            let have = if have.is_empty() { "none are installed".to_owned() } else { format!("installed: {}", have.join(", ")) };
            Error::new(Kind::NotFound, format!("no PostgreSQL server programs of version {major} were found: {have}")).hint(format!(
                "Install the server of PostgreSQL {major} (package postgresql-{major}), or name its folder in {DIRS_VARIABLE} or `drill.server_dirs`."
            ))
        })
    }
}

fn usual_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::var_os(DIRS_VARIABLE).map(|v| std::env::split_paths(&v).collect()).unwrap_or_default();
    for (parent, prefix, below) in PLACES {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|n| n.strip_prefix(prefix));
            if version.is_some_and(|v| v.parse::<u32>().is_ok()) {
                dirs.push(entry.path().join(below));
            }
        }
    }
    dirs.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    dirs.retain(|d| !d.as_os_str().is_empty());
    dirs
}

fn version_of(pg_dump: &Path, cancel: &Cancel) -> Result<(u32, String)> {
    let program = Program::new(pg_dump).arg("--version").env("LC_ALL", "C").inherit(&["PATH"]);
    let text = program.timeout(Some(std::time::Duration::from_secs(20))).read(4096, cancel)?;
    parse_version(&String::from_utf8_lossy(&text))
        .ok_or_else(|| Error::new(Kind::Failed, "it does not print a PostgreSQL version"))
}

/// From `pg_dump (PostgreSQL) 17.5 (Debian 17.5-1)`.
fn parse_version(text: &str) -> Option<(u32, String)> {
    let version = text.trim().split_once("(PostgreSQL) ")?.1;
    Some((major_of(version)?, version.to_owned()))
}

/// The major of a version text: `17.5`, `18beta1`, `9.6.24` (which is 9).
#[must_use]
pub fn major_of(version: &str) -> Option<u32> {
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_sufficient_major_is_chosen() {
        let installed =
            |major: u32| Installed { dir: PathBuf::from(format!("/opt/{major}")), major, version: format!("{major}.1") };
        let clients = Clients(vec![installed(14), installed(16), installed(17)]);
        assert_eq!(clients.at_least(15, "it").unwrap().major, 16);
        assert_eq!(clients.at_least(13, "it").unwrap().major, 14);
        let report = clients.at_least(18, "the server (PostgreSQL 18.1)").unwrap_err().report();
        assert!(
            report.contains("installed: 14 in /opt/14, 16 in /opt/16, 17 in /opt/17") && report.contains("postgresql-client-18"),
            "{report}"
        );
        assert!(Clients::default().at_least(18, "it").unwrap_err().report().contains("none are installed"));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some((15, "15.18 (Debian 15.18-0+deb12u1)".to_owned()))
        );
        assert_eq!(parse_version("pg_dump (PostgreSQL) 18beta1\n").unwrap().0, 18);
        assert_eq!(parse_version("usage"), None);
    }
}
