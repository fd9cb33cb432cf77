//! The same over SeaweedFS and Azurite: conditions, listings in another order, objects in parts.

use std::sync::Arc;

use strongroom::store::{OpenOptions, Settings};
use strongroom::wal::{Need, Pushed, plan_expiry};

use super::*;
use crate::support::{azurite, seaweedfs};

async fn open(settings: &Settings) -> Arc<dyn Store> {
    strongroom::store::open(settings, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap()
}

/// A container of Azurite's that nobody else uses.
async fn azure() -> Settings {
    tokio::task::spawn_blocking(|| {
        let server = azurite::shared();
        let mut settings = server.settings(&format!("{}/root", server.container()));
        (settings.azure.block_above, settings.azure.block_size) = (512 << 10, 512 << 10);
        settings
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_in_s3() {
    let server = tokio::task::spawn_blocking(seaweedfs::shared).await.unwrap();
    let mut settings = server.settings();
    (settings.s3.multipart_above, settings.s3.part_size) = (5 << 20, 5 << 20);
    pushes_fetches_and_expires(open(&settings).await).await;
}

/// Segments go up in blocks.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_in_azure() {
    pushes_fetches_and_expires(open(&azure().await).await).await;
}

async fn pushes_fetches_and_expires(store: Arc<dyn Store>) {
    let folder = || Archive::open(store.clone(), seal(1), "main").unwrap().folder(SYSTEM);
    let first = folder();
    push_some(&first, 1, [1, 2, 3, 300, 4]).await;
    assert_eq!(folder().push(&segment_file(1, 3), file(&segment(1, 3, 0))).await.unwrap(), Pushed::Same);
    assert_says(folder().push(&segment_file(1, 3), file(&segment(1, 3, 1))).await, "another content");
    assert_delivered(&folder(), 1, 3).await;
    assert_says(fetch(&folder(), &segment_file(1, 5), Mode::Recovery).await.0, "not the end of the archive");
    assert_missing(fetch(&folder(), &segment_file(1, 301), Mode::Recovery).await);
    first.push_tip(name(1, 301), 0, Bytes::from(segment(1, 301, 0)).slice(..700)).await.unwrap();
    first.push_tip(name(1, 301), 700, Bytes::from(segment(1, 301, 0)).slice(700..900)).await.unwrap();
    let (done, bytes) = fetch(&folder(), &segment_file(1, 301), Mode::Recovery).await;
    assert_eq!(done.unwrap(), Fetched::Unfinished { until: Lsn((301 << 20) + 900) });
    assert!(bytes[..900] == segment(1, 301, 0)[..900] && bytes[900..].iter().all(|b| *b == 0));
    push_history(&folder(), 2, &[(1, 2 << 20)]).await;
    let identity = folder().identity().await.unwrap().unwrap();
    let survey = folder().survey().await.unwrap();
    let need = Need { timelines: vec![Timeline(1), Timeline(2)], stretches: identity.reachable(Timeline(1), Lsn(3 << 20)) };
    let plan = plan_expiry(&survey, &need, store.now().await.unwrap()).unwrap();
    assert_eq!(plan.segments, [name(1, 1), name(1, 2)]);
    folder().expire(&plan).await.unwrap();
    let left: Vec<_> = folder().survey().await.unwrap().segments().iter().map(|s| s.name).collect();
    assert_eq!(left, [name(1, 3), name(1, 4), name(1, 300)]);
    // Two with other contents at once.
    let (a, b) = tokio::join!(async { folder().push(&segment_file(1, 310), file(&segment(1, 310, 1))).await }, async {
        folder().push(&segment_file(1, 310), file(&segment(1, 310, 2))).await
    });
    assert_eq!([&a, &b].iter().filter(|r| r.is_ok()).count(), 1, "{a:?} {b:?}");
}

/// Larger than what one request takes.
async fn a_large_segment(store: Arc<dyn Store>) {
    let size = SegmentSize::new(64 << 20).unwrap();
    let one = SegmentName::at(Timeline(1), Lsn(3 * (64 << 20)), size);
    let content = segment_of(one, size, SYSTEM, 0);
    let folder = Archive::open(store, seal(1), "main").unwrap().folder(SYSTEM);
    assert_eq!(folder.push(&WalFile::Segment(one), file(&content)).await.unwrap(), Pushed::Stored);
    assert_eq!(folder.push(&WalFile::Segment(one), file(&content)).await.unwrap(), Pushed::Same);
    let (done, bytes) = fetch(&folder, &WalFile::Segment(one), Mode::Recovery).await;
    assert_eq!(done.unwrap(), Fetched::Delivered { bytes: size.bytes() });
    assert!(bytes == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_segment_in_s3() {
    let server = tokio::task::spawn_blocking(seaweedfs::shared).await.unwrap();
    a_large_segment(open(&server.settings()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_segment_in_azure() {
    a_large_segment(open(&azure().await).await).await;
}

/// A signature that may only read is told so when it archives, and reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_may_only_read() {
    let settings = azure().await;
    let folder = |store| Archive::open(store, seal(1), "main").unwrap().folder(SYSTEM);
    push_some(&folder(open(&settings).await), 1, [1]).await;
    let mut readonly = settings.clone();
    readonly.azure.auth = strongroom::store::AzureAuth::Sas(azurite::secret(&azurite::sas("rl")));
    let reader = folder(open(&readonly).await);
    assert_delivered(&reader, 1, 1).await;
    assert_missing(fetch(&reader, &segment_file(1, 2), Mode::Recovery).await);
    let refused = reader.push(&segment_file(1, 2), file(&segment(1, 2, 0))).await.unwrap_err();
    assert_eq!(refused.kind(), strongroom::error::Kind::Denied, "{}", refused.report());
    // One that may not read at all proves nothing.
    let mut blind = settings;
    blind.azure.auth = strongroom::store::AzureAuth::Sas(azurite::secret(&azurite::sas("w")));
    let (done, _) = fetch(&folder(open(&blind).await), &segment_file(1, 2), Mode::Recovery).await;
    assert_eq!(done.unwrap_err().kind(), strongroom::error::Kind::Denied);
}

/// A key that may only read is told so when it archives, and reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_only_read() {
    let server = tokio::task::spawn_blocking(seaweedfs::shared).await.unwrap();
    let mut settings = server.settings();
    let folder = |store| Archive::open(store, seal(1), "main").unwrap().folder(SYSTEM);
    push_some(&folder(open(&settings).await), 1, [1]).await;
    seaweedfs::login(&mut settings, "rokey", "rosecret");
    let reader = folder(open(&settings).await);
    assert_delivered(&reader, 1, 1).await;
    let refused = reader.push(&segment_file(1, 2), file(&segment(1, 2, 0))).await.unwrap_err();
    assert_eq!(refused.kind(), strongroom::error::Kind::Denied, "{}", refused.report());
    seaweedfs::login(&mut settings, "testkey", "wrong");
    let (done, _) = fetch(&folder(open(&settings).await), &segment_file(1, 9), Mode::Recovery).await;
    assert_eq!(done.unwrap_err().kind(), strongroom::error::Kind::Denied);
}
