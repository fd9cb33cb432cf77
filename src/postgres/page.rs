//! Data pages and their checksums, as PostgreSQL's `bufpage.h` and `checksum_impl.h` define them.
//!
//! The checksum is 32 interleaved FNV-1a sums, mixed at the end, folded with the number of the page (so that a page in the
//! wrong place is seen) to 16 bits that are never zero. The loop over the 32 sums has no dependency between its rounds, so that
//! the compiler turns it into vector instructions.

use super::bytes::{u16_at, u32_at};
use crate::model::Lsn;

/// Size of a page in bytes in nearly every cluster (`block_size` of the control file).
pub const SIZE: usize = 8192;

/// Pages in each file of a large relation in nearly every cluster (`segment_blocks` of the control file): 1 GiB.
pub const SEGMENT_BLOCKS: u32 = 131_072;

const SUMS: usize = 32;
const ROW: usize = SUMS * 4;
const PRIME: u32 = 16_777_619;

/// Where each of the sums begins.
const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page is worth to a backup that began at some position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All zero: reserved, and not used yet.
    New,
    /// Its checksum is right.
    Valid,
    /// Its checksum is wrong, but it was changed after the backup began, so it may have been read while it was written: replay
    /// brings it in order.
    Recent,
    /// Its checksum is wrong, or it is half a new page. Read it again before believing it: a page is not written in one piece.
    Bad,
}

/// The checksum that page number `block` of its relation (see [`block_number`]) should have. The one stored in it does not
/// matter.
/// `page` is a whole page, of any size that PostgreSQL knows; the bytes behind the last multiple of 128 are left out.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the remainder of 65535 has 16 bits")]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let (rows, _) = page.as_chunks::<ROW>();
    if let Some((first, rest)) = rows.split_first() {
        let mut row = *first;
        // The stored checksum counts as zero.
        if let Some(stored) = row.get_mut(8..10) {
            stored.fill(0);
        }
        add(&mut sums, &row);
        for row in rest {
            add(&mut sums, row);
        }
    }
    for _ in 0..2 {
        add(&mut sums, &[0; ROW]);
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    (folded % 65_535) as u16 + 1
}

#[inline(always)]
fn add(sums: &mut [u32; SUMS], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

/// The position of the last change to this page. Zero for a page that is too short to have one.
#[must_use]
pub fn lsn(page: &[u8]) -> Lsn {
    let half = |at: usize| u64::from(u32_at(page, at).unwrap_or_default());
    Lsn(half(0) << 32 | half(4))
}

/// Judges page number `block` of its relation in a cluster with checksums, for a backup that began at `start`.
#[must_use]
pub fn judge(page: &[u8], block: u32, start: Lsn) -> Verdict {
    // pd_upper: zero until a page is used.
    if u16_at(page, 14) == Some(0) {
        return if page.iter().all(|b| *b == 0) { Verdict::New } else { bad(page, start) };
    }
    if u16_at(page, 8) == Some(checksum(page, block)) { Verdict::Valid } else { bad(page, start) }
}

fn bad(page: &[u8], start: Lsn) -> Verdict {
    if lsn(page) >= start { Verdict::Recent } else { Verdict::Bad }
}

/// The bad ones of some pages that follow each other, by their numbers; `first` is that of the first. A last part that is not a
/// whole page is left out: files of relations may be caught while they grow.
pub fn bad_pages(bytes: &[u8], page_size: usize, first: u32, start: Lsn) -> impl Iterator<Item = u32> + '_ {
    let pages = bytes.chunks_exact(page_size.max(ROW));
    pages.zip(first..).filter(move |(page, block)| judge(page, *block, start) == Verdict::Bad).map(|(_, block)| block)
}

/// The number that counts in the checksum: that of the page within the whole relation. `segment` is the number behind the dot
/// in the name of the file (`16384.3`: 3; none: 0), `block` that of the page in that file, `segment_blocks` as the control file
/// has it.
#[must_use]
pub fn block_number(segment: u32, block: u32, segment_blocks: u32) -> u32 {
    segment.wrapping_mul(segment_blocks).wrapping_add(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page with a right checksum and this position.
    fn page(block: u32, at: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        page[0..4].fill(0);
        page[4..8].copy_from_slice(&at.to_le_bytes());
        let sum = checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// The definition, word by word.
    fn slow(page: &[u8], block: u32) -> u16 {
        let mut sums = OFFSETS;
        let step = |sum: u32, word: u32| (sum ^ word).wrapping_mul(PRIME) ^ ((sum ^ word) >> 17);
        for (i, word) in page.chunks(4).enumerate() {
            let word = u32::from_le_bytes(word.try_into().unwrap());
            sums[i % SUMS] = step(sums[i % SUMS], if i == 2 { word & 0xFFFF_0000 } else { word });
        }
        let mixed = sums.iter().map(|s| step(step(*s, 0), 0)).fold(0, |a, s| a ^ s);
        u16::try_from((mixed ^ block) % 65_535 + 1).unwrap()
    }

    #[test]
    fn the_checksum_is_as_defined() {
        for block in [0, 1, 131_072, u32::MAX] {
            let page = page(block, 5);
            assert_eq!(checksum(&page, block), slow(&page, block));
            assert_ne!(checksum(&page, block), checksum(&page, block ^ 1));
        }
        for size in [1024, 32_768] {
            assert_eq!(checksum(&vec![7; size], 3), slow(&vec![7; size], 3));
        }
    }

    #[test]
    fn pages_are_judged() {
        let good = page(9, 100);
        assert_eq!((judge(&good, 9, Lsn(50)), lsn(&good)), (Verdict::Valid, Lsn(100)));
        assert_eq!(judge(&good, 8, Lsn(101)), Verdict::Bad);
        let mut flipped = good.clone();
        flipped[5000] ^= 1;
        assert_eq!(judge(&flipped, 9, Lsn(101)), Verdict::Bad);
        assert_eq!(judge(&flipped, 9, Lsn(100)), Verdict::Recent);
        let mut new = vec![0; SIZE];
        assert_eq!(judge(&new, 1, Lsn(1)), Verdict::New);
        new[8191] = 1;
        assert_eq!(judge(&new, 1, Lsn(1)), Verdict::Bad);
        let file = [page(4, 1), flipped, page(6, 1), vec![0; 100]].concat();
        assert_eq!(bad_pages(&file, SIZE, 4, Lsn(101)).collect::<Vec<_>>(), [5]);
        assert_eq!(block_number(2, 7, SEGMENT_BLOCKS), 262_151);
    }
}
