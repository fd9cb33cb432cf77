//! The first page of a segment says what the segment is: read here, compared with the file's name.
//!
//! Layout of `XLogLongPageHeaderData` (little-endian on every platform that is supported): magic u16 @0, info u16 @2,
//! timeline u32 @4, address u64 @8, remaining u32 @16, system identifier u64 @24, segment size u32 @32, block size u32 @36.

use crate::error::{Error, Kind, Result};
use crate::model::{Lsn, SegmentName, SegmentSize, Timeline};

/// Bytes of it at the beginning of a segment.
pub const HEADER_SIZE: usize = 40;

/// `XLP_LONG_HEADER`: set on the first page of every segment.
const LONG: u16 = 2;

/// `XLOG_PAGE_MAGIC` of each major version.
const MAGICS: [(u16, u32); 6] = [(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// What the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The major version that wrote it; `None`: a version this program does not know.
    pub major: Option<u32>,
    /// The timeline of its first page. An ancestor of the file's own where a timeline begins within a segment: the server copies
    /// what the segment had until then.
    pub timeline: Timeline,
    /// The position of its first byte.
    pub address: Lsn,
    /// The cluster it belongs to.
    pub system_identifier: u64,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
}

impl SegmentHeader {
    /// Reads the first [`HEADER_SIZE`] bytes of a segment.
    ///
    /// # Errors
    /// [`Kind::Failed`] if no segment begins like this.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let no = |why: &str| Error::new(Kind::Failed, format!("it does not begin like a WAL segment: {why}"));
        let u16_at = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b));
        let u32_at = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b));
        let u64_at = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b));
        let fields = || Some((u16_at(0)?, u16_at(2)?, u32_at(4)?, u64_at(8)?, u64_at(24)?, u32_at(32)?, u32_at(36)?));
        let Some((magic, info, timeline, address, system_identifier, size, _block)) = fields() else {
            return Err(no("it is too short"));
        };
        // The high byte has been the same for fifteen years; the low one counts versions.
        if magic >> 8 != 0xD1 {
            return Err(no(&format!("its magic number is {magic:#06X}")));
        }
        if info & LONG == 0 {
            return Err(no("its first page has a short header"));
        }
        if timeline == 0 || system_identifier == 0 {
            return Err(no("it names no timeline or no system"));
        }
        let segment_size = SegmentSize::new(u64::from(size))?;
        Ok(Self {
            major: MAGICS.iter().find(|(m, _)| *m == magic).map(|(_, major)| *major),
            timeline: Timeline(timeline),
            address: Lsn(address),
            system_identifier,
            segment_size,
        })
    }

    /// Compares with the name of the file and its length in bytes. The timeline may be older than the name's: whether it is an
    /// ancestor is for whoever knows the history.
    ///
    /// # Errors
    /// [`Kind::Failed`] that says what differs.
    pub fn check_name(&self, name: SegmentName, length: u64) -> Result<()> {
        let size = self.segment_size;
        if length != size.bytes() {
            return Err(Error::new(
                Kind::Failed,
                format!("it has {length} bytes, and a segment of its cluster {}", size.bytes()),
            ));
        }
        if u64::from(name.seg) >= size.per_log() {
            return Err(Error::new(Kind::Failed, format!("no segment of {} bytes has such a name", size.bytes())));
        }
        if self.address != name.start(size) {
            return Err(Error::new(
                Kind::Failed,
                format!("its first page is that of position {}, its name is that of {}", self.address, name.start(size)),
            )
            .hint("The file was renamed, or is an old one that was recycled and not yet written again."));
        }
        if self.timeline > name.timeline {
            return Err(Error::new(
                Kind::Failed,
                format!("its first page is of timeline {}, which is later than its name's", self.timeline),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first page of a segment as a server of major 17 writes it.
    fn header(name: SegmentName, size: SegmentSize, system: u64) -> Vec<u8> {
        let mut page = vec![0; HEADER_SIZE];
        page[..2].copy_from_slice(&0xD116u16.to_le_bytes());
        page[2..4].copy_from_slice(&LONG.to_le_bytes());
        page[4..8].copy_from_slice(&name.timeline.0.to_le_bytes());
        page[8..16].copy_from_slice(&name.start(size).0.to_le_bytes());
        page[24..32].copy_from_slice(&system.to_le_bytes());
        page[32..36].copy_from_slice(&u32::try_from(size.bytes()).unwrap().to_le_bytes());
        page[36..40].copy_from_slice(&8192u32.to_le_bytes());
        page
    }

    #[test]
    fn a_segment_is_compared_with_its_name() {
        let size = SegmentSize::new(64 << 20).unwrap();
        let name: SegmentName = "00000002000000010000003F".parse().unwrap();
        let page = header(name, size, 77);
        let read = SegmentHeader::parse(&page).unwrap();
        assert_eq!((read.major, read.timeline, read.system_identifier, read.segment_size), (Some(17), Timeline(2), 77, size));
        read.check_name(name, size.bytes()).unwrap();
        read.check_name(name.on(Timeline(3)), size.bytes()).unwrap();
        for (other, length) in [
            (name, size.bytes() - 1),
            (name.next(size), size.bytes()),
            (SegmentName { seg: 64, ..name }, size.bytes()),
            (name.on(Timeline(1)), size.bytes()),
        ] {
            assert!(read.check_name(other, length).is_err(), "{other} {length}");
        }
        for (at, value) in [(1, 0xD2), (2, 0), (34, 3), (4, 0)] {
            let mut bad = page.clone();
            bad[at] = value;
            assert!(SegmentHeader::parse(&bad).is_err(), "{at}");
        }
        assert!(SegmentHeader::parse(&page[..39]).is_err() && SegmentHeader::parse(&[0; 8192]).is_err());
    }
}
