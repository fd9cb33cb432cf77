//! Accepts connections and answers them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strongroom_client::message::{Reply, Request, Server, WAIT_EVERY};
use strongroom_client::wire;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::super::shipper::Shipper;
use super::listen::Listening;
use crate::app::blocking;
use crate::error::{Context, Error, Kind, Result};
use crate::model::SystemId;
use crate::runtime::Cancel;
use crate::wal::Mode;

/// Connections at the same time. A server has one archiver; the rest is room for standbys and recoveries.
const CONNECTIONS: usize = 32;
/// What is under way when the service stops has this long, while the process goes on. Clients repeat what is given up.
const FINISH: Duration = Duration::from_secs(10);
/// The answers to what was given up take no longer.
const ANSWERS: Duration = Duration::from_secs(2);
/// A server whose helper knows of a split is to hear of it this often.
const REMIND: Duration = Duration::from_secs(60);
/// A client sends its request at once.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The jobs behind one socket.
#[derive(Debug)]
pub(in super::super) struct Service {
    jobs: BTreeMap<String, Arc<Shipper>>,
    /// Nobody is let in any more.
    stop: Cancel,
    /// The process ends: what is under way is given up at once.
    end: Cancel,
    in_use: Mutex<Use>,
    /// Where files that lie ready may be taken from by clients.
    beside: Option<PathBuf>,
    /// When a file was left to the server's own call last, and which.
    told: Mutex<Option<(Instant, String)>>,
}

/// Whether anybody needs it.
#[derive(Debug)]
struct Use {
    /// Requests under way.
    busy: usize,
    /// When the last one began or ended.
    last: Instant,
}

/// A request under way.
struct Busy<'a>(&'a Mutex<Use>);

impl<'a> Busy<'a> {
    fn new(of: &'a Mutex<Use>) -> Self {
        let mut now = of.lock();
        (now.busy, now.last) = (now.busy + 1, Instant::now());
        drop(now);
        Self(of)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut now = self.0.lock();
        (now.busy, now.last) = (now.busy.saturating_sub(1), Instant::now());
    }
}

impl Service {
    /// `stop`: nobody is let in any more, and what is under way is given up soon; `end`: at once.
    pub(in super::super) fn new(jobs: impl IntoIterator<Item = Arc<Shipper>>, stop: Cancel, end: Cancel) -> Self {
        let jobs = jobs.into_iter().map(|s| (s.job().name.to_string(), s)).collect();
        Self { jobs, stop, end, in_use: Mutex::new(Use { busy: 0, last: Instant::now() }), beside: None, told: Mutex::default() }
    }

    /// For one job, under another name than its own. Lets clients take files that lie ready in `dir`: they may do there what they
    /// like anyway.
    pub(in super::super) fn helper(name: &str, job: Arc<Shipper>, stop: Cancel, end: Cancel, dir: PathBuf) -> Self {
        Self { jobs: BTreeMap::from([(name.to_owned(), job)]), beside: Some(dir), ..Self::new([], stop, end) }
    }

    /// Waits until what is under way is given up.
    async fn gives_up(&self) {
        self.stop.cancelled().await;
        tokio::time::timeout(FINISH, self.end.cancelled()).await.ok();
    }

    /// How long nobody has asked for anything.
    pub(in super::super) fn idle(&self) -> Duration {
        let now = self.in_use.lock();
        if now.busy > 0 { Duration::ZERO } else { now.last.elapsed() }
    }

    /// A helper has no way into the server's log. So now and then it leaves one file to the server's own call, which finds it stored
    /// and tells what there is to tell. That call may ask here once more.
    fn lets_tell(&self, file: String) -> bool {
        let mut told = self.told.lock();
        let again = told.as_ref().is_none_or(|(at, last)| at.elapsed() >= REMIND || *last == file);
        if again {
            *told = Some((Instant::now(), file));
        }
        again
    }

    fn shipper(&self, job: &str) -> Result<&Arc<Shipper>> {
        let found = match (job, self.jobs.len()) {
            ("", 1) => self.jobs.values().next(),
            _ => self.jobs.get(job),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = self.jobs.keys().map(String::as_str).collect();
            Error::new(Kind::Usage, format!("there is no `pg_wal` job `{}` behind this socket", job.escape_debug()))
                .hint(format!("There are: {}.", known.join(", ")))
        })
    }

    async fn answer(&self, line: &str, files: Vec<OwnedFd>) -> Result<Reply> {
        let request = Request::parse(line).map_err(|why| Error::new(Kind::Usage, why))?;
        if self.beside.is_some() && !self.jobs.contains_key(request.job()) {
            // Nor does a helper stay for those whom it does not help.
            return Ok(Reply::Another);
        }
        let _busy = Busy::new(&self.in_use);
        let files: Vec<File> = files.into_iter().map(File::from).collect();
        match request {
            Request::Push { job, names, server } => {
                if names.len() != files.len() {
                    let what = format!("{} names came with {} open files", names.len(), files.len());
                    return Err(Error::new(Kind::Usage, what));
                }
                let shipper = self.shipper(&job)?;
                let asked = names.first().cloned().unwrap_or_default();
                shipper.push(names.into_iter().zip(files).collect(), server.map(system)).await?;
                let is_told_there = self.beside.is_some() && shipper.is_split() && self.lets_tell(asked);
                Ok(if is_told_there { Reply::Another } else { Reply::Stored })
            }
            Request::Take { job, name, mode, server } => {
                let taken = match &self.beside {
                    Some(dir) => {
                        let taken = self.shipper(&job)?.take(&name, parse_mode(&mode)?, server.map(system)).await;
                        taken.and_then(|(path, bytes)| Some((path.strip_prefix(dir).ok()?.to_str()?.to_owned(), bytes)))
                    }
                    None => None,
                };
                match taken {
                    Some((place, bytes)) => Ok(Reply::Ready { bytes, place }),
                    None => self.fetch(&job, &name, &mode, server, files).await,
                }
            }
            Request::Fetch { job, name, mode, server } => self.fetch(&job, &name, &mode, server, files).await,
        }
    }

    async fn fetch(&self, job: &str, name: &str, mode: &str, server: Option<Server>, files: Vec<File>) -> Result<Reply> {
        let mut files = files.into_iter();
        let (Some(file), None) = (files.next(), files.next()) else {
            return Err(Error::new(Kind::Usage, "a fetch comes with one open file"));
        };
        let mode = parse_mode(mode)?;
        let fetched = self.shipper(job)?.fetch(name, file, mode, server.map(system)).await?;
        Ok(match fetched {
            super::super::Delivery::Delivered { bytes, .. } => Reply::Delivered(bytes),
            super::super::Delivery::Missing(why) => Reply::Missing(why),
        })
    }
}

fn system(server: Server) -> SystemId {
    SystemId { major: server.major, identifier: server.identifier }
}

fn parse_mode(text: &str) -> Result<Mode> {
    match text {
        "recovery" => Ok(Mode::Recovery),
        "standby" => Ok(Mode::Standby),
        "rewind" => Ok(Mode::Rewind),
        _ => Err(Error::new(Kind::Usage, format!("`{}` is no mode of fetch", text.escape_debug()))),
    }
}

/// Answers until the service stops; then what is under way gets an answer, if it comes soon.
///
/// # Errors
/// A listener that fails for good.
pub(in super::super) async fn serve(listening: Listening, service: Arc<Service>) -> Result<()> {
    let name = listening.place.path.display().to_string();
    let listener = listening.listener.try_clone().and_then(UnixListener::from_std).context(|| format!("listen on {name}"))?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok(room) = Arc::clone(&room).acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = service.stop.cancelled() => break,
        };
        while open.try_join_next().is_some() {}
        let (stream, peer) = match accepted.and_then(|(s, _)| s.peer_cred().map(|p| (s, p))) {
            Ok(connection) => connection,
            Err(e) => {
                tracing::warn!("{name}: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let refused = (!listening.place.lets_in(&peer)).then(|| {
            Error::new(Kind::Denied, format!("user {} (group {}) may not use {name}", peer.uid(), peer.gid()))
                .hint("Name the user in `socket_uids` of the `pg_wal` job.")
        });
        let service = Arc::clone(&service);
        open.spawn(async move {
            let _room = room;
            let done = match stream.into_std() {
                Ok(stream) => exchange(stream, &service, refused).await,
                Err(e) => Err(e).context(|| "take over a connection"),
            };
            if let Err(e) = done {
                // Clients that went away in the middle; they ask again.
                tracing::debug!("{}", e.chain());
            }
        });
    }
    drop(listening);
    let late = async {
        service.gives_up().await;
        tokio::time::sleep(ANSWERS).await;
    };
    // Whoever gets no answer asks again, elsewhere or later.
    tokio::select! {
        () = async { while open.join_next().await.is_some() {} } => {}
        () = late => {}
    }
    Ok(())
}

/// One request and its answer.
async fn exchange(stream: UnixStream, service: &Service, refused: Option<Error>) -> Result<()> {
    let (stream, line, files) = blocking(move || {
        stream.set_nonblocking(false).context(|| "set up a connection")?;
        stream.set_read_timeout(Some(REQUEST_TIME)).context(|| "set up a connection")?;
        stream.set_write_timeout(Some(REQUEST_TIME)).context(|| "set up a connection")?;
        let (line, files) = wire::receive(&stream).context(|| "receive a request")?;
        Ok((stream, line, files))
    })
    .await?;
    if let Some(e) = refused {
        tracing::warn!("{}", e.chain());
        return say(&stream, &failure(&e)).await;
    }
    let (answer, gives_up) = (service.answer(&line, files), service.gives_up());
    tokio::pin!(answer, gives_up);
    loop {
        let reply = tokio::select! {
            answered = &mut answer => match answered {
                Ok(reply) => reply,
                Err(e) => {
                    tracing::error!("{}", e.report());
                    failure(&e)
                }
            },
            () = tokio::time::sleep(WAIT_EVERY) => {
                say(&stream, &Reply::Wait).await?;
                continue;
            }
            // Who asks again meets the next one.
            () = &mut gives_up => failure(&Error::new(Kind::Cancelled, "the daemon is ending")),
        };
        return say(&stream, &reply).await;
    }
}

fn failure(e: &Error) -> Reply {
    Reply::Error { kind: e.kind().as_str().to_owned(), text: e.report() }
}

async fn say(stream: &UnixStream, reply: &Reply) -> Result<()> {
    let mut stream = stream.try_clone().context(|| "answer a client")?;
    let line = reply.line();
    blocking(move || stream.write_all(line.as_bytes()).context(|| "answer a client")).await
}
