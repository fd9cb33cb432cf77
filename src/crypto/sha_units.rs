//! SHA-256 of many messages on a processor's SHA instructions, two messages at a time.
//!
//! One message leaves the SHA units idle half of the time, because each round waits for the one before it; a second message fills
//! the gaps. Lengths need not be alike: when a message ends, the next one takes its place beside the other. The rounds are those of
//! FIPS 180-4, 6.2.2; the order of instructions follows Intel's description of the SHA extensions (July 2013).

#![allow(unsafe_code, reason = "a function for instructions that not every processor has is entered after a look at this one")]

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

const BLOCK: usize = 64;

/// The round constants, four a group.
const K: [[i32; 4]; 16] = words([
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
]);

/// The processor's registers hold signed numbers.
const fn words(unsigned: [[u32; 4]; 16]) -> [[i32; 4]; 16] {
    let mut signed = [[0; 4]; 16];
    let mut i = 0;
    while i < 64 {
        signed[i / 4][i % 4] = unsigned[i / 4][i % 4].cast_signed();
        i += 1;
    }
    signed
}

/// Whether this processor has what [`hash`] needs.
pub(super) fn are_there() -> bool {
    std::arch::is_x86_feature_detected!("sha") && std::arch::is_x86_feature_detected!("sse4.1")
}

/// The SHA-256 of each message, in the order given. `None` where the processor has no SHA instructions.
pub(super) fn hash(messages: &[&[u8]], digests: &mut [[u8; 32]]) -> Option<()> {
    // SAFETY: the features that the function is compiled for were found on this processor.
    are_there().then(|| unsafe { hash_all(messages, digests) })
}

/// The hash value between blocks: A, B, E, F and C, D, G, H, the first in the highest place.
type State = [__m128i; 2];

/// A message on its way.
struct Stream<'a> {
    state: State,
    blocks: &'a [[u8; BLOCK]],
    /// What does not fill a block, with padding and length; `blocks` first.
    tail: [[u8; BLOCK]; 2],
    tail_left: std::ops::Range<usize>,
    digest: &'a mut [u8; 32],
}

impl<'a> Stream<'a> {
    #[target_feature(enable = "sha,sse4.1")]
    fn new(message: &'a [u8], digest: &'a mut [u8; 32]) -> Self {
        let (blocks, odd) = message.as_chunks::<BLOCK>();
        let mut tail = [[0; BLOCK]; 2];
        let flat = tail.as_flattened_mut();
        for (to, from) in flat.iter_mut().zip(odd.iter().chain(&[0x80])) {
            *to = *from;
        }
        // The end mark and the length in bits take nine bytes.
        let tail_blocks = if odd.len() + 9 > BLOCK { 2 } else { 1 };
        let length = (message.len() as u64).wrapping_mul(8).to_be_bytes();
        for (to, from) in flat.iter_mut().take(tail_blocks * BLOCK).rev().zip(length.iter().rev()) {
            *to = *from;
        }
        let state = [
            _mm_set_epi32(0x6a09_e667, 0xbb67_ae85_u32.cast_signed(), 0x510e_527f, 0x9b05_688c_u32.cast_signed()),
            _mm_set_epi32(0x3c6e_f372, 0xa54f_f53a_u32.cast_signed(), 0x1f83_d9ab, 0x5be0_cd19),
        ];
        Self { state, blocks, tail, tail_left: 0..tail_blocks, digest }
    }

    /// The next blocks: those of the message, then those of its tail.
    fn rest(&self) -> &[[u8; BLOCK]] {
        if self.blocks.is_empty() { self.tail.get(self.tail_left.clone()).unwrap_or_default() } else { self.blocks }
    }

    /// `n` of [`Stream::rest`] are done. Whether that was all.
    #[target_feature(enable = "sha,sse4.1")]
    fn advance(&mut self, state: State, n: usize) {
        self.state = state;
        match self.blocks.get(n..) {
            Some(rest) if !self.blocks.is_empty() => self.blocks = rest,
            _ => self.tail_left.start += n,
        }
        if self.is_over() {
            let [abef, cdgh] = self.state;
            let words = [
                _mm_extract_epi32::<3>(abef),
                _mm_extract_epi32::<2>(abef),
                _mm_extract_epi32::<3>(cdgh),
                _mm_extract_epi32::<2>(cdgh),
                _mm_extract_epi32::<1>(abef),
                _mm_extract_epi32::<0>(abef),
                _mm_extract_epi32::<1>(cdgh),
                _mm_extract_epi32::<0>(cdgh),
            ];
            for (to, from) in self.digest.iter_mut().zip(words.iter().flat_map(|w| w.to_be_bytes())) {
                *to = from;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.blocks.is_empty() && self.tail_left.is_empty()
    }
}

#[target_feature(enable = "sha,sse4.1")]
fn hash_all(messages: &[&[u8]], digests: &mut [[u8; 32]]) {
    let mut waiting = messages.iter().zip(digests);
    let (mut one, mut other) = (None, None);
    loop {
        for place in [&mut one, &mut other] {
            if place.as_ref().is_none_or(Stream::is_over) {
                *place = waiting.next().map(|(message, digest)| Stream::new(message, digest));
            }
        }
        match (&mut one, &mut other) {
            (Some(a), Some(b)) => go_on(a, b),
            (Some(last), None) | (None, Some(last)) => go_on_alone(last),
            (None, None) => return,
        }
    }
}

/// Four rounds of one stream.
macro_rules! four_rounds {
    ($group:literal, $state:ident, $w0:ident) => {
        let [k0, k1, k2, k3] = K[$group];
        let sum = _mm_add_epi32($w0, _mm_set_epi32(k3, k2, k1, k0));
        $state[1] = _mm_sha256rnds2_epu32($state[1], $state[0], sum);
        $state[0] = _mm_sha256rnds2_epu32($state[0], $state[1], _mm_shuffle_epi32::<0x0E>(sum));
    };
    // And `$w0` becomes the words of the group after the next three.
    ($group:literal, $state:ident, $w0:ident, $w1:ident, $w2:ident, $w3:ident) => {
        four_rounds!($group, $state, $w0);
        let near = _mm_add_epi32(_mm_sha256msg1_epu32($w0, $w1), _mm_alignr_epi8::<4>($w3, $w2));
        $w0 = _mm_sha256msg2_epu32(near, $w3);
    };
}

/// All rounds of some streams, side by side. Written out with a name for everything: in arrays and loops the compiler keeps it in
/// memory, which takes twice the time.
macro_rules! rounds {
    ($(($state:ident, $w0:ident, $w1:ident, $w2:ident, $w3:ident)),+) => {
        $( four_rounds!(0, $state, $w0, $w1, $w2, $w3); )+
        $( four_rounds!(1, $state, $w1, $w2, $w3, $w0); )+
        $( four_rounds!(2, $state, $w2, $w3, $w0, $w1); )+
        $( four_rounds!(3, $state, $w3, $w0, $w1, $w2); )+
        $( four_rounds!(4, $state, $w0, $w1, $w2, $w3); )+
        $( four_rounds!(5, $state, $w1, $w2, $w3, $w0); )+
        $( four_rounds!(6, $state, $w2, $w3, $w0, $w1); )+
        $( four_rounds!(7, $state, $w3, $w0, $w1, $w2); )+
        $( four_rounds!(8, $state, $w0, $w1, $w2, $w3); )+
        $( four_rounds!(9, $state, $w1, $w2, $w3, $w0); )+
        $( four_rounds!(10, $state, $w2, $w3, $w0, $w1); )+
        $( four_rounds!(11, $state, $w3, $w0, $w1, $w2); )+
        $( four_rounds!(12, $state, $w0); )+
        $( four_rounds!(13, $state, $w1); )+
        $( four_rounds!(14, $state, $w2); )+
        $( four_rounds!(15, $state, $w3); )+
    };
}

/// Goes on with both until one ends or comes to its tail.
#[target_feature(enable = "sha,sse4.1")]
fn go_on(one: &mut Stream<'_>, other: &mut Stream<'_>) {
    let (mut a, mut b) = (one.state, other.state);
    let n = one.rest().len().min(other.rest().len());
    for (x, y) in one.rest().iter().zip(other.rest()) {
        let (a_before, b_before) = (a, b);
        let ([mut x0, mut x1, mut x2, mut x3], [mut y0, mut y1, mut y2, mut y3]) = (load(x), load(y));
        rounds!((a, x0, x1, x2, x3), (b, y0, y1, y2, y3));
        a = [_mm_add_epi32(a[0], a_before[0]), _mm_add_epi32(a[1], a_before[1])];
        b = [_mm_add_epi32(b[0], b_before[0]), _mm_add_epi32(b[1], b_before[1])];
    }
    one.advance(a, n);
    other.advance(b, n);
}

/// Goes on with the last one until it ends or comes to its tail.
#[target_feature(enable = "sha,sse4.1")]
fn go_on_alone(one: &mut Stream<'_>) {
    let mut a = one.state;
    for x in one.rest() {
        let before = a;
        let [mut x0, mut x1, mut x2, mut x3] = load(x);
        rounds!((a, x0, x1, x2, x3));
        a = [_mm_add_epi32(a[0], before[0]), _mm_add_epi32(a[1], before[1])];
    }
    one.advance(a, one.rest().len());
}

/// The sixteen words of a block, which are big-endian.
#[target_feature(enable = "sha,sse4.1")]
#[inline]
fn load(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (quarters, _) = block.as_chunks::<16>();
    let mut words = [order; 4];
    for (word, quarter) in words.iter_mut().zip(quarters) {
        let bits = u128::from_le_bytes(*quarter);
        *word = _mm_shuffle_epi8(_mm_set_epi64x((bits >> 64) as i64, bits as i64), order);
    }
    words
}
