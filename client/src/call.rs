//! One request to the daemon, from connecting to its answer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::message::{Reply, Request, WAIT_EVERY};
use crate::wire;

/// How long a client goes on trying to reach a daemon: it may be starting again.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A daemon that says nothing for this long is dead.
const SILENCE: Duration = WAIT_EVERY.saturating_mul(10);
const PAUSE: Duration = Duration::from_millis(200);
/// The kind of failure that a daemon answers with when it is told to end.
const ENDING: &str = "cancelled";
/// The longest path that fits into the address of a socket, with room to spare.
const LONGEST: usize = 100;

/// Connects, however long the path is.
///
/// # Errors
/// As [`UnixStream::connect`].
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() <= LONGEST {
        return UnixStream::connect(socket);
    }
    let (folder, short) = short(socket)?;
    let stream = UnixStream::connect(short);
    drop(folder);
    stream
}

/// A short path to the same place, good for as long as the folder beside it is open.
///
/// # Errors
/// When the folder cannot be opened.
pub fn short(socket: &Path) -> io::Result<(File, std::path::PathBuf)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let folder = File::open(socket.parent().ok_or_else(invalid)?)?;
    let name = socket.file_name().ok_or_else(invalid)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((folder, short))
}

/// Asks once: sends the request and waits for its answer, for as long as the daemon says that it is at it.
///
/// # Errors
/// No connection, a daemon that hung up or fell silent, an answer that is not understood.
pub fn once(socket: &Path, request: &Request, files: &[File]) -> io::Result<Reply> {
    let stream = connect(socket)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    wire::send(&stream, &request.line(), files)?;
    let mut answers = io::BufReader::with_capacity(512, &stream);
    loop {
        let line = wire::receive_line(&mut answers)?;
        match Reply::parse(&line) {
            Some(Reply::Wait) => {}
            Some(reply) => return Ok(reply),
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "the daemon's answer is of another version")),
        }
    }
}

/// Asks, and asks again for up to `patience` where the daemon cannot be reached or hung up. Requests may be repeated.
///
/// # Errors
/// The last failure.
pub fn patiently(socket: &Path, request: &Request, files: &[File], patience: Duration) -> io::Result<Reply> {
    let began = Instant::now();
    loop {
        let answer = once(socket, request, files);
        let may_pass = match &answer {
            // One that is ending may have a successor.
            Ok(Reply::Error { kind, .. }) => kind == ENDING,
            Ok(_) => false,
            Err(e) => may_pass(e),
        };
        if !may_pass || began.elapsed() >= patience {
            return answer;
        }
        sleep(PAUSE);
    }
}

/// Whether the same call may succeed later.
fn may_pass(e: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        e.kind(),
        Kind::NotFound
            | Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::BrokenPipe
            | Kind::UnexpectedEof
            | Kind::WouldBlock
            | Kind::TimedOut
    )
}
