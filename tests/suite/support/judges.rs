//! The judges: stock `restic` and `rustic`, which must find every repository we write whole and restore the same from it.
//!
//! [`judge`] is the full examination and returns what the two restored; [`check`] is its short form. Both panic with
//! the tool's own words. A repository is never changed by them: what writes works on a copy.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What the judges restored, one folder a snapshot (named by the first eight digits of its id) below each of the two.
pub struct Verdict {
    restic: TempDir,
    rustic: TempDir,
    /// Full ids, oldest first.
    pub snapshots: Vec<String>,
}

impl Verdict {
    /// What restic restored of snapshot `index` (oldest first). Absolute paths continue below it.
    pub fn restic(&self, index: usize) -> PathBuf {
        self.restic.path().join(short(&self.snapshots[index]))
    }

    /// The same by rustic.
    pub fn rustic(&self, index: usize) -> PathBuf {
        self.rustic.path().join(short(&self.snapshots[index]))
    }
}

/// The full examination of the repository in `repo`: both read every byte of it, both restore every snapshot, and a copy
/// survives what restic offers for changing one (a prune that repacks, a rewrite, an index rebuilt from packs alone).
///
/// Comparing what was restored is up to the test: it knows what it put in.
#[track_caller]
pub fn judge(repo: &Path, password: &str) -> Verdict {
    check(repo, password);
    let verdict = Verdict {
        restic: tempfile::tempdir().expect("a temporary directory"),
        rustic: tempfile::tempdir().expect("a temporary directory"),
        snapshots: snapshots(repo, password),
    };
    for (index, id) in verdict.snapshots.iter().enumerate() {
        let target = |path: PathBuf| path.to_str().expect("a UTF-8 path").to_owned();
        restic(repo, password, &["restore", id, "--target", &target(verdict.restic(index))]);
        rustic(repo, password, &["restore", id, &target(verdict.rustic(index))]);
    }

    let copies = tempfile::tempdir().expect("a temporary directory");
    let pruned = copy(repo, &copies.path().join("pruned"));
    restic(&pruned, password, &["rewrite", "--exclude", "/none", "--dry-run"]);
    restic(&pruned, password, &["prune", "--max-unused", "0"]);
    restic(&pruned, password, &["check", "--read-data"]);

    let rebuilt = copy(repo, &copies.path().join("rebuilt"));
    restic(&rebuilt, password, &["repair", "index"]);
    restic(&rebuilt, password, &["check"]);
    assert_eq!(snapshots(&rebuilt, password), verdict.snapshots, "rebuilding the index lost a snapshot");
    verdict
}

/// Both judges read every byte and find no fault.
#[track_caller]
pub fn check(repo: &Path, password: &str) {
    restic(repo, password, &["check", "--read-data"]);
    // rustic reports some faults as warnings and still exits 0.
    let output = rustic(repo, password, &["check", "--read-data"]);
    assert!(output.trim().is_empty(), "rustic check has something to say about {}:\n{output}", repo.display());
}

/// The ids of all snapshots as restic lists them, oldest first.
#[track_caller]
pub fn snapshots(repo: &Path, password: &str) -> Vec<String> {
    let json = restic(repo, password, &["snapshots", "--json"]);
    let list: Vec<serde_json::Value> = serde_json::from_str(&json).expect("restic prints JSON");
    list.iter().map(|s| s["id"].as_str().expect("an id").to_owned()).collect()
}

/// Runs stock restic (newest) and returns its standard output; panics unless it exits 0.
#[track_caller]
pub fn restic(repo: &Path, password: &str, args: &[&str]) -> String {
    run(&mut restic_command(repo, password, args))
}

/// Stock restic (newest), for a test that looks at the exit code itself.
pub fn restic_command(repo: &Path, password: &str, args: &[&str]) -> Command {
    with_restic(&tool("restic-0.19", "restic"), repo, password, args)
}

/// The oldest restic whose repositories we read, for fixtures and second opinions.
#[track_caller]
pub fn old_restic(repo: &Path, password: &str, args: &[&str]) -> String {
    run(&mut with_restic(&tool("restic-0.14", "restic"), repo, password, args))
}

/// Runs stock rustic and returns what it printed, on both streams; panics unless it exits 0.
#[track_caller]
pub fn rustic(repo: &Path, password: &str, args: &[&str]) -> String {
    run(&mut rustic_command(repo, password, args))
}

/// Stock rustic, for a test that looks at the exit code itself.
pub fn rustic_command(repo: &Path, password: &str, args: &[&str]) -> Command {
    let mut command = bare(&tool("rustic-0.11.4", "rustic"));
    command.env("RUSTIC_PASSWORD", password);
    command.arg("--repository").arg(repo).args(["--no-cache", "--no-progress", "--log-level", "warn"]).args(args);
    command
}

fn with_restic(program: &Path, repo: &Path, password: &str, args: &[&str]) -> Command {
    let mut command = bare(program);
    command.env("RESTIC_PASSWORD", password);
    command.arg("--repo").arg(repo).args(["--no-cache", "--quiet"]).args(args);
    command
}

/// Nothing of the caller's settings for these tools may leak into a verdict.
fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", std::env::temp_dir());
    command
}

/// Where the install scripts put a tool.
#[track_caller]
fn tool(folder: &str, name: &str) -> PathBuf {
    let cache = std::env::var_os("STRONGROOM_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/strongroom"), PathBuf::from);
    let program = cache.join(folder).join("bin").join(name);
    assert!(program.exists(), "{} is not installed: run `make judges`", program.display());
    program
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the judge starts");
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} failed with {status}:\n{out}{err}");
    // restic --json keeps its standard output clean; rustic logs to either.
    if command.get_program().to_string_lossy().ends_with("rustic") { format!("{out}{err}") } else { out.into_owned() }
}

/// A copy of a repository that a judge may change.
fn copy(from: &Path, to: &Path) -> PathBuf {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "cannot copy {}", from.display());
    to.to_path_buf()
}

fn short(id: &str) -> &str {
    &id[..8]
}
