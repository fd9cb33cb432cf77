//! Page checksums of a relation that comes as a stream, where nothing can be read again.

use super::file::Content;
use super::rules::FileClass;
use crate::model::Lsn;
use crate::postgres::page;

/// Judges the pages of one file as its bytes pass.
#[derive(Debug)]
pub struct PageScan {
    since: Lsn,
    page_size: usize,
    /// The number, within the relation, of the file's first page.
    first: u32,
    block: u32,
    /// Less than a page.
    rest: Vec<u8>,
    suspects: Vec<u32>,
}

impl PageScan {
    /// At the beginning of a file. `None` for what has no checksums.
    #[must_use]
    pub fn new(class: FileClass, content: &Content) -> Option<Self> {
        let (FileClass::Relation { segment }, Some(since)) = (class, content.since) else { return None };
        Some(Self {
            since,
            page_size: content.page_size.max(512) as usize,
            first: page::block_number(segment, 0, content.segment_pages),
            block: 0,
            rest: Vec::new(),
            suspects: Vec::new(),
        })
    }

    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.rest.is_empty() {
            let (now, later) = bytes.split_at(self.page_size.saturating_sub(self.rest.len()).min(bytes.len()));
            self.rest.extend_from_slice(now);
            bytes = later;
            if self.rest.len() < self.page_size {
                return;
            }
            let page = std::mem::take(&mut self.rest);
            self.pages(&page);
        }
        let (pages, rest) = bytes.split_at(bytes.len() - bytes.len() % self.page_size);
        self.pages(pages);
        self.rest.extend_from_slice(rest);
    }

    fn pages(&mut self, pages: &[u8]) {
        let number = self.first.wrapping_add(self.block);
        let bad = page::bad_pages(pages, self.page_size, number, self.since).map(|n| n.wrapping_sub(self.first));
        self.suspects.extend(bad);
        self.block = self.block.saturating_add(u32::try_from(pages.len() / self.page_size).unwrap_or(u32::MAX));
    }

    /// Pages whose checksum was wrong, counted in this file. Some may only have been caught while they were written: the server,
    /// which read them again, knows better.
    #[must_use]
    pub fn suspects(&self) -> &[u32] {
        &self.suspects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_whatever_the_pieces() {
        let mut page = vec![9u8; 8192];
        page[..8].fill(0);
        let mut bytes = Vec::new();
        for block in 0..5u32 {
            let sum = page::checksum(&page, page::block_number(2, block, 131_072));
            page[8..10].copy_from_slice(&sum.to_le_bytes());
            bytes.extend(&page);
        }
        bytes[8192 + 100] = 1;
        bytes[4 * 8192 + 100] = 1;
        let content = Content { page_size: 8192, segment_pages: 131_072, since: Some(Lsn(100)) };
        for step in [1000, 8192, 32_768, 100_000] {
            let mut scan = PageScan::new(FileClass::Relation { segment: 2 }, &content).unwrap();
            bytes.chunks(step).for_each(|piece| scan.update(piece));
            assert_eq!(scan.suspects(), [1, 4], "{step}");
        }
        assert!(PageScan::new(FileClass::Other, &content).is_none());
    }
}
