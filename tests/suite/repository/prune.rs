use std::time::Duration;

use strongroom::error::{Kind, Result};
use strongroom::repository::{MaxUnused, PruneOptions, PruneStats, plan_prune};
use strongroom::store::ErrorKind;
use strongroom::store::fault::{Fault, FaultStore, Logged, Op, Rule, When};

use super::*;
use crate::support::judges;

/// Nothing unneeded may stay; packs as small as those that the tests write.
fn strict() -> PruneOptions {
    PruneOptions {
        max_unused: MaxUnused::Bytes(0),
        pack_size: 100_000,
        tree_pack_size: 20_000,
        orphan_grace: Duration::ZERO,
        ..PruneOptions::default()
    }
}

async fn prune(repo: &Repository, options: PruneOptions) -> Result<PruneStats> {
    let lock = repo.lock(LockMode::Exclusive, &holder(), &Cancel::new()).await?;
    let (repo, held) = (repo.clone(), lock.clone());
    let done = blocking(move || {
        let prune = plan_prune(&repo, &options, &Cancel::new())?;
        prune.execute(&held, &Arc::default(), &Cancel::new())?;
        Ok(prune.stats().clone())
    })
    .await;
    let released = lock.release().await;
    done.and_then(|stats| released.map(|()| stats))
}

/// Six days of a directory in which files come, change and go; about six files a pack.
async fn six_days(fixture: &Fixture) -> Vec<(Id, Files)> {
    let mut days = Vec::new();
    let mut now = files(&[("stays", 400_000, 1), ("small", 100, 3)]);
    for day in 0..6u64 {
        for n in 0..20u64 {
            // Every third one changes daily, the others come and go with their day of the week.
            if n % 3 == 0 {
                now.insert(format!("changes {n}"), noise(17_000, 1000 + 100 * day + n));
            } else if n % 6 == day {
                now.insert(format!("comes {n}"), noise(18_000, 2000 + n));
            } else if n % 6 == (day + 4) % 6 {
                now.remove(&format!("comes {n}"));
            }
        }
        days.push((fixture.backup(day as i64, &now).await, in_files(&now)));
    }
    days
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_stays_whole_and_the_rest_goes() {
    let fixture = Fixture::new().await;
    let mut days = six_days(&fixture).await;
    for (id, _) in [days.remove(4), days.remove(1), days.remove(0)] {
        fixture.repo.remove_snapshot(id).await.unwrap();
    }
    let before: u64 = fixture.objects("data").iter().map(|p| p.metadata().unwrap().len()).sum();
    let stats = prune(&fixture.repo, strict()).await.unwrap();
    assert!(stats.packs_deleted > 0 && stats.packs_repacked > 2 && stats.bytes_unused > 200_000, "{stats:#?}");
    assert_eq!((stats.snapshots, stats.bytes_unused_left), (3, 0));
    let after: u64 = fixture.objects("data").iter().map(|p| p.metadata().unwrap().len()).sum();
    assert!(after < before - 200_000, "{before} {after}");

    fixture.assert_sound().await;
    assert_eq!(fixture.check(ReadData::None).await.unused_blobs, 0);
    assert!(fixture.contents().await == days);
    // Once more there is nothing to do.
    let repo = fixture.repo.clone();
    assert!(blocking(move || plan_prune(&repo, &strict(), &Cancel::new()).unwrap().is_nothing()).await);

    let verdict = judges::judge(fixture.path(), PASSWORD);
    for (n, (_, files)) in days.iter().enumerate() {
        for (name, data) in files {
            for restored in [verdict.restic(n), verdict.rustic(n)] {
                assert!(std::fs::read(restored.join(&name[1..])).unwrap() == *data, "{name}");
            }
        }
    }
    // And backups go on.
    fixture.backup(10, &files(&[("new", 200_000, 77), ("stays", 400_000, 1)])).await;
    fixture.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tolerant_prune_deletes_only_packs_that_are_all_waste() {
    let fixture = Fixture::new().await;
    let days = six_days(&fixture).await;
    fixture.repo.remove_snapshot(days[0].0).await.unwrap();
    let stats =
        prune(&fixture.repo, PruneOptions { max_unused: MaxUnused::Unlimited, pack_size: 0, tree_pack_size: 0, ..strict() })
            .await
            .unwrap();
    assert_eq!((stats.packs_repacked, stats.bytes_repacked), (0, 0));
    assert!(stats.packs_deleted > 0 && stats.bytes_unused_left > 0, "{stats:#?}");
    fixture.assert_sound().await;
    assert!(fixture.contents().await == days[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_a_broken_run_go_after_their_grace() {
    let fixture = Fixture::new().await;
    fixture.backup(1, &files(&[("a", 10_000, 1)])).await;
    let before = fixture.objects("data");
    fixture.backup(2, &files(&[("b", 500_000, 2)])).await;
    let last = std::fs::read_dir(fixture.path().join("index"))
        .unwrap()
        .map(|e| e.unwrap())
        .max_by_key(|e| e.metadata().unwrap().len())
        .unwrap();
    std::fs::remove_file(last.path()).unwrap();
    fixture.repo.remove_snapshot(fixture.repo.load_snapshots().await.unwrap()[1].id).await.unwrap();
    let stats = prune(&fixture.repo, PruneOptions { orphan_grace: Duration::from_secs(86_400), ..strict() }).await.unwrap();
    assert!(stats.orphans_kept >= 3 && stats.orphans_deleted == 0, "{stats:#?}");
    let stats = prune(&fixture.repo, strict()).await.unwrap();
    assert!(stats.orphans_deleted >= 3, "{stats:#?}");
    assert_eq!(fixture.objects("data"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_packs_and_index_files_become_few() {
    let fixture = Fixture::new().await;
    let mut now = Files::new();
    for n in 0..10u64 {
        now.insert(format!("file {n}"), noise(15_000, n));
        fixture.backup(n as i64, &now).await;
    }
    let contents = fixture.contents().await;
    assert_eq!(fixture.objects("index").len(), 10);
    prune(&fixture.repo, strict()).await.unwrap();
    assert_eq!(fixture.objects("index").len(), 1);
    assert!(fixture.objects("data").len() <= 4 + 10, "{}", fixture.objects("data").len());
    fixture.assert_sound().await;
    assert!(fixture.contents().await == contents);
}

/// The packs of the first snapshot's first file and of its root directory.
async fn needed_packs(fixture: &Fixture) -> [PathBuf; 2] {
    let index = fixture.repo.load_index().await.unwrap();
    let tree = fixture.repo.load_snapshots().await.unwrap()[0].file.tree;
    let reader = fixture.repo.reader(index.clone());
    let blob = blocking(move || {
        let NodeKind::Dir { subtree: Some(files) } = reader.tree(tree).unwrap()[0].kind else { panic!("no directory") };
        let NodeKind::File { content, .. } = &reader.tree(files).unwrap()[0].kind else { panic!("no file") };
        content[0]
    })
    .await;
    [(BlobType::Data, blob), (BlobType::Tree, tree)].map(|(kind, id)| {
        let pack = index.pack_id(index.get(kind, &id).unwrap().pack).unwrap().to_hex();
        fixture.path().join("data").join(&pack[..2]).join(&pack)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_be_told_what_is_needed_nothing_is_deleted() {
    fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    type Damage = fn(&Fixture, &[PathBuf; 2]);
    let cases: [(&str, Damage); 7] = [
        ("a data pack is gone", |_, [data, _]| std::fs::remove_file(data).unwrap()),
        ("a data pack is short", |_, [data, _]| overwrite(data, |b| b.truncate(b.len() - 1))),
        ("a tree pack is gone", |_, [_, tree]| std::fs::remove_file(tree).unwrap()),
        ("a tree is damaged", |_, [_, tree]| overwrite(tree, |b| b.iter_mut().for_each(|b| *b ^= 1))),
        ("a snapshot is damaged", |f, _| overwrite(&f.objects("snapshots")[0], |b| b[30] ^= 1)),
        ("the index is gone", |f, _| f.objects("index").iter().for_each(|i| std::fs::remove_file(i).unwrap())),
        ("an index file is damaged", |f, _| overwrite(&f.objects("index")[0], |b| b.truncate(5))),
    ];
    for (what, damage) in cases {
        let fixture = Fixture::new().await;
        // One index file describes both what is needed and what is waste.
        fixture.backup(1, &files(&[("a", 300_000, 1), ("b", 1000, 2)])).await;
        let waste = fixture.backup(2, &files(&[("waste", 300_000, 3)])).await;
        fixture.backup(3, &files(&[("a", 300_000, 1), ("b", 1000, 4)])).await;
        prune(&fixture.repo, PruneOptions { pack_size: 200_000, tree_pack_size: 200_000, ..strict() }).await.unwrap();
        fixture.repo.remove_snapshot(waste).await.unwrap();
        damage(&fixture, &needed_packs(&fixture).await);
        let state = || [fixture.objects("data"), fixture.objects("index"), fixture.objects("snapshots")];
        let before = state();
        let refused = prune(&fixture.repo, strict()).await.expect_err(what);
        assert_eq!(refused.kind(), Kind::Corrupt, "{what}: {}", refused.report());
        assert!(refused.report().contains("Nothing was deleted"), "{}", refused.report());
        assert_eq!(state(), before, "{what}");
        assert!(fixture.objects("locks").is_empty());
    }
}

/// A blob is checked when it is copied, so that damage is found and not copied on; nothing was deleted by then.
#[tokio::test(flavor = "multi_thread")]
async fn damage_met_while_copying_ends_the_prune_before_anything_is_deleted() {
    let fixture = Fixture::new().await;
    let waste = fixture.backup(1, &files(&[("waste", 40_000, 1), ("kept", 40_000, 2)])).await;
    fixture.backup(2, &files(&[("kept", 40_000, 2)])).await;
    fixture.repo.remove_snapshot(waste).await.unwrap();
    let [pack, _] = needed_packs(&fixture).await;
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[10..80_000].iter_mut().for_each(|b| *b ^= 1);
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let before = fixture.objects("data");
    let failed = prune(&fixture.repo, strict()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Corrupt, "{}", failed.report());
    assert!(before.iter().all(|p| p.exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_change_it_has_lost_nothing_and_can_go_on() {
    let fixture = Fixture::new().await;
    let mut days = six_days(&fixture).await;
    for n in [4, 1] {
        fixture.repo.remove_snapshot(days.remove(n).0).await.unwrap();
    }
    let mut finished = false;
    let mut tried = 0;
    // The first deaths tell most: 1 is the lock, then come packs, index, deletes.
    for left in (1..40).chain((40..400).step_by(7)) {
        let copy = tempfile::tempdir().unwrap();
        let target = copy.path().join("repo");
        assert!(std::process::Command::new("cp").arg("-r").arg(fixture.path()).arg(&target).status().unwrap().success());
        let repo =
            Repository::open(failing(&target, left, ErrorKind::Other), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
        finished = prune(&repo, strict()).await.is_ok();
        tried += 1;

        for lock in objects(&target.join("locks")) {
            std::fs::remove_file(lock).unwrap();
        }
        let repo = open(&target).await;
        let report = check_with(&repo, ReadData::None).await;
        assert!(report.is_sound(), "after {left} changes: {:#?}", report.findings);
        assert!(contents(&repo).await == days, "after {left} changes");
        if left % 5 == 0 || finished {
            judges::restic(&target, PASSWORD, &["check"]);
            prune(&repo, strict()).await.unwrap();
            let report = check_with(&repo, ReadData::All).await;
            assert!(report.is_sound() && report.unused_blobs == 0 && report.findings.notices == 0, "{report:#?}");
            assert!(contents(&repo).await == days, "after {left} changes and another prune");
        }
        if finished {
            break;
        }
    }
    assert!(finished && tried > 10, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_wants_an_exclusive_lock_and_stops_when_it_loses_it() {
    let fixture = Fixture::new().await;
    let days = six_days(&fixture).await;
    fixture.repo.remove_snapshot(days[0].0).await.unwrap();
    let shared = fixture.repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await.unwrap();
    let failed = prune(&fixture.repo, strict()).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Locked);
    shared.release().await.unwrap();

    let lock = fixture.repo.lock(LockMode::Exclusive, &holder(), &Cancel::new()).await.unwrap();
    for object in fixture.objects("locks") {
        std::fs::remove_file(object).unwrap();
    }
    let before = fixture.objects("data");
    let repo = fixture.repo.clone();
    let failed =
        blocking(move || plan_prune(&repo, &strict(), &Cancel::new()).unwrap().execute(&lock, &Arc::default(), &Cancel::new()))
            .await
            .unwrap_err();
    assert_eq!(failed.kind(), Kind::Locked, "{}", failed.report());
    assert_eq!(fixture.objects("data"), before);
}

/// Something on the way says once that a listed object does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_object_that_is_said_not_to_exist_stops_everything() {
    let fixture = Fixture::new().await;
    let days = six_days(&fixture).await;
    for folder in ["snapshots/", "index/"] {
        let store = Arc::new(FaultStore::new(local(fixture.path()), 1));
        let repo = Repository::open(store.clone(), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
        let lie = || {
            store.clear();
            store.add(Rule::new(Fault::Error(ErrorKind::NotFound)).on([Op::Get]).prefix(folder).when(When::Nth(1)));
        };
        lie();
        let refused = prune(&repo, strict()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.report());
        assert!(refused.chain().contains("says that it does not exist"), "{}", refused.report());
        lie();
        let (looked, options) = (repo.clone(), CheckOptions::default());
        let report = blocking(move || strongroom::repository::check(&looked, &options, &Cancel::new()).unwrap()).await;
        assert!(!report.is_sound(), "{:?}", report.findings);
        lie();
        let loaded = if folder == "index/" { repo.load_index().await.map(drop) } else { repo.load_snapshots().await.map(drop) };
        assert_eq!(loaded.unwrap_err().kind(), Kind::Corrupt);
    }
    fixture.assert_sound().await;
    assert!(fixture.contents().await == days);
}

/// What others remove between the listing and the read is gone and no damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_removed_meanwhile_is_gone() {
    let fixture = Fixture::new().await;
    let days = six_days(&fixture).await;
    let store = Arc::new(FaultStore::new(local(fixture.path()), 1));
    let repo = Repository::open(store.clone(), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
    let gone = fixture.path().join("snapshots").join(days[0].0.to_hex());
    let remove = Fault::Before(Arc::new(move |_: &Logged| std::fs::remove_file(&gone).unwrap()));
    store.add(Rule::new(remove).on([Op::Get]).prefix(format!("snapshots/{}", days[0].0)).when(When::Nth(1)));
    assert_eq!(repo.load_snapshots().await.unwrap().len(), days.len() - 1);
    prune(&repo, strict()).await.unwrap();
    fixture.assert_sound().await;
}
