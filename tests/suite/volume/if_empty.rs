//! `--if-empty`: three answers, and no way to mistake one for another.

use std::path::Path;
use std::sync::Arc;

use strongroom::app::backup;
use strongroom::app::restore_volume::{IfEmpty, if_empty};
use strongroom::app::select::Pick;
use strongroom::app::{Context, init};
use strongroom::config::{Format, load_text};
use strongroom::error::{Kind, Result};
use strongroom::model::{Id, NodeKind};
use strongroom::repository::SnapshotFile;
use strongroom::restore::directory::{Options, Progress, marker};
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::source::SourceSettings;

use crate::backup::request;
use crate::support::tree::{Compare, assert_same};

/// A configuration with one volume job, `acme/files`.
fn context(place: &Path, password: &str) -> Context {
    with_jobs(place, password, &format!("files: {{ volume: {{ path: \"{}\" }} }}", place.join("data").display()))
}

fn with_jobs(place: &Path, password: &str, jobs: &str) -> Context {
    let text = format!(
        "repository: {{ url: \"file://{}\", password: {password} }}\ntenants: {{ acme: {{ jobs: {{ {jobs} }} }} }}\n",
        place.join("store").display(),
    );
    let settings = load_text(&text, Format::Yaml, None, []).unwrap();
    Context::new(settings, Arc::new(SystemClock), Cancel::new())
}

async fn ask(ctx: &Context, to: &Path) -> Result<IfEmpty> {
    let (tenant, job) = ("acme".parse().unwrap(), "files".parse().unwrap());
    if_empty(ctx, &tenant, &job, &Pick::Latest, to.to_owned(), Options::default(), Arc::new(Progress::default())).await
}

async fn back_up(ctx: &Context) -> backup::Report {
    let selector = "acme/files".parse().unwrap();
    let job = ctx.jobs(Some(&selector)).unwrap()[0];
    let source: SourceSettings = job.source.clone();
    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    backup::run(&repo, request(source), Arc::new(SystemClock), &Cancel::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_is_its_own() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("to"));
    std::fs::create_dir_all(data.join("sub")).unwrap();
    std::fs::write(data.join("sub/file"), "content").unwrap();
    let good = context(place.path(), "{ value: right }");

    // Could not find out: no repository, a wrong password, a password that cannot be read.
    let e = ask(&good, &to).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NoRepository, "{}", e.report());
    init::run(&good, &"acme".parse().unwrap()).await.unwrap();
    let e = ask(&context(place.path(), "{ value: wrong }"), &to).await.unwrap_err();
    assert_eq!(e.kind(), Kind::WrongPassword, "{}", e.report());
    assert!(ask(&context(place.path(), "{ file: /does/not/exist }"), &to).await.is_err());
    assert!(!to.exists(), "nothing was decided");

    // Nothing to restore, and that is remembered even once there is a backup of what the application wrote since.
    assert!(matches!(ask(&good, &to).await.unwrap(), IfEmpty::NothingToRestore));
    let report = back_up(&good).await;
    assert!(matches!(ask(&good, &to).await.unwrap(), IfEmpty::LeftAlone));
    assert!(!to.join("sub").exists());

    // Restored, once; no repository is needed to know that it was.
    let second = place.path().join("second");
    std::fs::create_dir_all(second.join("lost+found")).unwrap();
    let IfEmpty::Restored(id, _) = ask(&good, &second).await.unwrap() else { panic!("not restored") };
    assert_eq!(id, report.snapshot);
    std::fs::remove_dir(second.join("lost+found")).unwrap();
    assert!(second.join(marker::DIR).join("restored").exists());
    std::fs::remove_dir_all(second.join("sub")).unwrap();
    assert!(matches!(ask(&context(place.path(), "{ value: wrong }"), &second).await.unwrap(), IfEmpty::LeftAlone));
    assert!(!second.join("sub").exists(), "emptied by its user");

    // In use: left alone, unasked and unmarked.
    let used = place.path().join("used");
    std::fs::create_dir_all(&used).unwrap();
    std::fs::write(used.join("mine"), "mine").unwrap();
    assert!(matches!(ask(&context(place.path(), "{ value: wrong }"), &used).await.unwrap(), IfEmpty::LeftAlone));
    assert!(!used.join(marker::DIR).exists());

    // Cut off half-way: goes on with the snapshot it began with, although there is a newer one.
    let third = place.path().join("third");
    marker::begin(&third, report.snapshot).unwrap();
    std::fs::create_dir_all(third.join("sub")).unwrap();
    std::fs::write(third.join("sub/file"), "cont").unwrap();
    std::fs::write(data.join("sub/newer"), "newer").unwrap();
    assert_ne!(back_up(&good).await.snapshot, report.snapshot);
    assert!(ask(&context(place.path(), "{ value: wrong }"), &third).await.is_err(), "half a volume is not good enough");
    let IfEmpty::Restored(id, _) = ask(&good, &third).await.unwrap() else { panic!("not restored") };
    assert_eq!(id, report.snapshot);
    std::fs::remove_file(data.join("sub/newer")).unwrap();
    std::fs::remove_dir_all(third.join(marker::DIR)).unwrap();
    assert_same(&data, &third, Compare { dir_times: false, ..Compare::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn only_incomplete_snapshots_are_not_nothing() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(place.path().join("data")).unwrap();
    std::fs::write(place.path().join("data/file"), "x").unwrap();
    let ctx = context(place.path(), "{ value: right }");
    let tenant = "acme".parse().unwrap();
    init::run(&ctx, &tenant).await.unwrap();
    back_up(&ctx).await;
    let repo = ctx.repository(&tenant).await.unwrap();
    let whole = repo.load_snapshots().await.unwrap().remove(0);
    let mut partial = whole.file.clone();
    partial.tags.push("incomplete".into());
    repo.save_snapshot(&partial).await.unwrap();
    repo.remove_snapshot(whole.id).await.unwrap();
    let e = ask(&ctx, &place.path().join("to")).await.unwrap_err();
    assert!(e.report().contains("incomplete"), "{}", e.report());
    assert!(!place.path().join("to").exists());
}

/// The files of a base backup in an empty directory are a cluster that archives into the archive of its origin.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_volume_is_not_restored_as_one() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("to");
    std::fs::create_dir_all(place.path().join("data")).unwrap();
    std::fs::write(place.path().join("data/file"), "x").unwrap();
    let ctx = context(place.path(), "{ value: right }");
    let tenant = "acme".parse().unwrap();
    init::run(&ctx, &tenant).await.unwrap();
    back_up(&ctx).await;
    let repo = ctx.repository(&tenant).await.unwrap();
    let mut last = repo.load_snapshots().await.unwrap().remove(0);
    for source in ["pg_base", "pg_dump", "command"] {
        let mut other = last.file.clone();
        other.tags.retain(|t| !t.starts_with("source="));
        other.tags.push(format!("source={source}"));
        repo.save_snapshot(&other).await.unwrap();
        repo.remove_snapshot(last.id).await.unwrap();
        last = repo.load_snapshots().await.unwrap().remove(0);
        for ctx in [&ctx, &with_jobs(place.path(), "{ value: right }", "")] {
            let e = ask(ctx, &to).await.unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{source}: {}", e.report());
            assert!(e.report().contains("is not of a volume"), "{}", e.report());
            assert!(!to.exists(), "{source}");
        }
    }
    // Nor is a job of another source a new volume while it has no snapshot.
    repo.remove_snapshot(last.id).await.unwrap();
    for source in [
        "pg_base: { url: \"postgresql://h/\", data_directory: /d }",
        "pg_dump: { url: \"postgresql://h/a\" }",
        "command: { run: [a], file: b }",
    ] {
        let ctx = with_jobs(place.path(), "{ value: right }", &format!("files: {{ {source} }}"));
        let e = ask(&ctx, &to).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Usage, "{source}: {}", e.report());
        assert!(!to.exists(), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_altered_or_is_gone_gives_way_to_another() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("to"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("file"), "content").unwrap();
    let ctx = context(place.path(), "{ value: right }");
    let tenant = "acme".parse().unwrap();
    init::run(&ctx, &tenant).await.unwrap();
    let whole = back_up(&ctx).await.snapshot;
    // A newer one, out of which another program took the manifest and a file.
    let gone = back_up(&ctx).await.snapshot;
    let repo = ctx.repository(&tenant).await.unwrap();
    let newer = repo.load_snapshots().await.unwrap().into_iter().find(|s| s.id == gone).unwrap();
    let reader = repo.reader(repo.load_index().await.unwrap());
    let tree = newer.file.tree;
    let nodes = tokio::task::spawn_blocking(move || reader.tree(tree).unwrap()).await.unwrap();
    let subtree = nodes.into_iter().find_map(|n| match n.kind {
        NodeKind::Dir { subtree } if n.name != b".strongroom" => subtree,
        _ => None,
    });
    let altered = SnapshotFile { original: Some(gone), tree: subtree.unwrap(), ..newer.file.clone() };
    repo.save_snapshot(&altered).await.unwrap();
    repo.remove_snapshot(gone).await.unwrap();

    // A restore of it was cut off; what it had that the other one lacks does not stay.
    let begun = Id([7; 32]);
    marker::begin(&to, begun).unwrap();
    std::fs::create_dir_all(to.join("only/there")).unwrap();
    std::fs::write(to.join("only/there/half"), "ha").unwrap();
    let IfEmpty::Restored(id, _) = ask(&ctx, &to).await.unwrap() else { panic!("not restored") };
    assert_eq!(id, whole);
    std::fs::remove_dir_all(to.join(marker::DIR)).unwrap();
    assert_same(&data, &to, Compare { dir_times: false, ..Compare::default() });
}
