//! SHA-256 behind one function, fast on every processor.
//!
//! One message at a time, SHA-256 runs at about 350 MB/s per core without SHA instructions and 2 GB/s with them. Many
//! messages at once fill the SIMD lanes (or the SHA units) and reach 1.1 GB/s and 2.9 GB/s on the same processors (up to 5.1 in
//! the lanes of AVX-512), so the engine collects chunks of all files into batches and calls [`sha256_many`].

use crate::model::Id;

/// How many messages a batch should hold to be worth waiting for. More do no harm.
pub const LANES: usize = 32;

/// The SHA-256 of one message.
#[must_use]
pub fn sha256(data: &[u8]) -> Id {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, data).as_ref());
    Id(out)
}

/// The SHA-256 of a message that comes in pieces.
#[derive(Clone)]
pub struct Sha256(ring::digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }
}

impl Sha256 {
    /// Takes the next piece in.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces.
    #[must_use]
    pub fn finish(self) -> Id {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Id(out)
    }
}

/// The SHA-256 of each message, in the order given.
///
/// Rates on one core of an EPYC with both SHA-NI and AVX-512: one by one 2.1 GB/s, on the SHA units two at a time 2.9 whatever their
/// lengths, by 16 in the lanes of AVX-512 up to 5.1 if all are of one length, and less than one by one if they differ as chunks do.
/// So lanes are for chunks of about one length and for processors without SHA units; all others go to those.
#[must_use]
pub fn sha256_many(messages: &[&[u8]]) -> Vec<Id> {
    // Longest first: what is hashed beside each other is of like length.
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|&i| std::cmp::Reverse(messages.get(i).map_or(0, |m| m.len())));
    let sorted: Vec<&[u8]> = order.iter().filter_map(|&i| messages.get(i).copied()).collect();
    let mut digests = vec![[0u8; 32]; sorted.len()];
    match (sorted.as_slice(), digests.as_mut_slice()) {
        ([one], [digest]) => *digest = sha256(one).0,
        (many, digests) => hash_many(many, digests),
    }
    let mut ids = vec![Id::default(); messages.len()];
    for (&i, digest) in order.iter().zip(digests) {
        if let Some(slot) = ids.get_mut(i) {
            *slot = Id(digest);
        }
    }
    ids
}

/// How many messages of one length are hashed together much faster than fewer, if so many are on this processor.
#[must_use]
pub fn equal_messages() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if has_wide_lanes() {
        return Some(WIDTH);
    }
    None
}

/// Of messages that are sorted by length.
fn hash_many(mut messages: &[&[u8]], mut digests: &mut [[u8; 32]]) {
    #[cfg(target_arch = "x86_64")]
    if super::sha_units::are_there() {
        while is_for_lanes(messages) {
            let (now, later) = messages.split_at(WIDTH);
            let (here, there) = digests.split_at_mut(WIDTH);
            tape_sha256::hash_many(now, here);
            (messages, digests) = (later, there);
        }
        if super::sha_units::hash(messages, digests).is_some() {
            return;
        }
    }
    tape_sha256::hash_many(messages, digests);
}

/// Lanes of AVX-512.
#[cfg(target_arch = "x86_64")]
const WIDTH: usize = 16;

/// Whether lanes hash the next [`WIDTH`] faster than SHA units do: if nearly all of them are used until the longest ends, as
/// with the chunks of relation files.
#[cfg(target_arch = "x86_64")]
fn is_for_lanes(messages: &[&[u8]]) -> bool {
    let Some(next) = messages.get(..WIDTH) else { return false };
    let longest = next.first().map_or(0, |m| m.len());
    let all: usize = next.iter().map(|m| m.len()).sum();
    has_wide_lanes() && 5 * all > 4 * longest * WIDTH
}

#[cfg(target_arch = "x86_64")]
fn has_wide_lanes() -> bool {
    std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest as _;

    #[test]
    fn known_answer() {
        assert_eq!(sha256(b"").to_hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    proptest! {
        /// Three implementations agree, for every mix of lengths around block and lane borders.
        #[test]
        fn batches_agree_with_single_messages(
            mut lengths in proptest::collection::vec(0usize..700, 0..70),
            alike in 0usize..40,
            seed in any::<u8>(),
        ) {
            lengths.extend(std::iter::repeat_n(650, alike));
            let messages: Vec<Vec<u8>> = lengths.iter().enumerate()
                .map(|(i, n)| (0..*n).map(|j| (i * 31 + j * 7) as u8 ^ seed).collect()).collect();
            let refs: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let many = sha256_many(&refs);
            for (m, id) in refs.iter().zip(&many) {
                prop_assert_eq!(sha256(m), *id);
                prop_assert_eq!(<[u8; 32]>::from(sha2::Sha256::digest(m)), id.0);
            }
            // What processors without SHA instructions use.
            let mut in_lanes = vec![[0; 32]; refs.len()];
            tape_sha256::hash_many(&refs, &mut in_lanes);
            prop_assert_eq!(in_lanes, many.iter().map(|id| id.0).collect::<Vec<_>>());
        }
    }
}
