//! The header of a WAL segment's first page: which cluster and which position the segment says it is.

use super::bytes::{u16_at, u32_at, u64_at};
use crate::error::{Error, Kind, Result};
use crate::model::{Lsn, SegmentName, SegmentSize, Timeline};

/// Bytes that [`parse`] needs.
pub const SIZE: usize = 40;

/// The flag of a header with the cluster's identity in it: the first page of each segment has one.
const LONG: u16 = 0x0002;

/// `XLOG_PAGE_MAGIC` of each released major.
const MAGICS: &[(u16, u32)] = &[(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// A segment's own words about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// Tells the format, and so the major version.
    pub magic: u16,
    /// The major version. `None` for a magic number that is not known.
    pub major: Option<u32>,
    /// The timeline of the page's first record. In a segment copied by a promotion it may still be the old one, so it is at
    /// most that of the segment's name.
    pub timeline: Timeline,
    /// The position of the segment's first byte.
    pub address: Lsn,
    /// The cluster's.
    pub system_identifier: u64,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
    /// Size of a page of WAL in bytes.
    pub block_size: u32,
}

impl WalHeader {
    /// The segment's name, as its header has it.
    #[must_use]
    pub fn name(&self) -> SegmentName {
        SegmentName::at(self.timeline, self.address, self.segment_size)
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

/// Reads the first [`SIZE`] bytes of a segment.
///
/// # Errors
/// [`Kind::Failed`] for what cannot be the beginning of a segment: too short, no long header, an address inside a segment, an
/// impossible size.
pub fn parse(bytes: &[u8]) -> Result<WalHeader> {
    let wrong = |what: &str| Error::new(Kind::Failed, format!("it does not begin like a WAL segment: {what}"));
    let short = || wrong("it is too short");
    let magic = u16_at(bytes, 0).ok_or_else(short)?;
    let info = u16_at(bytes, 2).ok_or_else(short)?;
    let timeline = u32_at(bytes, 4).ok_or_else(short)?;
    let address = u64_at(bytes, 8).ok_or_else(short)?;
    let system_identifier = u64_at(bytes, 24).ok_or_else(short)?;
    let segment_size = u32_at(bytes, 32).ok_or_else(short)?;
    let block_size = u32_at(bytes, 36).ok_or_else(short)?;
    // PostgreSQL counts this number up with every change of the format; its high byte is the same in every supported version.
    if magic >> 8 != 0xD1 {
        return Err(wrong("its magic number is not that of PostgreSQL"));
    }
    if info & LONG == 0 {
        return Err(wrong("its first page has a short header"));
    }
    if timeline == 0 || system_identifier == 0 {
        return Err(wrong("it names no timeline or no system"));
    }
    let segment_size = SegmentSize::new(u64::from(segment_size))?;
    if address % segment_size.bytes() != 0 {
        return Err(wrong("its address lies inside a segment"));
    }
    Ok(WalHeader {
        magic,
        major: MAGICS.iter().find(|(m, _)| *m == magic).map(|(_, major)| *major),
        timeline: Timeline(timeline),
        address: Lsn(address),
        system_identifier,
        segment_size,
        block_size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xD118u16.to_le_bytes());
        bytes.extend(0x0003u16.to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(0x16_B300_0000u64.to_le_bytes());
        bytes.extend([9; 8]);
        bytes.extend(77u64.to_le_bytes());
        bytes.extend((16u32 << 20).to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_long_header_is_read() {
        let read = parse(&header()).unwrap();
        assert_eq!((read.major, read.system_identifier, read.block_size), (Some(18), 77, 8192));
        assert_eq!(read.name().to_string(), "0000000200000016000000B3");
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = header();
            bytes[at] = value;
            parse(&bytes).unwrap_err().report()
        };
        assert!(with(1, 0).contains("magic"));
        assert!(with(2, 1).contains("short header"));
        assert!(with(8, 1).contains("inside a segment"));
        assert!(with(32, 1).contains("cannot be the size of a WAL segment"));
        assert!(parse(&header()[..39]).unwrap_err().report().contains("too short"));
        let unknown = {
            let mut b = header();
            b[0] = 0xFF;
            parse(&b).unwrap()
        };
        assert_eq!(unknown.major, None);
    }

    #[test]
    fn a_segment_is_compared_with_its_name() {
        let size = SegmentSize::new(64 << 20).unwrap();
        let name: SegmentName = "00000002000000010000003F".parse().unwrap();
        let mut page = header();
        page[8..16].copy_from_slice(&name.start(size).0.to_le_bytes());
        page[32..36].copy_from_slice(&u32::try_from(size.bytes()).unwrap().to_le_bytes());
        let read = parse(&page).unwrap();
        assert_eq!((read.major, read.timeline, read.system_identifier, read.segment_size), (Some(18), Timeline(2), 77, size));
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
            assert!(parse(&bad).is_err(), "{at}");
        }
        assert!(parse(&page[..39]).is_err() && parse(&[0; 8192]).is_err());
    }
}
