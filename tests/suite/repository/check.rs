use std::path::Path;

use super::*;

/// What a check says about a repository that something was done to.
async fn after(damage: impl FnOnce(&Fixture), read_data: ReadData) -> CheckReport {
    let fixture = Fixture::new().await;
    fixture.backup(1, &files(&[("a", 300_000, 1), ("b", 50_000, 2), ("c", 0, 3)])).await;
    fixture.backup(2, &files(&[("a", 300_000, 1), ("b", 50_000, 4)])).await;
    fixture.assert_sound().await;
    damage(&fixture);
    fixture.check(read_data).await
}

fn change(path: &Path, f: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    f(&mut bytes);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The largest pack: file data.
fn data_pack(fixture: &Fixture) -> PathBuf {
    fixture.objects("data").into_iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap()
}

/// The smallest: trees.
fn tree_pack(fixture: &Fixture) -> PathBuf {
    fixture.objects("data").into_iter().min_by_key(|p| p.metadata().unwrap().len()).unwrap()
}

#[track_caller]
fn says(report: &CheckReport, words: &str) {
    assert!(report.findings.errors > 0, "no error at all, instead of `{words}`");
    assert!(report.findings.list.iter().any(|f| f.is_error && f.what.contains(words)), "`{words}` not in {:#?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_what_is_there() {
    let report = after(|_| {}, ReadData::None).await;
    assert_eq!((report.snapshots, report.files, report.trees, report.unused_blobs), (2, 5, 4, 0), "{report:#?}");
    assert_eq!((report.packs_read, report.bytes_read), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_is_seen() {
    let report = after(|f| std::fs::remove_file(data_pack(f)).unwrap(), ReadData::None).await;
    says(&report, "is in the index but not in the store");
    let report = after(|f| std::fs::remove_file(tree_pack(f)).unwrap(), ReadData::None).await;
    says(&report, "cannot be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_another_length_is_seen() {
    says(&after(|f| change(&data_pack(f), |b| b.truncate(b.len() - 1)), ReadData::None).await, "bytes; the index describes");
    says(&after(|f| change(&data_pack(f), |b| b.truncate(0)), ReadData::All).await, "cut short");
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_seen_when_data_is_read() {
    let flip = |at: usize| move |f: &Fixture| change(&data_pack(f), |b| b[at] ^= 1);
    assert!(after(flip(1000), ReadData::None).await.is_sound());
    says(&after(flip(1000), ReadData::All).await, "does not decrypt");
    let header = |f: &Fixture| {
        change(&data_pack(f), |b| {
            let n = b.len();
            b[n - 20] ^= 1
        })
    };
    says(&after(header, ReadData::Percent(100.0)).await, "header is damaged");
    let length = |f: &Fixture| {
        change(&data_pack(f), |b| {
            let n = b.len();
            b[n - 1] ^= 1
        })
    };
    says(&after(length, ReadData::All).await, "header is not as long");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parts_together_read_every_pack() {
    let fixture = Fixture::new().await;
    fixture.backup(1, &files(&[("a", 3_000_000, 1)])).await;
    let packs = fixture.objects("data").len() as u64;
    assert!(packs > 10, "{packs}");
    let mut read = 0;
    for part in 1..=3 {
        let report = fixture.check(ReadData::Part { part, of: 3 }).await;
        assert!(report.is_sound());
        read += report.packs_read;
    }
    assert_eq!(read, packs);
    assert_eq!(fixture.check(ReadData::Percent(10.0)).await.packs_read, packs.div_ceil(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_snapshots_and_index_files_are_named_and_the_rest_is_checked() {
    let report = after(|f| change(&f.objects("snapshots")[0], |b| b[20] ^= 1), ReadData::None).await;
    assert_eq!(report.snapshots, 1);
    says(&report, "snapshot ");
    let report = after(|f| change(&f.objects("index")[0], |b| b[20] ^= 1), ReadData::None).await;
    says(&report, "index ");
    let report = after(|f| std::fs::remove_file(&f.objects("index")[0]).unwrap(), ReadData::None).await;
    says(&report, "is in no index");
    assert!(report.findings.notices > 0, "its packs are orphans now");
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_and_unused_blobs_are_no_errors() {
    let report = after(|f| std::fs::remove_file(&f.objects("snapshots")[0]).unwrap(), ReadData::All).await;
    assert!(report.is_sound() && report.unused_blobs > 0, "{report:#?}");
    let fixture = Fixture::new().await;
    let name = "ab".repeat(32);
    std::fs::create_dir_all(fixture.path().join("data/ab")).unwrap();
    std::fs::write(fixture.path().join("data/ab").join(name), "left over").unwrap();
    let report = fixture.check(ReadData::All).await;
    assert_eq!((report.findings.errors, report.findings.notices), (0, 1), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_no_sane_writer_makes_are_errors() {
    let ghost = "77".repeat(32);
    let cases = [
        (r#"{"nodes":[{"name":"b","type":"fifo"},{"name":"a","type":"fifo"}]}"#.to_owned(), "out of order"),
        (r#"{"nodes":[{"name":"a","type":"fifo"},{"name":"a","type":"fifo"}]}"#.to_owned(), "out of order or there twice"),
        (format!(r#"{{"nodes":[{{"name":"a","type":"file","size":1,"content":["{ghost}"]}}]}}"#), "needs blob 7777"),
        (format!(r#"{{"nodes":[{{"name":"a","type":"dir","subtree":"{ghost}"}}]}}"#), "tree 7777"),
        (r#"{"nodes":[{"name":"a","type":"file","size":1,"content":null}]}"#.to_owned(), "has no content"),
        (r#"{"nodes":[{"name":"..","type":"fifo"}]}"#.to_owned(), "impossible name"),
        ("no JSON".to_owned(), "not a directory tree"),
    ];
    for (tree, words) in cases {
        let fixture = Fixture::new().await;
        let (repo, index) = (fixture.repo.clone(), fixture.repo.load_index().await.unwrap());
        blocking(move || {
            let writer = Writer::start(&repo, index, None, WriterOptions::default()).unwrap();
            let id = raw_blob(&writer, BlobType::Tree, tree.into());
            let tree = writer.tree(&[dir_node("d", id)]).unwrap();
            writer.commit(&SnapshotFile { tree, ..SnapshotFile::default() }).unwrap();
        })
        .await;
        says(&fixture.check(ReadData::None).await, words);
    }
}
