//! The guard against an empty volume that would age out the good snapshots.

/// Sums over a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// Below these a last snapshot is too small to say anything.
const LARGE_FILES: u64 = 20;
const LARGE_BYTES: u64 = 1 << 20;
/// Share of the last snapshot that counts as nearly nothing: 1 in this many.
const SHARE: u64 = 100;

/// A sentence if `current` is nearly nothing next to a `last` that was large: an unmounted or freshly created volume,
/// not a change that anybody made on purpose. Files and bytes must both be (nearly) gone, so that a volume which swapped
/// many small files for few large ones, or the reverse, passes.
#[must_use]
pub fn looks_blank(current: Totals, last: Totals) -> Option<String> {
    let large = last.files >= LARGE_FILES || last.bytes >= LARGE_BYTES;
    let gone = |now: u64, then: u64| now == 0 || now < then / SHARE;
    let few = current.files <= 1 || gone(current.files, last.files);
    if large && few && gone(current.bytes, last.bytes) {
        return Some(format!(
            "it holds {} files with {} bytes, the last snapshot {} files with {} bytes",
            current.files, current.bytes, last.files, last.bytes
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_volume_that_is_nearly_gone_looks_blank() {
        let t = |files, bytes| Totals { files, bytes };
        assert!(looks_blank(t(0, 0), t(1000, 1 << 30)).is_some());
        assert!(looks_blank(t(1, 100), t(1000, 1 << 30)).is_some(), "a lost+found or a marker");
        assert!(looks_blank(t(1, 0), t(3, 1 << 30)).is_some(), "few large files");
        assert!(looks_blank(t(0, 0), t(0, 0)).is_none(), "was empty before");
        assert!(looks_blank(t(0, 0), t(3, 1000)).is_none(), "was small before");
        assert!(looks_blank(t(1, 1 << 30), t(1000, 1 << 30)).is_none(), "packed into one file");
        assert!(looks_blank(t(500, 1 << 29), t(1000, 1 << 30)).is_none(), "half of it deleted");
        assert!(looks_blank(t(1000, 0), t(1000, 1 << 30)).is_none(), "truncated files are a change to record");
    }
}
