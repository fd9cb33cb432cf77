//! Sealed JSON files: index, snapshot, lock (and `config`, which is never compressed).
//!
//! Plain form: `0x02 ‖ zstd(JSON)`, or JSON as it is in repositories of version 1 (first byte `{` or `[`). The name is
//! the SHA-256 of the stored bytes, so every load checks it and reads once more before it gives up.

use std::collections::HashSet;
use std::io::{self, BufWriter, Read as _};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::crypto::{MasterKey, sha256};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Id;
use crate::store::{Key, Payload, PutMode, Store};

/// JSON of any such file is read up to this length: an index of restic's largest kind is 20 MB.
const MAX_JSON: u64 = 512 << 20;
const COMPRESSED: u8 = 2;
/// How far back the compressor looks, as a power of two: names of blobs, which are most of it, do not repeat.
const WINDOW: u32 = 17;

/// Serializes, compresses (version 2 on) and seals.
pub(super) fn encode<T: Serialize>(key: &MasterKey, version: u32, value: &T) -> Result<Vec<u8>> {
    let bug = |e| Error::new(Kind::Bug, "write JSON").because(e);
    let plain = if version < 2 {
        serde_json::to_vec(value).map_err(bug)?
    } else {
        let doing = || "compress JSON";
        let mut zstd = zstd::stream::write::Encoder::new(vec![COMPRESSED], 3).context(doing)?;
        zstd.window_log(WINDOW).context(doing)?;
        // Never all of the text at once: that of an index takes as much memory as a pack.
        let mut text = BufWriter::with_capacity(64 << 10, zstd);
        serde_json::to_writer(&mut text, value).map_err(bug)?;
        text.into_inner().map_err(io::IntoInnerError::into_error).and_then(|zstd| zstd.finish()).context(doing)?
    };
    let mut sealed = Vec::new();
    key.seal_into(&plain, &mut sealed);
    Ok(sealed)
}

/// The reverse of [`encode`].
pub(super) fn decode<T: DeserializeOwned>(key: &MasterKey, sealed: &[u8]) -> Result<T> {
    Decoder::default().decode(key, sealed)
}

/// [`decode`] with memory that is used again.
#[derive(Default)]
pub(super) struct Decoder {
    plain: Vec<u8>,
    json: Vec<u8>,
}

impl Decoder {
    pub(super) fn decode<T: DeserializeOwned>(&mut self, key: &MasterKey, sealed: &[u8]) -> Result<T> {
        let damaged = |what: &str| Error::new(Kind::Corrupt, what.to_owned());
        self.plain.clear();
        key.open_into(sealed, &mut self.plain).map_err(|e| damaged("it does not decrypt").because(e))?;
        let json = match self.plain.split_first() {
            Some((&COMPRESSED, rest)) => {
                self.json.clear();
                // Streamed, because a frame need not tell how long its content is.
                let mut frame =
                    zstd::stream::read::Decoder::with_buffer(rest).context(|| "prepare decompression")?.take(MAX_JSON + 1);
                frame.read_to_end(&mut self.json).map_err(|e| damaged("it does not decompress").because(e))?;
                if self.json.len() as u64 > MAX_JSON {
                    return Err(damaged("it is larger than any file of its kind"));
                }
                &self.json
            }
            Some((b'{' | b'[', _)) => &self.plain,
            _ => return Err(damaged("it has an unknown encoding")),
        };
        serde_json::from_slice(json).map_err(|e| damaged("its JSON is not what was expected").because(e))
    }
}

/// Stores a sealed file under `<folder>/<SHA-256>` and tells its name.
pub(super) async fn save(store: &dyn Store, folder: &str, sealed: Vec<u8>) -> Result<Id> {
    let id = sha256(&sealed);
    let key = Key::new(format!("{folder}/{id}"))?;
    store.put(&key, Payload::from(sealed), PutMode::Overwrite).await?;
    Ok(id)
}

/// Loads the bytes of `<folder>/<id>` and checks the name; a mismatch is read once more, in case only the way was bad.
pub(super) async fn load(store: &dyn Store, folder: &str, id: &Id) -> Result<bytes::Bytes> {
    let key = Key::new(format!("{folder}/{id}"))?;
    for _ in 0..2 {
        let bytes = store.get(&key, None).await?;
        if sha256(&bytes) == *id {
            return Ok(bytes);
        }
    }
    Err(Error::new(Kind::Corrupt, format!("{key} is not what its name says"))
        .hint("The object was damaged in the store. Run `strongroom check` to see what else is."))
}

/// The ids below `<folder>/`; other names are ignored, as stock clients do.
pub(super) async fn list(store: &dyn Store, folder: &str) -> Result<Vec<(Id, crate::store::ObjectMeta)>> {
    use futures::TryStreamExt;
    let prefix = format!("{folder}/");
    let metas: Vec<_> = store.list(&prefix).try_collect().await.map_err(Error::from).context(|| format!("list {prefix}"))?;
    Ok(metas.into_iter().filter_map(|m| Some((m.key.as_str().rsplit('/').next()?.parse().ok()?, m))).collect())
}

/// Of files that were listed and of which the store said then that they do not exist, those that it still lists: these
/// were not removed meanwhile, and a store that contradicts itself is not believed. Asks nothing if there are none.
pub(super) async fn contradicted(store: &dyn Store, folder: &str, mut missing: Vec<Id>) -> Result<Vec<Id>> {
    if !missing.is_empty() {
        let listed: HashSet<Id> = list(store, folder).await?.into_iter().map(|(id, _)| id).collect();
        missing.retain(|id| listed.contains(id));
    }
    Ok(missing)
}

/// What is wrong with a file that [`contradicted`] names.
pub(super) fn contradiction() -> Error {
    Error::new(Kind::Corrupt, "the store lists it and says that it does not exist")
        .hint("Something between here and the store may give wrong answers: try again, and check the way to the store.")
}
