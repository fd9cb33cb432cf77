//! A PostgreSQL server in a scratch directory, for one drill.
//!
//! It listens on a socket in that directory only, archives nothing, replicates with nobody and runs no jobs of its own:
//! whatever the restored configuration says, these settings are given on its command line, which wins. PostgreSQL refuses to run
//! as root, so where this process is root the server runs as another user, who can read nothing but its own files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::scratch::Scratch;
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::clients::Installed;
use crate::postgres::{ConnectionSettings, Session};
use crate::runtime::process::{Child, Program, find};
use crate::runtime::{Cancel, SecretText};

/// The socket's port: part of its file's name.
const PORT: u16 = 5432;
/// Longest path of a socket.
const SOCKET_PATH: usize = 107;
/// Between two looks at whether it answers.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take to end by itself.
const STOP: Duration = Duration::from_secs(15);

/// What no configuration may change: applied last.
const ISOLATION: [(&str, &str); 20] = [
    ("listen_addresses", ""),
    ("ssl", "off"),
    ("archive_mode", "off"),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("max_logical_replication_workers", "0"),
    ("autovacuum", "off"),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("cluster_name", "strongroom-drill"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("external_pid_file", ""),
    ("unix_socket_permissions", "0700"),
    ("unix_socket_group", ""),
    ("shared_memory_type", "mmap"),
    ("huge_pages", "off"),
];

/// Defaults that `drill.settings` may change. Nothing of it has to outlive the drill, so nothing is forced to disk.
const DEFAULTS: [(&str, &str); 12] = [
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("jit", "off"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "128MB"),
    ("max_wal_size", "4GB"),
    ("wal_keep_size", "0"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
];

/// Whom server programs run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunAs {
    uid: u32,
    gid: u32,
}

impl RunAs {
    /// Another user where this process is root: the one named, else `postgres`, else `nobody`. `None` elsewhere.
    ///
    /// # Errors
    /// [`Kind::Config`] if there is no such user, or it is root.
    pub(super) fn choose(named: Option<&str>) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = String::from_utf8_lossy(&fs::read("/etc/passwd").unwrap_or_default()).into_owned();
        let names = named.map_or_else(|| vec!["postgres", "nobody"], |n| vec![n]);
        let found = names.iter().find_map(|name| look_up(&users, name));
        found.map(Some).ok_or_else(|| {
            Error::new(Kind::Config, format!("there is no user {} to run a scratch server as", names.join(" or ")))
                .hint("PostgreSQL refuses to run as root: name an ordinary user of this machine in `drill.user`.")
        })
    }

    /// Gives it a directory or file.
    fn own(this: Option<&Self>, path: &Path) -> Result<()> {
        match this {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)).context(|| format!("give {} away", path.display())),
            None => Ok(()),
        }
    }

    /// A program that runs as that user.
    fn program(this: Option<&Self>, path: &Path) -> Result<Program> {
        let Some(user) = this else { return Ok(Program::new(path)) };
        let setpriv = find(Path::new("/usr/bin/setpriv")).or_else(|| find(Path::new("setpriv"))).ok_or_else(|| {
            Error::new(Kind::NotFound, "the program setpriv, which starts the scratch server as another user, was not found")
                .hint("Install util-linux, or run the drill as an ordinary user.")
        })?;
        // The kernel forgets the signal of the parent's death when the user changes, so it is asked for again.
        let program = Program::new(setpriv).arg("--reuid").arg(user.uid.to_string()).arg("--regid").arg(user.gid.to_string());
        Ok(program.args(["--clear-groups", "--pdeathsig", "KILL", "--"]).arg(path))
    }
}

/// `name:password:uid:gid:…` a line. Never root.
fn look_up(users: &str, name: &str) -> Option<RunAs> {
    let line = users.lines().find(|l| l.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let user = RunAs { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? };
    (user.uid != 0).then_some(user)
}

/// A prepared place for a server.
pub(super) struct Place {
    pub(super) programs: Installed,
    user: Option<RunAs>,
    /// Belongs to whom the server runs as.
    home: PathBuf,
    settings: Vec<(String, String)>,
}

/// A running scratch server. Ended when dropped.
pub(super) struct Server {
    child: Option<Child>,
    home: PathBuf,
    /// What to log in as.
    role: String,
}

impl Place {
    /// Makes one in the scratch directory. `extra` are the settings of the drill.
    ///
    /// # Errors
    /// A directory whose path is too long for a socket; what keeps files from being given to the server's user.
    pub(super) fn new(
        scratch: &Scratch,
        programs: Installed,
        user: Option<RunAs>,
        extra: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let home = scratch.join("server");
        let socket = home.join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_PATH {
            return Err(Error::new(Kind::Failed, format!("the path {} is too long for a socket", socket.display()))
                .hint("Name a scratch directory with a shorter path in `drill.scratch`, or with --scratch."));
        }
        fs::create_dir(&home).context(|| format!("create {}", home.display()))?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).context(|| format!("close {}", home.display()))?;
        RunAs::own(user.as_ref(), &home)?;
        if let Some(user) = &user {
            scratch.let_others_through()?;
            reachable(&home, user, &programs)?;
        }
        let mut settings: Vec<(String, String)> =
            DEFAULTS.iter().filter(|(n, _)| !extra.contains_key(*n)).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        settings.extend(extra.clone());
        Ok(Self { programs, user, home, settings })
    }

    /// Where its data directory is, or is to be restored to.
    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Makes an empty cluster, with UTF-8 and the C locale, and the superuser `postgres`.
    ///
    /// # Errors
    /// What `initdb` says.
    pub(super) fn init(&self, cancel: &Cancel) -> Result<()> {
        let program = self.program("initdb")?.arg("-D").arg(self.data());
        let program = program.args(["-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        program.without_output().start(cancel)?.wait().into_result().context(|| "make a scratch cluster")
    }

    /// A directory that belongs to the server's user.
    ///
    /// # Errors
    /// As `mkdir` and `chown`.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.home.join(name);
        fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        RunAs::own(self.user.as_ref(), &path)?;
        Ok(path)
    }

    /// Gives a file to the server's user.
    ///
    /// # Errors
    /// As `chown`.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        RunAs::own(self.user.as_ref(), path)
    }

    /// Gives the data directory and the tablespaces, as they were restored, to the server's user. Follows no links.
    ///
    /// # Errors
    /// As `chown`.
    pub(super) fn give_all(&self) -> Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        let mut open = vec![self.home.clone()];
        while let Some(dir) = open.pop() {
            let doing = || format!("give {} away", dir.display());
            for entry in fs::read_dir(&dir).context(doing)? {
                let entry = entry.context(doing)?;
                lchown(entry.path(), Some(user.uid), Some(user.gid)).context(doing)?;
                if entry.file_type().context(doing)?.is_dir() {
                    open.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Starts the server with these settings beside its own. It may still be recovering: see [`Server::session`].
    ///
    /// # Errors
    /// What keeps the program from being started.
    pub(super) fn start(&self, more: &[(String, String)], role: &str, cancel: &Cancel) -> Result<Server> {
        let hba = self.home.join("hba.conf");
        fs::write(&hba, "local all all trust\n").context(|| format!("write {}", hba.display()))?;
        RunAs::own(self.user.as_ref(), &hba)?;
        let mut program = self.program("postgres")?.arg("-D").arg(self.data());
        let isolation = ISOLATION.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let places = [
            ("port".to_owned(), PORT.to_string()),
            ("unix_socket_directories".to_owned(), self.home.display().to_string()),
            ("hba_file".to_owned(), hba.display().to_string()),
            // A configuration file may name the directory of the cluster that it came from.
            ("data_directory".to_owned(), self.data().display().to_string()),
        ];
        for (name, value) in self.settings.iter().cloned().chain(more.iter().cloned()).chain(isolation).chain(places) {
            program = program.arg("-c").arg(format!("{name}={value}"));
        }
        // Of versions that do not know a setting, the server would refuse to start: all of these exist since 13.
        let child = program.without_output().grace(STOP).start(cancel)?;
        Ok(Server { child: Some(child), home: self.home.clone(), role: role.to_owned() })
    }

    /// One of the server's programs, as its user, with an environment that knows nothing of ours.
    pub(super) fn program(&self, name: &str) -> Result<Program> {
        let path = self.programs.dir.join(name);
        if !path.exists() {
            return Err(Error::new(Kind::NotFound, format!("{} has no {name}", self.programs.dir.display()))
                .hint(format!("Install the complete server of PostgreSQL {}.", self.programs.major)));
        }
        let program = RunAs::program(self.user.as_ref(), &path)?;
        Ok(program.env("LC_ALL", "C").env("HOME", &self.home).env("PGHOST", &self.home).inherit(&["PATH", "TZ"]))
    }
}

/// The other user has to reach its home and the programs; a closed directory above is said before anything fails oddly.
fn reachable(home: &Path, user: &RunAs, programs: &Installed) -> Result<()> {
    for (what, path) in [("scratch directory", home.to_owned()), ("server programs", programs.dir.join("postgres"))] {
        let test = RunAs::program(Some(user), Path::new("/usr/bin/test"))?.arg("-x").arg(&path).without_output();
        let reached = test.start(&Cancel::new()).map(|c| c.wait().success());
        if matches!(reached, Ok(false)) {
            return Err(Error::new(
                Kind::Denied,
                format!("the user (number {}) that the scratch server runs as cannot reach the {what} at {}", user.uid, path.display()),
            )
            .hint("Open the directories above it to others (chmod o+x), or name another place in `drill.scratch` or `drill.server_dirs`."));
        }
    }
    Ok(())
}

impl Server {
    /// How to connect, to no database in particular.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn connection(&self) -> Result<ConnectionSettings> {
        let quoted = |v: &str| v.replace('\\', "\\\\").replace('\'', "\\'");
        let text = format!("host='{}' port={PORT} user='{}'", quoted(&self.home.display().to_string()), quoted(&self.role));
        ConnectionSettings::parse(&SecretText::new(text))
    }

    /// Logs in as this role from now on.
    pub(super) fn set_role(&mut self, role: &str) {
        self.role = role.to_owned();
    }

    /// Waits until the server lets somebody in and `is_ready` says that it is far enough, and returns that session.
    ///
    /// # Errors
    /// [`Kind::Failed`] with the end of its log if the server ends, or says for good that it will not let us in; [`Kind::Cancelled`].
    pub(super) fn session(&mut self, cancel: &Cancel, is_ready: &dyn Fn(&Session) -> Result<bool>) -> Result<Session> {
        let connection = self.connection()?;
        loop {
            cancel.check()?;
            match Session::open(&connection, cancel) {
                Ok(session) => {
                    if is_ready(&session)? {
                        return Ok(session);
                    }
                }
                // Starting up or recovering: not yet.
                Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Failed | Kind::NotFound) && self.is_running() => {
                    tracing::debug!("the scratch server does not answer yet: {}", e.chain());
                }
                Err(e) => return Err(self.ended(e)),
            }
            if !self.is_running() {
                return Err(self.ended(Error::new(Kind::Failed, "it ended")));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn is_running(&self) -> bool {
        self.child.as_ref().is_some_and(|c| !c.has_ended())
    }

    /// Adds what the server said.
    fn ended(&mut self, e: Error) -> Error {
        let kind = e.kind();
        let what = "start the scratch server";
        if self.is_running() {
            return e.context(what);
        }
        match self.child.take().map(Child::wait) {
            Some(exit) if kind != Kind::Cancelled => match exit.into_result() {
                Err(said) => said.context(what),
                Ok(()) => e.context(what),
            },
            _ => e.context(what),
        }
    }

    /// Ends it, and waits.
    pub(super) fn stop(mut self) {
        if let Some(child) = self.child.take() {
            child.stop();
            drop(child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_looked_up_and_root_is_none() {
        let users = "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\npostgres:x:105:106::/var/lib:/bin/sh\nbad:x\n";
        assert_eq!(look_up(users, "postgres"), Some(RunAs { uid: 105, gid: 106 }));
        for name in ["root", "toor", "bad", "post", "postgres:x"] {
            assert_eq!(look_up(users, name), None, "{name}");
        }
    }

    #[test]
    fn no_setting_of_isolation_is_a_default_that_may_be_changed() {
        assert!(DEFAULTS.iter().all(|(d, _)| ISOLATION.iter().all(|(i, _)| i != d)));
    }
}
