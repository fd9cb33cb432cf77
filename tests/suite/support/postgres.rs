//! Private PostgreSQL servers: on a Unix socket (and a TCP port if asked), as an ordinary user even when the tests run as
//! root, gone when the test process is gone, however that ends.
//!
//! `shared(major)` is one server a major for the whole run: give databases and roles names of your own.
//! `Server::start(major)` is one to break.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use strongroom::runtime::{Secret, SecretText};

/// The majors that tests cover.
pub const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];
/// Those, and 13, of which there is the server only: the client programs of 14 stand in for its own.
pub const SERVERS: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// A running server. Stopped, and its folder removed, when dropped or when this process ends.
pub struct Server {
    pub major: u32,
    dir: PathBuf,
    port: u16,
    tcp: bool,
    // The watchdog ends the server when its standard input is closed.
    watchdog: Mutex<Child>,
}

/// The one server of this major that all tests share.
pub fn shared(major: u32) -> &'static Server {
    static SERVERS: [OnceLock<Server>; 5] = [const { OnceLock::new() }; 5];
    let index = MAJORS.iter().position(|m| *m == major).expect("a known major");
    SERVERS[index].get_or_init(|| Server::start(major))
}

/// Where the tools of a major are installed. Panics with the remedy if they are not.
pub fn bin(major: u32) -> PathBuf {
    let cache = std::env::var_os("STRONGROOM_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/strongroom"), PathBuf::from);
    let prefix = format!("postgres-{major}.");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&cache)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path().join("bin"))
        .collect();
    found.sort();
    let bin = found.pop();
    bin.unwrap_or_else(|| panic!("PostgreSQL {major} is not in {}: run `make tools` (tests/tools/postgres.sh)", cache.display()))
}

/// Where the client programs for servers of a major are: `psql`, `pgbench`, `pg_verifybackup` and so on.
pub fn clients(major: u32) -> PathBuf {
    bin(major.max(MAJORS[0]))
}

/// The same as [`bin`], where the user that servers run as can reach them.
pub fn server_bin(major: u32) -> PathBuf {
    match user() {
        Some(user) => reachable(&bin(major), user),
        None => bin(major),
    }
}

impl Server {
    /// Starts a new, empty server that listens on its socket only.
    pub fn start(major: u32) -> Self {
        Self::start_with(major, false, "")
    }

    /// The same, on a free port of 127.0.0.1 too, with further lines for its `postgresql.conf`.
    pub fn start_with(major: u32, tcp: bool, config: &str) -> Self {
        Self::create(major, tcp, &[], config)
    }

    /// The same, with further arguments for `initdb`: `-k`, `--wal-segsize=1`, …
    pub fn create(major: u32, tcp: bool, more: &[&str], config: &str) -> Self {
        Self::prepare(major, tcp).init(more, config)
    }

    /// A new server whose `initdb` gets further arguments, on its socket only.
    pub fn start_initdb(major: u32, arguments: &[&str], config: &str) -> Self {
        Self::create(major, false, arguments, config)
    }

    fn init(self, arguments: &[&str], config: &str) -> Self {
        let data = self.data();
        let usual = ["-D", &data, "-U", "postgres", "-A", "trust", "-N", "--encoding=UTF8", "--locale=C"];
        run(self.as_user("initdb", &[&usual, arguments].concat()), "initdb");
        self.configure(config);
        self.launch()
    }

    /// A standby of this server, streaming from it.
    pub fn standby(&self, config: &str) -> Self {
        let server = Self::prepare(self.major, false);
        let (host, port) = (self.socket_dir(), self.port.to_string());
        run(
            server.as_user(
                "pg_basebackup",
                &["-h", &host, "-p", &port, "-U", "postgres", "-D", &server.data(), "-R", "-c", "fast"],
            ),
            "pg_basebackup",
        );
        server.configure(config);
        server.launch()
    }

    /// A server that has no data directory yet and does not run: something is restored to [`Server::data`], then it is
    /// started with [`Server::restart`].
    pub fn unborn(major: u32) -> Self {
        Self::prepare(major, false)
    }

    /// This cluster under another major, by `pg_upgrade`. Stops it; the new one does not run yet.
    pub fn upgrade(&self, major: u32, initdb: &[&str], config: &str) -> Self {
        self.stop();
        let new = Self::prepare(major, false);
        let (data, old, socket) = (new.data(), self.data(), new.socket_dir());
        let usual = ["-D", &data, "-U", "postgres", "-A", "trust", "-N", "--encoding=UTF8", "--locale=C"];
        run(new.as_user("initdb", &[&usual, initdb].concat()), "initdb");
        let bin = |s: &Self| user().map_or_else(|| s.bin(), |user| reachable(&s.bin(), user)).to_str().unwrap().to_owned();
        let args = ["-b", &bin(self), "-B", &bin(&new), "-d", &old, "-D", &data, "-U", "postgres", "-s", &socket];
        let mut upgrade = new.as_user("pg_upgrade", &args);
        upgrade.current_dir(&new.dir);
        run(upgrade, "pg_upgrade");
        new.configure(config);
        new
    }

    /// What a restored cluster must be told to run as this server, beside what its configuration says.
    pub fn own_settings(&self) -> Vec<(String, String)> {
        [("unix_socket_directories", self.socket_dir()), ("port", self.port.to_string()), ("listen_addresses", String::new())]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec()
    }

    /// `pg_ctl start` and what it says; the server is not ended by itself.
    pub fn try_start(&self) -> Result<(), String> {
        let log = self.dir.join("log");
        let output = self.as_user("pg_ctl", &["-D", &self.data(), "-l", log.to_str().unwrap(), "-w", "start"]).output().unwrap();
        let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(()) } else { Err(words(&output.stdout) + &words(&output.stderr) + &self.log()) }
    }

    /// A server on this data directory, which is moved into a place of its own, with the tablespaces of a snapshot beside it.
    pub fn on(major: u32, data: &Path, config: &str) -> Self {
        let server = Self::prepare(major, false);
        for from in [data.to_owned(), data.with_file_name("tablespaces")].iter().filter(|d| d.exists()) {
            let to = server.dir.join(if from == data { "data" } else { "tablespaces" });
            let mut moved = Command::new("mv");
            moved.arg(from).arg(&to);
            run(moved, "mv");
            if let Some(user) = user() {
                let mut chown = Command::new("chown");
                chown.arg("-R").arg(user).arg(&to);
                run(chown, "chown");
            }
        }
        server.configure(config);
        server.launch()
    }

    /// A folder of this name beside the data directory, for the server to write to.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.join(name);
        std::fs::create_dir(&folder).unwrap();
        if let Some(user) = user() {
            let mut chown = Command::new("chown");
            chown.arg(user).arg(&folder);
            run(chown, "chown");
        }
        folder
    }

    fn prepare(major: u32, tcp: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir =
            std::env::temp_dir().join(format!("strongroom-pg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&dir).unwrap();
        if let Some(user) = user() {
            run(
                {
                    let mut c = Command::new("chown");
                    c.arg(user).arg(&dir);
                    c
                },
                "chown",
            );
        }
        let port = if tcp { super::watched::free_ports(1, false)[0] } else { 5432 };
        let idle = Command::new("true").spawn().unwrap();
        Self { major, dir, port, tcp, watchdog: Mutex::new(idle) }
    }

    fn configure(&self, more: &str) {
        let listen = if self.tcp { "127.0.0.1" } else { "" };
        let text = format!(
            "unix_socket_directories = '{}'\nlisten_addresses = '{listen}'\nport = {}\nfsync = off\nfull_page_writes = off\nshared_buffers = 32MB\nmax_connections = 60\n{more}\n",
            self.socket_dir(),
            self.port
        );
        let path = self.dir.join("data/postgresql.conf");
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, old + &text).unwrap();
    }

    fn launch(self) -> Self {
        self.restart();
        self
    }

    /// Starts it (again) and waits until it answers.
    pub fn restart(&self) {
        let mut server = self.as_user("postgres", &["-D", &self.data()]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        // A shell that outlives us by a moment: when its input ends, it ends the server and clears the folder away.
        let script = r#"dir=$1; shift; "$@" </dev/null & wait_for=$!
            cat >/dev/null
            kill -QUIT "$(head -n 1 "$dir/data/postmaster.pid")" 2>/dev/null; wait $wait_for; rm -rf "$dir""#;
        let mut watchdog = Command::new("/bin/sh");
        watchdog.args(["-c", script, "sh"]).arg(&self.dir).arg(server.get_program()).args(server.get_args());
        watchdog.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        server.stdin(Stdio::null());
        let mut current = self.watchdog.lock().unwrap();
        // That of an earlier start would end the new server and clear its folder away.
        current.kill().ok();
        current.wait().ok();
        *current = watchdog.spawn().expect("start a server");
        drop(current);
        let began = Instant::now();
        while !self.as_client("pg_isready", &["-q", "-d", "postgres"]).status().unwrap().success() {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(120), "PostgreSQL {} does not start:\n{log}", self.major);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn bin(&self) -> PathBuf {
        bin(self.major)
    }

    pub fn socket_dir(&self) -> String {
        self.dir.to_str().unwrap().to_owned()
    }

    pub fn data(&self) -> String {
        self.dir.join("data").to_str().unwrap().to_owned()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// A connection string for this role; without a database, `database` is empty.
    pub fn conninfo(&self, role: &str, database: &str) -> String {
        let quoted = |v: &str| v.replace('\\', "\\\\").replace('\'', "\\'");
        let database = if database.is_empty() { String::new() } else { format!(" dbname='{}'", quoted(database)) };
        format!("host={} port={} user='{}'{database}", self.socket_dir(), self.port, quoted(role))
    }

    /// The same as a secret, for settings.
    pub fn url(&self, role: &str, database: &str) -> Secret {
        Secret::Value(SecretText::new(self.conninfo(role, database)))
    }

    /// Runs statements as the superuser; panics with the server's words. Returns unaligned rows.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        // From its input, so that each statement is a transaction of its own and each result is printed, in every version.
        let mut child = self.psql(database).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// `psql` as the superuser, to be given its arguments.
    pub fn psql(&self, database: &str) -> Command {
        let mut c = self.as_client("psql", &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        c.env("PGDATABASE", database);
        c
    }

    fn as_client(&self, tool: &str, args: &[&str]) -> Command {
        let mut c = Command::new(clients(self.major).join(tool));
        c.args(args).env("PGHOST", self.socket_dir()).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        c
    }

    /// Creates a database with this exact name, replacing an old one.
    #[track_caller]
    pub fn create_database(&self, name: &str) {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        self.sql("postgres", &format!("DROP DATABASE IF EXISTS {quoted}"));
        self.sql("postgres", &format!("CREATE DATABASE {quoted}"));
    }

    /// Kills the server process that works for this program: the whole server restarts, as after a crash.
    pub fn kill_session(&self, program: &str) {
        let what = format!(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name IN ('{program}', 'strongroom') AND state = 'active' AND query LIKE 'COPY %'"
        );
        let pid = self.sql("postgres", &what);
        pid.lines().for_each(|pid| kill(pid.parse().unwrap()));
    }

    /// Turns TLS on with this certificate, and lets TCP clients in with it and a password only.
    pub fn install_tls(&self, certificate: &Path, key: &Path) {
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = self.dir.join("data").join(name);
            std::fs::copy(from, &to).unwrap();
            run(
                {
                    let mut c = Command::new("chmod");
                    c.arg("600").arg(&to);
                    c
                },
                "chmod",
            );
            if let Some(user) = user() {
                run(
                    {
                        let mut c = Command::new("chown");
                        c.arg(user).arg(&to);
                        c
                    },
                    "chown",
                );
            }
        }
        std::fs::write(self.dir.join("data/pg_hba.conf"), "local all all trust\nhostssl all all all scram-sha-256\n").unwrap();
        self.sql("postgres", "ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf(); SELECT pg_sleep(0.5)");
    }

    /// Ends the server at once and without a goodbye to anybody (SIGKILL to all its processes' parent).
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        kill(pid.lines().next().unwrap().parse().unwrap());
    }

    /// `pg_ctl stop -m immediate`.
    pub fn stop_immediate(&self) {
        run(self.as_user("pg_ctl", &["-D", &self.data(), "stop", "-m", "immediate", "-w"]), "pg_ctl stop");
    }

    /// Makes a standby a primary on a timeline of its own, and waits until it is.
    pub fn promote(&self) {
        run(self.as_user("pg_ctl", &["-D", &self.data(), "promote", "-w"]), "pg_ctl promote");
    }

    /// Replaces `pg_hba.conf`.
    pub fn install_hba(&self, text: &str) {
        std::fs::write(self.dir.join("data/pg_hba.conf"), text).unwrap();
        run(self.as_user("pg_ctl", &["-D", &self.data(), "reload"]), "pg_ctl reload");
    }

    /// A directory beside the data directory that the server may write to, for a tablespace.
    pub fn extra_dir(&self, name: &str) -> String {
        let dir = self.dir.join(name);
        run(self.as_user("/bin/mkdir", &["-p", dir.to_str().unwrap()]), "mkdir");
        dir.to_str().unwrap().to_owned()
    }

    /// `pg_ctl stop -m fast`: waits for everybody that streams from it.
    pub fn stop(&self) {
        run(self.as_user("pg_ctl", &["-D", &self.data(), "stop", "-m", "fast", "-w"]), "pg_ctl stop");
    }

    /// `pg_basebackup` of this server into the data directory of `copy`, which does not run; with further lines for its
    /// `postgresql.conf`.
    pub fn copy_to(&self, copy: &Self, more: &[&str], config: &str) {
        let (host, port, data) = (self.socket_dir(), self.port.to_string(), copy.data());
        let args = ["-h", &host, "-p", &port, "-U", "postgres", "-D", &data, "-c", "fast"];
        run(copy.as_user("pg_basebackup", &[&args, more].concat()), "pg_basebackup");
        copy.configure(config);
    }

    /// A server program as the user it must run as.
    pub fn as_user(&self, tool: &str, args: &[&str]) -> Command {
        let bin = if ["initdb", "pg_ctl", "postgres"].contains(&tool) { self.bin() } else { clients(self.major) };
        let (mut c, bin) = match user() {
            Some(user) => {
                let mut c = Command::new("runuser");
                c.args(["-u", user, "--", "env"]);
                (c, reachable(&bin, user))
            }
            None => (Command::new("env"), bin),
        };
        // Or the server's WAL receiver would load whichever libpq the machine has.
        c.arg(format!("LD_LIBRARY_PATH={}", bin.parent().unwrap().join("lib").display())).arg(bin.join(tool));
        c.args(args).current_dir("/").stdin(Stdio::null());
        c
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let watchdog = self.watchdog.get_mut().unwrap();
        drop(watchdog.stdin.take());
        watchdog.wait().unwrap();
    }
}

/// SIGKILL to one process.
#[track_caller]
pub fn kill(pid: i32) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

/// PostgreSQL refuses to run as root: the user to run it as instead, if we are root.
pub fn user() -> Option<&'static str> {
    static USER: OnceLock<Option<&'static str>> = OnceLock::new();
    *USER.get_or_init(|| {
        let answer = |program: &str, args: &[&str]| Command::new(program).args(args).output().ok().filter(|o| o.status.success());
        let id = answer("id", &["-u"]).map(|o| o.stdout).unwrap_or_default();
        (id == b"0\n").then(|| if answer("id", &["postgres"]).is_some() { "postgres" } else { "nobody" })
    })
}

/// The programs where `user` can reach them: a copy below the temporary directory if the cache lies in a closed home.
fn reachable(bin: &Path, user: &str) -> PathBuf {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let works = |bin: &Path| {
        Command::new("runuser")
            .args(["-u", user, "--", "test", "-x"])
            .arg(bin.join("postgres"))
            .status()
            .is_ok_and(|s| s.success())
    };
    if works(bin) {
        return bin.to_owned();
    }
    let tree = bin.parent().unwrap();
    let copies = std::env::temp_dir().join("strongroom-pg-programs");
    let copy = copies.join(tree.file_name().unwrap());
    if !works(&copy.join("bin")) {
        std::fs::create_dir_all(&copies).unwrap();
        let scratch = tempfile::Builder::new().prefix(".new-").tempdir_in(&copies).unwrap().keep();
        run(
            {
                let mut c = Command::new("cp");
                c.arg("-a").arg(tree).arg(scratch.join("tree"));
                c
            },
            "cp",
        );
        // Another test process may have been faster; its copy is as good.
        let renamed = std::fs::rename(scratch.join("tree"), &copy);
        std::fs::remove_dir_all(&scratch).unwrap();
        assert!(works(&copy.join("bin")), "{} cannot be run by {user}: {renamed:?}", copy.display());
    }
    copy.join("bin")
}

#[track_caller]
fn run(mut command: Command, what: &str) {
    let output = command.output().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(
        output.status.success(),
        "{what} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
