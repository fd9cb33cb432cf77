//! `strongroom-client`: what PostgreSQL calls where strongroom's daemon runs in another container. It hands over an open
//! file and a name; it has no keys, no credentials and no configuration.
//!
//! ```text
//! archive_command = 'strongroom-client wal push %p --job acme/wal'
//! restore_command = 'strongroom-client wal fetch %f %p --job acme/wal'
//! ```
//!
//! Exit codes: `push` 0 or 1; `fetch` 0 delivered, 1 proven not to be in the archive, 255 everything else, mistakes of usage and
//! panics included (1 with `--mode standby`, since a standby asks again).

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use strongroom_client::call::{self, PATIENCE};
use strongroom_client::cluster;
use strongroom_client::message::{MAX_FILES, Reply, Request};

const USAGE: &str = "\
usage: strongroom-client [wal] push PATH     [--job TENANT/JOB] [--socket PATH] [--data-directory DIR]
       strongroom-client [wal] fetch NAME DEST [--mode recovery|standby|rewind] [the same options]
--wait SECONDS: how long to look for a daemon that cannot be reached; 30 unless told.
The socket is that of --socket, $STRONGROOM_SOCKET, or /run/strongroom/TENANT.sock.";
/// Files that wait behind the one asked for and are handed over with it.
const AHEAD: usize = 31;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // By the words alone, wherever options stand: a mistake in those must not end a recovery either.
    let fetches = arguments.iter().find(|a| matches!(a.as_str(), "fetch" | "push")).is_some_and(|verb| verb == "fetch");
    let standby = arguments.iter().any(|a| a == "--mode=standby") || arguments.windows(2).any(|w| w == ["--mode", "standby"]);
    let failure = if fetches && !standby { 255 } else { 1 };
    let done = std::panic::catch_unwind(|| Arguments::parse(&arguments).and_then(|a| a.run()));
    match done {
        Ok(Ok(Done::Ok)) => ExitCode::SUCCESS,
        Ok(Ok(Done::Missing)) => ExitCode::from(1),
        Ok(Err(e)) => {
            // There is nowhere left to complain to.
            drop(writeln!(std::io::stderr(), "error: {e}"));
            ExitCode::from(failure)
        }
        Err(_) => ExitCode::from(failure),
    }
}

enum Done {
    Ok,
    Missing,
}

#[derive(Default)]
struct Arguments {
    words: Vec<String>,
    job: String,
    socket: Option<PathBuf>,
    data: Option<PathBuf>,
    mode: String,
    wait: Duration,
}

impl Arguments {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut out = Self { mode: "recovery".into(), wait: PATIENCE, ..Self::default() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, given) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            if !name.starts_with('-') {
                out.words.push(argument.clone());
                continue;
            }
            let mut value = || given.clone().or_else(|| rest.next().cloned()).ok_or(format!("{name} needs a value\n{USAGE}"));
            match name {
                "--job" => out.job = value()?,
                "--socket" => out.socket = Some(value()?.into()),
                "--data-directory" => out.data = Some(value()?.into()),
                "--mode" => out.mode = value()?,
                "--wait" => {
                    let text = value()?;
                    out.wait = text.parse().map(Duration::from_secs).map_err(|_| format!("--wait {text}: seconds\n{USAGE}"))?;
                }
                _ => return Err(format!("unknown argument {name}\n{USAGE}")),
            }
        }
        if !["recovery", "standby", "rewind"].contains(&out.mode.as_str()) {
            return Err(format!("--mode {}: recovery, standby or rewind\n{USAGE}", out.mode));
        }
        if out.words.first().is_some_and(|w| w == "wal") {
            out.words.remove(0);
        }
        Ok(out)
    }

    fn run(&self) -> Result<Done, String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["push", path] => self.push(Path::new(path)),
            ["fetch", name, to] => self.fetch(name, Path::new(to)),
            _ => Err(USAGE.to_owned()),
        }
    }

    fn push(&self, path: &Path) -> Result<Done, String> {
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| format!("{}: not a file's name", path.display()))?;
        check_name(name)?;
        let data = self.data.clone().or_else(|| cluster::data_directory(path));
        if let Some(data) = &data {
            let restored = cluster::is_restored(data).map_err(|e| format!("look into {}: {e}", data.display()))?;
            if restored {
                return Err(format!(
                    "{} was restored from a backup and must not archive yet\nhint: `strongroom wal adopt` makes this server the one that archives.",
                    data.display()
                ));
            }
        }
        let wal = path.parent().unwrap_or(Path::new("."));
        let (mut names, mut files) = (vec![name.to_owned()], vec![open(path)?]);
        let ahead = AHEAD.min(MAX_FILES - 1);
        for next in cluster::waiting(wal, name, ahead).into_iter().filter(|n| check_name(n).is_ok()) {
            // One that cannot be opened is a matter for the call that is about it.
            if let Ok(file) = open(&wal.join(&next)) {
                names.push(next);
                files.push(file);
            }
        }
        let request = Request::Push { job: self.job(), names, server: data.as_deref().and_then(cluster::server) };
        match self.ask(&request, &files)? {
            Reply::Stored => Ok(Done::Ok),
            other => Err(unexpected(&other)),
        }
    }

    fn fetch(&self, name: &str, to: &Path) -> Result<Done, String> {
        check_name(name)?;
        let data = self.data.clone().or_else(|| cluster::data_directory(to));
        let server = data.as_deref().and_then(cluster::server);
        let mut beside = to.as_os_str().to_owned();
        beside.push(".strongroom");
        let beside = PathBuf::from(beside);
        let at = |e: std::io::Error| format!("write {}: {e}", beside.display());
        // Not the file of a call that was killed: the daemon may still write to it.
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at(e)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(at)?;
        let request = Request::Fetch { job: self.job(), name: name.to_owned(), mode: self.mode.clone(), server };
        let files = [file];
        let reply = self.ask(&request, &files);
        let kept = match &reply {
            Ok(Reply::Delivered(bytes)) => keep(&files, *bytes, &beside, to),
            _ => Ok(()),
        };
        if !matches!((&reply, &kept), (Ok(Reply::Delivered(_)), Ok(()))) {
            // What is left of it is overwritten by the next call.
            drop(fs::remove_file(&beside));
        }
        kept?;
        match reply? {
            Reply::Delivered(_) => Ok(Done::Ok),
            Reply::Missing(_) => Ok(Done::Missing),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &Request, files: &[File]) -> Result<Reply, String> {
        let socket = self.socket()?;
        call::patiently(&socket, request, files, self.wait).map_err(|e| {
            format!(
                "ask the daemon at {}: {e}\nhint: Is `strongroom run` running, and may this user use its socket?",
                socket.display()
            )
        })
    }

    /// The job's own name: the socket says whose it is.
    fn job(&self) -> String {
        self.job.rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if let Some(socket) = std::env::var_os("STRONGROOM_SOCKET") {
            return Ok(socket.into());
        }
        match self.job.split_once('/') {
            Some((tenant, _)) if !tenant.is_empty() => Ok(Path::new("/run/strongroom").join(format!("{tenant}.sock"))),
            _ => Err(format!("no --job TENANT/JOB and no --socket\n{USAGE}")),
        }
    }
}

/// What PostgreSQL names: letters, digits and dots. The daemon knows exactly which.
fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    if fits && !name.starts_with('.') { Ok(()) } else { Err(format!("`{}` is no file of a WAL archive", name.escape_debug())) }
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|e| format!("open {}: {e}", path.display()))
}

/// Puts what was delivered in its place, whole or not at all. The server syncs what it keeps.
fn keep(files: &[File], bytes: u64, beside: &Path, to: &Path) -> Result<(), String> {
    let at = |e: std::io::Error| format!("write {}: {e}", to.display());
    for file in files {
        let there = file.metadata().map_err(at)?.len();
        if there != bytes {
            return Err(format!("write {}: {there} bytes are there of {bytes}", to.display()));
        }
    }
    fs::rename(beside, to).map_err(at)
}

fn unexpected(reply: &Reply) -> String {
    match reply {
        Reply::Error { text, .. } => text.clone(),
        other => format!("the daemon answered something else: {other:?}"),
    }
}
