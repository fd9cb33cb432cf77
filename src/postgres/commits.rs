//! When the newest commit in a segment of WAL was made, and where its last record is, read from the segment itself: what a
//! recovery to a time can reach, and where one that takes everything ends.
//!
//! Only what that needs of the format is known here, and it is the same in versions 13 to 18: pages with a header of 24 bytes
//! (40 on the first page of a segment), records of a header of 24 bytes, aligned to 8, whose length comes first and which go on
//! behind the header of the next page. Commits and aborts, of prepared transactions too, begin with their time: these are what
//! `recovery_target_time` is compared with.

use std::io::Read;

use crate::model::{Lsn, Time};

const PAGE_HEADER: usize = 24;
const FIRST_PAGE_HEADER: usize = 40;
const RECORD_HEADER: usize = 24;
const CONTINUED: u16 = 1;
const LONG: u16 = 2;
/// Resource managers and the kinds of their records that matter.
const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
const XLOG_SWITCH: u8 = 0x40;
const XACT_KINDS: u8 = 0x70;
const XACT_PREPARE: u8 = 0x10;
const XACT_OTHERS: u8 = 0x50;
/// 2000-01-01 in seconds since 1970.
const EPOCH: i64 = 946_684_800;

/// What a segment says about where recovery can end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// The newest time of a transaction's end.
    pub newest: Option<Time>,
    /// The last of the records that lie in this segment as a whole.
    pub last: Option<Record>,
}

/// A record's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where it begins, or the header of the page that it begins.
    pub begin: Lsn,
    /// One behind its last byte.
    pub end: Lsn,
}

/// Looks into a segment that begins at `start`. Reads to the end of the log in it, which may be before the end of the input.
/// Nothing is found if this is no segment: whoever must know checks that elsewhere. Where an unfinished segment was filled up
/// with zeros, the last record may end in these.
///
/// # Errors
/// The reader's.
pub fn ends(segment: impl Read, start: Lsn) -> std::io::Result<Ends> {
    let mut pages = Pages { input: segment, start, at: 0, page: 8192, within: true, cut: false };
    let mut ends = Ends::default();
    let Some(rest) = pages.first()? else { return Ok(ends) };
    let mut left = u64::from(rest);
    let mut begin = None;
    loop {
        if pages.skip(left)? {
            if let Some(begin) = begin.take() {
                ends.last = Some(Record { begin, end: pages.position() });
            }
            if !pages.align()? {
                return Ok(ends);
            }
        } else if !pages.goes_on() {
            return Ok(ends);
        }
        (begin, left) = (None, 0);
        let here = pages.position();
        let mut header = [0; RECORD_HEADER];
        pages.within = false;
        if pages.take(&mut header)?.is_none() {
            if pages.goes_on() {
                continue;
            }
            return Ok(ends);
        }
        let length = u64::from(u32_at(&header, 0));
        let (info, manager) = (header.get(16).copied().unwrap_or(0), header.get(17).copied().unwrap_or(0));
        if length < RECORD_HEADER as u64 {
            return Ok(ends);
        }
        if manager == RM_XLOG && info == XLOG_SWITCH {
            ends.last = Some(Record { begin: here, end: pages.position() });
            return Ok(ends);
        }
        let mut body = [0; 32];
        left = length - RECORD_HEADER as u64;
        let kind = info & XACT_KINDS;
        if manager == RM_XACT && kind != XACT_PREPARE && kind < XACT_OTHERS {
            let len = left.min(body.len() as u64);
            let body = body.get_mut(..len as usize).unwrap_or_default();
            if pages.take(body)?.is_none() {
                if pages.goes_on() {
                    left = 0;
                    continue;
                }
                return Ok(ends);
            }
            left -= len;
            ends.newest = ends.newest.max(time_of(body));
        }
        begin = Some(here);
    }
}

/// The time at the beginning of a record's main data.
fn time_of(body: &[u8]) -> Option<Time> {
    let mut at = 0;
    loop {
        match body.get(at)? {
            // The origin of a replicated transaction; the top transaction's number.
            253 => at += 3,
            252 => at += 5,
            255 => break at += 2,
            254 => break at += 5,
            _ => return None,
        }
    }
    let micros = i64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?);
    let nanos = u32::try_from(micros.rem_euclid(1_000_000)).ok()? * 1000;
    Some(Time::new(micros.div_euclid(1_000_000) + EPOCH, nanos))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The content of pages, without their headers.
struct Pages<R> {
    input: R,
    start: Lsn,
    /// Bytes read so far.
    at: u64,
    page: u64,
    /// Whether what comes next belongs to a record that has begun.
    within: bool,
    /// The record that had begun does not go on: a server crashed before it was whole, and began another one on this page.
    cut: bool,
}

impl<R: Read> Pages<R> {
    /// The header of the segment: how much of its first page continues a record of the segment before. `None`: no segment.
    fn first(&mut self) -> std::io::Result<Option<u32>> {
        let mut header = [0; FIRST_PAGE_HEADER];
        if !self.raw(&mut header)? || !self.fits(&header, 0) || u16_at(&header, 2) & LONG == 0 {
            return Ok(None);
        }
        self.page = u64::from(u32_at(&header, 36));
        if !self.page.is_power_of_two() || !(1024..=65_536).contains(&self.page) {
            return Ok(None);
        }
        Ok(Some(if u16_at(&header, 2) & CONTINUED == 0 { 0 } else { u32_at(&header, 16) }))
    }

    /// After a record that could not be read to its end: whether another one begins here.
    fn goes_on(&mut self) -> bool {
        std::mem::take(&mut self.cut)
    }

    fn position(&self) -> Lsn {
        Lsn(self.start.0.saturating_add(self.at))
    }

    /// The address of a page is its own: left-overs of a segment that was used before have another.
    fn fits(&self, header: &[u8], offset: u64) -> bool {
        header.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes) == Some(self.start.0 + offset)
    }

    fn raw(&mut self, into: &mut [u8]) -> std::io::Result<bool> {
        match self.input.read_exact(into) {
            Ok(()) => {
                self.at += into.len() as u64;
                Ok(true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Bytes up to the next page header; at a page's beginning its header is read first. 0: the log ends here.
    fn room(&mut self) -> std::io::Result<u64> {
        if self.at.is_multiple_of(self.page) {
            let offset = self.at;
            let mut header = [0; PAGE_HEADER];
            if !self.raw(&mut header)? || !self.fits(&header, offset) {
                return Ok(0);
            }
            if self.within && u16_at(&header, 2) & CONTINUED == 0 {
                self.cut = true;
                return Ok(0);
            }
        }
        Ok(self.page - self.at % self.page)
    }

    /// Fills `into`; `None` if the log ends before.
    fn take(&mut self, mut into: &mut [u8]) -> std::io::Result<Option<()>> {
        while !into.is_empty() {
            let room = usize::try_from(self.room()?).unwrap_or(0).min(into.len());
            let (now, later) = into.split_at_mut(room);
            if room == 0 || !self.raw(now)? {
                return Ok(None);
            }
            self.within = true;
            into = later;
        }
        Ok(Some(()))
    }

    /// `false` if the log ends before.
    fn skip(&mut self, mut count: u64) -> std::io::Result<bool> {
        while count > 0 {
            let room = self.room()?.min(count);
            if room == 0 || std::io::copy(&mut (&mut self.input).take(room), &mut std::io::sink())? < room {
                return Ok(false);
            }
            self.at += room;
            count -= room;
        }
        Ok(true)
    }

    fn align(&mut self) -> std::io::Result<bool> {
        self.skip(self.at.next_multiple_of(8) - self.at)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 3 << 24;

    /// Lays records out in pages as a server does, behind `rest` bytes of an earlier record.
    fn segment(rest: u32, records: &[Vec<u8>]) -> Vec<u8> {
        let mut content = vec![0u8; rest as usize];
        let mut spans = vec![(0, content.len())];
        for record in records {
            content.resize(content.len().next_multiple_of(8), 0);
            spans.push((content.len(), content.len() + record.len()));
            content.extend_from_slice(record);
        }
        let mut out = Vec::new();
        let all = content.len();
        let mut content = content.as_slice();
        while !content.is_empty() {
            let first = out.is_empty();
            let mut header = vec![0u8; if first { FIRST_PAGE_HEADER } else { PAGE_HEADER }];
            let at = all - content.len();
            let continued = spans.iter().any(|(from, to)| *from < at && at < *to) || (first && rest > 0);
            header[2] = if first { 2 } else { 0 } | u8::from(continued);
            header[8..16].copy_from_slice(&(START + out.len() as u64).to_le_bytes());
            if first {
                header[16..20].copy_from_slice(&rest.to_le_bytes());
                header[36..40].copy_from_slice(&8192u32.to_le_bytes());
            }
            let room = (8192 - header.len()).min(content.len());
            out.extend_from_slice(&header);
            out.extend_from_slice(&content[..room]);
            content = &content[room..];
        }
        out.resize(out.len().next_multiple_of(8192), 0);
        out
    }

    fn record(manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0u8; RECORD_HEADER];
        out[..4].copy_from_slice(&((RECORD_HEADER + body.len()) as u32).to_le_bytes());
        (out[16], out[17]) = (info, manager);
        out.extend_from_slice(body);
        out
    }

    fn commit(info: u8, prefix: &[u8], seconds: i64) -> Vec<u8> {
        let mut body = prefix.to_vec();
        body.extend_from_slice(&(seconds * 1_000_000 + 5).to_le_bytes());
        body.extend_from_slice(&[9; 20]);
        record(RM_XACT, info, &body)
    }

    fn read(segment: &[u8]) -> Option<i64> {
        ends(segment, Lsn(START)).unwrap().newest.map(|t| t.secs - EPOCH)
    }

    /// Begin and end of the last record, from the segment's beginning on.
    fn last(segment: &[u8]) -> Option<(u64, u64)> {
        ends(segment, Lsn(START)).unwrap().last.map(|r| (r.begin.0 - START, r.end.0 - START))
    }

    #[test]
    fn the_last_whole_record_is_found() {
        let other = |len| record(10, 0, &vec![7; len]);
        assert_eq!(last(&segment(0, &[])), None);
        assert_eq!(last(&segment(0, &[other(13)])), Some((40, 77)));
        assert_eq!(last(&segment(0, &[other(13), other(1)])), Some((80, 105)));
        assert_eq!(last(&segment(100, &[other(1)])), Some((144, 169)), "behind the rest of a record");
        assert_eq!(last(&segment(100, &[])), None, "that rest is none");
        let switched = [other(13), record(RM_XLOG, XLOG_SWITCH, &[]), other(3)];
        assert_eq!(last(&segment(0, &switched)), Some((80, 104)));
        // It goes on behind a page's header, or begins there.
        assert_eq!(last(&segment(0, &[other(9000)])), Some((40, 40 + 24 + 9000 + 24)));
        assert_eq!(last(&segment(0, &[other(8192 - 40 - 24), other(1)])), Some((8192, 8192 + 24 + 25)));
        // A server crashed in the middle of it, and went on with the next page.
        let mut crashed = segment(0, &[other(13), other(20_000)]);
        let mut next = segment(0, &[commit(0, &[255, 8], 5), other(1)]);
        next.drain(..FIRST_PAGE_HEADER);
        crashed[8192 + 2] = 0;
        crashed[8192 + PAGE_HEADER..16384].fill(0);
        crashed[8192 + PAGE_HEADER..][..200].copy_from_slice(&next[..200]);
        assert_eq!(read(&crashed), Some(5));
        assert_eq!(last(&crashed), Some((8192 + 24 + 56, 8192 + 24 + 56 + 25)));
        // Cut off: by the end of the input, and by that of the pages that belong to it.
        let mut cut = segment(0, &[other(13), other(20_000)]);
        assert_eq!(last(&cut[..8192]), Some((40, 77)));
        cut[16384 + 9] ^= 1;
        assert_eq!(last(&cut), Some((40, 77)));
    }

    #[test]
    fn the_newest_end_of_a_transaction_is_found() {
        let other = |len| record(10, 0, &vec![7; len]);
        let records = [
            other(13),
            commit(0x80, &[255, 8], 100),
            other(20_000),
            commit(0x20, &[253, 1, 2, 255, 8], 300),
            commit(0x30, &[252, 1, 2, 3, 4, 254, 8, 0, 0, 0], 200),
        ];
        assert_eq!(read(&segment(0, &records)), Some(300));
        assert_eq!(read(&segment(8188, &records)), Some(300), "behind the rest of a record");
        // Wherever a page ends in the commit.
        for len in 8000..8200 {
            assert_eq!(read(&segment(0, &[other(len), commit(0, &[255, 8], 7), other(3)])), Some(7), "{len}");
        }
        let exact = ends(&segment(0, &[commit(0, &[255, 8], 1)])[..], Lsn(START)).unwrap();
        assert_eq!(exact.newest.unwrap().to_string(), "2000-01-01T00:00:01.000005Z");
    }

    #[test]
    fn what_is_no_log_ends_it() {
        let prepared = record(RM_XACT, XACT_PREPARE, &[255, 8, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(read(&segment(0, &[prepared, record(10, 0, &[1])])), None);
        let switched = [commit(0, &[255, 8], 1), record(RM_XLOG, XLOG_SWITCH, &[]), commit(0, &[255, 8], 9)];
        assert_eq!(read(&segment(0, &switched)), Some(1));
        // Left over from another use of the file.
        let mut reused = segment(0, &[commit(0, &[255, 8], 1), record(10, 0, &[0; 8300]), commit(0, &[255, 8], 9)]);
        assert_eq!(read(&reused), Some(9));
        reused[8192 + 9] ^= 1;
        assert_eq!(read(&reused), Some(1));
        assert_eq!(read(&reused[..8000]), Some(1));
        assert_eq!((read(b""), read(&[0; 8192])), (None, None));
        assert_eq!(ends(&reused[..], Lsn(0)).unwrap(), Ends::default());
    }
}
