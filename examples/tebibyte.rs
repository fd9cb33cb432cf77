//! What the tree and the index of a large cluster take, as JSON: made by the engine itself, in a repository below a directory.
//!
//! Usage: `tebibyte DIR [SEGMENTS] [CHUNK_KIB]`: a relation of so many files of 1 GiB (1,024: one TiB) in chunks of so many KiB (1,024,
//! what a cluster of that size gets), then the day after, with one chunk of a hundred changed. Chunks are stored as a few hundred
//! bytes, each of another length, and as many in a pack as real ones of a quarter of their size would be; so lengths and offsets
//! in the index have about three digits less than real ones.

#![allow(clippy::expect_used, clippy::disallowed_methods, reason = "a measuring program: it reports by stopping")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use bytes::Bytes;
use strongroom::crypto::sha256;
use strongroom::model::{Id, Metadata, Node, NodeKind, Time};
use strongroom::repository::{BlobType, Done, LockHolder, RepoEnv, Repository, TreePart, Writer, WriterOptions};
use strongroom::runtime::{SecretText, SystemClock};
use strongroom::store::LocalStore;

const GIB: u64 = 1 << 30;
/// Chunks in a pack of 16 MiB, if each shrinks to a quarter of a MiB.
const IN_A_PACK: usize = 64;
/// Mean length of what stands for a chunk, sealed.
const STORED: usize = 64 + 128 + 32;

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("usage: tebibyte DIR [SEGMENTS] [CHUNK_KIB]");
    let dir = std::path::absolute(dir).expect("a path").to_str().expect("a path of letters").to_owned();
    let number = |text: Option<String>, or: u64| text.map_or(or, |t| t.parse().expect("a number"));
    let segments = number(args.next(), 1024);
    let per_segment = GIB / (number(args.next(), 1024) << 10);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let repo = runtime.block_on(async {
        let store = Arc::new(LocalStore::open(dir.clone().into(), Arc::new(SystemClock)).expect("a directory"));
        let env = RepoEnv { clock: Arc::new(SystemClock), cache_dir: None };
        let holder = LockHolder { hostname: "bench".into(), username: "bench".into(), pid: std::process::id() };
        Repository::init(store, &SecretText::new("bench".into()), &env, &holder).await.expect("a repository").0
    });
    let mut content: Vec<Vec<Id>> = Vec::new();
    let mut days = Vec::new();
    let mut before = (0, 0);
    for day in 0..2u64 {
        let index = runtime.block_on(repo.load_index()).expect("an index");
        let options = WriterOptions { pack_size: IN_A_PACK * STORED, ..WriterOptions::for_memory(256 << 20, 1) };
        let writer = Writer::start(&repo, index, None, options).expect("a writer");
        if day == 0 {
            content = (0..segments).map(|s| store(&writer, (0..per_segment).map(|c| s * per_segment + c))).collect();
        } else {
            let changed: Vec<u64> =
                (0..segments * per_segment).filter(|n| sha256(&n.to_le_bytes()).0[0].is_multiple_of(100)).collect();
            let new = store(&writer, changed.iter().map(|n| n + (1 << 40)));
            for (n, id) in changed.iter().zip(new) {
                let slot = content.get_mut((n / per_segment) as usize).and_then(|ids| ids.get_mut((n % per_segment) as usize));
                *slot.expect("within the relation") = id;
            }
        }
        let nodes = nodes(&content);
        let started = Instant::now();
        tree(&writer, &nodes);
        let seconds = started.elapsed().as_secs_f64();
        let trees = writer.stats().tree_blobs.load(std::sync::atomic::Ordering::Relaxed);
        let data = writer.stats().data_blobs.load(std::sync::atomic::Ordering::Relaxed);
        writer.flush().expect("all stored");
        let index = size(&Path::new(&dir).join("index"));
        let tree = tree_bytes(&runtime.block_on(repo.load_index()).expect("an index"));
        days.push(serde_json::json!({
            "chunks_stored": data, "trees_stored": trees, "tree_bytes": tree - before.0, "index_bytes": index - before.1,
            "tree_seconds": seconds,
        }));
        before = (tree, index);
    }
    let started = Instant::now();
    let index = runtime.block_on(repo.load_index()).expect("an index");
    println!(
        "{}",
        serde_json::json!({
            "segments": segments, "chunks": segments * per_segment, "days": days,
            "index_load_seconds": started.elapsed().as_secs_f64(), "blobs": index.entries(BlobType::Data).len(),
        })
    );
}

/// Stores what stands for these chunks.
fn store(writer: &Writer, numbers: impl Iterator<Item = u64>) -> Vec<Id> {
    let (sender, receiver) = mpsc::channel();
    let mut count = 0usize;
    for n in numbers {
        let seed = sha256(&n.to_le_bytes()).0;
        // Does not compress, and is of another length each.
        let bytes: Vec<u8> =
            (0..9u8).flat_map(|i| sha256(&[&seed[..], &[i]].concat()).0).take(64 + usize::from(seed[1])).collect();
        let (sender, at) = (sender.clone(), count);
        let done: Done = Box::new(move |_, saved| {
            sender.send((at, saved.expect("stored").id)).expect("somebody waits");
        });
        writer.submit(BlobType::Data, Bytes::from(bytes), done);
        count += 1;
    }
    drop(sender);
    let mut ids = vec![Id::default(); count];
    for (at, id) in receiver {
        ids[at] = id;
    }
    ids
}

/// As base backups store the entries of such a directory.
fn tree(writer: &Writer, nodes: &[Node]) {
    let mut tree = writer.large_tree(nodes.len() * 512).expect("a tree");
    for node in nodes {
        tree.add(TreePart::encode(std::slice::from_ref(node)).expect("a node").expect("one node")).expect("in order");
    }
    let (sender, receiver) = mpsc::channel();
    writer.submit_large_tree(tree, Box::new(move |_, saved| sender.send(saved.is_some()).expect("somebody waits")));
    assert!(receiver.recv().expect("an answer"), "the tree was not stored");
}

/// The relation's files.
fn nodes(content: &[Vec<Id>]) -> Vec<Node> {
    let meta = |n: u64| Metadata {
        mode: 0o600,
        uid: 26,
        gid: 26,
        user: "postgres".into(),
        group: "postgres".into(),
        inode: 1_000_000 + n,
        device_id: 64_768,
        links: 1,
        mtime: Time { secs: 1_790_000_000 + n as i64, nanos: 123_456_789 },
        atime: Time { secs: 1_790_000_000 + n as i64, nanos: 123_456_789 },
        ctime: Time { secs: 1_790_000_000 + n as i64, nanos: 123_456_789 },
        ..Metadata::default()
    };
    let name = |n: usize| if n == 0 { "16384".to_owned() } else { format!("16384.{n}") };
    let file = |(n, ids): (usize, &Vec<Id>)| Node {
        name: name(n).into_bytes(),
        kind: NodeKind::File { size: GIB, content: ids.clone() },
        meta: meta(n as u64),
        error: None,
    };
    let mut nodes: Vec<Node> = content.iter().enumerate().map(file).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

fn tree_bytes(index: &strongroom::repository::Index) -> u64 {
    index.entries(BlobType::Tree).iter().map(|e| u64::from(e.place.length)).sum()
}

fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("a directory");
    files.flatten().map(|f| f.metadata().map_or(0, |m| m.len())).sum()
}
