//! `app::backup` from a source to a snapshot, without the command line.

use std::path::Path;
use std::sync::Arc;

use strongroom::app::backup::{self, Progress, Report, Request};
use strongroom::repository::{LockHolder, RepoEnv, Repository, WriterOptions};
use strongroom::runtime::{Cancel, SecretText, SystemClock, secret};
use strongroom::source::{SourceSettings, volume};
use strongroom::store::LocalStore;

use crate::support::judges;

pub const PASSWORD: &str = "correct horse";

pub fn holder() -> LockHolder {
    LockHolder { hostname: "test-host".into(), username: "tester".into(), pid: std::process::id() }
}

pub async fn init(dir: &Path) -> Repository {
    let store = Arc::new(LocalStore::open(dir.to_owned(), Arc::new(SystemClock)).unwrap());
    let env = RepoEnv { clock: Arc::new(SystemClock), cache_dir: None };
    Repository::init(store, &SecretText::new(PASSWORD.into()), &env, &holder()).await.unwrap().0
}

pub fn request(source: SourceSettings) -> Request {
    Request {
        environment: "test".parse().unwrap(),
        tenant: "acme".parse().unwrap(),
        job: "files".parse().unwrap(),
        source,
        writer: WriterOptions::default(),
        holder: holder(),
        allow_empty: false,
        force: false,
        progress: Arc::new(Progress::default()),
    }
}

async fn back_up(repo: &Repository, path: &Path) -> Report {
    let source = SourceSettings::Volume(volume::Settings { path: path.to_owned(), ..volume::Settings::default() });
    backup::run(repo, request(source), Arc::new(SystemClock), &Cancel::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_stored_and_an_unchanged_one_is_not_read_again() {
    let (data, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for d in 0..20 {
        let dir = data.path().join(format!("dir-{d}/deep"));
        std::fs::create_dir_all(&dir).unwrap();
        for f in 0..30 {
            std::fs::write(dir.join(format!("file-{f}")), format!("content {d} {f}").repeat(f * 50)).unwrap();
        }
    }
    std::fs::write(data.path().join("large"), vec![7u8; 20_000_000]).unwrap();
    // Files younger than two seconds at the scan are read again next time.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let repo = init(store.path()).await;
    let first = back_up(&repo, data.path()).await;
    assert!(first.complete);
    assert_eq!((first.files, first.files_new), (601, 601));
    let second = back_up(&repo, data.path()).await;
    assert_eq!((second.files, second.files_unmodified, second.bytes_read), (601, 601, 0));
    assert_eq!(second.parent, Some(first.snapshot));
    std::fs::write(data.path().join("dir-3/deep/file-3"), "changed").unwrap();
    std::fs::remove_file(data.path().join("dir-4/deep/file-4")).unwrap();
    let third = back_up(&repo, data.path()).await;
    assert_eq!((third.files, third.files_changed, third.files_unmodified), (600, 1, 599));
    let verdict = judges::judge(store.path(), PASSWORD);
    for restored in [verdict.restic(2), verdict.rustic(2)] {
        let root = restored.join(data.path().strip_prefix("/").unwrap());
        let same = std::process::Command::new("diff").arg("-r").arg(&root).arg(data.path()).status().unwrap();
        assert!(same.success(), "{} differs", root.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_fail_after_a_failed_backup_are_named() {
    secret::allow_commands(true);
    let (data, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repo = init(store.path()).await;
    let hook = |says: &str| {
        let run = ["sh", "-c", &format!("echo {says} >&2; exit 9")].iter().map(|s| (*s).to_owned()).collect();
        volume::Hook { run, timeout: std::time::Duration::from_secs(30) }
    };
    let settings = volume::Settings {
        path: data.path().join("unmounted"),
        hooks: volume::Hooks { pre: Vec::new(), post: vec![hook("still-frozen"), hook("still-locked")] },
        ..volume::Settings::default()
    };
    let failed = backup::run(&repo, request(SourceSettings::Volume(settings)), Arc::new(SystemClock), &Cancel::new()).await;
    let text = failed.unwrap_err().chain();
    for part in ["No such file", "still-frozen", "still-locked"] {
        assert!(text.contains(part), "{text}");
    }
}
