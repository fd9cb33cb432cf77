//! What must hold whatever breaks: processes that die or freeze, disks that fill up, programs that are killed, bits that
//! flip. After each of it the repository is whole by the word of stock restic, and the next run goes on from there.

mod dump;
mod every_write;
mod flips;
mod frozen;
mod full_disk;
mod kill;
mod read_only;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use strongroom::model::{Id, NodeKind};
use strongroom::repository::Repository;

use crate::cli::{Ran, run};
use crate::support::judges;
use crate::support::tree::{noise, objects};

/// Of every repository that the program makes here.
const PASSWORD: &str = "secret";

/// A directory with a password `p` and a new repository `repo`, which anybody may enter.
fn place() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    std::fs::write(dir.path().join("p"), PASSWORD).unwrap();
    run(dir.path(), &on_repo(&["init"])).ok();
    dir
}

/// The arguments, for the repository of [`place`] and with JSON as answer.
fn on_repo<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--json", args[0], "--repository", "repo", "--password-file", "p"];
    all.extend(&args[1..]);
    all
}

/// What went wrong with the only job of a backup: message and hint.
#[track_caller]
fn failure(ran: &Ran) -> (String, String) {
    let json = ran.json();
    let error = &json["jobs"][0]["error"];
    assert_eq!(json["jobs"][0]["ok"], false, "{json}");
    (error["message"].as_str().unwrap().to_owned(), error["hint"].as_str().unwrap_or_default().to_owned())
}

/// Stock restic finds nothing wrong, without looking at (or minding) locks.
#[track_caller]
fn restic_check(repo: &Path, password: &str, read_data: bool) {
    let mut args = vec!["check", "--no-lock"];
    args.extend(read_data.then_some("--read-data"));
    judges::restic(repo, password, &args);
}

/// Bytes of the files below a directory.
fn bytes_in(folder: &Path) -> u64 {
    objects(folder).iter().filter_map(|p| p.metadata().ok()).map(|m| m.len()).sum()
}

/// Waits until something is so; `what` for the complaint.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The program, started and not waited for. Its memory is small, and so are its packs: 8 MiB.
fn start(dir: &Path, args: &[&str]) -> Child {
    crate::cli::command(dir, args)
        .env("STRONGROOM__LIMITS__MEMORY", "128MiB")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a started program said in the end.
fn end(child: Child) -> Ran {
    let o = child.wait_with_output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    Ran { code: o.status.code().unwrap_or(-1), out: text(o.stdout), err: text(o.stderr) }
}

/// Sends a signal by its name.
#[track_caller]
fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Directories are the same, down to the last byte.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let same = Command::new("diff").arg("-r").args([a, b]).output().unwrap();
    assert!(same.status.success(), "{} and {} differ:\n{}", a.display(), b.display(), String::from_utf8_lossy(&same.stdout));
}

/// Every file of a snapshot's tree by its path, read through the engine.
fn files_of(repo: &Repository, index: std::sync::Arc<strongroom::repository::Index>, tree: Id) -> BTreeMap<String, Vec<u8>> {
    let reader = repo.reader(index);
    let (mut files, mut open) = (BTreeMap::new(), vec![(String::new(), tree)]);
    while let Some((path, tree)) = open.pop() {
        for node in reader.tree(tree).unwrap() {
            let path = format!("{path}/{}", node.name.escape_ascii());
            match node.kind {
                NodeKind::Dir { subtree } => open.push((path, subtree.unwrap())),
                NodeKind::File { content, .. } => {
                    let mut data = Vec::new();
                    reader.file(&content).read_to_end(&mut data).unwrap();
                    files.insert(path, data);
                }
                _ => {}
            }
        }
    }
    files
}
