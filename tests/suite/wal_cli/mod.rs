//! `strongroom wal …` and the client, called by real servers.

mod archive;
mod backlog;
mod client;
mod fetch;
mod owners;
pub mod receive;
mod trials;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::Ran;
use crate::support::postgres::{Server, user};

/// A configuration with one tenant, one repository that was initialised, and one `pg_wal` job, `acme/wal`. Everything belongs to the
/// user that servers run as, and every command runs as that user.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// With a local store, and these further settings of the job.
    pub fn new(wal: &str) -> Self {
        let place = Self::bare();
        place.configure(&place.local_store(), wal, "");
        place.run(&["init"]).ok();
        place
    }

    pub fn local_store(&self) -> String {
        format!("{{ url: \"file://{}\", password: {{ file: {} }} }}", self.path("store"), self.path("password"))
    }

    fn bare() -> Self {
        let dir = tempfile::Builder::new().prefix("strongroom-wal-").tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "secret\n").unwrap();
        let place = Self { dir };
        place.own();
        place
    }

    /// Hands everything over to the servers' user.
    fn own(&self) {
        let Some(user) = user() else { return };
        let done = Command::new("chown").arg("-R").arg(user).arg(self.dir.path()).status().unwrap();
        assert!(done.success());
    }

    /// `jobs`: further ones of the tenant.
    pub fn configure(&self, repository: &str, wal: &str, jobs: &str) {
        let comma = |text: &str| if text.is_empty() { "" } else { ", " };
        let text = format!(
            "environment: test\ncache_dir: {}\nrepository: {repository}\ntenants: {{ acme: {{ jobs: {{ wal: {{ pg_wal: {{ socket: {}{}{wal} }} }}{}{jobs} }} }} }}\n",
            self.path("cache"),
            self.path("socket"),
            comma(wal),
            comma(jobs),
        );
        std::fs::write(self.config(), text).unwrap();
        self.own();
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("strongroom.yaml")
    }

    /// The tenant's repository.
    pub fn repository(&self) -> PathBuf {
        self.dir.path().join("store/test/acme")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = self.as_user(&program("strongroom"));
        c.arg("--config").arg(self.config()).args(args);
        c
    }

    /// A program as the user that servers run as.
    pub fn as_user(&self, program: &Path) -> Command {
        let mut c = match user() {
            Some(user) => {
                let mut c = Command::new("runuser");
                c.args(["-u", user, "--"]).arg(program);
                c
            }
            None => Command::new(program),
        };
        for (name, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("STRONGROOM")) {
            c.env_remove(name);
        }
        c.current_dir(self.dir.path()).stdin(Stdio::null());
        c
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }

    /// Lines for `postgresql.conf` that make a server archive here.
    pub fn archiving(&self) -> String {
        let program = program("strongroom");
        let (program, config) = (program.display(), self.config());
        format!(
            "wal_level = replica\narchive_mode = on\narchive_command = '{program} --config {} wal push %p --job acme/wal'\n",
            config.display()
        )
    }

    /// The line that makes a server fetch from here.
    pub fn restoring(&self, more: &str) -> String {
        let program = program("strongroom");
        let (program, config) = (program.display(), self.config());
        format!("restore_command = '{program} --config {} wal fetch %f %p --job acme/wal{more}'\n", config.display())
    }

    /// `wal status` of the job.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.run(&["--json", "wal", "status"]).ok().json()["archives"][0].clone()
    }

    /// Objects below the repository whose path contains `part`, sorted.
    pub fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.repository()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.to_string_lossy().contains(part) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

pub fn ran(c: &mut Command) -> Ran {
    let o = c.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: o.status.code().unwrap_or(-1), out: text(&o.stdout), err: text(&o.stderr) }
}

/// A program of ours where the servers' user can reach it.
pub fn program(name: &str) -> PathBuf {
    static COPIES: std::sync::Mutex<Option<tempfile::TempDir>> = std::sync::Mutex::new(None);
    let built = match name {
        "strongroom" => PathBuf::from(env!("CARGO_BIN_EXE_strongroom")),
        _ => crate::support::client::program(),
    };
    let Some(user) = user() else { return built };
    let reachable = Command::new("runuser").args(["-u", user, "--", "test", "-x"]).arg(&built).status().unwrap();
    if reachable.success() {
        return built;
    }
    let mut copies = COPIES.lock().unwrap();
    let dir = copies.get_or_insert_with(|| {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new().prefix("strongroom-programs-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    });
    let copy = dir.path().join(name);
    if !copy.exists() {
        crate::support::copy_program(&built, &copy);
    }
    copy
}

/// Waits for something that must come.
#[track_caller]
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends the current segment, and waits until the server has archived it.
#[track_caller]
pub fn archived(server: &Server) -> String {
    // A segment without a record is not ended.
    let name = server.sql("postgres", "SELECT pg_walfile_name(pg_create_restore_point('end')); SELECT pg_switch_wal()");
    let name = name.lines().next().unwrap().to_owned();
    let last = "SELECT coalesce(max(last_archived_wal), '') FROM pg_stat_archiver WHERE last_archived_wal ~ '^[0-9A-F]{24}$'";
    let began = Instant::now();
    while server.sql("postgres", last) < name {
        assert!(began.elapsed() < Duration::from_secs(60), "{name} is not archived:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    name
}

/// Writes about so many MiB of log.
pub fn load(server: &Server, table: &str, mib: u32) {
    server.sql(
        "postgres",
        &format!(
            "CREATE TABLE IF NOT EXISTS {table} (n bigserial, t text);
             INSERT INTO {table} (t) SELECT repeat(md5(i::text), 30) FROM generate_series(1, {}) i",
            mib * 1024
        ),
    );
}
