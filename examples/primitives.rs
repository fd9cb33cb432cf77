//! Single-thread rates of what a backup cannot do without — chunk, hash, compress, seal — on a sample of real files, as
//! JSON. `make bench` computes the limit of the machine from them.
//!
//! Usage: `primitives DIR [MIB]`: samples up to MIB (default 512) MiB of the regular files below DIR, spread over all of it.

#![allow(clippy::expect_used, clippy::disallowed_methods, reason = "a measuring program: it reports by stopping")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use strongroom::crypto::{LANES, MasterKey, sha256, sha256_many};

/// The sizes that content-defined chunking aims at for files.
const CHUNK: (usize, usize, usize) = (512 << 10, 1 << 20, 2 << 20);

fn main() {
    let mut args = std::env::args_os().skip(1);
    let dir = PathBuf::from(args.next().expect("usage: primitives DIR [MIB]"));
    let mib: usize = args.next().map_or(512, |m| m.to_str().and_then(|m| m.parse().ok()).expect("MIB is a number"));
    let sample = sample(&dir, mib << 20);
    let bytes: usize = sample.iter().map(Vec::len).sum();

    let mut chunks: Vec<&[u8]> = Vec::new();
    let chunking = rate(bytes, || {
        for file in &sample {
            chunks.extend(chunk(file));
        }
    });
    let hash_one = rate(bytes, || {
        for chunk in &chunks {
            std::hint::black_box(sha256(chunk));
        }
    });
    let hash_many = rate(bytes, || {
        for batch in chunks.chunks(LANES * 4) {
            std::hint::black_box(sha256_many(batch));
        }
    });

    let mut levels = serde_json::Map::new();
    let mut packed = Vec::new();
    for level in [1, 3, 9] {
        let mut compressor = zstd::bulk::Compressor::new(level).expect("zstd");
        packed = Vec::with_capacity(chunks.len());
        let speed = rate(bytes, || {
            for chunk in &chunks {
                let out = compressor.compress(chunk).expect("compress");
                packed.push(if out.len() < chunk.len() { out } else { chunk.to_vec() });
            }
        });
        let size: usize = packed.iter().map(Vec::len).sum();
        levels.insert(level.to_string(), serde_json::json!({ "mb_s": speed, "ratio": size as f64 / bytes as f64 }));
    }

    let key = MasterKey::generate();
    let out_bytes: usize = packed.iter().map(Vec::len).sum();
    let mut out = Vec::new();
    let sealing = rate(out_bytes, || {
        for blob in &packed {
            out.clear();
            key.seal_into(blob, &mut out);
        }
    });
    println!(
        "{}",
        serde_json::json!({
            "sample_bytes": bytes, "files": sample.len(), "chunks": chunks.len(),
            "chunk_mb_s": chunking, "sha256_mb_s": hash_one, "sha256_batch_mb_s": hash_many,
            "zstd": levels, "seal_mb_s": sealing,
        })
    );
}

/// MB (10^6 bytes) a second.
fn rate(bytes: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn chunk(file: &[u8]) -> Vec<&[u8]> {
    let (min, avg, max) = CHUNK;
    let (strict, loose) = fastcdc::v2020::select_masks(avg, fastcdc::v2020::Normalization::Level1);
    let mut rest = file;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (_, n) = fastcdc::v2020::cut(rest, min, avg, max, strict, loose, strict << 1, loose << 1);
        let (head, tail) = rest.split_at(n.clamp(1, rest.len()));
        out.push(head);
        rest = tail;
    }
    out
}

/// Every n-th file, so that the sample looks like the whole; of a large file its first 64 MiB.
fn sample(dir: &Path, limit: usize) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("read a directory").flatten() {
            match entry.file_type() {
                Ok(t) if t.is_dir() => open.push(entry.path()),
                Ok(t) if t.is_file() => files.push((entry.path(), entry.metadata().map_or(0, |m| m.len().min(64 << 20)))),
                _ => {}
            }
        }
    }
    files.sort();
    let total: u64 = files.iter().map(|f| f.1).sum();
    let every = (total as usize).div_ceil(limit).max(1);
    let mut left = limit;
    let mut out = Vec::new();
    for (path, size) in files.iter().step_by(every).filter(|f| f.1 > 0) {
        let Ok(mut data) = std::fs::read(path) else { continue };
        data.truncate((*size as usize).min(left));
        left -= data.len();
        out.push(data);
    }
    out
}
