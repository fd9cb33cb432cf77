//! The memory of the program itself: a directory with very many entries costs little more than one with few.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::cli::command;
use crate::support::judges;
use crate::support::tree::{Compare, assert_same};

const FILES: usize = 60_000;

/// Runs the program to its end; the most memory that it held at a time, in bytes.
#[track_caller]
fn peak(dir: &Path, args: &[&str]) -> u64 {
    let mut all = vec![args[0], "--repository", "repo", "--password-file", "p", "-q"];
    all.extend(&args[1..]);
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut program = command(dir, &all);
    program.env("STRONGROOM__LIMITS__MEMORY", "128MiB").stdout(Stdio::null()).stderr(log);
    let mut child = program.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        // The kernel keeps the maximum, so however late one looks, nothing before that was missed.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        most = most.max(line.and_then(|l| l.trim().strip_suffix(" kB")).map_or(0, |n| n.parse::<u64>().unwrap() << 10));
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{args:?}: {}", std::fs::read_to_string(dir.join("log")).unwrap());
            return most;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A repository and a directory `data` with so many files, each of its own content.
fn place(files: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p"), "secret").unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    for n in 0..files {
        std::fs::write(dir.path().join(format!("data/file-{n:06}")), format!("content {n}")).unwrap();
    }
    peak(dir.path(), &["init"]);
    dir
}

#[test]
fn a_directory_with_very_many_entries_takes_little_memory() {
    let (few, many) = (place(100), place(FILES));
    let mut told = Vec::new();
    // Bytes an entry. The entries alone take 450 bytes each as they are worked on, and their tree 430 each as text.
    for (args, most) in [
        (&["backup", "--volume", "data"][..], 400),
        // Beside the parent, from the index.
        (&["backup", "--volume", "data"], 400),
        (&["check"], 250),
        (&["check", "--read-data"], 250),
        (&["restore", "default/volume", "--to", "back"], 400),
        // Compares with what is there.
        (&["restore", "default/volume", "--to", "back"], 400),
        (&["prune", "--keep-last", "1", "--force"], 250),
    ] {
        // The end of a short run can go unseen.
        let low = (0..3).map(|_| peak(few.path(), args)).max().unwrap();
        let more = peak(many.path(), args).saturating_sub(low);
        told.push((args[0], more / FILES as u64, most));
    }
    assert!(told.iter().all(|(_, more, most)| more <= most), "bytes an entry, and what is allowed: {told:?}");
    assert_same(&many.path().join("data"), &many.path().join("back"), Compare::default());
    judges::restic(&many.path().join("repo"), "secret", &["check", "--read-data"]);
}
