//! One file in order, for pipes: the next ranges are on their way while this one is used.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Reader;
use crate::error::{Error, Kind, Result};
use crate::model::Id;
use crate::repository::index::{BlobPlace, BlobType};

/// Requests under way. With 4 MiB each, 16 MiB of memory.
const AHEAD: usize = 4;
const RANGE: u64 = 4 << 20;

/// A file's bytes, in order. Every blob is checked before its bytes are given out.
pub struct FileReader {
    reader: Reader,
    blobs: std::vec::IntoIter<Id>,
    next: Option<(Id, BlobPlace)>,
    groups: VecDeque<Group>,
    bytes: Bytes,
    base: u64,
    here: VecDeque<(Id, BlobPlace)>,
    plain: Vec<u8>,
    at: usize,
    failed: bool,
}

struct Group {
    blobs: VecDeque<(Id, BlobPlace)>,
    request: JoinHandle<crate::store::Result<Bytes>>,
    base: u64,
    length: u64,
}

impl FileReader {
    pub(super) fn new(reader: Reader, content: &[Id]) -> Self {
        Self {
            reader,
            blobs: Vec::from(content).into_iter(),
            next: None,
            groups: VecDeque::new(),
            bytes: Bytes::new(),
            base: 0,
            here: VecDeque::new(),
            plain: Vec::new(),
            at: 0,
            failed: false,
        }
    }

    fn peek(&mut self) -> Result<Option<(Id, BlobPlace)>> {
        if self.next.is_none()
            && let Some(id) = self.blobs.next()
        {
            self.next = Some((id, self.reader.place(BlobType::Data, &id)?));
        }
        Ok(self.next)
    }

    /// Blobs that lie one after another in one pack, as one request.
    fn request_ahead(&mut self) -> Result<()> {
        while self.groups.len() < AHEAD {
            let Some((id, place)) = self.peek()? else { return Ok(()) };
            self.next = None;
            let (base, mut end) = (u64::from(place.offset), u64::from(place.offset) + u64::from(place.length));
            let mut blobs = VecDeque::from([(id, place)]);
            while let Some((id, next)) = self.peek()? {
                let to = u64::from(next.offset) + u64::from(next.length);
                if next.pack != place.pack || u64::from(next.offset) != end || to - base > RANGE {
                    break;
                }
                end = to;
                blobs.push_back((id, next));
                self.next = None;
            }
            let repo = self.reader.shared.repo.clone();
            let pack =
                self.reader.shared.index.pack_id(place.pack).ok_or_else(|| Error::new(Kind::Bug, "a pack without a number"))?;
            let key = repo.pack_key(&pack)?;
            let request = repo.runtime().clone().spawn(async move { repo.store().get(&key, Some(base..end)).await });
            self.groups.push_back(Group { blobs, request, base, length: end - base });
        }
        Ok(())
    }

    /// Decodes the next blob into `plain`. `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        if self.here.is_empty() {
            self.request_ahead()?;
            let Some(group) = self.groups.pop_front() else { return Ok(false) };
            let runtime = self.reader.shared.repo.runtime().clone();
            let bytes = runtime.block_on(group.request).map_err(|e| Error::new(Kind::Bug, "a read was dropped").because(e))??;
            if bytes.len() as u64 != group.length {
                return Err(Error::new(Kind::Corrupt, "a pack is cut short").hint("Run `strongroom check`."));
            }
            (self.bytes, self.base, self.here) = (bytes, group.base, group.blobs);
            self.request_ahead()?;
        }
        let Some((id, place)) = self.here.pop_front() else { return Ok(false) };
        let from = (u64::from(place.offset) - self.base) as usize;
        let stored = self
            .bytes
            .get(from..from + place.length as usize)
            .ok_or_else(|| Error::new(Kind::Bug, "a range that misses its blobs"))?;
        let plain = &mut self.plain;
        let reader = &self.reader;
        reader.with_codec(|codec| {
            plain.clear();
            plain.extend_from_slice(codec.open(reader.shared.repo.key(), &id, stored, place.uncompressed)?);
            Ok(())
        })?;
        self.at = 0;
        Ok(true)
    }
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if self.failed {
                return Err(io::Error::other("reading went wrong before"));
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(e) => {
                    self.failed = true;
                    return Err(io::Error::other(e));
                }
            }
        }
        let rest = self.plain.get(self.at..).unwrap_or(&[]);
        let n = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.at += n;
        Ok(n)
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        for group in &self.groups {
            group.request.abort();
        }
    }
}
