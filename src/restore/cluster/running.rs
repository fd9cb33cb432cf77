//! Is a server running in a data directory?
//!
//! Told by what a postmaster leaves in `postmaster.pid`: its process, its socket and its shared memory. A server in
//! another container that shares only the volume shows through none of them but, perhaps, the socket; nor does one on
//! another machine. So finding none proves nothing: that a server is gone is told by what it wrote last.

use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::postgres::control::{Control, State};

/// Whether the last server of this directory shut down in order. `false` for one that crashed, and where that cannot be read.
pub(super) fn is_shut_down(data: &Path) -> bool {
    Control::read(data).is_ok_and(|c| matches!(c.state, State::ShutDown | State::ShutDownInRecovery))
}

/// Why we believe that one runs; `None` if nothing says so. `pid_file` is the content of `postmaster.pid`.
pub(super) fn evidence(data: &Path, pid_file: &str) -> Option<String> {
    let lines: Vec<&str> = pid_file.lines().map(str::trim).collect();
    let line = |n: usize| lines.get(n).copied().unwrap_or_default();
    let pid: u32 = line(0).trim_start_matches('-').parse().unwrap_or(0);
    if pid > 0 && is_postmaster(data, pid) {
        return Some(format!("process {pid} is its server"));
    }
    let (port, sockets) = (line(3), line(4));
    if !port.is_empty() && !sockets.is_empty() {
        let socket = Path::new(sockets).join(format!(".s.PGSQL.{port}"));
        if UnixStream::connect(&socket).is_ok() {
            return Some(format!("a server answers at {}", socket.display()));
        }
    }
    let id: u64 = line(6).split_ascii_whitespace().nth(1)?.parse().ok()?;
    let attached = attached(&std::fs::read_to_string("/proc/sysvipc/shm").ok()?, id);
    (attached > 0).then(|| format!("{attached} processes use its shared memory"))
}

/// Whether a process with this number works in this directory; a number used again by another program does not count.
fn is_postmaster(data: &Path, pid: u32) -> bool {
    if pid == std::process::id() {
        return false;
    }
    let process = Path::new("/proc").join(pid.to_string());
    match std::fs::read_link(process.join("cwd")) {
        Ok(cwd) => std::fs::canonicalize(data).is_ok_and(|data| data == cwd),
        // Of another user: its name has to do.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end().starts_with("postgres"))
        }
        Err(_) => false,
    }
}

/// Processes attached to the shared memory with this id, by the kernel's list.
fn attached(list: &str, id: u64) -> u64 {
    let mut lines = list.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    let column = |name: &str| head.iter().position(|h| *h == name);
    let (Some(ids), Some(counts)) = (column("shmid"), column("nattch")) else { return 0 };
    lines
        .filter_map(|line| {
            let cells: Vec<&str> = line.split_ascii_whitespace().collect();
            (cells.get(ids)?.parse::<u64>().ok()? == id).then_some(cells.get(counts)?.parse::<u64>().ok()?)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_server_counts() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::env::current_dir().unwrap();
        // Our parent works where we do, or not in `dir`.
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero();
        assert_eq!(evidence(dir.path(), &format!("{parent}\n{}\n", dir.path().display())), None);
        assert_eq!(evidence(dir.path(), ""), None);
        assert_eq!(evidence(&own, &format!("{}\n", std::process::id())), None);
        // A socket that answers.
        let socket = dir.path().join(".s.PGSQL.5432");
        let text = format!("0\n/x\n1\n5432\n{}\n*\n  1 99\nready\n", dir.path().display());
        assert_eq!(evidence(dir.path(), &text), None);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(evidence(dir.path(), &text).is_some_and(|why| why.contains(".s.PGSQL.5432")));
        drop(listener);
        // A child that another test has just started may hold it for a moment.
        let began = std::time::Instant::now();
        while evidence(dir.path(), &text).is_some() {
            assert!(began.elapsed() < std::time::Duration::from_secs(10));
        }
        let list = "       key      shmid perms       size  cpid  lpid nattch   uid\n         1         99   600       56  1 1      6     0\n";
        assert_eq!((attached(list, 99), attached(list, 98), attached("", 99)), (6, 0, 0));
    }
}
