//! The WAL archive: over a local directory, SeaweedFS and a store that misbehaves, with made-up segments and with those of real
//! servers.

mod ahead;
mod expiry;
mod fetch;
mod identity;
mod push;
mod real;
mod receive;
mod stores;
mod tips;

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use strongroom::crypto::{MasterKey, ObjectSeal};
use strongroom::error::{Error, Result};
use strongroom::model::{Id, Lsn, SegmentName, SegmentSize, SystemId, Timeline, TimelineHistory, WalFile};
use strongroom::runtime::SystemClock;
use strongroom::store::fault::FaultStore;
use strongroom::store::{Key, LocalStore, Store};
use strongroom::wal::{Archive, Fetched, Folder, Mode};

use crate::store::conformance::pattern;

pub const SYSTEM: SystemId = SystemId { major: 17, identifier: 7_387_432_087_440_429_062 };
pub const ROOT: &str = "wal/main/17-7387432087440429062";

pub fn mib() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

pub fn seal(n: u8) -> ObjectSeal {
    ObjectSeal::new(&MasterKey { encrypt: [n; 32], mac_k: [2; 16], mac_r: [3; 16] }, Id([n; 32])).unwrap()
}

/// An archive in a directory, behind a store that misbehaves on order.
pub struct Place {
    pub store: FaultStore,
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalStore::open(dir.path().join("repo"), Arc::new(SystemClock)).unwrap();
        Self { store: FaultStore::new(local, 1), dir }
    }

    /// As a process that has just begun sees it.
    pub fn archive(&self) -> Archive {
        Archive::open(Arc::new(self.store.clone()), seal(1), "main").unwrap()
    }

    pub fn folder(&self) -> Folder {
        self.archive().folder(SYSTEM)
    }

    pub async fn keys(&self) -> Vec<String> {
        crate::store::conformance::keys(&self.store, "wal/").await
    }

    pub fn path(&self, key: &str) -> std::path::PathBuf {
        self.dir.path().join("repo").join(key)
    }
}

pub fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::at(Timeline(timeline), Lsn(number << 20), mib())
}

pub fn segment_file(timeline: u32, number: u64) -> WalFile {
    WalFile::Segment(name(timeline, number))
}

/// The object of a segment.
pub fn key_of(timeline: u32, number: u64) -> String {
    let name = name(timeline, number);
    format!("{ROOT}/{}/{name}", name.folder())
}

/// A segment as a server would write it, with noise behind its header.
pub fn segment_of(name: SegmentName, size: SegmentSize, system: SystemId, seed: u64) -> Vec<u8> {
    let mut bytes = pattern(usize::try_from(size.bytes()).unwrap(), seed ^ name.start(size).0);
    let magic: u16 = match system.major {
        14 => 0xD10D,
        15 => 0xD110,
        16 => 0xD113,
        17 => 0xD116,
        _ => 0xD118,
    };
    bytes[..2].copy_from_slice(&magic.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&name.timeline.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&name.start(size).0.to_le_bytes());
    bytes[24..32].copy_from_slice(&system.identifier.to_le_bytes());
    bytes[32..36].copy_from_slice(&u32::try_from(size.bytes()).unwrap().to_le_bytes());
    bytes
}

pub fn segment(timeline: u32, number: u64, seed: u64) -> Vec<u8> {
    segment_of(name(timeline, number), mib(), SYSTEM, seed)
}

/// An open file with this content.
pub fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Stores segments of 1 MiB that follow each other.
pub async fn push_some(folder: &Folder, timeline: u32, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        folder.push(&segment_file(timeline, number), file(&segment(timeline, number, 0))).await.unwrap();
    }
}

pub fn history(timeline: u32, ways: &[(u32, u64)]) -> (WalFile, Bytes, TimelineHistory) {
    let text: String = ways.iter().map(|(t, at)| format!("{t}\t{}\tno recovery target specified\n\n", Lsn(*at))).collect();
    let parsed = TimelineHistory::parse(Timeline(timeline), &text).unwrap();
    (WalFile::History(Timeline(timeline)), text.into(), parsed)
}

pub async fn push_history(folder: &Folder, timeline: u32, ways: &[(u32, u64)]) {
    let (file, bytes, _) = history(timeline, ways);
    folder.push(&file, bytes).await.unwrap();
}

/// What a fetch answers, and what it wrote.
pub async fn fetch(folder: &Folder, file: &WalFile, mode: Mode) -> (Result<Fetched>, Vec<u8>) {
    let mut out = tempfile::tempfile().unwrap();
    let done = folder.fetch(file, out.try_clone().unwrap(), mode).await;
    let mut bytes = Vec::new();
    out.rewind().unwrap();
    out.read_to_end(&mut bytes).unwrap();
    (done, bytes)
}

/// The segment is delivered, byte for byte.
pub async fn assert_delivered(folder: &Folder, timeline: u32, number: u64) {
    let (done, bytes) = fetch(folder, &segment_file(timeline, number), Mode::Recovery).await;
    assert_eq!(done.unwrap(), Fetched::Delivered { bytes: 1 << 20 });
    assert!(bytes == segment(timeline, number, 0));
}

/// The segment is proven missing, and nothing was written.
#[track_caller]
pub fn assert_missing((done, bytes): (Result<Fetched>, Vec<u8>)) {
    match done.unwrap() {
        Fetched::Missing { proven: true, .. } => assert!(bytes.is_empty()),
        other => panic!("{other:?}"),
    }
}

/// It failed, and the words say why.
#[track_caller]
pub fn assert_says<T: std::fmt::Debug>(done: Result<T>, words: &str) -> Error {
    let error = done.expect_err("an error");
    assert!(error.report().contains(words), "{}", error.report());
    error
}

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}
