//! Servers that the tests start: each in a folder of its own, ended and cleared away when the test process ends, however
//! that happens.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running program and its folder. Ended when dropped, too.
#[derive(Debug)]
pub struct Watched {
    name: String,
    dir: PathBuf,
    // A shell that ends the program when its own standard input is closed: by us, or because we are gone.
    watchdog: Child,
}

/// The folder of an installed tool; panics with the remedy if there is none.
pub fn tool(name: &str, script: &str) -> PathBuf {
    let cache = std::env::var_os("STRONGROOM_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/strongroom"), PathBuf::from);
    let folder = cache.join(name);
    assert!(folder.is_dir(), "{name} is not in {}: run `make tools` (tests/tools/{script})", cache.display());
    folder
}

/// A new folder for a server, readable by nobody else.
pub fn folder(name: &str) -> PathBuf {
    tempfile::Builder::new().prefix(&format!("strongroom-{name}-")).tempdir().unwrap().keep()
}

impl Watched {
    /// Starts `command` with its output in `<dir>/log`. `dir` is removed at the end.
    pub fn start(name: &str, dir: PathBuf, command: &Command) -> Self {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let script = r#"dir=$1; shift; "$@" </dev/null & pid=$!; echo $pid >"$dir/pid"
            cat >/dev/null; kill -KILL $pid 2>/dev/null; wait $pid; rm -rf "$dir""#;
        let mut watchdog = Command::new("/bin/sh");
        watchdog.args(["-c", script, "sh"]).arg(&dir).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            watchdog.env(key, value.unwrap_or_default());
        }
        // In a group of its own, so that an interrupt at the terminal reaches us first.
        watchdog.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let watchdog = watchdog.spawn().unwrap_or_else(|e| panic!("start {name}: {e}"));
        Self { name: name.to_owned(), dir, watchdog }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Whether the program still runs. It may end at once, e.g. when a port was taken meanwhile.
    pub fn runs(&self) -> bool {
        let pid = std::fs::read_to_string(self.dir.join("pid")).unwrap_or_default();
        // Not there yet counts as running.
        pid.trim().is_empty() || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|s| !s.contains(") Z "))
    }

    /// Waits until `ready` says so; `false` if the program ended. Panics with its log after a minute.
    pub fn wait(&self, mut ready: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        while !ready() {
            if !self.runs() {
                return false;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{} does not get ready:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ended = self.watchdog.wait();
    }
}

/// Whether a plain HTTP GET gets an answer with one of these statuses.
pub fn http_answers(address: &str, path: &str, statuses: &[u16]) -> bool {
    use std::io::{Read, Write};
    let ask = || {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut start = [0u8; 12];
        stream.read_exact(&mut start)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&start).into_owned())
    };
    ask().is_ok_and(|line| statuses.iter().any(|s| line.ends_with(&format!(" {s}"))))
}

/// Ports of 127.0.0.1 that are free now, and free again ten thousand higher where `twice` (SeaweedFS takes both).
/// Below the range that outgoing connections use, so that nothing takes them by accident.
pub fn free_ports(count: usize, twice: bool) -> Vec<u16> {
    let mut found = Vec::new();
    let mut held = Vec::new();
    for _ in 0..10_000 {
        let port = rand::random_range(11_000..22_000);
        let wanted = if twice { vec![port, port + 10_000] } else { vec![port] };
        let bound: Vec<_> = wanted.iter().map_while(|p| TcpListener::bind(("127.0.0.1", *p)).ok()).collect();
        if bound.len() == wanted.len() {
            held.push(bound);
            found.push(port);
            if found.len() == count {
                return found;
            }
        }
    }
    panic!("no free ports");
}

/// A certificate authority and a certificate of it for 127.0.0.1 and localhost, in files of `dir`.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    pub fn make(dir: &Path) -> Self {
        let made = Self { ca: dir.join("ca.pem"), certificate: dir.join("server.pem"), key: dir.join("server.key") };
        let extensions = dir.join("extensions");
        std::fs::write(&extensions, "subjectAltName = IP:127.0.0.1, DNS:localhost\nbasicConstraints = CA:FALSE\n").unwrap();
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        openssl(
            dir,
            &[
                &["req", "-x509", "-days", "30", "-subj", "/CN=Test authority", "-keyout", "ca.key", "-out", "ca.pem"],
                &new_key[..],
            ]
            .concat(),
        );
        openssl(
            dir,
            &[&["req", "-subj", "/CN=Test server", "-keyout", "server.key", "-out", "server.csr"], &new_key[..]].concat(),
        );
        let sign =
            "x509 -req -days 30 -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -out server.pem";
        openssl(dir, &sign.split(' ').collect::<Vec<_>>());
        made
    }
}

fn openssl(dir: &Path, args: &[&str]) {
    let output =
        Command::new("openssl").args(args).current_dir(dir).output().expect("openssl is needed (Debian package openssl)");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
