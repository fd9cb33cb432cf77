//! From a directory through a repository to another directory, with our restore and with those of others.

use std::path::Path;
use std::sync::Arc;

use strongroom::app::backup;
use strongroom::app::restore_volume;
use strongroom::app::select::Found;
use strongroom::repository::Repository;
use strongroom::restore::directory::{Options, Progress};
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::source::{SourceSettings, volume};

use crate::backup::{PASSWORD, init, request};
use crate::support::judges;
use crate::support::tree::{Compare, assert_same, hostile_tree, set_time};

async fn back_up(repo: &Repository, settings: volume::Settings) -> backup::Report {
    backup::run(repo, request(SourceSettings::Volume(settings)), Arc::new(SystemClock), &Cancel::new()).await.unwrap()
}

async fn newest(repo: &Repository) -> Found {
    let snapshots = repo.load_snapshots().await.unwrap();
    let snapshot = snapshots.into_iter().max_by_key(|s| s.file.time).unwrap();
    Found { tenant: "acme".parse().unwrap(), repository: repo.clone(), snapshot, warnings: Vec::new() }
}

async fn restore(repo: &Repository, to: &Path, options: Options) -> Arc<Progress> {
    let progress = Arc::new(Progress::default());
    let report = restore_volume::run(&newest(repo).await, to.to_owned(), options, progress.clone(), 256 << 20, &Cancel::new())
        .await
        .unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    progress
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_tree_comes_back_through_a_repository_by_us_and_by_stock_clients() {
    let (data, store, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = data.path().join("volume");
    hostile_tree(&from);
    let repo = init(store.path()).await;
    let report = back_up(&repo, volume::Settings { path: from.clone(), ..volume::Settings::default() }).await;
    assert!(report.complete, "{:?}", report.missing);
    let to = target.path().join("volume");
    restore(&repo, &to, Options { verify: true, ..Options::default() }).await;
    assert_same(&from, &to, Compare::default());

    let verdict = judges::judge(store.path(), PASSWORD);
    let inside = from.strip_prefix("/").unwrap();
    assert_same(&from, &verdict.restic(0).join(inside), Compare { holes: false, ..Compare::default() });
    // The second client has its own idea of some modes and attributes.
    let lenient = Compare {
        holes: false,
        hardlinks: false,
        modes: false,
        xattrs: false,
        owners: false,
        times: false,
        ..Compare::default()
    };
    assert_same(&from, &verdict.rustic(0).join(inside), lenient);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_tree_is_backed_up_and_restored_over_the_old_one() {
    let (data, store, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = data.path().join("volume");
    hostile_tree(&from);
    // More directories side by side than a process may have open.
    for i in 0..3000 {
        std::fs::create_dir_all(from.join(format!("wide/{i}"))).unwrap();
    }
    let repo = init(store.path()).await;
    let settings = volume::Settings { path: from.clone(), ..volume::Settings::default() };
    std::thread::sleep(std::time::Duration::from_millis(2100));
    back_up(&repo, settings.clone()).await;
    restore(&repo, target.path(), Options::default()).await;
    assert_same(&from, target.path(), Compare::default());

    let mut content = std::fs::read(from.join("sizes/3145745")).unwrap();
    content[2_000_000] ^= 1;
    std::fs::write(from.join("sizes/3145745"), content).unwrap();
    std::fs::remove_dir_all(from.join("names")).unwrap();
    std::fs::rename(from.join("many"), from.join("plenty")).unwrap();
    set_time(&from.join("times/epoch"), 5, 5);
    let report = back_up(&repo, settings).await;
    assert!(report.files_changed >= 1 && report.bytes_read < 4 << 20, "{report:?}");
    let progress = restore(&repo, target.path(), Options { delete: true, ..Options::default() }).await;
    assert_same(&from, target.path(), Compare::default());
    assert!(progress.deleted.load(std::sync::atomic::Ordering::Relaxed) > 5000);
}
